//! Random operators of every kind with what they must give.

mod elementwise;
mod linear;
mod shape;

use elementwise::{add, lookup, mul};
use linear::{conv, conv_add, dense, depthwise};
pub use linear::{conv_op, dense_op, depthwise_op};
use shape::{copy, fill, mean, pool, softmax};

use edgeward::program::Layout;
use edgeward::program::layout;
use edgeward::program::op::{
    Add, AddScale, Channel, Conv, ConvAdd, Copy, Dense, Depthwise, Fill, Lookup, Mean, Mul, Op,
    Operand, Plane, Pool, Quantizer, Softmax, Window,
};
use edgeward::program::proof::{Reach, Weights};

use super::build::{Builder, Claim, Draft, Layer, Random};
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

/// An operator of a kind: `size` bounds its extents, but for an axis now and then.
pub fn draft(kind: &str, layout: Layout, size: u16, random: &mut Random) -> Draft {
    let draft = match kind {
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
    };
    let lead = random.below(4) as u32;
    Draft { lead, ..draft }
}

/// Most multiplications of a layer: the second writing takes its time.
const WORK: usize = 1 << 18;

fn extent(size: u16, random: &mut Random) -> u16 {
    1 + random.below(u64::from(size)) as u16
}

/// Channels of a tensor, now and then many.
fn depth(size: u16, random: &mut Random) -> u16 {
    match random.below(8) {
        0 if size > 4 => extent(150, random),
        _ => extent(size + 3, random),
    }
}

/// A tensor; now and then a wide one, or one of one column.
pub fn plane(size: u16, random: &mut Random) -> Plane {
    let (height, width) = match random.below(12) {
        0 => (extent(size.min(5), random), extent(60, random)),
        1 => (extent(30, random), 1),
        _ => (extent(size, random), extent(size, random)),
    };
    Plane {
        offset: 0,
        height,
        width,
        channels: depth(size, random),
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

/// What kernels of windows are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    Conv,
    /// Often three by three, which has kernels of its own.
    Depthwise,
    /// Without dilation, often of the whole input.
    Pool,
}

/// A kernel's extent along an axis.
fn kernel(extent: u16, sweep: Sweep, random: &mut Random) -> u16 {
    match (sweep, random.below(8)) {
        (Sweep::Pool, 0..=2) => extent,
        (Sweep::Pool, 3) => [5, 9][random.below(2) as usize],
        (Sweep::Depthwise, 0) => [5, 7, 10, 15][random.below(4) as usize],
        _ => 1 + random.below(4) as u16,
    }
}

/// A window that slides over a plane, and the output's extents: as far as the verifier lets it.
fn window(input: &Plane, sweep: Sweep, random: &mut Random) -> (Window, u16, u16) {
    let small = sweep == Sweep::Depthwise && random.below(2) == 0;
    let axis = |extent: u16, random: &mut Random| {
        let kernel = if small {
            3
        } else {
            kernel(extent, sweep, random)
        };
        let dilation = match random.below(8) {
            0..=2 if sweep != Sweep::Pool => 1 + random.below(3) as u8,
            _ => 1,
        };
        let stride = match random.below(24) {
            0 => u8::MAX,
            1..=8 => 1 + random.below(4) as u8,
            _ => 1,
        };
        let reach = (kernel - 1) * u16::from(dilation);
        let pad = match random.below(4) {
            0 => 0,
            1 => reach,
            2 => reach / 2,
            _ => random.below(u64::from(reach) + 1) as u16,
        };
        // The last output may begin in the input's last element, and reach into nothing but padding.
        let most = (extent + pad - 1) / u16::from(stride) + 1;
        let out = match random.below(4) {
            0 => 1 + random.below(u64::from(most)) as u16,
            _ => most,
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

/// What a layer's scales are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scales {
    /// As a compiler's of a trained model.
    Trained,
    /// With some channels that shift to the left or not at all, or have a huge bias.
    Left,
    /// Whatever the verifier takes: sums wrap, and nothing is proven of them.
    Wild,
}

impl Scales {
    fn draw(random: &mut Random) -> Self {
        [Self::Trained, Self::Trained, Self::Left, Self::Wild][random.below(4) as usize]
    }

    /// Weights; of a compiled model none is -128.
    fn weights(self, count: usize, random: &mut Random) -> Vec<i8> {
        let mut weights = random.int8s(count);
        if self != Self::Wild {
            weights.iter_mut().for_each(|it| *it = (*it).max(-127));
        }
        weights
    }

    /// Channels' constants with biases before folding, of sums of so many terms. Scales are such that
    /// most outputs do not clamp.
    fn channels(self, count: u16, terms: usize, random: &mut Random) -> Vec<Channel> {
        let root = (terms.max(1) as f64).sqrt().log2() as i64;
        let mut long = false;
        let mut channel = |index: u16| {
            if index.is_multiple_of(4) {
                long = self == Self::Left && random.below(8) < 5;
            }
            let down = (random.between(-9, -5) - root) as i32;
            let mut channel = Channel {
                bias: random.between(-40_000, 40_000) as i32,
                multiplier: match random.below(10) {
                    0 if self == Self::Wild => 0,
                    1 => 1 << 30,
                    2 => i32::MAX,
                    _ => random.between(1 << 30, i64::from(i32::MAX)) as i32,
                },
                shift: match random.below(10) {
                    0 => random.between(-22, -1) as i32,
                    _ => down,
                },
            };
            match self {
                Self::Left if long => {
                    if random.below(5) < 2 {
                        channel.shift = random.between(0, 4) as i32;
                    }
                    if random.below(3) == 0 {
                        channel.bias = random.between(-(1 << 29), 1 << 29) as i32;
                    }
                }
                Self::Wild if random.below(6) == 0 => {
                    channel.bias = random.next() as i32;
                    channel.shift = random.between(-31, 30) as i32;
                }
                _ => {}
            }
            channel
        };
        (0..count).map(&mut channel).collect()
    }
}

pub fn add_scale(random: &mut Random) -> AddScale {
    let significand = |random: &mut Random| match random.below(3) {
        0 => 1 << 30,
        _ => random.between(1 << 30, i64::from(i32::MAX)) as i32,
    };
    let sign = if random.below(3) == 0 { -1 } else { 1 };
    AddScale {
        zero_a: random.int8(),
        zero_b: random.int8(),
        quantizer: quantizer(random),
        multiplier_a: significand(random),
        shift_a: random.between(-4, 0) as i8,
        multiplier_b: significand(random) * sign,
        shift_b: random.between(-4, 0) as i8,
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
