//! Each rewrite by itself, on a graph made for it: that it happens, what it saves, that every output bit
//! stays, and that the inputs would show it if the rewrite were another.

use edgeward::program::op::Op;
use edgeward::program::{Aligned, Layout, Portable, Program, layout};
use edgeward_compiler::graph::{
    Activation, DType, Graph, Kind, Node, Quantization, Tensor, TensorId, Unary, Window,
};
use edgeward_compiler::rewrite::Rewrite;
use edgeward_compiler::{CompileError, Compiled, Options, Reason, compile_graph};

/// A graph that grows by one node after the other.
struct Small {
    graph: Graph,
    random: u64,
}

impl Small {
    fn new(shape: &[usize], scale: f32, zero: i32) -> (Self, TensorId) {
        let mut small = Self {
            graph: Graph::default(),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        let input = small.tensor(shape, scale, zero);
        small.graph.inputs = vec![input];
        (small, input)
    }

    fn byte(&mut self) -> i8 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 40) as i8
    }

    fn push(&mut self, tensor: Tensor) -> TensorId {
        self.graph.tensors.push(tensor);
        TensorId(self.graph.tensors.len() - 1)
    }

    fn tensor(&mut self, shape: &[usize], scale: f32, zero: i32) -> TensorId {
        self.push(Tensor {
            name: format!("t{}", self.graph.tensors.len()),
            shape: shape.into(),
            dtype: DType::I8,
            quantization: Some(Quantization {
                scales: vec![scale],
                zero_points: vec![zero],
                axis: 0,
            }),
            data: None,
        })
    }

    fn weights(&mut self, shape: &[usize], data: Vec<i8>) -> TensorId {
        let id = self.tensor(shape, 0.02, 0);
        assert_eq!(data.len(), self.graph.tensor(id).elements());
        let bytes = data.iter().map(|it| it.cast_unsigned()).collect();
        self.graph.tensors[id.0].data = Some(bytes);
        id
    }

    fn some_weights(&mut self, shape: &[usize]) -> TensorId {
        let data = (0..shape.iter().product()).map(|_| self.byte()).collect();
        self.weights(shape, data)
    }

    fn bias(&mut self, data: &[i32]) -> TensorId {
        self.push(Tensor {
            name: "bias".into(),
            shape: vec![data.len()],
            dtype: DType::I32,
            quantization: None,
            data: Some(data.iter().flat_map(|it| it.to_le_bytes()).collect()),
        })
    }

    fn node(&mut self, kind: Kind, inputs: &[TensorId], output: TensorId) {
        self.graph.nodes.push(Node {
            name: format!("n{}", self.graph.nodes.len()),
            kind,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![output],
        });
        self.graph.outputs = vec![output];
    }

    /// A 3 by 3 convolution of an image, with `side` pixels of padding; its output.
    fn conv(&mut self, input: TensorId, outputs: usize, side: usize) -> TensorId {
        let shape = self.graph.tensor(input).shape.clone();
        let weights = self.some_weights(&[outputs, 3, 3, shape[3]]);
        let shape = [1, shape[1] + 2 * side - 2, shape[2] + 2 * side - 2, outputs];
        let output = self.tensor(&shape, 0.3, -7);
        let biases: Vec<i32> = (0..outputs).map(|_| 40 * i32::from(self.byte())).collect();
        let bias = self.bias(&biases);
        self.node(conv_kind(side), &[input, weights, bias], output);
        output
    }
}

const fn conv_kind(side: usize) -> Kind {
    Kind::Conv {
        window: Window {
            kernel: [3, 3],
            stride: [1, 1],
            dilation: [1, 1],
            padding: [side; 4],
        },
        activation: Activation::None,
    }
}

/// The plans and layouts that outputs are compared under.
fn targets(rewrites: &'static [Rewrite]) -> [Options; 3] {
    let all = [
        Options::linux(),
        Options::mcu(Layout::Natural),
        Options::mcu(Layout::CortexM),
    ];
    all.map(|options| Options {
        rewrites,
        ..options
    })
}

