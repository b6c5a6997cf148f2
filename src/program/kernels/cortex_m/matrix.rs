//! Convolutions and fully connected layers: windows become columns of a matrix, two pixels at a time.

use super::tile::{Tiles, one_pixel, two_pixels};
use super::widen::{Rows, two};
use super::{Stored, clamp_stretch, sum};
use crate::program::Layout;
use crate::program::exec::Step;
use crate::program::kernels::portable::{self, finish};
use crate::program::layout::{self, SLOW, SLOW_TILE, UNPROVEN};
use crate::program::op::{AddScale, Conv, ConvAdd, Dense, Quantizer};

/// Convolution.
pub fn conv(mut step: Step<'_, Conv>) -> Option<()> {
    let op = *step.op();
    let Some(matrix) = Matrix::new(step.layout(), step.program(), Shape::of(&op)) else {
        return portable::conv(step);
    };
    let arena = Arena::new(step.arena());
    // SAFETY: the step's operator was verified against this arena and this program.
    unsafe { Windows::new(&op, arena, matrix, None).run() };
    Some(())
}

/// Convolution and sum.
pub fn conv_add(mut step: Step<'_, ConvAdd>) -> Option<()> {
    let op = *step.op();
    let matrix = Matrix::new(step.layout(), step.program(), Shape::of(&op.conv));
    let Some(matrix) = matrix else {
        return portable::conv_add(step);
    };
    let arena = Arena::new(step.arena());
    // SAFETY: as in `conv`; the other addend is as long as the output and lies in the arena too.
    unsafe {
        let other = arena.start.add(op.other as usize).cast_const();
        Windows::new(&op.conv, arena, matrix, Some((other, op.add))).run();
    }
    Some(())
}

/// Fully connected layer.
pub fn dense(mut step: Step<'_, Dense>) -> Option<()> {
    let op = *step.op();
    let (inputs, outputs) = (usize::from(op.inputs), usize::from(op.outputs));
    let shape = Shape {
        products: inputs,
        outputs,
        weights: op.weights,
        channels: op.channels,
        quantizer: op.quantizer,
    };
    let rows = usize::from(op.rows);
    let read = op.input as usize + (rows - 1) * inputs + inputs.next_multiple_of(4);
    let whole = read <= step.arena().len();
    let matrix = Matrix::new(step.layout(), step.program(), shape);
    let Some(matrix) = matrix.filter(|_| whole) else {
        return portable::dense(step);
    };
    let start = step.arena().as_mut_ptr().cast::<u8>();
    for row in 0..rows {
        // SAFETY: the verifier placed `rows` vectors of `inputs` and of `outputs` in the arena, and
        // what is read behind the last input lies in it as well, as asked above.
        unsafe {
            let input = start.add(op.input as usize + row * inputs).cast_const();
            matrix.one(input, start.add(op.output as usize + row * outputs));
        }
    }
    Some(())
}

/// What a matrix comes from.
struct Shape {
    products: usize,
    outputs: usize,
    weights: u32,
    channels: u32,
    quantizer: Quantizer,
}

impl Shape {
    fn of(op: &Conv) -> Self {
        Self {
            products: layout::conv_products(op) as usize,
            outputs: usize::from(op.output.channels),
            weights: op.weights,
            channels: op.channels,
            quantizer: op.quantizer,
        }
    }
}

/// Weights and constants of all output channels.
struct Matrix {
    /// Products of an output, padded to a multiple of four.
    products: usize,
    outputs: usize,
    weights: *const u8,
    channels: *const Stored,
    quantizer: Quantizer,
    /// Whether no tile takes the long way.
    plain: bool,
}

/// Words of a tile's constants.
const TILE: usize = 12;

impl Matrix {
    /// `None` for what only portable kernels compute.
    fn new(layout: Layout, program: &[u8], shape: Shape) -> Option<Self> {
        if layout != Layout::CortexM {
            return None;
        }
        let channels = program.get(shape.channels as usize..)?.as_ptr();
        let weights = program.get(shape.weights as usize..)?.as_ptr();
        // SAFETY: the verifier found whole channels at this offset, a multiple of four, and the
        // program begins at a multiple of sixteen.
        let first = unsafe { channels.cast::<Stored>().read() };
        let flags = first.flags();
        if flags & UNPROVEN != 0 {
            return None;
        }
        Some(Self {
            products: shape.products.next_multiple_of(4),
            outputs: shape.outputs,
            weights,
            channels: channels.cast(),
            quantizer: shape.quantizer,
            plain: flags & SLOW == 0,
        })
    }

