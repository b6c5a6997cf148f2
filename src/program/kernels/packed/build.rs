//! Places values in memory and turns a traced program into steps.

use super::flow::{Extent, Flow, Halo, Id, Need, Node, Source, Value, need};
use super::isa::Shape;
use super::jobs::{self, Rows, Spot};
use super::pack::{self, Constants, Cover};
use super::room::{Room, padded};
use super::{Memory, Packed, Step, linear};
use crate::program::Program;
use crate::program::kernels::portable;
use crate::program::layout::{conv_weight, dense_weight, depthwise_weight};
use crate::program::op::{Add, AddScale, Conv, Dense, Depthwise, Op, Plane, Pool, Softmax, Window};
use crate::program::{Layout, kernels::packed::Isa};

/// Elements before the first value and behind each: vectors are read whole, and so is the last group
/// of a run.
const SLACK: usize = 128;
/// Most pixels of a tensor that runs packed: a table of them is made.
const MAX_PIXELS: usize = 1 << 22;
/// Most taps of an average that is summed in 16 bits.
const MAX_POOL: usize = 256;

/// Where a value lies, in elements.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The first element of the halo.
    start: usize,
    value: Value,
}

impl Place {
    fn pitch(&self) -> usize {
        let halo = &self.value.halo;
        (self.value.extent.width + halo.left + halo.right) * self.value.extent.channels
    }

    /// First element of a pixel, counted from the first one of the halo.
    fn at(&self, row: usize, column: usize) -> usize {
        self.start + row * self.pitch() + column * self.value.extent.channels
    }

    fn inner(&self) -> usize {
        self.at(self.value.halo.top, self.value.halo.left)
    }

    fn rows(&self) -> usize {
        self.value.extent.height + self.value.halo.top + self.value.halo.bottom
    }
}

struct Builder<'a> {
    program: &'a Program<'a>,
    shape: &'static Shape,
    sums: Sums,
    constants: Constants,
    places: Vec<Place>,
    end: usize,
    steps: Vec<Step>,
}

/// Linear forms that were looked for, which takes a look at 65,536 pairs and more.
#[derive(Default)]
struct Sums(Vec<(AddScale, Option<jobs::Linear>)>);

impl Sums {
    /// The form of a sum; `None` where it has none that the vectors compute.
    fn of(&mut self, shape: &Shape, scale: &AddScale) -> Option<jobs::Linear> {
        if let Some((_, known)) = self.0.iter().find(|(known, _)| known == scale) {
            return *known;
        }
        let found = linear::find(scale, shape.stored(0));
        self.0.push((*scale, found));
        found
    }
}

/// Whether an operator may run packed.
fn packs(program: &Program<'_>, shape: &Shape, sums: &mut Sums, op: &Op) -> bool {
    match op {
        Op::Conv(it) => convolves(program, shape, it),
        Op::ConvAdd(it) => convolves(program, shape, &it.conv) && sums.of(shape, &it.add).is_some(),
        Op::Depthwise(it) => {
            it.multiplier == 1
                && bounded(
                    &it.input,
                    &Halo::of(&it.window, &it.input, &it.output),
                    &it.output,
                )
                && pack::depthwise_layer(program, it, &depthwise_at(it)).exact(shape)
        }
        Op::Dense(it) => pack::dense_layer(program, it, &dense_at(it)).exact(shape),
        Op::Pool(it) => {
            let taps = usize::from(it.window.kernel_h) * usize::from(it.window.kernel_w);
            taps <= MAX_POOL && bounded(&it.input, &Halo::default(), &it.output)
        }
        Op::Add(it) => {
            it.a.constant == 0
                && it.b.constant == 0
                && it.a.len == it.len
                && it.b.len == it.len
                && sums.of(shape, &it.scale).is_some()
        }
        Op::Softmax(_) => true,
        _ => false,
    }
}

fn convolves(program: &Program<'_>, shape: &Shape, it: &Conv) -> bool {
    bounded(
        &it.input,
        &Halo::of(&it.window, &it.input, &it.output),
        &it.output,
    ) && pack::conv_layer(program, it, &conv_at(it)).exact(shape)
}

/// Whether memory for a halo and a table of pixels is in proportion to the tensors.
fn bounded(input: &Plane, halo: &Halo, output: &Plane) -> bool {
    let output = Extent::of(output);
    padded(input, halo) <= 8 * input.bytes() + (1 << 16)
        && output.height * output.width <= MAX_PIXELS
}

