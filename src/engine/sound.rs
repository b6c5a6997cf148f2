//! What an ONNX graph must keep to that tract does not ask for.
//!
//! tract divides by any scale, takes a convolution's kernel from its weights, the first of too many
//! strides and the low bits of too great a zero point, so that a file which contradicts itself would run
//! there and give numbers that mean nothing; and it works for ever on a padding of 2^63. Only what
//! constants say is looked at; scales that a graph computes are the graph's own business.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::onnx::name_node;
use super::tract::LoadError;

/// Checks names, elements, scales and kernels of a graph.
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
    for (name, tensor) in &constants {
        elements(name, tensor)?;
    }
    for node in &graph.node {
        window(node, &constants)?;
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

/// Operators whose window takes its extents from their weights, and which input those are.
fn weights_at(operator: &str) -> Option<usize> {
    match operator {
        "Conv" | "ConvTranspose" | "ConvInteger" => Some(1),
        "QLinearConv" => Some(3),
        _ => None,
    }
}

/// A window that slides has extents that a tensor could have, as many as its kernel, and a padding that
/// there is.
fn window(node: &NodeProto, constants: &BTreeMap<&str, &TensorProto>) -> Result<(), LoadError> {
    let weights = weights_at(&node.op_type);
    // A pool of the whole extent has no window.
    let slides = node.op_type.ends_with("Pool") && !node.op_type.starts_with("Global");
    if weights.is_none() && !slides {
        return Ok(());
    }
    let refuse = |reason: String| {
        let output = node.output.first().map_or("", |output| output);
        Err(refuse(output, format!("{reason} of {}", name_node(node))))
    };
    let names = ["kernel_shape", "pads", "strides", "dilations"];
    for attribute in &node.attribute {
        let name = &*attribute.name;
        let wrong = |extent: &&i64| !(0..=MAX_EXTENT).contains(*extent);
        let extents = names.contains(&name).then_some(&attribute.ints);
        if let Some(extent) = extents.and_then(|all| all.iter().find(wrong)) {
            return refuse(format!("{extent} among the {name}"));
        }
        let paddings: [&[u8]; 5] = [b"", b"NOTSET", b"SAME_UPPER", b"SAME_LOWER", b"VALID"];
        if name == "auto_pad" && !paddings.contains(&&*attribute.s) {
            let padding = String::from_utf8_lossy(&attribute.s);
            return refuse(format!("no auto_pad that there is, {padding:?},"));
        }
    }
    let given = |name: &str| node.attribute.iter().find(|it| it.name == name);
    let weights = weights.and_then(|place| node.input.get(place));
    let axes = match weights.and_then(|name| constants.get(&**name)) {
        Some(weights) => weights.dims.len().saturating_sub(2),
        None => given("kernel_shape").map_or(0, |kernel| kernel.ints.len()),
    };
    for name in ["pads", "strides", "dilations"] {
        let expected = if name == "pads" { 2 * axes } else { axes };
        let all = given(name).map_or(&[][..], |it| &it.ints);
        // None at all stands for those that hold where nothing is said.
        if axes > 0 && !all.is_empty() && all.len() != expected {
            return refuse(format!("{} {name} for {axes} axes", all.len()));
        }
    }
    Ok(())
}

/// Small integers fit their type, also where a file has them in 32 bits each.
fn elements(name: &str, tensor: &TensorProto) -> Result<(), LoadError> {
    let range = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Uint8) => 0..=255,
        Ok(DataType::Int8) => -128..=127,
        Ok(DataType::Uint16) => 0..=65_535,
        Ok(DataType::Int16) => -32_768..=32_767,
        Ok(DataType::Bool) => 0..=1,
        _ => return Ok(()),
    };
    match tensor.int32_data.iter().find(|it| !range.contains(*it)) {
        Some(element) => Err(refuse(
            name,
            format!("its element {element} is out of range"),
        )),
        None => Ok(()),
    }
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
    let Some(place) = weights_at(&node.op_type) else {
        return Ok(());
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
