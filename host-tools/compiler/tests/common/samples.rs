//! Sound TFLite files, of every operator that the importer reads: what each computes is in
//! `tflite_operators.rs`.

use super::tflite::{
    self as flat, Flat, INT8, INT32, Model, Operator, Tensor, byte, float, int, tensor,
};

/// A constant input of an operator.
#[derive(Debug, Clone)]
enum Constant {
    /// int8, of this shape, a scale an index of this axis.
    Weights(Vec<i32>, i32),
    /// One int8 of another scale than the input's.
    Operand(i8),
    /// One int8 of the input's scale.
    Element(i8),
    /// int32.
    Ints(Vec<i32>),
}

/// A file of one operator, whose inputs are the model's and `constants` behind it.
struct Sample {
    name: &'static str,
    model: Model,
}

/// Scale and zero point of every input.
const INPUT: (f32, i64) = (0.5, -3);

/// The sample `name` of the operator `code`; its output has its input's scale.
fn of(
    name: &'static str,
    code: i32,
    [input, output]: [&[i32]; 2],
    constants: &[Constant],
    options: &[(usize, Flat)],
) -> Sample {
    let (scale, zero) = INPUT;
    let mut model = Model {
        tensors: vec![
            tensor("x", input, INT8, 0, &[scale], zero),
            tensor("y", output, INT8, 0, &[scale], zero),
        ],
        operators: vec![Operator {
            code: 0,
            inputs: vec![0],
            outputs: vec![1],
            options: options.to_vec(),
        }],
        inputs: vec![0],
        outputs: vec![1],
        codes: vec![(code, None)],
        buffers: vec![Vec::new()],
        last_buffer: None,
    };
    for constant in constants {
        let buffer = model.buffers.len() as i32;
        let (tensor, data) = match constant {
            Constant::Weights(shape, axis) => {
                let count = shape.iter().product::<i32>();
                let data = (0..count).map(|at| (at * 37 + 5) as u8).collect();
                let scales = 0..shape[*axis as usize];
                let scales: Vec<f32> = scales.map(|at| 0.01 + 0.003 * at as f32).collect();
                let mut tensor = tensor("weights", shape, INT8, buffer, &scales, 0);
                tensor.axis = *axis;
                (tensor, data)
            }
            Constant::Operand(byte) => {
                let data = vec![byte.cast_unsigned()];
                (tensor("operand", &[1], INT8, buffer, &[0.3], 4), data)
            }
            Constant::Element(byte) => {
                let data = vec![byte.cast_unsigned()];
                (tensor("element", &[1], INT8, buffer, &[scale], zero), data)
            }
            Constant::Ints(all) => {
                let data = all.iter().flat_map(|it| it.to_le_bytes()).collect();
                let shape = [all.len() as i32];
                (tensor("list", &shape, INT32, buffer, &[], 0), data)
            }
        };
        model.operators[0].inputs.push(model.tensors.len() as i32);
        model.tensors.push(tensor);
        model.buffers.push(data);
    }
    Sample { name, model }
}

impl Sample {
    /// The same with another scale of its input.
    fn from(mut self, scale: f32, zero: i64) -> Self {
        let input = &mut self.model.tensors[0];
        (input.scales, input.zero_points) = (vec![scale], vec![zero]);
        self
    }

    /// The same with another scale of its output.
    fn to(mut self, scale: f32, zero: i64) -> Self {
        let output = &mut self.model.tensors[1];
        (output.scales, output.zero_points) = (vec![scale], vec![zero]);
        self
    }
}

const IMAGE: [i32; 4] = [1, 4, 3, 5];

fn list(all: &[i32]) -> Constant {
    Constant::Ints(all.to_vec())
}

/// Sound ones, each with its own name, which begins with its operator's.
pub fn all() -> Vec<(&'static str, Model)> {
    let mut all = sums();
    all.extend(images());
    all.extend(functions());
    all.extend(moves());
    let mut all: Vec<_> = all.into_iter().map(|it| (it.name, it.model)).collect();
    all.push(("CONCATENATION", concatenation()));
    all.push(("QUANTIZE, DEQUANTIZE", border()));
    all
}