fn outputs(program: &[u8], inputs: &[Vec<i8>]) -> Vec<Vec<i8>> {
    let bytes = Aligned::copy_of(program);
    let program = Program::verify(bytes.as_ref()).unwrap();
    let header = *program.header();
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let run = |elements: &Vec<i8>| {
        let arena = arena.as_mut();
        arena[header.input as usize..][..elements.len()].copy_from_slice(elements);
        program.run(&mut Portable, arena).unwrap();
        arena[header.output as usize..][..header.output_len as usize].to_vec()
    };
    inputs.iter().map(run).collect()
}

/// Names of a program's operators.
fn operators(compiled: &Compiled) -> Vec<&'static str> {
    let bytes = Aligned::copy_of(&compiled.program);
    let program = Program::verify(bytes.as_ref()).unwrap();
    program.ops().map(|op| op.name()).collect()
}

/// Extremes, and 100 random inputs.
fn inputs(graph: &Graph) -> Vec<Vec<i8>> {
    let elements = graph.tensor(graph.inputs[0]).elements();
    let (mut source, _) = Small::new(&[1], 1.0, 0);
    let mut all = vec![vec![i8::MIN; elements], vec![i8::MAX; elements]];
    all.extend((0..100).map(|_| (0..elements).map(|_| source.byte()).collect::<Vec<_>>()));
    all
}

/// Compiles without rewrites and with one. Outputs must be the same under every target, and `wrong`,
/// which does to the graph what a rewrite with a mistake would, must change some. What was compiled for
/// Linux, without and with.
fn one(graph: &Graph, rewrites: &'static [Rewrite], wrong: impl Fn(&mut Graph)) -> [Compiled; 2] {
    let inputs = inputs(graph);
    let [plain, ..] = targets(&[]);
    let plain = compile_graph(graph.clone(), &plain).unwrap();
    let expected = outputs(&plain.program, &inputs);
    for options in targets(rewrites) {
        let made = compile_graph(graph.clone(), &options).unwrap();
        assert_eq!(outputs(&made.program, &inputs), expected, "{options:?}");
        let done: Vec<_> = made.report.rewrites.iter().map(|it| it.rewrite).collect();
        assert_eq!(done, [rewrites[0].name()], "it happened");
    }
    assert!(plain.report.rewrites.is_empty());
    let mut spoilt = graph.clone();
    wrong(&mut spoilt);
    let [options, ..] = targets(&[]);
    let spoilt = compile_graph(spoilt, &options).unwrap();
    assert_ne!(
        outputs(&spoilt.program, &inputs),
        expected,
        "inputs tell a mistake"
    );
    let [options, ..] = targets(rewrites);
    [plain, compile_graph(graph.clone(), &options).unwrap()]
}

/// Compiles with one rewrite that must leave the graph alone, and not change an output.
fn none(graph: &Graph, rewrites: &'static [Rewrite]) {
    let inputs = inputs(graph);
    let [plain, ..] = targets(&[]);
    let expected = outputs(
        &compile_graph(graph.clone(), &plain).unwrap().program,
        &inputs,
    );
    for options in targets(rewrites) {
        let made = compile_graph(graph.clone(), &options).unwrap();
        assert!(
            made.report.rewrites.is_empty(),
            "{:?}",
            made.report.rewrites
        );
        assert_eq!(outputs(&made.program, &inputs), expected);
    }
}

fn arena(compiled: &Compiled) -> u64 {
    compiled.report.plan.arena_bytes
}

