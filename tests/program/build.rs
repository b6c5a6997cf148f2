//! Builds programs and cases for tests.

use edgeward::program::codec::{Field, Reader, Writer};
use edgeward::program::op::{Channel, Op};
use edgeward::program::overlap::least_distance;
use edgeward::program::proof::{Reach, Weights};
use edgeward::program::{
    ALIGNMENT, Aligned, HEADER_BYTES, Header, Layout, MAGIC, VERSION,
    layout::{SLOW, SLOW_TILE, UNPROVEN, channel_count, scratch_bytes, store_channel},
};

/// Numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn between(&mut self, least: i64, greatest: i64) -> i64 {
        least + self.below((greatest - least + 1) as u64) as i64
    }

    /// An element; extremes come more often than chance would have them.
    pub fn int8(&mut self) -> i8 {
        match self.below(8) {
            0 => -128,
            1 => 127,
            2 => 0,
            _ => self.next() as i8,
        }
    }

    pub fn int8s(&mut self, count: usize) -> Vec<i8> {
        // A tensor now and then is of one extreme only: the greatest accumulators.
        match self.below(16) {
            0 => vec![-128; count],
            1 => vec![127; count],
            _ => (0..count).map(|_| self.int8()).collect(),
        }
    }
}

/// Collects operators and constants; offsets of constants are from the first one until `finish`.
#[derive(Debug, Default)]
pub struct Builder {
    ops: Vec<Op>,
    constants: Vec<u8>,
}

impl Builder {
    pub fn constant(&mut self, bytes: &[u8], alignment: usize) -> u32 {
        while !self.constants.len().is_multiple_of(alignment) {
            self.constants.push(0);
        }
        let at = self.constants.len() as u32;
        self.constants.extend_from_slice(bytes);
        at
    }

    /// Weights, then their channels, of which nothing is proven; where each begins.
    pub fn constants(
        &mut self,
        layout: Layout,
        weights: &[u8],
        channels: &[Channel],
    ) -> (u32, u32) {
        let flags = |index| if index == 0 { UNPROVEN } else { 0 };
        let weights = self.constant(weights, ALIGNMENT);
        (weights, self.channels(layout, channels, &flags))
    }

    /// Weights, then their channels with flags that claim what is proven of them, or less.
    pub fn layer(&mut self, layout: Layout, layer: &Layer<'_>) -> (u32, u32) {
        let weights = self.constant(layer.stored, ALIGNMENT);
        let flags = |index| layer.flags(index);
        (weights, self.channels(layout, layer.channels, &flags))
    }

    fn channels(
        &mut self,
        layout: Layout,
        channels: &[Channel],
        flags: &dyn Fn(usize) -> i32,
    ) -> u32 {
        let count = channel_count(layout, channels.len() as u16) as usize;
        let mut bytes = vec![0; count * Channel::BYTES];
        let mut writer = Writer::new(&mut bytes);
        for index in 0..count {
            let channel = *channels.get(index).unwrap_or(&PADDING);
            store_channel(layout, channel, flags(index))
                .write(&mut writer)
                .expect("room for every channel");
        }
        self.constant(&bytes, 4)
    }

    pub fn op(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// The program; `change` may spoil the head.
    pub fn finish(mut self, layout: Layout, arena: u32, disjoint: bool) -> Aligned<u8> {
        let mut lengths = vec![0; 4096 * self.ops.len().max(1)];
        let mut writer = Writer::new(&mut lengths);
        for op in &self.ops {
            op.write(&mut writer).expect("room for every operator");
        }
        let op_bytes = writer.at();
        let base = (HEADER_BYTES + op_bytes).next_multiple_of(ALIGNMENT);
        for op in &mut self.ops {
            relocate(op, base as u32);
        }
        let bytes = base + self.constants.len();
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            layout: layout as u8,
            flags: u8::from(disjoint),
            bytes: bytes as u32,
            op_bytes: op_bytes as u32,
            op_count: self.ops.len() as u32,
            arena_bytes: arena,
            input: 0,
            input_len: 1,
            input_scale: 1.0,
            output: 0,
            output_len: 1,
            output_scale: 1.0,
            input_zero_point: 0,
            output_zero_point: 0,
            feature_count: 0,
            features: 0,
            feature_inner: 0,
            input_planes: 0,
            reserved: [0; 2],
        };
        let mut all = Aligned::zeros(bytes);
        let mut writer = Writer::new(all.as_mut());
        header.write(&mut writer).expect("room for the head");
        for op in &self.ops {
            op.write(&mut writer).expect("room for every operator");
        }
        all.as_mut()[base..].copy_from_slice(&self.constants);
        all
    }
}

