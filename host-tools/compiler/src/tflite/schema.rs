//! The tables of TFLite's flatbuffer schema that an import reads, field numbers and all.
//!
//! Only what is used is declared: the whole schema generates forty thousand lines. Every access is
//! checked against the bytes (`planus` never trusts an offset), so a hostile file ends in an error
//! that names the table, the field and the offset.

use planus::errors::ErrorKind;
use planus::table_reader::Table;
use planus::{SliceWithStartOffset, TableRead};

/// What a read of a field gives.
pub(super) type Read<T> = Result<T, planus::Error>;

macro_rules! table {
    ($name:ident { $( $field:ident: $index:literal => $kind:ty $(= $default:expr)? ),* $(,)? }) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name<'a>(Table<'a>);

        impl<'a> TableRead<'a> for $name<'a> {
            fn from_buffer(buffer: SliceWithStartOffset<'a>, at: usize) -> Result<Self, ErrorKind> {
                Table::from_buffer(buffer, at).map(Self)
            }
        }

        impl<'a> $name<'a> {
            $( table!(@field $name $field $index $kind $(= $default)?); )*
        }
    };
    (@field $name:ident $field:ident $index:literal $kind:ty = $default:expr) => {
        pub(super) fn $field(&self) -> Read<$kind> {
            Ok(self.0.access($index, stringify!($name), stringify!($field))?.unwrap_or($default))
        }
    };
    (@field $name:ident $field:ident $index:literal $kind:ty) => {
        pub(super) fn $field(&self) -> Read<Option<$kind>> {
            self.0.access($index, stringify!($name), stringify!($field))
        }
    };
}

/// A vector: of tables by their offsets, or of numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct List<'a, T> {
    elements: SliceWithStartOffset<'a>,
    len: usize,
    of: core::marker::PhantomData<T>,
}

/// What a [`List`] can hold.
pub(super) trait Element<'a>: TableRead<'a> {
    /// Bytes in the vector.
    const STRIDE: usize;
}

impl<'a, T: Element<'a>> TableRead<'a> for List<'a, T> {
    fn from_buffer(buffer: SliceWithStartOffset<'a>, at: usize) -> Result<Self, ErrorKind> {
        let to = u32::from_buffer(buffer, at)?;
        let start = at
            .checked_add(to as usize)
            .ok_or(ErrorKind::InvalidOffset)?;
        let len = u32::from_buffer(buffer, start)? as usize;
        let elements = buffer.advance(start.checked_add(4).ok_or(ErrorKind::InvalidOffset)?)?;
        let bytes = len.checked_mul(T::STRIDE).ok_or(ErrorKind::InvalidLength)?;
        if bytes > elements.len() {
            return Err(ErrorKind::InvalidLength);
        }
        Ok(Self {
            elements,
            len,
            of: core::marker::PhantomData,
        })
    }
}

impl<'a, T: Element<'a>> List<'a, T> {
    /// The element at `index`; `None` beyond the last.
    pub(super) fn get(&self, index: usize) -> Read<Option<T>> {
        if index >= self.len {
            return Ok(None);
        }
        T::from_buffer(self.elements, index * T::STRIDE)
            .map(Some)
            .map_err(|kind| {
                kind.with_error_location("vector", "get", self.elements.offset_from_start)
            })
    }

    /// All elements.
    pub(super) fn all(self) -> Read<Vec<T>> {
        (0..self.len)
            .filter_map(|index| self.get(index).transpose())
            .collect()
    }
}

