//! Typed sections: decoding profile and policy, and refusing values that can't be meant.

use super::error::{BundleError, BundleErrorKind as Kind, Field};
use crate::place::{Blank, Decoder, Fill};
use crate::policy::Policy;
use crate::profile::{FeatureProfile, OutputKind, OutputProfile, Profile};

/// Longest drift window, in samples: the counts of a window have 16 bits.
const MAX_DRIFT_WINDOW: u32 = 65_535;

/// Decodes and checks the profile section for at most `F` features and `C` outputs.
///
/// # Errors
/// Names the first field that is wrong: undecodable bytes by their offset, values by their index.
pub fn decode_profile<const F: usize, const C: usize>(
    bytes: &[u8],
) -> Result<Profile<F, C>, BundleError> {
    let mut profile = Profile::empty();
    decode_profile_into(&mut profile, bytes)?;
    Ok(profile)
}

/// As [`decode_profile`], to where the profile is to be. After an error it is not to be used.
///
/// # Errors
/// Those of [`decode_profile`].
pub fn decode_profile_into<const F: usize, const C: usize>(
    profile: &mut Profile<F, C>,
    bytes: &[u8],
) -> Result<(), BundleError> {
    decode(profile, bytes, Field::Profile)?;
    check_profile(profile)
}

/// Decodes and checks the policy section.
///
/// # Errors
/// Names the first field that is wrong.
pub fn decode_policy(bytes: &[u8]) -> Result<Policy, BundleError> {
    let mut policy = Policy::blank();
    decode(&mut policy, bytes, Field::Policy)?;
    check_policy(&policy)?;
    Ok(policy)
}

/// Checks and encodes a profile.
///
/// # Errors
/// Names the first field that [`decode_profile`] would refuse.
#[cfg(any(test, feature = "std"))]
pub fn encode_profile<const F: usize, const C: usize>(
    profile: &Profile<F, C>,
) -> Result<Vec<u8>, BundleError> {
    check_profile(profile)?;
    encode(profile, Field::Profile)
}

/// Checks and encodes a policy.
///
/// # Errors
/// Names the first field that [`decode_policy`] would refuse.
#[cfg(any(test, feature = "std"))]
pub fn encode_policy(policy: &Policy) -> Result<Vec<u8>, BundleError> {
    check_policy(policy)?;
    encode(policy, Field::Policy)
}

#[cfg(any(test, feature = "std"))]
fn encode<T: serde::Serialize>(value: &T, field: Field) -> Result<Vec<u8>, BundleError> {
    postcard::to_extend(value, Vec::new()).map_err(|_| BundleError::value(field, Kind::Undecodable))
}

/// Decodes all of `bytes`.
fn decode(place: &mut dyn Fill, bytes: &[u8], field: Field) -> Result<(), BundleError> {
    let mut decoder = Decoder::new(bytes);
    place.fill_from(&mut decoder);
    let (decoded, rest) = decoder.finish();
    let at = bytes.len() - rest.len();
    decoded.map_err(|error| {
        let kind = match error {
            postcard::Error::DeserializeUnexpectedEnd => Kind::Truncated,
            _ => Kind::Undecodable,
        };
        BundleError::at(field, at, kind)
    })?;
    if !rest.is_empty() {
        return Err(BundleError::at(field, at, Kind::Trailing));
    }
    Ok(())
}

fn check(holds: bool, field: Field, kind: Kind) -> Result<(), BundleError> {
    if holds {
        Ok(())
    } else {
        Err(BundleError::value(field, kind))
    }
}

fn finite(value: f32, field: Field) -> Result<(), BundleError> {
    check(value.is_finite(), field, Kind::NotFinite)
}

/// Finite and above zero.
fn positive(value: f32, field: Field) -> Result<(), BundleError> {
    finite(value, field)?;
    check(value > 0.0, field, Kind::OutOfRange)
}

/// Not NaN and at least zero; infinity switches a limit off.
fn limit(value: f32, field: Field) -> Result<(), BundleError> {
    check(value >= 0.0, field, Kind::OutOfRange)
}

/// Checks that a profile does not contradict itself. The one list of what its values may be: the
/// decoder, the encoder and the runtime ask here.
///
/// # Errors
/// Names the first field that does; it has no offset.
pub fn check_profile<const F: usize, const C: usize>(
    profile: &Profile<F, C>,
) -> Result<(), BundleError> {
    let schema = &profile.schema;
    check(schema.window > 0, Field::SchemaWindow, Kind::OutOfRange)?;
    let hop = 1..=schema.window;
    check(
        hop.contains(&schema.hop),
        Field::SchemaHop,
        Kind::OutOfRange,
    )?;
    check(!profile.features.is_empty(), Field::Features, Kind::Empty)?;
    for (index, feature) in profile.features.iter().enumerate() {
        check_feature(feature).map_err(|error| error.index(index))?;
        let mut before = profile.features.iter().take(index);
        if before.any(|other| other.name == feature.name) {
            let error = BundleError::value(Field::FeatureName, Kind::Duplicate);
            return Err(error.index(index));
        }
    }
    check(
        (1..=MAX_DRIFT_WINDOW).contains(&profile.drift_window),
        Field::DriftWindow,
        Kind::OutOfRange,
    )?;
    check_output(&profile.output)
}

