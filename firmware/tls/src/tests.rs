//! The client against rustls, and against a server of our own that does what rustls never would.

use crate::hello::POINT;
use crate::keys::{self, Secret, Traffic};
use crate::record::{self, kind};
use crate::{Connection, Memory, TlsError, Trust};
use core::convert::Infallible;
use core::task::Poll;
use embassy_futures::{block_on, poll_once};
use embedded_io_async::{ErrorType, Read, Write};
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToSec1Point;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
    date_time_ymd,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::Arc;

const NAME: &str = "broker.site";
/// In 2027.
const NOW_S: u64 = 1_800_000_000;

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with what is above it, and its key.
#[derive(Clone)]
struct Identity {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a test");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    fn new(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        Self(CertifiedIssuer::self_signed(authority_params(name), key).unwrap())
    }

    fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    fn sign(&self, params: CertificateParams, algorithm: &'static SignatureAlgorithm) -> Identity {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            chain: vec![certificate.der().to_vec()],
            key: key.serialize_der(),
        }
    }

    /// Somebody below, with these params.
    fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self(CertifiedIssuer::signed_by(params, key, &self.0).unwrap())
    }
}

fn site() -> (Authority, Identity) {
    let authority = Authority::new("the site", &PKCS_ECDSA_P256_SHA256);
    let identity = authority.sign(params(&[NAME]), &PKCS_ECDSA_P256_SHA256);
    (authority, identity)
}

fn config(identity: &Identity) -> ServerConfig {
    let chain = identity.chain.iter().cloned().map(CertificateDer::from);
    builder()
        .with_no_client_auth()
        .with_single_cert(chain.collect(), private(identity))
        .unwrap()
}

fn private(identity: &Identity) -> rustls::pki_types::PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(identity.key.clone()).into()
}

fn builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
}

/// rustls at the other end of a stream that carries `step` bytes at once, and waits between them where it is
/// to be `slow`.
struct Rustls {
    server: ServerConnection,
    sent: VecDeque<u8>,
    /// What the client said.
    heard: Vec<u8>,
    step: usize,
    slow: bool,
    turn: bool,
}

impl Rustls {
    fn new(config: ServerConfig) -> Self {
        Self {
            server: ServerConnection::new(Arc::new(config)).unwrap(),
            sent: VecDeque::new(),
            heard: Vec::new(),
            step: usize::MAX,
            slow: false,
            turn: false,
        }
    }

    fn pump(&mut self) {
        while self.server.wants_write() {
            self.server.write_tls(&mut self.sent).unwrap();
        }
    }

    fn says(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(&mut self.server.writer(), bytes).unwrap();
    }

    /// Every other future waits until it is dropped.
    async fn pause(&mut self) {
        self.turn = !self.turn;
        if self.slow && self.turn {
            core::future::pending().await
        }
    }
}

impl ErrorType for Rustls {
    type Error = Infallible;
}

impl Read for Rustls {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        self.pause().await;
        self.pump();
        let len = buffer.len().min(self.step);
        Ok(std::io::Read::read(&mut self.sent, &mut buffer[..len]).unwrap())
    }
}

impl Write for Rustls {
    async fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        self.pause().await;
        let mut part = &buffer[..buffer.len().min(self.step)];
        let len = part.len();
        while !part.is_empty() {
            self.server.read_tls(&mut part).unwrap();
            if self.server.process_new_packets().is_err() {
                break;
            }
            let mut plain = Vec::new();
            // An error says that there is no more.
            let _ = std::io::Read::read_to_end(&mut self.server.reader(), &mut plain);
            self.heard.extend(plain);
        }
        Ok(len)
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Randomness of a test.
fn random() -> impl FnMut(&mut [u8]) {
    let mut n = 0u8;
    move |bytes| {
        for byte in bytes {
            n = n.wrapping_mul(5).wrapping_add(17);
            *byte = n;
        }
    }
}

fn memory() -> &'static mut Memory {
    Box::leak(Box::new(Memory::new()))
}

fn open<S: Read + Write>(
    stream: S,
    name: &str,
    authority: &[u8],
) -> Result<Connection<'static, S>, TlsError> {
    let trust = Trust::new(name, [authority])?;
    block_on(Connection::open(stream, memory(), &trust, NOW_S, random()))
}

/// Whether a client that trusts `authority` takes a server of this identity for `name`.
fn judged(identity: &Identity, name: &str, authority: &Authority) -> Result<(), TlsError> {
    open(Rustls::new(config(identity)), name, &authority.der()).map(drop)
}

impl Connection<'_, Rustls> {
    fn peer(&mut self) -> &mut Rustls {
        self.stream_mut()
    }
}

/// Sends and receives `len` bytes, whatever the stream does; where it is slow, futures are dropped.
fn exchange(connection: &mut Connection<'_, Rustls>, len: usize) {
    let bytes: Vec<u8> = (0..len).map(|n| (n * 7 % 251) as u8).collect();
    let mut sent = 0;
    while sent < len {
        if let Poll::Ready(result) = poll_once(connection.write(&bytes[sent..])) {
            sent += result.unwrap();
        }
    }
    while poll_once(connection.flush()).is_pending() {}
    let heard = core::mem::take(&mut connection.peer().heard);
    assert_eq!(heard, bytes);
    connection.peer().says(&bytes);
    let mut received: Vec<u8> = Vec::new();
    while received.len() < len {
        let mut buffer = [0; 100];
        if let Poll::Ready(result) = poll_once(connection.read(&mut buffer)) {
            let read = result.unwrap();
            assert_ne!(read, 0);
            received.extend(&buffer[..read]);
        }
    }
    assert_eq!(received, bytes);
}

