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
mod tests {
    use super::*;
    use crate::contract::MISSING;
    use crate::testing::profile;

    const F: usize = 2;

    /// A contract, and what it last said.
    struct Bench {
        contract: Contract<F>,
        profile: Profile<F, 2>,
        policy: Policy,
        values: [f32; F],
        reports: Vec<(ViolationKind, Option<u16>, f32, bool)>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                contract: Contract::default(),
                profile: profile(1, 1),
                policy: Policy::standard(),
                values: [0.0; F],
                reports: Vec::new(),
            }
        }

        /// A sample that is taken and seen at `sequence` hundredths of a second.
        fn check(&mut self, sequence: u32, values: &[f32]) -> SampleCheck {
            let time_ms = u64::from(sequence) * 10;
            self.check_at(sequence, time_ms, time_ms, values)
        }

        fn check_at(
            &mut self,
            sequence: u32,
            time_ms: u64,
            now_ms: u64,
            values: &[f32],
        ) -> SampleCheck {
            self.reports.clear();
            let sample = Sample {
                sequence,
                time_ms,
                values,
            };
            self.contract.check(
                &self.profile,
                &self.policy,
                &sample,
                now_ms,
                &mut self.values,
                &mut |v| self.reports.push((v.kind, v.feature, v.value, v.first)),
            )
        }

        #[track_caller]
        fn expect(
            &mut self,
            sequence: u32,
            values: &[f32],
            kinds: &[ViolationKind],
            outcome: Outcome,
        ) {
            let check = self.check(sequence, values);
            let found: Vec<_> = check.violations.iter().collect();
            assert_eq!(found, kinds);
            assert_eq!(check.outcome, outcome);
        }
    }

    use ViolationKind as Kind;

    #[test]
    fn good_samples_pass_unchanged() {
        let mut bench = Bench::new();
        for i in 0..10 {
            bench.expect(i, &[i as f32 * 0.5, -1.0], &[], Outcome::Accepted);
            assert_eq!(bench.values, [i as f32 * 0.5, -1.0]);
        }
        assert!(bench.reports.is_empty());
    }

    #[test]
    fn values_outside_are_named_with_the_feature() {
        let mut bench = Bench::new();
        bench.expect(0, &[0.0, 10.0], &[], Outcome::Accepted);
        bench.expect(1, &[0.0, 10.5], &[Kind::AboveRange], Outcome::Flagged);
        assert_eq!(bench.reports, [(Kind::AboveRange, Some(1), 10.5, true)]);
        bench.expect(
            2,
            &[-11.0, 10.5],
            &[Kind::BelowRange, Kind::AboveRange],
            Outcome::Flagged,
        );
        assert!(
            bench
                .reports
                .contains(&(Kind::AboveRange, Some(1), 10.5, false)),
            "not the first"
        );
        assert_eq!(
            bench.values,
            [-11.0, 10.5],
            "flagged values reach the model as they are"
        );
        assert_eq!(
            bench.contract.stream().counts()[Kind::AboveRange as usize],
            2
        );
        assert_eq!(
            bench.contract.features()[1].counts()[Kind::AboveRange as usize],
            2
        );

        bench.contract.start_window();
        assert_eq!(bench.contract.stream().counts(), &[0; ViolationKind::COUNT]);
        bench.expect(3, &[0.0, 11.0], &[Kind::AboveRange], Outcome::Flagged);
        assert_eq!(
            bench.reports,
            [(Kind::AboveRange, Some(1), 11.0, true)],
            "first in its window"
        );
    }

    #[test]
    fn large_z_is_counted_and_not_reported() {
        let mut bench = Bench::new();
        bench.profile.features[0].sd = 1.0;
        bench.expect(0, &[3.0, 0.0], &[], Outcome::Accepted);
        bench.expect(1, &[3.01, 0.0], &[Kind::ZScore], Outcome::Accepted);
        assert!(bench.reports.is_empty());
        assert_eq!(
            bench.contract.features()[0].counts()[Kind::ZScore as usize],
            1
        );
    }

    #[test]
    fn infinities_and_stray_nans_are_not_missing() {
        let mut bench = Bench::new();
        for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
            .into_iter()
            .enumerate()
        {
            bench.expect(i as u32, &[bad, 0.0], &[Kind::NotFinite], Outcome::Rejected);
        }
        let check = bench.check(3, &[f32::NAN, 0.0]);
        assert_eq!(check.action, Action::Fallback);
        bench.expect(4, &[MISSING, 0.0], &[Kind::Missing], Outcome::Flagged);
    }

    #[test]
    fn missing_values_are_held_imputed_or_rejected() {
        let mut bench = Bench::new();
        bench.profile.features[0].mean = 0.25;
        bench.profile.features[1].mean = 0.75;
        bench.profile.features[1].missing = MissingPolicy::Impute;
        assert_eq!(bench.check(0, &[MISSING, MISSING]).filled, 2);
        assert_eq!(bench.values, [0.25, 0.75], "nothing to hold yet");
        bench.check(1, &[2.0, 3.0]);
        bench.check(2, &[99.0, 3.0]);
        bench.check(3, &[MISSING, MISSING]);
        assert_eq!(bench.values, [2.0, 0.75], "held is the last value in range");

        bench.profile.features[1].missing = MissingPolicy::Reject;
        bench.expect(4, &[1.0, MISSING], &[Kind::Missing], Outcome::Rejected);
        bench.expect(5, &[MISSING, 1.0], &[Kind::Missing], Outcome::Flagged);
    }

    #[test]
    fn rates_are_between_neighbours_only() {
        let mut bench = Bench::new();
        bench.profile.features[0].max_rate = 1.0;
        bench.expect(0, &[0.0, 0.0], &[], Outcome::Accepted);
        bench.expect(1, &[1.0, 0.0], &[], Outcome::Accepted);
        bench.expect(2, &[2.5, 0.0], &[Kind::Rate], Outcome::Flagged);
        bench.expect(3, &[MISSING, 0.0], &[Kind::Missing], Outcome::Flagged);
        bench.expect(4, &[9.0, 0.0], &[], Outcome::Accepted);
        bench.expect(6, &[0.0, 0.0], &[Kind::Gap], Outcome::Flagged);
        bench.contract.start_stream();
        bench.expect(0, &[9.0, 0.0], &[], Outcome::Accepted);
    }

    #[test]
    fn a_run_of_equal_values_is_stuck_until_it_ends() {
        let mut bench = Bench::new();
        bench.profile.features[0].stuck_run = 3;
        bench.expect(0, &[1.0, 0.0], &[], Outcome::Accepted);
        bench.expect(1, &[1.0, 0.0], &[], Outcome::Accepted);
        bench.expect(2, &[MISSING, 0.0], &[Kind::Missing], Outcome::Flagged);
        bench.expect(3, &[1.0, 0.0], &[Kind::Stuck], Outcome::Flagged);
        bench.expect(4, &[1.0, 0.0], &[Kind::Stuck], Outcome::Flagged);
        bench.expect(5, &[1.5, 0.0], &[], Outcome::Accepted);
        bench.contract.start_stream();
        assert_eq!(bench.contract.features()[0].run(), 0);
    }

    #[test]
    fn gaps_say_how_many_samples_are_missing() {
        let mut bench = Bench::new();
        bench.expect(u32::MAX, &[0.0, 0.0], &[], Outcome::Accepted);
        let time_ms = u64::from(u32::MAX) * 10;
        let check = bench.check_at(0, time_ms + 10, time_ms + 10, &[0.5, 0.0]);
        assert!(check.violations.is_empty(), "numbers wrap");
        bench.check_at(5, time_ms + 60, time_ms + 60, &[0.7, 0.0]);
        assert_eq!(bench.reports, [(Kind::Gap, None, 4.0, true)]);
    }

    #[test]
    fn repeated_samples_change_nothing() {
        let mut bench = Bench::new();
        bench.profile.features[0].stuck_run = 3;
        bench.expect(0, &[1.0, MISSING], &[Kind::Missing], Outcome::Flagged);
        for _ in 0..5 {
            bench.expect(0, &[1.0, MISSING], &[Kind::Duplicate], Outcome::Rejected);
        }
        let check = bench.check_at(1, 0, 0, &[1.0, MISSING]);
        assert!(
            check.violations.contains(Kind::Duplicate),
            "same time, same values, new number"
        );
        let check = bench.check_at(2, 0, 0, &[1.25, MISSING]);
        assert!(
            !check.violations.contains(Kind::Duplicate),
            "same time, other values"
        );
        assert_eq!(bench.contract.features()[0].run(), 1);

        let mut clockless = Bench::new();
        clockless.profile.schema.period_ms = 0;
        clockless.check_at(0, 0, 0, &[1.0, 1.0]);
        let check = clockless.check_at(1, 0, 0, &[1.0, 1.0]);
        assert!(
            check.violations.is_empty(),
            "without a clock equal times mean nothing"
        );
    }

    #[test]
    fn old_samples_are_stale_by_the_clock() {
        let mut bench = Bench::new();
        let check = bench.check_at(0, 500, 1500, &[0.0, 0.0]);
        assert!(check.violations.is_empty(), "exactly as old as allowed");
        let check = bench.check_at(1, 510, 1511, &[0.0, 0.1]);
        assert_eq!(bench.reports, [(Kind::Stale, None, 1001.0, true)]);
        assert_eq!(check.outcome, Outcome::Rejected);
        let check = bench.check_at(2, 2000, 1511, &[0.0, 0.2]);
        assert!(
            check.violations.is_empty(),
            "a sample from the future is fresh"
        );
        bench.profile.schema.max_age_ms = 0;
        let check = bench.check_at(3, 2000, u64::MAX, &[0.0, 0.3]);
        assert!(check.violations.is_empty(), "switched off");
    }

    #[test]
    fn late_samples_are_rejected_and_the_stream_goes_on() {
        let mut bench = Bench::new();
        bench.expect(10, &[0.0, 0.0], &[], Outcome::Accepted);
        bench.expect(8, &[0.1, 0.0], &[Kind::OutOfOrder], Outcome::Rejected);
        assert_eq!(bench.reports, [(Kind::OutOfOrder, None, 2.0, true)]);
        bench.expect(11, &[0.2, 0.0], &[], Outcome::Accepted);
        let check = bench.check_at(12, 109, 120, &[0.3, 0.0]);
        assert!(
            check.violations.contains(Kind::OutOfOrder),
            "its clock is behind"
        );
    }

    #[test]
    fn a_source_that_restarts_is_believed_after_eight_samples() {
        let mut bench = Bench::new();
        bench.expect(100_000, &[0.0, 0.0], &[], Outcome::Accepted);
        for i in 0..8 {
            bench.expect(i, &[0.1, i as f32], &[Kind::OutOfOrder], Outcome::Rejected);
        }
        bench.expect(8, &[0.2, 0.0], &[], Outcome::Accepted);
        bench.expect(9, &[0.3, 0.0], &[], Outcome::Accepted);
    }

    #[test]
    fn a_wrong_number_of_values_is_always_rejected() {
        let mut bench = Bench::new();
        for rule in &mut bench.policy.rules {
            rule.action = Action::Count;
        }
        bench.expect(0, &[0.0], &[Kind::Shape], Outcome::Rejected);
        bench.expect(1, &[0.0; 3], &[Kind::Shape], Outcome::Rejected);
        bench.expect(2, &[], &[Kind::Shape], Outcome::Rejected);
        bench.expect(3, &[0.0; 2], &[], Outcome::Accepted);
    }

    #[test]
    fn the_strongest_action_wins() {
        let mut bench = Bench::new();
        bench.policy.rules[Kind::AboveRange as usize].action = Action::Reject;
        let check = bench.check(0, &[11.0, MISSING]);
        assert_eq!(
            (check.action, check.outcome),
            (Action::Reject, Outcome::Rejected)
        );
        let check = bench.check(1, &[11.0, f32::NAN]);
        assert_eq!(check.action, Action::Fallback);
        assert_eq!(check.violations.len(), 2);
    }
}
