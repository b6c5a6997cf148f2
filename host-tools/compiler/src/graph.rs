//! The graph between importers and programs.
//!
//! Semantics are those of TensorFlow Lite's int8 operators: activations lie row-major with channels
//! last (NHWC), weights are symmetric, biases are int32 at `input scale * weight scale`. An importer
//! of another format makes its graph mean that before it hands it on, or refuses it.

/// Which tensor: an index into [`Graph::tensors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// 8-bit signed.
    I8,
    /// 8-bit unsigned: at a graph's border only; inside, importers move it to int8.
    U8,
    /// 16-bit signed.
    I16,
    /// 32-bit signed: biases, shapes.
    I32,
    /// 64-bit signed: shapes.
    I64,
    /// 32-bit float: at a graph's border only.
    F32,
}

impl DType {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// Affine quantization: `real = scale * (q - zero_point)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantization {
    /// One scale, or one an index of `axis`.
    pub scales: Vec<f32>,
    /// As many zero points as scales.
    pub zero_points: Vec<i32>,
    /// The axis of per-channel scales.
    pub axis: usize,
}

/// A value of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Extent of each axis; the batch is 1.
    pub shape: Vec<usize>,
    /// Type of the elements.
    pub dtype: DType,
    /// How integers stand for reals.
    pub quantization: Option<Quantization>,
    /// Little-endian elements, of a constant.
    pub data: Option<Vec<u8>>,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The one scale and zero point of an int8 activation; `None` where there is no such pair.
    pub fn per_tensor(&self) -> Option<(f32, i8)> {
        let quantization = self.quantization.as_ref()?;
        match (
            quantization.scales.as_slice(),
            quantization.zero_points.as_slice(),
        ) {
            (&[scale], &[zero]) if scale.is_normal() && scale > 0.0 => {
                Some((scale, i8::try_from(zero).ok()?))
            }
            _ => None,
        }
    }
}

/// An activation fused into an operator.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Activation {
    /// None.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `clamp(x, 0, 6)`.
    Relu6,
    /// `clamp(x, -1, 1)`.
    ReluN1To1,
    /// `min(max(x, low), high)`, as ONNX has it: its ends are quantized by QuantizeLinear, halves to even.
    Clamp {
        /// No number is less.
        low: f32,
        /// Nor greater, whatever `low` is.
        high: f32,
    },
}

/// A sliding window with its padding made explicit: `[height, width]`, `[top, left, bottom, right]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Extent of the kernel.
    pub kernel: [usize; 2],
    /// Steps.
    pub stride: [usize; 2],
    /// Steps between taps.
    pub dilation: [usize; 2],
    /// Padding: top, left, bottom, right.
    pub padding: [usize; 4],
}

/// A function of one element. Emitted as a table, computed with TensorFlow Lite Micro's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Unary {
    /// `max(x, 0)`.
    Relu,
    /// `clamp(x, 0, 6)`.
    Relu6,
    /// [`Activation::Clamp`].
    Clamp {
        /// No number is less.
        low: f32,
        /// Nor greater, whatever `low` is.
        high: f32,
    },
    /// `x` where positive, else `alpha * x`.
    LeakyRelu {
        /// Slope below zero.
        alpha: f32,
    },
    /// `x * relu6(x + 3) / 6`.
    HardSwish,
    /// `1 / (1 + exp(-x))`.
    Logistic,
    /// Hyperbolic tangent.
    Tanh,
    /// Another scale or zero point for the same value.
    Requantize,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Inputs: data `[1, h, w, c]`, weights `[out, kh, kw, c]`, bias `[out]` or none.
    Conv {
        /// The window.
        window: Window,
        /// Fused activation.
        activation: Activation,
    },
    /// A convolution and a sum in one: inputs as of [`Kind::Conv`], bias present or not, then the
    /// other addend.
    ConvAdd {
        /// The window.
        window: Window,
        /// Activation fused into the convolution.
        activation: Activation,
        /// What the convolution made: its quantization holds on.
        between: TensorId,
        /// Activation fused into the sum.
        sum: Activation,
    },
    /// Inputs: data `[1, h, w, c]`, weights `[1, kh, kw, c * multiplier]`, bias or none.
    Depthwise {
        /// The window.
        window: Window,
        /// Output channels an input channel.
        multiplier: usize,
        /// Fused activation.
        activation: Activation,
    },
    /// Inputs: data `[.., in]`, weights `[out, in]`, bias or none.
    Dense {
        /// Fused activation.
        activation: Activation,
    },
    /// Sum of two tensors.
    Add {
        /// Fused activation.
        activation: Activation,
    },
    /// Difference of two tensors.
    Sub {
        /// Fused activation.
        activation: Activation,
    },
    /// Product of two tensors.
    Mul {
        /// Fused activation.
        activation: Activation,
    },
    /// Average over a window, padding left out.
    AveragePool {
        /// The window.
        window: Window,
        /// Fused activation.
        activation: Activation,
    },
    /// Maximum over a window.
    MaxPool {
        /// The window.
        window: Window,
        /// Fused activation.
        activation: Activation,
    },
    /// Mean over axes.
    Mean {
        /// The axes.
        axes: Vec<usize>,
    },
    /// Softmax over the last axis.
    Softmax {
        /// Factor before the exponential.
        beta: f32,
    },
    /// A function of one element.
    Unary(Unary),
    /// The same bytes under another shape: reshape, squeeze, flatten, expand.
    Reshape,
    /// Axes in another order.
    Transpose {
        /// Axis `i` of the output is axis `permutation[i]` of the input.
        permutation: Vec<usize>,
    },
    /// Inputs side by side along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// Padding with the zero point (or a value): before and after each axis.
    Pad {
        /// Elements before and after, an axis each.
        padding: Vec<[usize; 2]>,
        /// The quantized value.
        value: i8,
    },
    /// A strided part.
    Slice {
        /// First index of each axis.
        begin: Vec<usize>,
        /// Step of each axis; the extent is the output's shape.
        stride: Vec<usize>,
    },
    /// float to int8, at the graph's border.
    Quantize,
    /// int8 to float, at the graph's border.
    Dequantize,
}

