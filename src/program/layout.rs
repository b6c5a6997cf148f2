//! Where a weight lies in each [`Layout`], and what its kernels need beside weights: the one place
//! that emitters, verifier, planner and kernels ask.

use super::Layout;
use super::op::{Conv, Dense, Depthwise, Op};

/// Bytes of a convolution's weights.
pub const fn conv_weight_bytes(_layout: Layout, op: &Conv) -> u64 {
    op.output.channels as u64 * conv_taps(op)
}

/// Weights of one output channel of a convolution.
const fn conv_taps(op: &Conv) -> u64 {
    op.window.kernel_h as u64 * op.window.kernel_w as u64 * op.input.channels as u64
}

/// Index from `weights` on of the weight of `[output channel, row, column, input channel]`.
pub const fn conv_weight(layout: Layout, op: &Conv, at: [usize; 4]) -> usize {
    let [out, row, column, input] = at;
    match layout {
        Layout::Natural | Layout::CortexM => {
            let row = out * op.window.kernel_h as usize + row;
            let column = row * op.window.kernel_w as usize + column;
            column * op.input.channels as usize + input
        }
    }
}

/// Bytes of a depthwise convolution's weights.
pub const fn depthwise_weight_bytes(_layout: Layout, op: &Depthwise) -> u64 {
    op.window.kernel_h as u64 * op.window.kernel_w as u64 * op.output.channels as u64
}

/// Index from `weights` on of the weight of `[row, column, output channel]`.
pub const fn depthwise_weight(layout: Layout, op: &Depthwise, at: [usize; 3]) -> usize {
    let [row, column, out] = at;
    match layout {
        Layout::Natural | Layout::CortexM => {
            let column = row * op.window.kernel_w as usize + column;
            column * op.output.channels as usize + out
        }
    }
}

/// Bytes of a fully connected layer's weights.
pub const fn dense_weight_bytes(_layout: Layout, op: &Dense) -> u64 {
    op.inputs as u64 * op.outputs as u64
}

/// Index from `weights` on of the weight of `[output, input]`.
pub const fn dense_weight(layout: Layout, op: &Dense, at: [usize; 2]) -> usize {
    let [out, input] = at;
    match layout {
        Layout::Natural | Layout::CortexM => out * op.inputs as usize + input,
    }
}

/// Bytes of scratch that an operator needs in the arena.
pub const fn scratch_bytes(_layout: Layout, _op: &Op) -> u64 {
    0
}