#[test]
fn bytes_go_both_ways_whatever_the_stream_cuts_and_delays() {
    let (authority, identity) = site();
    for (step, slow) in [(usize::MAX, false), (1, false), (7, true), (1000, true)] {
        let mut peer = Rustls::new(config(&identity));
        peer.step = step;
        let mut connection = open(peer, NAME, &authority.der()).unwrap();
        connection.peer().slow = slow;
        for len in [1, 100, 1024, 1025, 40_000] {
            exchange(&mut connection, len);
        }
        // New keys, which the client answers with its own.
        connection.peer().server.refresh_traffic_keys().unwrap();
        exchange(&mut connection, 3000);
        exchange(&mut connection, 3000);
        connection.peer().server.send_close_notify();
        connection.peer().slow = false;
        assert_eq!(block_on(connection.read(&mut [0; 9])), Ok(0));
        assert_eq!(block_on(connection.read(&mut [0; 9])), Ok(0));
    }
}

#[test]
fn a_stream_that_ends_without_a_word_is_no_end_and_a_fault_is_told() {
    use rustls::AlertDescription::{BadRecordMac, UnexpectedMessage};
    let (authority, identity) = site();
    let stand = || open(Rustls::new(config(&identity)), NAME, &authority.der()).unwrap();
    // Cut between two records, and in one: what came whole is there.
    for cut in [0, 1, 5, 20] {
        let mut connection = stand();
        connection.peer().says(b"whole");
        connection.peer().pump();
        let whole = connection.peer().sent.len();
        connection.peer().says(b"cut off");
        connection.peer().pump();
        connection.peer().sent.truncate(whole + cut);
        let mut buffer = [0; 100];
        assert_eq!(block_on(connection.read(&mut buffer)), Ok(5), "{cut}");
        assert_eq!(&buffer[..5], b"whole");
        for _ in 0..2 {
            let read = block_on(connection.read(&mut buffer));
            assert_eq!(read, Err(TlsError::Ended), "{cut}");
        }
        assert_eq!(block_on(connection.write(&[1])), Err(TlsError::Ended));
    }
    // What is not of these keys, or of a kind that comes in no record.
    for (record, error, alert) in [
        (&[23, 3, 3, 0, 20][..], TlsError::Forged, BadRecordMac),
        (&[20, 3, 3, 0, 20], TlsError::Unexpected, UnexpectedMessage),
    ] {
        let mut connection = stand();
        connection.peer().pump();
        connection.peer().sent.clear();
        connection.peer().sent.extend(record);
        connection.peer().sent.extend([0; 20]);
        for _ in 0..2 {
            assert_eq!(block_on(connection.read(&mut [0; 9])), Err(error));
        }
        let told = connection.peer().server.process_new_packets().unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(alert));
    }
}

#[test]
fn an_empty_buffer_is_read_into_without_waiting() {
    let (authority, identity) = site();
    let mut connection = open(Rustls::new(config(&identity)), NAME, &authority.der()).unwrap();
    assert_eq!(block_on(connection.read(&mut [])), Ok(0));
    assert_eq!(block_on(connection.write(&[])), Ok(0));
}

#[test]
fn every_kind_of_key_that_is_known_is_taken() {
    for above in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        for below in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
            let authority = Authority::new("the site", above);
            let identity = authority.sign(params(&[NAME]), below);
            assert_eq!(judged(&identity, NAME, &authority), Ok(()));
        }
    }
    let other = Authority::new("the site", &PKCS_ECDSA_P384_SHA384);
    let refused = Trust::new(NAME, [&other.der()[..]]).map(drop);
    assert_eq!(refused, Err(TlsError::Kind));
    // One that the authority signed, of a kind that was not offered: rustls has nothing to answer with.
    let (authority, _) = site();
    let identity = authority.sign(params(&[NAME]), &PKCS_ECDSA_P384_SHA384);
    let refused = judged(&identity, NAME, &authority);
    assert_eq!(refused, Err(TlsError::Alert(40)));
}

