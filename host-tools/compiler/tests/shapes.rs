//! Means over any axes and slices that drop axes, as converters write them: one file each, whose program
//! must give what is computed here.

#[allow(dead_code, reason = "other tests break files, too")]
#[path = "common/tflite.rs"]
mod flat;
#[path = "common/inputs.rs"]
mod inputs;

use edgeward::program::arith::requantize;
use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::{CompileError, Options, compile};
use flat::{INT8, INT32, MEAN, Model, Operator, SLICE, STRIDED_SLICE, Tensor, byte, int};
use inputs::inputs;

/// Scale and zero point of an activation.
type Quantization = (f32, i64);

const IN: Quantization = (0.05, -11);

fn tensor(name: &str, shape: &[usize], quantization: Option<Quantization>, buffer: i32) -> Tensor {
    Tensor {
        name: name.into(),
        shape: shape.iter().map(|&extent| extent as i32).collect(),
        kind: if quantization.is_some() { INT8 } else { INT32 },
        buffer,
        scales: quantization.iter().map(|it| it.0).collect(),
        zero_points: quantization.iter().map(|it| it.1).collect(),
        axis: 0,
        more: Vec::new(),
    }
}

/// A file of one operator with constant lists behind its input.
fn file(
    code: i32,
    [input, output]: [&[usize]; 2],
    quantization: Quantization,
    lists: &[Vec<i32>],
    options: Vec<(usize, flat::Flat)>,
) -> Model {
    let mut model = Model {
        tensors: vec![
            tensor("x", input, Some(IN), 0),
            tensor("y", output, Some(quantization), 0),
        ],
        operators: vec![Operator {
            code: 0,
            inputs: vec![0],
            outputs: vec![1],
            options,
        }],
        inputs: vec![0],
        outputs: vec![1],
        codes: vec![(code, None)],
        buffers: vec![Vec::new()],
        last_buffer: None,
    };
    for list in lists {
        let bytes = list.iter().flat_map(|it| it.to_le_bytes()).collect();
        model.buffers.push(bytes);
        let buffer = model.buffers.len() as i32 - 1;
        model.operators[0].inputs.push(model.tensors.len() as i32);
        model
            .tensors
            .push(tensor("list", &[list.len()], None, buffer));
    }
    model
}

/// The file's program gives what `wanted` does, under every plan and layout.
fn check(model: &Model, elements: usize, wanted: impl Fn(&[i8]) -> Vec<i8>) {
    let file = model.bytes();
    let targets = [
        Options::linux(),
        Options::mcu(Layout::Natural),
        Options::mcu(Layout::CortexM),
    ];
    for options in targets {
        let compiled = compile(&file, &options).unwrap_or_else(|error| panic!("{error}"));
        let bytes = Aligned::copy_of(&compiled.program);
        let program = Program::verify(bytes.as_ref()).unwrap();
        let header = *program.header();
        let mut arena = Aligned::zeros(header.arena_bytes as usize);
        for input in inputs(elements) {
            let arena = arena.as_mut();
            arena[header.input as usize..][..elements].copy_from_slice(&input);
            program.run(&mut Portable, arena).unwrap();
            let output = &arena[header.output as usize..][..header.output_len as usize];
            assert_eq!(output, wanted(&input), "{:?}", model.tensors[0].shape);
        }
    }
}

/// Index of an element along each axis.
fn place(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&extent| {
            let index = at % extent;
            at /= extent;
            index
        })
        .collect();
    place.reverse();
    place
}

/// The mean as `QuantizedMeanOrSum` of TensorFlow Lite computes it, whatever the axes.
fn mean(
    input: &[i8],
    shape: &[usize],
    axes: &[usize],
    (scale, zero): Quantization,
    outputs: usize,
) -> Vec<i8> {
    let mut sums = vec![0_i32; outputs];
    for (at, &element) in input.iter().enumerate() {
        let place = place(at, shape);
        let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
        let output = kept.fold(0, |output, axis| output * shape[axis] + place[axis]);
        sums[output] += i32::from(element);
    }
    let count = (input.len() / outputs) as i64;
    let real = f64::from(IN.0) / f64::from(scale);
    let exponent = real.log2().floor() as i32 + 1;
    let multiplier = (real / 2_f64.powi(exponent) * 2_f64.powi(31)).round() as i64;
    let shift = (63 - count.leading_zeros() as i32)
        .min(32)
        .min(31 + exponent);
    let multiplier = ((multiplier << shift) / count) as i32;
    let scaled = |sum: &i32| {
        let sum = sum - count as i32 * IN.1 as i32;
        let mean = requantize(sum, multiplier, exponent - shift) + zero as i32;
        mean.clamp(-128, 127) as i8
    };
    sums.iter().map(scaled).collect()
}

