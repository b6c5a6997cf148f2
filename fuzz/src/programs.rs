//! Seeds of the target `program`: every operator in both layouts, and chains whose tensors packed
//! kernels hand on.

#[path = "../../tests/program/mod.rs"]
mod program;

use edgeward::program::codec::{Field, Reader, Writer};
use edgeward::program::op::{
    Add, AddScale, Channel, Conv, Dense, Depthwise, Op, Operand, Plane, Pool, Quantizer, Softmax,
    Window,
};
use edgeward::program::{Aligned, HEADER_BYTES, Header, Layout};
use program::build::{Builder, Place, Random};
use program::drafts;

/// Programs with room in their arenas, so that a tensor may grow without meeting another.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for kind in drafts::KINDS {
        for layout in [Layout::Natural, Layout::CortexM] {
            for (seed, place) in [
                (1, Place::Disjoint),
                (2, Place::Tight(0)),
                (3, Place::Second),
            ] {
                let draft = drafts::draft(kind, layout, 5, &mut Random(seed));
                if matches!(draft.op, Op::Dense(it) if it.rows > 2) {
                    continue;
                }
                let case = draft.place(layout, place);
                all.push(roomy(
                    case.program,
                    [0, 1],
                    [case.output, case.expected.len() as u32],
                ));
            }
        }
    }
    for rows in [1, 2] {
        all.push(chain_of_vectors(rows));
    }
    all.push(chain_of_images());
    all
}

/// A program with 4 KiB more of arena, its input and output set.
fn roomy(mut program: Aligned<u8>, input: [u32; 2], output: [u32; 2]) -> Vec<u8> {
    let mut head = Header::read(&mut Reader::new(program.as_ref())).expect("a head");
    [head.input, head.input_len] = input;
    [head.output, head.output_len] = output;
    head.arena_bytes += 4096;
    let mut writer = Writer::new(&mut program.as_mut()[..HEADER_BYTES]);
    head.write(&mut writer).expect("room for the head");
    program.as_ref().to_vec()
}

const WHOLE: Quantizer = Quantizer {
    zero_point: 3,
    min: -128,
    max: 127,
};

/// Weights and channels of a layer that packed kernels take.
fn layer(builder: &mut Builder, weights: usize, outputs: u16) -> (u32, u32) {
    let mut random = Random(u64::from(outputs));
    let data: Vec<u8> = (0..weights).map(|_| random.next() as u8).collect();
    let channel = Channel {
        bias: 100,
        multiplier: 0x5000_0000,
        shift: -9,
    };
    let channels = vec![channel; usize::from(outputs)];
    builder.constants(Layout::Natural, &data, &channels)
}

/// Two dense layers and a softmax over `rows` vectors.
fn chain_of_vectors(rows: u16) -> Vec<u8> {
    let mut builder = Builder::default();
    for (input, output, inputs, outputs) in [(0, 1024, 24, 20), (1024, 2048, 20, 12)] {
        let (weights, channels) = layer(&mut builder, usize::from(inputs * outputs), outputs);
        builder.op(Op::Dense(Dense {
            input,
            output,
            rows,
            inputs,
            outputs,
            quantizer: WHOLE,
            weights,
            channels,
            scratch: 0,
        }));
    }
    builder.op(Op::Softmax(Softmax {
        input: 2048,
        output: 3072,
        ..drafts::softmax_op(rows, 12, 0.1)
    }));
    let program = builder.finish(Layout::Natural, 4096, true);
    roomy(
        program,
        [0, u32::from(rows) * 24],
        [3072, u32::from(rows) * 12],
    )
}

fn plane(offset: u32, extent: u16, channels: u16) -> Plane {
    Plane {
        offset,
        height: extent,
        width: extent,
        channels,
    }
}

fn window(kernel: u16, pad: u16) -> Window {
    Window {
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: pad,
        pad_left: pad,
    }
}

/// A convolution, a depthwise one, their sum, and a pool.
fn chain_of_images() -> Vec<u8> {
    let mut builder = Builder::default();
    let (weights, channels) = layer(&mut builder, 8 * 9 * 3, 8);
    builder.op(Op::Conv(Conv {
        input: plane(0, 6, 3),
        output: plane(1024, 6, 8),
        window: window(3, 1),
        input_zero_point: 3,
        quantizer: WHOLE,
        weights,
        channels,
        scratch: 0,
    }));
    let (weights, channels) = layer(&mut builder, 9 * 8, 8);
    builder.op(Op::Depthwise(Depthwise {
        input: plane(1024, 6, 8),
        output: plane(2048, 6, 8),
        window: window(3, 1),
        multiplier: 1,
        input_zero_point: 3,
        quantizer: WHOLE,
        weights,
        channels,
        scratch: 0,
    }));
    let operand = |offset| Operand {
        offset,
        len: 288,
        constant: 0,
    };
    builder.op(Op::Add(Add {
        a: operand(1024),
        b: operand(2048),
        output: 3072,
        len: 288,
        scale: AddScale {
            zero_a: 3,
            zero_b: 3,
            quantizer: WHOLE,
            multiplier_a: 1 << 30,
            shift_a: 0,
            multiplier_b: 1 << 30,
            shift_b: -1,
            multiplier: 0x6000_0000,
            shift: -19,
        },
    }));
    builder.op(Op::Pool(Pool {
        input: plane(3072, 6, 8),
        output: plane(4096, 3, 8),
        window: Window {
            stride_h: 2,
            stride_w: 2,
            ..window(2, 0)
        },
        maximum: 0,
        min: -128,
        max: 127,
    }));
    let program = builder.finish(Layout::Natural, 5120, true);
    roomy(program, [0, 108], [4096, 72])
}
