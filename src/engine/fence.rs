//! Keeps tract from folding what it must not.
//!
//! tract's declutter pass of DequantizeLinear walks along operators that it holds for element-wise to a
//! QuantizeLinear, and computes the whole way into a table of 256 entries. Its test asks only whether
//! output axes map to input axes one to one, which a Softmax passes too.

use std::format;
use std::string::String;
use std::vec::Vec;
use tract_onnx::prelude::TypedModel;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::cast::Cast;
use tract_onnx::tract_hir::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_hir::tract_core::ops::quant::{
    DequantizeLinearF32, QuantizeLinearI8, QuantizeLinearU8,
};

/// Puts a [`Fence`] behind every node that tract would wrongly fold into a table of its 256 inputs,
/// and names those nodes.
pub(super) fn fence(model: &mut TypedModel) -> TractResult<Vec<String>> {
    if !model
        .nodes()
        .iter()
        .any(|node| quantized_type(node).is_some())
    {
        return Ok(Vec::new());
    }
    let mut mistaken = Vec::new();
    for id in 0..model.nodes().len() {
        if is_mistaken(model, id)? || changes_type(model, id)? {
            mistaken.push(id);
        }
    }
    let mut names = Vec::new();
    for id in mistaken {
        let node = model.node(id);
        names.push(format!("{} ({})", node.op.name(), node.name));
        let (name, fact) = (
            format!("{}.fence", node.name),
            node.outputs[0].fact.without_value(),
        );
        let successors = node.outputs[0].successors.clone();
        let fence = model.add_node(name, Fence, tvec!(fact))?;
        for successor in successors {
            // An inlet has one edge, so this takes the place of the one from `id`.
            model.add_edge(fence.into(), successor)?;
        }
        model.add_edge(id.into(), InletId::new(fence, 0))?;
        for output in &mut model.outputs {
            if *output == OutletId::new(id, 0) {
                *output = fence.into();
            }
        }
    }
    Ok(names)
}

/// Whether tract's test for an element-wise operator passes on a node that is none.
fn is_mistaken(model: &TypedModel, id: usize) -> TractResult<bool> {
    let node = model.node(id);
    let truly = node.op_is::<ElementWiseOp>()
        || node.op_is::<Cast>()
        || node.op_is::<DequantizeLinearF32>();
    if truly || node.inputs.len() != 1 || node.outputs.len() != 1 {
        return Ok(false);
    }
    Ok(model.node_axes_mapping(id)?.is_element_wise_unary())
}

/// The element type that a node quantizes to, if that is what it does.
fn quantized_type(node: &TypedNode) -> Option<DatumType> {
    let op = &node.op_as::<ElementWiseOp>()?.0;
    if op.downcast_ref::<QuantizeLinearI8>().is_some() {
        Some(DatumType::I8)
    } else if op.downcast_ref::<QuantizeLinearU8>().is_some() {
        Some(DatumType::U8)
    } else {
        None
    }
}

/// Whether a node dequantizes values that are then quantized to another type: tract's tables keep
/// the type, so that folding them fails.
fn changes_type(model: &TypedModel, id: usize) -> TractResult<bool> {
    let mut node = model.node(id);
    if !node.op_is::<DequantizeLinearF32>() {
        return Ok(false);
    }
    let from = model.outlet_fact(node.inputs[0])?.datum_type;
    // Each step goes on in an acyclic graph, so that there are at most as many as nodes.
    for _ in 0..model.nodes().len() {
        match model.single_succ(node.id)? {
            Some(next) if next.inputs.len() == 1 => node = next,
            _ => break,
        }
        if let Some(to) = quantized_type(node) {
            return Ok(to != from);
        }
    }
    Ok(false)
}

/// Hands its input on, and keeps tract from folding operators before and behind it into one.
///
/// It says nothing about how its output's axes relate to its input's, which is what tract asks.
#[derive(Debug, Clone, Hash, PartialEq, Eq)]
struct Fence;

impl Op for Fence {
    fn name(&self) -> StaticName {
        "Fence".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Fence {
    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(inputs)
    }
    fn forwards_input(&self) -> Option<usize> {
        Some(0)
    }
    op_out_of_plan!();
}

impl TypedOp for Fence {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }
    as_op!();
}
