//! Paddings of rows and columns with the zero point move into the convolutions that read them, which
//! read padding as the zero point too.

use crate::graph::{Graph, Kind, Node, TensorId, Window};

/// Folds paddings, and says how many.
pub(super) fn fold(graph: &mut Graph) -> usize {
    let before = graph.nodes.len();
    let mut index = 0;
    while index < graph.nodes.len() {
        if folded(graph, index).is_some() {
            graph.nodes.remove(index);
        } else {
            index += 1;
        }
    }
    before - graph.nodes.len()
}

fn folded(graph: &mut Graph, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    let Kind::Pad { padding, value } = &node.kind else {
        return None;
    };
    let (input, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
    let parameters = graph.tensor(input).per_tensor()?;
    let &[[0, 0], [top, bottom], [left, right], [0, 0]] = padding.as_slice() else {
        return None;
    };
    if parameters != graph.tensor(output).per_tensor()? || *value != parameters.1 {
        return None;
    }
    if graph.outputs.contains(&output) {
        return None;
    }
    let more = [top, left, bottom, right];
    let readers = |node: &&Node| node.inputs.contains(&Some(output));
    if !graph
        .nodes
        .iter()
        .filter(readers)
        .all(|node| takes(node, output, more))
    {
        return None;
    }
    for node in &mut graph.nodes {
        if node.inputs.first() == Some(&Some(output)) {
            node.inputs[0] = Some(input);
            if let Some(window) = window_of(&mut node.kind) {
                core::iter::zip(&mut window.padding, more).for_each(|(all, more)| *all += more);
            }
        }
    }
    Some(())
}

fn window_of(kind: &mut Kind) -> Option<&mut Window> {
    match kind {
        Kind::Conv { window, .. } | Kind::Depthwise { window, .. } => Some(window),
        _ => None,
    }
}

/// Whether a node can read the padding itself: no window may lie in it alone.
fn takes(node: &Node, id: TensorId, more: [usize; 4]) -> bool {
    let mut kind = node.kind.clone();
    let once = node
        .inputs
        .iter()
        .filter(|&&input| input == Some(id))
        .count()
        == 1;
    let Some(window) = window_of(&mut kind) else {
        return false;
    };
    let fits = |side: usize| {
        let axis = side % 2;
        let reach = (window.kernel[axis] - 1) * window.dilation[axis];
        window.padding[side] + more[side] <= reach
    };
    once && node.inputs.first() == Some(&Some(id)) && (0..4).all(fits)
}
