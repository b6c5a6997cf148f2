//! What the verifier refuses, and that what it accepts runs: no panic, nothing outside the arena,
//! whatever was done to the program.

mod program;

use edgeward::program::codec::{Field as _, Reader, Writer};
use edgeward::program::op::{Channel, Op, Operand};
use edgeward::program::overlap::least_distance;
use edgeward::program::verify::{Field, HeadField, MAX_ARENA, MAX_OPS};
use edgeward::program::{
    Aligned, ArenaError, HEADER_BYTES, Header, Layout, Portable, Program, ProgramError, Run,
};
use program::build::{Builder, Case, Place, Random};
use program::check;
use program::drafts::{KINDS, draft};
use proptest::prelude::*;

/// A program of one operator of a kind, tensors apart.
fn case(kind: &str, seed: u64, place: Place) -> Case {
    draft(kind, Layout::Natural, 5, &mut Random(seed)).place(Layout::Natural, place)
}

fn header(program: &[u8]) -> Header {
    Header::read(&mut Reader::new(program)).expect("a head")
}

fn set_header(program: &mut [u8], change: impl FnOnce(&mut Header)) {
    let mut head = header(program);
    change(&mut head);
    head.write(&mut Writer::new(program))
        .expect("room for a head");
}

fn first_op(program: &[u8]) -> Op {
    Op::read(&mut Reader::new(&program[HEADER_BYTES..])).expect("an operator")
}

fn set_op(program: &mut [u8], op: &Op) {
    op.write(&mut Writer::new(&mut program[HEADER_BYTES..]))
        .expect("room for an operator");
}

fn error(program: &Aligned<u8>) -> ProgramError {
    Program::verify(program.as_ref()).expect_err("a program that must be refused")
}

#[test]
fn each_field_of_the_head_is_checked() {
    type Change = fn(&mut Header);
    let changes: [(HeadField, u32, Change); 26] = [
        (HeadField::Magic, 0, |head| head.magic = 0),
        (HeadField::Version, 2, |head| head.version = 2),
        (HeadField::Layout, 2, |head| head.layout = 2),
        (HeadField::Flags, 128, |head| head.flags = 128),
        (HeadField::Bytes, 64, |head| head.bytes = 64),
        (HeadField::OpBytes, u32::MAX, |head| {
            head.op_bytes = u32::MAX
        }),
        (HeadField::OpBytes, 500, |head| head.op_bytes = 500),
        (HeadField::OpCount, MAX_OPS + 1, |head| {
            head.op_count = MAX_OPS + 1
        }),
        (HeadField::Arena, MAX_ARENA + 1, |head| {
            head.arena_bytes = MAX_ARENA + 1
        }),
        (HeadField::Input, u32::MAX, |head| head.input = u32::MAX),
        (HeadField::Input, 0, |head| head.input_len = 0),
        (HeadField::Input, 0, |head| {
            head.input_len = head.arena_bytes + 1
        }),
        (HeadField::Output, u32::MAX, |head| head.output = u32::MAX),
        (HeadField::Output, 0, |head| head.output_len = 0),
        (HeadField::Scale, 0, |head| head.input_scale = 0.0),
        (HeadField::Scale, f32::NAN.to_bits(), |head| {
            head.output_scale = f32::NAN
        }),
        (HeadField::Scale, (-1_f32).to_bits(), |head| {
            head.output_scale = -1.0
        }),
        (HeadField::Scale, f32::INFINITY.to_bits(), |head| {
            head.input_scale = f32::INFINITY
        }),
        (HeadField::Scale, 1, |head| {
            head.input_scale = f32::from_bits(1)
        }),
        (HeadField::Reserved, 3, |head| head.reserved[1] = 3),
        (HeadField::InputPlanes, 7, |head| {
            (head.input_len, head.input_planes) = (8, 7);
        }),
        (HeadField::Features, 0, |head| head.feature_inner = 1),
        (HeadField::Features, 4, |head| head.features = 4),
        (HeadField::Features, 0, |head| head.feature_count = 1),
        (HeadField::Features, 1 << 20, |head| {
            (head.feature_count, head.features, head.feature_inner) = (1, 1 << 20, 1);
        }),
        (HeadField::Flags, 4, |head| head.flags = 4),
    ];
    let good = case("fill", 5, Place::Disjoint).program;
    assert!(Program::verify(good.as_ref()).is_ok());
    for (field, value, change) in changes {
        let mut bad = good.clone();
        set_header(bad.as_mut(), change);
        assert_eq!(error(&bad), ProgramError::Head { field, value });
    }
}