fn conv_at(op: &Conv) -> impl Fn([usize; 3]) -> usize {
    let op = *op;
    let (columns, channels) = (
        usize::from(op.window.kernel_w),
        usize::from(op.input.channels),
    );
    move |[output, run, place]| {
        let tap = if op.window.dilation_w == 1 {
            [run, place / channels]
        } else {
            [run / columns, run % columns]
        };
        let at = [output, tap[0], tap[1], place % channels];
        conv_weight(Layout::Natural, &op, at)
    }
}

fn depthwise_at(op: &Depthwise) -> impl Fn([usize; 3]) -> usize {
    let op = *op;
    let columns = usize::from(op.window.kernel_w);
    move |[output, _, tap]| {
        depthwise_weight(Layout::Natural, &op, [tap / columns, tap % columns, output])
    }
}

fn dense_at(op: &Dense) -> impl Fn([usize; 3]) -> usize {
    let op = *op;
    move |[output, _, place]| dense_weight(Layout::Natural, &op, [output, place])
}

/// Packs a program of the natural layout.
pub(super) fn build(program: &Program<'_>, isa: Isa) -> Packed {
    let natural = program.layout() == Layout::Natural;
    let shape = isa.shape();
    let mut room = Room::new();
    let mut sums = Sums::default();
    let mut flow = Flow::trace(program, |op| {
        natural && packs(program, shape, &mut sums, op) && room.take(shape, op)
    });
    // A tensor has the halo of all its readers, which is known when all have been looked at.
    if !room.holds(flow.values.iter(), shape.bytes()) {
        flow = Flow::trace(program, |_| false);
    }
    let mut builder = Builder {
        program,
        shape,
        sums,
        constants: Constants::default(),
        places: Vec::new(),
        end: SLACK,
        steps: Vec::new(),
    };
    for value in &flow.values {
        builder.place(*value);
    }
    for node in &flow.nodes {
        builder.node(node);
    }
    if let Some(id) = flow.output {
        let rows = builder.store(id, 0);
        builder.steps.push(Step::Output(rows));
    }
    let mut memory = Memory::new((builder.end + SLACK) * builder.shape.bytes());
    for place in &builder.places {
        let zero = builder.shape.stored(place.value.zero.unwrap_or(0));
        let elements = place.rows() * place.pitch();
        memory.fill(builder.shape, place.start, elements, zero);
    }
    let touches = |step: &Step| matches!(step, Step::Load(_) | Step::Store(_) | Step::Portable(_));
    let border = flow.input_in_arena || flow.output.is_none();
    Packed {
        isa,
        arena: border || builder.steps.iter().any(touches),
        memory,
        constants: Memory::of(&builder.constants.0),
        steps: builder.steps,
        output_in_arena: flow.output.is_none(),
        input_in_arena: flow.input_in_arena,
    }
}

