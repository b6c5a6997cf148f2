//! Channels that nobody needs go: those that no weight reads, and constant ones, whose products move
//! into the biases of the layers that read them.
//!
//! A constant that equals the zero point vanishes. Any other moves into biases only where no window
//! reads padding, since padding reads as the zero point. Operators that work channel by channel tie
//! the channels of their inputs and outputs together: such a group goes as a whole or stays.

use super::intervals::{Interval, intervals};
use super::sums::sums;
use crate::graph::{DType, Graph, Kind, Node, Tensor, TensorId};

/// Passes at most; each but the last removes a channel, and models need two or three.
const PASSES_MAX: usize = 64;
/// Channels of all tensors together at most: a pass holds some bytes of each, and a file of a few hundred bytes
/// can have a vector of 2^30. Graphs beyond it keep theirs.
const CHANNELS_MAX: usize = 1 << 22;

/// Removes dead channels, and says how many.
pub(super) fn remove(graph: &mut Graph) -> usize {
    let last = |tensor: &Tensor| tensor.shape.last().copied().unwrap_or(0);
    let channels = graph.tensors.iter().map(last);
    if channels.fold(0, usize::saturating_add) > CHANNELS_MAX {
        return 0;
    }
    let mut removed = 0;
    for _ in 0..PASSES_MAX {
        let pass = pass(graph);
        if pass == 0 {
            break;
        }
        removed += pass;
    }
    removed
}

fn pass(graph: &mut Graph) -> usize {
    let values = intervals(graph);
    let mut groups = Groups::new(graph);
    for node in &graph.nodes {
        groups.tie(graph, node);
    }
    for id in graph.inputs.iter().chain(&graph.outputs) {
        groups.keep_all(*id);
    }
    for node in &graph.nodes {
        groups.keep_what_is_read(graph, node, &values);
    }
    for index in 0..graph.tensors.len() {
        groups.keep_one(TensorId(index));
    }
    let keep: Vec<Vec<bool>> = (0..graph.tensors.len())
        .map(|at| groups.kept(TensorId(at)))
        .collect();
    let mut removed = 0;
    for index in 0..graph.nodes.len() {
        let node = graph.nodes[index].clone();
        removed += cut(graph, index, &node, &keep, &values);
    }
    for (tensor, keep) in graph.tensors.iter_mut().zip(&keep) {
        if let Some(last) = tensor.shape.last_mut().filter(|_| tensor.data.is_none()) {
            *last = keep.iter().filter(|&&keep| keep).count();
        }
    }
    removed
}

/// Channels that stay or go together: a forest of sets over all channels of all tensors.
struct Groups {
    /// Where each tensor's channels begin.
    start: Vec<usize>,
    parent: Vec<usize>,
    keep: Vec<bool>,
}

impl Groups {
    fn new(graph: &Graph) -> Self {
        let mut start = vec![0];
        for tensor in &graph.tensors {
            // Constants have no channels that could go by themselves.
            let channels = match tensor.data {
                Some(_) => 0,
                None => tensor.shape.last().copied().unwrap_or(0),
            };
            start.push(start[start.len() - 1] + channels);
        }
        let count = start[start.len() - 1];
        Self {
            start,
            parent: (0..count).collect(),
            keep: vec![false; count],
        }
    }

    fn channels(&self, id: TensorId) -> usize {
        self.start[id.0 + 1] - self.start[id.0]
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    fn join(&mut self, a: (TensorId, usize), b: (TensorId, usize)) {
        let (a, b) = (self.start[a.0.0] + a.1, self.start[b.0.0] + b.1);
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a] = b;
        self.keep[b] |= self.keep[a];
    }

    fn keep(&mut self, id: TensorId, channel: usize) {
        let root = self.root(self.start[id.0] + channel);
        self.keep[root] = true;
    }

    fn keep_all(&mut self, id: TensorId) {
        (0..self.channels(id)).for_each(|channel| self.keep(id, channel));
    }

    fn is_kept(&mut self, id: TensorId, channel: usize) -> bool {
        let root = self.root(self.start[id.0] + channel);
        self.keep[root]
    }

    /// A tensor keeps a channel at least.
    fn keep_one(&mut self, id: TensorId) {
        let channels = self.channels(id);
        if channels > 0 && !(0..channels).any(|channel| self.is_kept(id, channel)) {
            self.keep(id, 0);
        }
    }

    fn kept(&mut self, id: TensorId) -> Vec<bool> {
        (0..self.channels(id))
            .map(|channel| self.is_kept(id, channel))
            .collect()
    }

    /// Ties what an operator computes channel by channel.
    fn tie(&mut self, graph: &Graph, node: &Node) {
        let Some(&output) = node.outputs.first() else {
            return;
        };
        let inputs: Vec<TensorId> = node.inputs.iter().flatten().copied().collect();
        let Some(&input) = inputs.first() else { return };
        let (from, to) = (self.channels(input), self.channels(output));
        match &node.kind {
            Kind::Depthwise { multiplier, .. } => {
                (0..to).for_each(|at| self.join((input, at / multiplier), (output, at)));
            }
            Kind::AveragePool { .. } | Kind::MaxPool { .. } | Kind::Unary(_) if from == to => {
                (0..to).for_each(|at| self.join((input, at), (output, at)));
            }
            Kind::Add { .. } | Kind::Sub { .. } | Kind::Mul { .. }
                if inputs
                    .iter()
                    .all(|&id| graph.tensor(id).shape == graph.tensor(output).shape)
                    && inputs.iter().all(|&id| graph.tensor(id).data.is_none()) =>
            {
                for id in inputs {
                    (0..to).for_each(|at| self.join((id, at), (output, at)));
                }
            }
            Kind::Reshape if from > 0 && to.is_multiple_of(from) => {
                (0..to).for_each(|at| self.join((input, at % from), (output, at)));
            }
            Kind::Concat { axis } if axis + 1 == graph.tensor(output).shape.len() => {
                let mut start = 0;
                for id in inputs {
                    let channels = self.channels(id);
                    (0..channels).for_each(|at| self.join((id, at), (output, start + at)));
                    start += channels;
                }
            }
            // Layers mix their inputs' channels, and say what they need of them one by one.
            Kind::Conv { .. } | Kind::Dense { .. } if sums(graph, node).is_some() => {}
            _ => {
                self.keep_all(output);
                inputs.into_iter().for_each(|id| self.keep_all(id));
            }
        }
    }

