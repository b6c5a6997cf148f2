//! Is the candidate good enough? Decisions about a new release, from what the runtime reports.

use crate::drift::statistics::psi;
use crate::policy::TrialPolicy;
use crate::profile::{OutputKind, Profile};
use crate::runtime::Step;
use crate::telemetry::{Alarm, Reason, Statistic, Summary};

/// Inferences from which a rate of errors is judged before the trial's end.
const EARLY_INFERENCES: u32 = 20;
/// Failed inferences that a breach before the trial's end takes.
const EARLY_ERRORS: u32 = 3;
/// Latencies from which a 99th percentile is more than the worst of a few.
const MIN_LATENCIES: u32 = 100;

/// Most classes whose shares are judged over a whole trial.
const MAX_CLASSES: usize = 32;

/// What to do with a release on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Go on.
    Undecided,
    /// Confirm it.
    Confirm,
    /// Revert it.
    Breach(Reason),
}

/// Watches a trial.
///
/// Feed it every step, then the alarms that the step raised, then the summary if it closed a window,
/// and only then ask for the [`verdict`](Self::verdict). A breach stays.
///
/// - Errors: more than [`TrialPolicy::max_error_per_mille`] of the inferences failed. Judged from 20
///   inferences and 3 failures on, so that one early failure is not a rate; exactly, before a
///   release is confirmed.
/// - Latency: more than a hundredth of the predictions took longer than
///   [`TrialPolicy::max_p99_us`], that is, the 99th percentile (nearest rank) is above it. Judged
///   from 100 predictions on; a shorter trial does not judge it.
/// - Predictions: a window's class shares or mean score left their limits, or the class shares of all
///   windows together did. A single window may hold few predictions, and training windows of a slow
///   signal differ so much that their limit lets a collapse to one class pass; over the whole trial,
///   chance makes less of it and a collapse more, while the limit stays. Drift of the input alone
///   never fails a trial: the world changed, and the other release would see the same.
#[derive(Debug, Clone)]
pub struct TrialMonitor {
    policy: TrialPolicy,
    inferences: u32,
    errors: u32,
    slow: u32,
    windows: u32,
    /// Predictions per class over all windows.
    classes: [u32; MAX_CLASSES],
    breach: Option<Reason>,
}

impl TrialMonitor {
    /// A trial that begins now.
    #[must_use]
    pub fn new(policy: TrialPolicy) -> Self {
        Self {
            policy,
            inferences: 0,
            errors: 0,
            slow: 0,
            windows: 0,
            classes: [0; MAX_CLASSES],
            breach: None,
        }
    }

    /// Takes in what became of one sample.
    pub fn on_step(&mut self, step: &Step) {
        if step.error.is_some() {
            self.inferences = self.inferences.saturating_add(1);
            self.errors = self.errors.saturating_add(1);
        } else if let Some(prediction) = step.prediction.filter(|p| !p.fallback) {
            self.inferences = self.inferences.saturating_add(1);
            if self.policy.max_p99_us > 0 && prediction.latency_us > self.policy.max_p99_us {
                self.slow = self.slow.saturating_add(1);
            }
        }
        let early = self.inferences >= EARLY_INFERENCES && self.errors >= EARLY_ERRORS;
        if early && self.too_many_errors() {
            self.fail(Reason::ErrorRate);
        }
        let predictions = self.inferences - self.errors;
        if predictions >= MIN_LATENCIES && self.slow > predictions / 100 {
            self.fail(Reason::Latency);
        }
    }

    /// Takes in an alarm of the runtime.
    pub fn on_alarm(&mut self, alarm: &Alarm) {
        let Alarm::Drift { statistic, .. } = alarm else {
            return;
        };
        if matches!(statistic, Statistic::ClassPsi | Statistic::ScoreShift) {
            self.fail(Reason::PredictionDrift);
        }
    }

