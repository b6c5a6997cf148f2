//! Small graphs built in place, refusals, and hostile bytes.

mod meaning;

use super::proto::{
    Attribute, Dim, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo,
};
use super::*;
use crate::graph::{Activation, InputAffine, Kind, Unary};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

fn motion(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    fs::read(root.join(name)).expect("the example model is part of the repository")
}

/// A graph under construction.
struct Builder(Graph);

impl Builder {
    /// A graph with the float input `x` and the output `y`.
    fn new(input: &[i64]) -> Self {
        let info = |name: &str, dims: &[i64]| ValueInfo {
            name: name.into(),
            kind: Some(Type {
                tensor: Some(TensorType {
                    element: 1,
                    shape: Some(Shape {
                        dims: dims.iter().map(|&value| Dim { value }).collect(),
                    }),
                }),
            }),
        };
        Self(Graph {
            inputs: vec![info("x", input)],
            outputs: vec![info("y", &[])],
            ..Graph::default()
        })
        .scale("s", 0.5, 3)
    }

    fn node(mut self, operator: &str, inputs: &[&str], output: &str) -> Self {
        self.0.nodes.push(Node {
            inputs: inputs.iter().map(|&it| it.into()).collect(),
            outputs: vec![output.into()],
            name: format!("the {operator}"),
            operator: operator.into(),
            ..Node::default()
        });
        self
    }

    fn ints(mut self, name: &str, ints: &[i64]) -> Self {
        let node = self
            .0
            .nodes
            .last_mut()
            .expect("an attribute follows its node");
        let int = ints.first().copied().unwrap_or(0);
        node.attributes.push(Attribute {
            name: name.into(),
            int,
            ints: ints.into(),
            ..Attribute::default()
        });
        self
    }

    fn int8(mut self, name: &str, dims: &[i64], raw: &[i8]) -> Self {
        let raw = raw.iter().map(|&it| it.cast_unsigned()).collect();
        self.0.initializers.push(Tensor {
            name: name.into(),
            dims: dims.into(),
            data_type: 3,
            raw,
            ..Tensor::default()
        });
        self
    }

    fn float(mut self, name: &str, dims: &[i64], floats: &[f32]) -> Self {
        let floats = floats.to_vec();
        self.0.initializers.push(Tensor {
            name: name.into(),
            dims: dims.into(),
            data_type: 1,
            floats,
            ..Tensor::default()
        });
        self
    }

    fn longs(mut self, name: &str, longs: &[i64]) -> Self {
        let dims = vec![longs.len() as i64];
        self.0.initializers.push(Tensor {
            name: name.into(),
            dims,
            data_type: 7,
            longs: longs.into(),
            ..Tensor::default()
        });
        self
    }

    /// A scale `name` with its zero point `name` + "z".
    fn scale(self, name: &str, scale: f32, zero: i8) -> Self {
        self.float(name, &[], &[scale])
            .int8(&format!("{name}z"), &[], &[zero])
    }

    /// `from` quantized and dequantized again as `to`.
    fn edge(self, from: &str, to: &str) -> Self {
        let between = format!("{from}_q");
        self.node("QuantizeLinear", &[from, "s", "sz"], &between)
            .node("DequantizeLinear", &[&between, "s", "sz"], to)
    }

    fn uint8(mut self, name: &str, dims: &[i64], raw: &[u8]) -> Self {
        self = self.int8(name, dims, &[]);
        if let Some(tensor) = self.0.initializers.last_mut() {
            (tensor.data_type, tensor.raw) = (2, raw.into());
        }
        self
    }

    fn int32(mut self, name: &str, dims: &[i64], ints: &[i32]) -> Self {
        self = self.int8(name, dims, &[]);
        if let Some(tensor) = self.0.initializers.last_mut() {
            (tensor.data_type, tensor.ints) = (6, ints.into());
        }
        self
    }

    /// The last node is ONNX Runtime's own.
    fn contributed(mut self) -> Self {
        if let Some(node) = self.0.nodes.last_mut() {
            node.domain = "com.microsoft".into();
        }
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.of_version(13)
    }

