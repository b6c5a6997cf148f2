//! Softmax in gemmlowp's fixed point, as TensorFlow Lite's `reference_ops::Softmax` does int8.
//!
//! `Qm.n` is a number of `m` integer and `n` fraction bits beside the sign.

use crate::program::arith::{doubling_high_mul, rounding_shift};
use crate::program::exec::Step;
use crate::program::op::Softmax;

/// Softmax over each row.
pub fn softmax(mut step: Step<'_, Softmax>) -> Option<()> {
    let op = step.op();
    let arena = step.arena();
    let columns = usize::from(op.columns);
    for row in 0..usize::from(op.rows) {
        let input = op.input as usize + row * columns;
        let output = op.output as usize + row * columns;
        let values = arena.get(input..input.checked_add(columns)?)?;
        let max = values.iter().copied().max()?;
        let sum = total(values.iter().map(|&value| exponential(op, value, max)));
        for index in 0..columns {
            let value = *arena.get(input + index)?;
            *arena.get_mut(output + index)? = share(sum, exponential(op, value, max));
        }
    }
    Some(())
}

/// Reciprocal and exponent of a row's sum; an exponential is `None` where it counts as zero.
pub(crate) fn total(exponentials: impl Iterator<Item = Option<i32>>) -> (i32, u32) {
    // Q12.19: the sum of at most 4,095 numbers that are at most one.
    let sum = exponentials.fold(0_i32, |sum, exponential| {
        sum.wrapping_add(rounding_shift(exponential.unwrap_or(0), 12))
    });
    reciprocal(sum)
}

/// Output of an element of a row with that [`total`].
pub(crate) fn share((scale, exponent): (i32, u32), exponential: Option<i32>) -> i8 {
    let share = match exponential {
        None => 0,
        // Less than half a unit of the output.
        Some(_) if exponent > 31 => 0,
        Some(it) => rounding_shift(doubling_high_mul(scale, it), exponent),
    };
    (share - 128).clamp(-128, 127) as i8
}

/// Exponentials of all differences to the greatest element, 0 to -255.
#[cfg(feature = "std")]
pub(crate) fn exponentials(op: &Softmax) -> [Option<i32>; 256] {
    core::array::from_fn(|difference| exponential(op, (127 - difference as i32) as i8, 127))
}

/// `exp(scale * (value - max))` in Q0.31; `None` where the difference counts as zero.
fn exponential(op: &Softmax, value: i8, max: i8) -> Option<i32> {
    let difference = i32::from(value) - i32::from(max);
    (difference >= op.difference_min).then(|| {
        let shifted = difference.wrapping_shl(u32::from(op.shift.unsigned_abs()));
        exp_on_negative_values(doubling_high_mul(shifted, op.multiplier))
    })
}

/// `1 / sum` of a Q12.19 as a Q0.31 of at least one half, and how far products with it go down to
/// become units of 1/256: TensorFlow Lite's `GetReciprocal`.
fn reciprocal(sum: i32) -> (i32, u32) {
    // A sum holds the exponential of zero, so that it is at least one and never 0.
    let headroom = sum.leading_zeros().min(12);
    let fraction = sum.wrapping_shl(headroom).wrapping_sub(i32::MIN);
    let exponent = 12 - headroom + 31 - 8;
    (one_over_one_plus(fraction), exponent)
}

/// gemmlowp's `exp_on_negative_values` from Q5.26 to Q0.31.
fn exp_on_negative_values(a: i32) -> i32 {
    /// `exp(-1/4)`, `exp(-1/2)`, `exp(-1)` to `exp(-16)` in Q0.31.
    const FACTORS: [i32; 7] = [
        1_672_461_947,
        1_302_514_674,
        790_015_084,
        290_630_308,
        39_332_535,
        720_401,
        242,
    ];
    const QUARTER: i32 = 1 << 24;
    if a == 0 {
        return i32::MAX;
    }
    let modulo = (a & (QUARTER - 1)) - QUARTER;
    let remainder = modulo.wrapping_sub(a);
    let start = exp_near_minus_one_eighth(modulo << 5);
    FACTORS
        .iter()
        .enumerate()
        .fold(start, |result, (bit, &factor)| {
            if remainder & (QUARTER << bit) == 0 {
                result
            } else {
                doubling_high_mul(result, factor)
            }
        })
}

/// `exp(a)` in Q0.31 for -1/4 <= a < 0, by a series around -1/8: gemmlowp's
/// `exp_on_interval_between_negative_one_quarter_and_0_excl`.
fn exp_near_minus_one_eighth(a: i32) -> i32 {
    const EXP_MINUS_ONE_EIGHTH: i32 = 1_895_147_668;
    const THIRD: i32 = 715_827_883;
    let x = a + (1 << 28);
    let x2 = doubling_high_mul(x, x);
    let x3 = doubling_high_mul(x2, x);
    let x4 = doubling_high_mul(x2, x2);
    let higher = doubling_high_mul(rounding_shift(x4, 2) + x3, THIRD) + x2;
    EXP_MINUS_ONE_EIGHTH + doubling_high_mul(EXP_MINUS_ONE_EIGHTH, x + rounding_shift(higher, 1))
}

/// `1 / (1 + a)` in Q0.31 for 0 <= a < 1, by three steps of Newton and Raphson in Q2.29: gemmlowp's
/// `one_over_one_plus_x_for_x_in_0_1`.
fn one_over_one_plus(a: i32) -> i32 {
    const ONE: i32 = 1 << 29;
    // Half the sum of a and one; both are at least zero, so that half goes up.
    let half = ((i64::from(a) + i64::from(i32::MAX) + 1) / 2) as i32;
    let mut x = 1_515_870_810_i32.wrapping_add(doubling_high_mul(half, -1_010_580_540));
    for _ in 0..3 {
        let error = ONE.wrapping_sub(doubling_high_mul(half, x));
        x = x.wrapping_add(saturating_shift(doubling_high_mul(x, error), 2));
    }
    saturating_shift(x, 1)
}

/// `x * 2^exponent`, saturated.
fn saturating_shift(x: i32, exponent: u32) -> i32 {
    let wide = i64::from(x) << exponent;
    wide.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_a_millionth() {
        for a in (i32::MIN..=0).step_by(9_973) {
            let real = (f64::from(a) / f64::from(1 << 26)).exp();
            let ours = f64::from(exp_on_negative_values(a)) / f64::from(1_u32 << 31);
            assert!((real - ours).abs() < 1e-6, "{a}: {real} {ours}");
        }
    }

    #[test]
    fn reciprocals_are_within_a_hundred_millionth() {
        for a in (0..=i32::MAX).step_by(9_973) {
            let real = 1.0 / (1.0 + f64::from(a) / f64::from(1_u32 << 31));
            let ours = f64::from(one_over_one_plus(a)) / f64::from(1_u32 << 31);
            assert!((real - ours).abs() < 1e-8, "{a}: {real} {ours}");
        }
    }
}
