//! Names of the core's kinds, for people, TOML keys and JSON values. They are stable.

use crate::keys::hex;
use edgeward::bundle::{BoardClass, SectionKind};
use edgeward::contract::ViolationKind;
use edgeward::policy::{Action, Policy, Severity};
use edgeward::profile::{Layout, MissingPolicy, OutputKind};
use edgeward::telemetry::{Alarm, Reason, SlotState, Statistic};
use serde::Deserialize;
use serde_json::Value;

/// A violation's name.
#[must_use]
pub const fn violation_name(kind: ViolationKind) -> &'static str {
    match kind {
        ViolationKind::NotFinite => "not_finite",
        ViolationKind::BelowRange => "below_range",
        ViolationKind::AboveRange => "above_range",
        ViolationKind::ZScore => "z_score",
        ViolationKind::Rate => "rate",
        ViolationKind::Stuck => "stuck",
        ViolationKind::Missing => "missing",
        ViolationKind::Gap => "gap",
        ViolationKind::Duplicate => "duplicate",
        ViolationKind::Stale => "stale",
        ViolationKind::OutOfOrder => "out_of_order",
        ViolationKind::DType => "dtype",
        ViolationKind::Shape => "shape",
        ViolationKind::SchemaVersion => "schema_version",
        ViolationKind::FeatureVersion => "feature_version",
        ViolationKind::UnknownFeature => "unknown_feature",
        ViolationKind::AbsentFeature => "absent_feature",
        _ => "unknown",
    }
}

/// A statistic's name.
#[must_use]
pub fn statistic_name(statistic: Statistic) -> &'static str {
    match statistic {
        Statistic::Psi => "psi",
        Statistic::Ks => "ks",
        Statistic::JensenShannon => "jensen_shannon",
        Statistic::Wasserstein => "wasserstein",
        Statistic::ClassPsi => "class_psi",
        Statistic::ScoreShift => "score_shift",
        Statistic::ErrorRate => "error_rate",
        Statistic::LatencyP99 => "latency_p99",
        Statistic::EstimatedAccuracy => "estimated_accuracy",
        Statistic::Cusum => "cusum",
        _ => "unknown",
    }
}

/// All names of alarms.
pub const ALARM_NAMES: [&str; ViolationKind::COUNT + 5] = {
    let mut names = ["prediction_drift"; ViolationKind::COUNT + 5];
    let mut kind = 0;
    while kind < ViolationKind::COUNT {
        names[kind] = violation_name(ViolationKind::ALL[kind]);
        kind += 1;
    }
    names[kind] = "feature_drift";
    names[kind + 1] = "error_rate";
    names[kind + 2] = "latency";
    names[kind + 3] = "estimated_accuracy";
    names
};

/// All names of slot states.
pub const SLOT_STATES: [&str; 8] = [
    "empty",
    "receiving",
    "staged",
    "shadow",
    "trial",
    "confirmed",
    "rejected",
    "revoked",
];

/// An alarm's name: the violation's, or what a window's statistic is about.
#[must_use]
pub fn alarm_name(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::Violation { kind, .. } => violation_name(*kind),
        Alarm::Drift { statistic, .. } => match statistic {
            Statistic::ClassPsi | Statistic::ScoreShift => "prediction_drift",
            Statistic::ErrorRate => "error_rate",
            Statistic::LatencyP99 => "latency",
            Statistic::EstimatedAccuracy => "estimated_accuracy",
            _ => "feature_drift",
        },
        _ => "unknown",
    }
}

/// How grave an alarm is: a violation as the policy says; a feature that drifted and a latency over
/// its budget are worth a look; predictions that moved or fail are likely wrong.
#[must_use]
pub fn alarm_severity(alarm: &Alarm, policy: &Policy) -> Severity {
    match alarm {
        Alarm::Violation { kind, .. } => policy.rule(*kind).severity,
        _ => severity_of_name(alarm_name(alarm), policy),
    }
}

/// The same, by the alarm's name.
#[must_use]
pub fn severity_of_name(name: &str, policy: &Policy) -> Severity {
    let violation = ViolationKind::ALL
        .into_iter()
        .find(|&kind| violation_name(kind) == name);
    match (violation, name) {
        (Some(kind), _) => policy.rule(kind).severity,
        (None, "prediction_drift" | "error_rate" | "estimated_accuracy") => Severity::High,
        (None, _) => Severity::Medium,
    }
}

