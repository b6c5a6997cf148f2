//! Scales: QuantizeLinear and DequantizeLinear, and what lies between them.

use super::Importer;
use super::constant::{Constant, Elements};
use super::error::{EXPORT, QUANTIZE, Result};
use super::lower::Context;
use super::pairs::{function_of, slot};
use super::value::{Form, Pending, Value};
use crate::graph::{Activation, DType, Kind, Quantization, TensorId, Unary};

impl Importer {
    /// Scale and zero point as constants; the type is that of the zero point, uint8 without one.
    pub(super) fn scale(
        &self,
        context: &Context<'_>,
        scale: usize,
        zero: usize,
    ) -> Result<(Quantization, DType)> {
        let name = context.name(scale).to_owned();
        let wrong = |why: &str| context.error(format!("its scale {name} {why}"), EXPORT);
        let scales = self.constant(context, scale)?;
        if scales.shape.len() > 1 {
            return Err(wrong(
                "has more than one axis, block by block; use a scale a tensor or a channel",
            ));
        }
        let scales = scales
            .floats()
            .ok_or_else(|| wrong("is not float"))?
            .to_vec();
        if scales.is_empty() || !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
            return Err(wrong("is not a positive number"));
        }
        let (zeros, dtype) = if self.given(context, zero) {
            match &self.constant(context, zero)?.elements {
                Elements::Int(zeros, dtype) => (zeros.clone(), *dtype),
                Elements::Float(_) => return Err(wrong("has a float zero point")),
            }
        } else {
            // An attribute may name the type that QuantizeLinear makes.
            let quantizes = context.node.operator == "QuantizeLinear";
            match context.int("output_dtype", 0) {
                3 if quantizes => (vec![0; scales.len()], DType::I8),
                0 | 2 => (vec![0; scales.len()], DType::U8),
                _ if !quantizes => (vec![0; scales.len()], DType::U8),
                _ => return Err(wrong("is for a type other than int8 or uint8")),
            }
        };
        if zeros.len() != scales.len() {
            return Err(wrong("has another number of zero points"));
        }
        let range = match dtype {
            DType::I8 => -128..=127,
            DType::U8 => 0..=255,
            DType::I32 => 0..=0,
            _ => return Err(wrong("is for a type other than int8, uint8 or int32")),
        };
        if !zeros.iter().all(|zero| range.contains(zero)) {
            return Err(wrong("has a zero point out of range"));
        }
        let zero_points = zeros.iter().map(|&zero| zero as i32).collect();
        Ok((
            Quantization {
                scales,
                zero_points,
                axis: 0,
            },
            dtype,
        ))
    }

    /// The scale of an activation, moved to int8, and whether the file has it as uint8.
    pub(super) fn activation_scale(
        &self,
        context: &Context<'_>,
        scale: usize,
        zero: usize,
    ) -> Result<(Quantization, bool)> {
        let (mut quantization, dtype) = self.scale(context, scale, zero)?;
        if quantization.scales.len() != 1 {
            return Err(context.error(
                "an activation has a scale a channel",
                "use one scale a tensor for activations",
            ));
        }
        match dtype {
            DType::I8 => Ok((quantization, false)),
            DType::U8 => {
                quantization.zero_points[0] -= 128;
                Ok((quantization, true))
            }
            _ => Err(context.error("an activation is neither int8 nor uint8", QUANTIZE)),
        }
    }

    pub(super) fn quantize(&mut self, context: &Context<'_>) -> Result<Value> {
        if let Value::Constant(constant) = self.value(context, 0)? {
            return self.folded(context, constant.clone());
        }
        let (quantization, unsigned) = self.activation_scale(context, 1, 2)?;
        if let Some(bits) = self.narrow(context, 2) {
            let why = format!("it makes an activation of {bits} bits");
            return Err(context.error(why, "quantize activations to int8 or uint8"));
        }
        let output = context.node.outputs.first().map_or("", |name| name);
        let (tensor, form) = match self.value(context, 0)?.clone() {
            Value::Input(affine) => {
                let form = Form::plain(affine.dims.clone());
                let tensor = self.tensor(context.name(0), &form, Some(quantization));
                if !self.graph.inputs.is_empty() {
                    return Err(
                        context.error("the graph's input is quantized twice", "quantize it once")
                    );
                }
                self.graph.inputs.push(tensor);
                self.graph.input_affine = affine.into_graph();
                self.graph.input_half_to_even = true;
                (tensor, form)
            }
            Value::Real { tensor, form } => {
                (self.requantized(tensor, &form, quantization, output), form)
            }
            Value::Pending(pending) => {
                let form = pending.form.clone();
                (self.finish(pending, quantization, output), form)
            }
            _ => return Err(context.error("its input is not float", EXPORT)),
        };
        Ok(Value::Int {
            tensor,
            form,
            unsigned,
        })
    }

    /// A constant, quantized as the file would when it runs: halves to even.
    pub(super) fn folded(&self, context: &Context<'_>, constant: Constant) -> Result<Value> {
        let (quantization, dtype) = self.scale(context, 1, 2)?;
        let floats = constant
            .floats()
            .ok_or_else(|| context.error("its input is not float", EXPORT))?;
        let axis = context.int("axis", 1);
        let narrow = self.narrow(context, 2);
        let most = 2_f32.powi(narrow.unwrap_or(8) as i32);
        let (low, high) = match dtype {
            DType::U8 => (0.0, most - 1.0),
            _ => (-most / 2.0, most / 2.0 - 1.0),
        };
        let inner = match quantization.scales.len() {
            1 => constant.elements(),
            count => {
                let axis = context.axis(axis, constant.shape.len())?;
                if constant.shape[axis] != count {
                    let why = "it has another number of scales than channels";
                    return Err(context.error(why, EXPORT));
                }
                constant.inner(axis)
            }
        };
        let ints = floats.iter().enumerate().map(|(i, &x)| {
            let channel = (i / inner.max(1)) % quantization.scales.len();
            let zero = quantization.zero_points[channel] as f32;
            ((x / quantization.scales[channel]).round_ties_even() + zero).clamp(low, high) as i64
        });
        let elements = Elements::Int(ints.collect(), dtype);
        Ok(Value::Constant(Constant {
            shape: constant.shape,
            elements,
            narrow,
        }))
    }

    /// Bits of a zero point's type, if they are less than eight.
    fn narrow(&self, context: &Context<'_>, zero: usize) -> Option<u32> {
        match self.values.get(context.name(zero)) {
            Some(Value::Constant(constant)) => constant.narrow,
            _ => None,
        }
    }

    pub(super) fn dequantize(&mut self, context: &Context<'_>) -> Result<Value> {
        if context.int("block_size", 0) != 0 {
            return Err(context.error(
                "scales block by block are not supported",
                "use a scale a tensor, or for weights a scale an output channel",
            ));
        }
        match self.value(context, 0)?.clone() {
            Value::Constant(constant) if constant.ints().is_none() => {
                Err(context.error("its input is float, not quantized", EXPORT))
            }
            Value::Constant(constant) => {
                let (mut quantization, _) = if self.given(context, 2) {
                    self.scale(context, 1, 2)?
                } else {
                    self.scale(context, 1, usize::MAX)?
                };
                if quantization.scales.len() > 1 {
                    quantization.axis =
                        context.axis(context.int("axis", 1), constant.shape.len())?;
                    if constant.shape[quantization.axis] != quantization.scales.len() {
                        return Err(
                            context.error("it has another number of scales than channels", EXPORT)
                        );
                    }
                }
                Ok(Value::RealConstant(constant, quantization))
            }
            Value::Int {
                tensor,
                form,
                unsigned,
            } => {
                let (mut quantization, mut declared) = self.activation_scale(context, 1, 2)?;
                if !self.given(context, 2) {
                    // It is 0 then, in the type of the input.
                    quantization.zero_points[0] = if unsigned { -128 } else { 0 };
                    declared = unsigned;
                }
                if declared != unsigned {
                    return Err(
                        context.error("its zero point has another type than its input", EXPORT)
                    );
                }
                self.agree(context, tensor, quantization)?;
                Ok(Value::Real { tensor, form })
            }
            _ => Err(context.error("its input is not quantized", EXPORT)),
        }
    }

    /// A tensor's scale is what its reader says, too.
    pub(super) fn agree(
        &mut self,
        context: &Context<'_>,
        tensor: TensorId,
        said: Quantization,
    ) -> Result<()> {
        let known = &mut self.graph.tensors[tensor.0].quantization;
        match known {
            Some(known) if known.scales != said.scales || known.zero_points != said.zero_points => {
                let why = format!(
                    "its input has scale {} and zero point {}, it reads it with {} and {}",
                    known.scales[0], known.zero_points[0], said.scales[0], said.zero_points[0]
                );
                Err(context.error(why, "quantize the value anew between the two"))
            }
            Some(_) => Ok(()),
            None => {
                *known = Some(said);
                self.spread_scales();
                Ok(())
            }
        }
    }

    /// What an integer input was moved to before anything said its scale has the same one: the input first, then
    /// whatever else is made of it.
    fn spread_scales(&mut self) {
        let moves = |kind: &Kind| {
            matches!(
                kind,
                Kind::Reshape | Kind::Transpose { .. } | Kind::Slice { .. } | Kind::Pad { .. }
            )
        };
        let nodes = self.graph.nodes.iter().filter(|node| moves(&node.kind));
        let pairs =
            nodes.filter_map(|node| Some((node.inputs.first().copied()??, *node.outputs.first()?)));
        let pairs: Vec<(TensorId, TensorId)> = pairs.collect();
        let back = pairs.iter().rev().map(|&(from, to)| (to, from));
        for (known, other) in back.chain(pairs.iter().copied()) {
            if self.graph.tensor(other).quantization.is_none() {
                let quantization = self.graph.tensor(known).quantization.clone();
                self.graph.tensors[other.0].quantization = quantization;
            }
        }
    }

    /// The same reals under another scale.
    pub(super) fn requantized(
        &mut self,
        tensor: TensorId,
        form: &Form,
        wanted: Quantization,
        name: &str,
    ) -> TensorId {
        if self.graph.tensor(tensor).quantization.as_ref() == Some(&wanted) {
            return tensor;
        }
        self.table(Unary::Requantize, tensor, form, wanted, name)
    }

    /// A function of the same reals, under another scale.
    fn table(
        &mut self,
        function: Unary,
        tensor: TensorId,
        form: &Form,
        wanted: Quantization,
        name: &str,
    ) -> TensorId {
        let output = self.tensor(name, form, Some(wanted));
        self.push(name, Kind::Unary(function), vec![Some(tensor)], output);
        output
    }

    /// The operator with its output's quantization.
    pub(super) fn finish(
        &mut self,
        mut pending: Pending,
        wanted: Quantization,
        name: &str,
    ) -> TensorId {
        if matches!(pending.kind, Kind::Concat { .. }) {
            for input in pending.inputs.iter_mut().flatten() {
                let form = Form::plain(self.graph.tensor(*input).shape.clone());
                *input = self.requantized(
                    *input,
                    &form,
                    wanted.clone(),
                    &format!("{} input", pending.name),
                );
            }
        }
        let made = pending.made.as_ref().unwrap_or(&pending.form);
        let own = pending.own.take().filter(|own| *own != wanted);
        let Some(own) = own else {
            let output = self.tensor(name, made, Some(wanted));
            self.push(&pending.name, pending.kind, pending.inputs, output);
            return self.reshaped(output, &pending.form, &pending.name);
        };
        // A limit is a number of the output's scale: the operator's own may be too coarse for it.
        let activation = slot(&mut pending.kind).map_or(Activation::None, std::mem::take);
        let output = self.tensor(name, made, Some(own));
        self.push(&pending.name, pending.kind, pending.inputs, output);
        let output = self.table(function_of(activation), output, made, wanted, name);
        self.reshaped(output, &pending.form, &pending.name)
    }
}
