//! What a model is, and which boards can run it.

use crate::inspect::program::{self, OperatorSection};
use crate::model::{EngineChoice, Model, ModelError};
use crate::pack::ProgramReport;
use edgeward::engine::Engine;
use edgeward::engine::onnx::{Description, TensorInfo};
use edgeward::engine::tract::LoadError;
use edgeward::program::{Layout, OwnedProgram};
use edgeward_compiler::graph::{Graph, Kind, TensorId};
use edgeward_compiler::{CompileError, Compiled, Format, Options, compile, tflite};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What was understood of a model. The field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// `onnx` or `tflite`.
    pub format: &'static str,
    /// The program that wrote it; empty where the file does not say.
    pub producer: String,
    /// Version of the operator set; 0 where the file does not say.
    pub opset: i64,
    /// Inputs: name, type and shape.
    pub inputs: Vec<TensorReport>,
    /// Outputs: name, type and shape.
    pub outputs: Vec<TensorReport>,
    /// How often each operator occurs.
    pub operators: Vec<OperatorReport>,
    /// How it is quantized.
    pub quantization: String,
    /// Nodes that compute in float in a quantized model.
    pub float_nodes: Vec<String>,
    /// Bytes of the weights.
    pub weight_bytes: usize,
    /// Which boards run it.
    pub boards: Vec<BoardReport>,
}

/// A tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub element: String,
    /// Its shape; a name or `?` where an extent is open.
    pub shape: Vec<String>,
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorReport {
    /// Its name.
    pub name: String,
    /// How often it occurs.
    pub count: usize,
}

/// Whether a class of boards runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BoardReport {
    /// The class.
    pub class: &'static str,
    /// The engine that would run it there.
    pub engine: &'static str,
    /// Whether it runs.
    pub runs: bool,
    /// How, or why not.
    pub why: String,
    /// What to do about it.
    pub next: Option<String>,
    /// The program that it runs, if it does so by one.
    pub program: Option<BoardProgram>,
}

/// The program that a class of boards runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BoardProgram {
    /// What it costs, how far its plan is from what no plan can do without, and what sets its memory,
    /// by the names of the model.
    #[serde(flatten)]
    pub report: ProgramReport,
    /// A line an operator.
    pub listing: Vec<String>,
    /// Its operators.
    pub operators: Vec<OperatorSection>,
}

impl BoardProgram {
    fn of(compiled: &Compiled) -> Option<Self> {
        let program = OwnedProgram::new(&compiled.program).ok()?;
        let program = program.program();
        Some(Self {
            report: ProgramReport::of(compiled),
            listing: program::lines(&program),
            operators: program::operators(&program),
        })
    }
}

impl Import {
    /// Whether any board runs it.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.boards.iter().any(|board| board.runs)
    }
}

/// Why a file is no model at all.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImportError {
    /// An ONNX file that can't be read.
    Onnx(LoadError),
    /// A TFLite file that can't be read.
    Tflite(CompileError),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Onnx(error) => error.fmt(f),
            Self::Tflite(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ImportError {}

impl ImportError {
    /// What to do about it.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self {
            Self::Onnx(error) => advice(error),
            Self::Tflite(_) => {
                "give the file as its converter wrote it, TFLite or ONNX, with its weights inside"
            }
        }
    }
}

/// Reads a model and tries it.
///
/// # Errors
/// [`ImportError`] when it can't be read at all, or is a TFLite file that contradicts itself; a sound
/// model that doesn't run is no error.
pub fn import(model: &[u8]) -> Result<Import, ImportError> {
    let compiled = compile(model, &Options::mcu(Layout::CortexM));
    let boards = || vec![linux(model), microcontroller(&compiled)];
    match Format::of(model) {
        Format::Onnx => {
            let boards = boards();
            let description = Description::read(model).map_err(ImportError::Onnx)?;
            Ok(of_onnx(description, boards))
        }
        Format::Tflite => match (tflite::read(model), &compiled) {
            // It reads well, and contradicts itself.
            (_, Err(error @ CompileError::Inconsistent { .. })) => {
                Err(ImportError::Tflite(error.clone()))
            }
            (Ok(graph), _) => Ok(of_graph(&graph, boards())),
            // Sound, and no program can be made of it: the boards say why.
            (Err(CompileError::Refused(_)), _) => Ok(of_graph(&Graph::default(), boards())),
            (Err(error), _) => Err(ImportError::Tflite(error)),
        },
    }
}