/// What fills up a tile of four channels.
const PADDING: Channel = Channel {
    bias: 0,
    multiplier: 1 << 30,
    shift: -1,
};

/// How much of what is proven a layer's flags claim; less than all is as true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    All,
    /// That every tile takes the long way.
    Long,
    Nothing,
}

/// A layer's constants and what its flags are made of.
pub struct Layer<'a> {
    pub kind: Weights,
    /// Weights as they lie in the program.
    pub stored: &'a [u8],
    pub channels: &'a [Channel],
    /// What each channel's weights amount to.
    pub reach: &'a [Reach],
    pub claim: Claim,
}

impl Layer<'_> {
    fn each(&self, tile: impl Iterator<Item = usize>) -> impl Iterator<Item = (Channel, Reach)> {
        tile.map(move |index| match self.channels.get(index) {
            Some(channel) => (*channel, self.reach[index]),
            None => (PADDING, Reach::default()),
        })
    }

    fn slow(&self, tile: usize) -> bool {
        let mut each = self
            .each(4 * tile..4 * tile + 4)
            .zip([false, true].repeat(2));
        self.claim == Claim::Long || each.any(|((channel, reach), odd)| reach.slow(&channel, odd))
    }

    /// Flags of a channel, for Cortex-M.
    fn flags(&self, index: usize) -> i32 {
        let mut flags = 0;
        if index == 0 {
            let proven = self.each(0..self.channels.len()).all(|(channel, reach)| {
                channel.multiplier != 0 && reach.proven(self.kind, channel.bias)
            });
            if !proven || self.claim == Claim::Nothing {
                flags |= UNPROVEN;
            }
            if (0..self.channels.len().div_ceil(4)).any(|tile| self.slow(tile)) {
                flags |= SLOW;
            }
        }
        if index.is_multiple_of(4) && self.slow(index / 4) {
            flags |= SLOW_TILE;
        }
        flags
    }
}

/// Sets where a program's input and output lie.
pub fn set_border(program: &mut Aligned<u8>, input: [u32; 2], output: [u32; 2]) {
    let mut header = Header::read(&mut Reader::new(program.as_ref())).expect("a head");
    [header.input, header.input_len] = input;
    [header.output, header.output_len] = output;
    let mut writer = Writer::new(&mut program.as_mut()[..HEADER_BYTES]);
    header.write(&mut writer).expect("room for the head");
}

/// Moves an operator's constants by `base`.
fn relocate(op: &mut Op, base: u32) {
    match op {
        Op::Conv(op) => {
            op.weights += base;
            op.channels += base;
        }
        Op::ConvAdd(op) => {
            op.conv.weights += base;
            op.conv.channels += base;
        }
        Op::Depthwise(op) => {
            op.weights += base;
            op.channels += base;
        }
        Op::Dense(op) => {
            op.weights += base;
            op.channels += base;
        }
        Op::Add(op) => {
            op.a.offset += base * u32::from(op.a.constant);
            op.b.offset += base * u32::from(op.b.constant);
        }
        Op::Mul(op) => {
            op.a.offset += base * u32::from(op.a.constant);
            op.b.offset += base * u32::from(op.b.constant);
        }
        Op::Lookup(op) => op.table += base,
        _ => {}
    }
}

/// Where output and main input lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Apart, and the program says that all are.
    Disjoint,
    /// As close as the overlap rule allows, or closer by a number of bytes.
    Tight(u32),
    /// As close as the overlap rule allows, behind the scratch.
    Behind,
    /// Apart, while another tensor as long as the output lies exactly on it.
    Second,
}

/// An operator, its operands and what it must give.
#[derive(Debug, Clone)]
pub struct Case {
    pub program: Aligned<u8>,
    pub arena_bytes: usize,
    /// The arena before the run.
    pub memory: Vec<i8>,
    /// Tensors in the arena.
    pub inputs: Vec<(u32, Vec<i8>)>,
    pub output: u32,
    pub expected: Vec<i8>,
    /// Scratch, where the operator has some.
    pub scratch: (u32, u32),
}

/// An operator before it has its place.
#[derive(Debug)]
pub struct Draft {
    pub op: Op,
    pub builder: Builder,
    /// Main input, and other tensors.
    pub inputs: Vec<Vec<i8>>,
    pub expected: Vec<i8>,
    /// Bytes before the first tensor.
    pub lead: u32,
}

