//! Graphs as ONNX files: QDQ, channels first, float at the border.

use edgeward_compiler::graph::{
    Activation, DType, Graph, Kind, Node, Tensor, TensorId, Unary, Window,
};

/// Numbers of types in `TensorProto`.
const FLOAT: u64 = 1;
const INT8: u64 = 3;
const INT32: u64 = 6;
const INT64: u64 = 7;

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) -> &mut Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn float(&mut self, field: u64, value: f32) -> &mut Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(&mut self, field: u64, text: &str) -> &mut Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(&mut self, field: u64, message: &Self) -> &mut Self {
        self.bytes(field, &message.0)
    }
}

/// An attribute of a node.
enum Attribute<'a> {
    Int(&'a str, i64),
    Ints(&'a str, Vec<usize>),
    Float(&'a str, f32),
}

struct Writer<'a> {
    graph: &'a Graph,
    /// `GraphProto`.
    out: Message,
    nodes: usize,
}

/// The file; an error names what the writer lacks.
pub fn write(graph: &Graph) -> Result<Vec<u8>, String> {
    let mut writer = Writer {
        graph,
        out: Message::default(),
        nodes: 0,
    };
    writer.out.text(2, "twin");
    for &input in &graph.inputs {
        writer.quantize_named("input", input)?;
        let value = writer.border("input", input);
        writer.out.message(11, &value);
    }
    let mut last = String::new();
    for node in &graph.nodes {
        last = writer.node(node)?;
    }
    let &[output] = graph.outputs.as_slice() else {
        return Err(format!("{} outputs", graph.outputs.len()));
    };
    let value = writer.border(&last, output);
    writer.out.message(12, &value);
    let mut opset = Message::default();
    opset.number(2, 13);
    let mut model = Message::default();
    model
        .number(1, 8)
        .message(7, &writer.out)
        .message(8, &opset);
    Ok(model.0)
}

/// The name of a quantized activation.
fn quantized(id: TensorId) -> String {
    format!("q{}", id.0)
}

/// A shape with its channels first.
fn channels_first(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [batch, height, width, channels] => vec![batch, channels, height, width],
        _ => shape.to_vec(),
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|it| it.to_le_bytes()).collect()
}

