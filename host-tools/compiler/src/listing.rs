//! A program as text that people read: what `edgeward inspect` prints.

use crate::cost::predict;
use crate::memory::{input_shape, memory, output_shape};
use edgeward::program::op::{Op, Operand, Window};
use edgeward::program::work::{multiplications, work};
use edgeward::program::{Layout, Program};
use std::fmt;

/// Prints a program: what goes in and out, then an operator a line.
///
/// Columns: index, kind, shapes of input and output, window where there is one, the places of input
/// and output in the arena in bytes, and the multiplications by weights (MACs). Of a program that is
/// laid out for Cortex-M, the instructions that a Cortex-M4 is predicted to take, too
/// ([`mod@crate::cost`]); kernels of other layouts take others. Lines at the end sum up and say which
/// tensors set the arena's size ([`mod@crate::memory`]).
#[derive(Debug, Clone, Copy)]
pub struct Listing<'a>(pub &'a Program<'a>);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.0.header();
        let layout = match self.0.layout() {
            Layout::Natural => "natural",
            Layout::CortexM => "Cortex-M DSP",
        };
        writeln!(
            f,
            "{} bytes, weights {layout}, arena {} bytes",
            head.bytes, head.arena_bytes
        )?;
        writeln!(
            f,
            "input   {:>6} elements at {:<6} scale {} zero point {}",
            head.input_len, head.input, head.input_scale, head.input_zero_point
        )?;
        if head.input_planes > 0 {
            let planes = head.input_planes;
            writeln!(
                f,
                "        from {planes} planes, which quantizing brings together"
            )?;
        }
        writeln!(
            f,
            "output  {:>6} elements at {:<6} scale {} zero point {}",
            head.output_len, head.output, head.output_scale, head.output_zero_point
        )?;
        self.operators(f)?;
        self.arena(f)
    }
}

impl Listing<'_> {
    /// A line an operator, and their sums.
    fn operators(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = rows(self.0);
        let input = shown.iter().map(|row| row.input.len()).max();
        let input = input.unwrap_or(0).max(15);
        let instructions = |told: &str| match self.0.layout() {
            Layout::CortexM => format!(" {told:>12}"),
            Layout::Natural => String::new(),
        };
        let last = instructions("instructions");
        writeln!(
            f,
            "{:>4}  {:<10} {:<input$} {:<15} {:<26} {:<25} {:>10}{last}",
            "op", "kind", "input", "output", "window", "arena", "MACs",
        )?;
        for row in &shown {
            let predicted = row.instructions.map(|it| it.to_string());
            let predicted = instructions(&predicted.unwrap_or_default());
            writeln!(
                f,
                "{:>4}  {:<10} {:<input$} {:<15} {:<26} {:<25} {:>10}{predicted}",
                row.index, row.kind, row.input, row.output, row.detail, row.arena, row.macs,
            )?;
        }
        let (macs, steps) = self.0.ops().fold((0_u64, 0_u64), |(macs, steps), op| {
            (
                macs.saturating_add(multiplications(&op)),
                steps.saturating_add(work(&op)),
            )
        });
        let count = shown.len();
        writeln!(f, "{count} operators, {macs} MACs, {steps} steps in all")?;
        let predicted: Option<u64> = shown.iter().map(|row| row.instructions).sum();
        match predicted.filter(|_| count > 0) {
            Some(sum) => writeln!(f, "{sum} instructions predicted on a Cortex-M4"),
            None => Ok(()),
        }
    }

    /// How full the arena is, and with what.
    fn arena(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = memory(self.0);
        let (bytes, bound, live) = (memory.arena_bytes, memory.bound_bytes, memory.live_bytes);
        let above = memory.above_percent();
        writeln!(
            f,
            "arena {bytes} bytes, {above:.1} % above the {bound} that no plan can do without; {live} are \
             alive at once without overlaps"
        )?;
        let tensors = memory.peak.iter().map(ToString::to_string);
        let (at, tensors) = (memory.peak_operator, tensors.collect::<Vec<_>>().join(", "));
        writeln!(f, "peak at operator {at}: {tensors}")
    }
}

