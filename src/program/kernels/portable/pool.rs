//! Averages and maxima over windows, and the mean of a plane.

use super::clamp;
use super::taps::Axis;
use crate::program::arith::requantize;
use crate::program::exec::Step;
use crate::program::op::{Mean, Pool};

/// Pooling: TensorFlow Lite's `reference_integer_ops::AveragePool` and `MaxPool`.
pub fn pool(mut step: Step<'_, Pool>) -> Option<()> {
    let op = step.op();
    let arena = step.arena();
    let mut at = op.output.offset as usize;
    for y in 0..usize::from(op.output.height) {
        for x in 0..usize::from(op.output.width) {
            for c in 0..usize::from(op.output.channels) {
                let value = pooled(op, arena, [y, x, c])?;
                let value = value.max(i32::from(op.min)).min(i32::from(op.max));
                *arena.get_mut(at)? = value as i8;
                at += 1;
            }
        }
    }
    Some(())
}

/// Maximum or rounded average of the part of a window that lies inside the input.
fn pooled(op: &Pool, arena: &[i8], [y, x, c]: [usize; 3]) -> Option<i32> {
    let (rows, columns) = (
        Axis::rows(&op.window, &op.input),
        Axis::columns(&op.window, &op.input),
    );
    let (mut sum, mut count, mut maximum) = (0_i32, 0_i32, i32::from(i8::MIN));
    for y in (0..rows.taps()).filter_map(|row| rows.input(y, row)) {
        for x in (0..columns.taps()).filter_map(|column| columns.input(x, column)) {
            let pixel = y * usize::from(op.input.width) + x;
            let index = pixel * usize::from(op.input.channels) + c;
            let value = i32::from(*arena.get(op.input.offset as usize + index)?);
            sum = sum.wrapping_add(value);
            count = count.wrapping_add(1);
            maximum = maximum.max(value);
        }
    }
    if op.maximum != 0 {
        return Some(maximum);
    }
    let half = if sum > 0 { count / 2 } else { -(count / 2) };
    sum.wrapping_add(half).checked_div(count)
}

/// Mean over rows and columns: TensorFlow Lite's `reference_ops::QuantizedMeanOrSum`. The number of
/// pixels is part of the multiplier already.
pub fn mean(mut step: Step<'_, Mean>) -> Option<()> {
    let op = step.op();
    let arena = step.arena();
    let channels = usize::from(op.input.channels);
    let pixels = usize::from(op.input.height) * usize::from(op.input.width);
    let zero = (pixels as i32).wrapping_mul(i32::from(op.input_zero_point));
    for c in 0..channels {
        let mut sum = 0_i32;
        for pixel in 0..pixels {
            let at = op.input.offset as usize + pixel * channels + c;
            sum = sum.wrapping_add(i32::from(*arena.get(at)?));
        }
        let mean = requantize(sum.wrapping_sub(zero), op.multiplier, i32::from(op.shift));
        *arena.get_mut(op.output as usize + c)? = clamp(mean, &op.quantizer);
    }
    Some(())
}
