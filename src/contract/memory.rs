//! What the contract remembers of each feature, and what a value is checked against.

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod four;

use super::{MISSING, ViolationKind, ViolationSet, is_missing};
use crate::profile::{FeatureProfile, MissingPolicy};

/// How one feature stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeatureState {
    counts: [u16; ViolationKind::PER_FEATURE],
    run: u16,
}

impl FeatureState {
    /// Violations of each per-feature kind in this window, saturating at 65,535.
    #[must_use]
    pub fn counts(&self) -> &[u16; ViolationKind::PER_FEATURE] {
        &self.counts
    }

    /// Equal finite values in a row up to the last sample, saturating at 65,535.
    #[must_use]
    pub fn run(&self) -> u16 {
        self.run
    }
}

/// What one feature's values were.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Past {
    /// The last finite value, NaN before the first.
    last: f32,
    /// The last finite value inside the plausible range, NaN before the first.
    held: f32,
    /// The previous sample's value: [`MISSING`] when it had none that is finite, another NaN when there is no
    /// such sample to compare with.
    previous: f32,
    /// Finite values in a row equal to `last`, with `last` itself; at most [`LONGEST_RUN`].
    run: u32,
}

/// Longer runs are not told apart.
const LONGEST_RUN: u32 = u16::MAX as u32;

impl Past {
    const NOTHING: Self = Self {
        last: f32::NAN,
        held: f32::NAN,
        previous: f32::NAN,
        run: 0,
    };

    /// Takes in a value that is not there or not finite, and says which.
    fn miss(&mut self, value: f32) -> ViolationSet {
        self.previous = MISSING;
        let mut found = ViolationSet::EMPTY;
        found.insert(if is_missing(value) {
            ViolationKind::Missing
        } else {
            ViolationKind::NotFinite
        });
        found
    }

    /// What stands in for a value that is not there, or `None` if the sample must be rejected.
    fn substitute(&self, feature: &FeatureProfile) -> Option<f32> {
        match feature.missing {
            MissingPolicy::Reject => None,
            MissingPolicy::HoldLast if !self.held.is_nan() => Some(self.held),
            MissingPolicy::HoldLast | MissingPolicy::Impute => Some(feature.mean),
        }
    }

    /// Takes in a finite value and says what is wrong with it.
    ///
    /// `adjacent` says that the sample follows its predecessor without a gap.
    #[inline]
    fn admit(
        &mut self,
        feature: &FeatureProfile,
        z_limit: f32,
        value: f32,
        adjacent: bool,
    ) -> ViolationSet {
        let mut found = ViolationSet::EMPTY;
        if value < feature.min {
            found.insert(ViolationKind::BelowRange);
        } else if value > feature.max {
            found.insert(ViolationKind::AboveRange);
        } else {
            self.held = value;
        }
        if libm::fabsf(value - feature.mean) > z_limit * feature.sd {
            found.insert(ViolationKind::ZScore);
        }
        if adjacent && libm::fabsf(value - self.previous) > feature.max_rate {
            found.insert(ViolationKind::Rate);
        }
        self.run = if value == self.last {
            (self.run + 1).min(LONGEST_RUN)
        } else {
            1
        };
        if feature.stuck_run > 0 && self.run >= u32::from(feature.stuck_run) {
            found.insert(ViolationKind::Stuck);
        }
        (self.last, self.previous) = (value, value);
        found
    }
}

/// The memory of any number of features, by field, and where values are copied to. What depends on no number is
/// compiled in this crate, for speed; the rest in that of a board, for size.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
struct Fields<'a> {
    last: &'a mut [f32],
    held: &'a mut [f32],
    previous: &'a mut [f32],
    run: &'a mut [u32],
    copy: &'a mut [f32],
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
impl Fields<'_> {
    /// See [`Memory::pass`].
    #[inline(never)]
    fn pass(self, at: usize, features: &[FeatureProfile], z_limit: f32, values: &[f32]) -> usize {
        // All as long as the shortest, so that nothing is checked for each value.
        let n = values.len().min(features.len()).min(self.run.len());
        let (values, features, run) = (&values[..n], &features[..n], &mut self.run[..n]);
        let (last, held) = (&mut self.last[..n], &mut self.held[..n]);
        let (previous, copy) = (&mut self.previous[..n], &mut self.copy[..n]);
        for index in at..n {
            let (value, feature) = (values[index], &features[index]);
            // NaN passes these but the first, so that a feature without a previous value has no rate.
            let wrong = !value.is_finite()
                || value < feature.min
                || value > feature.max
                || libm::fabsf(value - feature.mean) > z_limit * feature.sd
                || libm::fabsf(value - previous[index]) > feature.max_rate;
            if wrong {
                return index;
            }
            let longer = match value == last[index] {
                true => (run[index] + 1).min(LONGEST_RUN),
                false => 1,
            };
            let stuck = feature.stuck_run > 0 && longer >= u32::from(feature.stuck_run);
            if stuck {
                return index;
            }
            run[index] = longer;
            last[index] = value;
            held[index] = value;
            previous[index] = value;
            copy[index] = value;
        }
        n
    }
}