fn of_onnx(description: Description, boards: Vec<BoardReport>) -> Import {
    let tensors = |tensors: &[TensorInfo]| {
        let report = |tensor: &TensorInfo| TensorReport {
            name: tensor.name.clone(),
            element: tensor.element.clone(),
            shape: match &tensor.dims {
                Some(dims) => dims.iter().map(ToString::to_string).collect(),
                None => vec!["?".to_owned()],
            },
        };
        tensors.iter().map(report).collect()
    };
    Import {
        format: "onnx",
        inputs: tensors(&description.inputs),
        outputs: tensors(&description.outputs),
        producer: description.producer,
        opset: description.opset,
        operators: operators(&description.operators),
        quantization: description.quantization.to_string(),
        float_nodes: description.float_nodes,
        weight_bytes: description.weight_bytes,
        boards,
    }
}

/// A TFLite file, as far as it became a graph.
fn of_graph(graph: &Graph, boards: Vec<BoardReport>) -> Import {
    let tensor = |&id: &TensorId| {
        let tensor = graph.tensor(id);
        TensorReport {
            name: tensor.name.clone(),
            element: tensor.dtype.name().to_owned(),
            shape: tensor.shape.iter().map(ToString::to_string).collect(),
        }
    };
    let mut kinds = BTreeMap::new();
    for node in &graph.nodes {
        *kinds.entry(kind(&node.kind)).or_default() += 1;
    }
    let constants = graph.tensors.iter().filter_map(|it| it.data.as_ref());
    Import {
        format: "tflite",
        producer: String::new(),
        opset: 0,
        inputs: graph.inputs.iter().map(tensor).collect(),
        outputs: graph.outputs.iter().map(tensor).collect(),
        operators: operators(&kinds),
        quantization: match graph.nodes.is_empty() {
            true => "unknown",
            false => "int8",
        }
        .to_owned(),
        float_nodes: Vec::new(),
        weight_bytes: constants.map(Vec::len).sum(),
        boards,
    }
}

/// Name of a kind of node: the word before its settings.
fn kind(kind: &Kind) -> String {
    let text = match kind {
        Kind::Unary(function) => format!("{function:?}"),
        kind => format!("{kind:?}"),
    };
    let end = text.find(|c: char| !c.is_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

fn operators(counts: &BTreeMap<String, usize>) -> Vec<OperatorReport> {
    let report = |(name, &count): (&String, &usize)| OperatorReport {
        name: name.clone(),
        count,
    };
    counts.iter().map(report).collect()
}

fn linux(bytes: &[u8]) -> BoardReport {
    let report = |engine, runs, why, next, program| BoardReport {
        class: "linux",
        engine,
        runs,
        why,
        next,
        program,
    };
    match Model::load(bytes, EngineChoice::Auto) {
        Ok(model) => {
            let engine = &model.engine;
            let (inputs, outputs) = (engine.input_len(), engine.output_len());
            // Why there is no program is what the line of microcontrollers says.
            let why = format!("{inputs} values in, {outputs} out; {engine}");
            let program = model.program.as_ref().and_then(BoardProgram::of);
            report(engine.name(), true, why, None, program)
        }
        Err(error) => {
            let (engine, next) = match &error {
                ModelError::Tract(tract) => ("tract", Some(advice(tract).to_owned())),
                ModelError::Neither(both) => ("tract", Some(advice(&both.1).to_owned())),
                // The compiler's refusals end with what to do.
                _ => ("program", None),
            };
            report(engine, false, error.to_string(), next, None)
        }
    }
}

/// What to do about a model that the engine refuses.
fn advice(error: &LoadError) -> &'static str {
    match error {
        LoadError::Parse { .. } | LoadError::Wire(_) | LoadError::Tensor { .. } => {
            "export the model as ONNX again"
        }
        LoadError::ExternalData { .. } => "save it with the weights inside",
        LoadError::Operators { .. } => {
            "export with an older operator set, or replace these operators by simpler ones"
        }
        LoadError::InputCount { .. } => "join the inputs to one and split it inside the model",
        LoadError::Input { .. } => "export with a fixed float input; only the batch may be open",
        LoadError::Output { .. } => {
            "export with one float output of known shape; for scikit-learn, pass zipmap=False"
        }
        _ => "simplify the graph (onnxsim), or export with another operator set",
    }
}

fn microcontroller(compiled: &Result<Compiled, CompileError>) -> BoardReport {
    let (runs, why, program) = match compiled {
        Ok(compiled) => {
            let (report, flash) = (&compiled.report, compiled.program.len());
            let (macs, arena) = (report.macs, report.plan.arena_bytes);
            let why = format!("{macs} multiplications; {flash} bytes of flash, {arena} of RAM");
            (true, why, BoardProgram::of(compiled))
        }
        Err(error) => (false, error.to_string(), None),
    };
    BoardReport {
        class: "mcu",
        engine: "program",
        runs,
        why,
        next: None,
        program,
    }
}
