//! What can go wrong.

use super::record::FORMAT;
#[cfg(doc)]
use super::{MAX_SECTORS, Outbox};
use embedded_storage::nor_flash::NorFlashErrorKind;

/// Why an operation of the outbox failed. What was stored before stays stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OutboxError {
    /// The flash failed.
    Flash(NorFlashErrorKind),
    /// The region is not aligned to the flash, ends beyond it, has fewer than two or more than
    /// [`MAX_SECTORS`] sectors, or the flash's word is not a power of two up to 64 bytes.
    Region,
    /// A sector or the buffer is too small for the largest record.
    SectorTooSmall {
        /// Bytes that a sector needs at least.
        needed: u32,
    },
    /// The region holds an outbox with sectors of another size or number.
    OtherRegion,
    /// The region holds an outbox that another version of this program wrote.
    Version {
        /// The version of its format.
        found: u8,
    },
    /// The region holds sectors of more than one outbox.
    Epochs,
    /// The body takes more bytes than a record may have.
    TooLarge {
        /// Bytes of the record.
        bytes: u32,
        /// Bytes that a record may have.
        most: u32,
    },
    /// There is no room, and nothing left that could be merged.
    Full,
    /// An acknowledgement of frames that this outbox never made: the flash is older than what the
    /// host has seen, or a copy of the outbox is in use elsewhere.
    AcknowledgedUnknown {
        /// The number of the next frame.
        next_sequence: u64,
    },
    /// A body in flash is not one of this version.
    Body,
}

impl OutboxError {
    /// Whether the region holds what is no outbox of this board and this program: it is of no use, and a new one can
    /// [take its place](Outbox::format).
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::OtherRegion | Self::Version { .. } | Self::Epochs
        )
    }
}

impl core::fmt::Display for OutboxError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Flash(kind) => write!(f, "outbox: the flash failed: {kind}"),
            Self::Region => f.write_str("outbox: the region does not fit the flash"),
            Self::SectorTooSmall { needed } => {
                write!(f, "outbox: a sector needs at least {needed} bytes")
            }
            Self::OtherRegion => {
                f.write_str("outbox: the region holds an outbox with other sectors")
            }
            Self::Version { found } => write!(
                f,
                "outbox: the region holds one in version {found} of the format, this program reads \
                 version {FORMAT}"
            ),
            Self::Epochs => f.write_str("outbox: the region holds sectors of more than one"),
            Self::TooLarge { bytes, most } => {
                write!(f, "outbox: a record of {bytes} bytes, at most {most} fit")
            }
            Self::Full => f.write_str("outbox: full, and nothing is left to merge"),
            Self::AcknowledgedUnknown { next_sequence } => write!(
                f,
                "outbox: an acknowledgement of frames beyond {next_sequence}, the next to be made"
            ),
            Self::Body => f.write_str("outbox: a body in flash is not readable"),
        }
    }
}

impl core::error::Error for OutboxError {}
