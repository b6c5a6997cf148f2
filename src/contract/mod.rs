//! The input contract: is this sample what the model was trained on?

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
}
