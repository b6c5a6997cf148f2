//! Depthwise convolutions, and the kernel of those of three by three at stride 1.

use super::requantize::Finish;
use super::sliding::{Columns, Sums, gather, outputs};
use super::taps::Windows;
use super::{Stored, clamp_stretch};
use crate::program::Layout;
use crate::program::exec::Step;
use crate::program::kernels::portable::{self, finish};
use crate::program::layout::{BLOCK, Slices, UNPROVEN};
use crate::program::op::{Depthwise, Quantizer};

/// Depthwise convolution.
pub fn depthwise(mut step: Step<'_, Depthwise>) -> Option<()> {
    let op = step.op();
    if step.layout() != Layout::CortexM || op.multiplier != 1 {
        return portable::depthwise(step);
    }
    let channels = step.program().get(op.channels as usize..)?.as_ptr();
    let channels = channels.cast::<Stored>();
    let weights = step.program().get(op.weights as usize..)?.as_ptr();
    let Some(slices) = Slices::of(op) else {
        // SAFETY: the step's operator was verified against this arena and this program.
        unsafe { Windows::new(op, step.arena(), weights, channels).run() };
        return Some(());
    };
    let arena = step.arena();
    let end = arena.as_ptr_range().end.cast::<u8>();
    let start = arena.as_mut_ptr().cast::<u8>();
    // SAFETY: offsets of planes and of scratch, which has the length of `slices`, were verified.
    unsafe {
        let scratch = start.add(op.scratch as usize);
        Planes {
            op,
            slices,
            channels,
            weights: weights.cast(),
            input: start.add(op.input.offset as usize).cast_const(),
            output: start.add(op.output.offset as usize),
            spare: scratch.add(slices.rows * slices.slot()),
            scratch,
            arena_end: end,
        }
        .run();
    }
    Some(())
}

struct Planes<'a> {
    op: &'a Depthwise,
    slices: Slices,
    channels: *const Stored,
    weights: *const u32,
    input: *const u8,
    output: *mut u8,
    /// Rows taken apart.
    scratch: *mut u8,
    /// A pixel of zero points, and two for the input's last.
    spare: *mut u8,
    arena_end: *const u8,
}

