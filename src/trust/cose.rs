//! COSE_Sign1 (RFC 9052) in the one fixed shape that Edgeward uses.
//!
//! Any COSE library can verify these messages. This module writes and reads exactly one encoding
//! of them, so that a board needs neither an allocator nor a CBOR parser, and so that two messages
//! that mean the same are the same bytes:
//!
//! ```text
//! 18([                                 ; tag 18: COSE_Sign1
//!   << { 1: -8,                        ; algorithm: EdDSA
//!        3: "application/edgeward-…",  ; content type
//!        4: h'8 bytes' } >>,           ; key id
//!   {},                                ; nothing unprotected
//!   payload or nil,                    ; nil: the payload is detached
//!   h'64 bytes'                        ; Ed25519
//! ])
//! ```
//!
//! What is signed is `Sig_structure` of RFC 9052, section 4.4, with empty external data. Byte by
//! byte in `docs/WIRE.md`.

use super::{KeyId, PublicKey, Signer, Verifier};

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Tag 18 and an array of four.
const PREFIX: [u8; 2] = [0xd2, 0x84];
/// A map of three; label 1 (algorithm) is -8 (EdDSA); label 3 (content type) follows as text of
/// 24 to 255 bytes, whose length is the next byte.
const PROTECTED_START: [u8; 5] = [0xa3, 0x01, 0x27, 0x03, 0x78];
/// Label 4 (key id) is a byte string of eight.
const KEY_LABEL: [u8; 2] = [0x04, 0x48];
/// An empty map.
const UNPROTECTED: [u8; 1] = [0xa0];
/// The payload's place when it travels apart.
const NIL: u8 = 0xf6;
/// A byte string of 64.
const SIGNATURE_START: [u8; 2] = [0x58, 0x40];
/// `Sig_structure`: an array of four that begins with the text "Signature1".
const CONTEXT: [u8; 12] = *b"\x84\x6aSignature1";
/// The external data of `Sig_structure`: an empty byte string.
const EXTERNAL: [u8; 1] = [0x40];
/// Bytes of the protected header around the content type's text, with its own length of two.
const PROTECTED_FIXED: usize = 2 + PROTECTED_START.len() + 1 + KEY_LABEL.len() + 8;
/// Bytes that a message adds to an embedded payload, at most.
pub const MAX_OVERHEAD_BYTES: usize = ContentType::Desired.embedded_bytes(0x1_0000) - 0x1_0000;
/// Bytes of the largest detached message.
pub const MAX_DETACHED_BYTES: usize = ContentType::Desired.detached_bytes();
/// Bytes of a bundle's signature.
pub const BUNDLE_SIGNATURE_BYTES: usize = ContentType::Bundle.detached_bytes();

/// What a message is about; signed with it, so that a signature over one kind of content is never
/// taken for a signature over another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ContentType {
    /// The digest of a bundle's head.
    Bundle,
    /// A desired state.
    Desired,
    /// A trust root.
    Root,
    /// A telemetry frame.
    Frame,
    /// An acknowledgement of telemetry.
    Ack,
    /// A command to one board.
    Command,
    /// A part of a flight record.
    Record,
}

