//! A sum of two tensors in one linear form, where that is exact.
//!
//! TensorFlow Lite scales both addends, rounds, adds, scales and rounds again. The output is a function
//! of two bytes, so all 65,536 pairs can be looked at: each says where the form's constant may lie, and
//! where it may lie for all of them, the form is exact.

use super::jobs::Linear;
use crate::program::kernels::portable;
use crate::program::op::AddScale;

/// What is added to the coefficients, in their last places: the roundings shift the steps of the function
/// a little, and other coefficients near the real ones may leave more room.
const NUDGES: [i64; 3] = [0, 6, -6];

/// The form for elements that lie `bias` above their value; `None` where no form tried gives every
/// output.
pub(super) fn find(scale: &AddScale, bias: i32) -> Option<Linear> {
    let out = real(scale.multiplier, scale.shift) * f64::from(1 << 20);
    let a = out * real(scale.multiplier_a, scale.shift_a);
    let b = out * real(scale.multiplier_b, scale.shift_b);
    // Upper halves of the coefficients have 16 bits.
    let shift = (1..=15)
        .rev()
        .find(|&shift| a.abs().max(b.abs()) * f64::from(1 << shift) < 32_766.0)?;
    let unit = f64::from(1 << shift) * 65_536.0;
    let [a, b] = [a, b].map(|it| (it * unit).round() as i64);
    let tries = NUDGES
        .iter()
        .flat_map(|i| NUDGES.iter().map(move |j| [a + i, b + j]));
    tries.into_iter().find_map(|coefficients| {
        let start = start(scale, bias, coefficients, shift + 16)?;
        cut(coefficients, start, shift)
    })
}

/// The constant with which `(a * coefficients[0] + b * coefficients[1] + constant) >> places` is every
/// output; in the middle of where it may lie.
fn start(scale: &AddScale, bias: i32, coefficients: [i64; 2], places: i32) -> Option<i64> {
    let (mut least, mut greatest) = (-(1_i64 << 45), 1_i64 << 45);
    let seconds = core::array::from_fn::<i32, 256, _>(|b| portable::second(scale, (b as u8) as i8));
    for a in i8::MIN..=i8::MAX {
        if least > greatest {
            return None;
        }
        let first = portable::first(scale, a);
        for b in i8::MIN..=i8::MAX {
            let [x, y] = [a, b].map(|it| i64::from(it) + i64::from(bias));
            let products = x * coefficients[0] + y * coefficients[1];
            let second = seconds[usize::from(b as u8)];
            let value = portable::joined(scale, first, second);
            let output = i64::from(value) + i64::from(bias);
            // Beyond the limits, clamping makes the output what it is.
            if value > scale.quantizer.min {
                least = least.max((output << places) - products);
            }
            if value < scale.quantizer.max {
                greatest = greatest.min(((output + 1) << places) - 1 - products);
            }
        }
    }
    (least <= greatest).then(|| least + (greatest - least) / 2)
}

/// The number that a multiplier and a shift stand for.
fn real(multiplier: i32, shift: i8) -> f64 {
    f64::from(multiplier) / 2_f64.powi(31 - i32::from(shift))
}

