//! Random small int8 graphs as ONNX files: two to four operators of any rank between QuantizeLinear and
//! DequantizeLinear, with extents that are often alike, so that a wrong axis fits as well as the right one.
//!
//! The file includes the importer's own messages, so whoever includes this one has `prost`.

mod elements;
mod layers;
mod moves;
mod pools;
#[path = "../../../src/onnx/proto.rs"]
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

    /// A clamp or none, and the quantization.
    fn finish(&mut self, reals: String, dims: Vec<usize>, size: f32) {
        match self.chance.below(5) {
            0 | 1 => {
                let reals = self.node("Relu", &[&reals], vec![]);
                self.quantized(&reals, dims, 0.0, size);
            }
            2 => {
                let (reals, low) = self.clip(&reals);
                self.quantized(&reals, dims, low.max(-size), size);
            }
            _ => self.quantized(&reals, dims, -size, size),
        }
    }

    /// A clamp to some range, and its least value.
    fn clip(&mut self, reals: &str) -> (String, f32) {
        let ranges = [(0.0, 6.0), (-1.0, 1.0), (-1.7, 4.0), (f32::MIN, 2.0)];
        let (low, high) = ranges[self.chance.below(4)];
        let limits = [low, high].map(|limit| self.floats(&[], vec![limit]));
        // What is not given is as low as can be.
        let least = if low == f32::MIN { "" } else { &limits[0] };
        (self.node("Clip", &[reals, least, &limits[1]], vec![]), low)
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