/// A slot state's name, without the reason of a rejected one.
#[must_use]
pub fn slot_state_name(state: SlotState) -> &'static str {
    match state {
        SlotState::Empty => "empty",
        SlotState::Receiving => "receiving",
        SlotState::Staged => "staged",
        SlotState::Shadow => "shadow",
        SlotState::Trial => "trial",
        SlotState::Confirmed => "confirmed",
        SlotState::Rejected(_) => "rejected",
        SlotState::Revoked => "revoked",
        _ => "unknown",
    }
}

/// The name of the reason why a release was refused or left.
#[must_use]
pub fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Signature => "signature",
        Reason::Downgrade => "downgrade",
        Reason::WrongClass => "wrong_class",
        Reason::Unsupported => "unsupported",
        Reason::Corrupt => "corrupt",
        Reason::SelfTest => "self_test",
        Reason::Shadow => "shadow",
        Reason::ErrorRate => "error_rate",
        Reason::Latency => "latency",
        Reason::PredictionDrift => "prediction_drift",
        Reason::Crash => "crash",
        Reason::Operator => "operator",
        Reason::Revoked => "revoked",
        Reason::Source => "source",
        Reason::CounterTaken => "counter_taken",
        _ => "unknown",
    }
}

/// A board class's name.
#[must_use]
pub fn class_name(class: BoardClass) -> &'static str {
    match class {
        BoardClass::Linux => "linux",
        BoardClass::Mcu => "mcu",
        _ => "unknown",
    }
}

/// Digests and release ids as hexadecimal digits, and classes by their names, wherever in a record they
/// are: it is stored with arrays of numbers for the former and the code's names for the latter.
pub fn readable(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(readable),
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), &mut *value) {
                    ("digest" | "release" | "from" | "to", value) => digits(value),
                    ("last_failure", Value::Array(pair)) => pair.iter_mut().for_each(digits),
                    ("class", value) => {
                        if let Ok(class) = BoardClass::deserialize(&*value) {
                            *value = class_name(class).into();
                        }
                    }
                    _ => {}
                }
                readable(value);
            }
        }
        _ => {}
    }
}

/// An array of 8 or 32 bytes as hexadecimal digits; anything else stays.
fn digits(value: &mut Value) {
    let Value::Array(items) = &*value else { return };
    let byte = |item: &Value| u8::try_from(item.as_u64()?).ok();
    let bytes: Option<Vec<u8>> = items.iter().map(byte).collect();
    if let Some(bytes) = bytes.filter(|bytes| matches!(bytes.len(), 8 | 32)) {
        *value = hex(&bytes).into();
    }
}

/// A section's name.
#[must_use]
pub fn section_name(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Program => "program",
        SectionKind::Weights => "weights",
        SectionKind::TractModel => "tract_model",
        SectionKind::Profile => "profile",
        SectionKind::Policy => "policy",
        SectionKind::Golden => "golden",
        _ => "unknown",
    }
}

/// A severity's name.
#[must_use]
pub fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
    }
}

/// An action's name.
#[must_use]
pub fn action_name(action: Action) -> &'static str {
    match action {
        Action::Count => "count",
        Action::Flag => "flag",
        Action::Reject => "reject",
        Action::Fallback => "fallback",
    }
}

/// A layout's name, as in a model's TOML.
#[must_use]
pub fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::SamplesFirst => "samples-first",
        Layout::FeaturesFirst => "features-first",
        _ => "unknown",
    }
}

/// A missing policy's name, as in a model's TOML.
#[must_use]
pub fn missing_name(missing: MissingPolicy) -> &'static str {
    match missing {
        MissingPolicy::Reject => "reject",
        MissingPolicy::HoldLast => "hold-last",
        MissingPolicy::Impute => "impute",
        _ => "unknown",
    }
}

/// An output kind's name, as in a model's TOML.
#[must_use]
pub fn kind_name(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::Logits => "logits",
        OutputKind::Probabilities => "probabilities",
        OutputKind::Values => "values",
        _ => "unknown",
    }
}
