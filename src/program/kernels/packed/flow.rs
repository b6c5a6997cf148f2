//! How values flow through a program: which operators run packed, and what they read and write.
//!
//! A program names stretches of its arena. Here each stretch that a packed operator writes or reads
//! becomes a [`Value`] with memory of its own; where a portable kernel, or a piece of a stretch,
//! comes between, values are stored to the arena and loaded from it. The arena holds at any time
//! what the program says, for every stretch that is not held as a value only.

use crate::program::Program;
use crate::program::op::{Add, ConvAdd, Op, Operand, Plane, Window};

/// Index of a [`Value`].
pub(super) type Id = usize;

/// Extents of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Extent {
    pub fn of(plane: &Plane) -> Self {
        Self {
            height: usize::from(plane.height),
            width: usize::from(plane.width),
            channels: usize::from(plane.channels),
        }
    }

    /// So many elements in a row.
    const fn line(elements: u64) -> Self {
        Self {
            height: 1,
            width: 1,
            channels: elements as usize,
        }
    }

    pub const fn vectors(rows: u16, columns: u16) -> Self {
        Self {
            height: 1,
            width: rows as usize,
            channels: columns as usize,
        }
    }
}

/// Rows and columns around a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Halo {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

impl Halo {
    /// What a window reads around its input.
    pub fn of(window: &Window, input: &Plane, output: &Plane) -> Self {
        let after = |out: u16, stride: u8, kernel: u16, dilation: u8, pad: u16, extent: u16| {
            let last = (usize::from(out) - 1) * usize::from(stride)
                + (usize::from(kernel) - 1) * usize::from(dilation)
                + 1;
            last.saturating_sub(usize::from(pad) + usize::from(extent))
        };
        let w = window;
        Self {
            top: usize::from(w.pad_top),
            left: usize::from(w.pad_left),
            bottom: after(
                output.height,
                w.stride_h,
                w.kernel_h,
                w.dilation_h,
                w.pad_top,
                input.height,
            ),
            right: after(
                output.width,
                w.stride_w,
                w.kernel_w,
                w.dilation_w,
                w.pad_left,
                input.width,
            ),
        }
    }

    pub fn none(self) -> bool {
        self == Self::default()
    }

    fn union(self, other: Self) -> Self {
        Self {
            top: self.top.max(other.top),
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.max(other.right),
        }
    }
}

/// A tensor with memory of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub extent: Extent,
    pub halo: Halo,
    /// What the halo holds, once someone has asked for one.
    pub zero: Option<i8>,
}

impl Value {
    const fn new(extent: Extent) -> Self {
        Self {
            extent,
            halo: Halo {
                top: 0,
                left: 0,
                bottom: 0,
                right: 0,
            },
            zero: None,
        }
    }

    /// Takes another reader's halo; `false` where the value can not serve it.
    fn widen(&mut self, need: &Need) -> bool {
        if need.halo.none() {
            return true;
        }
        let zero = *self.zero.get_or_insert(need.zero);
        if self.extent != need.extent || zero != need.zero {
            return false;
        }
        self.halo = self.halo.union(need.halo);
        true
    }
}

/// What an operator wants of a value that it reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub extent: Extent,
    pub halo: Halo,
    pub zero: i8,
}

impl Need {
    /// Whether a value serves as it is.
    pub fn met(&self, value: &Value) -> bool {
        let halo = self.halo.none() || value.zero == Some(self.zero);
        value.extent == self.extent && halo
    }

    const fn plain(extent: Extent) -> Self {
        Self {
            extent,
            halo: Halo {
                top: 0,
                left: 0,
                bottom: 0,
                right: 0,
            },
            zero: 0,
        }
    }
}

/// Where a value is loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The caller's input.
    Input,
    /// The arena, from this byte on.
    Arena(u32),
}

/// One step before its memory is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    Load { from: Source, to: Id },
    Store { from: Id, to: u32 },
    Portable { index: u32 },
    Packed { op: Op, inputs: [Id; 2], output: Id },
}

