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
            let error = (seen - expected).abs();
            // What is no number, or infinite, is beyond every tolerance.
            if !error.is_finite() || error > limit {
                return Err(PackError::Golden {
                    of,
                    vector,
                    element,
                    expected,
                    seen,
                    tolerance: limit,
                    step: 0.0,
                });
            }
            largest = largest.max(error);
        }
    }
    Ok(largest)
}
