//! Writing bundles: packing and signing are separate steps, so that those who sign need not pack.

use super::error::BundleError;
use super::header::{FileHeader, MAX_BUNDLE_SIGNATURES, SIGNATURE_BLOCK_BYTES, text_is_plain};
use super::reader::{Bundle, Head};
use super::{
    BoardClass, CHUNK_BYTES, MAX_SECTIONS, MAX_TEXT_BYTES, Manifest, SECTION_ALIGN, Section,
    SectionKind,
};
use crate::trust::cose::{self, BUNDLE_SIGNATURE_BYTES, ContentType, CoseError};
use crate::trust::{KeyId, Signer, sha256};

/// What a manifest says besides where the sections are; see [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The model's name.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// The release counter.
    pub counter: u32,
    /// The boards it is for.
    pub class: BoardClass,
    /// Layout of the weights, by the kernels' name.
    pub kernels: String,
    /// Working memory that one inference needs, in bytes.
    pub arena_bytes: u32,
    /// Least runtime version that can run it.
    pub min_runtime: u16,
}

/// Why a bundle can't be written or signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// A text is empty, longer than 32 bytes, or has control characters.
    Text {
        /// Which field of the description.
        field: &'static str,
    },
    /// A section with no bytes.
    EmptySection(SectionKind),
    /// The same kind of section twice.
    DuplicateSection(SectionKind),
    /// No section at all.
    NoSections,
    /// More than 4 GiB in all.
    TooLarge,
    /// The bytes to sign are not a sound bundle.
    Bundle(BundleError),
    /// All places for signatures are taken.
    SignaturesFull,
    /// The signature can't be written.
    Cose(CoseError),
}

impl core::fmt::Display for WriteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Text { field } => write!(
                f,
                "{field}: needs 1 to {MAX_TEXT_BYTES} bytes without control characters"
            ),
            Self::EmptySection(kind) => write!(f, "section {kind:?} is empty"),
            Self::DuplicateSection(kind) => write!(f, "section {kind:?} is given twice"),
            Self::NoSections => f.write_str("a bundle needs at least one section"),
            Self::TooLarge => f.write_str("a bundle holds less than 4 GiB"),
            Self::Bundle(error) => error.fmt(f),
            Self::SignaturesFull => {
                write!(f, "there are {MAX_BUNDLE_SIGNATURES} signatures already")
            }
            Self::Cose(error) => write!(f, "signature: {error}"),
        }
    }
}

impl std::error::Error for WriteError {}

impl From<BundleError> for WriteError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

/// Packs sections into a bundle without signatures.
#[derive(Debug, Clone)]
pub struct BundleWriter {
    description: Description,
    sections: Vec<(SectionKind, Vec<u8>)>,
}

impl BundleWriter {
    /// A bundle without sections.
    ///
    /// # Errors
    /// When a text can't stand in a manifest.
    pub fn new(description: Description) -> Result<Self, WriteError> {
        for (field, text) in [
            ("name", &description.name),
            ("version", &description.version),
            ("kernels", &description.kernels),
        ] {
            if !text_is_plain(text) {
                return Err(WriteError::Text { field });
            }
        }
        Ok(Self {
            description,
            sections: Vec::new(),
        })
    }

