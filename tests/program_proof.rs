//! What a program for Cortex-M claims of its sums is held against its weights and constants: a claim
//! that is not true is refused, whatever else is sound.

mod program;

use edgeward::program::codec::{Field as _, Reader, Writer};
use edgeward::program::layout::{
    SLOW, SLOW_TILE, Slices, UNPROVEN, channel, channel_count, conv_weight, dense_weight,
    depthwise_weight, matrix_weight, store_channel,
};
use edgeward::program::op::{Channel, Dense, Op, Quantizer};
use edgeward::program::verify::Field;
use edgeward::program::{Aligned, HEADER_BYTES, Layout, Program, ProgramError};
use program::build::{Builder, Place, Random};
use program::drafts::draft;

const LAYOUT: Layout = Layout::CortexM;

fn first_op(program: &Aligned<u8>) -> Op {
    Op::read(&mut Reader::new(&program.as_ref()[HEADER_BYTES..])).expect("an operator")
}

/// The channel whose flags are refused; `None` when the program is taken.
fn refused(program: &Aligned<u8>) -> Option<u32> {
    match Program::verify(program.as_ref()) {
        Ok(_) => None,
        Err(ProgramError::Op {
            op: 0,
            field: Field::Flags,
            value,
        }) => Some(value as u32),
        Err(error) => panic!("{error:?}"),
    }
}

/// The weights of an output.
type Weights<'a> = Box<dyn Fn(usize) -> Vec<i8> + 'a>;

/// A layer's weights by output as the portable kernels see them, and its channels.
struct Layer {
    matrix: bool,
    /// Channels that kernels compute: whole tiles of a matrix.
    used: usize,
    base: u32,
    weights: Vec<Vec<i8>>,
    channels: Vec<Channel>,
}

fn layer(program: &Aligned<u8>) -> Layer {
    let bytes = program.as_ref();
    let op = first_op(program);
    let matrix = !matches!(op, Op::Depthwise(_));
    let of = |at: u32, index: usize| match matrix {
        true => matrix_weight(LAYOUT, &bytes[at as usize..], index).expect("a weight"),
        false => bytes[at as usize + index] as i8,
    };
    let (base, count, weights): (u32, u16, Weights<'_>) = match op {
        Op::Conv(op) => (op.channels, op.output.channels, conv(op, of)),
        Op::ConvAdd(op) => (op.conv.channels, op.conv.output.channels, conv(op.conv, of)),
        Op::Dense(op) => {
            let all = move |out| {
                let inputs = 0..usize::from(op.inputs);
                inputs
                    .map(|input| of(op.weights, dense_weight(LAYOUT, &op, [out, input])))
                    .collect()
            };
            (op.channels, op.outputs, Box::new(all))
        }
        Op::Depthwise(op) => {
            let columns = usize::from(op.window.kernel_w);
            let taps = usize::from(op.window.kernel_h) * columns;
            let all = move |out| {
                let at = |tap| [tap / columns, tap % columns, out];
                (0..taps)
                    .map(|tap| of(op.weights, depthwise_weight(LAYOUT, &op, at(tap))))
                    .collect()
            };
            (op.channels, op.output.channels, Box::new(all))
        }
        other => unreachable!("a layer, not {other:?}"),
    };
    let count = usize::from(count);
    let all = channel_count(LAYOUT, count as u16) as usize;
    Layer {
        matrix,
        used: if matrix { all } else { count },
        base,
        weights: (0..all)
            .map(|out| {
                if out < count {
                    weights(out)
                } else {
                    Vec::new()
                }
            })
            .collect(),
        channels: (0..all)
            .map(|out| channel(LAYOUT, bytes, base, out).expect("a channel"))
            .collect(),
    }
}

