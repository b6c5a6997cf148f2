//! The chip's own flash: the last sector of the first bank, which is only read, and the second bank, which is
//! written while the program runs in the first.
//!
//! The HAL's driver holds interrupts off while a sector is erased, which takes a second or two; this one does
//! not. A word of 32 bytes has a check of its own: where a cut of the power left one that does not hold, the
//! bus would answer with a fault, so that words are read with that fault held back and come as zeros. What is read
//! in place is looked through so before.

use crate::board;
use cortex_m::peripheral::SCB;
use edgeward_mcu::board::Flash;
use embassy_stm32::pac::FLASH;
use embassy_stm32::pac::flash::Bank;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

const WORD: usize = board::STORAGE_WRITE_BYTES as usize;
const SECTOR: u32 = board::STORAGE_ERASE_BYTES;
const ORIGIN: u32 = board::STORAGE_ORIGIN;
const CAPACITY: usize = board::STORAGE_BYTES as usize;
/// Where the second bank begins.
const SECOND: u32 = 0x0810_0000;
/// What opens the control register.
const KEYS: [u32; 2] = [0x4567_0123, 0xCDEF_89AB];
/// Bits of the configuration register: a data access that fails is no fault for a handler of high priority.
const BFHFNMIGN: u32 = 1 << 8;

/// The flash.
pub struct ChipFlash(());

fn bank() -> Bank {
    FLASH.bank(1)
}

/// Waits until the second bank is done, and clears and tells what went wrong.
fn done() -> Result<(), NorFlashErrorKind> {
    let mut state = bank().sr().read();
    while state.bsy() || state.qw() {
        state = bank().sr().read();
    }
    let failed =
        state.wrperr() || state.pgserr() || state.strberr() || state.incerr() || state.operr();
    // A one clears; what reads found is not told of here.
    bank().ccr().write(|w| {
        w.set_clr_eop(true);
        w.set_clr_wrperr(true);
        w.set_clr_pgserr(true);
        w.set_clr_strberr(true);
        w.set_clr_incerr(true);
        w.set_clr_operr(true);
    });
    if failed {
        return Err(NorFlashErrorKind::Other);
    }
    Ok(())
}

/// Opens the control register for as long as `change` takes.
fn unlocked(
    change: impl FnOnce() -> Result<(), NorFlashErrorKind>,
) -> Result<(), NorFlashErrorKind> {
    if bank().cr().read().lock() {
        for key in KEYS {
            bank().keyr().write_value(key);
        }
    }
    let changed = done().and_then(|()| change());
    bank().cr().modify(|w| w.set_lock(true));
    changed
}

impl ChipFlash {
    /// The one flash of the chip.
    pub fn new() -> Self {
        Self(())
    }
}

/// Only the second bank is written.
fn in_second(offset: u32) -> Result<u32, NorFlashErrorKind> {
    let address = ORIGIN + offset;
    match address >= SECOND {
        true => Ok(address),
        false => Err(NorFlashErrorKind::OutOfBounds),
    }
}

/// Clears what a bank's status tells of the checks of words.
fn forget_checks(bank: Bank) {
    bank.ccr().write(|w| {
        w.set_clr_sneccerr(true);
        w.set_clr_dbeccerr(true);
    });
}

/// Reads the bytes of a word that begin at an address; zeros, and false, where the word's check does not hold.
fn read_word(address: u32, to: &mut [u8]) -> bool {
    let bank = match address >= SECOND {
        true => FLASH.bank(1),
        false => FLASH.bank(0),
    };
    // SAFETY: the address is in the flash. The fault is held back for this read alone, while FAULTMASK holds
    // all handlers off, so that what the status tells is of this word.
    let holds = unsafe {
        let scb = &*SCB::PTR;
        core::arch::asm!("cpsid f");
        // What an earlier read found, by whomever, is not of this one.
        forget_checks(bank);
        scb.ccr.modify(|bits| bits | BFHFNMIGN);
        cortex_m::asm::dsb();
        cortex_m::asm::isb();
        for (at, byte) in (address as usize..).zip(to.iter_mut()) {
            *byte = (at as *const u8).read_volatile();
        }
        cortex_m::asm::dsb();
        scb.ccr.modify(|bits| bits & !BFHFNMIGN);
        cortex_m::asm::dsb();
        cortex_m::asm::isb();
        let holds = !bank.sr().read().dbeccerr();
        forget_checks(bank);
        core::arch::asm!("cpsie f");
        holds
    };
    if !holds {
        to.fill(0);
    }
    holds
}

impl Flash for ChipFlash {
    fn is_sound(&self, offset: u32, len: u32) -> bool {
        let mut word = [0; WORD];
        let start = ORIGIN + offset;
        // One byte tells of the whole word.
        let first = start - start % WORD as u32;
        (first..start + len)
            .step_by(WORD)
            .all(|address| read_word(address, &mut word[..1]))
    }

    unsafe fn mapped(&self, offset: u32, len: u32) -> &'static [u8] {
        let start = (ORIGIN + offset) as usize as *const u8;
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
        let mut address = ORIGIN + offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = (WORD - address as usize % WORD).min(rest.len());
            let (word, behind) = rest.split_at_mut(len);
            // Who reads looks at what comes: zeros are no record, and no chunk.
            let _ = read_word(address, word);
            address += len as u32;
            rest = behind;
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }
}

impl NorFlash for ChipFlash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = SECTOR as usize;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        for offset in (from..to).step_by(SECTOR as usize) {
            let sector = (in_second(offset)? - SECOND) / SECTOR;
            unlocked(|| {
                bank().cr().modify(|w| {
                    w.set_ser(true);
                    w.set_snb(sector as u8);
                });
                bank().cr().modify(|w| w.set_start(true));
                let erased = done();
                bank().cr().modify(|w| w.set_ser(false));
                erased
            })?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        for (at, word) in (offset..).step_by(WORD).zip(bytes.chunks_exact(WORD)) {
            let address = in_second(at)?;
            unlocked(|| {
                bank().cr().modify(|w| w.set_pg(true));
                cortex_m::asm::dsb();
                for (at, part) in (address..).step_by(4).zip(word.as_chunks().0) {
                    // SAFETY: in the second bank, which nobody runs from; whoever has a part of it mapped
                    // promised that it is not written.
                    unsafe { (at as usize as *mut u32).write_volatile(u32::from_le_bytes(*part)) };
                }
                cortex_m::asm::dsb();
                let written = done();
                bank().cr().modify(|w| w.set_pg(false));
                written
            })?;
        }
        Ok(())
    }
}
