//! The messages of an ONNX file that a graph is made of, by their field numbers in `onnx.proto3`.
//!
//! Only what the importer reads; unknown fields are skipped, as protobuf wants it.

/// `ModelProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Model {
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// Versions of the operator sets.
    #[prost(message, repeated, tag = "8")]
    pub opsets: Vec<OperatorSet>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSet {
    /// Empty for ONNX's own operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Graph {
    /// Operators, in an order that can be run.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<Node>,
    /// Constants.
    #[prost(message, repeated, tag = "5")]
    pub initializers: Vec<Tensor>,
    /// What the caller gives; old files list initializers too.
    #[prost(message, repeated, tag = "11")]
    pub inputs: Vec<ValueInfo>,
    /// What the caller gets.
    #[prost(message, repeated, tag = "12")]
    pub outputs: Vec<ValueInfo>,
    /// Sparse constants, which are refused.
    #[prost(message, repeated, tag = "15")]
    pub sparse: Vec<Unread>,
}

/// A message of which only the presence counts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unread {}

/// `NodeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Names of the inputs; empty where an optional one is absent.
    #[prost(string, repeated, tag = "1")]
    pub inputs: Vec<String>,
    /// Names of the outputs.
    #[prost(string, repeated, tag = "2")]
    pub outputs: Vec<String>,
    /// Name of the node.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub operator: String,
    /// Attributes.
    #[prost(message, repeated, tag = "5")]
    pub attributes: Vec<Attribute>,
    /// Domain of the operator.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// `AttributeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attribute {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A float.
    #[prost(float, tag = "2")]
    pub float: f32,
    /// An integer.
    #[prost(int64, tag = "3")]
    pub int: i64,
    /// A string.
    #[prost(bytes = "vec", tag = "4")]
    pub string: Vec<u8>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub tensor: Option<Tensor>,
    /// Integers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// Which of them it is, by `AttributeProto.AttributeType`: other readers ask for it.
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// `TensorProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tensor {
    /// Extents.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// Element type, by `TensorProto.DataType`.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Elements of a float tensor.
    #[prost(float, repeated, tag = "4")]
    pub floats: Vec<f32>,
    /// Elements of integers of up to 32 bits.
    #[prost(int32, repeated, tag = "5")]
    pub ints: Vec<i32>,
    /// Elements of 64-bit integers.
    #[prost(int64, repeated, tag = "7")]
    pub longs: Vec<i64>,
    /// Name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Little-endian elements of any type.
    #[prost(bytes = "vec", tag = "9")]
    pub raw: Vec<u8>,
    /// 1 where the elements lie in another file.
    #[prost(int32, tag = "14")]
    pub location: i32,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfo {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub kind: Option<Type>,
}

/// `TypeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Type {
    /// A dense tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// Element type, by `TensorProto.DataType`.
    #[prost(int32, tag = "1")]
    pub element: i32,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shape {
    /// Extents.
    #[prost(message, repeated, tag = "1")]
    pub dims: Vec<Dim>,
}

/// `TensorShapeProto.Dimension`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dim {
    /// The extent; 0 where it is open.
    #[prost(int64, tag = "1")]
    pub value: i64,
}