    fn of_version(self, version: i64) -> Vec<u8> {
        let opsets = vec![OperatorSet {
            domain: String::new(),
            version,
        }];
        Model {
            graph: Some(self.0),
            opsets,
        }
        .encode_to_vec()
    }
}

fn kinds(graph: &crate::graph::Graph) -> Vec<&Kind> {
    graph.nodes.iter().map(|node| &node.kind).collect()
}

#[test]
fn the_example_model_comes_in_whole() {
    let graph = import(&motion("motion-v1.onnx")).expect("it is fully int8");
    let affine = graph
        .input_affine
        .as_ref()
        .expect("it standardises its input");
    assert_eq!((affine.features.len(), affine.inner), (6, 50));
    assert!(graph.input_half_to_even);
    let names: Vec<_> = kinds(&graph)
        .iter()
        .map(|kind| {
            format!("{kind:?}")
                .split([' ', '('])
                .next()
                .map(str::to_owned)
                .unwrap_or_default()
        })
        .collect();
    assert_eq!(graph.planar_input.as_deref(), Some(&[1, 6, 50][..]));
    let expected = [
        "Reshape", "Conv", "MaxPool", "Conv", "Mean", "Reshape", "Dense",
    ];
    assert_eq!(names, expected);
    let Kind::Conv { window, .. } = &graph.nodes[1].kind else {
        unreachable!("compared above")
    };
    assert_eq!((window.kernel, window.stride), ([5, 1], [1, 1]));
    let output = graph.tensor(graph.outputs[0]);
    assert_eq!(output.shape, [1, 4]);
}

#[test]
fn a_float_graph_is_told_to_be_quantized() {
    let error = import(&motion("motion-v1-float.onnx")).expect_err("it is float");
    assert_eq!(error.place, "Conv (conv1)");
    assert!(error.to_string().contains("quantize"), "{error}");
}

/// Channels of a filter lie apart in ONNX and side by side in the graph.
#[test]
fn a_convolution_goes_to_channels_last() {
    let weights: Vec<i8> = (0..12).collect();
    let bytes = Builder::new(&[1, 2, 3, 4])
        .int8("w", &[1, 2, 2, 3], &weights)
        .scale("ws", 0.25, 0)
        .float("b", &[1], &[1.0])
        .edge("x", "a")
        .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
        .node("Conv", &["a", "wr", "b"], "c")
        .ints("pads", &[1, 0, 0, 2])
        .node("Relu", &["c"], "r")
        .edge("r", "y")
        .bytes();
    let graph = import(&bytes).expect("it is fully int8");
    let conv = graph
        .nodes
        .iter()
        .find(|node| matches!(node.kind, Kind::Conv { .. }))
        .expect("a convolution");
    let Kind::Conv { window, activation } = &conv.kind else {
        unreachable!("found by its kind")
    };
    assert_eq!((window.kernel, window.padding), ([2, 3], [1, 0, 0, 2]));
    assert_eq!(*activation, Activation::Relu);
    let tensor = |index: usize| graph.tensor(conv.inputs[index].expect("all three are given"));
    assert_eq!(tensor(0).shape, [1, 3, 4, 2]);
    assert_eq!(tensor(1).shape, [1, 2, 3, 2]);
    assert_eq!(
        tensor(1).data.as_deref(),
        Some(&[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11][..])
    );
    // 1.0 at a scale of 0.5 * 0.25.
    assert_eq!(tensor(2).data.as_deref(), Some(&8_i32.to_le_bytes()[..]));
    assert_eq!(graph.tensor(conv.outputs[0]).shape, [1, 3, 4, 1]);
    // The caller sees ONNX's order again.
    assert_eq!(graph.tensor(graph.outputs[0]).shape, [1, 1, 3, 4]);
}

