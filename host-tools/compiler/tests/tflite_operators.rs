//! What the operators of TFLite files mean: each sample's program against the operator's definition in real
//! numbers, from dequantized inputs, quantized with the output's scale and zero point. Equal where an operator
//! moves or compares integers, and within one step elsewhere: kernels compute in fixed point.

#[path = "common/inputs.rs"]
mod inputs;
#[path = "common/samples.rs"]
mod samples;
#[allow(dead_code, reason = "other tests break files, too")]
#[path = "common/tflite.rs"]
mod tflite;

use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::{Options, compile};
use inputs::inputs;
use std::collections::BTreeSet;
use tflite::Model;

/// A tensor of real numbers, row-major.
#[derive(Debug, Clone)]
struct Reals {
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// Scale and zero point.
type Quantization = (f64, f64);

impl Reals {
    fn map(self, of: impl Fn(f64) -> f64) -> Self {
        let values = self.values.into_iter().map(of).collect();
        Self { values, ..self }
    }

    fn at(&self, place: &[usize]) -> f64 {
        let along = self.shape.iter().zip(place);
        self.values[along.fold(0, |at, (extent, index)| at * extent + index)]
    }

    /// A tensor of another shape, from what its elements are by their places.
    fn of(shape: &[usize], of: impl Fn(&[usize]) -> f64) -> Self {
        let count = shape.iter().product();
        let value = |mut at: usize| {
            let mut place = vec![0; shape.len()];
            for (index, extent) in place.iter_mut().zip(shape).rev() {
                *index = at % extent;
                at /= extent;
            }
            of(&place)
        };
        Self {
            shape: shape.into(),
            values: (0..count).map(value).collect(),
        }
    }
}

/// A constant's real numbers: one scale, or one an index of an axis.
fn constant(model: &Model, index: usize) -> Reals {
    let tensor = &model.tensors[index];
    let shape: Vec<usize> = tensor.shape.iter().map(|&it| it as usize).collect();
    let bytes = &model.buffers[tensor.buffer as usize];
    let axis = tensor.axis as usize;
    let each = shape[axis + 1..].iter().product::<usize>();
    let value = |(at, &byte): (usize, &u8)| {
        let channel = at / each % tensor.scales.len();
        let distance = f64::from(byte.cast_signed()) - tensor.zero_points[channel] as f64;
        f64::from(tensor.scales[channel]) * distance
    };
    let values = bytes.iter().enumerate().map(value).collect();
    Reals { shape, values }
}

/// A bias: int32 at the scale of its output's sums.
fn bias(model: &Model) -> Vec<f64> {
    let [input, weights] = [&model.tensors[0], &model.tensors[2]];
    let Some(list) = model.tensors.get(3) else {
        return vec![0.0; weights.scales.len()];
    };
    let ints = model.buffers[list.buffer as usize].as_chunks().0;
    let scales = weights.scales.iter();
    ints.iter()
        .zip(scales)
        .map(|(&int, &scale)| {
            f64::from(i32::from_le_bytes(int)) * f64::from(scale) * f64::from(input.scales[0])
        })
        .collect()
}

/// A window, each `[height, width]`; padded so that outputs are as many as steps fit into, or not at all.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    same: bool,
}

impl Window {
    const fn new(kernel: [usize; 2], stride: [usize; 2], same: bool) -> Self {
        Self {
            kernel,
            stride,
            dilation: [1, 1],
            same,
        }
    }

