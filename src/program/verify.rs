//! What a program must keep to before it may run.
//!
//! A program is signed, and yet not trusted: one that passes can neither read nor write outside its
//! arena and its own bytes, nor panic, divide by zero, or run longer than its stated work. It can
//! compute nonsense, and it can read what an earlier run left in the arena.
//!
//! The check takes time in the order of the program's bytes and the weights and output channels of its
//! operators together, which is at most in the order of a run, and no memory.

mod head;

use super::codec::{Field as _, Reader};
use super::layout;
use super::op::{
    Add, AddScale, Channel, Conv, ConvAdd, Copy, Dense, Depthwise, Fill, Lookup, Mean, Mul, Op,
    Operand, Plane, Pool, Quantizer, Softmax, Window,
};
use super::overlap::least_distance;
use super::proof;
use super::work::{taps, work};
use super::{ALIGNMENT, HEADER_BYTES, Header, Layout, Program};
use core::cell::Cell;

/// Greatest number of operators.
pub const MAX_OPS: u32 = 4096;
/// Greatest number of innermost steps of a run. No model that fits a board comes near it: it keeps a
/// hostile program from running forever.
pub const MAX_WORK: u64 = 1 << 40;
/// Most bytes of an arena: what a program may ask a board for before anything runs. The same as for
/// the plan of another engine, and an address of 32 bits can take it.
pub const MAX_ARENA: u32 = 1 << 30;
/// Greatest window of a pool, so that a sum of its elements fits 31 bits.
pub const MAX_POOL: u64 = 1 << 23;
/// Greatest row of a softmax: the sum of its exponentials has twelve integer bits.
pub const MAX_SOFTMAX: u16 = 4095;

/// Why a program was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramError {
    /// It ends before its head does.
    Truncated,
    /// It does not begin at a multiple of [`ALIGNMENT`].
    Misaligned,
    /// A field of the head.
    Head {
        /// Which.
        field: HeadField,
        /// What it holds; of the scales, their bits.
        value: u32,
    },
    /// An operator that is unknown, of another length, or cut off.
    Record {
        /// Index of the operator.
        op: u32,
        /// Where it begins, in bytes from the start of the program.
        at: u32,
    },
    /// A field of an operator.
    Op {
        /// Index of the operator.
        op: u32,
        /// Which field.
        field: Field,
        /// What it holds: of ranges, where they end; of negative numbers, their two's complement.
        value: i64,
    },
}

/// A field of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadField {
    /// Not [`MAGIC`](super::MAGIC).
    Magic,
    /// Not [`VERSION`](super::VERSION).
    Version,
    /// Not a [`Layout`].
    Layout,
    /// An unknown flag.
    Flags,
    /// Not the number of bytes at hand.
    Bytes,
    /// Operators that end outside the program, or before or after their last one.
    OpBytes,
    /// More than [`MAX_OPS`].
    OpCount,
    /// More than [`MAX_ARENA`].
    Arena,
    /// An input that is empty or ends outside the arena.
    Input,
    /// An output that is empty or ends outside the arena.
    Output,
    /// A scale that is not a positive number.
    Scale,
    /// Features that are not aligned, lie outside the constants, or have no extent.
    Features,
    /// Planes that the input does not divide into.
    InputPlanes,
    /// Reserved bytes that are not zero.
    Reserved,
}

/// A field of an operator, or what several of them amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// An input that ends outside the arena or the program.
    Input,
    /// An output that ends outside the arena.
    Output,
    /// An extent that is zero or does not match another.
    Shape,
    /// A kernel that is empty, or a pool's that is larger than [`MAX_POOL`].
    Kernel,
    /// A stride of zero, or one that leads outside the input.
    Stride,
    /// A dilation of zero, or a pool's that is not one.
    Dilation,
    /// Padding beyond the reach of the kernel: more than `(kernel - 1) * dilation`.
    Padding,
    /// A least output above the greatest.
    Quantizer,
    /// A significand outside its range.
    Multiplier,
    /// An exponent outside its range.
    Shift,
    /// Weights that are not aligned or end outside the constants.
    Weights,
    /// Channels' constants that are not aligned or end outside the constants.
    Channels,
    /// Scratch that is not aligned, overlaps, or ends outside the arena.
    Scratch,
    /// An output that lies over an input as no kernel can bear.
    Overlap,
    /// A switch that is neither 0 nor 1.
    Switch,
    /// Flags by which a layer for Cortex-M claims more than its weights and constants keep
    /// ([`proof`]); the value is the first output channel that does not.
    Flags,
    /// A table that ends outside the constants.
    Table,
    /// A least difference that is positive or overflows.
    Difference,
    /// More innermost steps than [`MAX_WORK`] in the program so far.
    Work,
}

