//! Pulling a flight record: the host's command, and the signed parts that answer it.
//!
//! A flight record may be larger than a frame, and is worth nothing to the outbox: it is made when it is
//! asked for, and asked for again where a part got lost. So it travels in parts of its own kind, each
//! signed by the device's key and bound to the pull by the number that the host drew. Byte by byte in
//! `docs/WIRE.md`.

use super::codec::{DecodeError, Field, MAX_FRAME_BYTES, NoSpace, Reader, VERSION_BYTE};
use super::{ID_BYTES, Id};
use crate::place::{self, Put};
use crate::recorder::{MAX_BYTES, Snapshot};
use crate::trust::cose::{self, ContentType};
use crate::trust::{PublicKey, Signer, Verifier};
use serde::{Deserialize, Serialize};

/// What the host drew to name a pull.
pub type PullId = [u8; 16];
/// Most parts of a flight record.
pub const MAX_PARTS: u16 = 4096;
/// Most bytes of a flight record in one part.
pub const MAX_PART_BYTES: usize = 16 * 1024;
/// Bytes of the longest payload of a command: version, two names, boot, number, expiry and order.
pub const MAX_COMMAND_PAYLOAD_BYTES: usize = 1 + 2 * (1 + ID_BYTES) + 5 + 10 + 10 + 1 + 16;
/// Bytes of a part's payload before the bytes of the record, at most: version, device, boot, pull, time,
/// capacity, total, part, parts, and their number.
const HEAD_BYTES: usize = 1 + 1 + ID_BYTES + 5 + 16 + 10 + 5 + 5 + 3 + 3 + 5;
/// Bytes that the signature adds to a part's payload, at most.
const SEAL_BYTES: usize = ContentType::Record.embedded_bytes(MAX_FRAME_BYTES) - MAX_FRAME_BYTES;
const _: () = assert!(MAX_PART_BYTES + HEAD_BYTES + SEAL_BYTES <= MAX_FRAME_BYTES);

/// What the host wants of one board, signed by the collector role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The board's fleet.
    pub fleet: Id,
    /// The board.
    pub device: Id,
    /// The boot in which it holds: a board that restarted since has another.
    pub boot: u32,
    /// For boards without a clock: greater than that of every command before in this boot.
    pub sequence: u64,
    /// When it stops to hold, in seconds since 1970; boards without a clock can't tell.
    pub expires_s: u64,
    /// What to do.
    pub order: Order,
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Order {
    /// Send the flight record.
    PullRecord {
        /// The pull's name, which all parts of the answer repeat.
        pull: PullId,
    },
}

place::choices! {
    Order {
        0 PullRecord { pull: PullId }
    }
}

/// One part of a flight record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// The board.
    pub device: Id,
    /// The boot in which the records were made.
    pub boot: u32,
    /// The pull that it answers.
    pub pull: PullId,
    /// When the record was taken, by the board's clock.
    pub time_ms: u64,
    /// Bytes that the board has room for; 0 where the recorder is off.
    pub capacity: u32,
    /// Bytes of the whole record.
    pub total: u32,
    /// Number of this part, from 0.
    pub part: u16,
    /// How many parts there are.
    pub parts: u16,
    /// Its bytes of the record; those of all parts in order are the whole.
    pub bytes: &'a [u8],
}

/// Writes the payload of a command to `space`, for the collector's keys to sign.
///
/// # Errors
/// [`NoSpace`] when `space` has less than [`MAX_COMMAND_PAYLOAD_BYTES`].
pub fn encode_command<'a>(command: &Command, space: &'a mut [u8]) -> Result<&'a [u8], NoSpace> {
    let payload = postcard::to_slice(&(VERSION_BYTE, command), space).map_err(|_| NoSpace)?;
    Ok(payload)
}

/// Reads the payload of a command whose signature was verified against the trust root.
///
/// # Errors
/// [`DecodeError`] names what is wrong and where.
pub fn decode_command(payload: &[u8]) -> Result<Command, DecodeError> {
    let mut reader = Reader::new(payload);
    reader.version()?;
    let pull = PullId::default();
    let nothing = Order::PullRecord { pull };
    let command = Command {
        fleet: reader.name(Field::Fleet)?,
        device: reader.device()?,
        boot: reader.read(Field::Boot, 0)?,
        sequence: reader.read(Field::Sequence, 0)?,
        expires_s: reader.read(Field::Expiry, 0)?,
        order: reader.read(Field::Order, nothing)?,
    };
    reader.end()?;
    Ok(command)
}

/// The part that `bytes` are, signed by the device key `key`.
///
/// Whether the device that it names is the key's, and which pull it answers, is for the caller to check.
///
/// # Errors
/// [`DecodeError`] names what is wrong and where.
pub fn verify_part<'a, V: Verifier + ?Sized>(
    bytes: &'a [u8],
    key: &PublicKey,
    verifier: &V,
) -> Result<Part<'a>, DecodeError> {
    super::codec::bound(bytes)?;
    let payload = cose::verify_one(bytes, ContentType::Record, key, verifier);
    decode_part(payload.map_err(DecodeError::Cose)?)
}

