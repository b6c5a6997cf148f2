//! Constant weights, as distances from their zero point.
//!
//! Programs multiply by symmetric int8 weights. The distance of an 8-bit weight from its zero point
//! has nine bits; where it does not fit int8 it becomes a sum of parts that do, and the layer reads its
//! input once for each part: `x * 200 = x * 127 + x * 73`. Products are summed in 32 bits, so that the
//! result is exact; what it costs is the layer's multiplications times the number of parts (two, and
//! three for a distance of 255), and a copy of its input.

use super::Importer;
use super::constant::{Constant, Elements};
use super::error::{Result, USE_TRACT};
use super::lower::Context;
use super::value::{Form, Value};
use crate::graph::{DType, Kind, Quantization, TensorId};

/// What to do with weights that are no 8-bit constants.
pub(super) const SYMMETRIC: &str = "export the weights symmetric: int8 with zero point 0";

/// Weights in the file's order.
pub(super) struct Weights {
    /// Their name in the file.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Distances from the zero point, -255 to 255.
    pub(super) data: Vec<i16>,
    pub(super) scales: Vec<f32>,
    pub(super) axis: usize,
}

impl Weights {
    /// Weights of a constant with its scales and zero points.
    pub(super) fn of(
        context: &Context<'_>,
        name: &str,
        constant: &Constant,
        quantization: &Quantization,
    ) -> Result<Self> {
        let Elements::Int(ints, DType::I8 | DType::U8) = &constant.elements else {
            let why = format!("its weights {name} are neither int8 nor uint8");
            return Err(context.error(why, SYMMETRIC));
        };
        let zeros = &quantization.zero_points;
        let inner = match zeros.len() {
            0 | 1 => constant.elements(),
            count if constant.shape.get(quantization.axis) == Some(&count) => {
                constant.inner(quantization.axis)
            }
            count => {
                let why = format!("its weights {name} have {count} scales, which are not theirs");
                return Err(context.error(why, SYMMETRIC));
            }
        };
        let distance = |(at, &int): (usize, &i64)| {
            let zero = zeros.get(at / inner.max(1) % zeros.len().max(1));
            (int - i64::from(zero.copied().unwrap_or(0))) as i16
        };
        Ok(Self {
            name: name.into(),
            shape: constant.shape.clone(),
            data: ints.iter().enumerate().map(distance).collect(),
            scales: quantization.scales.clone(),
            axis: quantization.axis,
        })
    }

    /// The int8 parts that the weights are sums of: one, where they all fit.
    pub(super) fn parts(&self) -> Vec<Vec<i8>> {
        let mut rest = self.data.clone();
        let mut parts = Vec::new();
        while parts.is_empty() || rest.iter().any(|&weight| weight != 0) {
            let take = |weight: &mut i16| {
                let part = (*weight).clamp(i8::MIN.into(), i8::MAX.into());
                *weight -= part;
                part as i8
            };
            parts.push(rest.iter_mut().map(take).collect());
        }
        parts
    }
}

/// Takes turns between parts: `run` weights of each.
pub(super) fn in_turn(parts: &[Vec<i8>], run: usize) -> Vec<u8> {
    let count = parts.first().map_or(0, |part| part.len() / run.max(1));
    let runs = (0..count).flat_map(|at| parts.iter().map(move |part| &part[at * run..][..run]));
    runs.flatten()
        .map(|weight| weight.cast_unsigned())
        .collect()
}

impl Importer {
    /// Weights with their scales.
    pub(super) fn weights(&self, context: &Context<'_>, index: usize) -> Result<Weights> {
        let name = context.name(index);
        match self.value(context, index)? {
            Value::RealConstant(constant, quantization) => {
                Weights::of(context, name, constant, quantization)
            }
            Value::Constant(_) => Err(context.error(
                format!("its weights {name} are float"),
                "quantize them: int8, symmetric, a scale an output channel",
            )),
            _ => Err(context.error(format!("its weights {name} are not constant"), USE_TRACT)),
        }
    }

    /// A tensor `count` times, along an axis of the graph's shape.
    pub(super) fn repeated(
        &mut self,
        tensor: TensorId,
        axis: usize,
        count: usize,
        place: &str,
    ) -> TensorId {
        if count == 1 {
            return tensor;
        }
        let mut shape = self.graph.tensor(tensor).shape.clone();
        shape[axis] *= count;
        let quantization = self.graph.tensor(tensor).quantization.clone();
        let name = format!("{place} input for each part of its weights");
        let output = self.tensor(&name, &Form::plain(shape), quantization);
        let inputs = vec![Some(tensor); count];
        self.push(&name, Kind::Concat { axis }, inputs, output);
        output
    }

    /// An image `[1, h, w, c]` with every row `count` times, one after the other.
    pub(super) fn repeated_rows(
        &mut self,
        tensor: TensorId,
        count: usize,
        place: &str,
    ) -> TensorId {
        if count == 1 {
            return tensor;
        }
        let &[_, height, width, channels] = &self.graph.tensor(tensor).shape[..] else {
            return tensor;
        };
        let rows = Form::plain(vec![1, height, 1, width * channels]);
        let apart = self.moved(&format!("{place} rows"), Kind::Reshape, tensor, &rows);
        let repeated = self.repeated(apart, 2, count, place);
        let image = Form::plain(vec![1, height * count, width, channels]);
        self.moved(&format!("{place} image"), Kind::Reshape, repeated, &image)
    }
}
