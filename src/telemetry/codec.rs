//! Frames and acknowledgements as bytes: postcard in COSE_Sign1, payload embedded.
//!
//! Nothing is read from a payload before its signature holds, but for [`claimed_device`], which
//! only serves to say who seems to have sent a refused frame.

use super::outbox::{Record, RecordKind, max_body_bytes};
use super::{Ack, Body, Frame, ID_BYTES, Id, before};
use crate::place::{self, Fill, Put};
use crate::topic::is_name;
use crate::trust::cose::{self, ContentType, CoseError};
use crate::trust::{PublicKey, Signer, Verifier};
use core::ops::RangeInclusive;
use serde::Deserialize;

/// Bytes of the longest frame that any receiver takes, signature included: enough for 128 features
/// and 32 outputs at worst.
pub const MAX_FRAME_BYTES: usize = 20 * 1024;
/// Version of the payload of acknowledgements, commands and parts of flight records.
pub const VERSION: u8 = 2;
/// Version of the payload of frames. Those of version 2 are read, too, so that a host can be updated before its
/// boards.
pub const FRAME_VERSION: u8 = 3;
/// First byte of a payload: the version with the top bit set. Payloads of version 1 had none; they
/// began with the length of a name, which is less.
pub(super) const VERSION_BYTE: u8 = version_byte(VERSION);
const FRAME_VERSION_BYTE: u8 = version_byte(FRAME_VERSION);
/// Bytes of the longest payload of an acknowledgement: version, device, epoch and number.
pub const MAX_ACK_PAYLOAD_BYTES: usize = 1 + 1 + ID_BYTES + 5 + 10;
/// Bytes of the longest acknowledgement, signature included.
pub const MAX_ACK_BYTES: usize = ContentType::Ack.embedded_bytes(MAX_ACK_PAYLOAD_BYTES);
/// Bytes that a payload's fields before the body take at most: version, device, epoch, the
/// acknowledged number, boot, two sequence numbers and the time.
const HEAD_BYTES: usize = 1 + 1 + ID_BYTES + 5 + 10 + 5 + 10 + 10 + 10;

const fn version_byte(version: u8) -> u8 {
    0x80 | version
}

/// Bytes that the payload of a frame may take at worst.
#[must_use]
pub const fn max_payload_bytes(features: usize, outputs: usize) -> usize {
    HEAD_BYTES + max_body_bytes(features, outputs)
}

/// Bytes that a signed frame may take at worst.
#[must_use]
pub const fn max_frame_bytes(features: usize, outputs: usize) -> usize {
    ContentType::Frame.embedded_bytes(max_payload_bytes(features, outputs))
}

/// Part of a payload, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// The version.
    Version,
    /// The fleet's name.
    Fleet,
    /// The device's name.
    Device,
    /// The epoch.
    Epoch,
    /// The number through which the device knows its frames to be acknowledged.
    Acknowledged,
    /// The boot.
    Boot,
    /// The first sequence number.
    FirstSequence,
    /// The sequence number.
    Sequence,
    /// The time.
    Time,
    /// The body.
    Body,
    /// Number through which frames are acknowledged.
    Through,
    /// When a command stops to hold.
    Expiry,
    /// What a command asks for.
    Order,
    /// The name of a pull.
    Pull,
    /// Bytes that a flight recorder has.
    Capacity,
    /// Bytes of a flight record.
    Total,
    /// The number of a part.
    Part,
    /// The number of parts.
    Parts,
    /// A part's bytes.
    Bytes,
    /// The bytes after the last field.
    End,
}

