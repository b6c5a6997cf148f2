//! Where a weight lies in each [`Layout`], and what its kernels need beside weights: the one place
//! that emitters, verifier, planner and kernels ask.
//!
//! # Weights for Cortex-M
//!
//! Convolutions and fully connected layers are matrices of output channels by products, the latter
//! in the order of the natural layout but for the ends of kernel rows ([`conv_tail`]), padded with
//! zeros to multiples of four each. Four outputs make a tile, in which four products of its outputs 0 and 1, then of 2 and 3, follow each other: a
//! halfword holds `256 * odd + even`, and of four products the first and third, then the second and
//! fourth make a word with those of the other pair of outputs behind it. That is how `SXTB16` takes
//! four activations apart, and `SMLAD` sums two outputs at once (see the kernels). Small kernels of
//! convolutions ([`is_wide`]) have a halfword for each weight.
//!
//! Depthwise weights are halfwords: where [`Slices`] are taken channel by channel and row by row, a
//! row of three being `k0, k1, k1, k2`; else tap by tap of four channels, first those of channels 0
//! and 2, then of 1 and 3, with taps of zeros up to a multiple of three.
//!
//! Of a [`Channel`] the multiplier is stored times two, modulo 2^32, and the shift as its bitwise
//! complement, with flags above it ([`UNPROVEN`], [`SLOW`], [`SLOW_TILE`]).

use super::Layout;
use super::codec::{Field, Reader};
use super::op::{Channel, Conv, Dense, Depthwise, Op, Window};

/// Flag in the first channel's shift for Cortex-M: some sum of products may leave 24 bits where two
/// outputs share a halfword, some accumulator 31, or some multiplier is zero. Kernels then compute
/// every accumulator by itself, modulo 2^32.
pub const UNPROVEN: i32 = 1 << 16;
/// Flag in the first channel's shift for Cortex-M: some tile has [`SLOW_TILE`].
pub const SLOW: i32 = 1 << 17;
/// Flag in the shift of a tile's first channel for Cortex-M: some of its outputs shifts to the left
/// or not at all, or an odd one leaves 24 bits together with its bias.
pub const SLOW_TILE: i32 = 1 << 18;

/// Columns of outputs that a depthwise kernel for Cortex-M computes at a time.
pub const BLOCK: usize = 6;

/// Bytes of a matrix for Cortex-M.
pub const fn matrix_bytes(outputs: u64, products: u64) -> u64 {
    outputs.next_multiple_of(4) * products.next_multiple_of(4)
}

/// Where the halfword of a weight of a matrix for Cortex-M begins.
pub const fn matrix_halfword(products: usize, output: usize, product: usize) -> usize {
    let tile = output / 4 * 4 * products.next_multiple_of(4);
    let word = (product / 4 * 2 + product % 2) * 2 + output % 4 / 2;
    tile + word * 4 + product % 4 / 2 * 2
}

/// A halfword of a matrix for Cortex-M.
pub const fn pack(even: i8, odd: i8) -> [u8; 2] {
    (odd as i16)
        .wrapping_mul(256)
        .wrapping_add(even as i16)
        .to_le_bytes()
}

/// One of the two weights of a halfword of a matrix for Cortex-M.
pub const fn unpack([low, high]: [u8; 2], odd: bool) -> i8 {
    if odd {
        high.wrapping_add(low >> 7) as i8
    } else {
        low as i8
    }
}

/// Where the byte of a weight of a matrix for Cortex-M lies: the low one of even outputs, the high one
/// of odd outputs.
const fn matrix_index(products: usize, output: usize, product: usize) -> usize {
    matrix_halfword(products, output, product) + output % 2
}

/// Makes halfwords of a matrix for Cortex-M of weights that were put at their indices.
pub fn finish_matrix(layout: Layout, weights: &mut [u8]) {
    if layout == Layout::CortexM {
        for halfword in weights.as_chunks_mut::<2>().0 {
            *halfword = pack(halfword[0] as i8, halfword[1] as i8);
        }
    }
}

