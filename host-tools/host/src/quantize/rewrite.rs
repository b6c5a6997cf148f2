//! Writes the quantized graph: the float one with QuantizeLinear and DequantizeLinear between its
//! operators, and its weights as integers.

use super::QuantizeError;
use super::graph::{Constant, Float, Scale, inner, place};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

/// Largest size of a quantized bias: half the range, so that the sum it begins has room.
const MAX_BIAS: f64 = (1_u32 << 30) as f64;

/// The quantized model; `scales` has each value of [`Float::values`].
pub(super) fn rewrite(
    float: &Float,
    scales: &BTreeMap<String, Scale>,
    note: String,
) -> Result<pb::ModelProto, QuantizeError> {
    let mut writer = Writer {
        float,
        scales,
        names: names(float),
        nodes: Vec::new(),
        initializers: Vec::new(),
        biases: BTreeMap::new(),
    };
    let mut renamed = BTreeMap::new();
    if float.entry == float.input {
        let real = writer.fresh(&float.entry, "real");
        writer.quantized(&float.entry, &float.entry, &real);
        renamed.insert(float.entry.clone(), real);
    }
    for (index, node) in float.nodes().iter().enumerate() {
        let mut node = node.clone();
        if !float.prefix.contains(&index) {
            writer.operands(&mut node, index)?;
        }
        for input in &mut node.input {
            if let Some(real) = renamed.get(input) {
                input.clone_from(real);
            }
        }
        // The name of a value goes to what its readers see: the reals that its integers stand for.
        let output = node.output.first().cloned().unwrap_or_default();
        if !scales.contains_key(&output) {
            writer.nodes.push(node);
            continue;
        }
        let made = writer.fresh(&output, "float");
        node.output[0].clone_from(&made);
        writer.nodes.push(node);
        writer.quantized(&output, &made, &output);
    }
    let (nodes, initializers) = (writer.nodes, writer.initializers);
    let mut model = float.model.clone();
    if let Some(graph) = &mut model.graph {
        graph.node = nodes;
        graph.initializer.extend(initializers);
        prune(graph);
    }
    model.metadata_props.push(pb::StringStringEntryProto {
        key: "quantized".into(),
        value: note,
    });
    Ok(model)
}

/// Every name that the graph uses.
fn names(float: &Float) -> BTreeSet<String> {
    let nodes = float.nodes().iter();
    let all = nodes.flat_map(|node| node.input.iter().chain(&node.output).chain([&node.name]));
    all.chain(float.constants.keys()).cloned().collect()
}

/// Drops constants that nobody reads any more.
fn prune(graph: &mut pb::GraphProto) {
    let read: BTreeSet<String> = graph
        .node
        .iter()
        .flat_map(|node| node.input.clone())
        .collect();
    let dropped: BTreeSet<String> = graph.initializer.iter().map(|it| it.name.clone()).collect();
    let dropped: BTreeSet<_> = dropped.difference(&read).cloned().collect();
    graph.initializer.retain(|it| !dropped.contains(&it.name));
    graph.input.retain(|it| !dropped.contains(&it.name));
    let wanted = |node: &pb::NodeProto| {
        node.op_type != "Constant" || node.output.iter().any(|output| read.contains(output))
    };
    graph.node.retain(wanted);
}

/// A graph in the making.
struct Writer<'a> {
    float: &'a Float,
    scales: &'a BTreeMap<String, Scale>,
    names: BTreeSet<String>,
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
    /// Biases that a node adds after its product: their name in the file, and the new one.
    biases: BTreeMap<usize, (String, String)>,
}

/// Scales of weights, a scale an output channel.
struct Channels {
    axis: usize,
    scales: Vec<f32>,
}

