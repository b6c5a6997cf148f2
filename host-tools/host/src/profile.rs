//! From training data to a profile.
//!
//! Every number of a profile is measured or follows from a rule below; a person's own knowledge goes
//! into `[input.overrides]`.
//!
//! | field | rule |
//! |---|---|
//! | `min`, `max` | the training range, widened by a quarter of its width on each side |
//! | `max_rate` | 1.5 times the largest step between neighbours in a recording |
//! | `stuck_run` | twice the longest run of equal values in a recording, at least 10 |
//! | bins | [`edgeward::drift::edges_of_sorted`] |
//! | drift limits | mean + 4 sd over at least 30 training windows without a sample in common, or, where recordings are shorter than a window, over windows drawn from at least 30 recordings; each against the rest of the training data; at least what 2 % of stray samples make |
//! | `drift_window` | the longest that leaves as many and half of the training data, at most 1000 samples |
//!
//! Rate and run are off for samples without a clock (`period_ms = 0`) and where no recording has two
//! samples in a row; the run is off for features that stand still for a whole recording.

mod output;
mod replay;

use crate::data::Samples;
use crate::spec::{FeatureOverride, Spec};
use crate::{MAX_FEATURES, Profile};
use edgeward::drift::{
    CALIBRATION_WINDOWS, Window, WindowStatistics, bin_of, calibrate, edges_of_sorted, evaluate,
};
use edgeward::profile::{BINS, DType, DriftLimits, EDGES, FeatureProfile, Name, Schema};
use edgeward::trust::sha256;
use replay::{Pieces, Replay, Shortage};
use std::ops::Range;

/// Share of the training range by which it is widened on each side.
const RANGE_MARGIN: f32 = 0.25;
/// Times the largest training step that a step may be.
const RATE_FACTOR: f32 = 1.5;
/// Times the longest training run that a run may be.
const RUN_FACTOR: usize = 2;
/// Shortest run that means a stuck sensor.
const MIN_STUCK_RUN: usize = 10;
/// Longest drift window that is chosen by itself, in samples.
const MAX_DRIFT_WINDOW: u32 = 1000;
/// Shortest drift window that is chosen by itself, in samples and in predictions.
const MIN_DRIFT_WINDOW: u32 = 16;
const MIN_WINDOW_PREDICTIONS: u32 = 4;
/// Least standard deviation, relative to the mean (or to 1, near 0), so that it is never zero.
const MIN_RELATIVE_SD: f32 = 1e-6;
/// Share of a window's samples that may stray without being drift.
const STRAY_SHARE: f32 = 0.02;

/// Why there is no profile.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A training value is neither finite nor missing.
    #[error("training sample {} of feature `{feature}` is not finite; leave it empty if it is missing", row + 1)]
    NotFinite {
        /// The feature.
        feature: String,
        /// The sample, from 0.
        row: usize,
    },
    /// A feature has no value at all.
    #[error("feature `{feature}` has no value in the training data")]
    NoValues {
        /// The feature.
        feature: String,
    },
    /// The training data is too little to calibrate.
    #[error(
        "drift limits need {CALIBRATION_WINDOWS} windows of {drift_window} samples that \
         are independent of each other; {found} {unit} make {windows}, and {wanted} would be enough"
    )]
    TooLittle {
        /// The drift window, in samples.
        drift_window: u32,
        /// What is too few.
        unit: &'static str,
        /// Independent windows that it makes.
        windows: u32,
        /// How many it takes, in recordings like those that there are.
        wanted: u64,
        /// How many there are.
        found: u64,
    },
    /// A drift window is more than half of the training data.
    #[error(
        "a drift window of {drift_window} samples takes more than half of the {found} {unit}, and is \
         compared with the rest; {wanted} would be enough"
    )]
    TooLong {
        /// The drift window, in samples.
        drift_window: u32,
        /// What is too few.
        unit: &'static str,
        /// How many it takes.
        wanted: u64,
        /// How many there are.
        found: u64,
    },
    /// A feature is missing in too many windows.
    #[error(
        "feature `{feature}` has values in {windows} training windows, and drift limits need \
         {CALIBRATION_WINDOWS}"
    )]
    TooSparse {
        /// The feature.
        feature: String,
        /// Windows in which it has any.
        windows: usize,
    },
    /// The outputs are not those of the training windows.
    #[error(
        "the training data has {windows} windows (window {window}, hop {hop}, inside recordings) \
         and there are {found} outputs"
    )]
    OutputCount {
        /// Windows of the training data.
        windows: usize,
        /// Samples of a window.
        window: u16,
        /// Samples between two.
        hop: u16,
        /// Outputs given.
        found: usize,
    },
    /// An output has another number of values than there are names.
    #[error("an output has {found} values and `output.classes` has {named} names")]
    OutputWidth {
        /// Values.
        found: usize,
        /// Names.
        named: usize,
    },
    /// An output can't be read as a prediction.
    #[error(
        "output {row} is no prediction: a value is not finite, or probabilities sum to nothing"
    )]
    Output {
        /// Its index.
        row: usize,
    },
    /// A label is no class.
    #[error("the label `{label}` of sample {} is no class of `output.classes`", row + 1)]
    Label {
        /// The label.
        label: String,
        /// The sample, from 0.
        row: usize,
    },
}