#[test]
fn operators_fill_their_room_exactly() {
    let good = case("fill", 3, Place::Disjoint).program;
    let at = HEADER_BYTES as u32;
    let mut fewer = good.clone();
    set_header(fewer.as_mut(), |head| head.op_count = 0);
    let value = header(good.as_ref()).op_bytes;
    let field = HeadField::OpBytes;
    assert_eq!(error(&fewer), ProgramError::Head { field, value });
    let mut more = good.clone();
    set_header(more.as_mut(), |head| head.op_count = 2);
    assert_eq!(
        error(&more),
        ProgramError::Record {
            op: 1,
            at: at + value
        }
    );
    // An unknown kind, a byte that must be zero, another length.
    for (index, byte) in [(0, 0), (0, 13), (0, 255), (1, 1), (2, 1), (3, 1)] {
        let mut bad = good.clone();
        bad.as_mut()[HEADER_BYTES + index] = byte;
        assert_eq!(error(&bad), ProgramError::Record { op: 0, at });
    }
}

#[test]
fn memory_must_be_aligned_and_long_enough() {
    let case = case("lookup", 1, Place::Disjoint);
    for end in 0..HEADER_BYTES {
        let short = Aligned::copy_of(&case.program.as_ref()[..end]);
        assert_eq!(error(&short), ProgramError::Truncated);
    }
    let mut shifted = Aligned::zeros(case.program.as_ref().len() + 1);
    shifted.as_mut()[1..].copy_from_slice(case.program.as_ref());
    let misaligned = Program::verify(&shifted.as_ref()[1..]);
    assert_eq!(misaligned.unwrap_err(), ProgramError::Misaligned);
    let program = Program::verify(case.program.as_ref()).unwrap();
    let needed = case.arena_bytes as u32;
    let mut arena = Aligned::<i8>::zeros(case.arena_bytes + 1);
    let short = program.run(&mut Portable, &mut arena.as_mut()[..case.arena_bytes - 1]);
    assert_eq!(short, Err(ArenaError::Short { needed }));
    let shifted = program.run(&mut Portable, &mut arena.as_mut()[1..]);
    assert_eq!(shifted, Err(ArenaError::Misaligned));
    assert_eq!(program.run(&mut Portable, arena.as_mut()), Ok(()));
}

/// Changes one operator of a kind and expects a field to be named.
fn refuses(kind: &str, field: Field, change: impl FnOnce(&mut Op, u32)) {
    let good = case(kind, 5, Place::Disjoint);
    let mut op = first_op(good.program.as_ref());
    let before = op;
    change(&mut op, good.arena_bytes as u32);
    assert_ne!(op, before, "{kind} {field:?}: nothing changed");
    let mut bad = good.program.clone();
    set_op(bad.as_mut(), &op);
    match error(&bad) {
        ProgramError::Op {
            op: 0,
            field: named,
            ..
        } => assert_eq!(named, field, "{kind}: {op:?}"),
        other => panic!("{kind} {field:?}: {other:?}"),
    }
}

macro_rules! refuses {
    ($kind:literal, $variant:ident, $($field:ident: $change:expr),* $(,)?) => { $(
        refuses($kind, Field::$field, |op, arena| match op {
            Op::$variant(op) => {
                let change: fn(&mut edgeward::program::op::$variant, u32) = $change;
                change(op, arena);
            }
            other => unreachable!("{other:?}"),
        });
    )* };
}

#[test]
fn each_field_of_a_convolution_is_checked() {
    refuses!("conv", Conv,
        Shape: |op, _| op.input.height = 0,
        Shape: |op, _| op.output.channels = 0,
        Input: |op, arena| op.input.offset = arena,
        Input: |op, _| op.input.offset = u32::MAX,
        Output: |op, arena| op.output.offset = arena,
        Kernel: |op, _| op.window.kernel_h = 0,
        Stride: |op, _| op.window.stride_w = 0,
        Stride: |op, _| op.window.stride_h = 255,
        Dilation: |op, _| op.window.dilation_h = 0,
        Padding: |op, _| op.window.pad_left = op.window.kernel_w * 2,
        Weights: |op, _| op.weights += 4,
        Weights: |op, _| op.weights = 0,
        Weights: |op, _| op.weights = 0xffff_fff0,
        Channels: |op, _| op.channels += 2,
        Channels: |op, _| op.channels = 64,
        Channels: |op, _| op.channels = 0xffff_fffc,
        Quantizer: |op, _| (op.quantizer.min, op.quantizer.max) = (1, 0),
        Scratch: |op, _| op.scratch = 4,
        Overlap: |op, _| op.output.offset = op.input.offset,
    );
}

