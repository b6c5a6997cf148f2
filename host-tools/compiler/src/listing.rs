//! A program as text that people read: what `edgeward inspect` prints.

use crate::cost::predict;
use edgeward::program::op::{Op, Operand, Plane, Window};
use edgeward::program::work::{multiplications, work};
use edgeward::program::{Layout, Program};
use std::fmt;

/// Prints a program: what goes in and out, then an operator a line.
///
/// Columns: index, kind, shape of the output, window where there is one, the places of input and
/// output in the arena in bytes, the multiplications by weights (MACs), and the instructions that a
/// Cortex-M4 is predicted to take ([`mod@crate::cost`]). A last line sums up.
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
        writeln!(
            f,
            "{:>4}  {:<10} {:<15} {:<26} {:<25} {:>10} {:>12}",
            "op", "kind", "output", "window", "arena", "MACs", "instructions"
        )?;
        for row in rows(self.0) {
            writeln!(
                f,
                "{:>4}  {:<10} {:<15} {:<26} {:<25} {:>10} {:>12}",
                row.index, row.kind, row.output, row.detail, row.arena, row.macs, row.instructions,
            )?;
        }
        let (macs, steps) = self.0.ops().fold((0_u64, 0_u64), |(macs, steps), op| {
            (
                macs.saturating_add(multiplications(&op)),
                steps.saturating_add(work(&op)),
            )
        });
        let count = head.op_count;
        let instructions: u64 = self.0.ops().map(|op| predict(self.0, &op)).sum();
        writeln!(f, "{count} operators, {macs} MACs, {steps} steps in all")?;
        writeln!(f, "{instructions} instructions predicted on a Cortex-M4")
    }
}

/// An operator as a row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place in the program, from 0.
    pub index: usize,
    /// Its kind.
    pub kind: &'static str,
    /// Extents of its output.
    pub output: String,
    /// The window, or what else tells it from others of its kind.
    pub detail: String,
    /// Places of inputs and output in the arena, in bytes.
    pub arena: String,
    /// Multiplications by weights.
    pub macs: u64,
    /// Instructions that a Cortex-M4 is predicted to take.
    pub instructions: u64,
}

/// The operators of a program.
pub fn rows(program: &Program<'_>) -> Vec<Row> {
    let row = |(index, op): (usize, Op)| Row {
        index,
        kind: op.name(),
        output: shape(&op),
        detail: detail(&op),
        arena: places(&op),
        macs: multiplications(&op),
        instructions: predict(program, &op),
    };
    program.ops().enumerate().map(row).collect()
}

/// The extents of the output.
fn shape(op: &Op) -> String {
    match op {
        Op::Conv(op) => extents(&op.output),
        Op::ConvAdd(op) => extents(&op.conv.output),
        Op::Depthwise(op) => extents(&op.output),
        Op::Pool(op) => extents(&op.output),
        Op::Dense(op) => format!("{}x{}", op.rows, op.outputs),
        Op::Mean(op) => format!("1x1x{}", op.input.channels),
        Op::Softmax(op) => format!("{}x{}", op.rows, op.columns),
        Op::Add(op) => op.len.to_string(),
        Op::Mul(op) => op.len.to_string(),
        Op::Lookup(op) => op.len.to_string(),
        Op::Fill(op) => op.len.to_string(),
        Op::Copy(op) => op.shape.map(|extent| extent.to_string()).join("x"),
        _ => String::new(),
    }
}

fn extents(plane: &Plane) -> String {
    format!("{}x{}x{}", plane.height, plane.width, plane.channels)
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
    use edgeward::program::op::{Fill, Pool, Softmax};
    use edgeward::program::{Aligned, Header, MAGIC, VERSION};

    #[test]
    fn a_line_an_operator() {
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
            layout: 0,
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
        let program = Program::verify(bytes.as_ref()).unwrap();
        let [fill, pool, softmax] = [0, 1, 2].map(|at| predict(&program, &ops[at]));
        assert!(fill > 0 && pool > fill && softmax > fill);
        let sum = fill + pool + softmax;
        let expected = format!(
            "\
141 bytes, weights natural, arena 2416 bytes
input     2400 elements at 0      scale 0.5 zero point 83
output      12 elements at 2400   scale 0.00390625 zero point -128
  op  kind       output          window                     arena                           MACs instructions
   0  Fill       2400            with -128                  -> 0                               0 {fill:>12}
   1  Pool       1x1x12          average 24x8 / 2x1 pad 1,0 0 -> 2400                          0 {pool:>12}
   2  Softmax    1x12                                       2400 -> 2400                       0 {softmax:>12}
3 operators, 0 MACs, 4716 steps in all
{sum} instructions predicted on a Cortex-M4
"
        );
        assert_eq!(Listing(&program).to_string(), expected);
    }
}
