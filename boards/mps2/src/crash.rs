//! How this firmware ends itself: a record that the next boot reports, and a reset.

use crate::{host, uart};
use cortex_m::peripheral::SCB;
use edgeward::telemetry::Crash;
use edgeward_board::crash;
use edgeward_mcu::CrashRecord;

/// Leaves a record and starts the board again.
pub fn end(crash: CrashRecord) -> ! {
    crash::end(crash, reset)
}

/// Starts the board again.
pub fn reset() -> ! {
    host::close_all();
    SCB::sys_reset()
}

core::arch::global_asm!(
    ".global NonMaskableInt",
    ".type NonMaskableInt, %function",
    ".thumb_func",
    "NonMaskableInt:",
    // Whatever it interrupted has its registers on the main stack.
    "mrs r0, MSP",
    "ldr r0, [r0, #24]",
    "b {watchdog_bit}",
    watchdog_bit = sym watchdog_bit,
);

/// The watchdog's first stage: the loop that feeds it stood at this address.
extern "C" fn watchdog_bit(pc: u32) -> ! {
    uart::text(|text| text.word("watchdog at ").hex(pc));
    end(CrashRecord::new(Crash::Watchdog, pc))
}
