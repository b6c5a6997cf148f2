//! How this firmware ends itself: a record in memory that a reset leaves alone, and a reset.

use crate::host;
use core::mem::MaybeUninit;
use cortex_m::peripheral::SCB;
use edgeward::telemetry::Crash;
use edgeward_mcu::{CrashRecord, board};

/// Not cleared at the start; holds anything after power on.
#[unsafe(link_section = ".uninit.crash")]
static mut RECORD: MaybeUninit<CrashRecord> = MaybeUninit::uninit();

fn record() -> *mut CrashRecord {
    (&raw mut RECORD).cast()
}

/// The board's reset, and the record. There is one: it goes to the one task that starts the application.
pub struct Power;

impl board::Power for Power {
    fn crash(&self) -> CrashRecord {
        // SAFETY: only handlers write it, and those end this boot. Any four words are a record.
        unsafe { record().read_volatile() }
    }

    fn forget_crash(&mut self) {
        // SAFETY: as above.
        unsafe { record().write_volatile(CrashRecord::NONE) };
    }

    fn restart(&mut self) -> ! {
        cortex_m::interrupt::disable();
        reset()
    }
}

/// Leaves a record and starts the board again.
pub fn end(crash: CrashRecord) -> ! {
    cortex_m::interrupt::disable();
    // SAFETY: nothing else runs any more.
    unsafe { record().write_volatile(crash) };
    cortex_m::asm::dsb();
    reset()
}

fn reset() -> ! {
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
    end(CrashRecord::new(Crash::Watchdog, pc))
}
