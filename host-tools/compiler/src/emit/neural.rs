//! Convolutions and dense layers.

use edgeward::program::layout;
use edgeward::program::op::{self, Channel, Conv, ConvAdd, Dense, Depthwise, Op, Plane, Quantizer};

use super::scale::{self, activation_range};
use super::{At, Emitter};
use super::{Weights, layout::Output};
use crate::error::{CompileError, Reason};
use crate::graph::{Activation, DType, Kind, Tensor, TensorId, Window};

/// Where the weight of output channel, and which index of its channel, lies in TFLite's order.
#[derive(Clone, Copy)]
enum Order {
    /// Output channel slowest: convolutions and dense layers.
    OutputFirst,
    /// Output channel fastest: depthwise convolutions.
    OutputLast,
}

impl Emitter<'_> {
    pub(super) fn conv(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let Kind::Conv { window, activation } = at.node.kind else {
            return Ok(());
        };
        let (input, output) = (self.input(at, 0)?, self.output(at)?);
        let (it, macs) = self.stored_conv(at, window, activation, output)?;
        self.push(at.index, Op::Conv(it), &[input], output, macs);
        Ok(())
    }

    pub(super) fn conv_add(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let Kind::ConvAdd {
            window,
            activation,
            between,
            sum,
        } = at.node.kind
        else {
            return Ok(());
        };
        let (input, other, output) = (self.input(at, 0)?, self.input(at, 3)?, self.output(at)?);
        let (conv, macs) = self.stored_conv(at, window, activation, between)?;
        let add = self.add_scale(at, other, between, output, sum)?;
        let op = Op::ConvAdd(ConvAdd {
            conv,
            other: 0,
            add,
        });
        self.push(at.index, op, &[input, other], output, macs);
        Ok(())
    }

    /// A convolution with its constants stored, and its multiplications.
    fn stored_conv(
        &mut self,
        at: &At<'_>,
        window: Window,
        activation: Activation,
        output: TensorId,
    ) -> Result<(Conv, u64), CompileError> {
        let (input, weights) = (self.input(at, 0)?, self.input(at, 1)?);
        let mut it = self.conv_record(at, window, activation, input, output)?;
        let macs = it.output.bytes() * layout::conv_taps(&it);
        let channels = self.channels(at, Order::OutputFirst, output, &it.quantizer)?;
        let bytes = self.layout.conv(&it, self.constant(at, weights)?);
        it.weights = self.store_weights(&bytes);
        it.channels = self.store(&channels, 4);
        Ok((it, macs))
    }

    fn conv_record(
        &self,
        at: &At<'_>,
        window: Window,
        activation: Activation,
        input: TensorId,
        output: TensorId,
    ) -> Result<Conv, CompileError> {
        let (_, input_zero_point) = at.activation(self.graph.tensor(input))?;
        Ok(Conv {
            input: self.plane(at, input)?,
            output: self.plane(at, output)?,
            window: self.window(at, &window)?,
            input_zero_point,
            quantizer: self.quantizer(at, output, activation)?,
            weights: 0,
            channels: 0,
            scratch: 0,
        })
    }

    pub(super) fn depthwise(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let Kind::Depthwise {
            window,
            multiplier,
            activation,
        } = at.node.kind
        else {
            return Ok(());
        };
        let (input, weights, output) = (self.input(at, 0)?, self.input(at, 1)?, self.output(at)?);
        let (_, input_zero_point) = at.activation(self.graph.tensor(input))?;
        let mut it = Depthwise {
            input: self.plane(at, input)?,
            output: self.plane(at, output)?,
            window: self.window(at, &window)?,
            multiplier: at.fit("the depth multiplier", multiplier)?,
            input_zero_point,
            quantizer: self.quantizer(at, output, activation)?,
            weights: 0,
            channels: 0,
            scratch: 0,
        };
        let channels = self.channels(at, Order::OutputLast, output, &it.quantizer)?;
        let bytes = self.layout.depthwise(&it, self.constant(at, weights)?);
        it.weights = self.store_weights(&bytes);
        it.channels = self.store(&channels, 4);
        let taps = u64::from(it.window.kernel_h) * u64::from(it.window.kernel_w);
        let macs = it.output.bytes() * taps;
        self.push(at.index, Op::Depthwise(it), &[input], output, macs);
        Ok(())
    }

    pub(super) fn dense(&mut self, at: &At<'_>) -> Result<(), CompileError> {
        let Kind::Dense { activation } = at.node.kind else {
            return Ok(());
        };
        let (input, weights, output) = (self.input(at, 0)?, self.input(at, 1)?, self.output(at)?);
        let &[outputs, inputs] = self.graph.tensor(weights).shape.as_slice() else {
            let tensor = self.graph.tensor(weights);
            let why = "weights of a dense layer have two axes";
            return Err(at.refuse(
                Some(tensor),
                Reason::Shape {
                    shape: tensor.shape.clone(),
                    why,
                },
            ));
        };
        let rows = self.graph.tensor(input).elements() / inputs.max(1);
        let mut it = Dense {
            input: 0,
            output: 0,
            rows: at.fit("the number of vectors", rows)?,
            inputs: at.fit("the number of inputs", inputs)?,
            outputs: at.fit("the number of outputs", outputs)?,
            quantizer: self.quantizer(at, output, activation)?,
            weights: 0,
            channels: 0,
            scratch: 0,
        };
        let channels = self.channels(at, Order::OutputFirst, output, &it.quantizer)?;
        let bytes = self.layout.dense(&it, self.constant(at, weights)?);
        it.weights = self.store_weights(&bytes);
        it.channels = self.store(&channels, 4);
        let macs = (rows * inputs * outputs) as u64;
        self.push(at.index, Op::Dense(it), &[input], output, macs);
        Ok(())
    }

    fn store_weights(&mut self, bytes: &[u8]) -> u32 {
        self.out.weight_bytes += bytes.len() as u64;
        self.store(bytes, edgeward::program::ALIGNMENT)
    }

    /// A tensor of four axes as a plane that begins at its region's start.
    pub(super) fn plane(&self, at: &At<'_>, id: TensorId) -> Result<Plane, CompileError> {
        let tensor = self.graph.tensor(id);
        let &[1, height, width, channels] = tensor.shape.as_slice() else {
            let why = "one image of height, width and channels is needed";
            return Err(at.refuse(
                Some(tensor),
                Reason::Shape {
                    shape: tensor.shape.clone(),
                    why,
                },
            ));
        };
        Ok(Plane {
            offset: 0,
            height: at.fit("the height", height)?,
            width: at.fit("the width", width)?,
            channels: at.fit("the number of channels", channels)?,
        })
    }

    pub(super) fn window(&self, at: &At<'_>, window: &Window) -> Result<op::Window, CompileError> {
        Ok(op::Window {
            kernel_h: at.fit("the window's height", window.kernel[0])?,
            kernel_w: at.fit("the window's width", window.kernel[1])?,
            stride_h: at.fit("the vertical stride", window.stride[0])?,
            stride_w: at.fit("the horizontal stride", window.stride[1])?,
            dilation_h: at.fit("the vertical dilation", window.dilation[0])?,
            dilation_w: at.fit("the horizontal dilation", window.dilation[1])?,
            pad_top: at.fit("the padding", window.padding[0])?,
            pad_left: at.fit("the padding", window.padding[1])?,
        })
    }

    pub(super) fn quantizer(
        &self,
        at: &At<'_>,
        output: TensorId,
        activation: Activation,
    ) -> Result<Quantizer, CompileError> {
        let (scale, zero_point) = at.activation(self.graph.tensor(output))?;
        let [min, max] = activation_range(activation, scale, zero_point);
        Ok(Quantizer {
            zero_point,
            min,
            max,
        })
    }

    /// The [`Channel`]s of a layer's outputs, input zero points folded into biases.
    fn channels(
        &self,
        at: &At<'_>,
        order: Order,
        output: TensorId,
        quantizer: &Quantizer,
    ) -> Result<Vec<u8>, CompileError> {
        let input = self.graph.tensor(self.input(at, 0)?);
        let weights_id = self.input(at, 1)?;
        let weights = self.graph.tensor(weights_id);
        let output = self.graph.tensor(output);
        let ((input_scale, zero_point), (output_scale, _)) =
            (at.activation(input)?, at.activation(output)?);
        let data = self.constant(at, weights_id)?;
        let outputs = match order {
            Order::OutputFirst => weights.shape.first(),
            Order::OutputLast => weights.shape.last(),
        };
        let outputs = outputs.copied().unwrap_or(0).max(1);
        let biases = self.biases(at, outputs)?;
        let mut made = Vec::with_capacity(outputs);
        let taps = data.len() / outputs;
        for (out, bias) in biases.into_iter().enumerate() {
            let weight = |tap: usize| match order {
                Order::OutputFirst => data[out * taps + tap],
                Order::OutputLast => data[tap * outputs + out],
            };
            let sum: i64 = (0..taps)
                .map(|tap| i64::from(weight(tap).cast_signed()))
                .sum();
            let bias = i64::from(bias) - i64::from(zero_point) * sum;
            let bias = i32::try_from(bias).map_err(|_| CompileError::TooLarge {
                place: at.node.name.clone(),
                what: "a bias with the input's zero point folded in",
                value: bias.unsigned_abs(),
                limit: i32::MAX as u64,
            })?;
            let quantization = weights.quantization.as_ref();
            let scales = quantization.map_or(&[][..], |it| it.scales.as_slice());
            let value = match scales {
                &[one] => scale::layer_scale(input_scale, one, output_scale),
                many if many.len() == outputs => {
                    scale::layer_scale(input_scale, many[out], output_scale)
                }
                _ => return Err(at.quantization(weights, "its scales are not one an output")),
            };
            let scale = at.scale(weights, value, 30)?;
            let channel = Channel {
                bias,
                multiplier: scale.multiplier,
                shift: scale.shift,
            };
            let weights = (0..taps).map(|tap| weight(tap).cast_signed());
            made.push(Output::new(channel, weights));
        }
        let kind = match order {
            Order::OutputFirst => Weights::Matrix,
            Order::OutputLast => Weights::Halfwords,
        };
        Ok(self.layout.channels(kind, &made, quantizer))
    }

    /// Biases, zeros where there are none.
    fn biases(&self, at: &At<'_>, outputs: usize) -> Result<Vec<i32>, CompileError> {
        let Some(id) = at.node.inputs.get(2).copied().flatten() else {
            return Ok(vec![0; outputs]);
        };
        let tensor = self.graph.tensor(id);
        if tensor.dtype != DType::I32 {
            let found = tensor.dtype.name().into();
            return Err(at.refuse(Some(tensor), Reason::Type { found }));
        }
        let data = self.constant(at, id)?;
        let biases: Vec<_> = data
            .as_chunks()
            .0
            .iter()
            .map(|&it| i32::from_le_bytes(it))
            .collect();
        if biases.len() != outputs {
            return Err(self.bad_bias(at, tensor, outputs));
        }
        Ok(biases)
    }

    fn bad_bias(&self, at: &At<'_>, tensor: &Tensor, outputs: usize) -> CompileError {
        CompileError::Inconsistent {
            place: at.node.name.clone(),
            why: format!(
                "bias \"{}\" has shape {:?} for {outputs} outputs",
                tensor.name, tensor.shape
            ),
        }
    }
}