    const fn dilated(self, dilation: [usize; 2]) -> Self {
        Self { dilation, ..self }
    }

    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    fn outputs(&self, image: &[usize]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let extent = image[axis + 1];
            match self.same {
                true => extent.div_ceil(self.stride[axis]),
                false => (extent - self.reach(axis)) / self.stride[axis] + 1,
            }
        })
    }

    /// Taps and pixels of an output pixel that lie in the image.
    fn taps(&self, image: &[usize], pixel: [usize; 2]) -> Vec<([usize; 2], [usize; 2])> {
        let outputs = self.outputs(image);
        let before = [0, 1].map(|axis| {
            let wanted = (outputs[axis] - 1) * self.stride[axis] + self.reach(axis);
            match self.same {
                true => wanted.saturating_sub(image[axis + 1]) / 2,
                false => 0,
            }
        });
        let mut all = Vec::new();
        for y in 0..self.kernel[0] {
            for x in 0..self.kernel[1] {
                let tap = [y, x];
                let place = [0, 1].map(|axis| {
                    let at = pixel[axis] * self.stride[axis] + tap[axis] * self.dilation[axis];
                    at.checked_sub(before[axis])
                        .filter(|&at| at < image[axis + 1])
                });
                if let [Some(y), Some(x)] = place {
                    all.push((tap, [y, x]));
                }
            }
        }
        all
    }

    /// An output element each from its taps and their pixels.
    fn over(
        &self,
        image: &Reals,
        channels: usize,
        of: impl Fn(usize, &[([usize; 2], [usize; 2])]) -> f64,
    ) -> Reals {
        let [h, w] = self.outputs(&image.shape);
        Reals::of(&[1, h, w, channels], |place| {
            of(place[3], &self.taps(&image.shape, [place[1], place[2]]))
        })
    }

    fn conv(&self, image: &Reals, model: &Model) -> Reals {
        let (weights, bias) = (constant(model, 2), bias(model));
        self.over(image, weights.shape[0], |out, taps| {
            let tap = |&([i, j], [y, x]): &([usize; 2], [usize; 2])| {
                (0..weights.shape[3])
                    .map(|c| weights.at(&[out, i, j, c]) * image.at(&[0, y, x, c]))
                    .sum::<f64>()
            };
            bias[out] + taps.iter().map(tap).sum::<f64>()
        })
    }

    fn depthwise(&self, image: &Reals, model: &Model) -> Reals {
        let (weights, bias) = (constant(model, 2), bias(model));
        let outputs = weights.shape[3];
        let multiplier = outputs / image.shape[3];
        self.over(image, outputs, |out, taps| {
            let tap = |&([i, j], [y, x]): &([usize; 2], [usize; 2])| {
                weights.at(&[0, i, j, out]) * image.at(&[0, y, x, out / multiplier])
            };
            bias[out] + taps.iter().map(tap).sum::<f64>()
        })
    }

    fn average(&self, image: &Reals) -> Reals {
        self.over(image, image.shape[3], |c, taps| {
            let sum: f64 = taps
                .iter()
                .map(|&(_, [y, x])| image.at(&[0, y, x, c]))
                .sum();
            sum / taps.len() as f64
        })
    }

    fn maximum(&self, image: &Reals) -> Reals {
        self.over(image, image.shape[3], |c, taps| {
            let inside = taps.iter().map(|&(_, [y, x])| image.at(&[0, y, x, c]));
            inside.fold(f64::MIN, f64::max)
        })
    }
}

/// Means over axes, those that are left in one row.
fn mean(x: &Reals, axes: &[usize]) -> Reals {
    let kept: Vec<usize> = (0..x.shape.len()).filter(|it| !axes.contains(it)).collect();
    let extents = |axes: &[usize]| axes.iter().map(|&it| x.shape[it]).collect::<Vec<_>>();
    let summed = Reals::of(&extents(axes), |_| 0.0);
    Reals::of(&extents(&kept), |place| {
        let all = Reals::of(&summed.shape, |other| {
            let mut at = vec![0; x.shape.len()];
            for (axes, place) in [(&kept[..], place), (axes, other)] {
                for (&axis, &index) in axes.iter().zip(place) {
                    at[axis] = index;
                }
            }
            x.at(&at)
        });
        all.values.iter().sum::<f64>() / all.values.len() as f64
    })
}

fn softmax(x: &Reals, beta: f64) -> Reals {
    let columns = x.shape.last().copied().unwrap_or(1);
    let rows = x.values.chunks(columns).flat_map(|row| {
        let of = move |x: &f64| (x * beta).exp();
        let sum: f64 = row.iter().map(of).sum();
        row.iter().map(move |x| of(x) / sum)
    });
    Reals {
        values: rows.collect(),
        ..x.clone()
    }
}

/// Part of a tensor, from a place on.
fn part(x: &Reals, shape: &[usize], begin: &[usize], stride: &[usize]) -> Reals {
    Reals::of(shape, |place| {
        let at = (0..shape.len()).map(|it| begin[it] + place[it] * stride[it]);
        x.at(&at.collect::<Vec<_>>())
    })
}

/// A tensor with `value` before and behind its elements.
fn padded(x: &Reals, shape: &[usize], before: &[usize], value: f64) -> Reals {
    Reals::of(shape, |place| {
        let inside = (0..shape.len()).map(|it| {
            let index = place[it].checked_sub(before[it]);
            index.filter(|&index| index < x.shape[it])
        });
        let inside: Option<Vec<usize>> = inside.collect();
        inside.map_or(value, |place| x.at(&place))
    })
}

