//! Does everything fit together?

use crate::bundle::BundleError;
use crate::bundle::decode::check_profile;
use crate::engine::Engine;
use crate::profile::Profile;

/// Why a runtime can't be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The profile contradicts itself: what a bundle with it would be refused for.
    Profile(BundleError),
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

/// Checks the profile, the engine and the memory against each other.
pub(super) fn validate_runtime<const F: usize, const C: usize>(
    profile: &Profile<F, C>,
    engine: &impl Engine,
    tensor_len: usize,
) -> Result<(), ConfigError> {
    check_profile(profile).map_err(ConfigError::Profile)?;
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
    fn a_profile_that_contradicts_itself_is_refused_as_its_bundle_would_be() {
        let changes: [fn(&mut Profile<2, 3>); 4] = [
            |p| p.schema.hop = 5,
            |p| p.drift_window = 65_536,
            |p| p.features[1].stuck_run = 1,
            |p| p.output.names[1] = p.output.names[0].clone(),
        ];
        for change in changes {
            let mut changed = profile::<2, 3>(4, 2);
            change(&mut changed);
            let error = check_profile(&changed).unwrap_err();
            assert_eq!(refusal(change, 8, 3, 8), Some(ConfigError::Profile(error)));
        }
    }
}
