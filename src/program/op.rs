//! The operators of a program, and how each lies in it.
//!
//! Tensors are int8, row-major, height by width by channels (NHWC with one image). An `offset` of
//! data is bytes from the start of the arena; an offset of constants is bytes from the start of the
//! program. Constants of 32 bits lie at multiples of four, weights at multiples of sixteen.

use super::codec::{Field, Reader, Writer, record};

record! {
    /// A tensor of three axes in the arena.
    Plane {
        /// Where it begins in the arena, in bytes.
        offset: u32,
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
        /// Channels of a pixel.
        channels: u16,
    }
}

impl Plane {
    /// Bytes of the whole tensor.
    pub const fn bytes(&self) -> u64 {
        self.height as u64 * self.width as u64 * self.channels as u64
    }

    /// Bytes of a row.
    pub const fn row_bytes(&self) -> u64 {
        self.width as u64 * self.channels as u64
    }
}

record! {
    /// A sliding window: kernel, stride, dilation and padding. What is missing below and to the
    /// right follows from the output's size.
    Window {
        /// Rows of the kernel.
        kernel_h: u16,
        /// Columns of the kernel.
        kernel_w: u16,
        /// Rows from one output to the next.
        stride_h: u8,
        /// Columns from one output to the next.
        stride_w: u8,
        /// Rows from one tap to the next.
        dilation_h: u8,
        /// Columns from one tap to the next.
        dilation_w: u8,
        /// Rows of padding above the first row.
        pad_top: u16,
        /// Columns of padding left of the first column.
        pad_left: u16,
    }
}

record! {
    /// What becomes of an accumulator: `clamp(zero_point + requantized, min, max)`.
    Quantizer {
        /// Zero point of the output.
        zero_point: i8,
        /// Least output (a fused activation raises it).
        min: i8,
        /// Greatest output.
        max: i8,
    }
}

record! {
    /// Constants of one output channel, twelve bytes: they are read together.
    Channel {
        /// Bias, with `-input zero point * sum of the channel's weights` folded in.
        bias: i32,
        /// Significand of the scale, 2^30 to 2^31 - 1, or 0.
        multiplier: i32,
        /// Exponent of the scale: left where positive, right where negative; -31 to 30.
        shift: i32,
    }
}

record! {
    /// A convolution. Padding reads as the input's zero point, which the folded bias cancels.
    Conv {
        /// Input.
        input: Plane,
        /// Output.
        output: Plane,
        /// The window.
        window: Window,
        /// Zero point of the input: the value of padding.
        input_zero_point: i8,
        /// The output's quantization.
        quantizer: Quantizer,
        /// Weights; natural layout: output channel, row, column, input channel.
        weights: u32,
        /// [`Channel`]s, one an output channel.
        channels: u32,
        /// Scratch in the arena; its length follows from the layout.
        scratch: u32,
    }
}

record! {
    /// A depthwise convolution: output channel `c` sees input channel `c / multiplier`.
    Depthwise {
        /// Input.
        input: Plane,
        /// Output.
        output: Plane,
        /// The window.
        window: Window,
        /// Output channels an input channel.
        multiplier: u16,
        /// Zero point of the input: the value of padding.
        input_zero_point: i8,
        /// The output's quantization.
        quantizer: Quantizer,
        /// Weights; natural layout: row, column, output channel.
        weights: u32,
        /// [`Channel`]s, one an output channel.
        channels: u32,
        /// Scratch in the arena; its length follows from the layout.
        scratch: u32,
    }
}

record! {
    /// A fully connected layer over `rows` vectors.
    Dense {
        /// Input, `rows` by `inputs`.
        input: u32,
        /// Output, `rows` by `outputs`.
        output: u32,
        /// Vectors.
        rows: u16,
        /// Elements of an input vector.
        inputs: u16,
        /// Elements of an output vector.
        outputs: u16,
        /// The output's quantization.
        quantizer: Quantizer,
        /// Weights; natural layout: output, input.
        weights: u32,
        /// [`Channel`]s, one an output.
        channels: u32,
        /// Scratch in the arena; its length follows from the layout.
        scratch: u32,
    }
}

record! {
    /// How a sum of two tensors is scaled: both inputs go up by 20 bits, then by their own scale to
    /// a common one, are added (or subtracted), and go down to the output's.
    AddScale {
        /// Zero point of the first input.
        zero_a: i8,
        /// Zero point of the second input.
        zero_b: i8,
        /// The output's quantization.
        quantizer: Quantizer,
        /// Significand of the first input's scale.
        multiplier_a: i32,
        /// Exponent of the first input's scale.
        shift_a: i8,
        /// Significand of the second input's scale; negative for a subtraction.
        multiplier_b: i32,
        /// Exponent of the second input's scale.
        shift_b: i8,
        /// Significand of the output's scale.
        multiplier: i32,
        /// Exponent of the output's scale.
        shift: i8,
    }
}

record! {
    /// A convolution whose result is added to another tensor of the same shape.
    ConvAdd {
        /// The convolution. Its `output` is that of the sum.
        conv: Conv,
        /// Where the other addend lies.
        other: u32,
        /// Scales; `a` is the other addend, `b` what the convolution made.
        add: AddScale,
    }
}