/// What a sample computes by its operators' definitions.
fn meaning(name: &str, model: &Model, x: Reals) -> Reals {
    let relu = |x: f64| x.max(0.0);
    let relu6 = |x: f64| x.clamp(0.0, 6.0);
    let whole = |x: &Reals, shape: &[usize]| Reals {
        shape: shape.into(),
        values: x.values.clone(),
    };
    let operand = || constant(model, 2).values[0];
    match name {
        "ADD" => x.map(|x| x + operand()),
        "ADD, RELU6" => x.map(|x| relu6(x + operand())),
        "SUB" => x.map(|x| x - operand()),
        "SUB, RELU_N1_TO_1" => x.map(|x| (x - operand()).clamp(-1.0, 1.0)),
        "SUB of a constant" => x.map(|x| operand() - x),
        "MUL" => x.map(|x| x * operand()),
        "MUL, RELU" => x.map(|x| relu(x * operand())),
        "FULLY_CONNECTED, RELU" => {
            let (weights, bias) = (constant(model, 2), bias(model));
            Reals::of(&[1, 3], |place| {
                let out = place[1];
                let products = (0..8).map(|at| weights.at(&[out, at]) * x.values[at]);
                relu(bias[out] + products.sum::<f64>())
            })
        }
        "SOFTMAX" => softmax(&x, 0.7),
        "MEAN" => mean(&x, &[1, 2]),
        "MEAN of channels" => mean(&x, &[3]),
        "MEAN of rows" => mean(&x, &[1]),
        "CONV_2D" => Window::new([3, 2], [2, 1], false).conv(&x, model),
        "CONV_2D, dilated" => {
            let window = Window::new([2, 3], [1, 1], true).dilated([3, 2]);
            window.conv(&x, model).map(relu)
        }
        "DEPTHWISE_CONV_2D" => Window::new([3, 2], [1, 2], true).depthwise(&x, model),
        "DEPTHWISE_CONV_2D, dilated" => {
            let window = Window::new([3, 2], [1, 1], false).dilated([2, 1]);
            window.depthwise(&x, model).map(relu6)
        }
        "AVERAGE_POOL_2D, RELU6" => Window::new([3, 2], [2, 1], true).average(&x).map(relu6),
        "MAX_POOL_2D, RELU" => Window::new([2, 3], [1, 2], true).maximum(&x).map(relu),
        "MAX_POOL_2D" => Window::new([1, 2], [2, 1], false).maximum(&x),
        "RELU" | "RELU to another scale" => x.map(relu),
        "RELU6" | "RELU6 to another scale" => x.map(relu6),
        "LEAKY_RELU" => x.map(|x| if x < 0.0 { 0.3 * x } else { x }),
        "LOGISTIC" => x.map(|x| 1.0 / (1.0 + (-x).exp())),
        "TANH" => x.map(f64::tanh),
        "HARD_SWISH" => x.map(|x| x * relu6(x + 3.0) / 6.0),
        "QUANTIZE" | "QUANTIZE, DEQUANTIZE" => x,
        "RESHAPE" => whole(&x, &[1, 6, 10]),
        "SQUEEZE" => whole(&x, &[3, 5]),
        "EXPAND_DIMS" => whole(&x, &[1, 1, 5]),
        "TRANSPOSE" => Reals::of(&[1, 5, 4, 3], |it| x.at(&[it[0], it[2], it[3], it[1]])),
        "PAD" => padded(&x, &[1, 6, 5, 5], &[0, 2, 0, 0], 0.0),
        "PADV2" => {
            let value = constant(model, 3).values[0];
            padded(&x, &[1, 4, 4, 6], &[0, 0, 1, 0], value)
        }
        "SLICE" => part(&x, &[1, 2, 3, 4], &[0, 1, 0, 1], &[1; 4]),
        "STRIDED_SLICE of a row" => {
            let row = part(&x, &[1, 1, 3, 5], &[0, 2, 0, 0], &[1; 4]);
            whole(&row, &[1, 3, 5])
        }
        "STRIDED_SLICE" => part(&x, &[1, 2, 3, 4], &[0, 1, 0, 1], &[1, 2, 1, 1]),
        "CONCATENATION" => Reals::of(&[1, 4, 5, 5], |it| match it[2] {
            column @ 0..2 => x.at(&[0, it[1], column + 1, it[3]]),
            column => x.at(&[0, it[1], column - 2, it[3]]),
        }),
        _ => panic!("what {name} means is not said"),
    }
}

/// Samples whose program may be off by a step: those that scale, sum or round.
fn is_near(name: &str) -> bool {
    let operator = name.split(',').next().unwrap_or(name);
    name.ends_with("to another scale")
        || name == "QUANTIZE"
        || [
            "ADD",
            "SUB",
            "SUB of a constant",
            "MUL",
            "FULLY_CONNECTED",
            "SOFTMAX",
            "MEAN",
            "MEAN of channels",
            "MEAN of rows",
            "CONV_2D",
            "DEPTHWISE_CONV_2D",
            "AVERAGE_POOL_2D",
            "LEAKY_RELU",
            "LOGISTIC",
            "TANH",
            "HARD_SWISH",
        ]
        .contains(&operator)
}

