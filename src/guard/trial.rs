//! Is the candidate good enough? Decisions about a new release, from what the runtime reports.

use crate::drift::statistics::psi;
use crate::policy::{Action, TrialPolicy};
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
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
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
///   from 100 predictions on; where there is a budget, no trial is confirmed before it was judged.
/// - Predictions: a window's class shares or mean score left their limits, or the class shares of all
///   windows together did. A single window may hold few predictions, and training windows of a slow
///   signal differ so much that their limit lets a collapse to one class pass; over the whole trial,
///   chance makes less of it and a collapse more, while the limit stays. Drift of the input alone
///   never fails a trial: the world changed, and the other release would see the same.
/// - Source: what the source announces does not fit the release, so that each sample is rejected and
///   the trial would never end. Single samples that are rejected never fail a trial.
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

    /// Takes in the contract's action against the source as a whole
    /// ([`Runtime::source_action`](crate::runtime::Runtime::source_action)).
    pub fn on_source(&mut self, action: Action) {
        if action >= Action::Reject {
            self.fail(Reason::Source);
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
        if self.latency_shows() && self.slow > self.predictions() / 100 {
            self.fail(Reason::Latency);
        }
    }

    fn predictions(&self) -> u32 {
        self.inferences - self.errors
    }

    /// Whether there are enough latencies to judge them.
    fn latency_shows(&self) -> bool {
        self.predictions() >= MIN_LATENCIES
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
        if self.policy.max_p99_us > 0 && !self.latency_shows() {
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
    /// The source does not fit it: it would reject each sample and never be compared.
    Misfit,
}

/// Compares a release in shadow with the confirmed one.
#[derive(Debug, Clone)]
pub struct ShadowMonitor {
    wanted: u32,
    /// Disagreements that still pass.
    allowed: u32,
    inferences: u32,
    disagreements: u32,
    /// Its contract rejects the source as a whole.
    misfit: bool,
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
            misfit: false,
        }
    }

    /// Takes in the contract's action against the source as a whole, as
    /// [`TrialMonitor::on_source`] does.
    pub fn on_source(&mut self, action: Action) {
        self.misfit |= action >= Action::Reject;
    }

    /// Takes in one inference of both; `None` for the candidate when its inference failed.
    pub fn record(&mut self, confirmed: u16, candidate: Option<u16>) {
        self.inferences = self.inferences.saturating_add(1);
        if candidate != Some(confirmed) {
            self.disagreements = self.disagreements.saturating_add(1);
        }
    }

    /// Inferences compared so far.
    #[must_use]
    pub fn inferences(&self) -> u32 {
        self.inferences
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
        if self.misfit {
            ShadowVerdict::Misfit
        } else if self.disagreements > self.allowed {
            ShadowVerdict::Fail
        } else if self.inferences >= self.wanted {
            ShadowVerdict::Pass
        } else {
            ShadowVerdict::Undecided
        }
    }
}

#[cfg(test)]
mod tests;
