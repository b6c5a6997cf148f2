//! Packed programs through the suite, for every instruction set of this processor: they equal the
//! portable kernels bit for bit, over random shapes, strides, paddings, zero points, scales and extremes,
//! and over chains of operators that share an arena. Running allocates nothing.

mod program;

use edgeward::engine::Engine;
use edgeward::engine::program::ProgramEngine;
use edgeward::guard::{InferenceError, Prediction, PredictionFlags};
use edgeward::program::kernels::packed::{Isa, Packed};
use edgeward::program::op::{Channel, Dense, Op, Quantizer};
use edgeward::program::{Aligned, ArenaError, Layout, Program};
use edgeward::recorder::{Recorder, Records, Snapshot, Stamp, What};
use program::build::{Builder, Case, Draft, Place, Random, set_border};
use program::chains::by_definition;
use program::drafts;
use program::engines::{Tolerance, engine};
use program::suite::{self, Sample};
use std::alloc::{GlobalAlloc, System};
use std::cell::Cell;
use std::collections::BTreeMap;

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

/// Runs a case packed; the outputs must be what the case says.
fn check(case: &Case, isa: Isa, about: &dyn Fn() -> String) -> Outcome {
    let program = Program::verify(case.program.as_ref());
    let program = program.unwrap_or_else(|error| panic!("{error:?}: {}", about()));
    let header = *program.header();
    let input = &case.memory[header.input as usize..][..header.input_len as usize];
    let mut packed = Packed::new(&program, isa).expect("the instruction set is here");
    // Twice, since a run must leave what the next one needs.
    for round in 0..2 {
        let mut output = vec![0; case.expected.len()];
        let mut arena = Aligned::<i8>::zeros(case.arena_bytes);
        arena.as_mut().copy_from_slice(&case.memory);
        let run = packed.run(&program, arena.as_mut(), input, &mut output);
        run.expect("the arena is as long as the program says");
        let differs = |at: &usize| output[*at] != case.expected[*at];
        if let Some(at) = (0..output.len()).find(differs) {
            let (got, want) = (output[at], case.expected[at]);
            let (name, about) = (isa.name(), about());
            panic!("{name}, round {round}: element {at} is {got}, not {want}: {about}");
        }
    }
    let portable = packed.portable().count();
    Outcome {
        packed: header.op_count as usize - portable,
        portable,
    }
}

/// What `cargo xtask test-aarch64` runs the tests for.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn this_processor_has_vector_kernels() {
    // Without one, the tests below would try nothing.
    let all: Vec<_> = Isa::available().map(Isa::name).collect();
    println!("{all:?}");
    assert!(!all.is_empty());
    for name in &all {
        assert_eq!(engine(name).tolerance, Tolerance::Exact, "{name}");
    }
    if let Ok(wanted) = std::env::var("EDGEWARD_ENGINE") {
        assert_eq!(all.first(), Some(&wanted.as_str()));
    }
}

/// What the suite did not run on: each engine for x86-64 that this processor lacks is told.
#[test]
#[cfg(target_arch = "x86_64")]
fn every_engine_for_x86_64_runs_here() {
    let all = [Isa::Avx512, Isa::Avx2].map(|isa| (isa, engine(isa.name())));
    let here: Vec<_> = Isa::available().collect();
    let absent = all.iter().filter(|(isa, _)| !here.contains(isa));
    let absent: Vec<&str> = absent.map(|(_, engine)| engine.name).collect();
    if !absent.is_empty() {
        println!("skipped: this processor has no {}", absent.join(" and no "));
    }
    assert_eq!(here.len() + absent.len(), all.len());
}

/// Cases of the suite that run on each engine: fewer where the processor is an emulated one.
const CASES: u64 = if cfg!(target_arch = "aarch64") {
    15_600
} else {
    26_000
};

