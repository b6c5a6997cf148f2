//! Runs programs on a Cortex-M4 in QEMU and counts their instructions exactly; runs the conformance
//! suite.
//!
//! Command line: `run PROGRAM ROWS`, rows being input and expected output one after the other, or
//! `check CASES`, or `work HEAD`, a file with a public key and the head of a release that it signed.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

mod check;
mod count;
mod host;
mod run;
mod work;

use core::fmt::Write as _;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hio};

/// Where programs and rows are loaded: the board's 16 MB of PSRAM.
const PSRAM: *mut u8 = 0x2100_0000 as *mut u8;
const PSRAM_BYTES: usize = 16 << 20;
/// Bytes for rows, at the end of the PSRAM.
const ROW_BYTES: usize = 4 << 20;
/// Bytes of the arena.
const ARENA_BYTES: usize = 1 << 20;

#[repr(align(16))]
struct Arena([i8; ARENA_BYTES]);
static mut ARENA: Arena = Arena([0; ARENA_BYTES]);

/// Memory of a task.
pub struct Memory {
    /// Where a program goes.
    pub program: &'static mut [u8],
    /// Where rows go.
    pub rows: &'static mut [u8],
    /// The arena.
    pub arena: &'static mut [i8],
}

/// Prints a line to the host.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::line(format_args!($($argument)*)) };
}

/// Prints a line.
pub fn line(text: core::fmt::Arguments<'_>) {
    if let Ok(mut out) = hio::hstdout() {
        // A host that does not listen is no reason to stop.
        let _ = writeln!(out, "{text}");
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print!("error {info}");
    exit(false)
}

fn exit(success: bool) -> ! {
    loop {
        debug::exit(if success {
            debug::EXIT_SUCCESS
        } else {
            debug::EXIT_FAILURE
        });
    }
}

#[entry]
fn main() -> ! {
    // SAFETY: the only references to this memory; the PSRAM is behind what the linker uses.
    let memory = unsafe {
        let psram = core::slice::from_raw_parts_mut(PSRAM, PSRAM_BYTES);
        let (program, rows) = psram.split_at_mut(PSRAM_BYTES - ROW_BYTES);
        Memory {
            program,
            rows,
            arena: {
                let arena: *mut [i8; ARENA_BYTES] = &raw mut ARENA.0;
                &mut *arena
            },
        }
    };
    count::start();
    let mut buffer = [0; 512];
    let line = host::command_line(&mut buffer);
    // The first word is the program's name where QEMU gives one.
    let mut words = line
        .split(' ')
        .skip_while(|word| !matches!(*word, "run" | "check" | "work"));
    let done = match (words.next(), words.next(), words.next()) {
        (Some("run"), Some(program), Some(rows)) => run::run(memory, program, rows),
        (Some("check"), Some(cases), _) => check::check(memory, cases),
        (Some("work"), Some(release), _) => work::run(release, memory.rows),
        _ => {
            print!("error usage: run PROGRAM ROWS | check CASES | work HEAD; got {line}");
            false
        }
    };
    exit(done)
}
