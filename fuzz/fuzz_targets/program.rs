//! An int8 program: verify, then run what was accepted, by the portable kernels and packed for every
//! instruction set of this processor. The portable kernels assert, in this build, that no verified
//! operator leaves the arena or the program; packed programs must give the same outputs.
#![no_main]

use edgeward::program::codec::{Field, Reader, Writer};
use edgeward::program::kernels::packed::{Isa, Packed};
use edgeward::program::op::{
    Add, Conv, ConvAdd, Copy, Dense, Depthwise, Fill, Lookup, Mean, Mul, Op, Pool, Softmax,
};
use edgeward::program::{Aligned, HEADER_BYTES, Header, MAGIC, Portable, Program, VERSION};
use edgeward_fuzz::{planted, programs};
use libfuzzer_sys::fuzz_target;

/// Steps and bytes beyond which an accepted program is not run: a run takes the time it states.
const PATIENCE: u64 = 1 << 20;

fuzz_target!(init: edgeward_fuzz::seeds(programs::seeds), |bytes: &[u8]| {
    let mut repaired = Aligned::copy_of(bytes);
    repair(repaired.as_mut());
    for bytes in [Aligned::copy_of(bytes), repaired] {
        verify_and_run(&bytes);
    }
});

fn verify_and_run(bytes: &Aligned<u8>) {
    let Ok(program) = Program::verify(bytes.as_ref()) else {
        return;
    };
    let arena_bytes = program.header().arena_bytes;
    assert_eq!(program.ops().count(), program.header().op_count as usize);
    if program.work() > PATIENCE || u64::from(arena_bytes) > PATIENCE {
        return;
    }
    // The same memory gives the same outputs; noise leads no step outside either.
    let run = |noise: i8| {
        let mut arena = memory(arena_bytes, noise);
        let run = program.run(&mut Portable, arena.as_mut());
        run.expect("an arena as long and aligned as the program states");
        arena
    };
    let quiet = run(0);
    assert_eq!(quiet.as_ref(), run(0).as_ref());
    let noisy = run(113);
    for isa in Isa::available() {
        let mut packed = Packed::new(&program, isa).expect("the instruction set is here");
        let portable: Vec<u32> = packed.portable().collect();
        let vectors = |(_, op): &(usize, Op)| matches!(op, Op::Dense(it) if it.rows > 2);
        let mut several = program.ops().enumerate().filter(vectors);
        planted(several.any(|(index, _)| !portable.contains(&(index as u32))));
        // Twice each, since a run must leave what the next one needs.
        for (noise, expected) in [(0, &quiet), (113, &noisy), (0, &quiet), (113, &noisy)] {
            let output = run_packed(&program, &mut packed, noise);
            let head = program.header();
            let expected = &expected.as_ref()[head.output as usize..][..head.output_len as usize];
            assert_eq!(output, expected, "{} and portable kernels", isa.name());
        }
    }
}

/// An arena with noise in it.
fn memory(bytes: u32, noise: i8) -> Aligned<i8> {
    let mut arena = Aligned::zeros(bytes as usize);
    let noise = (0_i8..=127).cycle().map(|index| index.wrapping_mul(noise));
    let bytes = arena.as_mut().iter_mut().zip(noise);
    bytes.for_each(|(byte, noise)| *byte = noise);
    arena
}

/// The output of a packed program whose input is what lies there in the noise.
fn run_packed(program: &Program<'_>, packed: &mut Packed, noise: i8) -> Vec<i8> {
    let head = program.header();
    let mut arena = memory(head.arena_bytes, noise);
    let input = arena.as_ref()[head.input as usize..][..head.input_len as usize].to_vec();
    let mut output = vec![0; head.output_len as usize];
    let run = packed.run(program, arena.as_mut(), &input, &mut output);
    run.expect("an arena as long and aligned as the program states");
    output
}

/// Makes what the first checks ask for, so that the fuzzer gets to the others: the head's constants,
/// and a kind and its length before each operator.
fn repair(bytes: &mut [u8]) {
    let len = bytes.len();
    let Some(mut head) = Header::read(&mut Reader::new(bytes)) else {
        return;
    };
    (head.magic, head.version, head.bytes) = (MAGIC, VERSION, len as u32);
    (head.layout, head.flags) = (head.layout & 1, head.flags & 3);
    (head.input_scale, head.output_scale) = (0.5, 0.25);
    (head.op_count, head.reserved) = (1 + head.op_count % 4, [0; 2]);
    if head.input_planes > 0 && !head.input_len.is_multiple_of(head.input_planes.into()) {
        head.input_planes = 0;
    }
    if head.feature_count == 0 {
        (head.features, head.feature_inner) = (0, 0);
    }
    let lengths = [
        Conv::BYTES,
        Depthwise::BYTES,
        Dense::BYTES,
        ConvAdd::BYTES,
        Add::BYTES,
        Mul::BYTES,
        Pool::BYTES,
        Mean::BYTES,
        Softmax::BYTES,
        Lookup::BYTES,
        Copy::BYTES,
        Fill::BYTES,
    ];
    let mut at = HEADER_BYTES;
    for done in 0..head.op_count {
        let Some(start) = bytes.get_mut(at..at + 4) else {
            head.op_count = done;
            break;
        };
        let kind = usize::from(start[0]) % lengths.len();
        start.copy_from_slice(&[kind as u8 + 1, 0, lengths[kind] as u8, 0]);
        at += 4 + lengths[kind];
    }
    head.op_bytes = (at.min(len) - HEADER_BYTES) as u32;
    let _ = head.write(&mut Writer::new(bytes));
}
