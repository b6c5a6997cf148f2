//! As `size-without`, with everything that verifies a program and runs it.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

#[path = "../size.rs"]
mod size;

use cortex_m_rt::entry;
use edgeward::program::Program;
use edgeward::program::kernels::cortex_m::CortexM;

#[entry]
fn main() -> ! {
    let (program, arena) = size::memory();
    let (count, other) = (program.len(), core::hint::black_box([1_i8; 64]));
    arena.fill(0);
    arena.copy_within(..count, count);
    arena[..64].copy_from_slice(&other);
    core::hint::black_box(size::verified());
    let done = Program::verify(program).is_ok_and(|it| it.run(&mut CortexM, arena).is_ok());
    size::end(done)
}
