//! Does everything fit together?

use crate::engine::Engine;
use crate::profile::{FeatureProfile, OutputKind, Profile};

/// Longest drift window, in samples: the counts of a window have 16 bits.
const MAX_DRIFT_WINDOW: u32 = 65_535;

/// Part of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProfileField {
    /// `schema.window`: at least 1.
    Window,
    /// `schema.hop`: 1 to the window.
    Hop,
    /// `drift_window`: 1 to 65,535.
    DriftWindow,
    /// `features`: at least one.
    Features,
    /// `min` and `max`: numbers in order.
    Range,
    /// `mean`: finite.
    Mean,
    /// `sd`: finite and positive.
    Sd,
    /// `max_rate`: not negative, not NaN.
    MaxRate,
    /// `edges`: finite and ascending.
    Edges,
    /// `reference`: not all zero.
    Reference,
    /// `limits`, `class_psi_limit` or `score_shift_limit`: not NaN.
    Limits,
    /// `names`: at least one, and as many as outputs.
    Names,
    /// `temperature`: finite and positive.
    Temperature,
    /// `class_counts`: as many as names, and not all zero, for a model with classes.
    ClassCounts,
    /// The score's mean and percentiles: finite; its standard deviation: also positive.
    Score,
}

/// Why a runtime can't be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The profile contradicts itself.
    Profile {
        /// Which part.
        field: ProfileField,
        /// Of which feature, if of one.
        feature: Option<u16>,
    },
    /// The engine takes another number of elements than window times features.
    InputLength {
        /// What the profile says.
        profile: u32,
        /// What the engine says.
        engine: u32,
    },
    /// The engine makes another number of elements than the profile has names.
    OutputLength {
        /// What the profile says.
        profile: u32,
        /// What the engine says.
        engine: u32,
    },
    /// The memory for the tensor is too short.
    Tensor {
        /// Elements needed.
        needed: u32,
        /// Elements given.
        given: u32,
    },
}

/// Checks that a profile does not contradict itself.
///
/// # Errors
/// [`ConfigError::Profile`] with the first part that does.
pub fn validate<const F: usize, const C: usize>(
    profile: &Profile<F, C>,
) -> Result<(), ConfigError> {
    use ProfileField as Field;
    let schema = &profile.schema;
    let output = &profile.output;
    let classes = output.kind != OutputKind::Values;
    let counted = output.class_counts.len() == output.names.len()
        && output.class_counts.iter().any(|&count| count > 0);
    let scores = [output.score_mean, output.score_p01, output.score_p99];
    let whole = [
        (Field::Window, schema.window > 0),
        (Field::Hop, schema.hop > 0 && schema.hop <= schema.window),
        (
            Field::DriftWindow,
            (1..=MAX_DRIFT_WINDOW).contains(&profile.drift_window),
        ),
        (Field::Features, !profile.features.is_empty()),
        (Field::Names, !output.names.is_empty()),
        (Field::Temperature, positive(output.temperature)),
        (Field::ClassCounts, !classes || counted),
        (
            Field::Score,
            scores.iter().all(|x| x.is_finite()) && positive(output.score_sd),
        ),
        (
            Field::Limits,
            !output.class_psi_limit.is_nan() && !output.score_shift_limit.is_nan(),
        ),
    ];
    for (field, good) in whole {
        if !good {
            return Err(ConfigError::Profile {
                field,
                feature: None,
            });
        }
    }
    for (index, feature) in profile.features.iter().enumerate() {
        if let Some(field) = wrong_with(feature) {
            return Err(ConfigError::Profile {
                field,
                feature: u16::try_from(index).ok(),
            });
        }
    }
    Ok(())
}

/// Checks the profile, the engine and the memory against each other.
pub(super) fn validate_runtime<const F: usize, const C: usize>(
    profile: &Profile<F, C>,
    engine: &impl Engine,
    tensor_len: usize,
) -> Result<(), ConfigError> {
    validate(profile)?;
    let needed = usize::from(profile.schema.window) * profile.features.len();
    if engine.input_len() != needed {
        return Err(ConfigError::InputLength {
            profile: short(needed),
            engine: short(engine.input_len()),
        });
    }
    if engine.output_len() != profile.output.names.len() {
        return Err(ConfigError::OutputLength {
            profile: short(profile.output.names.len()),
            engine: short(engine.output_len()),
        });
    }
    if tensor_len < needed {
        return Err(ConfigError::Tensor {
            needed: short(needed),
            given: short(tensor_len),
        });
    }
    Ok(())
}

