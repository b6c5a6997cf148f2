//! What a server says to the TLS client of microcontrollers, from its hello to the end of the connection.
//!
//! An input is a byte for the mode (from the third value on as before, with the stream in single bytes, too), and
//! either the stream itself or what a server of our own says, in pieces ([`Piece`]), under the keys that it has.
#![no_main]

#[path = "../../firmware/tls/src/keys.rs"]
#[allow(dead_code, reason = "the client's, of which a server needs less")]
mod keys;

use core::convert::Infallible;
use edgeward_fuzz::{Mode, planted};
use edgeward_tls::{Connection, Memory, TlsError, Trust};
use embassy_futures::block_on;
use embedded_io_async::{ErrorType, Read, Write};
use hmac::Mac;
use keys::{Secret, Traffic};
use libfuzzer_sys::fuzz_target;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey, ecdh};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ring::signature::Ed25519KeyPair;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

const NAME: &str = "broker.site";
/// In 2027.
const NOW_S: u64 = 1_800_000_000;
/// Seeds of the keys of authority and server.
const AUTHORITY: [u8; 32] = [1; 32];
const SERVER: [u8; 32] = [2; 32];

/// Kinds of records, and messages of the handshake.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const CERTIFICATE: u8 = 11;
const VERIFY: u8 = 15;
const FINISHED: u8 = 20;

/// The authority's certificate, and one that it signed for the server.
static CERTIFICATES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(certificates);

fuzz_target!(init: edgeward_fuzz::seeds(seeds), |input: &[u8]| {
    let Some((mode, said)) = Mode::split(input) else {
        return;
    };
    let whole = Heard::of(mode, said, usize::MAX);
    if input[0] / 3 % 2 == 1 {
        assert_eq!(whole, Heard::of(mode, said, 1));
    }
    // Of another name, behind the authority's signature.
    planted(whole.opened == Err(TlsError::Name));
});

/// What a client heard.
#[derive(Debug, PartialEq)]
struct Heard {
    opened: Result<(), TlsError>,
    bytes: Vec<u8>,
    end: Option<Result<usize, TlsError>>,
}

impl Heard {
    /// Has a client listen to a server whose stream carries `step` bytes at once.
    fn of(mode: Mode, said: &[u8], step: usize) -> Self {
        let trust = Trust::new(NAME, [&CERTIFICATES[0][..]]).expect("it is sound");
        let mut memory = Memory::new();
        let mut server = Server {
            mode,
            said,
            stream: Vec::new(),
            sent: 0,
            data: Vec::new(),
            step,
        };
        let random = |bytes: &mut [u8]| bytes.fill(3);
        let opened = Connection::open(&mut server, &mut memory, &trust, NOW_S, random);
        let mut heard = Self {
            opened: Ok(()),
            bytes: Vec::new(),
            end: None,
        };
        match block_on(opened) {
            Ok(mut connection) => heard.listen(&mut connection),
            Err(error) => heard.opened = Err(error),
        }
        if heard.opened.is_err() {
            assert_eq!(memory.refused(), heard.opened.err());
        }
        // Only what a server sent under its keys, in its order, is heard.
        assert!(server.data.starts_with(&heard.bytes));
        heard
    }

    fn listen<S: Read + Write>(&mut self, connection: &mut Connection<'_, S>) {
        let mut buffer = [0; 100];
        self.end = loop {
            match block_on(connection.read(&mut buffer)) {
                Ok(len @ 1..) => self.bytes.extend(&buffer[..len]),
                end => break Some(end),
            }
        };
        assert_eq!(
            block_on(connection.read(&mut buffer)).ok(),
            self.end.and_then(Result::ok)
        );
        let written = block_on(async {
            connection.write(b"answer").await?;
            connection.flush().await
        });
        assert_eq!(written.is_ok(), self.end == Some(Ok(0)));
    }
}

