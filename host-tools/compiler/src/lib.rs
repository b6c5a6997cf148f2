//! Lowers a quantized graph to a program that a board runs in place.
//!
//! An importer reads TFLite or ONNX into a [`graph::Graph`]; rewrites that keep every output bit
//! make it smaller; the planner gives each tensor its place in the arena; the emitter lays weights
//! out for the target's kernels and writes the program. [`compile`] does all of it.

pub mod border;
pub mod check;
pub mod cost;
pub mod emit;
mod error;
pub mod graph;
pub mod listing;
pub mod memory;
pub mod onnx;
pub mod plan;
mod report;
pub mod rewrite;
pub mod tflite;

pub use error::{CompileError, Reason, Refusal};
pub use report::Report;

use edgeward::program::{Aligned, Layout, Program};
use emit::{CortexM, Natural, WeightLayout};
use graph::Graph;
use rewrite::Rewrite;

/// What to compile for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How weights lie.
    pub layout: Layout,
    /// Keeps each operator's output apart from its inputs, so that kernels may run in any order:
    /// what a Linux board wants. Otherwise they overlap as far as the kernels of `layout` allow.
    pub disjoint: bool,
    /// Offsets in the arena are multiples of this.
    pub alignment: u64,
    /// Rewrites that make the graph smaller, in order; a test's control leaves some out.
    pub rewrites: &'static [Rewrite],
}

impl Options {
    /// For a microcontroller that runs portable kernels or those of `layout`.
    pub const fn mcu(layout: Layout) -> Self {
        Self {
            layout,
            disjoint: false,
            alignment: 4,
            rewrites: &Rewrite::ALL,
        }
    }

    /// For a Linux board, which packs weights when it loads the program.
    pub const fn linux() -> Self {
        Self {
            layout: Layout::Natural,
            disjoint: true,
            alignment: 64,
            rewrites: &Rewrite::ALL,
        }
    }
}

/// A program and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// The program's bytes.
    pub program: Vec<u8>,
    /// What happened on the way.
    pub report: Report,
}

/// The format of a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A TFLite flatbuffer.
    Tflite,
    /// An ONNX protobuf.
    Onnx,
}

impl Format {
    /// Which format bytes claim to be: a TFLite file says so at byte 4, an ONNX file says nothing.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes.get(4..8) {
            Some(b"TFL3") => Self::Tflite,
            _ => Self::Onnx,
        }
    }
}

/// Compiles a TFLite or ONNX file.
///
/// # Errors
/// When the file is broken or asks for something that programs do not have; the error names the
/// operator and tensor, and says what to do.
pub fn compile(bytes: &[u8], options: &Options) -> Result<Compiled, CompileError> {
    let graph = match Format::of(bytes) {
        Format::Tflite => tflite::read(bytes)?,
        Format::Onnx => onnx::import(bytes)?,
    };
    compile_graph(graph, options)
}

/// Compiles a graph.
///
/// # Errors
/// As [`compile`].
pub fn compile_graph(mut graph: Graph, options: &Options) -> Result<Compiled, CompileError> {
    let operators = report::operators(&graph);
    let notes = border::strip(&mut graph);
    let folded = rewrite::constants(&mut graph, options.rewrites);
    check::check(&graph)?;
    let rewrites = rewrite::apply(&mut graph, options.rewrites, folded);
    let shape = |ids: &[graph::TensorId]| ids.first().map(|&id| graph.tensor(id).shape.clone());
    let input_shape = graph.planar_input.clone().or(shape(&graph.inputs));
    let output_shape = shape(&graph.outputs);
    check::check(&graph)?;
    let layout = weight_layout(options.layout);
    let lowered = emit::lower(&graph, layout)?;
    let plan = plan::plan(&lowered, options.disjoint, options.alignment);
    let program = lowered.write(&graph, &plan, options.layout)?;
    Program::verify(Aligned::copy_of(&program).as_ref()).map_err(CompileError::Rejected)?;
    let report = Report {
        operators,
        notes,
        rewrites,
        input_shape: input_shape.unwrap_or_default(),
        output_shape: output_shape.unwrap_or_default(),
        macs: lowered.steps.iter().map(|step| step.macs).sum(),
        weight_bytes: lowered.weight_bytes,
        program_bytes: program.len() as u64,
        names: lowered
            .steps
            .iter()
            .map(|step| graph.nodes[step.node].name.clone())
            .collect(),
        plan,
    };
    Ok(Compiled { program, report })
}

/// Who lays out weights for a layout.
fn weight_layout(layout: Layout) -> &'static dyn WeightLayout {
    match layout {
        Layout::Natural => &Natural,
        Layout::CortexM => &CortexM,
    }
}
