//! Operators that leave the bytes as they are become reshapes, and those cost nothing: the emitter
//! gives their input and output one place.

use crate::graph::{Graph, Kind, Node, Unary};

/// Turns operators into reshapes, and says how many.
pub(super) fn find(graph: &mut Graph) -> usize {
    let mut count = 0;
    for index in 0..graph.nodes.len() {
        if graph.nodes[index].kind != Kind::Reshape && leaves_bytes(graph, &graph.nodes[index]) {
            graph.nodes[index].kind = Kind::Reshape;
            count += 1;
        }
    }
    count
}

fn leaves_bytes(graph: &Graph, node: &Node) -> bool {
    let [Some(input)] = node.inputs.as_slice() else {
        return false;
    };
    let (input, output) = (graph.tensor(*input), graph.tensor(node.outputs[0]));
    if input.per_tensor() != output.per_tensor() || input.data.is_some() {
        return false;
    }
    match &node.kind {
        Kind::Unary(Unary::Requantize) | Kind::Concat { .. } => true,
        Kind::Transpose { permutation } => {
            let moved = permutation.iter().filter(|&&axis| input.shape[axis] != 1);
            moved.is_sorted()
        }
        Kind::Pad { padding, .. } => padding.iter().all(|pad| *pad == [0, 0]),
        Kind::Slice { .. } => input.shape == output.shape,
        _ => false,
    }
}
