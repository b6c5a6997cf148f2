//! int8 programs: a quantized graph that a board runs in place, in an arena that the caller gives.
//!
//! A program is one section of a bundle: a [`Header`], a list of operators ([`op::Op`]) and their
//! constants, all little-endian and position independent, so that it executes where it lies in
//! flash. The host plans the arena and lays the weights out for the kernels of the target
//! ([`Layout`]). Arithmetic is that of TensorFlow Lite Micro, bit for bit: int8 activations and
//! weights, int32 accumulators, and requantization with double rounding (see [`arith`]).

pub mod arith;
pub mod codec;
pub mod op;

use codec::record;

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
        /// Zeros.
        reserved: [u8; 14],
    }
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