/// What a shortage of samples counts.
const SAMPLES: &str = "samples";
/// What a shortage of predictions counts.
const PREDICTIONS: &str = "predictions";

impl ProfileError {
    /// Whether it is about the data that predictions are measured on, which is the held-out data where
    /// there is some; else it is about the training data.
    #[must_use]
    pub fn is_of_predictions(&self) -> bool {
        match self {
            Self::TooLittle { unit, .. } | Self::TooLong { unit, .. } => *unit == PREDICTIONS,
            Self::Label { .. } | Self::Output { .. } => true,
            _ => false,
        }
    }
}

/// Outputs of a model, one row a window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outputs {
    /// Values of an output.
    pub width: usize,
    /// All values, row-major.
    pub values: Vec<f32>,
}

impl Outputs {
    /// The outputs, one slice each.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> + '_ {
        self.values.chunks_exact(self.width.max(1))
    }
}

/// An end of the search for the temperature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// No confidence is too high: (nearly) every answer is right.
    Lowest,
    /// No confidence is too low: it does not tell right answers from wrong ones.
    Highest,
}

/// How confident the lab's outputs are, and how right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The temperature that the profile holds.
    pub temperature: f32,
    /// Whether it was fitted to the labels.
    pub fitted: bool,
    /// The end of the search that explains the labels as well as what was found, if one does: then the
    /// confidence is not calibrated, and the accuracy estimated from it means nothing.
    pub bound: Option<Bound>,
    /// Share of the windows judged whose class is their label; none without labels.
    pub accuracy: Option<f32>,
    /// How well the classes are recognised; none with less than two labels.
    pub recall: Option<Recall>,
}

/// How well a model tells classes apart, whatever their shares of the data: one that always answers the
/// same, or by chance, has a mean recall of one in as many as there are classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recall {
    /// Mean over the labelled classes of the share of their windows that are recognised.
    pub mean: f32,
    /// What a guess has.
    pub chance: f32,
}

/// Samples that the model was not trained on, and its outputs on all their windows.
#[derive(Debug, Clone, Copy)]
pub struct HeldOut<'a> {
    /// The samples.
    pub samples: &'a Samples,
    /// The outputs, in order.
    pub outputs: &'a Outputs,
}

