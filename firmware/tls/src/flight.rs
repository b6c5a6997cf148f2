//! The handshake (RFC 8446, 2 and 4): what the server says until its Finished, in that order and no other.

use crate::TlsError::{self, Ended, Malformed, NotTls, TooLarge, Unexpected, Version};
use crate::bytes::Bytes;
use crate::hello::{self, POINT};
use crate::keys::{self, Secret, Traffic};
use crate::record::{self, HEADER, alert, kind};
use crate::trust::Trust;
use crate::{Refusal, told};
use core::ops::Range;
use embedded_io_async::{Read, Write};
use heapless::Vec;
use hmac::Mac;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey, ecdh};
use sha2::{Digest, Sha256};

/// Messages of the handshake.
mod message {
    pub const SERVER_HELLO: u8 = 2;
    pub const ENCRYPTED_EXTENSIONS: u8 = 8;
    pub const CERTIFICATE: u8 = 11;
    pub const CERTIFICATE_REQUEST: u8 = 13;
    pub const CERTIFICATE_VERIFY: u8 = 15;
    pub const FINISHED: u8 = 20;
}

/// Bytes of a message's header.
const MESSAGE_HEADER: usize = 4;
/// A Certificate in which there is none.
const NO_CERTIFICATE: [u8; 8] = [message::CERTIFICATE, 0, 0, 4, 0, 0, 0, 0];
/// What stands before the hash in what a server signs.
const SIGNED: &[u8; 34] = b"TLS 1.3, server CertificateVerify\0";
/// How often randomness is asked for a key: one in 2^32 is none.
const KEY_TRIES: usize = 4;

/// A handshake on its way. The server's messages stay where they come, one behind the other.
pub(crate) struct Flight<'a, S> {
    pub stream: &'a mut S,
    pub input: &'a mut [u8],
    pub output: &'a mut [u8],
    /// Bytes of messages that have come, and of those that were read.
    end: usize,
    read: usize,
    receiving: Option<Traffic>,
    sending: Option<Traffic>,
    transcript: Sha256,
    /// Whether anything has come.
    heard: bool,
}

/// The keys of a connection that stands.
pub(crate) struct Keys {
    pub reading: Traffic,
    pub writing: Traffic,
}

impl<'a, S: Read + Write> Flight<'a, S> {
    pub fn new(stream: &'a mut S, input: &'a mut [u8], output: &'a mut [u8]) -> Self {
        Self {
            stream,
            input,
            output,
            end: 0,
            read: 0,
            receiving: None,
            sending: None,
            transcript: Sha256::new(),
            heard: false,
        }
    }

    /// Shakes hands; the server is told where that fails.
    ///
    /// `refused` is why, as soon as that is known: whoever waits for it need not wait until the server has heard.
    pub async fn run(
        &mut self,
        trust: &Trust<'_>,
        since_s: u64,
        random: impl FnMut(&mut [u8]),
        refused: &mut (bool, TlsError),
    ) -> Result<Keys, TlsError> {
        let Refusal { mut error, alert } = match self.shake(trust, since_s, random).await {
            Ok(keys) => return Ok(keys),
            Err(refusal) => refusal,
        };
        if error == Ended && !self.heard {
            error = NotTls;
        }
        *refused = (true, error);
        if let Some(number) = alert {
            // What it is told is a kindness: the connection ends all the same.
            let _ = self.send(kind::ALERT, &[2, number]).await;
        }
        Err(error)
    }

