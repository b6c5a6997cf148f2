//! Four features at once, by SSE2, which every x86-64 has.

use super::Windows;
use crate::drift::MAX_DEVIATION;
use crate::four::{any, from, from_mut, load, load_counts, not_finite, store, store_counts};
use crate::profile::{BINS, EDGES, FeatureProfile};
use core::arch::x86_64::{
    _mm_add_epi32, _mm_add_ps, _mm_castps_si128, _mm_castsi128_ps, _mm_cmplt_ps, _mm_cvtepi32_ps,
    _mm_div_ps, _mm_max_ps, _mm_min_ps, _mm_movemask_epi8, _mm_mul_ps, _mm_or_ps, _mm_or_si128,
    _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32, _mm_set1_ps, _mm_sub_ps,
};
use core::array::from_fn;

/// The profile's bin edges, each feature's in one line of the cache.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Edges<const F: usize>([[f32; BINS]; F]);

impl<const F: usize> Edges<F> {
    /// The last of each feature's is one more than the profile has, which no finite value reaches.
    pub(super) fn new(features: &[FeatureProfile]) -> Self {
        let mut all = [[f32::INFINITY; BINS]; F];
        for (edges, feature) in all.iter_mut().zip(features) {
            edges[..EDGES].copy_from_slice(&feature.edges);
        }
        Self(all)
    }

    /// Whether they are these features'.
    pub(super) fn are_of(&self, features: &[FeatureProfile]) -> bool {
        let mut pairs = self.0.iter().zip(features);
        pairs.all(|(edges, feature)| edges[..EDGES] == feature.edges)
    }
}

impl<const F: usize> Windows<F> {
    /// Adds the values of `count` features, four at once, as long as there are such fours; says how many
    /// have been added. Values of the last four beyond `count` are added to windows that nobody reads.
    #[inline(always)]
    pub(super) fn push_by_fours(&mut self, count: usize, values: &[f32; F]) -> usize {
        let mut at = 0;
        while at < count {
            let added = match count - at {
                1 => self.push_some::<1>(at, values),
                2 => self.push_some::<2>(at, values),
                3 => self.push_some::<3>(at, values),
                _ => self.push_some::<4>(at, values),
            };
            if added.is_none() {
                return at;
            }
            at += 4;
        }
        count
    }

    /// Adds the values of `N` features from `at` on.
    #[inline(always)]
    fn push_some<const N: usize>(&mut self, at: usize, values: &[f32; F]) -> Option<()> {
        let edges = self.edges.0.get(at..)?.first_chunk()?;
        // All bins before any is counted: no count is then waited for.
        #[allow(unsafe_code)]
        // SAFETY: every x86-64 has SSE2.
        let bins = unsafe { bins_of::<N>(edges, values.get(at..)?.first_chunk()?) };
        #[allow(unsafe_code)]
        // SAFETY: every x86-64 has SSE2.
        unsafe {
            self.add_four(at, values)?;
        }
        let counts = self.bins.get_mut(at..)?.first_chunk_mut::<N>()?;
        for (counts, bin) in counts.iter_mut().zip(bins) {
            let count = &mut counts[bin % BINS];
            *count = count.saturating_add(1);
        }
        Some(())
    }

    /// Adds the values from feature `at` on to all but the bins, if there are four places and all four
    /// values are finite. These are the operations of [`Moments::push`](crate::drift::Moments::push), in
    /// their order.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn add_four(&mut self, at: usize, values: &[f32; F]) -> Option<()> {
        let value = load(from(values, at)?);
        let n = from_mut(&mut self.n, at)?;
        let before = load_counts(n);
        let more = _mm_add_epi32(before, _mm_set1_epi32(1));
        // Counts of 2^31 and more are no i32: they are negative, and left to the other way.
        let large = _mm_castsi128_ps(_mm_or_si128(before, more));
        if any(_mm_or_ps(not_finite(value), large)) {
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

/// The bin of each: the number of edges that a finite value reaches; edges ascend, so that it is the
/// place of the first that it does not. All bins before any is counted, so that no count is waited for.
#[inline]
#[target_feature(enable = "sse2")]
fn bins_of<const N: usize>(edges: &[[f32; BINS]; N], values: &[f32; N]) -> [usize; N] {
    from_fn(|lane| {
        let x = _mm_set1_ps(values[lane]);
        let below = |at| {
            let four = from(&edges[lane], at).map_or(x, |four| load(four));
            _mm_castps_si128(_mm_cmplt_ps(x, four))
        };
        let low = _mm_packs_epi32(below(0), below(4));
        let high = _mm_packs_epi32(below(8), below(12));
        _mm_movemask_epi8(_mm_packs_epi16(low, high)).trailing_zeros() as usize
    })
}

#[cfg(test)]
mod tests {
    use super::{BINS, EDGES, Windows, bins_of, from_fn};
    use crate::testing::profile;
    use proptest::prelude::*;

    /// The property of all windows would hold without it.
    #[test]
    fn finite_values_are_added_by_fours() {
        let feature = &profile::<1, 1>(1, 1).features[0];
        let features: [_; 6] = from_fn(|_| feature.clone());
        let (mut wide, mut narrow) = (Windows::<8>::new(&features), Windows::<5>::new(&features));
        assert_eq!(wide.push_by_fours(6, &[0.5; 8]), 6);
        assert_eq!(wide.push_by_fours(4, &[0.5; 8]), 4);
        // Four of five are a whole four; the fifth has no four places.
        assert_eq!(narrow.push_by_fours(5, &[0.5; 5]), 4);
        let mut values = [0.5; 8];
        values[5] = f32::NAN;
        assert_eq!(wide.push_by_fours(6, &values), 4);
        values[0] = f32::INFINITY;
        assert_eq!(wide.push_by_fours(6, &values), 0);
    }

    proptest! {
        #[test]
        fn bins_are_those_of_each(
            mut edges in prop::array::uniform4(prop::array::uniform15(prop_oneof![
                any::<f32>().prop_filter("ordered", |edge| !edge.is_nan()),
                (-2i8..3).prop_map(f32::from),
            ])),
            other in any::<f32>(),
        ) {
            let mut padded = [[f32::INFINITY; BINS]; 4];
            for (padded, edges) in padded.iter_mut().zip(&mut edges) {
                edges.sort_by(f32::total_cmp);
                padded[..EDGES].copy_from_slice(edges);
            }
            let beside = edges.iter().flatten().flat_map(|edge| [edge.next_down(), *edge, edge.next_up()]);
            for x in beside.chain([other, -0.0, f32::MAX, f32::MIN]).filter(|x| x.is_finite()) {
                let each = edges.map(|edges| crate::drift::bin_of(&edges, x));
                #[allow(unsafe_code)]
                // SAFETY: every x86-64 has SSE2.
                let found = unsafe { bins_of(&padded, &[x; 4]) };
                prop_assert_eq!(found, each, "{} in {:?}", x, edges);
            }
        }
    }
}
