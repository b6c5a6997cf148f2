//! Chains of operators over one arena, whose tensors kernels hand on to each other.

use super::build::{Builder, Case, Random};
use super::drafts::{add_scale, conv_op, dense_op, depthwise_op, quantizer, softmax_op};
use edgeward::program::layout::scratch_bytes;
use edgeward::program::op::{
    Add, ConvAdd, Copy, Fill, Lookup, Mul, Op, Operand, Plane, Pool, Window,
};
use edgeward::program::{Aligned, Layout, Portable, Program};

/// Tensors of a chain, all of one shape.
const SLOTS: u64 = 4;

/// A window that keeps a shape.
fn same(kernel: [u16; 2]) -> Window {
    Window {
        kernel_h: kernel[0],
        kernel_w: kernel[1],
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: kernel[0] / 2,
        pad_left: kernel[1] / 2,
    }
}

struct Chain<'a> {
    layout: Layout,
    /// The first tensor; the others follow it.
    tensor: Plane,
    builder: Builder,
    random: &'a mut Random,
}

impl Chain<'_> {
    fn size(&self) -> u32 {
        self.tensor.bytes() as u32
    }

    fn at(&self, slot: u64) -> Plane {
        Plane {
            offset: slot as u32 * self.size(),
            ..self.tensor
        }
    }

    /// An operator that reads `from` and `second`, and writes `to`.
    fn op(&mut self, from: u64, second: u64, to: u64) -> Op {
        let (layout, size) = (self.layout, self.size());
        let planes = [self.at(from), self.at(to)];
        let [input, output] = planes.map(|plane| plane.offset);
        let kernel = [(); 2].map(|()| 1 + 2 * self.random.below(2) as u16);
        let window = same(kernel);
        // Readers of one tensor may have one zero point, or not.
        let zero = self.random.below(3) as i8;
        let operands = [from, second].map(|slot| Operand {
            offset: self.at(slot).offset,
            len: size,
            constant: 0,
        });
        let [a, b] = operands;
        let pixels = self.tensor.height * self.tensor.width;
        let channels = self.tensor.channels;
        let Self {
            builder, random, ..
        } = self;
        match random.below(16) {
            0..=2 => Op::Conv(conv_op(layout, planes, window, zero, builder, random).op),
            3 => Op::ConvAdd(ConvAdd {
                conv: conv_op(layout, planes, window, zero, builder, random).op,
                other: b.offset,
                add: add_scale(random),
            }),
            4..=6 => Op::Depthwise(depthwise_op(layout, planes, window, zero, builder, random).op),
            7 => {
                let shape = [pixels, channels, channels];
                let mut op = dense_op(layout, shape, zero, builder, random).op;
                (op.input, op.output) = (input, output);
                Op::Dense(op)
            }
            8 | 9 => Op::Add(Add {
                a,
                b,
                output,
                len: size,
                scale: add_scale(random),
            }),
            10 => Op::Mul(Mul {
                a,
                b,
                output,
                len: size,
                zero_a: random.int8(),
                zero_b: random.int8(),
                quantizer: quantizer(random),
                multiplier: random.between(1 << 30, i64::from(i32::MAX)) as i32,
                shift: random.between(-14, 1) as i8,
            }),
            11 => {
                let limits = quantizer(random);
                Op::Pool(Pool {
                    input: planes[0],
                    output: planes[1],
                    window,
                    maximum: random.below(2) as u8,
                    min: limits.min,
                    max: limits.max,
                })
            }
            12 => {
                let mut op = softmax_op(pixels, channels, 0.1);
                (op.input, op.output) = (input, output);
                Op::Softmax(op)
            }
            13 => {
                let table: Vec<u8> = (0..256).map(|_| random.next() as u8).collect();
                Op::Lookup(Lookup {
                    input,
                    output,
                    len: size,
                    table: builder.constant(&table, 1),
                })
            }
            14 => Op::Copy(transpose(input, output, [pixels, channels])),
            // A piece across two tensors.
            _ => Op::Fill(Fill {
                output: size / 2,
                len: size,
                value: random.int8(),
            }),
        }
    }
}

/// Turns pixels and channels around.
fn transpose(input: u32, output: u32, [pixels, channels]: [u16; 2]) -> Copy {
    Copy {
        input,
        output,
        shape: [1, 1, channels, pixels],
        input_strides: [0, 0, 1, channels.into()],
        output_strides: [0, 0, pixels.into(), 1],
    }
}

/// Sets where an operator's scratch lies.
fn set_scratch(op: &mut Op, at: u32) {
    match op {
        Op::Conv(op) => op.scratch = at,
        Op::ConvAdd(op) => op.conv.scratch = at,
        Op::Depthwise(op) => op.scratch = at,
        Op::Dense(op) => op.scratch = at,
        _ => {}
    }
}

/// Two to nine operators, now and then one that reads a tensor of long ago, or one that reads a piece of
/// another. What they must give is what the portable kernels do, each of which is held to the second
/// writing by itself.
pub fn chain(layout: Layout, random: &mut Random) -> Case {
    let tensor = Plane {
        offset: 0,
        height: 2 + random.below(7) as u16,
        width: 2 + random.below(7) as u16,
        channels: 1 + random.below(40) as u16,
    };
    let mut chain = Chain {
        layout,
        tensor,
        builder: Builder::default(),
        random,
    };
    let size = chain.size();
    let mut ops = Vec::new();
    let mut previous = 0;
    for _ in 0..2 + chain.random.below(8) {
        let [from, to] = [(); 2].map(|()| chain.random.below(SLOTS));
        // Most read what the one before wrote.
        let from = match chain.random.below(3) {
            0 => from,
            _ => previous,
        };
        let to = if from == to { (to + 1) % SLOTS } else { to };
        let second = (0..SLOTS).find(|&it| it != from && it != to);
        ops.push(chain.op(from, second.unwrap_or(from), to));
        previous = to;
    }
    let scratch = (SLOTS as u32 * size).next_multiple_of(4);
    let bytes = |op: &Op| scratch_bytes(layout, op) as u32;
    let longest = ops.iter().map(bytes).max().unwrap_or(0);
    for mut op in ops {
        if bytes(&op) > 0 {
            set_scratch(&mut op, scratch);
        }
        chain.builder.op(op);
    }
    let arena_bytes = scratch + longest;
    let program = chain.builder.finish(layout, arena_bytes, false);
    let random = chain.random;
    let memory: Vec<i8> = (0..arena_bytes).map(|_| random.next() as i8).collect();
    let first = random.below(SLOTS) as u32 * size;
    let inputs = vec![(first, memory[first as usize..][..size as usize].to_vec())];
    let output = previous as u32 * size;
    let mut case = Case {
        program,
        arena_bytes: arena_bytes as usize,
        memory,
        inputs,
        output,
        expected: vec![0; size as usize],
        // Operators write all tensors.
        scratch: (0, arena_bytes),
    };
    case.expected = by_definition(&case);
    case
}

/// What the portable kernels make of a case.
pub fn by_definition(case: &Case) -> Vec<i8> {
    let program = Program::verify(case.program.as_ref());
    let program = program.unwrap_or_else(|error| panic!("{error:?}"));
    let mut arena = Aligned::<i8>::zeros(case.arena_bytes);
    arena.as_mut().copy_from_slice(&case.memory);
    let run = program.run(&mut Portable, arena.as_mut());
    run.expect("the arena is as long as the program says");
    arena.as_ref()[case.output as usize..][..case.expected.len()].to_vec()
}