impl Writer<'_> {
    /// A name that nothing else has.
    fn fresh(&mut self, name: &str, part: &str) -> String {
        let mut fresh = format!("{name}/{part}");
        while !self.names.insert(fresh.clone()) {
            fresh.push('_');
        }
        fresh
    }

    fn initializer(
        &mut self,
        name: &str,
        part: &str,
        dims: &[i64],
        kind: DataType,
        raw: Vec<u8>,
    ) -> String {
        let name = self.fresh(name, part);
        self.initializers.push(pb::TensorProto {
            name: name.clone(),
            dims: dims.to_vec(),
            data_type: kind as i32,
            raw_data: raw,
            ..Default::default()
        });
        name
    }

    fn node(&mut self, operator: &str, input: Vec<String>, output: &str, axis: Option<usize>) {
        let name = self.fresh(output, operator);
        let attribute = axis.map(|axis| pb::AttributeProto {
            name: "axis".into(),
            r#type: AttributeType::Int as i32,
            i: axis as i64,
            ..Default::default()
        });
        self.nodes.push(pb::NodeProto {
            input,
            output: vec![output.to_owned()],
            name,
            op_type: operator.to_owned(),
            attribute: attribute.into_iter().collect(),
            ..Default::default()
        });
    }

    /// QuantizeLinear from `from`, and DequantizeLinear to `to`, at the scale of `name`.
    fn quantized(&mut self, name: &str, from: &str, to: &str) {
        let scale = self.scales[name];
        let bytes = scale.scale.to_le_bytes().to_vec();
        let step = self.initializer(name, "scale", &[], DataType::Float, bytes);
        let bytes = vec![scale.zero.cast_unsigned()];
        let zero = self.initializer(name, "zero_point", &[], DataType::Int8, bytes);
        let ints = self.fresh(name, "int8");
        let input = vec![from.to_owned(), step.clone(), zero.clone()];
        self.node("QuantizeLinear", input, &ints, None);
        self.node("DequantizeLinear", vec![ints, step, zero], to, None);
    }

    /// Makes the constant operands of a node integers.
    fn operands(&mut self, node: &mut pb::NodeProto, index: usize) -> Result<(), QuantizeError> {
        match &*node.op_type {
            "Conv" | "Gemm" | "MatMul" => self.layer(node, index),
            "Add" if self.float.biased.contains_key(&index) => {
                let Some((from, to)) = self.biases.get(&index) else {
                    return Ok(());
                };
                for input in node.input.iter_mut().filter(|input| *input == from) {
                    input.clone_from(to);
                }
                Ok(())
            }
            "Add" | "Sub" | "Mul" => {
                for at in 0..node.input.len() {
                    self.operand(node, at);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A constant operand of an element-wise operator: int8, symmetric, one scale.
    fn operand(&mut self, node: &mut pb::NodeProto, at: usize) {
        let name = node.input[at].clone();
        let Some(constant) = self.float.constants.get(&name) else {
            return;
        };
        let constant = constant.clone();
        let scale = step(largest(constant.floats.iter()));
        let ints = constant.floats.iter().map(|&x| int8(x, scale)).collect();
        let channels = Channels {
            axis: 0,
            scales: vec![scale],
        };
        node.input[at] = self.dequantized(&name, &constant.dims, DataType::Int8, ints, channels);
    }

    /// Weights and bias of a convolution or a product of matrices.
    fn layer(&mut self, node: &mut pb::NodeProto, index: usize) -> Result<(), QuantizeError> {
        let refuse = |why: String| QuantizeError::Node {
            node: place(&self.float.nodes()[index], index),
            tensor: node.output.first().cloned().unwrap_or_default(),
            why,
            next: "simplify the model (onnxsim) and try again".into(),
        };
        let Some(input) = node
            .input
            .first()
            .and_then(|name| self.scales.get(name))
            .copied()
        else {
            return Err(refuse(format!(
                "its input {} is no activation",
                node.input[0]
            )));
        };
        let name = node.input[1].clone();
        let weights = self.float.constants[&name].clone();
        let axis = match (&*node.op_type, is_set(node, "transB")) {
            ("Conv", _) | ("Gemm", true) => 0,
            _ => weights.dims.len().saturating_sub(1),
        };
        let count = weights
            .dims
            .get(axis)
            .and_then(|&it| usize::try_from(it).ok())
            .unwrap_or(0);
        if count == 0 || weights.floats.is_empty() {
            return Err(refuse(format!("its weights {name} are empty or not float")));
        }
        let (adder, bias_name) = self.bias_of(node, index);
        let bias = match &bias_name {
            Some(name) => Some(self.bias(name, count).ok_or_else(|| {
                refuse(format!(
                    "its bias {name} is not a constant of {count} finite elements"
                ))
            })?),
            None => None,
        };
        let channels = channels(&weights, axis, count, bias.as_deref(), input.scale);
        let inner: usize = inner(&weights.dims, axis);
        let ints = weights.floats.iter().enumerate();
        let ints = ints
            .map(|(at, &x)| int8(x, channels.scales[at / inner % count]))
            .collect();
        let steps: Vec<f32> = channels
            .scales
            .iter()
            .map(|scale| scale * input.scale)
            .collect();
        node.input[1] = self.dequantized(&name, &weights.dims, DataType::Int8, ints, channels);
        if let (Some(bias_name), Some(bias)) = (bias_name, bias) {
            let ints = bias.iter().zip(&steps);
            let ints = ints.map(|(&x, &step)| (f64::from(x) / f64::from(step)).round() as i32);
            let raw = ints.flat_map(i32::to_le_bytes).collect();
            let channels = Channels {
                axis: 0,
                scales: steps,
            };
            let real =
                self.dequantized(&bias_name, &[count as i64], DataType::Int32, raw, channels);
            match adder {
                Some(add) => drop(self.biases.insert(add, (bias_name, real))),
                None => node.input[2] = real,
            }
        }
        Ok(())
    }

    /// The bias of a layer by name, and the node that adds it where that is another.
    fn bias_of(&self, node: &pb::NodeProto, index: usize) -> (Option<usize>, Option<String>) {
        let mut adders = self.float.biased.iter();
        let Some((&add, _)) = adders.find(|(_, product)| **product == index) else {
            return (None, node.input.get(2).filter(|it| !it.is_empty()).cloned());
        };
        let mut inputs = self.float.nodes()[add].input.iter();
        let constants = &self.float.constants;
        let name = inputs.find(|it| constants.contains_key(*it)).cloned();
        (Some(add), name)
    }

    /// A bias, one element a channel.
    fn bias(&self, name: &str, count: usize) -> Option<Vec<f32>> {
        let found = self.float.constants.get(name)?;
        spread(found.floats.clone(), count)
    }

    /// A constant as integers with a DequantizeLinear; the name of the reals.
    fn dequantized(
        &mut self,
        name: &str,
        dims: &[i64],
        kind: DataType,
        raw: Vec<u8>,
        channels: Channels,
    ) -> String {
        let count = channels.scales.len();
        // One scale for the tensor is a scalar, which old runtimes want.
        let shape: &[i64] = if count == 1 && kind == DataType::Int8 {
            &[]
        } else {
            &[count as i64]
        };
        let (shape, axis) = match shape {
            [] => (shape, None),
            _ => (shape, Some(channels.axis)),
        };
        let width = if kind == DataType::Int8 { 1 } else { 4 };
        let steps = channels
            .scales
            .iter()
            .flat_map(|it| it.to_le_bytes())
            .collect();
        let ints = self.initializer(name, "ints", dims, kind, raw);
        let step = self.initializer(name, "scale", shape, DataType::Float, steps);
        let zero = self.initializer(name, "zero_point", shape, kind, vec![0; count * width]);
        let real = self.fresh(name, "real");
        self.node("DequantizeLinear", vec![ints, step, zero], &real, axis);
        real
    }
}

/// Whether an integer attribute is there and not 0.
fn is_set(node: &pb::NodeProto, name: &str) -> bool {
    node.attribute.iter().any(|it| it.name == name && it.i != 0)
}

fn largest<'a>(floats: impl Iterator<Item = &'a f32>) -> f32 {
    floats.fold(0.0_f32, |most, x| most.max(x.abs()))
}

/// The symmetric scale for a largest size.
fn step(largest: f32) -> f32 {
    let scale = largest / 127.0;
    if scale >= f32::MIN_POSITIVE {
        scale
    } else {
        1.0
    }
}

fn int8(x: f32, scale: f32) -> u8 {
    let int = (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
    int.cast_unsigned()
}

/// One element a channel, all of them finite.
fn spread(bias: Vec<f32>, count: usize) -> Option<Vec<f32>> {
    let bias = match bias[..] {
        [one] => vec![one; count],
        _ => bias,
    };
    (bias.len() == count && bias.iter().all(|x| x.is_finite())).then_some(bias)
}

/// A scale a channel: the largest weight is 127, unless the bias would leave its 32 bits.
fn channels(
    weights: &Constant,
    axis: usize,
    count: usize,
    bias: Option<&[f32]>,
    input_scale: f32,
) -> Channels {
    let inner = inner(&weights.dims, axis);
    let mut most = vec![0.0_f32; count];
    for (at, x) in weights.floats.iter().enumerate() {
        let most = &mut most[at / inner % count];
        *most = most.max(x.abs());
    }
    let scale = |(channel, &most): (usize, &f32)| {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[channel].abs()));
        let least = (bias / (f64::from(input_scale) * MAX_BIAS)) as f32;
        match most / 127.0 {
            // A channel without weights gives its bias alone.
            scale if scale < f32::MIN_POSITIVE => {
                if least > 0.0 {
                    least
                } else {
                    1.0
                }
            }
            scale => scale.max(least),
        }
    };
    let scales = most.iter().enumerate().map(scale).collect();
    Channels { axis, scales }
}
