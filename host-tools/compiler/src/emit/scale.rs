//! Real scales to significands and exponents, as TensorFlow Lite Micro computes them.
//!
//! Everything here is f64 on f32 scales, in the order of operations of the files named beside each
//! function: a different order can end in another last bit, and then in another output.

use crate::graph::Activation;

/// A scale as kernels take it: `value * multiplier / 2^31 * 2^shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Significand, 2^30 to 2^31 - 1, or 0.
    pub multiplier: i32,
    /// Exponent: left where positive.
    pub shift: i32,
}

/// Splits a finite value into a significand from 0.5 up to 1 and an exponent, as C's `frexp`.
fn frexp(value: f64) -> (f64, i32) {
    const EXPONENT: u64 = 0x7ff << 52;
    if value == 0.0 {
        return (0.0, 0);
    }
    let bits = value.to_bits();
    if bits & EXPONENT == 0 {
        // Subnormal: scale it up by 2^64 first.
        let (significand, exponent) = frexp(value * 2_f64.powi(64));
        return (significand, exponent - 64);
    }
    let exponent = ((bits & EXPONENT) >> 52) as i32 - 1022;
    (f64::from_bits(bits & !EXPONENT | 1022 << 52), exponent)
}

/// `QuantizeMultiplier` of `tensorflow/lite/kernels/internal/quantization_util.cc`: a scale too
/// small to show is zero.
pub fn quantize_multiplier(value: f64) -> Scale {
    let (significand, mut shift) = frexp(value);
    // `round` sends halves away from zero, as TfLiteRound does.
    let mut multiplier = (significand * f64::from(1_u32 << 31)).round() as i64;
    if multiplier == 1 << 31 {
        multiplier /= 2;
        shift += 1;
    }
    if value == 0.0 || shift < -31 {
        return Scale {
            multiplier: 0,
            shift: 0,
        };
    }
    Scale {
        multiplier: multiplier as i32,
        shift,
    }
}

/// The scale of an accumulator of a convolution or dense layer:
/// `PopulateConvolutionQuantizationParams` of `tensorflow/lite/kernels/kernel_util.cc`.
///
/// For a dense layer with one scale, some releases of TFLite round the product to f32; the corpus of
/// golden outputs tells both apart, and holds this one.
pub fn layer_scale(input: f32, weights: f32, output: f32) -> f64 {
    f64::from(input) * f64::from(weights) / f64::from(output)
}

/// The three scales of a sum: `CalculateOpDataAdd` of
/// `tensorflow/lite/micro/kernels/add_common.cc`. The last is below one in a sound model.
pub fn add_scales(a: f32, b: f32, output: f32) -> [f64; 3] {
    let twice_greatest = 2.0 * f64::from(a.max(b));
    let output = f64::from(1_u32 << 20) * f64::from(output);
    [
        f64::from(a) / twice_greatest,
        f64::from(b) / twice_greatest,
        twice_greatest / output,
    ]
}

/// The scale of a product: `tensorflow/lite/micro/kernels/mul_common.cc`.
pub fn mul_scale(a: f32, b: f32, output: f32) -> f64 {
    f64::from(a) * f64::from(b) / f64::from(output)
}

/// The scale of a softmax and its least difference: `PreprocessSoftmaxScaling` and
/// `CalculateInputRadius` of `tensorflow/lite/kernels/internal/quantization_util.cc` with five
/// integer bits.
pub fn softmax_scale(beta: f32, input: f32) -> (Scale, i32) {
    let real = f64::from(beta) * f64::from(input) * f64::from(1_u32 << 26);
    let scale = quantize_multiplier(real.min(f64::from((1_u32 << 31) - 1)));
    (scale, -input_radius(5, scale.shift))
}

/// `CalculateInputRadius` with 31 bits: beyond it, an input shows its function's limit.
pub fn input_radius(integer_bits: u32, left_shift: i32) -> i32 {
    let greatest = f64::from((1_u32 << integer_bits) - 1) * f64::from(1_u32 << (31 - integer_bits));
    (greatest / 2_f64.powi(left_shift)).floor() as i32
}

