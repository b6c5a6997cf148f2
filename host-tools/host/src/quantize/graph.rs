//! What a float graph holds, and what becomes of each of its values.

use super::{QuantizeError, USE_TRACT, fold};
use edgeward::engine::onnx::Description;
use edgeward::engine::tract::MAX_ELEMENTS;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;

/// The least operator set with scales a channel.
const LEAST_OPSET: i64 = 13;
/// What to do about shapes that are computed.
const SIMPLIFY: &str = "simplify the model (onnxsim) so that constants and shapes are fixed";

/// Scale and zero point of an int8 tensor: a real is `(int - zero) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) scale: f32,
    pub(super) zero: i8,
}

impl Scale {
    /// The scale whose 256 steps cover a range, zero included and exact.
    pub(super) fn of(low: f32, high: f32) -> Self {
        let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
        let scale = ((high - low) / 255.0) as f32;
        if scale < f32::MIN_POSITIVE {
            return Self {
                scale: 1.0,
                zero: 0,
            };
        }
        let zero = (-128.0 - low / f64::from(scale)).round();
        let zero = zero.clamp(-128.0, 127.0) as i8;
        Self { scale, zero }
    }
}

/// Where a value's scale comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// From the values seen when the float model ran.
    Calibrated,
    /// The operator only moves elements: it keeps the scale of this value.
    Kept(String),
    /// The operator's own range, as TensorFlow Lite has it.
    Fixed(Scale),
}

/// The float model, read and judged.
#[derive(Debug)]
pub(super) struct Float {
    pub(super) model: pb::ModelProto,
    /// Every constant by name; its floats where it is float.
    pub(super) constants: BTreeMap<String, Constant>,
    pub(super) input: String,
    /// Shape of the input, batch first and 1.
    pub(super) shape: Vec<usize>,
    pub(super) output: String,
    /// The last value before the first QuantizeLinear: the input, or what a standardisation makes.
    pub(super) entry: String,
    /// Nodes before that value, which stay float.
    pub(super) prefix: BTreeSet<usize>,
    /// Values that become int8, in the order in which they are made.
    pub(super) values: Vec<(String, Source)>,
    /// Products of matrices whose bias is added by a node of its own: that node to the product.
    pub(super) biased: BTreeMap<usize, usize>,
    /// What became of each batch normalization.
    pub(super) folded: Vec<String>,
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<i64>,
    /// Empty where it isn't float.
    pub(super) floats: Vec<f32>,
}

impl Constant {
    /// Whether it can be the bias of a product of matrices: an element a column.
    pub(super) fn is_bias(&self) -> bool {
        matches!(self.dims[..], [] | [_] | [1, _]) && !self.floats.is_empty()
    }
}

/// A node's operator and name, for people.
pub(super) fn place(node: &pb::NodeProto, index: usize) -> String {
    match &*node.name {
        "" => format!("{} (node {index})", node.op_type),
        name => format!("{} ({name})", node.op_type),
    }
}

/// Elements of a shape, if there are some and not too many.
fn elements(shape: &[usize]) -> Option<usize> {
    let count = shape
        .iter()
        .try_fold(1_usize, |all, &it| all.checked_mul(it))?;
    (1..=MAX_ELEMENTS).contains(&count).then_some(count)
}

fn refuse(node: &pb::NodeProto, index: usize, why: &str, next: &str) -> QuantizeError {
    QuantizeError::Node {
        node: place(node, index),
        tensor: node.output.first().cloned().unwrap_or_default(),
        why: why.to_owned(),
        next: next.to_owned(),
    }
}

