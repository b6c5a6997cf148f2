//! Why nothing was packed, and what to do about it.

use crate::data::DataError;
use crate::model::ModelError;
use crate::profile::ProfileError;
use edgeward::bundle::{BundleError, WriteError};
use edgeward::engine::EngineError;
use std::fmt;
use std::path::PathBuf;

/// What computed a golden vector's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Computed {
    /// The int8 program.
    Program,
    /// tract, which the boards are to run.
    Tract,
    /// tract, with the ONNX file that the bundle carries beside a program; the program reproduced the vectors.
    TractBeside,
}

impl fmt::Display for Computed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Program => "the program",
            Self::Tract | Self::TractBeside => "tract",
        })
    }
}

/// Why nothing was packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A data file can't be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data makes no profile.
    #[error("{}", path.display())]
    Profile {
        /// The data that is at fault: for training, or held out.
        path: PathBuf,
        /// Why.
        source: ProfileError,
    },
    /// The model can't be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The engine does not take the model.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ModelError>,
    },
    /// The model's input is not what the specification says.
    #[error(
        "{}: the model's input has shape {found:?}, and `[input]` says {window} samples of \
         {features} features, {layout}",
        path.display()
    )]
    Input {
        /// The model.
        path: PathBuf,
        /// The model's input shape.
        found: Vec<usize>,
        /// Samples of a window.
        window: u16,
        /// Features.
        features: usize,
        /// Their layout.
        layout: &'static str,
    },
    /// The model's output is not what the specification says.
    #[error("{}: the model's output has shape {found:?}, and `output.classes` has {named} names", path.display())]
    Output {
        /// The model.
        path: PathBuf,
        /// The model's output shape.
        found: Vec<usize>,
        /// Names.
        named: usize,
    },
    /// An inference failed.
    #[error("the model failed on {what}: {error:?}")]
    Run {
        /// On what.
        what: String,
        /// Why.
        error: EngineError,
    },
    /// There are no golden vectors.
    #[error("there is no `[golden]` table: nothing shows that boards compute what the lab did")]
    NoGolden,
    /// The golden vectors don't have the model's shape.
    #[error(
        "{}: the array has shape {found:?}; wanted is [vectors, {wanted}], as the model's {side} has \
         {wanted} values",
        path.display()
    )]
    GoldenShape {
        /// The file.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// `input` or `output`.
        side: &'static str,
        /// Values of a vector.
        wanted: usize,
    },
    /// There is not one golden output an input.
    #[error("{}: {outputs} golden outputs for {inputs} inputs", path.display())]
    GoldenCount {
        /// The file of the outputs.
        path: PathBuf,
        /// Vectors in it.
        outputs: usize,
        /// Vectors of the inputs' file.
        inputs: usize,
    },
    /// A golden vector is not reproduced.
    #[error(
        "golden vector {vector}, element {element}: expected {expected}, {of} gives {seen}, \
         off by {}{} (tolerance {tolerance})",
        (seen - expected).abs(),
        in_steps((seen - expected).abs(), *step)
    )]
    Golden {
        /// Whose output it is.
        of: Computed,
        /// The vector, from 0.
        vector: usize,
        /// The element of its output, from 0.
        element: usize,
        /// The golden value.
        expected: f32,
        /// What came instead.
        seen: f32,
        /// What may lie between them.
        tolerance: f32,
        /// What one step of an int8 output is worth; 0 for float outputs.
        step: f32,
    },
    /// The packed model disagrees with the lab's outputs.
    #[error(
        "training-serving skew: the packed model disagrees with {} on {disagreements} of {windows} \
         training windows ({:.1} %, at most {:.1} % may)",
        path.display(),
        100.0 * *disagreements as f64 / *windows as f64,
        100.0 * limit
    )]
    Skew {
        /// The lab's outputs.
        path: PathBuf,
        /// Windows in which they disagree.
        disagreements: usize,
        /// All windows.
        windows: usize,
        /// The share that is allowed.
        limit: f32,
    },
    /// The model is no better than a guess.
    #[error(
        "the model recognises {:.1} % of the labelled windows of a class on average, and a guess would \
         {:.1} %",
        100.0 * mean,
        100.0 * chance
    )]
    Guess {
        /// Mean recall of the classes.
        mean: f32,
        /// That of a guess.
        chance: f32,
    },
    /// A part of the bundle can't be written.
    #[error("{part}: {source}")]
    Section {
        /// Which part.
        part: &'static str,
        /// Why.
        source: BundleError,
    },
    /// The bundle can't be written.
    #[error("the bundle can't be written: {0}")]
    Write(#[from] WriteError),
}

