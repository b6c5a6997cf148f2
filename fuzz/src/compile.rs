//! What a model file is put through: import, compile, verify, and one run of what was accepted.

use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::{Options, compile};
use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Steps and bytes beyond which a compiled program is not run: a run takes the time it states.
const PATIENCE: u64 = 1 << 20;
/// Bytes that the compilation of a file may hold at once: a file of 32 KiB that takes more is a bomb.
const MEMORY: usize = 512 << 20;

/// Compiles a file for both layouts and both plans; runs what comes of it, and compares what comes of that.
pub fn compile_and_run(bytes: &[u8]) {
    let natural = Options::mcu(Layout::Natural);
    let mut first = None;
    for options in [natural, Options::mcu(Layout::CortexM), Options::linux()] {
        let compiled = match compile(bytes, &options) {
            Ok(compiled) => compiled,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        // Where an arena is too large to run, the others' need not be.
        let Some(output) = run(&compiled.program) else {
            continue;
        };
        let first = first.get_or_insert_with(|| output.clone());
        assert_eq!(*first, output, "{options:?} computes something else");
    }
}

/// Seeds of an importer, of which at least two in three compile: a fuzzer that begins with refusals stays at the
/// parser.
pub fn accepted(seeds: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let compiles = |seed: &&Vec<u8>| compile(seed, &Options::linux()).is_ok();
    let count = seeds.iter().filter(compiles).count();
    eprintln!("{count} of {} seeds compile", seeds.len());
    assert!(count * 3 >= seeds.len() * 2);
    seeds
}

/// The output of a program on an input of many values; `None` where a run would take too long.
fn run(bytes: &[u8]) -> Option<Vec<i8>> {
    let bytes = Aligned::copy_of(bytes);
    let program = Program::verify(bytes.as_ref()).expect("the compiler verified it");
    let header = *program.header();
    if program.work() > PATIENCE || u64::from(header.arena_bytes) > PATIENCE {
        return None;
    }
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let arena = arena.as_mut();
    let input = &mut arena[header.input as usize..][..header.input_len as usize];
    for (at, element) in input.iter_mut().enumerate() {
        *element = (at * 37) as i8;
    }
    let run = program.run(&mut Portable, arena);
    run.expect("an arena as long and aligned as the program states");
    Some(arena[header.output as usize..][..header.output_len as usize].to_vec())
}

/// The system's allocator, which ends the process where [`MEMORY`] does not do: libFuzzer sees only
/// what is touched, and only now and then.
pub struct Limited;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        if HELD.fetch_add(memory.size(), Ordering::Relaxed) + memory.size() > MEMORY {
            HELD.store(0, Ordering::Relaxed);
            panic!("{} more bytes are wanted", memory.size());
        }
        // SAFETY: as the caller promised.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        HELD.fetch_sub(memory.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, memory) }
    }
}
