//! The board's flash: where everything lies in it, and who may write where.

use crate::board::Flash;
use core::cell::RefCell;
use core::sync::atomic::{AtomicU8, Ordering};
use edgeward::slots::{self, Layout, Slot};
use edgeward::telemetry::outbox::{MAX_SECTORS, Region, SECTOR_OVERHEAD};
use edgeward_firmware::provisioning::PROVISIONING_BYTES;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// Where everything lies: provisioning, the device's key, the outbox, journal and slots, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Bytes of the host's provisioning at offset 0, a multiple of the erase size.
    pub provisioning_bytes: u32,
    /// Where the sector of the device's key begins.
    pub key: u32,
    /// The outbox.
    pub outbox: Region,
    /// Journal and slots.
    pub slots: Layout,
}

impl Map {
    /// Divides a flash of `capacity` bytes, erased `erase_bytes` at a time; the slots get all that an
    /// outbox of `outbox_sectors` leaves, each of which holds a record of `record_bytes`
    /// ([`record_bytes`](crate::record_bytes)) at least.
    ///
    /// # Errors
    /// [`slots::Error::Layout`] when it is too small for a chunk a slot, or the outbox has fewer than
    /// three sectors or too many.
    pub fn new(
        capacity: u32,
        erase_bytes: u32,
        outbox_sectors: u16,
        record_bytes: usize,
    ) -> Result<Self, slots::Error> {
        let fits = (3..=MAX_SECTORS).contains(&usize::from(outbox_sectors));
        if !fits || !erase_bytes.is_power_of_two() {
            return Err(slots::Error::Layout);
        }
        let provisioning_bytes = (PROVISIONING_BYTES as u32).next_multiple_of(erase_bytes);
        let key = provisioning_bytes;
        let sector_bytes = ((record_bytes + SECTOR_OVERHEAD) as u32).next_multiple_of(erase_bytes);
        let outbox = Region {
            offset: key + erase_bytes,
            sector_bytes,
            sectors: outbox_sectors,
        };
        let begin = outbox.offset + sector_bytes * u32::from(outbox_sectors);
        let rest = capacity.checked_sub(begin).ok_or(slots::Error::Layout)?;
        let mut slots = Layout::split(rest, erase_bytes)?;
        for offset in slots.journal.iter_mut().chain(&mut slots.slots) {
            *offset += begin;
        }
        Ok(Self {
            provisioning_bytes,
            key,
            outbox,
            slots,
        })
    }
}

/// Why flash was not read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// The flash said so.
    Flash(NorFlashErrorKind),
    /// A release in that slot is in use, or only the host writes there.
    InUse,
}

impl NorFlashError for StoreError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Flash(kind) => *kind,
            Self::InUse => NorFlashErrorKind::Other,
        }
    }
}

/// The flash, shared by slots, outbox and key, and what runs in it.
///
/// A slot that somebody holds is neither written nor erased, whatever is asked: what runs in place
/// never changes under it.
#[derive(Debug)]
pub struct Store<F> {
    flash: RefCell<F>,
    map: Map,
    held: [AtomicU8; 2],
}

impl<F: Flash> Store<F> {
    /// A flash that is divided as `map` says.
    pub const fn new(flash: F, map: Map) -> Self {
        Self {
            flash: RefCell::new(flash),
            map,
            held: [const { AtomicU8::new(0) }; 2],
        }
    }

    /// Where everything lies.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// What the host wrote; nothing where it can't be read.
    pub fn provisioning(&'static self) -> &'static [u8] {
        let flash = self.flash.borrow();
        let len = PROVISIONING_BYTES as u32;
        if !flash.is_sound(0, len) {
            return &[];
        }
        // SAFETY: the map was made for this flash, the range is sound, and `may_write` refuses it for ever.
        #[allow(unsafe_code)]
        unsafe {
            flash.mapped(0, len)
        }
    }

    /// The first `len` bytes of a slot, which stay as they are until this is dropped; nothing where they are more
    /// than it has, or can't be read.
    pub fn hold(&'static self, slot: Slot, len: u32) -> Option<Held> {
        if len > self.map.slots.slot_bytes {
            return None;
        }
        let held = &self.held[slot as usize];
        held.fetch_add(1, Ordering::AcqRel);
        let start = self.map.slots.slot(slot).start;
        let flash = self.flash.borrow();
        if !flash.is_sound(start, len) {
            held.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        // SAFETY: the range is in the slot and sound, and `may_write` refuses it while the count is not 0, which
        // it is until the `Held` that the slice is in is dropped.
        #[allow(unsafe_code)]
        let bytes = unsafe { flash.mapped(start, len) };
        Some(Held { bytes, held })
    }

    /// The power is back.
    #[cfg(test)]
    pub(crate) fn power_on(&self)
    where
        F: core::borrow::BorrowMut<crate::testing::MemoryFlash>,
    {
        let mut flash = self.flash.borrow_mut();
        core::borrow::BorrowMut::borrow_mut(&mut *flash).writes = usize::MAX;
    }

    fn may_write(&self, from: u32, to: u32) -> Result<(), StoreError> {
        let overlaps = |start: u32, end: u32| from < end && to > start;
        let in_use = Slot::ALL.into_iter().any(|slot| {
            let range = self.map.slots.slot(slot);
            let held = self.held[slot as usize].load(Ordering::Acquire) > 0;
            held && overlaps(range.start, range.end)
        });
        if in_use || overlaps(0, self.map.provisioning_bytes) {
            return Err(StoreError::InUse);
        }
        Ok(())
    }
}

/// A release in place: its bytes can't change while this lives.
#[derive(Debug)]
pub struct Held {
    bytes: &'static [u8],
    held: &'static AtomicU8,
}

impl Held {
    /// The bytes; whoever keeps them keeps the `Held` as well.
    pub(crate) fn bytes(&self) -> &'static [u8] {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A handle to the flash that slots and outbox take for their own.
#[derive(Debug)]
pub struct StoreFlash<F: 'static>(pub &'static Store<F>);

impl<F: Flash> ErrorType for StoreFlash<F> {
    type Error = StoreError;
}

fn failed<E: NorFlashError>(error: E) -> StoreError {
    StoreError::Flash(error.kind())
}

impl<F: Flash> ReadNorFlash for StoreFlash<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), StoreError> {
        let mut flash = self.0.flash.borrow_mut();
        flash.read(offset, bytes).map_err(failed)
    }

