//! The journal: the board's whole state as numbered snapshots in two sectors used in turn.
//!
//! A snapshot is appended to erased flash and read back. Opening takes the newest one whose
//! CRC-32 holds and skips everything else: what a cut of power left behind is either a whole
//! snapshot or no snapshot. A sector is erased only while the other one holds the newest snapshot.
//! Byte by byte in `docs/SLOTS.md`.

mod fields;

use super::{Error, Slot, flash};
use crate::place;
use crate::telemetry::{Reason, ReleaseId, SlotState, Text};
use crate::trust::Digest32;
use crate::trust::root::Root;
use crc::{CRC_32_ISO_HDLC, Crc, NoTable};
use embedded_storage::nor_flash::NorFlash;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Most bytes of a record; a test holds the largest possible state against it.
pub const RECORD_BYTES_MAX: usize = 2048;
/// Records begin at multiples of this and are padded to it; covers every word size up to 32 bytes.
pub const RECORD_ALIGN: usize = 32;
/// Most rejections remembered; the oldest goes first.
pub const MAX_REJECTED: usize = 4;

const MAGIC: [u8; 4] = *b"EWJ1";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 12;
const CRC_BYTES: usize = 4;
/// Reads of a record that must agree before the only other copy of the state may be erased.
const STABLE_READS: usize = 4;
/// How far ahead of the newest record a torn one's number is believed.
const TORN_AHEAD: u32 = 1024;
/// Without its table, which is as long as a record.
static CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);

/// First eight bytes of the SHA-256 of a rollout's id.
pub type RolloutTag = [u8; 8];

/// What the journal knows of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// Where it is in its life; never [`SlotState::Revoked`], which the root decides at every start.
    pub state: SlotState,
    /// Digest of the release (header, manifest and chunk table).
    pub digest: Digest32,
    /// SHA-256 of all `total_bytes`, known from staging on; what a boot checks.
    pub content: Digest32,
    /// Its release counter.
    pub counter: u32,
    /// Its version, for people.
    pub version: Text,
    /// Bytes before the first data chunk.
    pub head_bytes: u32,
    /// Bytes in all.
    pub total_bytes: u32,
    /// The rollout that brought it.
    pub rollout: RolloutTag,
    /// Boots that its trial has used, this one included; before that, those that its self-test or
    /// shadow took.
    pub attempts: u8,
    /// Boots that its trial or shadow may use; 0 before its policy is known.
    pub max_boots: u8,
}

impl SlotRecord {
    /// A slot that holds nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            state: SlotState::Empty,
            digest: [0; 32],
            content: [0; 32],
            counter: 0,
            version: Text::new(),
            head_bytes: 0,
            total_bytes: 0,
            rollout: [0; 8],
            attempts: 0,
            max_boots: 0,
        }
    }
}

/// A release that this board refused or reverted, and the rollout that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The release.
    pub release: ReleaseId,
    /// The rollout.
    pub rollout: RolloutTag,
    /// Why.
    pub reason: Reason,
}

/// Everything a board must still know after a cut of power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalState {
    /// Boots, counted from 1 by `begin_boot`.
    pub boot: u32,
    /// The trust root.
    pub root: Root,
    /// Least release counter that may be received; never falls.
    pub floor: u32,
    /// Sequence number of the desired state last accepted; never falls.
    pub desired_sequence: u64,
    /// SHA-256 of that desired state's payload, so that a second one of the same number is seen.
    pub desired_digest: Digest32,
    /// The two slots.
    pub slots: [SlotRecord; 2],
    /// Index of the slot that boots when no trial is under way.
    pub confirmed: Option<u8>,
    /// Releases not to be tried again under the same rollout, oldest first.
    pub rejected: Vec<Rejection, MAX_REJECTED>,
    /// The last release that failed after it was received or was refused, and why.
    pub last_failure: Option<(ReleaseId, Reason)>,
}

