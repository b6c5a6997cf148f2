//! Flash in memory, for tests.

use crate::board::{Entropy, Flash};
use crate::store::{Map, Store};
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use model::RECORD_BYTES;

pub const ERASE: usize = 4096;

/// The figures that boards have by default.
#[allow(dead_code, reason = "tests need some of its types")]
pub mod model {
    crate::types! { features: 16, outputs: 16, inputs: 1024 }
}

/// Flash in memory that is never freed, and is therefore in the address space for ever.
#[derive(Debug)]
pub struct MemoryFlash {
    start: *mut u8,
    len: usize,
    /// Writes that happen until the power goes.
    pub writes: usize,
    /// A byte that can't be read in place.
    pub unsound: Option<u32>,
}

impl MemoryFlash {
    pub fn blank(len: usize) -> Self {
        let start = Box::leak(vec![0xFF; len].into_boxed_slice()).as_mut_ptr();
        Self {
            start,
            len,
            writes: usize::MAX,
            unsound: None,
        }
    }

    #[allow(unsafe_code)]
    fn at(&mut self, offset: u32, len: usize) -> &mut [u8] {
        // SAFETY: the caller checked the range, and whoever has a part of it mapped promised that
        // nobody writes there.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(offset as usize), len) }
    }
}

/// A store of 256 KiB that is never freed.
pub fn store() -> &'static Store<MemoryFlash> {
    store_of(MemoryFlash::blank(256 * 1024))
}

pub fn store_of(flash: MemoryFlash) -> &'static Store<MemoryFlash> {
    let map = Map::new(flash.len as u32, ERASE as u32, 4, RECORD_BYTES).unwrap();
    Box::leak(Box::new(Store::new(flash, map)))
}

/// Bytes that count up.
pub struct Counting(pub u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
    }
}

impl Flash for MemoryFlash {
    fn is_sound(&self, offset: u32, len: u32) -> bool {
        let range = offset..offset + len;
        !self.unsound.is_some_and(|at| range.contains(&at))
    }

    #[allow(unsafe_code)]
    unsafe fn mapped(&self, offset: u32, len: u32) -> &'static [u8] {
        assert!(offset as usize + len as usize <= self.len && self.is_sound(offset, len));
        // SAFETY: in memory that is never freed; the caller promises that nobody writes there.
        unsafe { core::slice::from_raw_parts(self.start.add(offset as usize), len as usize) }
    }
}

impl ErrorType for MemoryFlash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for MemoryFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        bytes.copy_from_slice(self.at(offset, bytes.len()));
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.len
    }
}

impl NorFlash for MemoryFlash {
    const WRITE_SIZE: usize = 8;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        self.at(from, (to - from) as usize).fill(0xFF);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        if self.writes == 0 {
            return Err(NorFlashErrorKind::Other);
        }
        self.writes -= 1;
        let held = self.at(offset, bytes.len());
        if held
            .iter()
            .zip(bytes)
            .any(|(held, byte)| held & byte != *byte)
        {
            return Err(NorFlashErrorKind::Other);
        }
        held.copy_from_slice(bytes);
        Ok(())
    }
}
