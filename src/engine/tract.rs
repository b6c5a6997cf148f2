//! The tract engine: any ONNX model that tract runs, on hosts and Linux boards.
//!
//! tract reads, simplifies and runs the graph; this module sets it up so that what comes out is what
//! the file means. Three things need care:
//!
//! * **A Softmax inside a quantized graph.** tract folds DequantizeLinear, operators that work
//!   element by element, QuantizeLinear into a table of 256 entries, and takes Softmax, which looks
//!   at a whole row, for such an operator. A classifier that ends in Softmax and QuantizeLinear then
//!   gives nonsense without a word. The engine puts a fence behind each operator that tract
//!   mistakes so: it does nothing when run, and tract does not fold across it. The rest of the graph
//!   keeps all optimisations. [`TractEngine::mode`] tells where fences stand. One stands too where
//!   uint8 becomes int8 or the reverse, since tract's tables can't.
//! * **An open batch.** Left open, tract keeps slower general operators; the batch is made 1.
//! * **The heap.** tract allocates each tensor as it runs; every inference runs inside
//!   [`pool::scope`], so that with [`pool::PoolAllocator`] installed the system is asked for nothing.
//!
//! What it does not do: prove the numbers. Golden vectors made by another engine do that for every
//! bundle, when it is packed and on the board.

use core::fmt;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;
use tract_onnx::prelude::{Framework, InferenceModelExt, Tensor, TypedModel};
use tract_onnx::tract_hir::internal::*;

use super::bound;
use super::fence::fence;
use super::onnx::{self, Description};
use super::wire::WireError;
use super::{Engine, EngineError, pool, quiet};

/// Most elements of an input or output tensor: a bound on what a file can make the engine reserve.
pub const MAX_ELEMENTS: usize = 1 << 24;
pub use super::bound::MAX_PLAN_BYTES;

/// How to load a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSpec {
    /// The input's shape, batch first, as `[1, 6, 50]`. `None` takes the file's, its batch made 1.
    pub input_shape: Option<Vec<usize>>,
    /// The output's name. `None` takes the first float output.
    pub output: Option<String>,
    /// Take a model whose input or output is int8 or uint8. Its quantized values are then given and
    /// taken as whole numbers in f32; on the way in they are rounded to the nearest and saturated.
    pub raw_integers: bool,
}

impl ModelSpec {
    /// With an input of this shape.
    pub fn with_shape(shape: &[usize]) -> Self {
        Self {
            input_shape: Some(shape.to_vec()),
            ..Self::default()
        }
    }
}

/// How the plan came about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// All optimisations.
    Optimised,
    /// All optimisations, except across these nodes, which tract would fold wrongly.
    Fenced {
        /// Nodes that a fence follows, as `operator (name)`.
        after: Vec<String>,
    },
    /// None, because tract could not optimise the graph. Slower, and right.
    Plain {
        /// What tract said.
        reason: String,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Optimised => f.write_str("optimised"),
            Self::Fenced { after } => write!(
                f,
                "optimised, but not across {}, which tract would fold into a wrong table",
                after.join(", ")
            ),
            Self::Plain { reason } => write!(f, "not optimised: {reason}"),
        }
    }
}