#[test]
fn constants_are_folded() {
    // Weights that the file transposes: [in, out] becomes [out, in].
    let transposed = |folded_by_hand: bool| {
        let (mut small, input) = Small::new(&[1, 5], 0.1, 3);
        let data: Vec<i8> = (0..15).map(|_| small.byte()).collect();
        let weights = if folded_by_hand {
            let turned = (0..15).map(|at| data[at % 5 * 3 + at / 5]).collect();
            small.weights(&[3, 5], turned)
        } else {
            let source = small.weights(&[5, 3], data);
            let weights = small.tensor(&[3, 5], 0.02, 0);
            let permutation = vec![1, 0];
            small.node(Kind::Transpose { permutation }, &[source], weights);
            weights
        };
        let output = small.tensor(&[1, 3], 0.3, -7);
        let activation = Activation::None;
        small.node(Kind::Dense { activation }, &[input, weights], output);
        small.graph
    };
    let (graph, by_hand) = (transposed(false), transposed(true));
    let inputs = inputs(&graph);
    for (with, without) in targets(&[Rewrite::Constants]).iter().zip(targets(&[])) {
        // Without it there are no weights to lay out.
        let refused = compile_graph(graph.clone(), &without).unwrap_err();
        let CompileError::Refused(refusal) = &refused else {
            panic!("{refused}");
        };
        assert_eq!(refusal.reason, Reason::NotConstant, "{refused}");
        let made = compile_graph(graph.clone(), with).unwrap();
        let expected = compile_graph(by_hand.clone(), &without).unwrap();
        assert_eq!(operators(&made), ["Dense"]);
        assert_eq!(made.program, expected.program);
        assert_eq!(
            outputs(&made.program, &inputs),
            outputs(&expected.program, &inputs)
        );
    }
}

#[test]
fn activations_are_fused() {
    let relu = |function: Unary, zero: i32| {
        let (mut small, input) = Small::new(&[1, 6, 6, 3], 0.1, 3);
        let between = small.conv(input, 4, 1);
        let output = small.tensor(&[1, 6, 6, 4], 0.3, zero);
        small.node(Kind::Unary(function), &[between], output);
        small.graph
    };
    let (low, high) = (-3.0, 11.0);
    for function in [Unary::Relu, Unary::Relu6, Unary::Clamp { low, high }] {
        let wrong = |graph: &mut Graph| graph.nodes[1].kind = Kind::Reshape;
        let [plain, made] = one(&relu(function, -7), &[Rewrite::Activations], wrong);
        assert_eq!(operators(&plain), ["Conv", "Lookup"]);
        assert_eq!(operators(&made), ["Conv"]);
        assert!(
            made.program.len() + 256 <= plain.program.len(),
            "the table is gone"
        );
        assert!(arena(&made) < arena(&plain));
        // The clamp of another quantization is none of this one.
        none(&relu(function, -8), &[Rewrite::Activations]);
    }
}

#[test]
fn paddings_are_folded_into_convolutions() {
    let padded = |value: i8, depthwise: bool| {
        let (mut small, input) = Small::new(&[1, 6, 6, 3], 0.1, 3);
        let between = small.tensor(&[1, 8, 8, 3], 0.1, 3);
        let padding = vec![[0, 0], [1, 1], [1, 1], [0, 0]];
        small.node(Kind::Pad { padding, value }, &[input], between);
        if !depthwise {
            small.conv(between, 4, 0);
            return small.graph;
        }
        let weights = small.some_weights(&[1, 3, 3, 3]);
        let output = small.tensor(&[1, 6, 6, 3], 0.3, -7);
        let Kind::Conv { window, activation } = conv_kind(0) else {
            unreachable!("a convolution");
        };
        let multiplier = 1;
        let kind = Kind::Depthwise {
            window,
            multiplier,
            activation,
        };
        small.node(kind, &[between, weights], output);
        small.graph
    };
    for depthwise in [false, true] {
        // Padding with 0 instead of the zero point, which is 3.
        let wrong = |graph: &mut Graph| {
            if let Kind::Pad { value, .. } = &mut graph.nodes[0].kind {
                *value = 0;
            }
        };
        let [plain, made] = one(&padded(3, depthwise), &[Rewrite::Paddings], wrong);
        let layer = if depthwise { "Depthwise" } else { "Conv" };
        assert_eq!(operators(&plain), ["Fill", "Copy", layer]);
        assert_eq!(operators(&made), [layer]);
        assert!(arena(&made) < arena(&plain), "the padded copy is gone");
        none(&padded(0, depthwise), &[Rewrite::Paddings]);
    }
}

