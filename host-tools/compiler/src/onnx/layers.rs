//! Convolutions and products of matrices, with their weights and biases.

use super::Importer;
use super::constant::{Constant, Elements};
use super::error::{QUANTIZE, Result, USE_TRACT};
use super::lower::Context;
use super::scales::SYMMETRIC;
use super::value::{Form, Pending, Value};
use crate::graph::{Activation, DType, Kind, Quantization, Tensor, TensorId, Window};

/// Symmetric int8 weights in the file's order.
pub(super) struct Weights {
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<i8>,
    pub(super) scales: Vec<f32>,
    pub(super) axis: usize,
}

impl Importer {
    /// Weights with their scales, symmetric.
    pub(super) fn weights(&self, context: &Context<'_>, index: usize) -> Result<Weights> {
        let name = context.name(index);
        match self.value(context, index)? {
            Value::RealConstant(constant, quantization) => {
                symmetric(context, name, constant, quantization)
            }
            Value::Constant(_) => Err(context.error(
                format!("its weights {name} are float"),
                "quantize them: int8, symmetric, a scale an output channel",
            )),
            _ => Err(context.error(format!("its weights {name} are not constant"), USE_TRACT)),
        }
    }

    pub(super) fn conv_node(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let weights = self.weights(context, 1)?;
        self.conv(context, tensor, &form, weights, 2)
            .map(Value::Pending)
    }

    /// A convolution, grouped by channel or not at all.
    pub(super) fn conv(
        &mut self,
        context: &Context<'_>,
        tensor: TensorId,
        form: &Form,
        weights: Weights,
        bias: usize,
    ) -> Result<Pending> {
        let (tensor, form) = self.channels_last(tensor, form, context.place)?;
        let rank = form.dims.len();
        if weights.shape.len() != rank || weights.axis != 0 && weights.scales.len() > 1 {
            return Err(context.error(
                format!(
                    "its weights {:?} do not fit its input {:?}",
                    weights.shape, form.dims
                ),
                "",
            ));
        }
        let (outputs, depth, kernel) = (weights.shape[0], weights.shape[1], &weights.shape[2..]);
        let (channels, spatial) = (form.dims[1], &form.dims[2..]);
        let window = context.window(kernel, spatial)?;
        let mut dims = vec![1, outputs];
        dims.extend(context.slid(&window, spatial)?);
        let bias = self.bias(context, bias, tensor, &weights, outputs)?;
        let scales = Quantization {
            zero_points: vec![0; weights.scales.len()],
            scales: weights.scales,
            axis: 0,
        };
        let kinds = grouping(context, &window, [outputs, depth, channels])?;
        let (kind, shape, order, axis) = kinds;
        // From [a, b, taps] to [a, taps, b].
        let data = permuted(&weights.data, &order, &[0, 2, 1, 3]);
        let weights = self.constant_tensor(Tensor {
            name: context.name(1).into(),
            shape,
            dtype: DType::I8,
            quantization: Some(Quantization { axis, ..scales }),
            data: Some(bytes(&data)),
        });
        Ok(Pending {
            name: context.place.into(),
            kind,
            inputs: vec![Some(tensor), Some(weights), bias],
            form: Form::last(dims),
            own: None,
        })
    }

    /// A bias as int32 at the scale of the accumulator.
    pub(super) fn bias(
        &mut self,
        context: &Context<'_>,
        index: usize,
        input: TensorId,
        weights: &Weights,
        outputs: usize,
    ) -> Result<Option<TensorId>> {
        if !self.given(context, index) {
            return Ok(None);
        }
        let name = context.name(index).to_owned();
        let reals = self.reals(context, index)?;
        if reals.len() != outputs && reals.len() != 1 {
            return Err(context.error(
                format!(
                    "its bias {name} has {} elements for {outputs} outputs",
                    reals.len()
                ),
                "",
            ));
        }
        self.bias_of(context, &name, &reals, input, &weights.scales, outputs)
            .map(Some)
    }

    /// The constant reals of an input, in f64.
    pub(super) fn reals(&self, context: &Context<'_>, index: usize) -> Result<Vec<f64>> {
        let name = context.name(index);
        match self.value(context, index)? {
            Value::Constant(constant) => match constant.floats() {
                Some(floats) => Ok(floats.iter().map(|&x| f64::from(x)).collect()),
                None => Err(context.error(format!("{name} is not float"), "")),
            },
            Value::RealConstant(constant, quantization) => Ok(constant.reals(quantization)),
            _ => Err(context.error(format!("{name} must be a constant"), "")),
        }
    }

