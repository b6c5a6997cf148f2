//! How much memory a graph makes tract ask for, before tract asks for it.
//!
//! A few bytes of a sound ONNX file (an Expand, a ConstantOfShape, an outer product) can stand for a
//! tensor that no machine holds, and a failed allocation ends the process. tract computes what follows
//! from constants while it is still finding out shapes; so shapes are inferred here first, a node at a
//! time, and a node's values only where its tensors keep all of them within [`MAX_PLAN_BYTES`]. What
//! tract makes of the graph is held against the same limit again. Graphs inside of nodes (of Loop, If
//! and Scan) are not looked into.

use core::fmt;
use std::format;
use std::string::ToString;
use std::vec::Vec;
use tract_onnx::tract_hir::internal::*;

use tract_onnx::tract_hir::tract_core::model::order::eval_order_for_nodes;
use tract_onnx::tract_hir::tract_core::ops::cnn::Conv;

use super::tract::LoadError;

/// Most bytes of all tensors of a graph together.
pub const MAX_PLAN_BYTES: u64 = 1 << 30;

/// Bytes of tensors so far.
struct Room(u64);

impl Room {
    fn take(&mut self, node: &dyn fmt::Display, bytes: u64) -> Result<(), LoadError> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 <= MAX_PLAN_BYTES {
            return Ok(());
        }
        Err(LoadError::Memory {
            node: node.to_string(),
            bytes: self.0,
        })
    }
}

/// Bytes of a tensor whose shape is known.
fn bytes(dims: &[TDim], kind: Option<DatumType>) -> Option<u64> {
    let element = kind.map_or(4, |kind| kind.size_of() as u64);
    dims.iter().try_fold(element, |bytes, dim| {
        let extent = u64::try_from(dim.to_i64().ok()?).ok()?;
        Some(bytes.saturating_mul(extent))
    })
}

/// Elements of a Range whose ends are known. tract infers none for a step that leads away from the
/// end, one of less than 1 included, and makes as many as the ends lie apart all the same.
fn range_length(inputs: &[&InferenceFact]) -> Option<u64> {
    let known = |input: &InferenceFact| {
        let value = input.value.concretize()?;
        value.cast_to_scalar::<f64>().ok()
    };
    let [start, end, step] = inputs else {
        return None;
    };
    let (start, end, step) = (known(start)?, known(end)?, known(step)?);
    // The cast saturates, and takes the NaN of an empty range with a step of 0 for 0.
    Some(((end - start) / step).abs().ceil() as u64)
}

/// Follows a graph from its inputs on; gives it back with what was learnt.
///
/// # Errors
/// [`LoadError::Memory`], and [`LoadError::Build`] for a graph with a cycle, even one that no output
/// depends on: tract would follow what lies beside it. What else tract finds wrong with the graph is
/// left to tract.
pub fn before(mut model: InferenceModel) -> Result<InferenceModel, LoadError> {
    let mut room = Room(0);
    // All of them: tract infers what nothing depends on, too.
    let inputs: Vec<usize> = model.inputs.iter().map(|outlet| outlet.node).collect();
    let all: Vec<usize> = (0..model.nodes().len()).collect();
    let order = eval_order_for_nodes(model.nodes(), &inputs, &all, &[]);
    let order = order.map_err(|error| LoadError::Build {
        reason: format!("{error:#}"),
    })?;
    for id in order {
        let Ok((inputs, outputs)) = model.node_facts(id) else {
            continue;
        };
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        let (inputs, outputs): (TVec<_>, _) = (inputs.iter().collect(), outputs.iter().collect());
        let node = model.node(id);
        if node.op.name() == "Range"
            && let Some(length) = range_length(&inputs)
        {
            room.take(&node, length.saturating_mul(8))?;
        }
        let observed = node.op.observe_outlets(&model, node).unwrap_or_default();
        let observed: Option<TVec<InferenceFact>> = observed
            .iter()
            .map(|&outlet| model.outlet_fact(outlet).ok().cloned())
            .collect();
        let Some(observed) = observed else {
            continue;
        };
        let learnt = learn(
            node.op.clone(),
            inputs,
            outputs,
            observed.iter().collect(),
            &mut |bytes| room.take(&node, bytes),
        )?;
        for (slot, fact) in learnt.into_iter().flatten().enumerate() {
            let _ = model.set_outlet_fact(OutletId::new(id, slot), fact);
        }
    }
    Ok(model)
}

/// The outputs of a node, with their values where they follow from constants; `None` where tract
/// complains.
fn learn(
    mut op: Box<dyn InferenceOp>,
    inputs: TVec<&InferenceFact>,
    outputs: TVec<&InferenceFact>,
    observed: TVec<&InferenceFact>,
    take: &mut dyn FnMut(u64) -> Result<(), LoadError>,
) -> Result<Option<TVec<InferenceFact>>, LoadError> {
    let Ok((_, shaped, _)) = op.infer_facts(inputs.clone(), outputs.clone(), observed.clone())
    else {
        return Ok(None);
    };
    for fact in &shaped {
        let dims = fact.shape.concretize();
        if let Some(bytes) = dims.and_then(|dims| bytes(&dims, fact.datum_type.concretize())) {
            take(bytes)?;
        }
    }
    if inputs.is_empty() {
        return Ok(Some(shaped));
    }
    let valued = op.infer(inputs, outputs, observed);
    Ok(valued.ok().map(|(_, facts, _)| facts))
}

/// Refuses a graph, ready to run, with a tensor whose size only a run would tell.
///
/// # Errors
/// [`LoadError::Length`].
pub fn closed(model: &TypedModel) -> Result<(), LoadError> {
    let open = model.nodes().iter().find(|node| {
        let mut facts = node.outputs.iter().map(|output| &output.fact);
        facts.any(|fact| bytes(&fact.shape.to_tvec(), Some(fact.datum_type)).is_none())
    });
    match open {
        None => Ok(()),
        Some(node) => Err(LoadError::Length {
            node: node.to_string(),
        }),
    }
}

/// Adds up the tensors of a graph as tract runs it, those whose sizes are known.
///
/// # Errors
/// [`LoadError::Memory`].
pub fn after(model: &TypedModel) -> Result<(), LoadError> {
    let mut room = Room(0);
    for node in model.nodes() {
        let facts = node.outputs.iter().map(|output| &output.fact);
        let sizes = facts.filter_map(|fact| bytes(&fact.shape.to_tvec(), Some(fact.datum_type)));
        let all = sizes.fold(0, u64::saturating_add);
        room.take(node, all)?;
        if let Some(conv) = node.op_as::<Conv>() {
            // Windows lie side by side while they are multiplied: as often as the kernel has taps.
            let taps = conv.pool_spec.kernel_shape.iter().product::<usize>() as u64;
            let per_output = taps.saturating_mul(conv.input_channels() as u64);
            let outputs = conv.output_channels().max(1) as u64;
            let patches = (all / outputs).saturating_mul(per_output);
            Room(0).take(&format!("{node}, its windows"), patches)?;
        }
    }
    Ok(())
}
