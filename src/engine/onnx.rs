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

/// Decodes the protobuf, and refuses weights in other files: a bundle holds everything.
pub(super) fn parse(bytes: &[u8]) -> Result<pb::ModelProto, LoadError> {
    let mut reader = bytes;
    let model = tract_onnx::onnx()
        .proto_model_for_read(&mut reader)
        .map_err(|error| LoadError::Parse {
            reason: format!("{error:#}"),
        })?;
    let graph = model.graph.as_ref();
    let outside = graph
        .into_iter()
        .flat_map(|graph| &graph.initializer)
        .find(|tensor| {
            tensor.data_location == Some(pb::tensor_proto::DataLocation::External as i32)
        });
    if let Some(tensor) = outside {
        return Err(LoadError::ExternalData {
            tensor: tensor.name.clone(),
        });
    }
    Ok(model)
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
    // Walks back through transparent nodes to what made the values; the graph is finite and acyclic
    // by the format, and the bound holds where a hostile one is not.
    let from_integers = |name: &str| {
        let mut name = name;
        for _ in 0..=graph.node.len() {
            match producers.get(name) {
                Some(node) if TRANSPARENT.contains(&&*node.op_type) => match node.input.first() {
                    Some(input) => name = input,
                    None => return false,
                },
                Some(node) => return is_edge(node) && node.op_type != "QuantizeLinear",
                None => return initializers.contains(name),
            }
        }
        false
    };
    let to_integers = |name: &str| {
        let mut name = name;
        for _ in 0..=graph.node.len() {
            match consumers.get(name).map(Vec::as_slice) {
                Some([node]) if TRANSPARENT.contains(&&*node.op_type) => {
                    match node.output.first() {
                        Some(output) => name = output,
                        None => return false,
                    }
                }
                Some(nodes) => return nodes.iter().all(|node| node.op_type == "QuantizeLinear"),
                None => return false,
            }
        }
        false
    };
    let all = |names: &[String], holds: &dyn Fn(&str) -> bool| {
        names
            .iter()
            .filter(|name| !name.is_empty())
            .all(|name| holds(name))
    };
    let computes_in_float = |node: &&pb::NodeProto| {
        let between = all(&node.input, &from_integers) && all(&node.output, &to_integers);
        let moves = TRANSPARENT.contains(&&*node.op_type);
        !(between || moves || is_edge(node) || is_integer(&node.op_type))
    };
    graph
        .node
        .iter()
        .filter(computes_in_float)
        .map(name_node)
        .collect()
}

fn name_node(node: &pb::NodeProto) -> String {
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
