//! The CMSDK watchdog: its first end is a non-maskable interrupt, its second a reset.

use edgeward_mcu::board;

const WATCHDOG: *mut u32 = 0x4000_8000 as *mut u32;
/// Registers, in words.
const LOAD: usize = 0;
const CONTROL: usize = 2;
const CLEAR: usize = 3;
const LOCK: usize = 0xC00 / 4;
const KEY: u32 = 0x1ACC_E551;
/// Interrupt and reset.
const ARMED: u32 = 0b11;
/// Five seconds of 25 MHz, twice: far longer than any self-test, on a busy host too.
const TICKS: u32 = 5 * 25_000_000;

/// The running watchdog.
pub struct Watchdog(());

fn write(register: usize, value: u32) {
    // SAFETY: a register of the watchdog, which only this module uses.
    unsafe { WATCHDOG.add(register).write_volatile(value) }
}

/// Starts it; nothing stops it but a reset.
pub fn start() -> Watchdog {
    write(LOCK, KEY);
    write(LOAD, TICKS);
    write(CONTROL, ARMED);
    Watchdog(())
}

impl board::Watchdog for Watchdog {
    fn feed(&mut self) {
        write(CLEAR, 1);
    }
}