    /// Keeps the channels that a layer reads and that do not move into its biases.
    fn keep_what_is_read(&mut self, graph: &Graph, node: &Node, values: &[Vec<Interval>]) {
        if !matches!(node.kind, Kind::Conv { .. } | Kind::Dense { .. }) {
            return;
        }
        let (Some(sums), Some(Some(input))) = (sums(graph, node), node.inputs.first()) else {
            return;
        };
        let Some((_, zero)) = graph.tensor(*input).per_tensor() else {
            return;
        };
        let mut read = vec![false; sums.channels];
        for output in 0..sums.outputs() {
            sums.each_tap(output, |channel, weight| read[channel] |= weight != 0);
        }
        for (channel, _) in read.into_iter().enumerate().filter(|&(_, read)| read) {
            let (low, high) = values[input.0][channel];
            if low != high || (low != zero && sums.padded) {
                self.keep(*input, channel);
            }
        }
    }
}

/// Cuts a layer's weights down to what is kept, and gives how many of its outputs went.
fn cut(
    graph: &mut Graph,
    index: usize,
    node: &Node,
    keep: &[Vec<bool>],
    values: &[Vec<Interval>],
) -> usize {
    let (Some(Some(input)), Some(Some(weights))) = (node.inputs.first(), node.inputs.get(1)) else {
        return 0;
    };
    let (keep_in, keep_out) = (&keep[input.0], &keep[node.outputs[0].0]);
    if sums(graph, node).is_none() || keep_in.iter().chain(keep_out).all(|&keep| keep) {
        return 0;
    }
    let mixes = !matches!(node.kind, Kind::Depthwise { .. });
    let biases = new_biases(graph, node, keep_in, keep_out, values, mixes);
    let old = graph.tensor(*weights);
    let axes = if mixes { (0, 3) } else { (3, 3) };
    let data: Vec<u8> = {
        let (outputs, channels) = (keep_out.len(), keep_in.len());
        let taps = (old.elements() / outputs).max(1);
        let stays = |at: usize| match mixes {
            true => keep_out[at / taps] && keep_in[at % channels],
            false => keep_out[at % outputs],
        };
        let bytes = old.data.iter().flatten().enumerate();
        bytes
            .filter(|&(at, _)| stays(at))
            .map(|(_, &byte)| byte)
            .collect()
    };
    let count = |keep: &[bool]| keep.iter().filter(|&&keep| keep).count();
    let mut cut = Tensor {
        data: Some(data),
        ..old.clone()
    };
    if let Some(extent) = cut.shape.get_mut(axes.0) {
        *extent = count(keep_out);
    }
    if let Some(extent) = cut.shape.last_mut().filter(|_| mixes) {
        *extent = count(keep_in);
    }
    if let Some(quantization) = cut.quantization.as_mut().filter(|it| it.scales.len() > 1) {
        let mut kept = keep_out.iter();
        quantization.scales.retain(|_| kept.next() == Some(&true));
        let mut kept = keep_out.iter();
        quantization
            .zero_points
            .retain(|_| kept.next() == Some(&true));
    }
    let bias = Tensor {
        name: format!("{} (bias)", old.name),
        shape: vec![biases.len()],
        dtype: DType::I32,
        quantization: None,
        data: Some(biases.iter().flat_map(|bias| bias.to_le_bytes()).collect()),
    };
    let first = graph.tensors.len();
    graph.tensors.extend([cut, bias]);
    let inputs = &mut graph.nodes[index].inputs;
    inputs.truncate(1);
    inputs.extend([Some(TensorId(first)), Some(TensorId(first + 1))]);
    keep_out.len() - count(keep_out)
}

/// Biases of the outputs that stay, with the products of constants that go.
fn new_biases(
    graph: &Graph,
    node: &Node,
    keep_in: &[bool],
    keep_out: &[bool],
    values: &[Vec<Interval>],
    mixes: bool,
) -> Vec<i32> {
    let (Some(sums), Some(Some(input))) = (sums(graph, node), node.inputs.first()) else {
        return Vec::new();
    };
    let zero = graph
        .tensor(*input)
        .per_tensor()
        .map_or(0, |(_, zero)| i32::from(zero));
    let outputs = (0..sums.outputs()).filter(|&output| keep_out[output]);
    let bias = |output: usize| {
        let mut bias = sums.bias(output);
        sums.each_tap(output, |channel, weight| {
            if mixes && !keep_in[channel] && weight != 0 {
                let value = i32::from(values[input.0][channel].0) - zero;
                bias = bias.wrapping_add(value * i32::from(weight));
            }
        });
        bias
    };
    outputs.map(bias).collect()
}