/// The range of a fused activation, as a quantized output: `CalculateActivationRangeQuantized` of
/// `tensorflow/lite/kernels/kernel_util.cc`. Of ONNX's Clip, what QuantizeLinear makes of its ends: as that
/// never turns the order of two numbers, it may clamp afterwards.
pub fn activation_range(activation: Activation, scale: f32, zero_point: i8) -> [i8; 2] {
    let quantize = |real: f32| f64::from(zero_point) + f64::from((real / scale).round());
    let (low, high) = match activation {
        Activation::None => return [i8::MIN, i8::MAX],
        Activation::Relu => (quantize(0.0), f64::INFINITY),
        Activation::Relu6 => (quantize(0.0), quantize(6.0)),
        Activation::ReluN1To1 => (quantize(-1.0), quantize(1.0)),
        Activation::Clamp { low, high } => {
            let even =
                |real: f32| f64::from(zero_point) + f64::from((real / scale).round_ties_even());
            (even(low).min(even(high)), even(high))
        }
    };
    // `as` saturates, which is the clamp to int8.
    [low as i8, high as i8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_those_of_tflite() {
        // From quantization_util_test.cc, and the edges of the code above.
        let of = |value| {
            let scale = quantize_multiplier(value);
            (scale.multiplier, scale.shift)
        };
        assert_eq!(of(0.0), (0, 0));
        assert_eq!(of(1.0), (1 << 30, 1));
        assert_eq!(of(0.75), (3 << 29, 0));
        assert_eq!(of(0.25), (1 << 30, -1));
        assert_eq!(of(2_f64.powi(-32)), (1 << 30, -31));
        assert_eq!(of(2_f64.powi(-33)), (0, 0));
        // A significand that rounds up to one moves to the exponent.
        assert_eq!(of(1.0 - 2_f64.powi(-40)), (1 << 30, 1));
        assert_eq!(of(f64::from_bits(1)), (0, 0));
    }

    #[test]
    fn ranges_are_cut_to_int8() {
        assert_eq!(activation_range(Activation::None, 0.1, 3), [-128, 127]);
        assert_eq!(activation_range(Activation::Relu, 0.1, 3), [3, 127]);
        assert_eq!(activation_range(Activation::Relu6, 0.1, -128), [-128, -68]);
        assert_eq!(activation_range(Activation::Relu6, 0.01, -128), [-128, 127]);
        assert_eq!(activation_range(Activation::ReluN1To1, 0.01, 100), [0, 127]);
        let clamp = |low, high| Activation::Clamp { low, high };
        assert_eq!(activation_range(clamp(-1.0, 0.5), 0.1, 3), [-7, 8]);
        assert_eq!(
            activation_range(clamp(f32::MIN, f32::MAX), 0.1, 3),
            [-128, 127]
        );
        assert_eq!(
            activation_range(clamp(f32::NEG_INFINITY, 90.0), 0.1, 3),
            [-128, 127]
        );
        // Beyond either end all are one.
        assert_eq!(activation_range(clamp(50.0, 90.0), 0.1, 3), [127, 127]);
        assert_eq!(activation_range(clamp(2.0, 1.0), 0.1, 3), [13, 13]);
        // 12.5 steps: TFLite rounds away from zero, ONNX to even.
        assert_eq!(activation_range(Activation::Relu6, 0.48, 0), [0, 13]);
        assert_eq!(activation_range(clamp(0.0, 6.0), 0.48, 0), [0, 12]);
    }

    #[test]
    fn a_softmax_of_a_large_scale_is_capped() {
        let (scale, difference) = softmax_scale(1.0, 100.0);
        assert_eq!((scale.multiplier, scale.shift), (i32::MAX, 31));
        assert_eq!(difference, -(31 << 26 >> 31));
    }
}