impl<'a> Program<'a> {
    /// Checks a program from its first byte to its last.
    ///
    /// # Errors
    /// The first thing that is not as `docs/PROGRAM.md` says.
    pub fn verify(bytes: &'a [u8]) -> Result<Self, ProgramError> {
        if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(ProgramError::Misaligned);
        }
        let header = Header::read(&mut Reader::new(bytes)).ok_or(ProgramError::Truncated)?;
        let layout = head::check(&header, bytes.len())?;
        let mut program = Self {
            bytes,
            header,
            layout,
            work: 0,
        };
        let op_bytes = program.op_bytes();
        let mut ops = Reader::new(op_bytes);
        for index in 0..header.op_count {
            let at = (HEADER_BYTES + ops.at()) as u32;
            let op = Op::read(&mut ops).ok_or(ProgramError::Record { op: index, at })?;
            let check = Check {
                bytes,
                layout,
                constants: (HEADER_BYTES + op_bytes.len()) as u64,
                arena: u64::from(header.arena_bytes),
                disjoint: header.flags & Header::DISJOINT != 0,
                fault: Cell::new((Field::Shape, 0)),
            };
            let holds = check.op(&op).and_then(|()| {
                program.work += work(&op).min(MAX_WORK + 1);
                check.require(program.work <= MAX_WORK, Field::Work, program.work)?;
                check.flags(&op)
            });
            if holds.is_none() {
                let (field, value) = check.fault.get();
                let op = index;
                return Err(ProgramError::Op { op, field, value });
            }
        }
        if ops.at() != op_bytes.len() {
            return Err(ProgramError::Head {
                field: HeadField::OpBytes,
                value: header.op_bytes,
            });
        }
        Ok(program)
    }
}

/// Bytes of the arena.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    const fn apart(self, other: Self) -> bool {
        self.end <= other.start || other.end <= self.start
    }
}

/// What operators are checked against.
struct Check<'a> {
    bytes: &'a [u8],
    layout: Layout,
    /// Where constants begin.
    constants: u64,
    arena: u64,
    disjoint: bool,
    /// What does not hold, and what it is. It stays here, and checks only say that there is something: there
    /// are many, and an error that each hands on takes flash.
    fault: Cell<(Field, i64)>,
}

/// None where something does not hold.
type Checked<T = ()> = Option<T>;

