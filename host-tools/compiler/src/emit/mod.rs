//! Graphs to operators of a program.
//!
//! [`lower`] turns each node into operators whose offsets are still relative: data to its region of
//! the arena, constants to the start of the constants. The planner gives every region its place,
//! and [`Lowered::write`] makes all offsets absolute and the program's bytes.

mod cortex_m;
mod layout;
mod neural;
mod rearrange;
pub mod scale;
mod simple;
mod tables;
mod write;

pub use cortex_m::CortexM;
pub use edgeward::program::proof::Weights;
pub use layout::{Natural, Output, WeightLayout};
pub(crate) use rearrange::is_suffix;
pub(crate) use tables::table as function_table;

use edgeward::program::layout as core_layout;
use edgeward::program::op::Op;
use edgeward::program::overlap::least_distance;

use crate::error::{CompileError, Reason, Refusal};
use crate::graph::{Graph, Kind, Node, Tensor, TensorId};
use scale::Scale;

/// A stretch of the arena that tensors share which have the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The first of its tensors.
    pub name: String,
    /// That one's extents.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: u64,
}

/// Which region: an index into [`Lowered::regions`].
pub type RegionId = usize;

/// How an operator's output may overlap one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Not at all.
    Apart,
    /// As long as it begins at least so many bytes before the input.
    Before(u32),
    /// Exactly in place.
    Same,
}

impl Overlap {
    /// The least distance.
    pub(crate) fn least(self) -> Option<u64> {
        match self {
            Self::Before(distance) => Some(u64::from(distance)),
            _ => None,
        }
    }

    /// Whether it may only lie exactly in place.
    pub(crate) fn same(self) -> bool {
        self == Self::Same
    }
}

/// One operator and the regions that it touches.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The operator, with relative offsets.
    pub op: Op,
    /// The node that it came from.
    pub node: usize,
    /// Regions it reads, each with how the output may overlap it.
    pub reads: Vec<(RegionId, Overlap)>,
    /// The region it writes.
    pub write: RegionId,
    /// Bytes of scratch.
    pub scratch: u64,
    /// Multiplications.
    pub macs: u64,
}

/// A graph as operators, before the planner.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// Operators in order.
    pub steps: Vec<Step>,
    /// Regions of the arena.
    pub regions: Vec<Region>,
    /// Weights, channels, tables.
    pub constants: Vec<u8>,
    /// Bytes of weights among the constants.
    pub weight_bytes: u64,
    /// The input's region.
    pub input: RegionId,
    /// The output's region.
    pub output: RegionId,
    /// Where the input's features lie among the constants.
    pub features: u32,
}

/// Turns a checked graph into operators.
///
/// # Errors
/// When a node has no operator in programs, or a number does not fit one.
pub fn lower(graph: &Graph, layout: &dyn WeightLayout) -> Result<Lowered, CompileError> {
    let mut emitter = Emitter {
        graph,
        layout,
        region_of: vec![None; graph.tensors.len()],
        out: Lowered {
            steps: Vec::new(),
            regions: Vec::new(),
            constants: Vec::new(),
            weight_bytes: 0,
            input: 0,
            output: 0,
            features: 0,
        },
    };
    emitter.features()?;
    for &input in &graph.inputs {
        emitter.out.input = emitter.region(input);
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        emitter.node(index, node)?;
    }
    for &output in &graph.outputs {
        emitter.out.output = emitter.region(output);
    }
    Ok(emitter.out)
}

struct Emitter<'a> {
    graph: &'a Graph,
    layout: &'a dyn WeightLayout,
    region_of: Vec<Option<RegionId>>,
    out: Lowered,
}

/// Errors of one node.
struct At<'a> {
    index: usize,
    node: &'a Node,
}

impl At<'_> {
    fn refuse(&self, tensor: Option<&Tensor>, reason: Reason) -> CompileError {
        CompileError::Refused(Box::new(Refusal {
            operator: self.node.kind.name().into(),
            index: self.index,
            tensor: tensor.map(|tensor| tensor.name.clone()),
            reason,
        }))
    }

    fn quantization(&self, tensor: &Tensor, why: impl Into<String>) -> CompileError {
        self.refuse(Some(tensor), Reason::Quantization(why.into()))
    }

    /// A number as a field of a record holds it.
    fn fit<T: TryFrom<usize>>(&self, what: &'static str, value: usize) -> Result<T, CompileError> {
        T::try_from(value).map_err(|_| CompileError::TooLarge {
            place: self.node.name.clone(),
            what,
            value: value as u64,
            limit: (1_u64 << (8 * size_of::<T>())) - 1,
        })
    }

    /// The one scale and zero point of an activation.
    fn activation(&self, tensor: &Tensor) -> Result<(f32, i8), CompileError> {
        let parameters = tensor.per_tensor();
        parameters.ok_or_else(|| self.quantization(tensor, "it has no single scale and zero point"))
    }

    /// A scale that kernels can apply: its exponent is -31 to `limit`.
    fn scale(&self, tensor: &Tensor, value: f64, limit: i32) -> Result<Scale, CompileError> {
        let scale = scale::quantize_multiplier(value);
        if value.is_finite() && value >= 0.0 && scale.shift <= limit {
            return Ok(scale);
        }
        Err(self.quantization(tensor, format!("its scale asks for a factor of {value:e}")))
    }
}