/// Measures a profile. `outputs` are the lab's on every training window, in order; with `held_out`
/// the predictions are measured there instead, since a model is surer of what it was trained on than
/// of anything it will meet.
///
/// # Errors
/// [`ProfileError`] says what is wrong with the data, and how much more is wanted.
pub fn build(
    spec: &Spec,
    training: &Samples,
    outputs: &Outputs,
    held_out: Option<HeldOut<'_>>,
) -> Result<(Profile, Fit), ProfileError> {
    let input = &spec.input;
    let (window, hop) = (usize::from(input.window), usize::from(input.hop));
    check_outputs(spec, training.windows(window, hop).count(), outputs)?;
    let (judged, outputs) =
        held_out.map_or((training, outputs), |held| (held.samples, held.outputs));
    let windows: Vec<_> = judged.windows(window, hop).collect();
    check_outputs(spec, windows.len(), outputs)?;
    let predictions = predictions(judged, window, hop);
    let drift_window = drift_window(spec, &training.recordings, &predictions)?;
    let schema = Schema {
        version: input.schema_version,
        dtype: DType::F32,
        window: input.window,
        hop: input.hop,
        layout: input.layout.into(),
        period_ms: input.period_ms,
        max_age_ms: input.max_age_ms,
        feature_version: input.pipeline.as_deref().map_or(0, feature_version),
    };
    let mut features = heapless::Vec::<_, MAX_FEATURES>::new();
    let replayed = of_samples(&training.recordings, drift_window).windows();
    for (column, name) in input.features.iter().enumerate() {
        let feature = feature(spec, training, column, name, (drift_window, &replayed))?;
        // The specification has at most MAX_FEATURES.
        let _ = features.push(feature);
    }
    let labels = window_labels(spec, judged, &windows)?;
    let replayed = of_predictions(spec, &predictions, drift_window).windows();
    let (output, fit) =
        output::measure_all(spec, outputs, labels.as_deref(), (drift_window, &replayed))?;
    let profile = Profile {
        schema,
        features,
        output,
        drift_window,
    };
    Ok((profile, fit))
}

/// The first four bytes of the SHA-256 of a pipeline's description; never 0, which means none.
#[must_use]
pub fn feature_version(description: &str) -> u32 {
    let [a, b, c, d, ..] = sha256(description.as_bytes());
    u32::from_le_bytes([a, b, c, d]).max(1)
}

/// Fills the model's input tensor with the window `rows`, in the layout of `spec`. Missing values
/// become what `substitute` says of their column.
pub fn tensor(
    spec: &Spec,
    samples: &Samples,
    rows: Range<usize>,
    substitute: impl Fn(usize) -> f32,
) -> Vec<f32> {
    let (window, width) = (rows.len(), samples.width);
    let mut tensor = vec![0.0; window * width];
    for (step, row) in rows.enumerate() {
        for (column, &value) in samples.row(row).iter().enumerate() {
            let at = match spec.input.layout {
                crate::spec::LayoutSpec::SamplesFirst => step * width + column,
                crate::spec::LayoutSpec::FeaturesFirst => column * window + step,
            };
            tensor[at] = if value.is_finite() {
                value
            } else {
                substitute(column)
            };
        }
    }
    tensor
}

/// The mean of each column's finite values, 0 for a column without any.
#[must_use]
pub fn column_means(samples: &Samples) -> Vec<f32> {
    let mean = |column| {
        let finite = samples.column(column).filter(|value| value.is_finite());
        let (sum, n) = finite.fold((0.0, 0u32), |(sum, n), x| (sum + f64::from(x), n + 1));
        if n == 0 {
            0.0
        } else {
            (sum / f64::from(n)) as f32
        }
    };
    (0..samples.width).map(mean).collect()
}

/// The class of each window by the labels: that of its last sample. None without labels.
///
/// # Errors
/// [`ProfileError::Label`] when one is neither a class's name nor its index.
pub fn window_labels(
    spec: &Spec,
    samples: &Samples,
    windows: &[Range<usize>],
) -> Result<Option<Vec<usize>>, ProfileError> {
    let (Some(labels), false) = (&samples.labels, is_values(spec)) else {
        return Ok(None);
    };
    let of = |rows: &Range<usize>| {
        let row = rows.end.saturating_sub(1);
        let label = labels[row].as_str();
        class_index(&spec.output.classes, label).ok_or_else(|| ProfileError::Label {
            label: label.to_owned(),
            row,
        })
    };
    windows.iter().map(of).collect::<Result<_, _>>().map(Some)
}

/// The index of the class that `label` names or counts.
#[must_use]
pub fn class_index(classes: &[String], label: &str) -> Option<usize> {
    let named = classes.iter().position(|class| class == label);
    named.or_else(|| {
        let index = label.parse::<f64>().ok()?;
        let whole = index >= 0.0 && index.fract() == 0.0 && index < classes.len() as f64;
        whole.then_some(index as usize)
    })
}

