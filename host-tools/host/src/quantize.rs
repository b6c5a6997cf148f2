//! Post-training quantization: a float ONNX model and some of its inputs give an int8 one.
//!
//! Weights become symmetric int8 with a scale an output channel, activations int8 with a scale and a
//! zero point a tensor, biases int32 at the product of the two scales before them. The result is an
//! ONNX file in QDQ form that compiles to a program and that other ONNX runtimes run as well.
//!
//! Ranges of activations come from running the float model over calibration data. A clamp becomes
//! part of the operator before it. Operators that only move elements (and average pooling) keep
//! their input's scale; Softmax, Sigmoid and Tanh have the fixed scales of TensorFlow Lite. Shifts
//! and factors a feature on the way of the input stay float: the compiler makes them the program's
//! input quantization.
//!
//! What it does not do: train the model further, or leave single operators in float.

mod calibrate;
mod fold;
mod graph;
mod rewrite;
mod split;

use crate::import::OperatorReport;
use crate::model::{EngineChoice, Model, ModelError};
use crate::npy::{Array, Values};
use edgeward::engine::tract::LoadError;
use edgeward::engine::{Engine, EngineError};
use graph::{Float, Scale, Source};
use prost::Message;
use serde::Serialize;
use split::{Split, compare};
use std::collections::BTreeMap;

pub use split::{Comparison, Data, HOLD_OUT, HOLD_OUT_FROM};

/// What to do about an operator without an int8 form.
const USE_TRACT: &str =
    "replace it by simpler operators, or run the float model under tract on a Linux board";
/// Fewer rows than this are warned of.
pub const FEW_ROWS: usize = 8;
/// An accuracy that falls by more points than this is warned of.
pub const LOST_POINTS: u32 = 1;
/// Classes that are the float model's on a smaller share of rows, in percent, are warned of.
pub const AGREEMENT: u32 = 95;
/// Widest ranges that a report lists.
pub const WIDEST: usize = 8;

/// How a value's range follows from the values seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// From the least to the greatest.
    MinMax,
    /// The range that holds this many percent of the values, in `(50, 100]`.
    Percentile(f64),
}

/// Why a model can't be quantized. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The file can't be read.
    #[error("{0}")]
    Load(LoadError),
    /// The graph as a whole is in the way.
    #[error("{why}")]
    Graph {
        /// Why.
        why: String,
        /// What to do.
        next: String,
    },
    /// A node is in the way.
    #[error("{node}, which makes {tensor}: {why}")]
    Node {
        /// The node.
        node: String,
        /// The value that it makes.
        tensor: String,
        /// Why.
        why: String,
        /// What to do.
        next: String,
    },
    /// The data does not fit the model's input.
    #[error("the {of} data has shape {found:?}; the model takes {wanted:?} a row")]
    Shape {
        /// `calibration` or `evaluation`.
        of: &'static str,
        /// The data's shape.
        found: Vec<usize>,
        /// A row's shape.
        wanted: Vec<usize>,
    },
    /// The data has a value that is not finite.
    #[error("element {element} of row {row} of the {of} data is {value}")]
    Data {
        /// `calibration` or `evaluation`.
        of: &'static str,
        /// The row, from 0.
        row: usize,
        /// The element in it, from 0.
        element: usize,
        /// Its value.
        value: f32,
    },
    /// The float model makes infinities or NaN of sound data.
    #[error("the float model's value {tensor} is not finite on row {row} of the {of} data")]
    NotFinite {
        /// `calibration` or `evaluation`.
        of: &'static str,
        /// The value.
        tensor: String,
        /// The row, from 0.
        row: usize,
    },
    /// The percentile is no share that leaves a range.
    #[error("a percentile of {0} leaves no range; it lies above 50 and goes up to 100")]
    Percentile(f64),
    /// There is not one label a row, or one is no index of an output.
    #[error("{0}")]
    Labels(String),
    /// The quantized graph has no program, or it does not run.
    #[error("quantized, it would not run: {0}")]
    Program(ModelError),
    /// The program failed.
    #[error("the quantized model's program failed: {0:?}")]
    Run(EngineError),
}