    fn capacity(&self) -> usize {
        self.0.flash.borrow().capacity()
    }
}

impl<F: Flash> NorFlash for StoreFlash<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), StoreError> {
        self.0.may_write(from, to)?;
        let mut flash = self.0.flash.borrow_mut();
        flash.erase(from, to).map_err(failed)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), StoreError> {
        let end = offset.saturating_add(bytes.len() as u32);
        self.0.may_write(offset, end)?;
        let mut flash = self.0.flash.borrow_mut();
        flash.write(offset, bytes).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::model::RECORD_BYTES;
    use crate::testing::{ERASE, MemoryFlash, store};

    #[test]
    fn regions_are_aligned_and_apart() {
        for (capacity, erase, sectors) in [(1 << 20, 4096, 8), (2 << 20, 131_072, 3)] {
            let map = Map::new(capacity, erase, sectors, RECORD_BYTES).unwrap();
            let (outbox, slots) = (map.outbox, map.slots);
            let mut regions = [
                (0, map.provisioning_bytes),
                (map.key, erase),
                (
                    outbox.offset,
                    outbox.sector_bytes * u32::from(outbox.sectors),
                ),
                (slots.journal[0], slots.journal_bytes),
                (slots.journal[1], slots.journal_bytes),
                (slots.slots[0], slots.slot_bytes),
                (slots.slots[1], slots.slot_bytes),
            ];
            regions.sort();
            let mut end = 0;
            for (start, bytes) in regions {
                assert!(start >= end && start % erase == 0 && bytes % erase == 0);
                end = start + bytes;
            }
            assert!(end <= capacity);
        }
        assert_eq!(
            Map::new(64 * 1024, 4096, 2, RECORD_BYTES),
            Err(slots::Error::Layout)
        );
        assert_eq!(
            Map::new(20 * 1024, 4096, 3, RECORD_BYTES),
            Err(slots::Error::Layout)
        );
        assert_eq!(
            Map::new(1 << 20, 3000, 8, RECORD_BYTES),
            Err(slots::Error::Layout)
        );
    }

    #[test]
    fn what_is_in_use_is_not_written() {
        let store = store();
        let mut flash = StoreFlash(store);
        let slot = store.map().slots.slot(Slot::B);
        let (first, last) = (slot.start, slot.end - 8);
        flash.write(first, &[1; 8]).unwrap();
        let held = store.hold(Slot::B, 16).unwrap();
        let again = store.hold(Slot::B, 16).unwrap();
        assert_eq!(held.bytes()[..9], [1, 1, 1, 1, 1, 1, 1, 1, 0xFF]);
        for held in [held, again] {
            assert_eq!(flash.write(last, &[0; 8]), Err(StoreError::InUse));
            // A range that only ends in it, too.
            let erase = flash.erase(first - ERASE as u32, first + ERASE as u32);
            assert_eq!(erase, Err(StoreError::InUse));
            let other = store.map().slots.slot(Slot::A).start;
            assert_eq!(flash.write(other, &[0; 8]), Ok(()));
            flash.erase(other, other + ERASE as u32).unwrap();
            drop(held);
        }
        assert_eq!(flash.write(last, &[0; 8]), Ok(()));
        assert!(store.hold(Slot::A, slot.end - slot.start + 1).is_none());
    }

    #[test]
    fn what_would_end_in_a_fault_is_not_read_in_place() {
        let mut flash = MemoryFlash::blank(256 * 1024);
        let slot = store().map().slots.slot(Slot::B);
        flash.unsound = Some(slot.start + 64);
        let store = crate::testing::store_of(flash);
        assert!(store.hold(Slot::B, 64).is_some());
        assert!(store.hold(Slot::B, 65).is_none());
        assert!(store.hold(Slot::A, 65).is_some());
        // What is not held is written.
        let mut flash = StoreFlash(store);
        assert_eq!(flash.write(slot.start, &[0; 8]), Ok(()));
        assert_eq!(store.provisioning().len(), PROVISIONING_BYTES);
        let mut flash = MemoryFlash::blank(256 * 1024);
        flash.unsound = Some(8);
        assert!(crate::testing::store_of(flash).provisioning().is_empty());
    }

    #[test]
    fn only_the_host_provisions() {
        let store = crate::testing::store_of(MemoryFlash::blank(256 * 1024));
        let mut flash = StoreFlash(store);
        assert_eq!(flash.write(0, &[0; 8]), Err(StoreError::InUse));
        assert_eq!(flash.erase(0, ERASE as u32), Err(StoreError::InUse));
        assert_eq!(store.provisioning().len(), PROVISIONING_BYTES);
    }
}