impl Computed {
    /// What to do where its output is too far from the golden one.
    const fn next(self) -> &'static str {
        match self {
            Self::Program => {
                "a few output steps are what runtimes round otherwise: `golden.tolerance` of an int8 model \
                 begins at one step (docs/QUANTIZE.md). More is another computation than that of the runtime \
                 that made the vectors: check layout and preprocessing"
            }
            Self::Tract => {
                "tract computes something else than the runtime that made the vectors: check layout and \
                 preprocessing first, then the operators that `edgeward import` lists"
            }
            Self::TractBeside => {
                "the program reproduces the vectors, and the ONNX file beside it does not: they round \
                 differently (docs/CONFORMANCE.md). State a `golden.tolerance` that holds for both, or leave \
                 the file out with `engine = \"program\"`"
            }
        }
    }
}

/// In words, how many steps of an int8 output an error is, where it is a whole number of them.
fn in_steps(error: f32, step: f32) -> String {
    let steps = (error / step).round();
    // A float golden value lies between two steps; one of the same int8 graph lies on one.
    if !steps.is_finite() || steps < 1.0 || (error - steps * step).abs() > step / 100.0 {
        return String::new();
    }
    let plural = if steps == 1.0 { "" } else { "s" };
    format!(", {steps} output step{plural} of {step}")
}

impl PackError {
    /// A golden mismatch, told in steps of the output.
    pub(super) fn with_step(mut self, of_output: Option<f32>) -> Self {
        if let (Self::Golden { step, .. }, Some(of_output)) = (&mut self, of_output) {
            *step = of_output;
        }
        self
    }

    /// Whether a policy refused it, rather than something being broken.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NoGolden | Self::Golden { .. } | Self::Skew { .. } | Self::Guess { .. }
        )
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next(&self) -> Option<&'static str> {
        match self {
            Self::NoGolden => Some(
                "add [golden] with inputs and outputs computed by another runtime (ONNX Runtime, \
                 say), or pass --golden-from-engine, which shows reproducibility only",
            ),
            Self::Golden { seen, .. } if !seen.is_finite() => Some(
                "no tolerance makes a number of that: the model overflows on this input, or divides by zero",
            ),
            Self::Golden { of, .. } => Some(of.next()),
            Self::Skew { .. } => Some(
                "find out which of the two is wrong before this is released; --allow-skew packs it \
                 all the same",
            ),
            Self::Guess { .. } => Some(
                "check that `output.classes` names the model's outputs in their order, then layout \
                 and preprocessing; --allow-skew packs it all the same",
            ),
            Self::Profile {
                source: ProfileError::TooLittle { .. },
                ..
            } => Some(
                "record more training data, or set a shorter `input.drift_window`; samples that do \
                 not follow each other in time are independent if a column `recording` numbers them",
            ),
            Self::Profile {
                source: ProfileError::TooLong { .. },
                ..
            } => Some("record more training data, or set a shorter `input.drift_window`"),
            Self::Input { .. } => Some(
                "correct window, features or layout, or export the model with that input shape",
            ),
            Self::Model { .. } => Some("`edgeward import` says what the model needs"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_whole_output_steps_is_told_in_steps() {
        let error = |seen: f32, step| PackError::Golden {
            of: Computed::Program,
            vector: 0,
            element: 1,
            expected: 0.5,
            seen,
            tolerance: 0.001,
            step,
        };
        let said = error(0.503_906_25, 1.0 / 256.0).to_string();
        assert!(
            said.contains("off by 0.00390625, 1 output step of 0.00390625 (tol"),
            "{said}"
        );
        let said = error(0.5, 0.0).with_step(Some(0.25)).to_string();
        assert!(!said.contains("step"), "{said}");
        let said = error(1.0, 0.0).with_step(Some(0.25)).to_string();
        assert!(said.contains("2 output steps of 0.25"), "{said}");
        for (seen, step) in [(0.6, 0.25), (1.0, 0.0), (f32::NAN, 0.25)] {
            let said = error(seen, step).to_string();
            assert!(!said.contains("step"), "{said}");
        }
    }
}