impl JournalState {
    /// The state of a board that was just provisioned.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self {
            boot: 0,
            root,
            floor: 0,
            desired_sequence: 0,
            desired_digest: [0; 32],
            slots: [SlotRecord::empty(), SlotRecord::empty()],
            confirmed: None,
            rejected: Vec::new(),
            last_failure: None,
        }
    }

    /// A place for a state.
    pub(super) fn blank() -> Self {
        Self::new(Root::empty())
    }
}

/// A field of a record's payload, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StateField {
    /// How many boots.
    Boot,
    /// The trust root.
    Root,
    /// The least release counter.
    Floor,
    /// The number of the desired state.
    DesiredSequence,
    /// Its digest.
    DesiredDigest,
    /// What is known of a slot.
    Slot(Slot),
    /// The slot that boots.
    Confirmed,
    /// The rejected releases.
    Rejected,
    /// The last failure.
    LastFailure,
    /// What follows the last field: nothing but zeros, from where the length says.
    End,
}

/// Why bytes are not a journal record. Offsets count from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RecordError {
    /// No record begins here (offset 0).
    Magic,
    /// The length at offset 4, given here, is beyond the bytes or the greatest record.
    Length(u16),
    /// The CRC-32 does not hold; it ends at this offset.
    Crc(u32),
    /// The format version at offset 6, given here, is unknown.
    Version(u8),
    /// A field of the payload is cut off, or no value of its kind.
    Payload {
        /// Which.
        field: StateField,
        /// Where it begins in the record.
        offset: u32,
    },
    /// The state does not fit into the buffer.
    Full,
}

/// Bytes that a record with `payload` bytes takes.
fn record_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload + CRC_BYTES).next_multiple_of(RECORD_ALIGN)
}

/// Writes a record into `out` and returns its length, a multiple of [`RECORD_ALIGN`].
///
/// # Errors
/// [`RecordError::Full`] when `out` is too small; [`RECORD_BYTES_MAX`] bytes always suffice.
#[inline(never)]
pub fn encode_record(
    sequence: u32,
    state: &JournalState,
    out: &mut [u8],
) -> Result<usize, RecordError> {
    let body = out.get_mut(HEADER_BYTES..).ok_or(RecordError::Full)?;
    let payload = place::put(&[state], body).map_err(|_| RecordError::Full)?;
    let total = record_bytes(payload);
    let length = u16::try_from(payload).map_err(|_| RecordError::Full)?;
    let record = out.get_mut(..total).ok_or(RecordError::Full)?;
    record[..4].copy_from_slice(&MAGIC);
    record[4..6].copy_from_slice(&length.to_le_bytes());
    record[6] = FORMAT;
    record[7] = 0;
    record[8..12].copy_from_slice(&sequence.to_le_bytes());
    record[HEADER_BYTES + payload..].fill(0);
    let crc = CRC.checksum(&record[..total - CRC_BYTES]);
    record[total - CRC_BYTES..].copy_from_slice(&crc.to_le_bytes());
    Ok(total)
}

/// Length of the record that begins with `header`, or why none does.
fn peek(header: &[u8; HEADER_BYTES]) -> Result<usize, RecordError> {
    if header[..4] != MAGIC {
        return Err(RecordError::Magic);
    }
    let length = u16::from_le_bytes([header[4], header[5]]);
    let total = record_bytes(usize::from(length));
    if total > RECORD_BYTES_MAX {
        return Err(RecordError::Length(length));
    }
    Ok(total)
}

/// Checks the CRC of the record at the start of `bytes`; returns its sequence and length.
fn check(bytes: &[u8]) -> Result<(u32, usize), RecordError> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(RecordError::Magic)?;
    let total = peek(header)?;
    let length = u16::from_le_bytes([header[4], header[5]]);
    let record = bytes.get(..total).ok_or(RecordError::Length(length))?;
    let (covered, crc) = record
        .split_last_chunk::<CRC_BYTES>()
        .ok_or(RecordError::Length(length))?;
    if CRC.checksum(covered) != u32::from_le_bytes(*crc) {
        return Err(RecordError::Crc(total as u32));
    }
    let sequence = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    Ok((sequence, total))
}

