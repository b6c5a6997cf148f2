//! Constants of an ONNX graph.

use super::MAX_ELEMENTS;
use super::error::{EXPORT, QUANTIZE_CONSTANTS};
use super::proto;
use crate::graph::{DType, Quantization};

/// A constant: elements in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub(super) shape: Vec<usize>,
    pub(super) elements: Elements,
    /// Bits of an element whose type is narrower than the int8 or uint8 that holds it.
    pub(super) narrow: Option<u32>,
}

/// Bits of an element type of less than eight, and whether it has a sign.
pub(super) const fn narrow(code: i32) -> Option<(u32, bool)> {
    match code {
        21 => Some((4, false)),
        22 => Some((4, true)),
        25 => Some((2, false)),
        26 => Some((2, true)),
        _ => None,
    }
}

/// Elements, widened where that loses nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Elements {
    Float(Vec<f32>),
    /// Integers, and the type that they have in the file.
    Int(Vec<i64>, DType),
}

/// Why a constant is not read, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) why: String,
    pub(super) advice: &'static str,
}

impl From<String> for Unread {
    fn from(why: String) -> Self {
        let advice = EXPORT;
        Self { why, advice }
    }
}

impl Constant {
    /// Reads a tensor; the error says what is wrong with it.
    pub(super) fn read(tensor: &proto::Tensor) -> Result<Self, Unread> {
        if tensor.location == 1 {
            let why = "its elements lie in another file".into();
            let advice = "save the model as one file";
            return Err(Unread { why, advice });
        }
        let extent = |&dim: &i64| usize::try_from(dim).ok();
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(extent).collect();
        let shape = shape.ok_or_else(|| format!("its shape {:?} is impossible", tensor.dims))?;
        // Whoever multiplies some of the extents finds no more than this, even if others are 0.
        let most = shape.iter().try_fold(1_usize, |count, &extent| {
            let count = count.checked_mul(extent.max(1))?;
            (count <= MAX_ELEMENTS).then_some(count)
        });
        if most.is_none() {
            return Err(format!("its shape {shape:?} is too large").into());
        }
        let count = shape.iter().product();
        let narrow = narrow(tensor.data_type);
        let elements = elements(tensor, count)?;
        let found = match &elements {
            Elements::Float(all) => all.len(),
            Elements::Int(all, _) => all.len(),
        };
        if found != count {
            let why = format!("its shape {shape:?} wants {count} elements, it has {found}");
            return Err(why.into());
        }
        let narrow = narrow.map(|(bits, _)| bits);
        Ok(Self {
            shape,
            elements,
            narrow,
        })
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
            narrow: None,
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

/// The elements of a tensor of `count`, by its type.
fn elements(tensor: &proto::Tensor, count: usize) -> Result<Elements, Unread> {
    let narrow = narrow(tensor.data_type);
    Ok(match tensor.data_type {
        21 | 22 | 25 | 26 => {
            let (bits, signed) = narrow.unwrap_or((8, true));
            let dtype = if signed { DType::I8 } else { DType::U8 };
            Elements::Int(unpacked(tensor, count, bits, signed)?, dtype)
        }
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
            let kind = element_type(other);
            let why = format!("its element type {kind} is not one that programs use");
            let advice = QUANTIZE_CONSTANTS;
            return Err(Unread { why, advice });
        }
    })
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

/// Elements of two or four bits, the first of a byte in its lowest ones.
fn unpacked(
    tensor: &proto::Tensor,
    count: usize,
    bits: u32,
    signed: bool,
) -> Result<Vec<i64>, String> {
    let each = 8 / bits;
    let bytes: Vec<u8> = match tensor.raw.is_empty() {
        true => tensor.ints.iter().map(|&byte| byte as u8).collect(),
        false => tensor.raw.clone(),
    };
    if bytes.len() != count.div_ceil(each as usize) {
        let (found, shape) = (bytes.len(), &tensor.dims);
        return Err(format!(
            "its shape {shape:?} wants {count} elements of {bits} bits, it has {found} bytes"
        ));
    }
    let element = |byte: u8, at: u32| {
        // To the upper end of the byte, which brings the sign along, and down again.
        let upper = byte << (8 - bits * (at + 1));
        match signed {
            true => i64::from(upper.cast_signed() >> (8 - bits)),
            false => i64::from(upper >> (8 - bits)),
        }
    };
    let all = bytes
        .iter()
        .flat_map(|&byte| (0..each).map(move |at| element(byte, at)));
    Ok(all.take(count).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_integers_are_unpacked() {
        let read = |data_type, len: i64, raw: &[u8]| {
            let tensor = proto::Tensor {
                dims: vec![len],
                data_type,
                raw: raw.to_vec(),
                ..Default::default()
            };
            Constant::read(&tensor).map(|it| it.ints().unwrap_or_default().to_vec())
        };
        assert_eq!(read(22, 5, &[0x10, 0xc7, 0x08]), Ok(vec![0, 1, 7, -4, -8]));
        assert_eq!(read(21, 5, &[0x10, 0xa7, 0x0f]), Ok(vec![0, 1, 7, 10, 15]));
        assert_eq!(read(26, 4, &[0b1011_0100]), Ok(vec![0, 1, -1, -2]));
        assert_eq!(read(25, 3, &[0b0010_0100]), Ok(vec![0, 1, 2]));
        for (data_type, len, why) in [
            (22, 7, "bits"),
            (22, 4, "bits"),
            (25, 17, "bits"),
            (26, i64::MAX, "too large"),
        ] {
            let error = read(data_type, len, &[0; 3]).expect_err("a wrong length");
            assert!(error.why.contains(why), "{error:?}");
        }
    }

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