/// A server.
struct Server<'a> {
    mode: Mode,
    said: &'a [u8],
    /// What it says, and how much of that was sent.
    stream: Vec<u8>,
    sent: usize,
    /// What it sent under its last keys as data.
    data: Vec<u8>,
    step: usize,
}

/// A part of what a server says. Its first byte: the kind of record and the zeros of its padding.
struct Piece<'a> {
    what: u8,
    padding: usize,
    content: &'a [u8],
}

impl<'a> Piece<'a> {
    /// The next one, and what is behind it. Its length stands in two bytes behind the first.
    fn split(said: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[first, low, high], rest) = said.split_first_chunk()?;
        let len = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (content, rest) = rest.split_at(len);
        let piece = Self {
            what: first % 8,
            padding: usize::from(first / 8),
            content,
        };
        Some((piece, rest))
    }
}

impl Server<'_> {
    /// Says what it has to say to a client's hello.
    fn answer(&mut self, hello: &[u8]) {
        let (mode, said) = (self.mode, self.said);
        if mode == Mode::Raw {
            self.stream = said.to_vec();
            return;
        }
        let Some((first, mut said)) = Piece::split(said) else {
            return;
        };
        let own = message(2, first.content);
        let mut transcript = Sha256::new();
        transcript.update(hello);
        transcript.update(&own);
        self.stream = plain(HANDSHAKE, &own);
        let handshake = keys::handshake_secret(&shared(hello));
        let traffic = keys::expand(&handshake, "s hs traffic", &hash(&transcript));
        let mut keys = Traffic::new(traffic);
        let mut stands = false;
        let mut joined = Vec::new();
        while let Some((piece, rest)) = Piece::split(said) {
            said = rest;
            let kind = match piece.what {
                0 | 1 => HANDSHAKE,
                2 => ALERT,
                3 => DATA,
                4 => {
                    self.stream.extend_from_slice(piece.content);
                    continue;
                }
                5 => 20,
                6 => {
                    keys.update();
                    continue;
                }
                _ => {
                    self.stream.extend(plain(HANDSHAKE, piece.content));
                    continue;
                }
            };
            if kind != HANDSHAKE || stands {
                if kind == DATA && stands {
                    self.data.extend_from_slice(piece.content);
                }
                self.stream
                    .extend(sealed(&mut keys, kind, piece.content, piece.padding));
                continue;
            }
            let message = said_in(mode, piece.content, &transcript, &traffic);
            transcript.update(&message);
            joined.extend(&message);
            if piece.what == 1 {
                // In a record with the next one.
                continue;
            }
            for part in joined.chunks(16384) {
                self.stream
                    .extend(sealed(&mut keys, kind, part, piece.padding));
            }
            joined.clear();
            if message.first() == Some(&FINISHED) {
                let master = keys::master_secret(&handshake);
                let traffic = keys::expand(&master, "s ap traffic", &hash(&transcript));
                keys = Traffic::new(traffic);
                stands = true;
            }
        }
    }
}

/// A message of the handshake: its kind alone stands for a sound one, and what was changed gets its length again, and
/// its signatures.
fn said_in(mode: Mode, content: &[u8], transcript: &Sha256, traffic: &Secret) -> Vec<u8> {
    match content {
        [CERTIFICATE] => message(CERTIFICATE, &certificate_list(&[&CERTIFICATES[1]])),
        [VERIFY] => message(VERIFY, &proof(transcript)),
        [FINISHED] => {
            let mac = keys::finished(traffic, &hash(transcript));
            message(FINISHED, &mac.finalize().into_bytes())
        }
        [CERTIFICATE, body @ ..] if mode == Mode::Repaired => {
            message(CERTIFICATE, &signed_again(body).unwrap_or(body.to_vec()))
        }
        [kind, body @ ..] if mode == Mode::Repaired => message(*kind, body),
        _ => content.to_vec(),
    }
}

