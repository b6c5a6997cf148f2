//! What a name of the file stands for.

use super::constant::Constant;
use crate::graph::{InputAffine, Kind, Quantization, TensorId};

/// Shape of a value as ONNX sees it, and whether its bytes lie with channels last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    /// Extents in ONNX's order.
    pub(super) dims: Vec<usize>,
    /// Whether the graph holds it as `[1, h, w, c]`.
    pub(super) last: bool,
}

impl Form {
    pub(super) const fn plain(dims: Vec<usize>) -> Self {
        Self { dims, last: false }
    }

    /// A value of three or four axes with channels last.
    pub(super) const fn last(dims: Vec<usize>) -> Self {
        Self { dims, last: true }
    }

    /// The shape in the graph.
    pub(super) fn shape(&self) -> Vec<usize> {
        match (self.last, &self.dims[..]) {
            (true, &[n, c, l]) => vec![n, l, 1, c],
            (true, &[n, c, h, w]) => vec![n, h, w, c],
            _ => self.dims.clone(),
        }
    }

    pub(super) fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// A float input before its QuantizeLinear: `(x - subtract) * multiply`, feature by feature.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Affine {
    pub(super) dims: Vec<usize>,
    /// One entry, or one an index of axis `axis`.
    pub(super) features: Vec<(f32, f32)>,
    pub(super) axis: usize,
}

impl Affine {
    pub(super) fn new(dims: Vec<usize>) -> Self {
        Self {
            dims,
            features: vec![(0.0, 1.0)],
            axis: 0,
        }
    }

    /// What the graph says of it; `None` where it changes nothing.
    pub(super) fn into_graph(self) -> Option<InputAffine> {
        if self.features.iter().all(|&feature| feature == (0.0, 1.0)) {
            return None;
        }
        let inner = match self.features.len() {
            1 => self.dims.iter().product(),
            _ => self.dims[self.axis + 1..].iter().product(),
        };
        Some(InputAffine {
            features: self.features,
            inner,
        })
    }
}

/// A float operator whose result waits for its QuantizeLinear.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    /// Node of the file.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) inputs: Vec<Option<TensorId>>,
    pub(super) form: Form,
    /// What the operator itself makes of its inputs, where that is reshaped to `form`.
    pub(super) made: Option<Form>,
    /// Quantization that the operator's own result has before it is brought to the wanted one;
    /// `None` where the operator requantizes by itself.
    pub(super) own: Option<Quantization>,
}

/// What a name of the file stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A constant of the file.
    Constant(Constant),
    /// A constant with a scale: an initializer behind DequantizeLinear.
    RealConstant(Constant, Quantization),
    /// Quantized elements. `unsigned` when the file has them as uint8: the graph's are 128 less.
    Int {
        tensor: TensorId,
        form: Form,
        unsigned: bool,
    },
    /// The reals that quantized elements stand for.
    Real { tensor: TensorId, form: Form },
    /// Reals that are yet to be quantized.
    Pending(Pending),
    /// The caller's floats.
    Input(Affine),
}

impl Value {
    /// Elements of constants that it holds, scales and zero points among them.
    pub(super) fn constants(&self) -> usize {
        match self {
            Self::Constant(constant) => constant.elements(),
            Self::RealConstant(constant, quantization) => {
                constant.elements() + quantization.scales.len()
            }
            Self::Input(affine) => affine.features.len(),
            Self::Int { .. } | Self::Real { .. } | Self::Pending(_) => 0,
        }
    }

    /// The shape of what is no constant and no input.
    pub(super) fn form(&self) -> Option<&Form> {
        match self {
            Self::Int { form, .. } | Self::Real { form, .. } => Some(form),
            Self::Pending(pending) => Some(&pending.form),
            _ => None,
        }
    }
}