impl Emitter<'_> {
    fn region(&mut self, id: TensorId) -> RegionId {
        if let Some(region) = self.region_of[id.0] {
            return region;
        }
        let tensor = self.graph.tensor(id);
        self.out.regions.push(Region {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            bytes: tensor.elements() as u64,
        });
        let region = self.out.regions.len() - 1;
        self.region_of[id.0] = Some(region);
        region
    }

    /// Stores how the caller's floats are scaled before they are quantized.
    fn features(&mut self) -> Result<(), CompileError> {
        let Some(affine) = &self.graph.input_affine else {
            return Ok(());
        };
        if u16::try_from(affine.features.len()).is_err() || u32::try_from(affine.inner).is_err() {
            return Err(CompileError::TooLarge {
                place: "the model's input".into(),
                what: "the number of its features",
                value: affine.features.len() as u64,
                limit: u16::MAX.into(),
            });
        }
        let mut bytes = Vec::new();
        for (subtract, multiply) in &affine.features {
            bytes.extend_from_slice(&subtract.to_le_bytes());
            bytes.extend_from_slice(&multiply.to_le_bytes());
        }
        self.out.features = self.store(&bytes, 4);
        Ok(())
    }

    /// Appends constants at a multiple of `alignment` and says where.
    fn store(&mut self, bytes: &[u8], alignment: usize) -> u32 {
        let start = self.out.constants.len().next_multiple_of(alignment);
        self.out.constants.resize(start, 0);
        self.out.constants.extend_from_slice(bytes);
        start as u32
    }

    /// Appends an operator that writes the whole of `output`.
    fn push(&mut self, node: usize, op: Op, inputs: &[TensorId], output: TensorId, macs: u64) {
        let layout = self.layout.layout();
        let distance = least_distance(&op, layout);
        let write = self.region(output);
        let extent = self.out.regions[write].bytes;
        let mut reads = Vec::new();
        for (place, &input) in inputs.iter().enumerate() {
            let region = self.region(input);
            let overlap = match (&op, place, distance) {
                // The other addend lies exactly on the output or apart from it.
                (Op::ConvAdd(_), 1.., _) => Overlap::Same,
                // What is repeated is read again after more of the output was written.
                (Op::Add(_) | Op::Mul(_), ..) if self.out.regions[region].bytes != extent => {
                    Overlap::Apart
                }
                (_, _, Some(distance)) => Overlap::Before(distance),
                (_, _, None) => Overlap::Apart,
            };
            reads.push((region, overlap));
        }
        let scratch = core_layout::scratch_bytes(layout, &op);
        self.out.steps.push(Step {
            op,
            node,
            reads,
            write,
            scratch,
            macs,
        });
    }

    fn node(&mut self, index: usize, node: &Node) -> Result<(), CompileError> {
        let at = At { index, node };
        match &node.kind {
            Kind::Conv { .. } => self.conv(&at),
            Kind::ConvAdd { .. } => self.conv_add(&at),
            Kind::Depthwise { .. } => self.depthwise(&at),
            Kind::Dense { .. } => self.dense(&at),
            Kind::Add { .. } | Kind::Sub { .. } => self.add(&at),
            Kind::Mul { .. } => self.mul(&at),
            Kind::AveragePool { .. } | Kind::MaxPool { .. } => self.pool(&at),
            Kind::Mean { .. } => self.mean(&at),
            Kind::Softmax { .. } => self.softmax(&at),
            Kind::Unary(function) => self.unary(&at, *function),
            Kind::Reshape => self.reshape(&at),
            Kind::Transpose { permutation } => self.transpose(&at, permutation),
            Kind::Concat { axis } => self.concat(&at, *axis),
            Kind::Pad { padding, value } => self.pad(&at, padding, *value),
            Kind::Slice { begin, stride } => self.slice(&at, begin, stride),
            Kind::Quantize | Kind::Dequantize => {
                let input = node
                    .inputs
                    .first()
                    .copied()
                    .flatten()
                    .map(|id| self.graph.tensor(id));
                let found = input.map_or("float32", |tensor| tensor.dtype.name());
                Err(at.refuse(
                    input,
                    Reason::Type {
                        found: found.into(),
                    },
                ))
            }
        }
    }

    /// An input that must be there.
    fn input(&self, at: &At<'_>, place: usize) -> Result<TensorId, CompileError> {
        let input = at.node.inputs.get(place).copied().flatten();
        input.ok_or_else(|| CompileError::Inconsistent {
            place: at.node.name.clone(),
            why: format!("input {place} is missing"),
        })
    }

    /// The output.
    fn output(&self, at: &At<'_>) -> Result<TensorId, CompileError> {
        at.node
            .outputs
            .first()
            .copied()
            .ok_or_else(|| CompileError::Inconsistent {
                place: at.node.name.clone(),
                why: "it has no output".into(),
            })
    }

    /// The bytes of a constant.
    fn constant(&self, at: &At<'_>, id: TensorId) -> Result<&[u8], CompileError> {
        let tensor = self.graph.tensor(id);
        tensor
            .data
            .as_deref()
            .ok_or_else(|| at.refuse(Some(tensor), Reason::NotConstant))
    }
}