fn is_values(spec: &Spec) -> bool {
    spec.output.kind == crate::spec::KindSpec::Values
}

fn check_outputs(spec: &Spec, windows: usize, outputs: &Outputs) -> Result<(), ProfileError> {
    let named = spec.output.classes.len();
    if outputs.width != named {
        return Err(ProfileError::OutputWidth {
            found: outputs.width,
            named,
        });
    }
    if outputs.rows().len() != windows || windows == 0 {
        return Err(ProfileError::OutputCount {
            windows,
            window: spec.input.window,
            hop: spec.input.hop,
            found: outputs.rows().len(),
        });
    }
    Ok(())
}

/// The predictions of each recording, by their places among all.
fn predictions(samples: &Samples, window: usize, hop: usize) -> Vec<Range<usize>> {
    let mut next = 0;
    let of = |recording: &Range<usize>| {
        let from = next;
        if let Some(rest) = recording.len().checked_sub(window) {
            next += rest / hop.max(1) + 1;
        }
        from..next
    };
    samples.recordings.iter().map(of).collect()
}

fn of_samples(recordings: &[Range<usize>], drift_window: u32) -> Replay {
    Replay::new(recordings.iter().cloned(), drift_window as usize, 0)
}

/// Predictions in windows of as many as a drift window holds; between two windows those are left out
/// whose inputs would overlap.
fn of_predictions(spec: &Spec, predictions: &[Range<usize>], drift_window: u32) -> Replay {
    let (window, hop) = (usize::from(spec.input.window), usize::from(spec.input.hop));
    let length = drift_window as usize / hop;
    let overlapping = window.div_ceil(hop) - 1;
    Replay::new(predictions.iter().cloned(), length, overlapping)
}

fn too_little(drift_window: u32, unit: &'static str, shortage: Shortage) -> ProfileError {
    let Shortage {
        windows,
        wanted,
        found,
    } = shortage;
    if windows >= f64::from(CALIBRATION_WINDOWS) {
        return ProfileError::TooLong {
            drift_window,
            unit,
            wanted,
            found,
        };
    }
    ProfileError::TooLittle {
        drift_window,
        unit,
        windows: windows as u32,
        wanted,
        found,
    }
}

/// The drift window that the specification wants, or the longest that can be calibrated: a multiple
/// of the hop, so that each holds as many predictions.
fn drift_window(
    spec: &Spec,
    recordings: &[Range<usize>],
    predictions: &[Range<usize>],
) -> Result<u32, ProfileError> {
    let hop = u32::from(spec.input.hop);
    let check = |window: u32| {
        of_samples(recordings, window)
            .check()
            .map_err(|shortage| too_little(window, SAMPLES, shortage))?;
        of_predictions(spec, predictions, window)
            .check()
            .map_err(|shortage| too_little(window, PREDICTIONS, shortage))?;
        Ok(window)
    };
    if let Some(window) = spec.input.drift_window {
        return check(window);
    }
    let least = MIN_DRIFT_WINDOW
        .max(MIN_WINDOW_PREDICTIONS * hop)
        .next_multiple_of(hop);
    let most = (MAX_DRIFT_WINDOW / hop * hop).max(least);
    (least..=most)
        .rev()
        .step_by(hop as usize)
        .find_map(|window| check(window).ok())
        .map_or_else(|| check(least), Ok)
}

