//! Which kernel for Cortex-M takes an operator, by the conditions of the kernels themselves: the suite must draw
//! each often enough. And which operators fill the widest vectors of x86-64.

use super::build::Case;
use edgeward::program::codec::{Field as _, Reader};
use edgeward::program::layout::{self, SLOW, Slices, UNPROVEN};
use edgeward::program::op::{Add, AddScale, Channel, Conv, Dense, Depthwise, Op, Operand, Pool};
use edgeward::program::{Layout, Program};

/// Every kernel there is for an operator, and every other way that one takes.
pub const ALL: [&str; 24] = [
    "conv",
    "conv, some tiles the long way",
    "conv, one sum at a time",
    "conv of halfwords",
    "conv with rows of no whole words",
    "conv of a dilated window",
    "depthwise by rows",
    "depthwise by rows, unproven",
    "depthwise by strips",
    "depthwise by taps",
    "depthwise by taps, unproven",
    "depthwise, portable",
    "dense",
    "dense, of 1 or 2 more than whole words",
    "dense, one sum at a time",
    "dense, portable",
    "add",
    "add, repeated",
    "add, portable",
    "mul",
    "mul, portable",
    "pool",
    "pool of maximum",
    "pool, portable",
];

/// Flags of the operator whose first channel lies there.
fn flags(program: &[u8], channels: u32) -> i32 {
    let stored = program.get(channels as usize..);
    let stored = stored.and_then(|bytes| Channel::read(&mut Reader::new(bytes)));
    layout::flags(stored.expect("a verified layer has channels").shift)
}

fn conv(program: &[u8], op: &Conv) -> Vec<&'static str> {
    let flags = flags(program, op.channels);
    let wide = layout::is_wide(op);
    let kernel = match (wide, flags & UNPROVEN != 0, flags & SLOW != 0) {
        (false, true, _) => "conv, one sum at a time",
        (_, _, true) => "conv, some tiles the long way",
        (true, ..) => "conv of halfwords",
        _ => "conv",
    };
    let mut all = vec![kernel];
    if layout::conv_tail(op) > 0 {
        all.push("conv with rows of no whole words");
    }
    if op.window.dilation_h > 1 || op.window.dilation_w > 1 {
        all.push("conv of a dilated window");
    }
    all
}

fn depthwise(program: &[u8], op: &Depthwise) -> &'static str {
    let unproven = flags(program, op.channels) & UNPROVEN != 0;
    match Slices::of(op) {
        _ if op.multiplier != 1 => "depthwise, portable",
        Some(slices) if !slices.keep => "depthwise by strips",
        Some(_) if unproven => "depthwise by rows, unproven",
        Some(_) => "depthwise by rows",
        None if unproven => "depthwise by taps, unproven",
        None => "depthwise by taps",
    }
}

fn dense(program: &Program<'_>, op: &Dense) -> Vec<&'static str> {
    let (rows, inputs) = (u32::from(op.rows), u32::from(op.inputs));
    let end = op.input + (rows - 1) * inputs + inputs.next_multiple_of(4);
    if end > program.header().arena_bytes {
        return vec!["dense, portable"];
    }
    let kernel = match flags(program.bytes(), op.channels) & UNPROVEN {
        0 => "dense",
        _ => "dense, one sum at a time",
    };
    match inputs % 4 {
        1 | 2 => vec![kernel, "dense, of 1 or 2 more than whole words"],
        _ => vec![kernel],
    }
}

fn add(op: &Add) -> &'static str {
    let input = |multiplier: i32, shift: i8| match shift {
        0 => multiplier == 1 << 30,
        _ => multiplier >= 1 << 30 && shift < 0,
    };
    let AddScale {
        multiplier_a,
        shift_a,
        multiplier_b,
        shift_b,
        multiplier,
        shift,
        ..
    } = op.scale;
    let fast = input(multiplier_a, shift_a) && input(multiplier_b, shift_b);
    let whole = |operand: &Operand| operand.len == op.len;
    match fast && multiplier >= 1 << 30 && shift < 0 {
        false => "add, portable",
        true if whole(&op.a) && whole(&op.b) => "add",
        true => "add, repeated",
    }
}

fn pool(op: &Pool) -> &'static str {
    let taps = u32::from(op.window.kernel_h) * u32::from(op.window.kernel_w);
    match op.maximum {
        0 if taps > 255 => "pool, portable",
        0 => "pool",
        _ => "pool of maximum",
    }
}

/// What takes the operators of a case for Cortex-M; none for those that have but one kernel.
pub fn of(case: &Case) -> Vec<&'static str> {
    let program = Program::verify(case.program.as_ref()).expect("the suite is sound");
    assert_eq!(program.layout(), Layout::CortexM);
    let bytes = program.bytes();
    let of = |op: Op| match op {
        Op::Conv(op) => conv(bytes, &op),
        Op::ConvAdd(op) => conv(bytes, &op.conv),
        Op::Depthwise(op) => vec![depthwise(bytes, &op)],
        Op::Dense(op) => dense(&program, &op),
        Op::Add(op) => vec![add(&op)],
        Op::Mul(op) if op.multiplier < 1 << 30 || op.shift >= 0 => vec!["mul, portable"],
        Op::Mul(_) => vec!["mul"],
        Op::Pool(op) => vec![pool(&op)],
        _ => Vec::new(),
    };
    program.ops().flat_map(of).collect()
}

/// Whether a convolution fills the widest strips of kernels that take so many channels and pixels at once.
pub fn fills(op: &Op, channels: u16, pixels: u16) -> bool {
    let op = match op {
        Op::Conv(op) => op,
        Op::ConvAdd(op) => &op.conv,
        _ => return false,
    };
    op.output.channels >= channels && op.output.width >= pixels
}