impl Check<'_> {
    fn require(&self, holds: bool, field: Field, value: impl TryInto<i64>) -> Checked {
        if holds {
            return Some(());
        }
        self.refuse(field, value.try_into().unwrap_or(i64::MAX))
    }

    #[cold]
    #[inline(never)]
    fn refuse(&self, field: Field, value: i64) -> Checked {
        self.fault.set((field, value));
        None
    }

    fn op(&self, op: &Op) -> Checked {
        match op {
            Op::Conv(it) => self.conv(op, it).map(|_| ()),
            Op::ConvAdd(it) => self.conv_add(op, it),
            Op::Depthwise(it) => self.depthwise(op, it),
            Op::Dense(it) => self.dense(op, it),
            Op::Add(it) => self.add(op, it),
            Op::Mul(it) => self.mul(op, it),
            Op::Pool(it) => self.pool(op, it),
            Op::Mean(it) => self.mean(op, it),
            Op::Softmax(it) => self.softmax(op, it),
            Op::Lookup(it) => self.lookup(op, it),
            Op::Copy(it) => self.copy(it),
            Op::Fill(it) => self.fill(it),
        }
    }

    /// A stretch of the arena that is not empty.
    fn span(&self, offset: u32, bytes: u64, field: Field) -> Checked<Span> {
        self.require(bytes > 0, Field::Shape, bytes)?;
        let start = u64::from(offset);
        let end = start.saturating_add(bytes);
        self.require(end <= self.arena, field, end)?;
        Some(Span { start, end })
    }

    fn plane(&self, plane: &Plane, field: Field) -> Checked<Span> {
        self.span(plane.offset, plane.bytes(), field)
    }

    /// A stretch of the constants.
    fn stored(&self, offset: u32, bytes: u64, alignment: u32, field: Field) -> Checked {
        let aligned = offset.is_multiple_of(alignment) && u64::from(offset) >= self.constants;
        self.require(aligned, field, offset)?;
        let end = u64::from(offset).saturating_add(bytes);
        self.require(end <= self.bytes.len() as u64, field, end)
    }

    fn channels(&self, offset: u32, count: u16) -> Checked {
        let count = layout::channel_count(self.layout, count);
        let bytes = u64::from(count) * Channel::BYTES as u64;
        self.stored(offset, bytes, 4, Field::Channels)?;
        for index in 0..count as usize {
            let channel = layout::channel(self.layout, self.bytes, offset, index);
            let Some(channel) = channel else {
                return self.refuse(Field::Channels, i64::from(offset));
            };
            self.multiplier(channel.multiplier)?;
            self.require(
                (-31..=30).contains(&channel.shift),
                Field::Shift,
                channel.shift,
            )?;
        }
        Some(())
    }

    /// Nothing is claimed of a layer's sums that its weights do not keep.
    fn flags(&self, op: &Op) -> Checked {
        let claim = match (self.layout, op) {
            (Layout::CortexM, Op::Conv(it)) => proof::conv(self.bytes, it),
            (Layout::CortexM, Op::ConvAdd(it)) => proof::conv(self.bytes, &it.conv),
            (Layout::CortexM, Op::Depthwise(it)) => proof::depthwise(self.bytes, it),
            (Layout::CortexM, Op::Dense(it)) => proof::dense(self.bytes, it),
            _ => Ok(()),
        };
        match claim {
            Ok(()) => Some(()),
            Err(channel) => self.require(false, Field::Flags, channel),
        }
    }

    /// A significand of 31 bits, or none.
    fn multiplier(&self, multiplier: i32) -> Checked {
        let holds = multiplier == 0 || multiplier >= 1 << 30;
        self.require(holds, Field::Multiplier, multiplier)
    }

    fn shift(&self, shift: i8, least: i8, greatest: i8) -> Checked {
        self.require((least..=greatest).contains(&shift), Field::Shift, shift)
    }

    fn range(&self, min: i8, max: i8) -> Checked {
        self.require(min <= max, Field::Quantizer, min)
    }

    fn quantizer(&self, quantizer: &Quantizer) -> Checked {
        self.range(quantizer.min, quantizer.max)
    }

    /// Every window has its first tap before the input's end and its last one behind its start.
    fn window(&self, input: &Plane, output: &Plane, window: &Window) -> Checked {
        let axes = [
            (
                (
                    window.kernel_h,
                    window.stride_h,
                    window.dilation_h,
                    window.pad_top,
                ),
                (input.height, output.height),
            ),
            (
                (
                    window.kernel_w,
                    window.stride_w,
                    window.dilation_w,
                    window.pad_left,
                ),
                (input.width, output.width),
            ),
        ];
        for ((kernel, stride, dilation, pad), (input, output)) in axes {
            self.require(kernel > 0, Field::Kernel, kernel)?;
            self.require(stride > 0, Field::Stride, stride)?;
            self.require(dilation > 0, Field::Dilation, dilation)?;
            let reach = (u64::from(kernel) - 1) * u64::from(dilation);
            self.require(u64::from(pad) <= reach, Field::Padding, pad)?;
            let last = (u64::from(output) - 1) * u64::from(stride);
            self.require(
                last < u64::from(pad) + u64::from(input),
                Field::Stride,
                last,
            )?;
        }
        Some(())
    }

    /// The overlap rule for the main input and the output.
    fn overlap(&self, op: &Op, input: Span, output: Span) -> Checked {
        let distance = least_distance(op, self.layout).map(u64::from);
        self.apart_or(input, output, distance)
    }

    fn apart_or(&self, input: Span, output: Span, least: Option<u64>) -> Checked {
        let far = least.is_some_and(|least| input.start >= output.start.saturating_add(least));
        let holds = input.apart(output) || (far && !self.disjoint);
        self.require(holds, Field::Overlap, output.start)
    }

    fn scratch(&self, op: &Op, offset: u32, others: &[Span]) -> Checked {
        let bytes = layout::scratch_bytes(self.layout, op);
        if bytes == 0 {
            return self.require(offset == 0, Field::Scratch, offset);
        }
        self.require(offset.is_multiple_of(4), Field::Scratch, offset)?;
        let scratch = self.span(offset, bytes, Field::Scratch)?;
        let apart = others.iter().all(|&other| scratch.apart(other));
        self.require(apart, Field::Scratch, offset)
    }

    /// Everything of a convolution; gives where its output lies.
    fn conv(&self, op: &Op, it: &Conv) -> Checked<Span> {
        let input = self.plane(&it.input, Field::Input)?;
        let output = self.plane(&it.output, Field::Output)?;
        self.window(&it.input, &it.output, &it.window)?;
        let weights = layout::conv_weight_bytes(self.layout, it);
        self.stored(it.weights, weights, ALIGNMENT as u32, Field::Weights)?;
        self.channels(it.channels, it.output.channels)?;
        self.quantizer(&it.quantizer)?;
        self.overlap(op, input, output)?;
        self.scratch(op, it.scratch, &[input, output])?;
        Some(output)
    }

    fn conv_add(&self, op: &Op, it: &ConvAdd) -> Checked {
        let output = self.conv(op, &it.conv)?;
        let other = self.span(it.other, it.conv.output.bytes(), Field::Input)?;
        let same = other.start == output.start && !self.disjoint;
        self.require(same || other.apart(output), Field::Overlap, it.other)?;
        if layout::scratch_bytes(self.layout, op) > 0 {
            self.scratch(op, it.conv.scratch, &[other])?;
        }
        self.add_scale(&it.add)
    }

    fn depthwise(&self, op: &Op, it: &Depthwise) -> Checked {
        let input = self.plane(&it.input, Field::Input)?;
        let output = self.plane(&it.output, Field::Output)?;
        self.window(&it.input, &it.output, &it.window)?;
        let channels = u32::from(it.input.channels) * u32::from(it.multiplier);
        let matches = channels == u32::from(it.output.channels);
        self.require(matches, Field::Shape, it.multiplier)?;
        let weights = layout::depthwise_weight_bytes(self.layout, it);
        self.stored(it.weights, weights, ALIGNMENT as u32, Field::Weights)?;
        self.channels(it.channels, it.output.channels)?;
        self.quantizer(&it.quantizer)?;
        self.overlap(op, input, output)?;
        self.scratch(op, it.scratch, &[input, output])
    }

    fn dense(&self, op: &Op, it: &Dense) -> Checked {
        let (rows, inputs) = (u64::from(it.rows), u64::from(it.inputs));
        let input = self.span(it.input, rows * inputs, Field::Input)?;
        let output = self.span(it.output, rows * u64::from(it.outputs), Field::Output)?;
        let weights = layout::dense_weight_bytes(self.layout, it);
        self.stored(it.weights, weights, ALIGNMENT as u32, Field::Weights)?;
        self.channels(it.channels, it.outputs)?;
        self.quantizer(&it.quantizer)?;
        self.overlap(op, input, output)?;
        self.scratch(op, it.scratch, &[input, output])
    }

    fn add_scale(&self, scale: &AddScale) -> Checked {
        self.quantizer(&scale.quantizer)?;
        self.multiplier(scale.multiplier_a)?;
        // A negative one subtracts; its magnitude is what scales.
        self.multiplier(scale.multiplier_b.wrapping_abs())?;
        self.multiplier(scale.multiplier)?;
        [scale.shift_a, scale.shift_b, scale.shift]
            .into_iter()
            .try_for_each(|shift| self.shift(shift, -31, 0))
    }

    fn operand(&self, op: &Op, operand: &Operand, len: u32, output: Span) -> Checked {
        let bytes = u64::from(operand.len);
        self.require((1..=len).contains(&operand.len), Field::Shape, bytes)?;
        match operand.constant {
            0 => {
                let input = self.span(operand.offset, bytes, Field::Input)?;
                if operand.len == len {
                    self.overlap(op, input, output)
                } else {
                    self.apart_or(input, output, None)
                }
            }
            1 => self.stored(operand.offset, bytes, 1, Field::Input),
            other => self.require(false, Field::Switch, other),
        }
    }

    fn add(&self, op: &Op, it: &Add) -> Checked {
        let output = self.span(it.output, u64::from(it.len), Field::Output)?;
        self.operand(op, &it.a, it.len, output)?;
        self.operand(op, &it.b, it.len, output)?;
        self.add_scale(&it.scale)
    }

    fn mul(&self, op: &Op, it: &Mul) -> Checked {
        let output = self.span(it.output, u64::from(it.len), Field::Output)?;
        self.operand(op, &it.a, it.len, output)?;
        self.operand(op, &it.b, it.len, output)?;
        self.quantizer(&it.quantizer)?;
        self.multiplier(it.multiplier)?;
        self.shift(it.shift, -31, 30)
    }

    fn pool(&self, op: &Op, it: &Pool) -> Checked {
        let input = self.plane(&it.input, Field::Input)?;
        let output = self.plane(&it.output, Field::Output)?;
        let channels = it.output.channels;
        self.require(it.input.channels == channels, Field::Shape, channels)?;
        self.window(&it.input, &it.output, &it.window)?;
        let dilation = it.window.dilation_h.max(it.window.dilation_w);
        self.require(dilation == 1, Field::Dilation, dilation)?;
        let taps = taps(&it.window);
        self.require(taps <= MAX_POOL, Field::Kernel, taps)?;
        self.require(it.maximum <= 1, Field::Switch, it.maximum)?;
        self.range(it.min, it.max)?;
        self.overlap(op, input, output)
    }

    fn mean(&self, op: &Op, it: &Mean) -> Checked {
        let input = self.plane(&it.input, Field::Input)?;
        let output = self.span(it.output, u64::from(it.input.channels), Field::Output)?;
        self.quantizer(&it.quantizer)?;
        self.require(it.multiplier >= 0, Field::Multiplier, it.multiplier)?;
        self.shift(it.shift, -31, 30)?;
        self.overlap(op, input, output)
    }

    fn softmax(&self, op: &Op, it: &Softmax) -> Checked {
        let bytes = u64::from(it.rows) * u64::from(it.columns);
        let input = self.span(it.input, bytes, Field::Input)?;
        let output = self.span(it.output, bytes, Field::Output)?;
        self.require(it.columns <= MAX_SOFTMAX, Field::Shape, it.columns)?;
        self.multiplier(it.multiplier)?;
        self.shift(it.shift, 0, 31)?;
        self.require(it.difference_min <= 0, Field::Difference, it.difference_min)?;
        // The greatest difference that counts, shifted, stays within 32 bits.
        let greatest = u64::from(it.difference_min.unsigned_abs().min(255)) << it.shift;
        self.require(greatest <= 1 << 31, Field::Difference, it.difference_min)?;
        self.overlap(op, input, output)
    }

    fn lookup(&self, op: &Op, it: &Lookup) -> Checked {
        let input = self.span(it.input, u64::from(it.len), Field::Input)?;
        let output = self.span(it.output, u64::from(it.len), Field::Output)?;
        self.stored(it.table, 256, 1, Field::Table)?;
        self.overlap(op, input, output)
    }

    fn copy(&self, it: &Copy) -> Checked {
        let least = it.shape.into_iter().min().unwrap_or(0);
        self.require(least > 0, Field::Shape, least)?;
        let reach = |strides: &[u32; 4]| {
            let axes = it.shape.iter().zip(strides);
            axes.map(|(&extent, &stride)| (u64::from(extent) - 1) * u64::from(stride))
                .sum::<u64>()
        };
        let input = self.span(it.input, reach(&it.input_strides) + 1, Field::Input)?;
        let output = self.span(it.output, reach(&it.output_strides) + 1, Field::Output)?;
        self.apart_or(input, output, None)
    }

    fn fill(&self, it: &Fill) -> Checked {
        self.span(it.output, u64::from(it.len), Field::Output)?;
        Some(())
    }
}
