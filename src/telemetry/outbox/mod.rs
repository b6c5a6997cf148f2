//! The outbox: frames wait in flash until the host has acknowledged them.
//!
//! A log over equal sectors of a NOR flash. Each frame is one record; a new sector is opened when
//! the active one is full, and a sector is erased only when nothing in it counts any more. One
//! sector is always kept free. When no second one is, the outbox *compacts*: it copies the oldest
//! sector into the free one and merges on the way what can be merged, so that resolution is lost
//! but counts never are. A merged record answers for all numbers from its first to its last
//! (events and births among them become a count of dropped events), so the host sees no gap.
//!
//! The frames' numbers count from 1 over all boots. A frame is signed when it is sent, not when it
//! is stored.
//!
//! # Epochs
//! An outbox that is made anew, because its flash was lost, counts from 1 again. So each has a random
//! *epoch*, drawn when it is made, which goes into every frame and every acknowledgement: the host
//! never takes a new frame for an old one, and an acknowledgement of an outbox that is gone forgets
//! nothing of the one that is.
//!
//! # What a cut of power leaves
//! [`Outbox::push`] is durable when it returns; a push that was cut either happened or did not, and
//! then its number is used again. Compaction writes the copy, then commits it by the sector's
//! header, and only a later operation erases the original: whatever flash holds at a cut, each
//! number is answered for exactly once after [`Outbox::open`]. Records that a wider one covers are
//! recognised by their range. Acknowledgements that were lost to a cut are harmless: the frames are
//! sent again, and the host recognises their numbers.
//!
//! A word whose write or erase was cut may read as anything, and differently each time. So whatever
//! decides on something is followed by another write before anything depends on it: a header by two
//! marks (acknowledgements), the last frame of the boot before by a copy of itself, and each new
//! record is read back once.
//!
//! The flash must make each operation durable before the next begins.

mod compact;
mod error;
mod index;
mod record;
mod recover;
mod sign;

pub use error::OutboxError;
pub use record::RecordKind;
pub use sign::{Signed, max_buffer_bytes};

use super::{Birth, BodyRef, Event, Frame, Id, Refused, Summary};
use crate::place::{self, Blank};
use core::mem::MaybeUninit;
use core::num::NonZeroU32;
use embedded_storage::nor_flash::{NorFlash, NorFlashError, NorFlashErrorKind};
use index::{Entry, Index};
use record::{RECORD_HEADER, RecordHeader, SECTOR_HEADER, decode_body};

/// Most sectors an outbox may have.
pub const MAX_SECTORS: usize = 256;
/// Places that are tried for a record: one that reads as erased may still be where a cut write
/// began, and the next is then in another sector.
const PLACES: usize = 2;
/// Largest word of a flash in bytes.
const MAX_WORD: usize = 64;

/// Bytes that a body may take in postcard at worst, for `features` features and `outputs` outputs.
#[must_use]
pub const fn max_body_bytes(features: usize, outputs: usize) -> usize {
    // A summary is the largest body: its head, 136 bytes a feature and 5 a class.
    526 + 136 * features + 5 * outputs
}

/// Bytes of the outbox's buffer that are enough for any body and any flash, and the least size of a
/// sector less [`SECTOR_OVERHEAD`].
#[must_use]
pub const fn max_record_bytes(features: usize, outputs: usize) -> usize {
    (RECORD_HEADER + max_body_bytes(features, outputs)).next_multiple_of(MAX_WORD)
}

/// Bytes of a sector that its header takes on a flash of any word size.
pub const SECTOR_OVERHEAD: usize =
    SECTOR_HEADER.next_multiple_of(MAX_WORD) + MARKS * RECORD_HEADER.next_multiple_of(MAX_WORD);
/// Marks that a sector must have room for: two commit it, one more hardens it at the next start.
const MARKS: usize = 3;

/// Which part of a flash an outbox uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins, a multiple of the erase size.
    pub offset: u32,
    /// Bytes of a sector, a multiple of the erase size, with room for the largest record
    /// ([`max_record_bytes`] and [`SECTOR_OVERHEAD`]).
    pub sector_bytes: u32,
    /// Sectors, at least 2; one is always kept free.
    pub sectors: u16,
}

/// A frame in the outbox that waits for its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it holds.
    pub kind: RecordKind,
    /// The outbox's epoch.
    pub epoch: u32,
    /// Every frame up to this number is acknowledged.
    pub acknowledged: u64,
    /// First number that it answers for.
    pub first_sequence: u64,
    /// Its number, and the last that it answers for.
    pub sequence: u64,
    /// Boot in which it was made.
    pub boot: u32,
    /// When it was made, in milliseconds of the device's clock.
    pub time_ms: u64,
    /// The body in postcard.
    pub body: &'a [u8],
}

