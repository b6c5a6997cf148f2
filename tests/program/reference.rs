//! What operators compute, written a second time: wide integers, materialised padding, zero points
//! subtracted where TensorFlow Lite subtracts them, and rounding as arithmetic says it.

use edgeward::program::op::{AddScale, Plane, Quantizer, Softmax, Window};

/// `a / b` to the nearest integer, halves up.
fn nearest_up(a: i128, b: i128) -> i128 {
    (2 * a + b).div_euclid(2 * b)
}

/// `a / b` to the nearest integer, halves away from zero.
pub fn nearest_away(a: i128, b: i128) -> i128 {
    a.signum() * ((2 * a.abs() + b) / (2 * b))
}

/// `value * multiplier / 2^31 * 2^shift` in two roundings; 32 bits of a left shift stay.
pub fn requantize(value: i64, multiplier: i32, shift: i32) -> i64 {
    let left = (value as i32 as i128 * (1_i128 << shift.max(0))) as i32;
    let product = nearest_up(i128::from(left) * i128::from(multiplier), 1 << 31);
    nearest_away(product.min(i128::from(i32::MAX)), 1_i128 << (-shift).max(0)) as i64
}

/// Adds the zero point in 32 bits and clamps.
pub fn quantize(value: i64, quantizer: &Quantizer) -> i8 {
    let value = (value + i64::from(quantizer.zero_point)) as i32;
    let (min, max) = (i32::from(quantizer.min), i32::from(quantizer.max));
    if value < min {
        quantizer.min
    } else if value > max {
        quantizer.max
    } else {
        value as i8
    }
}

/// A tensor with room around it.
pub struct Padded {
    values: Vec<Option<i8>>,
    width: usize,
    channels: usize,
}

impl Padded {
    /// Lays a tensor into a field that every tap of every output falls into.
    pub fn new(input: &[i8], plane: &Plane, output: &Plane, window: &Window) -> Self {
        let size = |out: u16, stride: u8, kernel: u16, dilation: u8| {
            (usize::from(out) - 1) * usize::from(stride)
                + (usize::from(kernel) - 1) * usize::from(dilation)
                + 1
        };
        let (top, left) = (usize::from(window.pad_top), usize::from(window.pad_left));
        let height = size(
            output.height,
            window.stride_h,
            window.kernel_h,
            window.dilation_h,
        )
        .max(top + usize::from(plane.height));
        let width = size(
            output.width,
            window.stride_w,
            window.kernel_w,
            window.dilation_w,
        )
        .max(left + usize::from(plane.width));
        let channels = usize::from(plane.channels);
        let mut values = vec![None; height * width * channels];
        for y in 0..usize::from(plane.height) {
            for x in 0..usize::from(plane.width) {
                for c in 0..channels {
                    let from = (y * usize::from(plane.width) + x) * channels + c;
                    let to = ((y + top) * width + x + left) * channels + c;
                    values[to] = Some(input[from]);
                }
            }
        }
        Self {
            values,
            width,
            channels,
        }
    }

    /// Element of the field; `None` in the padding.
    pub fn at(&self, y: usize, x: usize, c: usize) -> Option<i8> {
        self.values[(y * self.width + x) * self.channels + c]
    }

    /// How far an element is from the zero point, which is what the padding holds.
    pub fn centred(&self, y: usize, x: usize, c: usize, zero_point: i8) -> i64 {
        let distance = |value| i64::from(value) - i64::from(zero_point);
        self.at(y, x, c).map_or(0, distance)
    }
}

/// Taps of a window at an output: tap's row and column, field's row and column.
pub fn taps(window: &Window, y: usize, x: usize) -> impl Iterator<Item = [usize; 4]> {
    let window = *window;
    (0..usize::from(window.kernel_h)).flat_map(move |ky| {
        (0..usize::from(window.kernel_w)).map(move |kx| {
            [
                ky,
                kx,
                y * usize::from(window.stride_h) + ky * usize::from(window.dilation_h),
                x * usize::from(window.stride_w) + kx * usize::from(window.dilation_w),
            ]
        })
    })
}

/// A sum or difference as TensorFlow Lite makes it.
pub fn sum(scale: &AddScale, a: i8, b: i8) -> i8 {
    let a = (i64::from(a) - i64::from(scale.zero_a)) * (1 << 20);
    let b = (i64::from(b) - i64::from(scale.zero_b)) * (1 << 20);
    let a = requantize(a, scale.multiplier_a, i32::from(scale.shift_a));
    let b_scaled = requantize(b, scale.multiplier_b.abs(), i32::from(scale.shift_b));
    let sum = a + if scale.multiplier_b < 0 {
        -b_scaled
    } else {
        b_scaled
    };
    quantize(
        requantize(sum, scale.multiplier, i32::from(scale.shift)),
        &scale.quantizer,
    )
}

/// Softmax of one vector in the fixed point that TensorFlow Lite uses, every product rounded to the
/// nearest with halves up and every shift with halves away from zero.
pub fn softmax(op: &Softmax, values: &[i8]) -> Vec<i8> {
    let product = |a: i128, b: i128| nearest_up(a * b, 1 << 31);
    let max = i128::from(*values.iter().max().expect("a vector is not empty"));
    // e^x of each difference in units of 2^-31; none where it counts as zero.
    let exponential = |value: i8| {
        let difference = i128::from(value) - max;
        if difference < i128::from(op.difference_min) {
            return None;
        }
        // Units of 2^-26.
        let x = product(difference << op.shift, i128::from(op.multiplier));
        if x == 0 {
            return Some((1 << 31) - 1);
        }
        // x = rest - quarters / 4 with -1/4 <= rest < 0.
        let quarter = 1 << 24;
        let rest = x.rem_euclid(quarter) - quarter;
        let quarters = (rest - x) / quarter;
        let t = rest * 32 + (1 << 28);
        let (t2, eighth) = (product(t, t), 1_895_147_668);
        let (t3, t4) = (product(t2, t), product(t2, t2));
        let series = product(nearest_away(t4, 4) + t3, 715_827_883) + t2;
        let mut result = eighth + product(eighth, t + nearest_away(series, 2));
        for (bit, factor) in [
            (1, 1_672_461_947),
            (2, 1_302_514_674),
            (4, 790_015_084),
            (8, 290_630_308),
            (16, 39_332_535),
            (32, 720_401),
            (64, 242),
        ] {
            if quarters & bit != 0 {
                result = product(result, factor);
            }
        }
        Some(result)
    };
    let all: Vec<Option<i128>> = values.iter().map(|&value| exponential(value)).collect();
    let sum: i128 = all
        .iter()
        .flatten()
        .map(|&it| nearest_away(it, 1 << 12))
        .sum();
    // sum = 2^over * (1 + a) with a in units of 2^-31, the sum in units of 2^-19.
    let over = 127 - sum.leading_zeros() - 19;
    let a = (sum << (12 - over)) - (1 << 31);
    let half = (a + (1 << 31)) / 2;
    let mut x = 1_515_870_810 + product(half, -1_010_580_540);
    for _ in 0..3 {
        x += 4 * product(x, (1 << 29) - product(half, x));
    }
    let scale = (2 * x).min((1 << 31) - 1);
    let share = |it: i128| nearest_away(product(scale, it), 1 << (over + 23)) - 128;
    let shares = all
        .iter()
        .map(|it| it.map_or(-128, share).clamp(-128, 127) as i8);
    shares.collect()
}
