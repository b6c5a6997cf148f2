//! The input contract: is this sample what the model was trained on?
//!
//! A [`Contract`] judges one sample after the other by the profile and the policy and fills in what
//! is missing; [`check_source`] judges what a source announces before its first sample.

mod check;
mod memory;
mod source;

pub use check::{Contract, Outcome, SampleCheck, StreamState, Violation};
pub use memory::FeatureState;
pub(crate) use memory::state_bytes;
pub use source::{SourceInfo, SourceViolation, check_source, column_map};

use serde::{Deserialize, Serialize};

/// The value that stands for "the sensor delivered nothing here".
///
/// A quiet NaN with a payload of its own, so that it is not mistaken for a NaN that a sensor or its
/// driver produced, which is [`ViolationKind::NotFinite`].
pub const MISSING: f32 = f32::from_bits(0x7fc0_ed6e);

/// Whether `value` is [`MISSING`].
#[must_use]
pub fn is_missing(value: f32) -> bool {
    value.to_bits() == MISSING.to_bits()
}

/// One reading of all features.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Number of the sample in its stream; the next one is this plus one, wrapping.
    pub sequence: u32,
    /// When it was taken, in milliseconds of the board's clock.
    pub time_ms: u64,
    /// One value a feature in profile order; [`MISSING`] where there is none.
    pub values: &'a [f32],
}

/// Each way in which input can break the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum ViolationKind {
    /// Neither finite nor [`MISSING`].
    NotFinite,
    /// Below the plausible range.
    BelowRange,
    /// Above the plausible range.
    AboveRange,
    /// Further from the training mean than the policy's |z|.
    ZScore,
    /// Changed faster than the feature can.
    Rate,
    /// The same value for too many samples in a row.
    Stuck,
    /// No value.
    Missing,
    /// Samples are missing between this one and the one before.
    Gap,
    /// The same sample again.
    Duplicate,
    /// Too old.
    Stale,
    /// Older than the one before it.
    OutOfOrder,
    /// Another element type than the model's.
    DType,
    /// Another number of values than the model's.
    Shape,
    /// Another schema version.
    SchemaVersion,
    /// Another version of the feature pipeline.
    FeatureVersion,
    /// The source offers a feature that training did not have.
    UnknownFeature,
    /// The source lacks a feature that the model needs.
    AbsentFeature,
}

impl ViolationKind {
    /// How many kinds there are.
    pub const COUNT: usize = 17;
    /// Kinds that concern one feature and are counted per feature: the first seven.
    pub const PER_FEATURE: usize = 7;
    /// All kinds, in order of their discriminants.
    pub const ALL: [Self; Self::COUNT] = [
        Self::NotFinite,
        Self::BelowRange,
        Self::AboveRange,
        Self::ZScore,
        Self::Rate,
        Self::Stuck,
        Self::Missing,
        Self::Gap,
        Self::Duplicate,
        Self::Stale,
        Self::OutOfOrder,
        Self::DType,
        Self::Shape,
        Self::SchemaVersion,
        Self::FeatureVersion,
        Self::UnknownFeature,
        Self::AbsentFeature,
    ];
}

/// A set of [`ViolationKind`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ViolationSet(u32);

impl ViolationSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// Adds one kind.
    pub fn insert(&mut self, kind: ViolationKind) {
        self.0 |= 1 << kind as u32;
    }

    /// Whether `kind` is in the set.
    #[must_use]
    pub fn contains(self, kind: ViolationKind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many kinds are in the set.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Bit `k` stands for the kind with discriminant `k`.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The kinds in the set, in order of their discriminants.
    pub fn iter(self) -> impl Iterator<Item = ViolationKind> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            // Of an empty set the 32nd, which there is not.
            let kind = *ViolationKind::ALL.get(rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(kind)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_each_kind_at_its_discriminant() {
        for (i, kind) in ViolationKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
        }
    }

    #[test]
    fn sets_remember_what_was_inserted() {
        let mut set = ViolationSet::EMPTY;
        assert!(set.is_empty());
        set.insert(ViolationKind::AbsentFeature);
        set.insert(ViolationKind::NotFinite);
        set.insert(ViolationKind::NotFinite);
        assert_eq!(set.len(), 2);
        assert!(set.contains(ViolationKind::AbsentFeature));
        assert!(!set.contains(ViolationKind::Gap));
        assert!(
            set.iter()
                .eq([ViolationKind::NotFinite, ViolationKind::AbsentFeature])
        );
        for kind in ViolationKind::ALL {
            set.insert(kind);
        }
        assert!(set.iter().eq(ViolationKind::ALL));
        assert!(ViolationSet::EMPTY.iter().next().is_none());
    }

    #[test]
    fn missing_is_a_nan_of_its_own() {
        assert!(is_missing(MISSING));
        assert!(!is_missing(f32::NAN));
        assert!(MISSING.is_nan());
    }
}