/// Why bytes were not taken for a frame or an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than any frame may be.
    TooLong {
        /// Bytes given.
        bytes: u32,
    },
    /// The envelope or its signature.
    Cose(CoseError),
    /// Written in another version of the format.
    Version {
        /// The version that it says.
        found: u8,
        /// The newest that is read.
        reads: u8,
    },
    /// A field of the payload that is cut off, of another version, or too long.
    Malformed {
        /// Which.
        field: Field,
        /// Its offset in the payload.
        offset: u32,
    },
    /// A field that is readable and must not have the value it has.
    Value {
        /// Which.
        field: Field,
        /// Its offset in the payload.
        offset: u32,
    },
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong { bytes } => {
                write!(f, "{bytes} bytes, a frame has at most {MAX_FRAME_BYTES}")
            }
            Self::Cose(CoseError {
                field,
                offset,
                kind,
                ..
            }) => write!(f, "envelope: {field:?} at offset {offset}: {kind:?}"),
            Self::Version { found, reads } => write!(
                f,
                "written in version {found} of the format, this program reads version {reads}: \
                 update the older of the two"
            ),
            Self::Malformed { field, offset } => {
                write!(f, "payload: {field:?} at offset {offset} is not readable")
            }
            Self::Value { field, offset } => {
                write!(
                    f,
                    "payload: {field:?} at offset {offset} has an impossible value"
                )
            }
        }
    }
}

impl core::error::Error for DecodeError {}

/// A buffer was too small, or a frame too large, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSpace;

impl core::fmt::Display for NoSpace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the buffer is too small for the frame")
    }
}

impl core::error::Error for NoSpace {}

/// Signs a frame that waits in the outbox. `out` takes the message of at most [`max_frame_bytes`]; returns its
/// length.
///
/// # Errors
/// [`NoSpace`] when `out` is too small.
pub fn sign_record<S: Signer + ?Sized>(
    device: &Id,
    record: &Record<'_>,
    signer: &S,
    out: &mut [u8],
) -> Result<usize, NoSpace> {
    let signed = cose::sign_in_place(signer, ContentType::Frame, out, |payload| {
        let at = put_head(device, record, payload)?;
        let end = at + record.body.len();
        payload.get_mut(at..end)?.copy_from_slice(record.body);
        Some(end)
    });
    signed.map_err(|_| NoSpace)
}

/// As [`sign_record`], of a record whose body is not in it: the last bytes of `out`, so many, are.
pub(super) fn sign_last<S: Signer + ?Sized>(
    device: &Id,
    record: &Record<'_>,
    body: usize,
    signer: &S,
    out: &mut [u8],
) -> Result<usize, NoSpace> {
    let signed = cose::sign_in_place(signer, ContentType::Frame, out, |payload| {
        let from = payload.len().checked_sub(body)?;
        let (room, _) = payload.split_at_mut(from);
        let at = put_head(device, record, room)?;
        payload.copy_within(from.., at);
        Some(at + body)
    });
    signed.map_err(|_| NoSpace)
}

/// Writes a payload's fields before the body, and returns how many bytes they are.
fn put_head(device: &Id, record: &Record<'_>, payload: &mut [u8]) -> Option<usize> {
    let head: [&dyn Put; 8] = [
        &FRAME_VERSION_BYTE,
        device,
        &record.epoch,
        &record.acknowledged,
        &record.boot,
        &record.first_sequence,
        &record.sequence,
        &record.time_ms,
    ];
    place::put(&head, payload).ok()
}

/// Signs a frame; buffer and result as in [`sign_record`].
///
/// # Errors
/// [`NoSpace`] when the buffer is too small.
pub fn sign_frame<S: Signer + ?Sized, const F: usize, const C: usize>(
    frame: &Frame<F, C>,
    signer: &S,
    out: &mut [u8],
) -> Result<usize, NoSpace> {
    let signed = cose::sign_in_place(signer, ContentType::Frame, out, |payload| {
        let payload = encode_frame(frame, payload).ok()?;
        Some(payload.len())
    });
    signed.map_err(|_| NoSpace)
}

/// Writes the payload of a frame to `space`, at most [`max_payload_bytes`].
///
/// # Errors
/// [`NoSpace`] when it is too small.
pub fn encode_frame<'a, const F: usize, const C: usize>(
    frame: &Frame<F, C>,
    space: &'a mut [u8],
) -> Result<&'a [u8], NoSpace> {
    let payload = postcard::to_slice(&(FRAME_VERSION_BYTE, frame), space).map_err(|_| NoSpace)?;
    Ok(payload)
}

