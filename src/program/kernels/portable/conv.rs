//! Convolutions and fully connected layers.

use super::taps::Axis;
use super::{constants, finish, part};
use crate::program::Layout;
use crate::program::exec::Step;
use crate::program::kernels::portable::elementwise::sum;
use crate::program::layout;
use crate::program::op::{Conv, ConvAdd, Dense, Depthwise};

/// Convolution: TensorFlow Lite's `reference_integer_ops::ConvPerChannel`, with the input's zero
/// point folded into the biases.
pub fn conv(mut step: Step<'_, Conv>) -> Option<()> {
    let (op, layout, program) = (*step.op(), step.layout(), step.program());
    each_output(&op, layout, program, step.arena(), |_, _, value| {
        Some(value)
    })
}

/// Convolution and sum: [`conv`], then [`super::add`] of the other tensor and what it made.
pub fn conv_add(mut step: Step<'_, ConvAdd>) -> Option<()> {
    let (op, layout, program) = (*step.op(), step.layout(), step.program());
    each_output(
        &op.conv,
        layout,
        program,
        step.arena(),
        |arena, index, value| {
            let other = *arena.get((op.other as usize).checked_add(index)?)?;
            Some(sum(&op.add, other, value))
        },
    )
}

/// Calls `last` with the arena, the output's index and the convolution's value, and stores what it
/// gives.
fn each_output(
    op: &Conv,
    layout: Layout,
    program: &[u8],
    arena: &mut [i8],
    last: impl Fn(&[i8], usize, i8) -> Option<i8>,
) -> Option<()> {
    let mut index = 0;
    for y in 0..usize::from(op.output.height) {
        for x in 0..usize::from(op.output.width) {
            for out in 0..usize::from(op.output.channels) {
                let channel = layout::channel(layout, program, op.channels, out)?;
                let products = match layout {
                    Layout::Natural => window_sum(op, program, arena, [y, x, out])?,
                    Layout::CortexM => indexed_sum(op, layout, program, arena, [y, x, out])?,
                };
                let value = finish(channel.bias.wrapping_add(products), &channel, &op.quantizer);
                let value = last(arena, index, value)?;
                *arena.get_mut(op.output.offset as usize + index)? = value;
                index += 1;
            }
        }
    }
    Some(())
}

/// Sum of the products of a window, kernel row by kernel row.
fn window_sum(op: &Conv, program: &[u8], arena: &[i8], [y, x, out]: [usize; 3]) -> Option<i32> {
    let (rows, columns) = (
        Axis::rows(&op.window, &op.input),
        Axis::columns(&op.window, &op.input),
    );
    let depth = usize::from(op.input.channels);
    let row_weights = columns.taps() * depth;
    let mut at = op.weights as usize + out * rows.taps() * row_weights;
    let mut sum = 0_i32;
    for row in 0..rows.taps() {
        let weights = constants(program, at, row_weights)?;
        at += row_weights;
        sum = sum.wrapping_add(match rows.input(y, row) {
            None => padding(op.input_zero_point, weights),
            Some(row) => {
                let start = op.input.offset as usize + row * op.input.row_bytes() as usize;
                let inputs = part(arena, start, op.input.row_bytes() as usize)?;
                row_sum(columns, depth, x, op.input_zero_point, inputs, weights)?
            }
        });
    }
    Some(sum)
}

/// Sum of the products of one kernel row with one row of the input.
fn row_sum(
    columns: Axis,
    depth: usize,
    x: usize,
    zero_point: i8,
    inputs: &[i8],
    weights: &[u8],
) -> Option<i32> {
    if columns.dense() {
        let (first, end) = columns.inside(x);
        let before = padding(zero_point, weights.get(..first * depth)?);
        let after = padding(zero_point, weights.get(end * depth..)?);
        let Some(column) = columns.input(x, first) else {
            return Some(before.wrapping_add(after));
        };
        let inside = weights.get(first * depth..end * depth)?;
        let products = dot(inputs.get(column * depth..)?, inside);
        return Some(before.wrapping_add(products).wrapping_add(after));
    }
    let mut sum = 0_i32;
    for tap in 0..columns.taps() {
        let weights = constants(weights, tap * depth, depth)?;
        sum = sum.wrapping_add(match columns.input(x, tap) {
            None => padding(zero_point, weights),
            Some(column) => dot(inputs.get(column * depth..)?, weights),
        });
    }
    Some(sum)
}

