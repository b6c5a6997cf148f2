//! The model's border: programs take and give int8, so that conversions there fall away.
//!
//! A model may begin with a quantization of floats, or take uint8; it may end likewise. The header
//! of a program carries the scales and zero points, and whoever calls it converts.

use crate::graph::{DType, Graph, Kind, Node, TensorId, Unary};

/// Takes conversions off the border, and says what it did.
pub fn strip(graph: &mut Graph) -> Vec<String> {
    let mut notes = Vec::new();
    for place in 0..graph.inputs.len() {
        let id = graph.inputs[place];
        signed(graph, id, ["input", "give x - 128"], &mut notes);
        let only = |node: &&Node| node.inputs.first() == Some(&Some(id));
        let reader = graph
            .nodes
            .iter()
            .position(|node| only(&node) && node.kind == Kind::Quantize);
        if let Some(reader) = reader.filter(|_| graph.uses(id) == 1) {
            let node = graph.nodes.remove(reader);
            graph.inputs[place] = node.outputs[0];
            notes.push(format!(
                "input \"{}\" is float: give it quantized",
                graph.tensor(id).name
            ));
        }
    }
    for place in 0..graph.outputs.len() {
        let id = graph.outputs[place];
        signed(graph, id, ["output", "add 128"], &mut notes);
        let writer = graph
            .nodes
            .iter()
            .position(|node| node.outputs.first() == Some(&id));
        let writer = writer.filter(|&writer| graph.nodes[writer].kind == Kind::Dequantize);
        if let Some(writer) = writer.filter(|_| graph.uses(id) == 1) {
            let node = graph.nodes.remove(writer);
            if let Some(Some(input)) = node.inputs.first() {
                graph.outputs[place] = *input;
                notes.push(format!(
                    "output \"{}\" is float: it comes quantized",
                    graph.tensor(id).name
                ));
            }
        }
    }
    notes
}

/// Moves a uint8 tensor of the border to int8 where that can be, and says what its caller has to do.
fn signed(graph: &mut Graph, id: TensorId, [what, todo]: [&str; 2], notes: &mut Vec<String>) {
    if graph.tensor(id).dtype == DType::U8 && to_signed(graph, id) {
        let name = &graph.tensor(id).name;
        notes.push(format!("{what} \"{name}\" is uint8: {todo}"));
    }
}

/// Moves a uint8 tensor that only conversions touch to int8: 128 less, zero point and data alike.
fn to_signed(graph: &mut Graph, id: TensorId) -> bool {
    let converts = |node: &Node| {
        let touches = node.inputs.contains(&Some(id)) || node.outputs.contains(&id);
        !touches || node.kind == Kind::Unary(Unary::Requantize)
    };
    if !graph.nodes.iter().all(converts) {
        return false;
    }
    let tensor = &mut graph.tensors[id.0];
    let Some(quantization) = &mut tensor.quantization else {
        return false;
    };
    for zero in &mut quantization.zero_points {
        *zero -= 128;
    }
    tensor.dtype = DType::I8;
    true
}
