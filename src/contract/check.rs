//! One sample against the profile.

use super::{Sample, ViolationKind, ViolationSet, is_missing};
use crate::policy::{Action, Policy};
use crate::profile::{FeatureProfile, MissingPolicy, Profile, Schema};

/// Samples in a row that are older than the newest one after which the stream is taken to have
/// started anew.
///
/// A source that restarts counts from zero again; without this, it would be refused until it had
/// caught up with itself.
const RESYNC_AFTER: u8 = 8;

/// What the contract remembers of one feature.
#[derive(Debug, Clone, Copy)]
pub struct FeatureState {
    /// The last finite value, NaN before the first.
    last: f32,
    /// The last finite value inside the plausible range, NaN before the first.
    held: f32,
    /// Violations of each per-feature kind in this window, saturating.
    counts: [u16; ViolationKind::PER_FEATURE],
    /// Finite values in a row equal to `last`, with `last` itself; saturating.
    run: u16,
    /// Whether the previous sample had a finite value.
    adjacent: bool,
}

impl Default for FeatureState {
    fn default() -> Self {
        Self {
            last: f32::NAN,
            held: f32::NAN,
            counts: [0; ViolationKind::PER_FEATURE],
            run: 0,
            adjacent: false,
        }
    }
}

impl FeatureState {
    /// Violations of each per-feature kind in this window, saturating at 65,535.
    #[must_use]
    pub fn counts(&self) -> &[u16; ViolationKind::PER_FEATURE] {
        &self.counts
    }

    /// Equal finite values in a row up to the last sample.
    #[must_use]
    pub fn run(&self) -> u16 {
        self.run
    }

    /// Begins a new window: the counts start at zero, the memory of the stream stays.
    pub fn start_window(&mut self) {
        self.counts = [0; ViolationKind::PER_FEATURE];
    }

    /// Forgets the stream: what comes next is a new recording. The counts stay.
    pub fn start_stream(&mut self) {
        *self = Self {
            counts: self.counts,
            ..Self::default()
        };
    }

    /// Counts a violation; true when it is the first of its kind in this window.
    fn count(&mut self, kind: ViolationKind) -> bool {
        // Kinds that concern the whole sample are counted by the stream alone.
        let Some(count) = self.counts.get_mut(kind as usize) else {
            return false;
        };
        *count = count.saturating_add(1);
        *count == 1
    }

    /// Takes in a value that is not there or not finite, and says which.
    fn miss(&mut self, value: f32) -> ViolationSet {
        self.adjacent = false;
        let mut found = ViolationSet::EMPTY;
        found.insert(if is_missing(value) {
            ViolationKind::Missing
        } else {
            ViolationKind::NotFinite
        });
        found
    }

    /// Whether `value` is what the previous sample had here.
    fn repeats(&self, value: f32) -> bool {
        if value.is_finite() {
            self.adjacent && self.last.to_bits() == value.to_bits()
        } else {
            !self.adjacent
        }
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
        if adjacent && self.adjacent && libm::fabsf(value - self.last) > feature.max_rate {
            found.insert(ViolationKind::Rate);
        }
        self.run = if value == self.last {
            self.run.saturating_add(1)
        } else {
            1
        };
        if feature.stuck_run > 0 && self.run >= feature.stuck_run {
            found.insert(ViolationKind::Stuck);
        }
        self.last = value;
        self.adjacent = true;
        found
    }
}

/// What the contract remembers of the stream as a whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamState {
    /// Number and time of the newest sample.
    newest: Option<(u32, u64)>,
    /// Samples in a row that were older than the newest.
    behind: u8,
    /// Violations of each kind in this window, over all features, saturating.
    counts: [u32; ViolationKind::COUNT],
}

impl StreamState {
    /// Violations of each kind in this window, over all features.
    #[must_use]
    pub fn counts(&self) -> &[u32; ViolationKind::COUNT] {
        &self.counts
    }

    /// Begins a new window: the counts start at zero, the place in the stream stays.
    pub fn start_window(&mut self) {
        self.counts = [0; ViolationKind::COUNT];
    }

    /// Forgets the place in the stream: what comes next is a new recording.
    pub fn start_stream(&mut self) {
        self.newest = None;
        self.behind = 0;
    }

    /// Counts a violation; true when it is the first of its kind in this window.
    fn count(&mut self, kind: ViolationKind) -> bool {
        let count = &mut self.counts[kind as usize];
        *count = count.saturating_add(1);
        *count == 1
    }
}

/// One violation, as it is found.
#[derive(Debug, Clone, Copy)]
pub struct Violation {
    /// Which way the contract is broken.
    pub kind: ViolationKind,
    /// Which feature; none for kinds that concern the whole sample.
    pub feature: Option<u16>,
    /// The value at fault: the feature's value, or for [`ViolationKind::Gap`] the number of missing
    /// samples, for [`ViolationKind::Stale`] the age in milliseconds, for
    /// [`ViolationKind::OutOfOrder`] how many samples it is late (0 when only its clock is), for
    /// [`ViolationKind::Shape`] the number of values, else 0.
    pub value: f32,
    /// Whether it is the first of its kind and feature in this window.
    pub first: bool,
}

