//! From a source's columns to a profile's features.

use edgeward::contract::MISSING;
use edgeward::profile::Profile;

/// Where each feature of a profile is in the source's samples; nothing where it is not.
pub type Columns<const F: usize> = [Option<u16>; F];

/// Where a source that delivers `offered` has each feature of a profile.
#[must_use]
pub fn columns<const F: usize, const C: usize>(
    profile: &Profile<F, C>,
    offered: &[&str],
) -> Columns<F> {
    let mut columns = [None; F];
    for (column, feature) in columns.iter_mut().zip(&profile.features) {
        let at = offered
            .iter()
            .position(|name| *name == feature.name.as_str());
        *column = at.and_then(|at| u16::try_from(at).ok());
    }
    columns
}

/// Brings the values of a sample into the order of a profile; what is not there is missing.
pub fn order<const F: usize>(
    given: &[f32],
    columns: &Columns<F>,
    features: usize,
    out: &mut [f32; F],
) {
    for (value, column) in out.iter_mut().zip(columns).take(features) {
        *value = column
            .and_then(|at| given.get(usize::from(at)))
            .copied()
            .unwrap_or(MISSING);
    }
}
