//! The windows of all features.

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod four;

use super::{Moments, Window, bin_of, deviation};
use crate::profile::{BINS, FeatureProfile};
use core::ops::Range;

/// A [`Window`] of each feature, by field rather than by feature: so a processor with vectors adds to
/// four features at once. What comes out is the same to the bit. Aligned for that.
#[derive(Debug, Clone)]
#[cfg_attr(
    all(target_arch = "x86_64", target_feature = "sse2"),
    repr(C, align(64))
)]
pub struct Windows<const F: usize> {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    edges: four::Edges<F>,
    /// The training means.
    center: [f32; F],
    bins: [[u16; BINS]; F],
    n: [u32; F],
    mean: [f32; F],
    m2: [f32; F],
    min: [f32; F],
    max: [f32; F],
    /// How many features there are. Last, so that the arrays begin where vectors of four can be stored at once.
    len: usize,
}

/// What changes with the samples, and how many they are, in bytes for all features.
pub(super) const fn state_bytes<const F: usize>() -> usize {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    let edges = size_of::<four::Edges<F>>();
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    let edges = 0;
    size_of::<Windows<F>>() - edges
}

impl<const F: usize> Windows<F> {
    /// Windows of these features without samples; those beyond `F` have none.
    #[must_use]
    pub fn new(features: &[FeatureProfile]) -> Self {
        let mut center = [0.0; F];
        for (center, feature) in center.iter_mut().zip(features) {
            *center = feature.mean;
        }
        let Window {
            bins,
            moments: Moments { n, mean, m2 },
            min,
            max,
        } = Window::EMPTY;
        Self {
            #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
            edges: four::Edges::new(features),
            len: features.len().min(F),
            center,
            bins: [bins; F],
            n: [n; F],
            mean: [mean; F],
            m2: [m2; F],
            min: [min; F],
            max: [max; F],
        }
    }

    /// Empties all windows.
    pub fn clear(&mut self) {
        let Window {
            bins,
            moments: Moments { n, mean, m2 },
            min,
            max,
        } = Window::EMPTY;
        self.bins.fill(bins);
        self.n.fill(n);
        self.mean.fill(mean);
        self.m2.fill(m2);
        self.min.fill(min);
        self.max.fill(max);
    }

    /// Adds one sample. `features` must be those that these windows were made for: with others, what comes
    /// means nothing. Values that are not finite are ignored, as are those without a feature.
    #[inline]
    pub fn push(&mut self, features: &[FeatureProfile], values: &[f32; F]) {
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        debug_assert!(self.edges.are_of(features), "other features");
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        {
            let added = self.push_by_fours(0, features.len(), values);
            if added < features.len() {
                self.push_unusual(added, features, values);
            }
        }
        #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
        self.push_by_ones(0..features.len(), features, values);
    }

    /// Adds the values of features in a range, one after the other.
    fn push_by_ones(
        &mut self,
        range: Range<usize>,
        features: &[FeatureProfile],
        values: &[f32; F],
    ) {
        self.fields().push(range, features, values);
    }

    fn fields(&mut self) -> Fields<'_> {
        Fields {
            center: &self.center,
            bins: &mut self.bins,
            n: &mut self.n,
            mean: &mut self.mean,
            m2: &mut self.m2,
            min: &mut self.min,
            max: &mut self.max,
        }
    }

    /// One feature's window; `None` where there is no feature.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Window> {
        (index < self.len).then(|| Window {
            bins: self.bins[index],
            moments: self.moments(index),
            min: self.min[index],
            max: self.max[index],
        })
    }

    fn moments(&self, index: usize) -> Moments {
        Moments {
            n: self.n[index],
            mean: self.mean[index],
            m2: self.m2[index],
        }
    }
}

