//! What an ONNX file says about itself, before anything is built from it.
//!
//! [`Description::read`] is what `edgeward import` prints: inputs, outputs, operators, and how far
//! the model is quantized. It reads the graph only and runs nothing.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude::Framework;

use super::tract::LoadError;
use super::{sound, wire};

/// One extent of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Left open under a name, as `batch`; the name is empty where the file gives none.
    Symbol(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(extent) => write!(f, "{extent}"),
            Self::Symbol(name) if name.is_empty() => f.write_str("?"),
            Self::Symbol(name) => f.write_str(name),
        }
    }
}

/// An input or output of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type as ONNX names it in lower case, as `float` or `int8`.
    pub element: String,
    /// Its shape; `None` where the file does not say.
    pub dims: Option<Vec<Dim>>,
}

impl TensorInfo {
    /// Its shape with an open first extent, the batch, made 1; `None` when others are open too.
    pub fn concrete_shape(&self) -> Option<Vec<usize>> {
        let dims = self.dims.as_ref()?;
        let concrete = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(extent) => Some(*extent),
            Dim::Symbol(_) => (axis == 0).then_some(1),
        };
        dims.iter().enumerate().map(concrete).collect()
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.element)?;
        let Some(dims) = &self.dims else {
            return f.write_str("[?]");
        };
        let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
        write!(f, "[{}]", dims.join(","))
    }
}

/// How a model is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantization {
    /// Not at all.
    Float,
    /// Weights only: DequantizeLinear without QuantizeLinear.
    Weights,
    /// Float operators between DequantizeLinear and QuantizeLinear (QDQ).
    Qdq,
    /// Integer operators (QLinearConv, MatMulInteger and their like).
    QOperator,
    /// Scales computed as the model runs (DynamicQuantizeLinear).
    Dynamic,
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "none (float)",
            Self::Weights => "weights only",
            Self::Qdq => "QDQ",
            Self::QOperator => "integer operators",
            Self::Dynamic => "dynamic",
        })
    }
}

/// What an ONNX file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The program that wrote it, and its version.
    pub producer: String,
    /// Version of the default operator set; 0 where the file does not say.
    pub opset: i64,
    /// Inputs that a caller gives; initializers are not among them.
    pub inputs: Vec<TensorInfo>,
    /// Outputs.
    pub outputs: Vec<TensorInfo>,
    /// How often each operator occurs.
    pub operators: BTreeMap<String, usize>,
    /// How the model is quantized.
    pub quantization: Quantization,
    /// Nodes, as `operator (name)`, that compute in float in a quantized model.
    pub float_nodes: Vec<String>,
    /// Nodes, as `operator (name)`, that tract does not know.
    pub unknown_nodes: Vec<String>,
    /// Bytes of the weights as the file stores them.
    pub weight_bytes: usize,
}

/// Operators that move or clamp values and so are neither float nor integer by themselves.
const TRANSPARENT: [&str; 10] = [
    "Clip",
    "Concat",
    "Dropout",
    "Flatten",
    "Identity",
    "Relu",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

impl Description {
    /// Reads an ONNX file.
    ///
    /// # Errors
    /// [`LoadError::Parse`] when the bytes are not ONNX, [`LoadError::ExternalData`] when the weights
    /// lie in other files.
    pub fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        Self::of(&parse(bytes)?)
    }

    pub(super) fn of(model: &pb::ModelProto) -> Result<Self, LoadError> {
        let Some(graph) = &model.graph else {
            return Err(LoadError::Parse {
                reason: "the file holds no graph".into(),
            });
        };
        let initializers: BTreeSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
        let mut operators = BTreeMap::new();
        for node in &graph.node {
            *operators.entry(node.op_type.clone()).or_default() += 1;
        }
        let known = tract_onnx::onnx().op_register.0;
        let default_set = |set: &&pb::OperatorSetIdProto| matches!(&*set.domain, "" | "ai.onnx");
        let quantization = quantization(&operators);
        Ok(Self {
            producer: format!("{} {}", model.producer_name, model.producer_version)
                .trim()
                .into(),
            opset: model
                .opset_import
                .iter()
                .find(default_set)
                .map_or(0, |set| set.version),
            inputs: graph
                .input
                .iter()
                .filter(|input| !initializers.contains(&*input.name))
                .map(tensor_info)
                .collect(),
            outputs: graph.output.iter().map(tensor_info).collect(),
            quantization,
            float_nodes: match quantization {
                Quantization::Float => Vec::new(),
                _ => float_nodes(graph, &initializers),
            },
            unknown_nodes: graph
                .node
                .iter()
                .filter(|node| !known.contains_key(&node.op_type))
                .map(name_node)
                .collect(),
            operators,
            weight_bytes: graph.initializer.iter().map(tensor_bytes).sum(),
        })
    }

    /// Whether all arithmetic is on integers, so that a program for a microcontroller can be made.
    pub fn fully_int8(&self) -> bool {
        matches!(
            self.quantization,
            Quantization::Qdq | Quantization::QOperator
        ) && self.float_nodes.is_empty()
    }
}

