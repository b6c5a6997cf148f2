//! Reading a bundle in place: the head alone, or the whole file.

use super::error::{BundleError, BundleErrorKind as Kind, Field};
use super::header::{self, FileHeader, HASH_BYTES, MAX_BUNDLE_SIGNATURES};
use super::{BoardClass, CHUNK_BYTES, Manifest, SectionKind};
use crate::telemetry::Reason;
use crate::trust::cose::{self, BUNDLE_SIGNATURE_BYTES, ContentType, CoseErrorKind};
use crate::trust::root::{Root, TrustError};
use crate::trust::{Digest32, Role, Verifier, sha256};

/// The head of a bundle: everything but the data, and enough to decide whether to fetch the data.
///
/// Its layout has been checked, and the place and shape of its signatures. Only [`Head::verify`]
/// says whether they hold; until then nothing in it is to be believed.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    bytes: &'a [u8],
    header: FileHeader,
}

impl<'a> Head<'a> {
    /// Reads the head at the start of `bytes`, which may be the whole bundle.
    ///
    /// # Errors
    /// Names the first field that is wrong, and its offset.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let header = FileHeader::parse(bytes)?;
        let bytes = bytes
            .get(..header.head_bytes as usize)
            .ok_or(BundleError::at(Field::File, bytes.len(), Kind::Truncated))?;
        let head = Self { bytes, header };
        head.check_signature_block()?;
        Ok(head)
    }

    /// The fixed header.
    #[must_use]
    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// Bytes before the data part.
    #[must_use]
    pub fn head_bytes(&self) -> u32 {
        self.header.head_bytes
    }

    /// Bytes of the whole bundle.
    #[must_use]
    pub fn total_bytes(&self) -> u32 {
        self.header.total_bytes
    }

    /// Chunks of the data part; chunk `i` is chunk `head_bytes / 4096 + i` of the file.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.header.chunk_count
    }

    /// SHA-256 of header, manifest and chunk table: names the release, and is what is signed.
    #[must_use]
    pub fn digest(&self) -> Digest32 {
        sha256(
            self.bytes
                .get(..self.header.signed_bytes())
                .unwrap_or_default(),
        )
    }

    /// Decodes the manifest and checks that its sections lie in the data part, aligned, in order
    /// and without overlap.
    ///
    /// # Errors
    /// Names the first field that is wrong, and its offset in the bundle.
    pub fn manifest(&self) -> Result<Manifest<'a>, BundleError> {
        header::manifest(self.bytes, &self.header)
    }

    /// The signatures: COSE_Sign1 each, over [`Head::digest`].
    pub fn signatures(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let block = self
            .bytes
            .get(self.header.signed_bytes()..)
            .unwrap_or_default();
        let count = block.first().copied().unwrap_or(0);
        block
            .get(1..)
            .unwrap_or_default()
            .chunks_exact(2 + BUNDLE_SIGNATURE_BYTES)
            .take(count.into())
            .map(|entry| &entry[2..])
    }

    /// Whether enough release keys of `root` signed this head.
    ///
    /// # Errors
    /// Says how many valid signatures there are, and how many it takes.
    pub fn verify<V: Verifier + ?Sized>(
        &self,
        root: &Root,
        verifier: &V,
    ) -> Result<(), TrustError> {
        root.verify_detached_threshold(
            Role::Release,
            ContentType::Bundle,
            self.signatures(),
            &self.digest(),
            verifier,
        )
    }

    /// SHA-256 of data chunk `index`.
    #[must_use]
    pub fn chunk_hash(&self, index: u32) -> Option<&'a Digest32> {
        let table = self.bytes.get(self.header.table_range())?;
        let start = (index as usize).checked_mul(HASH_BYTES)?;
        table.get(start..)?.first_chunk()
    }

    /// Whether `bytes` are data chunk `index`.
    ///
    /// # Errors
    /// When they are not: too long, too short, or of another hash; or when there is no such chunk.
    pub fn check_chunk(&self, index: u32, bytes: &[u8]) -> Result<(), BundleError> {
        let fail = |kind| BundleError::value(Field::Chunk, kind).index(index as usize);
        let (Some(len), Some(hash)) = (self.header.chunk_len(index), self.chunk_hash(index)) else {
            return Err(fail(Kind::Missing));
        };
        if bytes.len() != len {
            return Err(fail(Kind::Inconsistent {
                expected: len as u32,
                found: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            }));
        }
        if sha256(bytes) != *hash {
            return Err(fail(Kind::HashMismatch));
        }
        Ok(())
    }

    /// Checks count, lengths and shape of the signatures, and that only zeros follow them.
    fn check_signature_block(&self) -> Result<(), BundleError> {
        let mut at = self.header.signed_bytes();
        let count = usize::from(self.bytes.get(at).copied().unwrap_or(0));
        if count > MAX_BUNDLE_SIGNATURES {
            return Err(BundleError::at(Field::SignatureCount, at, Kind::TooMany));
        }
        at += 1;
        let mut keys = heapless::Vec::<_, MAX_BUNDLE_SIGNATURES>::new();
        for index in 0..count {
            let entry = self
                .bytes
                .get(at..at + 2 + BUNDLE_SIGNATURE_BYTES)
                .and_then(|entry| entry.split_first_chunk::<2>());
            let Some((len, message)) = entry else {
                // The header set room aside for all signatures, so this can't be reached.
                let error = BundleError::at(Field::SignatureLen, at, Kind::Truncated);
                return Err(error.index(index));
            };
            let found = u16::from_le_bytes(*len).into();
            let expected = BUNDLE_SIGNATURE_BYTES as u32;
            if found != expected {
                let kind = Kind::Inconsistent { expected, found };
                return Err(BundleError::at(Field::SignatureLen, at, kind).index(index));
            }
            let key = check_signature(message)
                .map_err(|(offset, kind)| BundleError::at(Field::Signature, at + 2 + offset, kind))
                .map_err(|error| error.index(index))?;
            if keys.contains(&key) {
                let error = BundleError::at(Field::Signature, at + 2, Kind::Duplicate);
                return Err(error.index(index));
            }
            // There is room for every signature of the block.
            let _ = keys.push(key);
            at += 2 + BUNDLE_SIGNATURE_BYTES;
        }
        match zeros(self.bytes, at, self.bytes.len()) {
            Some(at) => Err(BundleError::at(Field::HeadPadding, at, Kind::NotZero)),
            None => Ok(()),
        }
    }
}

