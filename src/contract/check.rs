//! One sample against the profile.

use super::memory::{FeatureState, Memory};
use super::{Sample, ViolationKind, ViolationSet};
use crate::policy::{Action, Policy};
use crate::profile::{Profile, Schema};

/// Samples in a row that are older than the newest one after which the stream is taken to have
/// started anew.
///
/// A source that restarts counts from zero again; without this, it would be refused until it had
/// caught up with itself.
const RESYNC_AFTER: u8 = 8;

/// Features that are looked at closely before it is tried again to let them pass: the four with something to say
/// about one of them; where there are no fours, the one.
const ALONE: usize = if cfg!(all(target_arch = "x86_64", target_feature = "sse2")) {
    4
} else {
    1
};

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
    /// There is nothing to say.
    const FINE: Self = Self {
        outcome: Outcome::Accepted,
        action: Action::Count,
        violations: ViolationSet::EMPTY,
        filled: 0,
    };

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
///   ([`Schema::period_ms`] is not 0), the newest time and the newest sample's values again, where those
///   that are not finite count as equal.
/// - `Stale`: older than [`Schema::max_age_ms`] at the time of the check.
/// - `OutOfOrder`: sequence number or time are behind the newest sample's. The eighth such sample in
///   a row becomes the newest, because a source that restarts counts from zero again.
/// - `Shape`: not one value a feature.
#[derive(Debug, Clone)]
pub struct Contract<const F: usize> {
    stream: StreamState,
    memory: Memory<F>,
}

impl<const F: usize> Default for Contract<F> {
    /// A contract that is told of profile and policy at each check only; it takes longer.
    fn default() -> Self {
        Self {
            stream: StreamState::default(),
            memory: Memory::new(&[], 0.0),
        }
    }
}

impl<const F: usize> Contract<F> {
    /// A contract at the beginning of a stream and of a window; [`check`](Self::check) must be given
    /// the same profile and policy: what it says of values with others means nothing.
    #[must_use]
    pub fn new<const C: usize>(profile: &Profile<F, C>, policy: &Policy) -> Self {
        Self {
            stream: StreamState::default(),
            memory: Memory::new(&profile.features, policy.z_limit),
        }
    }

    /// The state of the stream, with the counts over all features.
    #[must_use]
    pub fn stream(&self) -> &StreamState {
        &self.stream
    }

    /// How a feature stands, by its place in the profile. From `F` on there is `None`; between the profile's
    /// last feature and that, what comes means nothing.
    #[must_use]
    pub fn feature(&self, index: usize) -> Option<FeatureState> {
        self.memory.state(index)
    }

    /// Begins a new window: the counts start at zero, the memory of the stream stays.
    pub fn start_window(&mut self) {
        self.stream.start_window();
        self.memory.start_window();
    }

