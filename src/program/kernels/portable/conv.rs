//! Convolutions and fully connected layers.

use super::taps::Axis;
use super::{constants, finish, part};
use crate::program::Layout;
use crate::program::exec::Step;
use crate::program::kernels::portable::elementwise::sum;
use crate::program::layout;
use crate::program::op::{AddScale, Conv, ConvAdd, Dense, Depthwise};
use core::iter::repeat;

/// Convolution: TensorFlow Lite's `reference_integer_ops::ConvPerChannel`, with the input's zero
/// point folded into the biases.
pub fn conv(mut step: Step<'_, Conv>) -> Option<()> {
    let (op, layout, program) = (step.op(), step.layout(), step.program());
    each_output(op, layout, program, step.arena(), None)
}

/// Convolution and sum: [`conv`], then [`super::add`] of the other tensor and what it made.
pub fn conv_add(mut step: Step<'_, ConvAdd>) -> Option<()> {
    let (op, layout, program) = (step.op(), step.layout(), step.program());
    let add = Some((op.other as usize, &op.add));
    each_output(&op.conv, layout, program, step.arena(), add)
}

/// Output channels that are computed together, so that each input is read once for all of them.
const GROUP: usize = 4;

/// Channels from `out` on of `count`, the last one repeated behind the end.
fn group(out: usize, count: usize) -> [usize; GROUP] {
    [0, 1, 2, 3].map(|next| (out + next).min(count - 1))
}

/// Every output of a convolution, with the other tensor, at its place in the arena, added where there is one. Both
/// operators share it, as it is large.
#[inline(never)]
fn each_output(
    op: &Conv,
    layout: Layout,
    program: &[u8],
    arena: &mut [i8],
    add: Option<(usize, &AddScale)>,
) -> Option<()> {
    let count = usize::from(op.output.channels);
    let mut index = 0;
    for y in 0..usize::from(op.output.height) {
        for x in 0..usize::from(op.output.width) {
            for out in (0..count).step_by(GROUP) {
                let outs = group(out, count);
                let products = match layout {
                    Layout::Natural => window_sums(op, program, arena, [y, x], outs)?,
                    Layout::CortexM => {
                        let mut sums = [0; GROUP];
                        for (sum, out) in sums.iter_mut().zip(outs) {
                            *sum = indexed_sum(op, layout, program, arena, [y, x, out])?;
                        }
                        sums
                    }
                };
                for (products, out) in products.into_iter().zip(out..count) {
                    let channel = layout::channel(layout, program, op.channels, out)?;
                    let total = channel.bias.wrapping_add(products);
                    let mut value = finish(total, &channel, &op.quantizer);
                    if let Some((other, scale)) = add {
                        value = sum(scale, *arena.get(other.checked_add(index)?)?, value);
                    }
                    *arena.get_mut(op.output.offset as usize + index)? = value;
                    index += 1;
                }
            }
        }
    }
    Some(())
}

/// Sums of the products of a window, kernel row by kernel row.
fn window_sums(
    op: &Conv,
    program: &[u8],
    arena: &[i8],
    [y, x]: [usize; 2],
    outs: [usize; GROUP],
) -> Option<[i32; GROUP]> {
    let (rows, columns) = (
        Axis::rows(&op.window, &op.input),
        Axis::columns(&op.window, &op.input),
    );
    let depth = usize::from(op.input.channels);
    let (row_bytes, row_weights) = (op.input.row_bytes() as usize, columns.taps() * depth);
    let mut at = outs.map(|out| op.weights as usize + out * rows.taps() * row_weights);
    let mut sums = [0; GROUP];
    for row in 0..rows.taps() {
        let weights = weights(program, at, row_weights)?;
        at = at.map(|at| at + row_weights);
        match rows.input(y, row) {
            None => dot(&mut sums, repeat(op.input_zero_point), weights),
            Some(row) => {
                let start = op.input.offset as usize + row * row_bytes;
                let inputs = part(arena, start, row_bytes)?;
                row_sums(&mut sums, op, x, inputs, weights)?;
            }
        }
    }
    Some(sums)
}

/// Adds the products of one kernel row with one row of the input.
fn row_sums(
    sums: &mut [i32; GROUP],
    op: &Conv,
    x: usize,
    inputs: &[i8],
    row: [&[u8]; GROUP],
) -> Option<()> {
    let columns = Axis::columns(&op.window, &op.input);
    let depth = usize::from(op.input.channels);
    let mut tap = 0;
    while tap < columns.taps() {
        // Taps that lie side by side go together: those before, inside and behind the input.
        let taps = columns.stretch(x, tap);
        let weights = parts(row, tap * depth, taps * depth)?;
        match columns.input(x, tap) {
            None => dot(sums, repeat(op.input_zero_point), weights),
            Some(column) => {
                let inputs = inputs.get(column * depth..)?;
                dot(sums, inputs.iter().copied(), weights);
            }
        }
        tap += taps;
    }
    Some(())
}

