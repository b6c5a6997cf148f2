//! From a source's columns to a profile's features.

use super::BoardRuntime;
use crate::MAX_FEATURES as F;
use crate::lines::Header;
use edgeward::contract::{MISSING, SourceInfo};
use edgeward::engine::Engine;

/// Where each feature of a runtime is in the source's lines; nothing where it is not.
pub(super) type Columns = [Option<u16>; F];

/// The source's announcement as the core takes it.
pub(super) fn info<'a>(header: &'a Header<'a, F>) -> SourceInfo<'a> {
    SourceInfo {
        schema_version: header.schema,
        dtype: header.dtype,
        feature_version: header.feature_version,
        features: &header.features,
    }
}

/// Where the source has each feature of a runtime.
pub(super) fn columns<E: Engine>(runtime: &BoardRuntime<E>, header: &Header<'_, F>) -> Columns {
    let mut columns = [None; F];
    for (column, feature) in columns.iter_mut().zip(&runtime.profile().features) {
        let at = header
            .features
            .iter()
            .position(|name| *name == feature.name.as_str());
        *column = at.and_then(|at| u16::try_from(at).ok());
    }
    columns
}

/// Brings the values of a line into the order of a profile; what is not there is missing.
pub(super) fn order(given: &[f32], columns: &Columns, features: usize, out: &mut [f32; F]) {
    for (value, column) in out.iter_mut().zip(columns).take(features) {
        *value = column
            .and_then(|at| given.get(usize::from(at)))
            .copied()
            .unwrap_or(MISSING);
    }
}