#[test]
fn whoever_is_not_meant_is_refused_and_told() {
    let (authority, identity) = site();
    let stranger = Authority::new("the site", &PKCS_ECDSA_P256_SHA256);
    assert_eq!(judged(&identity, NAME, &stranger), Err(TlsError::Authority));
    let other = Authority::new("a stranger", &PKCS_ECDSA_P256_SHA256);
    assert_eq!(judged(&identity, NAME, &other), Err(TlsError::Authority));
    assert_eq!(
        judged(&identity, "other.site", &authority),
        Err(TlsError::Name)
    );
    assert_eq!(
        judged(&identity, "10.0.0.7", &authority),
        Err(TlsError::Name)
    );
    let address = authority.sign(params(&["10.0.0.7"]), &PKCS_ECDSA_P256_SHA256);
    assert_eq!(judged(&address, "10.0.0.7", &authority), Ok(()));
    assert_eq!(
        judged(&address, "10.0.0.8", &authority),
        Err(TlsError::Name)
    );
    // The name alone, where it is not among those that count.
    let mut named = params(&["other.site"]);
    named.distinguished_name.push(DnType::CommonName, NAME);
    let named = authority.sign(named, &PKCS_ECDSA_P256_SHA256);
    assert_eq!(judged(&named, NAME, &authority), Err(TlsError::Name));

    let mut client = params(&[NAME]);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = authority.sign(client, &PKCS_ECDSA_P256_SHA256);
    assert_eq!(
        judged(&client, NAME, &authority),
        Err(TlsError::Certificate)
    );

    let mut peer = Rustls::new(config(&identity));
    let trust = Trust::new("other.site", [&authority.der()[..]]).map(drop);
    assert_eq!(trust, Ok(()));
    let der = authority.der();
    let trust = Trust::new("other.site", [&der[..]]).unwrap();
    let opened = Connection::open(&mut peer, memory(), &trust, NOW_S, random());
    assert_eq!(block_on(opened).map(drop), Err(TlsError::Name));
    let told = peer.server.process_new_packets().unwrap_err();
    let bad = rustls::AlertDescription::BadCertificate;
    assert_eq!(told, rustls::Error::AlertReceived(bad));
}

#[test]
fn times_count_as_far_as_they_are_known() {
    let (authority, _) = site();
    let of = |from: i32, to: i32| {
        let mut params = params(&[NAME]);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        judged(
            &authority.sign(params, &PKCS_ECDSA_P256_SHA256),
            NAME,
            &authority,
        )
    };
    assert_eq!(of(2020, 2026), Err(TlsError::Expired));
    assert_eq!(of(2020, 2040), Ok(()));
    // It may be 2030 by now: the board was told in 2027 that it is 2027 or later.
    assert_eq!(of(2030, 2031), Ok(()));
    // At no time are both valid.
    let mut above = authority_params("between");
    above.not_before = date_time_ymd(2020, 1, 1);
    above.not_after = date_time_ymd(2029, 1, 1);
    let between = authority.below(above);
    let mut below = params(&[NAME]);
    below.not_before = date_time_ymd(2030, 1, 1);
    below.not_after = date_time_ymd(2031, 1, 1);
    let mut identity = between.sign(below, &PKCS_ECDSA_P256_SHA256);
    identity.chain.push(between.der());
    assert_eq!(judged(&identity, NAME, &authority), Err(TlsError::Expired));
}

#[test]
fn authorities_in_between_count_and_whoever_is_none_does_not() {
    let (authority, _) = site();
    let mut above = authority.below(authority_params("below 0"));
    let mut chain = vec![above.der()];
    for depth in 1..5 {
        let mut identity = above.sign(params(&[NAME]), &PKCS_ECDSA_P256_SHA256);
        identity.chain.extend(chain.iter().rev().cloned());
        assert_eq!(judged(&identity, NAME, &authority), Ok(()), "{depth}");
        above = above.below(authority_params(&format!("below {depth}")));
        chain.push(above.der());
    }
    let mut identity = above.sign(params(&[NAME]), &PKCS_ECDSA_P256_SHA256);
    identity.chain.extend(chain.iter().rev().cloned());
    assert_eq!(judged(&identity, NAME, &authority), Err(TlsError::TooLarge));
    // A client of the site's signs a certificate of a broker with its own.
    let mut client = params(&["client"]);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = authority.below(client);
    let mut identity = client.sign(params(&[NAME]), &PKCS_ECDSA_P256_SHA256);
    identity.chain.push(client.der());
    assert_eq!(
        judged(&identity, NAME, &authority),
        Err(TlsError::Certificate)
    );
}

#[test]
fn certificates_that_could_each_have_signed_each_other_are_not_all_tried() {
    // They all call themselves as the authority does: each order of them is a path to it, but for a signature.
    let strangers = [(); 4].map(|()| Authority::new("the site", &PKCS_ECDSA_P256_SHA256));
    let mut identity = strangers[0].sign(params(&[NAME]), &PKCS_ECDSA_P256_SHA256);
    let (authority, _) = site();
    for (sent, refused) in [(1, TlsError::Authority), (4, TlsError::Costly)] {
        identity.chain.truncate(1);
        let ders = strangers.iter().take(sent).map(Authority::der);
        identity.chain.extend(ders);
        assert_eq!(judged(&identity, NAME, &authority), Err(refused), "{sent}");
    }
    // The whole of a path that is as long as any, below an authority that was renewed under its name.
    let mut above = authority.below(authority_params("below 0"));
    let mut chain = vec![above.der()];
    for depth in 1..4 {
        above = above.below(authority_params(&format!("below {depth}")));
        chain.push(above.der());
    }
    let mut identity = above.sign(params(&[NAME]), &PKCS_ECDSA_P256_SHA256);
    identity.chain.extend(chain);
    let renewed = [(); 3].map(|()| Authority::new("the site", &PKCS_ECDSA_P256_SHA256));
    let mut known: Vec<Vec<u8>> = renewed.iter().map(Authority::der).collect();
    known.push(authority.der());
    let trust = Trust::new(NAME, known.iter().map(Vec::as_slice)).unwrap();
    let peer = Rustls::new(config(&identity));
    let opened = Connection::open(peer, memory(), &trust, NOW_S, random());
    assert_eq!(block_on(opened).map(drop), Ok(()));
}