/// An operator as a row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place in the program, from 0.
    pub index: usize,
    /// Its kind.
    pub kind: &'static str,
    /// Extents of its main input, and of the other where it has one.
    pub input: String,
    /// Extents of its output.
    pub output: String,
    /// The window, or what else tells it from others of its kind.
    pub detail: String,
    /// Places of inputs and output in the arena, in bytes.
    pub arena: String,
    /// Multiplications by weights.
    pub macs: u64,
    /// Instructions that a Cortex-M4 is predicted to take; none in another layout than its own.
    pub instructions: Option<u64>,
}

/// The operators of a program.
pub fn rows(program: &Program<'_>) -> Vec<Row> {
    let row = |(index, op): (usize, Op)| Row {
        index,
        kind: op.name(),
        input: input_shape(&op),
        output: output_shape(&op),
        detail: detail(&op),
        arena: places(&op),
        macs: multiplications(&op),
        instructions: (program.layout() == Layout::CortexM).then(|| predict(program, &op)),
    };
    program.ops().enumerate().map(row).collect()
}

/// What else tells an operator from others of its kind.
fn detail(op: &Op) -> String {
    match op {
        Op::Conv(op) => window(&op.window),
        Op::ConvAdd(op) => window(&op.conv.window),
        Op::Depthwise(op) if op.multiplier > 1 => {
            format!("{} times {}", window(&op.window), op.multiplier)
        }
        Op::Depthwise(op) => window(&op.window),
        Op::Pool(op) if op.maximum == 1 => format!("max {}", window(&op.window)),
        Op::Pool(op) => format!("average {}", window(&op.window)),
        Op::Dense(op) => format!("of {}", op.inputs),
        Op::Mean(op) => format!("over {}x{}", op.input.height, op.input.width),
        Op::Add(op) if op.scale.multiplier_b < 0 => "difference".into(),
        Op::Fill(op) => format!("with {}", op.value),
        _ => String::new(),
    }
}

/// `3x3 / 2x2, pad 1 1`: kernel, stride, padding above and left, and dilation where it is not one.
fn window(window: &Window) -> String {
    let mut text = format!("{}x{}", window.kernel_h, window.kernel_w);
    if (window.stride_h, window.stride_w) != (1, 1) {
        text += &format!(" / {}x{}", window.stride_h, window.stride_w);
    }
    if (window.pad_top, window.pad_left) != (0, 0) {
        text += &format!(" pad {},{}", window.pad_top, window.pad_left);
    }
    if (window.dilation_h, window.dilation_w) != (1, 1) {
        text += &format!(" dilated {}x{}", window.dilation_h, window.dilation_w);
    }
    text
}

