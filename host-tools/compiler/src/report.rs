//! What a compilation understood and what became of it.

use core::fmt;
use std::collections::BTreeMap;

use crate::graph::Graph;
use crate::plan::Plan;
use crate::rewrite::Effect;

/// What was understood and what became of it. Its `Display` is a few lines of text for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Operators of the file by kind, with how many there are.
    pub operators: BTreeMap<&'static str, usize>,
    /// What the caller must convert at the border.
    pub notes: Vec<String>,
    /// What rewrites did, in order.
    pub rewrites: Vec<Effect>,
    /// Shape of the input in the file, batch first.
    pub input_shape: Vec<usize>,
    /// Shape of the output in the file, batch first.
    pub output_shape: Vec<usize>,
    /// Multiplications of a run.
    pub macs: u64,
    /// Bytes of weights as they lie in the program.
    pub weight_bytes: u64,
    /// Bytes of the program.
    pub program_bytes: u64,
    /// Of each operator of the program, the name of the file's that it came from.
    pub names: Vec<String>,
    /// Where everything lies, how far from the bound, and what sets the peak.
    pub plan: Plan,
}

/// Operators by kind.
pub(crate) fn operators(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut operators = BTreeMap::new();
    for node in &graph.nodes {
        *operators.entry(node.kind.name()).or_insert(0) += 1;
    }
    operators
}

/// Names of exporters run to hundreds of characters: their end tells layers apart no better than
/// their beginning, so that is what stays.
fn short(name: &str) -> &str {
    let end = name.char_indices().nth(48).map_or(name.len(), |(at, _)| at);
    &name[..end]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operators = self
            .operators
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"));
        writeln!(f, "operators: {}", operators.collect::<Vec<_>>().join(", "))?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for effect in &self.rewrites {
            let (before, after) = (effect.before, effect.after);
            write!(f, "rewrite: {} ({})", effect.rewrite, effect.count)?;
            if before == after {
                writeln!(f)?;
            } else {
                writeln!(
                    f,
                    ": {} of {} MACs and {} of {} bytes of weights remain",
                    after.macs, before.macs, after.weight_bytes, before.weight_bytes
                )?;
            }
        }
        writeln!(
            f,
            "program: {} bytes, {} of them weights; {} MACs",
            self.program_bytes, self.weight_bytes, self.macs
        )?;
        let plan = &self.plan;
        writeln!(
            f,
            "arena: {} bytes; no plan needs less than {}, without overlaps {} are alive at once, and a \
             greedy plan takes {}",
            plan.arena_bytes, plan.bound_bytes, plan.live_bytes, plan.greedy_bytes
        )?;
        write!(f, "peak, at operator {}:", plan.peak_step)?;
        for tensor in &plan.peak {
            let (name, shape, bytes) = (short(&tensor.name), &tensor.shape, tensor.bytes);
            write!(f, " \"{name}\" {shape}, {bytes};")?;
        }
        writeln!(f)
    }
}
