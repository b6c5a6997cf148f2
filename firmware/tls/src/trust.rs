//! Whom a client trusts, and whether a server is that.

use crate::TlsError;
use crate::bytes::Bytes;
use crate::hello::scheme;
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
    /// `since_s` now, in seconds since 1970, or later.
    pub(crate) fn verify(
        &self,
        certificates: &[u8],
        since_s: u64,
        way: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TlsError> {
        let sent = read(certificates)?;
        let (first, between) = sent.split_first().ok_or(TlsError::Certificate)?;
        let server = EndEntityCert::try_from(first).map_err(of_webpki)?;
        self.verify_path(&server, between, since_s)?;
        let named = server.verify_is_valid_for_subject_name(&self.name);
        named.map_err(of_webpki)?;
        let algorithm: &dyn SignatureVerificationAlgorithm = match <[u8; 2]>::try_from(way) {
            Ok(scheme::ECDSA_P256) => &EcdsaP256,
            Ok(scheme::ED25519) => &Ed25519,
            _ => return Err(TlsError::Unexpected),
        };
        let signed = server.verify_signature(algorithm, message, signature);
        signed.map_err(|_| TlsError::Proof)
    }

    /// Whether there is a path to an authority that is valid at one time, from `since_s` on: a board
    /// without a calendar can't tell a certificate of tomorrow from its own being late, but what had
    /// expired by then has expired.
    fn verify_path(
        &self,
        server: &EndEntityCert<'_>,
        between: &[CertificateDer<'_>],
        since_s: u64,
    ) -> Result<(), TlsError> {
        let mut anchors: Vec<TrustAnchor<'_>, AUTHORITIES> = Vec::new();
        for authority in &self.authorities {
            let anchor = anchor_from_trusted_cert(authority).map_err(of_webpki)?;
            anchors.push(anchor).map_err(|_| TlsError::Authority)?;
        }
        let mut at = UnixTime::since_unix_epoch(Duration::from_secs(since_s));
        for _ in 0..LOOKS {
            let found = server.verify_for_usage(
                &ALGORITHMS,
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
fn read(body: &[u8]) -> Result<Vec<CertificateDer<'_>, { BETWEEN + 1 }>, TlsError> {
    let mut body = Bytes(body);
    // In a handshake there is no context.
    body.counted(1)?.end()?;
    let mut list = body.counted(3)?;
    body.end()?;
    let mut certificates = Vec::new();
    while !list.is_empty() {
        let certificate = list.counted(3)?;
        // Nothing was asked for that could be said here.
        list.counted(2)?;
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
