//! Four features at once, by SSE2.

use super::{LONGEST_RUN, Memory};
use crate::four::{
    any_of, from, from_mut, load, load_counts, magnitude, not_finite, store, store_counts,
};
use crate::profile::FeatureProfile;
use core::arch::x86_64::{
    __m128, __m128i, _mm_add_epi32, _mm_and_si128, _mm_castps_si128, _mm_castsi128_ps,
    _mm_cmpeq_ps, _mm_cmpgt_epi32, _mm_cmpgt_ps, _mm_cmplt_ps, _mm_or_ps, _mm_set1_epi32,
    _mm_sub_ps,
};

/// The profile's limits, by field rather than by feature.
#[derive(Debug, Clone, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Limits<const F: usize> {
    min: [f32; F],
    max: [f32; F],
    mean: [f32; F],
    /// How far from the mean a value may be.
    reach: [f32; F],
    max_rate: [f32; F],
    /// How many equal values in a row there may be.
    max_run: [u32; F],
}

impl<const F: usize> Limits<F> {
    /// Of a feature that is not in `features`, any value passes if it is one of the last four, else none.
    pub(super) fn new(features: &[FeatureProfile], z_limit: f32) -> Self {
        let mut limits = Self {
            min: [f32::INFINITY; F],
            max: [f32::NEG_INFINITY; F],
            mean: [0.0; F],
            reach: [0.0; F],
            max_rate: [0.0; F],
            max_run: [0; F],
        };
        for (index, feature) in features.iter().enumerate().take(F) {
            limits.min[index] = feature.min;
            limits.max[index] = feature.max;
            limits.mean[index] = feature.mean;
            limits.reach[index] = z_limit * feature.sd;
            limits.max_rate[index] = feature.max_rate;
            limits.max_run[index] = match feature.stuck_run {
                0 => LONGEST_RUN,
                run => u32::from(run) - 1,
            };
        }
        let last = features.len()..features.len().next_multiple_of(4).min(F);
        for index in last {
            limits.min[index] = f32::NEG_INFINITY;
            limits.max[index] = f32::INFINITY;
            limits.reach[index] = f32::INFINITY;
            limits.max_rate[index] = f32::INFINITY;
            limits.max_run[index] = LONGEST_RUN;
        }
        limits
    }

    /// Whether they are what these features ask for, or let nothing pass, so that they are never asked.
    pub(super) fn are_of(&self, features: &[FeatureProfile], z_limit: f32) -> bool {
        *self == Self::new(features, z_limit) || *self == Self::new(&[], 0.0)
    }
}

impl<const F: usize> Memory<F> {
    /// See [`Memory::pass`].
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn pass_by_fours(
        &mut self,
        at: usize,
        values: &[f32],
        copy: &mut [f32; F],
    ) -> usize {
        for at in (at..values.len()).step_by(4) {
            if self.pass_four(&values[at..], copy, at).is_none() {
                return at;
            }
        }
        values.len()
    }

    /// Takes in at most four values, if there is nothing to say about them.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn pass_four(&mut self, values: &[f32], copy: &mut [f32; F], at: usize) -> Option<()> {
        // What a feature that there is not may always have.
        const NONE: f32 = 0.0;
        let four = match *values {
            [a, b, c, d, ..] => [a, b, c, d],
            [a, b, c] => [a, b, c, NONE],
            [a, b] => [a, b, NONE, NONE],
            [a] => [a, NONE, NONE, NONE],
            [] => return None,
        };
        let value = load(&four);
        let run = self.run_of_four(at, value)?;
        store_counts(from_mut(&mut self.run, at)?, run);
        for field in [&mut self.last, &mut self.held, &mut self.previous, copy] {
            store(from_mut(field, at)?, value);
        }
        Some(())
    }

    /// The runs with these values, if there is nothing to say about them. NaN passes no
    /// compare of these but the one for what is not finite, so that a feature without a previous value
    /// has no rate.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn run_of_four(&self, at: usize, value: __m128) -> Option<__m128i> {
        let limits = &self.limits;
        let outside = _mm_or_ps(
            _mm_cmplt_ps(value, load(from(&limits.min, at)?)),
            _mm_cmpgt_ps(value, load(from(&limits.max, at)?)),
        );
        let from_mean = magnitude(_mm_sub_ps(value, load(from(&limits.mean, at)?)));
        let far = _mm_cmpgt_ps(from_mean, load(from(&limits.reach, at)?));
        let step = magnitude(_mm_sub_ps(value, load(from(&self.previous, at)?)));
        let fast = _mm_cmpgt_ps(step, load(from(&limits.max_rate, at)?));
        // One more than the run, or one; where the run is the longest already, no more.
        let equal = _mm_castps_si128(_mm_cmpeq_ps(value, load(from(&self.last, at)?)));
        let kept = _mm_and_si128(load_counts(from(&self.run, at)?), equal);
        let full = _mm_cmpgt_epi32(kept, _mm_set1_epi32(LONGEST_RUN as i32 - 1));
        let run = _mm_add_epi32(_mm_add_epi32(kept, _mm_set1_epi32(1)), full);
        let stuck = _mm_cmpgt_epi32(run, load_counts(from(&limits.max_run, at)?));

        let wrong = _mm_or_ps(_mm_or_ps(not_finite(value), outside), _mm_or_ps(far, fast));
        let wrong = _mm_or_ps(wrong, _mm_castsi128_ps(stuck));
        (!any_of::<4>(wrong)).then_some(run)
    }
}
