//! A model file and the engine that boards will run it with.

use edgeward::bundle::BoardClass;
use edgeward::engine::board::{self, BoardEngine};
use edgeward::engine::program::ProgramEngine;
use edgeward::engine::tract::LoadError;
use edgeward::program::Layout;
use edgeward_compiler::{CompileError, Compiled, Format, Options};
use serde::Deserialize;
use std::fmt;

/// Which engine a release is packed for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineChoice {
    /// A program where the model is fully int8 and its golden vectors hold there, else tract.
    #[default]
    Auto,
    /// A program, or nothing.
    Program,
    /// tract, whatever the model is.
    Tract,
    /// A program, and the ONNX model beside it for whoever wants to compare.
    Both,
}

/// The boards that a release is packed for: their class, and how a program is laid out for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Linux boards, which pack a program's weights for their own instruction set as they load it.
    #[default]
    Linux,
    /// Microcontrollers with a Cortex-M4, M7 or another core with the DSP extension.
    CortexM,
    /// Microcontrollers that run the portable kernels.
    Mcu,
}

impl Target {
    /// The class of boards.
    #[must_use]
    pub const fn class(self) -> BoardClass {
        match self {
            Self::Linux => BoardClass::Linux,
            Self::CortexM | Self::Mcu => BoardClass::Mcu,
        }
    }

    /// How a program is compiled for them.
    #[must_use]
    pub const fn options(self) -> Options {
        match self {
            Self::Linux => Options::linux(),
            Self::CortexM => Options::mcu(Layout::CortexM),
            Self::Mcu => Options::mcu(Layout::Natural),
        }
    }
}

/// Why no engine takes a model.
#[derive(Debug)]
#[non_exhaustive]
pub enum ModelError {
    /// It can't become a program, and nothing else was asked for or possible.
    Program(CompileError),
    /// tract does not take it.
    Tract(LoadError),
    /// Neither takes it.
    Neither(Box<(CompileError, LoadError)>),
    /// Microcontrollers run programs alone, and something else was asked for.
    ProgramsAlone,
    /// The compiler made a program that the verifier refuses: a fault of ours.
    Unsound(board::LoadError),
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(error) => write!(f, "no program can be made of it: {error}"),
            Self::Tract(error) => error.fmt(f),
            Self::Neither(both) => {
                let (program, tract) = &**both;
                write!(f, "{tract}; and no program can be made of it: {program}")
            }
            Self::ProgramsAlone => f.write_str(
                "microcontrollers run int8 programs alone; take engine `auto` or `program`, or \
                 target `linux`",
            ),
            Self::Unsound(error) => {
                write!(f, "the compiler made a program that is not sound: {error}")
            }
        }
    }
}

impl std::error::Error for ModelError {}

/// A model, loaded as boards load it.
#[derive(Debug)]
pub struct Model {
    /// The engine, with the model in it.
    pub engine: BoardEngine,
    /// Shape of the input, batch first.
    pub input_shape: Vec<usize>,
    /// Shape of the output, batch first.
    pub output_shape: Vec<usize>,
    /// The program, where there is one.
    pub program: Option<Compiled>,
    /// The boards that it is for.
    pub target: Target,
    /// Whether the bundle carries the ONNX file.
    pub carries_onnx: bool,
    /// Why this engine.
    pub why: String,
}

impl Model {
    /// Loads a TFLite or ONNX file into the engine of choice.
    ///
    /// # Errors
    /// [`ModelError`]: which operator or tensor is in the way, and what to do.
    pub fn load(bytes: &[u8], choice: EngineChoice) -> Result<Self, ModelError> {
        let onnx = Format::of(bytes) == Format::Onnx;
        if choice == EngineChoice::Tract {
            return Self::tract(bytes, "it was asked for".to_owned()).map_err(ModelError::Tract);
        }
        let compiled = match edgeward_compiler::compile(bytes, &Options::linux()) {
            Ok(compiled) => compiled,
            Err(error) if choice == EngineChoice::Auto && onnx => {
                return match Self::tract(bytes, error.to_string()) {
                    Ok(model) => Ok(model),
                    Err(tract) => Err(ModelError::Neither(Box::new((error, tract)))),
                };
            }
            Err(error) => return Err(ModelError::Program(error)),
        };
        Ok(Self {
            engine: BoardEngine::program(&compiled.program).map_err(ModelError::Unsound)?,
            input_shape: compiled.report.input_shape.clone(),
            output_shape: compiled.report.output_shape.clone(),
            carries_onnx: choice == EngineChoice::Both && onnx,
            program: Some(compiled),
            target: Target::Linux,
            why: "all its arithmetic is int8".to_owned(),
        })
    }

    /// Loads a TFLite or ONNX file as the boards of a target run it: for microcontrollers a program
    /// in their layout, by the portable kernels, which define what their own ones compute.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_for(
        bytes: &[u8],
        choice: EngineChoice,
        target: Target,
    ) -> Result<Self, ModelError> {
        match (target, choice) {
            (Target::Linux, _) => return Self::load(bytes, choice),
            (_, EngineChoice::Tract | EngineChoice::Both) => return Err(ModelError::ProgramsAlone),
            (_, EngineChoice::Auto | EngineChoice::Program) => {}
        }
        let compiled = edgeward_compiler::compile(bytes, &target.options());
        let compiled = compiled.map_err(ModelError::Program)?;
        let engine = ProgramEngine::with(&compiled.program, None)
            .map_err(|error| ModelError::Unsound(board::LoadError::Program(error)))?;
        Ok(Self {
            engine: BoardEngine::Program(Box::new(engine)),
            input_shape: compiled.report.input_shape.clone(),
            output_shape: compiled.report.output_shape.clone(),
            carries_onnx: false,
            program: Some(compiled),
            target,
            why: "microcontrollers run programs alone".to_owned(),
        })
    }

    /// Loads an ONNX file into tract.
    ///
    /// # Errors
    /// tract's own.
    pub fn tract(bytes: &[u8], why: String) -> Result<Self, LoadError> {
        let engine = edgeward::engine::tract::TractEngine::load(bytes, &Default::default())?;
        Ok(Self {
            input_shape: engine.input_shape().to_vec(),
            output_shape: engine.output_shape().to_vec(),
            engine: BoardEngine::Tract(Box::new(engine)),
            program: None,
            target: Target::Linux,
            carries_onnx: true,
            why,
        })
    }

    /// What the manifest says of the kernels.
    #[must_use]
    pub fn kernels(&self) -> &'static str {
        match self.program {
            Some(_) => board::kernels_of(self.target.options().layout),
            None => board::TRACT_KERNELS,
        }
    }

    /// Bytes of the arena that the manifest states; 0 where the engine allocates its own.
    #[must_use]
    pub fn arena_bytes(&self) -> u32 {
        let arena = self.program.as_ref().map(|it| it.report.plan.arena_bytes);
        u32::try_from(arena.unwrap_or(0)).unwrap_or(u32::MAX)
    }
}