#[test]
fn means_over_any_axes() {
    let cases: [(&[usize], &[i32], &[usize]); 14] = [
        // One dimension of time: the axis kept with extent one, or dropped, counted from either end.
        (&[1, 9, 5], &[1], &[1, 5]),
        (&[1, 9, 5], &[1], &[1, 1, 5]),
        (&[1, 9, 5], &[-2], &[1, 5]),
        (&[9, 5], &[0], &[5]),
        (&[1, 4, 3, 5], &[1, 2], &[1, 5]),
        (&[1, 4, 3, 5], &[-2, -3], &[1, 1, 1, 5]),
        (&[1, 4, 3, 5], &[1], &[1, 3, 5]),
        (&[1, 1, 9, 5], &[2], &[1, 1, 5]),
        (&[1, 4, 3, 5], &[1, 2, 3], &[1]),
        // What is summed lies behind what is kept.
        (&[1, 9, 5], &[2], &[1, 9]),
        (&[1, 4, 3, 5], &[2], &[1, 4, 5]),
        (&[1, 4, 3, 5], &[-1], &[1, 4, 3, 1]),
        (&[1, 4, 3, 5], &[1, 3], &[1, 3]),
        (&[1, 1, 5], &[1], &[1, 5]),
    ];
    for (shape, axes, output) in cases {
        for quantization in [IN, (0.021, 7), (0.31, 100)] {
            let model = file(
                MEAN,
                [shape, output],
                quantization,
                &[axes.to_vec()],
                vec![],
            );
            let from_start = |&axis: &i32| axis.rem_euclid(shape.len() as i32) as usize;
            let axes: Vec<usize> = axes.iter().map(from_start).collect();
            let outputs = output.iter().product();
            check(&model, shape.iter().product(), |input| {
                mean(input, shape, &axes, quantization, outputs)
            });
        }
    }
}

/// Options of a slice: the axes whose beginning and end are masked, and those that are dropped.
fn masks(open: i32, dropped: i32) -> Vec<(usize, flat::Flat)> {
    vec![(0, int(open)), (1, int(open)), (4, int(dropped))]
}

#[test]
fn slices_that_drop_axes() {
    // Where it begins, what is masked, what is dropped, steps; shape and first index of what is left.
    type Case = (
        &'static [i32],
        [i32; 2],
        &'static [i32],
        &'static [usize],
        &'static [usize],
    );
    let shape = [1, 6, 4, 5];
    let cases: [Case; 6] = [
        (
            &[0, -1, 0, 0],
            [0b1101, 0b10],
            &[1; 4],
            &[1, 4, 5],
            &[0, 5, 0, 0],
        ),
        (
            &[0, 2, 0, 0],
            [0b1101, 0b10],
            &[1; 4],
            &[1, 4, 5],
            &[0, 2, 0, 0],
        ),
        (
            &[0, 0, 3, -2],
            [0b11, 0b1100],
            &[1; 4],
            &[1, 6],
            &[0, 0, 3, 3],
        ),
        (&[0, 0, 0, 0], [0b1110, 0b1], &[1; 4], &[6, 4, 5], &[0; 4]),
        (
            &[0, 1, -4, 0],
            [0b1001, 0b100],
            &[1, 2, 1, 1],
            &[1, 3, 5],
            &[0, 1, 0, 0],
        ),
        (&[0, -6, -1, 4], [0, 0b1111], &[1; 4], &[], &[0, 0, 3, 4]),
    ];
    for (begin, [open, dropped], strides, output, first) in cases {
        // Ends count where no mask has them: that of the slice in steps.
        let lists = [begin.to_vec(), vec![0, 6, 0, 0], strides.to_vec()];
        let options = masks(open, dropped);
        let model = file(STRIDED_SLICE, [&shape, output], IN, &lists, options);
        let mut extents = output.to_vec();
        let axes = (0..4).filter(|axis| dropped >> axis & 1 != 0);
        axes.for_each(|axis| extents.insert(axis, 1));
        let steps: Vec<usize> = strides.iter().map(|&step| step as usize).collect();
        check(&model, 120, |input| {
            sliced(input, &shape, &extents, first, &steps)
        });
    }
}

