//! Operators in the QDQ form: real inputs, a real result that waits for its QuantizeLinear.

use super::constant::Constant;
use super::error::{EXPORT, OnnxError, QUANTIZE, Result, USE_TRACT};
use super::value::{Form, Value};
use super::{Importer, proto};
use crate::graph::{DType, Kind, Node, Quantization, Tensor, TensorId, Unary};

/// A node and where it stands.
pub(super) struct Context<'a> {
    pub(super) node: &'a proto::Node,
    pub(super) place: &'a str,
}

impl Context<'_> {
    pub(super) fn error(&self, why: impl Into<String>, advice: &str) -> OnnxError {
        let (outputs, inputs) = (self.node.outputs.iter(), self.node.inputs.iter());
        let tensor = outputs.chain(inputs).find(|name| !name.is_empty());
        let tensor = tensor.map_or("", |name| name);
        OnnxError::new(self.place, tensor, why, advice)
    }

    /// Name of an input; empty where it is absent.
    pub(super) fn name(&self, index: usize) -> &str {
        self.node.inputs.get(index).map_or("", |name| name)
    }
}

impl Importer {
    /// A new tensor of int8, or of another type by its `data`.
    pub(super) fn tensor(
        &mut self,
        name: &str,
        form: &Form,
        quantization: Option<Quantization>,
    ) -> TensorId {
        self.graph.tensors.push(Tensor {
            name: name.into(),
            shape: form.shape(),
            dtype: DType::I8,
            quantization,
            data: None,
        });
        TensorId(self.graph.tensors.len() - 1)
    }

    pub(super) fn constant_tensor(&mut self, tensor: Tensor) -> TensorId {
        self.graph.tensors.push(tensor);
        TensorId(self.graph.tensors.len() - 1)
    }

    pub(super) fn push(
        &mut self,
        name: &str,
        kind: Kind,
        inputs: Vec<Option<TensorId>>,
        output: TensorId,
    ) {
        self.graph.nodes.push(Node {
            name: name.into(),
            kind,
            inputs,
            outputs: vec![output],
        });
    }

    /// One more node that keeps its input's quantization; its output.
    pub(super) fn moved(
        &mut self,
        name: &str,
        kind: Kind,
        input: TensorId,
        form: &Form,
    ) -> TensorId {
        let quantization = self.graph.tensor(input).quantization.clone();
        let output = self.tensor(name, form, quantization);
        self.push(name, kind, vec![Some(input)], output);
        output
    }

    pub(super) fn value(&self, context: &Context<'_>, index: usize) -> Result<&Value> {
        let name = context.name(index);
        self.values.get(name).ok_or_else(|| {
            let why = if name.is_empty() {
                format!("its input {index} is absent")
            } else {
                format!("its input {name} is made by no earlier node")
            };
            context.error(why, EXPORT)
        })
    }

    pub(super) fn given(&self, context: &Context<'_>, index: usize) -> bool {
        !context.name(index).is_empty()
    }

    pub(super) fn constant(&self, context: &Context<'_>, index: usize) -> Result<&Constant> {
        match self.value(context, index)? {
            Value::Constant(constant) => Ok(constant),
            _ => {
                let why = format!("its input {} must be a constant", context.name(index));
                Err(context.error(why, "simplify the model (onnxsim) before importing it"))
            }
        }
    }

    /// Small integers of a constant: axes, pads, a shape.
    pub(super) fn integers(&self, context: &Context<'_>, index: usize) -> Result<Vec<i64>> {
        let ints = self.constant(context, index)?.ints().map(<[i64]>::to_vec);
        ints.ok_or_else(|| {
            context.error(
                format!("its input {} must hold integers", context.name(index)),
                EXPORT,
            )
        })
    }

    /// A quantized activation: its elements stand for reals (or are integers, in an operator that
    /// only moves them).
    pub(super) fn activation(
        &self,
        context: &Context<'_>,
        index: usize,
    ) -> Result<(TensorId, Form)> {
        let name = context.name(index);
        match self.value(context, index)? {
            Value::Real { tensor, form } => Ok((*tensor, form.clone())),
            Value::Int { tensor, form, .. } => Ok((*tensor, form.clone())),
            Value::Pending(_) | Value::Input(_) => {
                Err(context.error(format!("its input {name} is float"), QUANTIZE))
            }
            _ => Err(context.error(
                format!("its input {name} is a constant"),
                "fold constants (onnxsim) before importing",
            )),
        }
    }

    /// The same kind of value as input `index`, for operators that only move elements.
    pub(super) fn like(
        &self,
        context: &Context<'_>,
        index: usize,
        tensor: TensorId,
        form: Form,
    ) -> Value {
        match self.values.get(context.name(index)) {
            Some(&Value::Int { unsigned, .. }) => Value::Int {
                tensor,
                form,
                unsigned,
            },
            _ => Value::Real { tensor, form },
        }
    }

    pub(super) fn standard(&mut self, context: &Context<'_>) -> Result<Value> {
        match &*context.node.operator {
            "Constant" => {
                let tensor = context
                    .value()
                    .ok_or_else(|| context.error("it has no tensor value", EXPORT))?;
                Constant::read(tensor)
                    .map(Value::Constant)
                    .map_err(|it| context.error(it.why, it.advice))
            }
            "Identity" | "Dropout" => self.value(context, 0).cloned(),
            "QuantizeLinear" => self.quantize(context),
            "DequantizeLinear" => self.dequantize(context),
            "Conv" => self.conv_node(context),
            "Gemm" | "MatMul" => self.dense_node(context),
            "Relu" | "Clip" => self.clamp(context),
            "LeakyRelu" => {
                let alpha = context.float("alpha", 0.01);
                self.unary(context, Unary::LeakyRelu { alpha })
            }
            "HardSwish" => self.unary(context, Unary::HardSwish),
            "Sigmoid" => self.unary(context, Unary::Logistic),
            "Tanh" => self.unary(context, Unary::Tanh),
            "Add" | "Sub" | "Mul" | "Div" => self.elementwise(context),
            "MaxPool" | "GlobalMaxPool" => self.max_pool(context),
            "AveragePool" => {
                let (tensor, form) = self.activation(context, 0)?;
                self.average_pool(context, tensor, &form)
                    .map(Value::Pending)
            }
            "GlobalAveragePool" => {
                let (tensor, form) = self.activation(context, 0)?;
                self.global_average(context, tensor, &form, true)
                    .map(Value::Pending)
            }
            "ReduceMean" => self.reduce_mean(context),
            "Softmax" => {
                let (tensor, form) = self.activation(context, 0)?;
                self.softmax(context, tensor, &form).map(Value::Pending)
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(context),
            "Transpose" => self.transpose(context),
            "Concat" => self.concat(context),
            "Pad" => self.pad(context),
            "Slice" => self.slice(context),
            "QLinearConv" => self.qlinear_conv(context),
            "QLinearMatMul" => self.qlinear_matmul(context),
            "ConvInteger" | "MatMulInteger" => Err(context.error(
                "its result is int32, and nothing says which int8 that becomes",
                STATIC,
            )),
            "DynamicQuantizeLinear" => Err(context.error(
                "it finds a scale for each input when it runs; a program's scales are constants",
                STATIC,
            )),
            _ => Err(context.error("this operator has no int8 form here", USE_TRACT)),
        }
    }
}

/// What to do with models whose scales are found when they run.
const STATIC: &str = "quantize the float model with calibration data (edgeward quantize), or run \
    this one under tract on a Linux board";
