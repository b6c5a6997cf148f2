//! What the tests of programs share: a generator of random operators and chains of them, a second
//! writing of every operator, the suite that every engine goes through, the kernels that it must reach, and the list of
//! engines.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod build;
pub mod chains;
pub mod drafts;
pub mod engines;
pub mod kernels;
pub mod reference;
pub mod suite;

use build::{Case, Random};
use edgeward::program::{Aligned, Kernels, Program};

/// Bytes of memory on both sides of an arena that no kernel may write.
const GUARD: usize = 256;

/// Runs a case and compares the output, and everything that must have stayed as it was.
pub fn check<K: Kernels>(case: &Case, kernels: &mut K) -> Result<(), String> {
    let program = Program::verify(case.program.as_ref()).map_err(|error| format!("{error:?}"))?;
    let mut random = Random(case.arena_bytes as u64);
    // The arena lies between guards, which kernels that use pointers could reach.
    let mut memory = Aligned::<i8>::zeros(GUARD + case.arena_bytes + GUARD);
    memory.as_mut().fill_with(|| random.next() as i8);
    memory.as_mut()[GUARD..][..case.arena_bytes].copy_from_slice(&case.memory);
    let before = memory.clone();
    let arena = &mut memory.as_mut()[GUARD..][..case.arena_bytes];
    let run = program.run(kernels, arena);
    run.map_err(|error| format!("{error:?}"))?;
    let output = GUARD + case.output as usize;
    let output = output..output + case.expected.len();
    let got = &memory.as_ref()[output.clone()];
    if let Some(at) = (0..got.len()).find(|&at| got[at] != case.expected[at]) {
        let (got, want) = (got[at], case.expected[at]);
        return Err(format!(
            "element {at} of {}: {got}, not {want}",
            case.expected.len()
        ));
    }
    let (start, bytes) = (GUARD + case.scratch.0 as usize, case.scratch.1 as usize);
    let scratch = start..start + bytes;
    let pairs = memory.as_ref().iter().zip(before.as_ref()).enumerate();
    for (at, (after, before)) in pairs {
        if after != before && !output.contains(&at) && !scratch.contains(&at) {
            return Err(format!("byte {at}, outside {output:?}, was written"));
        }
    }
    Ok(())
}
