//! What a bundle holds, who signed it, and why a board would refuse it.

pub(crate) mod program;

use crate::keys::{hex, role_name};
use crate::names::{
    action_name, class_name, kind_name, layout_name, missing_name, section_name, severity_name,
    violation_name,
};
use crate::{MAX_FEATURES, MAX_OUTPUTS};
use edgeward::RUNTIME_VERSION;
use edgeward::bundle::decode::{decode_policy, decode_profile};
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{BoardClass, Bundle, BundleError, Capabilities, FitError, SectionKind};
use edgeward::contract::ViolationKind;
use edgeward::engine::board::{CORTEX_M_BOARD_KERNELS, KERNELS, kernels_of};
use edgeward::policy::Policy;
use edgeward::program::OwnedProgram;
use edgeward::trust::Role;
use edgeward::trust::cose;
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use serde::Serialize;

pub use program::{MemorySection, OperatorSection};

/// The board that a bundle is held against.
#[derive(Debug, Clone)]
pub struct Board {
    /// Its class.
    pub class: BoardClass,
    /// Its release floor: counters below it are refused.
    pub floor: u32,
    /// Bytes of a slot; `u32::MAX` when it does not matter.
    pub slot_bytes: u32,
    /// The root that it trusts; without one, signatures can't be judged.
    pub root: Option<Root>,
}

/// Everything about a bundle. The field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields of the manifest, under their names")]
pub struct Inspection {
    pub name: String,
    pub version: String,
    pub counter: u32,
    pub class: &'static str,
    pub kernels: String,
    pub arena_bytes: u32,
    pub min_runtime: u16,
    pub digest: String,
    pub head_bytes: u32,
    pub total_bytes: u32,
    pub chunks: u32,
    pub sections: Vec<SectionReport>,
    /// The program as a listing, a line an operator; none in a bundle for tract.
    pub program: Option<Vec<String>>,
    /// The program's operators; none in a bundle for tract.
    pub operators: Option<Vec<OperatorSection>>,
    /// What the program's arena holds; none in a bundle for tract.
    pub memory: Option<MemorySection>,
    pub signatures: Vec<SignatureReport>,
    pub golden: Option<GoldenSection>,
    pub profile: Option<ProfileSection>,
    pub policy: Option<PolicySection>,
    /// Why the board would refuse it; empty when it would not.
    pub refusals: Vec<Refusal>,
    /// Whether signatures were held against a root.
    pub judged_by_root: Option<u32>,
}

/// One section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields of the manifest, under their names")]
pub struct SectionReport {
    pub kind: &'static str,
    pub offset: u32,
    pub len: u32,
    pub sha256: String,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureReport {
    /// The key that claims to have made it.
    pub key: String,
    /// The role that the root gives this key; none when it knows no such key.
    pub role: Option<&'static str>,
    /// Whether it holds; none when the key isn't known.
    pub valid: Option<bool>,
}

/// The golden vectors.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct GoldenSection {
    pub vectors: u32,
    pub input_len: usize,
    pub output_len: usize,
    pub tolerance: f32,
}

/// The profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields of the profile, under their names")]
pub struct ProfileSection {
    pub schema_version: u16,
    pub window: u16,
    pub hop: u16,
    pub layout: &'static str,
    pub period_ms: u32,
    pub max_age_ms: u32,
    pub feature_version: u32,
    pub drift_window: u32,
    pub features: Vec<FeatureSection>,
    pub output: OutputSection,
}

/// One feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields of the profile, under their names")]
pub struct FeatureSection {
    pub name: String,
    pub missing: &'static str,
    pub min: f32,
    pub max: f32,
    pub mean: f32,
    pub sd: f32,
    /// None when the check is off.
    pub max_rate: Option<f32>,
    /// None when the check is off.
    pub stuck_run: Option<u16>,
    pub psi_limit: f32,
    pub ks_limit: f32,
    pub js_limit: f32,
    pub wasserstein_limit: f32,
}

/// The predictions.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields of the profile, under their names")]
pub struct OutputSection {
    pub kind: &'static str,
    pub names: Vec<String>,
    pub class_counts: Vec<u32>,
    pub temperature: f32,
    pub score_mean: f32,
    pub score_sd: f32,
    pub score_p01: f32,
    pub score_p99: f32,
    pub class_psi_limit: f32,
    pub score_shift_limit: f32,
}

