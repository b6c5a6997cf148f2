//! Random operators of every kind with what they must give.

use edgeward::program::Layout;
use edgeward::program::layout;
use edgeward::program::op::{
    Add, AddScale, Channel, Conv, ConvAdd, Copy, Dense, Depthwise, Fill, Lookup, Mean, Mul, Op,
    Operand, Plane, Pool, Quantizer, Softmax, Window,
};

use super::build::{Builder, Draft, Random};
use super::reference::{self, Padded, nearest_away, quantize, requantize, sum, taps};

/// The kinds of operators that a reference in integers exists for.
pub const KINDS: [&str; 12] = [
    "conv",
    "conv_add",
    "depthwise",
    "dense",
    "add",
    "mul",
    "pool",
    "mean",
    "lookup",
    "copy",
    "fill",
    "softmax",
];

/// An operator of a kind: `size` bounds its extents.
pub fn draft(kind: &str, layout: Layout, size: u16, random: &mut Random) -> Draft {
    match kind {
        "conv" => conv(layout, size, random),
        "conv_add" => conv_add(layout, size, random),
        "depthwise" => depthwise(layout, size, random),
        "dense" => dense(layout, size, random),
        "add" => add(size, random),
        "mul" => mul(size, random),
        "pool" => pool(size, random),
        "mean" => mean(size, random),
        "lookup" => lookup(size, random),
        "copy" => copy(size, random),
        "fill" => fill(size, random),
        "softmax" => softmax(size, random),
        other => unreachable!("no operator {other}"),
    }
}

fn extent(size: u16, random: &mut Random) -> u16 {
    1 + random.below(u64::from(size)) as u16
}

pub fn plane(size: u16, random: &mut Random) -> Plane {
    Plane {
        offset: 0,
        height: extent(size, random),
        width: extent(size, random),
        channels: extent(size + 3, random),
    }
}

fn elements(plane: &Plane) -> usize {
    plane.bytes() as usize
}

pub fn quantizer(random: &mut Random) -> Quantizer {
    let (a, b) = (random.int8(), random.int8());
    let whole = random.below(2) == 0;
    Quantizer {
        zero_point: random.int8(),
        min: if whole { -128 } else { a.min(b) },
        max: if whole { 127 } else { a.max(b) },
    }
}

/// A window with an output of some extent that it slides over.
pub fn window(input: &Plane, dilate: bool, random: &mut Random) -> (Window, u16, u16) {
    let axis = |extent: u16, random: &mut Random| {
        let kernel = 1 + random.below(4) as u16;
        let dilation = if dilate { 1 + random.below(2) as u8 } else { 1 };
        let stride = 1 + random.below(3) as u8;
        let reach = (kernel - 1) * u16::from(dilation);
        let pad = random.below(u64::from(reach) + 1) as u16;
        let most = (extent + pad - 1) / u16::from(stride) + 1;
        // Mostly the whole input, sometimes less of it.
        let out = if random.below(4) == 0 {
            1 + random.below(u64::from(most)) as u16
        } else {
            most
        };
        (kernel, stride, dilation, pad, out)
    };
    let (kernel_h, stride_h, dilation_h, pad_top, height) = axis(input.height, random);
    let (kernel_w, stride_w, dilation_w, pad_left, width) = axis(input.width, random);
    let window = Window {
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
    };
    (window, height, width)
}

/// Channels' constants with biases before folding. Scales are such that most outputs do not clamp.
pub fn channels(count: u16, terms: usize, layout: Layout, random: &mut Random) -> Vec<Channel> {
    let root = (terms.max(1) as f64).sqrt().log2() as i64;
    (0..count)
        .map(|_| {
            let extreme = random.below(12) == 0;
            // A layout may hold accumulators to less than 32 bits.
            let wrapping = extreme && layout == Layout::Natural;
            Channel {
                bias: if wrapping {
                    random.next() as i32
                } else {
                    random.between(-40_000, 40_000) as i32
                },
                multiplier: match random.below(10) {
                    0 => 0,
                    1 => 1 << 30,
                    2 => i32::MAX,
                    _ => random.between(1 << 30, i64::from(i32::MAX)) as i32,
                },
                shift: if extreme {
                    random.between(-31, 30) as i32
                } else {
                    (random.between(-9, -5) - root) as i32
                },
            }
        })
        .collect()
}