fn conv<'a>(op: edgeward::program::op::Conv, of: impl Fn(u32, usize) -> i8 + 'a) -> Weights<'a> {
    let (rows, columns) = (
        usize::from(op.window.kernel_h),
        usize::from(op.window.kernel_w),
    );
    let depth = usize::from(op.input.channels);
    Box::new(move |out| {
        let taps = 0..rows * columns * depth;
        let at = |tap: usize| {
            let place = tap / depth;
            [out, place / columns, place % columns, tap % depth]
        };
        taps.map(|tap| of(op.weights, conv_weight(LAYOUT, &op, at(tap))))
            .collect()
    })
}

/// What flags must say, from the rule as `docs/PROGRAM.md` has it: for each output, whether nothing
/// is proven of it and whether it takes the long way.
fn truth(layer: &Layer) -> Vec<(bool, bool)> {
    let of = |(index, (weights, channel)): (usize, (&Vec<i8>, &Channel))| {
        let ends = |weight: i8| [-128, 127].map(|input: i64| input * i64::from(weight));
        let least: i64 = weights.iter().map(|&it| ends(it)[0].min(ends(it)[1])).sum();
        let most: i64 = weights.iter().map(|&it| ends(it)[0].max(ends(it)[1])).sum();
        let bias = i64::from(channel.bias);
        let within = |limit: i64, bias: i64| bias + least > -limit && bias + most < limit;
        let apart = within(1 << 23, 0) && !weights.contains(&-128);
        let exact = within(1 << 30, bias) && channel.multiplier != 0;
        let odd = index % 2 == 1;
        (
            !(exact && (apart || !layer.matrix)),
            channel.shift >= 0 || odd && !within(1 << 23, bias),
        )
    };
    let all = layer.weights.iter().zip(&layer.channels);
    all.take(layer.used).enumerate().map(of).collect()
}

/// Writes flags: of the layer, and of each tile.
fn claim(program: &mut Aligned<u8>, layer: &Layer, first: i32, tiles: &[bool]) {
    for (index, &channel) in layer.channels.iter().enumerate() {
        let mut flags = if index == 0 { first } else { 0 };
        if index % 4 == 0 && tiles[index / 4] {
            flags |= SLOW_TILE;
        }
        put(program, layer, index, store_channel(LAYOUT, channel, flags));
    }
}

fn put(program: &mut Aligned<u8>, layer: &Layer, index: usize, stored: Channel) {
    let at = layer.base as usize + index * Channel::BYTES;
    let mut writer = Writer::new(&mut program.as_mut()[at..]);
    stored.write(&mut writer).expect("room for a channel");
}

/// Makes weights and multipliers such as a compiler's are, so that some layers are proven.
fn tame(program: &mut Aligned<u8>, random: &mut Random) {
    let op = first_op(program);
    let end = program.as_ref().len();
    let (weights, channels, matrix) = match op {
        Op::Conv(op) => (op.weights, op.channels, true),
        Op::ConvAdd(op) => (op.conv.weights, op.conv.channels, true),
        Op::Dense(op) => (op.weights, op.channels, true),
        Op::Depthwise(op) => (op.weights, op.channels, false),
        other => unreachable!("a layer, not {other:?}"),
    };
    // Weights lie in front of the channels; what is between the two is padding.
    for at in (weights as usize..channels as usize).step_by(2) {
        let halfword = &mut program.as_mut()[at..at + 2];
        let pair = [false, true]
            .map(|odd| edgeward::program::layout::unpack([halfword[0], halfword[1]], odd));
        if matrix && pair.contains(&-128) {
            halfword.copy_from_slice(&edgeward::program::layout::pack(
                pair[0].max(-127),
                pair[1].max(-127),
            ));
        }
    }
    let layer = layer(program);
    let dead = random.below(4) == 0;
    for (index, &channel) in layer.channels.iter().enumerate() {
        let multiplier = match channel.multiplier {
            0 if !dead => 1 << 30,
            other => other,
        };
        let bias = match random.below(24) {
            0 => random.between(-(1 << 31), (1 << 31) - 1) as i32,
            1 => random.between(-(1 << 23), 1 << 23) as i32,
            _ => channel.bias,
        };
        let channel = Channel {
            bias,
            multiplier,
            ..channel
        };
        let flags = if index == 0 { UNPROVEN } else { 0 };
        put(
            program,
            &layer,
            index,
            store_channel(LAYOUT, channel, flags),
        );
    }
    assert!(channels as usize <= end);
}

