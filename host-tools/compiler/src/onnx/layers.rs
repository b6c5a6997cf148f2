//! Convolutions and products of matrices, with their weights and biases.

use super::Importer;
use super::constant::{Constant, Elements};
use super::error::{EXPORT, OnnxError, QUANTIZE, Result, USE_TRACT};
use super::lower::Context;
use super::value::{Form, Pending, Value};
use super::weights::{SYMMETRIC, Weights, in_turn};
use crate::graph::{Activation, DType, Kind, Quantization, Tensor, TensorId, Window};

impl Importer {
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
            return Err(misfit(context, &weights, &form));
        }
        let (outputs, depth, kernel) = (weights.shape[0], weights.shape[1], &weights.shape[2..]);
        let said = context.ints("kernel_shape").unwrap_or_default();
        if !said.is_empty() && !said.iter().copied().eq(kernel.iter().map(|&it| it as i64)) {
            let why = format!("its kernel_shape {said:?} is not that of its weights, {kernel:?}");
            return Err(context.error(why, EXPORT));
        }
        let (channels, spatial) = (form.dims[1], &form.dims[2..]);
        let window = context.window(kernel, spatial)?;
        let mut dims = vec![1, outputs];
        dims.extend(context.slid(&window, spatial)?);
        let bias = self.bias(context, bias, tensor, &weights, outputs)?;
        let (mut kind, mut shape, order, axis) =
            grouping(context, &window, [outputs, depth, channels])?;
        // From [a, b, taps] to [a, taps, b].
        let ordered = |part: &Vec<i8>| permuted(part, &order, &[0, 2, 1, 3]);
        let parts: Vec<_> = weights.parts().iter().map(ordered).collect();
        let (tensor, run) = match &mut kind {
            Kind::Depthwise { window, .. } => {
                taller(context, window, parts.len())?;
                shape[1] = window.kernel[0];
                let tensor = self.repeated_rows(tensor, parts.len(), context.place);
                (tensor, window.kernel[1] * outputs)
            }
            _ => {
                shape[3] *= parts.len();
                let tensor = self.repeated(tensor, 3, parts.len(), context.place);
                (tensor, channels)
            }
        };
        let data = in_turn(&parts, run);
        let weights = self.weight_tensor(weights, shape, data, axis);
        Ok(Pending {
            name: context.place.into(),
            kind,
            inputs: vec![Some(tensor), Some(weights), bias],
            form: Form::last(dims),
            made: None,
            own: None,
        })
    }

    /// Symmetric int8 weights as the graph has them.
    fn weight_tensor(
        &mut self,
        weights: Weights,
        shape: Vec<usize>,
        data: Vec<u8>,
        axis: usize,
    ) -> TensorId {
        self.constant_tensor(Tensor {
            name: weights.name,
            shape,
            dtype: DType::I8,
            quantization: Some(Quantization {
                zero_points: vec![0; weights.scales.len()],
                scales: weights.scales,
                axis,
            }),
            data: Some(data),
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
        let shape = &self.known(context, index)?.shape;
        let fits = match &*context.node.operator {
            // One axis, and no number for all.
            "Conv" | "QLinearConv" => *shape == [outputs],
            _ => is_bias(shape, outputs),
        };
        if !fits {
            let why = format!("its bias {name} is {shape:?} for {outputs} outputs");
            return Err(context.error(why, EXPORT));
        }
        let reals = match &*context.node.operator {
            "QLinearConv" | "QGemm" => self.sums(context, index, input, &weights.scales)?,
            _ => self.reals(context, index)?,
        };
        self.bias_of(context, &name, &reals, input, &weights.scales, outputs)
            .map(Some)
    }

    /// The reals of an int32 bias without a scale of its own: an operator in integer form adds it to
    /// its sums.
    fn sums(
        &self,
        context: &Context<'_>,
        index: usize,
        input: TensorId,
        scales: &[f32],
    ) -> Result<Vec<f64>> {
        let Elements::Int(ints, DType::I32) = &self.constant(context, index)?.elements else {
            let why = format!("its bias {} is not int32", context.name(index));
            return Err(context.error(why, EXPORT));
        };
        let input = self.input_scale(context, input)?;
        let of = |at: usize| ints[at % ints.len()] as f64;
        let scale = |at: usize| f64::from(scales[at % scales.len()]) * input;
        let count = ints.len().max(scales.len());
        Ok((0..count).map(|at| of(at) * scale(at)).collect())
    }

    /// A constant, with a scale or without.
    pub(super) fn known(&self, context: &Context<'_>, index: usize) -> Result<&Constant> {
        match self.value(context, index)? {
            Value::Constant(constant) | Value::RealConstant(constant, _) => Ok(constant),
            _ => {
                let why = format!("{} must be a constant", context.name(index));
                Err(context.error(why, EXPORT))
            }
        }
    }

    /// The constant reals of an input, in f64.
    pub(super) fn reals(&self, context: &Context<'_>, index: usize) -> Result<Vec<f64>> {
        let constant = self.known(context, index)?;
        match (self.value(context, index)?, constant.floats()) {
            (Value::RealConstant(_, quantization), _) => Ok(constant.reals(quantization)),
            (_, Some(floats)) => Ok(floats.iter().map(|&x| f64::from(x)).collect()),
            (_, None) => {
                let why = format!("{} is not float", context.name(index));
                Err(context.error(why, EXPORT))
            }
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

    /// A product with constant weights `[in, out]`, or `[out, in]` where `transposed`, perhaps with a
    /// batch of one before them.
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
        let (&[rows, columns] | &[1, rows, columns]) = &weights.shape[..] else {
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
        // A batch of one before the weights is one before the product.
        let weights_axes = weights.shape.len();
        let output_axis = weights_axes - 2 + usize::from(!transposed);
        if weights.scales.len() > 1 && weights.axis != output_axis {
            return Err(context.error(
                "its weights have a scale an input, not one an output",
                SYMMETRIC,
            ));
        }
        if form.dims.last() != Some(&inputs) || form.dims.len() < 2 {
            return Err(misfit(context, &weights, form));
        }
        let bias = self.bias(context, bias, tensor, &weights, outputs)?;
        let mut parts = weights.parts();
        if !transposed {
            for part in &mut parts {
                *part = permuted(part, &[inputs, outputs, 1, 1], &[1, 0, 2, 3]);
            }
        }
        let tensor = self.repeated(tensor, form.dims.len() - 1, parts.len(), context.place);
        let shape = vec![outputs, inputs * parts.len()];
        let data = in_turn(&parts, inputs);
        let weights = self.weight_tensor(weights, shape, data, 0);
        let ones = weights_axes.saturating_sub(form.dims.len());
        let mut dims = vec![1; ones];
        dims.extend(&form.dims);
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
            made: None,
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
        let inputs = pending.inputs.clone();
        let (
            Kind::Dense {
                activation: Activation::None,
            },
            &[Some(input), Some(weights), None],
        ) = (&pending.kind, &inputs[..])
        else {
            return Err(context.error("one of its inputs is float", QUANTIZE));
        };
        self.read_once(context, product)?;
        let outputs = self.graph.tensor(weights).shape[0];
        let shape = &self.known(context, constant)?.shape;
        if !is_bias(shape, outputs) || shape.len() > pending.form.dims.len() {
            let (why, next) = (
                format!("it adds {shape:?} to a product with {outputs} outputs"),
                "add one number an output, or quantize the product before the sum",
            );
            return Err(context.error(why, next));
        }
        let reals = self.reals(context, constant)?;
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

/// Whether a constant is one number an output, or one for all: only its last axis is longer than one.
fn is_bias(shape: &[usize], outputs: usize) -> bool {
    let (last, rows) = shape.split_last().unwrap_or((&1, &[]));
    *last != 0 && [1, outputs].contains(last) && rows.iter().all(|&extent| extent == 1)
}

fn misfit(context: &Context<'_>, weights: &Weights, form: &Form) -> OnnxError {
    let (weights, input) = (&weights.shape, &form.dims);
    context.error(
        format!("its weights {weights:?} do not fit its input {input:?}"),
        EXPORT,
    )
}

/// A window over an image whose every row is there `count` times: one of its rows becomes as many.
fn taller(context: &Context<'_>, window: &mut Window, count: usize) -> Result<()> {
    if count == 1 {
        return Ok(());
    }
    if window.kernel[0] > 1 && window.dilation[0] > 1 {
        return Err(context.error(
            "its weights do not fit int8 less their zero point, and its rows are dilated",
            SYMMETRIC,
        ));
    }
    window.kernel[0] *= count;
    window.stride[0] *= count;
    window.dilation[0] = 1;
    window.padding[0] *= count;
    window.padding[2] *= count;
    Ok(())
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

/// Elements of four axes in another order of them.
pub(super) fn permuted<T: Copy>(
    data: &[T],
    shape: &[usize; 4],
    permutation: &[usize; 4],
) -> Vec<T> {
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