/// Makes a depthwise kernel for Cortex-M of weights that were put at their indices.
pub fn finish_depthwise(layout: Layout, op: &Depthwise, weights: &mut [u8]) {
    if layout != Layout::CortexM {
        return;
    }
    if Slices::of(op).is_some() {
        for row in weights.as_chunks_mut::<8>().0 {
            row[4] = row[2];
        }
    }
    for halfword in weights.as_chunks_mut::<2>().0 {
        *halfword = i16::from(halfword[0] as i8).to_le_bytes();
    }
}

/// Makes a convolution's kernel for Cortex-M of weights that were put at their indices.
pub fn finish_conv(layout: Layout, op: &Conv, weights: &mut [u8]) {
    if layout == Layout::CortexM && is_wide(op) {
        for halfword in weights.as_chunks_mut::<2>().0 {
            *halfword = i16::from(halfword[0] as i8).to_le_bytes();
        }
    } else {
        finish_matrix(layout, weights);
    }
}

/// The weight of a convolution or fully connected layer whose index is `index`, among constants that
/// begin with its weights.
pub fn matrix_weight(layout: Layout, constants: &[u8], index: usize) -> Option<i8> {
    let &byte = constants.get(index)?;
    if layout == Layout::CortexM && index % 2 == 1 {
        let &low = constants.get(index - 1)?;
        return Some(unpack([low, byte], true));
    }
    Some(byte as i8)
}

/// Bytes of a convolution's weights.
pub const fn conv_weight_bytes(layout: Layout, op: &Conv) -> u64 {
    let outputs = op.output.channels as u64;
    match layout {
        Layout::Natural => outputs * conv_taps(op),
        Layout::CortexM if is_wide(op) => 2 * matrix_bytes(outputs, conv_products(op)),
        Layout::CortexM => matrix_bytes(outputs, conv_products(op)),
    }
}

/// Most weights of a convolution for Cortex-M that lie one to a halfword: that takes twice the room,
/// and a tenth fewer instructions.
const WIDE_WEIGHTS: u64 = 2560;

/// Whether a convolution's weights for Cortex-M lie one to a halfword. In short rows of an odd number of
/// outputs the last one, which is computed as if it were two, would take what that saves.
pub const fn is_wide(op: &Conv) -> bool {
    let width = op.output.width;
    let even = width.is_multiple_of(2) || width > 8;
    even && matrix_bytes(op.output.channels as u64, conv_products(op)) <= WIDE_WEIGHTS
}

/// Weights of one output channel of a convolution.
pub const fn conv_taps(op: &Conv) -> u64 {
    op.window.kernel_h as u64 * op.window.kernel_w as u64 * op.input.channels as u64
}

/// Products of a kernel row of a convolution.
pub const fn conv_row(op: &Conv) -> u64 {
    op.window.kernel_w as u64 * op.input.channels as u64
}

/// Products at the end of a kernel row of a convolution for Cortex-M that lie behind whole groups of
/// four of all rows: each row is widened from the input by itself, a word at a time, what is left of
/// them together. One row may be longer than it is.
pub const fn conv_tail(op: &Conv) -> u64 {
    if op.window.kernel_h == 1 {
        return 0;
    }
    conv_row(op) % 4
}

/// Products of an output of a convolution.
pub const fn conv_products(op: &Conv) -> u64 {
    op.window.kernel_h as u64 * conv_row(op)
}

