//! How far an operator's output may lie over its own input.
//!
//! Kernels go through output pixels in row-major order and write all channels of a pixel together.
//! Where the output begins `distance` bytes before the input, what is written for a pixel is safe as
//! long as it ends before the first byte that this pixel or a later one still reads. The least such
//! distance depends on shapes alone, so that planner and verifier share it.

use super::Layout;
use super::layout;
use super::op::{Conv, Dense, Depthwise, Op, Plane, Pool, Window};

/// The least `input offset - output offset` at which the output may overlap its main input; `None`
/// where they must be disjoint.
///
/// The main input is the first one. Of a sum or product, every input as long as the output is held
/// to the same distance; the other addend of a [`super::op::ConvAdd`] lies exactly on the output or
/// apart from it.
pub fn least_distance(op: &Op, layout: Layout) -> Option<u32> {
    let distance = match op {
        Op::Conv(op) => conv(op, layout),
        Op::ConvAdd(op) => conv(&op.conv, layout),
        Op::Depthwise(op) => depthwise(op, layout),
        Op::Dense(op) => dense(op, layout),
        Op::Pool(op) => pool(op),
        Op::Add(_) | Op::Mul(_) | Op::Softmax(_) | Op::Lookup(_) => 0,
        Op::Mean(_) | Op::Copy(_) | Op::Fill(_) => return None,
    };
    u32::try_from(distance).ok()
}

fn conv(op: &Conv, layout: Layout) -> u64 {
    match layout {
        Layout::Natural | Layout::CortexM => sliding(&op.input, &op.output, &op.window),
    }
}

fn depthwise(op: &Depthwise, layout: Layout) -> u64 {
    let pixel = sliding(&op.input, &op.output, &op.window);
    match (layout, layout::Slices::of(op)) {
        // Some channels of a block are written before others of it are read.
        (Layout::CortexM, Some(slices)) if !slices.keep => {
            pixel + (slices.columns as u64 - 1) * u64::from(op.output.channels)
        }
        _ => pixel,
    }
}

fn pool(op: &Pool) -> u64 {
    sliding(&op.input, &op.output, &op.window)
}

/// A dense layer writes a vector while it reads one.
fn dense(op: &Dense, layout: Layout) -> u64 {
    let last = u64::from(op.rows.max(1)) - 1;
    let (inputs, outputs) = (u64::from(op.inputs), u64::from(op.outputs));
    match layout {
        // Vector r writes up to (r + 1) * outputs and reads from r * inputs on: linear in r.
        Layout::Natural | Layout::CortexM => {
            outputs + (last * outputs).saturating_sub(last * inputs)
        }
    }
}

/// The least distance of a window that slides over pixels in row-major order: the greatest of `end
/// of what pixel p writes - first byte that p or a later pixel reads`.
///
/// That difference is piecewise linear in row and column, so that its greatest value lies at an end
/// of a piece: the first and last pixel, and where the window leaves the padding.
pub(crate) fn sliding(input: &Plane, output: &Plane, window: &Window) -> u64 {
    let rows = ends(output.height, window.pad_top, window.stride_h);
    let columns = ends(output.width, window.pad_left, window.stride_w);
    let mut greatest = 0;
    for &y in &rows {
        for &x in &columns {
            let pixel = y * u64::from(output.width) + x;
            let written = (pixel + 1) * u64::from(output.channels);
            let read = first_read(input, output, window, [y, x]);
            greatest = greatest.max(written.saturating_sub(read));
        }
    }
    greatest
}

/// First byte of the input that pixel `[y, x]` or a later one reads.
fn first_read(input: &Plane, output: &Plane, window: &Window, [y, x]: [u64; 2]) -> u64 {
    let row = |y: u64| {
        let start = y * u64::from(window.stride_h);
        start.saturating_sub(u64::from(window.pad_top)) * input.row_bytes()
    };
    let column = (x * u64::from(window.stride_w)).saturating_sub(u64::from(window.pad_left));
    let here = row(y) + column * u64::from(input.channels);
    // A row starts again at its left, and two rows of outputs may begin in the same row of inputs.
    if y + 1 < u64::from(output.height) {
        here.min(row(y + 1))
    } else {
        here
    }
}

