//! The arithmetic of TensorFlow Lite Micro: the definition that every kernel equals bit for bit.

/// `round(a * b / 2^31)`, saturated; halves go up.
///
/// gemmlowp's `SaturatingRoundingDoublingHighMul`.
#[inline]
pub const fn doubling_high_mul(a: i32, b: i32) -> i32 {
    if a == i32::MIN && b == i32::MIN {
        return i32::MAX;
    }
    ((a as i64 * b as i64 + (1 << 30)) >> 31) as i32
}

/// `round(x / 2^exponent)`; halves go away from zero. `exponent` is 0 to 31.
///
/// gemmlowp's `RoundingDivideByPOT`.
#[inline]
pub const fn rounding_shift(x: i32, exponent: u32) -> i32 {
    let mask = ((1_i64 << exponent) - 1) as i32;
    let remainder = x & mask;
    let threshold = (mask >> 1) + (x < 0) as i32;
    (x >> exponent) + (remainder > threshold) as i32
}

/// `x * multiplier / 2^31 * 2^shift`, rounded twice.
///
/// TensorFlow Lite's `MultiplyByQuantizedMultiplier`. A left shift wraps, as it does there.
#[inline]
pub const fn requantize(x: i32, multiplier: i32, shift: i32) -> i32 {
    let left = if shift > 0 { shift as u32 } else { 0 };
    let right = if shift < 0 { shift.unsigned_abs() } else { 0 };
    rounding_shift(doubling_high_mul(x.wrapping_shl(left), multiplier), right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_where_gemmlowp_sends_them() {
        // 0.5 and -0.5 of a unit: the high product rounds both up.
        assert_eq!(doubling_high_mul(1, 1 << 30), 1);
        assert_eq!(doubling_high_mul(-1, 1 << 30), 0);
        assert_eq!(doubling_high_mul(i32::MIN, i32::MIN), i32::MAX);
        // The shift sends them away from zero.
        assert_eq!(rounding_shift(1, 1), 1);
        assert_eq!(rounding_shift(-1, 1), -1);
        assert_eq!(rounding_shift(-3, 1), -2);
        assert_eq!(rounding_shift(5, 0), 5);
        assert_eq!(rounding_shift(i32::MIN, 31), -1);
    }

    #[test]
    fn a_right_shift_rounds_twice() {
        // 5 * 0.5 is 2.5, first to 3, and 3 / 2 to 2; one rounding of 1.25 would give 1.
        assert_eq!(requantize(5, 1 << 30, -1), 2);
        assert_eq!(requantize(3, 1 << 30, 1), 3);
    }
}
