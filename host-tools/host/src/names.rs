//! Names of the core's kinds, for people, TOML keys and JSON values. They are stable.

use edgeward::bundle::{BoardClass, SectionKind};
use edgeward::contract::ViolationKind;
use edgeward::policy::{Action, Severity};
use edgeward::profile::{Layout, MissingPolicy, OutputKind};
use edgeward::telemetry::Statistic;

/// A violation's name.
#[must_use]
pub fn violation_name(kind: ViolationKind) -> &'static str {
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

/// A board class's name.
#[must_use]
pub fn class_name(class: BoardClass) -> &'static str {
    match class {
        BoardClass::Linux => "linux",
        BoardClass::Mcu => "mcu",
        _ => "unknown",
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
