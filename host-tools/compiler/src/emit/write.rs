//! A placed program as bytes.

use edgeward::program::codec::{Field, Writer};
use edgeward::program::op::{Op, Operand};
use edgeward::program::{ALIGNMENT, HEADER_BYTES, Header, Layout, MAGIC, VERSION};

use super::{Lowered, Step};
use crate::error::CompileError;
use crate::graph::{Graph, Tensor};
use crate::plan::Plan;

impl Lowered {
    /// The program's bytes, with every offset absolute.
    ///
    /// # Errors
    /// When the program is larger than its 32-bit offsets reach.
    pub fn write(
        &self,
        graph: &Graph,
        plan: &Plan,
        layout: Layout,
    ) -> Result<Vec<u8>, CompileError> {
        let op_bytes: usize = self.steps.iter().map(|step| op_bytes(&step.op)).sum();
        let constants = (HEADER_BYTES + op_bytes).next_multiple_of(ALIGNMENT);
        let total = constants + self.constants.len();
        let mut bytes = vec![0; total];
        let header = self.header(graph, plan, layout, [op_bytes, constants, total])?;
        let mut writer = Writer::new(&mut bytes);
        let mut written = header.write(&mut writer);
        for (index, step) in self.steps.iter().enumerate() {
            let op = placed(step, plan, index, constants as u32);
            written = written.and_then(|()| op.write(&mut writer));
        }
        debug_assert!(
            written.is_some(),
            "the bytes were sized for exactly these records"
        );
        bytes[constants..].copy_from_slice(&self.constants);
        Ok(bytes)
    }

    /// The head; `sizes` are those of the operators, where constants begin, and of the whole.
    fn header(
        &self,
        graph: &Graph,
        plan: &Plan,
        layout: Layout,
        [op_bytes, constants, total]: [usize; 3],
    ) -> Result<Header, CompileError> {
        let small = |what, value: u64| {
            u32::try_from(value).map_err(|_| CompileError::TooLarge {
                place: "the program".into(),
                what,
                value,
                limit: u32::MAX.into(),
            })
        };
        let (input, output) = (graph.inputs.first(), graph.outputs.first());
        let parameters =
            |tensor: Option<&Tensor>| tensor.and_then(Tensor::per_tensor).unwrap_or((1.0, 0));
        let (input, output) = (
            input.map(|&id| graph.tensor(id)),
            output.map(|&id| graph.tensor(id)),
        );
        let ((input_scale, input_zero_point), (output_scale, output_zero_point)) =
            (parameters(input), parameters(output));
        let elements =
            |tensor: Option<&Tensor>| tensor.map_or(0, |tensor| tensor.elements() as u64);
        let affine = graph
            .input_affine
            .as_ref()
            .filter(|it| !it.features.is_empty());
        let planes = graph.planar_input.as_ref();
        let planes = planes.and_then(|shape| shape.get(1)).copied().unwrap_or(0);
        let planes = u16::try_from(planes).map_err(|_| CompileError::TooLarge {
            place: "the program".into(),
            what: "the number of its input's channels",
            value: planes as u64,
            limit: u16::MAX.into(),
        })?;
        let mut flags = if plan.disjoint { Header::DISJOINT } else { 0 };
        if graph.input_half_to_even {
            flags |= Header::HALF_TO_EVEN;
        }
        Ok(Header {
            magic: MAGIC,
            version: VERSION,
            layout: layout as u8,
            flags,
            bytes: small("its size in bytes", total as u64)?,
            op_bytes: op_bytes as u32,
            op_count: self.steps.len() as u32,
            arena_bytes: small("its arena in bytes", plan.arena_bytes)?,
            input: small("an offset", plan.regions[self.input])?,
            input_len: small("the size of its input", elements(input))?,
            input_scale,
            output: small("an offset", plan.regions[self.output])?,
            output_len: small("the size of its output", elements(output))?,
            output_scale,
            input_zero_point,
            output_zero_point,
            feature_count: affine.map_or(0, |it| it.features.len() as u16),
            features: affine.map_or(0, |_| constants as u32 + self.features),
            feature_inner: affine.map_or(0, |it| it.inner.max(1) as u32),
            input_planes: planes,
            reserved: [0; 2],
        })
    }
}

/// Bytes of an operator with its code and length.
fn op_bytes(op: &Op) -> usize {
    let mut room = [0; 512];
    let mut writer = Writer::new(&mut room);
    let written = op.write(&mut writer);
    debug_assert!(written.is_some(), "records are far shorter than the room");
    writer.at()
}

/// The operator with absolute offsets; every arena fits 32 bits when this is called.
fn placed(step: &Step, plan: &Plan, index: usize, constants: u32) -> Op {
    let region = |place: usize| {
        let region = step
            .reads
            .get(place)
            .map_or(step.write, |&(region, _)| region);
        plan.regions[region] as u32
    };
    let (first, output) = (region(0), plan.regions[step.write] as u32);
    let scratch = plan.scratch[index] as u32;
    let mut op = step.op;
    match &mut op {
        Op::Conv(_) | Op::ConvAdd(_) | Op::Depthwise(_) | Op::Dense(_) => {
            layer(&mut op, [first, output, region(1)], constants, scratch);
        }
        Op::Add(it) => {
            operands([&mut it.a, &mut it.b], region, constants);
            it.output += output;
        }
        Op::Mul(it) => {
            operands([&mut it.a, &mut it.b], region, constants);
            it.output += output;
        }
        Op::Pool(it) => {
            it.input.offset += first;
            it.output.offset += output;
        }
        Op::Mean(it) => {
            it.input.offset += first;
            it.output += output;
        }
        Op::Softmax(it) => {
            it.input += first;
            it.output += output;
        }
        Op::Lookup(it) => {
            it.input += first;
            it.output += output;
            it.table += constants;
        }
        Op::Copy(it) => {
            it.input += first;
            it.output += output;
        }
        Op::Fill(it) => it.output += output,
        // Operators of a later format are never lowered to.
        _ => {}
    }
    op
}

/// A layer with weights: `[first, output, other]` are its regions.
fn layer(op: &mut Op, [first, output, other]: [u32; 3], constants: u32, scratch: u32) {
    macro_rules! place {
        ($it:expr, $input:expr, $output:expr) => {{
            $input += first;
            $output += output;
            $it.weights += constants;
            $it.channels += constants;
            $it.scratch = scratch;
        }};
    }
    match op {
        Op::Conv(it) => place!(it, it.input.offset, it.output.offset),
        Op::ConvAdd(it) => {
            place!(it.conv, it.conv.input.offset, it.conv.output.offset);
            it.other += other;
        }
        Op::Depthwise(it) => place!(it, it.input.offset, it.output.offset),
        Op::Dense(it) => place!(it, it.input, it.output),
        _ => {}
    }
}

fn operands(both: [&mut Operand; 2], region: impl Fn(usize) -> u32, constants: u32) {
    let mut place = 0;
    for operand in both {
        if operand.constant == 1 {
            operand.offset += constants;
        } else {
            operand.offset += region(place);
            place += 1;
        }
    }
}
