//! Graphs as TFLite files.

use super::flat::{self, Flat, Model, Operator};
use edgeward_compiler::graph::{Activation, DType, Graph, Kind, Node, Tensor, Window};

/// The file; an error names what the writer lacks.
pub fn write(graph: &Graph) -> Result<Vec<u8>, String> {
    let mut model = Model {
        tensors: Vec::new(),
        operators: Vec::new(),
        inputs: graph.inputs.iter().map(|it| it.0 as i32).collect(),
        outputs: graph.outputs.iter().map(|it| it.0 as i32).collect(),
        codes: Vec::new(),
        // By convention the first is empty: it is that of tensors without data.
        buffers: vec![Vec::new()],
        last_buffer: None,
    };
    for tensor in &graph.tensors {
        let buffer = match &tensor.data {
            Some(data) => {
                model.buffers.push(data.clone());
                model.buffers.len() - 1
            }
            None => 0,
        };
        model.tensors.push(self::tensor(tensor, buffer)?);
    }
    for node in &graph.nodes {
        let (code, options) = operator(graph, node)?;
        let known = model.codes.iter().position(|(it, _)| *it == code);
        let index = known.unwrap_or(model.codes.len());
        if known.is_none() {
            model.codes.push((code, None));
        }
        model.operators.push(Operator {
            code: index as i32,
            inputs: node
                .inputs
                .iter()
                .map(|it| it.map_or(-1, |it| it.0 as i32))
                .collect(),
            outputs: node.outputs.iter().map(|it| it.0 as i32).collect(),
            options,
        });
    }
    Ok(model.bytes())
}

fn tensor(tensor: &Tensor, buffer: usize) -> Result<flat::Tensor, String> {
    let quantization = tensor.quantization.as_ref();
    let zero_points =
        quantization.map(|it| it.zero_points.iter().map(|&zero| zero.into()).collect());
    Ok(flat::Tensor {
        name: tensor.name.clone(),
        shape: tensor.shape.iter().map(|&extent| extent as i32).collect(),
        kind: match tensor.dtype {
            DType::I8 => flat::INT8,
            DType::I32 => flat::INT32,
            other => return Err(format!("tensors of {other:?}")),
        },
        buffer: buffer as i32,
        scales: quantization.map(|it| it.scales.clone()).unwrap_or_default(),
        zero_points: zero_points.unwrap_or_default(),
        axis: quantization.map_or(0, |it| it.axis as i32),
        more: Vec::new(),
    })
}

/// Code and options of an operator, by their numbers in the schema.
fn operator(graph: &Graph, node: &Node) -> Result<(i32, Vec<(usize, Flat)>), String> {
    Ok(match &node.kind {
        Kind::Conv { window, activation } => {
            let mut options = sliding(window);
            options.push((3, fused(*activation)?));
            (flat::CONV_2D, options)
        }
        Kind::Depthwise {
            window,
            multiplier,
            activation,
        } => {
            let mut options = sliding(window);
            options.extend([(3, flat::int(*multiplier as i32)), (4, fused(*activation)?)]);
            (flat::DEPTHWISE_CONV_2D, options)
        }
        Kind::AveragePool { window, activation } => {
            let mut options = sliding(window);
            options.extend([
                (3, flat::int(window.kernel[1] as i32)),
                (4, flat::int(window.kernel[0] as i32)),
                (5, fused(*activation)?),
            ]);
            (flat::AVERAGE_POOL_2D, options)
        }
        Kind::Dense { activation } => (flat::FULLY_CONNECTED, vec![(0, fused(*activation)?)]),
        Kind::Add { activation } => (flat::ADD, vec![(0, fused(*activation)?)]),
        Kind::Softmax { beta } => {
            let beta = Flat::Number(beta.to_le_bytes().to_vec());
            (flat::SOFTMAX, vec![(0, beta)])
        }
        Kind::Reshape => {
            let shape = &graph.tensor(node.outputs[0]).shape;
            let shape: Vec<i32> = shape.iter().map(|&extent| extent as i32).collect();
            (flat::RESHAPE, vec![(0, Flat::ints(&shape))])
        }
        other => return Err(format!("operator {}", other.name())),
    })
}

/// Padding and steps: without padding it is VALID, with it SAME.
fn sliding(window: &Window) -> Vec<(usize, Flat)> {
    let valid = i8::from(window.padding == [0; 4]);
    vec![
        (0, flat::byte(valid)),
        (1, flat::int(window.stride[1] as i32)),
        (2, flat::int(window.stride[0] as i32)),
    ]
}

fn fused(activation: Activation) -> Result<Flat, String> {
    Ok(flat::byte(match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::ReluN1To1 => 2,
        Activation::Relu6 => 3,
        other => return Err(format!("activation {other:?}")),
    }))
}
