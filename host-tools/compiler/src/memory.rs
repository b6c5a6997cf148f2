//! What lies in a program's arena, and when: found from the program alone, as `edgeward inspect` has it.
//!
//! A program has no names, and its tensors are stretches of the arena. What an operator writes is a
//! tensor until something is written over it; operators that write parts of a stretch, as those of a
//! concatenation do, make one together. From who writes and who reads follow the busiest operator and
//! the least that any plan needs there, as the planner reckons it (`crate::plan`).

use core::fmt;
use edgeward::program::Program;
use edgeward::program::layout::scratch_bytes;
use edgeward::program::op::{Op, Operand};
use edgeward::program::overlap::least_distance;

/// What lies in the arena at the busiest operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// The least that any plan needs: what is alive at the busiest operator, each output over its
    /// input as far as it may where the program has it so.
    pub bound_bytes: u64,
    /// Most that is alive at once without overlaps.
    pub live_bytes: u64,
    /// The busiest operator.
    pub peak_operator: usize,
    /// What is alive there, the largest first.
    pub peak: Vec<Tensor>,
}

impl Memory {
    /// How far the plan is above the bound.
    pub fn above_percent(&self) -> f64 {
        let above = self.arena_bytes.saturating_sub(self.bound_bytes);
        above as f64 / self.bound_bytes.max(1) as f64 * 100.0
    }
}

/// A tensor in the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// What it is: `input`, `output of 3`, or `scratch of 3`.
    pub name: String,
    /// Its extents; of scratch, its bytes.
    pub shape: String,
    /// Its bytes.
    pub bytes: u64,
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.name, self.shape, self.bytes)
    }
}

/// A tensor and when it is alive. Times count from one; 0 is before the first operator, and the one
/// after the last is behind it.
#[derive(Debug)]
struct Value {
    at: [u64; 2],
    first: usize,
    last: usize,
    /// Whether someone has read it; what is still to be written is read by nobody.
    read: bool,
    tensor: Tensor,
}

impl Value {
    const fn alive(&self, time: usize) -> bool {
        self.first <= time && time <= self.last
    }
}

const fn meet(a: [u64; 2], b: [u64; 2]) -> bool {
    a[0] < b[1] && b[0] < a[1]
}

/// What lies in a program's arena.
pub fn memory(program: &Program<'_>) -> Memory {
    let head = program.header();
    let ops: Vec<Op> = program.ops().collect();
    let mut trace = Trace {
        values: Vec::new(),
        lies: Vec::new(),
    };
    let input = [head.input, head.input_len].map(u64::from);
    let shape = head.input_len.to_string();
    trace.write(
        [input[0], input[0] + input[1]],
        0,
        "input".into(),
        shape,
        false,
    );
    for (index, op) in ops.iter().enumerate() {
        let time = index + 1;
        for read in reads(op) {
            trace.read(read, time);
        }
        let name = format!("output of {index}");
        trace.write(writes(op), time, name, output_shape(op), in_parts(op));
    }
    let output = [head.output, head.output_len].map(u64::from);
    trace.read([output[0], output[0] + output[1]], ops.len() + 1);
    let busiest = busiest(program, &ops, &trace.values);
    Memory {
        arena_bytes: u64::from(head.arena_bytes),
        ..busiest
    }
}

/// Values so far, and what of them still lies in the arena.
struct Trace {
    values: Vec<Value>,
    lies: Vec<([u64; 2], usize)>,
}

impl Trace {
    fn read(&mut self, at: [u64; 2], time: usize) {
        for &(_, index) in self.lies.iter().filter(|(lies, _)| meet(*lies, at)) {
            let value = &mut self.values[index];
            (value.last, value.read) = (time, true);
        }
    }