/// The quantization at a border: floats have that of the tensor beside them.
fn quantization(model: &Model, index: i32) -> Quantization {
    let tensor = &model.tensors[index as usize];
    let tensor = match tensor.scales.is_empty() {
        true => &model.tensors[1],
        false => tensor,
    };
    (tensor.scales[0].into(), tensor.zero_points[0] as f64)
}

fn compiled(name: &str, model: &Model) -> Vec<Vec<u8>> {
    let targets = [
        Options::linux(),
        Options::mcu(Layout::Natural),
        Options::mcu(Layout::CortexM),
    ];
    let file = model.bytes();
    let program = |options| match compile(&file, options) {
        Ok(compiled) => compiled.program,
        Err(error) => panic!("{name}: {error}"),
    };
    targets.iter().map(program).collect()
}

/// What is wrong with a program's outputs; the outputs that there were.
fn check(name: &str, model: &Model, program: &[u8]) -> Result<BTreeSet<i8>, String> {
    let bytes = Aligned::copy_of(program);
    let program = Program::verify(bytes.as_ref()).expect("the compiler verified it");
    let header = *program.header();
    let shape = model.tensors[0].shape.iter().map(|&it| it as usize);
    let shape: Vec<usize> = shape.collect();
    let elements = shape.iter().product();
    let [(from, zero_from), (to, zero_to)] =
        [model.inputs[0], model.outputs[0]].map(|it| quantization(model, it));
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let mut seen = BTreeSet::new();
    for input in inputs(elements) {
        let arena = arena.as_mut();
        arena[header.input as usize..][..elements].copy_from_slice(&input);
        program
            .run(&mut Portable, arena)
            .map_err(|it| format!("{it:?}"))?;
        let output = &arena[header.output as usize..][..header.output_len as usize];
        let values = input.iter().map(|&q| from * (f64::from(q) - zero_from));
        let reals = Reals {
            shape: shape.clone(),
            values: values.collect(),
        };
        let wanted = meaning(name, model, reals);
        if wanted.values.len() != output.len() {
            return Err(format!("{} elements, not {:?}", output.len(), wanted.shape));
        }
        let most = if is_near(name) { 1.0 } else { 0.0 };
        for (at, (real, &output)) in wanted.values.iter().zip(output).enumerate() {
            let wanted = ((real / to).round() + zero_to).clamp(-128.0, 127.0);
            if (wanted - f64::from(output)).abs() > most {
                return Err(format!("element {at} is {output}, not {wanted}"));
            }
            seen.insert(output);
        }
    }
    Ok(seen)
}

#[test]
fn samples_compute_what_their_operators_mean() {
    let mut wrong = Vec::new();
    for (name, model) in samples::all() {
        for program in compiled(name, &model) {
            match check(name, &model, &program) {
                // A scale that leaves few values would tell little.
                Ok(seen) if seen.len() < 48 => wrong.push(format!("{name}: only {seen:?}")),
                Ok(_) => {}
                Err(why) => wrong.push(format!("{name}: {why}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Floats become int8 and back: the nearest step, halves away from zero, and no step beyond the ends.
#[test]
fn floats_at_the_border_are_the_nearest_steps() {
    let all = samples::all();
    let border = all.iter().find(|(name, _)| *name == "QUANTIZE, DEQUANTIZE");
    let (name, model) = border.expect("it is among them");
    for program in compiled(name, model) {
        let bytes = Aligned::copy_of(&program);
        let program = Program::verify(bytes.as_ref()).expect("the compiler verified it");
        let header = *program.header();
        let mut arena = Aligned::zeros(header.arena_bytes as usize);
        let arena = arena.as_mut();
        for start in -8..8 {
            let input: Vec<f32> = (0..60).map(|at| (start * 60 + at) as f32 * 0.125).collect();
            program.quantize(&input, &mut arena[header.input as usize..][..60]);
            program
                .run(&mut Portable, arena)
                .expect("it fits its arena");
            let mut output = vec![0.0; 60];
            program.dequantize(&arena[header.output as usize..], &mut output);
            let steps = input.iter().map(|x| (x / 0.5).round() + 9.0);
            let wanted = steps.map(|step| 0.5 * (step.clamp(-128.0, 127.0) - 9.0));
            assert_eq!(output, wanted.collect::<Vec<f32>>());
        }
    }
}
