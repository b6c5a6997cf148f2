//! Random operators to which the costs of `edgeward_compiler::cost` are fitted, and others like them
//! of which predictions are held against counts.

use super::models::shapes::{Builder, Random, SCALE};
use edgeward_compiler::graph::{Activation, DType, Graph, Kind, Tensor, TensorId, Unary, Window};

/// What constants for Cortex-M say of a layer's sums, beside what is true: a flag may claim less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// What the compiler proved.
    None,
    /// Nothing is proven.
    Sums,
    /// Some tiles take the long way.
    Tiles,
}

/// A name, a graph, and how it is doubted.
pub type Sample = (String, Graph, Doubt);

/// Graphs of some operators each.
pub fn all() -> Vec<Sample> {
    let mut random = Random(0x5EED);
    let mut graphs = Vec::new();
    for index in 0..40 {
        let graph = match index % 5 {
            0..=2 => images(&mut random),
            3 => vectors(&mut random),
            _ => simple(&mut random),
        };
        graphs.push((graph, Doubt::None));
    }
    for _ in 40..52 {
        graphs.push((portable(&mut random), Doubt::None));
    }
    for index in 0..24 {
        let graph = match index % 4 {
            0..=2 => images(&mut random),
            _ => vectors(&mut random),
        };
        let doubt = [Doubt::None, Doubt::Sums, Doubt::Tiles][index / 8];
        let graph = match doubt == Doubt::None || index % 2 == 0 {
            true => clamped(graph),
            false => graph,
        };
        graphs.push((graph, doubt));
    }
    for index in 0..18 {
        let channels = pick(&mut random, 3, 70);
        let doubt = [Doubt::None, Doubt::None, Doubt::Sums][index % 3];
        graphs.push((elements(&mut random, channels), doubt));
    }
    for index in 0..8 {
        let graph = match index % 2 {
            0 => slides(&mut random),
            _ => clamped(slides(&mut random)),
        };
        graphs.push((graph, Doubt::Sums));
    }
    for _ in 0..8 {
        graphs.push((averages(&mut random), Doubt::None));
    }
    for _ in 0..8 {
        let inputs = pick(&mut random, 1, 30) * 2 + 1;
        let outputs = pick(&mut random, 1, inputs - 1);
        graphs.push((
            at_the_end(pick(&mut random, 1, 40), inputs, outputs),
            Doubt::None,
        ));
    }
    let named = graphs.into_iter().enumerate();
    named
        .map(|(index, (graph, doubt))| (format!("fit-{index:02}"), graph, doubt))
        .collect()
}