/// What a slice gives: its extents with the axes that it drops, the first index and the step of each.
fn sliced(
    input: &[i8],
    shape: &[usize],
    extents: &[usize],
    first: &[usize],
    steps: &[usize],
) -> Vec<i8> {
    let element = |at: usize| {
        let place = place(at, extents);
        let axes = 0..shape.len();
        input[axes.fold(0, |index, axis| {
            index * shape[axis] + first[axis] + place[axis] * steps[axis]
        })]
    };
    (0..extents.iter().product()).map(element).collect()
}

/// A slice in steps of `[1, 6, 4, 5]`: from, to, steps, the masks of both, and whether `to` counts from
/// `from`.
fn strided(lists: [[i32; 4]; 3], masks: [i32; 2], counted: bool, output: &[usize]) -> Model {
    let options = vec![
        (0, int(masks[0])),
        (1, int(masks[1])),
        (5, byte(counted.into())),
    ];
    let lists = lists.map(|list| list.to_vec());
    file(STRIDED_SLICE, [&[1, 6, 4, 5], output], IN, &lists, options)
}

type Strided = ([[i32; 4]; 3], [i32; 2], bool, [usize; 4], [usize; 4]);

/// What [`strided`] takes, the output's shape, and the first index of each axis.
const STRIDED: [Strided; 7] = [
    (
        [[0, 1, 0, 2], [1, 5, 4, 4], [1; 4]],
        [0, 0],
        false,
        [1, 4, 4, 2],
        [0, 1, 0, 2],
    ),
    // Ends from behind, and beyond the axis.
    (
        [[0, -5, -9, -2], [1, -1, -1, 99], [1; 4]],
        [0, 0],
        false,
        [1, 4, 3, 2],
        [0, 1, 0, 3],
    ),
    // Steps round up.
    (
        [[0, 1, 0, 0], [1, 6, 4, 5], [1, 2, 3, 4]],
        [0, 0],
        false,
        [1, 3, 2, 2],
        [0, 1, 0, 0],
    ),
    // A mask is the whole way on its side, whatever the list says.
    (
        [[0, 4, 3, 2], [1, 5, 2, 0], [1; 4]],
        [0b0110, 0b1100],
        false,
        [1, 5, 4, 3],
        [0, 0, 0, 2],
    ),
    (
        [[0, 2, 1, 1], [0, 0, 0, 0], [1; 4]],
        [0, 0b1111],
        false,
        [1, 4, 3, 4],
        [0, 2, 1, 1],
    ),
    // Ends that count from the beginning.
    (
        [[0, 2, -3, 1], [1, 3, 2, 9], [1; 4]],
        [0, 0],
        true,
        [1, 3, 2, 4],
        [0, 2, 1, 1],
    ),
    (
        [[0, 0, 0, 0], [1, 1, 1, 1], [1, 7, 7, 7]],
        [0, 0],
        false,
        [1, 1, 1, 1],
        [0; 4],
    ),
];

#[test]
fn slices_in_steps_end_where_they_say() {
    for (lists, masks, counted, output, first) in STRIDED {
        let model = strided(lists, masks, counted, &output);
        let steps = lists[2].map(|step| step as usize);
        check(&model, 120, |input| {
            sliced(input, &[1, 6, 4, 5], &output, &first, &steps)
        });
    }
}