/// Reads the record at the start of `bytes`: its sequence, its state and its length.
///
/// # Errors
/// [`RecordError`] says which field does not hold.
pub fn decode_record(bytes: &[u8]) -> Result<(u32, JournalState, usize), RecordError> {
    let mut state = JournalState::blank();
    let (sequence, total) = check(bytes)?;
    decode_state(&mut state, bytes, total)?;
    Ok((sequence, state, total))
}

/// Reads the state in the record of `total` bytes at the start of `bytes`, which [`check`] found whole.
fn decode_state(state: &mut JournalState, bytes: &[u8], total: usize) -> Result<(), RecordError> {
    // The CRC holds, so what follows was written so: refuse it rather than skip to an older state.
    if bytes[6] != FORMAT || bytes[7] != 0 {
        return Err(RecordError::Version(bytes[6]));
    }
    let length = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
    let record = bytes.get(..total - CRC_BYTES).unwrap_or_default();
    let at = fields::read(state, record, HEADER_BYTES)?;
    let rest = record.get(at..).unwrap_or_default();
    if at != HEADER_BYTES + length || rest.iter().any(|&byte| byte != 0) {
        return Err(fields::fault(StateField::End, at));
    }
    Ok(())
}

/// Where the next record goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Index of the sector that holds the newest record.
    sector: usize,
    /// Sequence number of the newest record.
    sequence: u32,
    /// Offset of the newest record in its sector.
    newest: u32,
    /// Bytes of the newest record.
    newest_bytes: usize,
    /// Valid records in the sector, the newest included.
    records: u32,
    /// End of the newest record in the sector.
    tail: u32,
    /// Whether everything after `tail` is erased for sure.
    clean: bool,
}

impl Place {
    /// A sector of which nothing is known yet.
    fn start_of(sector: usize) -> Self {
        Self {
            sector,
            sequence: 0,
            newest: 0,
            newest_bytes: 0,
            records: 0,
            tail: 0,
            clean: false,
        }
    }
}

/// The two journal sectors of a flash.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    sectors: [u32; 2],
    sector_bytes: u32,
    sequence: u32,
    place: Place,
    /// Whether the other sector holds a valid record too.
    other_valid: bool,
}

/// What one sector holds.
struct Scan {
    /// The number of its newest record.
    newest: Option<u32>,
    place: Place,
    blank: bool,
    /// Greatest sequence number in the header of a record that does not hold.
    torn: u32,
    /// Where the first record that does not hold begins in the flash, and what is wrong with it; the
    /// sector's start where nothing looks like a record.
    fault: (u32, RecordError),
}

/// Something begins at an offset: a record, or what a cut left of one.
enum Found {
    Nothing,
    Torn { sequence: u32, why: RecordError },
    Record { sequence: u32, total: usize },
}