/// A program's steps and values.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    /// Who holds the program's output; `None`: the arena.
    pub output: Option<Id>,
    /// Whether the arena must hold the input when the steps begin.
    pub input_in_arena: bool,
}

/// A stretch of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    fn new(offset: u32, bytes: u64) -> Self {
        Self {
            start: u64::from(offset),
            end: u64::from(offset) + bytes,
        }
    }

    const fn meets(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// What an operator reads and writes in the arena.
struct Effects {
    reads: [Option<Range>; 2],
    write: Range,
    /// Whether it leaves some of `write` as it was.
    partial: bool,
}

impl Effects {
    fn of(op: &Op) -> Self {
        let plane = |plane: &Plane| Range::new(plane.offset, plane.bytes());
        let operand =
            |it: &Operand| (it.constant == 0).then(|| Range::new(it.offset, u64::from(it.len)));
        let vectors = |offset: u32, rows: u16, columns: u16| {
            Range::new(offset, u64::from(rows) * u64::from(columns))
        };
        let (reads, write) = match op {
            Op::Conv(it) => ([Some(plane(&it.input)), None], plane(&it.output)),
            Op::Depthwise(it) => ([Some(plane(&it.input)), None], plane(&it.output)),
            Op::ConvAdd(ConvAdd { conv, other, .. }) => {
                let other = Range::new(*other, conv.output.bytes());
                ([Some(plane(&conv.input)), Some(other)], plane(&conv.output))
            }
            Op::Dense(it) => (
                [Some(vectors(it.input, it.rows, it.inputs)), None],
                vectors(it.output, it.rows, it.outputs),
            ),
            Op::Add(it) => (
                [operand(&it.a), operand(&it.b)],
                Range::new(it.output, u64::from(it.len)),
            ),
            Op::Mul(it) => (
                [operand(&it.a), operand(&it.b)],
                Range::new(it.output, u64::from(it.len)),
            ),
            Op::Pool(it) => ([Some(plane(&it.input)), None], plane(&it.output)),
            Op::Mean(it) => (
                [Some(plane(&it.input)), None],
                Range::new(it.output, u64::from(it.input.channels)),
            ),
            Op::Softmax(it) => (
                [Some(vectors(it.input, it.rows, it.columns)), None],
                vectors(it.output, it.rows, it.columns),
            ),
            Op::Lookup(it) => (
                [Some(Range::new(it.input, u64::from(it.len))), None],
                Range::new(it.output, u64::from(it.len)),
            ),
            Op::Copy(it) => {
                let reach = |strides: &[u32; 4]| {
                    let axes = it.shape.iter().zip(strides);
                    axes.map(|(&extent, &stride)| (u64::from(extent) - 1) * u64::from(stride))
                        .sum::<u64>()
                        + 1
                };
                let read = Range::new(it.input, reach(&it.input_strides));
                let write = Range::new(it.output, reach(&it.output_strides));
                ([Some(read), None], write)
            }
            Op::Fill(it) => ([None, None], Range::new(it.output, u64::from(it.len))),
        };
        Self {
            reads,
            write,
            partial: matches!(op, Op::Copy(_)),
        }
    }
}

impl Effects {
    /// Takes what is written out of a set of stretches.
    fn leave(&self, rest: &mut Vec<Range>) {
        if self.partial {
            return;
        }
        let (start, end) = (self.write.start, self.write.end);
        let pieces = rest.iter().flat_map(|it| {
            let before = Range {
                start: it.start,
                end: it.end.min(start),
            };
            let after = Range {
                start: it.start.max(end),
                end: it.end,
            };
            [before, after]
        });
        *rest = pieces.filter(|it| it.start < it.end).collect();
    }
}

/// A value that holds a stretch of the arena.
#[derive(Debug, Clone, Copy)]
struct Held {
    range: Range,
    id: Id,
    /// Whether the arena has the same bytes.
    stored: bool,
}

struct Tracer<'a> {
    ops: &'a [Op],
    flow: Flow,
    held: Vec<Held>,
    input: Range,
    output: Range,
    /// Whether the stretch of the input still holds it.
    input_live: bool,
}

