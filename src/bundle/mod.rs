//! The bundle: one signed file that holds everything a board needs to run a release.
//!
//! Byte by byte in `docs/BUNDLE.md`.

pub mod decode;
pub mod error;
pub mod fit;
pub mod golden;
pub mod header;
pub mod reader;
#[cfg(any(test, feature = "std"))]
pub mod write;

pub use error::{BundleError, BundleErrorKind, Field};
pub use fit::{Capabilities, FitError};
pub use header::{FileHeader, HEADER_BYTES};
pub use reader::{Bundle, Head};
#[cfg(any(test, feature = "std"))]
pub use write::{BundleWriter, Description, WriteError};

use crate::trust::Digest32;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Bytes of a chunk; what a board fetches, checks and writes at a time.
pub const CHUNK_BYTES: usize = 4096;
/// Most sections a bundle may have.
pub const MAX_SECTIONS: usize = 8;
/// Bytes that a section's offset and the file's length are multiples of.
pub const SECTION_ALIGN: usize = 16;
/// Most bytes of a text in the manifest.
pub const MAX_TEXT_BYTES: usize = 32;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SectionKind {
    /// An int8 program.
    Program,
    /// Kept free: a program holds its weights itself.
    Weights,
    /// An ONNX model for tract.
    TractModel,
    /// The profile of the training data ([`crate::profile::Profile`], postcard).
    Profile,
    /// The policy ([`crate::policy::Policy`], postcard).
    Policy,
    /// Golden vectors.
    Golden,
}

impl SectionKind {
    /// Every kind, in the order of its codes.
    const ALL: [Self; 6] = [
        Self::Program,
        Self::Weights,
        Self::TractModel,
        Self::Profile,
        Self::Policy,
        Self::Golden,
    ];

    /// The code that stands for it in the manifest.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The kind that `code` stands for.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// Which boards a bundle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum BoardClass {
    /// Linux boards.
    Linux,
    /// Bare-metal microcontrollers.
    Mcu,
}

/// Where a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Offset from the start of the bundle, a multiple of 16.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
    /// SHA-256 of its bytes.
    pub sha256: Digest32,
}

/// The signed description of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest<'a> {
    /// The model's name.
    #[serde(borrow)]
    pub name: &'a str,
    /// Its version, for people.
    pub version: &'a str,
    /// The release counter: what the downgrade check compares.
    pub counter: u32,
    /// The boards it is for.
    pub class: BoardClass,
    /// Layout of the weights, by the kernels' name ("tract" for a tract model).
    pub kernels: &'a str,
    /// Working memory that one inference needs, in bytes; 0 when the engine allocates its own.
    pub arena_bytes: u32,
    /// Least [`crate::RUNTIME_VERSION`] that can run it.
    pub min_runtime: u16,
    /// The sections, by ascending offset, without overlap.
    pub sections: Vec<Section, MAX_SECTIONS>,
}

impl Manifest<'_> {
    /// Where a section is, if there is one of this kind.
    #[must_use]
    pub fn section(&self, kind: SectionKind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }
}