#[test]
fn a_server_may_ask_for_a_certificate_and_decides_itself_what_comes_of_none() {
    let (authority, identity) = site();
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().into()).unwrap();
    let with = |optional: bool| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider);
        let verifier = match optional {
            true => verifier.allow_unauthenticated().build().unwrap(),
            false => verifier.build().unwrap(),
        };
        let chain = identity.chain.iter().cloned().map(CertificateDer::from);
        builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.collect(), private(&identity))
            .unwrap()
    };
    let mut connection = open(Rustls::new(with(true)), NAME, &authority.der()).unwrap();
    exchange(&mut connection, 100);
    let mut connection = open(Rustls::new(with(false)), NAME, &authority.der()).unwrap();
    assert_eq!(
        block_on(connection.read(&mut [0; 9])),
        Err(TlsError::Alert(116))
    );
}

#[test]
fn what_does_not_speak_tls_1_3_is_told_apart() {
    let (authority, identity) = site();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = identity.chain.iter().cloned().map(CertificateDer::from);
    let old = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect(), private(&identity))
        .unwrap();
    let refused = open(Rustls::new(old), NAME, &authority.der()).map(drop);
    assert_eq!(refused, Err(TlsError::Version));
    for said in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n", &[0x20, 2, 0, 5]] {
        let refused = open(Said::new(said.to_vec()), NAME, &authority.der()).map(drop);
        let expected = match said {
            [0x20, ..] => TlsError::Ended,
            _ => TlsError::NotTls,
        };
        assert_eq!(refused, Err(expected), "{said:?}");
    }
}

#[test]
fn a_name_or_an_authority_that_is_none_is_refused() {
    let (authority, _) = site();
    let der = authority.der();
    let new = |name, authorities: &[&[u8]]| Trust::new(name, authorities.to_vec()).map(drop);
    assert_eq!(new(NAME, &[&der]), Ok(()));
    assert_eq!(new(NAME, &[]), Err(TlsError::Authority));
    assert_eq!(new(NAME, &[&der[..]; 5]), Err(TlsError::Authority));
    assert_eq!(new("", &[&der]), Err(TlsError::Name));
    assert_eq!(new("a b", &[&der]), Err(TlsError::Name));
    assert_eq!(new(NAME, &[&der[1..]]), Err(TlsError::Certificate));
}

/// A server that says what it was told to, whatever it hears.
struct Said {
    bytes: VecDeque<u8>,
    /// The alert that it heard.
    told: Option<u8>,
}

impl Said {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            told: None,
        }
    }
}

impl ErrorType for Said {
    type Error = Infallible;
}

impl Read for Said {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        Ok(std::io::Read::read(&mut self.bytes, buffer).unwrap())
    }
}

impl Write for Said {
    async fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        if buffer[0] == kind::ALERT {
            self.told = Some(buffer[6]);
        }
        Ok(buffer.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What a server of our own says, a record each.
#[derive(Debug, Clone)]
enum Step {
    Extensions,
    Certificate,
    Verify,
    /// A signature over something else.
    WrongVerify,
    Finished,
    WrongFinished,
    /// Any message of the handshake.
    Message(u8, Vec<u8>),
    /// A record of any kind with any content, padded by so many zeros.
    Record(u8, Vec<u8>, usize),
    /// A record without protection.
    Plain(u8, Vec<u8>),
}
use Step::{Certificate, Extensions, Finished, Message, Plain, Record, Verify};

const SOUND: [Step; 4] = [Extensions, Certificate, Verify, Finished];

/// A server that does these things.
struct Hand {
    identity: Identity,
    steps: Vec<Step>,
    /// Whether its messages come in one record.
    joined: bool,
    said: Said,
    /// What becomes of its hello before it is sent.
    hello: fn(&mut Vec<u8>),
    /// The keys of what the client sends in the handshake.
    client: Option<Traffic>,
    /// The alert that the client sent.
    told: Option<u8>,
    /// Whether it acknowledges nothing that is sent to it but the hello.
    deaf: bool,
}

impl Hand {
    fn new(identity: &Identity, steps: &[Step]) -> Self {
        Self {
            identity: identity.clone(),
            steps: steps.to_vec(),
            joined: false,
            said: Said::new(Vec::new()),
            hello: |_| {},
            client: None,
            told: None,
            deaf: false,
        }
    }

    /// Answers a client's hello.
    fn answer(&mut self, hello: &[u8]) -> Vec<u8> {
        let theirs = hello.len() - POINT;
        let theirs = p256::PublicKey::from_sec1_bytes(&hello[theirs..]).unwrap();
        let secret = SecretKey::from_slice(&[9; 32]).unwrap();
        let shared = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), theirs.as_affine());
        let point = secret.public_key().to_sec1_point(false);
        let mut body = vec![3, 3];
        body.extend([5; 32]);
        body.extend([
            0, 0x13, 1, 0, 0, 79, 0, 43, 0, 2, 3, 4, 0, 51, 0, 69, 0, 23, 0, 65,
        ]);
        body.extend(point.as_bytes());
        (self.hello)(&mut body);
        let own = message(2, &body);
        let mut transcript = Sha256::new();
        transcript.update(hello);
        transcript.update(&own);
        let handshake = keys::handshake_secret(shared.raw_secret_bytes());
        let hash: Secret = transcript.clone().finalize().into();
        let traffic = keys::expand(&handshake, "s hs traffic", &hash);
        let mut keys = Traffic::new(traffic);
        self.client = Some(Traffic::new(keys::expand(
            &handshake,
            "c hs traffic",
            &hash,
        )));
        let mut out = plain(22, &own);
        let mut joined = Vec::new();
        for step in &self.steps {
            let hash: Secret = transcript.clone().finalize().into();
            let (kind, content, padding) = match step {
                Plain(kind, content) => {
                    out.extend(plain(*kind, content));
                    continue;
                }
                Record(kind, content, padding) => (*kind, content.clone(), *padding),
                step => (22, self.message(step, &traffic, &hash), 0),
            };
            if kind == 22 {
                transcript.update(&content);
            }
            match self.joined {
                true => joined.extend(content),
                false => out.extend(sealed(&mut keys, kind, &content, padding)),
            }
        }
        if self.joined {
            out.extend(sealed(&mut keys, 22, &joined, 0));
        }
        out
    }

