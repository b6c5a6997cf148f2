//! The profile: what the training data and the lab's predictions looked like.
//!
//! The host measures it when a bundle is packed; a board decodes it once, when a release is loaded,
//! and compares every sample and every window with it. It holds references and limits only: all
//! state that changes lives in [`crate::contract`], [`crate::drift`] and [`crate::guard`].

use crate::place::{self, Blank};
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

/// Inner quantile bins a feature's distribution is counted in.
pub const QUANTILE_BINS: usize = 14;
/// All bins: [`QUANTILE_BINS`], one below the training range and one above it.
pub const BINS: usize = QUANTILE_BINS + 2;
/// Edges between [`BINS`] bins.
pub const EDGES: usize = BINS - 1;
/// Longest name of a feature or class, in bytes.
pub const NAME_BYTES: usize = 24;

/// A feature's or class's name.
pub type Name = String<NAME_BYTES>;

/// Element type of a model's input as the sensor delivers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// Signed 8-bit, affine quantized.
    I8,
}

/// How a window of samples is laid out in the model's input tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Layout {
    /// `[1, window, features]`: samples one after the other.
    SamplesFirst,
    /// `[1, features, window]`: each feature's series in one piece.
    FeaturesFirst,
}

/// Shape and meaning of the input stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Version of the schema; a source that announces another one is a violation.
    pub version: u16,
    /// Element type that the source must announce.
    pub dtype: DType,
    /// Samples one inference sees (1 for tabular models).
    pub window: u16,
    /// New samples between two inferences (1 to `window`).
    pub hop: u16,
    /// Layout of the input tensor.
    pub layout: Layout,
    /// Nominal time between two samples in milliseconds; 0 when samples have no clock.
    pub period_ms: u32,
    /// Oldest sample that is still fresh, in milliseconds; 0 switches the check off.
    pub max_age_ms: u32,
    /// Version of the feature pipeline (SHA-256 of its description, first four bytes); 0 when unused.
    pub feature_version: u32,
}

/// What to do when a feature's value is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MissingPolicy {
    /// Reject the whole sample.
    Reject,
    /// Use the last good value of this feature (or the training mean, before there is one).
    HoldLast,
    /// Use the training mean.
    Impute,
}

/// Largest values of the window statistics that the training data itself explains.
///
/// Calibrated by replaying training windows (mean plus four standard deviations); a statistic
/// above its limit is drift.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DriftLimits {
    /// Population stability index, add one half.
    pub psi: f32,
    /// Kolmogorov-Smirnov statistic on the bins, 0 to 1.
    pub ks: f32,
    /// Jensen-Shannon distance on the bins (base 2), 0 to 1.
    pub js: f32,
    /// First Wasserstein distance on the bins, in the feature's unit.
    pub wasserstein: f32,
}

/// One feature as the training data showed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureProfile {
    /// The feature's name.
    pub name: Name,
    /// What to do when it is missing.
    pub missing: MissingPolicy,
    /// Smallest plausible value; less is a violation.
    pub min: f32,
    /// Largest plausible value; more is a violation.
    pub max: f32,
    /// Training mean.
    pub mean: f32,
    /// Training standard deviation (n - 1), positive.
    pub sd: f32,
    /// Largest plausible step between two consecutive samples; infinity switches the check off.
    pub max_rate: f32,
    /// Equal values in a row that mean a stuck sensor; 0 switches the check off.
    pub stuck_run: u16,
    /// Bin edges, ascending. The bin of `x` is the number of edges less than or equal to `x`.
    pub edges: [f32; EDGES],
    /// Training counts per bin.
    pub reference: [u32; BINS],
    /// Limits of the window statistics.
    pub limits: DriftLimits,
}

/// What the model's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OutputKind {
    /// One logit a class; the runtime applies softmax with the profile's temperature.
    Logits,
    /// One probability a class.
    Probabilities,
    /// Numbers without classes.
    Values,
}

/// The predictions as the lab saw them on the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputProfile<const C: usize> {
    /// Meaning of the output tensor.
    pub kind: OutputKind,
    /// Class names; for [`OutputKind::Values`], names of the values.
    pub names: Vec<Name, C>,
    /// Temperature that calibrates the confidence (logits are divided by it), positive.
    pub temperature: f32,
    /// Predictions per class on the training data.
    pub class_counts: Vec<u32, C>,
    /// Mean of the confidence (of the first value, for [`OutputKind::Values`]).
    pub score_mean: f32,
    /// Standard deviation of the same, positive.
    pub score_sd: f32,
    /// 1st percentile of the same.
    pub score_p01: f32,
    /// 99th percentile of the same.
    pub score_p99: f32,
    /// Mean entropy of the class probabilities, in nats. For who reads a bundle: nothing compares with it.
    pub entropy_mean: f32,
    /// Largest PSI of the class shares of a window that training explains.
    pub class_psi_limit: f32,
    /// Largest absolute shift of a window's mean score, in `score_sd`, that training explains.
    pub score_shift_limit: f32,
}

/// The whole profile for at most `F` features and `C` outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile<const F: usize, const C: usize> {
    /// The input stream.
    pub schema: Schema,
    /// The features, in tensor order.
    pub features: Vec<FeatureProfile, F>,
    /// The predictions.
    pub output: OutputProfile<C>,
    /// Samples in one drift window.
    pub drift_window: u32,
}

impl<const F: usize, const C: usize> Profile<F, C> {
    /// A profile of nothing, for [`decode_profile_into`](crate::bundle::decode::decode_profile_into).
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            schema: Schema {
                version: 0,
                dtype: DType::F32,
                window: 0,
                hop: 0,
                layout: Layout::SamplesFirst,
                period_ms: 0,
                max_age_ms: 0,
                feature_version: 0,
            },
            features: Vec::new(),
            output: OutputProfile {
                kind: OutputKind::Values,
                names: Vec::new(),
                temperature: 0.0,
                class_counts: Vec::new(),
                score_mean: 0.0,
                score_sd: 0.0,
                score_p01: 0.0,
                score_p99: 0.0,
                entropy_mean: 0.0,
                class_psi_limit: 0.0,
                score_shift_limit: 0.0,
            },
            drift_window: 0,
        }
    }
}

place::numbers! {
    DType { F32, I8 }
    Layout { SamplesFirst, FeaturesFirst }
    MissingPolicy { Reject, HoldLast, Impute }
    OutputKind { Logits, Probabilities, Values }
}

place::records! {
    Schema {
        version, dtype, window, hop, layout, period_ms, max_age_ms, feature_version,
    }
    DriftLimits { psi, ks, js, wasserstein }
    FeatureProfile {
        name, missing, min, max, mean, sd, max_rate, stuck_run, edges, reference, limits,
    }
    OutputProfile<const C> {
        kind, names, temperature, class_counts, score_mean, score_sd, score_p01, score_p99,
        entropy_mean, class_psi_limit, score_shift_limit,
    }
    Profile<const F, const C> { schema, features, output, drift_window }
}

impl Blank for FeatureProfile {
    fn blank() -> Self {
        Self {
            name: Name::new(),
            missing: MissingPolicy::Reject,
            min: 0.0,
            max: 0.0,
            mean: 0.0,
            sd: 0.0,
            max_rate: 0.0,
            stuck_run: 0,
            edges: [0.0; EDGES],
            reference: [0; BINS],
            limits: DriftLimits {
                psi: 0.0,
                ks: 0.0,
                js: 0.0,
                wasserstein: 0.0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_and_written_in_place_as_they_are_by_serde() {
        let profile = crate::testing::profile::<3, 2>(16, 8);
        place::check(&profile, &Profile::empty());
    }
}
