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

/// A self-test under way: golden vectors come one at a time, so that whoever has other work can do it in
/// between.
#[derive(Debug, Clone, Copy)]
pub struct SelfTest {
    tolerance: f32,
    vector: u32,
}

impl SelfTest {
    /// A test that has seen no vector; an output element passes when |seen - expected| <= `tolerance`.
    #[must_use]
    pub const fn new(tolerance: f32) -> Self {
        let vector = 0;
        Self { tolerance, vector }
    }

    /// How many vectors passed.
    #[must_use]
    pub const fn passed(&self) -> u32 {
        self.vector
    }

    /// Runs the next vector. `input` and `output` are working memory of at least the engine's lengths.
    ///
    /// # Errors
    /// The first [`SelfTestFailure`] of it; the test has failed, then.
    pub fn vector(
        &mut self,
        engine: &mut impl Engine,
        given: impl IntoIterator<Item = f32>,
        expected: impl IntoIterator<Item = f32>,
        input: &mut [f32],
        output: &mut [f32],
    ) -> Result<(), SelfTestFailure> {
        let vector = self.vector;
        let shape = SelfTestFailure::Shape { vector };
        let input = input.get_mut(..engine.input_len()).ok_or(shape)?;
        let output = output.get_mut(..engine.output_len()).ok_or(shape)?;
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
            let near = libm::fabsf(seen - expected) <= self.tolerance;
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
        self.vector += 1;
        Ok(())
    }

    /// Ends the test after the last vector, and says how many there were.
    ///
    /// # Errors
    /// [`SelfTestFailure::Empty`] when there was none.
    pub const fn finish(self) -> Result<u32, SelfTestFailure> {
        match self.vector {
            0 => Err(SelfTestFailure::Empty),
            vectors => Ok(vectors),
        }
    }
}

/// Runs golden vectors through a [`SelfTest`] and returns their number.
///
/// A vector is a pair of input and output in the form of iterators, so that unaligned bytes need no
/// copy of their own. `input` and `output` are working memory of at least the engine's lengths.
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
    let mut test = SelfTest::new(tolerance);
    for (given, expected) in golden {
        test.vector(engine, given, expected, input, output)?;
    }
    test.finish()
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
