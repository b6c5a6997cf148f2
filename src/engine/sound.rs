//! What an ONNX graph must keep to that tract does not ask for.
//!
//! tract divides by any scale and takes a convolution's kernel from its weights, so that a file which
//! contradicts itself would run there and give numbers that mean nothing; and it works for ever on a
//! padding of 2^63. Only what constants say is
//! looked at; scales that a graph computes are the graph's own business.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::onnx::name_node;
use super::tract::LoadError;

/// Checks names, scales and kernels of a graph.
pub(super) fn check(graph: &GraphProto) -> Result<(), LoadError> {
    let mut made = BTreeSet::new();
    let initializers = graph.initializer.iter().map(|it| (&*it.name, it));
    let mut constants: BTreeMap<&str, &TensorProto> = initializers.collect();
    for tensor in &graph.initializer {
        if !made.insert(&*tensor.name) {
            return Err(refuse(&tensor.name, "it is there twice".into()));
        }
    }
    // Old files list initializers among the inputs.
    made.extend(graph.input.iter().map(|it| &*it.name));
    for node in &graph.node {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if !made.insert(name) {
                let place = name_node(node);
                return Err(refuse(name, format!("{place} makes it a second time")));
            }
        }
        if let ("Constant", [name]) = (&*node.op_type, &node.output[..]) {
            let values = node.attribute.iter().filter_map(|it| it.t.as_ref());
            constants.extend(values.map(|it| (&**name, it)));
        }
    }
    for node in &graph.node {
        window(node)?;
        scales(node, &constants)?;
        kernel(node, &constants)?;
    }
    Ok(())
}

fn refuse(tensor: &str, reason: String) -> LoadError {
    LoadError::Tensor {
        tensor: tensor.into(),
        reason,
    }
}

/// Scales are finite, and positive where something is divided by them.
fn scales(node: &NodeProto, constants: &BTreeMap<&str, &TensorProto>) -> Result<(), LoadError> {
    let (places, zero): (&[usize], bool) = match &*node.op_type {
        // What stands for a real is multiplied alone, and a channel of zeros may have any scale.
        "DequantizeLinear" => (&[1], true),
        "QuantizeLinear" => (&[1], false),
        "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => (&[1, 4, 6], false),
        _ => return Ok(()),
    };
    for name in places.iter().filter_map(|&place| node.input.get(place)) {
        let scales = constants.get(&**name).map(|it| floats(it));
        let wrong = |scale: &f32| !scale.is_finite() || !zero && *scale <= 0.0;
        if let Some(scale) = scales.and_then(|all| all.into_iter().find(wrong)) {
            let place = name_node(node);
            return Err(refuse(name, format!("the scale {scale} of {place}")));
        }
    }
    Ok(())
}

/// Greatest extent, padding, stride and dilation of a window. tract goes through a padding element by
/// element before it knows how large the output is, so that a greater one would keep it busy forever.
const MAX_EXTENT: i64 = 1 << 24;

/// A window that slides has extents that a tensor could have.
fn window(node: &NodeProto) -> Result<(), LoadError> {
    let slides = ["Conv", "ConvTranspose", "ConvInteger", "QLinearConv"];
    if !slides.contains(&&*node.op_type) && !node.op_type.ends_with("Pool") {
        return Ok(());
    }
    let names = ["kernel_shape", "pads", "strides", "dilations"];
    let given = node
        .attribute
        .iter()
        .filter(|it| names.contains(&&*it.name));
    for attribute in given {
        let wrong = |extent: &&i64| !(0..=MAX_EXTENT).contains(*extent);
        if let Some(extent) = attribute.ints.iter().find(wrong) {
            let (name, place) = (&attribute.name, name_node(node));
            let output = node.output.first().map_or("", |output| output);
            let reason = format!("{extent} among the {name} of {place}");
            return Err(refuse(output, reason));
        }
    }
    Ok(())
}

/// The elements of a tensor of f32; none of any other.
fn floats(tensor: &TensorProto) -> Vec<f32> {
    if tensor.data_type != DataType::Float as i32 {
        return Vec::new();
    }
    if tensor.raw_data.is_empty() {
        return tensor.float_data.clone();
    }
    let (all, _) = tensor.raw_data.as_chunks::<4>();
    all.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// A convolution's kernel is that of its weights.
fn kernel(node: &NodeProto, constants: &BTreeMap<&str, &TensorProto>) -> Result<(), LoadError> {
    let place = match &*node.op_type {
        "Conv" | "ConvTranspose" | "ConvInteger" => 1,
        "QLinearConv" => 3,
        _ => return Ok(()),
    };
    let said = node.attribute.iter().find(|it| it.name == "kernel_shape");
    let weights = node
        .input
        .get(place)
        .and_then(|name| constants.get(&**name));
    let (Some(said), Some(weights)) = (said, weights) else {
        return Ok(());
    };
    let found = weights.dims.get(2..).unwrap_or_default();
    if said.ints.is_empty() || said.ints == found {
        return Ok(());
    }
    let (said, place) = (&said.ints, name_node(node));
    let reason = format!("its kernel is {found:?}, and {place} says {said:?} (kernel_shape)");
    Err(refuse(&weights.name, reason))
}
