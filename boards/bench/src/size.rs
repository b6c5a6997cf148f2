//! Memory that the compiler knows nothing of.

use edgeward::program::Program;

/// A program and an arena somewhere.
pub fn memory() -> (&'static [u8], &'static mut [i8]) {
    let places = core::hint::black_box([0x1000_usize, 0x1000, 0x2000_0000, 0x1000]);
    // SAFETY: never run; the board has this memory, and nothing else refers to it.
    unsafe {
        (
            core::slice::from_raw_parts(places[0] as *const u8, places[1]),
            core::slice::from_raw_parts_mut(places[2] as *mut i8, places[3]),
        )
    }
}

/// A program that is verified already.
pub fn verified() -> &'static Program<'static> {
    let place = core::hint::black_box(0x3000_usize);
    // SAFETY: never run; the board has this memory, and nothing writes to it.
    unsafe { &*(place as *const Program<'static>) }
}

/// Keeps what was computed.
pub fn end(done: bool) -> ! {
    core::hint::black_box(done);
    loop {
        cortex_m::asm::nop();
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        cortex_m::asm::nop();
    }
}