impl Flow {
    /// Traces a program; `packs` says which operators may run packed.
    pub fn trace(program: &Program<'_>, mut packs: impl FnMut(&Op) -> bool) -> Self {
        let header = program.header();
        let ops: Vec<Op> = program.ops().collect();
        let mut tracer = Tracer {
            ops: &ops,
            flow: Self::default(),
            held: Vec::new(),
            input: Range::new(header.input, u64::from(header.input_len)),
            output: Range::new(header.output, u64::from(header.output_len)),
            input_live: true,
        };
        for (index, op) in ops.iter().enumerate() {
            tracer.op(index, op, packs(op));
        }
        tracer.flow.output = tracer.find(tracer.output);
        if tracer.flow.output.is_none() {
            tracer.settle(tracer.output);
        }
        let mut flow = tracer.flow;
        flow.widen();
        flow
    }

    /// Gives values the halos that their readers want, as far as one can serve all.
    fn widen(&mut self) {
        for node in &self.nodes {
            let Node::Packed { op, inputs, .. } = node else {
                continue;
            };
            if let Some(need) = need(op) {
                self.values[inputs[0]].widen(&need);
            }
        }
    }
}

/// What a packed operator wants of its first input; `None` for those that take any.
pub(super) fn need(op: &Op) -> Option<Need> {
    Some(match op {
        Op::Conv(it) => Need {
            extent: Extent::of(&it.input),
            halo: Halo::of(&it.window, &it.input, &it.output),
            zero: it.input_zero_point,
        },
        Op::Depthwise(it) => Need {
            extent: Extent::of(&it.input),
            halo: Halo::of(&it.window, &it.input, &it.output),
            zero: it.input_zero_point,
        },
        Op::Pool(it) => Need::plain(Extent::of(&it.input)),
        Op::Dense(it) => Need::plain(Extent::vectors(it.rows, it.inputs)),
        Op::Softmax(it) => Need::plain(Extent::vectors(it.rows, it.columns)),
        _ => return None,
    })
}

