//! ONNX models, one change away from a sound one each.

use super::proto::{
    Attribute, Dim, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, Unread,
    ValueInfo,
};
use prost::Message;

const FLOAT: i32 = 1;
const INT8: i32 = 3;
const INT32: i32 = 6;
/// Kinds of attributes.
const INT: i32 = 2;
const STRING: i32 = 3;
const INTS: i32 = 7;

fn info(name: &str, element: i32, dims: &[i64]) -> ValueInfo {
    let dims = dims.iter().map(|&value| Dim { value }).collect();
    let shape = Some(Shape { dims });
    let tensor = Some(TensorType { element, shape });
    ValueInfo {
        name: name.into(),
        kind: Some(Type { tensor }),
    }
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Node {
    Node {
        inputs: inputs.iter().map(|&name| name.into()).collect(),
        outputs: vec![output.into()],
        name: format!("the {operator}"),
        operator: operator.into(),
        ..Node::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.into(),
        int: ints.first().copied().unwrap_or(0),
        ints: ints.into(),
        kind: match name {
            "auto_pad" => STRING,
            "axis" | "group" => INT,
            _ => INTS,
        },
        ..Attribute::default()
    }
}

fn tensor(name: &str, data_type: i32, dims: &[i64]) -> Tensor {
    Tensor {
        name: name.into(),
        dims: dims.into(),
        data_type,
        ..Tensor::default()
    }
}

fn floats(name: &str, dims: &[i64], floats: &[f32]) -> Tensor {
    let floats = floats.into();
    Tensor {
        floats,
        ..tensor(name, FLOAT, dims)
    }
}

fn int8(name: &str, dims: &[i64], raw: Vec<u8>) -> Tensor {
    Tensor {
        raw,
        ..tensor(name, INT8, dims)
    }
}

/// A sound one: `x` quantized, a convolution of 3 by 3 over two channels, `y` quantized.
pub fn sound() -> Graph {
    Graph {
        nodes: vec![
            node("QuantizeLinear", &["x", "xs", "xz"], "xq"),
            Node {
                attributes: vec![ints("pads", &[1, 1, 1, 1])],
                ..node(
                    "QLinearConv",
                    &["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
                    "yq",
                )
            },
            node("DequantizeLinear", &["yq", "ys", "yz"], "y"),
        ],
        initializers: vec![
            floats("xs", &[], &[0.5]),
            int8("xz", &[], vec![3]),
            int8("w", &[3, 2, 3, 3], (0..54).collect()),
            floats("ws", &[3], &[0.01, 0.02, 0.03]),
            int8("wz", &[3], vec![0; 3]),
            floats("ys", &[], &[0.25]),
            int8("yz", &[], vec![250]),
            Tensor {
                ints: vec![10, -20, 30],
                ..tensor("b", INT32, &[3])
            },
        ],
        inputs: vec![info("x", FLOAT, &[1, 2, 5, 5])],
        outputs: vec![info("y", FLOAT, &[1, 3, 5, 5])],
        sparse: Vec::new(),
    }
}

impl Graph {
    fn constant(&mut self, name: &str) -> &mut Tensor {
        let found = self.initializers.iter_mut().find(|it| it.name == name);
        found.expect("the sound model has it")
    }

    /// The convolution's attributes.
    fn attribute(&mut self, attribute: Attribute) {
        self.nodes[1].attributes.push(attribute);
    }

    /// Another node before the last; the last reads what it makes.
    fn before_last(&mut self, operator: &str, attributes: Vec<Attribute>) {
        let last = self.nodes.len() - 1;
        let made = Node {
            attributes,
            ..node(operator, &["yq"], "z")
        };
        self.nodes[last].inputs[0] = "z".into();
        self.nodes.insert(last, made);
    }
}

pub fn bytes(graph: Graph) -> Vec<u8> {
    let opsets = vec![OperatorSet {
        domain: String::new(),
        version: 13,
    }];
    let graph = Some(graph);
    Model { graph, opsets }.encode_to_vec()
}

/// What is wrong, how it comes about, the place that the error names, and words of its message.
pub type Case = (
    &'static str,
    fn(&mut Graph),
    &'static str,
    &'static [&'static str],
);

const CONV: &str = "QLinearConv (the QLinearConv)";
const QUANTIZE: &str = "QuantizeLinear (the QuantizeLinear)";
const INITIALIZER: &str = "an initializer";
const INPUT: &str = "the graph's input";

/// Graphs and tensors that contradict themselves.
#[rustfmt::skip]
pub const BROKEN: &[Case] = &[
    ("a cycle", |g| g.nodes[0].inputs[0] = "y".into(), QUANTIZE, &["y", "no earlier node"]),
    ("a node that reads itself", |g| g.nodes[1].inputs[0] = "yq".into(), CONV, &["yq"]),
    ("two nodes make one value", |g| g.nodes[1].outputs[0] = "xq".into(), CONV, &["xq", "twice"]),
    ("a node makes the input", |g| g.nodes[1].outputs[0] = "x".into(), CONV, &["x", "twice"]),
    ("one initializer twice", |g| { let w = g.initializers[2].clone(); g.initializers.push(w); },
        INITIALIZER, &["w", "twice"]),
    ("a kernel that its weights do not have", |g| g.attribute(ints("kernel_shape", &[1, 3])), CONV,
        &["kernel_shape [1, 3]", "[3, 3]"]),
    ("no output of a node", |g| g.nodes[1].outputs.clear(), CONV, &["no output"]),
    ("no inputs of a node", |g| g.nodes[1].inputs.clear(), CONV, &["absent"]),
    ("a missing scale", |g| g.initializers.retain(|it| it.name != "ws"), CONV, &["ws"]),
    ("a missing output", |g| g.outputs[0].name = "nowhere".into(), "the graph's output", &["nowhere"]),
    ("weights cut short", |g| g.constant("w").raw.truncate(50), INITIALIZER, &["w", "54", "50"]),
    ("a bias of two", |g| { g.constant("b").ints.pop(); g.constant("b").dims = vec![2]; }, CONV,
        &["b", "[2] for 3 outputs"]),
    ("weights of three axes", |g| g.constant("w").dims = vec![3, 2, 9], CONV, &["[3, 2, 9]"]),
    ("weights of other channels", |g| g.constant("w").dims = vec![2, 3, 3, 3], CONV, &[]),
    ("a scale of zero", |g| g.constant("xs").floats = vec![0.0], QUANTIZE, &["xs", "positive"]),
    ("a scale that is no number", |g| g.constant("ys").floats = vec![f32::NAN], CONV,
        &["ys", "positive"]),
    ("a scale below zero at the input", |g| g.constant("xs").floats = vec![-0.5], QUANTIZE,
        &["xs", "positive"]),
    ("a scale at the input that is no number", |g| g.constant("xs").floats = vec![f32::NAN], QUANTIZE,
        &["xs", "positive"]),
    ("weights without elements", |g| g.constant("w").raw.clear(), INITIALIZER, &["w", "54"]),
    ("a scale below zero", |g| g.constant("ws").floats[2] = -0.1, CONV, &["ws", "positive"]),
    ("a scale without end", |g| g.constant("ws").floats[0] = f32::INFINITY, CONV, &["ws"]),
    ("a scale too few", |g| { g.constant("ws").floats.pop(); g.constant("ws").dims = vec![2]; }, CONV,
        &["ws", "zero points"]),
    ("scales of two axes", |g| g.constant("ws").dims = vec![3, 1], CONV, &["ws", "axis"]),
    ("a scale of another type", |g| g.constant("xs").data_type = 7, INITIALIZER, &["xs"]),
    ("a window larger than the image", |g| {
        g.inputs[0] = info("x", FLOAT, &[1, 2, 1, 1]);
        g.nodes[1].attributes[0] = ints("pads", &[0; 4]);
    }, CONV, &["window of 3", "1 elements of axis 2"]),
    ("steps of zero", |g| g.attribute(ints("strides", &[0, 1])), CONV, &["strides"]),
    ("steps below zero", |g| g.attribute(ints("strides", &[-1, 1])), CONV, &["strides"]),
    ("a zero point that the type lacks", |g| {
        let zero = g.constant("xz");
        (zero.data_type, zero.raw, zero.ints) = (2, vec![], vec![900]);
    }, QUANTIZE, &["xs", "out of range"]),
    ("steps for three axes", |g| g.attribute(ints("strides", &[1, 1, 1])), CONV, &["strides"]),
    ("an unknown padding", |g| g.attribute(Attribute {
        string: b"DIFFERENT".to_vec(), ..ints("auto_pad", &[])
    }), CONV, &["auto_pad"]),
];

/// What a converter should not have written and has one meaning all the same: it runs under tract.
#[rustfmt::skip]
pub const LENIENT: &[Case] = &[
    ("nodes out of order", |g| g.nodes.swap(0, 1), CONV, &["xq", "no earlier node"]),
    ("another zero point at the reader", |g| g.nodes[1].inputs[2] = "yz".into(), CONV,
        &["zero point"]),
];

/// Sound graphs that ask for what programs do not have.
#[rustfmt::skip]
pub const UNSUPPORTED: &[Case] = &[
    ("an unknown operator", |g| g.before_last("Warp", vec![]), "Warp (the Warp)", &["int8", "tract"]),
    ("an unknown domain", |g| g.nodes[1].domain = "com.example".into(), CONV,
        &["com.example", "tract"]),
    ("a loop", |g| g.before_last("Loop", vec![]), "Loop (the Loop)", &["tract"]),
    ("integers as a result", |g| g.nodes[1].operator = "ConvInteger".into(),
        "ConvInteger (the QLinearConv)", &["tract"]),
    ("sparse initializers", |g| g.sparse = vec![Unread {}], "the graph", &["sparse", "dense"]),
    ("data in another file", |g| g.constant("w").location = 1, INITIALIZER, &["w", "another file"]),
    ("float64", |g| g.constant("ws").data_type = 11, INITIALIZER, &["ws", "element type 11 (double)"]),
    ("texts", |g| g.constant("w").data_type = 8, INITIALIZER, &["w", "element type 8"]),
    ("weights of int32", |g| {
        let w = g.constant("w");
        (w.data_type, w.raw, w.ints) = (INT32, vec![], vec![1; 54]);
    }, CONV, &["w", "int8"]),
    ("weights with other zero points", |g| {
        (g.constant("ws").floats, g.constant("ws").dims) = (vec![0.5; 2], vec![2]);
        (g.constant("wz").raw, g.constant("wz").dims) = (vec![4; 2], vec![2]);
    }, CONV, &["w", "symmetric"]),
    ("computed weights", |g| g.nodes[1].inputs[3] = "xq".into(), CONV, &["xq", "constant"]),
    ("a scale a channel of an activation", |g| {
        (g.constant("xs").floats, g.constant("xs").dims) = (vec![0.5; 2], vec![2]);
        (g.constant("xz").raw, g.constant("xz").dims) = (vec![3; 2], vec![2]);
    }, QUANTIZE, &["a channel", "one scale a tensor"]),
    ("an input of float64", |g| g.inputs[0] = info("x", 11, &[1, 2, 5, 5]), INPUT, &["x", "type 11"]),
    ("a batch of two", |g| g.inputs[0] = info("x", FLOAT, &[2, 2, 5, 5]), INPUT, &["x", "batch"]),
    ("an open width", |g| g.inputs[0] = info("x", FLOAT, &[1, 2, 5, 0]), INPUT, &["x", "open"]),
    ("no shape", |g| g.inputs[0].kind = Some(Type {
        tensor: Some(TensorType { element: FLOAT, shape: None }),
    }), INPUT, &["x", "no shape"]),
    ("a sequence", |g| g.inputs[0].kind = Some(Type { tensor: None }), INPUT, &["x", "not a tensor"]),
    ("two inputs", |g| g.inputs.push(info("again", FLOAT, &[1, 2])), "the graph", &["again", "one input"]),
    ("no input", |g| g.inputs.clear(), "the graph", &["one input"]),
    ("two outputs", |g| g.outputs.push(info("xq", INT8, &[1, 2])), "the graph", &["xq", "one output"]),
    ("no output", |g| g.outputs.clear(), "the graph", &["one output"]),
    ("groups of neither kind", |g| g.attribute(ints("group", &[7])), CONV, &["7 groups"]),
    ("a float between", |g| g.nodes[1] = node("Sigmoid", &["x"], "yq"), "Sigmoid (the Sigmoid)",
        &["x is float", "quantize"]),
    ("another axis of a softmax", |g| {
        g.nodes.truncate(2);
        g.nodes.push(node("DequantizeLinear", &["yq", "ys", "yz"], "z"));
        g.nodes.push(Node { attributes: vec![ints("axis", &[1])], ..node("Softmax", &["z"], "y") });
    }, "Softmax (the Softmax)", &["axis"]),
];

/// Numbers that nothing can hold, and small files that ask for gigabytes.
#[rustfmt::skip]
pub const HUGE: &[Case] = &[
    ("a huge input", |g| g.inputs[0] = info("x", FLOAT, &[1, 2, i64::MAX, 5]), INPUT, &["x", "too large"]),
    ("a product of 2^64", |g| g.inputs[0] = info("x", FLOAT, &[1, 1 << 32, 1 << 32]), INPUT,
        &["x", "too large"]),
    ("an extent below zero", |g| g.inputs[0] = info("x", FLOAT, &[1, 2, -5, 5]), INPUT, &["x"]),
    ("a huge initializer", |g| g.constant("w").dims = vec![i64::MAX, i64::MAX, 3, 3], INITIALIZER,
        &["w", "too large"]),
    ("an initializer below zero", |g| g.constant("w").dims = vec![-3, 2, 3, 3], INITIALIZER,
        &["w", "impossible"]),
    ("huge padding", |g| g.nodes[1].attributes[0] = ints("pads", &[i64::MAX; 4]), CONV, &["pads"]),
    ("huge steps", |g| g.attribute(ints("strides", &[1 << 40, 1])), CONV, &["strides"]),
    ("a bias beyond 32 bits", |g| {
        g.constant("b").data_type = FLOAT;
        g.constant("b").ints.clear();
        g.constant("b").floats = vec![1e30; 3];
    }, CONV, &["b", "int32"]),
    ("more nodes than are read", |g| g.nodes = vec![g.nodes[0].clone(); 20_000], "the graph",
        &["20000 nodes"]),
    ("a constant copied by every node", |g| {
        *g.constant("w") = int8("w", &[1 << 16], vec![1; 1 << 16]);
        g.nodes = (0..10_000).map(|it| node("Identity", &["w"], &format!("copy {it}"))).collect();
    }, "Identity (the Identity)", &["many times as large as the file"]),
];