/// Of two operands, and of vectors.
fn sums() -> Vec<Sample> {
    let pair = |name, code, operand: i8, activation: i8| {
        let operand = [Constant::Operand(operand)];
        of(
            name,
            code,
            [&IMAGE, &IMAGE],
            &operand,
            &[(0, byte(activation))],
        )
    };
    let turned = |mut sample: Sample| {
        sample.model.operators[0].inputs.reverse();
        sample
    };
    vec![
        pair("ADD", flat::ADD, 40, 0).to(0.7, 11),
        pair("ADD, RELU6", flat::ADD, 8, 3)
            .from(0.05, -30)
            .to(0.06, -100),
        pair("SUB", flat::SUB, 40, 0).to(0.7, 11),
        pair("SUB, RELU_N1_TO_1", flat::SUB, 5, 2)
            .from(0.015, 5)
            .to(0.02, 30),
        turned(pair("SUB of a constant", flat::SUB, 40, 0).to(0.8, -20)),
        pair("MUL", flat::MUL, 40, 0).to(5.0, -9),
        pair("MUL, RELU", flat::MUL, 40, 1).to(6.0, -100),
        of(
            "FULLY_CONNECTED, RELU",
            flat::FULLY_CONNECTED,
            [&[1, 8], &[1, 3]],
            &[Constant::Weights(vec![3, 8], 0), list(&[100, -1000, 70])],
            &[(0, byte(1)), (1, byte(0))],
        )
        .to(1.2, -90),
        of(
            "SOFTMAX",
            flat::SOFTMAX,
            [&[1, 3, 5], &[1, 3, 5]],
            &[],
            &[(0, float(0.7))],
        )
        .from(0.03, 20)
        .to(1.0 / 256.0, -128),
        of("MEAN", flat::MEAN, [&IMAGE, &[1, 5]], &[list(&[1, 2])], &[]).to(0.3, 8),
        // Over other axes than those of pixels: the axes kept come first.
        of(
            "MEAN of channels",
            flat::MEAN,
            [&IMAGE, &[1, 4, 3, 1]],
            &[list(&[-1])],
            &[],
        )
        .to(0.4, -8),
        of(
            "MEAN of rows",
            flat::MEAN,
            [&[1, 9, 5], &[1, 5]],
            &[list(&[1])],
            &[],
        ),
    ]
}

/// Steps `[height, width]` of a window, and further options.
fn steps(padding: i8, [height, width]: [i32; 2], more: &[(usize, Flat)]) -> Vec<(usize, Flat)> {
    let first = [(0, byte(padding)), (1, int(width)), (2, int(height))];
    [&first, more].concat()
}

/// Windows over images.
fn images() -> Vec<Sample> {
    vec![
        of(
            "CONV_2D",
            flat::CONV_2D,
            [&[1, 7, 6, 2], &[1, 3, 5, 3]],
            &[
                Constant::Weights(vec![3, 3, 2, 2], 0),
                list(&[100, -1000, 70]),
            ],
            // Padding VALID.
            &steps(1, [2, 1], &[(3, byte(0))]),
        )
        .to(1.1, 14),
        of(
            "CONV_2D, dilated",
            flat::CONV_2D,
            [&[1, 7, 6, 2], &[1, 7, 6, 3]],
            &[Constant::Weights(vec![3, 2, 3, 2], 0)],
            // Padding SAME.
            &steps(0, [1, 1], &[(3, byte(1)), (4, int(2)), (5, int(3))]),
        )
        .to(0.9, -100),
        of(
            "DEPTHWISE_CONV_2D",
            flat::DEPTHWISE_CONV_2D,
            [&IMAGE, &[1, 4, 2, 10]],
            &[
                Constant::Weights(vec![1, 3, 2, 10], 3),
                list(&[9, -90, 900, 0, 7, 70, -7, 1, 2, 3]),
            ],
            &steps(0, [1, 2], &[(3, int(2)), (4, byte(0))]),
        )
        .to(0.9, -14),
        of(
            "DEPTHWISE_CONV_2D, dilated",
            flat::DEPTHWISE_CONV_2D,
            [&[1, 7, 6, 3], &[1, 3, 5, 3]],
            &[Constant::Weights(vec![1, 3, 2, 3], 3)],
            &steps(
                1,
                [1, 1],
                &[(3, int(1)), (4, byte(3)), (5, int(1)), (6, int(2))],
            ),
        )
        .to(0.04, -120),
        of(
            "AVERAGE_POOL_2D, RELU6",
            flat::AVERAGE_POOL_2D,
            [&IMAGE, &[1, 2, 3, 5]],
            &[],
            &steps(0, [2, 1], &[(3, int(2)), (4, int(3)), (5, byte(3))]),
        )
        .from(0.05, -13)
        .to(0.05, -13),
        of(
            "MAX_POOL_2D, RELU",
            flat::MAX_POOL_2D,
            [&IMAGE, &[1, 4, 2, 5]],
            &[],
            &steps(0, [1, 2], &[(3, int(3)), (4, int(2)), (5, byte(1))]),
        ),
        of(
            "MAX_POOL_2D",
            flat::MAX_POOL_2D,
            [&IMAGE, &[1, 2, 2, 5]],
            &[],
            &steps(1, [2, 1], &[(3, int(2)), (4, int(1))]),
        ),
    ]
}