    /// Takes in the summary of a window that closed.
    pub fn on_window<const F: usize, const C: usize>(
        &mut self,
        profile: &Profile<F, C>,
        summary: &Summary<F, C>,
    ) {
        let output = &profile.output;
        // The limits were calibrated on this many predictions; a window of less than half of them
        // decides nothing, so it can't speak for the release either.
        let full = profile.drift_window / u32::from(profile.schema.hop).max(1);
        if summary.output.n >= full.div_ceil(2) {
            self.windows = self.windows.saturating_add(1);
        }
        let Some(classes) = self.classes.get_mut(..output.class_counts.len()) else {
            return;
        };
        for (mine, count) in classes.iter_mut().zip(&summary.output.classes) {
            *mine = mine.saturating_add(*count);
        }
        let predictions: u64 = classes.iter().map(|&count| u64::from(count)).sum();
        let full = u64::from(full);
        if output.kind != OutputKind::Values
            && predictions >= full.max(1)
            && psi(&output.class_counts, classes) > output.class_psi_limit
        {
            self.fail(Reason::PredictionDrift);
        }
    }

    /// What to do now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if let Some(reason) = self.breach {
            return Verdict::Breach(reason);
        }
        if self.inferences < self.policy.min_inferences || self.windows < self.policy.min_windows {
            return Verdict::Undecided;
        }
        if self.too_many_errors() {
            return Verdict::Breach(Reason::ErrorRate);
        }
        Verdict::Confirm
    }

    /// Inferences tried so far.
    #[must_use]
    pub fn inferences(&self) -> u32 {
        self.inferences
    }

    /// Windows so far that had enough predictions to be judged.
    #[must_use]
    pub fn windows(&self) -> u32 {
        self.windows
    }

    fn too_many_errors(&self) -> bool {
        let allowed = u64::from(self.policy.max_error_per_mille) * u64::from(self.inferences);
        u64::from(self.errors) * 1000 > allowed
    }

    /// The first breach is the reason.
    fn fail(&mut self, reason: Reason) {
        self.breach.get_or_insert(reason);
    }
}

/// What to do with a release in shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShadowVerdict {
    /// Go on.
    Undecided,
    /// It agrees with the confirmed release well enough for a trial.
    Pass,
    /// It does not, and no further agreement could mend that.
    Fail,
}

/// Compares a release in shadow with the confirmed one.
#[derive(Debug, Clone)]
pub struct ShadowMonitor {
    wanted: u32,
    /// Disagreements that still pass.
    allowed: u32,
    inferences: u32,
    disagreements: u32,
}

impl ShadowMonitor {
    /// A comparison that begins now. A policy without shadow passes at once.
    #[must_use]
    pub fn new(policy: &TrialPolicy) -> Self {
        let wanted = policy.shadow_inferences;
        let doubt = 1000u64.saturating_sub(u64::from(policy.min_agreement_per_mille));
        Self {
            wanted,
            // Rounded down, so that exactly the least agreement passes. Never more than `wanted`.
            allowed: (u64::from(wanted) * doubt / 1000) as u32,
            inferences: 0,
            disagreements: 0,
        }
    }

    /// Takes in one inference of both; `None` for the candidate when its inference failed.
    pub fn record(&mut self, confirmed: u16, candidate: Option<u16>) {
        self.inferences = self.inferences.saturating_add(1);
        if candidate != Some(confirmed) {
            self.disagreements = self.disagreements.saturating_add(1);
        }
    }

    /// Agreement so far, per mille, rounded down; 1000 before the first inference.
    #[must_use]
    pub fn agreement_per_mille(&self) -> u16 {
        let agreed = u64::from(self.inferences - self.disagreements);
        (agreed * 1000)
            .checked_div(u64::from(self.inferences))
            .unwrap_or(1000) as u16
    }

