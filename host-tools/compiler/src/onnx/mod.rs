//! ONNX: int8 graphs in QDQ form (float operators between DequantizeLinear and QuantizeLinear) and
//! in integer form (QLinearConv and its like), read into a [`Graph`].
//!
//! ONNX computes a QDQ graph in real numbers and rounds once at each QuantizeLinear; a program
//! requantizes in fixed point with two roundings. Outputs may therefore differ from ONNX Runtime's by
//! a quantum here and there; golden vectors with a tolerance judge that when a release is packed.
//!
//! Activations go from channels first to channels last where a convolution or a pooling begins, and
//! back where an operator sees their order. uint8 values become int8: element and zero point less 128.
//! Weights with a zero point become symmetric int8, in several parts where they do not fit (`weights`).
//! The order of a float input's elements is turned by its quantization where it can be.
//! A float input that is only shifted and scaled before its QuantizeLinear becomes the program's
//! input quantization, feature by feature.

mod attributes;
mod constant;
mod error;
mod integer;
mod layers;
mod layout;
mod lower;
mod pairs;
mod pools;
mod proto;
mod scales;
#[cfg(test)]
mod tests;
mod value;
mod weights;

pub use error::OnnxError;

use crate::graph::{Graph, Kind};
use constant::Constant;
use error::{EXPORT, FIX_SHAPES, QUANTIZE, Result, USE_TRACT};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use value::{Form, Value};

/// Reads an ONNX file.
///
/// # Errors
/// [`OnnxError`] when the bytes are not an ONNX model, or when it can't become a program: it then
/// names operator, node and tensor, and says what to do.
pub fn import(bytes: &[u8]) -> Result<Graph> {
    let model = proto::Model::decode(bytes).map_err(|error| {
        OnnxError::new(
            "the file",
            "",
            format!("not an ONNX model: {error}"),
            EXPORT,
        )
    })?;
    let Some(graph) = &model.graph else {
        return Err(OnnxError::new("the file", "", "it holds no graph", EXPORT));
    };
    if !graph.sparse.is_empty() {
        return Err(OnnxError::new(
            "the graph",
            "",
            "it has sparse initializers",
            "store them dense",
        ));
    }
    if graph.nodes.len() > MAX_NODES {
        let why = format!(
            "it has {} nodes; at most {MAX_NODES} are read",
            graph.nodes.len()
        );
        return Err(OnnxError::new("the graph", "", why, USE_TRACT));
    }
    let set = |set: &&proto::OperatorSet| matches!(&*set.domain, "" | "ai.onnx");
    let Some(opset) = model.opsets.iter().find(set) else {
        // What an operator means depends on it.
        let why = "it names no version of ONNX's operators (opset_import)";
        return Err(OnnxError::new("the file", "", why, "export it anew"));
    };
    if opset.version < OLDEST {
        let why = format!("it is of version {} of ONNX's operators", opset.version);
        return Err(OnnxError::new(
            "the file",
            "",
            why,
            "export it with version 13 or later",
        ));
    }
    let mut importer = Importer {
        graph: Graph::default(),
        values: BTreeMap::new(),
        uses: uses(graph),
        opset: opset.version,
        left: bytes.len().saturating_mul(COPIES).max(LEAST_ELEMENTS),
    };
    importer.constants(graph)?;
    importer.inputs(graph)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        importer.node(node, index)?;
    }
    importer.outputs(graph)?;
    Ok(importer.graph)
}

/// How often each value is read, by a node or by the caller.
fn uses(graph: &proto::Graph) -> BTreeMap<String, usize> {
    let mut uses = BTreeMap::new();
    let of_nodes = graph.nodes.iter().flat_map(|node| node.inputs.iter());
    for name in of_nodes.chain(graph.outputs.iter().map(|output| &output.name)) {
        *uses.entry(name.clone()).or_default() += 1;
    }
    uses
}

/// A graph on its way from one form to the other.
struct Importer {
    graph: Graph,
    /// What each name of the file stands for, once its node was read.
    values: BTreeMap<String, Value>,
    uses: BTreeMap<String, usize>,
    opset: i64,
    /// Elements of constants that further nodes may hold.
    left: usize,
}

impl Importer {
    fn constants(&mut self, graph: &proto::Graph) -> Result<()> {
        for tensor in &graph.initializers {
            let constant = Constant::read(tensor)
                .map_err(|it| OnnxError::new("an initializer", &tensor.name, it.why, it.advice))?;
            if self
                .values
                .insert(tensor.name.clone(), Value::Constant(constant))
                .is_some()
            {
                let why = "it is there twice";
                return Err(OnnxError::new("an initializer", &tensor.name, why, EXPORT));
            }
        }
        Ok(())
    }