    /// A tensor is written. One that is written `in_parts` goes on with what was begun there.
    fn write(&mut self, at: [u64; 2], time: usize, name: String, shape: String, in_parts: bool) {
        let begun = self.lies.iter().map(|&(lies, index)| (lies, index));
        let begun = begun.filter(|&(lies, index)| meet(lies, at) && !self.values[index].read);
        let part_of = begun.map(|(_, index)| index).next().filter(|_| in_parts);
        let (index, at) = match part_of {
            Some(index) => {
                let value = &mut self.values[index];
                value.at = [value.at[0].min(at[0]), value.at[1].max(at[1])];
                value.last = time;
                let bytes = value.at[1] - value.at[0];
                (value.tensor.bytes, value.tensor.shape) = (bytes, bytes.to_string());
                value.tensor.name = name;
                (index, value.at)
            }
            None => {
                let bytes = at[1] - at[0];
                self.values.push(Value {
                    at,
                    first: time,
                    last: time,
                    read: false,
                    tensor: Tensor { name, shape, bytes },
                });
                (self.values.len() - 1, at)
            }
        };
        // What is left of older tensors on both sides stays.
        let left = |&(lies, index): &([u64; 2], usize)| {
            let sides = [[lies[0], lies[1].min(at[0])], [lies[0].max(at[1]), lies[1]]];
            sides.map(|side| (side, index))
        };
        self.lies = self.lies.iter().flat_map(left).collect();
        self.lies.retain(|(lies, _)| lies[0] < lies[1]);
        self.lies.push((at, index));
    }
}

/// The busiest operator and what is alive there.
fn busiest(program: &Program<'_>, ops: &[Op], values: &[Value]) -> Memory {
    let mut most = Memory {
        arena_bytes: 0,
        bound_bytes: 0,
        live_bytes: 0,
        peak_operator: 0,
        peak: Vec::new(),
    };
    let overlaps = program.header().flags & edgeward::program::Header::DISJOINT == 0;
    for (index, op) in ops.iter().enumerate() {
        let time = index + 1;
        let scratch = scratch_bytes(program.layout(), op);
        let alive: Vec<&Value> = values.iter().filter(|it| it.alive(time)).collect();
        let live = scratch + alive.iter().map(|it| it.tensor.bytes).sum::<u64>();
        let output = alive.iter().find(|it| it.first == time);
        let saved = match (output, overlaps) {
            (Some(output), true) => saved(program, op, output, &alive, time),
            _ => 0,
        };
        let bound = live - saved;
        if bound > most.bound_bytes {
            let mut peak: Vec<Tensor> = alive.iter().map(|it| it.tensor.clone()).collect();
            if scratch > 0 {
                peak.push(Tensor {
                    name: format!("scratch of {index}"),
                    shape: scratch.to_string(),
                    bytes: scratch,
                });
            }
            peak.sort_by_key(|tensor| core::cmp::Reverse(tensor.bytes));
            (most.bound_bytes, most.peak_operator, most.peak) = (bound, index, peak);
        }
        most.live_bytes = most.live_bytes.max(live);
    }
    most
}

/// Bytes that an output may share with inputs that are read for the last time.
fn saved(program: &Program<'_>, op: &Op, output: &Value, alive: &[&Value], time: usize) -> u64 {
    let dying = |at: [u64; 2]| {
        let mut whole = alive.iter().filter(|it| it.at == at);
        whole.find(|it| it.last == time && it.first < time)
    };
    let reads = reads(op);
    let mut saved = 0;
    let distance = least_distance(op, program.layout());
    let main = match op {
        // Of these any operand as long as the output may lie under it.
        Op::Add(_) | Op::Mul(_) => &reads[..],
        _ => &reads[..reads.len().min(1)],
    };
    for (place, &read) in main.iter().enumerate() {
        let (Some(input), Some(distance)) = (dying(read), distance) else {
            continue;
        };
        let repeated = matches!(op, Op::Add(_) | Op::Mul(_))
            && input.tensor.bytes != output.tensor.bytes
            || main[..place].contains(&read);
        if !repeated {
            let both = (output.tensor.bytes).max(u64::from(distance) + input.tensor.bytes);
            saved += (input.tensor.bytes + output.tensor.bytes).saturating_sub(both);
        }
    }
    if let (Op::ConvAdd(_), Some(&other)) = (op, reads.get(1))
        && dying(other).is_some()
    {
        saved += output.tensor.bytes;
    }
    saved.min(output.tensor.bytes)
}