impl ContentType {
    /// Every content type.
    pub const ALL: [Self; 7] = [
        Self::Bundle,
        Self::Desired,
        Self::Root,
        Self::Frame,
        Self::Ack,
        Self::Command,
        Self::Record,
    ];
    /// The media type that stands in the protected header.
    #[must_use]
    pub const fn text(self) -> &'static str {
        // The encoding relies on 24 to 255 bytes, which a test checks.
        match self {
            Self::Bundle => "application/edgeward-bundle",
            Self::Desired => "application/edgeward-desired",
            Self::Root => "application/edgeward-root",
            Self::Frame => "application/edgeward-frame",
            Self::Ack => "application/edgeward-ack",
            Self::Command => "application/edgeward-command",
            Self::Record => "application/edgeward-record",
        }
    }

    /// Bytes of a message that embeds a payload of `payload` bytes.
    #[must_use]
    pub const fn embedded_bytes(self, payload: usize) -> usize {
        self.detached_bytes() - 1 + length_bytes(payload) + payload
    }

    /// Where a payload of `payload` bytes begins in a message that embeds it.
    const fn payload_at(self, payload: usize) -> usize {
        self.embedded_bytes(payload) - payload - SIGNATURE_START.len() - SIGNATURE_BYTES
    }

    /// Bytes of a message whose payload is detached.
    #[must_use]
    pub const fn detached_bytes(self) -> usize {
        PREFIX.len()
            + PROTECTED_FIXED
            + self.text().len()
            + UNPROTECTED.len()
            + 1
            + SIGNATURE_START.len()
            + SIGNATURE_BYTES
    }
}

