//! How long operators take.

use super::op::{Conv, Op, Window};

/// Innermost steps of an operator: multiplications where it has any, elements elsewhere. Saturates.
pub fn work(op: &Op) -> u64 {
    match op {
        Op::Conv(op) => conv(op),
        Op::ConvAdd(op) => conv(&op.conv).saturating_add(op.conv.output.bytes()),
        Op::Depthwise(op) => op.output.bytes().saturating_mul(taps(&op.window)),
        Op::Dense(op) => {
            let vector = u64::from(op.inputs) * u64::from(op.outputs);
            vector.saturating_mul(u64::from(op.rows))
        }
        Op::Add(op) => u64::from(op.len),
        Op::Mul(op) => u64::from(op.len),
        Op::Pool(op) => op.output.bytes().saturating_mul(taps(&op.window)),
        Op::Mean(op) => op.input.bytes(),
        Op::Softmax(op) => u64::from(op.rows) * u64::from(op.columns),
        Op::Lookup(op) => u64::from(op.len),
        Op::Copy(op) => op.shape.iter().fold(1, |elements: u64, &extent| {
            elements.saturating_mul(u64::from(extent))
        }),
        Op::Fill(op) => u64::from(op.len),
    }
}

/// Multiplications of weights: the part of [`work`] that models are compared by.
pub fn multiplications(op: &Op) -> u64 {
    match op {
        Op::Conv(_) | Op::Depthwise(_) | Op::Dense(_) => work(op),
        Op::ConvAdd(op) => conv(&op.conv),
        _ => 0,
    }
}

fn conv(op: &Conv) -> u64 {
    let depth = taps(&op.window).saturating_mul(u64::from(op.input.channels));
    op.output.bytes().saturating_mul(depth)
}

/// Taps of a window.
pub(super) fn taps(window: &Window) -> u64 {
    u64::from(window.kernel_h) * u64::from(window.kernel_w)
}
