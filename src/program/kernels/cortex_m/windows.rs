//! Convolutions: windows become columns of a matrix, two pixels at a time.

use super::matrix::{Matrix, Rows, Shape};
use super::sum;
use crate::program::Layout;
use crate::program::exec::Step;
use crate::program::kernels::portable;
use crate::program::layout;
use crate::program::op::{AddScale, Conv, ConvAdd};

/// Convolution.
pub fn conv(mut step: Step<'_, Conv>) -> Option<()> {
    if step.layout() != Layout::CortexM {
        return portable::conv(step);
    }
    let (op, program) = (step.op(), step.program());
    // SAFETY: the step's operator was verified against this arena and this program.
    unsafe { run(op, program, step.arena(), None) }
}

/// Convolution and sum.
pub fn conv_add(mut step: Step<'_, ConvAdd>) -> Option<()> {
    if step.layout() != Layout::CortexM {
        return portable::conv_add(step);
    }
    let (op, program) = (step.op(), step.program());
    let add = Some((op.other as usize, &op.add));
    // SAFETY: as in `conv`; the other addend is as long as the output and lies in the arena too.
    unsafe { run(&op.conv, program, step.arena(), add) }
}

/// Either of them, once in an image.
///
/// # Safety
/// `op` must have been verified against program and arena, and what is added must lie in the arena.
#[inline(never)]
unsafe fn run(
    op: &Conv,
    program: &[u8],
    arena: &mut [i8],
    add: Option<(usize, &AddScale)>,
) -> Option<()> {
    let matrix = Matrix::new(program, Shape::of(op))?;
    let arena = Arena::new(arena);
    // SAFETY: the caller's promise.
    unsafe {
        let add = add.map(|(other, scale)| (arena.start.add(other).cast_const(), scale));
        Windows::new(op, arena, matrix, add).run();
    }
    Some(())
}

/// The arena by pointers: a kernel reads and writes it at once.
#[derive(Clone, Copy)]
struct Arena {
    start: *mut u8,
    end: *const u8,
}

impl Arena {
    fn new(arena: &mut [i8]) -> Self {
        let range = arena.as_mut_ptr_range();
        Self {
            start: range.start.cast(),
            end: range.end.cast_const().cast(),
        }
    }
}

/// A convolution's windows over its input.
struct Windows<'a> {
    op: &'a Conv,
    matrix: Matrix,
    add: Option<(*const u8, &'a AddScale)>,
    input: *const u8,
    output: *mut u8,
    /// Widened activations, bytes of two pixels, and outputs before the sum.
    widened: *mut u32,
    staged: *mut u8,
    summand: *mut u8,
    arena_end: *const u8,
    /// Words of a kernel row, and how many activations are behind them.
    words: usize,
    tail: usize,
    /// Whether kernel rows can be widened from the input.
    direct: bool,
}