impl Float {
    /// Reads a float model and decides what becomes of each value.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, QuantizeError> {
        let description = Description::read(bytes).map_err(QuantizeError::Load)?;
        let mut model = pb::ModelProto::decode(bytes)
            .map_err(|error| QuantizeError::graph(format!("not an ONNX model: {error}"), ""))?;
        if description.opset < LEAST_OPSET {
            return Err(QuantizeError::graph(
                format!(
                    "its operator set is {}; scales a channel need {LEAST_OPSET}",
                    description.opset
                ),
                "export it with operator set 13 or later, or convert it with onnx.version_converter",
            ));
        }
        let names = |all: &[edgeward::engine::onnx::TensorInfo]| {
            let names: Vec<_> = all.iter().map(|it| it.name.clone()).collect();
            names.join(", ")
        };
        let ([input], [output]) = (&description.inputs[..], &description.outputs[..]) else {
            return Err(QuantizeError::graph(
                format!(
                    "a program has one input and one output; this model takes {} and gives {}",
                    names(&description.inputs),
                    names(&description.outputs)
                ),
                "join the inputs, and export it with the one output that is wanted",
            ));
        };
        if input.element != "float" {
            return Err(QuantizeError::graph(
                format!("its input {input} is not float"),
                "export it in float",
            ));
        }
        let shape = input
            .concrete_shape()
            .filter(|shape| shape.first() == Some(&1));
        let shape = shape
            .filter(|shape| elements(shape).is_some())
            .ok_or_else(|| {
                QuantizeError::graph(
                    format!("its input {input} has open extents, a batch other than 1, or too many elements"),
                    "export it with a fixed shape and batch 1; only the batch may be open",
                )
            })?;
        let (input, output) = (input.name.clone(), output.name.clone());
        identities(&mut model);
        let folded = fold::fold(&mut model, &input, shape.len())?;
        let mut float = Self {
            constants: constants(&model),
            entry: input.clone(),
            input,
            output,
            shape,
            prefix: BTreeSet::new(),
            values: Vec::new(),
            biased: BTreeMap::new(),
            folded,
            model,
        };
        float.judge()?;
        Ok(float)
    }

    pub(super) fn nodes(&self) -> &[pb::NodeProto] {
        self.model.graph.as_ref().map_or(&[], |graph| &graph.node)
    }

    /// The nodes that read a value; the caller of the graph counts as `None`.
    fn readers(&self, name: &str) -> Vec<Option<usize>> {
        let nodes = self.nodes().iter().enumerate();
        let of_nodes = nodes.flat_map(|(index, node)| {
            let reads = node.input.iter().filter(|input| *input == name);
            reads.map(move |_| Some(index))
        });
        of_nodes
            .chain((self.output == name).then_some(None))
            .collect()
    }

    /// The node that alone reads a value.
    fn sole_reader(&self, name: &str) -> Option<usize> {
        match self.readers(name)[..] {
            [Some(index)] => Some(index),
            _ => None,
        }
    }

    fn judge(&mut self) -> Result<(), QuantizeError> {
        self.standardisation();
        let mut values = vec![(self.entry.clone(), Source::Calibrated)];
        for index in 0..self.nodes().len() {
            let node = self.nodes()[index].clone();
            if node.op_type == "Constant" || self.prefix.contains(&index) {
                continue;
            }
            let source = self.source(&node, index)?;
            let output = node.output.first().cloned().unwrap_or_default();
            if let Some(next) = self.sole_reader(&output) {
                if self.takes_bias(&node, next) {
                    self.biased.insert(next, index);
                    continue;
                }
                if self.fuses(&node, next) {
                    continue;
                }
            }
            values.push((output, source));
        }
        self.values = values;
        Ok(())
    }

    /// Finds shifts and factors a feature on the way of the input.
    fn standardisation(&mut self) {
        while let Some(index) = self.sole_reader(&self.entry) {
            let node = &self.nodes()[index];
            let operand = match (&*node.op_type, &node.input[..]) {
                ("Add" | "Mul" | "Sub" | "Div", [a, b]) if *a == self.entry => b,
                ("Add" | "Mul", [a, b]) if *b == self.entry => a,
                _ => return,
            };
            let per_feature = self.constants.get(operand).is_some_and(|constant| {
                let long = constant.dims.iter().filter(|&&extent| extent != 1).count();
                !constant.floats.is_empty() && long <= 1
            });
            let Some(output) = node.output.first().filter(|_| per_feature).cloned() else {
                return;
            };
            // The graph's output is never float.
            if output == self.output {
                return;
            }
            self.prefix.insert(index);
            self.entry = output;
        }
    }

    /// Whether a node's bias is added by the next node.
    fn takes_bias(&self, node: &pb::NodeProto, next: usize) -> bool {
        let next = &self.nodes()[next];
        let plain = node.op_type == "MatMul" || node.op_type == "Gemm" && node.input.len() == 2;
        plain
            && next.op_type == "Add"
            && next
                .input
                .iter()
                .any(|input| self.constants.get(input).is_some_and(Constant::is_bias))
    }

    /// Whether the next node's clamp becomes part of this one.
    fn fuses(&self, node: &pb::NodeProto, next: usize) -> bool {
        let clamp = matches!(&*self.nodes()[next].op_type, "Relu" | "Clip");
        let producers = ["Conv", "Gemm", "MatMul", "Add", "Sub", "Mul"];
        clamp && producers.contains(&&*node.op_type)
    }

    /// Checks that a layer's weights are constant and finite.
    fn weights(&self, node: &pb::NodeProto, index: usize) -> Result<(), QuantizeError> {
        let constant = node.input.get(1).and_then(|name| self.constants.get(name));
        let (why, next) = match constant {
            Some(constant) if constant.floats.iter().all(|x| x.is_finite()) => return Ok(()),
            Some(_) => ("its weights are not finite", "train or export it again"),
            None => ("its weights are not constant", USE_TRACT),
        };
        Err(refuse(node, index, why, next))
    }

    /// Where the scale of a node's output comes from.
    fn source(&self, node: &pb::NodeProto, index: usize) -> Result<Source, QuantizeError> {
        let fixed = |scale, zero| Source::Fixed(Scale { scale, zero });
        Ok(match &*node.op_type {
            "Conv" | "Gemm" | "MatMul" => {
                self.weights(node, index)?;
                Source::Calibrated
            }
            "Relu" | "Clip" | "LeakyRelu" | "HardSwish" | "Add" | "Sub" | "Mul" | "Div"
            | "GlobalAveragePool" | "ReduceMean" | "Concat" => Source::Calibrated,
            "Softmax" | "Sigmoid" => fixed(1.0 / 256.0, -128),
            "Tanh" => fixed(1.0 / 128.0, 0),
            "MaxPool" | "GlobalMaxPool" | "AveragePool" | "Reshape" | "Flatten" | "Squeeze"
            | "Unsqueeze" | "Transpose" | "Pad" | "Slice" | "Identity" | "Dropout" => {
                Source::Kept(node.input.first().cloned().unwrap_or_default())
            }
            "QuantizeLinear"
            | "DequantizeLinear"
            | "QLinearConv"
            | "QLinearMatMul"
            | "ConvInteger"
            | "MatMulInteger"
            | "DynamicQuantizeLinear" => {
                return Err(refuse(
                    node,
                    index,
                    "the model is quantized already",
                    "give the float model",
                ));
            }
            "Shape" | "Gather" | "ConstantOfShape" | "Cast" | "Range" | "If" | "Loop" => {
                return Err(refuse(
                    node,
                    index,
                    "its result is computed when the model runs",
                    SIMPLIFY,
                ));
            }
            _ => {
                return Err(refuse(
                    node,
                    index,
                    "this operator has no int8 form here",
                    USE_TRACT,
                ));
            }
        })
    }
}

