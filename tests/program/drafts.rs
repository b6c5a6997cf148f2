//! Random operators of every kind with what they must give.

mod elementwise;
mod linear;
mod shape;

use elementwise::{add, lookup, mul};
use linear::{conv, conv_add, dense, depthwise};
use shape::{copy, fill, mean, pool, softmax};

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
