//! The prediction guard: does the output look like the lab's?
//!
//! A [`Guard`] judges one output at a time against the profile's and sums up a window;
//! [`TrialMonitor`] and [`ShadowMonitor`] decide about a new release, [`self_test`] runs its golden
//! vectors, [`Cbpe`] estimates accuracy without labels.

mod cbpe;
mod prediction;
mod self_test;
mod softmax;
mod trial;

pub use cbpe::Cbpe;
pub use prediction::{InferenceError, Prediction, PredictionFlags};
pub use self_test::{SelfTest, SelfTestFailure, self_test};
pub use trial::{ShadowMonitor, ShadowVerdict, TrialMonitor, Verdict};

use crate::drift::{Excess, Moments, statistics};
use crate::policy::GuardPolicy;
use crate::profile::{OutputKind, OutputProfile};
use crate::telemetry::latency::LatencyHistogram;
use crate::telemetry::{OutputSummary, Statistic};
use heapless::Vec;

/// Least number of latencies from which a window's 99th percentile is judged.
const MIN_LATENCIES: u32 = 20;
/// Least number of failed inferences that may be a rate.
const MIN_ERRORS: u32 = 3;
/// Scores further than this many of the profile's standard deviations count as this far in the
/// moments, so that these stay finite.
const MAX_SCORE_SDS: f32 = 1e6;

/// The guard's state: the last prediction and one window's sums.
#[derive(Debug, Clone)]
// Small fields first, where an instruction of two bytes reaches them.
#[repr(C)]
pub struct Guard<const C: usize> {
    /// Predictions in a row that were answered from `last_good`.
    fallbacks_in_row: u16,
    last_good: Option<Prediction>,
    window: Sums<C>,
    probabilities: [f32; C],
}

/// One window.
#[derive(Debug, Clone)]
#[repr(C)]
struct Sums<const C: usize> {
    inferences: u32,
    errors: u32,
    fallbacks: u32,
    /// Of the scores' deviations from the profile's mean.
    scores: Moments,
    entropy_sum: f32,
    expected_right: f32,
    z_outliers: u32,
    below_p01: u32,
    above_p99: u32,
    /// Predictions that took longer than the budget.
    slow: u32,
    classes: [u32; C],
    latency: LatencyHistogram,
}

impl<const C: usize> Sums<C> {
    fn empty() -> Self {
        Self {
            inferences: 0,
            errors: 0,
            fallbacks: 0,
            classes: [0; C],
            scores: Moments::EMPTY,
            entropy_sum: 0.0,
            expected_right: 0.0,
            z_outliers: 0,
            below_p01: 0,
            above_p99: 0,
            latency: LatencyHistogram::default(),
            slow: 0,
        }
    }
}

impl<const C: usize> Default for Guard<C> {
    fn default() -> Self {
        Self {
            probabilities: [0.0; C],
            last_good: None,
            fallbacks_in_row: 0,
            window: Sums::empty(),
        }
    }
}