/// Why a model was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// The bytes are not an ONNX model.
    Parse {
        /// What the decoder said.
        reason: String,
    },
    /// The bytes are not a protobuf that could be ONNX, or not one of acceptable size.
    Wire(WireError),
    /// A tensor's bytes are not those of its shape.
    Tensor {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: String,
    },
    /// The weights lie in another file.
    ExternalData {
        /// The first such tensor.
        tensor: String,
    },
    /// tract does not know some operators.
    Operators {
        /// The nodes, as `operator (name)`.
        nodes: Vec<String>,
    },
    /// The model takes no input or several; the engine gives one.
    InputCount {
        /// The inputs' names.
        names: Vec<String>,
    },
    /// The input can't be given as asked.
    Input {
        /// The input, with type and shape.
        input: String,
        /// Why.
        reason: String,
    },
    /// No output can be taken as asked.
    Output {
        /// The outputs, with type and shape.
        outputs: Vec<String>,
        /// Why.
        reason: String,
    },
    /// The graph's tensors take more than [`MAX_PLAN_BYTES`] together.
    Memory {
        /// The node whose output is too much.
        node: String,
        /// Bytes with it.
        bytes: u64,
    },
    /// A tensor is as long as the input's values say, so that no memory can be set aside for it.
    Length {
        /// The node whose output it is.
        node: String,
    },
    /// tract could not build the graph.
    Build {
        /// What tract said, which names node and cause.
        reason: String,
    },
    /// The first run, on zeros, failed.
    FirstRun {
        /// What tract said.
        reason: String,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse { reason } => write!(f, "not an ONNX model: {reason}"),
            Self::Wire(error) => write!(f, "not an ONNX model: {error}"),
            Self::Tensor { tensor, reason } => write!(f, "tensor {tensor}: {reason}"),
            Self::ExternalData { tensor } => write!(
                f,
                "tensor {tensor} lies in another file; save the model with its weights inside \
                 (onnx.save with save_as_external_data=False)"
            ),
            Self::Operators { nodes } => {
                write!(
                    f,
                    "operators that tract does not know: {}",
                    nodes.join(", ")
                )
            }
            Self::InputCount { names } if names.is_empty() => f.write_str("the model has no input"),
            Self::InputCount { names } => write!(
                f,
                "the model has {} inputs ({}) and the engine gives one; concatenate them in the graph",
                names.len(),
                names.join(", ")
            ),
            Self::Input { input, reason } => write!(f, "input {input}: {reason}"),
            Self::Output { outputs, reason } => {
                write!(f, "{reason}; the model has {}", outputs.join(", "))
            }
            Self::Memory { node, bytes } => write!(
                f,
                "{node} brings the graph's tensors to {bytes} bytes together, at most \
                 {MAX_PLAN_BYTES} are allowed"
            ),
            Self::Length { node } => write!(
                f,
                "the length of what {node} gives depends on the values of the input, and a board sets \
                 memory aside before it sees any; give it a constant length"
            ),
            Self::Build { reason } => write!(f, "tract can not build the graph: {reason}"),
            Self::FirstRun { reason } => write!(f, "the first run failed: {reason}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<&LoadError> for EngineError {
    fn from(error: &LoadError) -> Self {
        match error {
            LoadError::Parse { .. } | LoadError::Wire(_) | LoadError::Tensor { .. } => Self::Model,
            LoadError::FirstRun { .. } => Self::Run,
            _ => Self::Unsupported,
        }
    }
}

/// An element type that the engine converts from and to f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    F32,
    I8,
    U8,
}

impl Element {
    fn of(kind: DatumType) -> Option<Self> {
        match kind {
            DatumType::F32 => Some(Self::F32),
            DatumType::I8 => Some(Self::I8),
            DatumType::U8 => Some(Self::U8),
            _ => None,
        }
    }
}

/// A model in tract, loaded, planned and run once.
#[derive(Debug)]
pub struct TractEngine {
    state: TypedSimpleState,
    description: Description,
    mode: Mode,
    input: Element,
    input_shape: Vec<usize>,
    input_len: usize,
    output: Element,
    output_name: String,
    output_shape: Vec<usize>,
    output_len: usize,
}

impl TractEngine {
    /// Loads an ONNX model and runs it twice on zeros, so that what can fail fails here.
    ///
    /// Reserves [`pool::DEFAULT_REGION_BYTES`] for the pool unless a region is there already.
    ///
    /// # Errors
    /// [`LoadError`], which names the operator, tensor or extent.
    pub fn load(bytes: &[u8], spec: &ModelSpec) -> Result<Self, LoadError> {
        // tract panics on some malformed graphs; a bad file must not take the program down.
        quiet::caught(|| Self::load_unguarded(bytes, spec)).unwrap_or_else(|said| {
            Err(LoadError::Build {
                reason: format!("panic: {said}"),
            })
        })
    }

    fn load_unguarded(bytes: &[u8], spec: &ModelSpec) -> Result<Self, LoadError> {
        let proto = onnx::parse(bytes)?;
        let description = Description::of(&proto)?;
        if !description.unknown_nodes.is_empty() {
            return Err(LoadError::Operators {
                nodes: description.unknown_nodes,
            });
        }
        let (input, input_shape) = choose_input(&description, spec)?;
        let built = |error: TractError| LoadError::Build {
            reason: format!("{error:#}"),
        };
        let inferred = infer(&proto, input, &input_shape).map_err(built)?;
        let mut typed = bound::before(inferred)?.into_typed().map_err(built)?;
        bound::after(&typed)?;
        let (index, output) = choose_output(&typed, &description, spec)?;
        let outlet = typed.outputs[index];
        typed.select_output_outlets(&[outlet]).map_err(built)?;
        let output_shape = concrete_output(&typed, &description, index)?;
        let (model, mode) = optimise(typed).map_err(built)?;
        bound::after(&model)?;
        bound::closed(&model)?;
        let plan = model.into_runnable().map_err(built)?;
        let state = plan.spawn().map_err(built)?;
        let mut engine = Self {
            state,
            mode,
            input,
            input_len: input_shape.iter().product(),
            input_shape,
            output,
            output_name: description.outputs[index].name.clone(),
            output_len: output_shape.iter().product(),
            output_shape,
            description,
        };
        engine.warm_up()?;
        Ok(engine)
    }