impl Planes<'_> {
    /// # Safety
    /// The operator must have been verified against the arena.
    unsafe fn run(&self) {
        let (op, slices) = (self.op, &self.slices);
        let (height, width) = (usize::from(op.output.height), usize::from(op.output.width));
        let depth = usize::from(op.output.channels);
        // SAFETY: rows, columns and channels of the output.
        unsafe {
            self.spare
                .write_bytes(op.input_zero_point as u8, slices.channels);
            if slices.keep {
                self.fill(self.scratch, slices.rows * slices.slot());
            }
            if slices.keep || self.apart() {
                // A strip of columns after the other, so that rows stay for the next.
                for x in (0..width).step_by(slices.columns) {
                    let mut taken = isize::MIN;
                    for y in 0..height {
                        taken = self.outputs(y, x, taken);
                    }
                }
            } else {
                for y in 0..height {
                    for x in (0..width).step_by(slices.columns) {
                        self.outputs(y, x, isize::MIN);
                    }
                }
            }
            let Quantizer { min, max, .. } = op.quantizer;
            if min > i8::MIN || max < i8::MAX {
                clamp_stretch(self.output.cast(), height * width * depth, min, max);
            }
        }
    }

    /// Whether the output does not overlap the input.
    fn apart(&self) -> bool {
        let (input, output) = (self.input.addr(), self.output.addr());
        input + self.op.input.bytes() as usize <= output
            || output + self.op.output.bytes() as usize <= input
    }

    /// Outputs of row `y` from column `x` on. Rows of the input before `taken` are there already; gives
    /// the first that is not.
    ///
    /// # Safety
    /// Both must be of the output.
    unsafe fn outputs(&self, y: usize, x: usize, taken: isize) -> isize {
        let op = self.op;
        let top = y as isize - op.window.pad_top as isize;
        let row = usize::from(op.output.width) * usize::from(op.output.channels);
        // SAFETY: the caller's promise.
        unsafe {
            for row in taken.max(top)..top + 3 {
                self.take(row, x);
            }
            self.sums(top, x, self.output.add(y * row));
        }
        top + 3
    }

    /// Bytes of a channel's row for the outputs from column `x` on.
    fn row(&self, x: usize) -> usize {
        let left = usize::from(self.op.output.width) - x;
        Self::row_bytes(self.slices.columns.min(left))
    }

    /// Bytes of a channel's row for as many outputs.
    const fn row_bytes(pixels: usize) -> usize {
        pixels.div_ceil(BLOCK) * BLOCK * 2 + 4
    }

    /// Where a row of the input lies when it was taken apart.
    fn slot(&self, row: isize) -> *mut u8 {
        let index = row.rem_euclid(3) as usize;
        self.scratch.wrapping_add(index * self.slices.slot())
    }

    /// Fills scratch with the zero point.
    ///
    /// # Safety
    /// `bytes`, a multiple of four, must lie in scratch.
    unsafe fn fill(&self, target: *mut u8, bytes: usize) {
        let value = self.op.input_zero_point as i16 as u16;
        let word = u32::from(value) * 0x1_0001;
        for index in 0..bytes / 4 {
            // SAFETY: the caller's promise.
            unsafe { target.cast::<u32>().add(index).write(word) };
        }
    }

    /// Takes the part of a row apart that outputs from column `x` on see.
    ///
    /// # Safety
    /// `x` must be a column of the output.
    unsafe fn take(&self, row: isize, x: usize) {
        let (op, slices) = (self.op, &self.slices);
        let slot = self.slot(row);
        // SAFETY: only rows and columns of the input are read; slots lie in scratch.
        unsafe {
            if row < 0 || row >= (op.input.height as isize) {
                self.fill(slot, slices.slot());
                return;
            }
            let width = op.input.width as isize;
            let depth = usize::from(op.input.channels);
            let left = x as isize - (op.window.pad_left as isize);
            let pairs = (self.row(x) / 4) as isize;
            // Pairs of columns from `first` to `end` lie inside the row.
            let first = if left < 0 { (1 - left) / 2 } else { 0 };
            let end = ((width - left) / 2).clamp(first, pairs);
            let groups = slices.channels / 4;
            let start = self.input.add(row as usize * op.input.row_bytes() as usize);
            let mut columns = Columns {
                even: start,
                odd: start,
                target: slot.cast(),
                row: self.row(x),
                pairs: 1,
                groups,
                channels: depth,
            };
            let bytes = groups * 4;
            let mut safe_end = end;
            // Groups of the last pixels may end behind the arena.
            let pixel = |column: isize| start.wrapping_offset(column * depth as isize);
            while safe_end > first
                && pixel(left + 2 * safe_end - 1).wrapping_add(bytes) > self.arena_end
            {
                safe_end -= 1;
            }
            if safe_end > first {
                columns.even = start.wrapping_offset((left + 2 * first) * depth as isize);
                columns.odd = columns.even.add(depth);
                columns.target = slot.cast::<u32>().offset(first);
                columns.pairs = (safe_end - first) as usize;
                gather(&columns);
            }
            for pair in (0..first).chain(safe_end..pairs) {
                self.take_pair(
                    &mut columns,
                    left + 2 * pair,
                    start,
                    slot.cast::<u32>().offset(pair),
                );
            }
        }
    }

    /// Takes one pair of columns apart, of which one or both may lie outside the row.
    ///
    /// # Safety
    /// As [`Self::take`].
    #[inline(never)]
    unsafe fn take_pair(
        &self,
        columns: &mut Columns,
        left: isize,
        start: *const u8,
        target: *mut u32,
    ) {
        let op = self.op;
        let (width, depth) = ((op.input.width as isize), columns.channels);
        let bytes = columns.groups * 4;
        columns.target = target;
        columns.pairs = 1;
        // SAFETY: of the spare pixels one holds the zero point, the other a pixel whose channels'
        // group would be read behind the arena.
        unsafe {
            if self.slices.keep && (left >= width || left + 1 < 0) {
                // Both lie outside, and the slot has been filled.
                return;
            }
            [columns.even, columns.odd] = [left, left + 1].map(|column| {
                let pixel = start.wrapping_offset(column * depth as isize);
                if column < 0 || column >= width {
                    self.spare.cast_const()
                } else if pixel.wrapping_add(bytes) <= self.arena_end {
                    pixel
                } else {
                    let odd = (column - left) as usize;
                    let last = self.spare.add((1 + odd) * self.slices.channels);
                    let there = self.arena_end.offset_from(pixel) as usize;
                    last.copy_from_nonoverlapping(pixel, there);
                    last.cast_const()
                }
            });
            gather(columns);
        }
    }

    /// Outputs of a row from column `x` on.
    ///
    /// # Safety
    /// As [`Self::take`]; the rows from `top` on must have been taken apart, `target` be the row.
    unsafe fn sums(&self, top: isize, x: usize, target: *mut u8) {
        let (op, slices) = (self.op, &self.slices);
        let depth = usize::from(op.output.channels);
        // SAFETY: channels and columns of the output; constants and weights were verified.
        unsafe {
            let sums = Sums {
                rows: [0, 1, 2].map(|row| self.slot(top + row).cast_const().cast()),
                weights: self.weights,
                output: target.add(x * depth),
                constants: self.channels.cast(),
                constants_end: self.channels.add(depth).cast(),
                pixels: slices.columns.min(usize::from(op.output.width) - x),
                channels: depth,
                channels_thrice: 3 * depth,
                rounding: 2 * i32::from(op.quantizer.zero_point) + 1,
                finish: Finish::of(&op.quantizer),
            };
            if self.channels.read().flags() & UNPROVEN != 0 {
                self.slow(sums);
            } else {
                outputs(&sums);
            }
        }
    }

    /// Outputs of which nothing is proven, a channel at a time.
    ///
    /// # Safety
    /// As [`Self::sums`].
    #[inline(never)]
    unsafe fn slow(&self, mut sums: Sums) {
        let depth = sums.channels;
        let first = sums;
        sums.finish = Finish::Raw;
        // SAFETY: as [`Self::sums`]; accumulators of a strip of columns fit the buffer.
        unsafe {
            for channel in 0..depth {
                let mut buffer = [0_i32; 6 * BLOCK];
                let constants = self.channels.add(channel);
                sums.rows = first
                    .rows
                    .map(|row| row.byte_add(channel * Self::row_bytes(sums.pixels)));
                sums.weights = first.weights.add(channel * 6);
                sums.constants = constants.cast();
                sums.constants_end = constants.add(1).cast();
                sums.output = buffer.as_mut_ptr().cast();
                outputs(&sums);
                let natural = constants.read().natural();
                for (pixel, &sum) in buffer.iter().enumerate().take(sums.pixels) {
                    let value = finish(sum, &natural, &self.op.quantizer);
                    first.output.add(pixel * depth + channel).write(value as u8);
                }
            }
        }
    }
}
