//! Why an ONNX graph is refused.

/// A refusal: where, what, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{}: {why}; {advice}", tensor_of(tensor))]
pub struct OnnxError {
    /// Operator and node, as `Conv (conv1)`, or the part of the file.
    pub place: String,
    /// The tensor that it is about: of a node its output; empty where it is about none.
    pub tensor: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub advice: String,
}

fn tensor_of(name: &str) -> String {
    match name {
        "" => String::new(),
        name => format!(", tensor \"{name}\""),
    }
}

/// What to do with a file that contradicts itself or the standard.
pub(super) const EXPORT: &str = "check the file (onnx.checker) and export it again";
/// What to do with constants of a type that programs do not have.
pub(super) const QUANTIZE_CONSTANTS: &str = "quantize weights and zero points to int8 or uint8 and \
    biases to int32, or run the model under tract on a Linux board";
/// What to do with a graph that is not quantized all through.
pub(super) const QUANTIZE: &str = "quantize it so that this value lies between QuantizeLinear and \
    DequantizeLinear, or run the model under tract on a Linux board";
/// What to do with a value that would be part of the operator behind it, if that were its only reader.
pub(super) const SHARED: &str = "put QuantizeLinear and DequantizeLinear behind it, which all of its readers \
    then read, or run the model under tract on a Linux board";
/// What to do with an operator that has no integer form here.
pub(super) const USE_TRACT: &str = "replace it by a supported operator, or run the model under \
    tract on a Linux board";
/// What to do with shapes that are not known.
pub(super) const FIX_SHAPES: &str = "export the model with fixed shapes and a batch of 1";

pub(super) type Result<T, E = OnnxError> = core::result::Result<T, E>;

impl OnnxError {
    pub(super) fn new(place: &str, tensor: &str, why: impl Into<String>, advice: &str) -> Self {
        Self {
            place: place.into(),
            tensor: tensor.into(),
            why: why.into(),
            advice: advice.into(),
        }
    }
}
