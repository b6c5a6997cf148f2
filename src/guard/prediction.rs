//! From a model's output to a prediction.

use crate::engine::EngineError;
use crate::profile::{OutputKind, OutputProfile};

/// Why there is no prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InferenceError {
    /// The engine failed.
    Engine(EngineError),
    /// The output holds a value that is not finite, or no probability at all.
    Output,
}

/// What is odd about a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PredictionFlags(u8);

impl PredictionFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A sample in its window broke the contract in a way that the policy flags.
    pub const INPUT: Self = Self(1);
    /// Its score is further from the profile's mean than the policy's |z|.
    pub const Z_OUTLIER: Self = Self(2);
    /// Its score is below the profile's 1st percentile.
    pub const BELOW_P01: Self = Self(4);
    /// Its score is above the profile's 99th percentile.
    pub const ABOVE_P99: Self = Self(8);

    /// Adds all flags of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags as a number: 1 input, 2 z-score, 4 below the 1st, 8 above the 99th percentile.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }
}

/// What the runtime answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Index of the class; 0 for [`OutputKind::Values`].
    pub class: u16,
    /// Calibrated probability of that class; the first value, for [`OutputKind::Values`].
    pub confidence: f32,
    /// What is odd about it.
    pub flags: PredictionFlags,
    /// From the complete input to this answer, in microseconds; 0 for a fallback.
    pub latency_us: u32,
    /// Whether this is the last good prediction once more.
    pub fallback: bool,
}

/// An output, read.
pub(super) struct Reading {
    pub class: u16,
    pub score: f32,
    pub entropy: f32,
}

/// Reads an output, and writes its calibrated probabilities.
///
/// `probabilities` must be as long as `output`.
pub(super) fn read<const C: usize>(
    profile: &OutputProfile<C>,
    output: &[f32],
    probabilities: &mut [f32],
) -> Result<Reading, InferenceError> {
    let &first = output.first().ok_or(InferenceError::Output)?;
    if output.iter().any(|x| !x.is_finite()) {
        return Err(InferenceError::Output);
    }
    let temperature = profile.temperature;
    let entropy = match profile.kind {
        OutputKind::Logits => softmax(output, temperature, probabilities),
        OutputKind::Probabilities if temperature == 1.0 => {
            for (out, &x) in probabilities.iter_mut().zip(output) {
                *out = x.max(0.0);
            }
            normalize(probabilities)?;
            entropy(probabilities)
        }
        OutputKind::Probabilities => {
            // The power is the softmax of the logarithms; relative to the greatest, nothing
            // overflows.
            let greatest = output.iter().fold(0.0f32, |most, &x| most.max(x));
            for (out, &x) in probabilities.iter_mut().zip(output) {
                *out = libm::powf((x / greatest).max(0.0), 1.0 / temperature);
            }
            normalize(probabilities)?;
            entropy(probabilities)
        }
        OutputKind::Values => {
            probabilities.copy_from_slice(output);
            return Ok(Reading {
                class: 0,
                score: first,
                entropy: 0.0,
            });
        }
    };
    let (mut class, mut score) = (0, f32::NEG_INFINITY);
    for (index, &p) in probabilities.iter().enumerate() {
        if p > score {
            (class, score) = (index, p);
        }
    }
    Ok(Reading {
        class: u16::try_from(class).map_err(|_| InferenceError::Output)?,
        score,
        entropy,
    })
}

/// Further below the greatest, a logit has no share.
const MOST: f32 = 87.0;

/// Softmax of `logits / temperature`, stable for any finite logits; returns its entropy in nats.
///
/// With z the logits divided by the temperature less the greatest of these, and S the sum of exp(z),
/// the entropy is ln S minus the sum of p z: one logarithm for all classes, and no difference of
/// numbers of the same sign.
fn softmax(logits: &[f32], temperature: f32, probabilities: &mut [f32]) -> f32 {
    let greatest = logits
        .iter()
        .fold(f32::NEG_INFINITY, |most, &x| most.max(x));
    let (mut sum, mut below) = (0.0, 0.0);
    for (out, &x) in probabilities.iter_mut().zip(logits) {
        let z = (x - greatest) / temperature;
        *out = exp_of_negative(z);
        sum += *out;
        // Where the share is nothing, z may be infinite.
        below -= *out * z.max(-MOST);
    }
    // The greatest logit adds one, so that the sum is never zero.
    probabilities.iter_mut().for_each(|p| *p /= sum);
    libm::logf(sum) + below / sum
}