    fn message(&self, step: &Step, traffic: &Secret, hash: &Secret) -> Vec<u8> {
        let signed = |hash: &[u8]| {
            let mut message = vec![b' '; 64];
            message.extend(b"TLS 1.3, server CertificateVerify\0");
            message.extend(hash);
            let random = ring::rand::SystemRandom::new();
            let key = &self.identity.key;
            let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key, &random);
            let signature = key.unwrap().sign(&random, &message).unwrap();
            let mut body = vec![4, 3, 0, signature.as_ref().len() as u8];
            body.extend(signature.as_ref());
            message_of(15, &body)
        };
        let finished = |hash: &Secret| {
            use hmac::Mac;
            let mac = keys::finished(traffic, hash).finalize().into_bytes();
            message_of(20, &mac)
        };
        match step {
            Extensions => message_of(8, &[0, 0]),
            Certificate => {
                let mut list = Vec::new();
                for certificate in &self.identity.chain {
                    list.extend(&(certificate.len() as u32).to_be_bytes()[1..]);
                    list.extend(certificate);
                    list.extend([0, 0]);
                }
                let mut body = vec![0];
                body.extend(&(list.len() as u32).to_be_bytes()[1..]);
                body.extend(list);
                message_of(11, &body)
            }
            Verify => signed(hash),
            Step::WrongVerify => signed(&[0; 32]),
            Finished => finished(hash),
            Step::WrongFinished => finished(&[0; 32]),
            Message(kind, body) => message_of(*kind, body),
            Record(..) | Plain(..) => unreachable!("they are records"),
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = (body.len() as u32).to_be_bytes().to_vec();
    message[0] = kind;
    message.extend(body);
    message
}
use message as message_of;

fn plain(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 5 + content.len()];
    record::plain(kind, content, &mut out).unwrap();
    out
}

fn sealed(keys: &mut Traffic, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
    // With padding the kind is not the last byte of what is sealed.
    let mut inner = content.to_vec();
    inner.push(kind);
    inner.resize(inner.len() + padding, 0);
    let mut out = vec![0; 5 + inner.len() + 16];
    let last = inner.pop().unwrap();
    record::seal(keys, last, &inner, &mut out).unwrap();
    out
}

impl ErrorType for Hand {
    type Error = Infallible;
}

impl Read for Hand {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        self.said.read(buffer).await
    }
}

