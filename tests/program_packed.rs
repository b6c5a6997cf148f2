//! Packed programs equal the portable kernels bit for bit, for every instruction set of this
//! processor: over random shapes, strides, paddings, zero points, scales and extremes, and over
//! chains of operators that share an arena. Running allocates nothing.

mod program;

use edgeward::engine::Engine;
use edgeward::engine::program::ProgramEngine;
use edgeward::guard::{InferenceError, Prediction, PredictionFlags};
use edgeward::program::codec::{Field, Reader, Writer};
use edgeward::program::kernels::packed::{Isa, Packed};
use edgeward::program::op::{
    Add, AddScale, Channel, Conv, Dense, Depthwise, Fill, Lookup, Op, Operand, Plane, Pool,
    Softmax, Window,
};
use edgeward::program::{Aligned, ArenaError, HEADER_BYTES, Header, Layout, Portable, Program};
use edgeward::recorder::{Recorder, Records, Snapshot, Stamp, What};
use program::build::{Builder, Case, Draft, Place, Random};
use program::drafts;
use std::alloc::{GlobalAlloc, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what a thread asks of the allocator.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]
// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

const ANSWER: Prediction = Prediction {
    class: 0,
    confidence: 1.0,
    flags: PredictionFlags::NONE,
    latency_us: 1,
    fallback: false,
};

/// What `check` found out about a case.
struct Outcome {
    packed: usize,
    portable: usize,
}

/// Runs a program packed and portable from the same arena; the outputs must be the same.
fn check(bytes: &Aligned<u8>, arena: &Aligned<i8>, isa: Isa, about: &str) -> Outcome {
    let program = Program::verify(bytes.as_ref());
    let program = program.unwrap_or_else(|error| panic!("{error:?}: {about}"));
    let header = *program.header();
    let input = arena.as_ref()[header.input as usize..][..header.input_len as usize].to_vec();
    let mut expected = arena.clone();
    let run = program.run(&mut Portable, expected.as_mut());
    run.expect("the arena is as long as the program says");
    let expected = &expected.as_ref()[header.output as usize..][..header.output_len as usize];
    let mut packed = Packed::new(&program, isa).expect("the instruction set is here");
    // Twice, since a run must leave what the next one needs.
    for round in 0..2 {
        let mut output = vec![0; expected.len()];
        let mut arena = arena.clone();
        let run = packed.run(&program, arena.as_mut(), &input, &mut output);
        run.expect("the arena is as long as the program says");
        if let Some(at) = (0..output.len()).find(|&at| output[at] != expected[at]) {
            let (got, want) = (output[at], expected[at]);
            let name = isa.name();
            panic!("{name}, round {round}: element {at} is {got}, not {want}: {about}");
        }
    }
    let portable = packed.portable().count();
    Outcome {
        packed: header.op_count as usize - portable,
        portable,
    }
}

/// Sets where a program's input and output lie.
fn set_border(program: &mut Aligned<u8>, input: [u32; 2], output: [u32; 2]) {
    let mut header = Header::read(&mut Reader::new(program.as_ref())).expect("a head");
    [header.input, header.input_len] = input;
    [header.output, header.output_len] = output;
    let mut writer = Writer::new(&mut program.as_mut()[..HEADER_BYTES]);
    header.write(&mut writer).expect("room for the head");
}

/// Gives an operator's channels scales that the packed kernels take; `left` allows some shifts to the
/// left.
fn tame(program: &mut Aligned<u8>, left: bool, random: &mut Random) {
    let ops: Vec<Op> = {
        let verified = Program::verify(program.as_ref()).expect("a program");
        verified.ops().collect()
    };
    for op in ops {
        let (at, count) = match op {
            Op::Conv(op) => (op.channels, op.output.channels),
            Op::ConvAdd(op) => (op.conv.channels, op.conv.output.channels),
            Op::Depthwise(op) => (op.channels, op.output.channels),
            Op::Dense(op) => (op.channels, op.outputs),
            _ => continue,
        };
        for index in 0..usize::from(count) {
            let at = at as usize + index * Channel::BYTES;
            let place = &mut program.as_mut()[at..at + Channel::BYTES];
            let mut channel = Channel::read(&mut Reader::new(place)).expect("a channel");
            channel.bias = random.between(-200_000, 200_000) as i32;
            channel.shift = match random.below(if left { 10 } else { 8 }) {
                0 => random.between(-22, -1) as i32,
                8 => 0,
                9 => random.between(0, 4) as i32,
                _ => random.between(-12, -6) as i32,
            };
            channel.write(&mut Writer::new(place)).expect("room");
        }
    }
}