/// Of one element.
fn functions() -> Vec<Sample> {
    let function = |name, code| of(name, code, [&[1, 256], &[1, 256]], &[], &[]);
    let leaky = |name, alpha| {
        let mut sample = function(name, flat::LEAKY_RELU);
        sample.model.operators[0].options = vec![(0, float(alpha))];
        sample
    };
    vec![
        function("RELU", flat::RELU),
        function("RELU to another scale", flat::RELU).to(0.35, -70),
        function("RELU6", flat::RELU6).from(0.07, 20).to(0.07, 20),
        function("RELU6 to another scale", flat::RELU6)
            .from(0.07, 20)
            .to(0.035, -70),
        leaky("LEAKY_RELU", 0.3).to(0.4, 10),
        function("LOGISTIC", flat::LOGISTIC)
            .from(0.05, 10)
            .to(1.0 / 256.0, -128),
        function("TANH", flat::TANH)
            .from(0.03, -10)
            .to(1.0 / 128.0, 0),
        function("HARD_SWISH", flat::HARD_SWISH)
            .from(0.06, 7)
            .to(0.04, -70),
        function("QUANTIZE", flat::QUANTIZE).to(0.75, 11),
    ]
}

/// Of places alone.
fn moves() -> Vec<Sample> {
    let x = &IMAGE;
    vec![
        of(
            "RESHAPE",
            flat::RESHAPE,
            [x, &[1, 6, 10]],
            &[list(&[1, 6, 10])],
            &[],
        ),
        of("SQUEEZE", flat::SQUEEZE, [&[1, 1, 3, 5], &[3, 5]], &[], &[]),
        of(
            "EXPAND_DIMS",
            flat::EXPAND_DIMS,
            [&[1, 5], &[1, 1, 5]],
            &[list(&[1])],
            &[],
        ),
        of(
            "TRANSPOSE",
            flat::TRANSPOSE,
            [x, &[1, 5, 4, 3]],
            &[list(&[0, 3, 1, 2])],
            &[],
        ),
        of(
            "PAD",
            flat::PAD,
            [x, &[1, 6, 5, 5]],
            &[list(&[0, 0, 2, 0, 0, 2, 0, 0])],
            &[],
        ),
        of(
            "PADV2",
            flat::PADV2,
            [x, &[1, 4, 4, 6]],
            &[list(&[0, 0, 0, 0, 1, 0, 0, 1]), Constant::Element(7)],
            &[],
        ),
        of(
            "SLICE",
            flat::SLICE,
            [x, &[1, 2, 3, 4]],
            &[list(&[0, 1, 0, 1]), list(&[1, 2, 3, 4])],
            &[],
        ),
        of(
            "STRIDED_SLICE of a row",
            flat::STRIDED_SLICE,
            [x, &[1, 3, 5]],
            &[list(&[0, 2, 0, 0]), list(&[0, 3, 0, 0]), list(&[1; 4])],
            &[(0, int(0b1101)), (1, int(0b1101)), (4, int(0b10))],
        ),
        of(
            "STRIDED_SLICE",
            flat::STRIDED_SLICE,
            [x, &[1, 2, 3, 4]],
            &[
                list(&[0, 1, 0, 1]),
                list(&[1, 4, 3, 5]),
                list(&[1, 2, 1, 1]),
            ],
            &[(0, int(0))],
        ),
    ]
}

/// The last two columns of an image before the whole image.
fn concatenation() -> Model {
    let place = [list(&[0, 0, 1, 0]), list(&[1, 4, 2, 5])];
    let mut model = of("", flat::SLICE, [&IMAGE, &[1, 4, 2, 5]], &place, &[]).model;
    let (scale, zero) = INPUT;
    model.codes.push((flat::CONCATENATION, None));
    model.operators.push(Operator {
        code: 1,
        inputs: vec![1, 0],
        outputs: vec![model.tensors.len() as i32],
        options: vec![(0, int(-2)), (1, byte(0))],
    });
    model.outputs = vec![model.tensors.len() as i32];
    let both = tensor("z", &[1, 4, 5, 5], INT8, 0, &[scale], zero);
    model.tensors.push(both);
    model
}

/// float32 at both ends.
fn border() -> Model {
    let mut model = of("", flat::QUANTIZE, [&IMAGE, &IMAGE], &[], &[])
        .to(0.5, 9)
        .model;
    model.tensors[0].kind = 0;
    model.tensors[0].scales.clear();
    model.tensors[0].zero_points.clear();
    model.tensors.push(Tensor {
        name: "z".into(),
        ..model.tensors[0].clone()
    });
    model.codes.push((flat::DEQUANTIZE, None));
    model.operators.push(Operator {
        code: 1,
        inputs: vec![1],
        outputs: vec![2],
        options: Vec::new(),
    });
    model.outputs = vec![2];
    model
}
