//! The flash of a board on the bench, and those of worse designs.

use crc::{CRC_32_ISO_HDLC, Crc};
use edgeward::slots::ram::{RamError, RamFlash};
use edgeward::slots::{Layout, Slot};
use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use std::cell::RefCell;
use std::rc::Rc;

/// A worse design, by what its flash does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// None: the flash is honest.
    None,
    /// Both journal sectors are one, erased before it is written.
    OneJournalSector,
    /// The journal's CRC always holds.
    NoCrc,
    /// Both slots are one.
    OneSlot,
}

/// The flash of a board, shared with the hand that cuts its power.
#[derive(Clone)]
pub struct Bench<const W: usize, const E: usize> {
    pub ram: Rc<RefCell<RamFlash<W, E>>>,
    pub layout: Layout,
    pub mutant: Mutant,
}

impl<const W: usize, const E: usize> Bench<W, E> {
    pub fn moved(&self, offset: u32) -> u32 {
        let [first, second] = self.layout.journal;
        match self.mutant {
            Mutant::OneJournalSector
                if (second..second + self.layout.journal_bytes).contains(&offset) =>
            {
                offset - second + first
            }
            Mutant::OneSlot if self.layout.slot(Slot::B).contains(&offset) => {
                offset - self.layout.slots[1] + self.layout.slots[0]
            }
            _ => offset,
        }
    }
}

impl<const W: usize, const E: usize> ErrorType for Bench<W, E> {
    type Error = RamError;
}

impl<const W: usize, const E: usize> ReadNorFlash for Bench<W, E> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), RamError> {
        self.ram.borrow_mut().read(self.moved(offset), bytes)?;
        let record = self.mutant == Mutant::NoCrc && bytes.starts_with(b"EWJ1");
        if record && self.layout.is_journal(offset) {
            let payload = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
            let total = (payload + 16).next_multiple_of(32);
            if bytes.len() == total {
                let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(&bytes[..total - 4]);
                bytes[total - 4..].copy_from_slice(&crc.to_le_bytes());
            }
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.ram.borrow().capacity()
    }
}

impl<const W: usize, const E: usize> NorFlash for Bench<W, E> {
    const WRITE_SIZE: usize = W;
    const ERASE_SIZE: usize = E;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), RamError> {
        let moved = self.moved(from);
        self.ram.borrow_mut().erase(moved, moved + (to - from))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), RamError> {
        self.ram.borrow_mut().write(self.moved(offset), bytes)
    }
}