/// [`window_sums`] for any layout, a weight at a time.
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
    let (op, layout, program) = (step.op(), step.layout(), step.program());
    let arena = step.arena();
    let count = usize::from(op.output.channels);
    let mut at = op.output.offset as usize;
    for y in 0..usize::from(op.output.height) {
        for x in 0..usize::from(op.output.width) {
            for out in (0..count).step_by(GROUP) {
                let whole = out + GROUP <= count;
                let products = if layout == Layout::Natural && op.multiplier == 1 && whole {
                    depthwise_sums(op, program, arena, [y, x, out])?
                } else {
                    let mut sums = [0; GROUP];
                    for (sum, out) in sums.iter_mut().zip(out..count) {
                        *sum = depthwise_sum(op, layout, program, arena, [y, x, out])?;
                    }
                    sums
                };
                for (products, out) in products.into_iter().zip(out..count) {
                    let channel = layout::channel(layout, program, op.channels, out)?;
                    let total = channel.bias.wrapping_add(products);
                    *arena.get_mut(at)? = finish(total, &channel, &op.quantizer);
                    at += 1;
                }
            }
        }
    }
    Some(())
}

/// Sums of the products of a window, of channels side by side in the natural layout.
fn depthwise_sums(
    op: &Depthwise,
    program: &[u8],
    arena: &[i8],
    [y, x, out]: [usize; 3],
) -> Option<[i32; GROUP]> {
    let (rows, columns) = (
        Axis::rows(&op.window, &op.input),
        Axis::columns(&op.window, &op.input),
    );
    let channels = usize::from(op.output.channels);
    let mut at = op.weights as usize + out;
    let mut sums = [0_i32; GROUP];
    for row in 0..rows.taps() {
        let input_row = rows.input(y, row);
        for column in 0..columns.taps() {
            let values = match input_row.zip(columns.input(x, column)) {
                None => [op.input_zero_point; GROUP],
                Some((y, x)) => {
                    let pixel = y * usize::from(op.input.width) + x;
                    let start = op.input.offset as usize + pixel * channels + out;
                    *arena.get(start..)?.first_chunk()?
                }
            };
            let weights: [u8; GROUP] = *program.get(at..)?.first_chunk()?;
            at += channels;
            for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
                *sum = sum.wrapping_add(i32::from(value) * i32::from(weight as i8));
            }
        }
    }
    Some(sums)
}

/// Sum of the products of one channel of a window.
fn depthwise_sum(
    op: &Depthwise,
    layout: Layout,
    program: &[u8],
    arena: &[i8],
    [y, x, out]: [usize; 3],
) -> Option<i32> {
    let input = out / usize::from(op.multiplier.max(1));
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
    let (op, layout, program) = (step.op(), step.layout(), step.program());
    let arena = step.arena();
    let inputs = usize::from(op.inputs);
    let mut at = op.output as usize;
    let count = usize::from(op.outputs);
    for row in 0..usize::from(op.rows) {
        let start = op.input as usize + row * inputs;
        for out in (0..count).step_by(GROUP) {
            let outs = group(out, count);
            let vector = part(arena, start, inputs)?;
            let mut products = [0_i32; GROUP];
            match layout {
                Layout::Natural => {
                    let at = outs.map(|out| op.weights as usize + out * inputs);
                    let weights = weights(program, at, inputs)?;
                    dot(&mut products, vector.iter().copied(), weights);
                }
                Layout::CortexM => {
                    let weights = program.get(op.weights as usize..)?;
                    for (sum, out) in products.iter_mut().zip(outs) {
                        for (index, &value) in vector.iter().enumerate() {
                            let index = layout::dense_weight(layout, op, [out, index]);
                            let weight = layout::matrix_weight(layout, weights, index)?;
                            *sum = sum.wrapping_add(i32::from(value) * i32::from(weight));
                        }
                    }
                }
            }
            for (products, out) in products.into_iter().zip(out..count) {
                let channel = layout::channel(layout, program, op.channels, out)?;
                let total = channel.bias.wrapping_add(products);
                *arena.get_mut(at)? = finish(total, &channel, &op.quantizer);
                at += 1;
            }
        }
    }
    Some(())
}

/// `len` weights of each of several rows.
fn weights(program: &[u8], at: [usize; GROUP], len: usize) -> Option<[&[u8]; GROUP]> {
    let [a, b, c, d] = at.map(|at| constants(program, at, len));
    Some([a?, b?, c?, d?])
}

/// The same part of several rows.
fn parts(rows: [&[u8]; GROUP], at: usize, len: usize) -> Option<[&[u8]; GROUP]> {
    let [a, b, c, d] = rows.map(|row| constants(row, at, len));
    Some([a?, b?, c?, d?])
}

/// Adds the products of inputs with several rows of weights, as far as the shortest goes, modulo
/// 2^32.
fn dot(sums: &mut [i32; GROUP], inputs: impl Iterator<Item = i8>, rows: [&[u8]; GROUP]) {
    let [a, b, c, d] = rows;
    for ((((input, &a), &b), &c), &d) in inputs.zip(a).zip(b).zip(c).zip(d) {
        for (sum, weight) in sums.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(i32::from(input) * i32::from(weight as i8));
        }
    }
}
