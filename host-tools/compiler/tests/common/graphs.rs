//! Random small int8 graphs as ONNX files: two to four operators of any rank between QuantizeLinear and
//! DequantizeLinear, with extents that are often alike, so that a wrong axis fits as well as the right one.
//!
//! The file includes the importer's own messages, so whoever includes this one has `prost`.

#[path = "../../src/onnx/proto.rs"]
#[allow(
    dead_code,
    missing_docs,
    reason = "the messages as the importer declares them"
)]
mod proto;

use prost::Message;
use proto::{
    Attribute, Dim, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo,
};

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;
const INT64: i32 = 7;

/// Most elements of a value.
const MOST: usize = 600;

/// A graph and what is known of it.
#[derive(Debug, Clone)]
pub struct Made {
    /// The ONNX file.
    pub file: Vec<u8>,
    /// Elements of the input.
    pub inputs: usize,
    /// Greatest size of an input element.
    pub size: f32,
    /// The output's scale.
    pub step: f32,
    /// What it computes, an operator after the other.
    pub operators: Vec<String>,
}

/// A quantized value.
#[derive(Debug, Clone)]
struct Value {
    /// Name of its integers, and of the reals that they stand for.
    ints: String,
    reals: String,
    dims: Vec<usize>,
    scale: Scale,
    /// Greatest size of an element.
    size: f32,
}

/// Names of a scale and its zero point.
#[derive(Debug, Clone)]
struct Scale {
    names: [String; 2],
    step: f32,
    unsigned: bool,
}

/// Numbers by chance (an LCG with Knuth's constants).
#[derive(Debug, Clone)]
pub struct Chance(pub u64);

impl Chance {
    /// A number less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }

    /// A number from `range`.
    fn within(&mut self, range: core::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A number in -1..1.
    pub fn uniform(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| size * self.uniform()).collect()
    }
}

/// A graph by chance; the same for the same `seed`.
pub fn random(seed: u64) -> Made {
    let mut chance = Chance(seed);
    chance.below(1);
    let mut graph = Drawing::new(chance);
    let operators = graph.chance.within(2..=4);
    let mut tries = 0;
    while graph.operators.len() < operators && tries < 60 {
        graph.operator();
        tries += 1;
    }
    graph.done()
}

/// A graph under construction.
struct Drawing {
    chance: Chance,
    version: i64,
    graph: Graph,
    values: Vec<Value>,
    operators: Vec<String>,
    inputs: usize,
    size: f32,
    names: usize,
}

fn longs(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|&extent| extent as i64).collect()
}

fn product(dims: &[usize]) -> usize {
    dims.iter().product()
}

fn info(name: &str, dims: Option<&[usize]>) -> ValueInfo {
    let dim = |&value: &i64| Dim { value };
    let shape = dims.map(|dims| Shape {
        dims: longs(dims).iter().map(dim).collect(),
    });
    ValueInfo {
        name: name.into(),
        kind: Some(Type {
            tensor: Some(TensorType {
                element: FLOAT,
                shape,
            }),
        }),
    }
}

/// An attribute of integers, or of the one that its name stands for.
fn ints(name: &str, all: &[i64]) -> Attribute {
    let lists = [
        "axes",
        "dilations",
        "ends",
        "kernel_shape",
        "pads",
        "perm",
        "starts",
        "strides",
    ];
    let list = lists.contains(&name);
    Attribute {
        name: name.into(),
        int: if list { 0 } else { all[0] },
        ints: if list { all.to_vec() } else { Vec::new() },
        kind: if list { 7 } else { 2 },
        ..Attribute::default()
    }
}

impl Drawing {
    fn new(mut chance: Chance) -> Self {
        let version = [11, 13, 13, 18][chance.below(4)];
        let rank = chance.within(2..=4);
        let alike = chance.within(2..=5);
        let mut dims = vec![1];
        for _ in 1..rank {
            let other = chance.within(1..=6);
            dims.push(if chance.once_in(3) { other } else { alike });
        }
        let size = 1.0 + chance.below(4) as f32;
        let graph = Graph {
            inputs: vec![info("x", Some(&dims))],
            ..Graph::default()
        };
        let mut this = Self {
            chance,
            version,
            graph,
            values: Vec::new(),
            operators: Vec::new(),
            inputs: product(&dims),
            size,
            names: 0,
        };
        let mut entry = "x".to_owned();
        let mut scaled = size;
        if this.chance.once_in(4) {
            (entry, scaled) = this.scaled(entry, &dims, size);
        }
        this.quantized(&entry, dims, -scaled, scaled);
        this
    }

