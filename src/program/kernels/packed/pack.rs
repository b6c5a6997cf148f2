//! Weights and channel constants as the kernels of an instruction set read them.

use super::isa::{Element, Shape};
use super::jobs::{Chunk, Clamp, Strip};
use crate::program::kernels::portable;
use crate::program::layout::channel;
use crate::program::op::{Channel, Conv, Dense, Depthwise, Quantizer};
use crate::program::{Layout, Program};
use std::collections::BTreeMap;

/// Greatest accumulator that the vector arithmetic is exact for.
const MAX_SUM: i128 = 1 << 30;
/// Greatest shift to the right that it is exact for.
const MAX_RIGHT: i32 = 22;
/// What a zero point may take a requantized sum up or down by, and more: within it nothing wraps.
const ZERO_POINT_ROOM: i32 = 255;

/// Packed constants under construction.
#[derive(Debug, Default)]
pub(super) struct Constants(pub Vec<u8>);

impl Constants {
    /// Begins something at a multiple of a vector's size and says where.
    fn begin(&mut self) -> usize {
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        self.0.len()
    }

    fn i32s(&mut self, values: impl IntoIterator<Item = i32>) {
        let bytes = values.into_iter().flat_map(i32::to_le_bytes);
        self.0.extend(bytes);
    }

    fn i64s(&mut self, values: impl IntoIterator<Item = i64>) {
        let bytes = values.into_iter().flat_map(i64::to_le_bytes);
        self.0.extend(bytes);
    }

    fn weight(&mut self, shape: &Shape, weight: i8) {
        match shape.element {
            Element::Wide => self.0.extend(i16::from(weight).to_le_bytes()),
            Element::Biased | Element::Plain => self.0.push(weight as u8),
        }
    }
}

/// A channel as it is packed.
#[derive(Clone, Copy)]
struct Prepared {
    /// Its constants, with the bias of the elements in memory folded in.
    channel: Channel,
    /// Whether its output is always the same: its weights are dropped.
    dead: bool,
}

/// A layer of dot products: what convolutions and fully connected layers share.
pub(super) struct Layer<'a> {
    pub program: &'a [u8],
    pub outputs: usize,
    /// Runs, and weights in each.
    pub runs: usize,
    pub run: usize,
    pub weights: usize,
    pub channels: u32,
    pub quantizer: Quantizer,
    /// Where the weight of `[output, run, place in the run]` lies from `weights` on.
    pub at: &'a dyn Fn([usize; 3]) -> usize,
}

