//! Four features at once, by SSE2.

use super::Windows;
use crate::drift::MAX_DEVIATION;
use crate::four::{any_of, from, from_mut, load, load_counts, not_finite, store, store_counts};
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
    /// Adds the values of features from `at` on to `count`, four at once, as long as there are such fours;
    /// says which is the first that has not been added. Values of the last four beyond `count` are added
    /// to windows that nobody reads.
    #[inline(always)]
    pub(super) fn push_by_fours(
        &mut self,
        mut at: usize,
        count: usize,
        values: &[f32; F],
    ) -> usize {
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

    /// Adds the values from feature `at` on, of which the first four can't be added at once: these one
    /// after the other, and those behind them by fours again. Apart from the usual way, so that
    /// nothing is kept there for the return.
    #[cold]
    #[inline(never)]
    pub(super) fn push_unusual(
        &mut self,
        mut at: usize,
        features: &[FeatureProfile],
        values: &[f32; F],
    ) {
        while at < features.len().min(F) {
            self.push_by_ones(at..at + 4, features, values);
            at = self.push_by_fours(at + 4, features.len(), values);
        }
    }

    /// Adds the values of `N` features from `at` on.
    #[inline(always)]
    fn push_some<const N: usize>(&mut self, at: usize, values: &[f32; F]) -> Option<()> {
        let edges = self.edges.0.get(at..)?.first_chunk()?;
        // All bins before any is counted: no count is then waited for.
        #[allow(unsafe_code)]
        // SAFETY: compiled only for targets that have SSE2.
        let bins = unsafe { bins_of::<N>(edges, values.get(at..)?.first_chunk()?) };
        #[allow(unsafe_code)]
        // SAFETY: compiled only for targets that have SSE2.
        unsafe {
            self.add_four::<N>(at, values)?;
        }
        let counts = self.bins.get_mut(at..)?.first_chunk_mut::<N>()?;
        for (counts, bin) in counts.iter_mut().zip(bins) {
            let count = &mut counts[bin % BINS];
            *count = count.saturating_add(1);
        }
        Some(())
    }

    /// Adds the values from feature `at` on to all but the bins, if there are four places and the first `N`
    /// values are finite. What becomes of the places beyond these does not matter. These are the operations of [`Moments::push`](crate::drift::Moments::push), in
    /// their order.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn add_four<const N: usize>(&mut self, at: usize, values: &[f32; F]) -> Option<()> {
        let value = load(from(values, at)?);
        let n = from_mut(&mut self.n, at)?;
        let before = load_counts(n);
        let more = _mm_add_epi32(before, _mm_set1_epi32(1));
        // Counts of 2^31 and more are no i32: they are negative, and left to the other way.
        let large = _mm_castsi128_ps(_mm_or_si128(before, more));
        if any_of::<N>(_mm_or_ps(not_finite(value), large)) {
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
    use super::{BINS, EDGES, Windows, bins_of};
    use crate::testing::profile;
    use proptest::prelude::*;

    /// How each value of a sample is added that is all 0.5 but for one: 4 of a four, 1 alone, 0 not at all.
    fn ways<const F: usize>(features: usize, (at, other): (usize, f32)) -> [u16; F] {
        let mut feature = profile::<1, 1>(1, 1).features[0].clone();
        let mut windows = Windows::new(&vec![feature.clone(); features]);
        // A value alone is held to the edges that come with it, a four to the windows' own.
        feature.edges = [100.0; EDGES];
        let mut values = [0.5; F];
        values[at] = other;
        let added = windows.push_by_fours(0, features, &values);
        windows.push_unusual(added, &vec![feature; features], &values);
        windows.bins.map(|bins| 4 * bins[8] + bins[0])
    }

    /// The property of all windows would hold without it.
    #[test]
    fn a_four_with_a_value_that_is_not_finite_goes_alone_and_no_other() {
        assert_eq!(ways::<8>(8, (0, 0.5)), [4; 8]);
        assert_eq!(ways::<8>(6, (0, 0.5)), [4, 4, 4, 4, 4, 4, 0, 0]);
        // Nobody asks for the seventh value of six, whatever it is.
        assert_eq!(ways::<8>(6, (6, f32::NAN)), [4, 4, 4, 4, 4, 4, 0, 0]);
        // The fifth of five has no four places.
        assert_eq!(ways::<5>(5, (0, 0.5)), [4, 4, 4, 4, 1]);
        let first = [0, 1, 1, 1, 4, 4, 4, 4, 4, 4, 0, 0];
        assert_eq!(ways::<12>(10, (0, f32::INFINITY)), first);
        let second = [4, 4, 4, 4, 1, 0, 1, 1, 4, 4, 0, 0];
        assert_eq!(ways::<12>(10, (5, f32::NAN)), second);
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
                // SAFETY: compiled only for targets that have SSE2.
                let found = unsafe { bins_of(&padded, &[x; 4]) };
                prop_assert_eq!(found, each, "{} in {:?}", x, edges);
            }
        }
    }
}
