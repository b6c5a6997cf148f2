//! TFLite files written in place, sound or broken wherever a test wants them broken.

/// A value of a flatbuffer.
#[derive(Debug, Clone)]
pub enum Flat {
    /// A number of up to 8 bytes, little-endian.
    Number(Vec<u8>),
    /// A table: its fields by number.
    Table(Vec<(usize, Flat)>),
    /// A vector of tables.
    Tables(Vec<Flat>),
    /// A vector of numbers: how many, and their bytes.
    Numbers(usize, Vec<u8>),
    /// A text.
    Text(String),
    /// An offset to wherever.
    Wild(u32),
}

impl Flat {
    /// A vector of 32-bit integers.
    pub fn ints(all: &[i32]) -> Self {
        Self::Numbers(
            all.len(),
            all.iter().flat_map(|it| it.to_le_bytes()).collect(),
        )
    }

    fn floats(all: &[f32]) -> Self {
        Self::Numbers(
            all.len(),
            all.iter().flat_map(|it| it.to_le_bytes()).collect(),
        )
    }

    fn longs(all: &[i64]) -> Self {
        Self::Numbers(
            all.len(),
            all.iter().flat_map(|it| it.to_le_bytes()).collect(),
        )
    }

    /// Appends the value, what it refers to after it; where it begins.
    fn write(&self, out: &mut Vec<u8>) -> usize {
        while !out.len().is_multiple_of(4) {
            out.push(0);
        }
        match self {
            Self::Number(_) | Self::Wild(_) => unreachable!("it lies inside its table"),
            Self::Table(fields) => write_table(fields, out),
            Self::Numbers(len, bytes) => {
                // Other readers want elements at multiples of their size, weights of sixteen.
                while !(out.len() + 4).is_multiple_of(16) {
                    out.push(0);
                }
                let start = out.len();
                out.extend((*len as u32).to_le_bytes());
                out.extend(bytes);
                start
            }
            Self::Text(text) => {
                let start = out.len();
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
                start
            }
            Self::Tables(tables) => {
                let start = out.len();
                out.extend((tables.len() as u32).to_le_bytes());
                out.resize(out.len() + 4 * tables.len(), 0);
                for (index, table) in tables.iter().enumerate() {
                    refer(start + 4 + 4 * index, table, out);
                }
                start
            }
        }
    }
}

/// Writes what `at` refers to, and the offset there.
fn refer(at: usize, to: &Flat, out: &mut Vec<u8>) {
    let offset = match to {
        Flat::Wild(offset) => *offset,
        _ => (to.write(out) - at) as u32,
    };
    out[at..at + 4].copy_from_slice(&offset.to_le_bytes());
}

fn write_table(fields: &[(usize, Flat)], out: &mut Vec<u8>) -> usize {
    let count = fields.iter().map(|(field, _)| field + 1).max().unwrap_or(0);
    let mut places = vec![0_u16; count];
    let mut end = 4_u16;
    for (field, value) in fields {
        places[*field] = end;
        end += match value {
            Flat::Number(bytes) => bytes.len().next_multiple_of(4) as u16,
            _ => 4,
        };
    }
    let places_at = out.len();
    out.extend((4 + 2 * count as u16).to_le_bytes());
    out.extend(end.to_le_bytes());
    out.extend(places.iter().flat_map(|place| place.to_le_bytes()));
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
    let start = out.len();
    out.extend(((start - places_at) as i32).to_le_bytes());
    out.resize(start + usize::from(end), 0);
    for (field, value) in fields {
        let at = start + usize::from(places[*field]);
        match value {
            Flat::Number(bytes) => out[at..at + bytes.len()].copy_from_slice(bytes),
            other => refer(at, other, out),
        }
    }
    start
}

/// A number of one byte.
pub fn byte(value: i8) -> Flat {
    Flat::Number(value.to_le_bytes().to_vec())
}

/// A float.
pub fn float(value: f32) -> Flat {
    Flat::Number(value.to_le_bytes().to_vec())
}

/// A number of four bytes.
pub fn int(value: i32) -> Flat {
    Flat::Number(value.to_le_bytes().to_vec())
}

/// A tensor of the model.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<i32>,
    pub kind: i8,
    pub buffer: i32,
    pub scales: Vec<f32>,
    pub zero_points: Vec<i64>,
    pub axis: i32,
    /// Further fields.
    pub more: Vec<(usize, Flat)>,
}

/// An operator of the model.
#[derive(Debug, Clone)]
pub struct Operator {
    pub code: i32,
    pub inputs: Vec<i32>,
    pub outputs: Vec<i32>,
    pub options: Vec<(usize, Flat)>,
}

/// A model with one subgraph.
#[derive(Debug, Clone)]
pub struct Model {
    pub tensors: Vec<Tensor>,
    pub operators: Vec<Operator>,
    pub inputs: Vec<i32>,
    pub outputs: Vec<i32>,
    /// The code of each operator, by its number in the schema, and the name of a custom one.
    pub codes: Vec<(i32, Option<String>)>,
    pub buffers: Vec<Vec<u8>>,
    /// Fields of the last buffer's table, in place of its data.
    pub last_buffer: Option<Vec<(usize, Flat)>>,
}

