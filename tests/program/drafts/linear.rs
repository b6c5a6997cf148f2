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

/// A layer's weights, in the natural order of its products, and its channels before folding.
pub struct Made<T> {
    pub op: T,
    weights: Vec<i8>,
    channels: Vec<Channel>,
}

/// Puts a layer's constants into the program; gives their offsets. `of` says of each channel which
/// weights are its own.
fn store<I: Iterator<Item = i8>>(
    layout: Layout,
    builder: &mut Builder,
    (kind, zero_point): (Weights, i8),
    stored: &[u8],
    channels: &[Channel],
    of: impl Fn(usize) -> I,
    random: &mut Random,
) -> (u32, u32) {
    let sums = |index: usize| of(index).map(i64::from).sum::<i64>();
    let folded = folded(channels, zero_point, &sums);
    let reach = |index: usize| {
        let mut reach = Reach::default();
        of(index).for_each(|weight| reach.add(weight));
        reach
    };
    let reach: Vec<Reach> = (0..channels.len()).map(reach).collect();
    let claim = match random.below(10) {
        0 => Claim::Nothing,
        1 => Claim::Long,
        _ => Claim::All,
    };
    let layer = Layer {
        kind,
        stored,
        channels: &folded,
        reach: &reach,
        claim,
    };
    builder.layer(layout, &layer)
}

