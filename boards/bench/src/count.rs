//! Instructions, by the board's timer.
//!
//! Under `-icount shift=10` QEMU lets 1,024 ns pass with each instruction, and the CMSDK timer counts
//! a tick each 40 ns: 25.6 ticks an instruction.

/// The second CMSDK timer: control, value, reload.
const TIMER: *mut u32 = 0x4000_1000 as *mut u32;

/// Starts the timer; it wraps after 168 million instructions.
pub fn start() {
    // SAFETY: the timer's registers, which nothing else uses.
    unsafe {
        TIMER.add(2).write_volatile(u32::MAX);
        TIMER.add(1).write_volatile(u32::MAX);
        TIMER.write_volatile(1);
    }
}

/// The timer's value; it counts down.
#[inline]
pub fn now() -> u32 {
    // SAFETY: the timer's value register.
    unsafe { TIMER.add(1).read_volatile() }
}

/// Instructions between two values.
pub fn between(start: u32, end: u32) -> u32 {
    // One instruction reads the timer.
    let ticks = u64::from(start.wrapping_sub(end));
    (ticks * 40 / 1024).saturating_sub(1) as u32
}