record! {
    /// One of an operator's inputs: in the arena or among the constants, repeated when it is shorter.
    Operand {
        /// Where it begins.
        offset: u32,
        /// Elements; element `i` of the output takes element `i % len`.
        len: u32,
        /// 0: in the arena; 1: among the constants.
        constant: u8,
    }
}

record! {
    /// A sum or difference, element by element.
    Add {
        /// First input.
        a: Operand,
        /// Second input.
        b: Operand,
        /// Output.
        output: u32,
        /// Elements of the output.
        len: u32,
        /// Scales.
        scale: AddScale,
    }
}

record! {
    /// A product, element by element.
    Mul {
        /// First input.
        a: Operand,
        /// Second input.
        b: Operand,
        /// Output.
        output: u32,
        /// Elements of the output.
        len: u32,
        /// Zero point of the first input.
        zero_a: i8,
        /// Zero point of the second input.
        zero_b: i8,
        /// The output's quantization.
        quantizer: Quantizer,
        /// Significand of the scale.
        multiplier: i32,
        /// Exponent of the scale.
        shift: i8,
    }
}

record! {
    /// An average or maximum over a window; padding takes no part in it.
    Pool {
        /// Input.
        input: Plane,
        /// Output.
        output: Plane,
        /// The window; its dilation is one.
        window: Window,
        /// 0: average, rounded half away from zero; 1: maximum.
        maximum: u8,
        /// Least output.
        min: i8,
        /// Greatest output.
        max: i8,
    }
}

record! {
    /// The mean over rows and columns, with its own requantization.
    Mean {
        /// Input.
        input: Plane,
        /// Output: one element a channel.
        output: u32,
        /// Zero point of the input.
        input_zero_point: i8,
        /// The output's quantization.
        quantizer: Quantizer,
        /// Significand of the scale.
        multiplier: i32,
        /// Exponent of the scale.
        shift: i8,
    }
}

record! {
    /// Softmax over the last axis in fixed point.
    Softmax {
        /// Input, `rows` by `columns`.
        input: u32,
        /// Output, `rows` by `columns`; zero point -128, scale 1/256.
        output: u32,
        /// Vectors.
        rows: u16,
        /// Elements of a vector.
        columns: u16,
        /// Significand of the input's scale times beta.
        multiplier: i32,
        /// Exponent of the input's scale times beta.
        shift: i8,
        /// Differences to the maximum below it count as zero.
        difference_min: i32,
    }
}

record! {
    /// A function of one element, by a table of 256 entries from -128 on.
    Lookup {
        /// Input.
        input: u32,
        /// Output.
        output: u32,
        /// Elements.
        len: u32,
        /// The table among the constants.
        table: u32,
    }
}

record! {
    /// A strided copy of four axes: slices, transposes, concatenations, the inside of a padding.
    Copy {
        /// First element read.
        input: u32,
        /// First element written.
        output: u32,
        /// Elements along each axis, the slowest first.
        shape: [u16; 4],
        /// Bytes from one element to the next of the input along each axis.
        input_strides: [u32; 4],
        /// Bytes from one element to the next of the output along each axis.
        output_strides: [u32; 4],
    }
}

record! {
    /// Fills a stretch with one value.
    Fill {
        /// First element written.
        output: u32,
        /// Elements.
        len: u32,
        /// The value.
        value: i8,
    }
}

macro_rules! operators {
    ($($(#[$meta:meta])* $code:literal $name:ident),* $(,)?) => {
        /// One operator.
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[non_exhaustive]
        pub enum Op { $( $(#[$meta])* $name($name), )* }

        impl Op {
            /// Number of the operator's kind in a program.
            pub const fn code(&self) -> u8 {
                match self { $( Self::$name(_) => $code, )* }
            }

            /// Name of the operator's kind.
            pub const fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => stringify!($name), )* }
            }

            /// Reads an operator: its code, a zero, the bytes of its record, and the record.
            ///
            /// `None` when the code is unknown, the length is not the record's or the bytes end.
            pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
                let code = u8::read(reader)?;
                let zero = u8::read(reader)?;
                let bytes = usize::from(u16::read(reader)?);
                match (code, zero) {
                    $( ($code, 0) if bytes == $name::BYTES => Some(Self::$name($name::read(reader)?)), )*
                    _ => None,
                }
            }

            /// Writes an operator; `None` when the room ends before it does.
            pub fn write(&self, writer: &mut Writer<'_>) -> Option<()> {
                self.code().write(writer)?;
                0_u8.write(writer)?;
                match self { $( Self::$name(op) => {
                    u16::try_from($name::BYTES).ok()?.write(writer)?;
                    op.write(writer)
                } )* }
            }
        }
    };
}

operators! {
    /// [`Conv`].
    1 Conv,
    /// [`Depthwise`].
    2 Depthwise,
    /// [`Dense`].
    3 Dense,
    /// [`ConvAdd`].
    4 ConvAdd,
    /// [`Add`].
    5 Add,
    /// [`Mul`].
    6 Mul,
    /// [`Pool`].
    7 Pool,
    /// [`Mean`].
    8 Mean,
    /// [`Softmax`].
    9 Softmax,
    /// [`Lookup`].
    10 Lookup,
    /// [`struct@Copy`].
    11 Copy,
    /// [`Fill`].
    12 Fill,
}
