//! Room when there is none.

use super::index::Entry;
use super::record::{RECORD_HEADER, RecordHeader, RecordKind, SECTOR_HEADER, SectorHeader};
use super::{MARKS, Outbox, OutboxError, failed, read_body};
use crate::telemetry::{BodyRef, Summary};
use embedded_storage::nor_flash::{NorFlash, NorFlashErrorKind};

/// What a fold of a sector makes, or would make.
struct Folded {
    /// Bytes of the new sector, its header included.
    bytes: u32,
    /// Records written.
    records: usize,
    /// Records that they answer for.
    sources: usize,
    /// The sector of a record that was drawn in from outside, and how many were drawn from it.
    drawn: Option<(u16, usize)>,
    /// The records do not fit into one sector, which only a drawn one can cause, or one of the version before, which
    /// grows by a word.
    overflow: bool,
}

/// Adjoining records on their way into one; their summary is beside it.
struct Group {
    first_sequence: u64,
    sequence: u64,
    time_ms: u64,
    boot: u32,
    members: usize,
    births: usize,
    /// The first member, if it is readable; it is copied as it is when it stays the only one.
    copy: Option<Entry>,
    /// The sector of the first member, when that is not the one being folded.
    drawn: Option<u16>,
}

/// A record as a fold sees it; its summary is beside it.
struct Source {
    entry: Entry,
    time_ms: u64,
    boot: u32,
    /// Nothing when flash has lost it, or another version wrote it.
    kind: Option<RecordKind>,
}

impl Source {
    /// Frames that are only counted when the record is merged.
    fn dropped(&self) -> u32 {
        let frames = self.entry.sequence - self.entry.first_sequence + 1;
        match self.kind {
            Some(RecordKind::Summary) => 0,
            Some(_) => 1,
            None => u32::try_from(frames).unwrap_or(u32::MAX),
        }
    }

    fn is_birth(&self) -> bool {
        matches!(self.kind, None | Some(RecordKind::Birth))
    }
}

impl Group {
    fn new(source: &Source, drawn: bool) -> Self {
        let entry = source.entry;
        Self {
            first_sequence: entry.first_sequence,
            sequence: entry.sequence,
            time_ms: source.time_ms,
            boot: source.boot,
            members: 1,
            births: usize::from(source.is_birth()),
            copy: source.kind.map(|_| entry),
            drawn: drawn.then_some(entry.sector),
        }
    }

    /// Takes the next record in, or leaves everything as it is and says no.
    fn join<const F: usize, const C: usize>(
        &mut self,
        summary: &mut Summary<F, C>,
        source: &Source,
        added: &Summary<F, C>,
    ) -> bool {
        // What is no summary adds only what was dropped.
        let follows = source.entry.first_sequence == self.sequence + 1;
        if !follows || summary.merge(added).is_err() {
            return false;
        }
        self.births += usize::from(source.is_birth());
        self.sequence = source.entry.sequence;
        self.time_ms = source.time_ms;
        self.boot = source.boot;
        self.members += 1;
        true
    }
}

