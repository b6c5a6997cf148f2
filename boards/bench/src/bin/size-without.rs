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
    arena.fill(0);
    size::end(program.len() > arena.len())
}