/// Decodes the protobuf, and refuses weights in other files, since a bundle holds everything, and
/// tensors whose bytes are not those of their shape. tract would refuse both too, but without the
/// tensor's name, and only when it builds the graph; a description must not need that.
pub(super) fn parse(bytes: &[u8]) -> Result<pb::ModelProto, LoadError> {
    wire::check(bytes).map_err(LoadError::Wire)?;
    let mut reader = bytes;
    let model = tract_onnx::onnx()
        .proto_model_for_read(&mut reader)
        .map_err(|error| LoadError::Parse {
            reason: format!("{error:#}"),
        })?;
    if let Some(graph) = &model.graph {
        check_tensors(graph)?;
        sound::check(graph)?;
    }
    Ok(model)
}

/// Checks every tensor of a graph and of the graphs inside its nodes, which [`wire::check`] has
/// bounded in depth.
fn check_tensors(graph: &pb::GraphProto) -> Result<(), LoadError> {
    let sparse = graph.sparse_initializer.iter();
    let sparse = sparse.flat_map(|tensor| tensor.values.iter().chain(&tensor.indices));
    for tensor in graph.initializer.iter().chain(sparse) {
        check_tensor(tensor)?;
    }
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        let sparse = attribute
            .sparse_tensor
            .iter()
            .chain(&attribute.sparse_tensors);
        let sparse = sparse.flat_map(|tensor| tensor.values.iter().chain(&tensor.indices));
        for tensor in attribute.t.iter().chain(&attribute.tensors).chain(sparse) {
            check_tensor(tensor)?;
        }
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            check_tensors(graph)?;
        }
    }
    Ok(())
}

fn check_tensor(tensor: &pb::TensorProto) -> Result<(), LoadError> {
    if tensor.data_location == Some(pb::tensor_proto::DataLocation::External as i32) {
        return Err(LoadError::ExternalData {
            tensor: tensor.name.clone(),
        });
    }
    let refuse = |reason: String| {
        Err(LoadError::Tensor {
            tensor: tensor.name.clone(),
            reason,
        })
    };
    let count = tensor.dims.iter().try_fold(1usize, |count, &extent| {
        count.checked_mul(usize::try_from(extent).ok()?)
    });
    let Some(count) = count else {
        return refuse(format!("its shape {:?} is impossible", tensor.dims));
    };
    let Some(width) = width(tensor.data_type) else {
        return Ok(());
    };
    let present = tensor.raw_data.len();
    if present > 0 && count.checked_mul(width) != Some(present) {
        return refuse(format!(
            "its shape {:?} wants {count} elements of {width} bytes, and it has {present} bytes",
            tensor.dims
        ));
    }
    Ok(())
}

/// Bytes of an element in `raw_data`; `None` for what is stored otherwise, or unknown, which tract
/// refuses by its type before it looks at the shape.
fn width(data_type: i32) -> Option<usize> {
    match DataType::try_from(data_type).ok()? {
        DataType::Bool | DataType::Uint8 | DataType::Int8 => Some(1),
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => Some(2),
        DataType::Uint32 | DataType::Int32 | DataType::Float => Some(4),
        DataType::Uint64 | DataType::Int64 | DataType::Double => Some(8),
        _ => None,
    }
}

fn quantization(operators: &BTreeMap<String, usize>) -> Quantization {
    let has = |name: &str| operators.contains_key(name);
    if has("DynamicQuantizeLinear") {
        Quantization::Dynamic
    } else if operators.keys().any(|name| is_integer(name)) {
        Quantization::QOperator
    } else if has("QuantizeLinear") {
        Quantization::Qdq
    } else if has("DequantizeLinear") {
        Quantization::Weights
    } else {
        Quantization::Float
    }
}

fn is_integer(operator: &str) -> bool {
    operator.starts_with("QLinear")
        || operator.starts_with("QGemm")
        || operator.ends_with("Integer")
}