impl<const C: usize> Guard<C> {
    /// Judges the output of one inference; an error is counted by the caller through
    /// [`fail`](Self::fail).
    ///
    /// Logits become probabilities by softmax after division by the profile's temperature;
    /// probabilities are raised to 1/temperature and scaled to a sum of one, which is the same. The
    /// confidence is the greatest probability, the class its index (the first of equals), the
    /// entropy in nats. For [`OutputKind::Values`] the score is the first value, the class 0.
    ///
    /// `input_flagged` says that a sample behind this prediction broke the contract.
    ///
    /// # Errors
    /// [`InferenceError::Output`] when a value is not finite, when there are more values than `C` or
    /// none, or when probabilities sum to nothing.
    pub fn judge(
        &mut self,
        profile: &OutputProfile<C>,
        policy: &GuardPolicy,
        output: &[f32],
        input_flagged: bool,
    ) -> Result<Prediction, InferenceError> {
        let probabilities = self
            .probabilities
            .get_mut(..output.len())
            .ok_or(InferenceError::Output)?;
        let reading = prediction::read(profile.kind, profile.temperature, output, probabilities)?;

        let window = &mut self.window;
        window.inferences = window.inferences.saturating_add(1);
        if profile.kind != OutputKind::Values {
            if let Some(count) = window.classes.get_mut(usize::from(reading.class)) {
                *count = count.saturating_add(1);
            }
            window.entropy_sum += reading.entropy;
            window.expected_right += reading.score;
        }
        let most = MAX_SCORE_SDS * profile.score_sd;
        // Not `clamp`, whose panic would bring the formatting of floats into a microcontroller's image.
        let deviation = (reading.score - profile.score_mean).min(most).max(-most);
        window.scores.push(deviation);

        let mut flags = PredictionFlags::NONE;
        if input_flagged {
            flags.insert(PredictionFlags::INPUT);
        }
        if libm::fabsf(deviation) > policy.z_limit * profile.score_sd {
            flags.insert(PredictionFlags::Z_OUTLIER);
            window.z_outliers = window.z_outliers.saturating_add(1);
        }
        if reading.score < profile.score_p01 {
            flags.insert(PredictionFlags::BELOW_P01);
            window.below_p01 = window.below_p01.saturating_add(1);
        } else if reading.score > profile.score_p99 {
            flags.insert(PredictionFlags::ABOVE_P99);
            window.above_p99 = window.above_p99.saturating_add(1);
        }
        Ok(Prediction {
            class: reading.class,
            confidence: reading.score,
            flags,
            latency_us: 0,
            fallback: false,
        })
    }

    /// Takes in how long a judged prediction took, and keeps it as the last good one.
    pub fn finish(&mut self, policy: &GuardPolicy, prediction: &mut Prediction, latency_us: u32) {
        prediction.latency_us = latency_us;
        self.window.latency.record(latency_us);
        if policy.max_p99_us > 0 && latency_us > policy.max_p99_us {
            self.window.slow = self.window.slow.saturating_add(1);
        }
        self.last_good = Some(*prediction);
        self.fallbacks_in_row = 0;
    }

    /// Counts an inference that failed.
    pub fn fail(&mut self) {
        self.window.inferences = self.window.inferences.saturating_add(1);
        self.window.errors = self.window.errors.saturating_add(1);
    }

    /// The last good prediction once more; `None` when there is none, or when it has been used
    /// [`GuardPolicy::max_fallbacks`] times in a row.
    pub fn fall_back(&mut self, policy: &GuardPolicy) -> Option<Prediction> {
        let last = self.last_good?;
        if self.fallbacks_in_row >= policy.max_fallbacks {
            return None;
        }
        self.fallbacks_in_row += 1;
        self.window.fallbacks = self.window.fallbacks.saturating_add(1);
        Some(Prediction {
            fallback: true,
            latency_us: 0,
            ..last
        })
    }

    /// Calibrated probabilities of the last output that was judged (for [`OutputKind::Values`], the
    /// values); those beyond the model's outputs are meaningless.
    #[must_use]
    pub fn probabilities(&self) -> &[f32; C] {
        &self.probabilities
    }

    /// Begins a new window; the last good prediction stays.
    pub fn start_window(&mut self) {
        self.window = Sums::empty();
    }

    /// Predictions that the model made in this window.
    #[must_use]
    pub fn predictions(&self) -> u32 {
        self.window.scores.n
    }

    /// Inferences tried in this window.
    #[must_use]
    pub fn inferences(&self) -> u32 {
        self.window.inferences
    }

    /// Inferences that failed in this window.
    #[must_use]
    pub fn errors(&self) -> u32 {
        self.window.errors
    }

    /// Predictions answered from the last good one in this window.
    #[must_use]
    pub fn fallbacks(&self) -> u32 {
        self.window.fallbacks
    }

    /// Latencies of this window.
    #[must_use]
    pub fn latency(&self) -> &LatencyHistogram {
        &self.window.latency
    }

