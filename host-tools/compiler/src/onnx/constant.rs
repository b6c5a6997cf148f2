//! Constants of an ONNX graph.

use super::proto;
use crate::graph::{DType, Quantization};

/// A constant: elements in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub(super) shape: Vec<usize>,
    pub(super) elements: Elements,
}

/// Elements, widened where that loses nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Elements {
    Float(Vec<f32>),
    /// Integers, and the type that they have in the file.
    Int(Vec<i64>, DType),
}

impl Constant {
    /// Reads a tensor; the error says what is wrong with it.
    pub(super) fn read(tensor: &proto::Tensor) -> Result<Self, String> {
        if tensor.location == 1 {
            return Err("its elements lie in another file; save the model as one file".into());
        }
        let extent = |&dim: &i64| usize::try_from(dim).ok();
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(extent).collect();
        let shape = shape.ok_or_else(|| format!("its shape {:?} is impossible", tensor.dims))?;
        let count = shape
            .iter()
            .try_fold(1_usize, |count, &extent| count.checked_mul(extent))
            .ok_or_else(|| format!("its shape {shape:?} is too large"))?;
        let elements = match tensor.data_type {
            1 => Elements::Float(if tensor.raw.is_empty() {
                tensor.floats.clone()
            } else {
                raw(tensor, count, f32::from_le_bytes)?
            }),
            2 => Elements::Int(small(tensor, count, |[b]: [u8; 1]| b.into())?, DType::U8),
            3 => {
                let signed = |[b]: [u8; 1]| i64::from(b.cast_signed());
                Elements::Int(small(tensor, count, signed)?, DType::I8)
            }
            5 => {
                let wide = |bytes| i64::from(i16::from_le_bytes(bytes));
                Elements::Int(small(tensor, count, wide)?, DType::I16)
            }
            6 => {
                let wide = |bytes| i64::from(i32::from_le_bytes(bytes));
                Elements::Int(small(tensor, count, wide)?, DType::I32)
            }
            7 => {
                let longs = if tensor.raw.is_empty() {
                    tensor.longs.clone()
                } else {
                    raw(tensor, count, i64::from_le_bytes)?
                };
                Elements::Int(longs, DType::I64)
            }
            10 => {
                let real = half;
                Elements::Float(if tensor.raw.is_empty() {
                    tensor.ints.iter().map(|&bits| real(bits as u16)).collect()
                } else {
                    raw(tensor, count, |bytes| real(u16::from_le_bytes(bytes)))?
                })
            }
            other => {
                return Err(format!(
                    "its element type {} is not one that programs use",
                    element_type(other)
                ));
            }
        };
        let found = match &elements {
            Elements::Float(all) => all.len(),
            Elements::Int(all, _) => all.len(),
        };
        if found != count {
            return Err(format!(
                "its shape {shape:?} wants {count} elements, it has {found}"
            ));
        }
        Ok(Self { shape, elements })
    }

    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements from one index of an axis to the next.
    pub(super) fn inner(&self, axis: usize) -> usize {
        self.shape[axis + 1..].iter().product()
    }

    /// The reals that integers stand for.
    pub(super) fn reals(&self, quantization: &Quantization) -> Vec<f64> {
        let inner = match quantization.scales.len() {
            1 => self.elements(),
            _ => self.inner(quantization.axis),
        };
        let ints = self.ints().unwrap_or_default().iter().enumerate();
        ints.map(|(at, &int)| {
            let channel = (at / inner.max(1)) % quantization.scales.len();
            let zero = i64::from(quantization.zero_points[channel]);
            (int - zero) as f64 * f64::from(quantization.scales[channel])
        })
        .collect()
    }

    /// One over each element of a float constant.
    pub(super) fn reciprocal(&self) -> Self {
        let elements = match &self.elements {
            Elements::Float(all) => Elements::Float(all.iter().map(|x| 1.0 / x).collect()),
            ints @ Elements::Int(..) => ints.clone(),
        };
        Self {
            shape: self.shape.clone(),
            elements,
        }
    }

    /// The elements as integers.
    pub(super) fn ints(&self) -> Option<&[i64]> {
        match &self.elements {
            Elements::Int(all, _) => Some(all),
            Elements::Float(_) => None,
        }
    }

    /// The elements as floats.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::Float(all) => Some(all),
            Elements::Int(..) => None,
        }
    }
}

/// A float16 as a float32, which holds each of them exactly.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2_f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2_f32.powi(exponent - 25),
    };
    if bits >> 15 == 0 { size } else { -size }
}

/// An element type by number and name, for people.
pub(super) fn element_type(code: i32) -> String {
    const NAMES: [&str; 27] = [
        "undefined",
        "float",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "double",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
        "uint4",
        "int4",
        "float4e2m1",
        "float8e8m0",
        "uint2",
        "int2",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    format!("{code} ({})", name.unwrap_or(&"unknown"))
}

fn raw<T, const N: usize>(
    tensor: &proto::Tensor,
    count: usize,
    element: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, String> {
    let (all, rest) = tensor.raw.as_chunks::<N>();
    if !rest.is_empty() || all.len() != count {
        let (bytes, shape) = (tensor.raw.len(), &tensor.dims);
        return Err(format!(
            "its shape {shape:?} wants {count} elements of {N} bytes, it has {bytes} bytes"
        ));
    }
    Ok(all.iter().map(|&bytes| element(bytes)).collect())
}

fn small<const N: usize>(
    tensor: &proto::Tensor,
    count: usize,
    element: impl Fn([u8; N]) -> i64,
) -> Result<Vec<i64>, String> {
    if tensor.raw.is_empty() {
        Ok(tensor.ints.iter().map(|&int| int.into()).collect())
    } else {
        raw(tensor, count, element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact() {
        assert_eq!(half(0x3c00), 1.0);
        assert_eq!(half(0xc000), -2.0);
        assert_eq!(half(0x0001), 2_f32.powi(-24));
        assert_eq!(half(0x7bff), 65504.0);
        assert_eq!(half(0x2e66), 0.099_975_586);
        assert_eq!(half(0xfc00), f32::NEG_INFINITY);
        assert!(half(0x7e00).is_nan());
    }
}
