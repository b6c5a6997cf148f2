//! The record of a crash, in memory that a reset leaves alone.

use core::mem::MaybeUninit;
use edgeward::telemetry::Crash;
use edgeward_mcu::{CrashRecord, board};

/// The record, and behind it room for one more write: some memory keeps the last one in a buffer, which a
/// reset loses.
struct Kept {
    record: CrashRecord,
    after: CrashRecord,
}

/// Not cleared at the start; holds anything after power on.
#[unsafe(link_section = ".uninit.crash")]
static mut KEPT: MaybeUninit<Kept> = MaybeUninit::uninit();

fn kept() -> *mut Kept {
    (&raw mut KEPT).cast()
}

fn read() -> CrashRecord {
    // SAFETY: only this module refers to it. Any four words are a record.
    unsafe { (&raw const (*kept()).record).read_volatile() }
}

fn write(record: CrashRecord) {
    // SAFETY: as above. Who writes is the one task that starts the application, or ends this boot.
    unsafe {
        (&raw mut (*kept()).record).write_volatile(record);
        cortex_m::asm::dsb();
        (&raw mut (*kept()).after).write_volatile(CrashRecord::NONE);
    }
    cortex_m::asm::dsb();
}

/// The watchdog bit the boot before, as its hardware says; a record that this boot left itself says more.
pub fn note_watchdog() {
    if read().read().is_none() {
        write(CrashRecord::new(Crash::Watchdog, 0));
    }
}

/// The board's reset, and the record. There is one: it goes to the one task that starts the application.
pub struct Power {
    /// Resets the chip.
    pub reset: fn() -> !,
}

impl board::Power for Power {
    fn crash(&self) -> CrashRecord {
        read()
    }

    fn forget_crash(&mut self) {
        write(CrashRecord::NONE);
    }

    fn restart(&mut self) -> ! {
        cortex_m::interrupt::disable();
        (self.reset)()
    }
}

/// Leaves a record and resets.
pub fn end(crash: CrashRecord, reset: fn() -> !) -> ! {
    cortex_m::interrupt::disable();
    write(crash);
    reset()
}

/// What a fault at this address is: in a lean image a panic is an instruction that is undefined, the one with
/// which a program gives itself up.
#[must_use]
pub fn fault(pc: u32) -> CrashRecord {
    /// `udf #254`, which the compiler traps with.
    const GIVEN_UP: u16 = 0xDEFE;
    unsafe extern "C" {
        static __stext: u8;
        static __etext: u8;
    }
    // Should the read below fault again, this is what is left.
    write(CrashRecord::new(Crash::Fault, pc));
    let code = (&raw const __stext) as u32..(&raw const __etext) as u32;
    // SAFETY: the linker has code there, and instructions are aligned to two bytes.
    let is_panic = code.contains(&pc)
        && pc.is_multiple_of(2)
        && unsafe { (pc as *const u16).read_volatile() } == GIVEN_UP;
    let how = if is_panic { Crash::Panic } else { Crash::Fault };
    CrashRecord::new(how, pc)
}