    fn inputs(&mut self, graph: &proto::Graph) -> Result<()> {
        let given: Vec<_> = graph
            .inputs
            .iter()
            .filter(|input| !self.values.contains_key(&input.name))
            .collect();
        let [input] = given[..] else {
            let names = given.iter().map(|input| &*input.name);
            let next = "concatenate them, or run the model under tract on a Linux board";
            return Err(not_one("input", names, next));
        };
        let refuse = |why: &str| {
            OnnxError::new(
                "the graph's input",
                &input.name,
                format!("it {why}"),
                FIX_SHAPES,
            )
        };
        let tensor = input.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
        let tensor = tensor.ok_or_else(|| refuse("is not a tensor"))?;
        let dims = extents(tensor).map_err(refuse)?;
        let value = match tensor.element {
            1 => Value::Input(value::Affine::new(dims)),
            // A narrower integer comes in a byte of its own.
            2 | 3 | 21 | 22 | 25 | 26 => {
                let unsigned = matches!(tensor.element, 2 | 21 | 25);
                let form = Form::plain(dims);
                let tensor = self.tensor(&input.name, &form, None);
                self.graph.inputs.push(tensor);
                Value::Int {
                    tensor,
                    form,
                    unsigned,
                }
            }
            other => {
                return Err(refuse(&format!(
                    "has the element type {}, not float or an integer of 8, 4 or 2 bits",
                    constant::element_type(other)
                )));
            }
        };
        self.values.insert(input.name.clone(), value);
        Ok(())
    }

    fn outputs(&mut self, graph: &proto::Graph) -> Result<()> {
        let [output] = &graph.outputs[..] else {
            let names = graph.outputs.iter().map(|output| &*output.name);
            let next = "export it with the one that is wanted";
            return Err(not_one("output", names, next));
        };
        let place = "the graph's output";
        let refuse = |why: &str, advice: &str| {
            OnnxError::new(place, &output.name, format!("it {why}"), advice)
        };
        let (tensor, form) = match self.values.get(&output.name).cloned() {
            Some(Value::Int { tensor, form, .. } | Value::Real { tensor, form }) => (tensor, form),
            Some(Value::Pending(_)) => return Err(refuse("is float", QUANTIZE)),
            Some(_) => {
                return Err(refuse(
                    "does not depend on the input through integers",
                    QUANTIZE,
                ));
            }
            None => return Err(refuse("is made by no node", EXPORT)),
        };
        let tensor = self.channels_first(tensor, &form, place)?;
        if self.graph.tensor(tensor).quantization.is_none() {
            return Err(refuse("has no scale", QUANTIZE));
        }
        if self
            .graph
            .inputs
            .iter()
            .any(|&input| self.graph.tensor(input).quantization.is_none())
        {
            return Err(OnnxError::new(
                "the graph's input",
                &self.graph.tensor(self.graph.inputs[0]).name,
                "no operator says what scale it has",
                QUANTIZE,
            ));
        }
        self.graph.outputs.push(tensor);
        self.prune();
        self.take_planes();
        Ok(())
    }

    /// Leaves turning the caller's floats to channels last to their quantization, which touches each
    /// anyway: where all readers of the input turn it, none need.
    fn take_planes(&mut self) {
        let &[input] = &self.graph.inputs[..] else {
            return;
        };
        // int8 and uint8 inputs are put into the arena as they are.
        if !self.graph.input_half_to_even || self.graph.outputs.contains(&input) {
            return;
        }
        let shape = self.graph.tensor(input).shape.clone();
        let reads = |node: &&crate::graph::Node| node.inputs.contains(&Some(input));
        let turns = |node: &crate::graph::Node| match &node.kind {
            Kind::Transpose { permutation } => {
                matches!(&permutation[..], [0, 2, 1] | [0, 2, 3, 1])
                    && node
                        .outputs
                        .iter()
                        .all(|it| !self.graph.outputs.contains(it))
            }
            _ => false,
        };
        let readers: Vec<_> = self.graph.nodes.iter().filter(reads).collect();
        let turned: Vec<_> = readers
            .iter()
            .flat_map(|node| &node.outputs)
            .copied()
            .collect();
        let Some(&first) = turned
            .first()
            .filter(|_| readers.iter().all(|node| turns(node)))
        else {
            return;
        };
        self.graph.nodes.retain(|node| !reads(&node));
        let inputs = self
            .graph
            .nodes
            .iter_mut()
            .flat_map(|node| &mut node.inputs);
        for read in inputs.flatten().filter(|read| turned.contains(read)) {
            *read = first;
        }
        self.graph.inputs = vec![first];
        self.graph.planar_input = Some(shape);
    }

