//! Means and slices of other shapes than a graph's, which has the mean of an image's pixels and keeps
//! all axes: reshapes around them, and a transpose where elements lie in another order.

use crate::graph::{Graph, Kind, Node, Tensor, TensorId};

/// Adds a mean. Over other axes than an image's pixels it becomes that of an image of one column, whose
/// channels are what is kept: as TensorFlow Lite Micro sums and scales in one way whatever the axes, the
/// result is the same.
pub(super) fn mean(graph: &mut Graph, mut node: Node) {
    let (Kind::Mean { axes }, Some(Some(input))) = (&node.kind, node.inputs.first().copied())
    else {
        graph.nodes.push(node);
        return;
    };
    let shape = graph.tensor(input).shape.clone();
    let pixels = shape.len() == 4 && shape[0] == 1 && axes.as_slice() == [1, 2];
    if pixels || axes.is_empty() {
        graph.nodes.push(node);
        return;
    }
    let (summed, kept): (Vec<usize>, Vec<usize>) =
        (0..shape.len()).partition(|axis| axes.contains(axis));
    let extent = |axes: &[usize]| axes.iter().map(|&axis| shape[axis]).product::<usize>();
    let image = vec![1, extent(&summed), 1, extent(&kept)];
    let permutation: Vec<usize> = summed.into_iter().chain(kept).collect();
    // Axes of one move nothing.
    let moved = permutation.iter().filter(|&&axis| shape[axis] != 1);
    let mut data = input;
    if !moved.is_sorted() {
        let turned = permutation.iter().map(|&axis| shape[axis]).collect();
        data = push(graph, &node, Kind::Transpose { permutation }, data, turned);
    }
    data = push(graph, &node, Kind::Reshape, data, image);
    node.kind = Kind::Mean { axes: vec![1, 2] };
    node.inputs[0] = Some(data);
    graph.nodes.push(node);
}

/// Adds a slice that drops axes: one that keeps them, and a reshape.
///
/// # Errors
/// When the output has not as many axes as are left.
pub(super) fn drop_axes(
    graph: &mut Graph,
    mut node: Node,
    dropped: &[usize],
) -> Result<(), String> {
    let &[output] = node.outputs.as_slice() else {
        return Err("it has not one output".into());
    };
    let mut shape = graph.tensor(output).shape.clone();
    let axes = node.inputs.first().copied().flatten();
    let axes = axes.map_or(0, |input| graph.tensor(input).shape.len());
    if shape.len() + dropped.len() != axes {
        return Err(format!(
            "its output has shape {shape:?}, and it keeps {} of {axes} axes",
            axes - dropped.len()
        ));
    }
    for &axis in dropped {
        shape.insert(axis, 1);
    }
    let whole = like(graph, &node, output, shape);
    node.outputs[0] = whole;
    let reshape = Node {
        name: node.name.clone(),
        kind: Kind::Reshape,
        inputs: vec![Some(whole)],
        outputs: vec![output],
    };
    graph.nodes.extend([node, reshape]);
    Ok(())
}

/// Adds a node of `node`'s name that makes a tensor of another shape; gives that.
fn push(
    graph: &mut Graph,
    node: &Node,
    kind: Kind,
    input: TensorId,
    shape: Vec<usize>,
) -> TensorId {
    let output = like(graph, node, input, shape);
    graph.nodes.push(Node {
        name: node.name.clone(),
        kind,
        inputs: vec![Some(input)],
        outputs: vec![output],
    });
    output
}

/// A new tensor that `node` makes, with another's elements under another shape.
fn like(graph: &mut Graph, node: &Node, of: TensorId, shape: Vec<usize>) -> TensorId {
    let of = graph.tensor(of);
    // Several scales are refused of the other tensor; and files may ask for many copies of them.
    let quantization = of.quantization.as_ref().filter(|it| it.scales.len() == 1);
    let tensor = Tensor {
        name: format!("{} as {shape:?}", node.name),
        shape,
        dtype: of.dtype,
        quantization: quantization.cloned(),
        data: None,
    };
    graph.tensors.push(tensor);
    TensorId(graph.tensors.len() - 1)
}