    /// The input shifted and scaled, a number a feature.
    fn scaled(&mut self, from: String, dims: &[usize], size: f32) -> (String, f32) {
        let axis = self.chance.below(dims.len());
        let mut shape: Vec<usize> = vec![1; dims.len()];
        shape[axis] = dims[axis];
        let drop = self.chance.below(axis + 1);
        let shape = shape[drop..].to_vec();
        let shift = self.chance.floats(product(&shape), size / 2.0);
        let shift = self.floats(&shape, shift);
        let shifted = self.node("Sub", &[&from, &shift], vec![]);
        let factor = self.chance.floats(product(&shape), 0.5);
        let factor = factor.iter().map(|x| 1.0 + x).collect();
        let factor = self.floats(&shape, factor);
        let operator = ["Mul", "Div"][self.chance.below(2)];
        let scaled = self.node(operator, &[&shifted, &factor], vec![]);
        (scaled, size * 1.5 * 2.0)
    }

    fn name(&mut self, of: &str) -> String {
        self.names += 1;
        format!("{of}{}", self.names)
    }

    fn tensor(&mut self, dims: &[usize], data_type: i32) -> &mut Tensor {
        let name = self.name("c");
        self.graph.initializers.push(Tensor {
            name,
            dims: longs(dims),
            data_type,
            ..Tensor::default()
        });
        self.graph.initializers.last_mut().expect("just pushed")
    }

    fn floats(&mut self, dims: &[usize], floats: Vec<f32>) -> String {
        let tensor = self.tensor(dims, FLOAT);
        tensor.floats = floats;
        tensor.name.clone()
    }

    fn longs(&mut self, longs: &[i64]) -> String {
        let tensor = self.tensor(&[longs.len()], INT64);
        tensor.longs = longs.to_vec();
        tensor.name.clone()
    }

    fn bytes(&mut self, dims: &[usize], unsigned: bool, bytes: Vec<u8>) -> String {
        let tensor = self.tensor(dims, if unsigned { UINT8 } else { INT8 });
        tensor.raw = bytes;
        tensor.name.clone()
    }

    fn node(&mut self, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let output = self.name("v");
        self.graph.nodes.push(Node {
            inputs: inputs.iter().map(|&name| name.into()).collect(),
            outputs: vec![output.clone()],
            name: format!("the {operator} {output}"),
            operator: operator.into(),
            attributes,
            ..Node::default()
        });
        output
    }

    fn scale(&mut self, step: f32, zero: i32, unsigned: bool) -> Scale {
        let zero = if unsigned {
            zero as u8
        } else {
            (zero as i8).cast_unsigned()
        };
        let names = [
            self.floats(&[], vec![step]),
            self.bytes(&[], unsigned, vec![zero]),
        ];
        Scale {
            names,
            step,
            unsigned,
        }
    }

    /// A scale for reals from `low` to `high`.
    fn range(&mut self, low: f32, high: f32) -> Scale {
        let (low, high) = (low.min(0.0), high.max(1e-3));
        let unsigned = self.chance.once_in(4);
        let step = (high - low) / 255.0;
        let zero = (-low / step).round() as i32 - if unsigned { 0 } else { 128 };
        self.scale(step, zero, unsigned)
    }

    /// Quantizes reals by a scale; the value is the graph's next.
    fn by(&mut self, reals: &str, dims: Vec<usize>, scale: Scale, size: f32) {
        let [step, zero] = scale.names.clone();
        let ints = self.node("QuantizeLinear", &[reals, &step, &zero], vec![]);
        self.integers(ints, dims, scale, size);
    }

    /// Integers are the graph's next value.
    fn integers(&mut self, ints: String, dims: Vec<usize>, scale: Scale, size: f32) {
        let [step, zero] = scale.names.clone();
        let reals = self.node("DequantizeLinear", &[&ints, &step, &zero], vec![]);
        self.values.push(Value {
            ints,
            reals,
            dims,
            scale,
            size,
        });
    }

    fn quantized(&mut self, reals: &str, dims: Vec<usize>, low: f32, high: f32) {
        let scale = self.range(low, high);
        self.by(reals, dims, scale, high.max(-low));
    }