/// What becomes of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to say against it, or only things that the policy merely counts.
    Accepted,
    /// Used, and the predictions made from it are flagged.
    Flagged,
    /// Kept out of the model and of the drift summary.
    Rejected,
}

/// The verdict on one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleCheck {
    /// What becomes of it.
    pub outcome: Outcome,
    /// The strongest action that the policy asks for; [`Action::Count`] when there is no violation.
    pub action: Action,
    /// Every kind of violation found.
    pub violations: ViolationSet,
    /// Values that were missing or not finite and were filled in.
    pub filled: u16,
}

impl SampleCheck {
    /// The same with a stronger action, for reasons outside of the sample.
    pub(crate) fn strengthened(mut self, action: Action) -> Self {
        self.action = self.action.max(action);
        self.outcome = match self.action {
            Action::Count => Outcome::Accepted,
            Action::Flag => Outcome::Flagged,
            Action::Reject | Action::Fallback => Outcome::Rejected,
        };
        self
    }
}

/// Collects the verdict on one sample.
struct Judge<'a, R> {
    policy: &'a Policy,
    report: &'a mut R,
    verdict: SampleCheck,
}

impl<R: FnMut(Violation)> Judge<'_, R> {
    /// Takes in one violation that is counted already.
    fn note(&mut self, violation: Violation) {
        let action = self.policy.rule(violation.kind).action;
        self.verdict.violations.insert(violation.kind);
        self.verdict.action = self.verdict.action.max(action);
        if action > Action::Count {
            (self.report)(violation);
        }
    }

    /// Counts and takes in a violation of the whole sample.
    fn whole(&mut self, stream: &mut StreamState, kind: ViolationKind, value: f32) {
        let first = stream.count(kind);
        self.note(Violation {
            kind,
            feature: None,
            value,
            first,
        });
    }

    /// The sample can't be used, whatever the policy says.
    fn refuse(&mut self) {
        self.verdict.action = self.verdict.action.max(Action::Reject);
    }

    /// The verdict once all is known.
    fn conclude(self) -> SampleCheck {
        let action = self.verdict.action;
        self.verdict.strengthened(action)
    }
}

/// Where a sample stands in its stream.
enum Place {
    /// The first that the contract sees.
    First,
    /// After the newest one, with so many samples missing between them.
    Ahead(u32),
    /// The newest one again.
    Repeated,
    /// Behind the newest one by so many samples; by none when only its clock is behind.
    Behind(u32),
}

/// The contract's memory: of each feature and of the stream.
///
/// The exact meaning of each kind of violation:
/// - `NotFinite`: infinite, or a NaN other than [`MISSING`](super::MISSING).
/// - `BelowRange`, `AboveRange`: outside of `min..=max`.
/// - `ZScore`: |value - mean| > z_limit * sd.
/// - `Rate`: |value - previous| > max_rate, where this sample and the previous one follow each other
///   without a gap and both have a finite value. A single spike therefore counts twice, up and down.
/// - `Stuck`: at least `stuck_run` equal finite values in a row; values that are not there neither
///   end nor lengthen a run.
/// - `Missing`: [`MISSING`](super::MISSING).
/// - `Gap`: the sequence number is ahead of the newest one by more than one.
/// - `Duplicate`: the newest sequence number again; or, where samples have a clock
///   ([`Schema::period_ms`] is not 0), the newest time and the previous values again.
/// - `Stale`: older than [`Schema::max_age_ms`] at the time of the check.
/// - `OutOfOrder`: sequence number or time are behind the newest sample's. The eighth such sample in
///   a row becomes the newest, because a source that restarts counts from zero again.
/// - `Shape`: not one value a feature.
#[derive(Debug, Clone)]
pub struct Contract<const F: usize> {
    stream: StreamState,
    features: [FeatureState; F],
}

impl<const F: usize> Default for Contract<F> {
    fn default() -> Self {
        Self {
            stream: StreamState::default(),
            features: [FeatureState::default(); F],
        }
    }
}

impl<const F: usize> Contract<F> {
    /// The state of the stream, with the counts over all features.
    #[must_use]
    pub fn stream(&self) -> &StreamState {
        &self.stream
    }

    /// The states of the features, in profile order; those beyond the profile's are unused.
    #[must_use]
    pub fn features(&self) -> &[FeatureState; F] {
        &self.features
    }

    /// Begins a new window: the counts start at zero, the memory of the stream stays.
    pub fn start_window(&mut self) {
        self.stream.start_window();
        self.features
            .iter_mut()
            .for_each(FeatureState::start_window);
    }

    /// Forgets the stream, because what comes next is a new recording; the counts stay.
    pub fn start_stream(&mut self) {
        self.stream.start_stream();
        self.features
            .iter_mut()
            .for_each(FeatureState::start_stream);
    }