    /// Adds a section; the file keeps the order of these calls.
    ///
    /// # Errors
    /// When the section is empty or there is one of its kind.
    pub fn section(
        &mut self,
        kind: SectionKind,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<&mut Self, WriteError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(WriteError::EmptySection(kind));
        }
        if self.sections.iter().any(|(other, _)| *other == kind) {
            return Err(WriteError::DuplicateSection(kind));
        }
        self.sections.push((kind, bytes));
        Ok(self)
    }

    /// The bundle's bytes. The same input gives the same bytes.
    ///
    /// # Errors
    /// When there is no section, or more than 32 bits can address.
    pub fn finish(&self) -> Result<Vec<u8>, WriteError> {
        let mut data = Vec::new();
        let mut places = heapless::Vec::<Section, MAX_SECTIONS>::new();
        for (kind, bytes) in &self.sections {
            let section = Section {
                kind: *kind,
                // Counted from the data part for now; where that begins depends on the manifest.
                offset: u32::try_from(data.len()).map_err(|_| WriteError::TooLarge)?,
                len: u32::try_from(bytes.len()).map_err(|_| WriteError::TooLarge)?,
                sha256: sha256(bytes),
            };
            // There are fewer kinds than places, and none comes twice.
            let _ = places.push(section);
            data.extend_from_slice(bytes);
            data.resize(data.len().next_multiple_of(SECTION_ALIGN), 0);
        }
        if places.is_empty() {
            return Err(WriteError::NoSections);
        }
        let data_bytes = u32::try_from(data.len()).map_err(|_| WriteError::TooLarge)?;
        let (header, manifest) = self.manifest(&places, data_bytes)?;
        let mut bytes = Vec::with_capacity(header.total_bytes as usize);
        bytes.extend(header.to_bytes());
        bytes.extend(manifest);
        bytes.extend(data.chunks(CHUNK_BYTES).flat_map(sha256));
        bytes.resize(header.head_bytes as usize, 0);
        bytes.extend(data);
        // What can be written can be read: a bundle that can't be opened never leaves this place.
        Bundle::open(&bytes)?.verify_data()?;
        Ok(bytes)
    }

    /// Header and encoded manifest. The offsets depend on the head's size, which depends on the
    /// manifest's, which depends on the offsets: a few rounds settle it, because it only grows.
    fn manifest(
        &self,
        places: &heapless::Vec<Section, MAX_SECTIONS>,
        data_bytes: u32,
    ) -> Result<(FileHeader, Vec<u8>), WriteError> {
        let mut head_bytes = 0_u32;
        loop {
            let mut sections = places.clone();
            for section in &mut sections {
                section.offset = section
                    .offset
                    .checked_add(head_bytes)
                    .ok_or(WriteError::TooLarge)?;
            }
            let description = &self.description;
            let manifest = Manifest {
                name: &description.name,
                version: &description.version,
                counter: description.counter,
                class: description.class,
                kernels: &description.kernels,
                arena_bytes: description.arena_bytes,
                min_runtime: description.min_runtime,
                sections,
            };
            // Extending a vector can't fail, and the manifest has no type that can't be written.
            let encoded =
                postcard::to_extend(&manifest, Vec::new()).map_err(|_| WriteError::TooLarge)?;
            let len = u32::try_from(encoded.len()).map_err(|_| WriteError::TooLarge)?;
            let header = FileHeader::new(len, data_bytes).ok_or(WriteError::TooLarge)?;
            if header.head_bytes == head_bytes {
                return Ok((header, encoded));
            }
            head_bytes = header.head_bytes;
        }
    }
}

/// Adds the signature of `signer` to a bundle, in place, and returns the key's id. A bundle that
/// this key signed already stays as it is: Ed25519 signs the same bytes the same way.
///
/// # Errors
/// When the bytes are not a sound bundle, or there is no room for another signature.
pub fn sign<S: Signer + ?Sized>(bundle: &mut [u8], signer: &S) -> Result<KeyId, WriteError> {
    let opened = Bundle::open(bundle)?;
    // A signature is a promise about the data too.
    opened.verify_data()?;
    let key = signer.public_key().id();
    let head: &Head<'_> = opened.head();
    let known = head
        .signatures()
        .any(|bytes| cose::parse(bytes).is_ok_and(|message| message.key == key));
    if known {
        return Ok(key);
    }
    let count = head.signatures().count();
    if count >= MAX_BUNDLE_SIGNATURES {
        return Err(WriteError::SignaturesFull);
    }
    let digest = head.digest();
    let start = head.header().signed_bytes();
    let block = &mut bundle[start..start + SIGNATURE_BLOCK_BYTES];
    let at = 1 + count * (2 + BUNDLE_SIGNATURE_BYTES);
    let (len, message) = block[at..].split_at_mut(2);
    cose::sign_detached(signer, ContentType::Bundle, &digest, message).map_err(WriteError::Cose)?;
    len.copy_from_slice(&(BUNDLE_SIGNATURE_BYTES as u16).to_le_bytes());
    block[0] += 1;
    Ok(key)
}
