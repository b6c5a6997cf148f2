//! Operators with weights: convolutions and dense layers.

use super::*;

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

/// What a window gives that slides over a plane: in each place and channel, the sum of what each of
/// its taps adds there.
fn slide(
    output: &Plane,
    window: &Window,
    channels: &[Channel],
    quantizer: &Quantizer,
    adds: impl Fn(usize, [usize; 4]) -> i64,
) -> Vec<i8> {
    let mut expected = Vec::new();
    for y in 0..usize::from(output.height) {
        for x in 0..usize::from(output.width) {
            for (o, channel) in channels.iter().enumerate() {
                let total = taps(window, y, x).map(|tap| adds(o, tap)).sum();
                expected.push(finish(total, channel, quantizer));
            }
        }
    }
    expected
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
    layout::finish_conv(layout, &op, &mut stored);
    let fold = folded(&constants, op.input_zero_point, &|o| sums[o]);
    let mut builder = Builder::default();
    (op.weights, op.channels) = builder.constants(layout, &stored, &fold);
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let expected = slide(&output, &window, &constants, &op.quantizer, |o, tap| {
        let [ky, kx, fy, fx] = tap;
        let product = |c: usize| {
            field.centred(fy, fx, c, op.input_zero_point) * i64::from(weight(o, ky, kx, c))
        };
        (0..depth).map(product).sum()
    });
    (op, builder, data, expected)
}

pub fn conv(layout: Layout, size: u16, random: &mut Random) -> Draft {
    let (op, builder, data, expected) = conv_parts(layout, size, random);
    Draft {
        op: Op::Conv(op),
        builder,
        inputs: vec![data],
        expected,
    }
}

pub fn conv_add(layout: Layout, size: u16, random: &mut Random) -> Draft {
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

pub fn depthwise(layout: Layout, size: u16, random: &mut Random) -> Draft {
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
    let fold = folded(&constants, op.input_zero_point, &|o| sums[o]);
    let mut builder = Builder::default();
    (op.weights, op.channels) = builder.constants(layout, &stored, &fold);
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let expected = slide(&output, &window, &constants, &op.quantizer, |o, tap| {
        let [ky, kx, fy, fx] = tap;
        let value = field.centred(fy, fx, o / usize::from(multiplier), op.input_zero_point);
        value * i64::from(weights[(ky * kw + kx) * outs + o])
    });
    Draft {
        op: Op::Depthwise(op),
        builder,
        inputs: vec![data],
        expected,
    }
}

pub fn dense(layout: Layout, size: u16, random: &mut Random) -> Draft {
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
    let fold = folded(&constants, zero_point, &row_sum);
    let mut builder = Builder::default();
    (op.weights, op.channels) = builder.constants(layout, &stored, &fold);
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
