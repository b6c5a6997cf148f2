//! What kernels do, counted from an operator's shapes.

use super::elements;
use super::flags::{flags, long_outputs};
use edgeward::program::Program;
use edgeward::program::layout::{self, BLOCK, SLOW, Slices, UNPROVEN};
use edgeward::program::op::{Conv, Dense, Depthwise, Op, Plane, Pool, Quantizer, Window};
use edgeward::program::work::multiplications;

/// A kernel, and how often it does what.
pub(super) type Counts = (&'static str, Vec<(&'static str, f64)>);

/// How often a kernel does what.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// The kernel.
    pub kernel: &'static str,
    /// Term and count.
    pub counts: Vec<(&'static str, f64)>,
}

/// The terms of an operator.
pub fn terms(program: &Program<'_>, op: &Op) -> Terms {
    let (kernel, mut counts) = match op {
        Op::Conv(it) => conv(program, it, false),
        Op::ConvAdd(it) => {
            let (kernel, mut counts) = conv(program, &it.conv, true);
            let elements = it.conv.output.bytes() as f64;
            counts.extend(elements::added(&it.add, elements));
            (kernel, counts)
        }
        Op::Depthwise(it) => depthwise(program, op, it),
        Op::Dense(it) if !whole(program, it) => {
            // Outputs are computed four at a time, the last ones with others beside them.
            let rows = f64::from(it.rows);
            let tiles = rows * f64::from(it.outputs.div_ceil(4));
            let counts = vec![
                ("call", 1.0),
                ("tile", tiles),
                ("product", tiles * 4.0 * f64::from(it.inputs)),
                ("output", rows * f64::from(it.outputs)),
            ];
            ("Dense portable", counts)
        }
        Op::Dense(it) => dense(program, it),
        Op::Add(it) => elements::add(it),
        Op::Mul(it) => elements::mul(it),
        Op::Pool(it) => pool(it),
        Op::Mean(it) => (
            "Mean",
            vec![
                ("element", it.input.bytes() as f64),
                ("channel", it.input.channels.into()),
            ],
        ),
        Op::Softmax(it) => {
            let (rows, columns) = (f64::from(it.rows), f64::from(it.columns));
            ("Softmax", vec![("row", rows), ("element", rows * columns)])
        }
        Op::Lookup(it) => ("Lookup", vec![("element", it.len.into())]),
        Op::Copy(it) => {
            let [a, b, c, d] = it.shape.map(f64::from);
            let counts = vec![("element", a * b * c * d), ("row", a * b * c)];
            // Elements that follow each other are moved at once.
            let rows = it.input_strides[3] == 1 && it.output_strides[3] == 1;
            (if rows { "Copy of rows" } else { "Copy" }, counts)
        }
        Op::Fill(it) => ("Fill", vec![("element", it.len.into())]),
        _ => ("unknown", Vec::new()),
    };
    if !kernel.ends_with("portable") {
        counts.push(("call", 1.0));
    }
    Terms { kernel, counts }
}

/// Whether a layer's vectors can be read by whole words without leaving the arena.
fn whole(program: &Program<'_>, op: &Dense) -> bool {
    let (rows, inputs) = (u64::from(op.rows), u64::from(op.inputs));
    let end = u64::from(op.input) + (rows - 1) * inputs + inputs.next_multiple_of(4);
    end <= u64::from(program.header().arena_bytes)
}

pub(super) const fn clamps(quantizer: &Quantizer) -> bool {
    quantizer.min > i8::MIN || quantizer.max < i8::MAX
}

/// Pixels of a convolution by how they are computed.
#[derive(Debug, Clone, Copy, Default)]
struct Pixels {
    /// Two at once.
    pairs: f64,
    /// One alone: the last of an odd row.
    singles: f64,
    /// Pairs whose windows are widened from the input as they lie.
    direct: f64,
    /// Pixels whose windows are copied, and the kernel rows of them that are copied whole.
    staged: f64,
    whole_rows: f64,
    /// Taps of the others.
    taps: f64,
    /// Runs of pairs that are computed in one call.
    runs: f64,
}