fn feature(
    spec: &Spec,
    training: &Samples,
    column: usize,
    name: &str,
    (drift_window, replayed): (u32, &[Pieces]),
) -> Result<FeatureProfile, ProfileError> {
    for (row, value) in training.column(column).enumerate() {
        if !value.is_finite() && !edgeward::contract::is_missing(value) {
            return Err(ProfileError::NotFinite {
                feature: name.to_owned(),
                row,
            });
        }
    }
    let mut sorted: Vec<_> = training.column(column).filter(|x| x.is_finite()).collect();
    sorted.sort_by(f32::total_cmp);
    let no_values = || ProfileError::NoValues {
        feature: name.to_owned(),
    };
    let edges = edges_of_sorted(&sorted).ok_or_else(no_values)?;
    let (mean, sd) = mean_and_sd(sorted.iter().copied());
    let (least, greatest) = (sorted[0], sorted[sorted.len() - 1]);
    let margin = (greatest - least) * RANGE_MARGIN;
    let (max_rate, stuck_run) = dynamics(spec, training, column);
    let over = spec.override_of(name);
    let FeatureOverride { min, max, .. } = over;
    let mut feature = FeatureProfile {
        // The specification's names fit.
        name: Name::try_from(name).unwrap_or_default(),
        missing: over.missing.unwrap_or(spec.input.missing).into(),
        min: min.unwrap_or(least - margin),
        max: max.unwrap_or(greatest + margin),
        mean,
        sd: sd.max(mean.abs().max(1.0) * MIN_RELATIVE_SD),
        max_rate: over.max_rate.unwrap_or(max_rate),
        stuck_run: over.stuck_run.unwrap_or(stuck_run),
        reference: count(&edges, &sorted),
        edges,
        limits: DriftLimits {
            psi: f32::INFINITY,
            ks: f32::INFINITY,
            js: f32::INFINITY,
            wasserstein: f32::INFINITY,
        },
    };
    feature.limits = limits(&feature, training, column, (drift_window, replayed))?;
    Ok(feature)
}

fn count(edges: &[f32; EDGES], values: &[f32]) -> [u32; BINS] {
    let mut counts = [0; BINS];
    for &value in values {
        counts[bin_of(edges, value)] += 1;
    }
    counts
}

/// Replays the training data in windows of `drift_window`.
///
/// Each window is compared with the rest of the training data: it is a part of the reference, and
/// would look more like it than new data can (by chance alone, PSI is 1/W - 1/n instead of 1/W + 1/n
/// of a window of W in a reference of n). No limit is below what a few stray samples make.
fn limits(
    feature: &FeatureProfile,
    training: &Samples,
    column: usize,
    (drift_window, replayed): (u32, &[Pieces]),
) -> Result<DriftLimits, ProfileError> {
    let values: Vec<_> = training.column(column).collect();
    let windows: Vec<_> = replayed
        .iter()
        .filter_map(|pieces| {
            let mut window = Window::default();
            for &value in pieces.iter().flat_map(|piece| &values[piece.clone()]) {
                window.push(feature, value);
            }
            let counts = window.counts();
            let rest = without(&feature.reference, &counts);
            evaluate(&feature.edges, &rest, &counts)
        })
        .collect();
    // The samples were counted before; what can still be missing are values. Windows that were drawn
    // from few recordings repeat each other, however many they are.
    let there = |range: &&Range<usize>| values[(*range).clone()].iter().any(|x| x.is_finite());
    let recordings: Vec<_> = training.recordings.iter().filter(there).cloned().collect();
    let independent = of_samples(&recordings, drift_window).independent();
    let sparse = || ProfileError::TooSparse {
        feature: feature.name.to_string(),
        windows: windows.len().min(independent as usize),
    };
    if independent < f64::from(CALIBRATION_WINDOWS) {
        return Err(sparse());
    }
    let found = calibrate(windows.iter().copied(), drift_window).map_err(|_| sparse())?;
    let least = stray(feature, drift_window).ok_or_else(sparse)?;
    Ok(DriftLimits {
        psi: found.psi.max(least.psi),
        ks: found.ks.max(least.ks),
        js: found.js.max(least.js),
        wasserstein: found.wasserstein.max(least.wasserstein),
    })
}

/// The reference without a window that is part of it.
fn without(reference: &[u32; BINS], window: &[u32; BINS]) -> [u32; BINS] {
    std::array::from_fn(|bin| reference[bin].saturating_sub(window[bin]))
}