    /// Runs twice on zeros: the first run grows the pool, the second reuses it.
    fn warm_up(&mut self) -> Result<(), LoadError> {
        pool::reserve(pool::DEFAULT_REGION_BYTES);
        let input = std::vec![0.0; self.input_len];
        let mut output = std::vec![0.0; self.output_len];
        for _ in 0..2 {
            pool::scope(|| self.infer(&input, &mut output)).map_err(|error| {
                LoadError::FirstRun {
                    reason: format!("{error:#}"),
                }
            })?;
        }
        Ok(())
    }

    /// What the file says about itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// How the plan came about.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The input's shape, batch first.
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// The output's shape, batch first.
    pub fn output_shape(&self) -> &[usize] {
        &self.output_shape
    }

    /// The output's name.
    pub fn output_name(&self) -> &str {
        &self.output_name
    }

    fn infer(&mut self, input: &[f32], output: &mut [f32]) -> TractResult<()> {
        let shape = &self.input_shape;
        let tensor = match self.input {
            Element::F32 => Tensor::from_shape(shape, input)?,
            // A cast from f32 saturates in Rust.
            Element::I8 => quantized_input::<i8>(shape, input, |value| value as i8)?,
            Element::U8 => quantized_input::<u8>(shape, input, |value| value as u8)?,
        };
        let outputs = match self.state.run(tvec!(tensor.into_tvalue())) {
            Ok(outputs) => outputs,
            Err(error) => {
                // A turn cut short leaves its tensors in the state.
                self.state.reset_turn()?;
                return Err(error);
            }
        };
        let made = outputs
            .first()
            .context("the plan made no output")?
            .try_as_plain_ram()?;
        match self.output {
            Element::F32 => copy_out(made.as_slice::<f32>()?, output, |&value| value),
            Element::I8 => copy_out(made.as_slice::<i8>()?, output, |&value| f32::from(value)),
            Element::U8 => copy_out(made.as_slice::<u8>()?, output, |&value| f32::from(value)),
        }
    }
}

impl Engine for TractEngine {
    fn input_len(&self) -> usize {
        self.input_len
    }

    fn output_len(&self) -> usize {
        self.output_len
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        check_length(self.input_len, input.len())
            .map_err(|(expected, given)| EngineError::InputLength { expected, given })?;
        check_length(self.output_len, output.len())
            .map_err(|(expected, given)| EngineError::OutputLength { expected, given })?;
        pool::scope(|| self.infer(input, output)).map_err(|_| EngineError::Run)
    }
}

fn check_length(expected: usize, given: usize) -> Result<(), (u32, u32)> {
    let clamp = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    if expected == given {
        Ok(())
    } else {
        Err((clamp(expected), clamp(given)))
    }
}

fn quantized_input<T: Datum + Copy>(
    shape: &[usize],
    input: &[f32],
    convert: impl Fn(f32) -> T,
) -> TractResult<Tensor> {
    let mut tensor = Tensor::zero_dt(T::datum_type(), shape)?;
    let mut plain = tensor.try_as_plain_ram_mut()?;
    for (to, from) in plain.as_slice_mut::<T>()?.iter_mut().zip(input) {
        *to = convert(from.round_ties_even());
    }
    Ok(tensor)
}

fn copy_out<T>(from: &[T], to: &mut [f32], convert: impl Fn(&T) -> f32) -> TractResult<()> {
    ensure!(
        from.len() == to.len(),
        "the plan made {} elements, not {}",
        from.len(),
        to.len()
    );
    for (to, from) in to.iter_mut().zip(from) {
        *to = convert(from);
    }
    Ok(())
}