fn run(mut case: Case, seed: u64, tamed: Option<bool>, isa: Isa, about: &str) -> Outcome {
    let mut random = Random(seed);
    let mut arena = Aligned::<i8>::zeros(case.arena_bytes);
    arena.as_mut().fill_with(|| random.next() as i8);
    for (offset, values) in &case.inputs {
        arena.as_mut()[*offset as usize..][..values.len()].copy_from_slice(values);
    }
    if let Some(left) = tamed {
        tame(&mut case.program, left, &mut random);
    }
    let input = match case.inputs.first() {
        Some((offset, values)) => [*offset, values.len() as u32],
        None => [0, 1],
    };
    let output = [case.output, output_len(&case) as u32];
    set_border(&mut case.program, input, output);
    check(&case.program, &arena, isa, about)
}

fn output_len(case: &Case) -> usize {
    case.expected.len()
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn this_processor_has_vector_kernels() {
    // Without one, the tests below would try nothing.
    let all: Vec<_> = Isa::available().map(Isa::name).collect();
    println!("{all:?}");
    assert!(!all.is_empty());
}

#[test]
fn operators_equal_the_portable_kernels() {
    for isa in Isa::available() {
        for kind in drafts::KINDS {
            let mut packed = 0;
            for seed in 0..40 {
                for size in [1, 2, 3, 4, 5, 6, 7, 11, 18] {
                    for place in [Place::Disjoint, Place::Tight(0)] {
                        for tamed in [None, Some(false), Some(true)] {
                            let mut random = Random(seed << 16 | u64::from(size));
                            let draft = drafts::draft(kind, Layout::Natural, size, &mut random);
                            let about = format!("{kind} {seed} {size} {place:?} {:?}", draft.op);
                            let case = draft.place(Layout::Natural, place);
                            packed += run(case, seed, tamed, isa, &about).packed;
                        }
                    }
                }
            }
            let portable_only = ["mul", "mean", "lookup", "copy", "fill"].contains(&kind);
            assert_eq!(packed == 0, portable_only, "{kind}: {packed} ran packed");
        }
    }
}

fn bytes(values: &[i8]) -> Vec<u8> {
    values.iter().map(|value| value.cast_unsigned()).collect()
}

fn window(kernel: [u16; 2], stride: u8, pad: [u16; 2]) -> Window {
    Window {
        kernel_h: kernel[0],
        kernel_w: kernel[1],
        stride_h: stride,
        stride_w: stride,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: pad[0],
        pad_left: pad[1],
    }
}

fn plane(height: u16, width: u16, channels: u16) -> Plane {
    Plane {
        offset: 0,
        height,
        width,
        channels,
    }
}

/// Convolutions, depthwise ones and fully connected layers with many channels.
fn wide(random: &mut Random) -> Draft {
    let mut builder = Builder::default();
    let channels_in = 1 + random.below(150) as u16;
    let channels_out = 1 + random.below(150) as u16;
    let stride = 1 + random.below(2) as u8;
    let kernel = [1 + random.below(3) as u16, 1 + random.below(3) as u16];
    let pad = [
        random.below(u64::from(kernel[0])) as u16,
        random.below(u64::from(kernel[1])) as u16,
    ];
    let input = plane(
        3 + random.below(6) as u16,
        3 + random.below(6) as u16,
        channels_in,
    );
    let out = |extent: u16, pad: u16| (extent + pad - 1) / u16::from(stride) + 1;
    let (height, width) = (out(input.height, pad[0]), out(input.width, pad[1]));
    let window = window(kernel, stride, pad);
    let taps = usize::from(kernel[0] * kernel[1]);
    let quantizer = drafts::quantizer(random);
    let mut constants = |builder: &mut Builder, weights: usize, outputs: u16| {
        let weights = bytes(&random.int8s(weights));
        let channel = Channel {
            bias: 0,
            multiplier: 1 << 30,
            shift: -8,
        };
        let mut channels = vec![channel; usize::from(outputs)];
        for channel in &mut channels {
            channel.multiplier = random.between(1 << 30, i64::from(i32::MAX)) as i32;
        }
        let (weights, channels) = builder.constants(Layout::Natural, &weights, &channels);
        (weights, channels, random.below(3))
    };
    let weight_count = usize::from(channels_in) * usize::from(channels_out) * taps;
    let (weights, channels, kind) = constants(&mut builder, weight_count, 150);
    let (op, elements, outputs) = match kind {
        0 => {
            let output = plane(height, width, channels_out);
            let op = Op::Conv(Conv {
                input,
                output,
                window,
                input_zero_point: random.int8(),
                quantizer,
                weights,
                channels,
                scratch: 0,
            });
            (op, input.bytes(), output.bytes())
        }
        1 => {
            let output = plane(height, width, channels_in);
            let op = Op::Depthwise(Depthwise {
                input,
                output,
                window,
                multiplier: 1,
                input_zero_point: random.int8(),
                quantizer,
                weights,
                channels,
                scratch: 0,
            });
            (op, input.bytes(), output.bytes())
        }
        _ => {
            let rows = 1 + random.below(9) as u16;
            let op = Op::Dense(Dense {
                input: 0,
                output: 0,
                rows,
                inputs: channels_in,
                outputs: channels_out,
                quantizer,
                weights,
                channels,
                scratch: 0,
            });
            let (inputs, outputs) = (rows * channels_in, rows * channels_out);
            (op, u64::from(inputs), u64::from(outputs))
        }
    };
    Draft {
        op,
        builder,
        inputs: vec![random.int8s(elements as usize)],
        expected: vec![0; outputs as usize],
    }
}

#[test]
fn many_channels_equal_the_portable_kernels() {
    for isa in Isa::available() {
        let (mut packed, mut portable) = (0, 0);
        for seed in 0..400 {
            let draft = wide(&mut Random(seed));
            let about = format!("wide {seed} {:?}", draft.op);
            let case = draft.place(Layout::Natural, Place::Disjoint);
            let outcome = run(case, seed, Some(seed % 4 == 0), isa, &about);
            packed += outcome.packed;
            portable += outcome.portable;
        }
        assert!(packed > 10 * portable, "{packed} packed, {portable} not");
    }
}

#[test]
fn softmax_and_pools_equal_the_portable_kernels() {
    for isa in Isa::available() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let (op, inputs, outputs) = if seed % 2 == 0 {
                let (rows, columns) = (1 + random.below(4) as u16, 1 + random.below(40) as u16);
                let op = Op::Softmax(Softmax {
                    input: 0,
                    output: 0,
                    rows,
                    columns,
                    multiplier: random.between(1 << 30, i64::from(i32::MAX)) as i32,
                    shift: random.between(18, 23) as i8,
                    difference_min: -(random.below(256) as i32),
                });
                (op, rows * columns, rows * columns)
            } else {
                let channels = 1 + random.below(90) as u16;
                let input = plane(
                    1 + random.below(9) as u16,
                    1 + random.below(9) as u16,
                    channels,
                );
                let output = plane(1, 1, channels);
                let op = Op::Pool(Pool {
                    input,
                    output,
                    window: window([input.height, input.width], 1, [0, 0]),
                    maximum: random.below(2) as u8,
                    min: -128,
                    max: 127,
                });
                (op, input.bytes() as u16, channels)
            };
            let draft = Draft {
                op,
                builder: Builder::default(),
                inputs: vec![random.int8s(usize::from(inputs))],
                expected: vec![0; usize::from(outputs)],
            };
            let about = format!("{seed} {op:?}");
            let case = draft.place(Layout::Natural, Place::Disjoint);
            assert_eq!(run(case, seed, None, isa, &about).portable, 0, "{about}");
        }
    }
}