/// Index from `weights` on of the weight of `[output channel, row, column, input channel]`.
pub const fn conv_weight(layout: Layout, op: &Conv, at: [usize; 4]) -> usize {
    let [out, row, column, input] = at;
    let place = column * op.input.channels as usize + input;
    let products = conv_products(op) as usize;
    match layout {
        Layout::Natural => out * products + row * conv_row(op) as usize + place,
        Layout::CortexM => {
            let tail = conv_tail(op) as usize;
            let main = conv_row(op) as usize - tail;
            let product = if place < main {
                row * main + place
            } else {
                op.window.kernel_h as usize * main + row * tail + place - main
            };
            if is_wide(op) {
                wide_halfword(products, out, product)
            } else {
                matrix_index(products, out, product)
            }
        }
    }
}

/// Where the halfword begins of a weight that has one for itself: of four products of four outputs first
/// those of the first and third, then of the second and fourth, output by output.
pub const fn wide_halfword(products: usize, output: usize, product: usize) -> usize {
    let tile = output / 4 * 4 * products.next_multiple_of(4);
    let word = (product / 4 * 2 + product % 2) * 4 + output % 4;
    (tile * 2) + word * 4 + product % 4 / 2 * 2
}

/// Bytes of a depthwise convolution's weights.
pub const fn depthwise_weight_bytes(layout: Layout, op: &Depthwise) -> u64 {
    let outputs = op.output.channels as u64;
    match (layout, Slices::of(op)) {
        (Layout::Natural, _) => outputs * op.window.kernel_h as u64 * op.window.kernel_w as u64,
        (Layout::CortexM, Some(_)) => outputs * SLICE_BYTES as u64,
        (Layout::CortexM, None) => outputs.next_multiple_of(4) * depthwise_taps(&op.window) * 2,
    }
}

/// Bytes of a channel's kernel where [`Slices`] are taken: three rows of four halfwords.
const SLICE_BYTES: usize = 24;

/// Taps of a depthwise kernel for Cortex-M, those included that only fill up its last step.
pub const fn depthwise_taps(window: &Window) -> u64 {
    (window.kernel_h as u64 * window.kernel_w as u64).next_multiple_of(3)
}

/// Index from `weights` on of the weight of `[row, column, output channel]`.
pub const fn depthwise_weight(layout: Layout, op: &Depthwise, at: [usize; 3]) -> usize {
    let [row, column, out] = at;
    let tap = row * op.window.kernel_w as usize + column;
    match (layout, Slices::of(op)) {
        (Layout::Natural, _) => tap * op.output.channels as usize + out,
        (Layout::CortexM, Some(_)) => {
            let halfword = if column == 2 { 3 } else { column };
            out * SLICE_BYTES + row * 8 + halfword * 2
        }
        (Layout::CortexM, None) => {
            // Channels 0 and 2 of four, then 1 and 3, as `SXTB16` takes them apart.
            let halfword = out % 2 * 2 + out % 4 / 2;
            (out / 4 * depthwise_taps(&op.window) as usize + tap) * 8 + halfword * 2
        }
    }
}

/// Bytes of a fully connected layer's weights.
pub const fn dense_weight_bytes(layout: Layout, op: &Dense) -> u64 {
    match layout {
        Layout::Natural => op.inputs as u64 * op.outputs as u64,
        Layout::CortexM => matrix_bytes(op.outputs as u64, op.inputs as u64),
    }
}

/// Index from `weights` on of the weight of `[output, input]`.
pub const fn dense_weight(layout: Layout, op: &Dense, at: [usize; 2]) -> usize {
    let [out, input] = at;
    let products = op.inputs as usize;
    match layout {
        Layout::Natural => out * products + input,
        Layout::CortexM => matrix_index(products, out, input),
    }
}

/// How many channels' constants an operator of `outputs` channels has.
pub const fn channel_count(layout: Layout, outputs: u16) -> u32 {
    match layout {
        Layout::Natural => outputs as u32,
        Layout::CortexM => (outputs as u32).next_multiple_of(4),
    }
}

