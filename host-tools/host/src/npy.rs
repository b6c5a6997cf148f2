//! NumPy's `.npy` files: arrays of one to four dimensions in C order.
//!
//! The format is that of NumPy's NEP 1: a magic, a version, a header that is a Python dictionary
//! literal, and the elements. Nothing is allocated by what a header declares: a shape that the
//! file's own length doesn't bear out is refused first.

use std::fmt::Write as _;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header that is read; NumPy's own are a few hundred bytes.
const MAX_HEADER_BYTES: usize = 65_536;
/// Most dimensions.
const MAX_DIMENSIONS: usize = 4;

/// The elements of an array.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// `float32`.
    F32(Vec<f32>),
    /// `float64`.
    F64(Vec<f64>),
    /// `int64`.
    I64(Vec<i64>),
}

/// An array in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its dimensions, one to four.
    pub shape: Vec<usize>,
    /// Its elements, as many as the shape's product.
    pub values: Values,
}

/// Why bytes are no array that we read. Offsets count from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// Too short, or another kind of file.
    #[error("not an NPY file: it does not begin with \\x93NUMPY")]
    Magic,
    /// A version that is not 1, 2 or 3.
    #[error("NPY version {0} is unknown (1, 2 and 3 are read)")]
    Version(u8),
    /// The header does not fit the file or the limit.
    #[error("the header claims {claimed} bytes at offset {offset}, which the file does not hold")]
    HeaderLength {
        /// Bytes that it claims.
        claimed: usize,
        /// Where it begins.
        offset: usize,
    },
    /// The header is no dictionary of the three known keys.
    #[error("the header is wrong at offset {offset}: {what}")]
    Header {
        /// Where.
        offset: usize,
        /// What was expected there.
        what: &'static str,
    },
    /// An element type that is not read.
    #[error("element type `{0}` is not read; save the array as float32, float64 or int64")]
    DType(String),
    /// Fortran order.
    #[error("the array is in Fortran order; save it with numpy.ascontiguousarray")]
    FortranOrder,
    /// No dimension, or too many.
    #[error("the array has {0} dimensions; 1 to {MAX_DIMENSIONS} are read")]
    Dimensions(usize),
    /// The elements don't fill the declared shape.
    #[error(
        "shape {shape:?} needs {needed} bytes of elements from offset {offset}, the file has {present}"
    )]
    Length {
        /// The declared shape.
        shape: Vec<usize>,
        /// Bytes it needs; `usize::MAX` when that overflows.
        needed: usize,
        /// Where the elements begin.
        offset: usize,
        /// Bytes there are.
        present: usize,
    },
}

impl Array {
    /// An array of `float32`; `None` when the shape's product is not the number of values.
    #[must_use]
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Option<Self> {
        let fits = !shape.is_empty()
            && shape.len() <= MAX_DIMENSIONS
            && elements(shape) == Some(values.len());
        fits.then(|| Self {
            shape: shape.to_vec(),
            values: Values::F32(values),
        })
    }

    /// The elements rounded to `float32`.
    #[must_use]
    pub fn into_f32(self) -> Vec<f32> {
        match self.values {
            Values::F32(values) => values,
            Values::F64(values) => values.into_iter().map(|value| value as f32).collect(),
            Values::I64(values) => values.into_iter().map(|value| value as f32).collect(),
        }
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// [`NpyError`] says what is wrong and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, NpyError> {
        let (header, offset) = header_of(bytes)?;
        let header = Header::parse(header, offset)?;
        let data = &bytes[offset + header.bytes..];
        let width = match header.dtype.as_str() {
            "<f4" => 4,
            "<f8" | "<i8" => 8,
            _ => return Err(NpyError::DType(header.dtype)),
        };
        if header.fortran {
            return Err(NpyError::FortranOrder);
        }
        if header.shape.is_empty() || header.shape.len() > MAX_DIMENSIONS {
            return Err(NpyError::Dimensions(header.shape.len()));
        }
        let needed = elements(&header.shape).and_then(|count| count.checked_mul(width));
        if needed != Some(data.len()) {
            return Err(NpyError::Length {
                needed: needed.unwrap_or(usize::MAX),
                shape: header.shape,
                offset: offset + header.bytes,
                present: data.len(),
            });
        }
        let values = match header.dtype.as_str() {
            "<f4" => Values::F32(convert(data, f32::from_le_bytes)),
            "<f8" => Values::F64(convert(data, f64::from_le_bytes)),
            _ => Values::I64(convert(data, i64::from_le_bytes)),
        };
        Ok(Self {
            shape: header.shape,
            values,
        })
    }

