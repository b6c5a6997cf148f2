//! Functions of one element as tables of 256 entries, with TensorFlow Lite Micro's arithmetic (but for one
//! case, see `rescaled`).
//!
//! Fixed point is gemmlowp's (`fixedpoint/fixedpoint.h`); `Qm.n` is a number of `m` integer and `n`
//! fraction bits beside the sign.

use edgeward::program::arith::{doubling_high_mul, requantize, rounding_shift};

use super::scale::{Scale, input_radius, quantize_multiplier};
use crate::graph::{Activation, Unary};

/// Scale and zero point of a tensor.
type Parameters = (f32, i8);

/// The table of a function: entry `i` is its value at `i - 128`.
///
/// # Errors
/// When the output's quantization is not the one that TFLite fixes for the function, or a scale is
/// beyond what its arithmetic holds.
pub(crate) fn table(
    function: Unary,
    input: Parameters,
    output: Parameters,
) -> Result<[i8; 256], String> {
    let (zero_in, zero_out) = (i32::from(input.1), i32::from(output.1));
    match function {
        Unary::Relu => rescaled(input, output, Activation::Relu),
        Unary::Relu6 => rescaled(input, output, Activation::Relu6),
        Unary::Clamp { low, high } => rescaled(input, output, Activation::Clamp { low, high }),
        Unary::Requantize => rescaled(input, output, Activation::None),
        Unary::LeakyRelu { alpha } => {
            // Products and quotients in f32: `tensorflow/lite/micro/kernels/leaky_relu_common.cc`.
            let below = bounded(f64::from(input.0 * alpha / output.0))?;
            let above = bounded(f64::from(input.0 / output.0))?;
            Ok(entries(|x| {
                let x = x - zero_in;
                let scale = if x >= 0 { above } else { below };
                zero_out + requantize(x, scale.multiplier, scale.shift)
            }))
        }
        Unary::Logistic => {
            fixed_output(output, (1.0 / 256.0, -128), "a logistic's output")?;
            let fixed = Q4::new(input)?;
            Ok(entries(|x| match fixed.of(x) {
                Q4Value::Below => -128,
                Q4Value::Above => 127,
                Q4Value::Inside(x) => rounding_shift(logistic(x), 31 - 8) - 128,
            }))
        }
        Unary::Tanh => {
            fixed_output(output, (1.0 / 128.0, 0), "a hyperbolic tangent's output")?;
            let fixed = Q4::new(input)?;
            Ok(entries(|x| match fixed.of(x) {
                Q4Value::Below => -128,
                Q4Value::Above => 127,
                Q4Value::Inside(x) => rounding_shift(tanh(x), 31 - 7),
            }))
        }
        Unary::HardSwish => hard_swish(input, output),
    }
}

/// One entry an input, clamped to int8.
fn entries(mut of: impl FnMut(i32) -> i32) -> [i8; 256] {
    core::array::from_fn(|index| of(index as i32 - 128).clamp(-128, 127) as i8)
}

fn fixed_output(output: Parameters, wanted: Parameters, what: &str) -> Result<(), String> {
    if output == wanted {
        return Ok(());
    }
    Err(format!(
        "{what} has scale {} and zero point {}",
        wanted.0, wanted.1
    ))
}

/// A scale whose exponent kernels can apply.
fn bounded(value: f64) -> Result<Scale, String> {
    let scale = quantize_multiplier(value);
    if value.is_finite() && scale.shift <= 22 {
        return Ok(scale);
    }
    Err(format!("its scale asks for a factor of {value:e}"))
}

/// Another scale, then a clamp: `reference_ops::Requantize`, `ReluQuantized` of
/// `tensorflow/lite/micro/kernels/activations_common.cc`, and for `Relu6` `QuantizedReluX` of
/// `tensorflow/lite/kernels/activations.cc`. ONNX's Clip is scaled like them, and its ends are what
/// QuantizeLinear makes of its limits ([`super::scale::activation_range`]). TensorFlow Lite Micro's own `Relu6Quantized` clamps bytes by
/// the input's scale and leaves them, which is another value where the output's scale is another.
fn rescaled(
    input: Parameters,
    output: Parameters,
    activation: Activation,
) -> Result<[i8; 256], String> {
    let scale = bounded(f64::from(input.0) / f64::from(output.0))?;
    let [low, high] = super::scale::activation_range(activation, output.0, output.1);
    let zero_in = i32::from(input.1);
    Ok(entries(|x| {
        let scaled = requantize(x - zero_in, scale.multiplier, scale.shift) + i32::from(output.1);
        scaled.min(i32::from(high)).max(i32::from(low))
    }))
}

