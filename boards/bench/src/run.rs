//! Counts a program's instructions, operator by operator, and checks its outputs.

use crate::{Memory, count, host, print};
use edgeward::program::kernels::cortex_m::CortexM;
use edgeward::program::op::Op;
use edgeward::program::{Portable, Program, Run};

/// Runs a program on all rows; `false` when anything differs.
pub fn run(memory: Memory, program: &str, rows: &str) -> bool {
    let Memory {
        program: room,
        rows: row_room,
        arena,
    } = memory;
    let (Some(bytes), Some(rows)) = (host::read(program, room), host::read(rows, row_room)) else {
        print!("error cannot read {program} and {rows}");
        return false;
    };
    let Some(program) = verified(bytes) else {
        return false;
    };
    let header = *program.header();
    let (input, output) = (header.input as usize, header.output as usize);
    let (inputs, outputs) = (header.input_len as usize, header.output_len as usize);
    if arena.len() < header.arena_bytes as usize {
        print!("error arena of {} bytes", header.arena_bytes);
        return false;
    }
    let mut wrong = 0;
    let mut count = 0;
    for (index, row) in rows.chunks_exact(inputs + outputs).enumerate() {
        let (given, expected) = row.split_at(inputs);
        let give = |arena: &mut [i8]| {
            for (to, &from) in arena[input..].iter_mut().zip(given) {
                *to = from as i8;
            }
        };
        // What an earlier run left must not matter.
        arena.fill(0x55);
        give(arena);
        let start = count::now();
        let done = program.run(&mut CortexM, arena);
        let total = count::between(start, count::now());
        if done.is_err() {
            print!("error the arena");
            return false;
        }
        let differing = |arena: &[i8]| {
            let got = &arena[output..][..outputs];
            got.iter()
                .zip(expected)
                .filter(|(got, want)| **got != **want as i8)
                .count()
        };
        let differs = differing(arena);
        if differs > 0 {
            wrong += 1;
            print!("differs {index} {differs}");
        }
        if index == 0 {
            print!("total {total}");
            print!("arena {}", header.arena_bytes);
            give(arena);
            operators(program, arena);
            // The portable kernels read the same layout.
            give(arena);
            if program.run(&mut Portable, arena).is_err() || differing(arena) > 0 {
                print!("differs portable");
                wrong += 1;
            }
        }
        count = index + 1;
    }
    print!("rows {count} wrong {wrong}");
    wrong == 0
}

/// Verifies a program, and prints what that takes or what is wrong.
fn verified(bytes: &[u8]) -> Option<Program<'_>> {
    let start = count::now();
    let verified = Program::verify(bytes);
    print!("verify {}", count::between(start, count::now()));
    verified.map_err(|error| print!("error {error:?}")).ok()
}

/// Prints what each operator takes.
fn operators(program: Program<'_>, arena: &mut [i8]) {
    let Ok(mut run) = Run::new(program, arena) else {
        return;
    };
    for (index, op) in program.ops().enumerate() {
        let start = count::now();
        let more = run.step(&mut CortexM);
        let taken = count::between(start, count::now());
        if !more {
            break;
        }
        print!("op {index} {} {taken} {}", op.name(), products(&op));
    }
}

/// Multiplications of an operator with its weights.
fn products(op: &Op) -> u64 {
    let conv = |op: &edgeward::program::op::Conv| {
        op.output.bytes()
            * u64::from(op.window.kernel_h)
            * u64::from(op.window.kernel_w)
            * u64::from(op.input.channels)
    };
    match op {
        Op::Conv(op) => conv(op),
        Op::ConvAdd(op) => conv(&op.conv),
        Op::Depthwise(op) => {
            op.output.bytes() * u64::from(op.window.kernel_h) * u64::from(op.window.kernel_w)
        }
        Op::Dense(op) => u64::from(op.rows) * u64::from(op.inputs) * u64::from(op.outputs),
        _ => 0,
    }
}