/// `input [+ other] -> output`, in bytes from the start of the arena.
fn places(op: &Op) -> String {
    let operand = |operand: &Operand| match operand.constant {
        0 => operand.offset.to_string(),
        _ => "constant".into(),
    };
    match op {
        Op::Conv(op) => format!("{} -> {}", op.input.offset, op.output.offset),
        Op::ConvAdd(op) => {
            let conv = &op.conv;
            let (input, output) = (conv.input.offset, conv.output.offset);
            format!("{input} + {} -> {output}", op.other)
        }
        Op::Depthwise(op) => format!("{} -> {}", op.input.offset, op.output.offset),
        Op::Pool(op) => format!("{} -> {}", op.input.offset, op.output.offset),
        Op::Dense(op) => format!("{} -> {}", op.input, op.output),
        Op::Mean(op) => format!("{} -> {}", op.input.offset, op.output),
        Op::Softmax(op) => format!("{} -> {}", op.input, op.output),
        Op::Add(op) => format!("{} + {} -> {}", operand(&op.a), operand(&op.b), op.output),
        Op::Mul(op) => format!("{} * {} -> {}", operand(&op.a), operand(&op.b), op.output),
        Op::Lookup(op) => format!("{} -> {}", op.input, op.output),
        Op::Copy(op) => format!("{} -> {}", op.input, op.output),
        Op::Fill(op) => format!("-> {}", op.output),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::program::codec::{Field, Writer};
    use edgeward::program::op::{Fill, Plane, Pool, Softmax};
    use edgeward::program::{Aligned, Header, MAGIC, VERSION};

    /// A fill, a pool and a softmax.
    fn program(layout: Layout) -> Aligned<u8> {
        let plane = |offset, height, width| Plane {
            offset,
            height,
            width,
            channels: 12,
        };
        let ops = [
            Op::Fill(Fill {
                output: 0,
                len: 2400,
                value: -128,
            }),
            Op::Pool(Pool {
                input: plane(0, 25, 8),
                output: plane(2400, 1, 1),
                window: Window {
                    kernel_h: 24,
                    kernel_w: 8,
                    stride_h: 2,
                    stride_w: 1,
                    dilation_h: 1,
                    dilation_w: 1,
                    pad_top: 1,
                    pad_left: 0,
                },
                maximum: 0,
                min: -128,
                max: 127,
            }),
            Op::Softmax(Softmax {
                input: 2400,
                output: 2400,
                rows: 1,
                columns: 12,
                multiplier: 1 << 30,
                shift: 23,
                difference_min: -248,
            }),
        ];
        let mut bytes = Aligned::<u8>::zeros(64 + 3 * 4 + 9 + 35 + 21);
        let total = bytes.as_ref().len() as u32;
        let mut writer = Writer::new(bytes.as_mut());
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            layout: layout as u8,
            flags: 0,
            bytes: total,
            op_bytes: total - 64,
            op_count: 3,
            arena_bytes: 2416,
            input: 0,
            input_len: 2400,
            input_scale: 0.5,
            output: 2400,
            output_len: 12,
            output_scale: 0.003_906_25,
            input_zero_point: 83,
            output_zero_point: -128,
            feature_count: 0,
            features: 0,
            feature_inner: 0,
            input_planes: 0,
            reserved: [0; 2],
        };
        header.write(&mut writer).unwrap();
        ops.iter().for_each(|op| op.write(&mut writer).unwrap());
        bytes
    }

    #[test]
    fn a_line_an_operator() {
        let bytes = program(Layout::Natural);
        let expected = "\
141 bytes, weights natural, arena 2416 bytes
input     2400 elements at 0      scale 0.5 zero point 83
output      12 elements at 2400   scale 0.00390625 zero point -128
  op  kind       input           output          window                     arena                           MACs
   0  Fill                       2400            with -128                  -> 0                               0
   1  Pool       25x8x12         1x1x12          average 24x8 / 2x1 pad 1,0 0 -> 2400                          0
   2  Softmax    1x12            1x12                                       2400 -> 2400                       0
3 operators, 0 MACs, 4716 steps in all
arena 2416 bytes, 0.2 % above the 2412 that no plan can do without; 2412 are alive at once without overlaps
peak at operator 1: output of 0 2400 (2400 bytes), output of 1 1x1x12 (12 bytes)
";
        let program = Program::verify(bytes.as_ref()).unwrap();
        assert_eq!(Listing(&program).to_string(), expected);
    }

    /// Other kernels take other numbers of instructions, so only those of the layout's own are told.
    #[test]
    fn instructions_are_told_for_cortex_m() {
        let bytes = program(Layout::CortexM);
        let program = Program::verify(bytes.as_ref()).unwrap();
        let predicted: Vec<u64> = program.ops().map(|op| predict(&program, &op)).collect();
        let [fill, pool, softmax] = predicted[..] else {
            panic!("{predicted:?}");
        };
        assert!(fill > 0 && pool > fill && softmax > fill);
        let text = Listing(&program).to_string();
        for (kind, instructions) in [("Fill", fill), ("Pool", pool), ("Softmax", softmax)] {
            let line = text.lines().find(|line| line.contains(kind)).unwrap();
            assert!(line.ends_with(&format!(" {instructions}")), "{line}");
        }
        let sum = fill + pool + softmax;
        let line = format!("{sum} instructions predicted on a Cortex-M4");
        assert!(text.lines().any(|it| it == line), "{text}");
    }
}