/// Quantizing turns the caller's floats to channels last, unless somebody wants them as they come, or they
/// are int8 already.
#[test]
fn an_input_is_turned_by_its_quantization_where_all_readers_turn_it() {
    let conv = |builder: Builder| {
        builder
            .int8("w", &[2, 2, 1, 1], &[1; 4])
            .scale("ws", 0.25, 0)
            .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
    };
    let start = || conv(Builder::new(&[1, 2, 3, 4])).edge("x", "a");
    let twice = start()
        .node("Conv", &["a", "wr"], "c")
        .edge("c", "d")
        .node("Conv", &["a", "wr"], "e")
        .edge("e", "f")
        .node("Add", &["d", "f"], "g")
        .edge("g", "y");
    let graph = import(&twice.bytes()).expect("it is fully int8");
    assert_eq!(graph.planar_input.as_deref(), Some(&[1, 2, 3, 4][..]));
    assert_eq!(graph.tensor(graph.inputs[0]).shape, [1, 3, 4, 2]);
    let first = &graph.nodes[0];
    assert!(matches!(first.kind, Kind::Conv { .. }), "{first:?}");
    let also_flat = start()
        .node("Conv", &["a", "wr"], "c")
        .edge("c", "d")
        .node("Relu", &["a"], "e")
        .edge("e", "f")
        .node("Add", &["d", "f"], "g")
        .edge("g", "y");
    let graph = import(&also_flat.bytes()).expect("it is fully int8");
    assert_eq!(graph.planar_input, None);
    assert!(matches!(graph.nodes[0].kind, Kind::Transpose { .. }));
}

#[test]
fn a_scaled_input_becomes_its_quantization() {
    let bytes = Builder::new(&[1, 3, 2])
        .float("m", &[3, 1], &[1.0, 2.0, 3.0])
        .float("d", &[1, 3, 1], &[2.0, 4.0, 8.0])
        .float("o", &[], &[0.5])
        .node("Sub", &["x", "m"], "c")
        .node("Div", &["c", "d"], "e")
        .node("Mul", &["e", "o"], "f")
        .edge("f", "g")
        .node("Relu", &["g"], "h")
        .edge("h", "y")
        .bytes();
    let graph = import(&bytes).expect("it is fully int8");
    let features = vec![(1.0, 0.25), (2.0, 0.125), (3.0, 0.0625)];
    assert_eq!(graph.input_affine, Some(InputAffine { features, inner: 2 }));
    assert_eq!(kinds(&graph), [&Kind::Unary(Unary::Relu)]);
}

/// A graph that comes with channels last and turns them first for a convolution turns nothing here.
#[test]
fn transposes_that_undo_each_other_vanish() {
    let bytes = Builder::new(&[1, 4, 5, 2])
        .int8("w", &[3, 2, 1, 1], &[1; 6])
        .scale("ws", 0.25, 0)
        .edge("x", "a")
        .node("Transpose", &["a"], "t")
        .ints("perm", &[0, 3, 1, 2])
        .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
        .node("Conv", &["t", "wr"], "c")
        .edge("c", "d")
        .node("Transpose", &["d"], "y")
        .ints("perm", &[0, 2, 3, 1])
        .bytes();
    let graph = import(&bytes).expect("it is fully int8");
    let [node] = &graph.nodes[..] else {
        panic!("only the convolution is left: {:?}", graph.nodes)
    };
    assert_eq!(node.inputs[0], Some(graph.inputs[0]));
    assert_eq!(node.outputs[0], graph.outputs[0]);
}

#[test]
fn another_scale_is_a_requantization() {
    let bytes = Builder::new(&[1, 4])
        .scale("t", 0.25, -7)
        .edge("x", "a")
        .node("QuantizeLinear", &["a", "t", "tz"], "b")
        .node("DequantizeLinear", &["b", "t", "tz"], "y")
        .bytes();
    let graph = import(&bytes).expect("it is fully int8");
    assert_eq!(kinds(&graph), [&Kind::Unary(Unary::Requantize)]);
}

#[test]
fn weights_that_do_not_fit_int8_are_sums_of_such_that_do() {
    let bytes = Builder::new(&[1, 2, 3, 4])
        .int8("w", &[1, 2, 1, 1], &[-128, 127])
        .scale("ws", 0.25, 100)
        .edge("x", "a")
        .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
        .node("Conv", &["a", "wr"], "c")
        .edge("c", "y")
        .bytes();
    let graph = import(&bytes).expect("it is fully int8");
    let conv = |node: &&crate::graph::Node| matches!(node.kind, Kind::Conv { .. });
    let conv = graph.nodes.iter().find(conv).expect("a convolution");
    let inputs: Vec<_> = conv
        .inputs
        .iter()
        .flatten()
        .map(|&id| graph.tensor(id))
        .collect();
    assert_eq!(inputs[0].shape, [1, 3, 4, 4], "both channels, twice");
    // -228 and 27.
    let parts = [-128, 27, -100, 0].map(i8::cast_unsigned);
    assert_eq!(inputs[1].data.as_deref(), Some(&parts[..]));
}

