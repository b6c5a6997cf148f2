//! What a source announces against the profile, before its first sample.

use super::ViolationKind;
use crate::profile::{DType, Profile};
use heapless::Vec;

/// What a source says of itself.
#[derive(Debug, Clone, Copy)]
pub struct SourceInfo<'a> {
    /// Version of the schema it follows.
    pub schema_version: u16,
    /// Element type of its values.
    pub dtype: DType,
    /// Version of its feature pipeline; 0 when it says nothing of it.
    pub feature_version: u32,
    /// Names of its features, in the order in which it delivers them.
    pub features: &'a [&'a str],
}

/// One way in which a source does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceViolation<'a> {
    /// Which way.
    pub kind: ViolationKind,
    /// Index of the feature: in the source for [`ViolationKind::UnknownFeature`], in the profile
    /// for [`ViolationKind::AbsentFeature`].
    pub feature: Option<u16>,
    /// Its name.
    pub name: Option<&'a str>,
}

/// Everything in which `source` does not fit `profile`.
///
/// Versions of the feature pipeline are compared only where both sides have one (0 is none). A name
/// that the source has twice counts as unknown the second time. The order of the features does not
/// matter: see [`column_map`].
pub fn check_source<'a, const F: usize, const C: usize>(
    profile: &'a Profile<F, C>,
    source: &SourceInfo<'a>,
) -> impl Iterator<Item = SourceViolation<'a>> {
    let schema = &profile.schema;
    let whole = [
        (
            schema.version != source.schema_version,
            ViolationKind::SchemaVersion,
        ),
        (schema.dtype != source.dtype, ViolationKind::DType),
        (
            schema.feature_version != 0
                && source.feature_version != 0
                && schema.feature_version != source.feature_version,
            ViolationKind::FeatureVersion,
        ),
    ];
    let offered = source.features;
    let unknown = offered.iter().enumerate().filter(move |&(index, name)| {
        let known = profile
            .features
            .iter()
            .any(|feature| feature.name.as_str() == *name);
        !known || offered.iter().take(index).any(|before| before == name)
    });
    let absent = profile
        .features
        .iter()
        .enumerate()
        .filter(move |(_, feature)| !offered.contains(&feature.name.as_str()));
    whole
        .into_iter()
        .filter_map(|(broken, kind)| {
            broken.then_some(SourceViolation {
                kind,
                feature: None,
                name: None,
            })
        })
        .chain(unknown.map(|(index, &name)| SourceViolation {
            kind: ViolationKind::UnknownFeature,
            feature: u16::try_from(index).ok(),
            name: Some(name),
        }))
        .chain(absent.map(|(index, feature)| SourceViolation {
            kind: ViolationKind::AbsentFeature,
            feature: u16::try_from(index).ok(),
            name: Some(feature.name.as_str()),
        }))
}

/// For each feature of the profile, the position in which the source delivers it; `None` when one
/// is absent. Names are compared, so that a source that swaps its columns does no harm.
#[must_use]
pub fn column_map<const F: usize, const C: usize>(
    profile: &Profile<F, C>,
    source: &SourceInfo<'_>,
) -> Option<Vec<u16, F>> {
    let mut map = Vec::new();
    for feature in &profile.features {
        let at = source
            .features
            .iter()
            .position(|name| *name == feature.name.as_str())?;
        map.push(u16::try_from(at).ok()?).ok()?;
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::profile;

    const GOOD: SourceInfo<'_> = SourceInfo {
        schema_version: 1,
        dtype: DType::F32,
        feature_version: 0,
        features: &["f0", "f1", "f2"],
    };

    fn found(
        source: SourceInfo<'_>,
    ) -> std::vec::Vec<(ViolationKind, Option<u16>, Option<String>)> {
        let mut profile = profile::<3, 2>(1, 1);
        profile.schema.feature_version = 7;
        check_source(&profile, &source)
            .map(|v| (v.kind, v.feature, v.name.map(String::from)))
            .collect()
    }

    #[test]
    fn a_source_that_fits_has_nothing_against_it() {
        assert_eq!(found(GOOD), []);
        assert_eq!(
            found(SourceInfo {
                feature_version: 7,
                ..GOOD
            }),
            []
        );
        assert_eq!(
            found(SourceInfo {
                features: &["f2", "f0", "f1"],
                ..GOOD
            }),
            []
        );
    }

    #[test]
    fn each_misfit_is_named() {
        use ViolationKind as Kind;
        let whole = |kind| vec![(kind, None, None)];
        assert_eq!(
            found(SourceInfo {
                schema_version: 2,
                ..GOOD
            }),
            whole(Kind::SchemaVersion)
        );
        assert_eq!(
            found(SourceInfo {
                dtype: DType::I8,
                ..GOOD
            }),
            whole(Kind::DType)
        );
        assert_eq!(
            found(SourceInfo {
                feature_version: 8,
                ..GOOD
            }),
            whole(Kind::FeatureVersion)
        );
        assert_eq!(
            found(SourceInfo {
                features: &["f0", "gyro", "f2"],
                ..GOOD
            }),
            [
                (Kind::UnknownFeature, Some(1), Some("gyro".into())),
                (Kind::AbsentFeature, Some(1), Some("f1".into())),
            ]
        );
        assert_eq!(
            found(SourceInfo {
                features: &["f0", "f1", "f2", "f0"],
                ..GOOD
            }),
            [(Kind::UnknownFeature, Some(3), Some("f0".into()))]
        );
    }

    #[test]
    fn columns_are_found_by_name() {
        let profile = profile::<3, 2>(1, 1);
        let swapped = SourceInfo {
            features: &["f2", "extra", "f0", "f1"],
            ..GOOD
        };
        assert_eq!(
            column_map(&profile, &swapped).as_deref(),
            Some(&[2, 3, 0][..])
        );
        let absent = SourceInfo {
            features: &["f0", "f1"],
            ..GOOD
        };
        assert_eq!(column_map(&profile, &absent), None);
    }
}