fn tamed(kind: &str, seed: u64) -> Aligned<u8> {
    let mut random = Random(seed);
    let size = 1 + random.below(5) as u16;
    let draft = draft(kind, LAYOUT, size, &mut random);
    let mut program = draft.place(LAYOUT, Place::Disjoint).program;
    tame(&mut program, &mut random);
    program
}

const LAYERS: [&str; 4] = ["conv", "conv_add", "depthwise", "dense"];

#[test]
fn flags_may_claim_what_is_true_and_nothing_else() {
    let (mut proven, mut unproven, mut long) = (0, 0, 0);
    for kind in LAYERS {
        for seed in 0..1500 {
            let mut program = tamed(kind, seed);
            let layer = layer(&program);
            let truth = truth(&layer);
            let tiles: Vec<bool> = truth
                .chunks(4)
                .map(|tile| tile.iter().any(|it| it.1))
                .collect();
            let slow = if tiles.contains(&true) { SLOW } else { 0 };
            // Claiming nothing is always fine.
            claim(&mut program, &layer, UNPROVEN, &tiles);
            assert_eq!(refused(&program), None, "{kind} {seed}");
            claim(&mut program, &layer, slow, &tiles);
            let first = truth.iter().position(|it| it.0).map(|at| at as u32);
            assert_eq!(refused(&program), first, "{kind} {seed}");
            if first.is_some() {
                unproven += 1;
                continue;
            }
            proven += 1;
            // The long way where it is not needed is fine; the short one is not.
            claim(&mut program, &layer, SLOW, &vec![true; tiles.len()]);
            assert_eq!(refused(&program), None, "{kind} {seed}");
            let needed = truth.iter().position(|it| it.1).map(|at| at as u32);
            claim(&mut program, &layer, 0, &tiles);
            assert_eq!(refused(&program), needed, "{kind} {seed}: SLOW");
            claim(&mut program, &layer, SLOW, &vec![false; tiles.len()]);
            assert_eq!(refused(&program), needed, "{kind} {seed}: SLOW_TILE");
            long += u32::from(needed.is_some());
        }
    }
    assert!(
        proven > 1500 && unproven > 900 && long > 300,
        "{proven} proven, {long} of them with long tiles, {unproven} not"
    );
}