/// The frame that `bytes` are, signed by the device key `key`.
///
/// Whether the device that it names is the key's, and whether it was seen before, is for the caller
/// to check.
///
/// # Errors
/// [`DecodeError`] names what is wrong and where.
pub fn verify_frame<V: Verifier + ?Sized, const F: usize, const C: usize>(
    bytes: &[u8],
    key: &PublicKey,
    verifier: &V,
) -> Result<Frame<F, C>, DecodeError> {
    bound(bytes)?;
    let payload = cose::verify_one(bytes, ContentType::Frame, key, verifier);
    decode_frame(payload.map_err(DecodeError::Cose)?)
}

/// The device that the payload of an unverified frame names: for a log entry, nothing else.
#[must_use]
pub fn claimed_device(bytes: &[u8]) -> Option<Id> {
    bound(bytes).ok()?;
    let payload = cose::parse(bytes).ok()?.payload?;
    let mut reader = Reader::new(payload);
    reader.frame_version().ok()?;
    reader.device().ok()
}

/// Signs an acknowledgement with the collector's key and returns the message's length.
///
/// # Errors
/// [`NoSpace`] when `out` has less than [`MAX_ACK_BYTES`].
pub fn sign_ack<S: Signer + ?Sized>(
    ack: &Ack,
    signer: &S,
    out: &mut [u8],
) -> Result<usize, NoSpace> {
    let mut payload = [0; MAX_ACK_PAYLOAD_BYTES];
    let payload = encode_ack(ack, &mut payload)?;
    cose::sign_embedded(signer, ContentType::Ack, payload, out).map_err(|_| NoSpace)
}

/// Writes the payload of an acknowledgement to `space`, for more than one key to sign.
///
/// # Errors
/// [`NoSpace`] when `space` has less than [`MAX_ACK_PAYLOAD_BYTES`].
pub fn encode_ack<'a>(ack: &Ack, space: &'a mut [u8]) -> Result<&'a [u8], NoSpace> {
    let payload = postcard::to_slice(&(VERSION_BYTE, ack), space).map_err(|_| NoSpace)?;
    Ok(payload)
}

/// Reads the payload of an acknowledgement whose signature was verified against the trust root.
///
/// # Errors
/// [`DecodeError`] names what is wrong and where.
pub fn decode_ack(payload: &[u8]) -> Result<Ack, DecodeError> {
    let mut reader = Reader::new(payload);
    reader.version()?;
    let ack = Ack {
        device: reader.device()?,
        epoch: reader.epoch()?,
        through: reader.read(Field::Through, 0)?,
    };
    reader.end()?;
    Ok(ack)
}

/// Reads the payload of a frame whose signature was verified.
///
/// # Errors
/// [`DecodeError`] names what is wrong and where.
pub fn decode_frame<const F: usize, const C: usize>(
    payload: &[u8],
) -> Result<Frame<F, C>, DecodeError> {
    let mut reader = Reader::new(payload);
    let version = reader.frame_version()?;
    let device = reader.device()?;
    let epoch = reader.epoch()?;
    let acknowledged_at = reader.at();
    let acknowledged = reader.read(Field::Acknowledged, 0)?;
    let boot = reader.read(Field::Boot, 0)?;
    let first_at = reader.at();
    let first_sequence = reader.read(Field::FirstSequence, 0)?;
    let sequence_at = reader.at();
    let sequence = reader.read(Field::Sequence, 0)?;
    let time_ms = reader.read(Field::Time, 0)?;
    let body = reader.body(version)?;
    reader.end()?;
    // Numbers count from 1, and only a summary can stand for more than one frame.
    let merged = first_sequence < sequence;
    let may_merge = RecordKind::of_body(&body) == RecordKind::Summary;
    if first_sequence == 0 || first_sequence > sequence || merged && !may_merge {
        return Err(DecodeError::Value {
            field: Field::FirstSequence,
            offset: first_at,
        });
    }
    // A frame that is acknowledged is not sent again.
    if acknowledged >= sequence {
        return Err(DecodeError::Value {
            field: Field::Acknowledged,
            offset: acknowledged_at,
        });
    }
    // The host's database counts in signed 64-bit numbers, and no device gets that far.
    if sequence >= i64::MAX as u64 {
        return Err(DecodeError::Value {
            field: Field::Sequence,
            offset: sequence_at,
        });
    }
    Ok(Frame {
        device,
        epoch,
        acknowledged,
        boot,
        first_sequence,
        sequence,
        time_ms,
        body,
    })
}