/// A chain of operators over one arena, now and then one that does not run packed, one that reads a
/// tensor of long ago, or one that reads a piece of another.
fn chain(random: &mut Random) -> (Aligned<u8>, usize) {
    let mut builder = Builder::default();
    let channels = 1 + random.below(40) as u16;
    let (height, width) = (2 + random.below(7) as u16, 2 + random.below(7) as u16);
    let tensor = plane(height, width, channels);
    let size = tensor.bytes() as u32;
    let slots = 4;
    let at = |slot: u64| Plane {
        offset: slot as u32 * size,
        ..tensor
    };
    let weights = usize::from(channels) * usize::from(channels) * 9;
    let weights = bytes(&random.int8s(weights));
    let table = builder.constant(&bytes(&random.int8s(256)), 16);
    let channel = Channel {
        bias: random.between(-9000, 9000) as i32,
        multiplier: random.between(1 << 30, i64::from(i32::MAX)) as i32,
        shift: -8 - (f64::from(channels).sqrt().log2() as i32),
    };
    let channels_of = vec![channel; usize::from(channels)];
    let (weights, constants) = builder.constants(Layout::Natural, &weights, &channels_of);
    for _ in 0..2 + random.below(7) {
        let (from, to) = (random.below(slots), random.below(slots));
        let to = if from == to { (to + 1) % slots } else { to };
        let second = (0..slots)
            .find(|&it| it != from && it != to)
            .unwrap_or(from);
        let kernel = [
            1 + 2 * random.below(2) as u16,
            1 + 2 * random.below(2) as u16,
        ];
        let window = window(kernel, 1, [kernel[0] / 2, kernel[1] / 2]);
        let zero = random.below(3) as i8;
        let operand = |slot: u64| Operand {
            offset: at(slot).offset,
            len: size,
            constant: 0,
        };
        builder.op(match random.below(8) {
            0 | 1 => Op::Conv(Conv {
                input: at(from),
                output: at(to),
                window,
                input_zero_point: zero,
                quantizer: drafts::quantizer(random),
                weights,
                channels: constants,
                scratch: 0,
            }),
            2 | 3 => Op::Depthwise(Depthwise {
                input: at(from),
                output: at(to),
                window,
                multiplier: 1,
                input_zero_point: zero,
                quantizer: drafts::quantizer(random),
                weights,
                channels: constants,
                scratch: 0,
            }),
            4 | 5 => Op::Add(Add {
                a: operand(from),
                b: operand(second),
                output: at(to).offset,
                len: size,
                scale: AddScale {
                    zero_a: random.int8(),
                    zero_b: random.int8(),
                    quantizer: drafts::quantizer(random),
                    multiplier_a: random.between(1 << 30, i64::from(i32::MAX)) as i32,
                    shift_a: -(random.below(3) as i8),
                    multiplier_b: random.between(1 << 30, i64::from(i32::MAX)) as i32,
                    shift_b: -(random.below(3) as i8),
                    multiplier: random.between(1 << 30, i64::from(i32::MAX)) as i32,
                    shift: -18 - random.below(3) as i8,
                },
            }),
            6 => Op::Lookup(Lookup {
                input: at(from).offset,
                output: at(to).offset,
                len: size,
                table,
            }),
            // A piece across two tensors.
            _ => Op::Fill(Fill {
                output: size / 2,
                len: size,
                value: random.int8(),
            }),
        });
    }
    let arena = slots as u32 * size;
    let mut program = builder.finish(Layout::Natural, arena, false);
    let (from, to) = (random.below(slots), random.below(slots));
    set_border(&mut program, [at(from).offset, size], [at(to).offset, size]);
    (program, arena as usize)
}

