//! Four features at once, by SSE2, which every x86-64 has.

use super::Windows;
use crate::drift::{MAX_DEVIATION, bin_of};
use crate::four::{any, from, from_mut, load, load_counts, not_finite, store, store_counts};
use crate::profile::FeatureProfile;
use core::arch::x86_64::{
    _mm_add_epi32, _mm_add_ps, _mm_castsi128_ps, _mm_cvtepi32_ps, _mm_div_ps, _mm_max_ps,
    _mm_min_ps, _mm_mul_ps, _mm_or_ps, _mm_or_si128, _mm_set1_epi32, _mm_set1_ps, _mm_sub_ps,
};
use core::array::from_fn;

impl<const F: usize> Windows<F> {
    /// See [`Windows::push`].
    #[inline(always)]
    pub(super) fn push_by_fours(&mut self, features: &[FeatureProfile], values: &[f32; F]) {
        let count = features.len().min(F);
        let mut at = 0;
        while count - at >= 4 {
            self.push_some::<4>(at, features, values);
            at += 4;
        }
        match count - at {
            3 => self.push_some::<3>(at, features, values),
            2 => self.push_some::<2>(at, features, values),
            1 => self.push_some::<1>(at, features, values),
            _ => {}
        }
    }

    /// Adds the values of `N` features from `at` on, at most four: so many that loops need no end.
    #[inline(always)]
    fn push_some<const N: usize>(
        &mut self,
        at: usize,
        features: &[FeatureProfile],
        values: &[f32; F],
    ) {
        let features = features.get(at..).and_then(|rest| rest.first_chunk::<N>());
        let some = values.get(at..).and_then(|rest| rest.first_chunk::<N>());
        let Some((features, some)) = features.zip(some) else {
            return;
        };
        // All bins first: no count is then waited for before the next bin is looked for.
        let bins: [_; N] = from_fn(|lane| bin_of(&features[lane].edges, some[lane]));
        #[allow(unsafe_code)]
        // SAFETY: every x86-64 has SSE2.
        if unsafe { self.add_four(at, values, N) }.is_none() {
            for ((lane, feature), &value) in features.iter().enumerate().zip(some) {
                self.push_one(at + lane, feature, value);
            }
            return;
        }
        let counts = self.bins.get_mut(at..);
        let Some(counts) = counts.and_then(|rest| rest.first_chunk_mut::<N>()) else {
            return;
        };
        for (counts, bin) in counts.iter_mut().zip(bins) {
            if let Some(count) = counts.get_mut(bin) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// Adds the values from feature `at` on to all but the bins, if there are four places and the first
    /// `used` of the values are finite. What the windows beyond `used` hold is lost. These are the operations
    /// of [`Moments::push`](crate::drift::Moments::push), in their order.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn add_four(&mut self, at: usize, values: &[f32; F], used: usize) -> Option<()> {
        let value = load(from(values, at)?);
        let n = from_mut(&mut self.n, at)?;
        let before = load_counts(n);
        let more = _mm_add_epi32(before, _mm_set1_epi32(1));
        // Counts of 2^31 and more are no i32: they are negative, and left to the other way.
        let large = _mm_castsi128_ps(_mm_or_si128(before, more));
        if any(_mm_or_ps(not_finite(value), large), used) {
            return None;
        }
        store_counts(n, more);
        let x = _mm_sub_ps(value, load(from(&self.center, at)?));
        let x = _mm_max_ps(x, _mm_set1_ps(-MAX_DEVIATION));
        let x = _mm_min_ps(x, _mm_set1_ps(MAX_DEVIATION));
        let mean = from_mut(&mut self.mean, at)?;
        let before = load(mean);
        let delta = _mm_sub_ps(x, before);
        let after = _mm_add_ps(before, _mm_div_ps(delta, _mm_cvtepi32_ps(more)));
        store(mean, after);
        let m2 = from_mut(&mut self.m2, at)?;
        let square = _mm_mul_ps(delta, _mm_sub_ps(x, after));
        store(m2, _mm_add_ps(load(m2), square));
        // Of two equals the second, as with the compare that a window of its own makes.
        let min = from_mut(&mut self.min, at)?;
        store(min, _mm_min_ps(value, load(min)));
        let max = from_mut(&mut self.max, at)?;
        store(max, _mm_max_ps(value, load(max)));
        Some(())
    }
}