impl<'a> Windows<'a> {
    /// # Safety
    /// `op` must have been verified against the arena.
    unsafe fn new(
        op: &'a Conv,
        arena: Arena,
        matrix: Matrix,
        add: Option<(*const u8, &'a AddScale)>,
    ) -> Self {
        let (row, tail) = (layout::conv_row(op), layout::conv_tail(op));
        let plain = op.window.dilation_h == 1 && op.window.dilation_w == 1;
        // SAFETY: offsets of planes and of scratch, which has this length, were verified.
        unsafe {
            let scratch = arena.start.add(op.scratch as usize);
            let staged = scratch.add(matrix.products * 4);
            Self {
                add,
                input: arena.start.add(op.input.offset as usize).cast_const(),
                output: arena.start.add(op.output.offset as usize),
                widened: scratch.cast(),
                staged,
                summand: staged.add((matrix.products + 4) * 2),
                arena_end: arena.end,
                words: (row - tail).div_ceil(4) as usize,
                tail: tail as usize,
                direct: plain,
                op,
                matrix,
            }
        }
    }

    /// # Safety
    /// As [`Self::new`].
    unsafe fn run(&self) {
        let window = &self.op.window;
        let (mut height, mut width) = (
            usize::from(self.op.output.height),
            usize::from(self.op.output.width),
        );
        let mut columns = usize::from(self.op.input.width);
        let one = window.kernel_h == 1 && window.kernel_w == 1;
        if one && window.stride_h == 1 && window.stride_w == 1 && width == columns {
            // Pixels follow each other without a gap.
            (height, width) = (1, height * width);
            columns *= usize::from(self.op.input.height);
        }
        for y in 0..height {
            // SAFETY: rows of the output.
            unsafe { self.row(y, width, columns) };
        }
    }

    /// # Safety
    /// As [`Self::new`]; `y` and `width` are a row of the output and `columns` its input's, or all of both.
    unsafe fn row(&self, y: usize, width: usize, columns: usize) {
        let op = self.op;
        let window = &op.window;
        let depth = usize::from(op.input.channels);
        let outputs = usize::from(op.output.channels);
        let row_bytes = op.input.row_bytes() as usize;
        let stride = usize::from(window.stride_w);
        let (pad, kernel_w) = (usize::from(window.pad_left), usize::from(window.kernel_w));
        let top = y * usize::from(window.stride_h);
        let inside = top >= usize::from(window.pad_top)
            && top + usize::from(window.kernel_h)
                <= usize::from(op.input.height) + usize::from(window.pad_top);
        // Pixels from `first` to `end` see no padding.
        let (first, end) = if self.direct && inside && columns + pad >= kernel_w {
            (
                pad.div_ceil(stride),
                ((columns + pad - kernel_w) / stride + 1).min(width),
            )
        } else {
            (width, 0)
        };
        let skipped = top.wrapping_sub(usize::from(window.pad_top));
        let start = self.input.wrapping_add(skipped.wrapping_mul(row_bytes));
        let mut target = self.output.wrapping_add(y * width * outputs);
        let step = 2 * stride * depth;
        let last = (usize::from(window.kernel_h) - 1) * row_bytes + self.words * 4 + self.tail;
        let mut x = 0;
        // SAFETY: sources of pixels that see no padding lie in the input, apart from up to three
        // bytes behind the last, which lie in the arena as asked; other pixels are staged.
        unsafe {
            while x + 1 < width && !self.matrix.mixed() {
                let source = start.wrapping_add((x * stride).wrapping_sub(pad).wrapping_mul(depth));
                let second = source.wrapping_add(stride * depth);
                let mut pairs = if x >= first {
                    end.saturating_sub(x) / 2
                } else {
                    0
                };
                while pairs > 0 && second.wrapping_add((pairs - 1) * step + last) > self.arena_end {
                    pairs -= 1;
                }
                if self.add.is_some() {
                    pairs = pairs.min(1);
                }
                let mut rows = Rows {
                    source,
                    second,
                    words: self.words,
                    rows: usize::from(window.kernel_h),
                    stride: row_bytes,
                    tail: self.tail,
                };
                if pairs == 0 {
                    rows = self.stage_two(y, [x, x + 1]);
                    pairs = 1;
                }
                self.finish_two(rows, target, [pairs, step]);
                target = target.add(2 * pairs * outputs);
                x += 2 * pairs;
            }
            while x < width {
                self.finish_one(y, x, target);
                target = target.add(outputs);
                x += 1;
            }
        }
    }

    /// Copies the windows of two pixels of row `y`, which may be the same.
    ///
    /// # Safety
    /// As [`Self::stage`].
    unsafe fn stage_two(&self, y: usize, [x, other]: [usize; 2]) -> Rows {
        let row = layout::conv_row(self.op) as usize;
        let mut second = self.staged;
        // SAFETY: the caller's promise; there is room for two.
        unsafe {
            self.stage(y, x, self.staged);
            if other != x {
                second = self.staged.add(self.matrix.products);
                self.stage(y, other, second);
            }
        }
        Rows {
            source: self.staged,
            second,
            words: self.words,
            rows: usize::from(self.op.window.kernel_h),
            stride: row,
            tail: self.tail,
        }
    }

    /// # Safety
    /// `rows` must be those of pairs of pixels, one where there is a sum, and `target` their outputs.
    #[inline]
    unsafe fn finish_two(&self, rows: Rows, target: *mut u8, pairs: [usize; 2]) {
        // SAFETY: the summand's scratch holds two pixels, as the other addend does.
        unsafe {
            if let Some((other, scale)) = &self.add {
                self.matrix.two(rows, self.widened, self.summand, pairs);
                let other = other.offset(target.offset_from(self.output));
                sum::stretch(scale, other, self.summand, target, 2 * self.matrix.outputs);
            } else {
                self.matrix.two(rows, self.widened, target, pairs);
            }
        }
    }

    /// # Safety
    /// `[y, x]` must be a pixel of the output, and `target` its outputs.
    unsafe fn finish_one(&self, y: usize, x: usize, target: *mut u8) {
        let matrix = &self.matrix;
        let made = if self.add.is_some() {
            self.summand
        } else {
            target
        };
        // SAFETY: as `finish_two`.
        unsafe {
            if matrix.wide || (self.tail > 0 && !matrix.mixed()) {
                // The same pixel twice.
                let rows = self.stage_two(y, [x, x]);
                matrix.twice(rows, self.widened, made);
            } else {
                self.stage(y, x, self.staged);
                matrix.one(self.in_order(), made);
            }
            if let Some((other, scale)) = &self.add {
                let other = other.offset(target.offset_from(self.output));
                sum::stretch(scale, other, made, target, matrix.outputs);
            }
        }
    }

    /// A staged pixel's activations in the order of weights.
    ///
    /// # Safety
    /// A pixel must have been staged.
    unsafe fn in_order(&self) -> *const u8 {
        if self.tail == 0 {
            return self.staged;
        }
        let row = layout::conv_row(self.op) as usize;
        let (main, rows) = (row - self.tail, usize::from(self.op.window.kernel_h));
        let target = self.widened.cast::<u8>();
        for index in 0..rows * row {
            let (at, place) = (index / row, index % row);
            let to = if place < main {
                at * main + place
            } else {
                rows * main + at * self.tail + place - main
            };
            // SAFETY: there is room for a byte a product.
            unsafe { target.add(to).write(self.staged.add(index).read()) };
        }
        target
    }

    /// Copies a pixel's window, padding included.
    ///
    /// # Safety
    /// `[y, x]` must be a pixel of the output, and `target` writable for its products and four bytes.
    #[inline(never)]
    unsafe fn stage(&self, y: usize, x: usize, target: *mut u8) {
        let op = self.op;
        let window = &op.window;
        let depth = usize::from(op.input.channels);
        let (height, mut width) = (usize::from(op.input.height), usize::from(op.input.width));
        if window.kernel_h == 1 && window.kernel_w == 1 && x >= usize::from(op.output.width) {
            width *= height;
        }
        let dilation = usize::from(window.dilation_w);
        let left = (x * usize::from(window.stride_w)).wrapping_sub(usize::from(window.pad_left));
        let taps = usize::from(window.kernel_w);
        let whole = dilation == 1 && left < width && left + taps <= width;
        for tap in 0..usize::from(window.kernel_h) {
            let row = y * usize::from(window.stride_h) + tap * usize::from(window.dilation_h);
            let row = row.wrapping_sub(usize::from(window.pad_top));
            let start = self.input.wrapping_add(row.wrapping_mul(width * depth));
            let mut target = target.wrapping_add(tap * layout::conv_row(op) as usize);
            // SAFETY: only taps inside the input are read; each writes its own stretch of the target.
            unsafe {
                if row < height && whole {
                    copy(
                        start.add(left * depth),
                        target,
                        taps * depth,
                        self.arena_end,
                    );
                    target = target.add(taps * depth);
                    continue;
                }
                for tap in 0..taps {
                    let column = left.wrapping_add(tap * dilation);
                    if row < height && column < width {
                        copy(start.add(column * depth), target, depth, self.arena_end);
                    } else {
                        target.write_bytes(op.input_zero_point as u8, depth);
                    }
                    target = target.add(depth);
                }
            }
        }
    }
}

/// Copies bytes by words, up to three more than asked unless the source would end behind `end`.
///
/// # Safety
/// `source` must be readable for `bytes`, and up to `end`; `target` writable for three bytes more.
#[inline]
unsafe fn copy(source: *const u8, target: *mut u8, bytes: usize, end: *const u8) {
    let words = bytes.div_ceil(4);
    // SAFETY: the caller's promise.
    unsafe {
        if source.wrapping_add(words * 4) > end {
            for index in 0..bytes {
                target.add(index).write(source.add(index).read());
            }
            return;
        }
        let (source, target) = (source.cast::<u32>(), target.cast::<u32>());
        for index in 0..words {
            target
                .add(index)
                .write_unaligned(source.add(index).read_unaligned());
        }
    }
}
