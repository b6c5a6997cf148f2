//! What can be wrong with a bundle, and where.

use crate::trust::cose::CoseErrorKind;

/// Declares [`Field`] with the path of each field, which only hosts spell out.
macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $path:literal,)*) => {
        /// A field of a bundle. Where its path has `[]`, the error's index belongs there.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Field {
            $($(#[$doc])* #[doc = concat!("`", $path, "`")] $variant,)*
        }

        #[cfg(any(test, feature = "std"))]
        impl Field {
            /// The path of the field, with `[]` where an index belongs.
            #[must_use]
            pub fn path(self) -> &'static str {
                match self {
                    $(Self::$variant => $path,)*
                }
            }
        }
    };
}

fields! {
    Magic = "header.magic",
    FormatVersion = "header.format_version",
    HeaderBytes = "header.header_bytes",
    ChunkBytes = "header.chunk_bytes",
    ManifestBytes = "header.manifest_bytes",
    ChunkCount = "header.chunk_count",
    HeadBytes = "header.head_bytes",
    TotalBytes = "header.total_bytes",
    Reserved = "header.reserved",
    Name = "manifest.name",
    Version = "manifest.version",
    Counter = "manifest.counter",
    Class = "manifest.class",
    Kernels = "manifest.kernels",
    ArenaBytes = "manifest.arena_bytes",
    MinRuntime = "manifest.min_runtime",
    Sections = "manifest.sections",
    SectionKind = "manifest.sections[].kind",
    SectionOffset = "manifest.sections[].offset",
    SectionLen = "manifest.sections[].len",
    SectionHash = "manifest.sections[].sha256",
    ManifestEnd = "manifest",
    ChunkTable = "chunk_table",
    SignatureCount = "signatures.count",
    SignatureLen = "signatures[].len",
    Signature = "signatures[]",
    HeadPadding = "head_padding",
    Chunk = "data.chunks[]",
    SectionData = "data.sections[]",
    DataPadding = "data.padding",
    File = "file",
    Profile = "profile",
    SchemaWindow = "profile.schema.window",
    SchemaHop = "profile.schema.hop",
    Features = "profile.features",
    FeatureName = "profile.features[].name",
    FeatureMin = "profile.features[].min",
    FeatureMax = "profile.features[].max",
    FeatureMean = "profile.features[].mean",
    FeatureSd = "profile.features[].sd",
    FeatureMaxRate = "profile.features[].max_rate",
    FeatureStuckRun = "profile.features[].stuck_run",
    FeatureEdges = "profile.features[].edges",
    FeatureReference = "profile.features[].reference",
    FeatureLimits = "profile.features[].limits",
    OutputNames = "profile.output.names",
    OutputName = "profile.output.names[]",
    OutputTemperature = "profile.output.temperature",
    OutputClassCounts = "profile.output.class_counts",
    OutputScoreMean = "profile.output.score_mean",
    OutputScoreSd = "profile.output.score_sd",
    OutputScoreP01 = "profile.output.score_p01",
    OutputScoreP99 = "profile.output.score_p99",
    OutputEntropyMean = "profile.output.entropy_mean",
    OutputClassPsiLimit = "profile.output.class_psi_limit",
    OutputScoreShiftLimit = "profile.output.score_shift_limit",
    DriftWindow = "profile.drift_window",
    Policy = "policy",
    PolicyZLimit = "policy.z_limit",
    TrialErrorRate = "policy.trial.max_error_per_mille",
    TrialAgreement = "policy.trial.min_agreement_per_mille",
    TrialBoots = "policy.trial.max_boots",
    TrialInferences = "policy.trial.min_inferences",
    GuardZLimit = "policy.guard.z_limit",
    GuardErrorRate = "policy.guard.max_error_per_mille",
    GuardAccuracy = "policy.guard.min_accuracy_per_mille",
    Golden = "golden",
    GoldenCount = "golden.count",
    GoldenInputLen = "golden.input_len",
    GoldenOutputLen = "golden.output_len",
    GoldenTolerance = "golden.tolerance",
    GoldenValue = "golden.values[]",
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BundleErrorKind {
    /// The bytes end in it.
    Truncated,
    /// Not a bundle.
    NotABundle,
    /// A format version that this code does not read.
    UnknownVersion(u16),
    /// A variant that this code does not know.
    UnknownVariant(u32),
    /// A number that is not in its shortest form, or too large for its type.
    NotCanonical,
    /// Text that is empty, too long, not UTF-8, or has control characters.
    BadText,
    /// More items than there may be.
    TooMany,
    /// Nothing, where something must be.
    Empty,
    /// Not a multiple of this.
    Misaligned(u16),
    /// Not the value that follows from the others.
    Inconsistent {
        /// The value that follows from the others.
        expected: u32,
        /// The value found.
        found: u32,
    },
    /// Beyond the least or the greatest value it may have.
    OutOfRange,
    /// Reaches into what comes before it, or is not in ascending order.
    Overlap,
    /// The same as one before it.
    Duplicate,
    /// A byte that must be zero and is not.
    NotZero,
    /// Bytes that belong to nothing.
    Trailing,
    /// The SHA-256 is another one.
    HashMismatch,
    /// A signature that is not of the one shape.
    Cose(CoseErrorKind),
    /// The section's bytes do not decode.
    Undecodable,
    /// NaN or infinite.
    NotFinite,
    /// No such section.
    Missing,
}

/// Why a bundle was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleError {
    /// The field.
    pub field: Field,
    /// Which of several, from 0.
    pub index: Option<u32>,
    /// Where, in bytes from the start of the bundle (for profile, policy and golden vectors: of the
    /// section); none for a value that was decoded already.
    pub offset: Option<u32>,
    /// What is wrong.
    pub kind: BundleErrorKind,
}