/// Chains that are tried: fewer where the processor is an emulated one.
const CHAINS: u64 = if cfg!(target_arch = "aarch64") {
    400
} else {
    1500
};

#[test]
fn chains_equal_the_portable_kernels() {
    for isa in Isa::available() {
        let (mut packed, mut portable) = (0, 0);
        for seed in 0..CHAINS {
            let mut random = Random(seed);
            let (program, bytes) = chain(&mut random);
            let mut arena = Aligned::<i8>::zeros(bytes);
            arena.as_mut().fill_with(|| random.next() as i8);
            let verified = Program::verify(program.as_ref()).expect("a program");
            let about = format!("chain {seed} {:#?}", verified.ops().collect::<Vec<_>>());
            let outcome = check(&program, &arena, isa, &about);
            packed += outcome.packed;
            portable += outcome.portable;
        }
        assert!(
            packed > portable && portable as u64 > CHAINS / 3,
            "{packed} packed, {portable} not"
        );
    }
}

#[test]
fn a_bad_arena_is_an_error() {
    let (mut needed, mut idle) = (0, 0);
    let single = |seed| {
        let mut random = Random(seed);
        let mut case = wide(&mut random).place(Layout::Natural, Place::Disjoint);
        tame(&mut case.program, false, &mut random);
        let (offset, values) = &case.inputs[0];
        let (input, output) = ([*offset, values.len() as u32], output_len(&case) as u32);
        set_border(&mut case.program, input, [case.output, output]);
        case.program
    };
    let chains = (0..20).map(|seed| chain(&mut Random(seed)).0);
    let programs: Vec<Aligned<u8>> = chains.chain((0..20).map(single)).collect();
    for isa in Isa::available() {
        for bytes in &programs {
            let program = Program::verify(bytes.as_ref()).expect("a program");
            let header = *program.header();
            let len = header.arena_bytes as usize;
            let input = vec![1; header.input_len as usize];
            let mut output = vec![0; header.output_len as usize];
            let mut packed = Packed::new(&program, isa).expect("the instruction set is here");
            let mut arena = Aligned::<i8>::zeros(len + 1);
            let mut run = |arena: &mut [i8]| packed.run(&program, arena, &input, &mut output).err();
            assert_eq!(run(arena.as_mut()), None);
            let wrong = [
                run(&mut arena.as_mut()[..0]),
                run(&mut arena.as_mut()[..len - 1]),
                run(&mut arena.as_mut()[1..]),
            ];
            let short = ArenaError::Short {
                needed: header.arena_bytes,
            };
            match wrong {
                [None, None, None] => idle += 1,
                all => {
                    assert_eq!(
                        all,
                        [Some(short), Some(short), Some(ArenaError::Misaligned)]
                    );
                    needed += 1;
                }
            }
        }
    }
    // Some run packed all through, and some do not.
    let tried = needed > 0 && idle > 0;
    assert!(
        tried || Isa::available().next().is_none(),
        "{needed} and {idle}"
    );
}