impl QuantizeError {
    fn graph(why: impl Into<String>, next: &str) -> Self {
        Self::Graph {
            why: why.into(),
            next: next.to_owned(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn next(&self) -> String {
        match self {
            Self::Graph { next, .. } | Self::Node { next, .. } => next.clone(),
            Self::Shape { wanted, .. } => {
                let extents: Vec<_> = wanted.iter().map(usize::to_string).collect();
                format!(
                    "save one array [rows, {}], or [rows, {}]",
                    extents.join(", "),
                    wanted.iter().product::<usize>()
                )
            }
            Self::Data { .. } => "leave such rows out, or fill in what the device would".to_owned(),
            Self::NotFinite { .. } => {
                "leave that row out, or train the model so that it holds there".to_owned()
            }
            Self::Percentile(_) => "take 99.9 or 99.99".to_owned(),
            Self::Labels(_) => {
                "give one class index from 0 a row of the calibration data".to_owned()
            }
            Self::Load(_) => "export it again as one file, with its weights inside".to_owned(),
            _ => "`edgeward import` says more of the model".to_owned(),
        }
    }
}

/// The range of a value and what it became.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorRow {
    /// Its name.
    pub name: String,
    /// Least value seen, or the range's lower end by percentile.
    pub low: f32,
    /// Greatest value seen, or the range's upper end by percentile.
    pub high: f32,
    /// What one step of the int8 tensor is worth.
    pub scale: f32,
    /// The int8 that stands for 0.
    pub zero_point: i8,
    /// `calibrated`, `kept` (its input's scale) or `fixed` (by its operator).
    pub from: &'static str,
}

/// What became of a model. The field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `min-max` or `percentile`.
    pub method: &'static str,
    /// The percentile, where that is the method.
    pub percentile: Option<f64>,
    /// Rows of calibration data, those that were held out left out.
    pub rows: usize,
    /// Operators that are int8 now.
    pub operators: Vec<OperatorReport>,
    /// What became of each batch normalization.
    pub folded: Vec<String>,
    /// Operators on the way of the input that stay float, and become the input's quantization.
    pub float_prefix: Vec<String>,
    /// Every quantized value, in the order in which they are made.
    pub tensors: Vec<TensorRow>,
    /// Beside the float model.
    pub comparison: Comparison,
    /// Bytes of the float file.
    pub float_bytes: usize,
    /// Bytes of the quantized file.
    pub int8_bytes: usize,
    /// Bytes of the program.
    pub program_bytes: usize,
    /// Bytes of the program's arena.
    pub arena_bytes: u32,
    /// What is doubtful.
    pub warnings: Vec<String>,
}

impl Report {
    /// The calibrated values of the widest ranges, widest first.
    #[must_use]
    pub fn widest(&self) -> Vec<&TensorRow> {
        let calibrated = self.tensors.iter().filter(|it| it.from == "calibrated");
        let mut rows: Vec<_> = calibrated.collect();
        rows.sort_by(|a, b| b.scale.total_cmp(&a.scale));
        rows.truncate(WIDEST);
        rows
    }
}

/// A quantized model.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The ONNX file.
    pub onnx: Vec<u8>,
    /// How it came about.
    pub report: Report,
}

/// Runs of a model that [`quantize`] reports to its `progress` at most, for these numbers of rows.
#[must_use]
pub fn steps(calibration: usize, eval: Option<usize>, method: Method) -> usize {
    let passes = match method {
        Method::MinMax => 1,
        Method::Percentile(_) => 2,
    };
    passes * calibration + 2 * eval.unwrap_or(calibration)
}