/// What a value turned out to be.
pub(super) struct Found {
    /// What is wrong with it.
    pub(super) violations: ViolationSet,
    /// What the model shall see.
    pub(super) value: f32,
    /// Whether that is another value than the sample's.
    pub(super) filled: bool,
    /// Whether there is nothing to fill in, so that the sample can't be used.
    pub(super) unusable: bool,
}

/// All features' memory, by field rather than by feature: so a processor with vectors looks at four
/// features at once, as long as there is nothing to say about them. Aligned for that.
#[derive(Debug, Clone)]
#[cfg_attr(
    all(target_arch = "x86_64", target_feature = "sse2"),
    repr(C, align(64))
)]
pub(super) struct Memory<const F: usize> {
    last: [f32; F],
    held: [f32; F],
    previous: [f32; F],
    run: [u32; F],
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    limits: four::Limits<F>,
    counts: [[u16; ViolationKind::PER_FEATURE]; F],
}

/// What changes with the stream, in bytes for all features.
pub(crate) const fn state_bytes<const F: usize>() -> usize {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    let limits = size_of::<four::Limits<F>>();
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    let limits = 0;
    size_of::<Memory<F>>() - limits
}

impl<const F: usize> Memory<F> {
    /// Nothing is remembered. `features` and `z_limit` are what values will be checked against; any
    /// feature beyond them is looked at alone.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_feature = "sse2")),
        expect(unused_variables)
    )]
    pub(super) fn new(features: &[FeatureProfile], z_limit: f32) -> Self {
        Self {
            last: [Past::NOTHING.last; F],
            held: [Past::NOTHING.held; F],
            previous: [Past::NOTHING.previous; F],
            run: [Past::NOTHING.run; F],
            counts: [[0; ViolationKind::PER_FEATURE]; F],
            #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
            limits: four::Limits::new(features, z_limit),
        }
    }

    /// Whether `features` and `z_limit` are those that this memory was made for, if it was made for any. Where
    /// it keeps nothing of them, it is any's.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_feature = "sse2")),
        expect(unused_variables)
    )]
    pub(super) fn is_for(&self, features: &[FeatureProfile], z_limit: f32) -> bool {
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        let is_for = self.limits.are_of(features, z_limit);
        #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
        let is_for = true;
        is_for
    }

    pub(super) fn state(&self, index: usize) -> Option<FeatureState> {
        Some(FeatureState {
            counts: *self.counts.get(index)?,
            // At most the longest.
            run: self.run[index] as u16,
        })
    }

    pub(super) fn start_window(&mut self) {
        self.counts = [[0; ViolationKind::PER_FEATURE]; F];
    }

    pub(super) fn start_stream(&mut self) {
        for index in 0..F {
            self.remember(index, Past::NOTHING);
        }
    }

    /// The next sample does not follow the one whose values came last.
    pub(super) fn step_aside(&mut self) {
        self.previous = [f32::NAN; F];
    }

    /// Whether `values` are what the previous sample had, of which those that are not finite are not told apart.
    pub(super) fn repeats(&self, values: &[f32]) -> bool {
        let pairs = self.previous.iter().zip(values);
        pairs.into_iter().all(|(previous, value)| {
            if value.is_finite() {
                previous.to_bits() == value.to_bits()
            } else {
                is_missing(*previous)
            }
        })
    }

    /// Counts a violation; true when it is the first of its kind in this window.
    pub(super) fn count(&mut self, index: usize, kind: ViolationKind) -> bool {
        // Kinds that concern the whole sample are counted by the stream alone.
        let Some(count) = self.counts[index].get_mut(kind as usize) else {
            return false;
        };
        *count = count.saturating_add(1);
        *count == 1
    }

    /// Takes in values in fours, from feature `at` on, as long as there is nothing to say about them; copies
    /// them, and says where the first four begins of which there is, or how many values there are. The
    /// sample must follow its predecessor without a gap, and have a value of each feature: those of the same
    /// four beyond the last value are taken to be 0, of which nothing is said.
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    #[inline]
    pub(super) fn pass(&mut self, at: usize, values: &[f32], copy: &mut [f32; F]) -> usize {
        #[allow(unsafe_code)]
        // SAFETY: compiled only for targets that have SSE2.
        unsafe {
            self.pass_by_fours(at, values, copy)
        }
    }

    /// As [`pass`](Self::pass), one feature after the other: where there are no vectors.
    #[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
    #[inline]
    pub(super) fn pass_by_ones(
        &mut self,
        at: usize,
        features: &[FeatureProfile],
        z_limit: f32,
        values: &[f32],
        copy: &mut [f32; F],
    ) -> usize {
        let fields = Fields {
            last: &mut self.last,
            held: &mut self.held,
            previous: &mut self.previous,
            run: &mut self.run,
            copy,
        };
        fields.pass(at, features, z_limit, values)
    }

    /// Takes in one feature's value.
    #[inline]
    pub(super) fn take(
        &mut self,
        index: usize,
        feature: &FeatureProfile,
        z_limit: f32,
        value: f32,
        adjacent: bool,
    ) -> Found {
        let mut past = Past {
            last: self.last[index],
            held: self.held[index],
            previous: self.previous[index],
            run: self.run[index],
        };
        let found = if value.is_finite() {
            Found {
                violations: past.admit(feature, z_limit, value, adjacent),
                value,
                filled: false,
                unusable: false,
            }
        } else {
            let substitute = past.substitute(feature);
            Found {
                violations: past.miss(value),
                value: substitute.unwrap_or(feature.mean),
                filled: true,
                unusable: substitute.is_none(),
            }
        };
        self.remember(index, past);
        found
    }

    #[inline]
    fn remember(&mut self, index: usize, past: Past) {
        self.last[index] = past.last;
        self.held[index] = past.held;
        self.previous[index] = past.previous;
        self.run[index] = past.run;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::MISSING;
    use crate::testing;
    use proptest::prelude::*;

    /// Values that repeat, and some that are outside, far from the mean or none at all.
    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            12 => prop::sample::select(vec![-9.5f32, -1.0, -0.0, 0.0, 1.0, 2.0, 9.5]),
            1 => -20.0f32..20.0,
            1 => any::<f32>(),
            1 => prop::sample::select(vec![MISSING, f32::INFINITY, f32::MAX]),
        ]
    }

    proptest! {
        /// Features that pass are those of which a close look finds nothing to say, up to the first of which it
        /// does; and what is remembered of them is the same.
        #[test]
        fn what_passes_is_that_of_which_there_is_nothing_to_say(
            samples in prop::collection::vec((prop::array::uniform5(value()), 0usize..7), 1..40),
            stuck_run in 0u16..4,
            max_rate in prop::sample::select(vec![f32::INFINITY, 3.0]),
            z_limit in prop::sample::select(vec![1.5f32, 3.0]),
        ) {
            let features: [_; 5] = core::array::from_fn(|index| {
                let mut feature = testing::feature("f");
                let own = index as f32;
                (feature.min, feature.max) = (-10.0 + own, 10.0 - own / 2.0);
                (feature.mean, feature.sd) = (own / 3.0, 1.0 + own * own);
                (feature.max_rate, feature.stuck_run) = (max_rate - own / 4.0, stuck_run);
                feature
            });
            let [mut quick, mut close] = [(); 2].map(|()| Memory::<6>::new(&features, z_limit));
            for (values, from) in &samples {
                let mut copy = [0.5; 6];
                let mut at = *from;
                while at < values.len() {
                    let first = at;
                    at = quick.pass_by_ones(at, &features, z_limit, values, &mut copy);
                    prop_assert!(first <= at && at <= values.len());
                    for index in first..at {
                        let found =
                            close.take(index, &features[index], z_limit, values[index], true);
                        prop_assert!(found.violations == ViolationSet::EMPTY && !found.filled);
                        prop_assert_eq!(copy[index].to_bits(), values[index].to_bits());
                    }
                    if let Some(&value) = values.get(at) {
                        for memory in [&mut quick, &mut close] {
                            let found = memory.take(at, &features[at], z_limit, value, true);
                            prop_assert!(found.violations != ViolationSet::EMPTY || found.filled);
                        }
                        at += 1;
                    }
                    prop_assert_eq!(format!("{quick:?}"), format!("{close:?}"));
                }
                prop_assert_eq!(copy[5], 0.5);
            }
        }
    }
}
