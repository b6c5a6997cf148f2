//! The example models as programs: within their tolerance of ONNX Runtime's golden vectors.

#[allow(dead_code, reason = "archives are read by other tests")]
mod npz;

use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::graph::{
    Activation, DType, Graph, Kind, Node, Quantization, Tensor, TensorId, Window,
};
use edgeward_compiler::{Compiled, Options, compile, compile_graph, onnx};
use npz::read_npy;
use std::path::Path;

fn motion(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    std::fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Rows of floats along the first axis.
fn rows(name: &str) -> Vec<Vec<f32>> {
    let array = read_npy(&motion(name));
    let row = array.bytes.len() / array.shape[0];
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let floats = |row: &[u8]| row.chunks_exact(4).map(float).collect();
    array.bytes.chunks_exact(row).map(floats).collect()
}

/// A program's outputs on each of `inputs`, floats in and out.
fn run(model: &str, options: &Options, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let compiled =
        compile(&motion(model), options).unwrap_or_else(|error| panic!("{model}: {error}"));
    outputs(&compiled, inputs)
}

fn outputs(compiled: &Compiled, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let bytes = Aligned::copy_of(&compiled.program);
    let program = Program::verify(bytes.as_ref()).expect("the compiler verified it");
    let header = *program.header();
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let mut outputs = Vec::new();
    for input in inputs {
        assert_eq!(input.len(), header.input_len as usize);
        let arena = arena.as_mut();
        program.quantize(input, &mut arena[header.input as usize..][..input.len()]);
        program
            .run(&mut Portable, arena)
            .expect("the arena is as the program wants it");
        let mut output = vec![0.0; header.output_len as usize];
        program.dequantize(&arena[header.output as usize..], &mut output);
        outputs.push(output);
    }
    outputs
}

fn tolerance(manifest: &str) -> f32 {
    let text = String::from_utf8(motion(manifest)).expect("a text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("tolerance = "));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("it states a tolerance")
}

#[test]
fn programs_keep_to_the_golden_vectors_of_onnx_runtime() {
    for release in ["v1", "v2", "bad"] {
        let inputs = rows(&format!("golden-{release}-input.npy"));
        let expected = rows(&format!("golden-{release}-output.npy"));
        let tolerance = tolerance(&format!("{release}.toml"));
        for options in [Options::linux(), Options::mcu(Layout::Natural)] {
            let outputs = run(&format!("motion-{release}.onnx"), &options, &inputs);
            assert_eq!(outputs.len(), expected.len());
            let pairs = outputs.iter().flatten().zip(expected.iter().flatten());
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{release}: largest difference {largest}, tolerance {tolerance}");
            assert!(
                largest <= tolerance,
                "{release}: {largest} is beyond {tolerance}"
            );
        }
    }
}

/// An image of three channels, channels first, and a convolution of it.
fn image() -> Graph {
    let tensor = |shape: &[usize], scale: f32, zero: i32| Tensor {
        name: "t".into(),
        shape: shape.into(),
        dtype: DType::I8,
        quantization: Some(Quantization {
            scales: vec![scale],
            zero_points: vec![zero],
            axis: 0,
        }),
        data: None,
    };
    let data = (0..8 * 9 * 3).map(|at| (at * 37 % 251) as u8).collect();
    let weights = Tensor {
        data: Some(data),
        ..tensor(&[8, 3, 3, 3], 0.02, 0)
    };
    let window = Window {
        kernel: [3, 3],
        stride: [2, 2],
        dilation: [1, 1],
        padding: [1, 1, 0, 0],
    };
    let activation = Activation::Relu;
    Graph {
        tensors: vec![
            tensor(&[1, 32, 32, 3], 0.02, 5),
            weights,
            tensor(&[1, 16, 16, 8], 0.4, -128),
        ],
        nodes: vec![Node {
            name: "the convolution".into(),
            kind: Kind::Conv { window, activation },
            inputs: vec![Some(TensorId(0)), Some(TensorId(1)), None],
            outputs: vec![TensorId(2)],
        }],
        inputs: vec![TensorId(0)],
        outputs: vec![TensorId(2)],
        planar_input: Some(vec![1, 3, 32, 32]),
        input_half_to_even: true,
        ..Graph::default()
    }
}

/// The same with the input as the caller has it, and an operator that turns it.
fn turned_by_an_operator(mut graph: Graph) -> Graph {
    let shape = graph
        .planar_input
        .take()
        .expect("it is turned when it is quantized");
    let input = graph.inputs[0];
    let permutation = match shape.len() {
        3 => vec![0, 2, 1],
        _ => vec![0, 2, 3, 1],
    };
    graph.tensors.push(Tensor {
        shape,
        ..graph.tensor(input).clone()
    });
    let source = TensorId(graph.tensors.len() - 1);
    graph.inputs = vec![source];
    let turn = Node {
        name: "the transpose".into(),
        kind: Kind::Transpose { permutation },
        inputs: vec![Some(source)],
        outputs: vec![input],
    };
    graph.nodes.insert(0, turn);
    graph
}

/// Quantizing puts elements where an operator would move them to, for an operator and a copy of the input
/// less.
#[test]
fn an_input_of_planes_is_turned_by_its_quantization() {
    let motion = onnx::import(&motion("motion-v2.onnx")).expect("it is fully int8");
    let wave = |row: usize| (0..3 * 32 * 32).map(move |at| ((at * at + row) as f32 * 0.1).sin());
    let images = (0..4).map(|row| wave(row).collect()).collect();
    for (name, graph, inputs) in [
        ("motion", motion, rows("golden-v2-input.npy")),
        ("image", image(), images),
    ] {
        let turned = turned_by_an_operator(graph.clone());
        for options in [Options::linux(), Options::mcu(Layout::CortexM)] {
            let with = compile_graph(graph.clone(), &options).expect("it compiles");
            let without = compile_graph(turned.clone(), &options).expect("it compiles");
            assert_eq!(outputs(&with, &inputs), outputs(&without, &inputs));
            assert_eq!(with.report.input_shape, without.report.input_shape);
            let ops = |made: &Compiled| {
                let bytes = Aligned::copy_of(&made.program);
                Program::verify(bytes.as_ref())
                    .expect("it is sound")
                    .ops()
                    .count()
            };
            assert_eq!(ops(&with) + 1, ops(&without));
            let arena = |made: &Compiled| made.report.plan.arena_bytes;
            println!(
                "{name}: arena {}, {} with an operator",
                arena(&with),
                arena(&without)
            );
            assert!(arena(&with) <= arena(&without));
            if name == "image" {
                assert!(arena(&with) + 1024 <= arena(&without));
            }
        }
    }
}
