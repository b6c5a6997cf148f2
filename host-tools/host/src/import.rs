//! What a model is, and which boards can run it.

use crate::pack::load_engine;
use edgeward::engine::Engine;
use edgeward::engine::onnx::Description;
use edgeward::engine::tract::LoadError;
use serde::Serialize;

/// What was understood of a model. The field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The program that wrote it.
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
}

impl Import {
    /// Whether any board runs it.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.boards.iter().any(|board| board.runs)
    }
}

/// Reads a model and tries it.
///
/// # Errors
/// [`LoadError`] when it can't be read at all; a model that can be read and doesn't run is no error.
pub fn import(model: &[u8]) -> Result<Import, LoadError> {
    let description = Description::read(model)?;
    let tensors = |tensors: &[edgeward::engine::onnx::TensorInfo]| {
        let report = |tensor: &edgeward::engine::onnx::TensorInfo| TensorReport {
            name: tensor.name.clone(),
            element: tensor.element.clone(),
            shape: match &tensor.dims {
                Some(dims) => dims.iter().map(ToString::to_string).collect(),
                None => vec!["?".to_owned()],
            },
        };
        tensors.iter().map(report).collect()
    };
    let operators = description.operators.iter();
    Ok(Import {
        producer: description.producer.clone(),
        opset: description.opset,
        inputs: tensors(&description.inputs),
        outputs: tensors(&description.outputs),
        operators: operators
            .map(|(name, &count)| OperatorReport {
                name: name.clone(),
                count,
            })
            .collect(),
        quantization: description.quantization.to_string(),
        float_nodes: description.float_nodes.clone(),
        weight_bytes: description.weight_bytes,
        boards: vec![linux(model), microcontroller(&description)],
    })
}

fn linux(model: &[u8]) -> BoardReport {
    let report = |runs, why, next| BoardReport {
        class: "linux",
        engine: "tract",
        runs,
        why,
        next,
    };
    match load_engine(model) {
        Ok(engine) => report(
            true,
            format!(
                "{} values in, {} out; {}",
                engine.input_len(),
                engine.output_len(),
                engine.mode()
            ),
            None,
        ),
        Err(error) => {
            let next = advice(&error).to_owned();
            report(false, error.to_string(), Some(next))
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

fn microcontroller(description: &Description) -> BoardReport {
    let (why, next) = if description.fully_int8() {
        (
            "all its arithmetic is int8, but programs for microcontrollers are not made yet",
            "run it on a Linux board for now",
        )
    } else {
        (
            "a microcontroller runs programs whose arithmetic is all int8, and these are not made yet",
            "quantize it to int8 in full (ONNX Runtime: quantize_static with QDQ), and run it on a \
             Linux board for now",
        )
    };
    BoardReport {
        class: "mcu",
        engine: "program",
        runs: false,
        why: why.to_owned(),
        next: Some(next.to_owned()),
    }
}
