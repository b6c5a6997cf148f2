//! Where the unacknowledged records are, by the frames that they answer for.

use super::record::RecordKind;
use heapless::Vec;

/// One unacknowledged record in flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub first_sequence: u64,
    pub sequence: u64,
    /// Offset in its sector.
    pub offset: u32,
    pub sector: u16,
    pub kind: RecordKind,
}

impl Entry {
    /// Whether it answers for every frame that `other` answers for.
    fn covers(&self, other: &Self) -> bool {
        self.first_sequence <= other.first_sequence && other.sequence <= self.sequence
    }

    fn is_before(&self, other: &Self) -> bool {
        self.sequence < other.first_sequence
    }
}

/// At most `R` records; their ranges ascend and don't overlap.
#[derive(Debug)]
pub(super) struct Index<const R: usize> {
    entries: Vec<Entry, R>,
}

/// The index has no room for another record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexFull;

impl<const R: usize> Index<R> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a record that is newer than all that the index knows: it takes the place of those that
    /// it covers. A range that overlaps another in part is not added; valid logs have none.
    pub(super) fn replace(&mut self, entry: Entry) -> Result<(), IndexFull> {
        let covered = |known: &Entry| entry.covers(known);
        let at = self.lower(&entry);
        let end = at + self.entries[at..].iter().take_while(|e| covered(e)).count();
        if end > at {
            self.entries[at] = entry;
            for _ in at + 1..end {
                self.entries.remove(at + 1);
            }
            return Ok(());
        }
        self.insert(at, entry)
    }

    /// Adds a record that is older than all that the index knows: nothing changes when one of them
    /// covers it.
    /// Of two copies in one sector the later is kept, which was made because of the earlier.
    pub(super) fn add_older(&mut self, entry: Entry) -> Result<(), IndexFull> {
        let at = self.lower(&entry);
        if let Some(known) = self.entries.get_mut(at)
            && known.sector == entry.sector
            && known.first_sequence == entry.first_sequence
            && known.sequence == entry.sequence
        {
            *known = entry;
            return Ok(());
        }
        self.insert(at, entry)
    }

    /// Position of the first known record that is not wholly before `entry`.
    fn lower(&self, entry: &Entry) -> usize {
        self.entries.partition_point(|known| known.is_before(entry))
    }

    fn insert(&mut self, at: usize, entry: Entry) -> Result<(), IndexFull> {
        let apart = self
            .entries
            .get(at)
            .is_none_or(|next| entry.is_before(next));
        if !apart {
            return Ok(());
        }
        self.entries.insert(at, entry).map_err(|_| IndexFull)
    }

    /// Forgets the records whose frames are all acknowledged.
    pub(super) fn acknowledge(&mut self, through: u64) {
        let keep = self.entries.partition_point(|e| e.sequence <= through);
        self.entries.copy_within(keep.., 0);
        self.entries.truncate(self.entries.len() - keep);
    }

    /// The first record that answers for a frame after `after`.
    pub(super) fn after(&self, after: u64) -> Option<Entry> {
        let at = self.entries.partition_point(|e| e.sequence <= after);
        self.entries.get(at).copied()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.is_full()
    }

    /// Records that `sector` holds.
    pub(super) fn count_in(&self, sector: u16) -> usize {
        self.entries.iter().filter(|e| e.sector == sector).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first_sequence: u64, sequence: u64, sector: u16) -> Entry {
        Entry {
            first_sequence,
            sequence,
            offset: 0,
            sector,
            kind: RecordKind::Summary,
        }
    }

    fn ranges(index: &Index<8>) -> std::vec::Vec<(u64, u64, u16)> {
        let each = |e: &Entry| (e.first_sequence, e.sequence, e.sector);
        index.entries().iter().map(each).collect()
    }

    #[test]
    fn a_newer_record_replaces_what_it_covers() {
        let mut index = Index::<8>::new();
        for n in 1..=5 {
            assert_eq!(index.replace(entry(n, n, 0)), Ok(()));
        }
        assert_eq!(index.replace(entry(2, 4, 1)), Ok(()));
        assert_eq!(ranges(&index), [(1, 1, 0), (2, 4, 1), (5, 5, 0)]);
        assert_eq!(index.replace(entry(5, 5, 2)), Ok(()));
        assert_eq!(index.replace(entry(4, 6, 3)), Ok(()), "overlaps: left out");
        assert_eq!(ranges(&index), [(1, 1, 0), (2, 4, 1), (5, 5, 2)]);
    }

    #[test]
    fn an_older_record_gives_way() {
        let mut index = Index::<8>::new();
        assert_eq!(index.add_older(entry(2, 4, 1)), Ok(()));
        for n in (1..=5).rev() {
            assert_eq!(index.add_older(entry(n, n, 0)), Ok(()));
        }
        assert_eq!(ranges(&index), [(1, 1, 0), (2, 4, 1), (5, 5, 0)]);
    }

    #[test]
    fn acknowledged_records_go_and_the_next_is_found() {
        let mut index = Index::<8>::new();
        for (first, last) in [(1, 1), (2, 4), (5, 5), (6, 9)] {
            assert_eq!(index.replace(entry(first, last, 0)), Ok(()));
        }
        index.acknowledge(3);
        assert_eq!(ranges(&index), [(2, 4, 0), (5, 5, 0), (6, 9, 0)]);
        assert_eq!(index.after(0).map(|e| e.sequence), Some(4));
        assert_eq!(index.after(5).map(|e| e.sequence), Some(9));
        assert_eq!(index.after(9), None);
    }
}
