//! Batch normalizations before quantization: each is `a * x + b` a channel, `a` and `b` constants.
//!
//! Behind a convolution or a product of matrices that nothing else reads, it goes into the weights and
//! the bias. On the input it becomes Mul and Add of constants a feature, which stay float. Anywhere else
//! it becomes a convolution of one tap a channel, whose weights have a scale a channel; vectors are
//! reshaped for it, before and behind.

use super::QuantizeError;
use super::graph::{Constant, constants, inner, place};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

/// The operator.
const BATCH_NORMALIZATION: &str = "BatchNormalization";

/// Rewrites every batch normalization of a model; a line for each says what became of it. `rank` is
/// that of the model's input `input`.
pub(super) fn fold(
    model: &mut pb::ModelProto,
    input: &str,
    rank: usize,
) -> Result<Vec<String>, QuantizeError> {
    let constants = constants(model);
    let Some(graph) = &mut model.graph else {
        return Ok(Vec::new());
    };
    let mut names: BTreeSet<String> = graph.initializer.iter().map(|it| it.name.clone()).collect();
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
    }
    let mut folder = Folder {
        graph,
        constants,
        names,
        input,
        rank,
    };
    let mut folded = Vec::new();
    while let Some(index) = folder.next() {
        folded.push(folder.rewrite(index)?);
    }
    Ok(folded)
}

/// `a * x + b`, an entry each a channel.
struct Affine {
    factors: Vec<f64>,
    offsets: Vec<f64>,
}

struct Folder<'a> {
    graph: &'a mut pb::GraphProto,
    constants: BTreeMap<String, Constant>,
    names: BTreeSet<String>,
    input: &'a str,
    rank: usize,
}

