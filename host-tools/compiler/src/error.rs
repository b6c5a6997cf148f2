//! Why a model was not compiled.

use thiserror::Error;

use crate::graph::DType;
use crate::onnx::OnnxError;

/// Why a model was not compiled: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The bytes are no file of the format.
    #[error("not a {format} file: {why}; give a TFLite or an ONNX file")]
    NotThisFormat {
        /// The format.
        format: &'static str,
        /// What gives it away.
        why: &'static str,
    },
    /// The file contradicts its own schema.
    #[error("broken {format} file: {table}.{field} at byte {at}: {why}; export the model again")]
    Malformed {
        /// The format.
        format: &'static str,
        /// The table or message.
        table: &'static str,
        /// Its field.
        field: &'static str,
        /// Offset of the table in the file.
        at: usize,
        /// What the reader met.
        why: String,
    },
    /// The file reads well, and its content contradicts itself.
    #[error("inconsistent model: {place}: {why}; export the model again, or ask whoever wrote it")]
    Inconsistent {
        /// A tensor or operator by name.
        place: String,
        /// The contradiction.
        why: String,
    },
    /// The model is sound and asks for something that programs do not have.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// An ONNX graph that can't become a program.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The program that came out does not pass the verifier: it exceeds a limit of the executor.
    #[error(
        "the executor would refuse the program: {0:?}; run the model under tract on a Linux board"
    )]
    Rejected(edgeward::program::ProgramError),
    /// A number is beyond what a program can hold.
    #[error(
        "{place}: {what} is {value}, and a program holds at most {limit}; make the model smaller"
    )]
    TooLarge {
        /// A tensor or operator by name.
        place: String,
        /// What is too large.
        what: &'static str,
        /// How large.
        value: u64,
        /// The limit.
        limit: u64,
    },
}

/// Something that programs do not have: the operator, the tensor, why, and what to do.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("operator {index} {operator}{}: {reason}; {}", tensor_of(.tensor), .reason.advice())]
pub struct Refusal {
    /// The operator's kind.
    pub operator: String,
    /// Its place in the file.
    pub index: usize,
    /// The tensor concerned.
    pub tensor: Option<String>,
    /// Why.
    pub reason: Reason,
}

fn tensor_of(name: &Option<String>) -> String {
    name.as_ref()
        .map(|name| format!(", tensor \"{name}\""))
        .unwrap_or_default()
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// The operator itself.
    #[error("programs have no such operator")]
    Operator,
    /// An operator that the model's author wrote.
    #[error("the custom operator \"{0}\" is code that this file does not carry")]
    Custom(String),
    /// An element type.
    #[error("its elements are {found}, and programs compute in int8")]
    Type {
        /// The type's name.
        found: String,
    },
    /// A setting of the operator.
    #[error("{setting} is {value}, which programs do not have")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// A shape.
    #[error("its shape {shape:?} is not supported: {why}")]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// What about it.
        why: &'static str,
    },
    /// A quantization.
    #[error("its quantization is not supported: {0}")]
    Quantization(String),
    /// A tensor that should be constant.
    #[error("it is computed by the model, and must be a constant")]
    NotConstant,
    /// An extent that only a run would tell.
    #[error("its shape is not known before the model runs")]
    DynamicShape,
    /// More or fewer tensors at the border than one.
    #[error("the model has {0} of them, and a program has one")]
    Border(usize),
    /// A tensor kept from run to run.
    #[error("it keeps a state from one run to the next")]
    State,
    /// Sparse data.
    #[error("its data is sparse")]
    Sparse,
    /// Data elsewhere.
    #[error("its data lies outside the file")]
    External,
}

impl Reason {
    /// What whoever made the model can do.
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Operator | Self::Custom(_) | Self::Setting { .. } => {
                "replace the operator, or run the model under tract on a Linux board"
            }
            Self::Type { .. } => {
                "quantize the whole model to int8 (full-integer quantization with a \
                 representative data set), or run it under tract on a Linux board"
            }
            Self::Quantization(_) => {
                "quantize again: activations per tensor, weights symmetric to int8, biases to int32"
            }
            Self::Shape { .. } => "export the model with a batch of one and at most four axes",
            Self::NotConstant => "fold it into the model when exporting",
            Self::DynamicShape => "export the model with fixed shapes and a batch of one",
            Self::Border(_) => "cut the model to one input and one output",
            Self::State => {
                "export the model without resource variables and feed its state as input"
            }
            Self::Sparse => "export the model with dense weights",
            Self::External => "export the model as one file",
        }
    }
}

impl DType {
    /// The type's usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::F32 => "float32",
        }
    }
}