    pub(super) fn bias_of(
        &mut self,
        context: &Context<'_>,
        name: &str,
        reals: &[f64],
        input: TensorId,
        scales: &[f32],
        outputs: usize,
    ) -> Result<TensorId> {
        let input_scale = self.input_scale(context, input)?;
        let mut data = Vec::with_capacity(4 * outputs);
        let mut bias_scales = Vec::with_capacity(scales.len());
        bias_scales.extend(
            scales
                .iter()
                .map(|&scale| (f64::from(scale) * input_scale) as f32),
        );
        for channel in 0..outputs {
            let scale =
                f64::from(scales[if scales.len() == 1 { 0 } else { channel }]) * input_scale;
            let quantized = (reals[if reals.len() == 1 { 0 } else { channel }] / scale).round();
            if !(f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&quantized) {
                let why = format!(
                    "its bias {name} does not fit 32 bits at the scale of channel {channel}"
                );
                return Err(context.error(why, "calibrate it anew: a scale is far too small"));
            }
            data.extend((quantized as i32).to_le_bytes());
        }
        Ok(self.constant_tensor(Tensor {
            name: name.into(),
            shape: vec![outputs],
            dtype: DType::I32,
            quantization: Some(Quantization {
                zero_points: vec![0; bias_scales.len()],
                scales: bias_scales,
                axis: 0,
            }),
            data: Some(data),
        }))
    }

    pub(super) fn input_scale(&self, context: &Context<'_>, input: TensorId) -> Result<f64> {
        let tensor = self.graph.tensor(input);
        let scale = tensor
            .quantization
            .as_ref()
            .map(|it| f64::from(it.scales[0]));
        scale.ok_or_else(|| context.error(format!("{} has no scale", tensor.name), QUANTIZE))
    }

    pub(super) fn dense_node(&mut self, context: &Context<'_>) -> Result<Value> {
        let (tensor, form) = self.activation(context, 0)?;
        let weights = self.weights(context, 1)?;
        let transposed = context.node.operator == "Gemm" && context.int("transB", 0) != 0;
        if context.node.operator == "Gemm"
            && (context.int("transA", 0) != 0
                || context.float("alpha", 1.0) != 1.0
                || context.float("beta", 1.0) != 1.0)
        {
            return Err(context.error(
                "transA, alpha and beta must have their defaults",
                "fold them into the weights",
            ));
        }
        self.dense(context, tensor, &form, weights, transposed, 2)
            .map(Value::Pending)
    }

    /// A product with constant weights `[in, out]`, or `[out, in]` where `transposed`.
    pub(super) fn dense(
        &mut self,
        context: &Context<'_>,
        tensor: TensorId,
        form: &Form,
        weights: Weights,
        transposed: bool,
        bias: usize,
    ) -> Result<Pending> {
        let tensor = self.channels_first(tensor, form, context.place)?;
        let &[rows, columns] = &weights.shape[..] else {
            return Err(context.error(
                format!("its weights {:?} are not a matrix", weights.shape),
                USE_TRACT,
            ));
        };
        let (inputs, outputs) = if transposed {
            (columns, rows)
        } else {
            (rows, columns)
        };
        let output_axis = usize::from(!transposed);
        if weights.scales.len() > 1 && weights.axis != output_axis {
            return Err(context.error(
                "its weights have a scale an input, not one an output",
                SYMMETRIC,
            ));
        }
        if form.dims.last() != Some(&inputs) || form.dims.len() < 2 {
            return Err(context.error(
                format!(
                    "its weights {:?} do not fit its input {:?}",
                    weights.shape, form.dims
                ),
                "",
            ));
        }
        let bias = self.bias(context, bias, tensor, &weights, outputs)?;
        let data = if transposed {
            weights.data
        } else {
            permuted(&weights.data, &[inputs, outputs, 1, 1], &[1, 0, 2, 3])
        };
        let scales = Quantization {
            zero_points: vec![0; weights.scales.len()],
            scales: weights.scales,
            axis: 0,
        };
        let weights = self.constant_tensor(Tensor {
            name: context.name(1).into(),
            shape: vec![outputs, inputs],
            dtype: DType::I8,
            quantization: Some(scales),
            data: Some(bytes(&data)),
        });
        let mut dims = form.dims.clone();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        Ok(Pending {
            name: context.place.into(),
            kind: Kind::Dense {
                activation: Activation::None,
            },
            inputs: vec![Some(tensor), Some(weights), bias],
            form: Form::plain(dims),
            own: None,
        })
    }

