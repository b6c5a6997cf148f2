//! Where the journal and the two slots are in flash.

use super::journal::RECORD_BYTES_MAX;
use super::{Error, Slot};
use crate::bundle::CHUNK_BYTES;
use core::ops::Range;
use embedded_storage::nor_flash::NorFlash;

/// Regions of a board's flash: two journal sectors and two slots, all aligned to its erase size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Offsets of the two journal sectors.
    pub journal: [u32; 2],
    /// Bytes of each journal sector, a multiple of the erase size and at least
    /// [`RECORD_BYTES_MAX`].
    pub journal_bytes: u32,
    /// Offsets of the two slots.
    pub slots: [u32; 2],
    /// Bytes of each slot, a multiple of the erase size and of [`CHUNK_BYTES`].
    pub slot_bytes: u32,
}

impl Layout {
    /// The usual layout of a region of `capacity` bytes from offset 0: the journal sectors first,
    /// then two slots of equal size, as large as fits.
    ///
    /// # Errors
    /// [`Error::Layout`] when not even one chunk a slot fits, or the erase size is not a power of
    /// two.
    pub fn split(capacity: u32, erase_bytes: u32) -> Result<Self, Error> {
        if !erase_bytes.is_power_of_two() {
            return Err(Error::Layout);
        }
        let journal_bytes = (RECORD_BYTES_MAX as u32 * 2).next_multiple_of(erase_bytes);
        let slot_align = erase_bytes.max(CHUNK_BYTES as u32);
        let first = journal_bytes
            .checked_mul(2)
            .and_then(|bytes| bytes.checked_next_multiple_of(slot_align))
            .ok_or(Error::Layout)?;
        let slot_bytes = capacity.saturating_sub(first) / 2 / slot_align * slot_align;
        if slot_bytes == 0 {
            return Err(Error::Layout);
        }
        Ok(Self {
            journal: [0, journal_bytes],
            journal_bytes,
            slots: [first, first + slot_bytes],
            slot_bytes,
        })
    }

    /// Checks the layout against a flash.
    ///
    /// # Errors
    /// [`Error::Layout`] when a region is not aligned, overlaps another or ends beyond the flash,
    /// or when the flash's word is larger than 32 bytes or not a power of two.
    pub fn check<S: NorFlash>(&self, flash: &S) -> Result<(), Error> {
        let erase = u32::try_from(S::ERASE_SIZE).map_err(|_| Error::Layout)?;
        let words = [S::WRITE_SIZE, S::READ_SIZE];
        if erase == 0 || words.iter().any(|w| !w.is_power_of_two() || *w > 32) {
            return Err(Error::Layout);
        }
        let regions = [
            (self.journal[0], self.journal_bytes),
            (self.journal[1], self.journal_bytes),
            (self.slots[0], self.slot_bytes),
            (self.slots[1], self.slot_bytes),
        ];
        for (at, &(start, len)) in regions.iter().enumerate() {
            let end = u64::from(start) + u64::from(len);
            let aligned = start.is_multiple_of(erase) && len.is_multiple_of(erase);
            if !aligned || len == 0 || end > flash.capacity() as u64 {
                return Err(Error::Layout);
            }
            let overlaps = |&(other, other_len): &(u32, u32)| {
                u64::from(other) < end && u64::from(start) < u64::from(other) + u64::from(other_len)
            };
            if regions.iter().skip(at + 1).any(overlaps) {
                return Err(Error::Layout);
            }
        }
        let roomy = self.journal_bytes as usize >= RECORD_BYTES_MAX;
        let whole = self.slot_bytes.is_multiple_of(CHUNK_BYTES as u32);
        (roomy && whole).then_some(()).ok_or(Error::Layout)
    }

    /// The bytes of a slot in flash, for boards that execute in place.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> Range<u32> {
        let start = self.slots[slot as usize];
        start..start + self.slot_bytes
    }

    /// Whether `offset` is inside a journal sector.
    ///
    /// A flash that may persist writes out of order (a file behind a page cache) must make all
    /// that came before a write or erase of the journal durable before it begins, and that write
    /// or erase itself durable before it returns. Writes to slots need no order among themselves.
    #[must_use]
    pub fn is_journal(&self, offset: u32) -> bool {
        self.journal
            .iter()
            .any(|&start| offset >= start && offset - start < self.journal_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::ram::RamFlash;

    #[test]
    fn a_split_layout_passes_its_own_check() {
        for capacity in [64 * 1024u32, 100_000, 1 << 20] {
            let flash = RamFlash::<4, 4096>::new(capacity as usize / 4096 * 4096);
            let layout = Layout::split(capacity, 4096).unwrap();
            layout.check(&flash).unwrap();
        }
        assert_eq!(Layout::split(12 * 1024, 4096), Err(Error::Layout));
        assert_eq!(Layout::split(1 << 20, 3000), Err(Error::Layout));
    }

    #[test]
    fn a_bad_layout_is_refused() {
        let flash = RamFlash::<4, 4096>::new(64 * 1024);
        let good = Layout::split(64 * 1024, 4096).unwrap();
        good.check(&flash).unwrap();
        let bad = [
            Layout {
                journal: [0, 0],
                ..good
            },
            Layout {
                journal: [0, 100],
                ..good
            },
            Layout {
                journal_bytes: 0,
                ..good
            },
            Layout {
                slots: [good.slots[0], good.slots[0] + 4096],
                ..good
            },
            Layout {
                slots: [good.slots[0], u32::MAX - 4095],
                ..good
            },
            Layout {
                slot_bytes: good.slot_bytes + 100,
                ..good
            },
        ];
        for layout in bad {
            assert_eq!(layout.check(&flash), Err(Error::Layout), "{layout:?}");
        }
    }

    #[test]
    fn journal_offsets_are_known() {
        let layout = Layout::split(64 * 1024, 4096).unwrap();
        assert!(layout.is_journal(0) && layout.is_journal(2 * layout.journal_bytes - 1));
        assert!(!layout.is_journal(layout.slots[0]));
    }
}