/// An input in Q4.27: what `LogisticPrepare` and `TanhPrepare` compute.
struct Q4 {
    zero_point: i32,
    scale: Scale,
    radius: i32,
}

enum Q4Value {
    Below,
    Inside(i32),
    Above,
}

impl Q4 {
    fn new((scale, zero_point): Parameters) -> Result<Self, String> {
        let fixed = quantize_multiplier(f64::from(scale) * f64::from(1_u32 << 27));
        if !(0..=30).contains(&fixed.shift) {
            return Err(format!(
                "an input scale of {scale:e} is beyond the function's fixed point"
            ));
        }
        let radius = input_radius(4, fixed.shift);
        Ok(Self {
            zero_point: i32::from(zero_point),
            scale: fixed,
            radius,
        })
    }

    fn of(&self, x: i32) -> Q4Value {
        let x = x - self.zero_point;
        if x <= -self.radius {
            Q4Value::Below
        } else if x >= self.radius {
            Q4Value::Above
        } else {
            Q4Value::Inside(requantize(x, self.scale.multiplier, self.scale.shift))
        }
    }
}

/// `1 / (1 + exp(-a))` from Q4.27 to Q0.31.
fn logistic(a: i32) -> i32 {
    let of_positive = |a: i32| one_over_one_plus(exp_on_negative_values(-a, 4));
    match a {
        0 => 1 << 30,
        1.. => of_positive(a),
        _ => i32::MAX - of_positive(-a),
    }
}

/// The hyperbolic tangent from Q4.27 to Q0.31.
fn tanh(a: i32) -> i32 {
    // Twice a Q4.27 is the same bits as a Q5.26.
    let of_negative = |a: i32| one_minus_over_one_plus(exp_on_negative_values(a, 5));
    match a {
        0 => 0,
        1.. => of_negative(-a),
        _ => -of_negative(a),
    }
}

/// `exp(a)` for `a <= 0` with `integer_bits` integer bits, to Q0.31.
fn exp_on_negative_values(a: i32, integer_bits: u32) -> i32 {
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
    if a == 0 {
        return i32::MAX;
    }
    let quarter = 1_i32 << (31 - integer_bits - 2);
    let modulo = (a & (quarter - 1)) - quarter;
    let remainder = modulo.wrapping_sub(a);
    let start = exp_near_minus_one_eighth(modulo << integer_bits);
    let bits = FACTORS.iter().take(integer_bits as usize + 2).enumerate();
    bits.fold(start, |result, (bit, &factor)| {
        match remainder & (quarter << bit) {
            0 => result,
            _ => doubling_high_mul(result, factor),
        }
    })
}

/// `exp(a)` in Q0.31 for -1/4 <= a < 0: `exp_on_interval_between_negative_one_quarter_and_0_excl`.
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

/// `2 / (1 + a)` in Q2.29 for a Q0.31 from 0 to 1, by three steps of Newton and Raphson.
fn two_over_one_plus(a: i32) -> i32 {
    const ONE: i32 = 1 << 29;
    let half = ((i64::from(a) + i64::from(i32::MAX) + 1) / 2) as i32;
    let mut x = 1_515_870_810_i32.wrapping_add(doubling_high_mul(half, -1_010_580_540));
    for _ in 0..3 {
        let error = ONE.wrapping_sub(doubling_high_mul(half, x));
        x = x.wrapping_add(saturating_shift(doubling_high_mul(x, error), 2));
    }
    x
}

fn one_over_one_plus(a: i32) -> i32 {
    saturating_shift(two_over_one_plus(a), 1)
}

/// `(1 - a) / (1 + a)` in Q0.31.
fn one_minus_over_one_plus(a: i32) -> i32 {
    saturating_shift(two_over_one_plus(a).wrapping_sub(1 << 29), 2)
}