/// Part of a message, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoseField {
    /// Tag 18 and the array of four.
    Tag,
    /// The protected header.
    Protected,
    /// The content type in it.
    ContentType,
    /// The key id in it.
    KeyId,
    /// The unprotected header.
    Unprotected,
    /// The payload.
    Payload,
    /// The signature.
    Signature,
    /// The bytes after the message.
    End,
    /// The buffer to write to.
    Output,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoseErrorKind {
    /// The bytes end in the middle of it.
    Truncated,
    /// Not the bytes of the one shape.
    Malformed,
    /// A length that is not in its shortest form.
    NotCanonical,
    /// Of a content type that this place does not take, or none that Edgeward knows.
    WrongContent,
    /// By another key than the one expected.
    WrongKey,
    /// The payload is detached where it should be embedded, or the other way round.
    WrongPlace,
    /// The signature does not hold.
    BadSignature,
    /// Bytes follow that belong to no message.
    Trailing,
    /// The output buffer is too small.
    NoSpace,
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoseError {
    /// Where in the message's structure.
    pub field: CoseField,
    /// Where in the bytes, from the message's first.
    pub offset: u32,
    /// What is wrong.
    pub kind: CoseErrorKind,
}

impl CoseError {
    pub(crate) fn new(field: CoseField, offset: usize, kind: CoseErrorKind) -> Self {
        Self {
            field,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            kind,
        }
    }
}

/// Writes a message with its payload into `out` and returns its length, which is
/// [`ContentType::embedded_bytes`].
///
/// # Errors
/// [`CoseErrorKind::NoSpace`] when `out` is shorter.
pub fn sign_embedded<S: Signer + ?Sized>(
    signer: &S,
    content: ContentType,
    payload: &[u8],
    out: &mut [u8],
) -> Result<usize, CoseError> {
    sign_in_place(signer, content, out, |room| {
        room.get_mut(..payload.len())?.copy_from_slice(payload);
        Some(payload.len())
    })
}

/// As [`sign_embedded`], of a payload that is in no other memory: `write` writes it to the beginning of the room
/// that it is given in `out`, and returns its length, or none when that is too small.
///
/// # Errors
/// [`CoseErrorKind::NoSpace`] when `out` is shorter than the message.
pub fn sign_in_place<S: Signer + ?Sized>(
    signer: &S,
    content: ContentType,
    out: &mut [u8],
    write: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Result<usize, CoseError> {
    let room = out.get_mut(content.payload_at(0)..);
    let most = room.as_ref().map_or(0, |room| room.len());
    match room.and_then(write).filter(|&len| len <= most) {
        Some(len) => seal(signer, content, len, out),
        None => Err(no_space(CoseField::Payload)),
    }
}

/// Signs the payload of `len` bytes that lies in `out` where the shortest does, and writes the message around it.
fn seal<S: Signer + ?Sized>(
    signer: &S,
    content: ContentType,
    len: usize,
    out: &mut [u8],
) -> Result<usize, CoseError> {
    let (written, at) = (content.payload_at(0), content.payload_at(len));
    let bytes = content.embedded_bytes(len);
    if bytes > out.len() {
        return Err(no_space(CoseField::Output));
    }
    // The length before it takes up to four bytes more than that of the shortest.
    out.copy_within(written..written + len, at);
    let (head, rest) = out.split_at_mut(at);
    let (payload, end) = rest.split_at_mut(len);
    let mut length = [0; 5];
    let length = write_length(len, &mut length).ok_or(no_space(CoseField::Payload))?;
    let protected = write_head(content, signer.public_key().id(), length, head)?;
    let signature = signer.sign(&[&CONTEXT, protected, &EXTERNAL, length, payload]);
    put(&[&SIGNATURE_START, &signature], end)?;
    Ok(bytes)
}

/// Writes a message whose payload travels apart into `out` and returns its length, which is
/// [`ContentType::detached_bytes`].
///
/// # Errors
/// [`CoseErrorKind::NoSpace`] when `out` is shorter.
pub fn sign_detached<S: Signer + ?Sized>(
    signer: &S,
    content: ContentType,
    payload: &[u8],
    out: &mut [u8],
) -> Result<usize, CoseError> {
    let bytes = content.detached_bytes();
    let end = bytes - SIGNATURE_START.len() - SIGNATURE_BYTES;
    let parts = out.split_at_mut_checked(end);
    let (head, end) = parts.ok_or(no_space(CoseField::Output))?;
    let mut length = [0; 5];
    let length = write_length(payload.len(), &mut length).ok_or(no_space(CoseField::Payload))?;
    let protected = write_head(content, signer.public_key().id(), &[NIL], head)?;
    let signature = signer.sign(&[&CONTEXT, protected, &EXTERNAL, length, payload]);
    put(&[&SIGNATURE_START, &signature], end)?;
    Ok(bytes)
}

fn no_space(field: CoseField) -> CoseError {
    CoseError::new(field, 0, CoseErrorKind::NoSpace)
}

/// A message whose shape holds. Nothing is known of its signature yet.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The key that claims to have signed it.
    pub key: KeyId,
    /// What it is about.
    pub content: ContentType,
    /// The payload; none when it is detached.
    pub payload: Option<&'a [u8]>,
    /// The signature.
    pub signature: &'a [u8; SIGNATURE_BYTES],
    /// Bytes of the message.
    pub len: usize,
    /// The protected header in its byte string, as it was signed.
    protected: &'a [u8],
}

impl Message<'_> {
    /// Whether `key` signed this message; `detached` is the payload of a detached one.
    ///
    /// False also when a payload is given for a message that has its own, or none for one that
    /// has not, or when the message names another key.
    #[must_use]
    pub fn verify<V: Verifier + ?Sized>(
        &self,
        verifier: &V,
        key: &PublicKey,
        detached: Option<&[u8]>,
    ) -> bool {
        let payload = match (self.payload, detached) {
            (Some(payload), None) | (None, Some(payload)) => payload,
            _ => return false,
        };
        let mut length = [0; 5];
        let Some(length) = write_length(payload.len(), &mut length) else {
            return false;
        };
        let parts: [&[u8]; 5] = [&CONTEXT, self.protected, &EXTERNAL, length, payload];
        key.id() == self.key && verifier.verify(key, &parts, self.signature)
    }
}

/// Reads the message at the start of `bytes`; others may follow it ([`Message::len`]).
///
/// # Errors
/// Names the first field that is not of the one shape, and its offset.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, CoseError> {
    let mut reader = Reader {
        bytes,
        at: 0,
        error: CoseError::new(CoseField::Tag, 0, CoseErrorKind::Truncated),
    };
    message(&mut reader).ok_or(reader.error)
}