fn check_feature(feature: &FeatureProfile) -> Result<(), BundleError> {
    check_name(&feature.name, Field::FeatureName)?;
    finite(feature.min, Field::FeatureMin)?;
    finite(feature.max, Field::FeatureMax)?;
    check(
        feature.min <= feature.max,
        Field::FeatureMax,
        Kind::OutOfRange,
    )?;
    finite(feature.mean, Field::FeatureMean)?;
    positive(feature.sd, Field::FeatureSd)?;
    limit(feature.max_rate, Field::FeatureMaxRate)?;
    // A run of one is every sample.
    check(
        feature.stuck_run != 1,
        Field::FeatureStuckRun,
        Kind::OutOfRange,
    )?;
    for edge in feature.edges {
        finite(edge, Field::FeatureEdges)?;
    }
    // Equal edges are empty bins, as a feature with few values has them.
    check(
        feature.edges.is_sorted(),
        Field::FeatureEdges,
        Kind::Overlap,
    )?;
    // The counts are summed in 32 bits.
    let sum = feature
        .reference
        .iter()
        .try_fold(0_u32, |sum, count| sum.checked_add(*count));
    check(sum.is_some(), Field::FeatureReference, Kind::OutOfRange)?;
    check(sum != Some(0), Field::FeatureReference, Kind::Empty)?;
    let limits = &feature.limits;
    for value in [limits.psi, limits.ks, limits.js, limits.wasserstein] {
        limit(value, Field::FeatureLimits)?;
    }
    Ok(())
}

fn check_output<const C: usize>(output: &OutputProfile<C>) -> Result<(), BundleError> {
    check(!output.names.is_empty(), Field::OutputNames, Kind::Empty)?;
    for (index, name) in output.names.iter().enumerate() {
        check_name(name, Field::OutputName).map_err(|error| error.index(index))?;
        if output.names.iter().take(index).any(|other| other == name) {
            let error = BundleError::value(Field::OutputName, Kind::Duplicate);
            return Err(error.index(index));
        }
    }
    positive(output.temperature, Field::OutputTemperature)?;
    // One count a class; values have no classes, and may leave the counts out.
    let counts = output.class_counts.len();
    let expected = output.names.len();
    let kind = Kind::Inconsistent {
        expected: expected as u32,
        found: counts as u32,
    };
    let left_out = output.kind == OutputKind::Values && counts == 0;
    let holds = counts == expected || left_out;
    check(holds, Field::OutputClassCounts, kind)?;
    let sum = output
        .class_counts
        .iter()
        .try_fold(0_u32, |sum, count| sum.checked_add(*count));
    check(sum.is_some(), Field::OutputClassCounts, Kind::OutOfRange)?;
    let judged = output.kind == OutputKind::Values || sum != Some(0);
    check(judged, Field::OutputClassCounts, Kind::Empty)?;
    finite(output.score_mean, Field::OutputScoreMean)?;
    positive(output.score_sd, Field::OutputScoreSd)?;
    finite(output.score_p01, Field::OutputScoreP01)?;
    finite(output.score_p99, Field::OutputScoreP99)?;
    let ordered = output.score_p01 <= output.score_p99;
    check(ordered, Field::OutputScoreP99, Kind::OutOfRange)?;
    finite(output.entropy_mean, Field::OutputEntropyMean)?;
    limit(output.entropy_mean, Field::OutputEntropyMean)?;
    limit(output.class_psi_limit, Field::OutputClassPsiLimit)?;
    limit(output.score_shift_limit, Field::OutputScoreShiftLimit)
}

fn check_name(name: &str, field: Field) -> Result<(), BundleError> {
    let plain = !name.is_empty() && !name.chars().any(char::is_control);
    check(plain, field, Kind::BadText)
}

fn check_policy(policy: &Policy) -> Result<(), BundleError> {
    let per_mille = |value: u16, field| check(value <= 1000, field, Kind::OutOfRange);
    check(policy.z_limit > 0.0, Field::PolicyZLimit, Kind::OutOfRange)?;
    let trial = &policy.trial;
    // A trial that needs nothing to be confirmed, or that no boot may end, is none.
    let inferences = trial.min_inferences > 0;
    check(inferences, Field::TrialInferences, Kind::OutOfRange)?;
    check(trial.max_boots > 0, Field::TrialBoots, Kind::OutOfRange)?;
    per_mille(trial.max_error_per_mille, Field::TrialErrorRate)?;
    per_mille(trial.min_agreement_per_mille, Field::TrialAgreement)?;
    let guard = &policy.guard;
    check(guard.z_limit > 0.0, Field::GuardZLimit, Kind::OutOfRange)?;
    per_mille(guard.max_error_per_mille, Field::GuardErrorRate)?;
    per_mille(guard.min_accuracy_per_mille, Field::GuardAccuracy)
}

#[cfg(test)]
mod tests;