impl Layer<'_> {
    fn weight(&self, at: [usize; 3]) -> i8 {
        let index = self.weights + (self.at)(at);
        self.program.get(index).map_or(0, |&byte| byte as i8)
    }

    fn channel(&self, output: usize) -> Option<Channel> {
        (output < self.outputs)
            .then(|| channel(Layout::Natural, self.program, self.channels, output))
            .flatten()
    }

    /// Sums of a channel's positive weights and of its negative ones, both as magnitudes.
    fn sums(&self, output: usize) -> [i64; 2] {
        let mut sums = [0; 2];
        for run in 0..self.runs {
            for place in 0..self.run {
                let weight = i64::from(self.weight([output, run, place]));
                sums[usize::from(weight < 0)] += weight.abs();
            }
        }
        sums
    }

    /// What the vectors need to know of a channel; `None` where they might differ from the portable
    /// kernels.
    fn prepare(&self, shape: &Shape, output: usize) -> Option<Prepared> {
        let mut channel = self.channel(output)?;
        let [up, down] = self.sums(output);
        let bias = i64::from(channel.bias);
        let least = bias - 128 * up - 127 * down;
        let greatest = bias + 127 * up + 128 * down;
        let reach = i128::from(least.abs().max(greatest.abs())) << channel.shift.clamp(0, 30);
        if reach > i128::from(i32::MAX - ZERO_POINT_ROOM) {
            return None;
        }
        // Requantization is monotone and adding the zero point does not wrap, so that equal ends are all
        // there is in between: channels that training killed, whose scales and biases are often beyond
        // what the vectors take.
        let ends =
            [least, greatest].map(|it| portable::finish(it as i32, &channel, &self.quantizer));
        if ends[0] == ends[1] {
            let offset = i32::from(ends[0]) - i32::from(self.quantizer.zero_point);
            channel = Channel {
                bias: 4 * offset,
                multiplier: 1 << 30,
                shift: -1,
            };
            return Some(Prepared {
                channel,
                dead: true,
            });
        }
        if reach >= MAX_SUM || channel.shift < -MAX_RIGHT {
            return None;
        }
        if shape.element == Element::Biased {
            let sum = (up - down) as i32;
            channel.bias = channel.bias.wrapping_sub(sum.wrapping_mul(128));
        }
        Some(Prepared {
            channel,
            dead: false,
        })
    }

    /// Whether the vectors compute every channel exactly.
    pub fn exact(&self, shape: &Shape) -> bool {
        (0..self.outputs).all(|output| self.prepare(shape, output).is_some())
    }

    /// Packs the layer; `pixels` is how many there are.
    pub fn pack(&self, shape: &Shape, out: &mut Constants, pixels: usize) -> Vec<Strip> {
        let mut strips = Vec::new();
        let mut channel = 0;
        while channel < self.outputs {
            let left = (self.outputs - channel).div_ceil(shape.lanes);
            let &(blocks, tiles) = shape
                .strips
                .iter()
                .find(|(blocks, _)| *blocks <= left)
                .unwrap_or(&shape.strips[shape.strips.len() - 1]);
            let channels: Vec<usize> = shape.order(blocks).map(|it| channel + it).collect();
            let prepared: Vec<_> = channels.iter().map(|&it| self.prepare(shape, it)).collect();
            let weights = out.begin();
            for run in 0..self.runs {
                for group in 0..self.run.div_ceil(shape.group) {
                    for (&output, prepared) in channels.iter().zip(&prepared) {
                        let alive = prepared.is_some_and(|it| !it.dead);
                        for place in group * shape.group..(group + 1) * shape.group {
                            let there = alive && place < self.run;
                            let at = [output, run, place];
                            out.weight(shape, if there { self.weight(at) } else { 0 });
                        }
                    }
                }
            }
            let constants: Vec<_> = prepared.iter().map(|it| it.map(|it| it.channel)).collect();
            strips.push(Strip {
                blocks: blocks as u8,
                tile: tile(tiles, blocks, pixels),
                wide: constants.iter().flatten().any(|it| it.shift >= 0),
                channel: channel as u32,
                count: (self.outputs - channel).min(blocks * shape.lanes) as u32,
                weights,
                lanes: lanes(shape, &constants, self.quantizer, out),
            });
            channel += blocks * shape.lanes;
        }
        strips
    }
}

/// How many pixels a tile has: the fewest steps, and among those the fewest tiles.
fn tile(tiles: &[u8], blocks: usize, pixels: usize) -> u8 {
    let cost = |tile: usize| {
        let step = (tile * blocks).max(tile + blocks).max(4);
        pixels.div_ceil(tile) * (step * 8 + blocks + 2)
    };
    let fitting = tiles.iter().filter(|&&it| usize::from(it) <= pixels);
    let best = fitting.min_by_key(|&&it| (cost(usize::from(it)), u8::MAX - it));
    best.copied().unwrap_or(1)
}

/// A depthwise convolution's channel as a layer of one run.
pub(super) fn depthwise_layer<'a>(
    program: &'a Program<'_>,
    op: &Depthwise,
    at: &'a dyn Fn([usize; 3]) -> usize,
) -> Layer<'a> {
    Layer {
        program: program.bytes(),
        outputs: usize::from(op.output.channels),
        runs: 1,
        run: usize::from(op.window.kernel_h) * usize::from(op.window.kernel_w),
        weights: op.weights as usize,
        channels: op.channels,
        quantizer: op.quantizer,
        at,
    }
}

