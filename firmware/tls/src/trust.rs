//! Whom a client trusts, and whether a server is that.

use crate::bytes::Bytes;
use crate::hello::scheme;
use crate::{Refusal, TlsError, told};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use core::time::Duration;
use ed25519_dalek::VerifyingKey as EdKey;
use heapless::Vec;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName,
    SignatureVerificationAlgorithm, TrustAnchor, UnixTime, alg_id,
};
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

/// Most authorities that may be trusted.
pub const AUTHORITIES: usize = 4;
/// Most certificates between a server's and an authority's.
const BETWEEN: usize = 4;
/// Signatures that are checked in one handshake at most. A path of all certificates takes five and the server's
/// proof one more; what takes more than that and some detours was made to take time: whoever answers at the
/// broker's address may send certificates that could each have signed each other.
const CHECKS: u8 = 16;
/// Looks at a path, each at a later time than the one before: at most one a certificate of it, and the last.
const LOOKS: usize = BETWEEN + 2;

/// ECDSA on P-256 with SHA-256.
#[derive(Debug)]
struct EcdsaP256;

impl SignatureVerificationAlgorithm for EcdsaP256 {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        key.verify(message, &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

/// Ed25519.
#[derive(Debug)]
struct Ed25519;

impl SignatureVerificationAlgorithm for Ed25519 {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = key.try_into().map_err(|_| InvalidSignature)?;
        let key = EdKey::from_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = ed25519_dalek::Signature::try_from(signature);
        let signature = signature.map_err(|_| InvalidSignature)?;
        key.verify_strict(message, &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }
}

const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 2] = [&EcdsaP256, &Ed25519];

/// The checks of a handshake that are left, and whether one more was wanted.
#[derive(Debug)]
struct Checks {
    left: AtomicU8,
    /// 1 where it was.
    wanted: AtomicU8,
}

impl Checks {
    const fn new() -> Self {
        Self {
            left: AtomicU8::new(CHECKS),
            wanted: AtomicU8::new(0),
        }
    }

    /// Takes one. Only one task checks: what is read is what is written.
    fn take(&self) -> Result<(), InvalidSignature> {
        let left = self.left.load(Relaxed).checked_sub(1);
        let Some(left) = left else {
            self.wanted.store(1, Relaxed);
            return Err(InvalidSignature);
        };
        self.left.store(left, Relaxed);
        Ok(())
    }

    /// What an error means, if not that there was no check left.
    fn or(&self, error: TlsError) -> TlsError {
        match self.wanted.load(Relaxed) {
            0 => error,
            _ => TlsError::Costly,
        }
    }
}

/// An algorithm of which each use takes one of the checks.
#[derive(Debug)]
struct Counted<'a> {
    checks: &'a Checks,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
}

impl SignatureVerificationAlgorithm for Counted<'_> {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        self.checks.take()?;
        self.algorithm.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// Whom a client wants to reach, and who may vouch for it.
#[derive(Debug)]
pub struct Trust<'a> {
    name: ServerName<'a>,
    authorities: Vec<CertificateDer<'a>, AUTHORITIES>,
}

impl<'a> Trust<'a> {
    /// Trusts whoever has a certificate for `name` (a DNS name or an IP address) that one of the
    /// authorities signed, or somebody in between. Authorities are certificates in DER.
    ///
    /// # Errors
    /// [`TlsError::Name`] where it is no name, [`TlsError::Authority`] where there is no authority or more
    /// than [`AUTHORITIES`], [`TlsError::Certificate`] where one is no certificate, and [`TlsError::Kind`]
    /// where its key is none that is known here.
    pub fn new(
        name: &'a str,
        authorities: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, TlsError> {
        let name = ServerName::try_from(name).map_err(|_| TlsError::Name)?;
        let mut known = Vec::new();
        for authority in authorities {
            let certificate = CertificateDer::from(authority);
            check(&certificate)?;
            known.push(certificate).map_err(|_| TlsError::Authority)?;
        }
        (!known.is_empty())
            .then_some(Self {
                name,
                authorities: known,
            })
            .ok_or(TlsError::Authority)
    }

    /// The name that the server is asked for: one that DNS knows.
    pub(crate) fn asked(&self) -> Option<&str> {
        match &self.name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            _ => None,
        }
    }