#[test]
fn a_zero_point_that_is_not_given_is_zero_of_the_type() {
    for (output_dtype, zero) in [(0, -128), (2, -128), (3, 0)] {
        let bytes = Builder::new(&[1, 4])
            .node("QuantizeLinear", &["x", "s"], "q")
            .ints("output_dtype", &[output_dtype])
            .node("DequantizeLinear", &["q", "s"], "y")
            .bytes();
        let graph = import(&bytes).expect("zero points may be left out");
        let input = graph.tensor(graph.inputs[0]).quantization.as_ref();
        assert_eq!(
            input.expect("it has a scale").zero_points,
            [zero],
            "{output_dtype}"
        );
    }
    let wide = Builder::new(&[1, 4])
        .node("QuantizeLinear", &["x", "s"], "y")
        .ints("output_dtype", &[5]);
    let error = import(&wide.bytes()).expect_err("int16 is no type of programs");
    assert!(error.to_string().contains("int8 or uint8"), "{error}");
}

#[test]
fn weights_of_four_bits_are_weights() {
    let mut built = Builder::new(&[1, 2])
        .edge("x", "real")
        .node("DequantizeLinear", &["w", "s"], "weights")
        .node("MatMul", &["real", "weights"], "product")
        .edge("product", "y");
    built.0.initializers.push(Tensor {
        name: "w".into(),
        dims: vec![2, 2],
        data_type: 22,
        raw: vec![0x71, 0x8f],
        ..Tensor::default()
    });
    let graph = import(&built.bytes()).expect("they fit int8");
    let dense = graph
        .nodes
        .iter()
        .find(|it| matches!(it.kind, Kind::Dense { .. }));
    let weights = dense
        .and_then(|it| it.inputs[1])
        .expect("a layer with weights");
    // Columns of the file are rows of the graph.
    let expected = [1_i8, -1, 7, -8].map(i8::cast_unsigned);
    assert_eq!(graph.tensor(weights).data.as_deref(), Some(&expected[..]));
    let activation = Builder::new(&[1, 4]).node("QuantizeLinear", &["x", "s", "z"], "y");
    let mut activation = activation;
    activation.0.initializers.push(Tensor {
        name: "z".into(),
        data_type: 21,
        raw: vec![1],
        ..Tensor::default()
    });
    let error = import(&activation.bytes()).expect_err("activations have eight bits");
    assert!(
        error.to_string().contains("activation of 4 bits"),
        "{error}"
    );
}

