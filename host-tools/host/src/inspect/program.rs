//! A program, readable: its operators, and what its arena holds.

use crate::pack::PeakTensor;
use edgeward::program::Program;
use edgeward_compiler::listing::{Listing, rows};
use edgeward_compiler::memory::{Tensor, memory};
use serde::Serialize;

/// One operator of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the columns of the listing, under their names")]
pub struct OperatorSection {
    pub kind: &'static str,
    pub input: String,
    pub output: String,
    pub detail: String,
    pub arena: String,
    pub macs: u64,
    /// What a Cortex-M4 is predicted to take; none of a program in another layout.
    pub predicted_instructions: Option<u64>,
}

/// A program's arena, as it is found from the program alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemorySection {
    /// Its bytes.
    pub arena_bytes: u64,
    /// What no plan can do without.
    pub bound_bytes: u64,
    /// What is alive at once where nothing overlaps.
    pub live_bytes: u64,
    /// The operator at which most is alive.
    pub peak_operator: usize,
    /// What is alive there, the largest first.
    pub peak: Vec<PeakTensor>,
}

/// A program as lines for people.
pub fn lines(program: &Program<'_>) -> Vec<String> {
    let listing = Listing(program).to_string();
    listing.lines().map(str::to_owned).collect()
}

/// A program's operators.
pub fn operators(program: &Program<'_>) -> Vec<OperatorSection> {
    let section = |row: edgeward_compiler::listing::Row| OperatorSection {
        kind: row.kind,
        input: row.input,
        output: row.output,
        detail: row.detail,
        arena: row.arena,
        macs: row.macs,
        predicted_instructions: row.instructions,
    };
    rows(program).into_iter().map(section).collect()
}

impl MemorySection {
    /// That of a program.
    pub fn of(program: &Program<'_>) -> Self {
        let memory = memory(program);
        Self {
            arena_bytes: memory.arena_bytes,
            bound_bytes: memory.bound_bytes,
            live_bytes: memory.live_bytes,
            peak_operator: memory.peak_operator,
            peak: memory.peak.iter().map(PeakTensor::of).collect(),
        }
    }
}

impl PeakTensor {
    /// That of a plan.
    pub(crate) fn of(tensor: &Tensor) -> Self {
        Self {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes,
        }
    }
}