    /// PSI of this window's predicted classes against the training data's.
    #[must_use]
    pub fn class_psi(&self, profile: &OutputProfile<C>) -> f32 {
        statistics::psi(&profile.class_counts, &self.window.classes)
    }

    /// Absolute shift of this window's mean score, in the profile's standard deviations.
    #[must_use]
    pub fn score_shift(&self, profile: &OutputProfile<C>) -> f32 {
        libm::fabsf(self.window.scores.mean) / profile.score_sd
    }

    /// What is beyond its limit at the window's end, where a full window has `full` predictions.
    ///
    /// As for [`drift::exceeded`](crate::drift::exceeded), the limits of the class PSI and of the
    /// score shift grow for a window with fewer predictions, and below half of them nothing is
    /// decided. A rate of errors needs three of them, a percentile of latencies twenty.
    pub fn exceeded(
        &self,
        profile: &OutputProfile<C>,
        policy: &GuardPolicy,
        full: u32,
    ) -> impl Iterator<Item = Excess> + use<C> {
        let window = &self.window;
        let n = self.predictions();
        let judged = n > 0 && n >= full.div_ceil(2);
        let classes = judged && profile.kind != OutputKind::Values;
        let scale = if judged && n < full {
            full as f32 / n as f32
        } else {
            1.0
        };
        let excess = |judged: bool, statistic, value: f32, limit: f32| {
            (judged && value > limit).then_some(Excess {
                statistic,
                value,
                limit,
            })
        };

        let psi_limit = profile.class_psi_limit * scale;
        let shift_limit = profile.score_shift_limit * libm::sqrtf(scale);
        let rate = window.errors as f32 * 1000.0 / window.inferences.max(1) as f32;
        let rate_limit = f32::from(policy.max_error_per_mille);
        let rated = window.errors >= MIN_ERRORS;
        [
            excess(
                classes,
                Statistic::ClassPsi,
                self.class_psi(profile),
                psi_limit,
            ),
            excess(
                judged,
                Statistic::ScoreShift,
                self.score_shift(profile),
                shift_limit,
            ),
            excess(rated, Statistic::ErrorRate, rate, rate_limit),
            self.too_slow(policy),
            self.too_uncertain(policy).filter(|_| classes),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether more than a hundredth of the predictions took longer than the budget, which is the
    /// same as a 99th percentile (nearest rank) above it; the histogram would only say so to the
    /// width of a bucket.
    fn too_slow(&self, policy: &GuardPolicy) -> Option<Excess> {
        let n = self.predictions();
        let slow = n >= MIN_LATENCIES && self.window.slow > n / 100;
        let p99 = self.window.latency.quantile_us(990)?;
        slow.then_some(Excess {
            statistic: Statistic::LatencyP99,
            value: p99.max(policy.max_p99_us) as f32,
            limit: policy.max_p99_us as f32,
        })
    }

    /// Whether the estimated accuracy is below its limit.
    fn too_uncertain(&self, policy: &GuardPolicy) -> Option<Excess> {
        let estimate = self.window.expected_right * 1000.0 / self.predictions().max(1) as f32;
        let limit = f32::from(policy.min_accuracy_per_mille);
        // Without a limit this is never true.
        (estimate < limit).then_some(Excess {
            statistic: Statistic::EstimatedAccuracy,
            value: estimate,
            limit,
        })
    }

    /// What telemetry reports of this window.
    #[must_use]
    pub fn summary(&self, profile: &OutputProfile<C>) -> OutputSummary<C> {
        let window = &self.window;
        let outputs = profile.names.len().min(C);
        OutputSummary {
            n: self.predictions(),
            classes: Vec::from_slice(&window.classes[..outputs]).unwrap_or_default(),
            score_mean: profile.score_mean + window.scores.mean,
            score_m2: window.scores.m2,
            entropy_sum: window.entropy_sum,
            expected_right: window.expected_right,
            z_outliers: window.z_outliers,
            below_p01: window.below_p01,
            above_p99: window.above_p99,
        }
    }
}