impl<S: NorFlash, const F: usize, const C: usize, const R: usize, const B: usize>
    Outbox<S, F, C, R, B>
{
    /// Makes the active sector one with room for a record of `bytes`, and the index one with room
    /// for its entry.
    pub(super) fn make_room(&mut self, bytes: usize) -> Result<(), OutboxError> {
        // A compaction is followed by at most one more sector.
        for _ in 0..3 {
            let ready = self
                .active
                .is_some_and(|(_, offset)| self.fits(offset, bytes));
            if !self.index.is_full() {
                if ready {
                    return Ok(());
                }
                if self.active.is_none() {
                    // A new outbox. What a cut left of another reads as anything, and differently
                    // each time; it must not come back beside this one.
                    for sector in 0..self.region.sectors {
                        self.erase(sector)?;
                    }
                }
                if let Some(sector) = self.free_sector(2) {
                    self.erase(sector)?;
                    self.commit(sector, Self::records_at())?;
                    continue;
                }
            }
            self.compact(bytes)?;
        }
        Err(OutboxError::Full)
    }

    /// The free sector that follows the active one in the ring, when at least `least` are free.
    fn free_sector(&self, least: usize) -> Option<u16> {
        let start = self.active.map_or(0, |(sector, _)| sector + 1);
        let ring = (start..self.region.sectors).chain(0..start);
        let mut free = ring.filter(|sector| self.is_free(*sector));
        let first = free.next()?;
        (1 + free.count() >= least).then_some(first)
    }

    fn is_free(&self, sector: u16) -> bool {
        self.active.is_none_or(|(active, _)| active != sector) && self.index.count_in(sector) == 0
    }

    pub(super) fn erase(&mut self, sector: u16) -> Result<(), OutboxError> {
        let at = self.region.offset + u32::from(sector) * self.region.sector_bytes;
        self.flash
            .erase(at, at + self.region.sector_bytes)
            .map_err(failed)
    }

    /// Writes a sector's header and marks, which make it the active one; its records end at `end`.
    fn commit(&mut self, sector: u16, end: u32) -> Result<(), OutboxError> {
        // A header whose write failed may be there all the same: its generation is used up.
        self.generation += 1;
        let header = SectorHeader {
            generation: self.generation,
            sector_bytes: self.region.sector_bytes,
            sectors: u32::from(self.region.sectors),
            acknowledged: self.acknowledged,
            next_sequence: self.next_sequence,
            epoch: self.epoch,
        };
        let encoded = header.encode();
        let space = self.buffer.get_mut(..SECTOR_HEADER);
        space.ok_or(OutboxError::Region)?.copy_from_slice(&encoded);
        self.write_buffer(sector, 0, SECTOR_HEADER)?;
        self.active = Some((sector, end));
        // The first mark shows that the header is whole, the second that the first one is.
        let marked = self.mark()? && self.mark()?;
        if marked {
            return Ok(());
        }
        Err(OutboxError::Flash(NorFlashErrorKind::Other))
    }

    /// Copies one sector, the oldest whose copy gains enough, into a free one and merges what it
    /// can on the way.
    fn compact(&mut self, bytes: usize) -> Result<(), OutboxError> {
        let target = self.free_sector(1).ok_or(OutboxError::Full)?;
        let mut after = 0;
        // Each pass looks at another sector.
        for _ in 0..self.region.sectors {
            let (victim, last) = self.oldest_sector(after).ok_or(OutboxError::Full)?;
            after = last;
            let Some(draw) = self.gainful(victim, bytes)? else {
                continue;
            };
            self.erase(target)?;
            let folded = self.fold(victim, draw, Some(target))?;
            self.commit(target, folded.bytes)?;
            let mut walk = self.walk(target);
            while let Some(entry) = self.step(&mut walk)? {
                if entry.kind != RecordKind::Acknowledged {
                    let entered = self.index.replace(entry);
                    entered.map_err(|_| OutboxError::Full)?;
                }
            }
            return Ok(());
        }
        Err(OutboxError::Full)
    }

    /// Whether to draw records in when `victim` is folded; `None` when that gains too little
    /// either way.
    fn gainful(&mut self, victim: u16, bytes: usize) -> Result<Option<bool>, OutboxError> {
        for draw in [true, false] {
            let folded = self.fold(victim, draw, None)?;
            if self.gains(victim, &folded, bytes) {
                return Ok(Some(draw));
            }
        }
        Ok(None)
    }

    /// The sector whose last record is the oldest among those with a last record after `after`.
    fn oldest_sector(&self, after: u64) -> Option<(u16, u64)> {
        let mut oldest = None;
        for sector in 0..self.region.sectors {
            let of_sector = self.index.entries().iter().filter(|e| e.sector == sector);
            let Some(last) = of_sector.map(|e| e.sequence).max() else {
                continue;
            };
            if last > after && oldest.is_none_or(|(_, least)| last < least) {
                oldest = Some((sector, last));
            }
        }
        oldest
    }

    /// Whether a fold leaves room for a record of `bytes`, in the new sector or in one that gets
    /// free beside the victim.
    fn gains(&self, victim: u16, folded: &Folded, bytes: usize) -> bool {
        let records = self.len() - folded.sources + folded.records;
        let runs_dry = |sector: u16| {
            let drawn = folded.drawn.filter(|(of, _)| *of == sector);
            sector != victim && self.index.count_in(sector) == drawn.map_or(0, |(_, count)| count)
        };
        let another_free = self.free_sector(2).is_some()
            || folded.drawn.is_some_and(|(sector, _)| runs_dry(sector))
            || self.active.is_some_and(|(sector, _)| runs_dry(sector));
        let marks = 2 * RECORD_HEADER.next_multiple_of(Self::WORD) as u32;
        let fits = self.fits(folded.bytes + marks, bytes);
        !folded.overflow && records < R && (fits || another_free)
    }

    /// Merges the records of `victim`, and if `draw` says so each group with the summary right
    /// before it in another sector; writes what comes out to `target`, or only measures it.
    fn fold(
        &mut self,
        victim: u16,
        draw: bool,
        target: Option<u16>,
    ) -> Result<Folded, OutboxError> {
        let mut folded = Folded {
            bytes: Self::records_at(),
            records: 0,
            sources: 0,
            drawn: None,
            overflow: false,
        };
        let mut group: Option<Group> = None;
        let (mut grouped, mut added) = (Summary::empty(), Summary::empty());
        let (mut grouped, mut added) = (&mut grouped, &mut added);
        for at in 0..self.len() {
            let Some((entry, drawn)) = self.foldable(at, victim) else {
                continue;
            };
            if drawn && !draw {
                continue;
            }
            let source = self.source(entry, added)?;
            if let Some(group) = &mut group
                && !drawn
                && group.join(grouped, &source, added)
            {
                continue;
            }
            if let Some(group) = group.replace(Group::new(&source, drawn)) {
                self.flush(&group, grouped, target, &mut folded)?;
            }
            core::mem::swap(&mut grouped, &mut added);
        }
        if let Some(group) = group {
            self.flush(&group, grouped, target, &mut folded)?;
        }
        Ok(folded)
    }

    /// Reads a record, and what it adds to a summary when it is merged.
    #[inline(never)]
    fn source(&mut self, entry: Entry, summary: &mut Summary<F, C>) -> Result<Source, OutboxError> {
        let header = self.load(&entry)?;
        let kind = header.and_then(|header| {
            let end = RECORD_HEADER + header.len as usize;
            read_body(self.buffer.get(RECORD_HEADER..end)?, summary)
        });
        let source = Source {
            entry,
            time_ms: header.map_or(0, |header| header.time_ms),
            boot: header.map_or(self.boot, |header| header.boot),
            kind,
        };
        if kind != Some(RecordKind::Summary) {
            *summary = Summary::empty();
            summary.dropped_events = source.dropped();
        }
        Ok(source)
    }

    /// The record at a position of the index, if it takes part in the fold of `victim`, and
    /// whether it is drawn in from another sector.
    fn foldable(&self, at: usize, victim: u16) -> Option<(Entry, bool)> {
        let entries = self.index.entries();
        let entry = *entries.get(at)?;
        if entry.sector == victim {
            return Some((entry, false));
        }
        let next = entries.get(at + 1)?;
        let drawn = entry.kind == RecordKind::Summary && next.sector == victim;
        drawn.then_some((entry, true))
    }

    /// Writes one group's record, or only measures it.
    fn flush(
        &mut self,
        group: &Group,
        summary: &Summary<F, C>,
        target: Option<u16>,
        folded: &mut Folded,
    ) -> Result<(), OutboxError> {
        if group.members == 1 && group.drawn.is_some() {
            return Ok(());
        }
        let copy = group.copy.filter(|_| group.members == 1);
        let len = if let Some(entry) = copy {
            let header = self.load(&entry)?.ok_or(OutboxError::Body)?;
            RECORD_HEADER + header.len as usize
        } else {
            let len = self.encode_body(BodyRef::Summary(summary))?;
            let header = RecordHeader {
                kind: RecordKind::Summary,
                len: len as u32,
                first_sequence: group.first_sequence,
                sequence: group.sequence,
                time_ms: group.time_ms,
                boot: group.boot,
            };
            header.seal(&mut self.buffer)?;
            RECORD_HEADER + len
        };
        // The copy must leave room for the marks that commit it.
        let mark = RECORD_HEADER.next_multiple_of(Self::WORD);
        if !self.fits(
            folded.bytes,
            len.next_multiple_of(Self::WORD) + MARKS * mark,
        ) {
            folded.overflow = true;
            return match target {
                None => Ok(()),
                Some(_) => Err(OutboxError::Full),
            };
        }
        if let Some(target) = target {
            self.write_buffer(target, folded.bytes, len)?;
            self.lost_births |= group.births > 0 && copy.is_none();
        }
        folded.bytes += len.next_multiple_of(Self::WORD) as u32;
        folded.records += 1;
        folded.sources += group.members;
        if let Some(sector) = group.drawn {
            folded.drawn = match folded.drawn {
                Some((of, count)) if of == sector => Some((of, count + 1)),
                _ => Some((sector, 1)),
            };
        }
        Ok(())
    }
}
