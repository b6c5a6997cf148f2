//! What a person writes to have a model packed: a TOML file beside the model.
//!
//! ```toml
//! name = "motion"
//! version = "1.0.0"
//! counter = 1                     # rises with every release
//! model = "motion.onnx"           # or .tflite; paths are relative to this file
//! engine = "auto"                 # or "program", "tract", "both"; may be left out
//! target = "linux"                # or "cortex-m", "mcu"; may be left out
//!
//! [input]
//! features = ["ax", "ay", "az"]   # columns of the data, in tensor order
//! window = 50                     # samples an inference sees; 1 for tabular models
//! hop = 10                        # new samples between two inferences
//! layout = "samples-first"        # or "features-first"
//! period_ms = 100                 # 0 when samples have no clock
//!
//! [output]
//! kind = "logits"                 # or "probabilities", "values"
//! classes = ["rest", "walk"]
//!
//! [data]
//! training = "train.csv"
//!
//! [golden]
//! input = "golden-input.npy"
//! output = "golden-output.npy"
//! tolerance = 0.001
//! ```

use crate::model::{EngineChoice, Target};
use crate::names::violation_name;
use crate::{MAX_FEATURES, MAX_OUTPUTS};
use edgeward::bundle::decode::encode_policy;
use edgeward::contract::ViolationKind;
use edgeward::policy::{Action, Policy, Rule, Severity};
use edgeward::profile::{Layout, MissingPolicy, NAME_BYTES, OutputKind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a file is no such specification.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, has an unknown key, lacks one, or has a value of the wrong type.
    #[error("{}: {}", path.display(), .source.to_string().trim_end())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{}: `{key}` {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        what: String,
    },
}

/// The whole file. Paths are as written; [`Spec::path`] resolves them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The model's name.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// The release counter.
    pub counter: u32,
    /// The ONNX or TFLite file.
    pub model: PathBuf,
    /// The engine that boards run it with.
    #[serde(default)]
    pub engine: EngineChoice,
    /// The boards that it is packed for.
    #[serde(default)]
    pub target: Target,
    /// The input stream.
    pub input: InputSpec,
    /// The model's output.
    pub output: OutputSpec,
    /// What the profile is measured from.
    pub data: DataSpec,
    /// Golden vectors.
    pub golden: Option<GoldenSpec>,
    /// What differs from the standard policy.
    #[serde(default)]
    pub policy: PolicySpec,
    /// The folder of the file.
    #[serde(skip)]
    folder: PathBuf,
}

/// The input stream.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// The features, in tensor order.
    pub features: Vec<String>,
    /// Samples an inference sees.
    #[serde(default = "one")]
    pub window: u16,
    /// New samples between two inferences.
    #[serde(default = "one")]
    pub hop: u16,
    /// Layout of the tensor.
    #[serde(default)]
    pub layout: LayoutSpec,
    /// Version of the schema.
    #[serde(default = "one")]
    pub schema_version: u16,
    /// Nominal time between two samples; 0 when samples have no clock.
    #[serde(default)]
    pub period_ms: u32,
    /// Oldest sample that is still fresh; 0 switches the check off.
    #[serde(default)]
    pub max_age_ms: u32,
    /// Describes the feature pipeline; sources with another description are refused.
    pub pipeline: Option<String>,
    /// Samples in a drift window; by default as many as the training data can calibrate.
    pub drift_window: Option<u32>,
    /// What to do about missing values.
    #[serde(default)]
    pub missing: MissingSpec,
    /// What differs for single features; `*` stands for all that do not say otherwise.
    #[serde(default)]
    pub overrides: BTreeMap<String, FeatureOverride>,
}

/// What a person knows better about a feature than its training data.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureOverride {
    /// Smallest plausible value.
    pub min: Option<f32>,
    /// Largest plausible value.
    pub max: Option<f32>,
    /// Largest plausible step; `inf` switches the check off.
    pub max_rate: Option<f32>,
    /// Equal values in a row that mean a stuck sensor; 0 switches the check off.
    pub stuck_run: Option<u16>,
    /// What to do when it is missing.
    pub missing: Option<MissingSpec>,
}