/// The statistics of a window that is like the training data but for [`STRAY_SHARE`] of its samples,
/// which left the fullest bin for the one above the training range.
///
/// Features that hardly vary need this: all their training windows are alike, and a limit of nothing
/// would make drift of a single sample, which is the contract's business.
fn stray(feature: &FeatureProfile, drift_window: u32) -> Option<WindowStatistics> {
    let total: u64 = feature
        .reference
        .iter()
        .map(|&count| u64::from(count))
        .sum();
    let scaled = |count: u32| (u64::from(count) * u64::from(drift_window) / total.max(1)) as u32;
    let mut window = feature.reference.map(scaled);
    let fullest = (0..BINS).max_by_key(|&bin| window[bin])?;
    let strays = ((drift_window as f32 * STRAY_SHARE).ceil() as u32).max(2);
    window[fullest] = window[fullest].saturating_sub(strays);
    window[BINS - 1] += strays;
    evaluate(&feature.edges, &feature.reference, &window)
}

/// The largest plausible step and the longest plausible run of equal values.
fn dynamics(spec: &Spec, training: &Samples, column: usize) -> (f32, u16) {
    if spec.input.period_ms == 0 {
        return (f32::INFINITY, 0);
    }
    let (mut step, mut longest, mut still, mut pairs) = (0.0f32, 1, false, 0u64);
    for recording in &training.recordings {
        let mut run = 1;
        let mut last = f32::NAN;
        for row in recording.clone() {
            let value = training.row(row)[column];
            // Comparisons with a missing value (a NaN) are false: no step, no run.
            pairs += u64::from(!(value - last).is_nan());
            step = step.max((value - last).abs());
            run = if value == last { run + 1 } else { 1 };
            longest = longest.max(run);
            last = value;
        }
        still |= run == recording.len() && run > MIN_STUCK_RUN;
    }
    if pairs == 0 {
        // Recordings of one sample each say nothing about how the feature moves.
        return (f32::INFINITY, 0);
    }
    let stuck = (longest * RUN_FACTOR).max(MIN_STUCK_RUN);
    let stuck = if still {
        0
    } else {
        u16::try_from(stuck).unwrap_or(0)
    };
    (step * RATE_FACTOR, stuck)
}