/// Makes casts of floats to float identities: an operator that makes something else is refused anyway.
fn identities(model: &mut pb::ModelProto) {
    let constants = constants(model);
    let nodes = model.graph.iter_mut().flat_map(|graph| &mut graph.node);
    for node in nodes {
        let to_float = node
            .attribute
            .iter()
            .any(|it| it.name == "to" && it.i == pb::tensor_proto::DataType::Float as i64);
        let moved = node
            .input
            .first()
            .is_some_and(|it| !constants.contains_key(it));
        if node.op_type == "Cast" && to_float && moved {
            node.op_type = "Identity".into();
            node.attribute.clear();
        }
    }
}

/// The constants of a model: initializers and Constant nodes.
pub(super) fn constants(model: &pb::ModelProto) -> BTreeMap<String, Constant> {
    let Some(graph) = &model.graph else {
        return BTreeMap::new();
    };
    let initializers = graph.initializer.iter().map(|it| (it.name.clone(), it));
    let nodes = graph.node.iter().filter(|node| node.op_type == "Constant");
    let nodes = nodes.filter_map(|node| {
        let value = node.attribute.iter().find(|it| it.name == "value")?;
        Some((node.output.first()?.clone(), value.t.as_ref()?))
    });
    let read = |(name, tensor): (String, &pb::TensorProto)| {
        let constant = Constant {
            dims: tensor.dims.clone(),
            floats: floats(tensor),
        };
        (name, constant)
    };
    initializers.chain(nodes).map(read).collect()
}

/// Elements from one index of an axis to the next; 1 for the last axis.
pub(super) fn inner(dims: &[i64], axis: usize) -> usize {
    let inner = dims
        .iter()
        .skip(axis + 1)
        .map(|&it| usize::try_from(it).unwrap_or(0));
    inner.product::<usize>().max(1)
}

/// The elements of a float tensor, of no other; their number was checked when the file was read.
fn floats(tensor: &pb::TensorProto) -> Vec<f32> {
    if tensor.data_type != pb::tensor_proto::DataType::Float as i32 {
        return Vec::new();
    }
    if tensor.raw_data.is_empty() {
        return tensor.float_data.clone();
    }
    let words = tensor.raw_data.as_chunks::<4>().0;
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}