/// `sum` is added pair by pair, so that each is a call of its own.
fn conv(program: &Program<'_>, op: &Conv, sum: bool) -> Counts {
    let tail = layout::conv_tail(op);
    let products = layout::conv_products(op).next_multiple_of(4) as f64;
    let kernel_h = f64::from(op.window.kernel_h);
    let wide = layout::is_wide(op);
    let flags = flags(program, op.channels, 0);
    let apart = flags & UNPROVEN != 0 && !wide;
    let pixels = if apart {
        Pixels::apart(op)
    } else {
        Pixels::paired(op)
    };
    let tiles = f64::from(op.output.channels.div_ceil(4));
    // A single one is taken for two where weights or activations lie as pairs want them.
    let (mut pairs, mut singles) = (pixels.pairs, pixels.singles);
    if !apart && (wide || tail > 0) {
        (pairs, singles) = (pairs + singles, 0.0);
    }
    let copied = pixels.pairs - pixels.direct;
    let calls = match sum {
        true => pixels.pairs + pixels.singles,
        false => copied + pixels.singles + pixels.runs,
    };
    let odd = if op.output.channels.is_multiple_of(4) {
        0.0
    } else {
        1.0
    };
    let words = (layout::conv_row(op) - tail).div_ceil(4) as f64;
    let row_words = layout::conv_row(op).div_ceil(4) as f64;
    let depth_words = f64::from(op.input.channels.div_ceil(4));
    let mut counts = vec![
        ("row", f64::from(op.output.height)),
        ("call of a kernel", calls),
        ("pair", pairs),
        ("pair's tile", pairs * tiles),
        ("product of a pair", pairs * tiles * products),
        ("single's tile", singles * tiles),
        ("product of a single", singles * tiles * products),
        ("odd tile", (pairs * 2.0 + singles) * odd),
        ("widened row", pairs * kernel_h),
        ("widened word", pairs * kernel_h * words),
        ("widened end", pairs * kernel_h * tail as f64),
        ("window", pixels.staged),
        ("copied row", pixels.whole_rows),
        (
            "copied word",
            pixels.whole_rows * row_words + pixels.taps * depth_words,
        ),
        ("copied tap", pixels.taps),
    ];
    if flags & (UNPROVEN | SLOW) != 0 {
        let long = long_outputs(program, op.channels, op.output.channels);
        counts.push(("long tile", (pairs + singles) * tiles));
        counts.push(("long output", (pairs * 2.0 + singles) * long));
    }
    if apart && tail > 0 {
        counts.push(("moved product", singles * layout::conv_products(op) as f64));
    }
    if clamps(&op.quantizer) {
        counts.push(("clamp", op.output.bytes() as f64));
    }
    let kernel = match (wide, apart) {
        (_, true) => "Conv apart",
        (true, false) => "Conv wide",
        (false, false) => "Conv",
    };
    (kernel, counts)
}

impl Pixels {
    /// Follows the kernel's loop over rows and pairs of columns, in sums over rows and over columns.
    fn paired(op: &Conv) -> Self {
        Self::of(op, true)
    }

    /// Where one pixel after the other is copied and computed.
    fn apart(op: &Conv) -> Self {
        let mut it = Self::of(op, false);
        it.singles += 2.0 * it.pairs;
        it.pairs = 0.0;
        it
    }

