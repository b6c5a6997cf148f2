//! Fast kernels against portable ones, on programs of one operator with random shapes and values.

use crate::draft::{Builder, CONSTANTS, Random};
use crate::{Memory, count, print};
use edgeward::program::codec::{Field as _, Writer};
use edgeward::program::kernels::cortex_m::CortexM;
use edgeward::program::layout;
use edgeward::program::op::{
    Add, AddScale, Conv, ConvAdd, Dense, Depthwise, Mul, Op, Operand, Plane, Pool, Quantizer,
    Window,
};
use edgeward::program::overlap::least_distance;
use edgeward::program::{HEADER_BYTES, Header, Layout, MAGIC, Portable, Program, VERSION};

fn quantizer(random: &mut Random) -> Quantizer {
    let (mut min, mut max) = (i8::MIN, i8::MAX);
    if random.chance(20) {
        (min, max) = (random.element(), random.element());
        if min > max {
            (min, max) = (max, min);
        }
    }
    Quantizer {
        zero_point: random.element(),
        min,
        max,
    }
}

/// A window and planes that it fits.
fn shapes(random: &mut Random, kernels: &[u16], channels: [i32; 2]) -> (Plane, Plane, Window) {
    let kernel = |random: &mut Random| kernels[random.next() as usize % kernels.len()];
    let (kernel_h, kernel_w) = (kernel(random), kernel(random));
    let stride = random.between(1, 2) as u8;
    let same = random.chance(60);
    let wide = if random.chance(15) { 60 } else { 17 };
    let (height, width) = (
        random.between(i32::from(kernel_h), 14) as u16,
        random.between(i32::from(kernel_w), wide) as u16,
    );
    let axis = |extent: u16, kernel: u16, pad: u16| {
        let stride = u16::from(stride);
        if same {
            let output = extent.div_ceil(stride);
            (output, pad.min(kernel - 1))
        } else {
            ((extent - kernel) / stride + 1, 0)
        }
    };
    let (out_h, pad_top) = axis(
        height,
        kernel_h,
        random.between(0, i32::from(kernel_h) / 2) as u16,
    );
    let (out_w, pad_left) = axis(
        width,
        kernel_w,
        random.between(0, i32::from(kernel_w) / 2) as u16,
    );
    // An output may stop short of what the input would give.
    let short = |random: &mut Random, extent: u16| match random.chance(20) {
        true => random.between(1, i32::from(extent)) as u16,
        false => extent,
    };
    let (out_h, out_w) = (short(random, out_h), short(random, out_w));
    let plane = |height, width, channels| Plane {
        offset: 0,
        height,
        width,
        channels,
    };
    let depth = random.between(1, channels[0]) as u16;
    (
        plane(height, width, depth),
        plane(out_h, out_w, random.between(1, channels[1]) as u16),
        Window {
            kernel_h,
            kernel_w,
            stride_h: stride,
            stride_w: stride,
            dilation_h: 1,
            dilation_w: 1,
            pad_top,
            pad_left,
        },
    )
}

/// Now and then takes a window as far as the verifier lets it: padding up to the kernel's reach, long
/// strides, each axis with its own, and an output that ends in the padding.
fn stretch(random: &mut Random, input: Plane, output: &mut Plane, window: &mut Window) {
    if !random.chance(25) {
        return;
    }
    let mut axis = |extent: u16, kernel: u16, dilation: u8| {
        let reach = (kernel - 1) * u16::from(dilation);
        let pad = match random.chance(40) {
            true => reach,
            false => random.between(0, i32::from(reach)) as u16,
        };
        let stride = match random.chance(5) {
            true => u8::MAX,
            false => random.between(1, 4) as u8,
        };
        let most = (pad + extent - 1) / u16::from(stride) + 1;
        let short = random.chance(30);
        let least = if short { 1 } else { most };
        (
            pad,
            stride,
            random.between(i32::from(least), i32::from(most)) as u16,
        )
    };
    (window.pad_top, window.stride_h, output.height) =
        axis(input.height, window.kernel_h, window.dilation_h);
    (window.pad_left, window.stride_w, output.width) =
        axis(input.width, window.kernel_w, window.dilation_w);
}

