//! Drift: has the distribution of the input moved away from the training data's?
//!
//! Each feature of a window is summarised in fixed memory by a [`Window`]: counts in the profile's
//! quantile bins, and moments. At the window's end [`evaluate`] compares the counts with the
//! training data's; where statistics are beyond their calibrated limits ([`calibrate`]), the feature
//! has [`drifted`]. Windows of the same profile merge exactly in their counts, over time and over
//! boards.
//!
//! Limits are never literature constants: on short windows, autocorrelated or seasonal signals
//! those are wrong by orders of magnitude, in both directions.

mod calibrate;
pub mod exact;
mod moments;
pub mod special;
pub mod statistics;
mod windows;

pub use calibrate::{
    CALIBRATION_WINDOWS, CalibrationError, LIMIT_SDS, Limit, calibrate, calibration_samples,
};
pub use moments::Moments;
pub use statistics::{Excess, QUORUM, WindowStatistics, drifted, evaluate, exceeded};
pub use windows::Windows;

use crate::contract;
use crate::profile::{BINS, EDGES, FeatureProfile, QUANTILE_BINS};
use crate::telemetry::FeatureSummary;

/// Deviations from the training mean beyond this are taken as this in the moments, so that these
/// stay finite: 65,535 squares of it are still below the largest f32.
pub const MAX_DEVIATION: f32 = 1e16;

/// The bin of `x`: the number of edges less than or equal to it, 0 to 15.
///
/// `edges` must ascend; equal neighbours are fine, the bins between them stay empty. NaN lands in
/// bin 0, so callers keep it out. No branch: a binary search in four compares.
#[inline]
#[must_use]
pub fn bin_of(edges: &[f32; EDGES], x: f32) -> usize {
    // The indices are at most 7, 11, 13 and 14.
    let mut bin = usize::from(edges[7] <= x) * 8;
    bin += usize::from(edges[bin + 3] <= x) * 4;
    bin += usize::from(edges[bin + 1] <= x) * 2;
    bin + usize::from(edges[bin] <= x)
}

/// The profile's bin edges from a feature's training values in ascending order; `None` when there
/// are none or one is not finite.
///
/// The first edge is the least value and the last one the next f32 above the greatest, so that the
/// outer bins hold what training never saw. Between them lie the quantiles i/14 (the value at the
/// rank floor(i n / 14), no interpolation); ties may make some of them equal.
#[must_use]
pub fn edges_of_sorted(values: &[f32]) -> Option<[f32; EDGES]> {
    let (&least, &greatest) = (values.first()?, values.last()?);
    if !least.is_finite() || !greatest.is_finite() {
        return None;
    }
    let mut edges = [least; EDGES];
    for (i, edge) in edges.iter_mut().enumerate().skip(1) {
        *edge = *values
            .get(i * values.len() / QUANTILE_BINS)
            .unwrap_or(&greatest);
    }
    edges[EDGES - 1] = greatest.next_up();
    Some(edges)
}

/// What the moments take in of a value.
#[inline]
fn deviation(value: f32, mean: f32) -> f32 {
    (value - mean).clamp(-MAX_DEVIATION, MAX_DEVIATION)
}

/// One feature's window: 52 bytes whatever its length.
///
/// Made for windows of at most 65,535 samples; in longer ones full bins stay full.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    bins: [u16; BINS],
    /// Of the deviations from the training mean.
    moments: Moments,
    min: f32,
    max: f32,
}

/// The state of one feature may not grow beyond this, contract and drift together. What both have of
/// the profile to be faster is no state.
const STATE_BYTES: usize = 104;
const _: () =
    assert!(contract::state_bytes::<64>() + windows::state_bytes::<64>() <= 64 * STATE_BYTES);

impl Default for Window {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Window {
    /// No samples.
    pub const EMPTY: Self = Self {
        bins: [0; BINS],
        moments: Moments::EMPTY,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
    };

    /// Adds one value; values that are not finite are ignored.
    #[inline]
    pub fn push(&mut self, feature: &FeatureProfile, value: f32) {
        if !value.is_finite() {
            return;
        }
        let bin = &mut self.bins[bin_of(&feature.edges, value)];
        *bin = bin.saturating_add(1);
        self.moments.push(deviation(value, feature.mean));
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
    }

    /// Adds all of `other`, a window of the same feature and profile.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            *mine = mine.saturating_add(*theirs);
        }
        self.moments.merge(&other.moments);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Values added.
    #[must_use]
    pub fn n(&self) -> u32 {
        self.moments.n
    }

    /// Counts per bin.
    #[must_use]
    pub fn counts(&self) -> [u32; BINS] {
        self.bins.map(u32::from)
    }

    /// Moments of the deviations from the training mean.
    #[must_use]
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// The window's statistics against the training data; `None` while it is empty.
    #[must_use]
    pub fn statistics(&self, feature: &FeatureProfile) -> Option<WindowStatistics> {
        evaluate(&feature.edges, &feature.reference, &self.counts())
    }

    /// What telemetry reports of this window.
    #[must_use]
    pub fn summary(
        &self,
        feature: &FeatureProfile,
        state: &contract::FeatureState,
    ) -> FeatureSummary {
        FeatureSummary {
            bins: self.counts(),
            n: self.moments.n,
            mean: feature.mean + self.moments.mean,
            m2: self.moments.m2,
            min: self.min,
            max: self.max,
            violations: state.counts().map(u32::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However many edges are equal, and wherever a value lies between them.
        #[test]
        fn a_bin_is_the_number_of_edges_reached(
            mut edges in prop::array::uniform15(prop_oneof![
                any::<f32>().prop_filter("ordered", |edge| !edge.is_nan()),
                (-2i8..3).prop_map(f32::from),
            ]),
            other in any::<f32>(),
        ) {
            edges.sort_by(f32::total_cmp);
            let beside = edges.iter().flat_map(|edge| [edge.next_down(), *edge, edge.next_up()]);
            for x in beside.chain([other, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]) {
                let reached = edges.iter().filter(|edge| **edge <= x).count();
                prop_assert_eq!(bin_of(&edges, x), reached, "{} in {:?}", x, edges);
            }
        }
    }
}