impl Record<'_> {
    /// The frame of `device` that the record stands for.
    ///
    /// # Errors
    /// [`OutboxError::Body`] when the body is not readable with these capacities.
    pub fn frame<const F: usize, const C: usize>(
        &self,
        device: &Id,
    ) -> Result<Frame<F, C>, OutboxError> {
        Ok(Frame {
            device: device.clone(),
            epoch: self.epoch,
            acknowledged: self.acknowledged,
            boot: self.boot,
            first_sequence: self.first_sequence,
            sequence: self.sequence,
            time_ms: self.time_ms,
            body: decode_body(self.body)?,
        })
    }
}

/// The kind of the body that takes all of `bytes`; of a summary, also the summary, which is anything
/// otherwise. Nothing when they are no body.
#[inline(never)]
fn read_body<const F: usize, const C: usize>(
    bytes: &[u8],
    summary: &mut Summary<F, C>,
) -> Option<RecordKind> {
    let mut kind = 0_u32;
    let rest = place::fill(&mut kind, bytes).ok()?;
    // As the variants of a body are numbered.
    let (kind, rest) = match kind {
        0 => (RecordKind::Birth, check_birth(rest)),
        1 => (RecordKind::Summary, place::fill(summary, rest)),
        2 => (RecordKind::Event, check_event(rest)),
        _ => return None,
    };
    rest.is_ok_and(<[u8]>::is_empty).then_some(kind)
}

#[inline(never)]
fn check_birth(bytes: &[u8]) -> postcard::Result<&[u8]> {
    place::fill(&mut Birth::blank(), bytes)
}

#[inline(never)]
fn check_event(bytes: &[u8]) -> postcard::Result<&[u8]> {
    let mut event = Event::Refused { what: Refused::Ack };
    place::fill(&mut event, bytes)
}

/// The outbox over the flash `S`, for bodies of at most `F` features and `C` outputs, with at most
/// `R` records at a time and a buffer of `B` bytes (at least [`max_record_bytes`]`(F, C)`).
///
/// Invariants: at least one sector is free, that is, it is not the active one and no entry of the
/// index points into it; the index's ranges ascend and answer for each number between the highest
/// acknowledged and the next exactly once; the sector with the highest generation is the active one
/// and is never erased, so that the next number survives any cut.
#[derive(Debug)]
// Small fields first, where an instruction of two bytes reaches them; compilers put large ones there.
#[repr(C)]
pub struct Outbox<S, const F: usize, const C: usize, const R: usize, const B: usize> {
    next_sequence: u64,
    acknowledged: u64,
    region: Region,
    /// The sector that records are appended to, and where the next one goes.
    active: Option<(u16, u32)>,
    generation: u32,
    epoch: NonZeroU32,
    boot: u32,
    lost_births: bool,
    /// Numbers that flash has lost are not answered for: there was no room.
    holes: bool,
    flash: S,
    index: Index<R>,
    buffer: [u8; B],
}