/// Indices of outputs where pieces end: both ends, and around the first window past the padding.
fn ends(extent: u16, pad: u16, stride: u8) -> [u64; 6] {
    let last = u64::from(extent.max(1)) - 1;
    let out = u64::from(pad) / u64::from(stride.max(1));
    [
        0,
        out.saturating_sub(1).min(last),
        out.min(last),
        (out + 1).min(last),
        last.saturating_sub(1),
        last,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule as it is stated: pixel by pixel, from the last one on.
    fn literally(input: &Plane, output: &Plane, window: &Window) -> u64 {
        let (mut greatest, mut read) = (0, u64::MAX);
        for y in (0..u64::from(output.height)).rev() {
            for x in (0..u64::from(output.width)).rev() {
                let row = (y * u64::from(window.stride_h)).saturating_sub(window.pad_top.into());
                let column = x * u64::from(window.stride_w);
                let column = column.saturating_sub(window.pad_left.into());
                let pixel = row * u64::from(input.width) + column;
                read = read.min(pixel * u64::from(input.channels));
                let written = (y * u64::from(output.width) + x + 1) * u64::from(output.channels);
                greatest = greatest.max(written.saturating_sub(read));
            }
        }
        greatest
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6_000))]

        #[test]
        fn ends_of_pieces_are_enough(
            (height, width, channels) in (1_u16..12, 1_u16..12, 1_u16..9),
            outs in 1_u16..40,
            (kernel_h, kernel_w) in (1_u16..6, 1_u16..6),
            (stride_h, stride_w) in (1_u8..5, 1_u8..5),
            (pad_top, pad_left) in (0_u16..6, 0_u16..6),
            (less_h, less_w) in (0_u16..3, 0_u16..3),
        ) {
            let input = Plane { offset: 0, height, width, channels };
            let (pad_top, pad_left) = (pad_top.min(kernel_h - 1), pad_left.min(kernel_w - 1));
            let output = Plane {
                offset: 0,
                height: ((height + pad_top - 1) / u16::from(stride_h) + 1).saturating_sub(less_h).max(1),
                width: ((width + pad_left - 1) / u16::from(stride_w) + 1).saturating_sub(less_w).max(1),
                channels: outs,
            };
            let window = Window {
                kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
                dilation_h: 1, dilation_w: 1,
            };
            prop_assert_eq!(sliding(&input, &output, &window), literally(&input, &output, &window));
        }

        #[test]
        fn a_dense_layer_is_a_convolution_of_one_column(
            rows in 1_u16..9, inputs in 1_u16..40, outputs in 1_u16..40,
        ) {
            let plane = |channels| Plane { offset: 0, height: rows, width: 1, channels };
            let window = Window {
                kernel_h: 1, kernel_w: 1, stride_h: 1, stride_w: 1, pad_top: 0, pad_left: 0,
                dilation_h: 1, dilation_w: 1,
            };
            let op = Dense {
                input: 0, output: 0, rows, inputs, outputs, weights: 0, channels: 0, scratch: 0,
                quantizer: crate::program::op::Quantizer { zero_point: 0, min: 0, max: 0 },
            };
            let same = literally(&plane(inputs), &plane(outputs), &window);
            prop_assert_eq!(dense(&op, Layout::Natural), same);
        }
    }

    #[test]
    fn a_depthwise_layer_lags_a_row_and_two_pixels() {
        let plane = Plane {
            offset: 0,
            height: 48,
            width: 48,
            channels: 8,
        };
        let window = Window {
            kernel_h: 3,
            kernel_w: 3,
            stride_h: 1,
            stride_w: 1,
            pad_top: 1,
            pad_left: 1,
            dilation_h: 1,
            dilation_w: 1,
        };
        assert_eq!(sliding(&plane, &plane, &window), (48 + 2) * 8);
    }
}