#[test]
fn an_inference_makes_no_call_of_the_allocator() {
    for isa in Isa::available().map(Some).chain([None]) {
        for seed in 0..50 {
            let (program, _) = chain(&mut Random(seed));
            let mut engine = ProgramEngine::with(program.as_ref(), isa).expect("a program");
            let (input, mut output) = (
                vec![0.5; engine.input_len()],
                vec![0.0; engine.output_len()],
            );
            let before = CALLS.get();
            for _ in 0..3 {
                engine.run(&input, &mut output).expect("lengths are right");
            }
            assert_eq!(CALLS.get() - before, 0, "{isa:?}, chain {seed}");
        }
        let counted = CALLS.get();
        drop(std::hint::black_box(vec![1_u8; 100]));
        assert_eq!(CALLS.get() - counted, 2, "the counter counts");
    }
}

/// What a flight recorder keeps of an inference of float elements, the portable kernels repeat bit for
/// bit, whatever kernels ran; and it costs no call of the allocator.
#[test]
fn what_is_recorded_replays_bit_for_bit() {
    let mut random = Random(23);
    // Operators of one input, which alone decides what they give.
    for kind in ["conv", "depthwise", "dense", "pool", "softmax"].repeat(5) {
        let draft = drafts::draft(kind, Layout::Natural, 12, &mut random);
        let mut case = draft.place(Layout::Natural, Place::Disjoint);
        let [(input, elements)] = &case.inputs[..] else {
            panic!("{kind}: one input");
        };
        let output = [case.output, case.expected.len() as u32];
        set_border(&mut case.program, [*input, elements.len() as u32], output);
        let program = case.program;
        let mut portable = ProgramEngine::with(program.as_ref(), None).expect("a program");
        let mut recorder = Recorder::new(vec![0; 1 << 20]);
        for (isa, sample) in [None]
            .into_iter()
            .chain(Isa::available().map(Some))
            .zip(1..)
        {
            let mut engine = ProgramEngine::with(program.as_ref(), isa).expect("a program");
            let input: Vec<f32> = (0..engine.input_len())
                .map(|_| f32::from(random.int8()) / 3.0)
                .collect();
            let mut output = vec![0.0; engine.output_len()];
            let stamp = Stamp {
                time_ms: 1,
                release: [1; 8],
                sample,
            };
            let before = CALLS.get();
            let mut entry = recorder.begin(stamp, output.len());
            let run = engine.run_on_tape(&input, &mut output, &mut entry);
            entry.finish(&run.map(|()| ANSWER).map_err(InferenceError::Engine));
            assert_eq!(CALLS.get(), before);
            let mut same = vec![0.0; output.len()];
            engine.run(&input, &mut same).expect("as before");
            assert_eq!(output, same, "the tape changes nothing");
        }
        let mut bytes = vec![0; recorder.len()];
        recorder.read(0, &mut bytes);
        let mut records = 0;
        for record in Records::new(&bytes) {
            let What::Inference(inference) = record.expect("sound").what else {
                panic!("nothing else was recorded");
            };
            let input: Vec<i8> = inference.input.i8s().expect("int8").collect();
            let expected: Vec<i8> = inference.output.i8s().expect("int8").collect();
            let mut output = vec![0; expected.len()];
            portable.run_i8(&input, &mut output).expect("it runs");
            assert_eq!(output, expected);
            records += 1;
        }
        assert_eq!(records, 1 + Isa::available().count());
    }
}