impl Folder<'_> {
    fn next(&self) -> Option<usize> {
        let mut nodes = self.graph.node.iter();
        nodes.position(|node| node.op_type == BATCH_NORMALIZATION)
    }

    /// Takes one batch normalization out; says what became of it.
    fn rewrite(&mut self, index: usize) -> Result<String, QuantizeError> {
        let node = self.graph.node[index].clone();
        let affine = self.affine(&node, index)?;
        let source = node.input.first().cloned().unwrap_or_default();
        let output = node.output[0].clone();
        let name = place(&node, index);
        if let Some(layer) = self.takes(&source, affine.factors.len()) {
            let into = place(&self.graph.node[layer[0]], layer[0]);
            self.scale_layer(&layer, &affine);
            let last = layer[layer.len() - 1];
            self.graph.node[last].output[0] = output;
            self.graph.node.remove(index);
            return Ok(format!("{name} into {into}"));
        }
        let rank = self.rank_of(&source).filter(|rank| (2..=4).contains(rank));
        let rank = rank.ok_or_else(|| QuantizeError::Node {
            node: name.clone(),
            tensor: output.clone(),
            why: "it stands behind no layer that it folds into, and its input's axes are not known"
                .into(),
            next: "simplify the model (onnxsim)".into(),
        })?;
        let instead = match rank {
            _ if source == self.input => self.product_and_sum(&node, rank, &affine),
            2 => self.one_tap_of_vectors(&node, &affine),
            _ => vec![self.one_tap(&node, rank, &affine)],
        };
        let kinds = instead.iter().map(|node| node.op_type.clone());
        let kinds: Vec<_> = kinds.filter(|kind| kind != "Reshape").collect();
        self.graph.node.splice(index..=index, instead);
        Ok(format!("{name} to {}", kinds.join(" and ")))
    }

    /// What a batch normalization computes.
    fn affine(&self, node: &pb::NodeProto, index: usize) -> Result<Affine, QuantizeError> {
        let refuse = |why: &str, next: &str| QuantizeError::Node {
            node: place(node, index),
            tensor: node.output.first().cloned().unwrap_or_default(),
            why: why.into(),
            next: next.into(),
        };
        let attribute = |name: &str| node.attribute.iter().find(|it| it.name == name);
        let training = attribute("training_mode").is_some_and(|it| it.i != 0);
        if node.output.is_empty() {
            return Err(refuse(
                "a batch normalization makes nothing",
                "export it again",
            ));
        }
        if training || node.output.iter().skip(1).any(|output| !output.is_empty()) {
            return Err(refuse(
                "a batch normalization is in training mode",
                "export the model in evaluation mode",
            ));
        }
        let epsilon = attribute("epsilon").map_or(1e-5, |it| it.f);
        let parameter = |at: usize| {
            let constant = self.constants.get(node.input.get(at)?)?;
            let finite = constant.floats.iter().all(|x| x.is_finite());
            (finite && !constant.floats.is_empty()).then_some(&constant.floats)
        };
        let all = (parameter(1), parameter(2), parameter(3), parameter(4));
        let (Some(scale), Some(bias), Some(mean), Some(variance)) = all else {
            return Err(refuse(
                "a batch normalization's parameters are not finite constants",
                "simplify the model (onnxsim), or train or export it again",
            ));
        };
        let same = [bias, mean, variance]
            .iter()
            .all(|it| it.len() == scale.len());
        let factor = |(&scale, &variance): (&f32, &f32)| {
            f64::from(scale) / (f64::from(variance) + f64::from(epsilon)).sqrt()
        };
        let factors: Vec<f64> = scale.iter().zip(variance).map(factor).collect();
        let offset = |((&bias, &mean), factor): ((&f32, &f32), &f64)| {
            f64::from(bias) - f64::from(mean) * factor
        };
        let offsets = bias.iter().zip(mean).zip(&factors).map(offset).collect();
        if !same || !factors.iter().all(|factor| factor.is_finite()) {
            return Err(refuse(
                "a batch normalization's parameters do not go together",
                "train or export it again",
            ));
        }
        Ok(Affine { factors, offsets })
    }

    fn maker(&self, name: &str) -> Option<usize> {
        let mut nodes = self.graph.node.iter();
        nodes.position(|node| node.output.iter().any(|output| output == name))
    }

    /// Whether one node alone reads a value.
    fn read_once(&self, name: &str) -> bool {
        let of_nodes = self.graph.node.iter().flat_map(|node| &node.input);
        let border = self.graph.output.iter().map(|output| &output.name);
        of_nodes.chain(border).filter(|it| *it == name).count() == 1
    }

    /// The layer that makes `name` and can take `count` factors: its node, and the one that adds its
    /// bias where that is another.
    fn takes(&self, name: &str, count: usize) -> Option<Vec<usize>> {
        if !self.read_once(name) {
            return None;
        }
        let index = self.maker(name)?;
        let node = &self.graph.node[index];
        if node.op_type != "Add" {
            return self.layer(name, index, count).then(|| vec![index]);
        }
        let (sum, bias) = self.product_and_bias(node)?;
        let sum = &node.input[sum];
        let layer = self.maker(sum)?;
        let fits = self.constants[&node.input[bias]].floats.len() == count
            && self.read_once(sum)
            && self.graph.node[layer].input.len() == 2
            && self.graph.node[layer].op_type != "Conv"
            && self.layer(sum, layer, count);
        fits.then(|| vec![layer, index])
    }

    /// Whether a node is a layer with constants of `count` outputs, whose result `name` is.
    fn layer(&self, name: &str, index: usize, count: usize) -> bool {
        self.layer_fits(name, index, count).unwrap_or(false)
    }

    fn layer_fits(&self, name: &str, index: usize, count: usize) -> Option<bool> {
        let node = &self.graph.node[index];
        let weights = self.constants.get(node.input.get(1)?)?;
        let axis = output_axis(node, weights)?;
        let bias = match node.input.get(2).filter(|it| !it.is_empty()) {
            Some(bias) => self.constants.get(bias)?.floats.len() == count,
            None => true,
        };
        // A product's last axis is a normalization's channel where there are two.
        let two = node.op_type != "MatMul" || self.rank_of(name) == Some(2);
        let plain = node
            .attribute
            .iter()
            .all(|it| !matches!(&*it.name, "alpha" | "beta") || it.f == 1.0);
        let fits = weights.dims.get(axis) == Some(&(count as i64)) && !weights.floats.is_empty();
        Some(bias && two && plain && fits)
    }

    /// Of a sum of a value and a constant: which inputs those are.
    fn product_and_bias(&self, node: &pb::NodeProto) -> Option<(usize, usize)> {
        let constant = |at: usize| {
            let found = self.constants.get(&node.input[at]);
            found.is_some_and(Constant::is_bias)
        };
        match node.input.len() {
            2 if constant(1) => Some((0, 1)),
            2 if constant(0) => Some((1, 0)),
            _ => None,
        }
    }

    /// Multiplies a layer's weights and makes its bias anew.
    fn scale_layer(&mut self, layer: &[usize], affine: &Affine) {
        let node = self.graph.node[layer[0]].clone();
        let weights = self.constants[&node.input[1]].clone();
        let axis = output_axis(&node, &weights).unwrap_or(0);
        let (inner, count) = (inner(&weights.dims, axis), affine.factors.len());
        let scaled = weights.floats.iter().enumerate();
        let scaled: Vec<f32> = scaled
            .map(|(at, &x)| (f64::from(x) * affine.factors[at / inner % count]) as f32)
            .collect();
        let made = self.constant(&node.input[1], &weights.dims, scaled);
        self.graph.node[layer[0]].input[1] = made;
        let (owner, at) = match layer {
            [_, add] => {
                let (_, bias) = self
                    .product_and_bias(&self.graph.node[*add])
                    .unwrap_or((0, 1));
                (*add, bias)
            }
            _ => (layer[0], 2),
        };
        let name = self.graph.node[owner]
            .input
            .get(at)
            .filter(|it| !it.is_empty());
        let old = name.and_then(|name| self.constants.get(name));
        let old = old.map_or_else(|| vec![0.0; count], |it| it.floats.clone());
        let bias = old.iter().zip(&affine.factors).zip(&affine.offsets);
        let bias: Vec<f32> = bias
            .map(|((&bias, factor), offset)| (f64::from(bias) * factor + offset) as f32)
            .collect();
        let made = self.constant(&format!("{}/bias", node.input[1]), &[count as i64], bias);
        let inputs = &mut self.graph.node[owner].input;
        inputs.resize(inputs.len().max(at + 1), String::new());
        inputs[at] = made;
    }

    /// A name like this that nothing has yet.
    fn name(&mut self, mut name: String) -> String {
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    /// A new constant; its name.
    fn constant(&mut self, like: &str, dims: &[i64], floats: Vec<f32>) -> String {
        let name = self.name(format!("{like}/folded"));
        self.graph.initializer.push(pb::TensorProto {
            name: name.clone(),
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            raw_data: floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
            ..Default::default()
        });
        let dims = dims.to_vec();
        self.constants
            .insert(name.clone(), Constant { dims, floats });
        name
    }

    /// Factors and offsets as constants of a feature each.
    fn parameters(
        &mut self,
        node: &pb::NodeProto,
        affine: &Affine,
        [of_factors, of_offsets]: [&[i64]; 2],
    ) -> [String; 2] {
        let narrow = |all: &[f64]| all.iter().map(|&x| x as f32).collect();
        let (factors, offsets) = (narrow(&affine.factors), narrow(&affine.offsets));
        [
            self.constant(&node.input[1], of_factors, factors),
            self.constant(&node.input[2], of_offsets, offsets),
        ]
    }

    fn product_and_sum(
        &mut self,
        node: &pb::NodeProto,
        rank: usize,
        affine: &Affine,
    ) -> Vec<pb::NodeProto> {
        let mut dims = vec![1; rank];
        dims[1] = affine.factors.len() as i64;
        let [factors, offsets] = self.parameters(node, affine, [&dims, &dims]);
        let between = self.name(format!("{}/product", node.output[0]));
        let make = |operator: &str, inputs: [&str; 2], output: &str| pb::NodeProto {
            name: format!("{} ({operator})", node.name),
            op_type: operator.into(),
            input: inputs.map(str::to_owned).to_vec(),
            output: vec![output.to_owned()],
            ..Default::default()
        };
        vec![
            make("Mul", [&node.input[0], &factors], &between),
            make("Add", [&between, &offsets], &node.output[0]),
        ]
    }

    fn one_tap(&mut self, node: &pb::NodeProto, rank: usize, affine: &Affine) -> pb::NodeProto {
        let mut dims = vec![1; rank];
        dims[0] = affine.factors.len() as i64;
        let [factors, offsets] = self.parameters(node, affine, [&dims, &dims[..1]]);
        let group = pb::AttributeProto {
            name: "group".into(),
            r#type: AttributeType::Int as i32,
            i: dims[0],
            ..Default::default()
        };
        pb::NodeProto {
            name: node.name.clone(),
            op_type: "Conv".into(),
            input: vec![node.input[0].clone(), factors, offsets],
            output: vec![node.output[0].clone()],
            attribute: vec![group],
            ..Default::default()
        }
    }

    /// Vectors have no axis that a convolution could go along, so that they are given one and lose it
    /// again, which costs nothing.
    fn one_tap_of_vectors(&mut self, node: &pb::NodeProto, affine: &Affine) -> Vec<pb::NodeProto> {
        let count = affine.factors.len() as i64;
        let [long, scaled] =
            ["long", "scaled"].map(|what| self.name(format!("{}/{what}", node.output[0])));
        let lengthen = self.reshape(node, [&node.input[0], &long], &[-1, count, 1]);
        let mut conv = self.one_tap(node, 3, affine);
        (conv.input[0], conv.output[0]) = (long, scaled.clone());
        let shorten = self.reshape(node, [&scaled, &node.output[0]], &[-1, count]);
        vec![lengthen, conv, shorten]
    }

    fn reshape(
        &mut self,
        node: &pb::NodeProto,
        [from, to]: [&str; 2],
        shape: &[i64],
    ) -> pb::NodeProto {
        let name = self.name(format!("{to}/shape"));
        self.graph.initializer.push(pb::TensorProto {
            name: name.clone(),
            dims: vec![shape.len() as i64],
            data_type: DataType::Int64 as i32,
            raw_data: shape.iter().flat_map(|x| x.to_le_bytes()).collect(),
            ..Default::default()
        });
        pb::NodeProto {
            name: format!("{} (Reshape of {to})", node.name),
            op_type: "Reshape".into(),
            input: vec![from.to_owned(), name],
            output: vec![to.to_owned()],
            ..Default::default()
        }
    }

    /// Number of a value's axes, where the operators before it tell.
    fn rank_of(&self, name: &str) -> Option<usize> {
        let mut name = name;
        // Each step goes to an earlier node, or the graph is cyclic and tract refuses it.
        for _ in 0..=self.graph.node.len() {
            if name == self.input {
                return Some(self.rank);
            }
            let node = &self.graph.node[self.maker(name)?];
            match &*node.op_type {
                "Conv" => return Some(self.constants.get(node.input.get(1)?)?.dims.len()),
                "Gemm" | "Flatten" => return Some(2),
                "Relu" | "Clip" | "LeakyRelu" | "HardSwish" | "Sigmoid" | "Tanh" | "Softmax"
                | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "Pad"
                | "Concat" | "Identity" | "Dropout" | "Transpose" | "MatMul" | "Add" | "Sub"
                | "Mul" | "Div" | BATCH_NORMALIZATION => {
                    // Of two operands, the one that is no constant.
                    let mut inputs = node.input.iter();
                    name = inputs.find(|it| !self.constants.contains_key(*it))?;
                }
                _ => return None,
            }
        }
        None
    }
}

/// The axis of a layer's weights that its outputs lie along; `None` where it is no layer.
fn output_axis(node: &pb::NodeProto, weights: &Constant) -> Option<usize> {
    let transposed = node
        .attribute
        .iter()
        .any(|it| it.name == "transB" && it.i != 0);
    match &*node.op_type {
        "Conv" => Some(0),
        "Gemm" if transposed => Some(0),
        "Gemm" | "MatMul" => weights.dims.len().checked_sub(1),
        _ => None,
    }
}
