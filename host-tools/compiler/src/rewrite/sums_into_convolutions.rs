//! A sum moves into the convolution before it: its result never goes through memory.

use crate::graph::{Graph, Kind};

/// Fuses sums, and says how many.
pub(super) fn fuse(graph: &mut Graph) -> usize {
    let before = graph.nodes.len();
    let mut index = 0;
    while index < graph.nodes.len() {
        match fused(graph, index) {
            // The convolution before it went, so that everything moved up by one.
            Some(()) => {}
            None => index += 1,
        }
    }
    before - graph.nodes.len()
}

fn fused(graph: &mut Graph, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    let Kind::Add { activation: sum } = node.kind else {
        return None;
    };
    let &[Some(a), Some(b)] = node.inputs.as_slice() else {
        return None;
    };
    let shape = &graph.tensor(*node.outputs.first()?).shape;
    if a == b || [a, b].iter().any(|&id| graph.tensor(id).shape != *shape) {
        return None;
    }
    // The later of two convolutions: what it reads need not wait.
    let (conv, between) = [a, b]
        .into_iter()
        .filter(|&id| graph.uses(id) == 1)
        .filter_map(|id| {
            let writer = graph
                .nodes
                .iter()
                .position(|node| node.outputs.contains(&id))?;
            matches!(graph.nodes[writer].kind, Kind::Conv { .. }).then_some((writer, id))
        })
        .max_by_key(|&(writer, _)| writer)?;
    let other = if between == a { b } else { a };
    if graph.tensor(other).data.is_some() {
        return None;
    }
    let Kind::Conv { window, activation } = graph.nodes[conv].kind else {
        return None;
    };
    let mut inputs = graph.nodes[conv].inputs.clone();
    inputs.resize(3, None);
    inputs.push(Some(other));
    let fused = &mut graph.nodes[index];
    fused.kind = Kind::ConvAdd {
        window,
        activation,
        between,
        sum,
    };
    fused.inputs = inputs;
    graph.nodes.remove(conv);
    Some(())
}