impl Builder<'_> {
    fn place(&mut self, value: Value) -> Id {
        let start = self.end.next_multiple_of(64);
        let place = Place { start, value };
        self.end = start + place.rows() * place.pitch() + SLACK;
        self.places.push(place);
        self.places.len() - 1
    }

    /// Rows of a value and of dense memory from `first` on.
    fn store(&self, id: Id, first: usize) -> Rows<2> {
        let place = &self.places[id];
        let len = place.value.extent.width * place.value.extent.channels;
        Rows {
            first: [place.inner(), first],
            pitch: [place.pitch(), len],
            rows: place.value.extent.height,
            len,
        }
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Load { from, to } => {
                let rows = match from {
                    Source::Input => self.store(*to, 0),
                    Source::Arena(at) => self.store(*to, *at as usize),
                };
                self.steps.push(match from {
                    Source::Input => Step::Input(rows),
                    Source::Arena(_) => Step::Load(rows),
                });
            }
            Node::Store { from, to } => {
                let rows = self.store(*from, *to as usize);
                self.steps.push(Step::Store(rows));
            }
            Node::Portable { index } => self.steps.push(Step::Portable(*index)),
            Node::Packed { op, inputs, output } => self.packed(op, *inputs, *output),
        }
    }

    fn packed(&mut self, op: &Op, inputs: [Id; 2], output: Id) {
        let input = match need(op) {
            Some(need) => self.serve(inputs[0], &need),
            None => inputs[0],
        };
        let step = match op {
            Op::Conv(it) => Step::Conv(self.conv(it, input, output)),
            Op::Depthwise(it) => Step::Depthwise(self.depthwise(it, input, output)),
            Op::Dense(it) => Step::Conv(self.dense(it, input, output)),
            Op::Pool(it) => Step::Pool(self.pool(it, input, output)),
            Op::Softmax(it) => Step::Softmax(self.softmax(it, input, output)),
            Op::Add(it) => match self.sum(it, inputs, output) {
                Some(job) => Step::Sum(job),
                None => return,
            },
            _ => return,
        };
        self.steps.push(step);
    }

    /// A value as a reader wants it: itself, the same bytes in another shape, or a copy with a halo.
    fn serve(&mut self, id: Id, need: &Need) -> Id {
        if need.met(&self.places[id].value) {
            return id;
        }
        let from = self.places[id];
        if need.halo.none() && from.value.halo.none() {
            let value = Value {
                extent: need.extent,
                ..from.value
            };
            self.places.push(Place { value, ..from });
            return self.places.len() - 1;
        }
        let copy = self.place(Value {
            extent: need.extent,
            halo: need.halo,
            zero: Some(need.zero),
        });
        let from = self.places[id].value;
        let (mut source, rows) = (id, need.extent);
        if from.extent != rows && !from.halo.none() {
            source = self.place(Value {
                halo: Halo::default(),
                ..from
            });
            self.relay(id, source, from.extent);
        }
        self.relay(source, copy, rows);
        copy
    }

    /// Copies a value to another, rows of `extent` at a time: the shape of the one with a halo.
    fn relay(&mut self, from: Id, to: Id, extent: Extent) {
        let len = extent.width * extent.channels;
        let places = [self.places[from], self.places[to]];
        self.steps.push(Step::Move(Rows {
            first: places.map(|it| it.inner()),
            pitch: places.map(|it| {
                if it.value.halo.none() {
                    len
                } else {
                    it.pitch()
                }
            }),
            rows: extent.height,
            len,
        }));
    }

    /// First element of each pixel's window, and of its output.
    fn pixels(
        &self,
        window: &Window,
        input: Id,
        output: Id,
    ) -> impl Fn([usize; 2]) -> [usize; 2] + use<> {
        let (from, to) = (self.places[input], self.places[output]);
        let window = *window;
        move |[row, column]| {
            let top = row * usize::from(window.stride_h) + from.value.halo.top;
            let left = column * usize::from(window.stride_w) + from.value.halo.left;
            [
                from.at(
                    top - usize::from(window.pad_top),
                    left - usize::from(window.pad_left),
                ),
                to.at(row + to.value.halo.top, column + to.value.halo.left),
            ]
        }
    }

    fn conv(&mut self, op: &Conv, input: Id, output: Id) -> jobs::Conv {
        let from = self.places[input];
        let window = &op.window;
        let at = conv_at(op);
        let layer = pack::conv_layer(self.program, op, &at);
        let rows = (0..usize::from(window.kernel_h))
            .map(|row| row * usize::from(window.dilation_h) * from.pitch());
        let step = usize::from(window.dilation_w) * usize::from(op.input.channels);
        let columns = layer.runs / usize::from(window.kernel_h);
        let runs = rows.flat_map(|row| (0..columns).map(move |column| row + column * step));
        let pixels = self.pixels(window, input, output);
        let extent = Extent::of(&op.output);
        let all = (0..extent.height).flat_map(|row| (0..extent.width).map(move |it| [row, it]));
        let pixels: Vec<_> = all.map(|at| pixels(at).map(|it| it as u32)).collect();
        jobs::Conv {
            runs: runs.map(|it| it as u32).collect(),
            groups: layer.run.div_ceil(self.shape.group),
            strips: layer.pack(self.shape, &mut self.constants, pixels.len()),
            pixels,
            clamp: pack::clamp(self.shape, &op.quantizer),
        }
    }

    fn dense(&mut self, op: &Dense, input: Id, output: Id) -> jobs::Conv {
        let (from, to) = (self.places[input], self.places[output]);
        let at = dense_at(op);
        let layer = pack::dense_layer(self.program, op, &at);
        let rows = usize::from(op.rows);
        let pixel = |row: usize| {
            let input = from.inner() + row * usize::from(op.inputs);
            [
                input as u32,
                (to.inner() + row * usize::from(op.outputs)) as u32,
            ]
        };
        jobs::Conv {
            runs: vec![0],
            groups: layer.run.div_ceil(self.shape.group),
            strips: layer.pack(self.shape, &mut self.constants, rows),
            pixels: (0..rows).map(pixel).collect(),
            clamp: pack::clamp(self.shape, &op.quantizer),
        }
    }

    fn depthwise(&mut self, op: &Depthwise, input: Id, output: Id) -> jobs::Depthwise {
        let (from, to) = (self.places[input], self.places[output]);
        let window = &op.window;
        let at = depthwise_at(op);
        let layer = pack::depthwise_layer(self.program, op, &at);
        let pixels = self.pixels(window, input, output);
        let cover = Cover::new(op, self.shape, &|at| pixels(at)[0], &|at| pixels(at)[1]);
        let mut taps: Vec<u32> = Vec::new();
        for row in 0..usize::from(window.kernel_h) {
            for column in 0..usize::from(window.kernel_w) {
                let down = row * usize::from(window.dilation_h) * from.pitch();
                let right = column * usize::from(window.dilation_w) * from.value.extent.channels;
                taps.push((down + right) as u32);
            }
        }
        // Weights of the taps that fill up the last group are zero.
        let last = taps.last().copied().unwrap_or(0);
        taps.resize(taps.len().next_multiple_of(self.shape.taps), last);
        let phases = pack::phases(&layer, self.shape, &mut self.constants, &cover.phases);
        let channels = from.value.extent.channels;
        jobs::Depthwise {
            taps,
            chunks: cover.chunks,
            pieces: cover.pieces,
            steps: [
                (usize::from(window.stride_w) * channels) as u32,
                to.value.extent.channels as u32,
            ],
            wide: phases.wide,
            weights: phases.weights,
            lanes: phases.lanes,
            clamp: pack::clamp(self.shape, &op.quantizer),
        }
    }

    fn pool(&mut self, op: &Pool, input: Id, output: Id) -> jobs::Pool {
        let (from, to) = (self.places[input], self.places[output]);
        let window = &op.window;
        let inside = |out: usize, stride: u8, pad: u16, kernel: u16, extent: u16| {
            let first = out * usize::from(stride);
            let end = (first + usize::from(kernel)).saturating_sub(usize::from(pad));
            let first = first.saturating_sub(usize::from(pad));
            [first, end.min(usize::from(extent))]
        };
        let mut spots = Vec::new();
        for row in 0..usize::from(op.output.height) {
            let [top, bottom] = inside(
                row,
                window.stride_h,
                window.pad_top,
                window.kernel_h,
                op.input.height,
            );
            for column in 0..usize::from(op.output.width) {
                let [left, right] = inside(
                    column,
                    window.stride_w,
                    window.pad_left,
                    window.kernel_w,
                    op.input.width,
                );
                let halo = (&from.value.halo, &to.value.halo);
                spots.push(Spot {
                    input: from.at(top + halo.0.top, left + halo.0.left) as u32,
                    output: to.at(row + halo.1.top, column + halo.1.left) as u32,
                    rows: bottom.saturating_sub(top) as u16,
                    columns: right.saturating_sub(left) as u16,
                });
            }
        }
        jobs::Pool {
            spots,
            pitch: from.pitch(),
            channels: from.value.extent.channels,
            maximum: op.maximum != 0,
            min: op.min,
            max: op.max,
        }
    }

    /// `None` for a sum that does not pack.
    fn sum(&mut self, op: &Add, inputs: [Id; 2], output: Id) -> Option<jobs::Sum> {
        let places = [inputs[0], inputs[1], output].map(|id| self.places[id]);
        let extent = places[0].value.extent;
        Some(jobs::Sum {
            rows: Rows {
                first: places.map(|it| it.inner()),
                pitch: places.map(|it| it.pitch()),
                rows: extent.height,
                len: extent.width * extent.channels,
            },
            linear: self.sums.of(self.shape, &op.scale)?,
            clamp: pack::clamp(self.shape, &op.scale.quantizer),
        })
    }

    fn softmax(&mut self, op: &Softmax, input: Id, output: Id) -> jobs::Softmax {
        jobs::Softmax {
            input: self.places[input].inner(),
            output: self.places[output].inner(),
            rows: usize::from(op.rows),
            columns: usize::from(op.columns),
            exponentials: Box::new(portable::exponentials(op)),
        }
    }
}