/// What client and server share.
fn shared(hello: &[u8]) -> [u8; 32] {
    // The client's randomness is always the same.
    static SHARED: LazyLock<std::sync::Mutex<Option<[u8; 32]>>> = LazyLock::new(Default::default);
    let mut known = SHARED.lock().expect("one thread");
    *known.get_or_insert_with(|| {
        let theirs = PublicKey::from_sec1_bytes(&hello[hello.len() - 65..]);
        let theirs = theirs.expect("a client's hello ends with its point");
        let shared = ecdh::diffie_hellman(secret().to_nonzero_scalar(), theirs.as_affine());
        (*shared.raw_secret_bytes()).into()
    })
}

fn secret() -> SecretKey {
    SecretKey::from_slice(&[9; 32]).expect("a number of the curve")
}

fn hash(transcript: &Sha256) -> Secret {
    transcript.clone().finalize().into()
}

fn sign(seed: &[u8; 32], message: &[u8]) -> Vec<u8> {
    let key = Ed25519KeyPair::from_seed_unchecked(seed).expect("any seed is a key");
    key.sign(message).as_ref().to_vec()
}

/// The server's proof that it holds the key of its certificate.
fn proof(transcript: &Sha256) -> Vec<u8> {
    let mut signed = vec![b' '; 64];
    signed.extend(b"TLS 1.3, server CertificateVerify\0");
    signed.extend(hash(transcript));
    [&[8, 7, 0, 64][..], &sign(&SERVER, &signed)].concat()
}

/// The certificates of a message with the authority's signature made anew.
fn signed_again(body: &[u8]) -> Option<Vec<u8>> {
    let (&[0, _, _, _], mut list) = body.split_first_chunk()? else {
        return None;
    };
    let mut certificates = Vec::new();
    while let Some((&[high, middle, low], rest)) = list.split_first_chunk() {
        let len = u32::from_be_bytes([0, high, middle, low]) as usize;
        let (certificate, rest) = rest.split_at_checked(len)?;
        list = rest.get(2..)?;
        // A sequence of what is signed, itself one, the algorithm, and the signature.
        let (whole, _) = sequence_in(certificate)?;
        let (signed, _) = sequence_in(whole)?;
        let signed = sequence(signed);
        let signature = sign(&AUTHORITY, &signed);
        let algorithm = sequence(&[6, 3, 0x2B, 0x65, 0x70]);
        let all = [&signed, &algorithm, &[3, 65, 0][..], &signature].concat();
        certificates.push(sequence(&all));
    }
    let certificates: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
    Some(certificate_list(&certificates))
}

/// What is in the sequence at the beginning of some DER, as far as it goes, and what is behind it.
fn sequence_in(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = match der {
        [0x30, len @ ..=0x7F, rest @ ..] => (usize::from(*len), rest),
        [0x30, 0x81, len, rest @ ..] => (usize::from(*len), rest),
        [0x30, 0x82, high, low, rest @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return None,
    };
    Some(rest.split_at(len.min(rest.len())))
}

/// A sequence in DER.
fn sequence(content: &[u8]) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let header: &[u8] = match content.len() {
        ..=0x7F => &[0x30, low],
        ..=0xFF => &[0x30, 0x81, low],
        _ => &[0x30, 0x82, high, low],
    };
    [header, content].concat()
}

/// The body of a Certificate message.
fn certificate_list(certificates: &[&[u8]]) -> Vec<u8> {
    let long = |len: usize| (len as u32).to_be_bytes()[1..].to_vec();
    let list: Vec<u8> = certificates
        .iter()
        .flat_map(|certificate| [&long(certificate.len())[..], certificate, &[0, 0]].concat())
        .collect();
    [&[0][..], &long(list.len()), &list].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = (body.len() as u32).to_be_bytes().to_vec();
    message[0] = kind;
    message.extend(body);
    message
}

fn plain(kind: u8, content: &[u8]) -> Vec<u8> {
    [
        &[kind, 3, 3][..],
        &(content.len() as u16).to_be_bytes(),
        content,
    ]
    .concat()
}