    /// Counts a violation that concerns the whole stream, found outside of
    /// [`check`](Self::check); true when it is the first of its kind in this window.
    pub fn count(&mut self, kind: ViolationKind) -> bool {
        self.stream.count(kind)
    }

    /// Judges one sample and writes the values that the model shall see to `values_out`.
    ///
    /// Every violation is counted, and given to `report` where the policy asks for more than
    /// counting it. The strongest action wins ([`Action`] is ordered). Whatever the policy says, a
    /// sample of the wrong shape is rejected, and so is one that lacks a finite value of a feature
    /// whose [`MissingPolicy`] is to reject; other such values are filled in. `values_out` is
    /// meaningful only for samples that are not rejected.
    ///
    /// A rejected duplicate or late sample changes nothing but the counts.
    pub fn check<const C: usize>(
        &mut self,
        profile: &Profile<F, C>,
        policy: &Policy,
        sample: &Sample<'_>,
        now_ms: u64,
        values_out: &mut [f32; F],
        report: &mut impl FnMut(Violation),
    ) -> SampleCheck {
        let mut judge = Judge {
            policy,
            report,
            verdict: SampleCheck {
                outcome: Outcome::Accepted,
                action: Action::Count,
                violations: ViolationSet::EMPTY,
                filled: 0,
            },
        };
        let Some(adjacent) = self.check_whole(profile, sample, now_ms, &mut judge) else {
            return judge.conclude();
        };
        let states = self.features.iter_mut().zip(values_out);
        let inputs = profile.features.iter().zip(sample.values).zip(states);
        for (index, ((feature, &value), (state, out))) in inputs.enumerate() {
            let found = if value.is_finite() {
                *out = value;
                state.admit(feature, policy.z_limit, value, adjacent)
            } else {
                *out = state.substitute(feature).unwrap_or_else(|| {
                    judge.refuse();
                    feature.mean
                });
                judge.verdict.filled = judge.verdict.filled.saturating_add(1);
                state.miss(value)
            };
            if found.is_empty() {
                continue;
            }
            for kind in found.iter() {
                self.stream.count(kind);
                judge.note(Violation {
                    kind,
                    feature: Some(index as u16),
                    value,
                    first: state.count(kind),
                });
            }
        }
        judge.conclude()
    }

    /// Checks what concerns the whole sample; says whether it follows its predecessor without a
    /// gap, or `None` when its values are not to be looked at.
    fn check_whole<const C: usize>(
        &mut self,
        profile: &Profile<F, C>,
        sample: &Sample<'_>,
        now_ms: u64,
        judge: &mut Judge<'_, impl FnMut(Violation)>,
    ) -> Option<bool> {
        let place = self.place(&profile.schema, sample);
        let stream = &mut self.stream;
        match place {
            Place::First | Place::Ahead(0) => {}
            Place::Ahead(missing) => judge.whole(stream, ViolationKind::Gap, missing as f32),
            Place::Repeated => judge.whole(stream, ViolationKind::Duplicate, 0.0),
            Place::Behind(by) => judge.whole(stream, ViolationKind::OutOfOrder, by as f32),
        }
        let seen_before = matches!(place, Place::Repeated | Place::Behind(_));
        if seen_before && judge.verdict.action >= Action::Reject {
            return None;
        }
        let age_ms = now_ms.saturating_sub(sample.time_ms);
        if profile.schema.max_age_ms > 0 && age_ms > u64::from(profile.schema.max_age_ms) {
            judge.whole(stream, ViolationKind::Stale, age_ms as f32);
        }
        let given = sample.values.len();
        if given != profile.features.len() {
            judge.whole(stream, ViolationKind::Shape, given as f32);
            judge.refuse();
            return None;
        }
        Some(matches!(place, Place::Ahead(0)))
    }

    /// Finds the sample's place in the stream and moves on to it, unless it was there before.
    fn place(&mut self, schema: &Schema, sample: &Sample<'_>) -> Place {
        let here = Some((sample.sequence, sample.time_ms));
        let Some((newest, newest_ms)) = self.stream.newest else {
            self.stream.newest = here;
            return Place::First;
        };
        // Numbers wrap, so that whatever is less than half the circle away is ahead.
        let ahead = sample.sequence.wrapping_sub(newest) as i32;
        if ahead == 0 {
            return Place::Repeated;
        }
        if ahead < 0 || sample.time_ms < newest_ms {
            self.stream.behind += 1;
            if self.stream.behind >= RESYNC_AFTER {
                self.stream.behind = 0;
                self.stream.newest = here;
                self.features
                    .iter_mut()
                    .for_each(|state| state.adjacent = false);
            }
            return Place::Behind(if ahead < 0 { ahead.unsigned_abs() } else { 0 });
        }
        self.stream.behind = 0;
        self.stream.newest = here;
        let copied = schema.period_ms != 0
            && sample.time_ms == newest_ms
            && self
                .features
                .iter()
                .zip(sample.values)
                .all(|(state, &value)| state.repeats(value));
        if copied {
            Place::Repeated
        } else {
            Place::Ahead(ahead as u32 - 1)
        }
    }
}

#[cfg(test)]
mod tests;