/// The model's output.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Its meaning.
    pub kind: KindSpec,
    /// Names of the classes or values.
    pub classes: Vec<String>,
    /// Temperature that calibrates the confidence; fitted when the training data has labels.
    pub temperature: Option<f32>,
}

/// What the profile is measured from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Training samples, CSV or NPY.
    pub training: PathBuf,
    /// The lab's outputs on all training windows, NPY; the packed model's own when absent.
    pub outputs: Option<PathBuf>,
    /// Labelled samples that the model was not trained on: the predictions' profile and the
    /// temperature are measured there, as the model is surer of its training data than of new data.
    pub validation: Option<PathBuf>,
    /// Share of the training windows in which the packed model may disagree with `outputs`.
    #[serde(default = "two_percent")]
    pub max_skew: f32,
}

/// Golden vectors.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSpec {
    /// Inputs, NPY, the first dimension counts the vectors.
    pub input: PathBuf,
    /// Outputs, likewise.
    pub output: PathBuf,
    /// How far an output may be from its golden value.
    pub tolerance: f32,
}

/// Layout of the input tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayoutSpec {
    /// `[1, window, features]`.
    #[default]
    SamplesFirst,
    /// `[1, features, window]`.
    FeaturesFirst,
}

/// Meaning of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KindSpec {
    /// One logit a class.
    Logits,
    /// One probability a class.
    Probabilities,
    /// Numbers without classes.
    Values,
}

/// What to do when a value is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingSpec {
    /// Reject the sample.
    Reject,
    /// Use the last good value.
    #[default]
    HoldLast,
    /// Use the training mean.
    Impute,
}

/// What differs from [`Policy::standard`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// |z| of a feature's value above which it is a violation.
    pub z_limit: Option<f32>,
    /// Latency that the 99th percentile may not exceed, in microseconds: in a trial and afterwards,
    /// unless `trial.max_p99_us` or `guard.max_p99_us` says otherwise.
    pub latency_p99_us: Option<u32>,
    /// Rules by the violation's name, as `stuck` or `above_range`.
    #[serde(default)]
    pub rules: BTreeMap<String, RuleSpec>,
    /// The trial.
    #[serde(default)]
    pub trial: TrialSpec,
    /// The guard.
    #[serde(default)]
    pub guard: GuardSpec,
}

