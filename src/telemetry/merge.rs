//! Merging summaries: two windows of one board, or the same window of many boards.
//!
//! Counts add up and saturate; moments are combined with the pairwise update of Chan, Golub and
//! LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979),
//! carried out in double precision and stored in single. Merging is commutative and associative up
//! to that rounding, so that it does not matter in which order boards, minutes and days are merged.

use super::{FeatureSummary, OutputSummary, ReleaseId, Summary};
use crate::contract::ViolationKind;
use crate::profile::BINS;
use heapless::Vec;

/// Why two summaries were not merged; both are unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeError {
    /// They are of different releases, whose profiles need not agree.
    Release,
    /// They have different numbers of features.
    Features,
    /// They have different numbers of classes.
    Classes,
}

impl core::fmt::Display for MergeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Release => "the summaries are of different releases",
            Self::Features => "the summaries have different numbers of features",
            Self::Classes => "the summaries have different numbers of classes",
        })
    }
}

impl core::error::Error for MergeError {}

impl<const F: usize, const C: usize> Summary<F, C> {
    /// A summary of nothing: it merges with any other, and leaves it as it is but for the dropped
    /// events, which add up.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            release: ReleaseId::default(),
            windows: 0,
            from_ms: u64::MAX,
            to_ms: 0,
            samples: 0,
            rejected: 0,
            inferences: 0,
            errors: 0,
            fallbacks: 0,
            violations: [0; ViolationKind::COUNT],
            alarms: 0,
            dropped_events: 0,
            latency: Default::default(),
            features: Vec::new(),
            output: OutputSummary::empty(),
            core_khz: 0,
        }
    }

    /// Whether it covers no window at all, as [`empty`](Self::empty) does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows == 0
    }

    /// Adds `other`, window by window.
    ///
    /// # Errors
    /// [`MergeError`] when the two don't belong together; `self` is then unchanged.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        let dropped = self.dropped_events.saturating_add(other.dropped_events);
        if !other.is_empty() {
            if self.is_empty() {
                self.copy_from(other);
            } else {
                self.merge_windows(other)?;
            }
        }
        self.dropped_events = dropped;
        Ok(())
    }

    /// Becomes a copy of `other`, field by field: as a whole, it would be made on the stack first.
    pub fn copy_from(&mut self, other: &Self) {
        let Self {
            release,
            windows,
            from_ms,
            to_ms,
            samples,
            rejected,
            inferences,
            errors,
            fallbacks,
            violations,
            alarms,
            dropped_events,
            latency,
            features,
            output,
            core_khz,
        } = other;
        self.release = *release;
        self.windows = *windows;
        self.from_ms = *from_ms;
        self.to_ms = *to_ms;
        self.samples = *samples;
        self.rejected = *rejected;
        self.inferences = *inferences;
        self.errors = *errors;
        self.fallbacks = *fallbacks;
        self.violations = *violations;
        self.alarms = *alarms;
        self.dropped_events = *dropped_events;
        self.latency.clone_from(latency);
        self.features.clear();
        for feature in features {
            // There is room for as many.
            let _ = self.features.push(feature.clone());
        }
        self.output.clone_from(output);
        self.core_khz = *core_khz;
    }

    fn merge_windows(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.release != other.release {
            return Err(MergeError::Release);
        }
        if self.features.len() != other.features.len() {
            return Err(MergeError::Features);
        }
        if self.output.classes.len() != other.output.classes.len() {
            return Err(MergeError::Classes);
        }
        add(&mut self.windows, other.windows);
        self.from_ms = self.from_ms.min(other.from_ms);
        self.to_ms = self.to_ms.max(other.to_ms);
        add(&mut self.samples, other.samples);
        add(&mut self.rejected, other.rejected);
        add(&mut self.inferences, other.inferences);
        add(&mut self.errors, other.errors);
        add(&mut self.fallbacks, other.fallbacks);
        add_all(&mut self.violations, &other.violations);
        add(&mut self.alarms, other.alarms);
        self.latency.merge(&other.latency);
        for (mine, theirs) in self.features.iter_mut().zip(&other.features) {
            mine.merge(theirs);
        }
        self.output.merge(&other.output);
        if self.core_khz != other.core_khz {
            self.core_khz = 0;
        }
        Ok(())
    }

    /// The 99th percentile of the latency in cycles of the core that ran the inferences, rounded down;
    /// `None` where its clock is not known or nothing was answered.
    ///
    /// It is [`LatencyHistogram::quantile_us`](super::latency::LatencyHistogram::quantile_us) times
    /// [`core_khz`](Self::core_khz) / 1000. The histogram has four buckets a power of two, so that the
    /// percentile may be 25 % too high: what microseconds round away of a latency in cycles is less.
    #[must_use]
    pub fn latency_p99_cycles(&self) -> Option<u64> {
        let p99_us = self.latency.quantile_us(990)?;
        (self.core_khz > 0).then(|| u64::from(p99_us) * u64::from(self.core_khz) / 1000)
    }
}

impl FeatureSummary {
    /// A summary of no sample.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            bins: [0; BINS],
            n: 0,
            mean: 0.0,
            m2: 0.0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            violations: [0; ViolationKind::PER_FEATURE],
        }
    }

    /// Adds `other`, a summary of the same feature of the same release.
    pub fn merge(&mut self, other: &Self) {
        add_all(&mut self.bins, &other.bins);
        (self.mean, self.m2) = merge_moments(
            (self.n, self.mean, self.m2),
            (other.n, other.mean, other.m2),
        );
        add(&mut self.n, other.n);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        add_all(&mut self.violations, &other.violations);
    }
}

impl<const C: usize> OutputSummary<C> {
    /// A summary of no prediction and no class.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            n: 0,
            classes: Vec::new(),
            score_mean: 0.0,
            score_m2: 0.0,
            entropy_sum: 0.0,
            expected_right: 0.0,
            z_outliers: 0,
            below_p01: 0,
            above_p99: 0,
        }
    }

    /// Adds `other`, a summary of the same release; classes beyond the shorter list are left as
    /// they are.
    pub fn merge(&mut self, other: &Self) {
        (self.score_mean, self.score_m2) = merge_moments(
            (self.n, self.score_mean, self.score_m2),
            (other.n, other.score_mean, other.score_m2),
        );
        add(&mut self.n, other.n);
        add_all(&mut self.classes, &other.classes);
        self.entropy_sum += other.entropy_sum;
        self.expected_right += other.expected_right;
        add(&mut self.z_outliers, other.z_outliers);
        add(&mut self.below_p01, other.below_p01);
        add(&mut self.above_p99, other.above_p99);
    }
}

fn add(count: &mut u32, more: u32) {
    *count = count.saturating_add(more);
}

fn add_all(counts: &mut [u32], more: &[u32]) {
    for (count, more) in counts.iter_mut().zip(more) {
        add(count, *more);
    }
}

/// Mean and sum of squared differences of two sets together, each `(n, mean, m2)`.
fn merge_moments(a: (u32, f32, f32), b: (u32, f32, f32)) -> (f32, f32) {
    if b.0 == 0 {
        return (a.1, a.2);
    }
    if a.0 == 0 {
        return (b.1, b.2);
    }
    let (na, nb) = (f64::from(a.0), f64::from(b.0));
    let delta = f64::from(b.1) - f64::from(a.1);
    let share = nb / (na + nb);
    let mean = f64::from(a.1) + delta * share;
    let m2 = f64::from(a.2) + f64::from(b.2) + delta * delta * na * share;
    (mean as f32, m2 as f32)
}

#[cfg(test)]
mod tests;