impl Journal {
    /// Reads both sectors, and the newest state to `state`; after an error that is anything.
    ///
    /// # Errors
    /// [`Error::Unprovisioned`] when both sectors are blank, [`Error::Unreadable`] when they are
    /// not and no record holds, [`Error::Journal`] for a record of an unknown version.
    pub(super) fn open<S: NorFlash>(
        flash: &mut S,
        sectors: [u32; 2],
        sector_bytes: u32,
        state: &mut JournalState,
    ) -> Result<Self, Error> {
        let mut of_b = JournalState::blank();
        let a = scan(flash, sectors, sector_bytes, 0, state)?;
        let b = scan(flash, sectors, sector_bytes, 1, &mut of_b)?;
        let blank = a.blank && b.blank;
        let other_valid = a.newest.is_some() && b.newest.is_some();
        let (sequence, place) = match (a.newest, b.newest) {
            (Some(in_a), in_b) if in_b.is_none_or(|in_b| in_b <= in_a) => (in_a, a.place),
            (_, Some(in_b)) => {
                *state = of_b;
                (in_b, b.place)
            }
            _ if blank => return Err(Error::Unprovisioned),
            _ => {
                let (offset, why) = if a.blank { b.fault } else { a.fault };
                return Err(Error::Unreadable { offset, why });
            }
        };
        // A torn record may hold at one boot and not at the next; numbers continue after it, so
        // that it is never taken for what was written in its stead.
        let torn = a.torn.max(b.torn);
        let near = torn.checked_sub(sequence).is_some_and(|n| n <= TORN_AHEAD);
        Ok(Self {
            sectors,
            sector_bytes,
            sequence: if near { torn } else { sequence },
            place,
            other_valid,
        })
    }

    /// A journal on blank sectors, whose first record [`Journal::append`] writes.
    pub(super) fn fresh(sectors: [u32; 2], sector_bytes: u32) -> Self {
        let place = Place::start_of(1);
        Self {
            sectors,
            sector_bytes,
            sequence: 0,
            place,
            other_valid: false,
        }
    }

    /// Sequence number of the newest record.
    pub(super) fn newest_sequence(&self) -> u32 {
        self.place.sequence
    }

    /// Appends `state` as the newest record and reads it back.
    ///
    /// # Errors
    /// [`Error::Flash`] when the flash fails, [`Error::Worn`] when what was written does not read
    /// back in either sector. The state before stays the newest one, or the new one becomes it,
    /// but nothing else.
    #[inline(never)]
    pub(super) fn append<S: NorFlash>(
        &mut self,
        flash: &mut S,
        state: &JournalState,
    ) -> Result<(), Error> {
        let mut buffer = [0; RECORD_BYTES_MAX];
        // Counted up before the write, so that a record which failed to read back and yet holds
        // at the next boot is older than what is written next.
        let sequence = self.sequence.checked_add(1).ok_or(Error::Worn)?;
        let total = self.encode(sequence, state, &mut buffer)?;
        let record = &buffer[..total];
        self.sequence = sequence;
        let room = self.sector_bytes as usize - self.place.tail as usize >= total;
        if self.place.clean && room {
            self.place.clean = false;
            let at = self.place.tail;
            // Neither a failed write nor a wrong one is the end: cells that a cut left half written
            // may read as erased, and refuse.
            if self.write(flash, self.place.sector, at, record) == Ok(true) {
                self.place.sequence = sequence;
                self.place.newest = at;
                self.place.records += 1;
                self.place.newest_bytes = total;
                self.place.tail = at + total as u32;
                self.place.clean = true;
                return Ok(());
            }
        }
        self.place.clean = false;
        let target = self.erasable(flash, &mut buffer)?;
        // Looking used the buffer.
        let total = self.encode(sequence, state, &mut buffer)?;
        let record = &buffer[..total];
        let start = self.sectors[target];
        flash::erase(flash, start, start + self.sector_bytes)?;
        if !self.write(flash, target, 0, record)? {
            return Err(Error::Worn);
        }
        self.other_valid = self.place.records > 0 && target != self.place.sector;
        self.place = Place {
            sector: target,
            sequence,
            newest: 0,
            newest_bytes: total,
            records: 1,
            tail: total as u32,
            clean: true,
        };
        Ok(())
    }

    /// Makes a record of `state` and returns its length.
    fn encode(
        &self,
        sequence: u32,
        state: &JournalState,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        encode_record(sequence, state, buffer).map_err(|why| {
            let offset = self.sectors[self.place.sector] + self.place.tail;
            Error::Journal { offset, why }
        })
    }