    fn of(op: &Conv, may_be_direct: bool) -> Self {
        let window = &op.window;
        let (height, width) = (f64::from(op.output.height), op.output.width);
        let one = window.kernel_h == 1 && window.kernel_w == 1;
        if one && window.stride_h == 1 && window.stride_w == 1 {
            let pixels = u64::from(op.output.height) * u64::from(width);
            let (pairs, single) = ((pixels / 2) as f64, (pixels % 2) as f64);
            let (direct, staged) = match may_be_direct {
                true => (pairs, single),
                false => (0.0, pixels as f64),
            };
            return Self {
                pairs,
                singles: single,
                direct,
                staged,
                whole_rows: staged,
                taps: 0.0,
                runs: 1.0,
            };
        }
        let undilated = window.dilation_h == 1 && window.dilation_w == 1;
        let rows = Axis::rows(&op.input, window);
        let columns = Axis::columns(&op.input, window);
        let (inside, rows_inside) = rows.count(op.output.height);
        let pairs = u32::from(width / 2);
        // Of a row that sees no padding, pairs of columns that see none either.
        let free = (0..pairs).filter(|pair| columns.whole(2 * pair) && columns.whole(2 * pair + 1));
        let free = match undilated && may_be_direct {
            true => free.count() as f64,
            false => 0.0,
        };
        let whole = (0..u32::from(width)).filter(|&x| undilated && columns.whole(x));
        let whole = whole.count() as f64;
        let direct = inside * free;
        let staged = height * f64::from(width) - 2.0 * direct;
        let kernel_h = f64::from(window.kernel_h);
        // Kernel rows outside the input are filled tap by tap, and so are those of windows over an edge.
        let whole_rows = whole * rows_inside - 2.0 * direct * kernel_h;
        Self {
            pairs: height * f64::from(pairs),
            singles: height * f64::from(width % 2),
            direct,
            staged,
            whole_rows,
            taps: (staged * kernel_h - whole_rows) * f64::from(window.kernel_w),
            runs: if free > 0.0 { inside } else { 0.0 },
        }
    }
}

/// A window along an axis.
struct Axis {
    extent: u64,
    kernel: u64,
    stride: u64,
    dilation: u64,
    pad: u64,
}

impl Axis {
    fn rows(input: &Plane, window: &Window) -> Self {
        Self {
            extent: input.height.into(),
            kernel: window.kernel_h.into(),
            stride: window.stride_h.into(),
            dilation: window.dilation_h.into(),
            pad: window.pad_top.into(),
        }
    }

    fn columns(input: &Plane, window: &Window) -> Self {
        Self {
            extent: input.width.into(),
            kernel: window.kernel_w.into(),
            stride: window.stride_w.into(),
            dilation: window.dilation_w.into(),
            pad: window.pad_left.into(),
        }
    }

    /// Taps of an output that lie inside the input.
    fn taps(&self, output: u32) -> u64 {
        let start = u64::from(output) * self.stride;
        // Taps before the input, and those before its end.
        let before = self
            .pad
            .saturating_sub(start)
            .div_ceil(self.dilation.max(1));
        let end = (self.extent + self.pad).saturating_sub(start);
        let until = end.div_ceil(self.dilation.max(1)).min(self.kernel);
        until.saturating_sub(before)
    }

    /// Whether an output sees no padding.
    fn whole(&self, output: u32) -> bool {
        self.taps(output) == self.kernel
    }

    /// How many outputs see no padding, and taps inside the input of all together.
    fn count(&self, outputs: u16) -> (f64, f64) {
        let outputs = 0..u32::from(outputs);
        let whole = outputs.clone().filter(|&output| self.whole(output)).count();
        let taps: u64 = outputs.map(|output| self.taps(output)).sum();
        (whole as f64, taps as f64)
    }
}

fn depthwise(program: &Program<'_>, op: &Op, it: &Depthwise) -> Counts {
    let outputs = it.output.bytes();
    if it.multiplier != 1 {
        let counts = vec![
            ("product", multiplications(op) as f64),
            ("output", outputs as f64),
        ];
        return ("Depthwise portable", counts);
    }
    let flags = flags(program, it.channels, 0);
    let (kernel, mut counts) = match Slices::of(it) {
        Some(slices) if flags & UNPROVEN != 0 => {
            let mut counts = sliding(it, &slices);
            counts.push(("long output", outputs as f64));
            ("Depthwise sliding apart", counts)
        }
        Some(slices) => ("Depthwise sliding", sliding(it, &slices)),
        None => ("Depthwise", taps(it, flags & (UNPROVEN | SLOW) != 0)),
    };
    if clamps(&it.quantizer) {
        counts.push(("clamp", outputs as f64));
    }
    (kernel, counts)
}