impl Draft {
    pub fn new(op: Op, builder: Builder, inputs: Vec<Vec<i8>>, expected: Vec<i8>) -> Self {
        Self {
            op,
            builder,
            inputs,
            expected,
            lead: 3,
        }
    }

    /// Gives every tensor its offset, scratch behind all of them, odd gaps between them.
    pub fn place(mut self, layout: Layout, place: Place) -> Case {
        let output_len = self.expected.len() as u32;
        let input_len = self.inputs.first().map_or(0, Vec::len) as u32;
        // An operand that is repeated must lie apart.
        let repeated = matches!(self.op, Op::Add(_) | Op::Mul(_)) && input_len != output_len;
        let distance = least_distance(&self.op, layout).filter(|_| !repeated);
        let bytes = scratch_bytes(layout, &self.op) as u32;
        let lead = match place {
            Place::Behind => bytes + self.lead,
            _ => self.lead,
        };
        let (output, main) = match (place, distance) {
            (Place::Tight(closer), Some(distance)) => (lead + closer, lead + distance),
            (Place::Behind, Some(distance)) => (lead, lead + distance),
            _ => (lead, lead + output_len + 1),
        };
        let mut end = (output + output_len).max(main + input_len);
        let mut offsets = vec![main];
        for other in self.inputs.iter().skip(1) {
            if place == Place::Second && other.len() as u32 == output_len {
                offsets.push(output);
                continue;
            }
            offsets.push(end + 1);
            end += 1 + other.len() as u32;
        }
        let scratch = if bytes == 0 || place == Place::Behind {
            0
        } else {
            end.next_multiple_of(4)
        };
        move_to(&mut self.op, &offsets, output, scratch);
        // Some kernels read up to three bytes behind a tensor, where they lie in the arena.
        let arena_bytes = end.max(scratch + bytes) + 1 + self.lead % 3;
        self.builder.op(self.op);
        let inputs: Vec<_> = offsets.into_iter().zip(self.inputs).collect();
        let mut random = Random(u64::from(arena_bytes));
        let mut memory: Vec<i8> = (0..arena_bytes).map(|_| random.next() as i8).collect();
        for (offset, values) in &inputs {
            memory[*offset as usize..][..values.len()].copy_from_slice(values);
        }
        Case {
            program: self
                .builder
                .finish(layout, arena_bytes, place == Place::Disjoint),
            arena_bytes: arena_bytes as usize,
            memory,
            inputs,
            output,
            expected: self.expected,
            scratch: (scratch, bytes),
        }
    }
}

/// Sets an operator's offsets in the arena.
pub fn move_to(op: &mut Op, inputs: &[u32], out: u32, scratch: u32) {
    let first = inputs.first().copied().unwrap_or(0);
    let second = inputs.get(1).copied().unwrap_or(0);
    match op {
        Op::Conv(op) => {
            (op.input.offset, op.output.offset, op.scratch) = (first, out, scratch);
        }
        Op::ConvAdd(op) => {
            let conv = &mut op.conv;
            (conv.input.offset, conv.output.offset, conv.scratch) = (first, out, scratch);
            op.other = second;
        }
        Op::Depthwise(op) => {
            (op.input.offset, op.output.offset, op.scratch) = (first, out, scratch);
        }
        Op::Dense(op) => (op.input, op.output, op.scratch) = (first, out, scratch),
        Op::Add(op) => {
            op.output = out;
            operands([&mut op.a, &mut op.b], inputs);
        }
        Op::Mul(op) => {
            op.output = out;
            operands([&mut op.a, &mut op.b], inputs);
        }
        Op::Pool(op) => (op.input.offset, op.output.offset) = (first, out),
        Op::Mean(op) => (op.input.offset, op.output) = (first, out),
        Op::Softmax(op) => (op.input, op.output) = (first, out),
        Op::Lookup(op) => (op.input, op.output) = (first, out),
        Op::Copy(op) => (op.input, op.output) = (first, out),
        Op::Fill(op) => op.output = out,
        _ => unreachable!("an operator that these tests do not know"),
    }
}

/// Operands in the arena take the offsets in order; constants have theirs.
fn operands(operands: [&mut edgeward::program::op::Operand; 2], inputs: &[u32]) {
    let in_arena = operands.into_iter().filter(|operand| operand.constant == 0);
    for (operand, &offset) in in_arena.zip(inputs) {
        operand.offset = offset;
    }
}
