//! Whatever engine a release wants, on hosts and Linux boards.
//!
//! A bundle holds an int8 program, an ONNX model for tract, or both. The program is preferred where
//! there is one: it is several times faster and calls no allocator at all.

use super::program::ProgramEngine;
use super::tract::{self, ModelSpec, TractEngine};
use super::{Engine, EngineError, Tape};
use crate::bundle::{Bundle, SectionKind};
use crate::program::{Layout, ProgramError};
use core::fmt;
use std::borrow::ToOwned;
use std::boxed::Box;
use std::string::String;

/// Layouts of weights, by the kernels' names in a manifest, that hosts and Linux boards run.
pub const KERNELS: [&str; 2] = [NATURAL_KERNELS, TRACT_KERNELS];
/// Name of [`crate::program::Layout::Natural`].
pub const NATURAL_KERNELS: &str = Layout::Natural.kernels();
/// Name of [`crate::program::Layout::CortexM`].
pub const CORTEX_M_KERNELS: &str = Layout::CortexM.kernels();
/// What a manifest says when there is only a model for tract.
pub const TRACT_KERNELS: &str = "tract";
/// Those that a microcontroller with the DSP extension runs.
pub const CORTEX_M_BOARD_KERNELS: [&str; 2] = [NATURAL_KERNELS, CORTEX_M_KERNELS];

/// What a manifest says of a program's kernels.
pub const fn kernels_of(layout: Layout) -> &'static str {
    layout.kernels()
}

/// A release's model, loaded by the engine that it wants.
#[derive(Debug)]
pub enum BoardEngine {
    /// The int8 executor.
    Program(Box<ProgramEngine>),
    /// tract.
    Tract(Box<TractEngine>),
}

/// Why a release's model was not loaded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LoadError {
    /// The bundle holds neither a program nor a model for tract.
    NoModel,
    /// The program is not sound.
    Program(ProgramError),
    /// The program is not laid out for the kernels that the manifest names.
    Kernels {
        /// The manifest's.
        stated: String,
        /// The program's.
        found: &'static str,
    },
    /// tract does not take the model.
    Tract(tract::LoadError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModel => f.write_str("the bundle holds neither a program nor an ONNX model"),
            Self::Program(error) => write!(f, "the program is refused: {error:?}"),
            Self::Kernels { stated, found } => write!(
                f,
                "the manifest says kernels {stated}, the program is laid out for {found}"
            ),
            Self::Tract(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {}

impl BoardEngine {
    /// Loads the model of a bundle, whose hashes the caller has checked.
    ///
    /// A program that is laid out for a microcontroller runs by the portable kernels: slower, and the
    /// same bit for bit.
    ///
    /// # Errors
    /// [`LoadError`] names what is wrong with it.
    pub fn of_bundle(bundle: &Bundle<'_>) -> Result<Self, LoadError> {
        if let Some(program) = bundle.section(SectionKind::Program) {
            let engine = ProgramEngine::new(program).map_err(LoadError::Program)?;
            let (stated, found) = (bundle.manifest().kernels, kernels_of(engine.layout()));
            if stated != found {
                let stated = stated.to_owned();
                return Err(LoadError::Kernels { stated, found });
            }
            return Ok(Self::Program(Box::new(engine)));
        }
        let model = bundle.section(SectionKind::TractModel);
        Self::tract(model.ok_or(LoadError::NoModel)?)
    }

    /// Loads a program.
    ///
    /// # Errors
    /// [`LoadError::Program`].
    pub fn program(program: &[u8]) -> Result<Self, LoadError> {
        let engine = ProgramEngine::new(program).map_err(LoadError::Program)?;
        Ok(Self::Program(Box::new(engine)))
    }

    /// Loads an ONNX model into tract.
    ///
    /// # Errors
    /// [`LoadError::Tract`].
    pub fn tract(model: &[u8]) -> Result<Self, LoadError> {
        let engine = TractEngine::load(model, &ModelSpec::default()).map_err(LoadError::Tract)?;
        Ok(Self::Tract(Box::new(engine)))
    }

    /// The engine's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Program(_) => "program",
            Self::Tract(_) => "tract",
        }
    }
}

/// How the engine runs the model.
impl fmt::Display for BoardEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(engine) => engine.fmt(f),
            Self::Tract(engine) => engine.mode().fmt(f),
        }
    }
}

impl Engine for BoardEngine {
    fn input_len(&self) -> usize {
        match self {
            Self::Program(engine) => engine.input_len(),
            Self::Tract(engine) => engine.input_len(),
        }
    }

    fn output_len(&self) -> usize {
        match self {
            Self::Program(engine) => engine.output_len(),
            Self::Tract(engine) => engine.output_len(),
        }
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        match self {
            Self::Program(engine) => engine.run(input, output),
            Self::Tract(engine) => engine.run(input, output),
        }
    }

    fn run_on_tape(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        tape: &mut dyn Tape,
    ) -> Result<(), EngineError> {
        match self {
            Self::Program(engine) => engine.run_on_tape(input, output, tape),
            Self::Tract(engine) => engine.run_on_tape(input, output, tape),
        }
    }
}