fn sealed(keys: &mut Traffic, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
    let mut inner = [content, &[kind]].concat();
    inner.resize(inner.len() + padding, 0);
    let header = plain(DATA, &vec![0; inner.len() + 16]);
    let header = &header[..5];
    let tag = keys.seal(header, &mut inner).expect("short enough");
    [header, &inner, &tag].concat()
}

impl ErrorType for Server<'_> {
    type Error = Infallible;
}

impl Read for Server<'_> {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let rest = &self.stream[self.sent..];
        let len = rest.len().min(buffer.len()).min(self.step);
        buffer[..len].copy_from_slice(&rest[..len]);
        self.sent += len;
        Ok(len)
    }
}

impl Write for Server<'_> {
    async fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        if buffer.first() == Some(&HANDSHAKE) {
            self.answer(&buffer[5..]);
        }
        Ok(buffer.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn key(seed: &[u8; 32]) -> KeyPair {
    let begin = [
        0x30, 0x2E, 2, 1, 0, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    KeyPair::try_from([&begin[..], seed].concat()).expect("a key of Ed25519")
}

fn certificates() -> [Vec<u8>; 2] {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "site");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, key(&AUTHORITY)).expect("it is sound");
    let server = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
    let server = server
        .signed_by(&key(&SERVER), &authority)
        .expect("it is sound");
    [authority.der().to_vec(), server.der().to_vec()]
}

fn seeds() -> Vec<Vec<u8>> {
    let piece = |first: u8, content: &[u8]| {
        [&[first][..], &(content.len() as u16).to_le_bytes(), content].concat()
    };
    let mut hello = vec![3, 3];
    hello.extend([5; 32]);
    hello.extend([
        0, 0x13, 1, 0, 0, 79, 0, 43, 0, 2, 3, 4, 0, 51, 0, 69, 0, 23, 0, 65,
    ]);
    hello.extend(secret().public_key().to_sec1_point(false).as_bytes());
    let extensions = message(8, &[0, 0]);
    let list = [
        &[CERTIFICATE][..],
        &certificate_list(&[&CERTIFICATES[1], &CERTIFICATES[0]]),
    ];
    let list = list.concat();
    let begun = |extensions: &[u8], certificate: &[u8], joined: u8| {
        [
            piece(0, &hello),
            piece(joined, extensions),
            piece(joined, certificate),
            piece(joined, &[VERIFY]),
            piece(0, &[FINISHED]),
        ]
        .concat()
    };
    let asks = message(13, &[0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let asked = [
        piece(0, &hello),
        piece(0, &extensions),
        piece(8, &asks),
        piece(0, &[CERTIFICATE]),
        piece(0, &[VERIFY]),
        piece(0, &[FINISHED]),
        piece(2, &[2, 116]),
    ];
    let after = [
        piece(0, &[4, 0, 0, 5, 1, 2, 3, 4, 5]),
        piece(11, b"data"),
        piece(0, &[24, 0, 0, 1, 1]),
        piece(6, &[]),
        piece(3, b"more data"),
        piece(2, &[1, 0]),
    ]
    .concat();
    let mut all = vec![
        Mode::Repaired.seed(&[begun(&[8, 0, 0], &[CERTIFICATE], 0), after.clone()].concat()),
        Mode::Repaired.seed(&[begun(&[8, 0, 0], &list, 1), piece(2, &[2, 40])].concat()),
        Mode::Content.seed(&asked.concat()),
        Mode::Content.seed(&[begun(&extensions, &[CERTIFICATE], 1), after].concat()),
        Mode::Raw.seed(&plain(HANDSHAKE, &message(2, &hello))),
        Mode::Raw.seed(&plain(ALERT, &[2, 70])),
        Mode::Raw.seed(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ];
    for sound in &all[..4] {
        let (mode, said) = Mode::split(sound).expect("a byte for the mode");
        assert_eq!(Heard::of(mode, said, usize::MAX).opened, Ok(()));
    }
    // The same in single bytes, too.
    for at in 0..all.len() {
        let mut again = all[at].clone();
        again[0] += 3;
        all.push(again);
    }
    all
}