    fn operator(&mut self) {
        let newest = self.values.len() - 1;
        let at = match self.chance.once_in(4) {
            true => self.chance.below(newest + 1),
            false => newest,
        };
        let value = self.values[at].clone();
        let before = (self.graph.clone(), self.values.len());
        let made = match self.chance.below(16) {
            0..=2 => self.conv(&value),
            3 | 4 => self.matrices(&value),
            5..=7 => self.pair(&value),
            8 | 9 => self.moved(&value),
            10 => self.pool(&value),
            11 => self.mean(&value),
            12 => self.softmax(&value),
            13 => self.concat(&value),
            14 => self.padded(&value),
            _ => self.function(&value),
        };
        let fits = |value: &Value| product(&value.dims) <= MOST && value.dims.len() <= 5;
        match made {
            Some(what) if self.values.last().is_some_and(fits) => {
                let name = format!(
                    "{what} {:?} -> {:?}",
                    value.dims,
                    self.values.last().map(|it| &it.dims)
                );
                self.operators.push(name);
            }
            _ => {
                self.graph = before.0;
                self.values.truncate(before.1);
            }
        }
    }

    /// A window over `spatial`: attributes, and the extents that it leaves.
    fn window(
        &mut self,
        kernel: &[usize],
        spatial: &[usize],
        dilates: bool,
    ) -> Option<(Vec<Attribute>, Vec<usize>)> {
        let rank = spatial.len();
        let strides: Vec<usize> = (0..rank).map(|_| self.chance.within(1..=2)).collect();
        let dilations: Vec<usize> = (0..rank)
            .map(|_| {
                if dilates && self.chance.once_in(3) {
                    2
                } else {
                    1
                }
            })
            .collect();
        let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
        let mut attributes = vec![ints("strides", &longs(&strides))];
        if dilates {
            attributes.push(ints("dilations", &longs(&dilations)));
        }
        let mut extents = Vec::new();
        let mode =
            ["pads", "pads", "none", "SAME_UPPER", "SAME_LOWER", "VALID"][self.chance.below(6)];
        match mode {
            "SAME_UPPER" | "SAME_LOWER" => {
                extents.extend((0..rank).map(|axis| spatial[axis].div_ceil(strides[axis])));
            }
            _ => {
                let mut pads = vec![0; 2 * rank];
                if mode == "pads" {
                    for (at, pad) in pads.iter_mut().enumerate() {
                        *pad = self.chance.below(kernel[at % rank].min(3));
                    }
                    attributes.push(ints("pads", &longs(&pads)));
                }
                for axis in 0..rank {
                    let room = (spatial[axis] + pads[axis] + pads[rank + axis])
                        .checked_sub(reach(axis))?;
                    extents.push(room / strides[axis] + 1);
                }
            }
        }
        if !matches!(mode, "pads" | "none") {
            attributes.push(Attribute {
                name: "auto_pad".into(),
                string: mode.into(),
                kind: 3,
                ..Attribute::default()
            });
        }
        Some((attributes, extents))
    }

    /// Weights as reals, with a scale an index of `axis` or one for all.
    fn weights(&mut self, dims: &[usize], axis: usize, taps: usize) -> String {
        let unsigned = self.chance.once_in(5);
        let count = match self.version >= 13 && self.chance.once_in(2) {
            true => dims[axis],
            false => 1,
        };
        let step = 1.0 / (127.0 * (taps as f32).sqrt());
        let scales = (0..count)
            .map(|_| step * (1.2 + self.chance.uniform()))
            .collect();
        let zero = if unsigned {
            self.chance.within(100..=150) as u8
        } else {
            0
        };
        let data = (0..product(dims))
            .map(|_| self.chance.below(256) as u8)
            .collect();
        let extents: &[usize] = if count == 1 { &[] } else { &[count] };
        let data = self.bytes(dims, unsigned, data);
        let scale = self.floats(extents, scales);
        let zeros = self.bytes(extents, unsigned, vec![zero; count]);
        let axis = [ints("axis", &[axis as i64])];
        let axis = if count == 1 { &[][..] } else { &axis };
        self.node("DequantizeLinear", &[&data, &scale, &zeros], axis.to_vec())
    }