/// The policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields of the policy, under their names")]
pub struct PolicySection {
    pub z_limit: f32,
    pub rules: Vec<RuleSection>,
    pub trial_min_inferences: u32,
    pub trial_min_windows: u32,
    pub trial_max_boots: u8,
    pub trial_max_error_per_mille: u16,
    pub trial_max_p99_us: u32,
    pub shadow_inferences: u32,
    pub min_agreement_per_mille: u16,
    pub guard_z_limit: f32,
    pub guard_max_error_per_mille: u16,
    pub guard_max_p99_us: u32,
    pub guard_min_accuracy_per_mille: u16,
    pub guard_max_fallbacks: u16,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RuleSection {
    pub kind: &'static str,
    pub severity: &'static str,
    pub action: &'static str,
}

/// Why a board would refuse it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Which check: `data`, `signature`, `fit`, `downgrade`, `program`, `kernels`, `arena`,
    /// `profile`, `policy` or `golden`.
    pub check: &'static str,
    /// What it said.
    pub why: String,
}

/// Reads a bundle, and holds it against a board.
///
/// What is wrong beyond the head is no error: it is among the refusals.
///
/// # Errors
/// When the head itself can't be read.
pub fn inspect(bytes: &[u8], board: &Board) -> Result<Inspection, BundleError> {
    let bundle = Bundle::open(bytes)?;
    let head = bundle.head();
    let manifest = bundle.manifest();
    let mut refusals = refusals(&bundle, board);
    let mut refuse = |check, why: String| refusals.push(Refusal { check, why });
    let mut read = |check, error: BundleError| refuse(check, error.to_string());
    let profile = bundle.require(SectionKind::Profile);
    let profile = profile.and_then(decode_profile::<MAX_FEATURES, MAX_OUTPUTS>);
    let profile = profile.map_err(|error| read("profile", error)).ok();
    let policy = bundle.require(SectionKind::Policy).and_then(decode_policy);
    let policy = policy.map_err(|error| read("policy", error)).ok();
    let golden = bundle.require(SectionKind::Golden).and_then(Golden::parse);
    let golden = golden.map_err(|error| read("golden", error)).ok();
    let (mut program, mut operators, mut memory) = (None, None, None);
    if let Some(parts) = listing(&bundle, &mut refusals) {
        program = Some(parts.lines);
        operators = Some(parts.operators);
        memory = Some(parts.memory);
    }
    Ok(Inspection {
        name: manifest.name.to_owned(),
        version: manifest.version.to_owned(),
        counter: manifest.counter,
        class: class_name(manifest.class),
        kernels: manifest.kernels.to_owned(),
        arena_bytes: manifest.arena_bytes,
        min_runtime: manifest.min_runtime,
        digest: hex(&head.digest()),
        head_bytes: head.head_bytes(),
        total_bytes: head.total_bytes(),
        chunks: head.chunks(),
        sections: manifest
            .sections
            .iter()
            .map(|section| SectionReport {
                kind: section_name(section.kind),
                offset: section.offset,
                len: section.len,
                sha256: hex(&section.sha256),
            })
            .collect(),
        program,
        operators,
        memory,
        signatures: signatures(&bundle, board.root.as_ref()),
        golden: golden.map(|golden| GoldenSection {
            vectors: golden.count(),
            input_len: golden.input_len(),
            output_len: golden.output_len(),
            tolerance: golden.tolerance(),
        }),
        profile: profile.as_ref().map(profile_section),
        policy: policy.as_ref().map(policy_section),
        refusals,
        judged_by_root: board.root.as_ref().map(|root| root.version),
    })
}

/// A program, readable in three ways.
struct Parts {
    lines: Vec<String>,
    operators: Vec<OperatorSection>,
    memory: MemorySection,
}

/// The bundle's program, readable; one that is not sound is a refusal.
fn listing(bundle: &Bundle<'_>, refusals: &mut Vec<Refusal>) -> Option<Parts> {
    let program = OwnedProgram::new(bundle.section(SectionKind::Program)?);
    match program {
        Ok(program) => {
            let (stated, found) = (bundle.manifest(), program.program());
            if stated.kernels != kernels_of(found.layout()) {
                let (stated, found) = (stated.kernels, kernels_of(found.layout()));
                let why =
                    format!("the manifest says {stated}, the program is laid out for {found}");
                refusals.push(Refusal {
                    check: "kernels",
                    why,
                });
            }
            if stated.arena_bytes < found.header().arena_bytes {
                let (stated, needs) = (stated.arena_bytes, found.header().arena_bytes);
                let why = format!("the manifest says {stated} bytes, the program needs {needs}");
                refusals.push(Refusal {
                    check: "arena",
                    why,
                });
            }
            let program = program.program();
            Some(Parts {
                lines: program::lines(&program),
                operators: program::operators(&program),
                memory: MemorySection::of(&program),
            })
        }
        Err(error) => {
            let why = format!("the program is not sound: {error:?}");
            refusals.push(Refusal {
                check: "program",
                why,
            });
            None
        }
    }
}

