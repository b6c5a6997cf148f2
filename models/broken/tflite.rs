//! TFLite models, one change away from a sound one each.

use super::flat::{self, Flat, Model, byte, int};

/// A kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    NotThisFormat,
    Malformed,
    Inconsistent,
    TooLarge,
    Operator,
    Custom,
    Type,
    Setting,
    Shape,
    Quantization,
    NotConstant,
    DynamicShape,
    Border,
    State,
    Sparse,
    External,
    Other,
}

/// What is wrong, how it comes about, and what is said of it: a kind of error and words of its message.
pub type Case = (&'static str, fn(&mut Model), Is, &'static [&'static str]);

/// Graphs whose parts do not fit together.
#[rustfmt::skip]
pub const INCONSISTENT: &[Case] = &[
    ("an operator reads its own output", |m| m.operators[0].inputs[0] = 3, Is::Inconsistent,
        &["CONV_2D", "features", "before it is written"]),
    ("a cycle of two", |m| m.operators[0].inputs[0] = 4, Is::Inconsistent,
        &["CONV_2D", "classes", "before it is written"]),
    ("two write one tensor", |m| m.operators[1].outputs[0] = 3, Is::Inconsistent,
        &["SOFTMAX", "features", "a second time"]),
    ("an operator writes the input", |m| m.operators[1].outputs[0] = 0, Is::Inconsistent,
        &["SOFTMAX", "image"]),
    ("an operator writes a constant", |m| m.operators[1].outputs[0] = 1, Is::Inconsistent,
        &["SOFTMAX", "filter"]),
    ("an output that nobody writes", |m| { m.operators.pop(); }, Is::Inconsistent,
        &["output", "no operator writes it"]),
    ("the output is a constant", |m| m.outputs = vec![1], Is::Inconsistent, &["output", "constant"]),
    ("the input is a constant", |m| m.inputs = vec![1], Is::Inconsistent, &["input", "constant"]),
    ("an input beyond the tensors", |m| m.inputs = vec![99], Is::Inconsistent, &["input"]),
    ("a negative output", |m| m.outputs = vec![-7], Is::Inconsistent, &["output"]),
    ("an operand beyond the tensors", |m| m.operators[1].inputs[0] = 99, Is::Inconsistent,
        &["operator 1 SOFTMAX"]),
    ("no operand", |m| m.operators[0].inputs.clear(), Is::Inconsistent, &["CONV_2D"]),
    ("no output of an operator", |m| m.operators[0].outputs.clear(), Is::Inconsistent, &["CONV_2D"]),
    ("a code that is not there", |m| m.operators[1].code = 9, Is::Inconsistent, &["operator 1"]),
    ("a missing buffer", |m| m.tensors[1].buffer = 77, Is::Inconsistent, &["filter", "buffer 77"]),
    ("weights cut short", |m| m.buffers[1].truncate(50), Is::Inconsistent, &["filter", "50 bytes"]),
    ("a bias cut short", |m| m.buffers[2].truncate(8), Is::Inconsistent, &["bias", "8 bytes"]),
    ("weights of other channels", |m| m.tensors[1].shape = vec![3, 3, 2, 3], Is::Inconsistent,
        &["CONV_2D"]),
    ("weights of three axes", |m| m.tensors[1].shape = vec![3, 9, 2], Is::Shape,
        &["CONV_2D", "filter", "four axes"]),
    ("a window larger than the image", |m| {
        m.tensors[0].shape = vec![1, 1, 1, 2];
        m.operators[0].options[0].1 = byte(1);
    }, Is::Inconsistent, &["CONV_2D", "larger than its input"]),
    ("an output of another shape", |m| m.tensors[3].shape = vec![1, 4, 4, 4], Is::Inconsistent,
        &["CONV_2D", "[1, 4, 4, 4]", "[1, 4, 4, 3]"]),
    ("a softmax that changes its shape", |m| m.tensors[4].shape = vec![1, 48], Is::Inconsistent,
        &["SOFTMAX"]),
    ("a scale that is no number", |m| m.tensors[3].scales = vec![f32::NAN], Is::Inconsistent,
        &["features", "NaN"]),
    ("a scale without end", |m| m.tensors[1].scales[1] = f32::INFINITY, Is::Inconsistent,
        &["filter", "inf"]),
    ("a scale below zero", |m| m.tensors[0].scales = vec![-0.5], Is::Inconsistent,
        &["image", "-0.5"]),
    ("more zero points than scales", |m| m.tensors[3].zero_points = vec![1, 2], Is::Inconsistent,
        &["features", "2 zero points"]),
    ("a zero point of 64 bits", |m| m.tensors[3].zero_points = vec![1 << 40], Is::Inconsistent,
        &["features"]),
    ("a scale too few", |m| { m.tensors[1].scales.pop(); m.tensors[1].zero_points.pop(); },
        Is::Inconsistent, &["filter", "2 scales"]),
    ("scales along no axis", |m| m.tensors[1].axis = -1, Is::Inconsistent, &["filter"]),
    ("a slice that ends before its output does", |m| slice(m, 3), Is::Inconsistent,
        &["operator 1 STRIDED_SLICE", "classes", "[1, 3, 4, 3]", "[1, 4, 4, 3]"]),
    ("a slice that ends before it begins", |m| slice(m, -4), Is::Inconsistent,
        &["operator 1 STRIDED_SLICE", "classes", "[1, 0, 4, 3]"]),
    ("no subgraph's tensors", |m| m.tensors.clear(), Is::Inconsistent, &["input"]),
];

/// Puts a slice in steps of one in the softmax's place, which takes rows up to `end` and all else.
fn slice(model: &mut Model, end: i32) {
    model.codes[1].0 = flat::STRIDED_SLICE;
    model.tensors[4].scales = model.tensors[3].scales.clone();
    model.tensors[4].zero_points = model.tensors[3].zero_points.clone();
    model.operators[1].options = vec![(0, int(0b1101)), (1, int(0b1101))];
    for list in [[0; 4], [0, end, 0, 0], [1; 4]] {
        let bytes = list.iter().flat_map(|it: &i32| it.to_le_bytes()).collect();
        model.buffers.push(bytes);
        let mut constant = model.tensors[2].clone();
        constant.name = "list".into();
        constant.shape = vec![4];
        constant.buffer = model.buffers.len() as i32 - 1;
        (constant.scales, constant.zero_points) = (Vec::new(), Vec::new());
        model.operators[1].inputs.push(model.tensors.len() as i32);
        model.tensors.push(constant);
    }
}

/// Sound models that ask for what programs do not have.
#[rustfmt::skip]
pub const UNSUPPORTED: &[Case] = &[
    ("an operator from elsewhere", |m| m.codes[1].0 = 110, Is::Operator, &["operator 1 RANK", "tract"]),
    ("an operator of the future", |m| m.codes[1].0 = 30_000, Is::Operator, &["operator 1", "30000"]),
    ("a custom operator", |m| m.codes[1] = (32, Some("Warp".into())), Is::Custom, &["Warp"]),
    ("a float inside", |m| m.tensors[3].kind = 0, Is::Type, &["features", "float32", "quantize"]),
    ("int16 activations", |m| m.tensors[3].kind = 7, Is::Type, &["features", "int16"]),
    ("int4 weights", |m| m.tensors[1].kind = 17, Is::Type, &["filter", "int4"]),
    ("texts", |m| m.tensors[3].kind = 5, Is::Type, &["features", "string"]),
    ("a type of the future", |m| m.tensors[3].kind = 99, Is::Type, &["features", "type 99"]),
    ("weights of uint8", |m| m.tensors[1].kind = 3, Is::Type, &["filter", "uint8"]),
    ("weights with a zero point", |m| m.tensors[1].zero_points[1] = 4, Is::Quantization,
        &["filter", "zero points"]),
    ("no scale", |m| { m.tensors[3].scales.clear(); m.tensors[3].zero_points.clear(); },
        Is::Quantization, &["features", "quantize again"]),
    ("a scale of zero", |m| m.tensors[3].scales = vec![0.0], Is::Quantization, &["features"]),
    ("a scale that is no normal number", |m| m.tensors[3].scales = vec![1e-40], Is::Quantization,
        &["features"]),
    ("a zero point out of int8", |m| m.tensors[3].zero_points = vec![200], Is::Quantization,
        &["features", "-128 to 127"]),
    ("a scale a channel of an activation", |m| {
        m.tensors[3].scales = vec![0.1, 0.2, 0.3];
        m.tensors[3].zero_points = vec![0; 3];
        m.tensors[3].axis = 3;
    }, Is::Quantization, &["features"]),
    ("a softmax of another scale", |m| m.tensors[4].scales = vec![0.125], Is::Quantization,
        &["Softmax", "classes"]),
    ("computed weights", |m| m.tensors[1].buffer = 0, Is::Inconsistent, &["CONV_2D", "filter"]),
    ("weights that are the input", |m| m.operators[0].inputs[1] = 0, Is::NotConstant, &["image"]),
    ("two inputs", |m| m.inputs = vec![0, 3], Is::Border, &["2 of them"]),
    ("no output", |m| m.outputs.clear(), Is::Border, &["0 of them"]),
    ("a batch of two", |m| m.tensors[0].shape = vec![2, 4, 2, 2], Is::Shape, &["image", "batch of one"]),
    ("no elements", |m| m.tensors[0].shape = vec![1, 0, 4, 2], Is::Shape, &["image", "no elements"]),
    ("an extent below zero", |m| m.tensors[3].shape[1] = -1, Is::DynamicShape, &["features"]),
    ("an open height", |m| m.tensors[0].more = vec![(7, Flat::ints(&[1, -1, 4, 2]))],
        Is::DynamicShape, &["image", "fixed shapes"]),
    ("a state", |m| m.tensors[3].more = vec![(5, byte(1))], Is::State, &["features"]),
    ("sparse weights", |m| m.tensors[1].more = vec![(6, Flat::Table(vec![]))], Is::Sparse,
        &["filter", "dense"]),
    ("data outside the file", |m| {
        let place = [64_u64, 54].map(|it| Flat::Number(it.to_le_bytes().to_vec()));
        let [offset, size] = place;
        m.last_buffer = Some(vec![(1, offset), (2, size)]);
    }, Is::External, &["bias", "one file"]),
];

/// Numbers that nothing can hold.
#[rustfmt::skip]
pub const HUGE: &[Case] = &[
    ("a huge image", |m| m.tensors[0].shape = vec![1, i32::MAX, i32::MAX, 2], Is::TooLarge,
        &["image", "elements"]),
    ("a product beyond 64 bits", |m| m.tensors[3].shape = vec![i32::MAX; 8], Is::TooLarge,
        &["features", "elements"]),
    ("nine axes", |m| m.tensors[3].shape = vec![1; 9], Is::TooLarge, &["features", "axes"]),
    ("a window without steps", |m| m.operators[0].options = vec![(0, byte(0))], Is::Inconsistent,
        &["CONV_2D"]),
    ("steps below zero", |m| m.operators[0].options[1].1 = int(-1), Is::Inconsistent, &["CONV_2D"]),
    ("huge steps", |m| m.operators[0].options[1].1 = int(i32::MAX), Is::Inconsistent, &["CONV_2D"]),
    ("huge dilation", |m| m.operators[0].options.push((4, int(i32::MAX))), Is::TooLarge,
        &["CONV_2D", "dilation"]),
    ("more operators than are read", |m| {
        m.operators = vec![m.operators[0].clone(); 5000];
    }, Is::TooLarge, &["operators", "4096"]),
    ("more operands than are read", |m| m.operators[0].inputs = vec![0; 70_000], Is::TooLarge,
        &["operands"]),
    ("more tensors than are read", |m| {
        m.tensors.resize(40_000, m.tensors[0].clone());
    }, Is::TooLarge, &["tensors"]),
    ("one buffer of a megabyte, a thousand times", |m| {
        m.buffers[1] = vec![0; 1 << 20];
        let mut constant = m.tensors[1].clone();
        constant.shape = vec![1 << 20];
        constant.scales = vec![0.5];
        constant.zero_points = vec![0];
        m.tensors.resize(1000, constant);
        m.tensors[1].shape = vec![1 << 20];
        m.tensors[1].scales = vec![0.5];
        m.tensors[1].zero_points = vec![0];
    }, Is::TooLarge, &["constants"]),
    ("a multiplier that overflows", |m| m.tensors[1].scales = vec![3e38; 3], Is::Quantization,
        &["Conv"]),
    ("an offset beyond the file", |m| m.tensors[1].more = vec![(7, Flat::Wild(u32::MAX))],
        Is::Malformed, &["Tensor", "shape_signature", "byte"]),
    ("a vector longer than the file", |m| {
        m.tensors[1].more = vec![(7, Flat::Numbers(usize::MAX, vec![]))];
    }, Is::Malformed, &["Tensor", "byte"]),
];