/// The windows of any number of features, by field. What depends on no number is compiled in this crate, for
/// speed; the rest in that of a board, for size.
struct Fields<'a> {
    center: &'a [f32],
    bins: &'a mut [[u16; BINS]],
    n: &'a mut [u32],
    mean: &'a mut [f32],
    m2: &'a mut [f32],
    min: &'a mut [f32],
    max: &'a mut [f32],
}

impl Fields<'_> {
    /// See [`Windows::push_by_ones`].
    #[inline(never)]
    fn push(self, range: Range<usize>, features: &[FeatureProfile], values: &[f32]) {
        // All as long as the shortest, so that nothing is checked for each value.
        let len = range
            .end
            .min(features.len())
            .min(values.len())
            .min(self.n.len());
        let (features, values, center) = (&features[..len], &values[..len], &self.center[..len]);
        let (bins, n) = (&mut self.bins[..len], &mut self.n[..len]);
        let (mean, m2) = (&mut self.mean[..len], &mut self.m2[..len]);
        let (min, max) = (&mut self.min[..len], &mut self.max[..len]);
        for index in range.start..len {
            let (feature, value) = (&features[index], values[index]);
            if !value.is_finite() {
                continue;
            }
            let count = &mut bins[index][bin_of(&feature.edges, value)];
            *count = count.saturating_add(1);
            let mut moments = Moments {
                n: n[index],
                mean: mean[index],
                m2: m2[index],
            };
            moments.push(deviation(value, center[index]));
            (n[index], mean[index], m2[index]) = (moments.n, moments.mean, moments.m2);
            // A store only where there is something new.
            if value < min[index] {
                min[index] = value;
            }
            if value > max[index] {
                max[index] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::profile;
    use core::array::from_fn;
    use proptest::prelude::*;

    /// Six features, each with a mean and edges of its own.
    fn features() -> [FeatureProfile; 6] {
        let feature = &profile::<1, 1>(1, 1).features[0];
        from_fn(|index| {
            let mut feature = feature.clone();
            feature.mean += index as f32 / 4.0;
            feature
                .edges
                .iter_mut()
                .for_each(|edge| *edge += index as f32 / 3.0);
            feature
        })
    }

    /// Every bit: NaN is none of them, and equal zeros have equal signs.
    fn bits(window: &Window) -> String {
        format!("{window:?}")
    }

    proptest! {
        /// One to six features of eight, so that a group of four is full or not, and of five, where the last
        /// is alone.
        #[test]
        fn windows_of_all_features_are_those_of_each(
            samples in prop::collection::vec(prop::array::uniform6(prop_oneof![
                8 => -9.0f32..9.0,
                1 => any::<f32>(),
                1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, -0.0, 0.0, f32::MAX]),
            ]), 0..40),
            count in 1usize..7,
            // Counts that no i32 holds, and the greatest.
            n in prop::sample::select(vec![0, 0, 0, i32::MAX as u32 - 3, u32::MAX - 3]),
        ) {
            let features = &features()[..count];
            let (mut wide, mut narrow) = (Windows::<8>::new(features), Windows::<5>::new(features));
            let mut each = [Window::EMPTY; 6];
            (wide.n, narrow.n) = ([n; 8], [n; 5]);
            each.iter_mut().for_each(|window| window.moments.n = n);
            for sample in &samples {
                let mut values = [f32::NAN; 8];
                values[..6].copy_from_slice(sample);
                wide.push(features, &values);
                narrow.push(features, values.first_chunk().unwrap());
                for ((window, feature), &value) in each.iter_mut().zip(features).zip(sample) {
                    window.push(feature, value);
                }
            }
            for (index, window) in each.iter().enumerate() {
                let there = index < count;
                prop_assert_eq!(wide.get(index).as_ref().map(bits), there.then(|| bits(window)));
                let there = index < count.min(5);
                prop_assert_eq!(narrow.get(index).as_ref().map(bits), there.then(|| bits(window)));
            }
            wide.clear();
            prop_assert_eq!(wide.get(0), Some(Window::EMPTY));
        }
    }
}