impl<S: NorFlash, const F: usize, const C: usize, const R: usize, const B: usize>
    Outbox<S, F, C, R, B>
{
    /// All record and header sizes are multiples of this.
    const WORD: usize = {
        let larger = if S::WRITE_SIZE > S::READ_SIZE {
            S::WRITE_SIZE
        } else {
            S::READ_SIZE
        };
        if larger > 4 { larger } else { 4 }
    };

    /// Opens the outbox in `region`, or begins a new one where there is none, for frames made in
    /// boot `boot`. Reads every record once.
    ///
    /// `fresh` is a random number, drawn anew for each call; a new outbox has it as its epoch. It
    /// is durable with the first frame, before anybody hears of it.
    ///
    /// # Errors
    /// [`OutboxError`] when the region does not suit the flash or holds an outbox with other
    /// sectors or of another version, or the flash fails.
    pub fn open(
        flash: S,
        region: Region,
        boot: u32,
        fresh: NonZeroU32,
    ) -> Result<Self, OutboxError> {
        let mut outbox = Self::blank(flash, region, boot, fresh)?;
        outbox.recover(fresh)?;
        Ok(outbox)
    }

    /// As [`open`](Self::open), to where the outbox is to stay: it takes no more of the stack than reading it
    /// does.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_in(
        place: &mut MaybeUninit<Self>,
        flash: S,
        region: Region,
        boot: u32,
        fresh: NonZeroU32,
    ) -> Result<&mut Self, OutboxError> {
        let outbox = Self::blank_in(place, flash, region, boot, fresh)?;
        outbox.recover(fresh)?;
        Ok(outbox)
    }

    #[inline(never)]
    fn blank_in(
        place: &mut MaybeUninit<Self>,
        flash: S,
        region: Region,
        boot: u32,
        fresh: NonZeroU32,
    ) -> Result<&mut Self, OutboxError> {
        Ok(place.write(Self::blank(flash, region, boot, fresh)?))
    }

    /// One that knows of nothing in its flash yet.
    #[inline(always)]
    fn blank(flash: S, region: Region, boot: u32, fresh: NonZeroU32) -> Result<Self, OutboxError> {
        check_region::<S>(&flash, &region, F, C, B)?;
        Ok(Self {
            flash,
            region,
            index: Index::new(),
            active: None,
            generation: 0,
            epoch: fresh,
            boot,
            next_sequence: 1,
            acknowledged: 0,
            lost_births: false,
            holes: false,
            buffer: [0; B],
        })
    }

    /// Begins a new outbox with the epoch `fresh`: what waits is dropped, and the numbers begin at 1
    /// again. For an outbox that turned out to be older than what the host has seen
    /// ([`OutboxError::AcknowledgedUnknown`]): the host would refuse all further numbers of it.
    ///
    /// Flash follows with the next frame. Until then, a cut leaves the old outbox, or a part of it
    /// that is just as old.
    pub fn begin_anew(&mut self, fresh: NonZeroU32) {
        self.index = Index::new();
        self.active = None;
        self.generation = 0;
        self.epoch = fresh;
        self.next_sequence = 1;
        self.acknowledged = 0;
        self.lost_births = false;
        self.holes = false;
    }

    /// Erases all of `region`, whatever it holds. A cut leaves parts of it: format again before the
    /// region is opened.
    ///
    /// # Errors
    /// [`OutboxError`] when the region does not suit the flash, or the flash fails.
    pub fn format(flash: &mut S, region: &Region) -> Result<(), OutboxError> {
        check_region::<S>(flash, region, F, C, B)?;
        let end = region.offset + region.sector_bytes * u32::from(region.sectors);
        flash.erase(region.offset, end).map_err(failed)
    }

    /// Stores a frame and returns its number. The frame is in flash when this returns.
    ///
    /// # Errors
    /// [`OutboxError::Full`] when nothing could be merged to make room, [`OutboxError::Flash`] when
    /// the flash failed; the frame is then not stored, and its number will be used again.
    pub fn push<'a>(
        &mut self,
        time_ms: u64,
        body: impl Into<BodyRef<'a, F, C>>,
    ) -> Result<u64, OutboxError> {
        let body = body.into();
        let sequence = self.next_sequence;
        self.store(sequence, sequence, time_ms, body)?;
        self.next_sequence = sequence + 1;
        if matches!(body, BodyRef::Birth(_)) {
            self.lost_births = false;
        }
        Ok(sequence)
    }

    /// The first record that answers for a frame after `after` (0 for the oldest), read into the
    /// outbox's own buffer; `None` when there is none. A record that flash has lost since it was
    /// written is replaced by a summary of nothing that counts it as dropped.
    ///
    /// # Errors
    /// [`OutboxError::Flash`] when the flash fails.
    pub fn peek_after(&mut self, after: u64) -> Result<Option<Record<'_>>, OutboxError> {
        let Some(entry) = self.index.after(after) else {
            return Ok(None);
        };
        let header = match self.load(&entry)? {
            Some(header) => header,
            None => {
                self.store_lost(entry.first_sequence, entry.sequence)?;
                let entry = self.index.after(after).ok_or(OutboxError::Body)?;
                self.load(&entry)?.ok_or(OutboxError::Body)?
            }
        };
        let body = RECORD_HEADER..RECORD_HEADER + header.len as usize;
        Ok(Some(Record {
            kind: header.kind,
            epoch: self.epoch.get(),
            acknowledged: self.acknowledged,
            first_sequence: header.first_sequence,
            sequence: header.sequence,
            boot: header.boot,
            time_ms: header.time_ms,
            body: self.buffer.get(body).ok_or(OutboxError::Body)?,
        }))
    }

    /// Forgets every frame up to and with `through`. An older acknowledgement than one before is
    /// ignored. It is written to flash when there is room for it in the active sector, and else
    /// with the next sector.
    ///
    /// # Errors
    /// [`OutboxError::AcknowledgedUnknown`] when no such frame was made, [`OutboxError::Flash`] when
    /// the flash fails.
    pub fn acknowledge(&mut self, through: u64) -> Result<(), OutboxError> {
        if through >= self.next_sequence {
            return Err(OutboxError::AcknowledgedUnknown {
                next_sequence: self.next_sequence,
            });
        }
        if through <= self.acknowledged {
            return Ok(());
        }
        self.acknowledged = through;
        self.index.acknowledge(through);
        self.mark()?;
        if self.holes {
            self.fill_holes()?;
        }
        Ok(())
    }

    /// Writes the acknowledgement to the active sector; false when there is no room for it.
    fn mark(&mut self) -> Result<bool, OutboxError> {
        let room = self
            .active
            .is_some_and(|(_, offset)| self.fits(offset, RECORD_HEADER));
        if !room {
            return Ok(false);
        }
        self.append(&RecordHeader {
            kind: RecordKind::Acknowledged,
            len: 0,
            first_sequence: 0,
            sequence: self.acknowledged,
            time_ms: 0,
            boot: self.boot,
        })
    }

    /// Records that wait for an acknowledgement.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.entries().len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.entries().is_empty()
    }

    /// The number, not zero, that tells this outbox from any that the device had before.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    /// Every frame up to this number is acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The number that the next frame will get.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Whether a birth was folded into a summary since the last one was pushed: the host has not
    /// seen it, so the board should push a fresh one once it is connected.
    #[must_use]
    pub fn needs_birth(&self) -> bool {
        self.lost_births
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> S {
        self.flash
    }

    /// Writes a record that answers for a range of frames, making room for it first.
    #[inline(never)]
    fn store(
        &mut self,
        first_sequence: u64,
        sequence: u64,
        time_ms: u64,
        body: BodyRef<'_, F, C>,
    ) -> Result<(), OutboxError> {
        for _ in 0..PLACES {
            let len = self.encode_body(body)?;
            self.make_room(RECORD_HEADER + len)?;
            // Making room used the buffer.
            let len = self.encode_body(body)?;
            let header = RecordHeader {
                kind: RecordKind::of_body(body),
                len: len as u32,
                first_sequence,
                sequence,
                time_ms,
                boot: self.boot,
            };
            if self.append(&header)? {
                return Ok(());
            }
        }
        Err(OutboxError::Flash(NorFlashErrorKind::Other))
    }

    /// Seals the record whose body is in the buffer, writes it to the active sector and enters it
    /// in the index. False when it can't be written or does not read back; the sector then takes no
    /// more.
    fn append(&mut self, header: &RecordHeader) -> Result<bool, OutboxError> {
        header.seal(&mut self.buffer)?;
        let (sector, offset) = self.active.ok_or(OutboxError::Full)?;
        let len = RECORD_HEADER + header.len as usize;
        if self.write_buffer(sector, offset, len).is_err() {
            return Ok(false);
        }
        let entry = header.entry(sector, offset);
        if self.load(&entry)?.is_none() {
            self.active = Some((sector, self.region.sector_bytes));
            return Ok(false);
        }
        if header.kind == RecordKind::Acknowledged {
            return Ok(true);
        }
        let entered = self.index.replace(entry).map_err(|_| OutboxError::Full);
        entered.map(|()| true)
    }

    /// Answers for frames that flash has lost by a summary of nothing that counts them.
    fn store_lost(&mut self, first_sequence: u64, sequence: u64) -> Result<(), OutboxError> {
        let count = sequence - first_sequence + 1;
        let mut nothing = Summary::empty();
        nothing.dropped_events = u32::try_from(count).unwrap_or(u32::MAX);
        self.lost_births = true;
        self.store(first_sequence, sequence, 0, BodyRef::Summary(&nothing))
    }

    /// Encodes a body behind the place of a record's header.
    #[inline(never)]
    fn encode_body(&mut self, body: BodyRef<'_, F, C>) -> Result<usize, OutboxError> {
        let most = B as u32;
        let space = self.buffer.get_mut(RECORD_HEADER..).unwrap_or_default();
        let (kind, part) = body.parts();
        place::put(&[&kind, part], space).map_err(|_| OutboxError::TooLarge {
            bytes: max_record_bytes(F, C) as u32,
            most,
        })
    }

    fn fits(&self, offset: u32, bytes: usize) -> bool {
        u64::from(offset) + bytes.next_multiple_of(Self::WORD) as u64
            <= u64::from(self.region.sector_bytes)
    }

    /// Where a sector's records begin.
    fn records_at() -> u32 {
        SECTOR_HEADER.next_multiple_of(Self::WORD) as u32
    }

    /// Pads what the buffer begins with, writes it at `offset` of `sector`, and moves the end of
    /// the active sector behind it.
    fn write_buffer(&mut self, sector: u16, offset: u32, len: usize) -> Result<(), OutboxError> {
        let padded = len.next_multiple_of(Self::WORD);
        let most = B as u32;
        let record = self.buffer.get_mut(..padded);
        let record = record.ok_or(OutboxError::TooLarge {
            bytes: padded as u32,
            most,
        })?;
        record[len..].fill(0xFF);
        let at = self.region.offset + u32::from(sector) * self.region.sector_bytes + offset;
        let written = self.flash.write(at, record).map_err(failed);
        if let Some((active, end)) = &mut self.active
            && *active == sector
        {
            // After a failure nobody knows what is there: the sector takes no more.
            *end = match written {
                Ok(()) => offset + padded as u32,
                Err(_) => self.region.sector_bytes,
            };
        }
        written
    }

    /// Reads a record into the buffer, as one of this version; `None` when it is not what the index says.
    fn load(&mut self, entry: &Entry) -> Result<Option<RecordHeader>, OutboxError> {
        Ok(match self.read_record(entry.sector, entry.offset)? {
            Found::Intact(header)
                if header.first_sequence == entry.first_sequence
                    && header.sequence == entry.sequence =>
            {
                header.complete(&mut self.buffer)
            }
            _ => None,
        })
    }

    /// Reads whatever record begins at `offset` of `sector` into the buffer.
    fn read_record(&mut self, sector: u16, offset: u32) -> Result<Found, OutboxError> {
        let start = RECORD_HEADER.next_multiple_of(Self::WORD);
        if !self.fits(offset, start) {
            return Ok(Found::Nothing);
        }
        self.read(sector, offset, start)?;
        let Some(header) = RecordHeader::decode(&self.buffer) else {
            return Ok(Found::Nothing);
        };
        let len = RECORD_HEADER.saturating_add(header.len as usize);
        if len > self.region.sector_bytes as usize || !self.fits(offset, len) {
            return Ok(Found::Nothing);
        }
        if header.len as usize > max_body_bytes(F, C) {
            // Of a program that takes more features, perhaps: it is counted, and those behind it are read.
            return Ok(Found::Damaged(header));
        }
        self.read(sector, offset, len.next_multiple_of(Self::WORD))?;
        Ok(if header.holds(&self.buffer) {
            Found::Intact(header)
        } else {
            Found::Damaged(header)
        })
    }

    /// Reads `len` bytes, a multiple of the word, to the start of the buffer.
    fn read(&mut self, sector: u16, offset: u32, len: usize) -> Result<(), OutboxError> {
        let at = self.region.offset + u32::from(sector) * self.region.sector_bytes + offset;
        let bytes = self.buffer.get_mut(..len).ok_or(OutboxError::Region)?;
        self.flash.read(at, bytes).map_err(failed)
    }
}

