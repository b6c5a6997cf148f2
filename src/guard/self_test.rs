//! Golden vectors: does this engine compute this model on this board?

use crate::engine::{Engine, EngineError};

/// Why a self-test failed.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum SelfTestFailure {
    /// There was no vector, and an empty test proves nothing.
    Empty,
    /// A vector or a buffer does not have the engine's shape.
    Shape {
        /// Number of the vector.
        vector: u32,
    },
    /// The engine failed.
    Engine {
        /// Number of the vector.
        vector: u32,
        /// What it said.
        error: EngineError,
    },
    /// An output differs by more than the tolerance.
    Mismatch {
        /// Number of the vector.
        vector: u32,
        /// Index in the output.
        element: u32,
        /// The golden value.
        expected: f32,
        /// The engine's value.
        seen: f32,
    },
}

/// Runs golden vectors and compares each output element: |seen - expected| <= `tolerance`.
///
/// A vector is a pair of input and output in the form of iterators, so that unaligned bytes need no
/// copy of their own. `input` and `output` are working memory of at least the engine's lengths.
/// Returns the number of vectors.
///
/// # Errors
/// The first [`SelfTestFailure`].
pub fn self_test<E, I, O>(
    engine: &mut E,
    golden: impl IntoIterator<Item = (I, O)>,
    tolerance: f32,
    input: &mut [f32],
    output: &mut [f32],
) -> Result<u32, SelfTestFailure>
where
    E: Engine,
    I: IntoIterator<Item = f32>,
    O: IntoIterator<Item = f32>,
{
    let shape = SelfTestFailure::Shape { vector: 0 };
    let input = input.get_mut(..engine.input_len()).ok_or(shape)?;
    let output = output.get_mut(..engine.output_len()).ok_or(shape)?;
    let mut vector = 0;
    for (given, expected) in golden {
        let shape = SelfTestFailure::Shape { vector };
        let mut given = given.into_iter();
        for slot in input.iter_mut() {
            *slot = given.next().ok_or(shape)?;
        }
        if given.next().is_some() {
            return Err(shape);
        }
        engine
            .run(input, output)
            .map_err(|error| SelfTestFailure::Engine { vector, error })?;
        let mut expected = expected.into_iter();
        for (element, &seen) in (0..).zip(output.iter()) {
            let expected = expected.next().ok_or(shape)?;
            let near = libm::fabsf(seen - expected) <= tolerance;
            if !near {
                return Err(SelfTestFailure::Mismatch {
                    vector,
                    element,
                    expected,
                    seen,
                });
            }
        }
        if expected.next().is_some() {
            return Err(shape);
        }
        vector += 1;
    }
    if vector == 0 {
        Err(SelfTestFailure::Empty)
    } else {
        Ok(vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SumEngine;

    fn run(golden: &[([f32; 2], &[f32])], tolerance: f32) -> Result<u32, SelfTestFailure> {
        let mut engine = SumEngine {
            inputs: 2,
            outputs: 2,
        };
        let vectors = golden
            .iter()
            .map(|(i, o)| (i.iter().copied(), o.iter().copied()));
        self_test(
            &mut engine,
            vectors,
            tolerance,
            &mut [0.0; 4],
            &mut [0.0; 4],
        )
    }

    #[test]
    fn right_vectors_pass_and_wrong_ones_are_named() {
        // The engine answers the sum of its inputs, then that plus one.
        assert_eq!(
            run(&[([1.0, 2.0], &[3.0, 4.0]), ([0.0, 0.5], &[0.5, 1.5])], 0.0),
            Ok(2)
        );
        assert_eq!(
            run(
                &[([1.0, 2.0], &[3.0, 4.0]), ([1.0, 2.0], &[3.0, 4.25])],
                0.1
            ),
            Err(SelfTestFailure::Mismatch {
                vector: 1,
                element: 1,
                expected: 4.25,
                seen: 4.0
            })
        );
        assert_eq!(run(&[([1.0, 2.0], &[3.0, 4.25])], 0.25), Ok(1));
    }

    #[test]
    fn what_proves_nothing_fails() {
        assert_eq!(run(&[], 1.0), Err(SelfTestFailure::Empty));
        assert_eq!(
            run(&[([1.0, 2.0], &[3.0])], 1.0),
            Err(SelfTestFailure::Shape { vector: 0 })
        );
        assert_eq!(
            run(&[([1.0, 2.0], &[3.0, 4.0, 5.0])], 1.0),
            Err(SelfTestFailure::Shape { vector: 0 })
        );
        let nan = run(&[([1.0, 2.0], &[3.0, f32::NAN])], f32::INFINITY);
        assert!(matches!(
            nan,
            Err(SelfTestFailure::Mismatch { element: 1, .. })
        ));
    }
}