/// Quantizes a float ONNX model, and compares the two. `progress` is called after each run of either
/// model.
///
/// # Errors
/// [`QuantizeError`] names node, tensor or row.
pub fn quantize(
    model: &[u8],
    data: Data<'_>,
    method: Method,
    progress: &mut dyn FnMut(),
) -> Result<Quantized, QuantizeError> {
    if let Method::Percentile(percentile) = method
        && !(percentile > 50.0 && percentile <= 100.0)
    {
        return Err(QuantizeError::Percentile(percentile));
    }
    let float = Float::read(model)?;
    let width: usize = float.shape.iter().product();
    let split = Split::of(data, &float.shape)?;
    let rows = split.calibration.len() / width;
    let seen = calibrate::calibrate(&float, &split, method, progress)?;
    let (scales, tensors) = scales(&float, &seen.ranges)?;
    let name = match method {
        Method::MinMax => "min-max",
        Method::Percentile(_) => "percentile",
    };
    let note = format!("int8 by {name} over {rows} rows");
    let onnx = rewrite::rewrite(&float, &scales, note)?.encode_to_vec();
    let mut program = Model::load(&onnx, EngineChoice::Program).map_err(QuantizeError::Program)?;
    let made = outputs(&mut program, &split.eval, width, progress)?;
    let comparison = compare(
        &seen.outputs,
        &made,
        &split,
        width,
        scales[&float.output].scale,
    )?;
    let report = Report {
        method: name,
        percentile: match method {
            Method::MinMax => None,
            Method::Percentile(percentile) => Some(percentile),
        },
        rows,
        operators: operators(&float),
        float_prefix: float
            .prefix
            .iter()
            .map(|&at| graph::place(&float.nodes()[at], at))
            .collect(),
        warnings: warnings(rows, &tensors, &comparison, method),
        folded: float.folded,
        tensors,
        comparison,
        float_bytes: model.len(),
        int8_bytes: onnx.len(),
        program_bytes: program.program.as_ref().map_or(0, |it| it.program.len()),
        arena_bytes: program.arena_bytes(),
    };
    Ok(Quantized { onnx, report })
}

/// Class indices of an array of one dimension.
///
/// # Errors
/// [`QuantizeError::Labels`] when it is no such array, or holds other numbers.
pub fn labels(array: Array) -> Result<Vec<i64>, QuantizeError> {
    if array.shape.len() != 1 {
        let what = format!("the labels have shape {:?}, wanted is [rows]", array.shape);
        return Err(QuantizeError::Labels(what));
    }
    if let Values::I64(labels) = array.values {
        return Ok(labels);
    }
    let whole = |x: f32| (x.fract() == 0.0).then_some(x as i64);
    let labels: Option<_> = array.into_f32().into_iter().map(whole).collect();
    labels.ok_or_else(|| QuantizeError::Labels("a label is no whole number".into()))
}

/// The scale of each value, and its line of the report.
fn scales(
    float: &Float,
    ranges: &[(f32, f32)],
) -> Result<(BTreeMap<String, Scale>, Vec<TensorRow>), QuantizeError> {
    let mut scales = BTreeMap::new();
    let mut tensors = Vec::new();
    for ((name, source), &(low, high)) in float.values.iter().zip(ranges) {
        let (scale, from) = match source {
            Source::Calibrated => (Scale::of(low, high), "calibrated"),
            Source::Fixed(scale) => (*scale, "fixed"),
            Source::Kept(input) => {
                let scale = scales.get(input).copied().ok_or_else(|| {
                    QuantizeError::graph(
                        format!("{name} is made of {input}, which is no activation"),
                        "simplify the model (onnxsim)",
                    )
                })?;
                (scale, "kept")
            }
        };
        scales.insert(name.clone(), scale);
        tensors.push(TensorRow {
            name: name.clone(),
            low,
            high,
            scale: scale.scale,
            zero_point: scale.zero,
            from,
        });
    }
    if !scales.contains_key(&float.output) {
        return Err(QuantizeError::graph(
            format!(
                "its output {} is made by no operator that becomes int8",
                float.output
            ),
            "export it with an output that depends on the input",
        ));
    }
    Ok((scales, tensors))
}

