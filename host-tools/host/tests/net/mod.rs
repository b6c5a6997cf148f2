//! Float networks built in place.

use prost::Message;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;

/// A graph from `x` to `y` under construction.
pub struct Net {
    pub graph: pb::GraphProto,
    pub last: String,
    /// Drawn in turn for weights.
    pub seed: u64,
}

fn info(name: &str, dims: &[i64]) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension};
    let dim = |&it: &i64| Dimension {
        value: Some(dimension::Value::DimValue(it)),
        ..Default::default()
    };
    let tensor = pb::type_proto::Tensor {
        elem_type: 1,
        shape: Some(pb::TensorShapeProto {
            dim: dims.iter().map(dim).collect(),
        }),
    };
    let kind = pb::TypeProto {
        value: Some(pb::type_proto::Value::TensorType(tensor)),
        ..Default::default()
    };
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(kind),
        ..Default::default()
    }
}

impl Net {
    /// A graph that takes `input`.
    pub fn new(input: &[i64], seed: u64) -> Self {
        let graph = pb::GraphProto {
            name: "net".into(),
            input: vec![info("x", input)],
            ..Default::default()
        };
        Self {
            graph,
            last: "x".into(),
            seed,
        }
    }

    /// A constant with elements in `-size..size`.
    pub fn constant(&mut self, dims: &[i64], size: f32) -> String {
        let count = dims.iter().product::<i64>();
        let floats = (0..count).map(|_| size * uniform(&mut self.seed)).collect();
        self.given(dims, floats)
    }

    /// A constant.
    pub fn given(&mut self, dims: &[i64], floats: Vec<f32>) -> String {
        let name = format!("c{}", self.graph.initializer.len());
        self.graph.initializer.push(pb::TensorProto {
            name: name.clone(),
            dims: dims.into(),
            data_type: 1,
            float_data: floats,
            ..Default::default()
        });
        name
    }

    /// A node that reads the last one's output.
    pub fn node(&mut self, operator: &str, more: &[String], ints: &[(&str, &[i64])]) {
        let output = format!("v{}", self.graph.node.len());
        let mut input = vec![self.last.clone()];
        input.extend_from_slice(more);
        let attribute = |(name, ints): &(&str, &[i64])| pb::AttributeProto {
            name: (*name).into(),
            r#type: if ints.len() == 1 && *name != "kernel_shape" {
                AttributeType::Int
            } else {
                AttributeType::Ints
            } as i32,
            i: ints[0],
            ints: ints.to_vec(),
            ..Default::default()
        };
        self.graph.node.push(pb::NodeProto {
            input,
            output: vec![output.clone()],
            name: format!("the {operator} {output}"),
            op_type: operator.into(),
            attribute: ints.iter().map(attribute).collect(),
            ..Default::default()
        });
        self.last = output;
    }

    /// The file, with `outputs` outputs.
    pub fn done(mut self, outputs: i64) -> Vec<u8> {
        self.graph.output = vec![info(&self.last, &[1, outputs])];
        let opset = pb::OperatorSetIdProto {
            version: 13,
            ..Default::default()
        };
        let model = pb::ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            graph: Some(self.graph),
            ..Default::default()
        };
        model.encode_to_vec()
    }
}

/// The next number in -1..1 (an LCG with Knuth's constants).
pub fn uniform(seed: &mut u64) -> f32 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}