    /// Outputs of two pixels from their widened activations.
    ///
    /// # Safety
    /// `activations` must be four bytes a product, both targets writable for the outputs.
    unsafe fn two(&self, activations: *const u32, first: *mut u8, second: *mut u8) {
        // SAFETY: the caller's promise; weights and constants were verified for these extents.
        unsafe {
            let tiles = Tiles {
                activations,
                activations_end: activations.add(self.products),
                weights: self.weights,
                channels: self.channels.cast(),
                channels_end: self.channels.cast(),
                output: first,
                second,
                rounding: 0,
            };
            self.all(tiles, two_pixels);
        }
    }

    /// Outputs of one pixel from its activations.
    ///
    /// # Safety
    /// `activations` must be a byte a product, padding included, the target writable for the outputs.
    unsafe fn one(&self, activations: *const u8, output: *mut u8) {
        // SAFETY: the caller's promise; weights and constants were verified for these extents.
        unsafe {
            let tiles = Tiles {
                activations: activations.cast(),
                activations_end: activations.add(self.products).cast(),
                weights: self.weights,
                channels: self.channels.cast(),
                channels_end: self.channels.cast(),
                output,
                second: core::ptr::null_mut(),
                rounding: 0,
            };
            self.all(tiles, one_pixel);
        }
    }

    /// Goes through all tiles.
    ///
    /// # Safety
    /// As [`Self::two`] and [`Self::one`].
    #[inline]
    unsafe fn all(&self, mut tiles: Tiles, kernel: unsafe extern "C" fn(&Tiles)) {
        // SAFETY: whole tiles as verified; what is left of the outputs goes through a buffer.
        unsafe {
            let (whole, left) = (self.outputs / 4, self.outputs % 4);
            let targets = [tiles.output, tiles.second];
            tiles.rounding = 2 * i32::from(self.quantizer.zero_point) + 1;
            if self.plain && whole > 0 {
                tiles.channels_end = tiles.channels.add(whole * TILE);
                kernel(&tiles);
            }
            if left > 0 || !self.plain {
                self.slow(tiles, kernel, targets, if self.plain { whole } else { 0 });
            }
            let Quantizer { min, max, .. } = self.quantizer;
            if min > i8::MIN || max < i8::MAX {
                for target in targets.into_iter().filter(|target| !target.is_null()) {
                    clamp_stretch(target.cast(), self.outputs, min, max);
                }
            }
        }
    }

    /// Tiles from `done` on, one at a time.
    ///
    /// # Safety
    /// As [`Self::all`].
    #[inline(never)]
    unsafe fn slow(
        &self,
        mut tiles: Tiles,
        kernel: unsafe extern "C" fn(&Tiles),
        targets: [*mut u8; 2],
        done: usize,
    ) {
        // SAFETY: the buffer holds outputs or accumulators of one tile; what is copied from it ends
        // where the caller's outputs do.
        unsafe {
            for tile in done..self.outputs.div_ceil(4) {
                let channels = self.channels.add(tile * 4);
                let count = (self.outputs - tile * 4).min(4);
                let mut buffer = [0_i32; 8];
                tiles.output = buffer.as_mut_ptr().cast();
                tiles.second = buffer.as_mut_ptr().add(1).cast();
                tiles.weights = self.weights.add(tile * 4 * self.products);
                tiles.channels = channels.cast();
                tiles.channels_end = tiles.channels.add(TILE);
                let long = channels.read().flags() & SLOW_TILE != 0;
                tiles.rounding = if long {
                    0
                } else {
                    2 * i32::from(self.quantizer.zero_point) + 1
                };
                kernel(&tiles);
                for (place, target) in targets.into_iter().enumerate() {
                    if target.is_null() {
                        continue;
                    }
                    for index in 0..count {
                        let value = if long {
                            self.finish(
                                channels.add(index).read(),
                                buffer[place * 4 + index],
                                index,
                            )
                        } else {
                            buffer[place].to_le_bytes()[index]
                        };
                        target.add(tile * 4 + index).write(value);
                    }
                }
            }
        }
    }