    /// Forgets the stream, because what comes next is a new recording; the counts stay.
    pub fn start_stream(&mut self) {
        self.stream.start_stream();
        self.memory.start_stream();
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
    /// whose [`MissingPolicy`](crate::profile::MissingPolicy) is to reject; other such values are filled in. `values_out` is
    /// meaningful only for samples that are not rejected.
    ///
    /// A rejected duplicate or late sample changes nothing but the counts.
    ///
    /// # Panics
    /// With debug assertions, if profile or policy have other limits than those that the contract was
    /// [made for](Self::new), where it keeps a copy of these.
    #[inline]
    pub fn check<const C: usize>(
        &mut self,
        profile: &Profile<F, C>,
        policy: &Policy,
        sample: &Sample<'_>,
        now_ms: u64,
        values_out: &mut [f32; F],
        report: &mut impl FnMut(Violation),
    ) -> SampleCheck {
        debug_assert!(
            self.memory.is_for(&profile.features, policy.z_limit),
            "another profile or policy than the contract was made for"
        );
        let passed = self.pass(profile, policy, sample, now_ms, values_out);
        if passed == Some(profile.features.len()) {
            return SampleCheck::FINE;
        }
        let judge = Judge {
            policy,
            report,
            verdict: SampleCheck::FINE,
        };
        self.check_closely(profile, sample, now_ms, values_out, passed, judge)
    }

    /// Takes in the next sample of the stream and as many of its values, from the first on, as can be
    /// seen at once to be all right: says how many. `None` where the sample is not simply the next
    /// one, of which nothing has been taken in then.
    #[inline(always)]
    fn pass<const C: usize>(
        &mut self,
        profile: &Profile<F, C>,
        policy: &Policy,
        sample: &Sample<'_>,
        now_ms: u64,
        values_out: &mut [f32; F],
    ) -> Option<usize> {
        let (schema, count) = (&profile.schema, profile.features.len());
        let (newest, newest_ms) = self.stream.newest?;
        // At the same time as the newest one, it may be a copy of that, unless there is no clock: of a sensor
        // that delivers several samples a millisecond, most have the time of the one before.
        let later =
            sample.time_ms > newest_ms || (sample.time_ms == newest_ms && schema.period_ms == 0);
        let next = sample.sequence == newest.wrapping_add(1) && later;
        let age_ms = now_ms.saturating_sub(sample.time_ms);
        let fresh = schema.max_age_ms == 0 || age_ms <= u64::from(schema.max_age_ms);
        if !(next && fresh && sample.values.len() == count) {
            return None;
        }
        self.stream.newest = Some((sample.sequence, sample.time_ms));
        self.stream.behind = 0;
        Some(self.pass_from(0, profile, policy, sample.values, values_out))
    }

    /// As [`Memory::pass`].
    #[inline(always)]
    fn pass_from<const C: usize>(
        &mut self,
        at: usize,
        profile: &Profile<F, C>,
        policy: &Policy,
        values: &[f32],
        values_out: &mut [f32; F],
    ) -> usize {
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        let _ = (profile, policy);
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        return self.memory.pass(at, values, values_out);
        #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
        self.memory
            .pass_by_ones(at, &profile.features, policy.z_limit, values, values_out)
    }

    /// What [`check`](Self::check) does with a sample that has not passed, from the first feature (or four of
    /// them) on that has not. Apart from it, so that a sample that is all right needs little code.
    #[cold]
    #[inline(never)]
    fn check_closely<const C: usize>(
        &mut self,
        profile: &Profile<F, C>,
        sample: &Sample<'_>,
        now_ms: u64,
        values_out: &mut [f32; F],
        passed: Option<usize>,
        mut judge: Judge<'_, impl FnMut(Violation)>,
    ) -> SampleCheck {
        let whole = match passed {
            Some(_) => Some(true),
            None => self.check_whole(profile, sample, now_ms, &mut judge),
        };
        let Some(adjacent) = whole else {
            return judge.conclude();
        };
        let mut at = passed.unwrap_or(0);
        while at < sample.values.len() {
            let values = sample.values.iter().zip(values_out.iter_mut()).enumerate();
            for (index, (&value, out)) in values.skip(at).take(ALONE) {
                *out = self.check_one(profile, index, value, adjacent, &mut judge);
            }
            at = at.saturating_add(ALONE);
            if adjacent {
                at = self.pass_from(at, profile, judge.policy, sample.values, values_out);
            }
        }
        judge.conclude()
    }

    /// Checks one feature's value; returns what the model shall see.
    #[inline]
    fn check_one<const C: usize>(
        &mut self,
        profile: &Profile<F, C>,
        index: usize,
        value: f32,
        adjacent: bool,
        judge: &mut Judge<'_, impl FnMut(Violation)>,
    ) -> f32 {
        let (feature, z_limit) = (&profile.features[index], judge.policy.z_limit);
        let found = self.memory.take(index, feature, z_limit, value, adjacent);
        if found.unusable {
            judge.refuse();
        }
        judge.verdict.filled += u16::from(found.filled);
        for kind in found.violations.iter() {
            self.stream.count(kind);
            judge.note(Violation {
                kind,
                feature: Some(index as u16),
                value,
                first: self.memory.count(index, kind),
            });
        }
        found.value
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
        let place = self.place(&profile.schema, profile.features.len(), sample);
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
            if !seen_before {
                self.memory.step_aside();
            }
            return None;
        }
        Some(matches!(place, Place::Ahead(0)))
    }

    /// Finds the sample's place in the stream and moves on to it, unless it was there before. One that
    /// has not a value of each of the `features` is not what came before, however alike what it has is.
    fn place(&mut self, schema: &Schema, features: usize, sample: &Sample<'_>) -> Place {
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
                self.memory.step_aside();
            }
            return Place::Behind(if ahead < 0 { ahead.unsigned_abs() } else { 0 });
        }
        self.stream.behind = 0;
        self.stream.newest = here;
        let copied = schema.period_ms != 0
            && sample.time_ms == newest_ms
            && sample.values.len() == features
            && self.memory.repeats(sample.values);
        if copied {
            Place::Repeated
        } else {
            Place::Ahead(ahead as u32 - 1)
        }
    }
}

#[cfg(test)]
mod tests;
