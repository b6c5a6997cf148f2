//! Golden vectors, run on an engine.

use super::error::{Computed, PackError};
use edgeward::bundle::golden::Golden;
use edgeward::engine::Engine;
use edgeward::engine::board::BoardEngine;

/// Runs a golden section and returns the largest distance from a golden value.
///
/// # Errors
/// [`PackError::Golden`] names the first vector and element that is no number or farther away than `limit`.
pub(super) fn run(
    engine: &mut BoardEngine,
    section: &[u8],
    of: Computed,
    limit: f32,
) -> Result<f32, PackError> {
    let golden = Golden::parse(section).map_err(|source| PackError::Section {
        part: "golden",
        source,
    })?;
    let mut output = vec![0.0; engine.output_len()];
    let mut largest = 0.0f32;
    for (vector, pair) in golden.iter().enumerate() {
        let input: Vec<_> = pair.input.iter().collect();
        engine
            .run(&input, &mut output)
            .map_err(|error| PackError::Run {
                what: format!("golden vector {vector}"),
                error,
            })?;
        for (element, (&seen, expected)) in output.iter().zip(pair.output.iter()).enumerate() {
            let Some(error) = distance(seen, expected, limit) else {
                return Err(PackError::Golden {
                    of,
                    vector,
                    element,
                    expected,
                    seen,
                    tolerance: limit,
                    step: 0.0,
                });
            };
            largest = largest.max(error);
        }
    }
    Ok(largest)
}

/// How far an output is from the golden one, if that is within the limit. What is no number, or infinite, is beyond
/// every limit.
fn distance(seen: f32, expected: f32, limit: f32) -> Option<f32> {
    let distance = (seen - expected).abs();
    (distance.is_finite() && distance <= limit).then_some(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_or_infinite_is_beyond_every_limit() {
        for limit in [0.5, f32::INFINITY] {
            assert_eq!(distance(1.25, 1.0, limit), Some(0.25));
            for seen in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(distance(seen, 1.0, limit), None, "{seen}");
            }
        }
        assert_eq!(distance(1.5, 1.0, 0.5), Some(0.5));
        assert_eq!(distance(1.75, 1.0, 0.5), None);
    }
}