    /// An output from its accumulator, of which odd ones have 24 bits.
    fn finish(&self, channel: Stored, sum: i32, index: usize) -> u8 {
        let products = sum.wrapping_sub(channel.bias);
        let products = if index % 2 == 1 {
            (products << 8) >> 8
        } else {
            products
        };
        finish(
            products.wrapping_add(channel.bias),
            &channel.natural(),
            &self.quantizer,
        ) as u8
    }
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
    add: Option<(*const u8, AddScale)>,
    input: *const u8,
    output: *mut u8,
    /// Widened activations, bytes of two pixels, and outputs before the sum.
    widened: *mut u32,
    staged: *mut u8,
    summand: *mut u8,
    arena_end: *const u8,
    /// Words of a kernel row that lies in the input in one piece.
    words: usize,
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
        add: Option<(*const u8, AddScale)>,
    ) -> Self {
        let row = layout::conv_row(op) as usize;
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
                words: row.div_ceil(4),
                direct: plain && (row.is_multiple_of(4) || op.window.kernel_h == 1),
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
        if one && window.stride_h == 1 && window.stride_w == 1 {
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
                (columns + pad - kernel_w) / stride + 1,
            )
        } else {
            (width, 0)
        };
        let skipped = top.wrapping_sub(usize::from(window.pad_top));
        let start = self.input.wrapping_add(skipped.wrapping_mul(row_bytes));
        let mut target = self.output.wrapping_add(y * width * outputs);
        let mut rows = Rows {
            source: start,
            second: start,
            target: self.widened,
            words: self.words,
            rows: usize::from(window.kernel_h),
            stride: row_bytes,
        };
        let last = (usize::from(window.kernel_h) - 1) * row_bytes;
        let mut x = 0;
        // SAFETY: sources of pixels that see no padding lie in the input, apart from up to three
        // bytes behind the last, which lie in the arena as asked; other pixels are staged.
        unsafe {
            while x + 1 < width {
                rows.source =
                    start.wrapping_add((x * stride).wrapping_sub(pad).wrapping_mul(depth));
                rows.second = rows.source.wrapping_add(stride * depth);
                let read = rows.second.wrapping_add(last + self.words * 4);
                if x >= first && x + 1 < end && read <= self.arena_end {
                    two(&rows);
                } else {
                    self.stage(y, x, self.staged);
                    let second = self.staged.add(self.matrix.products);
                    self.stage(y, x + 1, second);
                    two(&Rows {
                        source: self.staged,
                        second,
                        target: self.widened,
                        words: self.matrix.products / 4,
                        rows: 1,
                        stride: 0,
                    });
                }
                self.finish_two(target, outputs);
                target = target.add(2 * outputs);
                x += 2;
            }
            if x < width {
                self.stage(y, x, self.staged);
                self.finish_one(target, outputs);
            }
        }
    }

    /// # Safety
    /// `target` must be two pixels of the output.
    #[inline]
    unsafe fn finish_two(&self, target: *mut u8, outputs: usize) {
        // SAFETY: the summand's scratch holds two pixels, as the other addend does.
        unsafe {
            if let Some((other, scale)) = &self.add {
                self.matrix
                    .two(self.widened, self.summand, self.summand.add(outputs));
                let other = other.offset(target.offset_from(self.output));
                sum::stretch(scale, other, self.summand, target, 2 * outputs);
            } else {
                self.matrix.two(self.widened, target, target.add(outputs));
            }
        }
    }

    /// # Safety
    /// `target` must be a pixel of the output.
    unsafe fn finish_one(&self, target: *mut u8, outputs: usize) {
        // SAFETY: as `finish_two`.
        unsafe {
            if let Some((other, scale)) = &self.add {
                self.matrix.one(self.staged, self.summand);
                let other = other.offset(target.offset_from(self.output));
                sum::stretch(scale, other, self.summand, target, outputs);
            } else {
                self.matrix.one(self.staged, target);
            }
        }
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