    /// The bytes of a file, version 1, elements aligned to 64 as NumPy writes them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let dtype = match self.values {
            Values::F32(_) => "<f4",
            Values::F64(_) => "<f8",
            Values::I64(_) => "<i8",
        };
        let mut shape = String::new();
        for dimension in &self.shape {
            // Writing to a string can't fail.
            let _ = write!(shape, "{dimension}, ");
        }
        let shape = if self.shape.len() == 1 {
            shape.trim_end()
        } else {
            shape.trim_end_matches(", ")
        };
        let mut header =
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
        let unpadded = MAGIC.len() + 4 + header.len() + 1;
        header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
        header.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        match &self.values {
            Values::F32(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Values::F64(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Values::I64(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        }
        bytes
    }
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b))
}

fn convert<const N: usize, T>(data: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|&b| from(b)).collect()
}

/// The header's text and the offset at which it begins.
fn header_of(bytes: &[u8]) -> Result<(&[u8], usize), NpyError> {
    let (magic, rest) = bytes.split_at_checked(6).ok_or(NpyError::Magic)?;
    if magic != MAGIC {
        return Err(NpyError::Magic);
    }
    let short = |offset| NpyError::HeaderLength { claimed: 0, offset };
    let (claimed, offset) = match rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
        [1..=3, ..] => return Err(short(bytes.len())),
        [version, ..] => return Err(NpyError::Version(*version)),
        [] => return Err(short(bytes.len())),
    };
    if claimed > MAX_HEADER_BYTES {
        return Err(NpyError::HeaderLength { claimed, offset });
    }
    let header = bytes.get(offset..offset + claimed);
    let header = header.ok_or(NpyError::HeaderLength { claimed, offset })?;
    Ok((header, offset))
}

struct Header {
    dtype: String,
    fortran: bool,
    shape: Vec<usize>,
    bytes: usize,
}

impl Header {
    fn parse(text: &[u8], offset: usize) -> Result<Self, NpyError> {
        let mut cursor = Cursor {
            text,
            at: 0,
            base: offset,
        };
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        cursor.expect(b'{', "`{`")?;
        while !cursor.take(b'}') {
            let key = cursor.string()?;
            cursor.expect(b':', "`:`")?;
            match key.as_str() {
                "descr" => dtype = Some(cursor.string()?),
                "fortran_order" => fortran = Some(cursor.boolean()?),
                "shape" => shape = Some(cursor.tuple()?),
                _ => return Err(cursor.fault("`descr`, `fortran_order` or `shape`")),
            }
            if !cursor.take(b',') && cursor.peek() != Some(b'}') {
                return Err(cursor.fault("`,` or `}`"));
            }
        }
        match (dtype, fortran, shape) {
            (Some(dtype), Some(fortran), Some(shape)) => Ok(Self {
                dtype,
                fortran,
                shape,
                bytes: text.len(),
            }),
            _ => Err(cursor.fault("`descr`, `fortran_order` and `shape`")),
        }
    }
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    base: usize,
}

