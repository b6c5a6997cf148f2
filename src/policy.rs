//! The policy: what a board does when reality differs from the profile.
//!
//! It is a signed section of the bundle, so that whoever may sign a release decides, and nobody on
//! the way.

use crate::contract::ViolationKind;
use crate::place::{self, Blank};
use serde::{Deserialize, Serialize};

/// How grave a violation is; decides how it is shown, not what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Worth counting.
    Low,
    /// Worth a look.
    Medium,
    /// Predictions are likely wrong.
    High,
}

/// What the runtime does with the sample or prediction concerned, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Count it.
    Count,
    /// Count it and flag the predictions made from it.
    Flag,
    /// Keep the sample out of the model and the drift summary.
    Reject,
    /// Reject, and answer with the last good prediction while it lasts.
    Fallback,
}

/// Severity and action of one kind of violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// How grave it is.
    pub severity: Severity,
    /// What to do.
    pub action: Action,
}

/// When a trial is confirmed and when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrialPolicy {
    /// Inferences without a breach before a trial may be confirmed.
    pub min_inferences: u32,
    /// Drift windows without a breach before a trial may be confirmed; only windows with at least
    /// half of the predictions that their limits were calibrated on count.
    pub min_windows: u32,
    /// Boots that may end without a confirmation; the next one reverts.
    pub max_boots: u8,
    /// Failed inferences per mille of all that breach.
    pub max_error_per_mille: u16,
    /// Latency that the 99th percentile may not exceed, in microseconds; 0 switches it off.
    pub max_p99_us: u32,
    /// Inferences that run beside the confirmed release, unused, before the trial; 0 for none.
    pub shadow_inferences: u32,
    /// Least agreement with the confirmed release in shadow, per mille.
    pub min_agreement_per_mille: u16,
}

/// Budgets and limits of the prediction guard.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardPolicy {
    /// |z| of a prediction's score above which it is flagged.
    pub z_limit: f32,
    /// Failed inferences per mille that raise an alarm at a window's end.
    pub max_error_per_mille: u16,
    /// Latency budget of the 99th percentile in microseconds; 0 switches it off.
    pub max_p99_us: u32,
    /// Estimated accuracy below which an alarm is raised, per mille; 0 switches it off.
    pub min_accuracy_per_mille: u16,
    /// Predictions that may be answered from the last good one before the board says it has none.
    pub max_fallbacks: u16,
}

/// Everything the policy section holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// One rule a [`ViolationKind`], indexed by its discriminant.
    pub rules: [Rule; ViolationKind::COUNT],
    /// |z| of a feature's value above which it is a violation.
    pub z_limit: f32,
    /// Limits of a trial.
    pub trial: TrialPolicy,
    /// Limits of the guard.
    pub guard: GuardPolicy,
}

impl Policy {
    /// What a bundle gets when its maker says nothing else.
    ///
    /// Values that no model can use (not finite, wrong shape, too old, from a source of another
    /// type or version) are rejected, the first of these with the last good prediction in their
    /// stead. What a sensor does when it fails (stuck, out of range, too fast, missing) is flagged,
    /// so that it still shows in the drift summary. |z| > 3 is merely counted: one sample in 370 of
    /// a healthy normal signal does that. Repeated and late samples are rejected.
    ///
    /// A trial takes 200 inferences and 2 windows, may fail 5 % of its inferences and die twice. No
    /// latency is budgeted and no shadow asked for: both depend on the board.
    #[must_use]
    pub fn standard() -> Self {
        use ViolationKind as Kind;
        let mut rules = [Rule {
            severity: Severity::High,
            action: Action::Reject,
        }; Kind::COUNT];
        for (kind, severity, action) in [
            (Kind::NotFinite, Severity::High, Action::Fallback),
            (Kind::BelowRange, Severity::High, Action::Flag),
            (Kind::AboveRange, Severity::High, Action::Flag),
            (Kind::ZScore, Severity::Low, Action::Count),
            (Kind::Rate, Severity::Medium, Action::Flag),
            (Kind::Stuck, Severity::High, Action::Flag),
            (Kind::Missing, Severity::Medium, Action::Flag),
            (Kind::Gap, Severity::Medium, Action::Flag),
            (Kind::Duplicate, Severity::Low, Action::Reject),
            (Kind::Stale, Severity::High, Action::Reject),
            (Kind::OutOfOrder, Severity::Medium, Action::Reject),
            (Kind::UnknownFeature, Severity::Medium, Action::Flag),
        ] {
            rules[kind as usize] = Rule { severity, action };
        }
        Self {
            rules,
            z_limit: 3.0,
            trial: TrialPolicy {
                min_inferences: 200,
                min_windows: 2,
                max_boots: 2,
                max_error_per_mille: 50,
                max_p99_us: 0,
                shadow_inferences: 0,
                min_agreement_per_mille: 900,
            },
            guard: GuardPolicy {
                z_limit: 4.0,
                max_error_per_mille: 50,
                max_p99_us: 0,
                min_accuracy_per_mille: 0,
                max_fallbacks: 10,
            },
        }
    }

    /// The rule for one kind of violation.
    #[must_use]
    pub fn rule(&self, kind: ViolationKind) -> Rule {
        self.rules[kind as usize]
    }
}

place::numbers! {
    Severity { Low, Medium, High }
    Action { Count, Flag, Reject, Fallback }
}

place::records! {
    Rule { severity, action }
    TrialPolicy {
        min_inferences, min_windows, max_boots, max_error_per_mille, max_p99_us, shadow_inferences,
        min_agreement_per_mille,
    }
    GuardPolicy {
        z_limit, max_error_per_mille, max_p99_us, min_accuracy_per_mille, max_fallbacks,
    }
    Policy { rules, z_limit, trial, guard }
}

impl Blank for Policy {
    fn blank() -> Self {
        Self {
            rules: [Rule {
                severity: Severity::Low,
                action: Action::Count,
            }; ViolationKind::COUNT],
            z_limit: 0.0,
            trial: TrialPolicy {
                min_inferences: 0,
                min_windows: 0,
                max_boots: 0,
                max_error_per_mille: 0,
                max_p99_us: 0,
                shadow_inferences: 0,
                min_agreement_per_mille: 0,
            },
            guard: GuardPolicy {
                z_limit: 0.0,
                max_error_per_mille: 0,
                max_p99_us: 0,
                min_accuracy_per_mille: 0,
                max_fallbacks: 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_written_in_place_as_they_are_by_serde() {
        place::check(&Policy::standard(), &Policy::blank());
    }
}