    /// A bias, float or int32.
    fn bias(&mut self, dims: &[usize], size: f32) -> String {
        let count = product(dims);
        let floats = self.chance.floats(count, size);
        if self.chance.once_in(2) {
            return self.floats(dims, floats);
        }
        let step = size / 100_000.0;
        let tensor = self.tensor(dims, INT32);
        tensor.ints = floats.iter().map(|x| (x / step) as i32).collect();
        let data = tensor.name.clone();
        let scale = self.floats(&[], vec![step]);
        let tensor = self.tensor(&[], INT32);
        tensor.ints = vec![0];
        let zero = tensor.name.clone();
        self.node("DequantizeLinear", &[&data, &scale, &zero], vec![])
    }

    /// A clamp or none, and the quantization.
    fn finish(&mut self, reals: String, dims: Vec<usize>, size: f32) {
        match self.chance.below(5) {
            0 | 1 => {
                let reals = self.node("Relu", &[&reals], vec![]);
                self.quantized(&reals, dims, 0.0, size);
            }
            2 => {
                let limits = [self.floats(&[], vec![0.0]), self.floats(&[], vec![6.0])];
                let reals = self.node("Clip", &[&reals, &limits[0], &limits[1]], vec![]);
                self.quantized(&reals, dims, 0.0, size);
            }
            _ => self.quantized(&reals, dims, -size, size),
        }
    }

