use super::*;
use crate::contract::ViolationKind;
use crate::policy::{Action, GuardPolicy, Rule, Severity, TrialPolicy};
use crate::profile::Name;

type Small = Profile<3, 2>;

fn profile() -> Small {
    crate::testing::profile(16, 8)
}

fn policy() -> Policy {
    let rule = Rule {
        severity: Severity::Low,
        action: Action::Count,
    };
    Policy {
        rules: [rule; ViolationKind::COUNT],
        z_limit: 3.0,
        trial: TrialPolicy {
            min_inferences: 100,
            min_windows: 2,
            max_boots: 2,
            max_error_per_mille: 50,
            max_p99_us: 0,
            shadow_inferences: 0,
            min_agreement_per_mille: 0,
        },
        guard: GuardPolicy {
            z_limit: 3.0,
            max_error_per_mille: 50,
            max_p99_us: 0,
            min_accuracy_per_mille: 0,
            max_fallbacks: 5,
        },
    }
}

#[test]
fn what_is_written_is_read() {
    let bytes = encode_profile(&profile()).unwrap();
    assert_eq!(decode_profile(&bytes), Ok(profile()));
    // Capacities are not part of the format, as long as they suffice.
    assert_eq!(decode_profile::<128, 32>(&bytes).unwrap().features.len(), 3);
    assert!(decode_profile::<2, 2>(&bytes).is_err());
    assert!(decode_profile::<3, 1>(&bytes).is_err());
    let mut values = profile();
    values.output.kind = OutputKind::Values;
    assert_eq!(check_profile(&values), Ok(()));
    values.output.class_counts.clear();
    assert_eq!(check_profile(&values), Ok(()));
    let bytes = encode_policy(&policy()).unwrap();
    assert_eq!(decode_policy(&bytes), Ok(policy()));
}