    /// The sector that may be erased: the one without the newest record.
    ///
    /// Except when a cut left the newest record so that it reads right only now and then: where it
    /// is alone in its sector, the other sector's record is the last that surely holds, and it is
    /// also what the board last acted on, since each boot writes a record before it acts.
    fn erasable<S: NorFlash>(
        &self,
        flash: &mut S,
        buffer: &mut [u8; RECORD_BYTES_MAX],
    ) -> Result<usize, Error> {
        let other = 1 - self.place.sector;
        if self.place.records != 1 || !self.other_valid {
            return Ok(other);
        }
        let record = &mut buffer[..self.place.newest_bytes];
        let at = self.sectors[self.place.sector] + self.place.newest;
        for _ in 0..STABLE_READS {
            flash::read(flash, at, record)?;
            if check(record).is_err() {
                return Ok(self.place.sector);
            }
        }
        Ok(other)
    }

    /// Writes a record and says whether it reads back.
    fn write<S: NorFlash>(
        &self,
        flash: &mut S,
        sector: usize,
        at: u32,
        record: &[u8],
    ) -> Result<bool, Error> {
        let offset = self.sectors[sector] + at;
        flash::write(flash, offset, record)?;
        flash::equals(flash, offset, record)
    }
}

/// Reads one sector from its start, stepping over what is no record, and the state of its newest record
/// to `state`.
#[inline(never)]
fn scan<S: NorFlash>(
    flash: &mut S,
    sectors: [u32; 2],
    sector_bytes: u32,
    sector: usize,
    state: &mut JournalState,
) -> Result<Scan, Error> {
    let mut buffer = [0; RECORD_BYTES_MAX];
    let base = sectors[sector];
    let mut found = Scan {
        newest: None,
        place: Place::start_of(sector),
        blank: false,
        torn: 0,
        fault: (base, RecordError::Magic),
    };
    let mut at = 0;
    while at + RECORD_ALIGN as u32 <= sector_bytes {
        let left = (sector_bytes - at) as usize;
        let step = match read_record(flash, base + at, left, &mut buffer)? {
            Found::Nothing => RECORD_ALIGN,
            Found::Torn { sequence, why } => {
                found.torn = found.torn.max(sequence);
                if found.fault.1 == RecordError::Magic {
                    found.fault = (base + at, why);
                }
                RECORD_ALIGN
            }
            Found::Record { sequence, total } => {
                found.place.records += 1;
                if found.newest.is_none_or(|seen| seen < sequence) {
                    let offset = base + at;
                    decode_state(state, &buffer[..total], total)
                        .map_err(|why| Error::Journal { offset, why })?;
                    found.newest = Some(sequence);
                    found.place.sequence = sequence;
                    found.place.newest = at;
                    found.place.newest_bytes = total;
                }
                found.place.tail = at + total as u32;
                total
            }
        };
        at += step as u32;
    }
    let tail = base + found.place.tail;
    found.place.clean = flash::is_erased(flash, tail, base + sector_bytes)?;
    found.blank = found.newest.is_none() && found.place.clean;
    Ok(found)
}

/// Reads the record at `offset` into `buffer`, if one holds there in the `left` bytes.
fn read_record<S: NorFlash>(
    flash: &mut S,
    offset: u32,
    left: usize,
    buffer: &mut [u8; RECORD_BYTES_MAX],
) -> Result<Found, Error> {
    let mut header = [0; RECORD_ALIGN];
    flash::read(flash, offset, &mut header)?;
    let Some(Ok(total)) = header.first_chunk().map(peek) else {
        return Ok(Found::Nothing);
    };
    let Some(record) = buffer.get_mut(..total).filter(|_| total <= left) else {
        return Ok(Found::Nothing);
    };
    flash::read(flash, offset, record)?;
    Ok(match check(record) {
        Ok((sequence, total)) => Found::Record { sequence, total },
        Err(why) => Found::Torn {
            why,
            sequence: u32::from_le_bytes([header[8], header[9], header[10], header[11]]),
        },
    })
}

#[cfg(test)]
mod tests;
