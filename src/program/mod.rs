//! int8 programs: a quantized graph that a board runs in place, in an arena that the caller gives.
//!
//! A program is one section of a bundle: a [`Header`], a list of operators ([`op::Op`]) and their
//! constants, all little-endian and position independent, so that it executes where it lies in
//! flash. The host plans the arena and lays the weights out for the kernels of the target
//! ([`Layout`]). Arithmetic is that of TensorFlow Lite Micro, bit for bit: int8 activations and
//! weights, int32 accumulators, and requantization with double rounding (see [`arith`]).

pub mod arith;
pub mod border;
pub mod codec;
pub mod exec;
pub mod kernels;
pub mod layout;
#[cfg(feature = "std")]
mod memory;
pub mod op;
pub mod overlap;
#[cfg(feature = "std")]
mod owned;
pub mod proof;
pub mod verify;
pub mod work;

use codec::{Reader, record};
use op::Op;

pub use exec::{ArenaError, Kernels, Portable, Run, Step};
#[cfg(feature = "std")]
pub use memory::Aligned;
#[cfg(feature = "std")]
pub use owned::OwnedProgram;
pub use verify::ProgramError;

/// The first bytes of a program.
pub const MAGIC: u32 = u32::from_le_bytes(*b"EWPG");
/// Version of the format.
pub const VERSION: u16 = 1;
/// Alignment of the arena, of a program in flash and of weights in it, in bytes.
pub const ALIGNMENT: usize = 16;

record! {
    /// The head of a program, 64 bytes.
    Header {
        /// [`MAGIC`].
        magic: u32,
        /// [`VERSION`].
        version: u16,
        /// [`Layout`].
        layout: u8,
        /// Bit 0: no operator's output overlaps its inputs, so that kernels may run in any order.
        /// Bit 1: quantizing the input rounds halves to even, not away from zero.
        flags: u8,
        /// Bytes of the program, this head included.
        bytes: u32,
        /// Bytes of the operators, which follow the head at once.
        op_bytes: u32,
        /// Number of operators.
        op_count: u32,
        /// Bytes of the arena, scratch included.
        arena_bytes: u32,
        /// Where the input lies in the arena.
        input: u32,
        /// Elements of the input.
        input_len: u32,
        /// Scale of the input.
        input_scale: f32,
        /// Where the output lies in the arena.
        output: u32,
        /// Elements of the output.
        output_len: u32,
        /// Scale of the output.
        output_scale: f32,
        /// Zero point of the input.
        input_zero_point: i8,
        /// Zero point of the output.
        output_zero_point: i8,
        /// Number of [`border::Feature`]s; 0 where the input is quantized as it is.
        feature_count: u16,
        /// Where they lie among the constants; 0 where there are none.
        features: u32,
        /// Elements of the input from one feature to the next; 0 where there are none.
        feature_inner: u32,
        /// Where not 0, the caller's input is so many planes one after the other, and the arena has the
        /// elements of a pixel side by side.
        input_planes: u16,
        /// Zeros.
        reserved: [u8; 2],
    }
}

impl Header {
    /// Bit of `flags`: no operator's output overlaps its inputs.
    pub const DISJOINT: u8 = 1;
    /// Bit of `flags`: quantizing the input rounds halves to even.
    pub const HALF_TO_EVEN: u8 = 2;
}

/// How weights lie in a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    /// As the operators' documentation says: what portable kernels read, and what a Linux board
    /// packs for its own instruction set when it loads a program.
    Natural = 0,
    /// For the DSP extension of Cortex-M4 and M7.
    CortexM = 1,
}

impl Layout {
    /// The layout of that number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Natural),
            1 => Some(Self::CortexM),
            _ => None,
        }
    }

    /// What a manifest calls the kernels that it is for.
    pub const fn kernels(self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::CortexM => "cortex-m",
        }
    }
}

/// A program that was verified: [`Program::verify`] is the only way to one.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    bytes: &'a [u8],
    header: Header,
    layout: Layout,
    work: u64,
}

impl<'a> Program<'a> {
    /// Its head.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// How its weights lie.
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// All of its bytes.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Innermost steps that a run takes, mostly multiplications: at most [`verify::MAX_WORK`].
    pub const fn work(&self) -> u64 {
        self.work
    }

    /// The operators in the order in which they run.
    pub fn ops(&self) -> Ops<'a> {
        Ops(Reader::new(self.op_bytes()))
    }

    fn op_bytes(&self) -> &'a [u8] {
        let rest = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        rest.get(..self.header.op_bytes as usize)
            .unwrap_or_default()
    }
}

/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = <Header as codec::Field>::BYTES;
const _: () = assert!(HEADER_BYTES == 64);

/// The operators of a verified program.
#[derive(Debug, Clone)]
pub struct Ops<'a>(Reader<'a>);

impl Iterator for Ops<'_> {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        Op::read(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::codec::Field;
    use super::op::*;

    #[test]
    fn records_have_the_sizes_of_the_documentation() {
        let text = include_str!("../../docs/PROGRAM.md");
        let sizes = [
            ("`Plane`", Plane::BYTES),
            ("`Window`", Window::BYTES),
            ("`Quantizer`", Quantizer::BYTES),
            ("`AddScale`", AddScale::BYTES),
            ("`Operand`", Operand::BYTES),
            ("1 | Conv", Conv::BYTES),
            ("2 | Depthwise", Depthwise::BYTES),
            ("3 | Dense", Dense::BYTES),
            ("4 | ConvAdd", ConvAdd::BYTES),
            ("5 | Add", Add::BYTES),
            ("6 | Mul", Mul::BYTES),
            ("7 | Pool", Pool::BYTES),
            ("8 | Mean", Mean::BYTES),
            ("9 | Softmax", Softmax::BYTES),
            ("10 | Lookup", Lookup::BYTES),
            ("11 | Copy", Copy::BYTES),
            ("12 | Fill", Fill::BYTES),
        ];
        for (name, bytes) in sizes {
            let row = format!("| {name} | {bytes} |");
            assert!(text.contains(&row), "no row {row:?}");
        }
    }
}
