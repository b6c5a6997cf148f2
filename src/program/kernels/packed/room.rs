//! How much memory a program may take when it runs packed.

use super::flow::{Extent, Halo, Value};
use super::isa::Shape;
use crate::program::op::{Conv, Depthwise, Op, Plane, Window};

/// Most bytes of tensors, tables and packed weights together, as much as the plan of another engine may
/// take; tensors count with the operators that read and write them, and once more by themselves. Each
/// packed operator has memory of its own, so that a small file could ask for any amount.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// Bytes of the constants of an output, at most.
const CHANNEL_BYTES: u64 = 32;

/// What is left of [`MAX_BYTES`].
pub(super) struct Room(u64);

impl Room {
    /// All of it.
    pub fn new() -> Self {
        Self(MAX_BYTES)
    }

    /// Whether what is left holds values in elements of `bytes`. Each has the halos of all its readers
    /// together, which may be more than what was taken for any of them.
    pub fn holds<'a>(&self, values: impl Iterator<Item = &'a Value>, bytes: usize) -> bool {
        let elements = values.fold(0_u64, |sum, value| sum.saturating_add(elements(value)));
        elements.saturating_mul(bytes as u64) <= self.0
    }

    /// Takes what an operator needs when it runs packed; false, and nothing is taken, where that is more
    /// than is left: the portable kernels need nothing.
    pub fn take(&mut self, shape: &Shape, op: &Op) -> bool {
        let left = self.0.checked_sub(bytes_at_most(shape, op));
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// Tensors with their halos in elements of two bytes, the input once more where it is brought together
/// before it gets its halo, twelve bytes a pixel for a table, and weights.
fn bytes_at_most(shape: &Shape, op: &Op) -> u64 {
    let sliding = |input: &Plane, output: &Plane, window: &Window| {
        let halo = Halo::of(window, input, output);
        let tensors = padded(input, &halo) + input.bytes() + output.bytes();
        2 * tensors + 12 * u64::from(output.height) * u64::from(output.width)
    };
    let conv = |it: &Conv| {
        let outputs = u64::from(it.output.channels);
        sliding(&it.input, &it.output, &it.window) + weights(outputs, conv_run(it))
    };
    match op {
        Op::Conv(it) => conv(it),
        Op::ConvAdd(it) => conv(&it.conv) + 2 * it.conv.output.bytes(),
        Op::Depthwise(it) => {
            let taps = u64::from(it.window.kernel_h) * u64::from(it.window.kernel_w);
            let width = (shape.depthwise_blocks * shape.lanes) as u64;
            let outputs = phases_at_most(shape, it) * width;
            // Each vector of a pixel has a row of the table.
            let pixels = u64::from(it.output.height) * u64::from(it.output.width);
            let vectors = u64::from(it.output.channels).div_ceil(width);
            sliding(&it.input, &it.output, &it.window)
                + 12 * pixels * (vectors - 1)
                + weights(outputs, [1, taps])
        }
        Op::Pool(it) => sliding(&it.input, &it.output, &it.window),
        Op::Dense(it) => {
            let [rows, inputs, outputs] = [it.rows, it.inputs, it.outputs].map(u64::from);
            2 * rows * (inputs + outputs) + weights(outputs, [1, inputs])
        }
        Op::Add(it) => 6 * u64::from(it.len),
        Op::Softmax(it) => 4 * u64::from(it.rows) * u64::from(it.columns),
        _ => 0,
    }
}

/// Weights of two bytes and constants of outputs, padded to whole vectors of them; each has so many
/// runs of so many products, which are padded to groups.
fn weights(outputs: u64, [runs, run]: [u64; 2]) -> u64 {
    let outputs = outputs.next_multiple_of(64);
    outputs * (CHANNEL_BYTES + 2 * runs * run.next_multiple_of(4))
}

/// Runs of a convolution, and products in each.
fn conv_run(op: &Conv) -> [u64; 2] {
    let [height, width] = [op.window.kernel_h, op.window.kernel_w].map(u64::from);
    let depth = u64::from(op.input.channels);
    match op.window.dilation_w {
        1 => [height, width * depth],
        _ => [height * width, depth],
    }
}

/// How often the weights of a depthwise convolution are packed at most: where a row of outputs is one
/// stretch, each vector of it may begin at another channel.
fn phases_at_most(shape: &Shape, op: &Depthwise) -> u64 {
    let width = (shape.depthwise_blocks * shape.lanes) as u64;
    let [channels, columns] = [op.output.channels, op.output.width].map(u64::from);
    let vectors = (channels * columns).div_ceil(width);
    channels.div_ceil(width).max(vectors.min(channels))
}

/// Elements of a value with its halo.
pub(super) fn elements(value: &Value) -> u64 {
    let Value { extent, halo, .. } = value;
    let rows = extent.height + halo.top + halo.bottom;
    let columns = extent.width + halo.left + halo.right;
    rows as u64 * columns as u64 * extent.channels as u64
}

/// Elements of a tensor with its halo.
pub(super) fn padded(input: &Plane, halo: &Halo) -> u64 {
    elements(&Value {
        extent: Extent::of(input),
        halo: *halo,
        zero: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::super::pack::Cover;
    use super::*;
    use crate::program::op::{Pool, Quantizer};

    #[test]
    fn what_many_operators_take_together_is_bounded() {
        let plane = Plane {
            offset: 0,
            height: 1024,
            width: 1024,
            channels: 4,
        };
        let window = Window {
            kernel_h: 1,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: 0,
            pad_left: 0,
        };
        let op = Op::Pool(Pool {
            input: plane,
            output: plane,
            window,
            maximum: 1,
            min: -128,
            max: 127,
        });
        // Three tensors of 4 MiB in two bytes, and a table of 12 MiB.
        let each = 36 << 20;
        let shape = Isa::Avx512.shape();
        assert_eq!(bytes_at_most(shape, &op), each);
        let mut room = Room::new();
        let taken = (0..400).filter(|_| room.take(shape, &op)).count() as u64;
        assert_eq!(taken, MAX_BYTES / each);
    }

    /// A row of 47 channels in vectors of 64: each vector begins at another channel, so that the weights
    /// are packed 47 times.
    #[test]
    fn weights_of_every_phase_count() {
        let plane = |height, width| Plane {
            offset: 0,
            height,
            width,
            channels: 47,
        };
        let op = Depthwise {
            input: plane(181, 244),
            output: plane(1, 64),
            window: Window {
                kernel_h: 181,
                kernel_w: 181,
                stride_h: 1,
                stride_w: 1,
                dilation_h: 1,
                dilation_w: 1,
                pad_top: 0,
                pad_left: 0,
            },
            multiplier: 1,
            input_zero_point: 0,
            quantizer: Quantizer {
                zero_point: 0,
                min: -128,
                max: 127,
            },
            weights: 0,
            channels: 0,
            scratch: 0,
        };
        for isa in [Isa::Avx512, Isa::Avx2, Isa::NeonDot, Isa::Neon] {
            let shape = isa.shape();
            let cover = Cover::new(&op, shape, &|_| 0, &|_| 0);
            let lanes = shape.depthwise_blocks * shape.lanes;
            let weights = cover.phases.len() * lanes * 181 * 181;
            let bytes = bytes_at_most(shape, &Op::Depthwise(op));
            assert!(bytes >= weights as u64, "{isa:?}: {bytes} for {weights}");
            let phases = cover.phases.len() as u64;
            assert!(phases <= phases_at_most(shape, &op), "{isa:?}: {phases}");
        }
    }

    /// A table of many channels has a row for each vector of each pixel. It takes no longer than its rows:
    /// here there are 2.6 million in up to 4,096 phases.
    #[test]
    fn vectors_of_every_pixel_count() {
        let plane = Plane {
            offset: 0,
            height: 1,
            width: 640,
            channels: u16::MAX,
        };
        let op = Depthwise {
            input: plane,
            output: plane,
            window: Window {
                kernel_h: 1,
                kernel_w: 1,
                stride_h: 1,
                stride_w: 1,
                dilation_h: 1,
                dilation_w: 1,
                pad_top: 0,
                pad_left: 0,
            },
            multiplier: 1,
            input_zero_point: 0,
            quantizer: Quantizer {
                zero_point: 0,
                min: -128,
                max: 127,
            },
            weights: 0,
            channels: 0,
            scratch: 0,
        };
        for isa in [Isa::Avx512, Isa::Avx2, Isa::NeonDot, Isa::Neon] {
            let shape = isa.shape();
            let cover = Cover::new(&op, shape, &|_| 0, &|_| 0);
            let width = shape.depthwise_blocks * shape.lanes;
            assert_eq!(cover.chunks.len(), 640 * 65_535_usize.div_ceil(width));
            assert_eq!(cover.phases.len(), 65_535_usize.div_ceil(width));
            let table = 12 * cover.chunks.len() as u64;
            let tensors = 3 * 2 * plane.bytes();
            let bytes = bytes_at_most(shape, &Op::Depthwise(op));
            assert!(bytes >= tensors + table, "{isa:?}: {bytes}");
        }
    }

    /// What operators took is not there for values with the halos of several readers.
    #[test]
    fn values_and_operators_share_the_room() {
        let mut room = Room::new();
        let value = Value {
            extent: Extent {
                height: 1 << 14,
                width: 1 << 14,
                channels: 1,
            },
            halo: Halo::default(),
            zero: None,
        };
        assert!(room.holds([value; 2].iter(), 2));
        assert!(!room.holds([value; 2].iter(), 3));
        room.0 -= 1;
        assert!(!room.holds([value; 2].iter(), 2));
    }
}