    /// Whether the certificates of a Certificate message (without its header) are those of whom the client
    /// wants to reach, and whether `signature` by `way` over `message` is by the first one's key. It is
    /// `since_s` now, in seconds since 1970, or later. At most [`CHECKS`] signatures are checked.
    pub(crate) fn verify(
        &self,
        certificates: &[u8],
        since_s: u64,
        way: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refusal> {
        let sent = read(certificates)?;
        let none = TlsError::Certificate.told(told::DECODE_ERROR);
        let (first, between) = sent.split_first().ok_or(none)?;
        let server = EndEntityCert::try_from(first).map_err(of_webpki)?;
        let checks = &Checks::new();
        let path = self.verify_path(&server, between, since_s, checks);
        path.map_err(|error| checks.or(error))?;
        let named = server.verify_is_valid_for_subject_name(&self.name);
        named.map_err(of_webpki)?;
        let algorithm: &'static dyn SignatureVerificationAlgorithm = match <[u8; 2]>::try_from(way)
        {
            Ok(scheme::ECDSA_P256) => &EcdsaP256,
            Ok(scheme::ED25519) => &Ed25519,
            _ => return Err(TlsError::Unexpected.told(told::ILLEGAL_PARAMETER)),
        };
        let algorithm = Counted { checks, algorithm };
        let signed = server.verify_signature(&algorithm, message, signature);
        signed.map_err(|_| checks.or(TlsError::Proof).into())
    }

    /// Whether there is a path to an authority that is valid at one time, from `since_s` on: a board
    /// without a calendar can't tell a certificate of tomorrow from its own being late, but what had
    /// expired by then has expired.
    fn verify_path(
        &self,
        server: &EndEntityCert<'_>,
        between: &[CertificateDer<'_>],
        since_s: u64,
        checks: &Checks,
    ) -> Result<(), TlsError> {
        let counted = ALGORITHMS.map(|algorithm| Counted { checks, algorithm });
        let [ecdsa, ed] = &counted;
        let algorithms: [&dyn SignatureVerificationAlgorithm; 2] = [ecdsa, ed];
        let mut anchors: Vec<TrustAnchor<'_>, AUTHORITIES> = Vec::new();
        for authority in &self.authorities {
            let anchor = anchor_from_trusted_cert(authority).map_err(of_webpki)?;
            anchors.push(anchor).map_err(|_| TlsError::Authority)?;
        }
        let mut at = UnixTime::since_unix_epoch(Duration::from_secs(since_s));
        for _ in 0..LOOKS {
            let found = server.verify_for_usage(
                &algorithms,
                &anchors,
                between,
                at,
                KeyUsage::server_auth(),
                None,
                None,
            );
            match found {
                Ok(_) => return Ok(()),
                Err(Error::CertNotValidYet { not_before, .. }) if not_before > at => {
                    at = not_before;
                }
                Err(error) => return Err(of_webpki(error)),
            }
        }
        Err(TlsError::Certificate)
    }
}

/// The certificates of a Certificate message.
fn read(body: &[u8]) -> Result<Vec<CertificateDer<'_>, { BETWEEN + 1 }>, Refusal> {
    let mut body = Bytes(body);
    // In a handshake there is no context.
    body.counted(1)?.end()?;
    let mut list = body.counted(3)?;
    body.end()?;
    let mut certificates = Vec::new();
    while !list.is_empty() {
        let certificate = list.counted(3)?;
        // Nothing was asked for that could be said here.
        if !list.counted(2)?.is_empty() {
            return Err(TlsError::Unexpected.told(told::UNSUPPORTED_EXTENSION));
        }
        let certificate = CertificateDer::from(certificate.0);
        let pushed = certificates.push(certificate);
        pushed.map_err(|_| TlsError::TooLarge)?;
    }
    Ok(certificates)
}

/// Whether this is an authority whose signatures can be checked.
fn check(authority: &CertificateDer<'_>) -> Result<(), TlsError> {
    let anchor = anchor_from_trusted_cert(authority).map_err(of_webpki)?;
    // The identifier of the key's kind, in a sequence: its header and its content.
    let mut key = Bytes(anchor.subject_public_key_info.as_ref());
    key.u8()?;
    let kind = key.counted(1)?.0;
    let known = ALGORITHMS
        .iter()
        .any(|it| it.public_key_alg_id().as_ref() == kind);
    known.then_some(()).ok_or(TlsError::Kind)
}

fn of_webpki(error: Error) -> TlsError {
    match error {
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => TlsError::Authority,
        Error::CertNotValidForName(_) => TlsError::Name,
        Error::CertExpired { .. } => TlsError::Expired,
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => TlsError::Kind,
        _ => TlsError::Certificate,
    }
}