    async fn shake(
        &mut self,
        trust: &Trust<'_>,
        since_s: u64,
        mut random: impl FnMut(&mut [u8]),
    ) -> Result<Keys, Refusal> {
        let secret = key(&mut random)?;
        self.greet(trust, &secret, random).await?;
        let hello = self.message(message::SERVER_HELLO).await?;
        let point = hello::server(self.bytes(hello)?)?;
        let public = PublicKey::from_sec1_bytes(point);
        let public = public.map_err(|_| Malformed.told(told::ILLEGAL_PARAMETER))?;
        let shared = ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
        let handshake = keys::handshake_secret(shared.raw_secret_bytes());
        self.ends_record()?;
        let hash = self.hash();
        let server = keys::expand(&handshake, "s hs traffic", &hash);
        let client = keys::expand(&handshake, "c hs traffic", &hash);
        self.receiving = Some(Traffic::new(server));
        self.sending = Some(Traffic::new(client));

        let asked = self.server(trust, since_s, &server).await?;
        let (master, hash) = (keys::master_secret(&handshake), self.hash());
        let reading = keys::expand(&master, "s ap traffic", &hash);
        let writing = keys::expand(&master, "c ap traffic", &hash);
        self.finish(&client, asked).await?;
        Ok(Keys {
            reading: Traffic::new(reading),
            writing: Traffic::new(writing),
        })
    }

    /// Sends the client's hello.
    async fn greet(
        &mut self,
        trust: &Trust<'_>,
        secret: &SecretKey,
        mut random: impl FnMut(&mut [u8]),
    ) -> Result<(), TlsError> {
        let point = secret.public_key().to_sec1_point(false);
        let point: &[u8; POINT] = point.as_bytes().try_into().map_err(|_| TlsError::Random)?;
        let mut nonce = [0; 32];
        random(&mut nonce);
        let hello = hello::client(&nonce, point, trust.asked())?;
        self.transcript.update(&hello);
        self.send(kind::HANDSHAKE, &hello).await
    }

    /// Reads what the server sends under the handshake's keys, and whether it asks for a certificate.
    async fn server(
        &mut self,
        trust: &Trust<'_>,
        since_s: u64,
        traffic: &Secret,
    ) -> Result<bool, Refusal> {
        let extensions = self.message(message::ENCRYPTED_EXTENSIONS).await?;
        hello::encrypted_extensions(self.bytes(extensions)?)?;
        let asked = self.next().await? == message::CERTIFICATE_REQUEST;
        if asked {
            let request = self.message(message::CERTIFICATE_REQUEST).await?;
            // In a handshake there is no context; whatever it asks for, there is none to send.
            Bytes(self.bytes(request)?).counted(1)?.end()?;
        }
        let certificates = self.message(message::CERTIFICATE).await?;
        let hash = self.hash();
        let proof = self.message(message::CERTIFICATE_VERIFY).await?;
        let mut proof = Bytes(self.bytes(proof)?);
        let (way, signature) = (proof.take(2)?, proof.counted(2)?);
        proof.end()?;
        let mut signed: Vec<u8, 130> = Vec::new();
        for part in [&[b' '; 64][..], SIGNED, &hash] {
            signed.extend_from_slice(part).map_err(|_| TooLarge)?;
        }
        let certificates = self.bytes(certificates)?;
        trust.verify(certificates, since_s, way, &signed, signature.0)?;
        let hash = self.hash();
        let finished = self.message(message::FINISHED).await?;
        let expected = keys::finished(traffic, &hash);
        let finished = expected.verify_slice(self.bytes(finished)?);
        finished.map_err(|_| TlsError::Forged.told(told::DECRYPT_ERROR))?;
        self.ends_record()?;
        Ok(asked)
    }

    /// Answers the server's Finished.
    async fn finish(&mut self, traffic: &Secret, asked: bool) -> Result<(), TlsError> {
        if asked {
            self.transcript.update(NO_CERTIFICATE);
            self.send(kind::HANDSHAKE, &NO_CERTIFICATE).await?;
        }
        let own: Secret = keys::finished(traffic, &self.hash())
            .finalize()
            .into_bytes()
            .into();
        let mut finished: Vec<u8, { MESSAGE_HEADER + keys::HASH }> = Vec::new();
        for part in [&[message::FINISHED, 0, 0, keys::HASH as u8][..], &own] {
            finished.extend_from_slice(part).map_err(|_| TooLarge)?;
        }
        self.send(kind::HANDSHAKE, &finished).await
    }

