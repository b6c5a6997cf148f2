//! Releases of the motion model with a profile that takes anything plausible.

use edgeward::bundle::decode::{encode_policy, encode_profile};
use edgeward::bundle::golden::encode_golden;
use edgeward::bundle::{BoardClass, BundleWriter, Description, SectionKind};
use edgeward::contract::ViolationKind;
use edgeward::engine::Engine;
use edgeward::engine::tract::{ModelSpec, TractEngine};
use edgeward::policy::{Action, GuardPolicy, Policy, Rule, Severity, TrialPolicy};
use edgeward::profile::{
    BINS, DType, DriftLimits, EDGES, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};
use edgeward::trust::Signer;
use edgeward::trust::cose::{ContentType, sign_embedded};
use edgeward::trust::ring::RingSigner;
use edgeward::trust::root::{RoleKeys, Root};
use edgeward_firmware::{MAX_FEATURES, MAX_OUTPUTS};

const MODEL: &[u8] = include_bytes!("../../../models/motion/motion-v1.onnx");
/// Made by `fixtures/make.py`.
const SLOW: &[u8] = include_bytes!("../fixtures/slow.onnx");
const FEATURES: [&str; 6] = ["ax", "ay", "az", "gx", "gy", "gz"];
pub const CLASSES: [&str; 4] = ["standing", "running", "walking", "badminton"];

/// Keys of the roles: 1 root, 2 release, 3 rollout, 4 collector.
pub fn key(seed: u8) -> RingSigner {
    RingSigner::from_seed(&[seed; 32]).unwrap()
}

pub fn signed(seed: u8, content: ContentType, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; content.embedded_bytes(payload.len())];
    let len = sign_embedded(&key(seed), content, payload, &mut out).unwrap();
    out.truncate(len);
    out
}

pub fn signed_root() -> Vec<u8> {
    root_trusting(1, 2)
}

/// A root whose releases are signed by the key of that seed.
pub fn root_trusting(version: u32, release: u8) -> Vec<u8> {
    let role = |seed| RoleKeys::new(1, &[key(seed).public_key()]).unwrap();
    let root = Root {
        version,
        roles: [role(1), role(release), role(3), role(4)],
    };
    let mut bytes = [0; 2048];
    signed(1, ContentType::Root, root.encode(&mut bytes).unwrap())
}

fn feature(name: &str) -> FeatureProfile {
    let mut edges = [0.0; EDGES];
    for (i, edge) in edges.iter_mut().enumerate() {
        *edge = (i as f32 - 7.0) * 3.0;
    }
    let mut reference = [10; BINS];
    (reference[0], reference[BINS - 1]) = (0, 0);
    let far = f32::INFINITY;
    FeatureProfile {
        name: Name::try_from(name).unwrap(),
        missing: MissingPolicy::HoldLast,
        min: -60.0,
        max: 60.0,
        mean: 0.0,
        sd: 10.0,
        max_rate: far,
        stuck_run: 20,
        edges,
        reference,
        limits: DriftLimits {
            psi: far,
            ks: far,
            js: far,
            wasserstein: far,
        },
    }
}

fn profile() -> Profile<MAX_FEATURES, MAX_OUTPUTS> {
    let names = CLASSES.iter().map(|name| Name::try_from(*name).unwrap());
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window: 50,
            hop: 10,
            layout: Layout::FeaturesFirst,
            period_ms: 100,
            max_age_ms: 0,
            feature_version: 0,
        },
        features: FEATURES.iter().map(|name| feature(name)).collect(),
        output: OutputProfile {
            kind: OutputKind::Logits,
            names: names.collect(),
            temperature: 1.0,
            class_counts: [10; 4].into_iter().collect(),
            score_mean: 0.9,
            score_sd: 0.2,
            score_p01: 0.2,
            score_p99: 1.0,
            entropy_mean: 0.2,
            class_psi_limit: f32::INFINITY,
            score_shift_limit: f32::INFINITY,
        },
        drift_window: 200,
    }
}

pub fn policy(shadow_inferences: u32, max_p99_us: u32) -> Policy {
    let rule = Rule {
        severity: Severity::Medium,
        action: Action::Flag,
    };
    Policy {
        rules: [rule; ViolationKind::COUNT],
        z_limit: 10.0,
        trial: TrialPolicy {
            min_inferences: 150,
            min_windows: 2,
            max_boots: 2,
            max_error_per_mille: 50,
            max_p99_us,
            shadow_inferences,
            min_agreement_per_mille: 900,
        },
        guard: GuardPolicy {
            z_limit: 10.0,
            max_error_per_mille: 50,
            max_p99_us: 0,
            min_accuracy_per_mille: 0,
            max_fallbacks: 5,
        },
    }
}

/// The vectors are the engine's own, for these are tests of the agent and not of the engine; a
/// scale other than 1 makes them wrong.
pub fn golden(scale: f32) -> Vec<u8> {
    golden_of(MODEL, scale)
}

fn golden_of(model: &[u8], scale: f32) -> Vec<u8> {
    let mut engine = TractEngine::load(model, &ModelSpec::default()).unwrap();
    let input: Vec<f32> = (0..engine.input_len()).map(|i| (i as f32).sin()).collect();
    let mut output = vec![0.0; engine.output_len()];
    engine.run(&input, &mut output).unwrap();
    output.iter_mut().for_each(|x| *x *= scale);
    encode_golden(0.01, &[(input, output)]).unwrap()
}

/// A release that passes its self-test, and whose inferences take seconds.
pub fn slow_bundle(counter: u32, policy: &Policy) -> Vec<u8> {
    bundle_of(SLOW, counter, policy, golden_of(SLOW, 1.0))
}

pub fn bundle(counter: u32, policy: &Policy, golden: Vec<u8>) -> Vec<u8> {
    bundle_of(MODEL, counter, policy, golden)
}

fn bundle_of(model: &[u8], counter: u32, policy: &Policy, golden: Vec<u8>) -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "motion".into(),
        version: format!("{counter}.0.0"),
        counter,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .unwrap();
    writer.section(SectionKind::TractModel, model).unwrap();
    let profile = encode_profile(&profile()).unwrap();
    writer.section(SectionKind::Profile, profile).unwrap();
    let policy = encode_policy(policy).unwrap();
    writer.section(SectionKind::Policy, policy).unwrap();
    writer.section(SectionKind::Golden, golden).unwrap();
    let mut bundle = writer.finish().unwrap();
    edgeward::bundle::write::sign(&mut bundle, &key(2)).unwrap();
    bundle
}
