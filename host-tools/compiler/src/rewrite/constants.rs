//! Operators on constants are computed once, here.

use crate::emit::function_table;
use crate::graph::{DType, Graph, Kind, Node};

/// Most bytes that folding makes: each operator on a shared constant makes one as large.
const BYTES_MAX: usize = 1 << 28;

/// Folds constants, and says how many operators that took.
pub(super) fn fold(graph: &mut Graph) -> usize {
    let before = graph.nodes.len();
    let mut index = 0;
    let mut bytes = 0;
    while index < graph.nodes.len() {
        let node = &graph.nodes[index];
        let data = match bytes {
            ..=BYTES_MAX => value(graph, node),
            _ => None,
        };
        match data.filter(|_| !graph.outputs.contains(&node.outputs[0])) {
            Some(data) => {
                bytes += data.len();
                let output = node.outputs[0];
                graph.tensors[output.0].data = Some(data);
                graph.nodes.remove(index);
            }
            None => index += 1,
        }
    }
    before - graph.nodes.len()
}

/// The output's bytes, when the operator and its input are understood.
fn value(graph: &Graph, node: &Node) -> Option<Vec<u8>> {
    let (&[Some(input)], &[output]) = (node.inputs.as_slice(), node.outputs.as_slice()) else {
        return None;
    };
    let (input, output) = (graph.tensor(input), graph.tensor(output));
    let data = input.data.as_ref()?;
    let size = input.dtype.bytes();
    let whole = data.len() == output.elements() * output.dtype.bytes();
    if !whole || input.dtype != output.dtype {
        return None;
    }
    match &node.kind {
        Kind::Reshape => Some(data.clone()),
        Kind::Unary(function) if input.dtype == DType::I8 => {
            let table =
                function_table(*function, input.per_tensor()?, output.per_tensor()?).ok()?;
            let of = |&byte: &u8| table[usize::from(byte.wrapping_add(128))].cast_unsigned();
            Some(data.iter().map(of).collect())
        }
        Kind::Transpose { permutation } => {
            let axes = input.shape.len();
            let mut sorted = permutation.clone();
            sorted.sort_unstable();
            let shape: Vec<usize> = permutation
                .iter()
                .filter_map(|&axis| input.shape.get(axis).copied())
                .collect();
            if !sorted.into_iter().eq(0..axes) || shape != output.shape {
                return None;
            }
            let mut strides = vec![1; axes];
            for axis in (1..axes).rev() {
                strides[axis - 1] = strides[axis] * input.shape[axis];
            }
            let mut moved = Vec::with_capacity(data.len());
            for element in 0..output.elements() {
                let (mut rest, mut from) = (element, 0);
                for axis in (0..axes).rev() {
                    from += rest % shape[axis] * strides[permutation[axis]];
                    rest /= shape[axis];
                }
                moved.extend_from_slice(data.get(from * size..(from + 1) * size)?);
            }
            Some(moved)
        }
        _ => None,
    }
}