impl Kind {
    /// The kind's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "Conv",
            Self::ConvAdd { .. } => "ConvAdd",
            Self::Depthwise { .. } => "Depthwise",
            Self::Dense { .. } => "Dense",
            Self::Add { .. } => "Add",
            Self::Sub { .. } => "Sub",
            Self::Mul { .. } => "Mul",
            Self::AveragePool { .. } => "AveragePool",
            Self::MaxPool { .. } => "MaxPool",
            Self::Mean { .. } => "Mean",
            Self::Softmax { .. } => "Softmax",
            Self::Unary(Unary::Relu) => "Relu",
            Self::Unary(Unary::Relu6) => "Relu6",
            Self::Unary(Unary::Clamp { .. }) => "Clamp",
            Self::Unary(Unary::LeakyRelu { .. }) => "LeakyRelu",
            Self::Unary(Unary::HardSwish) => "HardSwish",
            Self::Unary(Unary::Logistic) => "Logistic",
            Self::Unary(Unary::Tanh) => "Tanh",
            Self::Unary(Unary::Requantize) => "Requantize",
            Self::Reshape => "Reshape",
            Self::Transpose { .. } => "Transpose",
            Self::Concat { .. } => "Concat",
            Self::Pad { .. } => "Pad",
            Self::Slice { .. } => "Slice",
            Self::Quantize => "Quantize",
            Self::Dequantize => "Dequantize",
        }
    }
}

/// An operator with its place in the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name in the file, or its kind and index.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Inputs; `None` where an optional one is absent.
    pub inputs: Vec<Option<TensorId>>,
    /// Outputs.
    pub outputs: Vec<TensorId>,
}

/// What becomes of a float input before it is quantized: element `i` takes
/// `features[i / inner % features.len()]` and becomes `(x - subtract) * multiply`.
#[derive(Debug, Clone, PartialEq)]
pub struct InputAffine {
    /// `(subtract, multiply)`, a feature each.
    pub features: Vec<(f32, f32)>,
    /// Elements from one feature to the next.
    pub inner: usize,
}

/// A graph; nodes stand in an order that can be run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    /// All values.
    pub tensors: Vec<Tensor>,
    /// All operators.
    pub nodes: Vec<Node>,
    /// What the caller gives.
    pub inputs: Vec<TensorId>,
    /// What the caller gets.
    pub outputs: Vec<TensorId>,
    /// How the caller's floats are scaled before they are quantized.
    pub input_affine: Option<InputAffine>,
    /// Shape of the caller's input where it has its channels first and the graph takes it with channels
    /// last: quantizing moves the elements to their places.
    pub planar_input: Option<Vec<usize>>,
    /// Whether quantizing the input rounds halves to even, as ONNX does, and not away from zero, as
    /// TensorFlow Lite does.
    pub input_half_to_even: bool,
}

impl Graph {
    /// The tensor that an index names.
    ///
    /// # Panics
    /// When `id` is of another graph.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// How many nodes read a tensor, the graph's output counted once more.
    pub fn uses(&self, id: TensorId) -> usize {
        let reads = |node: &Node| {
            node.inputs
                .iter()
                .filter(|&&input| input == Some(id))
                .count()
        };
        let border = self.outputs.iter().filter(|&&output| output == id).count();
        self.nodes.iter().map(reads).sum::<usize>() + border
    }
}