#[test]
fn each_constant_of_a_channel_is_checked() {
    let good = case("conv", 5, Place::Disjoint).program;
    let Op::Conv(op) = first_op(good.as_ref()) else {
        unreachable!("a convolution")
    };
    let last = op.channels as usize + (usize::from(op.output.channels) - 1) * Channel::BYTES;
    for (multiplier, shift, field, value) in [
        (1, 0, Field::Multiplier, 1),
        (-1, 0, Field::Multiplier, -1),
        ((1 << 30) - 1, 0, Field::Multiplier, (1 << 30) - 1),
        (1 << 30, 31, Field::Shift, 31),
        (1 << 30, -32, Field::Shift, -32),
        (0, i32::MIN, Field::Shift, i64::from(i32::MIN)),
    ] {
        let channel = Channel {
            bias: 0,
            multiplier,
            shift,
        };
        let mut bad = good.clone();
        let room = &mut bad.as_mut()[last..];
        channel
            .write(&mut Writer::new(room))
            .expect("room for a channel");
        assert_eq!(
            error(&bad),
            ProgramError::Op {
                op: 0,
                field,
                value
            }
        );
    }
}

#[test]
fn each_field_of_the_others_is_checked() {
    refuses!("conv_add", ConvAdd,
        Input: |op, arena| op.other = arena,
        Overlap: |op, _| op.other = op.conv.output.offset + 1,
        Overlap: |op, _| op.other = op.conv.output.offset,
        Shift: |op, _| op.add.shift_a = 1,
        Shift: |op, _| op.add.shift = -32,
        Multiplier: |op, _| op.add.multiplier_b = i32::MIN,
        Multiplier: |op, _| op.add.multiplier_a = -(1 << 30),
        Quantizer: |op, _| (op.add.quantizer.min, op.add.quantizer.max) = (1, 0),
    );
    refuses!("depthwise", Depthwise,
        Shape: |op, _| op.multiplier += 1,
        Shape: |op, _| op.multiplier = 0,
        Weights: |op, _| op.weights += 1,
        Output: |op, arena| op.output.offset = arena - 1,
    );
    refuses!("dense", Dense,
        Shape: |op, _| op.rows = 0,
        Input: |op, _| op.rows = u16::MAX,
        Weights: |op, _| op.weights += 8,
        Channels: |op, _| op.channels += 1,
        Overlap: |op, _| op.output = op.input,
    );
    refuses!("add", Add,
        Shape: |op, _| op.a.len = 0,
        Shape: |op, _| op.b.len = op.len + 1,
        Switch: |op, _| op.b.constant = 2,
        Input: |op, arena| (op.a.offset, op.a.constant) = (arena, 0),
        Input: |op, _| (op.a.offset, op.a.constant) = (0, 1),
        Input: |op, _| (op.a.offset, op.a.constant) = (u32::MAX, 1),
        Output: |op, _| op.output = u32::MAX,
    );
    refuses!("mul", Mul,
        Multiplier: |op, _| op.multiplier = -1,
        Multiplier: |op, _| op.multiplier = (1 << 30) - 1,
        Shift: |op, _| op.shift = 31,
        Overlap: |op, _| op.a = Operand { offset: op.output + 1, len: 1, constant: 0 },
    );
    refuses!("pool", Pool,
        Shape: |op, _| op.input.channels -= 1,
        Dilation: |op, _| op.window.dilation_w = 2,
        Kernel: |op, _| (op.window.kernel_h, op.window.kernel_w) = (u16::MAX, u16::MAX),
        Switch: |op, _| op.maximum = 2,
        Quantizer: |op, _| (op.min, op.max) = (5, 4),
    );
    refuses!("mean", Mean,
        Multiplier: |op, _| op.multiplier = -1,
        Shift: |op, _| op.shift = -32,
        Overlap: |op, _| op.output = op.input.offset,
    );
    refuses!("softmax", Softmax,
        Shape: |op, _| op.columns = 0,
        Shape: |op, _| op.rows = 0,
        Shift: |op, _| op.shift = -1,
        Shift: |op, _| op.shift = 32,
        Difference: |op, _| op.difference_min = 1,
        Difference: |op, _| (op.difference_min, op.shift) = (i32::MIN, 31),
        Multiplier: |op, _| op.multiplier = 5,
    );
    refuses!("lookup", Lookup,
        Table: |op, _| op.table += 1,
        Table: |op, _| op.table = 0,
        Shape: |op, _| op.len = 0,
        Input: |op, _| op.input = u32::MAX,
    );
    refuses!("copy", Copy,
        Shape: |op, _| op.shape[2] = 0,
        Input: |op, _| (op.shape[0], op.input_strides[0]) = (u16::MAX, u32::MAX),
        Output: |op, arena| op.output = arena,
        Overlap: |op, _| op.output = op.input,
    );
    refuses!("fill", Fill, Output: |op, arena| op.len = arena + 1, Shape: |op, _| op.len = 0);
}