/// The nodes of a quantized graph that take or make float values other than between Q and DQ.
fn float_nodes(graph: &pb::GraphProto, initializers: &BTreeSet<&str>) -> Vec<String> {
    let producers: BTreeMap<&str, &pb::NodeProto> = graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(move |o| (&**o, n)))
        .collect();
    let mut consumers: BTreeMap<&str, Vec<&pb::NodeProto>> = BTreeMap::new();
    for node in &graph.node {
        for input in &node.input {
            consumers.entry(input).or_default().push(node);
        }
    }
    let is_edge = |node: &pb::NodeProto| {
        matches!(
            &*node.op_type,
            "QuantizeLinear" | "DequantizeLinear" | "Constant"
        )
    };
    // Walks back through transparent nodes to what made the values.
    let from_integers = |name| match producers.get(name) {
        Some(node) if TRANSPARENT.contains(&&*node.op_type) => match node.input.first() {
            Some(input) => Step::On(input),
            None => Step::Is(false),
        },
        Some(node) => Step::Is(is_edge(node) && node.op_type != "QuantizeLinear"),
        None => Step::Is(initializers.contains(name)),
    };
    let to_integers = |name| match consumers.get(name).map(Vec::as_slice) {
        Some([node]) if TRANSPARENT.contains(&&*node.op_type) => match node.output.first() {
            Some(output) => Step::On(output),
            None => Step::Is(false),
        },
        Some(nodes) => Step::Is(nodes.iter().all(|node| node.op_type == "QuantizeLinear")),
        None => Step::Is(false),
    };
    let (mut sources, mut sinks) = (BTreeMap::new(), BTreeMap::new());
    let mut float = Vec::new();
    for node in &graph.node {
        let mut between = true;
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            between = between && settle(name, &from_integers, &mut sources);
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            between = between && settle(name, &to_integers, &mut sinks);
        }
        let moves = TRANSPARENT.contains(&&*node.op_type);
        if !(between || moves || is_edge(node) || is_integer(&node.op_type)) {
            float.push(name_node(node));
        }
    }
    float
}

/// What a tensor says about the one asked for.
enum Step<'a> {
    /// Ask this one.
    On(&'a str),
    /// The answer.
    Is(bool),
}

/// The answer for `name`, remembered for every tensor on the way to it, so that all tensors of a graph
/// together cost one walk. A graph is acyclic by the format; a hostile one that is not gets `false`.
fn settle<'a>(
    name: &'a str,
    step: &impl Fn(&'a str) -> Step<'a>,
    known: &mut BTreeMap<&'a str, bool>,
) -> bool {
    let mut way = Vec::new();
    let mut at = name;
    let answer = loop {
        if let Some(&answer) = known.get(at) {
            break answer;
        }
        known.insert(at, false);
        way.push(at);
        match step(at) {
            Step::On(next) => at = next,
            Step::Is(answer) => break answer,
        }
    };
    known.extend(way.into_iter().map(|name| (name, answer)));
    answer
}

pub(super) fn name_node(node: &pb::NodeProto) -> String {
    let name = if node.name.is_empty() {
        node.output.first()
    } else {
        Some(&node.name)
    };
    match name {
        Some(name) => format!("{} ({name})", node.op_type),
        None => node.op_type.clone(),
    }
}

fn tensor_info(info: &pb::ValueInfoProto) -> TensorInfo {
    let tensor = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let tensor = tensor.map(|pb::type_proto::Value::TensorType(tensor)| tensor);
    let element = tensor.and_then(|tensor| DataType::try_from(tensor.elem_type).ok());
    let dim = |dim: &pb::tensor_shape_proto::Dimension| match &dim.value {
        Some(pb::tensor_shape_proto::dimension::Value::DimValue(extent)) => {
            usize::try_from(*extent).map_or(Dim::Symbol(String::new()), Dim::Fixed)
        }
        Some(pb::tensor_shape_proto::dimension::Value::DimParam(name)) => Dim::Symbol(name.clone()),
        None => Dim::Symbol(String::new()),
    };
    TensorInfo {
        name: info.name.clone(),
        element: element.map_or("unknown".into(), |kind| kind.as_str_name().to_lowercase()),
        dims: tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .map(|shape| shape.dim.iter().map(dim).collect()),
    }
}

fn tensor_bytes(tensor: &pb::TensorProto) -> usize {
    let typed = tensor.float_data.len() * 4
        + tensor.int64_data.len() * 8
        + tensor.double_data.len() * 8
        + tensor.uint64_data.len() * 8
        // Small integers are stored one an int32 here, whatever their type.
        + tensor.int32_data.len();
    tensor.raw_data.len() + typed
}
