//! How weights are laid out for the kernels of a target.

use edgeward::program::Layout;
use edgeward::program::codec::{Field, Writer};
use edgeward::program::layout;
use edgeward::program::op::{Channel, Conv, Dense, Depthwise, Quantizer};
use edgeward::program::proof::{Reach, Weights};

/// Lays weights out. What comes in is TFLite's order (output, row, column, input of a convolution;
/// row, column, output of a depthwise one; output, input of a dense layer); what goes out is what
/// `edgeward::program::layout` says that kernels read.
pub trait WeightLayout {
    /// The layout that a program's head names.
    fn layout(&self) -> Layout;

    /// The weights of a convolution.
    fn conv(&self, op: &Conv, weights: &[u8]) -> Vec<u8> {
        let [out, rows, columns, inputs] = [
            op.output.channels,
            op.window.kernel_h,
            op.window.kernel_w,
            op.input.channels,
        ]
        .map(usize::from);
        let mut laid = vec![0; layout::conv_weight_bytes(self.layout(), op) as usize];
        let mut next = weights.iter();
        for o in 0..out {
            for y in 0..rows {
                for x in 0..columns {
                    for i in 0..inputs {
                        let at = layout::conv_weight(self.layout(), op, [o, y, x, i]);
                        laid[at] = next.next().copied().unwrap_or(0);
                    }
                }
            }
        }
        layout::finish_conv(self.layout(), op, &mut laid);
        laid
    }

    /// The weights of a depthwise convolution.
    fn depthwise(&self, op: &Depthwise, weights: &[u8]) -> Vec<u8> {
        let [rows, columns, out] =
            [op.window.kernel_h, op.window.kernel_w, op.output.channels].map(usize::from);
        let mut laid = vec![0; layout::depthwise_weight_bytes(self.layout(), op) as usize];
        let mut next = weights.iter();
        for y in 0..rows {
            for x in 0..columns {
                for o in 0..out {
                    let at = layout::depthwise_weight(self.layout(), op, [y, x, o]);
                    laid[at] = next.next().copied().unwrap_or(0);
                }
            }
        }
        layout::finish_depthwise(self.layout(), op, &mut laid);
        laid
    }

    /// The weights of a dense layer.
    fn dense(&self, op: &Dense, weights: &[u8]) -> Vec<u8> {
        let [out, inputs] = [op.outputs, op.inputs].map(usize::from);
        let mut laid = vec![0; layout::dense_weight_bytes(self.layout(), op) as usize];
        let mut next = weights.iter();
        for o in 0..out {
            for i in 0..inputs {
                let at = layout::dense_weight(self.layout(), op, [o, i]);
                laid[at] = next.next().copied().unwrap_or(0);
            }
        }
        layout::finish_matrix(self.layout(), &mut laid);
        laid
    }

    /// The constants of a layer's outputs, and of how they are quantized, as bytes.
    fn channels(&self, _kind: Weights, outputs: &[Output], _quantizer: &Quantizer) -> Vec<u8> {
        let channels: Vec<_> = outputs.iter().map(|output| output.channel).collect();
        channel_bytes(&channels)
    }
}

/// One output channel of a layer, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// Its constants, natural.
    pub channel: Channel,
    /// What its weights amount to.
    pub reach: Reach,
}

impl Output {
    /// An output with these weights.
    pub fn new(channel: Channel, weights: impl Iterator<Item = i8>) -> Self {
        let mut reach = Reach::default();
        weights.for_each(|weight| reach.add(weight));
        Self { channel, reach }
    }

    /// Least and greatest accumulator that any input makes, bias included; `None` where products
    /// alone leave 31 bits.
    pub fn accumulator(&self) -> Option<[i64; 2]> {
        let bias = i64::from(self.channel.bias);
        let products = self.reach.products()?;
        Some(products.map(|end| i64::from(end) + bias))
    }
}

/// Channels' constants one after the other.
pub(super) fn channel_bytes(channels: &[Channel]) -> Vec<u8> {
    let mut bytes = vec![0; channels.len() * Channel::BYTES];
    let mut writer = Writer::new(&mut bytes);
    for channel in channels {
        let written = channel.write(&mut writer);
        debug_assert!(written.is_some(), "the bytes were sized for these records");
    }
    bytes
}

/// TFLite's own order: what portable kernels read, and what a Linux board packs when it loads.
#[derive(Debug, Clone, Copy)]
pub struct Natural;

impl WeightLayout for Natural {
    fn layout(&self) -> Layout {
        Layout::Natural
    }
}
