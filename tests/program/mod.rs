//! What the tests of programs share: builders, a second writing of every operator, and one suite
//! that every implementation of [`Kernels`] goes through.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod build;
pub mod drafts;
pub mod reference;

use build::{Case, Place, Random};
use edgeward::program::{Aligned, Kernels, Layout, Program};

/// Bytes of memory on both sides of an arena that no kernel may write.
const GUARD: usize = 256;

/// Runs a case and compares the output, and everything that must have stayed as it was.
pub fn check<K: Kernels>(case: &Case, kernels: &mut K, seed: u64) -> Result<(), String> {
    let program = Program::verify(case.program.as_ref()).map_err(|error| format!("{error:?}"))?;
    let mut random = Random(seed);
    // The arena lies between guards, which kernels that use pointers could reach.
    let mut memory = Aligned::<i8>::zeros(GUARD + case.arena_bytes + GUARD);
    memory.as_mut().fill_with(|| random.next() as i8);
    for (offset, values) in &case.inputs {
        let start = GUARD + *offset as usize;
        memory.as_mut()[start..][..values.len()].copy_from_slice(values);
    }
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

/// The conformance suite for one kind of operator: `cases` random operators, each with its tensors
/// apart, as close as the layout allows, and with the second operand on the output.
///
/// A set of kernels passes when every output equals the second writing bit for bit and no other byte
/// of the arena changes. `make` is called for each program: an engine may pack its weights there.
pub fn conforms<K: Kernels>(
    kind: &str,
    layout: Layout,
    sizes: std::ops::RangeInclusive<u16>,
    cases: u64,
    make: impl Fn(&Program<'_>) -> K,
) {
    for seed in 0..cases {
        for size in sizes.clone() {
            for place in [Place::Disjoint, Place::Tight(0), Place::Second] {
                let mut random = Random(seed << 16 | u64::from(size));
                let draft = drafts::draft(kind, layout, size, &mut random);
                let op = draft.op;
                let case = draft.place(layout, place);
                let program = Program::verify(case.program.as_ref());
                let program = program.unwrap_or_else(|error| panic!("{error:?} in {op:?}"));
                if let Err(error) = check(&case, &mut make(&program), seed) {
                    panic!("{kind}, seed {seed}, size {size}, {place:?}: {error}\n{op:?}");
                }
            }
        }
    }
}