    /// Drops nodes whose results nobody reads: those that others made superfluous.
    fn prune(&mut self) {
        let mut wanted: BTreeSet<_> = self.graph.outputs.iter().copied().collect();
        let mut nodes = std::mem::take(&mut self.graph.nodes);
        nodes.reverse();
        nodes.retain(|node| {
            let read = node.outputs.iter().any(|output| wanted.contains(output));
            if read {
                wanted.extend(node.inputs.iter().flatten());
            }
            read
        });
        nodes.reverse();
        self.graph.nodes = nodes;
    }

    fn node(&mut self, node: &proto::Node, index: usize) -> Result<()> {
        let place = if node.name.is_empty() {
            format!("{} (node {index})", node.operator)
        } else {
            format!("{} ({})", node.operator, node.name)
        };
        let context = lower::Context {
            node,
            place: &place,
        };
        let known = self.graph.tensors.len();
        let value = match &*node.domain {
            "" | "ai.onnx" => self.standard(&context)?,
            "com.microsoft" => self.contributed(&context)?,
            domain => {
                let why = format!("operators of the domain {domain} are not supported");
                return Err(context.error(why, USE_TRACT));
            }
        };
        let Some(name) = node.outputs.first().filter(|name| !name.is_empty()) else {
            return Err(context.error("it has no output", EXPORT));
        };
        for extra in node
            .outputs
            .iter()
            .skip(1)
            .filter(|extra| !extra.is_empty())
        {
            if self.uses.contains_key(extra) {
                return Err(context.error(format!("its further output {extra} is used"), USE_TRACT));
            }
        }
        self.within_limits(&context, &value, known)?;
        if self.values.insert(name.clone(), value).is_some() {
            return Err(context.error(format!("its output {name} is made twice"), EXPORT));
        }
        Ok(())
    }
}

impl Importer {
    /// Nodes copy what they read, so that a small file could ask for any amount: counts what the
    /// last node holds in its `value` and in the graph's tensors from `known` on.
    fn within_limits(
        &mut self,
        context: &lower::Context<'_>,
        value: &Value,
        known: usize,
    ) -> Result<()> {
        let made = &self.graph.tensors[known..];
        let of_graph = made.iter().map(|tensor| {
            let scales = tensor.quantization.as_ref().map_or(0, |it| it.scales.len());
            tensor.data.as_ref().map_or(0, Vec::len) + scales
        });
        let elements = value.constants() + of_graph.sum::<usize>();
        self.left = self.left.checked_sub(elements).ok_or_else(|| {
            let why = "the constants that nodes make are many times as large as the file";
            context.error(why, "fold constants (onnxsim) before importing")
        })?;
        let shapes = made.iter().map(|tensor| &tensor.shape[..]);
        for shape in shapes.chain(value.form().map(|form| &form.dims[..])) {
            let product = |all: usize, &extent: &usize| all.checked_mul(extent);
            match shape.iter().try_fold(1, product) {
                Some(..=MAX_ELEMENTS) => {}
                _ => {
                    let why = format!("its output's shape {shape:?} is too large");
                    return Err(context.error(why, EXPORT));
                }
            }
        }
        Ok(())
    }
}

/// A graph with another number of inputs or outputs than a program has.
fn not_one<'a>(what: &str, names: impl Iterator<Item = &'a str>, next: &str) -> OnnxError {
    let names: Vec<_> = names.collect();
    let (count, names) = (names.len(), names.join(", "));
    let why = format!("a program has one {what}, this graph has {count}: {names}");
    OnnxError::new("the graph", "", why, next)
}

/// The input's shape; the error says what is wrong with it.
fn extents(tensor: &proto::TensorType) -> Result<Vec<usize>, &'static str> {
    let shape = tensor.shape.as_ref().ok_or("has no shape")?;
    let mut dims = Vec::new();
    for (axis, dim) in shape.dims.iter().enumerate() {
        dims.push(match (axis, usize::try_from(dim.value)) {
            // An open batch is one inference at a time.
            (0, Ok(0)) => 1,
            (_, Ok(extent)) if extent > 0 => extent,
            _ => return Err("has an open or impossible extent"),
        });
    }
    if dims.first() != Some(&1) {
        return Err("has a batch other than 1");
    }
    let elements = dims
        .iter()
        .try_fold(1_usize, |all, &extent| all.checked_mul(extent));
    match elements {
        Some(..=MAX_INPUT) => Ok(dims),
        _ => Err("is too large"),
    }
}

/// The version from which on operators broadcast as here; QuantizeLinear came with version 10.
const OLDEST: i64 = 7;
/// Most elements of an input.
const MAX_INPUT: usize = 1 << 24;
/// Most elements of any other tensor.
const MAX_ELEMENTS: usize = 1 << 30;
/// Most nodes: later passes compare each with each.
const MAX_NODES: usize = 1 << 14;
/// Elements of constants that nodes may make for each byte of the file.
const COPIES: usize = 8;
/// Elements that they may make of any file.
const LEAST_ELEMENTS: usize = 1 << 22;
