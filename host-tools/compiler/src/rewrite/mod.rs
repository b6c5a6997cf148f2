//! Rewrites that keep every bit of the output.

mod activations;
mod constants;
mod dead_channels;
mod intervals;
mod padding;
mod reshapes;
mod sums;
mod sums_into_convolutions;

use crate::graph::{Graph, Kind};

/// What a rewrite did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The rewrite.
    pub rewrite: &'static str,
    /// How often it applied.
    pub count: usize,
    /// Work before it.
    pub before: Cost,
    /// Work after it.
    pub after: Cost,
}

/// What a graph costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Multiplications of convolutions and dense layers.
    pub macs: u64,
    /// Bytes of their weights.
    pub weight_bytes: u64,
}

/// The cost of a checked graph.
pub fn cost(graph: &Graph) -> Cost {
    let mut cost = Cost::default();
    for node in &graph.nodes {
        let weights = node
            .inputs
            .get(1)
            .copied()
            .flatten()
            .map(|id| graph.tensor(id));
        let (Some(weights), Some(&output)) = (weights, node.outputs.first()) else {
            continue;
        };
        let outputs = graph.tensor(output).elements();
        let channels = |axis: Option<&usize>| axis.copied().unwrap_or(1).max(1);
        let taps = match node.kind {
            Kind::Conv { .. } | Kind::ConvAdd { .. } | Kind::Dense { .. } => {
                weights.elements() / channels(weights.shape.first())
            }
            Kind::Depthwise { .. } => weights.elements() / channels(weights.shape.last()),
            _ => continue,
        };
        cost.macs += outputs as u64 * taps as u64;
        cost.weight_bytes += weights.elements() as u64;
    }
    cost
}

/// Computes what is constant: before the graph is checked, since a file may compute its weights.
pub fn constants(graph: &mut Graph) -> usize {
    constants::fold(graph)
}

/// Applies all rewrites to a checked graph, and says what each did.
pub fn apply(graph: &mut Graph) -> Vec<Effect> {
    type Rewrite = fn(&mut Graph) -> usize;
    let all: [(&'static str, Rewrite); 5] = [
        ("activations fused", activations::fuse),
        ("paddings folded into convolutions", padding::fold),
        ("operators that leave bytes as they are", reshapes::find),
        ("dead channels", dead_channels::remove),
        ("sums fused into convolutions", sums_into_convolutions::fuse),
    ];
    let mut effects = Vec::new();
    for (rewrite, apply) in all {
        let before = cost(graph);
        let count = apply(graph);
        if count > 0 {
            effects.push(Effect {
                rewrite,
                count,
                before,
                after: cost(graph),
            });
        }
    }
    effects
}