    /// What to do now. Failing does not wait for the last inference.
    #[must_use]
    pub fn verdict(&self) -> ShadowVerdict {
        if self.disagreements > self.allowed {
            ShadowVerdict::Fail
        } else if self.inferences >= self.wanted {
            ShadowVerdict::Pass
        } else {
            ShadowVerdict::Undecided
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Outcome, SampleCheck, ViolationSet};
    use crate::guard::{InferenceError, Prediction, PredictionFlags};
    use crate::policy::{Action, Policy};

    const POLICY: TrialPolicy = TrialPolicy {
        min_inferences: 200,
        min_windows: 2,
        max_boots: 2,
        max_error_per_mille: 50,
        max_p99_us: 100,
        shadow_inferences: 100,
        min_agreement_per_mille: 900,
    };

    fn step(prediction: Option<u32>, error: bool, window_closed: bool) -> Step {
        Step {
            check: SampleCheck {
                outcome: Outcome::Accepted,
                action: Action::Count,
                violations: ViolationSet::EMPTY,
                filled: 0,
            },
            prediction: prediction.map(|latency_us| Prediction {
                class: 0,
                confidence: 0.9,
                flags: PredictionFlags::NONE,
                latency_us,
                fallback: error,
            }),
            error: error.then_some(InferenceError::Output),
            window_closed,
        }
    }

    fn drift(statistic: Statistic) -> Alarm {
        Alarm::Drift {
            statistic,
            feature: None,
            value: 2.0,
            limit: 1.0,
        }
    }

    /// A window that ended with so many predictions; ten are a full one.
    fn window(trial: &mut TrialMonitor, predictions: u32) {
        let mut profile = crate::testing::profile::<1, 3>(1, 1);
        profile.drift_window = 10;
        profile.output.class_psi_limit = f32::INFINITY;
        let engine = crate::testing::SumEngine {
            inputs: 1,
            outputs: 3,
        };
        let policy = Policy::standard();
        let mut runtime =
            crate::runtime::Runtime::new(engine, [0; 8], profile.clone(), policy, [0.0]).unwrap();
        let mut summary = runtime.take_summary(0);
        summary.output.n = predictions;
        trial.on_window(&profile, &summary);
    }

    /// A step, and the window that it ends, if it does.
    fn feed(trial: &mut TrialMonitor, step: &Step) {
        trial.on_step(step);
        if step.window_closed {
            window(trial, 10);
        }
    }

    #[test]
    fn windows_with_too_few_predictions_confirm_nothing() {
        let mut trial = TrialMonitor::new(POLICY);
        (0..1000).for_each(|_| trial.on_step(&step(Some(1), false, false)));
        (0..100).for_each(|_| window(&mut trial, 4));
        assert_eq!((trial.windows(), trial.verdict()), (0, Verdict::Undecided));
        window(&mut trial, 5);
        assert_eq!(trial.verdict(), Verdict::Undecided);
        window(&mut trial, 5);
        assert_eq!((trial.windows(), trial.verdict()), (2, Verdict::Confirm));
    }

    #[test]
    fn a_quiet_trial_is_confirmed_when_it_has_seen_enough() {
        let mut trial = TrialMonitor::new(POLICY);
        for i in 0..200 {
            assert_eq!(trial.verdict(), Verdict::Undecided);
            feed(&mut trial, &step(Some(100), false, i % 50 == 49));
            trial.on_step(&step(None, false, false));
        }
        assert_eq!(trial.verdict(), Verdict::Confirm);
        assert_eq!((trial.inferences(), trial.windows()), (200, 4));

        let mut waiting = TrialMonitor::new(POLICY);
        (0..1000).for_each(|_| waiting.on_step(&step(Some(1), false, false)));
        assert_eq!(waiting.verdict(), Verdict::Undecided, "no window has ended");
    }

    #[test]
    fn errors_breach_as_a_rate_and_not_one_by_one() {
        let mut broken = TrialMonitor::new(POLICY);
        for _ in 0..19 {
            broken.on_step(&step(None, true, false));
            assert_eq!(broken.verdict(), Verdict::Undecided);
        }
        broken.on_step(&step(None, true, false));
        assert_eq!(broken.verdict(), Verdict::Breach(Reason::ErrorRate));

        let run = |errors: u32| {
            let mut trial = TrialMonitor::new(POLICY);
            // The failures come last, so that the rate is within its limit all along.
            for i in 0..200 {
                feed(&mut trial, &step(Some(1), i >= 200 - errors, i % 100 == 99));
            }
            trial.verdict()
        };
        assert_eq!(run(10), Verdict::Confirm, "exactly 50 per mille");
        assert_eq!(run(11), Verdict::Breach(Reason::ErrorRate));
    }

    #[test]
    fn the_99th_percentile_breaches_and_single_outliers_do_not() {
        let run = |slow: u32| {
            let mut trial = TrialMonitor::new(POLICY);
            for i in 0..200 {
                let latency_us = if i < slow { 101 } else { 100 };
                feed(&mut trial, &step(Some(latency_us), false, i % 100 == 99));
            }
            trial.verdict()
        };
        assert_eq!(run(1), Verdict::Confirm);
        assert_eq!(
            run(2),
            Verdict::Breach(Reason::Latency),
            "two of the first hundred"
        );
        let mut unlimited = TrialMonitor::new(TrialPolicy {
            max_p99_us: 0,
            ..POLICY
        });
        (0..200).for_each(|i| {
            feed(&mut unlimited, &step(Some(u32::MAX), false, i % 100 == 99));
        });
        assert_eq!(unlimited.verdict(), Verdict::Confirm);
    }

    #[test]
    fn drift_of_predictions_breaches_and_drift_of_inputs_does_not() {
        let mut trial = TrialMonitor::new(POLICY);
        for statistic in [
            Statistic::Psi,
            Statistic::Ks,
            Statistic::JensenShannon,
            Statistic::Wasserstein,
        ] {
            trial.on_alarm(&drift(statistic));
        }
        trial.on_alarm(&Alarm::Violation {
            kind: crate::contract::ViolationKind::Stuck,
            feature: Some(0),
            value: 0.0,
            sample: 0,
        });
        assert_eq!(trial.verdict(), Verdict::Undecided);
        for statistic in [Statistic::ClassPsi, Statistic::ScoreShift] {
            let mut trial = trial.clone();
            trial.on_alarm(&drift(statistic));
            assert_eq!(trial.verdict(), Verdict::Breach(Reason::PredictionDrift));
            // It stays, whatever follows.
            (0..500).for_each(|_| trial.on_step(&step(Some(1), false, true)));
            assert_eq!(trial.verdict(), Verdict::Breach(Reason::PredictionDrift));
        }
    }

    #[test]
    fn a_collapse_shows_over_the_trial_where_one_window_is_too_short() {
        let run = |classes: [u32; 3], windows: u32| {
            let mut profile = crate::testing::profile::<1, 3>(1, 1);
            profile.drift_window = 10;
            profile.output.class_psi_limit = 2.2;
            let engine = crate::testing::SumEngine {
                inputs: 1,
                outputs: 3,
            };
            let policy = Policy::standard();
            let mut runtime =
                crate::runtime::Runtime::new(engine, [0; 8], profile.clone(), policy, [0.0])
                    .unwrap();
            let mut trial = TrialMonitor::new(POLICY);
            for _ in 0..windows {
                let mut summary = runtime.take_summary(0);
                summary.output.classes = classes.into_iter().collect();
                trial.on_window(&profile, &summary);
            }
            trial.verdict()
        };
        let breach = Verdict::Breach(Reason::PredictionDrift);
        assert_eq!(run([10, 0, 0], 1), Verdict::Undecided);
        assert_eq!(run([10, 0, 0], 5), breach);
        assert_eq!(run([6, 4, 0], 100), breach, "one class never comes");
        assert_eq!(run([6, 3, 1], 100), Verdict::Undecided);
        assert_eq!(
            run([0, 0, 0], 100),
            Verdict::Undecided,
            "no predictions, no shares"
        );
    }

    #[test]
    fn shadow_passes_with_the_least_agreement_and_fails_at_once_below_it() {
        let run = |disagreements: u32, of: u32| {
            let mut shadow = ShadowMonitor::new(&POLICY);
            for i in 0..of {
                shadow.record(1, Some(u16::from(i >= disagreements)));
            }
            shadow.verdict()
        };
        assert_eq!(run(10, 99), ShadowVerdict::Undecided);
        assert_eq!(run(10, 100), ShadowVerdict::Pass);
        assert_eq!(run(11, 11), ShadowVerdict::Fail);
        assert_eq!(
            ShadowMonitor::new(&Policy::standard().trial).verdict(),
            ShadowVerdict::Pass
        );

        let mut failing = ShadowMonitor::new(&POLICY);
        assert_eq!(failing.agreement_per_mille(), 1000);
        failing.record(1, None);
        failing.record(1, Some(1));
        assert_eq!(failing.agreement_per_mille(), 500);
    }
}