#[test]
fn slices_of_sizes() {
    for (begin, size, output) in [
        ([0, 1, 2, 3], [1, 4, 2, 1], [1, 4, 2, 1]),
        ([0, 1, 2, 3], [-1; 4], [1, 5, 2, 2]),
        ([0, 0, 0, 0], [1, 6, -1, 5], [1, 6, 4, 5]),
    ] {
        let lists = [begin.to_vec(), size.to_vec()];
        let model = file(SLICE, [&[1, 6, 4, 5], &output], IN, &lists, vec![]);
        let first = begin.map(|index| index as usize);
        check(&model, 120, |input| {
            sliced(input, &[1, 6, 4, 5], &output, &first, &[1; 4])
        });
    }
}

/// An end that does not give the extent that the output has names operator, tensor and both.
#[test]
fn ends_that_contradict_the_output_are_errors() {
    let mut models = Vec::new();
    for (lists, masks, counted, output, _) in STRIDED {
        for axis in 1..4 {
            let mut other = output;
            other[axis] += 1;
            models.push(strided(lists, masks, counted, &other));
            if lists[2] == [1; 4] && output[axis] > 1 && masks[1] >> axis & 1 == 0 {
                // Far enough to end inside of the axis, whatever the end was.
                let mut lists = lists;
                lists[1][axis] -= if lists[1][axis] > 6 { 95 } else { 1 };
                models.push(strided(lists, masks, counted, &output));
            }
        }
    }
    let sizes = |size: [i32; 4], output: &[usize]| {
        let lists = [vec![0, 1, 2, 3], size.to_vec()];
        file(SLICE, [&[1, 6, 4, 5], output], IN, &lists, vec![])
    };
    models.extend([
        sizes([1, 4, 2, 1], &[1, 3, 2, 1]),
        sizes([-1; 4], &[1, 5, 2, 1]),
        sizes([1, 4, -2, 1], &[1, 4, 2, 1]),
        sizes([1, 4, 2, 3], &[1, 4, 2, 3]),
    ]);
    assert!(models.len() > 30);
    for model in models {
        let error = compile(&model.bytes(), &Options::linux()).expect_err("it is refused");
        let CompileError::Inconsistent { place, .. } = &error else {
            panic!("{error}");
        };
        let operator = place.starts_with("operator 0 ") && place.contains("SLICE");
        assert!(operator && place.contains("tensor \"y\""), "{error}");
    }
    // An axis without elements would end before it begins.
    let empty = strided(
        [[0, 3, 0, 0], [1, 3, 4, 5], [1; 4]],
        [0, 0],
        false,
        &[1, 1, 4, 5],
    );
    let error = compile(&empty.bytes(), &Options::linux()).expect_err("it is refused");
    let said = "it takes [1, 0, 4, 5] of [1, 6, 4, 5], and its output has shape [1, 1, 4, 5]";
    assert!(error.to_string().contains(said), "{error}");
}

#[test]
fn what_contradicts_itself_is_an_error() {
    let slice = |shape: &[usize], begin: i32| {
        let lists = [vec![0, begin, 0], vec![0; 3], vec![1; 3]];
        file(
            STRIDED_SLICE,
            [&[1, 6, 4], shape],
            IN,
            &lists,
            masks(0b101, 0b10),
        )
    };
    // The axis is not dropped, lies elsewhere, or has not so many elements.
    let mut models = vec![slice(&[1, 1, 4], 2), slice(&[4, 1], 2), slice(&[1, 4], 6)];
    models.push(file(MEAN, [&[1, 9, 5], &[1, 9]], IN, &[vec![1]], vec![]));
    models.push(file(MEAN, [&[1, 9, 5], &[1, 5]], IN, &[vec![3]], vec![]));
    // It reads what reading the file makes, and no tensor of the file.
    let mut beyond = file(MEAN, [&[1, 9, 5], &[1, 5]], IN, &[vec![1]], vec![]);
    let made = beyond.tensors.len() as i32;
    let mut again = beyond.operators[0].clone();
    again.inputs[0] = made;
    beyond.operators.push(again);
    models.push(beyond);
    for model in models {
        let error = compile(&model.bytes(), &Options::linux()).expect_err("it is refused");
        assert!(
            matches!(error, CompileError::Inconsistent { .. }),
            "{error}"
        );
    }
}
