//! What flash holds after a start.

use super::index::{Entry, Index};
use super::record::{RECORD_HEADER, RecordKind, SectorHeader};
use super::{Found, MAX_SECTORS, Outbox, OutboxError, PLACES};
use core::num::NonZeroU32;
use embedded_storage::nor_flash::{NorFlash, NorFlashErrorKind};
use heapless::Vec;

/// The end of the newest sector.
#[derive(Default)]
struct Tail {
    /// Its last record, a mark or a frame.
    last: Option<Entry>,
    /// Whether nothing was ever written behind it.
    clean: bool,
    /// Whether the sector has a mark.
    marked: bool,
    /// Intact records behind the first mark.
    behind_mark: u32,
}

/// Where a walk over the records of a sector is.
pub(super) struct Walk {
    sector: u16,
    /// Where the next record may begin.
    offset: u32,
    /// Where the last intact one ends.
    end: u32,
}

/// How often flash is read at a start before a word that reads otherwise each time is a failure.
const READINGS: usize = 8;

impl<S: NorFlash, const F: usize, const C: usize, const R: usize, const B: usize>
    Outbox<S, F, C, R, B>
{
    /// Finds what flash holds: headers and marks first, then the records from the newest sector to
    /// the oldest, so that a record that a wider one covers finds it there already.
    #[inline(never)]
    pub(super) fn recover(&mut self, fresh: NonZeroU32) -> Result<(), OutboxError> {
        for _ in 0..READINGS {
            let tail = self.read_all()?;
            if self.harden(&tail)? {
                return self.fill_holes();
            }
            // Something that a cut left reads otherwise now, or is gone: what it was to replace is
            // still there.
            self.index = Index::new();
            self.active = None;
            self.generation = 0;
            self.epoch = fresh;
            self.next_sequence = 1;
            self.acknowledged = 0;
        }
        Err(OutboxError::Flash(NorFlashErrorKind::Other))
    }

    /// Fills the index, and returns the end of the newest sector. Apart, for only it needs to know the generations
    /// of all sectors.
    #[inline(never)]
    fn read_all(&mut self) -> Result<Tail, OutboxError> {
        let mut unfinished = None;
        let mut epoch = None;
        // Of each sector; 0 of one without a commit.
        let mut generations: Vec<u32, MAX_SECTORS> = Vec::new();
        for sector in 0..self.region.sectors {
            let header = self.read_header(sector)?;
            let mut generation = 0;
            if let Some(header) = header {
                let same = header.sector_bytes == self.region.sector_bytes
                    && header.sectors == u32::from(self.region.sectors);
                if !same {
                    return Err(OutboxError::OtherRegion);
                }
                let newest = header.generation > self.generation;
                self.generation = self.generation.max(header.generation);
                if self.is_committed(sector)? {
                    generation = header.generation;
                    if *epoch.get_or_insert(header.epoch) != header.epoch {
                        return Err(OutboxError::Epochs);
                    }
                    self.acknowledged = self.acknowledged.max(header.acknowledged);
                    self.next_sequence = self.next_sequence.max(header.next_sequence);
                    self.take_marks(sector)?;
                } else if newest {
                    unfinished = Some((sector, header.generation));
                }
            }
            let known = generations.push(generation);
            known.map_err(|_| OutboxError::Region)?;
        }
        if let Some((sector, generation)) = unfinished
            && generation == self.generation
        {
            // A commit that never returned: nothing depends on it, and it must not come back.
            self.erase(sector)?;
        }
        self.epoch = epoch.unwrap_or(self.epoch);
        self.acknowledged = self.acknowledged.min(self.next_sequence - 1);
        let mut tail = Tail::default();
        let mut below = u32::MAX;
        while let Some((sector, generation)) = newest_below(&generations, below) {
            let newest = self.active.is_none();
            let mut walk = self.walk(sector);
            while let Some(entry) = self.step(&mut walk)? {
                if newest {
                    tail.last = Some(entry);
                    tail.behind_mark += u32::from(tail.marked);
                    tail.marked |= entry.kind == RecordKind::Acknowledged;
                }
                self.take_older(entry)?;
            }
            if newest {
                tail.clean = self.is_erased(sector, walk.end)?;
                let goes_on = if tail.clean {
                    walk.end
                } else {
                    self.region.sector_bytes
                };
                self.active = Some((sector, goes_on));
            }
            below = generation;
        }
        if let Some(newest) = self.index.entries().last() {
            // A torn record may have read as nothing when the numbers were looked for, and be there now.
            self.next_sequence = self.next_sequence.max(newest.sequence + 1);
        }
        Ok(tail)
    }

    /// Whether the commit of a sector was finished, or all but: a mark and something intact behind.
    fn is_committed(&mut self, sector: u16) -> Result<bool, OutboxError> {
        let (mut marked, mut committed) = (false, false);
        let mut walk = self.walk(sector);
        while let Some(entry) = self.step(&mut walk)? {
            committed |= marked;
            marked |= entry.kind == RecordKind::Acknowledged;
        }
        Ok(committed)
    }

    fn take_marks(&mut self, sector: u16) -> Result<(), OutboxError> {
        let mut walk = self.walk(sector);
        while let Some(entry) = self.step(&mut walk)? {
            if entry.kind == RecordKind::Acknowledged {
                self.acknowledged = self.acknowledged.max(entry.sequence);
            }
            // What is acknowledged was given, whatever flash has of it now.
            self.next_sequence = self.next_sequence.max(entry.sequence.saturating_add(1));
        }
        Ok(())
    }

    /// Makes sure that what was read at this start reads the same at the next, although the last
    /// write before may have been cut: the last frame is written again, and a mark behind it. False
    /// when that frame reads no more, or the sector's commit is in doubt and was taken back.
    fn harden(&mut self, tail: &Tail) -> Result<bool, OutboxError> {
        let Some((sector, end)) = self.active else {
            return Ok(true);
        };
        // Two records behind the first mark: when the second was begun, the commit was whole.
        let whole = tail.behind_mark >= 2;
        if !tail.clean || !self.fits(end, RECORD_HEADER) {
            if !whole {
                // Nothing can have happened since the commit but one more cut write.
                self.erase(sector)?;
                return Ok(false);
            }
            if !tail.clean {
                // What follows the last record shows that it was whole.
                return Ok(true);
            }
        }
        let frame = tail.last.filter(|last| {
            last.sector == sector
                && last.kind != RecordKind::Acknowledged
                && self.index.entries().contains(last)
        });
        if let Some(entry) = frame
            && !self.rewrite(&entry)?
        {
            return Ok(false);
        }
        let marked = self.mark()?;
        if !marked && !whole && self.active.is_some_and(|(active, _)| active == sector) {
            self.erase(sector)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Writes a record again, somewhere else; false when it reads no more. Where nothing can be merged to make room,
    /// it stays where it is, if it reads well again and again.
    fn rewrite(&mut self, entry: &Entry) -> Result<bool, OutboxError> {
        // One of the version before is longer as one of this version.
        let Some(header) = self.load(entry)? else {
            return Ok(false);
        };
        for _ in 0..PLACES {
            match self.make_room(RECORD_HEADER + header.len as usize) {
                Err(OutboxError::Full) => return self.reads_well(entry),
                made => made?,
            }
            let Some(header) = self.load(entry)? else {
                return Ok(false);
            };
            if self.append(&header)? {
                return Ok(true);
            }
        }
        Err(OutboxError::Flash(NorFlashErrorKind::Other))
    }

    /// Whether a record reads the same each of many times: what a cut tore seldom does.
    fn reads_well(&mut self, entry: &Entry) -> Result<bool, OutboxError> {
        for _ in 0..READINGS {
            if self.load(entry)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_header(&mut self, sector: u16) -> Result<Option<SectorHeader>, OutboxError> {
        self.read(sector, 0, Self::records_at() as usize)?;
        let header = SectorHeader::decode(&self.buffer);
        match SectorHeader::other_version(&self.buffer) {
            Some(found) if header.is_none() => Err(OutboxError::Version { found }),
            _ => Ok(header),
        }
    }

    /// A walk over the records of a sector, before its first.
    pub(super) fn walk(&self, sector: u16) -> Walk {
        let offset = Self::records_at();
        Walk {
            sector,
            offset,
            end: offset,
        }
    }

    /// The next intact record of a sector, in the order in which they were written. A damaged record
    /// between two intact ones has decayed; one behind the last was torn by a cut.
    #[inline(never)]
    pub(super) fn step(&mut self, walk: &mut Walk) -> Result<Option<Entry>, OutboxError> {
        // Each record moves the offset on by its header at least.
        loop {
            let (header, intact) = match self.read_record(walk.sector, walk.offset)? {
                Found::Intact(header) => (header, true),
                Found::Damaged(header) => (header, false),
                Found::Nothing => return Ok(None),
            };
            let bytes = (RECORD_HEADER + header.len as usize).next_multiple_of(Self::WORD) as u32;
            let entry = header.entry(walk.sector, walk.offset);
            walk.offset += bytes;
            if intact {
                walk.end = walk.offset;
                return Ok(Some(entry));
            }
        }
    }

    fn take_older(&mut self, entry: Entry) -> Result<(), OutboxError> {
        let counts = entry.kind != RecordKind::Acknowledged && entry.sequence > self.acknowledged;
        if !counts {
            return Ok(());
        }
        self.index.add_older(entry).map_err(|_| OutboxError::Full)
    }

    /// Whether a sector reads as erased from `at` on. The flash may persist the pieces of a torn
    /// write in any order, so all of the rest is looked at.
    fn is_erased(&mut self, sector: u16, at: u32) -> Result<bool, OutboxError> {
        let mut at = at;
        while at < self.region.sector_bytes {
            let most = B / Self::WORD * Self::WORD;
            let len = most.min((self.region.sector_bytes - at) as usize);
            self.read(sector, at, len)?;
            let piece = self.buffer.get(..len).unwrap_or_default();
            if piece.iter().any(|&byte| byte != 0xFF) {
                return Ok(false);
            }
            at += len as u32;
        }
        Ok(true)
    }

    /// Answers for numbers that flash has lost (decayed bits, never a cut), so that the host does
    /// not wait for them for ever.
    pub(super) fn fill_holes(&mut self) -> Result<(), OutboxError> {
        self.holes = true;
        // Each pass fills one hole, and there is at most one before each record and one at the end.
        for _ in 0..=R {
            let mut expected = self.acknowledged + 1;
            let mut hole = None;
            for entry in self.index.entries() {
                if entry.first_sequence > expected {
                    hole = Some((expected, entry.first_sequence - 1));
                    break;
                }
                expected = entry.sequence + 1;
            }
            if hole.is_none() && expected < self.next_sequence {
                hole = Some((expected, self.next_sequence - 1));
            }
            let Some((first, last)) = hole else {
                self.holes = false;
                return Ok(());
            };
            match self.store_lost(first, last) {
                // The host waits until an acknowledgement makes room.
                Err(OutboxError::Full) => return Ok(()),
                stored => stored?,
            }
        }
        Ok(())
    }
}

/// The sector with the highest generation below a bound, of these of all sectors.
fn newest_below(generations: &[u32], bound: u32) -> Option<(u16, u32)> {
    (0..)
        .zip(generations.iter().copied())
        .filter(|(_, generation)| (1..bound).contains(generation))
        .max_by_key(|(_, generation)| *generation)
}