#[test]
fn a_softmax_row_is_as_long_as_its_sum_is_wide() {
    let mut op = program::drafts::softmax_op(1, 4096, 0.1);
    op.output = 5000;
    let mut builder = Builder::default();
    builder.op(Op::Softmax(op));
    let bad = builder.finish(Layout::Natural, 10_000, false);
    let field = Field::Shape;
    assert_eq!(
        error(&bad),
        ProgramError::Op {
            op: 0,
            field,
            value: 4096
        }
    );
}

#[test]
fn work_has_a_bound() {
    // Each operator is a plane of 2^31 bytes, copied onto one byte: within the arena, and forever.
    let mut builder = Builder::default();
    for _ in 0..600 {
        builder.op(Op::Copy(edgeward::program::op::Copy {
            input: 0,
            output: 1,
            shape: [1, 1, 65_535, 65_535],
            input_strides: [0; 4],
            output_strides: [0; 4],
        }));
    }
    let endless = builder.finish(Layout::Natural, 2, false);
    let work = 257 * 65_535_i64.pow(2);
    let field = Field::Work;
    assert_eq!(
        error(&endless),
        ProgramError::Op {
            op: 256,
            field,
            value: work
        }
    );
}

#[test]
fn the_overlap_rule_ends_where_it_says() {
    let mut slid = 0;
    for seed in 0..200 {
        for kind in [
            "conv",
            "depthwise",
            "dense",
            "pool",
            "conv_add",
            "softmax",
            "lookup",
        ] {
            let op = first_op(case(kind, seed, Place::Tight(0)).program.as_ref());
            let distance = least_distance(&op, Layout::Natural).expect("a distance");
            let closer = case(kind, seed, Place::Tight(1));
            let (output, main) = (closer.output, closer.inputs[0].0);
            // Shapes that reach the other tensor only when they are that close.
            let reached = main < output + closer.expected.len() as u32
                && output < main + closer.inputs[0].1.len() as u32;
            assert_eq!(main + 1, output + distance);
            let refused = Program::verify(closer.program.as_ref()).err();
            let expected = reached.then_some(ProgramError::Op {
                op: 0,
                field: Field::Overlap,
                value: i64::from(output),
            });
            assert_eq!(refused, expected, "{op:?}");
            slid += u32::from(reached);
        }
    }
    assert!(slid > 700, "only {slid} operators overlap at all");
}

#[test]
fn a_program_that_says_disjoint_is() {
    let mut refused = 0;
    for kind in KINDS {
        let tight = case(kind, 11, Place::Tight(0));
        assert!(Program::verify(tight.program.as_ref()).is_ok());
        let main = tight.inputs.first().map_or(u32::MAX, |input| input.0);
        let overlaps = main < tight.output + tight.expected.len() as u32;
        let mut claimed = tight.program.clone();
        set_header(claimed.as_mut(), |head| head.flags = Header::DISJOINT);
        assert_eq!(
            Program::verify(claimed.as_ref()).is_err(),
            overlaps,
            "{kind}"
        );
        refused += usize::from(overlaps);
    }
    assert!((1..KINDS.len()).contains(&refused), "{refused} overlap");
}

