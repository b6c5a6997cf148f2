//! Activations move into the operator before them, where both have one quantization: a clamp of a
//! clamp is a clamp.

use crate::graph::{Activation, Graph, Kind, Unary};

/// Fuses activations, and says how many.
pub(super) fn fuse(graph: &mut Graph) -> usize {
    let before = graph.nodes.len();
    let mut index = 0;
    while index < graph.nodes.len() {
        if fused(graph, index).is_some() {
            graph.nodes.remove(index);
        } else {
            index += 1;
        }
    }
    before - graph.nodes.len()
}

fn fused(graph: &mut Graph, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    let activation = match node.kind {
        Kind::Unary(Unary::Relu) => Activation::Relu,
        Kind::Unary(Unary::Relu6) => Activation::Relu6,
        Kind::Unary(Unary::Clamp { low, high }) => Activation::Clamp { low, high },
        _ => return None,
    };
    let (input, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
    let same = graph.tensor(input).per_tensor()? == graph.tensor(output).per_tensor()?;
    if !same || graph.uses(input) != 1 {
        return None;
    }
    let writer = graph
        .nodes
        .iter_mut()
        .find(|node| node.outputs.contains(&input))?;
    match &mut writer.kind {
        Kind::Conv { activation: of, .. }
        | Kind::Depthwise { activation: of, .. }
        | Kind::Dense { activation: of }
        | Kind::Add { activation: of }
        | Kind::Sub { activation: of }
        | Kind::Mul { activation: of }
        | Kind::AveragePool { activation: of, .. }
        | Kind::MaxPool { activation: of, .. }
            if *of == Activation::None =>
        {
            *of = activation;
        }
        _ => return None,
    }
    writer.outputs = vec![output];
    Some(())
}
