//! Matrices of weights, and fully connected layers.

use super::requantize::Finish;
use super::tile::{TILE, Tiles, one_apart, one_pixel, two_pixels, two_wide};
use super::{Stored, clamp_stretch};
use crate::program::Layout;
use crate::program::exec::Step;
use crate::program::kernels::portable::{self, finish};
use crate::program::layout::{self, SLOW, SLOW_TILE, UNPROVEN};
use crate::program::op::{Conv, Dense, Quantizer};

/// Fully connected layer.
pub fn dense(mut step: Step<'_, Dense>) -> Option<()> {
    let op = step.op();
    let (inputs, outputs) = (usize::from(op.inputs), usize::from(op.outputs));
    let shape = Shape {
        products: inputs,
        outputs,
        weights: op.weights,
        channels: op.channels,
        quantizer: op.quantizer,
        wide: false,
    };
    let rows = usize::from(op.rows);
    let read = op.input as usize + (rows - 1) * inputs + inputs.next_multiple_of(4);
    if step.layout() != Layout::CortexM || read > step.arena().len() {
        return portable::dense(step);
    }
    let matrix = Matrix::new(step.program(), shape)?;
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
pub struct Shape {
    products: usize,
    outputs: usize,
    weights: u32,
    channels: u32,
    quantizer: Quantizer,
    wide: bool,
}

impl Shape {
    pub fn of(op: &Conv) -> Self {
        Self {
            products: layout::conv_products(op) as usize,
            outputs: usize::from(op.output.channels),
            weights: op.weights,
            channels: op.channels,
            quantizer: op.quantizer,
            wide: layout::is_wide(op),
        }
    }
}

/// Weights and constants of all output channels.
pub struct Matrix {
    /// Products of an output, padded to a multiple of four.
    pub products: usize,
    pub outputs: usize,
    weights: *const u8,
    channels: *const Stored,
    quantizer: Quantizer,
    /// Whether weights have a halfword each.
    pub wide: bool,
    flags: i32,
}

/// Where a pair of pixels' activations come from: rows of words.
#[derive(Clone, Copy)]
pub struct Rows {
    /// First row of the first pixel; need not be aligned.
    pub source: *const u8,
    /// First row of the second pixel.
    pub second: *const u8,
    /// Words of four activations a row.
    pub words: usize,
    pub rows: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Activations behind a row's words.
    pub tail: usize,
}

impl Matrix {
    /// Of a program in the layout for Cortex-M.
    pub fn new(program: &[u8], shape: Shape) -> Option<Self> {
        let channels = program.get(shape.channels as usize..)?.as_ptr();
        let weights = program.get(shape.weights as usize..)?.as_ptr();
        // SAFETY: the verifier found whole channels at this offset, a multiple of four, and the
        // program begins at a multiple of sixteen.
        let first = unsafe { channels.cast::<Stored>().read() };
        Some(Self {
            products: shape.products.next_multiple_of(4),
            outputs: shape.outputs,
            weights,
            channels: channels.cast(),
            quantizer: shape.quantizer,
            wide: shape.wide,
            flags: first.flags(),
        })
    }

    /// Whether sums of two channels may not be told apart, so that one pixel after the other must be
    /// computed.
    pub const fn mixed(&self) -> bool {
        self.flags & UNPROVEN != 0 && !self.wide
    }

    /// Whether some tile takes the long way.
    const fn is_slow(&self) -> bool {
        self.flags & (SLOW | UNPROVEN) != 0
    }

    /// Outputs of one pixel from `activations` as they are.
    fn tiles(&self, activations: *const u8, output: *mut u8) -> Tiles {
        let channels = self.channels.cast();
        Tiles {
            activations: activations.cast(),
            activations_end: activations.wrapping_add(self.products).cast(),
            weights: self.weights,
            channels,
            channels_end: channels.wrapping_add(self.outputs / 4 * TILE),
            output,
            second: core::ptr::null_mut(),
            rounding: 2 * i32::from(self.quantizer.zero_point) + 1,
            finish: Finish::of(&self.quantizer),
            left: self.outputs % 4,
            source: core::ptr::null(),
            source_second: core::ptr::null(),
            words: 0,
            rows: 0,
            gap: 0,
            step: 0,
            pairs: 1,
            outputs: self.outputs,
            tail: 0,
        }
    }

    /// Outputs of one pixel, taken for two.
    ///
    /// # Safety
    /// As [`Self::two`].
    pub unsafe fn twice(&self, rows: Rows, widened: *mut u32, output: *mut u8) {
        let tiles = Tiles {
            second: output,
            ..self.pairs(rows, widened, output)
        };
        let kernel = self.kernel();
        // SAFETY: the caller's promise; both pixels' outputs are the same.
        unsafe {
            if self.is_slow() {
                self.slow(tiles, kernel);
            } else {
                kernel(&tiles);
            }
            self.clamp(output, 1);
        }
    }

    /// The kernel of two pixels.
    fn kernel(&self) -> unsafe extern "C" fn(&Tiles) {
        if self.wide { two_wide } else { two_pixels }
    }

    /// Outputs of a pair of pixels.
    fn pairs(&self, rows: Rows, widened: *mut u32, output: *mut u8) -> Tiles {
        Tiles {
            activations: widened,
            activations_end: widened.wrapping_add(self.products),
            second: output.wrapping_add(self.outputs),
            source: rows.source,
            source_second: rows.second,
            words: rows.words,
            rows: rows.rows,
            gap: rows.stride.wrapping_sub(rows.words * 4),
            tail: rows.tail,
            ..self.tiles(core::ptr::null(), output)
        }
    }

    /// Outputs of pairs of pixels, whose rows lie `step` bytes apart.
    ///
    /// # Safety
    /// All rows must be readable, `widened` writable for four bytes a product, `output` for the
    /// outputs.
    pub unsafe fn two(
        &self,
        rows: Rows,
        widened: *mut u32,
        output: *mut u8,
        [pairs, step]: [usize; 2],
    ) {
        let mut tiles = Tiles {
            step,
            pairs,
            ..self.pairs(rows, widened, output)
        };
        // SAFETY: the caller's promise; weights and constants were verified for these extents.
        unsafe {
            let kernel = self.kernel();
            if !self.is_slow() {
                kernel(&tiles);
            } else {
                tiles.pairs = 1;
                for _ in 0..pairs {
                    self.slow(tiles, kernel);
                    tiles.source = tiles.source.wrapping_add(step);
                    tiles.source_second = tiles.source_second.wrapping_add(step);
                    tiles.output = tiles.second.add(self.outputs);
                    tiles.second = tiles.output.add(self.outputs);
                }
            }
            self.clamp(output, 2 * pairs);
        }
    }

    /// Outputs of one pixel from its activations.
    ///
    /// # Safety
    /// `activations` must be a byte a product, padding included, the target writable for the outputs.
    pub unsafe fn one(&self, activations: *const u8, output: *mut u8) {
        let tiles = self.tiles(activations, output);
        // SAFETY: the caller's promise; weights and constants were verified for these extents.
        unsafe {
            if self.mixed() {
                self.slow(tiles, one_apart);
            } else if self.is_slow() {
                self.slow(tiles, one_pixel);
            } else {
                one_pixel(&tiles);
            }
            self.clamp(output, 1);
        }
    }

    /// Clamps the outputs of `pixels`.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn clamp(&self, output: *mut u8, pixels: usize) {
        let Quantizer { min, max, .. } = self.quantizer;
        if min > i8::MIN || max < i8::MAX {
            // SAFETY: the caller's promise.
            unsafe { clamp_stretch(output.cast(), pixels * self.outputs, min, max) };
        }
    }

    /// Tiles one at a time, of which some take the long way.
    ///
    /// # Safety
    /// As [`Self::two`] and [`Self::one`].
    #[inline(never)]
    unsafe fn slow(&self, mut tiles: Tiles, kernel: unsafe extern "C" fn(&Tiles)) {
        let targets = [tiles.output, tiles.second];
        let bytes = 4 * self.products * if self.wide { 2 } else { 1 };
        // SAFETY: the buffer holds accumulators of one tile; what is copied from it ends where
        // the caller's outputs do.
        unsafe {
            for tile in 0..self.outputs.div_ceil(4) {
                let channels = self.channels.add(tile * 4);
                let count = (self.outputs - tile * 4).min(4);
                let mut buffer = [0_i32; 8];
                [tiles.output, tiles.second] = targets.map(|to| to.wrapping_add(tile * 4));
                tiles.weights = self.weights.add(tile * bytes);
                tiles.channels = channels.cast();
                tiles.channels_end = tiles.channels.add(count / 4 * TILE);
                tiles.left = count % 4;
                let long = self.flags & UNPROVEN != 0 || channels.read().flags() & SLOW_TILE != 0;
                if long {
                    tiles.output = buffer.as_mut_ptr().cast();
                    tiles.finish = Finish::Raw;
                } else {
                    tiles.finish = Finish::of(&self.quantizer);
                }
                kernel(&tiles);
                // Activations of two pixels are widened now.
                tiles.rows = 0;
                let targets = targets.into_iter().filter(|to| long && !to.is_null());
                for (target, sums) in targets.zip(buffer.chunks_exact(4)) {
                    for (index, &sum) in sums.iter().enumerate().take(count) {
                        let value = self.finish(channels.add(index).read(), sum, index);
                        target.add(tile * 4 + index).write(value);
                    }
                }
            }
        }
    }

    /// An output from its accumulator, of which odd ones have 24 bits.
    fn finish(&self, channel: Stored, sum: i32, index: usize) -> u8 {
        let products = sum.wrapping_sub(channel.bias);
        let products = if index % 2 == 1 && !self.wide && !self.mixed() {
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