/// What is at a place where a record may begin.
enum Found {
    Intact(RecordHeader),
    /// A header whose record's checksum does not hold, or which is longer than any of this program.
    Damaged(RecordHeader),
    Nothing,
}

fn failed<E: NorFlashError>(error: E) -> OutboxError {
    OutboxError::Flash(error.kind())
}

/// Checks a region against the flash and the largest record.
fn check_region<S: NorFlash>(
    flash: &S,
    region: &Region,
    features: usize,
    outputs: usize,
    buffer: usize,
) -> Result<(), OutboxError> {
    let words = [S::WRITE_SIZE, S::READ_SIZE];
    let words_fit = words
        .iter()
        .all(|word| word.is_power_of_two() && *word <= MAX_WORD);
    let sectors = usize::from(region.sectors);
    let end = u64::from(region.offset) + u64::from(region.sector_bytes) * sectors as u64;
    let aligned = S::ERASE_SIZE > 0
        && (region.offset as usize).is_multiple_of(S::ERASE_SIZE)
        && (region.sector_bytes as usize).is_multiple_of(S::ERASE_SIZE);
    let within = end <= flash.capacity() as u64 && end <= u64::from(u32::MAX);
    if !words_fit || !aligned || !within || !(2..=MAX_SECTORS).contains(&sectors) {
        return Err(OutboxError::Region);
    }
    let needed = max_record_bytes(features, outputs);
    if (region.sector_bytes as usize) < needed + SECTOR_OVERHEAD || buffer < needed {
        return Err(OutboxError::SectorTooSmall {
            needed: (needed + SECTOR_OVERHEAD) as u32,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