/// The model's one input: its element type and its concrete shape.
fn choose_input(
    description: &Description,
    spec: &ModelSpec,
) -> Result<(Element, Vec<usize>), LoadError> {
    let [input] = &*description.inputs else {
        let names = description
            .inputs
            .iter()
            .map(|input| input.name.clone())
            .collect();
        return Err(LoadError::InputCount { names });
    };
    let refuse = |reason: String| LoadError::Input {
        input: input.to_string(),
        reason,
    };
    let element = match &*input.element {
        "float" => Element::F32,
        "int8" | "uint8" if !spec.raw_integers => {
            return Err(refuse(
                "takes quantized values; put a QuantizeLinear in front of it so that it takes float, \
                 or say that quantized values will be given (raw_integers)"
                    .into(),
            ));
        }
        "int8" => Element::I8,
        "uint8" => Element::U8,
        other => {
            return Err(refuse(format!(
                "has element type {other}; the engine gives float"
            )));
        }
    };
    let shape = match &spec.input_shape {
        Some(shape) => shape.clone(),
        None => input
            .concrete_shape()
            .ok_or_else(|| refuse("has open extents beside the batch; give its shape".into()))?,
    };
    let matches = input.dims.as_ref().is_none_or(|dims| {
        dims.len() == shape.len()
            && dims.iter().zip(&shape).all(|(dim, &extent)| match dim {
                onnx::Dim::Fixed(declared) => *declared == extent,
                onnx::Dim::Symbol(_) => true,
            })
    });
    if !matches {
        return Err(refuse(format!("does not take the shape {shape:?}")));
    }
    match elements(&shape) {
        Some(_) => Ok((element, shape)),
        None => Err(refuse(format!(
            "shape {shape:?} has no or over {MAX_ELEMENTS} elements"
        ))),
    }
}

/// Elements of a shape, if there are some and not too many.
fn elements(shape: &[usize]) -> Option<usize> {
    let count = shape
        .iter()
        .try_fold(1usize, |count, &extent| count.checked_mul(extent))?;
    (1..=MAX_ELEMENTS).contains(&count).then_some(count)
}

/// Reads the graph for one concrete input.
fn infer(
    proto: &tract_onnx::pb::ModelProto,
    input: Element,
    shape: &[usize],
) -> TractResult<InferenceModel> {
    // Declared shapes inside the graph still name the open batch, so they are inferred anew.
    let reader = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_value_info(true);
    let model = reader.model_for_proto_model(proto)?;
    let fact = match input {
        Element::F32 => f32::fact(shape),
        Element::I8 => i8::fact(shape),
        Element::U8 => u8::fact(shape),
    };
    model.with_input_fact(0, fact.into())
}

/// The output to take: its index among the model's, and its element type.
fn choose_output(
    model: &TypedModel,
    description: &Description,
    spec: &ModelSpec,
) -> Result<(usize, Element), LoadError> {
    let refuse = |reason: String| LoadError::Output {
        outputs: description
            .outputs
            .iter()
            .map(ToString::to_string)
            .collect(),
        reason,
    };
    let element = |index: usize| {
        let fact = model.output_fact(index).ok()?;
        Element::of(fact.datum_type).filter(|&kind| spec.raw_integers || kind == Element::F32)
    };
    let names = &description.outputs[..description.outputs.len().min(model.outputs.len())];
    match &spec.output {
        Some(name) => {
            let index = names
                .iter()
                .position(|output| output.name == *name)
                .ok_or_else(|| refuse(format!("no output is called {name}")))?;
            let kind = element(index).ok_or_else(|| {
                refuse(format!(
                    "output {name} is not float; cut the graph at the float tensor before it or add a \
                     DequantizeLinear, or say that quantized values are wanted (raw_integers)"
                ))
            })?;
            Ok((index, kind))
        }
        None => (0..names.len())
            .find_map(|index| Some((index, element(index)?)))
            .ok_or_else(|| {
                refuse(
                    "no output is float; end the graph in a DequantizeLinear, or say that quantized \
                     values are wanted (raw_integers)"
                        .into(),
                )
            }),
    }
}

fn concrete_output(
    model: &TypedModel,
    description: &Description,
    index: usize,
) -> Result<Vec<usize>, LoadError> {
    let shape = model
        .output_fact(0)
        .ok()
        .and_then(|fact| fact.shape.as_concrete());
    shape
        .filter(|shape| elements(shape).is_some())
        .map(<[usize]>::to_vec)
        .ok_or_else(|| LoadError::Output {
            outputs: description
                .outputs
                .iter()
                .map(ToString::to_string)
                .collect(),
            reason: format!(
                "output {} has a shape that is open, empty or over {MAX_ELEMENTS} elements",
                description.outputs[index].name
            ),
        })
}

/// Optimises the graph where that is right and possible.
fn optimise(mut model: TypedModel) -> TractResult<(TypedModel, Mode)> {
    let after = fence(&mut model)?;
    match model.clone().into_optimized() {
        Ok(model) if after.is_empty() => Ok((model, Mode::Optimised)),
        Ok(model) => Ok((model, Mode::Fenced { after })),
        Err(error) => Ok((
            model,
            Mode::Plain {
                reason: format!("{error:#}"),
            },
        )),
    }
}
