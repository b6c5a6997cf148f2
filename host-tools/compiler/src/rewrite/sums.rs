//! The sums of products of convolutions and dense layers, whatever order their weights have.

use crate::graph::{Graph, Kind, Node, Window};

/// What a layer sums.
pub(super) struct Sums<'a> {
    weights: &'a [u8],
    bias: Option<&'a [u8]>,
    outputs: usize,
    /// Input channels a weight sees (of a depthwise convolution: all).
    pub(super) channels: usize,
    /// Output channels an input channel, of a depthwise convolution.
    multiplier: Option<usize>,
    /// Whether some window reads padding.
    pub(super) padded: bool,
}

/// The sums of a node; `None` when it has none.
pub(super) fn sums<'a>(graph: &'a Graph, node: &Node) -> Option<Sums<'a>> {
    let input = |place: usize| Some(graph.tensor(node.inputs.get(place).copied().flatten()?));
    let weights = input(1)?;
    let channels = input(0)?.shape.last().copied()?;
    let padded = |window: &Window| window.padding != [0; 4];
    let (outputs, multiplier, padded) = match &node.kind {
        Kind::Conv { window, .. } => (weights.shape.first(), None, padded(window)),
        Kind::Depthwise {
            window, multiplier, ..
        } => (weights.shape.last(), Some(*multiplier), padded(window)),
        Kind::Dense { .. } => (weights.shape.first(), None, false),
        _ => return None,
    };
    // A dense layer over flattened pixels sees another number of channels than its input has.
    let depth = weights.shape.last().copied()?;
    if multiplier.is_none() && depth != channels {
        return None;
    }
    Some(Sums {
        weights: weights.data.as_deref()?,
        bias: input(2).and_then(|bias| bias.data.as_deref()),
        outputs: *outputs?,
        channels,
        multiplier,
        padded,
    })
}

impl Sums<'_> {
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn bias(&self, output: usize) -> i32 {
        let bytes = self.bias.and_then(|bias| bias.as_chunks().0.get(output));
        bytes.map_or(0, |&bytes| i32::from_le_bytes(bytes))
    }

    /// Input channel and weight of each product of an output.
    pub(super) fn each_tap(&self, output: usize, mut of: impl FnMut(usize, i8)) {
        match self.multiplier {
            Some(multiplier) => {
                for pixel in self.weights.chunks_exact(self.outputs) {
                    of(output / multiplier, pixel[output].cast_signed());
                }
            }
            None => {
                let taps = self.weights.len() / self.outputs;
                let row = &self.weights[output * taps..][..taps];
                for (at, weight) in row.iter().enumerate() {
                    of(at % self.channels, weight.cast_signed());
                }
            }
        }
    }
}
