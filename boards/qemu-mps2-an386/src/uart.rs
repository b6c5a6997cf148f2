//! Lines for people, on UART 0.

use core::fmt::{self, Arguments, Write};
use embassy_time::Instant;

const UART: *mut u32 = 0x4000_4000 as *mut u32;
/// Registers, in words.
const DATA: usize = 0;
const STATE: usize = 1;
const CTRL: usize = 2;
const BAUDDIV: usize = 4;
/// The transmitter's buffer is full.
const FULL: u32 = 1;

/// Switches the transmitter on.
pub fn start() {
    // SAFETY: registers of the UART, which only this module uses.
    unsafe {
        UART.add(BAUDDIV).write_volatile(16);
        UART.add(CTRL).write_volatile(1);
    }
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: as above.
            unsafe {
                while UART.add(STATE).read_volatile() & FULL != 0 {}
                UART.add(DATA).write_volatile(u32::from(byte));
            }
        }
        Ok(())
    }
}

/// Writes a line with the time since power on.
pub fn line(text: Arguments<'_>) {
    let ms = Instant::now().as_millis();
    critical_section::with(|_| {
        // The UART takes everything.
        let _ = writeln!(Uart, "{}.{:03} {text}", ms / 1000, ms % 1000);
    });
}