/// A convolution of these shapes.
pub fn conv_op(
    layout: Layout,
    [input, output]: [Plane; 2],
    window: Window,
    input_zero_point: i8,
    builder: &mut Builder,
    random: &mut Random,
) -> Made<Conv> {
    let mut op = Conv {
        input,
        output,
        window,
        input_zero_point,
        quantizer: quantizer(random),
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let scales = Scales::draw(random);
    let (kh, kw) = (usize::from(window.kernel_h), usize::from(window.kernel_w));
    let (depth, outs) = (usize::from(input.channels), usize::from(output.channels));
    let terms = kh * kw * depth;
    let weights = scales.weights(outs * terms, random);
    let channels = scales.channels(output.channels, terms, random);
    let mut stored = vec![0; layout::conv_weight_bytes(layout, &op) as usize];
    for (at, &weight) in weights.iter().enumerate() {
        let (o, y, x, c) = (
            at / terms,
            at / (kw * depth) % kh,
            at / depth % kw,
            at % depth,
        );
        stored[layout::conv_weight(layout, &op, [o, y, x, c])] = weight as u8;
    }
    layout::finish_conv(layout, &op, &mut stored);
    let kind = match layout::is_wide(&op) {
        true => Weights::Halfwords,
        false => Weights::Matrix,
    };
    let of = |o: usize| weights[o * terms..][..terms].iter().copied();
    let about = (kind, input_zero_point);
    (op.weights, op.channels) = store(layout, builder, about, &stored, &channels, of, random);
    Made {
        op,
        weights,
        channels,
    }
}

/// Makes outputs fewer until the layer takes no longer than it may: rows, then columns, then channels.
fn bounded(output: &mut Plane, each: usize) {
    while output.bytes() as usize * each > WORK {
        let longest = match (output.height, output.width) {
            (1, 1) => &mut output.channels,
            (1, _) => &mut output.width,
            _ => &mut output.height,
        };
        *longest = longest.div_ceil(2);
    }
}

fn conv_parts(layout: Layout, size: u16, random: &mut Random) -> (Conv, Builder, Vec<i8>, Vec<i8>) {
    // Now and then many channels and pixels at once, of few products.
    let many = size > 4 && random.below(12) == 0;
    let mut input = plane(size, random);
    if many {
        (input.height, input.width) = (extent(2, random), 8 + extent(12, random));
        input.channels = extent(8, random);
    }
    let (window, height, width) = window(&input, Sweep::Conv, random);
    let mut output = Plane {
        offset: 0,
        height,
        width,
        channels: match many {
            true => 64 + extent(80, random),
            false => depth(size, random),
        },
    };
    let terms = window.kernel_h * window.kernel_w * input.channels;
    bounded(&mut output, usize::from(terms));
    let (zero_point, mut builder) = (random.int8(), Builder::default());
    let planes = [input, output];
    let made = conv_op(layout, planes, window, zero_point, &mut builder, random);
    let op = made.op;
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let (kh, kw) = (usize::from(window.kernel_h), usize::from(window.kernel_w));
    let depth = usize::from(input.channels);
    let expected = slide(&output, &window, &made.channels, &op.quantizer, |o, tap| {
        let [ky, kx, fy, fx] = tap;
        let row = &made.weights[((o * kh + ky) * kw + kx) * depth..][..depth];
        let product = |(c, &weight): (usize, &i8)| {
            field.centred(fy, fx, c, op.input_zero_point) * i64::from(weight)
        };
        row.iter().enumerate().map(product).sum()
    });
    (op, builder, data, expected)
}

pub fn conv(layout: Layout, size: u16, random: &mut Random) -> Draft {
    let (op, builder, data, expected) = conv_parts(layout, size, random);
    Draft::new(Op::Conv(op), builder, vec![data], expected)
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
    Draft::new(op, builder, vec![data, other], expected)
}

/// A depthwise convolution of these shapes.
pub fn depthwise_op(
    layout: Layout,
    [input, output]: [Plane; 2],
    window: Window,
    input_zero_point: i8,
    builder: &mut Builder,
    random: &mut Random,
) -> Made<Depthwise> {
    let mut op = Depthwise {
        input,
        output,
        window,
        multiplier: output.channels / input.channels,
        input_zero_point,
        quantizer: quantizer(random),
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let scales = Scales::draw(random);
    let (kw, outs) = (usize::from(window.kernel_w), usize::from(output.channels));
    let taps = usize::from(window.kernel_h) * kw;
    let weights = scales.weights(taps * outs, random);
    let channels = scales.channels(output.channels, taps, random);
    let mut stored = vec![0; layout::depthwise_weight_bytes(layout, &op) as usize];
    for (at, &weight) in weights.iter().enumerate() {
        let (tap, o) = (at / outs, at % outs);
        stored[layout::depthwise_weight(layout, &op, [tap / kw, tap % kw, o])] = weight as u8;
    }
    layout::finish_depthwise(layout, &op, &mut stored);
    let of = |o: usize| weights[o..].iter().step_by(outs).copied();
    let about = (Weights::Halfwords, input_zero_point);
    (op.weights, op.channels) = store(layout, builder, about, &stored, &channels, of, random);
    Made {
        op,
        weights,
        channels,
    }
}

pub fn depthwise(layout: Layout, size: u16, random: &mut Random) -> Draft {
    // Now and then three by three over rows that no kernel takes at once.
    let long = random.below(12) == 0;
    let mut input = plane(size, random);
    if long {
        (input.height, input.width) = (extent(5, random), 37 + extent(40, random));
        input.channels = extent(9, random);
    }
    let (mut window, mut height, mut width) = window(&input, Sweep::Depthwise, random);
    if long {
        let pads = [random.below(3), random.below(3)].map(|pad| pad as u8);
        window = Window {
            kernel_h: 3,
            kernel_w: 3,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: pads[0].into(),
            pad_left: pads[1].into(),
        };
        // Up to the last output that sees the input.
        (height, width) = (input.height, input.width);
    }
    let multiplier = if !long && random.below(4) == 0 {
        extent(3, random)
    } else {
        1
    };
    let mut output = Plane {
        offset: 0,
        height,
        width,
        channels: 1,
    };
    let outs = input.channels * multiplier;
    let taps = usize::from(window.kernel_h) * usize::from(window.kernel_w);
    bounded(&mut output, taps * usize::from(outs));
    output.channels = outs;
    let (zero_point, mut builder) = (random.int8(), Builder::default());
    let planes = [input, output];
    let made = depthwise_op(layout, planes, window, zero_point, &mut builder, random);
    let op = made.op;
    let data = random.int8s(elements(&input));
    let field = Padded::new(&data, &input, &output, &window);
    let (kw, outs) = (usize::from(window.kernel_w), usize::from(outs));
    let expected = slide(&output, &window, &made.channels, &op.quantizer, |o, tap| {
        let [ky, kx, fy, fx] = tap;
        let value = field.centred(fy, fx, o / usize::from(multiplier), op.input_zero_point);
        value * i64::from(made.weights[(ky * kw + kx) * outs + o])
    });
    Draft::new(Op::Depthwise(op), builder, vec![data], expected)
}

/// A fully connected layer of `[rows, inputs, outputs]`.
pub fn dense_op(
    layout: Layout,
    [rows, inputs, outputs]: [u16; 3],
    zero_point: i8,
    builder: &mut Builder,
    random: &mut Random,
) -> Made<Dense> {
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
    let scales = Scales::draw(random);
    let width = usize::from(inputs);
    let weights = scales.weights(width * usize::from(outputs), random);
    let channels = scales.channels(outputs, width, random);
    let mut stored = vec![0; layout::dense_weight_bytes(layout, &op) as usize];
    for (index, &weight) in weights.iter().enumerate() {
        stored[layout::dense_weight(layout, &op, [index / width, index % width])] = weight as u8;
    }
    layout::finish_matrix(layout, &mut stored);
    let of = |o: usize| weights[o * width..][..width].iter().copied();
    let about = (Weights::Matrix, zero_point);
    (op.weights, op.channels) = store(layout, builder, about, &stored, &channels, of, random);
    Made {
        op,
        weights,
        channels,
    }
}

pub fn dense(layout: Layout, size: u16, random: &mut Random) -> Draft {
    // Now and then sums of more than 24 bits.
    let inputs = match random.below(8) {
        0 if size > 4 => extent(900, random),
        1 if size > 4 => extent(150, random),
        _ => extent(size * 5, random),
    };
    let outputs = match random.below(8) {
        0 if size > 4 => extent(150, random),
        _ => extent(size * 3, random),
    };
    let rows = match random.below(6) {
        0 => extent(9, random),
        1 => extent(3, random),
        _ => 1,
    };
    let (zero_point, mut builder) = (random.int8(), Builder::default());
    let shape = [rows, inputs, outputs];
    let made = dense_op(layout, shape, zero_point, &mut builder, random);
    let (op, width) = (made.op, usize::from(inputs));
    let data = random.int8s(width * usize::from(rows));
    let mut expected = Vec::new();
    for vector in data.chunks_exact(width) {
        for (row, channel) in made.weights.chunks_exact(width).zip(&made.channels) {
            let products = vector.iter().zip(row);
            let products =
                products.map(|(&x, &w)| (i64::from(x) - i64::from(zero_point)) * i64::from(w));
            expected.push(finish(products.sum(), channel, &op.quantizer));
        }
    }
    Draft::new(Op::Dense(op), builder, vec![data], expected)
}