/// Stretches of the arena that an operator reads, the main input first.
fn reads(op: &Op) -> Vec<[u64; 2]> {
    let span = |offset: u32, bytes: u64| [u64::from(offset), u64::from(offset) + bytes];
    let operand = |it: &Operand| (it.constant == 0).then(|| span(it.offset, it.len.into()));
    match op {
        Op::Conv(it) => vec![span(it.input.offset, it.input.bytes())],
        Op::ConvAdd(it) => vec![
            span(it.conv.input.offset, it.conv.input.bytes()),
            span(it.other, it.conv.output.bytes()),
        ],
        Op::Depthwise(it) => vec![span(it.input.offset, it.input.bytes())],
        Op::Dense(it) => vec![span(it.input, u64::from(it.rows) * u64::from(it.inputs))],
        Op::Add(it) => [&it.a, &it.b].into_iter().filter_map(operand).collect(),
        Op::Mul(it) => [&it.a, &it.b].into_iter().filter_map(operand).collect(),
        Op::Pool(it) => vec![span(it.input.offset, it.input.bytes())],
        Op::Mean(it) => vec![span(it.input.offset, it.input.bytes())],
        Op::Softmax(it) => vec![span(it.input, u64::from(it.rows) * u64::from(it.columns))],
        Op::Lookup(it) => vec![span(it.input, it.len.into())],
        Op::Copy(it) => vec![span(it.input, reach(&it.shape, &it.input_strides))],
        _ => Vec::new(),
    }
}

/// The stretch that an operator writes.
fn writes(op: &Op) -> [u64; 2] {
    let span = |offset: u32, bytes: u64| [u64::from(offset), u64::from(offset) + bytes];
    match op {
        Op::Conv(it) => span(it.output.offset, it.output.bytes()),
        Op::ConvAdd(it) => span(it.conv.output.offset, it.conv.output.bytes()),
        Op::Depthwise(it) => span(it.output.offset, it.output.bytes()),
        Op::Dense(it) => span(it.output, u64::from(it.rows) * u64::from(it.outputs)),
        Op::Add(it) => span(it.output, it.len.into()),
        Op::Mul(it) => span(it.output, it.len.into()),
        Op::Pool(it) => span(it.output.offset, it.output.bytes()),
        Op::Mean(it) => span(it.output, it.input.channels.into()),
        Op::Softmax(it) => span(it.output, u64::from(it.rows) * u64::from(it.columns)),
        Op::Lookup(it) => span(it.output, it.len.into()),
        Op::Copy(it) => span(it.output, reach(&it.shape, &it.output_strides)),
        Op::Fill(it) => span(it.output, it.len.into()),
        _ => [0, 0],
    }
}

/// Bytes from a copy's first element to behind its last.
fn reach(shape: &[u16; 4], strides: &[u32; 4]) -> u64 {
    let axes = shape.iter().zip(strides);
    let last = axes.map(|(&extent, &stride)| u64::from(extent.max(1) - 1) * u64::from(stride));
    last.sum::<u64>() + 1
}

/// Whether an operator leaves gaps in what it writes, for others to fill.
fn in_parts(op: &Op) -> bool {
    let Op::Copy(it) = op else {
        return false;
    };
    let elements: u64 = it.shape.iter().map(|&extent| u64::from(extent)).product();
    reach(&it.shape, &it.output_strides) != elements
}

/// The extents of the output.
pub(crate) fn output_shape(op: &Op) -> String {
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

/// The extents of the main input, and of the other one where it has one; nothing of a constant.
pub(crate) fn input_shape(op: &Op) -> String {
    let pair = |a: &Operand, b: &Operand| format!("{} and {}", a.len, b.len);
    match op {
        Op::Conv(op) => extents(&op.input),
        Op::ConvAdd(op) => format!(
            "{} and {}",
            extents(&op.conv.input),
            extents(&op.conv.output)
        ),
        Op::Depthwise(op) => extents(&op.input),
        Op::Pool(op) => extents(&op.input),
        Op::Dense(op) => format!("{}x{}", op.rows, op.inputs),
        Op::Mean(op) => extents(&op.input),
        Op::Add(op) => pair(&op.a, &op.b),
        Op::Mul(op) => pair(&op.a, &op.b),
        Op::Softmax(_) | Op::Lookup(_) | Op::Copy(_) => output_shape(op),
        _ => String::new(),
    }
}

fn extents(plane: &edgeward::program::op::Plane) -> String {
    format!("{}x{}x{}", plane.height, plane.width, plane.channels)
}
