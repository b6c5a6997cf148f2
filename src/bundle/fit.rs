//! Whether a sound bundle is for this board.

use super::{BoardClass, Manifest};
use crate::telemetry::Reason;

/// What a board can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities<'a> {
    /// Its class.
    pub class: BoardClass,
    /// Names of the kernel layouts it has.
    pub kernels: &'a [&'a str],
    /// Its [`crate::RUNTIME_VERSION`].
    pub runtime: u16,
    /// Bytes of a slot.
    pub slot_bytes: u32,
    /// Bytes of the arena; `u32::MAX` where engines allocate their own.
    pub arena_bytes: u32,
}

/// Why a sound bundle is not for this board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FitError {
    /// Made for boards of another class.
    Class {
        /// The class it is for.
        needs: BoardClass,
        /// The board's class.
        has: BoardClass,
    },
    /// Laid out for kernels that the board lacks.
    Kernels,
    /// Needs a newer runtime.
    Runtime {
        /// The least version that runs it.
        needs: u16,
        /// The board's version.
        has: u16,
    },
    /// Larger than a slot.
    Slot {
        /// Bytes of the bundle.
        needs: u32,
        /// Bytes of a slot.
        has: u32,
    },
    /// Needs more working memory.
    Arena {
        /// Bytes it needs.
        needs: u32,
        /// Bytes of the board's arena.
        has: u32,
    },
}

impl FitError {
    /// How a board reports it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Class { .. } | Self::Kernels => Reason::WrongClass,
            Self::Runtime { .. } | Self::Slot { .. } | Self::Arena { .. } => Reason::Unsupported,
        }
    }
}

#[cfg(any(test, feature = "std"))]
impl core::fmt::Display for FitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Class { needs, has } => {
                write!(f, "is for boards of class {needs:?}, this one is {has:?}")
            }
            Self::Kernels => f.write_str("is laid out for kernels that the board lacks"),
            Self::Runtime { needs, has } => {
                write!(f, "needs runtime version {needs}, the board has {has}")
            }
            Self::Slot { needs, has } => {
                write!(f, "has {needs} bytes, a slot has {has}")
            }
            Self::Arena { needs, has } => write!(
                f,
                "needs {needs} bytes of working memory, the board has {has}"
            ),
        }
    }
}

#[cfg(feature = "std")]
impl std::error::Error for FitError {}

impl Manifest<'_> {
    /// Whether a board can run this release, which is `total_bytes` long.
    ///
    /// # Errors
    /// Says what the release needs and the board lacks.
    pub fn check_fit(&self, board: &Capabilities<'_>, total_bytes: u32) -> Result<(), FitError> {
        if self.class != board.class {
            return Err(FitError::Class {
                needs: self.class,
                has: board.class,
            });
        }
        if !board.kernels.contains(&self.kernels) {
            return Err(FitError::Kernels);
        }
        if self.min_runtime > board.runtime {
            return Err(FitError::Runtime {
                needs: self.min_runtime,
                has: board.runtime,
            });
        }
        if total_bytes > board.slot_bytes {
            return Err(FitError::Slot {
                needs: total_bytes,
                has: board.slot_bytes,
            });
        }
        if self.arena_bytes > board.arena_bytes {
            return Err(FitError::Arena {
                needs: self.arena_bytes,
                has: board.arena_bytes,
            });
        }
        Ok(())
    }
}
