//! Operators in integer form: ONNX's own QLinearConv and QLinearMatMul, and those that ONNX
//! Runtime's quantizer writes (domain com.microsoft).

use super::Importer;
use super::error::{EXPORT, Result, USE_TRACT};
use super::lower::Context;
use super::value::{Form, Pending, Value};
use super::weights::Weights;
use crate::graph::{Activation, DType, Kind, TensorId, Unary};

impl Importer {
    /// An int8 activation with the scale that its reader says.
    fn scaled_input(
        &mut self,
        context: &Context<'_>,
        index: usize,
        scale: usize,
    ) -> Result<(TensorId, Form)> {
        let (quantization, declared) = self.activation_scale(context, scale, scale + 1)?;
        match self.value(context, index)?.clone() {
            Value::Int {
                tensor,
                form,
                unsigned,
            } if unsigned == declared => {
                self.agree(context, tensor, quantization)?;
                Ok((tensor, form))
            }
            Value::Int { .. } => {
                Err(context.error("its zero point has another type than its input", EXPORT))
            }
            _ => Err(context.error(
                format!("its input {} is not quantized", context.name(index)),
                EXPORT,
            )),
        }
    }

    /// Constant weights with the scale that their reader says.
    fn scaled_weights(
        &self,
        context: &Context<'_>,
        index: usize,
        scale: usize,
        axis: usize,
    ) -> Result<Weights> {
        let constant = self.constant(context, index)?.clone();
        let (mut quantization, _) = self.scale(context, scale, scale + 1)?;
        quantization.axis = axis;
        Weights::of(context, context.name(index), &constant, &quantization)
    }

    fn finished(&mut self, context: &Context<'_>, pending: Pending, scale: usize) -> Result<Value> {
        let (quantization, unsigned) = self.activation_scale(context, scale, scale + 1)?;
        let form = pending.form.clone();
        let name = context.node.outputs.first().map_or("", |name| name);
        let tensor = self.finish(pending, quantization, name);
        Ok(Value::Int {
            tensor,
            form,
            unsigned,
        })
    }

    pub(super) fn qlinear_conv(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.scaled_input(context, 0, 1)?;
        let weights = self.scaled_weights(context, 3, 4, 0)?;
        let pending = self.conv(context, tensor, &form, weights, 8)?;
        self.finished(context, pending, 6)
    }

    pub(super) fn qlinear_matmul(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.scaled_input(context, 0, 1)?;
        let last = self.constant(context, 3)?.shape.len().saturating_sub(1);
        let weights = self.scaled_weights(context, 3, 4, last)?;
        let pending = self.dense(context, tensor, &form, weights, false, usize::MAX)?;
        self.finished(context, pending, 6)
    }

    pub(super) fn contributed(&mut self, context: &Context<'_>) -> Result<Value> {
        match &*context.node.operator {
            "QuantizeLinear" | "DequantizeLinear" => self.standard(context),
            "QGemm" => {
                let (tensor, form) = self.scaled_input(context, 0, 1)?;
                let transposed = context.int("transB", 0) != 0;
                if context.int("transA", 0) != 0 || context.float("alpha", 1.0) != 1.0 {
                    return Err(context.error(
                        "transA and alpha must have their defaults",
                        "fold them into the weights",
                    ));
                }
                let weights = self.scaled_weights(context, 3, 4, usize::from(!transposed))?;
                let pending = self.dense(context, tensor, &form, weights, transposed, 6)?;
                self.finished(context, pending, 7)
            }
            "QLinearAdd" => self.qlinear_pair(context, |activation| Kind::Add { activation }),
            "QLinearMul" => self.qlinear_pair(context, |activation| Kind::Mul { activation }),
            "QLinearSigmoid" => self.qlinear_unary(context, Unary::Logistic),
            "QLinearLeakyRelu" => {
                let alpha = context.float("alpha", 0.01);
                self.qlinear_unary(context, Unary::LeakyRelu { alpha })
            }
            "QLinearAveragePool" | "QLinearGlobalAveragePool" | "QLinearSoftmax" => {
                let (tensor, form) = self.scaled_input(context, 0, 1)?;
                if context.int("channels_last", 0) != 0 {
                    return Err(context.error(
                        "channels_last is not supported",
                        "export with channels first",
                    ));
                }
                let pending = match &*context.node.operator {
                    "QLinearAveragePool" => self.average_pool(context, tensor, &form)?,
                    "QLinearSoftmax" => self.softmax(context, tensor, &form)?,
                    _ => self.global_average(context, tensor, &form, true)?,
                };
                self.finished(context, pending, 3)
            }
            "QLinearConcat" => {
                let count = context.node.inputs.len();
                if count < 5 || !(count - 2).is_multiple_of(3) {
                    return Err(context.error("its inputs do not come in threes", EXPORT));
                }
                let mut values = Vec::new();
                for index in (2..count).step_by(3) {
                    let (tensor, form) = self.scaled_input(context, index, index + 1)?;
                    values.push(Value::Real { tensor, form });
                }
                let pending = self.side_by_side(context, &values, context.int("axis", 1))?;
                self.finished(context, pending, 0)
            }
            _ => Err(context.error("this operator has no int8 form here", USE_TRACT)),
        }
    }

    fn qlinear_unary(&mut self, context: &Context<'_>, function: Unary) -> Result<Value> {
        self.scaled_input(context, 0, 1)?;
        let Value::Pending(pending) = self.unary(context, function)? else {
            return Err(context.error("its input is not quantized", EXPORT));
        };
        self.finished(context, pending, 3)
    }

    fn qlinear_pair(
        &mut self,
        context: &Context<'_>,
        kind: impl Fn(Activation) -> Kind,
    ) -> Result<Value> {
        let mut values = Vec::new();
        for (index, scale) in [(0, 1), (3, 4)] {
            let value = match self.value(context, index)?.clone() {
                Value::Constant(constant) => {
                    let (quantization, dtype) = self.scale(context, scale, scale + 1)?;
                    if dtype == DType::I32 {
                        return Err(
                            context.error("a constant operand is neither int8 nor uint8", EXPORT)
                        );
                    }
                    Value::RealConstant(constant, quantization)
                }
                _ => {
                    let (tensor, form) = self.scaled_input(context, index, scale)?;
                    Value::Real { tensor, form }
                }
            };
            values.push(value);
        }
        let pending = self.pair(context, &values[0], &values[1], kind(Activation::None))?;
        self.finished(context, pending, 6)
    }
}