    fn conv(&mut self, value: &Value) -> Option<String> {
        let &[1, channels, ref spatial @ ..] = &value.dims[..] else {
            return None;
        };
        if !matches!(spatial.len(), 1 | 2) {
            return None;
        }
        let depthwise = self.chance.once_in(3);
        let outputs = match depthwise {
            true => channels * self.chance.within(1..=2),
            false => [channels, self.chance.within(1..=5)][self.chance.below(2)],
        };
        let depth = if depthwise { 1 } else { channels };
        let kernel: Vec<usize> = spatial
            .iter()
            .map(|&it| self.chance.within(1..=it.min(3)))
            .collect();
        let (mut attributes, extents) = self.window(&kernel, spatial, true)?;
        attributes.push(ints(
            "group",
            &[if depthwise { channels as i64 } else { 1 }],
        ));
        let dims = [&[outputs, depth], &kernel[..]].concat();
        let taps = depth * product(&kernel);
        let weights = self.weights(&dims, 0, taps);
        let mut inputs = vec![value.reals.clone(), weights];
        if self.chance.once_in(2) {
            inputs.push(self.bias(&[outputs], value.size / 2.0));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let reals = self.node("Conv", &inputs, attributes);
        self.finish(
            reals,
            [&[1, outputs], &extents[..]].concat(),
            value.size * 1.5,
        );
        Some(format!("Conv {dims:?}"))
    }

    fn matrices(&mut self, value: &Value) -> Option<String> {
        let (&inputs, rows) = value.dims.split_last()?;
        let &height = rows.last()?;
        let outputs = [inputs, height, self.chance.within(1..=6)][self.chance.below(3)];
        if rows.len() == 1 && self.chance.once_in(2) {
            let transposed = self.chance.once_in(2);
            let dims = if transposed {
                [outputs, inputs]
            } else {
                [inputs, outputs]
            };
            let weights = self.weights(&dims, usize::from(!transposed), inputs);
            let shapes = [
                vec![outputs],
                vec![1, outputs],
                vec![height, 1],
                vec![1],
                vec![],
            ];
            let shape = shapes[self.chance.below(5)].clone();
            let bias = self.bias(&shape, value.size / 2.0);
            let attributes = vec![ints("transB", &[transposed.into()])];
            let reals = self.node("Gemm", &[&value.reals, &weights, &bias], attributes);
            self.finish(reals, vec![height, outputs], value.size * 1.5);
            return Some(format!("Gemm transB {transposed} and {shape:?}"));
        }
        let mut dims = vec![inputs, outputs];
        if self.chance.once_in(4) {
            dims.insert(0, 1);
        }
        let axis = dims.len() - 1;
        let weights = self.weights(&dims, axis, inputs);
        let mut reals = self.node("MatMul", &[&value.reals, &weights], vec![]);
        let mut shape = value.dims.clone();
        *shape.last_mut()? = outputs;
        while shape.len() < dims.len() {
            shape.insert(0, 1);
        }
        let mut what = format!("MatMul {dims:?}");
        if self.chance.once_in(2) {
            let shapes = [
                vec![outputs],
                vec![1, outputs],
                vec![height, 1],
                vec![1, 1, outputs],
                vec![],
            ];
            let added = shapes[self.chance.below(5)].clone();
            let bias = self.bias(&added, value.size / 2.0);
            reals = match self.chance.once_in(2) {
                true => self.node("Add", &[&reals, &bias], vec![]),
                false => self.node("Add", &[&bias, &reals], vec![]),
            };
            while shape.len() < added.len() {
                shape.insert(0, 1);
            }
            what += &format!(" and {added:?}");
        }
        self.finish(reals, shape, value.size * 1.5);
        Some(what)
    }

    /// A part of a value with extents of one by chance, and fewer axes by chance.
    fn part(&mut self, value: &Value) -> (Value, String) {
        let mut dims = value.dims.clone();
        for extent in &mut dims {
            if self.chance.once_in(2) {
                *extent = 1;
            }
        }
        let (starts, ends) = (vec![0; dims.len()], longs(&dims));
        let (starts, ends) = (self.longs(&starts), self.longs(&ends));
        let reals = self.node("Slice", &[&value.reals, &starts, &ends], vec![]);
        let [step, zero] = value.scale.names.clone();
        let ints = self.node("QuantizeLinear", &[&reals, &step, &zero], vec![]);
        let mut reals = self.node("DequantizeLinear", &[&ints, &step, &zero], vec![]);
        let ones = dims.iter().take_while(|&&extent| extent == 1).count();
        let drop = self.chance.below(ones + 1);
        if drop > 0 {
            dims.drain(..drop);
            let to = self.longs(&longs(&dims));
            reals = self.node("Reshape", &[&reals, &to], vec![]);
        }
        let what = format!("part {dims:?}");
        (
            Value {
                reals,
                dims,
                ..value.clone()
            },
            what,
        )
    }

    fn pair(&mut self, value: &Value) -> Option<String> {
        let operator = ["Add", "Sub", "Mul"][self.chance.below(3)];
        let (other, dims, size, what) = match self.chance.below(3) {
            0 => {
                let at = self.chance.below(self.values.len());
                let other = self.values[at].clone();
                (
                    other.reals,
                    other.dims.clone(),
                    other.size,
                    format!("{:?}", other.dims),
                )
            }
            1 => {
                let at = self.chance.below(self.values.len());
                let other = self.values[at].clone();
                let (part, what) = self.part(&other);
                (part.reals, part.dims, part.size, what)
            }
            _ => {
                let mut dims = value.dims.clone();
                for extent in &mut dims {
                    if self.chance.once_in(2) {
                        *extent = 1;
                    }
                }
                let ones = dims.iter().take_while(|&&extent| extent == 1).count();
                dims.drain(..self.chance.below(ones + 1));
                if self.chance.once_in(8) {
                    dims.insert(0, 1);
                }
                let floats = self.chance.floats(product(&dims), 2.0);
                (
                    self.floats(&dims, floats),
                    dims.clone(),
                    2.0,
                    format!("constant {dims:?}"),
                )
            }
        };
        let rank = dims.len().max(value.dims.len());
        let padded = |dims: &[usize]| [&vec![1; rank - dims.len()], dims].concat();
        let mut shape = Vec::new();
        for (a, b) in padded(&dims).into_iter().zip(padded(&value.dims)) {
            if a != b && a != 1 && b != 1 {
                return None;
            }
            shape.push(a.max(b));
        }
        let mut inputs = [&*value.reals, &*other];
        let swapped = self.chance.once_in(2);
        if swapped {
            inputs.swap(0, 1);
        }
        let reals = self.node(operator, &inputs, vec![]);
        let size = if operator == "Mul" {
            size * value.size
        } else {
            size + value.size
        };
        self.finish(reals, shape, size);
        Some(format!(
            "{operator} with {what}{}",
            if swapped { " before it" } else { "" }
        ))
    }

    /// What only moves elements, on integers or on reals.
    fn moving(
        &mut self,
        value: &Value,
        node: impl Fn(&mut Self, &str) -> String,
        dims: Vec<usize>,
    ) {
        // The meaning on integers came with version 13 for most of them.
        if self.version >= 13 && self.chance.once_in(3) {
            let ints = node(self, &value.ints);
            self.integers(ints, dims, value.scale.clone(), value.size);
            return;
        }
        let reals = node(self, &value.reals);
        match self.chance.once_in(4) {
            true => self.quantized(&reals, dims, -value.size, value.size),
            false => self.by(&reals, dims, value.scale.clone(), value.size),
        }
    }

    fn moved(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let dims = value.dims.clone();
        match self.chance.below(6) {
            0 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                for at in (1..rank).rev() {
                    perm.swap(at, self.chance.below(at + 1));
                }
                let turned: Vec<usize> = perm.iter().map(|&axis| dims[axis]).collect();
                let attributes = match perm.iter().rev().copied().eq(0..rank) {
                    true => vec![],
                    false => vec![ints("perm", &longs(&perm))],
                };
                let node = |this: &mut Self, from: &str| {
                    this.node("Transpose", &[from], attributes.clone())
                };
                self.moving(value, node, turned);
                Some(format!("Transpose {perm:?}"))
            }
            1 => {
                let axis = self.chance.below(rank + 1);
                let flat = vec![product(&dims[..axis]), product(&dims[axis..])];
                let said = if axis < rank && self.chance.once_in(2) {
                    axis as i64 - rank as i64
                } else {
                    axis as i64
                };
                let node = |this: &mut Self, from: &str| {
                    this.node("Flatten", &[from], vec![ints("axis", &[said])])
                };
                self.moving(value, node, flat);
                Some(format!("Flatten {said}"))
            }
            2 => {
                let ones: Vec<usize> = (0..rank).filter(|&axis| dims[axis] == 1).collect();
                let gone: Vec<usize> = ones
                    .into_iter()
                    .filter(|_| self.chance.once_in(2))
                    .collect();
                if gone.is_empty() || gone.len() + 2 > rank {
                    return None;
                }
                let left = (0..rank)
                    .filter(|axis| !gone.contains(axis))
                    .map(|axis| dims[axis])
                    .collect();
                self.axes(value, "Squeeze", &longs(&gone), left);
                Some(format!("Squeeze {gone:?}"))
            }
            3 => {
                let axis = self.chance.below(rank + 1);
                let mut more = dims;
                more.insert(axis, 1);
                let said = if self.chance.once_in(2) {
                    axis as i64 - rank as i64 - 1
                } else {
                    axis as i64
                };
                self.axes(value, "Unsqueeze", &[said], more);
                Some(format!("Unsqueeze {said}"))
            }
            4 => {
                let (mut starts, mut ends, mut steps, mut left) =
                    (vec![], vec![], vec![], dims.clone());
                let axes: Vec<i64> = (0..rank as i64)
                    .filter(|_| self.chance.once_in(2))
                    .collect();
                for &axis in &axes {
                    let extent = dims[axis as usize];
                    let start = self.chance.below(extent);
                    let end = self.chance.within(start + 1..=extent);
                    let step = self.chance.within(1..=2);
                    left[axis as usize] = (end - start).div_ceil(step);
                    let back = self.chance.once_in(3);
                    starts.push(if back {
                        start as i64 - extent as i64
                    } else {
                        start as i64
                    });
                    ends.push(if end == extent { i64::MAX } else { end as i64 });
                    steps.push(step as i64);
                }
                let lists = [&starts, &ends, &axes, &steps].map(|list| self.longs(list));
                let node = |this: &mut Self, from: &str| {
                    let inputs = [from, &lists[0], &lists[1], &lists[2], &lists[3]];
                    this.node("Slice", &inputs, vec![])
                };
                self.moving(value, node, left);
                Some(format!("Slice {starts:?} {ends:?} {axes:?} {steps:?}"))
            }
            _ => {
                let shape = self.reshaped(&dims)?;
                let mut said = longs(&shape);
                let axis = self.chance.below(said.len());
                match self.chance.below(3) {
                    0 => said[axis] = -1,
                    1 if dims.get(axis) == Some(&shape[axis]) => said[axis] = 0,
                    _ => {}
                }
                let to = self.longs(&said);
                let node = |this: &mut Self, from: &str| this.node("Reshape", &[from, &to], vec![]);
                self.moving(value, node, shape);
                Some(format!("Reshape {said:?}"))
            }
        }
    }