fn saturating_shift(x: i32, exponent: u32) -> i32 {
    let wide = i64::from(x) << exponent;
    wide.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// `reference_ops::HardSwish`, in 16-bit fixed point, with the parameters of
/// `tensorflow/lite/micro/kernels/hard_swish_common.cc`.
fn hard_swish(input: Parameters, output: Parameters) -> Result<[i8; 256], String> {
    let fine_scale = (1.0_f32 / 128.0) * input.0;
    let to_output = bounded(f64::from(fine_scale / output.0))?;
    let to_reluish = bounded(f64::from(fine_scale / (3.0_f32 / 32768.0)))?;
    if to_output.shift > 0 {
        return Err("a hard swish's output scale is below 1/128 of its input's".into());
    }
    let (output_16, reluish_16) = (narrow(to_output.multiplier), narrow(to_reluish.multiplier));
    Ok(entries(|x| {
        let fine = ((x - i32::from(input.1)) * (1 << 7)) as i16;
        let before_shift = doubling_high_mul_16(fine, output_16);
        let mut reluish = fine;
        if to_reluish.shift > 0 {
            reluish = saturating_shift_16(reluish, to_reluish.shift - 1);
        }
        reluish = doubling_high_mul_16(reluish, reluish_16);
        if to_reluish.shift > 0 {
            reluish = saturating_shift_16(reluish, 1);
        }
        if to_reluish.shift < 0 {
            let right = to_reluish.shift.unsigned_abs();
            reluish = rounding_shift(i32::from(reluish), right) as i16;
        }
        let reluish = ((i32::from(reluish) + (1 << 15)) >> 1) as i16;
        let product = truncating_doubling_high_mul_16(reluish, before_shift);
        let shifted = rounding_shift(i32::from(product), to_output.shift.unsigned_abs());
        shifted + i32::from(output.1)
    }))
}

/// `DownScaleInt32ToInt16Multiplier`.
fn narrow(multiplier: i32) -> i16 {
    const HALF: i32 = 1 << 15;
    if multiplier >= i32::MAX - HALF {
        return i16::MAX;
    }
    ((multiplier + HALF) >> 16) as i16
}

/// gemmlowp's `SaturatingRoundingDoublingHighMul` of 16 bits.
fn doubling_high_mul_16(a: i16, b: i16) -> i16 {
    let product = i32::from(a) * i32::from(b);
    let nudge = if product >= 0 { 1 << 14 } else { 1 - (1 << 14) };
    ((product + nudge) / (1 << 15)).min(i32::from(i16::MAX)) as i16
}

/// TFLite's `SaturatingDoublingHighMul`: towards zero.
fn truncating_doubling_high_mul_16(a: i16, b: i16) -> i16 {
    (i32::from(a) * i32::from(b) / (1 << 15)).min(i32::from(i16::MAX)) as i16
}

fn saturating_shift_16(x: i16, amount: i32) -> i16 {
    let wide = i64::from(x) << amount.min(30);
    wide.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry is within a unit of the real function's.
    fn check(function: Unary, input: Parameters, output: Parameters, real: impl Fn(f64) -> f64) {
        let table = table(function, input, output).unwrap();
        for (index, &entry) in table.iter().enumerate() {
            let x = f64::from(input.0) * (index as f64 - 128.0 - f64::from(input.1));
            let y = (real(x) / f64::from(output.0) + f64::from(output.1)).clamp(-128.0, 127.0);
            assert!(
                (f64::from(entry) - y).abs() <= 1.01,
                "{function:?} of {x}: {entry}, not {y}"
            );
        }
    }

    #[test]
    fn tables_are_near_the_real_functions() {
        let logistic = (1.0 / 256.0, -128);
        for scale in [0.003, 0.05, 0.2, 1.3] {
            for zero in [-128, -3, 100] {
                let input = (scale, zero);
                check(Unary::Logistic, input, logistic, |x| {
                    1.0 / (1.0 + (-x).exp())
                });
                check(Unary::Tanh, input, (1.0 / 128.0, 0), f64::tanh);
                let out = (scale * 1.1, zero);
                check(Unary::Relu, input, out, |x| x.max(0.0));
                check(Unary::Relu6, input, out, |x| x.clamp(0.0, 6.0));
                let (low, high) = (-2.5, 0.7);
                check(Unary::Clamp { low, high }, input, out, |x| {
                    x.clamp(low.into(), high.into())
                });
                check(Unary::Requantize, input, out, |x| x);
                let leaky = |x: f64| if x < 0.0 { x * 0.3 } else { x };
                check(Unary::LeakyRelu { alpha: 0.3 }, input, out, leaky);
                check(Unary::HardSwish, input, out, |x| {
                    x * (x + 3.0).clamp(0.0, 6.0) / 6.0
                });
            }
        }
    }

    #[test]
    fn the_same_quantization_changes_nothing() {
        let table = table(Unary::Requantize, (0.123, 7), (0.123, 7)).unwrap();
        assert!(
            table
                .iter()
                .enumerate()
                .all(|(index, &entry)| i32::from(entry) == index as i32 - 128)
        );
    }

    #[test]
    fn outputs_that_tflite_fixes_are_held_to_it() {
        assert!(table(Unary::Logistic, (0.1, 0), (1.0 / 256.0, 0)).is_err());
        assert!(table(Unary::Tanh, (1e30, 0), (1.0 / 128.0, 0)).is_err());
    }
}