impl Writer<'_> {
    /// `ValueInfoProto` of a float tensor.
    fn border(&self, name: &str, id: TensorId) -> Message {
        let mut shape = Message::default();
        for extent in channels_first(&self.graph.tensor(id).shape) {
            let mut dimension = Message::default();
            dimension.number(1, extent as u64);
            shape.message(1, &dimension);
        }
        let (mut tensor, mut kind, mut value) =
            (Message::default(), Message::default(), Message::default());
        tensor.number(1, FLOAT).message(2, &shape);
        kind.message(1, &tensor);
        value.text(1, name).message(2, &kind);
        value
    }

    fn constant(&mut self, name: &str, shape: &[usize], kind: u64, data: &[u8]) {
        let mut tensor = Message::default();
        for &extent in shape {
            tensor.number(1, extent as u64);
        }
        tensor.number(2, kind).text(8, name).bytes(9, data);
        self.out.message(5, &tensor);
    }

    /// Appends a node; gives its output's name.
    fn emit(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[Attribute<'_>],
    ) -> String {
        let mut node = Message::default();
        for input in inputs {
            node.text(1, input);
        }
        self.nodes += 1;
        node.text(2, output)
            .text(3, &format!("{op} {}", self.nodes))
            .text(4, op);
        for attribute in attributes {
            let mut message = Message::default();
            match attribute {
                Attribute::Int(name, value) => {
                    message
                        .text(1, name)
                        .number(3, value.cast_unsigned())
                        .number(20, 2);
                }
                Attribute::Ints(name, values) => {
                    message.text(1, name);
                    for &value in values {
                        message.number(8, value as u64);
                    }
                    message.number(20, 7);
                }
                Attribute::Float(name, value) => {
                    message.text(1, name).float(2, *value).number(20, 1);
                }
            }
            node.message(5, &message);
        }
        self.out.message(1, &node);
        output.to_owned()
    }

    /// Writes scale and zero point of an activation; gives their names.
    fn scale(&mut self, id: TensorId) -> Result<[String; 2], String> {
        let tensor = self.graph.tensor(id);
        let pair = tensor.per_tensor();
        let (scale, zero) = pair.ok_or_else(|| format!("{} has no one scale", tensor.name))?;
        self.nodes += 1;
        let names = ["scale", "zero"].map(|it| format!("{it} {}", self.nodes));
        self.constant(&names[0], &[], FLOAT, &floats(&[scale]));
        self.constant(&names[1], &[], INT8, &zero.to_le_bytes());
        Ok(names)
    }

    fn quantize_named(&mut self, from: &str, id: TensorId) -> Result<String, String> {
        let [scale, zero] = self.scale(id)?;
        Ok(self.emit(
            "QuantizeLinear",
            &[from, &scale, &zero],
            &quantized(id),
            &[],
        ))
    }

    /// The float of an activation.
    fn activation(&mut self, id: TensorId) -> Result<String, String> {
        let [scale, zero] = self.scale(id)?;
        let output = format!("x{} {}", id.0, self.nodes);
        Ok(self.emit(
            "DequantizeLinear",
            &[&quantized(id), &scale, &zero],
            &output,
            &[],
        ))
    }

    /// The float of weights or biases, their data in another order where `order` says so.
    fn parameter(&mut self, id: TensorId, order: Option<[usize; 4]>) -> Result<String, String> {
        let tensor = self.graph.tensor(id);
        let (Some(data), Some(quantization)) = (&tensor.data, &tensor.quantization) else {
            return Err(format!("{} is no constant", tensor.name));
        };
        let (kind, zero) = match tensor.dtype {
            DType::I8 => (INT8, 1),
            DType::I32 => (INT32, 4),
            other => return Err(format!("parameters of {other:?}")),
        };
        let (shape, data) = match order {
            Some(order) => permuted(tensor, data, order),
            None => (tensor.shape.clone(), data.clone()),
        };
        let name = format!("w{}", id.0);
        self.constant(&name, &shape, kind, &data);
        let count = quantization.scales.len();
        let extents: &[usize] = if count == 1 { &[] } else { &[count] };
        let [scale, zeros] = ["scale", "zero"].map(|it| format!("{it} of {name}"));
        self.constant(&scale, extents, FLOAT, &floats(&quantization.scales));
        self.constant(&zeros, extents, kind, &vec![0; zero * count]);
        let axis = [Attribute::Int("axis", 0)];
        let output = format!("{name} float");
        let axis = if count == 1 { &[][..] } else { &axis[..] };
        Ok(self.emit("DequantizeLinear", &[&name, &scale, &zeros], &output, axis))
    }

    /// A fused activation, then the quantization; a graph's output becomes float again.
    fn finish(
        &mut self,
        node: &Node,
        value: String,
        activation: Activation,
    ) -> Result<String, String> {
        let id = node.outputs[0];
        let value = match activation {
            Activation::None => value,
            Activation::Relu => self.emit("Relu", &[&value], &format!("relu{}", id.0), &[]),
            Activation::Relu6 => self.clip(&value, 0.0, 6.0),
            Activation::ReluN1To1 => self.clip(&value, -1.0, 1.0),
            Activation::Clamp { low, high } => self.clip(&value, low, high),
        };
        self.quantize_named(&value, id)?;
        if self.graph.outputs.contains(&id) {
            return self.activation(id);
        }
        Ok(value)
    }

    fn node(&mut self, node: &Node) -> Result<String, String> {
        let input = node.inputs[0].ok_or("an operator without input")?;
        let output = format!("y{}", node.outputs[0].0);
        match &node.kind {
            Kind::Conv { window, activation } => {
                let value = self.conv(node, [0, 3, 1, 2], 1, window, &output)?;
                self.finish(node, value, *activation)
            }
            Kind::Depthwise {
                window, activation, ..
            } => {
                let groups = *self.graph.tensor(input).shape.last().unwrap_or(&1);
                let value = self.conv(node, [3, 0, 1, 2], groups, window, &output)?;
                self.finish(node, value, *activation)
            }
            Kind::Dense { activation } => {
                let mut inputs = vec![self.activation(input)?];
                for &id in node.inputs[1..].iter().flatten() {
                    inputs.push(self.parameter(id, None)?);
                }
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let value = self.emit("Gemm", &inputs, &output, &[Attribute::Int("transB", 1)]);
                self.finish(node, value, *activation)
            }
            Kind::Add { activation } | Kind::Sub { activation } | Kind::Mul { activation } => {
                let other = node.inputs[1].ok_or("a sum of one")?;
                let (a, b) = (self.activation(input)?, self.activation(other)?);
                let value = self.emit(node.kind.name(), &[&a, &b], &output, &[]);
                self.finish(node, value, *activation)
            }
            Kind::AveragePool { window, activation } | Kind::MaxPool { window, activation } => {
                let from = self.activation(input)?;
                let attributes = sliding(window, true);
                let value = self.emit(node.kind.name(), &[&from], &output, &attributes);
                self.finish(node, value, *activation)
            }
            _ => {
                let value = self.plain(node, input, &output)?;
                self.finish(node, value, Activation::None)
            }
        }
    }

    /// An operator without a fused activation.
    fn plain(&mut self, node: &Node, input: TensorId, output: &str) -> Result<String, String> {
        let four = self.graph.tensor(input).shape.len() == 4;
        match &node.kind {
            Kind::Mean { axes } if axes == &[1, 2] && four => {
                let from = self.activation(input)?;
                let pooled = format!("{output} pooled");
                let value = self.emit("GlobalAveragePool", &[&from], &pooled, &[]);
                let shape = channels_first(&self.graph.tensor(node.outputs[0]).shape);
                Ok(self.reshape(&value, &shape, output))
            }
            Kind::Softmax { .. } => {
                let from = self.activation(input)?;
                let axis = [Attribute::Int("axis", if four { 1 } else { -1 })];
                Ok(self.emit("Softmax", &[&from], output, &axis))
            }
            Kind::Unary(function) => {
                let from = self.activation(input)?;
                self.unary(*function, from, output)
            }
            Kind::Transpose { permutation } => {
                let from = self.activation(input)?;
                self.transpose(&from, permutation, output)
            }
            Kind::Concat { axis } => {
                let ids = node.inputs.iter().flatten();
                let inputs: Result<Vec<_>, _> = ids.map(|&id| self.activation(id)).collect();
                let inputs = inputs?;
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let axis = if four { [0, 2, 3, 1][*axis] } else { *axis };
                let axis = [Attribute::Int("axis", axis as i64)];
                Ok(self.emit("Concat", &inputs, output, &axis))
            }
            Kind::Pad { padding, value } => self.pad(input, padding, *value, output),
            Kind::Reshape => self.reshaped(input, node.outputs[0], output),
            other => Err(format!("operator {}", other.name())),
        }
    }

    /// A float constant of no axes; gives its name.
    fn scalar(&mut self, value: f32) -> String {
        self.nodes += 1;
        let name = format!("scalar {}", self.nodes);
        self.constant(&name, &[], FLOAT, &floats(&[value]));
        name
    }

    fn clip(&mut self, value: &str, min: f32, max: f32) -> String {
        let (min, max) = (self.scalar(min), self.scalar(max));
        let output = format!("{value} clipped");
        self.emit("Clip", &[value, &min, &max], &output, &[])
    }

    fn unary(&mut self, function: Unary, from: String, output: &str) -> Result<String, String> {
        let named = match function {
            Unary::Relu6 => return Ok(self.clip(&from, 0.0, 6.0)),
            Unary::Clamp { low, high } => return Ok(self.clip(&from, low, high)),
            Unary::Requantize => return Ok(from),
            Unary::HardSwish => {
                let (three, sixth) = (self.scalar(3.0), self.scalar(1.0 / 6.0));
                let above = self.emit("Add", &[&from, &three], &format!("{output} above"), &[]);
                let gate = self.clip(&above, 0.0, 6.0);
                let gated = self.emit("Mul", &[&from, &gate], &format!("{output} gated"), &[]);
                return Ok(self.emit("Mul", &[&gated, &sixth], output, &[]));
            }
            Unary::LeakyRelu { alpha } => {
                let alpha = [Attribute::Float("alpha", alpha)];
                return Ok(self.emit("LeakyRelu", &[&from], output, &alpha));
            }
            Unary::Relu => "Relu",
            Unary::Logistic => "Sigmoid",
            Unary::Tanh => "Tanh",
            other => return Err(format!("function {other:?}")),
        };
        Ok(self.emit(named, &[&from], output, &[]))
    }

    /// A transpose of four axes, which means channels last.
    fn transpose(&mut self, from: &str, order: &[usize], output: &str) -> Result<String, String> {
        let &[a, b, c, d] = order else {
            return Err(format!("a transpose of {} axes", order.len()));
        };
        let first = |axis: usize| [0, 2, 3, 1][axis];
        let order = [first(a), first(d), first(b), first(c)];
        let order = [Attribute::Ints("perm", order.to_vec())];
        Ok(self.emit("Transpose", &[from], output, &order))
    }

    fn pad(
        &mut self,
        input: TensorId,
        padding: &[[usize; 2]],
        value: i8,
        output: &str,
    ) -> Result<String, String> {
        let &[a, b, c, d] = padding else {
            return Err(format!("padding of {} axes", padding.len()));
        };
        let (scale, zero) = self
            .graph
            .tensor(input)
            .per_tensor()
            .ok_or("no one scale")?;
        let value = f32::from(i16::from(value) - i16::from(zero)) * scale;
        let (from, value) = (self.activation(input)?, self.scalar(value));
        let ends = [0, 1].map(|end| [a, d, b, c].map(|both| both[end] as i64));
        let data: Vec<u8> = ends
            .concat()
            .iter()
            .flat_map(|it| it.to_le_bytes())
            .collect();
        let name = format!("padding of {output}");
        self.constant(&name, &[8], INT64, &data);
        Ok(self.emit("Pad", &[&from, &name, &value], output, &[]))
    }

    fn conv(
        &mut self,
        node: &Node,
        order: [usize; 4],
        groups: usize,
        window: &Window,
        output: &str,
    ) -> Result<String, String> {
        let [Some(input), Some(weights), bias] = node.inputs[..] else {
            return Err(format!("{} inputs of a convolution", node.inputs.len()));
        };
        let mut inputs = vec![
            self.activation(input)?,
            self.parameter(weights, Some(order))?,
        ];
        if let Some(bias) = bias {
            inputs.push(self.parameter(bias, None)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut attributes = sliding(window, false);
        attributes.push(Attribute::Int("group", groups as i64));
        Ok(self.emit("Conv", &inputs, output, &attributes))
    }

    fn reshape(&mut self, from: &str, shape: &[usize], output: &str) -> String {
        let name = format!("shape of {output}");
        let data: Vec<u8> = shape
            .iter()
            .flat_map(|&it| (it as i64).to_le_bytes())
            .collect();
        self.constant(&name, &[shape.len()], INT64, &data);
        self.emit("Reshape", &[from, &name], output, &[])
    }

    /// A reshape, which means channels last, between tensors whose channels are first.
    fn reshaped(&mut self, from: TensorId, to: TensorId, output: &str) -> Result<String, String> {
        let mut value = self.activation(from)?;
        let shapes = [from, to].map(|id| self.graph.tensor(id).shape.clone());
        // Where there is one channel or one pixel, both orders are the same.
        let same = |shape: &[usize]| match *shape {
            [_, height, width, channels] => channels == 1 || height * width == 1,
            _ => true,
        };
        let order = |order: [usize; 4]| [Attribute::Ints("perm", order.to_vec())];
        if !same(&shapes[0]) {
            let name = format!("{output} last");
            value = self.emit("Transpose", &[&value], &name, &order([0, 2, 3, 1]));
        }
        if same(&shapes[1]) {
            return Ok(self.reshape(&value, &channels_first(&shapes[1]), output));
        }
        let name = format!("{output} last");
        value = self.reshape(&value, &shapes[1], &name);
        Ok(self.emit("Transpose", &[&value], output, &order([0, 3, 1, 2])))
    }
}

/// A constant of four axes in another order.
fn permuted(tensor: &Tensor, data: &[u8], order: [usize; 4]) -> (Vec<usize>, Vec<u8>) {
    let shape: Vec<usize> = order.iter().map(|&axis| tensor.shape[axis]).collect();
    let mut strides = [1; 4];
    for axis in (0..3).rev() {
        strides[axis] = strides[axis + 1] * tensor.shape[axis + 1];
    }
    let mut out = Vec::with_capacity(data.len());
    for index in 0..data.len() {
        let (mut rest, mut from) = (index, 0);
        for axis in (0..4).rev() {
            from += rest % shape[axis] * strides[order[axis]];
            rest /= shape[axis];
        }
        out.push(data[from]);
    }
    (shape, out)
}

/// Attributes of a window.
fn sliding(window: &Window, pool: bool) -> Vec<Attribute<'static>> {
    let mut attributes = vec![
        Attribute::Ints("kernel_shape", window.kernel.to_vec()),
        Attribute::Ints("strides", window.stride.to_vec()),
        Attribute::Ints("pads", window.padding.to_vec()),
    ];
    if !pool {
        attributes.push(Attribute::Ints("dilations", window.dilation.to_vec()));
    }
    attributes
}