pub const ADD: i32 = 0;
pub const AVERAGE_POOL_2D: i32 = 1;
pub const CONCATENATION: i32 = 2;
pub const CONV_2D: i32 = 3;
pub const DEPTHWISE_CONV_2D: i32 = 4;
pub const DEQUANTIZE: i32 = 6;
pub const FULLY_CONNECTED: i32 = 9;
pub const LOGISTIC: i32 = 14;
pub const MAX_POOL_2D: i32 = 17;
pub const MUL: i32 = 18;
pub const RELU: i32 = 19;
pub const RELU6: i32 = 21;
pub const RESHAPE: i32 = 22;
pub const SOFTMAX: i32 = 25;
pub const TANH: i32 = 28;
pub const PAD: i32 = 34;
pub const TRANSPOSE: i32 = 39;
pub const MEAN: i32 = 40;
pub const SUB: i32 = 41;
pub const SQUEEZE: i32 = 43;
pub const STRIDED_SLICE: i32 = 45;
pub const PADV2: i32 = 60;
pub const SLICE: i32 = 65;
pub const EXPAND_DIMS: i32 = 70;
pub const LEAKY_RELU: i32 = 98;
pub const QUANTIZE: i32 = 114;
pub const HARD_SWISH: i32 = 117;
pub const INT8: i8 = 9;
pub const INT32: i8 = 2;

/// A tensor of one scale, or of one an index of its first axis.
pub fn tensor(
    name: &str,
    shape: &[i32],
    kind: i8,
    buffer: i32,
    scales: &[f32],
    zero: i64,
) -> Tensor {
    Tensor {
        name: name.into(),
        shape: shape.into(),
        kind,
        buffer,
        scales: scales.into(),
        zero_points: vec![zero; scales.len()],
        axis: 0,
        more: Vec::new(),
    }
}

impl Model {
    /// A sound one: a convolution with a window of 3 by 3 and a softmax.
    pub fn sound() -> Self {
        let biases = [100_i32, -100, 7];
        Self {
            tensors: vec![
                tensor("image", &[1, 4, 4, 2], INT8, 0, &[0.5], -3),
                tensor("filter", &[3, 3, 3, 2], INT8, 1, &[0.02, 0.03, 0.01], 0),
                tensor("bias", &[3], INT32, 2, &[0.01, 0.015, 0.005], 0),
                tensor("features", &[1, 4, 4, 3], INT8, 0, &[0.25], 5),
                tensor("classes", &[1, 4, 4, 3], INT8, 0, &[1.0 / 256.0], -128),
            ],
            operators: vec![
                Operator {
                    code: 0,
                    inputs: vec![0, 1, 2],
                    outputs: vec![3],
                    // Padding SAME, steps of one.
                    options: vec![(0, byte(0)), (1, int(1)), (2, int(1))],
                },
                Operator {
                    code: 1,
                    inputs: vec![3],
                    outputs: vec![4],
                    options: vec![(0, float(1.0))],
                },
            ],
            inputs: vec![0],
            outputs: vec![4],
            codes: vec![(CONV_2D, None), (SOFTMAX, None)],
            buffers: vec![
                Vec::new(),
                (0..54).collect(),
                biases.iter().flat_map(|it| it.to_le_bytes()).collect(),
            ],
            last_buffer: None,
        }
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut buffers: Vec<Flat> = self
            .buffers
            .iter()
            .map(|data| Flat::Table(vec![(0, Flat::Numbers(data.len(), data.clone()))]))
            .collect();
        if let (Some(last), Some(fields)) = (buffers.last_mut(), &self.last_buffer) {
            *last = Flat::Table(fields.clone());
        }
        let codes = self.codes.iter().map(|(code, custom)| {
            let mut fields = vec![(0, byte((*code).min(127) as i8)), (3, int(*code))];
            fields.extend(custom.clone().map(|name| (1, Flat::Text(name))));
            Flat::Table(fields)
        });
        let operators = self.operators.iter().map(|one| {
            let code = self.codes.get(one.code as usize);
            Flat::Table(vec![
                (0, int(one.code)),
                (1, Flat::ints(&one.inputs)),
                (2, Flat::ints(&one.outputs)),
                (3, byte(options_type(code.map_or(0, |it| it.0)))),
                (4, Flat::Table(one.options.clone())),
            ])
        });
        let subgraph = Flat::Table(vec![
            (0, Flat::Tables(self.tensors.iter().map(table).collect())),
            (1, Flat::ints(&self.inputs)),
            (2, Flat::ints(&self.outputs)),
            (3, Flat::Tables(operators.collect())),
        ]);
        let model = Flat::Table(vec![
            (0, int(3)),
            (1, Flat::Tables(codes.collect())),
            (2, Flat::Tables(vec![subgraph])),
            (4, Flat::Tables(buffers)),
        ]);
        let mut out = b"\0\0\0\0TFL3".to_vec();
        refer(0, &model, &mut out);
        out
    }
}

/// Which table an operator's options are, by its number in the schema's union.
fn options_type(code: i32) -> i8 {
    match code {
        ADD => 11,
        AVERAGE_POOL_2D | MAX_POOL_2D => 5,
        CONCATENATION => 10,
        LEAKY_RELU => 75,
        MUL => 21,
        SUB => 28,
        DEPTHWISE_CONV_2D => 2,
        FULLY_CONNECTED => 8,
        RESHAPE => 17,
        SOFTMAX => 9,
        MEAN => 27,
        STRIDED_SLICE => 32,
        SLICE => 48,
        _ => 1,
    }
}

fn table(tensor: &Tensor) -> Flat {
    let quantization = Flat::Table(vec![
        (2, Flat::floats(&tensor.scales)),
        (3, Flat::longs(&tensor.zero_points)),
        (6, int(tensor.axis)),
    ]);
    let mut fields = vec![
        (0, Flat::ints(&tensor.shape)),
        (1, byte(tensor.kind)),
        (2, int(tensor.buffer)),
        (3, Flat::Text(tensor.name.clone())),
        (4, quantization),
    ];
    fields.extend(tensor.more.iter().cloned());
    Flat::Table(fields)
}
