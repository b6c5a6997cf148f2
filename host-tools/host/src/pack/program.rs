//! A packed program in short: what it costs, and what sets its memory.

use edgeward::program::{Aligned, Program};
use edgeward_compiler::Compiled;
use serde::Serialize;

/// A program. The field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramReport {
    /// Bytes of the program.
    pub bytes: u64,
    /// Multiplications by weights of an inference.
    pub macs: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// What no plan can do without.
    pub bound_bytes: u64,
    /// What is alive at once where nothing overlaps.
    pub live_bytes: u64,
    /// What a greedy plan takes.
    pub greedy_bytes: u64,
    /// The operator at which most is alive.
    pub peak_operator: usize,
    /// What is alive there, the largest first.
    pub peak: Vec<PeakTensor>,
}

/// A tensor that is alive at the peak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeakTensor {
    /// Its name in the model; scratch has none of its own.
    pub name: String,
    /// Its extents.
    pub shape: String,
    /// Its bytes.
    pub bytes: u64,
}

/// What one step of a program's output is worth.
pub(super) fn output_step(compiled: &Compiled) -> Option<f32> {
    let bytes = Aligned::copy_of(&compiled.program);
    let program = Program::verify(bytes.as_ref()).ok()?;
    Some(program.header().output_scale)
}

impl ProgramReport {
    /// How far the plan of its arena is above what no plan can do without.
    #[must_use]
    pub fn above_percent(&self) -> f64 {
        let above = self.arena_bytes.saturating_sub(self.bound_bytes);
        above as f64 / self.bound_bytes.max(1) as f64 * 100.0
    }

    pub(crate) fn of(compiled: &Compiled) -> Self {
        let (report, plan) = (&compiled.report, &compiled.report.plan);
        Self {
            bytes: report.program_bytes,
            macs: report.macs,
            arena_bytes: plan.arena_bytes,
            bound_bytes: plan.bound_bytes,
            live_bytes: plan.live_bytes,
            greedy_bytes: plan.greedy_bytes,
            peak_operator: plan.peak_step,
            peak: plan.peak.iter().map(PeakTensor::of).collect(),
        }
    }
}