/// Reads a message; where it is not of the one shape, the reader says why.
fn message<'a>(reader: &mut Reader<'a>) -> Option<Message<'a>> {
    reader.expect(CoseField::Tag, &PREFIX)?;
    let start = reader.at;
    let inner = reader.bytes_start(CoseField::Protected)?;
    let header = reader.at;
    reader.expect(CoseField::Protected, &PROTECTED_START)?;
    let text_at = reader.at;
    let text_len = reader.take::<1>(CoseField::ContentType)?;
    let text = reader.slice(CoseField::ContentType, usize::from(text_len[0]))?;
    let content = ContentType::ALL
        .into_iter()
        .find(|content| content.text().as_bytes() == text);
    let Some(content) = content else {
        return reader.fail(CoseField::ContentType, text_at, CoseErrorKind::WrongContent);
    };
    reader.expect(CoseField::KeyId, &KEY_LABEL)?;
    let key = KeyId(*reader.take::<8>(CoseField::KeyId)?);
    if reader.at - header != inner {
        return reader.fail(CoseField::Protected, start, CoseErrorKind::Malformed);
    }
    let protected = reader.bytes.get(start..reader.at).unwrap_or_default();
    reader.expect(CoseField::Unprotected, &UNPROTECTED)?;
    let payload = if reader.bytes.get(reader.at) == Some(&NIL) {
        reader.at += 1;
        None
    } else {
        let len = reader.bytes_start(CoseField::Payload)?;
        Some(reader.slice(CoseField::Payload, len)?)
    };
    reader.expect(CoseField::Signature, &SIGNATURE_START)?;
    let signature = reader.take::<SIGNATURE_BYTES>(CoseField::Signature)?;
    Some(Message {
        key,
        content,
        payload,
        signature,
        len: reader.at,
        protected,
    })
}

/// The payload of the one message that `bytes` are, signed by `key`: how the host checks a frame of
/// a device whose key it knows.
///
/// # Errors
/// Names what is wrong; [`CoseErrorKind::BadSignature`] when all but the signature holds.
pub fn verify_one<'a, V: Verifier + ?Sized>(
    bytes: &'a [u8],
    content: ContentType,
    key: &PublicKey,
    verifier: &V,
) -> Result<&'a [u8], CoseError> {
    let message = parse(bytes)?;
    let start = PREFIX.len() + 2 + PROTECTED_START.len();
    let at_key = start + 1 + message.content.text().len();
    if message.content != content {
        return Err(CoseError::new(
            CoseField::ContentType,
            start,
            CoseErrorKind::WrongContent,
        ));
    }
    if message.len != bytes.len() {
        return Err(CoseError::new(
            CoseField::End,
            message.len,
            CoseErrorKind::Trailing,
        ));
    }
    let payload = message.payload.ok_or(CoseError::new(
        CoseField::Payload,
        at_key + KEY_LABEL.len() + 8 + UNPROTECTED.len(),
        CoseErrorKind::WrongPlace,
    ))?;
    if message.key != key.id() {
        return Err(CoseError::new(
            CoseField::KeyId,
            at_key,
            CoseErrorKind::WrongKey,
        ));
    }
    if !message.verify(verifier, key, None) {
        return Err(CoseError::new(
            CoseField::Signature,
            message.len - SIGNATURE_BYTES,
            CoseErrorKind::BadSignature,
        ));
    }
    Ok(payload)
}

/// Writes a message up to its payload, of which `start` is the length, or nil, and returns the protected header in
/// its byte string.
fn write_head<'a>(
    content: ContentType,
    key: KeyId,
    start: &[u8],
    out: &'a mut [u8],
) -> Result<&'a [u8], CoseError> {
    let text = content.text().as_bytes();
    let inner = PROTECTED_FIXED - 2 + text.len();
    // Both lengths are below 256, which a test checks for every content type.
    let parts: [&[u8]; 9] = [
        &PREFIX,
        &[0x58, inner as u8],
        &PROTECTED_START,
        &[text.len() as u8],
        text,
        &KEY_LABEL,
        &key.0,
        &UNPROTECTED,
        start,
    ];
    put(&parts, out)?;
    Ok(&out[PREFIX.len()..PREFIX.len() + 2 + inner])
}