/// Runs what the verifier accepts, in memory of the stated size; gives whether it did.
fn runs_when_accepted(bytes: &Aligned<u8>, seed: u64) -> bool {
    let Ok(program) = Program::verify(bytes.as_ref()) else {
        return false;
    };
    // Only the time of the test forbids more.
    if program.work() > 1 << 20 || program.header().arena_bytes > 1 << 20 {
        return true;
    }
    let mut random = Random(seed);
    let mut arena = Aligned::<i8>::zeros(program.header().arena_bytes as usize);
    arena.as_mut().fill_with(|| random.next() as i8);
    let mut run = Run::new(program, arena.as_mut()).expect("an arena as stated");
    while run.step(&mut Portable) {}
    assert_eq!(program.ops().count(), program.header().op_count as usize);
    true
}

/// A value that tends to be where checks end.
fn spiteful(random: &mut Random) -> u32 {
    let near = random.between(-3, 3) as u32;
    let base = match random.below(8) {
        0 => 0,
        1 => u32::MAX,
        2 => 1 << 31,
        3 => 1 << 16,
        4 => 1 << 30,
        5 => random.below(400) as u32,
        6 => 128,
        _ => random.next() as u32,
    };
    base.wrapping_add(near)
}

/// Spoils fields: bytes, halves and words at any place of the head and operators.
fn spoil(program: &mut [u8], random: &mut Random) {
    let head = header(program);
    let end = (HEADER_BYTES + head.op_bytes as usize + 32).min(program.len());
    for _ in 0..=random.below(2) {
        // Of the head, only the sizes: what else it holds ends the check at once.
        let from = if random.below(8) == 0 {
            20
        } else {
            HEADER_BYTES
        };
        let at = from + random.below((end - from) as u64) as usize;
        let width = [1, 2, 4][random.below(3) as usize].min(program.len() - at);
        let value = spiteful(random).to_le_bytes();
        program[at..at + width].copy_from_slice(&value[..width]);
    }
}

/// Several operators of any kinds in one program, each in a part of the arena of its own.
fn mixed(seed: u64) -> Aligned<u8> {
    let mut random = Random(seed);
    let kind = KINDS[random.below(KINDS.len() as u64) as usize];
    let place = [Place::Disjoint, Place::Tight(0), Place::Second][random.below(3) as usize];
    let size = 1 + random.below(5) as u16;
    let layout = [Layout::Natural, Layout::CortexM][random.below(2) as usize];
    draft(kind, layout, size, &mut random)
        .place(layout, place)
        .program
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6_000) })]

    #[test]
    fn a_spoiled_program_is_refused_or_runs(seed: u64) {
        let mut program = mixed(seed);
        spoil(program.as_mut(), &mut Random(!seed));
        runs_when_accepted(&program, seed);
    }

    #[test]
    fn any_bytes_are_refused_or_run(mut bytes in prop::collection::vec(any::<u8>(), 0..300), ops in 0_u32..4) {
        let op_bytes = bytes.len().saturating_sub(HEADER_BYTES).min(200) as u32;
        let total = bytes.len() as u32;
        if bytes.len() >= HEADER_BYTES {
            set_header(&mut bytes, |head| {
                *head = header(case("fill", 1, Place::Disjoint).program.as_ref());
                (head.bytes, head.op_bytes, head.op_count) = (total, op_bytes, ops);
            });
        }
        runs_when_accepted(&Aligned::copy_of(&bytes), 1);
    }
}

#[test]
fn spoiled_programs_are_accepted_often_enough_to_tell() {
    let mut accepted = 0;
    for seed in 0..4_000 {
        let mut program = mixed(seed);
        let good = program.clone();
        spoil(program.as_mut(), &mut Random(!seed));
        let changed = program.as_ref() != good.as_ref();
        accepted += u32::from(runs_when_accepted(&program, seed) && changed);
    }
    assert!(
        accepted > 400,
        "only {accepted} of 4000 changed programs were accepted"
    );
}

#[test]
fn checks_of_cases_can_fail() {
    let mut case = case("conv", 9, Place::Disjoint);
    assert_eq!(check(&case, &mut Portable), Ok(()));
    case.expected[0] = case.expected[0].wrapping_add(1);
    assert!(check(&case, &mut Portable).is_err());
    case.expected.truncate(0);
    assert!(check(&case, &mut Portable).is_err());
}