/// A convolution as a layer: a run is a row of the kernel, or a tap where taps lie apart.
pub(super) fn conv_layer<'a>(
    program: &'a Program<'_>,
    op: &Conv,
    at: &'a dyn Fn([usize; 3]) -> usize,
) -> Layer<'a> {
    let (rows, columns) = (op.window.kernel_h as usize, op.window.kernel_w as usize);
    let channels = usize::from(op.input.channels);
    let [runs, run] = if op.window.dilation_w == 1 {
        [rows, columns * channels]
    } else {
        [rows * columns, channels]
    };
    Layer {
        program: program.bytes(),
        outputs: usize::from(op.output.channels),
        runs,
        run,
        weights: op.weights as usize,
        channels: op.channels,
        quantizer: op.quantizer,
        at,
    }
}

/// A fully connected layer.
pub(super) fn dense_layer<'a>(
    program: &'a Program<'_>,
    op: &Dense,
    at: &'a dyn Fn([usize; 3]) -> usize,
) -> Layer<'a> {
    Layer {
        program: program.bytes(),
        outputs: usize::from(op.outputs),
        runs: 1,
        run: usize::from(op.inputs),
        weights: op.weights as usize,
        channels: op.channels,
        quantizer: op.quantizer,
        at,
    }
}

/// Packed weights of a depthwise convolution.
pub(super) struct Phases {
    pub wide: bool,
    pub weights: usize,
    pub lanes: usize,
}

/// Packs the weights of a depthwise convolution once for each phase: channel of each element of a
/// vector of outputs, `None` where there is none.
pub(super) fn phases(
    layer: &Layer<'_>,
    shape: &Shape,
    out: &mut Constants,
    phases: &[Vec<Option<usize>>],
) -> Phases {
    let blocks = shape.depthwise_blocks;
    let order: Vec<usize> = shape.order(blocks).collect();
    let prepared: Vec<_> = (0..layer.outputs)
        .map(|it| layer.prepare(shape, it))
        .collect();
    let alive = |it: &usize| prepared[*it].is_some_and(|it| !it.dead);
    let weights = out.begin();
    for phase in phases {
        for group in 0..layer.run.div_ceil(shape.taps) {
            for &place in &order {
                for tap in group * shape.taps..(group + 1) * shape.taps {
                    let channel = phase[place].filter(|it| tap < layer.run && alive(it));
                    let weight = channel.map_or(0, |channel| layer.weight([channel, 0, tap]));
                    out.weight(shape, weight);
                }
            }
        }
    }
    let mut wide = false;
    let mut first = None;
    for phase in phases {
        let constants: Vec<_> = order
            .iter()
            .map(|&place| {
                phase[place]
                    .and_then(|it| prepared[it])
                    .map(|it| it.channel)
            })
            .collect();
        wide |= constants.iter().flatten().any(|it| it.shift >= 0);
        let at = lanes(shape, &constants, layer.quantizer, out);
        first.get_or_insert(at);
    }
    Phases {
        wide,
        weights,
        lanes: first.unwrap_or(0),
    }
}

/// Constants of channels, a vector after the other: bias, significand, what rounding adds to the
/// products of even and of odd lanes, shifts to the right and left, and where halves turn with the
/// sign. With NEON: bias, significand, shifts to the left and right, and the zero point.
pub(super) fn lanes(
    shape: &Shape,
    channels: &[Option<Channel>],
    quantizer: Quantizer,
    out: &mut Constants,
) -> usize {
    let start = out.begin();
    let zero = i64::from(shape.stored(quantizer.zero_point));
    for block in channels.chunks(shape.lanes) {
        let field = |of: fn(&Channel) -> i32| {
            block
                .iter()
                .map(move |channel| channel.as_ref().map_or(0, of))
        };
        out.i32s(field(|it| it.bias));
        out.i32s(field(|it| it.multiplier));
        if shape.element == Element::Plain {
            out.i32s(field(|it| it.shift.max(0)));
            out.i32s(field(|it| it.shift.min(0)));
            out.i32s(block.iter().map(|_| zero as i32));
            continue;
        }
        let rounding = |channel: &Option<Channel>| {
            let right = channel.as_ref().map_or(0, |it| (-it.shift).max(0));
            let half = if right > 0 { 1_i64 << (31 + right) } else { 0 };
            // The products are doubled, and so is what is added to them.
            (1 << 31) + half + (zero << (32 + right))
        };
        out.i64s(block.iter().step_by(2).map(rounding));
        out.i64s(block.iter().skip(1).step_by(2).map(rounding));
        out.i32s(field(|it| (-it.shift).max(0)));
        out.i32s(field(|it| it.shift.max(0)));
        out.i32s(field(|it| if it.shift < 0 { -1 } else { 0 }));
    }
    start
}