fn sliding(op: &Depthwise, slices: &Slices) -> Vec<(&'static str, f64)> {
    let (height, width) = (f64::from(op.output.height), usize::from(op.output.width));
    let channels = f64::from(op.output.channels);
    let groups = (slices.channels / 4) as f64;
    let (mut strips, mut blocks) = (0.0, 0.0);
    for x in (0..width).step_by(slices.columns.max(1)) {
        strips += 1.0;
        blocks += slices.columns.min(width - x).div_ceil(BLOCK) as f64;
    }
    let (input, output) = (u64::from(op.input.offset), u64::from(op.output.offset));
    let apart = input + op.input.bytes() <= output || output + op.output.bytes() <= input;
    // Rows that are taken apart stay for the next row of outputs, unless those overwrite them.
    let taken = if slices.keep || apart {
        height + 2.0
    } else {
        3.0 * height
    };
    let pairs = blocks * (BLOCK / 2) as f64 + strips;
    vec![
        ("block", height * channels * blocks),
        ("channel", height * channels * strips),
        ("row", height * strips),
        ("taken row", taken * strips),
        ("taken pair", taken * pairs),
        ("taken word", taken * pairs * groups),
    ]
}

fn taps(op: &Depthwise, long: bool) -> Vec<(&'static str, f64)> {
    let groups = f64::from(op.output.channels.div_ceil(4));
    let (height, width) = (f64::from(op.output.height), f64::from(op.output.width));
    let pixels = height * width;
    let all = layout::depthwise_taps(&op.window) as f64;
    let (rows, _) = Axis::rows(&op.input, &op.window).count(op.output.height);
    let (columns, _) = Axis::columns(&op.input, &op.window).count(op.output.width);
    let listed = pixels - rows * columns + if columns > 0.0 { rows } else { 0.0 };
    let mut counts = vec![
        ("pixel", pixels),
        ("group", pixels * groups),
        ("tap", pixels * groups * all),
        ("list", listed),
        ("listed tap", listed * all),
    ];
    if long {
        counts.push(("long group", pixels * groups));
        counts.push(("long output", op.output.bytes() as f64));
    }
    counts
}

fn dense(program: &Program<'_>, op: &Dense) -> Counts {
    let (rows, outputs) = (f64::from(op.rows), f64::from(op.outputs));
    let tiles = rows * f64::from(op.outputs.div_ceil(4));
    let odd = if op.outputs.is_multiple_of(4) {
        0.0
    } else {
        rows
    };
    let products = f64::from(op.inputs.div_ceil(4)) * 4.0;
    let flags = flags(program, op.channels, 0);
    let mut counts = vec![
        ("row", rows),
        ("tile", tiles),
        ("product", tiles * products),
        ("odd tile", odd),
    ];
    if flags & (UNPROVEN | SLOW) != 0 {
        let long = rows * long_outputs(program, op.channels, op.outputs);
        counts.push(("long tile", tiles));
        counts.push(("long output", long));
    }
    if clamps(&op.quantizer) {
        counts.push(("clamp", rows * outputs));
    }
    let kernel = match flags & UNPROVEN {
        0 => "Dense",
        _ => "Dense apart",
    };
    (kernel, counts)
}

fn pool(op: &Pool) -> Counts {
    let pixels = f64::from(op.output.height) * f64::from(op.output.width);
    let channels = op.output.channels;
    let (_, rows) = Axis::rows(&op.input, &op.window).count(op.output.height);
    let (_, columns) = Axis::columns(&op.input, &op.window).count(op.output.width);
    let taps = u64::from(op.window.kernel_h) * u64::from(op.window.kernel_w);
    if op.maximum == 0 && taps > 255 {
        // Every row is looked at, also where it lies outside the input, and every tap of those inside.
        let each = f64::from(channels);
        let outputs = pixels * each;
        let row = f64::from(op.output.width) * each;
        let counts = vec![
            ("output", outputs),
            ("tried row", outputs * f64::from(op.window.kernel_h)),
            ("row", rows * row),
            ("tried tap", rows * row * f64::from(op.window.kernel_w)),
            ("tap", rows * columns * each),
        ];
        return ("Pool portable", counts);
    }
    // Four channels at a time, and the last ones alone.
    let groups = f64::from(channels / 4 + channels % 4);
    let counts = vec![
        ("pixel", pixels),
        ("group", pixels * groups),
        ("output", pixels * f64::from(channels)),
        ("group's row", rows * f64::from(op.output.width) * groups),
        ("tap", rows * columns * groups),
    ];
    let kernel = match op.maximum {
        0 => "Pool",
        _ => "Pool maximum",
    };
    (kernel, counts)
}
