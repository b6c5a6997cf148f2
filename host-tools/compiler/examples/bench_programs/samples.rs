//! Random operators to which the costs of `edgeward_compiler::cost` are fitted.

use super::models::shapes::{Builder, Random};
use edgeward_compiler::graph::{Activation, DType, Graph, Kind, Tensor, TensorId, Unary, Window};

/// Graphs of some operators each.
pub fn all() -> Vec<(String, Graph)> {
    let mut random = Random(0x5EED);
    let mut graphs = Vec::new();
    for index in 0..40 {
        let graph = match index % 5 {
            0..=2 => images(&mut random),
            3 => vectors(&mut random),
            _ => simple(&mut random),
        };
        graphs.push((format!("fit-{index:02}"), graph));
    }
    for index in 40..52 {
        graphs.push((format!("fit-{index:02}"), portable(&mut random)));
    }
    graphs
}

fn pick(random: &mut Random, low: usize, high: usize) -> usize {
    low + random.next() as usize % (high - low + 1)
}

/// Convolutions of all kinds over an image.
fn images(random: &mut Random) -> Graph {
    let [height, width] = [pick(random, 6, 30), pick(random, 5, 30)];
    let depth = [1, 3, 4, 8, 13, 16][pick(random, 0, 5)];
    let mut it = Builder::new(&[1, height, width, depth]);
    for _ in 0..3 {
        let outputs = [4, 8, 10, 16, 24, 31, 32, 48][pick(random, 0, 7)];
        let kernel = [[1, 1], [3, 3], [3, 3], [5, 5], [1, 3], [4, 2]][pick(random, 0, 5)];
        let stride = 1 + usize::from(random.next().is_multiple_of(3));
        let relu = !random.next().is_multiple_of(3);
        it.conv(outputs, kernel, stride, relu);
        let kernel = [[3, 3], [3, 3], [5, 5], [3, 1], [7, 3]][pick(random, 0, 4)];
        let stride = 1 + usize::from(random.next().is_multiple_of(3));
        it.depthwise(kernel, stride, !random.next().is_multiple_of(3));
    }
    let stem = it.conv(16, [1, 1], 1, true);
    let kernel = [[1, 1], [3, 3]][pick(random, 0, 1)];
    let branch = it.conv(16, kernel, 1, false);
    let sum = it.add(stem, branch);
    // The sum is used twice, so that this one is no part of a convolution.
    let other = it.conv(16, [1, 1], 1, false);
    unary(&mut it, Unary::HardSwish);
    it.add(other, sum);
    pool(&mut it, [2, 2], 2, random.next().is_multiple_of(2));
    it.classify(pick(random, 3, 40))
}

/// Fully connected layers.
fn vectors(random: &mut Random) -> Graph {
    let mut inputs = pick(random, 10, 700);
    let mut it = Builder::new(&[1, inputs]);
    for _ in 0..5 {
        let outputs = pick(random, 5, 200);
        it.dense(inputs, outputs, random.next().is_multiple_of(2));
        inputs = outputs;
    }
    it.softmax();
    it.finish()
}

/// Everything else.
fn simple(random: &mut Random) -> Graph {
    let shape = [
        1,
        pick(random, 4, 20),
        pick(random, 4, 20),
        pick(random, 2, 24),
    ];
    let mut it = Builder::new(&shape);
    unary(&mut it, Unary::HardSwish);
    product(&mut it);
    pad(&mut it);
    transpose(&mut it, [0, 2, 1, 3]);
    product(&mut it);
    transpose(&mut it, [0, 3, 1, 2]);
    pool(&mut it, [3, 3], 1, true);
    pool(&mut it, [3, 2], 2, false);
    mean(&mut it);
    it.softmax();
    it.finish()
}

/// Operators that no fast kernel takes.
fn portable(random: &mut Random) -> Graph {
    let [height, width] = [pick(random, 7, 14), pick(random, 7, 14)];
    let depth = [1, 2, 3, 5, 8][pick(random, 0, 4)];
    let mut it = Builder::new(&[1, height, width, depth]);
    for _ in 0..2 {
        let kernel = [[3, 3], [1, 3], [5, 4], [3, 3]][pick(random, 0, 3)];
        let stride = 1 + usize::from(random.next().is_multiple_of(4));
        let relu = random.next().is_multiple_of(2);
        it.depthwise_of(kernel, stride, pick(random, 2, 4), relu);
    }
    offset(&mut it, random);
    let [_, height, width, _] = it.shape();
    // More taps than the fast kernel counts.
    let rows = 1 + height + pick(random, 0, 5);
    pool(&mut it, [rows, 256 / rows + 1 + width / 2], 1, false);
    offset(&mut it, random);
    it.classify(pick(random, 3, 20))
}

/// A constant a channel added to the current activation.
fn offset(it: &mut Builder, random: &mut Random) -> TensorId {
    let shape = it.shape();
    let quantization = it.graph.tensor(it.here).quantization.clone();
    let data = (0..shape[3]).map(|_| random.next() as u8).collect();
    let constant = it.tensor(Tensor {
        name: format!("constant {}", it.graph.tensors.len()),
        shape: vec![1, 1, 1, shape[3]],
        dtype: DType::I8,
        quantization,
        data: Some(data),
    });
    let activation = match random.next().is_multiple_of(2) {
        true => Activation::Relu,
        false => Activation::None,
    };
    node(it, Kind::Add { activation }, &[constant], &shape)
}

/// Appends a node whose output has this shape, and the current activation's quantization.
fn node(it: &mut Builder, kind: Kind, others: &[TensorId], shape: &[usize]) -> TensorId {
    let quantization = it.graph.tensor(it.here).quantization.clone();
    let output = it.activation(shape, 0);
    it.graph.tensors[output.0].quantization = quantization;
    let inputs = [&[it.here], others].concat();
    it.node(kind, inputs.into_iter().map(Some).collect(), output)
}

fn unary(it: &mut Builder, function: Unary) -> TensorId {
    let shape = it.shape();
    node(it, Kind::Unary(function), &[], &shape)
}

/// The current activation times itself.
fn product(it: &mut Builder) -> TensorId {
    let (shape, other) = (it.shape(), it.here);
    let activation = Activation::None;
    node(it, Kind::Mul { activation }, &[other], &shape)
}

fn pad(it: &mut Builder) -> TensorId {
    let [_, height, width, depth] = it.shape();
    let padding = vec![[0, 0], [1, 2], [2, 0], [0, 0]];
    let kind = Kind::Pad { padding, value: 0 };
    node(it, kind, &[], &[1, height + 3, width + 2, depth])
}

fn transpose(it: &mut Builder, permutation: [usize; 4]) -> TensorId {
    let shape = it.shape();
    let turned = permutation.map(|axis| shape[axis]);
    let permutation = permutation.to_vec();
    node(it, Kind::Transpose { permutation }, &[], &turned)
}

fn pool(it: &mut Builder, kernel: [usize; 2], stride: usize, maximum: bool) -> TensorId {
    let [.., depth] = it.shape();
    let (window, [height, width]) = it.window(kernel, stride);
    let activation = Activation::None;
    let kind = |window: Window| match maximum {
        true => Kind::MaxPool { window, activation },
        false => Kind::AveragePool { window, activation },
    };
    node(it, kind(window), &[], &[1, height, width, depth])
}

fn mean(it: &mut Builder) -> TensorId {
    let [.., depth] = it.shape();
    node(it, Kind::Mean { axes: vec![1, 2] }, &[], &[1, depth])
}