impl Write for Hand {
    async fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        let mut record = buffer.to_vec();
        match (buffer[0], &mut self.client) {
            (kind::HANDSHAKE, _) => {
                let answer = self.answer(&buffer[5..]);
                self.said = Said::new(answer);
            }
            (kind::ALERT, _) => self.told = Some(buffer[6]),
            (_, Some(keys)) => {
                if let Ok((kind::ALERT, content)) = record::open(keys, &mut record) {
                    self.told = Some(record[content][1]);
                }
            }
            _ => {}
        }
        Ok(buffer.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        if self.deaf && self.told.is_some() {
            core::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// The server's fault, and the alert that it is told.
fn told(mut hand: Hand, authority: &[u8]) -> (Result<(), TlsError>, Option<u8>) {
    let trust = Trust::new(NAME, [authority]).unwrap();
    let opened = Connection::open(&mut hand, memory(), &trust, NOW_S, random());
    (block_on(opened).map(drop), hand.told)
}

/// What RFC 8446 has a client say where it says that it MUST, and what else it has numbers for.
#[test]
fn a_server_is_told_by_the_number_that_there_is_for_its_fault() {
    use TlsError::{Certificate as Bad, Forged, Malformed, Proof, TooLarge, Unexpected, Version};
    let (authority, identity) = site();
    // 4.1.3, 4.1.4, 4.2, 4.2.1, 4.2.8, D.1: its hello, by what is changed in it.
    const RETRY: [u8; 4] = [0xCF, 0x21, 0xAD, 0x74];
    type Row = (&'static str, fn(&mut Vec<u8>), TlsError, u8);
    let hellos: [Row; 17] = [
        ("an old version", |body| body[1] = 1, Version, 70),
        (
            "no extension for the version",
            |body| drop_extension(body, 40..46),
            Version,
            70,
        ),
        (
            "the same, of a server that knows better",
            |body| {
                body[26..34].copy_from_slice(b"DOWNGRD\x01");
                drop_extension(body, 40..46);
            },
            Version,
            47,
        ),
        ("another version there", |body| body[45] = 3, Version, 47),
        (
            "a session",
            |body| {
                body[34] = 1;
                body.insert(35, 7);
            },
            Unexpected,
            47,
        ),
        ("another suite", |body| body[36] = 2, Unexpected, 47),
        ("compression", |body| body[37] = 1, Unexpected, 47),
        (
            "no share",
            |body| drop_extension(body, 46..119),
            Unexpected,
            109,
        ),
        ("another group", |body| body[51] = 24, Unexpected, 47),
        ("no point of the curve", |body| body[60] ^= 1, Malformed, 47),
        (
            "a point that is short",
            |body| {
                body.pop();
                body[39] -= 1;
                body[49] -= 1;
                body[53] -= 1;
            },
            Malformed,
            47,
        ),
        (
            "an extension of other messages",
            |body| add_extension(body, [0, 0]),
            Unexpected,
            47,
        ),
        (
            "an extension that nobody offered",
            |body| add_extension(body, [0, 42]),
            Unexpected,
            110,
        ),
        (
            "an extension twice",
            |body| add_extension(body, [0, 51]),
            Malformed,
            50,
        ),
        ("a byte too many", |body| body.push(0), Malformed, 50),
        (
            "a byte too few",
            |body| {
                body.pop();
            },
            Malformed,
            50,
        ),
        (
            "a wish for another hello",
            |body| body[2..34].copy_from_slice(&retry()),
            Unexpected,
            47,
        ),
    ];
    for (what, hello, error, alert) in hellos {
        let mut hand = Hand::new(&identity, &SOUND);
        hand.hello = hello;
        let said = told(hand, &authority.der());
        assert_eq!(said, (Err(error), Some(alert)), "{what}");
    }

    let steps = |steps: &[Step]| steps.to_vec();
    let scheme = |scheme: [u8; 2]| Message(15, [&scheme[..], &[0, 2, 1, 1]].concat());
    let short = |at: usize| {
        // A certificate with an extension behind it, which nobody asked for.
        let certificate = &identity.chain[0];
        let mut entry = (certificate.len() as u32).to_be_bytes()[1..].to_vec();
        entry.extend(certificate);
        entry.extend([0, 4, 0, 5, 0, 0]);
        let mut body = vec![0];
        body.extend(&((entry.len() + at) as u32).to_be_bytes()[1..]);
        body.extend(entry);
        Message(11, body)
    };
    let rows: Vec<(&str, Vec<Step>, TlsError, u8)> = vec![
        // 4.3.1, 4.2
        (
            "forbidden there",
            steps(&[Message(8, vec![0, 4, 0, 51, 0, 0])]),
            Unexpected,
            47,
        ),
        (
            "not offered",
            steps(&[Message(8, vec![0, 4, 0, 42, 0, 0])]),
            Unexpected,
            110,
        ),
        ("garbled", steps(&[Message(8, vec![0, 4])]), Malformed, 50),
        // 4.4.1 and 4: the order.
        ("out of order", steps(&[Certificate]), Unexpected, 10),
        (
            "keys too soon",
            steps(&[Message(24, vec![0])]),
            Unexpected,
            10,
        ),
        // 4.4.2, 4.4.2.4
        (
            "no certificate",
            steps(&[Extensions, Message(11, vec![0; 4]), Verify]),
            Bad,
            50,
        ),
        (
            "an extension of it",
            steps(&[Extensions, short(0), Verify]),
            Unexpected,
            110,
        ),
        (
            "cut short",
            steps(&[Extensions, short(1), Verify]),
            Malformed,
            50,
        ),
        // 4.4.3
        (
            "another way to sign",
            steps(&[Extensions, Certificate, scheme([8, 4])]),
            Unexpected,
            47,
        ),
        (
            "signed otherwise",
            steps(&[Extensions, Certificate, Step::WrongVerify]),
            Proof,
            51,
        ),
        // 4.4.4
        (
            "a wrong end",
            steps(&[Extensions, Certificate, Verify, Step::WrongFinished]),
            Forged,
            51,
        ),
        // 5
        (
            "a change of nothing",
            steps(&[Plain(20, vec![2])]),
            Unexpected,
            10,
        ),
        (
            "data too soon",
            steps(&[Record(23, vec![1], 0)]),
            Unexpected,
            10,
        ),
        (
            "a record of nothing",
            steps(&[Record(22, Vec::new(), 0)]),
            Unexpected,
            10,
        ),
        (
            "a kind that is none",
            steps(&[Record(9, vec![1], 0)]),
            Unexpected,
            10,
        ),
        (
            "an alert of one byte",
            steps(&[Record(21, vec![2], 0)]),
            Malformed,
            50,
        ),
        // 5.2, 5.4
        (
            "not of these keys",
            steps(&[Plain(23, vec![0; 30])]),
            Forged,
            20,
        ),
        (
            "too long inside",
            steps(&[Record(22, vec![0; 16_385], 0)]),
            Malformed,
            22,
        ),
        (
            "too long outside",
            steps(&[Plain(23, vec![0; 16_641])]),
            Malformed,
            22,
        ),
        (
            "longer than memory",
            steps(&[
                Extensions,
                Message(11, vec![0; 16_000]),
                Message(11, vec![0; 16_000]),
            ]),
            TooLarge,
            80,
        ),
    ];
    for (what, steps, error, alert) in rows {
        let said = told(Hand::new(&identity, &steps), &authority.der());
        assert_eq!(said, (Err(error), Some(alert)), "{what}");
    }
    assert_eq!(retry()[..4], RETRY);
    // 5.1: before there are keys, records are shorter by what those would add.
    let mut peer = Said::new(plain(22, &vec![0; 16_385]));
    let trust = Trust::new(NAME, [&authority.der()[..]]).map(drop);
    assert_eq!(trust, Ok(()));
    let opened = open(&mut peer, NAME, &authority.der()).map(drop);
    assert_eq!(opened, Err(Malformed));
    assert_eq!(peer.told, Some(22));
}

/// Takes an extension out of a hello.
fn drop_extension(body: &mut Vec<u8>, at: core::ops::Range<usize>) {
    body[39] -= at.len() as u8;
    body.drain(at);
}

/// Puts one without content behind a hello's others.
fn add_extension(body: &mut Vec<u8>, kind: [u8; 2]) {
    body[39] += 4;
    body.extend([kind[0], kind[1], 0, 0]);
}

/// What stands in place of a hello's randomness.
fn retry() -> [u8; 32] {
    Sha256::digest("HelloRetryRequest").into()
}

/// A server that acknowledges no alert keeps nobody from knowing why it was refused.
#[test]
fn whoever_stops_waiting_knows_why_a_server_was_refused() {
    let (authority, identity) = site();
    let steps = [Extensions, Certificate, Step::WrongVerify];
    let mut hand = Hand::new(&identity, &steps);
    hand.deaf = true;
    let der = authority.der();
    let trust = Trust::new(NAME, [&der[..]]).unwrap();
    let mut memory = Memory::new();
    let opened = Connection::open(&mut hand, &mut memory, &trust, NOW_S, random());
    assert!(poll_once(opened).is_pending());
    assert_eq!(memory.refused(), Some(TlsError::Proof));
    assert_eq!(hand.told, Some(51));
    let hand = Hand::new(&identity, &SOUND);
    let opened = Connection::open(hand, &mut memory, &trust, NOW_S, random());
    assert_eq!(block_on(opened).map(drop), Ok(()));
    assert_eq!(memory.refused(), None);
}

/// What becomes of a handshake with a server that does this.
fn done(steps: &[Step]) -> Result<(), TlsError> {
    let (authority, identity) = site();
    open(Hand::new(&identity, steps), NAME, &authority.der()).map(drop)
}

#[test]
fn a_handshake_has_its_messages_in_their_order_and_no_other() {
    assert_eq!(done(&SOUND), Ok(()));
    let unexpected = Err(TlsError::Unexpected);
    // Whoever leaves out what it has no key for.
    assert_eq!(done(&[Extensions, Finished]), unexpected);
    assert_eq!(done(&[Extensions, Certificate, Finished]), unexpected);
    assert_eq!(done(&[Extensions, Verify, Finished]), unexpected);
    assert_eq!(
        done(&[Extensions, Certificate, Certificate, Finished]),
        unexpected
    );
    assert_eq!(done(&[Certificate, Verify, Finished]), unexpected);
    assert_eq!(
        done(&[Extensions, Verify, Certificate, Finished]),
        unexpected
    );
    assert_eq!(done(&[Finished]), unexpected);
    assert_eq!(
        done(&[Extensions, Message(11, vec![0, 0, 0, 0]), Verify, Finished]),
        Err(TlsError::Certificate)
    );
    assert_eq!(
        done(&[Extensions, Certificate, Step::WrongVerify, Finished]),
        Err(TlsError::Proof)
    );
    assert_eq!(
        done(&[Extensions, Certificate, Verify, Step::WrongFinished]),
        Err(TlsError::Forged)
    );
    let other = Message(8, vec![0, 4, 0, 42, 0, 0]);
    assert_eq!(done(&[other, Certificate, Verify, Finished]), unexpected);
    assert_eq!(done(&SOUND[..3]), Err(TlsError::Ended));
}

#[test]
fn records_may_be_padded_and_joined_and_are_refused_where_they_carry_nothing() {
    let (authority, identity) = site();
    let mut hand = Hand::new(&identity, &SOUND);
    hand.joined = true;
    assert_eq!(open(hand, NAME, &authority.der()).map(drop), Ok(()));
    // What comes behind Finished would be under other keys.
    let steps = [&SOUND[..], &[Message(4, vec![0])]].concat();
    let mut hand = Hand::new(&identity, &steps);
    hand.joined = true;
    let refused = open(hand, NAME, &authority.der()).map(drop);
    assert_eq!(refused, Err(TlsError::Unexpected));

    let with = |step: Step| done(&[&[step], &SOUND[..]].concat());
    let padded = Record(22, message(8, &[0, 0]), 300);
    assert_eq!(done(&[padded, Certificate, Verify, Finished]), Ok(()));
    assert_eq!(with(Plain(20, vec![1])), Ok(()));
    assert_eq!(with(Record(21, vec![1, 90], 0)), Ok(()));
    let unexpected = Err(TlsError::Unexpected);
    assert_eq!(with(Plain(20, vec![2])), unexpected);
    assert_eq!(with(Plain(22, message(8, &[0, 0]))), unexpected);
    assert_eq!(with(Plain(23, Vec::new())), Err(TlsError::Malformed));
    assert_eq!(with(Plain(23, vec![0; 16])), Err(TlsError::Forged));
    assert_eq!(with(Record(22, Vec::new(), 0)), unexpected);
    assert_eq!(with(Record(0, Vec::new(), 0)), unexpected);
    assert_eq!(with(Record(23, vec![1], 0)), unexpected);
    assert_eq!(with(Record(20, vec![1], 0)), unexpected);
    assert_eq!(with(Record(21, vec![2], 0)), Err(TlsError::Malformed));
    assert_eq!(with(Record(21, vec![2, 80], 0)), Err(TlsError::Alert(80)));
    assert_eq!(with(Record(21, vec![1, 0], 0)), Err(TlsError::Ended));
    let endless = Message(11, vec![0; 16_000]);
    let refused = done(&[Extensions, endless.clone(), endless]);
    assert_eq!(refused, Err(TlsError::TooLarge));
}

#[test]
fn what_was_changed_or_cut_on_its_way_is_refused() {
    let (authority, identity) = site();
    let trust_in = authority.der();
    let mut hello = Vec::new();
    struct Listener<'a>(&'a mut Vec<u8>);
    impl ErrorType for Listener<'_> {
        type Error = Infallible;
    }
    impl Read for Listener<'_> {
        async fn read(&mut self, _: &mut [u8]) -> Result<usize, Infallible> {
            Ok(0)
        }
    }
    impl Write for Listener<'_> {
        async fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
            self.0.extend(buffer);
            Ok(buffer.len())
        }
        async fn flush(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }
    let none = open(Listener(&mut hello), NAME, &trust_in).map(drop);
    assert_eq!(none, Err(TlsError::NotTls));
    // The client's randomness is the same every time, so that one answer fits all its hellos.
    let sound = Hand::new(&identity, &SOUND).answer(&hello[5..]);
    let said = |bytes: Vec<u8>| open(Said::new(bytes), NAME, &trust_in).map(drop);
    assert_eq!(said(sound.clone()), Ok(()));
    for at in 0..sound.len() {
        let mut changed = sound.clone();
        changed[at] ^= 1;
        let refused = said(changed);
        // The minor version of an unprotected record is no part of anything.
        assert_eq!(refused.is_ok(), at == 2, "byte {at}: {refused:?}");
        assert!(said(sound[..at].to_vec()).is_err(), "{at} bytes");
    }
}