/// Bytes of the head of a byte string of `len` bytes.
const fn length_bytes(len: usize) -> usize {
    match len {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        _ => 5,
    }
}

/// The head of a byte string of `len` bytes in its shortest form; none beyond 32 bits.
fn write_length(len: usize, out: &mut [u8; 5]) -> Option<&[u8]> {
    let bytes = u32::try_from(len).ok()?.to_be_bytes();
    let size = length_bytes(len);
    match size {
        1 => out[0] = 0x40 | bytes[3],
        2 => out[..2].copy_from_slice(&[0x58, bytes[3]]),
        3 => out[..3].copy_from_slice(&[0x59, bytes[2], bytes[3]]),
        _ => *out = [0x5a, bytes[0], bytes[1], bytes[2], bytes[3]],
    }
    Some(&out[..size])
}

/// Writes parts one after the other, and returns how many bytes they take.
fn put(parts: &[&[u8]], out: &mut [u8]) -> Result<usize, CoseError> {
    let mut at = 0_usize;
    for part in parts {
        let end = at.saturating_add(part.len());
        let Some(place) = out.get_mut(at..end) else {
            return Err(CoseError::new(
                CoseField::Output,
                at,
                CoseErrorKind::NoSpace,
            ));
        };
        place.copy_from_slice(part);
        at = end;
    }
    Ok(at)
}

/// Reads a message. What is wrong stays here, so that only its absence is handed on.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    error: CoseError,
}

impl<'a> Reader<'a> {
    fn fail<T>(&mut self, field: CoseField, offset: usize, kind: CoseErrorKind) -> Option<T> {
        self.error = CoseError::new(field, offset, kind);
        None
    }

    #[inline(never)]
    fn slice(&mut self, field: CoseField, len: usize) -> Option<&'a [u8]> {
        let end = self.at.saturating_add(len);
        let slice = self.bytes.get(self.at..end);
        if slice.is_none() {
            return self.fail(field, self.bytes.len(), CoseErrorKind::Truncated);
        }
        self.at = end;
        slice
    }

    fn take<const N: usize>(&mut self, field: CoseField) -> Option<&'a [u8; N]> {
        self.slice(field, N)?.first_chunk()
    }

    #[inline(never)]
    fn expect(&mut self, field: CoseField, expected: &[u8]) -> Option<()> {
        let at = self.at;
        // Compared before the length, so that wrong bytes are not called truncated.
        let rest = self.bytes.get(at..).unwrap_or_default();
        let differs = rest.iter().zip(expected).position(|(a, b)| a != b);
        if let Some(index) = differs {
            return self.fail(field, at + index, CoseErrorKind::Malformed);
        }
        self.slice(field, expected.len()).map(|_| ())
    }

    /// Reads the head of a byte string and returns its length.
    #[inline(never)]
    fn bytes_start(&mut self, field: CoseField) -> Option<usize> {
        let at = self.at;
        let [first] = *self.take::<1>(field)?;
        let more = match first {
            0x40..=0x57 => 0,
            0x58 => 1,
            0x59 => 2,
            0x5a => 4,
            _ => return self.fail(field, at, CoseErrorKind::Malformed),
        };
        let mut len = u32::from(first & 0x1f);
        if more > 0 {
            let bytes = self.slice(field, more)?;
            len = bytes
                .iter()
                .fold(0, |len, &byte| len << 8 | u32::from(byte));
        }
        // Where `usize` is smaller than the length, the length is beyond any slice.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if self.at - at != length_bytes(len) {
            return self.fail(field, at, CoseErrorKind::NotCanonical);
        }
        Some(len)
    }
}

#[cfg(test)]
mod tests;