macro_rules! element {
    ($stride:literal: $($kind:ty),*) => { $(
        impl<'a> Element<'a> for $kind {
            const STRIDE: usize = $stride;
        }
    )* };
}
element!(4: i32, f32, OperatorCode<'a>, SubGraph<'a>, Tensor<'a>, Operator<'a>, Buffer<'a>);
element!(8: i64);

table!(Model {
    operator_codes: 1 => List<'a, OperatorCode<'a>>,
    subgraphs: 2 => List<'a, SubGraph<'a>>,
    buffers: 4 => List<'a, Buffer<'a>>,
});

table!(OperatorCode {
    deprecated_builtin_code: 0 => i8 = 0,
    custom_code: 1 => &'a str,
    builtin_code: 3 => i32 = 0,
});

table!(SubGraph {
    tensors: 0 => List<'a, Tensor<'a>>,
    inputs: 1 => List<'a, i32>,
    outputs: 2 => List<'a, i32>,
    operators: 3 => List<'a, Operator<'a>>,
});

table!(Tensor {
    shape: 0 => List<'a, i32>,
    kind: 1 => i8 = 0,
    buffer: 2 => u32 = 0,
    name: 3 => &'a str = "",
    quantization: 4 => Quantization<'a>,
    is_variable: 5 => bool = false,
    // Where the parameters of sparse data lie: that they are there is enough to refuse them.
    sparsity: 6 => u32,
    shape_signature: 7 => List<'a, i32>,
});

table!(Quantization {
    scale: 2 => List<'a, f32>,
    zero_point: 3 => List<'a, i64>,
    quantized_dimension: 6 => i32 = 0,
});

table!(Buffer {
    data: 0 => &'a [u8],
    offset: 1 => u64 = 0,
});

table!(Operator {
    opcode_index: 0 => u32 = 0,
    inputs: 1 => List<'a, i32>,
    outputs: 2 => List<'a, i32>,
    options_kind: 3 => u8 = 0,
    conv: 4 => Conv<'a>,
    depthwise: 4 => Depthwise<'a>,
    dense: 4 => Dense<'a>,
    pool: 4 => Pool<'a>,
    elementwise: 4 => Elementwise<'a>,
    softmax: 4 => Softmax<'a>,
    concat: 4 => Concat<'a>,
    leaky_relu: 4 => LeakyRelu<'a>,
    strided_slice: 4 => StridedSlice<'a>,
});

// Options of operators.
table!(Conv {
    padding: 0 => i8 = 0, stride_w: 1 => i32 = 0, stride_h: 2 => i32 = 0,
    activation: 3 => i8 = 0, dilation_w: 4 => i32 = 1, dilation_h: 5 => i32 = 1,
});
table!(Depthwise {
    padding: 0 => i8 = 0, stride_w: 1 => i32 = 0, stride_h: 2 => i32 = 0,
    activation: 4 => i8 = 0, dilation_w: 5 => i32 = 1, dilation_h: 6 => i32 = 1,
});
table!(Pool {
    padding: 0 => i8 = 0, stride_w: 1 => i32 = 0, stride_h: 2 => i32 = 0,
    filter_w: 3 => i32 = 0, filter_h: 4 => i32 = 0, activation: 5 => i8 = 0,
});
table!(StridedSlice {
    begin_mask: 0 => i32 = 0, end_mask: 1 => i32 = 0, ellipsis_mask: 2 => i32 = 0,
    new_axis_mask: 3 => i32 = 0, shrink_axis_mask: 4 => i32 = 0, offset: 5 => i8 = 0,
});
table!(Dense { activation: 0 => i8 = 0, weights_format: 1 => i8 = 0 });
table!(Elementwise { activation: 0 => i8 = 0 });
table!(Softmax { beta: 0 => f32 = 0.0 });
table!(Concat { axis: 0 => i32 = 0, activation: 1 => i8 = 0 });
table!(LeakyRelu { alpha: 0 => f32 = 0.0 });

/// The root table of a file.
pub(super) fn root(bytes: &[u8]) -> Read<Model<'_>> {
    let buffer = SliceWithStartOffset {
        buffer: bytes,
        offset_from_start: 0,
    };
    Model::from_buffer(buffer, 0).map_err(|kind| kind.with_error_location("Model", "root", 0))
}