#[test]
fn the_suite() {
    for isa in Isa::available() {
        let mut counts = BTreeMap::new();
        for index in 0..CASES {
            let Sample { kind, case } = suite::sample(Layout::Natural, index);
            let about = || format!("case {index}, {kind}: {:?}", suite::ops(&case));
            let outcome = check(&case, isa, &about);
            let count: &mut Outcome = counts.entry(kind).or_insert(NONE);
            count.packed += outcome.packed;
            count.portable += outcome.portable;
        }
        for (kind, Outcome { packed, portable }) in counts {
            println!(
                "{}, {kind}: {packed} ran packed, {portable} did not",
                isa.name()
            );
            let enough = match kind {
                "mul" | "mean" | "lookup" | "copy" | "fill" => packed == 0,
                suite::CHAIN => packed > portable && portable * 4 > packed,
                // Scales that none but portable kernels take, and constant operands.
                "add" | "conv" | "conv_add" | "depthwise" | "dense" => packed * 3 > portable,
                _ => packed > 10 * portable,
            };
            assert!(enough, "{kind}: {packed} ran packed, {portable} did not");
        }
    }
}

#[test]
fn spoilt_constants() {
    for isa in Isa::available() {
        let mut outcome = NONE;
        for index in 0..CASES / 10 {
            let Some(Sample { kind, case }) = suite::spoilt(Layout::Natural, index) else {
                continue;
            };
            let about = || format!("spoilt case {index}, {kind}: {:?}", suite::ops(&case));
            let Outcome { packed, portable } = check(&case, isa, &about);
            outcome.packed += packed;
            outcome.portable += portable;
        }
        let Outcome { packed, portable } = outcome;
        assert!(packed > 100, "{packed} ran packed, {portable} did not");
    }
}

/// Sums grow with their inputs, but adding the zero point wraps at their end: what comes out at both ends
/// is not what comes out in between.
#[test]
fn a_zero_point_that_wraps_kills_no_channel() {
    let mut op = Dense {
        input: 0,
        output: 0,
        rows: 1,
        inputs: 1037,
        outputs: 1,
        quantizer: Quantizer {
            zero_point: 127,
            min: -128,
            max: 127,
        },
        weights: 0,
        channels: 0,
        scratch: 0,
    };
    let channel = Channel {
        bias: 16_828_658,
        multiplier: i32::MAX,
        shift: 6,
    };
    for (value, expected) in [(-128, -128), (127, -128), (0, 127)] {
        let mut builder = Builder::default();
        let weights = [127; 1037];
        (op.weights, op.channels) = builder.constants(Layout::Natural, &weights, &[channel]);
        let draft = Draft::new(
            Op::Dense(op),
            builder,
            vec![vec![value; 1037]],
            vec![expected],
        );
        let mut case = draft.place(Layout::Natural, Place::Disjoint);
        assert_eq!(by_definition(&case), [expected]);
        let (input, output) = ([case.inputs[0].0, 1037], [case.output, 1]);
        set_border(&mut case.program, input, output);
        for isa in Isa::available() {
            check(&case, isa, &|| format!("inputs of {value}"));
        }
    }
}

const NONE: Outcome = Outcome {
    packed: 0,
    portable: 0,
};

/// Programs of chains, and of single operators that run packed all through.
fn programs(count: u64) -> Vec<Aligned<u8>> {
    let of = |kind: &str| {
        let samples = (0..).map(|index| suite::sample(Layout::Natural, index));
        let samples = samples.filter(|sample| sample.kind == kind);
        let programs = samples.map(|sample| sample.case.program);
        programs.take(count as usize).collect::<Vec<_>>()
    };
    [of(suite::CHAIN), of("pool")].concat()
}

#[test]
fn a_bad_arena_is_an_error() {
    let (mut needed, mut idle) = (0, 0);
    let programs = programs(20);
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
        for (index, program) in programs(50).iter().enumerate() {
            let mut engine = ProgramEngine::with(program.as_ref(), isa).expect("a program");
            let (input, mut output) = (
                vec![0.5; engine.input_len()],
                vec![0.0; engine.output_len()],
            );
            let before = CALLS.get();
            for _ in 0..3 {
                engine.run(&input, &mut output).expect("lengths are right");
            }
            assert_eq!(CALLS.get() - before, 0, "{isa:?}, program {index}");
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
