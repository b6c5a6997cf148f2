//! The engine: one model, loaded and ready.
//!
//! [`Engine`] is what the runtime asks of one. On hosts and Linux boards `tract` runs any ONNX model
//! that tract does, with its memory recycled by `pool`; `onnx` describes a file before it is loaded.
//! `program` runs int8 programs, and `board` takes whichever of the two a bundle wants.

#[cfg(feature = "tract")]
pub mod board;
#[cfg(feature = "tract")]
mod bound;
#[cfg(feature = "tract")]
mod fence;
#[cfg(feature = "tract")]
pub mod onnx;
#[cfg(feature = "std")]
pub mod pool;
#[cfg(feature = "std")]
pub mod program;
#[cfg(feature = "tract")]
mod quiet;
#[cfg(feature = "tract")]
mod sound;
#[cfg(feature = "tract")]
pub mod tract;
#[cfg(feature = "std")]
pub mod wire;

/// Why an inference or a load failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineError {
    /// The model's bytes are not a model that this engine reads.
    Model,
    /// The model needs something that this engine does not do.
    Unsupported,
    /// The input has another length than the model's.
    InputLength {
        /// Elements that the model takes.
        expected: u32,
        /// Elements given.
        given: u32,
    },
    /// The output has another length than the model's.
    OutputLength {
        /// Elements that the model makes.
        expected: u32,
        /// Elements given.
        given: u32,
    },
    /// The inference itself failed.
    Run,
}

/// Elements of a tensor, of the type that the model itself works with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Elements<'a> {
    /// Quantized to eight bits.
    I8(&'a [i8]),
    /// Single precision.
    F32(&'a [f32]),
}

impl Elements<'_> {
    /// Bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::I8(elements) => elements.len(),
            Self::F32(elements) => 4 * elements.len(),
        }
    }
}

/// Takes down what a model saw and gave, for the flight recorder.
pub trait Tape {
    /// What the model takes in, complete; called once, before the inference.
    fn input(&mut self, elements: Elements<'_>);
    /// What it gave out; called once, after an inference that did not fail.
    fn output(&mut self, elements: Elements<'_>);
}

/// A loaded model.
pub trait Engine {
    /// Elements of the input tensor.
    fn input_len(&self) -> usize;
    /// Elements of the output tensor.
    fn output_len(&self) -> usize;
    /// Runs one inference; `input` and `output` are whole tensors, row-major.
    ///
    /// # Errors
    /// [`EngineError`] when a length is wrong or the inference fails; `output` is then unspecified.
    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError>;

    /// As [`run`](Self::run), and takes down what the model itself saw and gave, so that the inference
    /// can be repeated bit for bit. An engine that quantizes takes down the quantized elements.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn run_on_tape(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        tape: &mut dyn Tape,
    ) -> Result<(), EngineError> {
        tape.input(Elements::F32(input));
        self.run(input, output)?;
        tape.output(Elements::F32(output));
        Ok(())
    }
}