#[test]
fn truncated_and_trailing_bytes_are_named() {
    let bytes = encode_profile(&profile()).unwrap();
    for len in 0..bytes.len() {
        let error = decode_profile::<3, 2>(&bytes[..len]).unwrap_err();
        assert_eq!(error.kind, Kind::Truncated, "{len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    let error = decode_profile::<3, 2>(&longer).unwrap_err();
    assert_eq!(
        error,
        BundleError::at(Field::Profile, bytes.len(), Kind::Trailing)
    );
    let bytes = encode_policy(&policy()).unwrap();
    for len in 0..bytes.len() {
        assert!(decode_policy(&bytes[..len]).is_err(), "{len}");
    }
    // The first rule's severity is a variant that there is not.
    let mut unknown = bytes;
    unknown[0] = 9;
    let error = decode_policy(&unknown).unwrap_err();
    assert_eq!(
        (error.field, error.kind),
        (Field::Policy, Kind::Undecodable)
    );
}

#[test]
fn values_that_cannot_be_meant_are_named() {
    let says = |edit: fn(&mut Small)| {
        let mut profile = profile();
        edit(&mut profile);
        let error = check_profile(&profile).unwrap_err();
        // What the decoder refuses, the encoder does not write.
        assert_eq!(encode_profile(&profile), Err(error));
        let bytes = postcard::to_extend(&profile, Vec::new()).unwrap();
        assert_eq!(decode_profile::<3, 2>(&bytes), Err(error));
        error.to_string()
    };
    type Case = (fn(&mut Small), &'static str);
    let cases: [Case; 34] = [
        (
            |p| p.schema.window = 0,
            "profile.schema.window: out of range",
        ),
        (|p| p.schema.hop = 0, "profile.schema.hop: out of range"),
        (|p| p.schema.hop = 17, "profile.schema.hop: out of range"),
        (|p| p.features.clear(), "profile.features: empty"),
        (
            |p| p.features[2].name = Name::try_from("f0").unwrap(),
            "profile.features[2].name: there is one like it already",
        ),
        (
            |p| p.features[1].name.clear(),
            "profile.features[1].name: text that is empty, too long, not UTF-8 or has control characters",
        ),
        (
            |p| p.features[1].min = f32::NEG_INFINITY,
            "profile.features[1].min: not a finite number",
        ),
        (
            |p| p.features[1].max = f32::NAN,
            "profile.features[1].max: not a finite number",
        ),
        (
            |p| p.features[1].max = -11.0,
            "profile.features[1].max: out of range",
        ),
        (
            |p| p.features[1].mean = f32::NAN,
            "profile.features[1].mean: not a finite number",
        ),
        (
            |p| p.features[1].sd = 0.0,
            "profile.features[1].sd: out of range",
        ),
        (
            |p| p.features[1].sd = -1.0,
            "profile.features[1].sd: out of range",
        ),
        (
            |p| p.features[1].sd = f32::NAN,
            "profile.features[1].sd: not a finite number",
        ),
        (
            |p| p.features[1].max_rate = f32::NAN,
            "profile.features[1].max_rate: out of range",
        ),
        (
            |p| p.features[1].stuck_run = 1,
            "profile.features[1].stuck_run: out of range",
        ),
        (
            |p| p.features[1].edges[3] = f32::NAN,
            "profile.features[1].edges: not a finite number",
        ),
        (
            |p| p.features[1].edges[3] = 5.0,
            "profile.features[1].edges: overlaps or precedes the one before it",
        ),
        (
            |p| p.features[1].reference = [u32::MAX; 16],
            "profile.features[1].reference: out of range",
        ),
        (
            |p| p.features[1].reference = [0; 16],
            "profile.features[1].reference: empty",
        ),
        (
            |p| p.features[1].limits.js = f32::NAN,
            "profile.features[1].limits: out of range",
        ),
        (|p| p.drift_window = 0, "profile.drift_window: out of range"),
        (
            |p| p.drift_window = 65_536,
            "profile.drift_window: out of range",
        ),
        (|p| p.output.names.clear(), "profile.output.names: empty"),
        (
            |p| p.output.names[1] = Name::try_from("class0").unwrap(),
            "profile.output.names[1]: there is one like it already",
        ),
        (
            |p| p.output.temperature = 0.0,
            "profile.output.temperature: out of range",
        ),
        (
            |p| p.output.class_counts.clear(),
            "profile.output.class_counts: 0, where 2 follows from the rest",
        ),
        (
            |p| p.output.class_counts[0] = u32::MAX,
            "profile.output.class_counts: out of range",
        ),
        (
            |p| p.output.class_counts.fill(0),
            "profile.output.class_counts: empty",
        ),
        (
            |p| p.output.score_mean = f32::NAN,
            "profile.output.score_mean: not a finite number",
        ),
        (
            |p| p.output.score_sd = 0.0,
            "profile.output.score_sd: out of range",
        ),
        (
            |p| p.output.score_p99 = 0.1,
            "profile.output.score_p99: out of range",
        ),
        (
            |p| p.output.entropy_mean = -0.1,
            "profile.output.entropy_mean: out of range",
        ),
        (
            |p| p.output.class_psi_limit = f32::NAN,
            "profile.output.class_psi_limit: out of range",
        ),
        (
            |p| p.output.score_shift_limit = -1.0,
            "profile.output.score_shift_limit: out of range",
        ),
    ];
    for (edit, expected) in cases {
        assert_eq!(says(edit), expected);
    }
}

#[test]
fn policies_that_cannot_be_meant_are_named() {
    type Case = (fn(&mut Policy), &'static str);
    let cases: [Case; 8] = [
        (|p| p.z_limit = f32::NAN, "policy.z_limit: out of range"),
        (
            |p| p.trial.min_inferences = 0,
            "policy.trial.min_inferences: out of range",
        ),
        (
            |p| p.trial.max_boots = 0,
            "policy.trial.max_boots: out of range",
        ),
        (
            |p| p.trial.max_error_per_mille = 1001,
            "policy.trial.max_error_per_mille: out of range",
        ),
        (
            |p| p.trial.min_agreement_per_mille = 1001,
            "policy.trial.min_agreement_per_mille: out of range",
        ),
        (
            |p| p.guard.z_limit = 0.0,
            "policy.guard.z_limit: out of range",
        ),
        (
            |p| p.guard.max_error_per_mille = 1001,
            "policy.guard.max_error_per_mille: out of range",
        ),
        (
            |p| p.guard.min_accuracy_per_mille = 1001,
            "policy.guard.min_accuracy_per_mille: out of range",
        ),
    ];
    for (edit, expected) in cases {
        let mut policy = policy();
        edit(&mut policy);
        let error = encode_policy(&policy).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = decode_profile::<4, 4>(&bytes);
        let _ = decode_policy(&bytes);
    }

    #[test]
    fn damaged_sections_never_panic(at: usize, flip in 1..=255_u8) {
        let mut bytes = encode_profile(&profile()).unwrap();
        let index = at % bytes.len();
        bytes[index] ^= flip;
        let _ = decode_profile::<3, 2>(&bytes);
    }
}