fn conv(random: &mut Random, builder: &mut Builder<'_>) -> Conv {
    let (input, mut output, mut window) = shapes(random, &[1, 1, 2, 3, 4], [20, 19]);
    if random.chance(10) {
        window.dilation_h = random.between(1, 3) as u8;
        window.dilation_w = random.between(1, 3) as u8;
    }
    stretch(random, input, &mut output, &mut window);
    let mut op = Conv {
        input,
        output,
        window,
        input_zero_point: random.element(),
        quantizer: quantizer(random),
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let products = layout::conv_taps(&op) as usize;
    op.weights = builder.conv(random, &op);
    let left = random.chance(20);
    op.channels = builder.channels(random, output.channels, products, left);
    op
}

fn conv_add(random: &mut Random, builder: &mut Builder<'_>) -> ConvAdd {
    ConvAdd {
        conv: conv(random, builder),
        other: 0,
        add: add_scale(random),
    }
}

/// Operands of an output, of which one may be repeated or constant.
fn operands(random: &mut Random, builder: &mut Builder<'_>, len: u32) -> [Operand; 2] {
    let whole = Operand {
        offset: 0,
        len,
        constant: 0,
    };
    let mut operands = [whole; 2];
    if random.chance(60) {
        let other = &mut operands[random.next() as usize % 2];
        let most = if random.chance(60) { 40 } else { 400 };
        other.len = random.between(1, most).min(len as i32) as u32;
        if random.chance(40) {
            let at = builder.room(other.len as usize);
            for byte in &mut builder.bytes[at..at + other.len as usize] {
                *byte = random.element() as u8;
            }
            (other.offset, other.constant) = (at as u32, 1);
        }
    }
    operands
}

fn add(random: &mut Random, builder: &mut Builder<'_>) -> Add {
    let len = random.between(1, 400) as u32;
    let [a, b] = operands(random, builder, len);
    Add {
        a,
        b,
        output: 0,
        len,
        scale: add_scale(random),
    }
}

fn mul(random: &mut Random, builder: &mut Builder<'_>) -> Mul {
    let len = random.between(1, 400) as u32;
    let [a, b] = operands(random, builder, len);
    Mul {
        a,
        b,
        output: 0,
        len,
        zero_a: random.element(),
        zero_b: random.element(),
        quantizer: quantizer(random),
        multiplier: (1 << 30) + (random.next() >> 2) as i32,
        shift: random.between(-14, 1) as i8,
    }
}

/// Puts operands into the arena: one as long as the output at `near`, which may lie over it, any other
/// at `far`.
fn put(operands: [&mut Operand; 2], near: usize, far: usize, len: u32) {
    let mut places = [near, far].into_iter();
    let [a, b] = operands;
    let (first, second) = if a.len == len { (a, b) } else { (b, a) };
    for operand in [first, second] {
        let place = places.next().unwrap_or(far);
        if operand.constant == 0 {
            operand.offset = place as u32;
        }
    }
}

fn pool(random: &mut Random) -> Pool {
    let (input, mut output, mut window) = shapes(random, &[1, 2, 3, 5, 9], [20, 1]);
    output.channels = input.channels;
    stretch(random, input, &mut output, &mut window);
    let Quantizer { min, max, .. } = quantizer(random);
    Pool {
        input,
        output,
        window,
        maximum: u8::from(random.chance(40)),
        min,
        max,
    }
}

fn add_scale(random: &mut Random) -> AddScale {
    let one = |random: &mut Random| {
        if random.chance(50) {
            return (1 << 30, 0);
        }
        (
            (1 << 30) + (random.next() >> 2) as i32,
            -random.between(1, 4) as i8,
        )
    };
    let (multiplier_a, shift_a) = one(random);
    let (multiplier_b, shift_b) = one(random);
    let sign = if random.chance(20) { -1 } else { 1 };
    AddScale {
        zero_a: random.element(),
        zero_b: random.element(),
        quantizer: quantizer(random),
        multiplier_a,
        shift_a,
        multiplier_b: sign * multiplier_b,
        shift_b,
        multiplier: (1 << 30) + (random.next() >> 2) as i32,
        shift: -random.between(17, 20) as i8,
    }
}

/// Half of them three by three at stride 1, which has a kernel of its own.
fn depthwise(random: &mut Random, builder: &mut Builder<'_>) -> Depthwise {
    let kernels: &[u16] = if random.chance(50) {
        &[3]
    } else {
        &[1, 2, 3, 4, 5, 7]
    };
    let (input, mut output, mut window) = shapes(random, kernels, [24, 1]);
    output.channels = input.channels;
    let mut input = input;
    if random.chance(15) {
        let kernel = [2, 3, 5, 10, 15][random.next() as usize % 5];
        let length = random.between(kernel, 30) as u16;
        let stride = random.between(1, 2) as u8;
        (window.kernel_h, window.kernel_w) = (kernel as u16, 1);
        (window.stride_h, window.stride_w) = (stride, 1);
        (window.pad_top, window.pad_left) = (0, 0);
        (input.height, input.width, output.width) = (length, 1, 1);
        output.height = (length - kernel as u16) / u16::from(stride) + 1;
    }
    if window.kernel_h > 1 && random.chance(20) {
        // The rows that the kernel reaches further are padding.
        window.dilation_h = 2;
        window.dilation_w = random.between(1, 3) as u8;
    }
    stretch(random, input, &mut output, &mut window);
    let mut op = Depthwise {
        input,
        output,
        window,
        multiplier: 1,
        input_zero_point: random.element(),
        quantizer: quantizer(random),
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    op.weights = builder.depthwise(random, &op);
    let left = random.chance(20);
    let products = usize::from(window.kernel_h * window.kernel_w);
    op.channels = builder.channels(random, output.channels, products, left);
    op
}

fn dense(random: &mut Random, builder: &mut Builder<'_>) -> Dense {
    // Sums of more than 24 bits where nothing is proven of them.
    let most = if builder.unproven { 900 } else { 150 };
    let (inputs, outputs) = (random.between(1, most) as u16, random.between(1, 40) as u16);
    let left = random.chance(20);
    Dense {
        input: 0,
        output: 0,
        rows: random.between(1, 3) as u16,
        inputs,
        outputs,
        quantizer: quantizer(random),
        weights: builder.matrix(random, usize::from(outputs), usize::from(inputs)),
        channels: builder.channels(random, outputs, usize::from(inputs), left),
        scratch: 0,
    }
}

/// Gives an operator places in the arena: apart, or as far over each other as allowed. Gives the
/// arena's length and where input and output lie.
fn place(random: &mut Random, op: &mut Op) -> (usize, [(usize, usize); 2]) {
    let distance = least_distance(op, Layout::CortexM).unwrap_or(0) as usize;
    let scratch_bytes = layout::scratch_bytes(Layout::CortexM, op) as usize;
    let (input, output) = match op {
        Op::Conv(op) => (op.input.bytes(), op.output.bytes()),
        Op::ConvAdd(op) => (op.conv.input.bytes(), op.conv.output.bytes()),
        Op::Depthwise(op) => (op.input.bytes(), op.output.bytes()),
        Op::Dense(op) => (
            u64::from(op.rows) * u64::from(op.inputs),
            u64::from(op.rows) * u64::from(op.outputs),
        ),
        Op::Add(op) => (u64::from(op.len), u64::from(op.len)),
        Op::Mul(op) => (u64::from(op.len), u64::from(op.len)),
        Op::Pool(op) => (op.input.bytes(), op.output.bytes()),
        _ => (0, 0),
    };
    let (input, output) = (input as usize, output as usize);
    let slack = random.between(0, 3) as usize;
    let base = if scratch_bytes > 0 && random.chance(50) {
        scratch_bytes.next_multiple_of(4)
    } else {
        0
    };
    let out_at = base;
    let in_at = if random.chance(60) {
        base + distance + slack
    } else {
        base + output.max(distance) + slack
    };
    let mut end = (in_at + input).max(out_at + output);
    let other = end;
    if matches!(op, Op::ConvAdd(_) | Op::Add(_) | Op::Mul(_)) {
        end += output;
    }
    let mut scratch = 0;
    if scratch_bytes > 0 && base == 0 {
        scratch = end.next_multiple_of(4);
        end = scratch + scratch_bytes;
    }
    match op {
        Op::Conv(op) => {
            (op.input.offset, op.output.offset, op.scratch) =
                (in_at as u32, out_at as u32, scratch as u32);
        }
        Op::ConvAdd(op) => {
            op.conv.input.offset = in_at as u32;
            op.conv.output.offset = out_at as u32;
            op.conv.scratch = scratch as u32;
            op.other = other as u32;
        }
        Op::Depthwise(op) => {
            (op.input.offset, op.output.offset, op.scratch) =
                (in_at as u32, out_at as u32, scratch as u32);
        }
        Op::Dense(op) => (op.input, op.output) = (in_at as u32, out_at as u32),
        Op::Add(op) => {
            put([&mut op.a, &mut op.b], in_at, other, op.len);
            op.output = out_at as u32;
        }
        Op::Mul(op) => {
            put([&mut op.a, &mut op.b], in_at, other, op.len);
            op.output = out_at as u32;
        }
        Op::Pool(op) => (op.input.offset, op.output.offset) = (in_at as u32, out_at as u32),
        _ => {}
    }
    (end, [(in_at, input), (out_at, output)])
}

/// Writes head and operator; gives the program's length.
fn write(builder: &mut Builder<'_>, op: &Op, arena: usize, io: [(usize, usize); 2]) -> usize {
    let length = builder.end;
    builder.bytes[..CONSTANTS].fill(0);
    let mut writer = Writer::new(&mut builder.bytes[HEADER_BYTES..CONSTANTS]);
    let _ = op.write(&mut writer);
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        layout: Layout::CortexM as u8,
        flags: 0,
        bytes: length as u32,
        op_bytes: writer.at() as u32,
        op_count: 1,
        arena_bytes: arena as u32,
        input: io[0].0 as u32,
        input_len: io[0].1 as u32,
        input_scale: 1.0,
        output: io[1].0 as u32,
        output_len: io[1].1 as u32,
        output_scale: 1.0,
        input_zero_point: 0,
        output_zero_point: 0,
        feature_count: 0,
        features: 0,
        feature_inner: 0,
        input_planes: 0,
        reserved: [0; 2],
    };
    let _ = header.write(&mut Writer::new(builder.bytes));
    length
}

/// Changes some bits of weights or channels' constants, flags among them.
fn spoil(random: &mut Random, constants: &mut [u8]) {
    for _ in 0..=random.between(0, 2) {
        let at = random.next() as usize % constants.len();
        constants[at] ^= 1 << random.between(0, 7);
    }
}

/// A random operator of a kind.
fn operator(kind: usize, random: &mut Random, builder: &mut Builder<'_>) -> Op {
    match kind {
        0 => Op::Conv(conv(random, builder)),
        1 => Op::ConvAdd(conv_add(random, builder)),
        2 => Op::Depthwise(depthwise(random, builder)),
        3 => Op::Dense(dense(random, builder)),
        4 => Op::Add(add(random, builder)),
        5 => Op::Mul(mul(random, builder)),
        _ => Op::Pool(pool(random)),
    }
}

/// Runs `count` random operators by both kinds of kernels; `false` when any output differs.
///
/// Some have spoilt constants: what the verifier takes of them must give the same outputs too.
pub fn check(memory: Memory, seed: u32, count: u32) -> bool {
    let mut totals = [(0_u32, 0_u64); 7];
    let mut spoilt = [0_u32; 2];
    for case in 0..count {
        let mut random = Random(seed.wrapping_add(case).wrapping_mul(0x9E37_79B9) | 1);
        random.next();
        let mut builder = Builder {
            bytes: memory.program,
            end: CONSTANTS,
            unproven: random.chance(10),
        };
        let kind = (case % 7) as usize;
        let mut op = operator(kind, &mut random, &mut builder);
        let (arena_bytes, io) = place(&mut random, &mut op);
        let length = write(&mut builder, &op, arena_bytes, io);
        let spoils = random.chance(30) && length > CONSTANTS;
        if spoils {
            spoil(&mut random, &mut builder.bytes[CONSTANTS..length]);
            spoilt[0] += 1;
        }
        let program = match Program::verify(&builder.bytes[..length]) {
            Ok(program) => program,
            Err(_) if spoils => {
                totals[kind].0 += 1;
                continue;
            }
            Err(error) => {
                print!("error case {case}: {error:?}: {op:?}");
                return false;
            }
        };
        let (arena, rest) = memory.arena.split_at_mut(memory.arena.len() / 2);
        for (first, second) in arena.iter_mut().zip(rest.iter_mut()).take(arena_bytes + 16) {
            *first = random.element();
            *second = *first;
        }
        let start = count::now();
        let fast = program.run(&mut CortexM, arena);
        let taken = count::between(start, count::now());
        let portable = program.run(&mut Portable, rest);
        let (at, len) = io[1];
        let same = arena[at..at + len] == rest[at..at + len];
        // Nothing behind the arena may change.
        let kept = arena[arena_bytes..arena_bytes + 16] == rest[arena_bytes..arena_bytes + 16];
        if fast.is_err() || portable.is_err() || !same || !kept {
            let first = (at..at + len).find(|&index| arena[index] != rest[index]);
            print!(
                "differs case {case} at {:?} kept {kept}: {op:?}",
                first.map(|index| index - at)
            );
            return false;
        }
        totals[kind].0 += 1;
        totals[kind].1 += u64::from(taken);
        spoilt[1] += u32::from(spoils);
    }
    print!("spoilt {} {}", spoilt[0], spoilt[1]);
    let names = [
        "Conv",
        "ConvAdd",
        "Depthwise",
        "Dense",
        "Add",
        "Mul",
        "Pool",
    ];
    for (name, (cases, taken)) in names.iter().zip(totals) {
        print!("checked {name} {cases} {taken}");
    }
    true
}