impl Tracer<'_> {
    /// The value that holds exactly this stretch.
    fn find(&self, range: Range) -> Option<Id> {
        let held = self.held.iter().rev().find(|held| held.range == range);
        held.map(|held| held.id)
    }

    /// Makes the arena hold a stretch.
    fn settle(&mut self, range: Range) {
        for held in &mut self.held {
            if held.range.meets(range) && !held.stored {
                held.stored = true;
                self.flow.nodes.push(Node::Store {
                    from: held.id,
                    to: held.range.start as u32,
                });
            }
        }
        if self.input_live && self.input.meets(range) {
            self.flow.input_in_arena = true;
        }
    }

    fn op(&mut self, index: usize, op: &Op, packs: bool) {
        let effects = Effects::of(op);
        let packed = packs.then(|| self.inputs(op, &effects)).flatten();
        let Some(inputs) = packed else {
            for range in effects.reads.iter().flatten() {
                self.settle(*range);
            }
            self.overwrite(index, &effects);
            let index = index as u32;
            self.flow.nodes.push(Node::Portable { index });
            return;
        };
        self.overwrite(index, &effects);
        let id = self.emit(op, inputs);
        self.held.push(Held {
            range: effects.write,
            id,
            stored: false,
        });
    }

    /// The values that a packed operator reads; `None` where it can not have them.
    fn inputs(&mut self, op: &Op, effects: &Effects) -> Option<[Id; 2]> {
        let first = effects.reads[0]?;
        let Some(second) = effects.reads[1] else {
            let id = self.obtain(first, need(op)?.extent);
            return Some([id, id]);
        };
        // Sums go row by row, so that both addends must have one shape.
        let extent = match op {
            Op::ConvAdd(it) => Extent::of(&it.conv.output),
            _ => {
                let id = self.find(first).or_else(|| self.find(second));
                id.map_or(Extent::line(first.end - first.start), |id| {
                    self.flow.values[id].extent
                })
            }
        };
        let shaped = |range| match self.find(range) {
            Some(id) => self.flow.values[id].extent == extent,
            None => true,
        };
        if let Op::ConvAdd(it) = op {
            if !shaped(second) {
                return None;
            }
            let input = self.obtain(first, Extent::of(&it.conv.input));
            return Some([input, self.obtain(second, extent)]);
        }
        if !shaped(first) || !shaped(second) {
            return None;
        }
        Some([self.obtain(first, extent), self.obtain(second, extent)])
    }

    /// The value of a stretch: the one that holds it, or a new one that is loaded.
    fn obtain(&mut self, range: Range, extent: Extent) -> Id {
        if let Some(id) = self.find(range) {
            return id;
        }
        let from = if self.input_live && range == self.input {
            Source::Input
        } else {
            self.settle(range);
            Source::Arena(range.start as u32)
        };
        let to = self.value(extent);
        self.flow.nodes.push(Node::Load { from, to });
        self.held.push(Held {
            range,
            id: to,
            stored: from != Source::Input || self.flow.input_in_arena,
        });
        to
    }

    fn value(&mut self, extent: Extent) -> Id {
        self.flow.values.push(Value::new(extent));
        self.flow.values.len() - 1
    }

    /// Adds a packed operator and gives the value that it writes.
    fn emit(&mut self, op: &Op, inputs: [Id; 2]) -> Id {
        let extent = match op {
            Op::Conv(it) => Extent::of(&it.output),
            Op::Depthwise(it) => Extent::of(&it.output),
            Op::Pool(it) => Extent::of(&it.output),
            Op::Dense(it) => Extent::vectors(it.rows, it.outputs),
            Op::Softmax(it) => Extent::vectors(it.rows, it.columns),
            Op::ConvAdd(it) => {
                let input = inputs[0];
                let sum = self.emit(&Op::Conv(it.conv), [input, input]);
                let add = sum_of(it);
                return self.emit(&Op::Add(add), [inputs[1], sum]);
            }
            _ => self.flow.values[inputs[0]].extent,
        };
        let output = self.value(extent);
        self.flow.nodes.push(Node::Packed {
            op: *op,
            inputs,
            output,
        });
        output
    }

    /// Ends the values that an operator writes over, and stores first what is read of them later.
    fn overwrite(&mut self, index: usize, effects: &Effects) {
        let mut at = 0;
        while at < self.held.len() {
            let held = self.held[at];
            if !held.range.meets(effects.write) {
                at += 1;
                continue;
            }
            if !held.stored && self.wanted(index, held.range) {
                self.settle(held.range);
            }
            self.held.remove(at);
        }
        if self.input_live && self.input.meets(effects.write) {
            self.flow.input_in_arena |= self.wanted(index, self.input);
            self.input_live = false;
        }
    }

    /// Whether some of a stretch that outlives an operator's writing is read later.
    fn wanted(&self, index: usize, range: Range) -> bool {
        let mut rest = vec![range];
        let now = self.ops.get(index).map(Effects::of);
        if let Some(effects) = now {
            effects.leave(&mut rest);
        }
        for effects in self.ops.iter().skip(index + 1).map(Effects::of) {
            let mut reads = effects.reads.iter().flatten();
            if reads.any(|read| rest.iter().any(|rest| rest.meets(*read))) {
                return true;
            }
            effects.leave(&mut rest);
        }
        rest.iter().any(|rest| rest.meets(self.output))
    }
}

/// The sum in a convolution with a sum.
fn sum_of(it: &ConvAdd) -> Add {
    let operand = |offset| Operand {
        offset,
        len: it.conv.output.bytes() as u32,
        constant: 0,
    };
    Add {
        a: operand(it.other),
        b: operand(it.conv.output.offset),
        output: it.conv.output.offset,
        len: it.conv.output.bytes() as u32,
        scale: it.add,
    }
}
