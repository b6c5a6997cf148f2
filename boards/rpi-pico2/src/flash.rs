//! The board's flash: its last megabyte, through which the chip also runs its program.
//!
//! While a sector is erased (45 ms, at most 400) or a page is written, nothing can run from flash: the HAL's
//! driver holds all interrupts off. Inference waits as long.

use crate::board;
use edgeward_mcu::board::Flash;
use embassy_rp::Peri;
use embassy_rp::flash::{Blocking, ERASE_SIZE, Flash as Driver, WRITE_SIZE};
use embassy_rp::peripherals::FLASH;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read,
    check_write,
};

/// All flash of the board.
const WHOLE: usize = 4 << 20;
/// Where it is in the address space.
const BASE: u32 = 0x1000_0000;
const FROM: u32 = board::STORAGE_ORIGIN - BASE;
const CAPACITY: usize = board::STORAGE_BYTES as usize;

const _: () = assert!(board::STORAGE_ERASE_BYTES as usize == ERASE_SIZE);
const _: () = assert!(board::STORAGE_WRITE_BYTES as usize == WRITE_SIZE);
const _: () = assert!(FROM as usize + CAPACITY <= WHOLE);

/// The part of the flash that is not the program's.
pub struct ChipFlash(Driver<'static, FLASH, Blocking, WHOLE>);

impl ChipFlash {
    /// The one flash of the board.
    pub fn new(flash: Peri<'static, FLASH>) -> Self {
        Self(Driver::new_blocking(flash))
    }
}

fn failed(error: embassy_rp::flash::Error) -> NorFlashErrorKind {
    error.kind()
}

impl Flash for ChipFlash {
    unsafe fn mapped(&self, offset: u32, len: u32) -> &'static [u8] {
        let start = (board::STORAGE_ORIGIN + offset) as usize as *const u8;
        // SAFETY: in the flash, and not written, as the caller promises.
        unsafe { core::slice::from_raw_parts(start, len as usize) }
    }
}

impl ErrorType for ChipFlash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for ChipFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        self.0.blocking_read(FROM + offset, bytes).map_err(failed)
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }
}

impl NorFlash for ChipFlash {
    const WRITE_SIZE: usize = WRITE_SIZE;
    const ERASE_SIZE: usize = ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        // One by one, so that what waits runs in between.
        for sector in (from..to).step_by(ERASE_SIZE) {
            let at = FROM + sector;
            self.0
                .blocking_erase(at, at + ERASE_SIZE as u32)
                .map_err(failed)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        self.0.blocking_write(FROM + offset, bytes).map_err(failed)
    }
}