/// Mean and standard deviation (n - 1; 0 for one value), in double precision.
fn mean_and_sd(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let n = values.clone().count() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / n;
    let squares: f64 = values.map(|x| (f64::from(x) - mean).powi(2)).sum();
    let sd = if n > 1.0 {
        (squares / (n - 1.0)).sqrt()
    } else {
        0.0
    };
    (mean as f32, sd as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::MINIMAL;
    use edgeward::contract::MISSING;
    use edgeward::drift::statistics;
    use std::path::Path;

    fn spec(extra_input: &str) -> Spec {
        let text = MINIMAL.replace("[output]", &format!("{extra_input}\n[output]"));
        Spec::parse(&text, Path::new("m.toml")).expect("spec")
    }

    /// A reproducible series of numbers between 0 and 1.
    pub(super) fn noise(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n).map(|_| next()).collect()
    }

    fn samples(rows: usize) -> Samples {
        Samples {
            width: 2,
            values: noise(rows * 2),
            labels: None,
            recordings: std::iter::once(0..rows).collect(),
        }
    }

    fn outputs(rows: usize) -> Outputs {
        let values = noise(rows)
            .into_iter()
            .flat_map(|x| [0.0, 4.0 * x - 1.0])
            .collect();
        Outputs { width: 2, values }
    }

    #[test]
    fn a_profile_is_valid_and_its_own_training_data_rarely_drifts() {
        let (profile, fit) =
            build(&spec(""), &samples(1000), &outputs(1000), None).expect("profile");
        assert_eq!(edgeward::bundle::decode::check_profile(&profile), Ok(()));
        assert_eq!(
            profile.drift_window, 33,
            "the longest with 30 windows in 1000 samples"
        );
        assert_eq!(
            (fit.temperature, fit.fitted, fit.accuracy),
            (1.0, false, None)
        );
        for (column, feature) in profile.features.iter().enumerate() {
            assert_eq!(feature.reference.iter().sum::<u32>(), 1000);
            assert_eq!((feature.reference[0], feature.reference[BINS - 1]), (0, 0));
            assert!(feature.min < 0.0 && feature.max > 1.0);
            assert_eq!((feature.max_rate, feature.stuck_run), (f32::INFINITY, 0));
            let mut window = Window::default();
            let fresh = samples(5000);
            fresh
                .column(column)
                .skip(4000)
                .take(33)
                .for_each(|x| window.push(feature, x));
            let found = window.statistics(feature).expect("statistics");
            assert!(
                found.psi < feature.limits.psi,
                "{found:?} {:?}",
                feature.limits
            );
            let mut moved = Window::default();
            fresh
                .column(column)
                .take(33)
                .for_each(|x| moved.push(feature, x * 0.5));
            let found = moved.statistics(feature).expect("statistics");
            assert!(
                found.psi > feature.limits.psi,
                "{found:?} {:?}",
                feature.limits
            );
        }
    }

    #[test]
    fn a_feature_of_few_recordings_has_few_windows_however_often_they_are_drawn() {
        let spec = spec("drift_window = 100");
        let sparse = |with: usize| {
            let mut samples = samples(1200);
            samples.recordings = (0..60).map(|i| i * 20..(i + 1) * 20).collect();
            for row in with * 20..1200 {
                samples.values[2 * row + 1] = MISSING;
            }
            build(&spec, &samples, &outputs(1200), None).err()
        };
        assert_eq!(sparse(30), None);
        let found = sparse(29);
        let few = |windows: &usize| *windows == 29;
        assert!(
            matches!(&found, Some(ProfileError::TooSparse { windows, .. }) if few(windows)),
            "{found:?}"
        );
    }

    #[test]
    fn too_little_data_says_how_much_is_wanted() {
        let error = build(
            &spec("drift_window = 100"),
            &samples(500),
            &outputs(500),
            None,
        )
        .expect_err("error");
        assert_eq!(
            error,
            ProfileError::TooLittle {
                drift_window: 100,
                unit: "samples",
                windows: 5,
                wanted: 3000,
                found: 500
            }
        );
        assert!(
            build(
                &spec("drift_window = 100"),
                &samples(3000),
                &outputs(3000),
                None
            )
            .is_ok()
        );
        assert!(build(&spec(""), &samples(60), &outputs(60), None).is_err());
    }

    #[test]
    fn steps_and_runs_stay_inside_a_recording() {
        let mut training = samples(600);
        training.recordings = vec![0..300, 300..600];
        for row in 0..600 {
            training.values[row * 2] = if row < 300 {
                (row % 3) as f32
            } else {
                1000.0 + (row % 3) as f32
            };
        }
        training.values[100] = MISSING;
        for row in 400..406 {
            training.values[row * 2 + 1] = 0.5;
        }
        let (profile, _) =
            build(&spec("period_ms = 10"), &training, &outputs(600), None).expect("profile");
        assert_eq!(profile.features[0].max_rate, 3.0);
        assert_eq!(profile.features[0].stuck_run, 10);
        assert_eq!(profile.features[1].stuck_run, 12);
    }

    #[test]
    fn recordings_of_one_sample_say_nothing_about_steps() {
        let mut training = samples(600);
        training.recordings = (0..600).map(|row| row..row + 1).collect();
        let (profile, _) =
            build(&spec("period_ms = 10"), &training, &outputs(600), None).expect("profile");
        let feature = &profile.features[0];
        assert_eq!((feature.max_rate, feature.stuck_run), (f32::INFINITY, 0));
    }

    #[test]
    fn a_constant_feature_has_a_profile_too() {
        let mut training = samples(600);
        (0..600).for_each(|row| training.values[row * 2] = 7.0);
        let (profile, _) =
            build(&spec("period_ms = 10"), &training, &outputs(600), None).expect("profile");
        assert_eq!(edgeward::bundle::decode::check_profile(&profile), Ok(()));
        let feature = &profile.features[0];
        assert_eq!((feature.min, feature.max, feature.stuck_run), (7.0, 7.0, 0));
        assert_eq!(feature.reference[BINS - 2], 600);
    }

    #[test]
    fn fresh_data_of_the_same_kind_rarely_drifts() {
        let (profile, _) = build(&spec(""), &samples(1000), &outputs(1000), None).expect("profile");
        let feature = &profile.features[0];
        let fresh = samples(61_500);
        let values: Vec<_> = fresh.column(1).skip(1000).collect();
        let (mut windows, mut drifted) = (0, 0);
        for values in values.chunks_exact(profile.drift_window as usize) {
            let mut window = Window::default();
            values.iter().for_each(|&value| window.push(feature, value));
            let found = window.statistics(feature).expect("statistics");
            let full = profile.drift_window;
            windows += 1;
            let beyond = edgeward::drift::exceeded(&found, &feature.limits, full, full).count();
            drifted += usize::from(beyond >= statistics::QUORUM);
        }
        assert!(
            windows > 450 && drifted * 100 <= windows,
            "{drifted} of {windows}"
        );
    }

    #[test]
    fn a_few_stray_samples_of_a_feature_that_hardly_varies_are_no_drift() {
        let mut training = samples(1000);
        (0..1000).for_each(|row| training.values[row * 2] = if row % 200 == 7 { 3.0 } else { 0.0 });
        let (profile, _) = build(&spec(""), &training, &outputs(1000), None).expect("profile");
        let feature = &profile.features[0];
        let mut window = Window::default();
        for row in 0..profile.drift_window {
            window.push(feature, if row < 2 { 9.0 } else { 0.0 });
        }
        let found = window.statistics(feature).expect("statistics");
        let full = profile.drift_window;
        assert_eq!(
            edgeward::drift::exceeded(&found, &feature.limits, full, full).count(),
            0
        );
    }

    #[test]
    fn held_out_data_measures_the_predictions() {
        let sure = Outputs {
            width: 2,
            values: [0.0, 9.0].repeat(1000),
        };
        let held = samples(900);
        let unsure = outputs(900);
        let held = HeldOut {
            samples: &held,
            outputs: &unsure,
        };
        let (alone, _) = build(&spec(""), &samples(1000), &sure, None).expect("profile");
        let (profile, _) = build(&spec(""), &samples(1000), &sure, Some(held)).expect("profile");
        assert!(alone.output.score_mean > 0.99 && profile.output.score_mean < 0.9);
        assert_eq!(profile.output.class_counts.iter().sum::<u32>(), 900);
        assert_eq!(
            profile.drift_window, 30,
            "the shorter of the two sets decides"
        );
    }

    #[test]
    fn overrides_win() {
        let text =
            "period_ms = 10\n[input.overrides.b]\nmin = -5.0\nmax_rate = inf\nmissing = \"reject\"";
        let (profile, _) = build(&spec(text), &samples(600), &outputs(600), None).expect("profile");
        let [a, b] = &profile.features[..] else {
            panic!("two features")
        };
        assert_eq!((b.min, b.max_rate), (-5.0, f32::INFINITY));
        assert_eq!(b.missing, edgeward::profile::MissingPolicy::Reject);
        assert!(a.max_rate < 2.0);
    }

    #[test]
    fn an_override_of_all_features_yields_to_one_of_a_single_feature() {
        let text = "period_ms = 10\n[input.overrides.\"*\"]\nmin = -9.0\nmax_rate = inf\n\
                    [input.overrides.b]\nmin = -5.0";
        let (profile, _) = build(&spec(text), &samples(600), &outputs(600), None).expect("profile");
        let seen: Vec<_> = profile
            .features
            .iter()
            .map(|f| (f.min, f.max_rate))
            .collect();
        assert_eq!(seen, [(-9.0, f32::INFINITY), (-5.0, f32::INFINITY)]);
    }

    #[test]
    fn labels_are_names_or_indices() {
        let classes = ["no".to_owned(), "yes".to_owned()];
        let index = |label| class_index(&classes, label);
        assert_eq!(
            (index("yes"), index("0"), index("1.0")),
            (Some(1), Some(0), Some(1))
        );
        assert_eq!(
            (index("2"), index("-1"), index("maybe"), index("")),
            (None, None, None, None)
        );
    }
}