#[test]
fn operators_that_leave_bytes_as_they_are_cost_nothing() {
    let transposed = |width: usize| {
        let (mut small, input) = Small::new(&[1, 1, width, 6], 0.1, 3);
        let between = small.tensor(&[1, width, 1, 6], 0.1, 3);
        let permutation = vec![0, 2, 1, 3];
        small.node(Kind::Transpose { permutation }, &[input], between);
        let turned = small.tensor(&[1, 6, width, 1], 0.1, 3);
        let permutation = vec![0, 3, 1, 2];
        small.node(Kind::Transpose { permutation }, &[between], turned);
        let weights = small.some_weights(&[3, 6 * width]);
        let flat = small.tensor(&[1, 6 * width], 0.1, 3);
        small.node(Kind::Reshape, &[turned], flat);
        let output = small.tensor(&[1, 3], 0.3, -7);
        let activation = Activation::None;
        small.node(Kind::Dense { activation }, &[flat, weights], output);
        small.graph
    };
    // The first only moves an axis of one; the second moves bytes.
    let wrong = |graph: &mut Graph| graph.nodes[1].kind = Kind::Reshape;
    let [plain, made] = one(&transposed(5), &[Rewrite::Reshapes], wrong);
    assert_eq!(operators(&plain), ["Copy", "Copy", "Dense"]);
    assert_eq!(operators(&made), ["Copy", "Dense"]);
    assert_eq!(made.report.rewrites[0].count, 1);
}

#[test]
fn dead_channels_go() {
    // Channel 1 is never read, and channel 2 has the bias alone: a constant that moves on.
    let with_dead = |side: usize| {
        let (mut small, input) = Small::new(&[1, 6, 6, 2], 0.1, 3);
        let mut data: Vec<i8> = (0..4 * 9 * 2).map(|_| small.byte()).collect();
        data[36..54].fill(0);
        let weights = small.weights(&[4, 3, 3, 2], data);
        let bias = small.bias(&[100, -200, 9000, 50]);
        let between = small.tensor(&[1, 6, 6, 4], 0.3, -7);
        small.node(conv_kind(1), &[input, weights, bias], between);
        let mut data: Vec<i8> = (0..3 * 9 * 4).map(|_| small.byte()).collect();
        data.iter_mut()
            .skip(1)
            .step_by(4)
            .for_each(|weight| *weight = 0);
        let weights = small.weights(&[3, 3, 3, 4], data);
        let bias = small.bias(&[10, 20, 30]);
        let extent = 4 + 2 * side;
        let output = small.tensor(&[1, extent, extent, 3], 0.4, 5);
        small.node(conv_kind(side), &[between, weights, bias], output);
        small.graph
    };
    // The constant forgotten: its weights go, and what they made with it.
    let wrong = |graph: &mut Graph| {
        let Some(Some(weights)) = graph.nodes[1].inputs.get(1) else {
            panic!("weights");
        };
        let data = graph.tensors[weights.0].data.as_mut().unwrap();
        data.iter_mut()
            .skip(2)
            .step_by(4)
            .for_each(|weight| *weight = 0);
    };
    for (side, gone) in [(0, 2), (1, 1)] {
        let [plain, made] = one(&with_dead(side), &[Rewrite::DeadChannels], wrong);
        assert_eq!(operators(&made), operators(&plain));
        let effect = &made.report.rewrites[0];
        // Where a window reads padding, a constant other than the zero point stays.
        assert_eq!(effect.count, gone);
        let left = (4 - gone) as u64;
        assert_eq!(effect.before.weight_bytes, 9 * (4 * 2 + 3 * 4));
        assert_eq!(effect.after.weight_bytes, 9 * (left * 2 + 3 * left));
        assert!(effect.after.macs < effect.before.macs);
        assert!(made.program.len() < plain.program.len() && arena(&made) < arena(&plain));
    }
}