    /// Another shape for as many elements.
    fn reshaped(&mut self, dims: &[usize]) -> Option<Vec<usize>> {
        let mut left = product(dims);
        let rank = self.chance.within(2..=4);
        let mut shape = Vec::new();
        for _ in 1..rank {
            let factors: Vec<usize> = (1..=left.min(12))
                .filter(|it| left.is_multiple_of(*it))
                .collect();
            let factor = factors[self.chance.below(factors.len())];
            shape.push(factor);
            left /= factor;
        }
        shape.push(left);
        if self.chance.once_in(2) {
            shape[1..].reverse();
        }
        Some(shape)
    }

    /// Axes that come or go: an attribute once, an input today.
    fn axes(&mut self, value: &Value, operator: &str, axes: &[i64], dims: Vec<usize>) {
        let list = if self.version >= 13 {
            Some(self.longs(axes))
        } else {
            None
        };
        let node = |this: &mut Self, from: &str| match &list {
            Some(list) => this.node(operator, &[from, list], vec![]),
            None => this.node(operator, &[from], vec![ints("axes", axes)]),
        };
        self.moving(value, node, dims);
    }

    fn pool(&mut self, value: &Value) -> Option<String> {
        let &[1, channels, ref spatial @ ..] = &value.dims[..] else {
            return None;
        };
        if !matches!(spatial.len(), 1 | 2) {
            return None;
        }
        let ones = vec![1; spatial.len()];
        let all = [&[1, channels], &ones[..]].concat();
        match self.chance.below(4) {
            0 => {
                let reals = self.node("GlobalMaxPool", &[&value.reals], vec![]);
                self.by(&reals, all, value.scale.clone(), value.size);
                Some("GlobalMaxPool".into())
            }
            1 => {
                let reals = self.node("GlobalAveragePool", &[&value.reals], vec![]);
                self.quantized(&reals, all, -value.size, value.size);
                Some("GlobalAveragePool".into())
            }
            at => {
                let kernel: Vec<usize> = spatial
                    .iter()
                    .map(|&it| self.chance.within(1..=it.min(3)))
                    .collect();
                let (mut attributes, extents) = self.window(&kernel, spatial, false)?;
                attributes.push(ints("kernel_shape", &longs(&kernel)));
                let dims = [&[1, channels], &extents[..]].concat();
                let operator = ["MaxPool", "AveragePool"][at - 2];
                if at == 2 {
                    let node = |this: &mut Self, from: &str| {
                        this.node(operator, &[from], attributes.clone())
                    };
                    self.moving(value, node, dims);
                } else {
                    attributes.push(ints("count_include_pad", &[self.chance.below(2) as i64]));
                    let reals = self.node(operator, &[&value.reals], attributes);
                    self.by(&reals, dims, value.scale.clone(), value.size);
                }
                Some(format!("{operator} {kernel:?}"))
            }
        }
    }