/// A fully connected layer of one vector with these weights, output by output.
fn dense(inputs: u16, weights: &[&[i8]], shift: i32) -> (Aligned<u8>, Dense) {
    let mut op = Dense {
        input: 0,
        output: 4096,
        rows: 1,
        inputs,
        outputs: weights.len() as u16,
        quantizer: Quantizer {
            zero_point: 0,
            min: -128,
            max: 127,
        },
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let bytes = edgeward::program::layout::dense_weight_bytes(LAYOUT, &op) as usize;
    let mut stored = vec![0; bytes];
    for (out, weights) in weights.iter().enumerate() {
        for (input, &weight) in weights.iter().enumerate() {
            stored[dense_weight(LAYOUT, &op, [out, input])] = weight as u8;
        }
    }
    edgeward::program::layout::finish_matrix(LAYOUT, &mut stored);
    let mut builder = Builder::default();
    let channel = Channel {
        bias: 0,
        multiplier: 1 << 30,
        shift,
    };
    let channels = vec![channel; weights.len()];
    (op.weights, op.channels) = builder.constants(LAYOUT, &stored, &channels);
    builder.op(Op::Dense(op));
    let program = builder.finish(LAYOUT, 8192, false);
    let Op::Dense(op) = first_op(&program) else {
        unreachable!("the operator that was put in")
    };
    (program, op)
}

/// Claims that everything is proven and plain.
fn plain(mut program: Aligned<u8>) -> Aligned<u8> {
    let layer = layer(&program);
    let tiles = vec![false; layer.channels.len().div_ceil(4)];
    claim(&mut program, &layer, 0, &tiles);
    program
}

#[test]
fn sums_are_bounded_to_the_last_unit() {
    // 516 * 127 * 128 is the last multiple below 2^23.
    let long = vec![127_i8; 517];
    let small: &[i8] = &[3];
    let (fits, _) = dense(516, &[small, &long[..516]], -12);
    assert_eq!(refused(&plain(fits)), None);
    let (wraps, _) = dense(517, &[small, &long], -12);
    assert_eq!(refused(&wraps), None, "unproven, as it says");
    assert_eq!(refused(&plain(wraps)), Some(1));
    let (negative, _) = dense(517, &[small, small, &vec![-127; 517]], -12);
    assert_eq!(refused(&plain(negative)), Some(2));
}

#[test]
fn a_halfword_has_no_room_for_the_least_weight() {
    let (program, _) = dense(4, &[&[1, 2], &[3, -128]], -3);
    assert_eq!(refused(&plain(program)), Some(1));
}

#[test]
fn what_is_stored_is_what_portable_kernels_read() {
    let (program, op) = dense(5, &[&[1, 2, 3, 4, 5], &[-1, -2, -3, -4, -5]], -3);
    let good = plain(program);
    assert_eq!(refused(&good), None);
    let channels = op.channels as usize;
    let spoilt = |change: &dyn Fn(&mut [u8])| {
        let mut bad = good.clone();
        change(bad.as_mut());
        refused(&bad)
    };
    // The bit that doubling leaves free, and a sign that is not that of the shift's low byte.
    assert_eq!(spoilt(&|bytes| bytes[channels + 4] |= 1), Some(0));
    assert_eq!(spoilt(&|bytes| bytes[channels + 12 + 11] = 0x80), Some(1));
    assert_eq!(spoilt(&|bytes| bytes[channels + 9] = 1), Some(0));
    // A multiplier of zero: 2^32 to fast kernels, nothing to others.
    let zero = |bytes: &mut [u8]| bytes[channels + 12 + 4..][..4].fill(0);
    assert_eq!(spoilt(&zero), Some(1));
    // Weights behind the last product, and of outputs that are not there.
    let padding = dense_weight(LAYOUT, &op, [1, 5]);
    assert_eq!(
        spoilt(&|bytes| bytes[op.weights as usize + padding] = 1),
        Some(1)
    );
}

#[test]
fn depthwise_weights_lie_whole() {
    let (mut taken, mut twice, mut padded) = (0, 0, 0);
    for seed in 0..3000 {
        let good = tamed("depthwise", seed);
        let Op::Depthwise(op) = first_op(&good) else {
            unreachable!("a depthwise convolution")
        };
        taken += 1;
        let at = |tap: usize| {
            let columns = usize::from(op.window.kernel_w);
            let place = [tap / columns, tap % columns, 0];
            op.weights as usize + depthwise_weight(LAYOUT, &op, place)
        };
        let spoilt = |at: usize, bit: u8| {
            let mut bad = good.clone();
            bad.as_mut()[at] ^= bit;
            refused(&bad)
        };
        // A weight that is more than its low byte; nothing is claimed of its sums.
        assert_eq!(refused(&good), None, "{seed}");
        assert_eq!(spoilt(at(0) + 1, 0x40), Some(0), "{seed}");
        let taps = usize::from(op.window.kernel_h) * usize::from(op.window.kernel_w);
        if Slices::of(&op).is_some() {
            twice += 1;
            assert_eq!(spoilt(at(1) + 2, 1), Some(0), "{seed}");
        } else if taps % 3 > 0 {
            padded += 1;
            assert_eq!(spoilt(at(taps), 1), Some(0), "{seed}");
        }
    }
    assert!(
        taken > 100 && twice > 3 && padded > 40,
        "{taken}, {twice}, {padded}"
    );
}
