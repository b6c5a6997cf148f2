//! Ranges of a float model's values: it runs in tract with every wanted value as an output.

use super::graph::{Float, Source};
use super::split::Split;
use super::{Method, QuantizeError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tract_onnx::pb;
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoTValue, Tensor, tvec};
use tract_onnx::prelude::{TractResult, TypedSimpleState};
use tract_onnx::tract_hir::internal::*;

/// Bins of the histogram that percentiles are read from.
const BINS: usize = 8192;

/// What the float model's run showed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Calibration {
    /// Least and greatest value by method, for each value of [`Float::values`].
    pub(super) ranges: Vec<(f32, f32)>,
    /// The model's float outputs on the rows to compare on, row after row.
    pub(super) outputs: Vec<f32>,
}

/// The float model with all its values as outputs.
struct Runner {
    state: TypedSimpleState,
    shape: Vec<usize>,
}

impl Runner {
    fn load(float: &Float) -> TractResult<Self> {
        let mut model = float.model.clone();
        let graph = model.graph.as_mut().context("the file holds no graph")?;
        let names = float.values.iter().map(|(name, _)| name.clone());
        // The last output is the graph's own, whatever its scale comes from.
        graph.output = names
            .chain([float.output.clone()])
            .map(|name| pb::ValueInfoProto {
                name,
                ..Default::default()
            })
            .collect();
        let reader = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_value_info(true);
        let model = reader.model_for_proto_model(&model)?;
        let model = model
            .with_input_fact(0, f32::fact(&float.shape).into())?
            .into_typed()?;
        let state = model.into_decluttered()?.into_runnable()?.spawn()?;
        Ok(Self {
            state,
            shape: float.shape.clone(),
        })
    }

    /// Runs one row; `each` is given every value in order.
    fn run(&mut self, row: &[f32], mut each: impl FnMut(usize, &[f32])) -> TractResult<()> {
        let tensor = Tensor::from_shape(&self.shape, row)?;
        let outputs = self.state.run(tvec!(tensor.into_tvalue()))?;
        for (index, output) in outputs.iter().enumerate() {
            each(index, output.try_as_plain_ram()?.as_slice::<f32>()?);
        }
        Ok(())
    }
}

/// Runs the float model over the rows to calibrate with: once for least and greatest values, and once
/// more for a histogram between them where percentiles are wanted; then over the rows to compare on.
/// `progress` is told of each row run.
pub(super) fn calibrate(
    float: &Float,
    split: &Split,
    method: Method,
    progress: &mut dyn FnMut(),
) -> Result<Calibration, QuantizeError> {
    // tract panics on some malformed graphs.
    catch_unwind(AssertUnwindSafe(|| {
        unguarded(float, split, method, progress)
    }))
    .unwrap_or_else(|_| Err(build("it gave up on the graph".to_owned())))
}

fn build(why: String) -> QuantizeError {
    QuantizeError::graph(
        format!("tract can not run the float model: {why}"),
        "simplify the model (onnxsim)",
    )
}