/// What differs in one rule.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    severity: Option<SeveritySpec>,
    action: Option<ActionSpec>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SeveritySpec {
    Low,
    Medium,
    High,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ActionSpec {
    Count,
    Flag,
    Reject,
    Fallback,
}

/// What differs in [`edgeward::policy::TrialPolicy`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields of TrialPolicy, under their names")]
pub struct TrialSpec {
    pub min_inferences: Option<u32>,
    pub min_windows: Option<u32>,
    pub max_boots: Option<u8>,
    pub max_error_per_mille: Option<u16>,
    pub max_p99_us: Option<u32>,
    pub shadow_inferences: Option<u32>,
    pub min_agreement_per_mille: Option<u16>,
}

/// What differs in [`edgeward::policy::GuardPolicy`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields of GuardPolicy, under their names")]
pub struct GuardSpec {
    pub z_limit: Option<f32>,
    pub max_error_per_mille: Option<u16>,
    pub max_p99_us: Option<u32>,
    pub min_accuracy_per_mille: Option<u16>,
    pub max_fallbacks: Option<u16>,
}

/// Stands for every feature in `[input.overrides]`; no feature may be called so.
const EVERY: &str = "*";

fn one() -> u16 {
    1
}

fn two_percent() -> f32 {
    0.02
}

impl Spec {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`SpecError`] names the file and the key.
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let text = std::fs::read_to_string(path).map_err(|source| SpecError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads and checks text; `path` names it in errors, and its folder resolves paths.
    ///
    /// # Errors
    /// As [`Spec::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, SpecError> {
        let mut spec: Self = toml::from_str(text).map_err(|source| SpecError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        spec.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let fault = spec.check();
        fault.map_err(|(key, what)| SpecError::Value {
            path: path.to_owned(),
            key,
            what,
        })?;
        Ok(spec)
    }

    /// A path of the file, seen from the present folder.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// The policy: the standard one with what differs.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut policy = Policy::standard();
        let spec = &self.policy;
        set(&mut policy.z_limit, spec.z_limit);
        for kind in ViolationKind::ALL {
            let Some(rule) = spec.rules.get(violation_name(kind)) else {
                continue;
            };
            let standard = policy.rule(kind);
            policy.rules[kind as usize] = Rule {
                severity: rule.severity.map_or(standard.severity, Into::into),
                action: rule.action.map_or(standard.action, Into::into),
            };
        }
        set(&mut policy.trial.max_p99_us, spec.latency_p99_us);
        set(&mut policy.guard.max_p99_us, spec.latency_p99_us);
        let trial = &mut policy.trial;
        set(&mut trial.min_inferences, spec.trial.min_inferences);
        set(&mut trial.min_windows, spec.trial.min_windows);
        set(&mut trial.max_boots, spec.trial.max_boots);
        set(
            &mut trial.max_error_per_mille,
            spec.trial.max_error_per_mille,
        );
        set(&mut trial.max_p99_us, spec.trial.max_p99_us);
        set(&mut trial.shadow_inferences, spec.trial.shadow_inferences);
        let agreement = spec.trial.min_agreement_per_mille;
        set(&mut trial.min_agreement_per_mille, agreement);
        let guard = &mut policy.guard;
        set(&mut guard.z_limit, spec.guard.z_limit);
        set(
            &mut guard.max_error_per_mille,
            spec.guard.max_error_per_mille,
        );
        set(&mut guard.max_p99_us, spec.guard.max_p99_us);
        set(
            &mut guard.min_accuracy_per_mille,
            spec.guard.min_accuracy_per_mille,
        );
        set(&mut guard.max_fallbacks, spec.guard.max_fallbacks);
        policy
    }

    /// What a person said of a feature: by its name, or else of all.
    #[must_use]
    pub fn override_of(&self, feature: &str) -> FeatureOverride {
        let said = |name: &str| self.input.overrides.get(name).cloned().unwrap_or_default();
        let (own, every) = (said(feature), said(EVERY));
        FeatureOverride {
            min: own.min.or(every.min),
            max: own.max.or(every.max),
            max_rate: own.max_rate.or(every.max_rate),
            stuck_run: own.stuck_run.or(every.stuck_run),
            missing: own.missing.or(every.missing),
        }
    }

    /// The first key whose value makes no sense, and why.
    fn check(&self) -> Result<(), (String, String)> {
        check_names("input.features", &self.input.features, MAX_FEATURES)?;
        let spaced = |name: &&String| name.contains(|c: char| c.is_whitespace() || c.is_control());
        if let Some(name) = self.input.features.iter().find(spaced) {
            let what =
                format!("holds `{name}`; a source's first line can't say a name with a space");
            return Err(("input.features".to_owned(), what));
        }
        if self.input.features.iter().any(|name| name == EVERY) {
            let what = format!("holds `{EVERY}`, which stands for every feature");
            return Err(("input.features".to_owned(), what));
        }
        check_names("output.classes", &self.output.classes, MAX_OUTPUTS)?;
        let wrong = |key: &str, what: &str| Err((key.to_owned(), what.to_owned()));
        let input = &self.input;
        if input.window == 0 {
            return wrong("input.window", "must be at least 1");
        }
        if input.hop == 0 || input.hop > input.window {
            return wrong("input.hop", "must be 1 to `input.window`");
        }
        if input.drift_window.is_some_and(|n| n == 0 || n > 65_535) {
            return wrong("input.drift_window", "must be 1 to 65535");
        }
        self.check_overrides()?;
        if self
            .output
            .temperature
            .is_some_and(|t| !(t.is_finite() && t > 0.0))
        {
            return wrong("output.temperature", "must be above 0");
        }
        if !(0.0..=1.0).contains(&self.data.max_skew) {
            return wrong("data.max_skew", "must be 0 to 1");
        }
        if self
            .golden
            .as_ref()
            .is_some_and(|g| !(g.tolerance.is_finite() && g.tolerance >= 0.0))
        {
            return wrong("golden.tolerance", "must be 0 or more");
        }
        for name in self.policy.rules.keys() {
            if !ViolationKind::ALL
                .iter()
                .any(|&kind| violation_name(kind) == name)
            {
                let known = ViolationKind::ALL.map(violation_name).join(", ");
                let what = format!("is no kind of violation; there are {known}");
                return Err((format!("policy.rules.{name}"), what));
            }
        }
        for (key, limit) in [
            ("policy.z_limit", self.policy.z_limit),
            ("policy.guard.z_limit", self.policy.guard.z_limit),
        ] {
            if limit.is_some_and(|limit| limit.is_nan() || limit <= 0.0) {
                return wrong(key, "must be above 0");
            }
        }
        // Whatever else a board would refuse, under the name it has there.
        encode_policy(&self.policy()).map(|_| ()).map_err(|error| {
            (
                "policy".to_owned(),
                format!("is refused by boards: {error}"),
            )
        })
    }

    fn check_overrides(&self) -> Result<(), (String, String)> {
        let input = &self.input;
        for (name, over) in &input.overrides {
            let key = |field: &str| format!("input.overrides.{name}{field}");
            if name != EVERY && !input.features.contains(name) {
                return Err((key(""), "is no feature of `input.features`".to_owned()));
            }
            if over.min.zip(over.max).is_some_and(|(min, max)| min > max) {
                return Err((key(".min"), "must not be above max".to_owned()));
            }
            for (field, value) in [(".min", over.min), (".max", over.max)] {
                if value.is_some_and(f32::is_nan) {
                    return Err((key(field), "must be a number".to_owned()));
                }
            }
            if over
                .max_rate
                .is_some_and(|rate| rate.is_nan() || rate < 0.0)
            {
                return Err((key(".max_rate"), "must not be negative".to_owned()));
            }
        }
        Ok(())
    }
}