proptest! {
    #[test]
    fn anything_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), begun: bool) {
        let (authority, _) = site();
        let mut bytes = bytes;
        if begun && bytes.len() > 9 {
            let len = bytes.len() - 5;
            bytes[..5].copy_from_slice(&[22, 3, 3, (len >> 8) as u8, len as u8]);
            let body = [2, 0, ((len - 4) >> 8) as u8, (len - 4) as u8];
            bytes[5..9].copy_from_slice(&body);
        }
        prop_assert!(open(Said::new(bytes), NAME, &authority.der()).is_err());
    }

    #[test]
    fn any_message_in_place_of_another_is_refused(
        at in 0usize..4,
        body in proptest::collection::vec(any::<u8>(), 0..300),
        kind in prop_oneof![Just(None), any::<u8>().prop_map(Some)],
        padding in 0usize..20,
    ) {
        let own = [8, 11, 15, 20][at];
        let mut steps = SOUND.to_vec();
        steps[at] = match kind {
            None => Message(own, body.clone()),
            Some(kind) => Record(kind, body.clone(), padding),
        };
        // An empty list of extensions is what is sent anyway.
        prop_assume!(!(at == 0 && kind.is_none() && body == [0, 0]));
        prop_assert!(done(&steps).is_err());
    }
}

/// Messages behind the handshake, as they may be cut.
#[test]
fn tickets_are_skipped_and_keys_are_new_where_a_message_says_so() {
    use crate::connection::Behind;
    let ticket = message(4, &[7; 50]);
    let update = message(24, &[1]);
    let all = [&ticket[..], &ticket, &update].concat();
    for cut in 0..all.len() {
        let mut behind = Behind::default();
        assert_eq!(behind.read(&all[..cut]), Ok(None), "{cut}");
        assert_eq!(behind.read(&all[cut..]), Ok(Some(true)), "{cut}");
        assert_eq!(behind.read(&message(24, &[0])), Ok(Some(false)));
    }
    for (wrong, why) in [
        // RFC 8446, 4.6.3; 4.6.2 for what asks for a certificate.
        (message(24, &[2]), TlsError::Malformed.told(47)),
        (message(24, &[0, 0]), TlsError::Unexpected.told(10)),
        (message(4, &[]), TlsError::Unexpected.told(10)),
        (message(13, &[0]), TlsError::Unexpected.told(10)),
        (
            [&update[..], &ticket].concat(),
            TlsError::Unexpected.told(10),
        ),
    ] {
        assert_eq!(Behind::default().read(&wrong), Err(why), "{wrong:?}");
    }
}