fn unguarded(
    float: &Float,
    split: &Split,
    method: Method,
    progress: &mut dyn FnMut(),
) -> Result<Calibration, QuantizeError> {
    let rows = &split.calibration[..];
    let mut runner = Runner::load(float).map_err(|error| build(format!("{error:#}")))?;
    let width: usize = float.shape.iter().product();
    let values = float.values.len();
    let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); values];
    let mut infinite = None;
    for (at, row) in rows.chunks_exact(width).enumerate() {
        let ran = runner.run(row, |index, elements| {
            let Some((low, high)) = ranges.get_mut(index) else {
                return;
            };
            for &element in elements {
                if !element.is_finite() {
                    infinite.get_or_insert((index, at));
                }
                *low = low.min(element);
                *high = high.max(element);
            }
        });
        ran.map_err(|error| build(format!("{error:#}")))?;
        progress();
        if let Some((index, row)) = infinite {
            let (of, row) = split.calibration_row(row);
            let tensor = float.values[index].0.clone();
            return Err(QuantizeError::NotFinite { of, tensor, row });
        }
    }
    if let Method::Percentile(percentile) = method {
        let mut histograms = vec![vec![0_u64; BINS]; values];
        for row in rows.chunks_exact(width) {
            let ran = runner.run(row, |index, elements| {
                let Some(histogram) = histograms.get_mut(index) else {
                    return;
                };
                let (low, high) = ranges[index];
                for &element in elements {
                    histogram[bin(element, low, high)] += 1;
                }
            });
            ran.map_err(|error| build(format!("{error:#}")))?;
            progress();
        }
        for (index, range) in ranges.iter_mut().enumerate() {
            if matches!(float.values[index].1, Source::Calibrated) {
                *range = within(&histograms[index], *range, percentile);
            }
        }
    }
    let outputs = outputs(&mut runner, float, split, progress)?;
    Ok(Calibration { ranges, outputs })
}

/// The float model's outputs on the rows to compare on.
fn outputs(
    runner: &mut Runner,
    float: &Float,
    split: &Split,
    progress: &mut dyn FnMut(),
) -> Result<Vec<f32>, QuantizeError> {
    let width: usize = float.shape.iter().product();
    let mut outputs = Vec::new();
    for (at, row) in split.eval.chunks_exact(width).enumerate() {
        let before = outputs.len();
        let ran = runner.run(row, |index, elements| {
            if index == float.values.len() {
                outputs.extend_from_slice(elements);
            }
        });
        ran.map_err(|error| build(format!("{error:#}")))?;
        progress();
        if outputs[before..].iter().any(|x| !x.is_finite()) {
            let (of, row) = split.eval_row(at);
            let tensor = float.output.clone();
            return Err(QuantizeError::NotFinite { of, tensor, row });
        }
    }
    Ok(outputs)
}

fn bin(element: f32, low: f32, high: f32) -> usize {
    let share = f64::from(element - low) / f64::from(high - low).max(f64::MIN_POSITIVE);
    ((share * BINS as f64) as usize).min(BINS - 1)
}

/// The range that holds `percentile` of the elements; half of what is cut lies at either end.
fn within(histogram: &[u64], (low, high): (f32, f32), percentile: f64) -> (f32, f32) {
    let total: u64 = histogram.iter().sum();
    let cut = (100.0 - percentile) / 200.0 * total as f64;
    let first = |bins: &mut dyn Iterator<Item = &u64>| {
        let mut seen = 0;
        bins.take_while(|count| {
            seen += **count;
            seen as f64 <= cut
        })
        .count()
        .min(BINS)
    };
    let (below, above) = (
        first(&mut histogram.iter()),
        first(&mut histogram.iter().rev()),
    );
    let step = f64::from(high - low) / BINS as f64;
    let cut_low = (f64::from(low) + step * below as f64) as f32;
    let cut_high = (f64::from(high) - step * above as f64) as f32;
    (cut_low, cut_high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_leaves_out_the_ends() {
        let mut histogram = vec![0; BINS];
        histogram[0] = 1;
        histogram[4096] = 1998;
        histogram[BINS - 1] = 1;
        assert_eq!(within(&histogram, (0.0, 8192.0), 100.0), (0.0, 8192.0));
        // One element in two thousand at either end is cut, and not more.
        assert_eq!(within(&histogram, (0.0, 8192.0), 99.8), (4096.0, 4097.0));
        assert_eq!(within(&histogram, (0.0, 8192.0), 99.99), (0.0, 8192.0));
    }

    #[test]
    fn bins_hold_both_ends() {
        assert_eq!((bin(-1.0, -1.0, 1.0), bin(1.0, -1.0, 1.0)), (0, BINS - 1));
        assert_eq!(bin(2.0, 2.0, 2.0), 0);
    }
}