fn check_names(key: &str, names: &[String], most: usize) -> Result<(), (String, String)> {
    let wrong = |what| Err((key.to_owned(), what));
    if names.is_empty() || names.len() > most {
        return wrong(format!("must have 1 to {most} names, not {}", names.len()));
    }
    for (at, name) in names.iter().enumerate() {
        let plain = !name.is_empty() && name.len() <= NAME_BYTES && !name.contains([',', '\n']);
        if !plain {
            return wrong(format!(
                "holds `{name}`; a name has 1 to {NAME_BYTES} bytes and no comma"
            ));
        }
        if names[..at].contains(name) {
            return wrong(format!("names `{name}` twice"));
        }
    }
    Ok(())
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl From<SeveritySpec> for Severity {
    fn from(spec: SeveritySpec) -> Self {
        match spec {
            SeveritySpec::Low => Self::Low,
            SeveritySpec::Medium => Self::Medium,
            SeveritySpec::High => Self::High,
        }
    }
}

impl From<ActionSpec> for Action {
    fn from(spec: ActionSpec) -> Self {
        match spec {
            ActionSpec::Count => Self::Count,
            ActionSpec::Flag => Self::Flag,
            ActionSpec::Reject => Self::Reject,
            ActionSpec::Fallback => Self::Fallback,
        }
    }
}

impl From<LayoutSpec> for Layout {
    fn from(spec: LayoutSpec) -> Self {
        match spec {
            LayoutSpec::SamplesFirst => Self::SamplesFirst,
            LayoutSpec::FeaturesFirst => Self::FeaturesFirst,
        }
    }
}

impl From<KindSpec> for OutputKind {
    fn from(spec: KindSpec) -> Self {
        match spec {
            KindSpec::Logits => Self::Logits,
            KindSpec::Probabilities => Self::Probabilities,
            KindSpec::Values => Self::Values,
        }
    }
}

impl From<MissingSpec> for MissingPolicy {
    fn from(spec: MissingSpec) -> Self {
        match spec {
            MissingSpec::Reject => Self::Reject,
            MissingSpec::HoldLast => Self::HoldLast,
            MissingSpec::Impute => Self::Impute,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const MINIMAL: &str = r#"
name = "m"
version = "1.0"
counter = 1
model = "m.onnx"
[input]
features = ["a", "b"]
[output]
kind = "logits"
classes = ["no", "yes"]
[data]
training = "train.csv"
"#;

    fn parse(text: &str) -> Result<Spec, SpecError> {
        Spec::parse(text, Path::new("dir/m.toml"))
    }

    fn message(text: &str) -> String {
        parse(text).expect_err("an error").to_string()
    }

    #[test]
    fn a_minimal_file_gets_defaults() {
        let spec = parse(MINIMAL).expect("spec");
        assert_eq!((spec.input.window, spec.input.hop), (1, 1));
        assert_eq!(spec.path(&spec.model), Path::new("dir/m.onnx"));
        assert_eq!(spec.policy(), Policy::standard());
    }

    #[test]
    fn unknown_keys_are_named() {
        let text = MINIMAL.replace("[output]", "hopp = 3\n[output]");
        assert!(
            message(&text).contains("unknown field `hopp`"),
            "{}",
            message(&text)
        );
        let text = format!("{MINIMAL}[policy.rules.stukc]\naction = \"reject\"\n");
        assert!(message(&text).contains("`policy.rules.stukc` is no kind of violation"));
        let text = format!("{MINIMAL}[input.overrides.c]\nmin = 1.0\n");
        assert!(message(&text).contains("`input.overrides.c` is no feature"));
    }

    #[test]
    fn one_latency_budget_serves_trial_and_guard() {
        let budgets = |more: &str| {
            let text = format!("{MINIMAL}[policy]\n{more}");
            let spec = Spec::parse(&text, Path::new("m.toml")).expect("a specification");
            let policy = spec.policy();
            (policy.trial.max_p99_us, policy.guard.max_p99_us)
        };
        assert_eq!(budgets(""), (0, 0));
        assert_eq!(budgets("latency_p99_us = 900\n"), (900, 900));
        let own = "latency_p99_us = 900\n[policy.guard]\nmax_p99_us = 0\n";
        assert_eq!(budgets(own), (900, 0));
    }

    #[test]
    fn senseless_values_are_named() {
        for (from, to, key) in [
            ("counter = 1", "counter = -1", "counter"),
            ("[\"a\", \"b\"]", "[\"a\", \"a\"]", "`input.features`"),
            ("[\"a\", \"b\"]", "[]", "`input.features`"),
            ("[output]", "hop = 2\n[output]", "`input.hop`"),
            ("[data]", "temperature = 0\n[data]", "temperature"),
            ("[\"a\", \"b\"]", "[\"a b\"]", "`input.features`"),
            (
                "[data]",
                "[policy.guard]\nmax_error_per_mille = 1001\n[data]",
                "policy.guard.max_error_per_mille: out of range",
            ),
        ] {
            let text = MINIMAL.replace(from, to);
            assert!(message(&text).contains(key), "{key}: {}", message(&text));
        }
    }

    #[test]
    fn the_policy_differs_where_the_file_says_so() {
        let text = format!(
            "{MINIMAL}[policy]\nz_limit = 5.0\n[policy.rules.stuck]\naction = \"reject\"\n\
             [policy.trial]\nmin_windows = 7\n[policy.guard]\nmax_p99_us = 900\n"
        );
        let policy = parse(&text).expect("spec").policy();
        let standard = Policy::standard();
        assert_eq!(policy.rule(ViolationKind::Stuck).action, Action::Reject);
        let severity = standard.rule(ViolationKind::Stuck).severity;
        assert_eq!(policy.rule(ViolationKind::Stuck).severity, severity);
        assert_eq!((policy.z_limit, policy.trial.min_windows), (5.0, 7));
        assert_eq!(policy.guard.max_p99_us, 900);
        assert_eq!(policy.trial.max_boots, standard.trial.max_boots);
    }

    /// What serde names as known where a key is unknown.
    fn keys(text: &str) -> Vec<String> {
        let said = message(text);
        let (_, known) = said.split_once("expected").expect("the known keys");
        let names = known.lines().next().expect("a line").split('`');
        names.skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_page_has_every_key() {
        let page = include_str!("../../../docs/SPEC.md");
        let mut known = 0;
        for table in [
            "",
            "[input]",
            "[input.overrides.a]",
            "[output]",
            "[data]",
            "[golden]",
            "[policy]",
            "[policy.rules.stuck]",
            "[policy.trial]",
            "[policy.guard]",
        ] {
            let keys = keys(&format!("{table}\nunheard_of = 1\n"));
            known += keys.len();
            for key in keys {
                let told = [format!("`{key}`"), format!("`[{key}]`"), format!(".{key}")];
                assert!(told.iter().any(|key| page.contains(key)), "{table} {key}");
            }
        }
        assert!(known > 50, "{known}");
        for kind in ViolationKind::ALL {
            let name = violation_name(kind);
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }

    const FULL: &str = r#"
name = "m"
version = "1.0"
counter = 1
model = "m.onnx"
[input]
features = ["a", "b"]
window = 50
hop = 10
layout = "features-first"
schema_version = 2
period_ms = 100
max_age_ms = 500
pipeline = "p"
drift_window = 1000
missing = "impute"
[input.overrides.a]
min = -1.0
max = 1.0
max_rate = inf
stuck_run = 5
missing = "reject"
[output]
kind = "logits"
classes = ["no", "yes"]
temperature = 1.5
[data]
training = "train.csv"
outputs = "o.npy"
validation = "v.csv"
max_skew = 0.1
[golden]
input = "i.npy"
output = "o.npy"
tolerance = 0.001
[policy]
z_limit = 5.0
[policy.rules.stuck]
severity = "high"
action = "reject"
[policy.trial]
min_inferences = 10
max_boots = 2
max_error_per_mille = 50
[policy.guard]
z_limit = 3.0
max_p99_us = 900
min_accuracy_per_mille = 500
"#;

    /// What is accepted makes sense and packs its policy; what is refused names the file.
    fn hold(text: &str) -> Result<(), TestCaseError> {
        match parse(text) {
            Ok(spec) => {
                prop_assert!((1..=spec.input.window).contains(&spec.input.hop));
                prop_assert!((1..=MAX_FEATURES).contains(&spec.input.features.len()));
                prop_assert!((1..=MAX_OUTPUTS).contains(&spec.output.classes.len()));
                prop_assert!(encode_policy(&spec.policy()).is_ok());
            }
            Err(error) => {
                let said = error.to_string();
                prop_assert!(said.contains("m.toml"), "{}", said);
            }
        }
        Ok(())
    }

    #[test]
    fn the_full_file_is_accepted_so_that_its_changes_are_tried() {
        parse(FULL).expect("a specification");
    }

    proptest! {
        #[test]
        fn any_text_is_a_specification_or_an_error(text in "\\PC{0,120}") {
            hold(&text)?;
            hold(&format!("{MINIMAL}\n{text}"))?;
        }

        #[test]
        fn any_changed_line_is_a_specification_or_an_error(
            line in any::<prop::sample::Index>(),
            value in prop::sample::select(vec![
                "0", "-1", "1", "1000", "1001", "65535", "65536", "4294967295", "4294967296",
                "9223372036854775807", "1e-45", "1e39", "-0.0", "inf", "-inf", "nan", "\"\"",
                "\"\\u0000\"", "[]", "[\"\"]", "[\"a\"]", "{}", "true", "2026-01-01", "=", "[[",
            ]),
            other in any::<prop::sample::Index>(),
            how in 0u8..4,
        ) {
            let mut lines: Vec<String> = FULL.trim().lines().map(str::to_owned).collect();
            let at = line.index(lines.len());
            match how {
                0 => {
                    let key = lines[at].split('=').next().unwrap_or_default().to_owned();
                    lines[at] = format!("{key} = {value}");
                }
                1 => {
                    lines.remove(at);
                }
                2 => lines.push(lines[at].clone()),
                _ => {
                    let other = other.index(lines.len());
                    lines.swap(at, other);
                }
            }
            hold(&lines.join("\n"))?;
        }
    }
}