/// The key that a bundle's signature names, or where and how its shape is wrong.
fn check_signature(message: &[u8]) -> Result<crate::trust::KeyId, (usize, Kind)> {
    let parsed =
        cose::parse(message).map_err(|error| (error.offset as usize, Kind::Cose(error.kind)))?;
    if parsed.content != ContentType::Bundle {
        return Err((0, Kind::Cose(CoseErrorKind::WrongContent)));
    }
    if parsed.payload.is_some() {
        return Err((0, Kind::Cose(CoseErrorKind::WrongPlace)));
    }
    if parsed.len != message.len() {
        return Err((parsed.len, Kind::Cose(CoseErrorKind::Trailing)));
    }
    Ok(parsed.key)
}

/// Offset of the first byte of `bytes[start..end]` that is not zero.
fn zeros(bytes: &[u8], start: usize, end: usize) -> Option<usize> {
    let range = bytes.get(start..end)?;
    range
        .iter()
        .position(|byte| *byte != 0)
        .map(|at| start + at)
}

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

/// A whole bundle in memory (or in mapped flash).
#[derive(Debug, Clone)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    head: Head<'a>,
    manifest: Manifest<'a>,
}

impl<'a> Bundle<'a> {
    /// Checks the layout of the bundle that `bytes` are. Neither signatures nor hashes are checked:
    /// [`Bundle::verify`] and [`Bundle::verify_data`] do.
    ///
    /// # Errors
    /// Names the first field that is wrong, and its offset.
    pub fn open(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let head = Head::parse(bytes)?;
        let total = head.total_bytes() as usize;
        if bytes.len() < total {
            return Err(BundleError::at(Field::File, bytes.len(), Kind::Truncated));
        }
        if bytes.len() > total {
            return Err(BundleError::at(Field::File, total, Kind::Trailing));
        }
        Ok(Self {
            bytes,
            head,
            manifest: head.manifest()?,
        })
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &Head<'a> {
        &self.head
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest<'a> {
        &self.manifest
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether enough release keys of `root` signed the head; see [`Head::verify`].
    ///
    /// # Errors
    /// Says how many valid signatures there are, and how many it takes.
    pub fn verify<V: Verifier + ?Sized>(
        &self,
        root: &Root,
        verifier: &V,
    ) -> Result<(), TrustError> {
        self.head.verify(root, verifier)
    }

    /// Checks every chunk and section against its hash, and that the padding is zero.
    ///
    /// Hashes the data twice: the chunk table is what a download was checked with, the section
    /// hashes are what the one who packed it saw.
    ///
    /// # Errors
    /// Names the first chunk, section or padding byte that is wrong.
    pub fn verify_data(&self) -> Result<(), BundleError> {
        let head_bytes = self.head.head_bytes() as usize;
        let data = self.bytes.get(head_bytes..).unwrap_or_default();
        for (index, chunk) in (0..self.head.chunks()).zip(data.chunks(CHUNK_BYTES)) {
            let at = head_bytes + index as usize * CHUNK_BYTES;
            self.head.check_chunk(index, chunk).map_err(|error| {
                BundleError::at(error.field, at, error.kind).index(index as usize)
            })?;
        }
        let mut end = head_bytes;
        for (index, section) in self.manifest.sections.iter().enumerate() {
            let start = section.offset as usize;
            if let Some(at) = zeros(self.bytes, end, start) {
                return Err(BundleError::at(Field::DataPadding, at, Kind::NotZero));
            }
            end = start + section.len as usize;
            if sha256(self.bytes.get(start..end).unwrap_or_default()) != section.sha256 {
                let error = BundleError::at(Field::SectionData, start, Kind::HashMismatch);
                return Err(error.index(index));
            }
        }
        match zeros(self.bytes, end, self.bytes.len()) {
            Some(at) => Err(BundleError::at(Field::DataPadding, at, Kind::NotZero)),
            None => Ok(()),
        }
    }

    /// The bytes of a section, if the bundle has it.
    #[must_use]
    pub fn section(&self, kind: SectionKind) -> Option<&'a [u8]> {
        let section = self.manifest.section(kind)?;
        let start = section.offset as usize;
        self.bytes.get(start..start + section.len as usize)
    }