/// Reads the payload of a part whose signature was verified.
///
/// # Errors
/// [`DecodeError`] names what is wrong and where.
pub fn decode_part(payload: &[u8]) -> Result<Part<'_>, DecodeError> {
    let mut reader = Reader::new(payload);
    reader.version()?;
    let device = reader.device()?;
    let boot = reader.take(Field::Boot)?;
    let pull = reader.take(Field::Pull)?;
    let time_ms = reader.take(Field::Time)?;
    let capacity_at = reader.at();
    let capacity: u32 = reader.take(Field::Capacity)?;
    let total_at = reader.at();
    let total: u32 = reader.take(Field::Total)?;
    let part_at = reader.at();
    let part: u16 = reader.take(Field::Part)?;
    let parts_at = reader.at();
    let parts: u16 = reader.take(Field::Parts)?;
    let bytes_at = reader.at();
    let bytes: &[u8] = reader.take(Field::Bytes)?;
    reader.end()?;
    let whole = bytes.len() == total as usize;
    let right = [
        (capacity as usize <= MAX_BYTES, Field::Capacity, capacity_at),
        (total <= capacity, Field::Total, total_at),
        (part < parts, Field::Part, part_at),
        (parts <= MAX_PARTS, Field::Parts, parts_at),
        // A part is some of the whole, and a lone one all of it: that alone may be nothing.
        (
            bytes.len() <= MAX_PART_BYTES
                && (if parts == 1 {
                    whole
                } else {
                    !bytes.is_empty() && !whole && bytes.len() <= total as usize
                }),
            Field::Bytes,
            bytes_at,
        ),
    ];
    if let Some(&(_, field, offset)) = right.iter().find(|(right, ..)| !right) {
        return Err(DecodeError::Value { field, offset });
    }
    Ok(Part {
        device,
        boot,
        pull,
        time_ms,
        capacity,
        total,
        part,
        parts,
        bytes,
    })
}

/// A flight record on its way, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pull {
    id: PullId,
    boot: u32,
    time_ms: u64,
    capacity: u32,
    total: u32,
    /// Bytes of each part but the last.
    step: u32,
    /// The part to be sent next.
    next: u16,
    parts: u16,
}

impl Pull {
    /// A pull that begins: `snapshot` must stay as it is until it is done. `room` is the length of the buffer that
    /// the parts will be made in.
    ///
    /// # Errors
    /// [`NoSpace`] when it is so short that it would take more than [`MAX_PARTS`].
    pub fn new(
        id: PullId,
        boot: u32,
        time_ms: u64,
        snapshot: &(impl Snapshot + ?Sized),
        room: usize,
    ) -> Result<Self, NoSpace> {
        let step = room.saturating_sub(SEAL_BYTES + HEAD_BYTES);
        let step = step.min(MAX_PART_BYTES);
        // Neither is more than the recorder's largest size.
        let (capacity, total) = (snapshot.capacity() as u32, snapshot.len() as u32);
        if step == 0 {
            return Err(NoSpace);
        }
        let parts = total.div_ceil(step as u32).max(1);
        let parts = u16::try_from(parts).ok().filter(|&n| n <= MAX_PARTS);
        Ok(Self {
            id,
            boot,
            time_ms,
            capacity,
            total,
            step: step as u32,
            next: 0,
            parts: parts.ok_or(NoSpace)?,
        })
    }

    /// The pull that it answers.
    #[must_use]
    pub fn id(&self) -> PullId {
        self.id
    }

    /// Whether every part was sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next >= self.parts
    }

    /// The next part was sent.
    pub fn sent(&mut self) {
        self.next = self.next.saturating_add(1);
    }

    /// The part sent last was not taken, and is the next again.
    pub fn take_back(&mut self) {
        self.next = self.next.saturating_sub(1);
    }

    /// Signs the next part and returns the message's length. `out` is as long as [`Pull::new`] was told, and
    /// `snapshot` is what it saw.
    ///
    /// # Errors
    /// [`NoSpace`] when `out` is shorter.
    pub fn sign_next<S: Signer + ?Sized>(
        &self,
        device: &Id,
        snapshot: &(impl Snapshot + ?Sized),
        signer: &S,
        out: &mut [u8],
    ) -> Result<usize, NoSpace> {
        let from = (u32::from(self.next) * self.step).min(self.total);
        let len = self.step.min(self.total - from);
        // A part's payload before the bytes.
        let head: [&dyn Put; 10] = [
            &VERSION_BYTE,
            device,
            &self.boot,
            &self.id,
            &self.time_ms,
            &self.capacity,
            &self.total,
            &self.next,
            &self.parts,
            &len,
        ];
        let signed = cose::sign_in_place(signer, ContentType::Record, out, |payload| {
            let at = place::put(&head, payload).ok()?;
            let end = at + len as usize;
            snapshot.read(from as usize, payload.get_mut(at..end)?);
            Some(end)
        });
        signed.map_err(|_| NoSpace)
    }
}

#[cfg(test)]
mod tests;
