//! As `size-without`, with everything that runs a program that is verified already, and no verifier: what it has
//! more is the size of executor and kernels, with whatever they call.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

#[path = "../size.rs"]
mod size;

use cortex_m_rt::entry;
use edgeward::program::kernels::cortex_m::CortexM;

#[entry]
fn main() -> ! {
    let (program, arena) = size::memory();
    let (count, other) = (program.len(), core::hint::black_box([1_i8; 64]));
    arena.fill(0);
    arena.copy_within(..count, count);
    arena[..64].copy_from_slice(&other);
    let program = size::verified();
    size::end(program.run(&mut CortexM, arena).is_ok())
}
