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

/// A rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// Operators on constants are computed once, before the graph is checked: a file may compute its
    /// weights.
    Constants,
    /// Clamps move into the operator before them.
    Activations,
    /// Paddings move into the convolutions that read them.
    Paddings,
    /// Operators that leave bytes as they are cost nothing.
    Reshapes,
    /// Channels that nobody needs go.
    DeadChannels,
    /// Sums move into the convolution before them.
    Sums,
}

impl Rewrite {
    /// All of them, in the order in which they apply.
    pub const ALL: [Self; 6] = [
        Self::Constants,
        Self::Activations,
        Self::Paddings,
        Self::Reshapes,
        Self::DeadChannels,
        Self::Sums,
    ];

    /// What it does, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constants => "constants folded",
            Self::Activations => "activations fused",
            Self::Paddings => "paddings folded into convolutions",
            Self::Reshapes => "operators that leave bytes as they are",
            Self::DeadChannels => "dead channels",
            Self::Sums => "sums fused into convolutions",
        }
    }

    /// Applies it; how often it did. All but constants want a checked graph.
    fn apply(self, graph: &mut Graph) -> usize {
        match self {
            Self::Constants => constants::fold(graph),
            Self::Activations => activations::fuse(graph),
            Self::Paddings => padding::fold(graph),
            Self::Reshapes => reshapes::find(graph),
            Self::DeadChannels => dead_channels::remove(graph),
            Self::Sums => sums_into_convolutions::fuse(graph),
        }
    }
}

/// Computes what is constant, where that is among `rewrites`; how often that was.
pub fn constants(graph: &mut Graph, rewrites: &[Rewrite]) -> usize {
    match rewrites.contains(&Rewrite::Constants) {
        true => Rewrite::Constants.apply(graph),
        false => 0,
    }
}

/// Applies rewrites to a checked graph, in which [`constants`] computed `folded` operators before, and says
/// what each did.
pub fn apply(graph: &mut Graph, rewrites: &[Rewrite], folded: usize) -> Vec<Effect> {
    let mut effects = Vec::new();
    for rewrite in rewrites {
        let before = cost(graph);
        let count = match rewrite {
            Rewrite::Constants => folded,
            rewrite => rewrite.apply(graph),
        };
        if count > 0 {
            effects.push(Effect {
                rewrite: rewrite.name(),
                count,
                before,
                after: cost(graph),
            });
        }
    }
    effects
}