/// `bias - zero point * sum of weights`, as a program stores it.
fn folded(channels: &[Channel], zero_point: i8, weights: &dyn Fn(usize) -> i64) -> Vec<Channel> {
    let fold = |(index, channel): (usize, &Channel)| Channel {
        bias: (i64::from(channel.bias) - i64::from(zero_point) * weights(index)) as i32,
        ..*channel
    };
    channels.iter().enumerate().map(fold).collect()
}

fn finish(accumulator: i64, channel: &Channel, quantizer: &Quantizer) -> i8 {
    // Accumulators are 32 bits and wrap.
    let accumulator = i64::from((accumulator + i64::from(channel.bias)) as i32);
    quantize(
        requantize(accumulator, channel.multiplier, channel.shift),
        quantizer,
    )
}

fn conv_parts(layout: Layout, size: u16, random: &mut Random) -> (Conv, Builder, Vec<i8>, Vec<i8>) {
    let input = plane(size, random);
    let (window, height, width) = window(&input, true, random);
    let channels_out = extent(size + 3, random);
    let output = Plane {
        offset: 0,
        height,
        width,
        channels: channels_out,
    };
    let mut op = Conv {
        input,
        output,
        window,
        input_zero_point: random.int8(),
        quantizer: quantizer(random),
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let (kh, kw) = (usize::from(window.kernel_h), usize::from(window.kernel_w));
    let (depth, outs) = (usize::from(input.channels), usize::from(channels_out));
    let weights = random.int8s(outs * kh * kw * depth);
    let weight =
        |o: usize, y: usize, x: usize, c: usize| weights[((o * kh + y) * kw + x) * depth + c];
    let mut stored = vec![0; layout::conv_weight_bytes(layout, &op) as usize];
    let constants = channels(channels_out, kh * kw * depth, layout, random);
    let mut sums = vec![0_i64; outs];
    for o in 0..outs {
        for y in 0..kh {
            for x in 0..kw {
                for c in 0..depth {
                    stored[layout::conv_weight(layout, &op, [o, y, x, c])] =
                        weight(o, y, x, c) as u8;
                    sums[o] += i64::from(weight(o, y, x, c));
                }
            }
        }
    }
    layout::finish_matrix(layout, &mut stored);
    let mut builder = Builder::default();
    op.weights = builder.weights(&stored);
    op.channels = builder.channels(
        layout,
        &folded(&constants, op.input_zero_point, &|o| sums[o]),
    );
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let mut expected = Vec::new();
    for y in 0..usize::from(height) {
        for x in 0..usize::from(width) {
            for (o, channel) in constants.iter().enumerate() {
                let mut total = 0;
                for [ky, kx, fy, fx] in taps(&window, y, x) {
                    for c in 0..depth {
                        let value = field
                            .at(fy, fx, c)
                            .map_or(0, |value| i64::from(value) - i64::from(op.input_zero_point));
                        total += value * i64::from(weight(o, ky, kx, c));
                    }
                }
                expected.push(finish(total, channel, &op.quantizer));
            }
        }
    }
    (op, builder, data, expected)
}

fn conv(layout: Layout, size: u16, random: &mut Random) -> Draft {
    let (op, builder, data, expected) = conv_parts(layout, size, random);
    Draft {
        op: Op::Conv(op),
        builder,
        inputs: vec![data],
        expected,
    }
}

fn conv_add(layout: Layout, size: u16, random: &mut Random) -> Draft {
    let (conv, builder, data, made) = conv_parts(layout, size, random);
    let add = add_scale(random);
    let other = random.int8s(made.len());
    let expected = other
        .iter()
        .zip(&made)
        .map(|(&a, &b)| sum(&add, a, b))
        .collect();
    let op = Op::ConvAdd(ConvAdd {
        conv,
        other: 0,
        add,
    });
    Draft {
        op,
        builder,
        inputs: vec![data, other],
        expected,
    }
}

fn depthwise(layout: Layout, size: u16, random: &mut Random) -> Draft {
    let input = plane(size, random);
    let (window, height, width) = window(&input, true, random);
    let multiplier = if random.below(3) == 0 {
        extent(3, random)
    } else {
        1
    };
    let outs = usize::from(input.channels * multiplier);
    let output = Plane {
        offset: 0,
        height,
        width,
        channels: outs as u16,
    };
    let mut op = Depthwise {
        input,
        output,
        window,
        multiplier,
        input_zero_point: random.int8(),
        quantizer: quantizer(random),
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let (kh, kw) = (usize::from(window.kernel_h), usize::from(window.kernel_w));
    let weights = random.int8s(kh * kw * outs);
    let mut stored = vec![0; layout::depthwise_weight_bytes(layout, &op) as usize];
    let mut sums = vec![0_i64; outs];
    for y in 0..kh {
        for x in 0..kw {
            for o in 0..outs {
                let weight = weights[(y * kw + x) * outs + o];
                stored[layout::depthwise_weight(layout, &op, [y, x, o])] = weight as u8;
                sums[o] += i64::from(weight);
            }
        }
    }
    let constants = channels(outs as u16, kh * kw, layout, random);
    layout::finish_depthwise(layout, &op, &mut stored);
    let mut builder = Builder::default();
    op.weights = builder.weights(&stored);
    op.channels = builder.channels(
        layout,
        &folded(&constants, op.input_zero_point, &|o| sums[o]),
    );
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let mut expected = Vec::new();
    for y in 0..usize::from(height) {
        for x in 0..usize::from(width) {
            for (o, channel) in constants.iter().enumerate() {
                let mut total = 0;
                for [ky, kx, fy, fx] in taps(&window, y, x) {
                    let value = field.at(fy, fx, o / usize::from(multiplier));
                    let value =
                        value.map_or(0, |it| i64::from(it) - i64::from(op.input_zero_point));
                    total += value * i64::from(weights[(ky * kw + kx) * outs + o]);
                }
                expected.push(finish(total, channel, &op.quantizer));
            }
        }
    }
    Draft {
        op: Op::Depthwise(op),
        builder,
        inputs: vec![data],
        expected,
    }
}

fn dense(layout: Layout, size: u16, random: &mut Random) -> Draft {
    let (inputs, outputs) = (extent(size * 5, random), extent(size * 3, random));
    let rows = if random.below(3) == 0 {
        extent(4, random)
    } else {
        1
    };
    let zero_point = random.int8();
    let mut op = Dense {
        input: 0,
        output: 0,
        rows,
        inputs,
        outputs,
        quantizer: quantizer(random),
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let width = usize::from(inputs);
    let weights = random.int8s(width * usize::from(outputs));
    let mut stored = vec![0; layout::dense_weight_bytes(layout, &op) as usize];
    for (index, &weight) in weights.iter().enumerate() {
        stored[layout::dense_weight(layout, &op, [index / width, index % width])] = weight as u8;
    }
    let constants = channels(outputs, width, layout, random);
    let row_sum = |o: usize| {
        weights[o * width..][..width]
            .iter()
            .map(|&it| i64::from(it))
            .sum()
    };
    layout::finish_matrix(layout, &mut stored);
    let mut builder = Builder::default();
    op.weights = builder.weights(&stored);
    op.channels = builder.channels(layout, &folded(&constants, zero_point, &row_sum));
    let data = random.int8s(width * usize::from(rows));
    let mut expected = Vec::new();
    for vector in data.chunks_exact(width) {
        for (row, channel) in weights.chunks_exact(width).zip(&constants) {
            let products = vector.iter().zip(row);
            let products =
                products.map(|(&x, &w)| (i64::from(x) - i64::from(zero_point)) * i64::from(w));
            expected.push(finish(products.sum(), channel, &op.quantizer));
        }
    }
    Draft {
        op: Op::Dense(op),
        builder,
        inputs: vec![data],
        expected,
    }
}

pub fn add_scale(random: &mut Random) -> AddScale {
    let significand = |random: &mut Random| random.between(1 << 30, i64::from(i32::MAX)) as i32;
    let sign = if random.below(3) == 0 { -1 } else { 1 };
    AddScale {
        zero_a: random.int8(),
        zero_b: random.int8(),
        quantizer: quantizer(random),
        multiplier_a: significand(random),
        shift_a: random.between(-3, 0) as i8,
        multiplier_b: significand(random) * sign,
        shift_b: random.between(-3, 0) as i8,
        multiplier: significand(random),
        shift: random.between(-20, -15) as i8,
    }
}

/// Two operands of a length, of which one may be shorter or constant.
fn pair(
    len: usize,
    builder: &mut Builder,
    random: &mut Random,
) -> ([Operand; 2], Vec<Vec<i8>>, [Vec<i8>; 2]) {
    let mut operands = [Operand {
        offset: 0,
        len: len as u32,
        constant: 0,
    }; 2];
    let mut values = [random.int8s(len), random.int8s(len)];
    let odd = random.below(2) as usize;
    match random.below(4) {
        0 => values[odd].truncate(1),
        1 => values[odd].truncate(1 + random.below(len as u64) as usize),
        _ => {}
    }
    operands[odd].len = values[odd].len() as u32;
    if random.below(3) == 0 {
        let bytes: Vec<u8> = values[odd].iter().map(|&value| value as u8).collect();
        builder.constant(&[0; 3], 1);
        (operands[odd].offset, operands[odd].constant) = (builder.constant(&bytes, 1), 1);
    }
    let arena = operands
        .iter()
        .zip(&values)
        .filter(|(operand, _)| operand.constant == 0);
    let inputs = arena.map(|(_, values)| values.clone()).collect();
    (operands, inputs, values)
}

fn repeated([a, b]: &[Vec<i8>; 2], len: usize) -> impl Iterator<Item = (i8, i8)> {
    (0..len).map(|index| (a[index % a.len()], b[index % b.len()]))
}

fn add(size: u16, random: &mut Random) -> Draft {
    let len = usize::from(extent(size * size, random));
    let mut builder = Builder::default();
    let ([a, b], inputs, values) = pair(len, &mut builder, random);
    let scale = add_scale(random);
    let expected = repeated(&values, len)
        .map(|(a, b)| sum(&scale, a, b))
        .collect();
    let op = Op::Add(Add {
        a,
        b,
        output: 0,
        len: len as u32,
        scale,
    });
    Draft {
        op,
        builder,
        inputs,
        expected,
    }
}

fn mul(size: u16, random: &mut Random) -> Draft {
    let len = usize::from(extent(size * size, random));
    let mut builder = Builder::default();
    let ([a, b], inputs, values) = pair(len, &mut builder, random);
    let op = Mul {
        a,
        b,
        output: 0,
        len: len as u32,
        zero_a: random.int8(),
        zero_b: random.int8(),
        quantizer: quantizer(random),
        multiplier: random.between(1 << 30, i64::from(i32::MAX)) as i32,
        shift: random.between(-12, 1) as i8,
    };
    let expected = repeated(&values, len).map(|(a, b)| {
        let (a, b) = (
            i64::from(a) - i64::from(op.zero_a),
            i64::from(b) - i64::from(op.zero_b),
        );
        quantize(
            requantize(a * b, op.multiplier, i32::from(op.shift)),
            &op.quantizer,
        )
    });
    let expected = expected.collect();
    Draft {
        op: Op::Mul(op),
        builder,
        inputs,
        expected,
    }
}

fn pool(size: u16, random: &mut Random) -> Draft {
    let input = plane(size, random);
    let (window, height, width) = window(&input, false, random);
    let output = Plane {
        height,
        width,
        ..input
    };
    let limits = quantizer(random);
    let maximum = random.below(2) as u8;
    let op = Pool {
        input,
        output,
        window,
        maximum,
        min: limits.min,
        max: limits.max,
    };
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let mut expected = Vec::new();
    for y in 0..usize::from(height) {
        for x in 0..usize::from(width) {
            for c in 0..usize::from(input.channels) {
                let seen: Vec<i8> = taps(&window, y, x)
                    .filter_map(|[.., y, x]| field.at(y, x, c))
                    .collect();
                let value = if maximum == 1 {
                    *seen.iter().max().expect("a window sees something")
                } else {
                    let total = seen.iter().map(|&value| i128::from(value)).sum();
                    nearest_away(total, seen.len() as i128) as i8
                };
                expected.push(value.clamp(limits.min, limits.max));
            }
        }
    }
    Draft {
        op: Op::Pool(op),
        builder: Builder::default(),
        inputs: vec![data],
        expected,
    }
}

fn mean(size: u16, random: &mut Random) -> Draft {
    let input = plane(size, random);
    let op = Mean {
        input,
        output: 0,
        input_zero_point: random.int8(),
        quantizer: quantizer(random),
        multiplier: random.between(1 << 29, i64::from(i32::MAX)) as i32,
        shift: random.between(-8, 1) as i8,
    };
    let data = random.int8s(elements(&input));
    let channels = usize::from(input.channels);
    let expected = (0..channels).map(|c| {
        let values = data.iter().skip(c).step_by(channels);
        let total = values
            .map(|&value| i64::from(value) - i64::from(op.input_zero_point))
            .sum();
        quantize(
            requantize(total, op.multiplier, i32::from(op.shift)),
            &op.quantizer,
        )
    });
    let expected = expected.collect();
    Draft {
        op: Op::Mean(op),
        builder: Builder::default(),
        inputs: vec![data],
        expected,
    }
}

fn lookup(size: u16, random: &mut Random) -> Draft {
    let len = usize::from(extent(size * size, random));
    let data = random.int8s(len);
    let table: Vec<u8> = (0..256).map(|_| random.next() as u8).collect();
    let mut builder = Builder::default();
    builder.constant(&[7], 1);
    let table_at = builder.constant(&table, 1);
    let expected = data
        .iter()
        .map(|&value| table[(i32::from(value) + 128) as usize] as i8);
    let expected = expected.collect();
    let op = Lookup {
        input: 0,
        output: 0,
        len: data.len() as u32,
        table: table_at,
    };
    Draft {
        op: Op::Lookup(op),
        builder,
        inputs: vec![data],
        expected,
    }
}

/// A permutation of axes of a part of a tensor: what slices, transposes and concatenations need.
fn copy(size: u16, random: &mut Random) -> Draft {
    let shape = [(); 4].map(|()| extent(size.min(5), random));
    let steps = [(); 4].map(|()| 1 + random.below(2) as u32);
    let mut order = [0, 1, 2, 3];
    for index in (1..4).rev() {
        order.swap(index, random.below(index as u64 + 1) as usize);
    }
    let mut strides = [0; 4];
    let mut len = 1;
    for axis in order {
        strides[axis] = len * steps[axis];
        len *= u32::from(shape[axis]) * steps[axis];
    }
    let mut output_strides = [1; 4];
    for axis in (0..3).rev() {
        output_strides[axis] = output_strides[axis + 1] * u32::from(shape[axis + 1]);
    }
    let data = random.int8s(len as usize);
    let mut expected = Vec::new();
    let [a, b, c, d] = shape.map(u32::from);
    for index in 0..a * b * c * d {
        let at = [
            index / (b * c * d),
            index / (c * d) % b,
            index / d % c,
            index % d,
        ];
        let from: u32 = at
            .iter()
            .zip(strides)
            .map(|(index, stride)| index * stride)
            .sum();
        expected.push(data[from as usize]);
    }
    let op = Op::Copy(Copy {
        input: 0,
        output: 0,
        shape,
        input_strides: strides,
        output_strides,
    });
    Draft {
        op,
        builder: Builder::default(),
        inputs: vec![data],
        expected,
    }
}

fn fill(size: u16, random: &mut Random) -> Draft {
    let len = extent(size * size, random);
    let value = random.int8();
    let op = Op::Fill(Fill {
        output: 0,
        len: u32::from(len),
        value,
    });
    let expected = vec![value; usize::from(len)];
    Draft {
        op,
        builder: Builder::default(),
        inputs: Vec::new(),
        expected,
    }
}

/// The constants of a softmax as TensorFlow Lite derives them from the input's scale.
pub fn softmax_op(rows: u16, columns: u16, scale: f64) -> Softmax {
    let real = (scale * f64::from(1 << 26)).min(f64::from(i32::MAX));
    let shift = real.log2().floor() as i32 + 1;
    let multiplier = (real / f64::from(shift).exp2() * f64::from(1_u32 << 31)).round();
    let difference_min = -((31_i64 << 26) >> shift) as i32;
    Softmax {
        input: 0,
        output: 0,
        rows,
        columns,
        multiplier: multiplier.min(f64::from(i32::MAX)) as i32,
        shift: shift as i8,
        difference_min,
    }
}

fn softmax(size: u16, random: &mut Random) -> Draft {
    let (rows, columns) = (extent(size, random), extent(size * size, random));
    let scale = (random.between(-90, 10) as f64 / 10.0).exp2();
    let op = softmax_op(rows, columns, scale);
    let data = random.int8s(usize::from(rows) * usize::from(columns));
    let vectors = data.chunks_exact(usize::from(columns));
    let expected = vectors
        .flat_map(|values| reference::softmax(&op, values))
        .collect();
    Draft {
        op: Op::Softmax(op),
        builder: Builder::default(),
        inputs: vec![data],
        expected,
    }
}