/// The exponential of a number that is not positive, to one unit in the last place; 0 below -87, where
/// it would be less than 2^-125.
///
/// With n the nearest whole number to x / ln 2, it is 2^n times the exponential of the rest, which is at
/// most 0.35 and has a polynomial (the coefficients are those of Cephes' `expf`, by S. L. Moshier). No
/// branch and no table, so that a processor has several under way.
fn exp_of_negative(x: f32) -> f32 {
    // Adding this rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let within = x.max(-MOST);
    let shifted = within * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, of which the first is exact when multiplied.
    let rest = (within - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        sum = sum * rest + coefficient;
    }
    let fraction = sum * (rest * rest) + rest + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -MOST { 0.0 } else { fraction * power }
}

/// Entropy of shares, in nats.
fn entropy(probabilities: &[f32]) -> f32 {
    let there = probabilities.iter().filter(|p| **p > 0.0);
    there.map(|&p| -p * libm::logf(p)).sum()
}

/// Scales to a sum of one.
fn normalize(probabilities: &mut [f32]) -> Result<(), InferenceError> {
    let sum: f32 = probabilities.iter().sum();
    if !sum.is_finite() || sum <= 0.0 {
        return Err(InferenceError::Output);
    }
    probabilities.iter_mut().for_each(|p| *p /= sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::output_profile;

    fn read_all(
        kind: OutputKind,
        temperature: f32,
        output: &[f32],
    ) -> Result<(Reading, [f32; 3]), InferenceError> {
        let mut profile = output_profile::<3>(kind);
        profile.temperature = temperature;
        let mut probabilities = [0.0; 3];
        let reading = read(&profile, output, &mut probabilities)?;
        Ok((reading, probabilities))
    }

    #[test]
    fn probabilities_at_a_temperature_equal_logits_at_it() {
        let logits = [0.3f32, -1.0, 2.0];
        let (_, plain) = read_all(OutputKind::Logits, 1.0, &logits).unwrap();
        let (a, by_logits) = read_all(OutputKind::Logits, 2.5, &logits).unwrap();
        let (b, by_powers) = read_all(OutputKind::Probabilities, 2.5, &plain).unwrap();
        assert_eq!((a.class, b.class), (2, 2));
        for (x, y) in by_logits.iter().zip(by_powers) {
            assert!((x - y).abs() < 1e-6, "{x} {y}");
        }
        assert!((a.entropy - b.entropy).abs() < 1e-6);
    }

    #[test]
    fn entropy_of_equal_shares_is_the_logarithm_of_their_number() {
        let (reading, _) = read_all(OutputKind::Probabilities, 1.0, &[0.2, 0.2, 0.2]).unwrap();
        assert!((reading.entropy - 3f32.ln()).abs() < 1e-6);
        assert_eq!(reading.class, 0);
    }

    #[test]
    fn the_exponential_is_right_to_one_unit_in_the_last_place() {
        let mut worst = 0.0f64;
        // Each 97th float from -0 to -87, and those around the edges.
        let all = ((-0.0f32).to_bits()..=(-87.0f32).to_bits())
            .step_by(97)
            .map(f32::from_bits);
        for x in all.chain([0.0, -0.0, -87.0, -f32::MIN_POSITIVE]) {
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up() - exact as f32);
            worst = worst.max((f64::from(exp_of_negative(x)) - exact).abs() / unit);
        }
        assert!(worst < 1.0, "{worst}");
        for x in [
            (-87.0f32).next_down(),
            -88.0,
            -1e9,
            f32::MIN,
            f32::NEG_INFINITY,
        ] {
            assert_eq!(exp_of_negative(x), 0.0);
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let (reading, p) = read_all(OutputKind::Logits, 1.0, &[f32::MAX, f32::MIN, 0.0]).unwrap();
        assert_eq!((reading.class, reading.score), (0, 1.0));
        assert_eq!(p, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_prediction_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for kind in [
                OutputKind::Logits,
                OutputKind::Probabilities,
                OutputKind::Values,
            ] {
                assert_eq!(
                    read_all(kind, 1.0, &[0.1, bad, 0.2]).err(),
                    Some(InferenceError::Output)
                );
            }
        }
        for temperature in [1.0, 2.0] {
            let zeros = read_all(OutputKind::Probabilities, temperature, &[0.0, -1.0, 0.0]);
            assert_eq!(zeros.err(), Some(InferenceError::Output));
        }
        let mut none = [];
        let profile = output_profile::<3>(OutputKind::Logits);
        assert!(read(&profile, &[], &mut none).is_err());
    }
}
