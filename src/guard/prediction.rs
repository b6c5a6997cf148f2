//! From a model's output to a prediction.

use super::softmax::softmax;
use crate::engine::EngineError;
use crate::profile::OutputKind;

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
/// `probabilities` must be as long as `output`. Of the profile it takes what depends on no number of outputs: so
/// it is compiled in this crate, for speed, and not in that of a board, for size.
pub(super) fn read(
    kind: OutputKind,
    temperature: f32,
    output: &[f32],
    probabilities: &mut [f32],
) -> Result<Reading, InferenceError> {
    let &first = output.first().ok_or(InferenceError::Output)?;
    if output.iter().any(|x| !x.is_finite()) {
        return Err(InferenceError::Output);
    }
    let entropy = match kind {
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
        let greater = p > score;
        class = if greater { index } else { class };
        score = if greater { p } else { score };
    }
    Ok(Reading {
        class: u16::try_from(class).map_err(|_| InferenceError::Output)?,
        score,
        entropy,
    })
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

    fn read_all(
        kind: OutputKind,
        temperature: f32,
        output: &[f32],
    ) -> Result<(Reading, [f32; 3]), InferenceError> {
        let mut probabilities = [0.0; 3];
        let reading = read(kind, temperature, output, &mut probabilities)?;
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
        assert!(read(OutputKind::Logits, 1.0, &[], &mut none).is_err());
    }
}