    /// The hash of all messages so far.
    fn hash(&self) -> Secret {
        self.transcript.clone().finalize().into()
    }

    fn bytes(&self, range: Range<usize>) -> Result<&[u8], TlsError> {
        self.input.get(range).ok_or(Malformed)
    }

    /// Before keys change no record may hold more than what was read.
    fn ends_record(&self) -> Result<(), TlsError> {
        (self.read == self.end).then_some(()).ok_or(Unexpected)
    }

    /// Of which kind the next message is.
    async fn next(&mut self) -> Result<u8, Refusal> {
        loop {
            if let Some(kind) = self.bytes(self.read..self.end)?.first() {
                return Ok(*kind);
            }
            self.record().await?;
        }
    }

    /// Reads the next message, which has to be of this kind; gives where it lies, without its header.
    async fn message(&mut self, wanted: u8) -> Result<Range<usize>, Refusal> {
        if self.next().await? != wanted {
            return Err(Unexpected.into());
        }
        loop {
            let mut bytes = Bytes(self.bytes(self.read..self.end)?);
            if bytes.take(1).and_then(|_| bytes.counted(3)).is_ok() {
                break;
            }
            self.record().await?;
        }
        let mut bytes = Bytes(self.bytes(self.read..self.end)?);
        bytes.u8()?;
        let len = bytes.counted(3)?.0.len();
        let body = self.read + MESSAGE_HEADER..self.read + MESSAGE_HEADER + len;
        let all = self.input.get(self.read..body.end).ok_or(Malformed)?;
        self.transcript.update(all);
        self.read = body.end;
        Ok(body)
    }

    /// Receives a record, which has to hold a part of the handshake or nothing of use.
    async fn record(&mut self) -> Result<(), Refusal> {
        let room = self.input.get_mut(self.end..).ok_or(TooLarge)?;
        let mut received = 0;
        let result = record::receive(self.stream, room, &mut received).await;
        self.heard |= received > 0;
        let record = room.get_mut(..result?).ok_or(TooLarge)?;
        let (kind, content) = match (record.first().copied(), &mut self.receiving) {
            // Servers send these for the sake of what stands between; they mean nothing.
            (Some(kind::CHANGE), _) if record.get(HEADER..) == Some(&[1][..]) => return Ok(()),
            (_, Some(keys)) => record::open(keys, record)?,
            (_, None) => record::bare(record)?,
        };
        match kind {
            kind::HANDSHAKE if !content.is_empty() => {
                let len = content.len();
                record.copy_within(content, 0);
                self.end += len;
                Ok(())
            }
            kind::ALERT => {
                let content = record.get(content).ok_or(Malformed)?;
                match record::read_alert(content)? {
                    None => Ok(()),
                    Some(alert::CLOSE) => Err(Ended.into()),
                    // It is known to whoever says it.
                    Some(alert::VERSION) => Err(Refusal {
                        error: Version,
                        alert: None,
                    }),
                    Some(number) => Err(TlsError::Alert(number).into()),
                }
            }
            _ => Err(Unexpected.into()),
        }
    }

    /// Sends a record, under keys where there are some.
    async fn send(&mut self, kind: u8, content: &[u8]) -> Result<(), TlsError> {
        let len = match &mut self.sending {
            Some(keys) => record::seal(keys, kind, content, self.output)?,
            None => record::plain(kind, content, self.output)?,
        };
        let record = self.output.get(..len).ok_or(TooLarge)?;
        self.stream.write_all(record).await.map_err(|_| Ended)?;
        self.stream.flush().await.map_err(|_| Ended)
    }
}

/// The client's key for one connection.
fn key(random: &mut impl FnMut(&mut [u8])) -> Result<SecretKey, TlsError> {
    for _ in 0..KEY_TRIES {
        let mut bytes = [0; 32];
        random(&mut bytes);
        if let Ok(key) = SecretKey::from_slice(&bytes) {
            return Ok(key);
        }
    }
    Err(TlsError::Random)
}