/// What a board would say of data, signatures, fit and counter.
fn refusals(bundle: &Bundle<'_>, board: &Board) -> Vec<Refusal> {
    let manifest = bundle.manifest();
    let mut refusals = Vec::new();
    let mut refuse = |check, why: String| refusals.push(Refusal { check, why });
    if let Err(error) = bundle.verify_data() {
        refuse("data", error.to_string());
    }
    if let Some(root) = &board.root
        && let Err(error) = bundle.verify(root, &RingVerifier)
    {
        refuse("signature", error.to_string());
    }
    let capabilities = Capabilities {
        class: board.class,
        kernels: match board.class {
            BoardClass::Linux => &KERNELS,
            _ => &CORTEX_M_BOARD_KERNELS,
        },
        runtime: RUNTIME_VERSION,
        slot_bytes: board.slot_bytes,
        arena_bytes: u32::MAX,
    };
    match manifest.check_fit(&capabilities, bundle.head().total_bytes()) {
        Ok(()) => {}
        Err(error @ FitError::Kernels) => {
            let (stated, there) = (manifest.kernels, capabilities.kernels.join(", "));
            refuse("fit", format!("{error}: {stated}; it has {there}"));
        }
        Err(error) => refuse("fit", error.to_string()),
    }
    if manifest.counter < board.floor {
        refuse(
            "downgrade",
            format!(
                "release counter {} is below the board's floor {}",
                manifest.counter, board.floor
            ),
        );
    }
    refusals
}

/// Who signed, and whether it holds.
fn signatures(bundle: &Bundle<'_>, root: Option<&Root>) -> Vec<SignatureReport> {
    let digest = bundle.head().digest();
    let report = |bytes: &[u8]| {
        let message = cose::parse(bytes).ok()?;
        let known = root.and_then(|root| {
            let mut roles = Role::ALL.into_iter();
            roles.find_map(|role| Some((role, root.key(role, message.key)?)))
        });
        Some(SignatureReport {
            key: hex(&message.key.0),
            role: known.map(|(role, _)| role_name(role)),
            valid: known.map(|(_, key)| message.verify(&RingVerifier, key, Some(&digest))),
        })
    };
    bundle.head().signatures().filter_map(report).collect()
}

/// A profile, readable.
#[must_use]
pub fn profile_section(profile: &crate::Profile) -> ProfileSection {
    let schema = &profile.schema;
    let output = &profile.output;
    ProfileSection {
        schema_version: schema.version,
        window: schema.window,
        hop: schema.hop,
        layout: layout_name(schema.layout),
        period_ms: schema.period_ms,
        max_age_ms: schema.max_age_ms,
        feature_version: schema.feature_version,
        drift_window: profile.drift_window,
        features: profile
            .features
            .iter()
            .map(|feature| FeatureSection {
                name: feature.name.to_string(),
                missing: missing_name(feature.missing),
                min: feature.min,
                max: feature.max,
                mean: feature.mean,
                sd: feature.sd,
                max_rate: feature.max_rate.is_finite().then_some(feature.max_rate),
                stuck_run: (feature.stuck_run > 0).then_some(feature.stuck_run),
                psi_limit: feature.limits.psi,
                ks_limit: feature.limits.ks,
                js_limit: feature.limits.js,
                wasserstein_limit: feature.limits.wasserstein,
            })
            .collect(),
        output: OutputSection {
            kind: kind_name(output.kind),
            names: output.names.iter().map(ToString::to_string).collect(),
            class_counts: output.class_counts.to_vec(),
            temperature: output.temperature,
            score_mean: output.score_mean,
            score_sd: output.score_sd,
            score_p01: output.score_p01,
            score_p99: output.score_p99,
            class_psi_limit: output.class_psi_limit,
            score_shift_limit: output.score_shift_limit,
        },
    }
}

fn policy_section(policy: &Policy) -> PolicySection {
    let rule = |kind| RuleSection {
        kind: violation_name(kind),
        severity: severity_name(policy.rule(kind).severity),
        action: action_name(policy.rule(kind).action),
    };
    PolicySection {
        z_limit: policy.z_limit,
        rules: ViolationKind::ALL.into_iter().map(rule).collect(),
        trial_min_inferences: policy.trial.min_inferences,
        trial_min_windows: policy.trial.min_windows,
        trial_max_boots: policy.trial.max_boots,
        trial_max_error_per_mille: policy.trial.max_error_per_mille,
        trial_max_p99_us: policy.trial.max_p99_us,
        shadow_inferences: policy.trial.shadow_inferences,
        min_agreement_per_mille: policy.trial.min_agreement_per_mille,
        guard_z_limit: policy.guard.z_limit,
        guard_max_error_per_mille: policy.guard.max_error_per_mille,
        guard_max_p99_us: policy.guard.max_p99_us,
        guard_min_accuracy_per_mille: policy.guard.min_accuracy_per_mille,
        guard_max_fallbacks: policy.guard.max_fallbacks,
    }
}