impl Cursor<'_> {
    fn fault(&self, what: &'static str) -> NpyError {
        NpyError::Header {
            offset: self.base + self.at,
            what,
        }
    }

    fn peek(&mut self) -> Option<u8> {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\t')) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), NpyError> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.fault(what))
        }
    }

    fn string(&mut self) -> Result<String, NpyError> {
        let quote = match self.peek() {
            Some(quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.fault("a quoted string")),
        };
        let from = self.at + 1;
        let len = self.text[from..].iter().position(|&b| b == quote);
        let len = len.ok_or_else(|| self.fault("the string's end"))?;
        let text = String::from_utf8_lossy(&self.text[from..from + len]).into_owned();
        self.at = from + len + 1;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        self.peek();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.fault("`True` or `False`"))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, NpyError> {
        self.expect(b'(', "`(`")?;
        let mut shape = Vec::new();
        while !self.take(b')') {
            let from = self.at;
            while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
                self.at += 1;
            }
            let digits = std::str::from_utf8(&self.text[from..self.at]).unwrap_or_default();
            let dimension = digits.parse().map_err(|_| self.fault("a dimension"))?;
            shape.push(dimension);
            if !self.take(b',') && self.peek() != Some(b')') {
                return Err(self.fault("`,` or `)`"));
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn reads_what_numpy_writes() {
        let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }   \n";
        let data: Vec<u8> = [1.0f64, 2.5, -3.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let array = Array::parse(&file(header, &data)).expect("array");
        assert_eq!(array.shape, [3]);
        assert_eq!(array.into_f32(), [1.0, 2.5, -3.0]);
    }

    #[test]
    fn a_huge_declared_shape_is_refused_before_anything_is_allocated() {
        let header =
            "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 1024), }";
        assert!(matches!(
            Array::parse(&file(header, &[0; 16])),
            Err(NpyError::Length {
                needed: usize::MAX,
                present: 16,
                ..
            })
        ));
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 10), }";
        assert!(matches!(
            Array::parse(&file(header, &[0; 16])),
            Err(NpyError::Length {
                needed: 40_000_000_000,
                ..
            })
        ));
    }

    #[test]
    fn each_fault_is_named() {
        let parse = |header: &str| Array::parse(&file(header, &[])).expect_err("a fault");
        let fortran = parse("{'descr': '<f4', 'fortran_order': True, 'shape': (0,), }");
        assert_eq!(fortran, NpyError::FortranOrder);
        let text = parse("{'descr': '|S3', 'fortran_order': False, 'shape': (0,), }");
        assert_eq!(text, NpyError::DType("|S3".into()));
        let deep = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (0,0,0,0,0), }");
        assert_eq!(deep, NpyError::Dimensions(5));
        let shape = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }");
        assert_eq!(
            shape,
            NpyError::Header {
                offset: 61,
                what: "a dimension"
            }
        );
        assert_eq!(Array::parse(b"PK\x03\x04aaaa"), Err(NpyError::Magic));
        assert_eq!(
            Array::parse(b"\x93NUMPY\x09\x00"),
            Err(NpyError::Version(9))
        );
        assert!(matches!(
            Array::parse(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"),
            Err(NpyError::HeaderLength {
                claimed: 0xffff_ffff,
                offset: 12
            })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Array::parse(&bytes);
        }

        #[test]
        fn arbitrary_headers_never_panic(header in "[{}'a-z_(),:<f48 0-9TrueFalse]{0,80}") {
            let _ = Array::parse(&file(&header, &[0; 8]));
        }

        #[test]
        fn what_is_written_is_read_again(
            shape in prop::collection::vec(0usize..5, 1..4),
            seed in any::<u32>(),
        ) {
            let count = elements(&shape).expect("small");
            let values = (0..count as u32).map(|i| f32::from_bits(seed.wrapping_mul(i) >> 2));
            let array = Array::f32(&shape, values.collect()).expect("it fits");
            let bytes = array.to_bytes();
            prop_assert_eq!(bytes.len() % 64, count * 4 % 64);
            prop_assert_eq!(Array::parse(&bytes), Ok(array));
            // Cut anywhere, it is an error.
            for end in 0..bytes.len() {
                prop_assert!(Array::parse(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn one_changed_byte_never_panics(at in 0usize..100, byte in any::<u8>()) {
            let mut bytes = Array::f32(&[2, 3], vec![1.0; 6]).expect("it fits").to_bytes();
            bytes[at] = byte;
            let _ = Array::parse(&bytes);
        }
    }
}
