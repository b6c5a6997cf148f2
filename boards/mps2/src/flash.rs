//! NOR flash in a file of the host, with a copy in the address space.
//!
//! The file keeps what it holds when QEMU ends. The copy in PSRAM stands for memory-mapped flash, in which
//! programs run. Rules are those of NOR flash: sectors are erased to ones, writes only clear bits, in
//! whole words.

use crate::host::File;
use edgeward_mcu::board::Flash;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read,
    check_write,
};

/// Bytes of a sector.
pub const ERASE_BYTES: u32 = 4096;
/// Bytes of a word.
pub const WRITE_BYTES: u32 = 8;

/// Why the flash did not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlashError {
    /// Not aligned, or beyond the end.
    Place(NorFlashErrorKind),
    /// A write would set a bit that is clear.
    NotErased,
    /// The host's file failed.
    Host,
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Place(kind) => *kind,
            Self::NotErased | Self::Host => NorFlashErrorKind::Other,
        }
    }
}

impl From<NorFlashErrorKind> for FlashError {
    fn from(kind: NorFlashErrorKind) -> Self {
        Self::Place(kind)
    }
}

/// The flash.
pub struct HostFlash {
    file: File,
    capacity: usize,
    /// Where the copy is: the board's PSRAM, of which the linker knows nothing.
    copy: *mut u8,
}

impl HostFlash {
    /// Opens `flash.bin`, with its copy at this address; a file of another size is none.
    pub fn open(bytes: u32, copy: u32) -> Option<Self> {
        let start = copy as usize as *mut u8;
        let capacity = bytes as usize;
        let mut file = File::update("flash.bin\0")?;
        if file.len() != capacity {
            return None;
        }
        // SAFETY: the board has this memory, and nothing refers to it yet.
        let copy = unsafe { core::slice::from_raw_parts_mut(start, capacity) };
        (file.read(copy) == copy.len()).then_some(Self {
            file,
            capacity,
            copy: start,
        })
    }

    fn put(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        if !self.file.seek(offset as usize) || !self.file.write(bytes) {
            return Err(FlashError::Host);
        }
        // SAFETY: in the copy, as the caller checked; whoever has a part of it mapped promised that it is
        // not written.
        unsafe {
            let to = self.copy.add(offset as usize);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        Ok(())
    }
}

impl Flash for HostFlash {
    unsafe fn mapped(&self, offset: u32, len: u32) -> &'static [u8] {
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts(self.copy.add(offset as usize), len as usize) }
    }
}

impl ErrorType for HostFlash {
    type Error = FlashError;
}

impl ReadNorFlash for HostFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        check_read(self, offset, bytes.len())?;
        // SAFETY: in the copy, and `bytes` is not.
        unsafe {
            let from = self.copy.add(offset as usize);
            core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

impl NorFlash for HostFlash {
    const WRITE_SIZE: usize = WRITE_BYTES as usize;
    const ERASE_SIZE: usize = ERASE_BYTES as usize;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        check_erase(self, from, to)?;
        let blank = [0xFF; 256];
        for offset in (from..to).step_by(blank.len()) {
            self.put(offset, &blank)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        check_write(self, offset, bytes.len())?;
        for (at, &byte) in (offset as usize..).zip(bytes) {
            // SAFETY: in the copy.
            let held = unsafe { self.copy.add(at).read() };
            if held & byte != byte {
                return Err(FlashError::NotErased);
            }
        }
        self.put(offset, bytes)
    }
}