#[test]
fn refusals_name_node_and_remedy() {
    let weights = |zero: i8| {
        Builder::new(&[1, 2, 3, 4])
            .int8("w", &[1, 2, 1, 1], &[1, 1])
            .scale("ws", 0.25, zero)
            .edge("x", "a")
            .node("DequantizeLinear", &["w", "ws", "wsz"], "wr")
    };
    let cases = [
        (
            weights(0)
                .float("wf", &[1, 2, 1, 1], &[0.5, 0.25])
                .node("Conv", &["a", "wf"], "c")
                .edge("c", "y"),
            "Conv (the Conv)",
            "symmetric",
        ),
        (
            weights(0).node("Conv", &["a", "wr"], "y"),
            "the graph's output",
            "is float",
        ),
        (
            weights(0).node("Conv", &["x", "wr"], "y"),
            "Conv (the Conv)",
            "x is float",
        ),
        (
            weights(0).node("Conv", &["a", "nowhere"], "y"),
            "Conv (the Conv)",
            "no earlier node",
        ),
        (
            weights(0).node("LSTM", &["a"], "y"),
            "LSTM (the LSTM)",
            "tract",
        ),
        (
            weights(0).node("DequantizeLinear", &["x_q", "ws", "wsz"], "y"),
            "DequantizeLinear (the DequantizeLinear)",
            "has scale 0.5",
        ),
        (
            weights(0)
                .longs("sh", &[7, -1])
                .node("Reshape", &["a", "sh"], "y"),
            "Reshape (the Reshape)",
            "does not become",
        ),
        (
            weights(0)
                .node("MaxPool", &["a"], "y")
                .ints("kernel_shape", &[9, 9]),
            "MaxPool (the MaxPool)",
            "does not fit",
        ),
        (
            Builder::new(&[8, 2]).edge("x", "y"),
            "the graph's input",
            "batch",
        ),
        (
            Builder::new(&[1, 0]).edge("x", "y"),
            "the graph's input",
            "fixed shapes",
        ),
    ];
    for (builder, place, part) in cases {
        let error = import(&builder.bytes()).expect_err(part);
        assert_eq!(error.place, place, "{error}");
        assert!(
            error.to_string().contains(part),
            "{error} should say {part}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_graph(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = import(&bytes);
    }
}

/// Every id has its tensor, and every constant as many bytes as its shape says.
fn holds_together(graph: &crate::graph::Graph) -> bool {
    let named = graph
        .nodes
        .iter()
        .flat_map(|node| node.inputs.iter().flatten().chain(&node.outputs))
        .chain(&graph.inputs)
        .chain(&graph.outputs)
        .all(|id| id.0 < graph.tensors.len());
    let whole = graph.tensors.iter().all(|tensor| {
        let length = tensor.elements() * tensor.dtype.bytes();
        tensor.data.as_ref().is_none_or(|data| data.len() == length)
    });
    named && whole
}

/// Bytes of the example's last field, which only names its maker.
const MAKER: usize = 33;

#[test]
fn a_model_that_was_cut_is_an_error_unless_it_lacks_its_makers_name_only() {
    let bytes = motion("motion-v1.onnx");
    let whole = (0..bytes.len()).filter(|&length| import(&bytes[..length]).is_ok());
    assert_eq!(whole.collect::<Vec<_>>(), [bytes.len() - MAKER]);
}

/// One byte in so many is changed, which takes seconds and not minutes.
const STEP: usize = 3;

/// What comes of the bytes of a model when they are others.
#[derive(Debug, Default)]
struct Damage {
    refused: usize,
    /// The same program as before: the byte is of a name, say.
    unnoticed: usize,
    other_program: usize,
}

fn damage(bytes: &[u8]) -> Damage {
    let options = crate::Options::linux();
    let sound = crate::compile(bytes, &options).expect("the example compiles");
    let mut damaged = bytes.to_vec();
    let mut damage = Damage::default();
    for (at, &byte) in bytes.iter().enumerate().step_by(STEP) {
        damaged[at] = byte ^ [0x01, 0x80, 0xff][at / STEP % 3];
        let compiled = import(&damaged).map(|graph| {
            assert!(holds_together(&graph), "byte {at}");
            crate::compile_graph(graph, &options)
        });
        damaged[at] = byte;
        match compiled {
            // The compiler wrote what boards refuse: its own fault, whatever the file holds.
            Ok(Err(crate::CompileError::Rejected(error))) => panic!("byte {at}: {error:?}"),
            Err(_) | Ok(Err(_)) => damage.refused += 1,
            Ok(Ok(compiled)) if compiled.program == sound.program => damage.unnoticed += 1,
            Ok(Ok(_)) => damage.other_program += 1,
        }
    }
    damage
}

/// Whatever byte of the file is wrong: the importer says so, or a board takes the program.
#[test]
fn a_model_with_a_byte_changed_is_an_error_or_a_sound_program() {
    let damage = damage(&motion("motion-v1.onnx"));
    println!("{damage:?}");
    // 2,496 weights are single bytes in three stretches, and no changed one may go unnoticed. The
    // other classes are not empty either, or nothing would have been tried.
    assert!(damage.other_program >= 2496 / STEP - 3, "{damage:?}");
    assert!(damage.refused >= 1000, "{damage:?}");
}