pub(super) fn bound(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(DecodeError::TooLong {
            bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        });
    }
    Ok(())
}

/// Reads postcard field by field, so that an error can say where.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self {
            rest: payload,
            len: payload.len(),
        }
    }

    pub(super) fn at(&self) -> u32 {
        (self.len - self.rest.len()) as u32
    }

    pub(super) fn take<T: Deserialize<'a>>(&mut self, field: Field) -> Result<T, DecodeError> {
        let offset = self.at();
        let (value, rest) = postcard::take_from_bytes(self.rest)
            .map_err(|_| DecodeError::Malformed { field, offset })?;
        self.rest = rest;
        Ok(value)
    }

    /// The next field, read over `blank`.
    pub(super) fn read<T: Fill>(&mut self, field: Field, blank: T) -> Result<T, DecodeError> {
        let mut value = blank;
        self.fill(field, &mut value)?;
        Ok(value)
    }

    #[inline(never)]
    fn fill(&mut self, field: Field, place: &mut dyn Fill) -> Result<(), DecodeError> {
        let offset = self.at();
        self.rest =
            place::fill(place, self.rest).map_err(|_| DecodeError::Malformed { field, offset })?;
        Ok(())
    }

    /// The version of what is no frame.
    pub(super) fn version(&mut self) -> Result<(), DecodeError> {
        self.one_of(VERSION..=VERSION).map(|_| ())
    }

    fn frame_version(&mut self) -> Result<u8, DecodeError> {
        self.one_of(before::VERSION..=FRAME_VERSION)
    }

    fn one_of(&mut self, versions: RangeInclusive<u8>) -> Result<u8, DecodeError> {
        let byte = self.read(Field::Version, 0u8)?;
        // The first had no such byte.
        let found = byte.checked_sub(0x80).unwrap_or(1);
        match versions.contains(&found) {
            true => Ok(found),
            false => Err(DecodeError::Version {
                found,
                reads: *versions.end(),
            }),
        }
    }

    /// The body, of a frame of this version.
    fn body<const F: usize, const C: usize>(
        &mut self,
        version: u8,
    ) -> Result<Body<F, C>, DecodeError> {
        if version == FRAME_VERSION {
            return self.take(Field::Body);
        }
        let mut space = [0; MAX_FRAME_BYTES];
        let mut whole = Reader::new(before::complete(self.rest, &mut space));
        let body = whole.take(Field::Body);
        let body = body.map_err(|_| DecodeError::Malformed {
            field: Field::Body,
            offset: self.at(),
        })?;
        let left = self.rest.len().saturating_sub(whole.rest.len());
        self.rest = self.rest.get(left..).unwrap_or_default();
        Ok(body)
    }

    fn epoch(&mut self) -> Result<u32, DecodeError> {
        let offset = self.at();
        let epoch = self.read(Field::Epoch, 0)?;
        if epoch == 0 {
            return Err(DecodeError::Value {
                field: Field::Epoch,
                offset,
            });
        }
        Ok(epoch)
    }

    pub(super) fn device(&mut self) -> Result<Id, DecodeError> {
        self.name(Field::Device)
    }

    pub(super) fn name(&mut self, field: Field) -> Result<Id, DecodeError> {
        let offset = self.at();
        let name = self.read(field, Id::new())?;
        if !is_name(&name) {
            return Err(DecodeError::Value { field, offset });
        }
        Ok(name)
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Malformed {
            field: Field::End,
            offset: self.at(),
        })
    }
}

#[cfg(test)]
mod tests;