/// The first part of a feature's profile that makes no sense.
fn wrong_with(feature: &FeatureProfile) -> Option<ProfileField> {
    let limits = [
        feature.limits.psi,
        feature.limits.ks,
        feature.limits.js,
        feature.limits.wasserstein,
    ];
    let edges = &feature.edges;
    let checks = [
        // Comparisons with NaN are false, which is what is wanted here.
        (ProfileField::Range, feature.min <= feature.max),
        (ProfileField::Mean, feature.mean.is_finite()),
        (ProfileField::Sd, positive(feature.sd)),
        (ProfileField::MaxRate, feature.max_rate >= 0.0),
        (
            ProfileField::Edges,
            edges.iter().all(|x| x.is_finite()) && edges.is_sorted(),
        ),
        (
            ProfileField::Reference,
            feature.reference.iter().any(|&count| count > 0),
        ),
        (ProfileField::Limits, !limits.iter().any(|x| x.is_nan())),
    ];
    checks
        .into_iter()
        .find_map(|(field, good)| (!good).then_some(field))
}

fn positive(x: f32) -> bool {
    x.is_finite() && x > 0.0
}

/// A length for an error message.
fn short(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::runtime::Runtime;
    use crate::testing::{SumEngine, profile};

    /// What a runtime of four samples, two features and three classes says to a change.
    fn refusal(
        change: fn(&mut Profile<2, 3>),
        inputs: usize,
        outputs: usize,
        memory: usize,
    ) -> Option<ConfigError> {
        let mut profile = profile::<2, 3>(4, 2);
        change(&mut profile);
        let engine = SumEngine { inputs, outputs };
        Runtime::new(
            engine,
            [0; 8],
            profile,
            Policy::standard(),
            vec![0.0; memory],
        )
        .err()
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert_eq!(refusal(|_| {}, 8, 3, 8), None);
        let (profile, engine) = (8, 7);
        let input = ConfigError::InputLength { profile, engine };
        assert_eq!(refusal(|_| {}, 7, 3, 8), Some(input));
        let (profile, engine) = (3, 4);
        let output = ConfigError::OutputLength { profile, engine };
        assert_eq!(refusal(|_| {}, 8, 4, 8), Some(output));
        let (needed, given) = (8, 7);
        assert_eq!(
            refusal(|_| {}, 8, 3, 7),
            Some(ConfigError::Tensor { needed, given })
        );
    }

    #[test]
    fn each_part_of_a_profile_is_checked_and_named() {
        use ProfileField as Field;
        type Change = fn(&mut Profile<2, 3>);
        let whole: [(Field, Change); 11] = [
            (Field::Window, |p| p.schema.window = 0),
            (Field::Hop, |p| p.schema.hop = 5),
            (Field::Hop, |p| p.schema.hop = 0),
            (Field::DriftWindow, |p| p.drift_window = 0),
            (Field::DriftWindow, |p| p.drift_window = 65_536),
            (Field::Features, |p| p.features.clear()),
            (Field::Names, |p| p.output.names.clear()),
            (Field::Temperature, |p| p.output.temperature = 0.0),
            (Field::ClassCounts, |p| p.output.class_counts.truncate(2)),
            (Field::Score, |p| p.output.score_sd = f32::NAN),
            (Field::Limits, |p| p.output.class_psi_limit = f32::NAN),
        ];
        let one: [(Field, Change); 8] = [
            (Field::Range, |p| p.features[1].min = f32::NAN),
            (Field::Mean, |p| p.features[1].mean = f32::INFINITY),
            (Field::Sd, |p| p.features[1].sd = 0.0),
            (Field::MaxRate, |p| p.features[1].max_rate = -1.0),
            (Field::Edges, |p| p.features[1].edges[3] = 9.0),
            (Field::Edges, |p| p.features[1].edges[14] = f32::INFINITY),
            (Field::Reference, |p| p.features[1].reference = [0; 16]),
            (Field::Limits, |p| p.features[1].limits.js = f32::NAN),
        ];
        let whole = whole.map(|(field, change)| (field, None, change));
        let one = one.map(|(field, change)| (field, Some(1), change));
        for (field, feature, change) in whole.into_iter().chain(one) {
            let refused = refusal(change, 8, 3, 8);
            assert_eq!(refused, Some(ConfigError::Profile { field, feature }));
        }
    }
}