/// The program's outputs, row after row.
fn outputs(
    program: &mut Model,
    data: &[f32],
    width: usize,
    progress: &mut dyn FnMut(),
) -> Result<Vec<f32>, QuantizeError> {
    let mut output = vec![0.0; program.engine.output_len()];
    let mut all = Vec::new();
    for row in data.chunks_exact(width) {
        program
            .engine
            .run(row, &mut output)
            .map_err(QuantizeError::Run)?;
        all.extend_from_slice(&output);
        progress();
    }
    Ok(all)
}

fn operators(float: &Float) -> Vec<OperatorReport> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for (index, node) in float.nodes().iter().enumerate() {
        if node.op_type != "Constant" && !float.prefix.contains(&index) {
            *counts.entry(&node.op_type).or_default() += 1;
        }
    }
    let report = |(name, count): (&str, usize)| OperatorReport {
        name: name.to_owned(),
        count,
    };
    counts.into_iter().map(report).collect()
}

fn warnings(
    rows: usize,
    tensors: &[TensorRow],
    comparison: &Comparison,
    method: Method,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if rows < FEW_ROWS {
        warnings.push(format!(
            "{rows} rows of calibration data are too few to know the ranges; 100 or more of the field's kinds are usual"
        ));
    }
    for tensor in tensors
        .iter()
        .filter(|it| it.from == "calibrated" && it.low == it.high)
    {
        warnings.push(format!("{} is {} in every row", tensor.name, tensor.low));
    }
    let lost = losses(comparison);
    if !lost.is_empty() {
        let next = match method {
            Method::MinMax => "a percentile of 99.99 where outliers widen the ranges",
            Method::Percentile(_) => "min-max or a higher percentile",
        };
        warnings.push(format!(
            "{}: calibrate with more rows of the field's kinds, or by {next}",
            lost.join(", and ")
        ));
    }
    warnings
}

/// What the program lost of the float model, where that is much.
fn losses(seen: &Comparison) -> Vec<String> {
    let rows = seen.rows as f64;
    // Rows, not shares: one row in a hundred is one point exactly.
    let hundredfold = |share: f64| 100.0 * (share * rows).round();
    let mut lost = Vec::new();
    if let (Some(float), Some(int8)) = (seen.accuracy_float, seen.accuracy_int8)
        && hundredfold(float - int8) > f64::from(LOST_POINTS) * rows
    {
        lost.push(format!(
            "accuracy falls from {:.2} % to {:.2} %",
            100.0 * float,
            100.0 * int8
        ));
    }
    if let Some(same) = seen.agreement
        && hundredfold(same) < f64::from(AGREEMENT) * rows
    {
        lost.push(format!(
            "the class is the float model's on {:.2} % of rows",
            100.0 * same
        ));
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_begin_behind_their_limits() {
        let count = |right: [usize; 2], same: usize| {
            let share = |hits: usize| hits as f64 / 100.0;
            losses(&Comparison {
                on: "eval",
                rows: 100,
                accuracy_float: Some(share(right[0])),
                accuracy_int8: Some(share(right[1])),
                agreement: Some(share(same)),
                largest_difference: 0.0,
                mean_difference: 0.0,
                output_step: 1.0,
            })
            .len()
        };
        for float in 2..=100 {
            assert_eq!(count([float, float - 1], 95), 0, "{float}");
            assert_eq!(count([float, float - 2], 95), 1, "{float}");
        }
        assert_eq!(count([90, 100], 95), 0);
        assert_eq!(count([90, 90], 94), 1);
        assert_eq!(count([90, 88], 94), 2);
    }
}