/// Coefficients cut into halves of 16 bits; `None` where they do not fit.
fn cut(coefficients: [i64; 2], start: i64, shift: i32) -> Option<Linear> {
    let high = coefficients.map(|it| (it + 0x8000) >> 16);
    let low = [0, 1].map(|it| coefficients[it] - (high[it] << 16));
    let halves =
        |pair: [i64; 2]| Some([i16::try_from(pair[0]).ok()?, i16::try_from(pair[1]).ok()?]);
    Some(Linear {
        high: halves(high)?,
        low: halves(low)?,
        high_start: i32::try_from(start >> 16)
            .ok()
            .filter(|it| it.abs() < 1 << 30)?,
        low_start: (start & 0xffff) as i32,
        shift,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::op::Quantizer;

    /// The form of two elements, as the vectors compute it.
    fn of(it: &Linear, a: i32, b: i32) -> i32 {
        let sum = |start: i32, pair: [i16; 2]| {
            let products = a
                .wrapping_mul(pair[0].into())
                .wrapping_add(b.wrapping_mul(pair[1].into()));
            start.wrapping_add(products)
        };
        let low = sum(it.low_start, it.low);
        sum(it.high_start.wrapping_add(low >> 16), it.high) >> it.shift
    }

    /// For how many pairs a form gives another output than the sum.
    fn wrong(scale: &AddScale, bias: i32, linear: &Linear) -> usize {
        let limits = (
            i32::from(scale.quantizer.min),
            i32::from(scale.quantizer.max),
        );
        let all = (i8::MIN..=i8::MAX).flat_map(|a| (i8::MIN..=i8::MAX).map(move |b| [a, b]));
        let differs = |&[a, b]: &[i8; 2]| {
            let value = of(linear, i32::from(a) + bias, i32::from(b) + bias) - bias;
            value.clamp(limits.0, limits.1) != i32::from(portable::sum(scale, a, b))
        };
        all.filter(differs).count()
    }

    fn scale(a: f64, b: f64, zero: i8) -> AddScale {
        let multiplier = |real: f64| {
            let exponent = real.abs().log2().floor() as i32 + 1;
            let multiplier = (real / 2_f64.powi(exponent - 31)).round() as i32;
            (multiplier, exponent as i8)
        };
        let greatest = 2.0 * a.abs().max(b.abs());
        let (multiplier_a, shift_a) = multiplier(a / greatest);
        let (multiplier_b, shift_b) = multiplier(b / greatest);
        let (multiplier, shift) = multiplier(greatest / f64::from(1 << 20));
        AddScale {
            zero_a: 3,
            zero_b: -7,
            quantizer: Quantizer {
                zero_point: zero,
                min: -128,
                max: 127,
            },
            multiplier_a,
            shift_a,
            multiplier_b,
            shift_b,
            multiplier,
            shift,
        }
    }

    #[test]
    fn most_sums_have_a_form_and_it_gives_every_output() {
        let mut found = 0;
        for index in 0..60 {
            let a = 0.3 + 0.02317 * f64::from(index);
            let b = 1.7 - 0.02611 * f64::from(index);
            let mut it = scale(a, b, [-128, 5, 127][index as usize % 3]);
            if index % 5 == 0 {
                (it.quantizer.min, it.quantizer.max) = (-100, 90);
                it.multiplier_b = -it.multiplier_b;
            }
            for bias in [0, 128] {
                if let Some(linear) = find(&it, bias) {
                    assert_eq!(wrong(&it, bias, &linear), 0, "{it:?}, {bias}");
                    found += 1;
                }
            }
        }
        assert!(found >= 100, "{found} of 120");
    }

    #[test]
    fn where_no_form_is_exact_there_is_none() {
        let it = scale(0.8, 0.6, 5);
        let linear = find(&it, 0).expect("a form");
        // A step of the function moved past the elements next to it.
        let moved = Linear {
            high_start: linear.high_start + (1 << linear.shift) / 5,
            ..linear
        };
        assert!(wrong(&it, 0, &moved) > 0);
        // Halves of both signs go away from zero: coefficients a little too large do that, too.
        let halves = scale(0.5, 0.5, 0);
        let linear = find(&halves, 0).expect("a form");
        assert_eq!(wrong(&halves, 0, &linear), 0);
        // Addends that are rounded to whole numbers before they are halved.
        let steps = AddScale {
            multiplier_a: 1 << 30,
            shift_a: -20,
            multiplier_b: 1 << 30,
            shift_b: -20,
            multiplier: 1 << 30,
            shift: 0,
            ..halves
        };
        assert_eq!(find(&steps, 0), None);
    }
}