    fn mean(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let all = rank > 2 && !self.chance.once_in(4);
        let axes: Vec<usize> = match all {
            true => (2..rank).collect(),
            false => vec![self.chance.below(rank)],
        };
        let keep = self.chance.once_in(2);
        let said: Vec<i64> = axes
            .iter()
            .map(|&axis| {
                axis as i64
                    - if self.chance.once_in(2) {
                        rank as i64
                    } else {
                        0
                    }
            })
            .collect();
        let mut attributes = vec![ints("keepdims", &[keep.into()])];
        let mut inputs = vec![value.reals.clone()];
        match self.version {
            18.. => inputs.push(self.longs(&said)),
            _ => attributes.push(ints("axes", &said)),
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let reals = self.node("ReduceMean", &inputs, attributes);
        let left = (0..rank).filter(|axis| keep || !axes.contains(axis));
        let dims = left
            .map(|axis| {
                if axes.contains(&axis) {
                    1
                } else {
                    value.dims[axis]
                }
            })
            .collect();
        self.quantized(&reals, dims, -value.size, value.size);
        Some(format!("ReduceMean {said:?} {keep}"))
    }

    /// The scale of what lies between 0 and 1.
    fn share(&mut self) -> Scale {
        let unsigned = self.chance.once_in(4);
        self.scale(1.0 / 256.0, if unsigned { 0 } else { -128 }, unsigned)
    }

    fn softmax(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let axis = self.chance.below(rank);
        let said = if self.chance.once_in(2) {
            axis as i64 - rank as i64
        } else {
            axis as i64
        };
        let attributes = match self.chance.once_in(3) {
            true => vec![],
            false => vec![ints("axis", &[said])],
        };
        let what = format!("Softmax {:?}", attributes.first().map(|it| it.int));
        let reals = self.node("Softmax", &[&value.reals], attributes);
        let scale = self.share();
        self.by(&reals, value.dims.clone(), scale, 1.0);
        Some(what)
    }

    fn concat(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let axis = self.chance.below(rank);
        let mut inputs = vec![value.reals.clone()];
        let (mut dims, mut size) = (value.dims.clone(), value.size);
        for _ in 0..self.chance.within(1..=2) {
            let fits = |it: &&Value| {
                it.dims.len() == rank
                    && (0..rank).all(|at| at == axis || it.dims[at] == value.dims[at])
            };
            let others: Vec<Value> = self.values.iter().filter(fits).cloned().collect();
            let other = others[self.chance.below(others.len())].clone();
            dims[axis] += other.dims[axis];
            size = size.max(other.size);
            let at = self.chance.below(inputs.len() + 1);
            inputs.insert(at, other.reals);
        }
        let said = if self.chance.once_in(2) {
            axis as i64 - rank as i64
        } else {
            axis as i64
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let reals = self.node("Concat", &inputs, vec![ints("axis", &[said])]);
        self.quantized(&reals, dims, -size, size);
        Some(format!("Concat of {} along {said}", inputs.len()))
    }

    fn padded(&mut self, value: &Value) -> Option<String> {
        let rank = value.dims.len();
        let pads: Vec<usize> = (0..2 * rank)
            .map(|_| {
                if self.chance.once_in(2) {
                    self.chance.below(3)
                } else {
                    0
                }
            })
            .collect();
        let dims = (0..rank)
            .map(|axis| value.dims[axis] + pads[axis] + pads[rank + axis])
            .collect();
        let list = self.longs(&longs(&pads));
        let integers = self.version >= 13 && self.chance.once_in(2);
        let from = if integers { &value.ints } else { &value.reals };
        let mut inputs = vec![from.clone(), list];
        let given = self.chance.once_in(2);
        if given {
            let zero = self.chance.once_in(2);
            let real = self.chance.uniform() * value.size / 2.0;
            let real = if zero { 0.0 } else { real };
            let byte = self.chance.below(256) as u8;
            inputs.push(match integers {
                true => self.bytes(&[], value.scale.unsigned, vec![byte]),
                false => self.floats(&[], vec![real]),
            });
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let made = self.node("Pad", &inputs, vec![]);
        match integers {
            true => self.integers(made, dims, value.scale.clone(), value.size),
            false => self.by(&made, dims, value.scale.clone(), value.size),
        }
        Some(format!("Pad {pads:?}, integers {integers}, given {given}"))
    }

    fn function(&mut self, value: &Value) -> Option<String> {
        let operator =
            ["Sigmoid", "Tanh", "LeakyRelu", "Relu", "Clip", "HardSwish"][self.chance.below(6)];
        let from = &*value.reals;
        let dims = value.dims.clone();
        match operator {
            "HardSwish" if self.version < 14 => return None,
            "Clip" => {
                let limits = [self.floats(&[], vec![0.0]), self.floats(&[], vec![6.0])];
                let reals = self.node(operator, &[from, &limits[0], &limits[1]], vec![]);
                self.quantized(&reals, dims, 0.0, value.size);
            }
            "LeakyRelu" => {
                let alpha = Attribute {
                    name: "alpha".into(),
                    float: 0.25,
                    kind: 1,
                    ..Attribute::default()
                };
                let reals = self.node(operator, &[from], vec![alpha]);
                self.quantized(&reals, dims, -value.size / 4.0, value.size);
            }
            _ => {
                let reals = self.node(operator, &[from], vec![]);
                match operator {
                    "Sigmoid" => {
                        let scale = self.share();
                        self.by(&reals, dims, scale, 1.0);
                    }
                    "Tanh" => {
                        let scale = self.scale(1.0 / 128.0, 0, false);
                        self.by(&reals, dims, scale, 1.0);
                    }
                    "Relu" => self.quantized(&reals, dims, 0.0, value.size),
                    _ => self.quantized(&reals, dims, -0.375, value.size),
                }
            }
        }
        Some(operator.into())
    }

    fn done(mut self) -> Made {
        let value = self.values.last().expect("the input is one").clone();
        self.graph.outputs = vec![info(&value.reals, None)];
        let opsets = vec![OperatorSet {
            domain: String::new(),
            version: self.version,
        }];
        let model = Model {
            graph: Some(self.graph),
            opsets,
        };
        // The importer's messages leave out the format's version, which other readers ask for.
        let file = [&[8, 8], &*model.encode_to_vec()].concat();
        Made {
            file,
            inputs: self.inputs,
            size: self.size,
            step: value.scale.step,
            operators: [vec![format!("version {}", self.version)], self.operators].concat(),
        }
    }
}
