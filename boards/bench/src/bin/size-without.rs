//! What an image takes without the engine.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

#[path = "../size.rs"]
mod size;

use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    let (program, arena) = size::memory();
    // The compiler's memory functions, which every image has.
    let (count, other) = (program.len(), core::hint::black_box([1_i8; 64]));
    arena.fill(0);
    arena.copy_within(..count, count);
    arena[..64].copy_from_slice(&other);
    core::hint::black_box(size::verified());
    size::end(program.len() > arena.len())
}