    /// Takes a constant that is added to a product of matrices as its bias.
    pub(super) fn biased(
        &mut self,
        context: &Context<'_>,
        mut pending: Pending,
        constant: usize,
        product: usize,
    ) -> Result<Value> {
        let single = self.uses.get(context.name(product)) == Some(&1);
        let inputs = pending.inputs.clone();
        let (
            Kind::Dense {
                activation: Activation::None,
            },
            &[Some(input), Some(weights), None],
            true,
        ) = (&pending.kind, &inputs[..], single)
        else {
            return Err(context.error("one of its inputs is float", QUANTIZE));
        };
        let outputs = self.graph.tensor(weights).shape[0];
        let reals = self.reals(context, constant)?;
        if reals.len() != outputs && reals.len() != 1 {
            return Err(context.error(format!("{} biases for {outputs} outputs", reals.len()), ""));
        }
        let scales = self
            .graph
            .tensor(weights)
            .quantization
            .clone()
            .map_or_else(Vec::new, |it| it.scales);
        let name = context.name(constant).to_owned();
        pending.inputs[2] = Some(self.bias_of(context, &name, &reals, input, &scales, outputs)?);
        Ok(Value::Pending(pending))
    }
}

/// A convolution's kind by its groups, with shape, order and channel axis of its weights.
fn grouping(
    context: &Context<'_>,
    window: &Window,
    [outputs, depth, channels]: [usize; 3],
) -> Result<(Kind, Vec<usize>, [usize; 4], usize)> {
    let window = *window;
    let [height, width] = window.kernel;
    let groups = usize::try_from(context.int("group", 1)).unwrap_or(0);
    let activation = Activation::None;
    if groups == 1 && depth == channels {
        let kind = Kind::Conv { window, activation };
        let shape = vec![outputs, height, width, channels];
        return Ok((kind, shape, [outputs, channels, height * width, 1], 0));
    }
    if groups == channels && depth == 1 && outputs % channels == 0 {
        let kind = Kind::Depthwise {
            window,
            multiplier: outputs / channels,
            activation,
        };
        let shape = vec![1, height, width, outputs];
        return Ok((kind, shape, [1, outputs, height * width, 1], 3));
    }
    let why =
        format!("{groups} groups over {channels} channels: neither one group nor one a channel");
    Err(context.error(
        why,
        "split the convolution by group, or run the model under tract on a Linux board",
    ))
}

pub(super) fn symmetric(
    context: &Context<'_>,
    name: &str,
    constant: &Constant,
    quantization: &Quantization,
) -> Result<Weights> {
    let refuse = || context.error(format!("its weights {name} are not symmetric"), SYMMETRIC);
    let Elements::Int(ints, dtype) = &constant.elements else {
        return Err(refuse());
    };
    let centre = match dtype {
        DType::I8 => 0,
        DType::U8 => 128,
        _ => {
            return Err(context.error(
                format!("its weights {name} are neither int8 nor uint8"),
                SYMMETRIC,
            ));
        }
    };
    if quantization.zero_points.iter().any(|&zero| zero != centre) {
        return Err(refuse());
    }
    Ok(Weights {
        shape: constant.shape.clone(),
        data: ints
            .iter()
            .map(|&int| (int - i64::from(centre)) as i8)
            .collect(),
        scales: quantization.scales.clone(),
        axis: quantization.axis,
    })
}

/// Elements of four axes in another order of them.
pub(super) fn permuted(data: &[i8], shape: &[usize; 4], permutation: &[usize; 4]) -> Vec<i8> {
    let strides = [
        shape[1] * shape[2] * shape[3],
        shape[2] * shape[3],
        shape[3],
        1,
    ];
    let [a, b, c, d] = permutation.map(|axis| (shape[axis], strides[axis]));
    let mut all = Vec::with_capacity(data.len());
    for i in 0..a.0 {
        for j in 0..b.0 {
            for k in 0..c.0 {
                all.extend((0..d.0).map(|l| data[i * a.1 + j * b.1 + k * c.1 + l * d.1]));
            }
        }
    }
    all
}

pub(super) fn bytes(data: &[i8]) -> Vec<u8> {
    data.iter().map(|&int| int.cast_unsigned()).collect()
}