/// Graphs of the ways that no model takes; costs are not fitted to them.
pub fn ways() -> Vec<Sample> {
    let mut random = Random(0xCAFE);
    let all = [
        ("elements", elements(&mut random, 24), Doubt::None),
        ("elements-many", elements(&mut random, 60), Doubt::None),
        ("elements-apart", elements(&mut random, 53), Doubt::Sums),
        ("clamps", clamped(threes(&mut random)), Doubt::None),
        ("unproven", threes(&mut random), Doubt::Sums),
        ("unproven-clamps", clamped(threes(&mut random)), Doubt::Sums),
        ("unproven-dense", vectors(&mut random), Doubt::Sums),
        ("long", threes(&mut random), Doubt::Tiles),
        ("long-dense", vectors(&mut random), Doubt::Tiles),
        ("rest", rest(&mut random), Doubt::None),
        ("rest-short", rest_of_short_rows(), Doubt::None),
        ("mean", mean_of_channels(), Doubt::None),
        ("shares", shares(), Doubt::None),
        ("portable", portable_windows(&mut random), Doubt::None),
        ("portable-dense", at_the_end(1, 45, 30), Doubt::None),
        ("portable-outputs", at_the_end(99, 3, 2), Doubt::None),
    ];
    all.into_iter()
        .map(|(name, graph, doubt)| (format!("way-{name}"), graph, doubt))
        .collect()
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

/// Convolutions and depthwise layers of three by three: of one channel and many, of weights that have a
/// halfword each and such as share one, with a sum, with and without a stride.
fn threes(random: &mut Random) -> Graph {
    let [height, width] = [pick(random, 12, 20), pick(random, 12, 20)];
    let mut it = Builder::new(&[1, height, width, pick(random, 1, 3)]);
    it.conv(16, [3, 3], 1, true);
    it.depthwise([3, 3], 1, true);
    let stem = it.conv(pick(random, 5, 7) * 4, [3, 3], 1, true);
    let branch = it.conv(it.shape()[3], [3, 3], 1, false);
    it.add(stem, branch);
    it.depthwise([3, 3], 2, true);
    // Kernel rows of these are no whole words.
    it.conv(pick(random, 6, 9) * 4 + 1, [3, 3], 1, true);
    it.conv(pick(random, 10, 30), [3, 3], 1, true);
    it.depthwise([3, 3], 1, false);
    it.classify(pick(random, 3, 20))
}

/// Activations end at a zero point above the least value, so that outputs are clamped.
fn clamped(mut graph: Graph) -> Graph {
    for tensor in &mut graph.tensors {
        if let Some(it) = &mut tensor.quantization
            && it.zero_points == [-128]
            && tensor.name.starts_with("activation")
            && it.scales != [1.0 / 256.0]
        {
            it.zero_points = vec![-100];
        }
    }
    graph
}

/// Sums, differences and products, also of scales beyond those of the fast kernels.
fn elements(random: &mut Random, channels: usize) -> Graph {
    let [height, width] = [pick(random, 9, 20), pick(random, 9, 20)];
    let mut it = Builder::new(&[1, height, width, pick(random, 2, 12)]);
    let stem = it.conv(channels, [1, 1], 1, false);
    let shape = it.shape();
    let other = unary(&mut it, Unary::HardSwish);
    let activation = match random.next().is_multiple_of(2) {
        true => Activation::Relu,
        false => Activation::None,
    };
    let (sum, difference) = (Kind::Add { activation }, Kind::Sub { activation });
    let mut scaled = |it: &mut Builder, kind: &Kind, others: [TensorId; 2], scale: f32| {
        let zero = pick(random, 0, 60) as i32 - 30;
        let output = it.scaled(&shape, scale, zero);
        it.node(kind.clone(), others.map(Some).to_vec(), output)
    };
    let here = scaled(&mut it, &difference, [other, stem], SCALE);
    let beyond = 3.0 * SCALE / (1 << 20) as f32;
    let large = scaled(&mut it, &sum, [here, other], beyond);
    let product = Kind::Mul { activation };
    let larger = scaled(&mut it, &product, [large, stem], beyond * SCALE);
    let here = scaled(&mut it, &difference, [larger, other], SCALE);
    let branch = it.conv(shape[3], [1, 1], 1, false);
    // Part of a convolution.
    let large = scaled(&mut it, &sum, [branch, here], beyond);
    let here = scaled(&mut it, &difference, [here, large], SCALE);
    it.here = here;
    offset(&mut it, random);
    constant(&mut it, random, difference);
    constant(&mut it, random, product);
    let classes = pick(random, 3, 20);
    it.classify(classes)
}

/// Depthwise layers of three by three over rows of several lengths.
fn slides(random: &mut Random) -> Graph {
    let [height, width] = [pick(random, 4, 16), pick(random, 5, 45)];
    let mut it = Builder::new(&[1, height, width, pick(random, 2, 20)]);
    for _ in 0..2 {
        let relu = random.next().is_multiple_of(2);
        it.depthwise([3, 3], 1, relu);
        it.conv(pick(random, 2, 40), [1, 1], 1, relu);
    }
    it.depthwise([3, 3], 1, true);
    pool(&mut it, [2, 2], 2, true);
    it.depthwise([3, 3], 1, true);
    it.classify(pick(random, 3, 20))
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

/// What is portable on every board, and a maximum: many elements in long rows, so that those cost most.
fn rest(random: &mut Random) -> Graph {
    let mut it = Builder::new(&[1, 24, 26, 32]);
    unary(&mut it, Unary::HardSwish);
    pad(&mut it);
    transpose(&mut it, [0, 2, 1, 3]);
    pool(&mut it, [5, pick(random, 4, 6)], 1, true);
    pool(&mut it, [3, 2], 2, true);
    transpose(&mut it, [0, 3, 1, 2]);
    transpose(&mut it, [0, 2, 3, 1]);
    mean(&mut it);
    it.softmax();
    it.finish()
}

/// The same with many short rows, which cost more than their elements.
fn rest_of_short_rows() -> Graph {
    let mut it = Builder::new(&[1, 60, 2, 30]);
    transpose(&mut it, [0, 1, 3, 2]);
    transpose(&mut it, [0, 2, 1, 3]);
    // Of one tap, a window's pixels and channels cost most.
    pool(&mut it, [1, 1], 1, true);
    it.finish()
}

/// A mean of few pixels.
fn mean_of_channels() -> Graph {
    let mut it = Builder::new(&[1, 2, 2, 450]);
    mean(&mut it);
    it.finish()
}

/// Shares of some classes each.
fn shares() -> Graph {
    let mut it = Builder::new(&[1, 12, 10, 7]);
    it.softmax();
    it.finish()
}

/// Windows that no fast kernel takes: of many taps and of one, wide and tall ones beyond the image.
fn portable_windows(random: &mut Random) -> Graph {
    let [height, width] = [pick(random, 8, 12), pick(random, 8, 12)];
    let mut it = Builder::new(&[1, height, width, 3]);
    it.depthwise_of([3, 3], 1, 3, true);
    it.depthwise_of([1, 1], 1, 2, false);
    pool(&mut it, [17, 16], 1, false);
    pool(&mut it, [1, pick(random, 280, 320)], 1, false);
    pool(&mut it, [pick(random, 280, 320), 1], 1, false);
    it.finish()
}

/// Averages of more taps than the fast kernel counts, wide and tall, most of them beyond the image.
fn averages(random: &mut Random) -> Graph {
    let [height, width] = [pick(random, 4, 9), pick(random, 4, 9)];
    let mut it = Builder::new(&[1, height, width, pick(random, 1, 5)]);
    pool(&mut it, [pick(random, 256, 400), 1], 1, false);
    pool(&mut it, [1, pick(random, 256, 400)], 1, false);
    let rows = pick(random, 9, 40);
    pool(&mut it, [rows, 256 / rows + 1], 1, false);
    it.finish()
}

/// A dense layer whose input ends with the arena, and with no whole word.
fn at_the_end(rows: usize, inputs: usize, outputs: usize) -> Graph {
    let mut it = Builder::new(&[1, inputs]);
    let from = it.here;
    let to = it.dense(inputs, outputs, true);
    it.graph.tensors[from.0].shape = vec![1, rows, inputs];
    it.graph.tensors[to.0].shape = vec![1, rows, outputs];
    it.finish()
}

/// A constant a channel added to the current activation.
fn offset(it: &mut Builder, random: &mut Random) -> TensorId {
    let activation = match random.next().is_multiple_of(2) {
        true => Activation::Relu,
        false => Activation::None,
    };
    constant(it, random, Kind::Add { activation })
}

/// The current activation with a constant a channel.
fn constant(it: &mut Builder, random: &mut Random, kind: Kind) -> TensorId {
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
    node(it, kind, &[constant], &shape)
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
