//! Which values each channel of each tensor can take.
//!
//! Every operator is monotone in each element that it reads, up to the signs of weights, so that the
//! ends of its inputs' intervals give the ends of its output's, computed with the same integers as
//! the kernels do. A channel whose interval is one value is constant.

use edgeward::program::arith::requantize;

use crate::emit::function_table;
use crate::emit::scale::{activation_range, layer_scale, quantize_multiplier};
use crate::graph::{Activation, Graph, Kind, Node, Tensor, TensorId};

/// Least and greatest value.
pub(super) type Interval = (i8, i8);

/// Everything that an int8 can be.
const ALL: Interval = (i8::MIN, i8::MAX);

/// The intervals of each tensor's channels (its last axis), by tensor.
pub(super) fn intervals(graph: &Graph) -> Vec<Vec<Interval>> {
    let channels = |tensor: &Tensor| tensor.shape.last().copied().unwrap_or(1);
    let mut all: Vec<Vec<Interval>> = graph
        .tensors
        .iter()
        .map(|tensor| vec![ALL; channels(tensor)])
        .collect();
    for node in &graph.nodes {
        let Some(&output) = node.outputs.first() else {
            continue;
        };
        let found = Of {
            graph,
            node,
            all: &all,
        }
        .output();
        if let Some(found) = found.filter(|found| found.len() == all[output.0].len()) {
            all[output.0] = found;
        }
    }
    all
}

struct Of<'a> {
    graph: &'a Graph,
    node: &'a Node,
    all: &'a [Vec<Interval>],
}

impl Of<'_> {
    fn id(&self, place: usize) -> Option<TensorId> {
        self.node.inputs.get(place).copied().flatten()
    }

    fn input(&self, place: usize) -> Option<&[Interval]> {
        Some(&self.all[self.id(place)?.0])
    }

    fn tensor(&self, place: usize) -> Option<&Tensor> {
        Some(self.graph.tensor(self.id(place)?))
    }

    fn output_tensor(&self) -> &Tensor {
        self.graph.tensor(self.node.outputs[0])
    }

    /// The output's intervals; `None` where nothing is known.
    fn output(&self) -> Option<Vec<Interval>> {
        match &self.node.kind {
            Kind::Conv { activation, .. }
            | Kind::Depthwise { activation, .. }
            | Kind::Dense { activation } => self.layer(*activation),
            Kind::AveragePool { activation, .. } | Kind::MaxPool { activation, .. } => {
                // An average lies between its elements, rounding included.
                let [low, high] = self.range(*activation)?;
                let clamped = |&(from, to): &Interval| (from.clamp(low, high), to.clamp(low, high));
                Some(self.input(0)?.iter().map(clamped).collect())
            }
            Kind::Unary(function) => {
                let (from, to) = (
                    self.tensor(0)?.per_tensor()?,
                    self.output_tensor().per_tensor()?,
                );
                let table = function_table(*function, from, to).ok()?;
                let over = |&(low, high): &Interval| {
                    let entries =
                        (i32::from(low)..=i32::from(high)).map(|x| table[(x + 128) as usize]);
                    entries.fold((i8::MAX, i8::MIN), |(low, high), y| {
                        (low.min(y), high.max(y))
                    })
                };
                Some(self.input(0)?.iter().map(over).collect())
            }
            Kind::Reshape => self.reshape(),
            Kind::Concat { axis } => self.concat(*axis),
            Kind::Pad { padding, value } => {
                let inside = self.input(0)?;
                let ([before, after], outer) = padding.split_last()?;
                let padded = outer.iter().any(|pad| *pad != [0, 0]);
                let with = |&(low, high): &Interval| match padded {
                    true => (low.min(*value), high.max(*value)),
                    false => (low, high),
                };
                let edge = |count: &usize| core::iter::repeat_n((*value, *value), *count);
                Some(
                    edge(before)
                        .chain(inside.iter().map(with))
                        .chain(edge(after))
                        .collect(),
                )
            }
            _ => None,
        }
    }

    fn range(&self, activation: Activation) -> Option<[i8; 2]> {
        let (scale, zero_point) = self.output_tensor().per_tensor()?;
        Some(activation_range(activation, scale, zero_point))
    }

    /// A convolution or dense layer.
    fn layer(&self, activation: Activation) -> Option<Vec<Interval>> {
        let (input_scale, zero_in) = self.tensor(0)?.per_tensor()?;
        let (output_scale, zero_out) = self.output_tensor().per_tensor()?;
        let weights = self.tensor(1)?;
        let scales = &weights.quantization.as_ref()?.scales;
        let [low, high] = self.range(activation)?;
        let sums = super::sums::sums(self.graph, self.node)?;
        let inputs = self.input(0)?;
        let mut found = Vec::with_capacity(sums.outputs());
        for output in 0..sums.outputs() {
            let mut ends = [i64::from(sums.bias(output)); 2];
            sums.each_tap(output, |channel, weight| {
                let (from, to) = inputs[channel];
                let mut at = [from, to].map(|x| i64::from(x) - i64::from(zero_in));
                if sums.padded {
                    // Padding reads as the zero point.
                    at = [at[0].min(0), at[1].max(0)];
                }
                let products = at.map(|x| x * i64::from(weight));
                ends[0] += products[0].min(products[1]);
                ends[1] += products[0].max(products[1]);
            });
            let &scale = scales.get(output).or(scales.first())?;
            let scale = quantize_multiplier(layer_scale(input_scale, scale, output_scale));
            // Neither the shift nor the zero point may wrap: both are computed in 32 bits.
            let fits = |sum: i64| {
                let shifted = i128::from(sum) << scale.shift.clamp(0, 31);
                shifted.abs() <= i128::from(i32::MAX - 255)
            };
            if !ends.into_iter().all(fits) {
                found.push((low, high));
                continue;
            }
            let [from, to] = ends.map(|sum| {
                let scaled = requantize(sum as i32, scale.multiplier, scale.shift);
                let shifted = i64::from(scaled) + i64::from(zero_out);
                shifted.clamp(i64::from(low), i64::from(high)) as i8
            });
            found.push((from, to));
        }
        Some(found)
    }

    fn reshape(&self) -> Option<Vec<Interval>> {
        let from = self.input(0)?;
        let channels = self.output_tensor().shape.last().copied().unwrap_or(1);
        // Row-major order keeps the channel where the new last axis holds whole pixels.
        channels
            .is_multiple_of(from.len())
            .then(|| (0..channels).map(|at| from[at % from.len()]).collect())
    }

    fn concat(&self, axis: usize) -> Option<Vec<Interval>> {
        let last = axis + 1 == self.output_tensor().shape.len();
        let mut found: Vec<Interval> = Vec::new();
        for place in 0..self.node.inputs.len() {
            let part = self.input(place)?;
            if last || found.is_empty() {
                found.extend_from_slice(part);
            } else {
                for (all, one) in found.iter_mut().zip(part) {
                    *all = (all.0.min(one.0), all.1.max(one.1));
                }
            }
        }
        Some(found)
    }
}