    /// The bytes of a section that must be there.
    ///
    /// # Errors
    /// [`Kind::Missing`] with the section's code as the index.
    pub fn require(&self, kind: SectionKind) -> Result<&'a [u8], BundleError> {
        self.section(kind).ok_or(
            BundleError::value(Field::SectionKind, Kind::Missing).index(kind.code() as usize),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::header::{HEADER_BYTES, MAX_MANIFEST_BYTES, SIGNATURE_BLOCK_BYTES};
    use crate::bundle::write::{BundleWriter, Description, WriteError, sign};
    use crate::trust::root::RoleKeys;
    use crate::trust::testing::{Fake, FakeVerifier};
    use crate::trust::{Digest32, Signer};
    use proptest::prelude::*;

    fn description() -> Description {
        Description {
            name: "motion".into(),
            version: "1.2.3".into(),
            counter: 300,
            class: BoardClass::Linux,
            kernels: "tract".into(),
            arena_bytes: 0,
            min_runtime: 1,
        }
    }

    fn bundle(sections: &[(SectionKind, Vec<u8>)]) -> Vec<u8> {
        let mut writer = BundleWriter::new(description()).unwrap();
        for (kind, bytes) in sections {
            writer.section(*kind, bytes.clone()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn small() -> Vec<u8> {
        bundle(&[
            (SectionKind::TractModel, vec![7; 5000]),
            (SectionKind::Policy, vec![1, 2, 3]),
        ])
    }

    /// What opening says once `edit` has been done to a sound bundle.
    fn says(edit: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = small();
        edit(&mut bytes);
        match Bundle::open(&bytes) {
            Ok(bundle) => bundle.verify_data().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Replaces the manifest by another one of any length; the chunk table follows it.
    fn with_manifest(manifest: &[u8]) -> String {
        says(|bytes| {
            let old = FileHeader::parse(bytes).unwrap();
            let table = bytes[old.table_range()].to_vec();
            let new = FileHeader::new(manifest.len() as u32, old.total_bytes - old.head_bytes);
            let new = new.unwrap();
            assert_eq!(new.head_bytes, old.head_bytes);
            bytes[..HEADER_BYTES].copy_from_slice(&new.to_bytes());
            bytes[HEADER_BYTES..new.head_bytes as usize].fill(0);
            bytes[new.manifest_range()].copy_from_slice(manifest);
            bytes[new.table_range()].copy_from_slice(&table);
        })
    }

    /// The small bundle's manifest with `edit` done to it, in postcard's own encoding.
    fn edited(edit: impl FnOnce(&mut Manifest<'_>)) -> String {
        let bytes = small();
        let mut manifest = Head::parse(&bytes).unwrap().manifest().unwrap();
        edit(&mut manifest);
        with_manifest(&postcard::to_extend(&manifest, Vec::new()).unwrap())
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = small();
        assert_eq!(bytes, small(), "packing is deterministic");
        let bundle = Bundle::open(&bytes).unwrap();
        bundle.verify_data().unwrap();
        let manifest = bundle.manifest();
        let Description {
            name,
            version,
            counter,
            class,
            kernels,
            arena_bytes,
            min_runtime,
        } = description();
        assert_eq!((manifest.name, manifest.version), (&*name, &*version));
        assert_eq!((manifest.counter, manifest.class), (counter, class));
        assert_eq!(manifest.kernels, kernels);
        assert_eq!(manifest.arena_bytes, arena_bytes);
        assert_eq!(manifest.min_runtime, min_runtime);
        assert_eq!(
            bundle.section(SectionKind::TractModel),
            Some(&[7; 5000][..])
        );
        assert_eq!(bundle.require(SectionKind::Policy), Ok(&[1, 2, 3][..]));
        assert_eq!(bundle.section(SectionKind::Golden), None);
        assert_eq!(
            bundle.require(SectionKind::Golden).unwrap_err().to_string(),
            "manifest.sections[5].kind: missing"
        );
        let head = bundle.head();
        assert_eq!((head.head_bytes(), head.total_bytes()), (4096, 4096 + 5024));
        assert_eq!(head.chunks(), 2);
        assert_eq!(head.check_chunk(0, &bytes[4096..8192]), Ok(()));
        assert_eq!(head.check_chunk(1, &bytes[8192..]), Ok(()));
        let says = |index, chunk: &[u8]| head.check_chunk(index, chunk).unwrap_err().to_string();
        assert_eq!(
            says(1, &bytes[8192..9000]),
            "data.chunks[1]: 808, where 928 follows from the rest"
        );
        assert_eq!(
            says(0, &bytes[4095..8191]),
            "data.chunks[0]: the SHA-256 does not match"
        );
        assert_eq!(says(2, &[]), "data.chunks[2]: missing");
        assert_eq!(says(u32::MAX, &[]), "data.chunks[4294967295]: missing");
    }

    #[test]
    fn the_manifest_is_postcards() {
        let bytes = small();
        let head = Head::parse(&bytes).unwrap();
        let range = head.header().manifest_range();
        let decoded: Manifest<'_> = postcard::from_bytes(&bytes[range]).unwrap();
        assert_eq!(decoded, head.manifest().unwrap());
        for (code, kind) in SectionKind::ALL.into_iter().enumerate() {
            assert_eq!(SectionKind::from_code(kind.code()), Some(kind));
            let encoded = postcard::to_extend(&kind, Vec::new()).unwrap();
            assert_eq!(encoded, [code as u8]);
        }
    }

    #[test]
    fn errors_of_the_header_name_field_and_offset() {
        for (at, value, expected) in [
            (0, 0, "header.magic at byte 0: not a bundle"),
            (
                8,
                2,
                "header.format_version at byte 8: format version 2 is unknown (this reads 1)",
            ),
            (
                10,
                65,
                "header.header_bytes at byte 10: 65, where 64 follows from the rest",
            ),
            (
                13,
                0,
                "header.chunk_bytes at byte 12: 0, where 4096 follows from the rest",
            ),
            (17, 9, "header.manifest_bytes at byte 16: out of range"),
            (20, 0, "header.chunk_count at byte 20: empty"),
            (
                20,
                3,
                "header.chunk_count at byte 20: 3, where 2 follows from the rest",
            ),
            (
                25,
                32,
                "header.head_bytes at byte 24: 8192, where 4096 follows from the rest",
            ),
            (29, 1, "header.total_bytes at byte 28: out of range"),
            (28, 1, "header.total_bytes at byte 28: not a multiple of 16"),
            (
                63,
                1,
                "header.reserved at byte 63: a padding byte is not zero",
            ),
        ] {
            assert_eq!(says(|bytes| bytes[at] = value), expected);
        }
        assert_eq!(
            FileHeader::parse(b"a text").unwrap_err().to_string(),
            "header.magic at byte 0: not a bundle"
        );
        assert_eq!(
            FileHeader::parse(b"EDGEWARD").unwrap_err().to_string(),
            "file at byte 8: the bytes end here"
        );
        assert_eq!(
            says(|bytes| bytes[20..24].fill(0xff)),
            "header.chunk_count at byte 20: out of range"
        );
    }

    #[test]
    fn errors_of_the_manifest_name_field_and_offset() {
        for (edit, expected) in [
            (
                (|m| m.name = "") as fn(&mut Manifest<'_>),
                "manifest.name at byte 64: text that is empty, too long, not UTF-8 or has control characters",
            ),
            (
                |m| m.kernels = "a\nb",
                "manifest.kernels at byte 80: text that is empty, too long, not UTF-8 or has control characters",
            ),
            (
                |m| m.sections.clear(),
                "manifest.sections at byte 88: empty",
            ),
            (
                |m| m.sections[1].kind = SectionKind::TractModel,
                "manifest.sections[1].kind at byte 126: there is one like it already",
            ),
            (
                |m| m.sections[1].offset += 8,
                "manifest.sections[1].offset at byte 127: not a multiple of 16",
            ),
            (
                |m| m.sections[1].offset -= 16,
                "manifest.sections[1].offset at byte 127: overlaps or precedes the one before it",
            ),
            (
                |m| m.sections[0].offset += 16,
                "manifest.sections[0].offset at byte 90: out of range",
            ),
            (
                |m| m.sections[1].offset += 16,
                "manifest.sections[1].offset at byte 127: out of range",
            ),
            (
                |m| m.sections[1].len = 0,
                "manifest.sections[1].len at byte 129: empty",
            ),
            (
                |m| m.sections[1].len = 17,
                "manifest.sections[1].len at byte 129: out of range",
            ),
            (
                |m| m.sections[1].len = u32::MAX,
                "manifest.sections[1].len at byte 129: out of range",
            ),
            (
                |m| m.sections.truncate(1),
                "header.total_bytes at byte 28: 9120, where 9104 follows from the rest",
            ),
            (
                |m| m.sections[1].sha256[0] ^= 1,
                "data.sections[1] at byte 9104: the SHA-256 does not match",
            ),
        ] {
            assert_eq!(edited(edit), expected);
        }
    }

    #[test]
    fn unknown_variants_and_long_numbers_are_named() {
        let bytes = small();
        let range = FileHeader::parse(&bytes).unwrap().manifest_range();
        let raw = |edit: fn(&mut Vec<u8>)| {
            let mut manifest = bytes[range.clone()].to_vec();
            edit(&mut manifest);
            with_manifest(&manifest)
        };
        // Offsets in the manifest: counter 13, class 15, kernels 16, sections 24, first kind 25.
        assert_eq!(
            raw(|m| m[15] = 2),
            "manifest.class at byte 79: 2 is unknown"
        );
        assert_eq!(
            raw(|m| m[25] = 6),
            "manifest.sections[0].kind at byte 89: 6 is unknown"
        );
        assert_eq!(
            raw(|m| drop(m.splice(15..16, [0x80, 0]))),
            "manifest.class at byte 79: a number too large or not in its shortest form"
        );
        assert_eq!(
            raw(|m| drop(m.splice(13..15, [0xff, 0xff, 0xff, 0xff, 0x10]))),
            "manifest.counter at byte 77: a number too large or not in its shortest form"
        );
        assert_eq!(
            raw(|m| m.push(0)),
            "manifest at byte 162: bytes follow that belong to nothing"
        );
        assert_eq!(
            raw(|m| m.truncate(m.len() - 1)),
            "manifest.sections[1].sha256 at byte 161: the bytes end here"
        );
        assert_eq!(
            raw(|m| m[1] = 0xff),
            "manifest.name at byte 64: text that is empty, too long, not UTF-8 or has control characters"
        );
    }

    #[test]
    fn padding_must_be_zero() {
        let head = |at| move |bytes: &mut Vec<u8>| bytes[at] = 1;
        assert_eq!(
            says(head(4095)),
            "head_padding at byte 4095: a padding byte is not zero"
        );
        // In the data, the chunk's hash finds it first; the padding is checked for whoever made
        // a table that agrees with it.
        let mut bytes = small();
        let at = 4096 + 5000 + 3;
        bytes[at] = 1;
        let hash = sha256(&bytes[8192..]);
        let table = FileHeader::parse(&bytes).unwrap().table_range();
        bytes[table.start + 32..table.end].copy_from_slice(&hash);
        let error = Bundle::open(&bytes).unwrap().verify_data().unwrap_err();
        assert_eq!(
            error.to_string(),
            "data.padding at byte 9099: a padding byte is not zero"
        );
    }

    #[test]
    fn errors_of_the_signatures_name_field_and_offset() {
        let signed = || {
            let mut bytes = small();
            sign(&mut bytes, &Fake(1)).unwrap();
            sign(&mut bytes, &Fake(2)).unwrap();
            bytes
        };
        let start = FileHeader::parse(&signed()).unwrap().signed_bytes();
        let says = |at: usize, value: &[u8]| {
            let mut bytes = signed();
            bytes[start + at..start + at + value.len()].copy_from_slice(value);
            Head::parse(&bytes).unwrap_err().to_string()
        };
        let at = |offset: usize| start + offset;
        assert_eq!(
            says(0, &[9]),
            format!("signatures.count at byte {}: too many", at(0))
        );
        assert_eq!(
            says(0, &[3]),
            format!(
                "signatures[2].len at byte {}: 0, where 115 follows from the rest",
                at(235)
            )
        );
        assert_eq!(
            says(0, &[1]),
            format!(
                "head_padding at byte {}: a padding byte is not zero",
                at(118)
            )
        );
        let shape = "not a signature of the one shape";
        assert_eq!(
            says(3, &[0]),
            format!(
                "signatures[0] at byte {}: {shape}: not the bytes of COSE_Sign1 as Edgeward writes it",
                at(3)
            )
        );
        let second = signed()[at(120)..at(235)].to_vec();
        assert_eq!(
            says(3, &second),
            format!(
                "signatures[1] at byte {}: there is one like it already",
                at(120)
            )
        );
    }

    #[test]
    fn signatures_are_added_up_to_eight() {
        let mut bytes = small();
        let unsigned = bytes.clone();
        for number in 1..=8 {
            assert_eq!(
                sign(&mut bytes, &Fake(number)),
                Ok(Fake(number).public_key().id())
            );
            let before = bytes.clone();
            sign(&mut bytes, &Fake(number)).unwrap();
            assert_eq!(bytes, before, "signing twice changes nothing");
        }
        assert_eq!(sign(&mut bytes, &Fake(9)), Err(WriteError::SignaturesFull));
        let (head, before) = (
            Head::parse(&bytes).unwrap(),
            Head::parse(&unsigned).unwrap(),
        );
        assert_eq!(
            head.digest(),
            before.digest(),
            "signatures leave the digest alone"
        );
        assert_eq!(head.signatures().count(), 8);
        let keys: Vec<_> = (1..=8).map(|number| Fake(number).public_key()).collect();
        let role = RoleKeys::new(8, &keys).unwrap();
        let root = Root {
            version: 1,
            roles: [role.clone(), role.clone(), role.clone(), role],
        };
        assert_eq!(head.verify(&root, &FakeVerifier), Ok(()));
        bytes[5000] ^= 1;
        assert!(matches!(
            sign(&mut bytes, &Fake(1)),
            Err(WriteError::Bundle(_))
        ));
    }

    #[test]
    fn a_bundle_fits_the_board_it_is_for_only() {
        let bytes = small();
        let head = Head::parse(&bytes).unwrap();
        let mut manifest = head.manifest().unwrap();
        manifest.arena_bytes = 100;
        manifest.min_runtime = 3;
        let board = Capabilities {
            class: BoardClass::Linux,
            kernels: &["generic", "tract"],
            runtime: 3,
            slot_bytes: head.total_bytes(),
            arena_bytes: 100,
        };
        let fit = |board| manifest.check_fit(&board, head.total_bytes());
        assert_eq!(fit(board), Ok(()));
        for (board, error, reason) in [
            (
                Capabilities {
                    class: BoardClass::Mcu,
                    ..board
                },
                FitError::Class {
                    needs: BoardClass::Linux,
                    has: BoardClass::Mcu,
                },
                Reason::WrongClass,
            ),
            (
                Capabilities {
                    kernels: &["generic"],
                    ..board
                },
                FitError::Kernels,
                Reason::WrongClass,
            ),
            (
                Capabilities {
                    runtime: 2,
                    ..board
                },
                FitError::Runtime { needs: 3, has: 2 },
                Reason::Unsupported,
            ),
            (
                Capabilities {
                    slot_bytes: 9119,
                    ..board
                },
                FitError::Slot {
                    needs: 9120,
                    has: 9119,
                },
                Reason::Unsupported,
            ),
            (
                Capabilities {
                    arena_bytes: 99,
                    ..board
                },
                FitError::Arena {
                    needs: 100,
                    has: 99,
                },
                Reason::Unsupported,
            ),
        ] {
            assert_eq!(fit(board), Err(error));
            assert_eq!(error.reason(), reason);
        }
    }

    #[test]
    fn the_largest_manifest_fits_its_bound() {
        let text = "x".repeat(32);
        let section = crate::bundle::Section {
            kind: SectionKind::Golden,
            offset: u32::MAX,
            len: u32::MAX,
            sha256: Digest32::default(),
        };
        let manifest = Manifest {
            name: &text,
            version: &text,
            counter: u32::MAX,
            class: BoardClass::Mcu,
            kernels: &text,
            arena_bytes: u32::MAX,
            min_runtime: u16::MAX,
            sections: core::iter::repeat_n(section, 8).collect(),
        };
        let encoded = postcard::to_extend(&manifest, Vec::new()).unwrap();
        assert_eq!(encoded.len(), MAX_MANIFEST_BYTES);
        const { assert!(HEADER_BYTES + MAX_MANIFEST_BYTES + SIGNATURE_BLOCK_BYTES < CHUNK_BYTES) };
    }

    #[test]
    fn what_cannot_be_read_cannot_be_written() {
        for text in ["", "a\u{7}", &"x".repeat(33)] {
            let mut description = description();
            description.version = text.into();
            let error = BundleWriter::new(description).unwrap_err();
            assert_eq!(error, WriteError::Text { field: "version" });
        }
        let mut writer = BundleWriter::new(description()).unwrap();
        assert_eq!(writer.finish(), Err(WriteError::NoSections));
        let kind = SectionKind::Golden;
        assert_eq!(
            writer.section(kind, []).unwrap_err(),
            WriteError::EmptySection(kind)
        );
        writer.section(kind, [1]).unwrap();
        assert_eq!(
            writer.section(kind, [1]).unwrap_err(),
            WriteError::DuplicateSection(kind)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_sections_come_back(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..6000), 1..=6),
            counter: u32,
            arena_bytes: u32,
            min_runtime: u16,
        ) {
            let mut description = description();
            description.counter = counter;
            description.arena_bytes = arena_bytes;
            description.min_runtime = min_runtime;
            let mut writer = BundleWriter::new(description).unwrap();
            for (kind, bytes) in SectionKind::ALL.into_iter().zip(&contents) {
                writer.section(kind, bytes.clone()).unwrap();
            }
            let bytes = writer.finish().unwrap();
            let bundle = Bundle::open(&bytes).unwrap();
            for (kind, bytes) in SectionKind::ALL.into_iter().zip(&contents) {
                prop_assert_eq!(bundle.section(kind), Some(&bytes[..]));
            }
            let manifest = bundle.manifest();
            prop_assert_eq!(manifest.counter, counter);
            prop_assert_eq!(manifest.arena_bytes, arena_bytes);
            prop_assert_eq!(manifest.min_runtime, min_runtime);
            prop_assert_eq!(manifest.sections.len(), contents.len());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Bundle::open(&bytes);
        }

        /// Reaches what lies behind the magic: a sound bundle with some bytes replaced in its head,
        /// never opened with anything but a typed error or a bundle whose data can be checked.
        #[test]
        fn damaged_heads_never_panic(
            edits in prop::collection::vec((0..1200_usize, any::<u8>()), 1..6),
        ) {
            let mut bytes = small();
            sign(&mut bytes, &Fake(1)).unwrap();
            prop_assert!(Bundle::open(&bytes).is_ok(), "whole before it is damaged");
            for (at, value) in edits {
                bytes[at] = value;
            }
            if let Ok(bundle) = Bundle::open(&bytes) {
                let _ = bundle.verify_data();
                for kind in SectionKind::ALL {
                    let _ = bundle.section(kind);
                }
            }
        }
    }
}