/// Limits of outputs as they lie in memory.
pub(super) fn clamp(shape: &Shape, quantizer: &Quantizer) -> Clamp {
    Clamp {
        min: shape.stored(quantizer.min),
        max: shape.stored(quantizer.max),
    }
}

/// Chunks of a depthwise convolution and the channels of each phase.
pub(super) struct Cover {
    pub chunks: Vec<Chunk>,
    pub phases: Vec<Vec<Option<usize>>>,
    pub pieces: u8,
}

impl Cover {
    /// Covers the outputs with vectors of `width` elements.
    ///
    /// `input` and `output` say where the window and the output of a pixel begin. Steps of one column
    /// make a row of outputs one stretch; otherwise a vector is made of whole pixels.
    pub fn new(
        op: &Depthwise,
        shape: &Shape,
        input: &dyn Fn([usize; 2]) -> usize,
        output: &dyn Fn([usize; 2]) -> usize,
    ) -> Self {
        let width = shape.depthwise_blocks * shape.lanes;
        let channels = usize::from(op.output.channels);
        let columns = usize::from(op.output.width);
        let pieces = match shape.pieces && op.window.stride_w > 1 {
            true if channels <= width / 4 && columns >= 4 => 4,
            true if channels <= width / 2 && columns >= 2 => 2,
            _ => 1,
        };
        let mut cover = Self {
            chunks: Vec::new(),
            phases: Vec::new(),
            pieces,
        };
        // By the first channel and the number of elements: what tells phases apart. There are as many
        // chunks as vectors of the output, so that none may look through all phases.
        let mut known: BTreeMap<[usize; 2], usize> = BTreeMap::new();
        let mut add = |cover: &mut Self, at: [usize; 2], start: usize, count: usize| {
            let period = if pieces > 1 {
                width / usize::from(pieces)
            } else {
                width
            };
            let next = cover.phases.len();
            let phase = *known.entry([start % channels, count]).or_insert(next);
            if phase == next {
                let places = (0..width).map(|place| {
                    let place = place % period;
                    (place < count).then_some((start + place) % channels)
                });
                cover.phases.push(places.collect());
            }
            cover.chunks.push(Chunk {
                input: (input(at) + start) as u32,
                output: (output(at) + start) as u32,
                phase: phase as u16,
                count: count as u16,
            });
        };
        for row in 0..usize::from(op.output.height) {
            if pieces > 1 {
                for column in (0..columns).step_by(usize::from(pieces)) {
                    let column = column.min(columns - usize::from(pieces));
                    add(&mut cover, [row, column], 0, channels);
                }
            } else if op.window.stride_w == 1 && channels * 4 < width * 3 {
                stretch(channels * columns, width, &mut |start, count| {
                    add(&mut cover, [row, 0], start, count);
                });
            } else {
                for column in 0..columns {
                    stretch(channels, width, &mut |start, count| {
                        add(&mut cover, [row, column], start, count);
                    });
                }
            }
        }
        cover
    }
}

/// Cuts a stretch into pieces of `width`, the last of which overlaps the one before where it can.
fn stretch(len: usize, width: usize, piece: &mut dyn FnMut(usize, usize)) {
    for start in (0..len).step_by(width) {
        let start = start.min(len.saturating_sub(width));
        piece(start, (len - start).min(width));
    }
}