#[test]
fn sums_are_fused_into_convolutions() {
    let sum = |swapped: bool, extent: usize| {
        let (mut small, input) = Small::new(&[1, 6, 6, 3], 0.1, 3);
        let other = if extent == 1 {
            let pooled = small.tensor(&[1, 1, 1, 3], 0.1, 3);
            small.node(Kind::Mean { axes: vec![1, 2] }, &[input], pooled);
            pooled
        } else {
            input
        };
        let between = small.conv(input, 3, 1);
        let output = small.tensor(&[1, 6, 6, 3], 0.25, 11);
        let inputs = if swapped {
            [between, other]
        } else {
            [other, between]
        };
        let activation = Activation::Relu;
        small.node(Kind::Add { activation }, &inputs, output);
        small.graph
    };
    for swapped in [false, true] {
        // The sum's clamp forgotten.
        let wrong = |graph: &mut Graph| {
            let activation = Activation::None;
            graph.nodes[1].kind = Kind::Add { activation };
        };
        let [plain, made] = one(&sum(swapped, 6), &[Rewrite::Sums], wrong);
        assert_eq!(operators(&plain), ["Conv", "Add"]);
        assert_eq!(operators(&made), ["ConvAdd"]);
        assert!(arena(&made) < arena(&plain), "what lay between is gone");
    }
    // An addend that is repeated lies nowhere beside the convolution's pixels.
    none(&sum(false, 1), &[Rewrite::Sums]);
}

#[test]
fn zero_points_are_folded_into_biases() {
    let (mut small, input) = Small::new(&[1, 6, 6, 3], 0.1, 37);
    small.conv(input, 4, 1);
    let graph = small.graph;
    let data = |place: usize| {
        let id = graph.nodes[0].inputs[place].unwrap();
        graph.tensor(id).data.clone().unwrap()
    };
    let (weights, biases) = (data(1), data(2));
    let sums = weights.chunks(27).map(|all| {
        let all = all.iter().map(|&weight| i32::from(weight.cast_signed()));
        all.sum::<i32>()
    });
    let biases = biases
        .as_chunks()
        .0
        .iter()
        .map(|&it| i32::from_le_bytes(it));
    let (sums, biases): (Vec<_>, Vec<_>) = (sums.collect(), biases.collect());
    let inputs = inputs(&graph);
    for options in targets(&[]) {
        let made = compile_graph(graph.clone(), &options).unwrap();
        let bytes = Aligned::copy_of(&made.program);
        let program = Program::verify(bytes.as_ref()).unwrap();
        let Some(Op::Conv(conv)) = program.ops().next() else {
            panic!("a convolution");
        };
        let mut spoilt = made.program.clone();
        for (out, (sum, bias)) in sums.iter().zip(&biases).enumerate() {
            let channel =
                layout::channel(options.layout, program.bytes(), conv.channels, out).unwrap();
            assert_eq!(channel.bias, bias - 37 * sum, "channel {out}");
            // What the program would be without: the file's own bias.
            let at = conv.channels as usize + 12 * out;
            spoilt[at..at + 4].copy_from_slice(&bias.to_le_bytes());
        }
        let made = outputs(&made.program, &inputs);
        for (input, output) in inputs.iter().zip(&made) {
            for (at, &found) in output.iter().enumerate() {
                let (pixel, out) = (at / 4, at % 4);
                let real = real_output(input, &weights, &biases, [pixel / 6, pixel % 6, out]);
                assert!(
                    (f64::from(found) - real).abs() <= 1.0,
                    "{found}, not {real}"
                );
            }
        }
        assert_ne!(
            outputs(&spoilt, &inputs),
            made,
            "inputs tell a forgotten zero point"
        );
    }
}

/// The convolution of the test above with distances from zero points, in f64.
fn real_output(input: &[i8], weights: &[u8], biases: &[i32], [y, x, out]: [usize; 3]) -> f64 {
    let mut sum = biases[out];
    for (tap, weight) in weights[27 * out..][..27].iter().enumerate() {
        let (row, column, channel) = (y + tap / 9, x + tap / 3 % 3, tap % 3);
        if (1..=6).contains(&row) && (1..=6).contains(&column) {
            let at = ((row - 1) * 6 + column - 1) * 3 + channel;
            sum += (i32::from(input[at]) - 37) * i32::from(weight.cast_signed());
        }
    }
    (f64::from(sum) * 0.1 * 0.02 / 0.3 - 7.0).clamp(-128.0, 127.0)
}