impl BundleError {
    pub(crate) fn at(field: Field, offset: usize, kind: BundleErrorKind) -> Self {
        Self {
            field,
            index: None,
            offset: Some(saturate(offset)),
            kind,
        }
    }

    pub(crate) fn value(field: Field, kind: BundleErrorKind) -> Self {
        Self {
            field,
            index: None,
            offset: None,
            kind,
        }
    }

    pub(crate) fn index(mut self, index: usize) -> Self {
        self.index = Some(saturate(index));
        self
    }
}

fn saturate(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(any(test, feature = "std"))]
impl core::fmt::Display for BundleErrorKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the bytes end here"),
            Self::NotABundle => f.write_str("not a bundle"),
            Self::UnknownVersion(version) => {
                write!(f, "format version {version} is unknown (this reads 1)")
            }
            Self::UnknownVariant(code) => write!(f, "{code} is unknown"),
            Self::NotCanonical => f.write_str("a number too large or not in its shortest form"),
            Self::BadText => {
                f.write_str("text that is empty, too long, not UTF-8 or has control characters")
            }
            Self::TooMany => f.write_str("too many"),
            Self::Empty => f.write_str("empty"),
            Self::Misaligned(to) => write!(f, "not a multiple of {to}"),
            Self::Inconsistent { expected, found } => {
                write!(f, "{found}, where {expected} follows from the rest")
            }
            Self::OutOfRange => f.write_str("out of range"),
            Self::Overlap => f.write_str("overlaps or precedes the one before it"),
            Self::Duplicate => f.write_str("there is one like it already"),
            Self::NotZero => f.write_str("a padding byte is not zero"),
            Self::Trailing => f.write_str("bytes follow that belong to nothing"),
            Self::HashMismatch => f.write_str("the SHA-256 does not match"),
            Self::Cose(kind) => write!(f, "not a signature of the one shape: {kind}"),
            Self::Undecodable => f.write_str("does not decode"),
            Self::NotFinite => f.write_str("not a finite number"),
            Self::Missing => f.write_str("missing"),
        }
    }
}

#[cfg(any(test, feature = "std"))]
impl core::fmt::Display for BundleError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match (self.field.path().split_once("[]"), self.index) {
            (Some((before, after)), Some(index)) => write!(f, "{before}[{index}]{after}")?,
            (None, Some(index)) => write!(f, "{}[{index}]", self.field.path())?,
            _ => f.write_str(self.field.path())?,
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

#[cfg(any(test, feature = "std"))]
impl std::error::Error for BundleError {}