/// [`window_sum`] for any layout, a weight at a time.
fn indexed_sum(
    op: &Conv,
    layout: Layout,
    program: &[u8],
    arena: &[i8],
    [y, x, out]: [usize; 3],
) -> Option<i32> {
    let (rows, columns) = (
        Axis::rows(&op.window, &op.input),
        Axis::columns(&op.window, &op.input),
    );
    let depth = usize::from(op.input.channels);
    let weights = program.get(op.weights as usize..)?;
    let mut sum = 0_i32;
    for row in 0..rows.taps() {
        for column in 0..columns.taps() {
            let pixel = rows
                .input(y, row)
                .zip(columns.input(x, column))
                .map(|(y, x)| {
                    op.input.offset as usize + (y * usize::from(op.input.width) + x) * depth
                });
            for c in 0..depth {
                let input = match pixel {
                    Some(at) => *arena.get(at + c)?,
                    None => op.input_zero_point,
                };
                let index = layout::conv_weight(layout, op, [out, row, column, c]);
                let weight = layout::matrix_weight(layout, weights, index)?;
                sum = sum.wrapping_add(i32::from(input) * i32::from(weight));
            }
        }
    }
    Some(sum)
}

/// Depthwise convolution: TensorFlow Lite's `reference_integer_ops::DepthwiseConvPerChannel`, with
/// the input's zero point folded into the biases.
pub fn depthwise(mut step: Step<'_, Depthwise>) -> Option<()> {
    let (op, layout, program) = (*step.op(), step.layout(), step.program());
    let arena = step.arena();
    let mut at = op.output.offset as usize;
    for y in 0..usize::from(op.output.height) {
        for x in 0..usize::from(op.output.width) {
            for out in 0..usize::from(op.output.channels) {
                let channel = layout::channel(layout, program, op.channels, out)?;
                let input = out / usize::from(op.multiplier.max(1));
                let products = depthwise_sum(&op, layout, program, arena, [y, x, input, out])?;
                let value = finish(channel.bias.wrapping_add(products), &channel, &op.quantizer);
                *arena.get_mut(at)? = value;
                at += 1;
            }
        }
    }
    Some(())
}

/// Sum of the products of one channel of a window.
fn depthwise_sum(
    op: &Depthwise,
    layout: Layout,
    program: &[u8],
    arena: &[i8],
    [y, x, input, out]: [usize; 4],
) -> Option<i32> {
    let (rows, columns) = (
        Axis::rows(&op.window, &op.input),
        Axis::columns(&op.window, &op.input),
    );
    let weights = program.get(op.weights as usize..)?;
    let mut sum = 0_i32;
    for row in 0..rows.taps() {
        let input_row = rows.input(y, row);
        for column in 0..columns.taps() {
            let value = match input_row.zip(columns.input(x, column)) {
                None => op.input_zero_point,
                Some((y, x)) => {
                    let pixel = y * usize::from(op.input.width) + x;
                    let index = pixel * usize::from(op.input.channels) + input;
                    *arena.get(op.input.offset as usize + index)?
                }
            };
            let index = layout::depthwise_weight(layout, op, [row, column, out]);
            let weight = *weights.get(index)? as i8;
            sum = sum.wrapping_add(i32::from(value) * i32::from(weight));
        }
    }
    Some(sum)
}

/// Fully connected layer: TensorFlow Lite's `reference_integer_ops::FullyConnected`, with the
/// input's zero point folded into the biases and a scale an output.
pub fn dense(mut step: Step<'_, Dense>) -> Option<()> {
    let (op, layout, program) = (*step.op(), step.layout(), step.program());
    let arena = step.arena();
    let inputs = usize::from(op.inputs);
    let mut at = op.output as usize;
    for row in 0..usize::from(op.rows) {
        let start = op.input as usize + row * inputs;
        for out in 0..usize::from(op.outputs) {
            let channel = layout::channel(layout, program, op.channels, out)?;
            let vector = part(arena, start, inputs)?;
            let products = match layout {
                Layout::Natural => {
                    let weights = constants(program, op.weights as usize + out * inputs, inputs)?;
                    dot(vector, weights)
                }
                Layout::CortexM => {
                    let weights = program.get(op.weights as usize..)?;
                    let mut sum = 0_i32;
                    for (index, &value) in vector.iter().enumerate() {
                        let index = layout::dense_weight(layout, &op, [out, index]);
                        let weight = layout::matrix_weight(layout, weights, index)?;
                        sum = sum.wrapping_add(i32::from(value) * i32::from(weight));
                    }
                    sum
                }
            };
            *arena.get_mut(at)? =
                finish(channel.bias.wrapping_add(products), &channel, &op.quantizer);
            at += 1;
        }
    }
    Some(())
}

/// Sum of the products of inputs and weights, as far as the shorter goes, modulo 2^32.
fn dot(inputs: &[i8], weights: &[u8]) -> i32 {
    let products = inputs.iter().zip(weights);
    products.fold(0, |sum, (&input, &weight)| {
        sum.wrapping_add(i32::from(input) * i32::from(weight as i8))
    })
}

/// What weights that see padding add.
fn padding(zero_point: i8, weights: &[u8]) -> i32 {
    let sum = weights.iter().fold(0_i32, |sum, &weight| {
        sum.wrapping_add(i32::from(weight as i8))
    });
    sum.wrapping_mul(i32::from(zero_point))
}