/// Constants of output channel `index` of the [`Channel`]s at `base` of the program.
pub fn channel(layout: Layout, program: &[u8], base: u32, index: usize) -> Option<Channel> {
    let at = (base as usize).checked_add(index.checked_mul(Channel::BYTES)?)?;
    let channel = Channel::read(&mut Reader::new(program.get(at..)?))?;
    match layout {
        Layout::Natural => Some(channel),
        Layout::CortexM => Some(Channel {
            multiplier: (channel.multiplier as u32 >> 1) as i32,
            shift: !(channel.shift as i8 as i32),
            ..channel
        }),
    }
}

/// A channel as it is stored, with flags of its operator.
pub const fn store_channel(layout: Layout, channel: Channel, flags: i32) -> Channel {
    match layout {
        Layout::Natural => channel,
        Layout::CortexM => Channel {
            multiplier: channel.multiplier.wrapping_mul(2),
            shift: !channel.shift ^ flags,
            ..channel
        },
    }
}

/// Flags in a shift as it is stored for Cortex-M.
pub const fn flags(shift: i32) -> i32 {
    shift ^ (shift >> 31)
}

/// Bytes of scratch that an operator needs in the arena.
pub const fn scratch_bytes(layout: Layout, op: &Op) -> u64 {
    match (layout, op) {
        (Layout::CortexM, Op::Conv(op)) => conv_scratch(op),
        (Layout::CortexM, Op::ConvAdd(op)) => {
            conv_scratch(&op.conv) + 2 * (op.conv.output.channels as u64).next_multiple_of(4)
        }
        (Layout::CortexM, Op::Depthwise(op)) => match Slices::of(op) {
            Some(slices) => slices.bytes() as u64,
            None if op.multiplier == 1 => depthwise_scratch(op),
            None => 0,
        },
        _ => 0,
    }
}

/// Two pixels' windows, widened, and as bytes where they are not taken from the input as they lie.
const fn conv_scratch(op: &Conv) -> u64 {
    let products = conv_products(op).next_multiple_of(4);
    products * 4 + (products + 4) * 2
}

/// Where a depthwise window's taps lie, a pixel of padding, and a copy of the input's end, behind
/// which as many bytes may be read.
const fn depthwise_scratch(op: &Depthwise) -> u64 {
    depthwise_taps(&op.window) * 4 + 3 * (op.input.channels as u64).next_multiple_of(4)
}

/// How the depthwise kernel of three by three for Cortex-M cuts its work: rows of the input, taken
/// apart into a row a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    /// Whether whole rows stay in scratch until the next row of outputs.
    pub keep: bool,
    /// Channels, rounded up to a multiple of four.
    pub channels: usize,
    /// Outputs of a row at a time.
    pub columns: usize,
    /// Bytes of a channel's row.
    pub row: usize,
    /// Rows of the kernel.
    pub rows: usize,
}

impl Slices {
    /// For an operator that the kernel takes: three by three, one output an input channel, stride 1
    /// and no dilation.
    pub const fn of(op: &Depthwise) -> Option<Self> {
        let window = &op.window;
        let plain = window.kernel_h == 3
            && window.kernel_w == 3
            && op.multiplier == 1
            && window.dilation_h == 1
            && window.dilation_w == 1
            && window.stride_h == 1
            && window.stride_w == 1;
        if !plain {
            return None;
        }
        let width = op.output.width as usize;
        // Whole rows of a large input would take more memory than all else.
        let keep = width <= 6 * BLOCK;
        let columns = if keep { width } else { 3 * BLOCK };
        Some(Self {
            keep,
            channels: (op.output.channels as usize).next_multiple_of(4),
            columns,
            row: columns.div_ceil(BLOCK) * BLOCK * 2 + 4,
            rows: 3,
        })
    }

    /// Bytes of a row of the input that was taken apart.
    pub const fn slot(&self) -> usize {
        self.channels * self.row
    }

    /// Bytes of scratch: rows, a pixel of padding, and copies of the input's last two.
    pub const fn bytes(&self) -> usize {
        self.rows * self.slot() + 3 * self.channels
    }
}
