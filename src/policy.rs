//! The policy: what a board does when reality differs from the profile.
//!
//! It is a signed section of the bundle, so that whoever may sign a release decides, and nobody on
//! the way.

use crate::contract::ViolationKind;
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
    /// Complete drift windows without a breach before a trial may be confirmed.
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
    /// The rule for one kind of violation.
    #[must_use]
    pub fn rule(&self, kind: ViolationKind) -> Rule {
        self.rules[kind as usize]
    }
}
