//! Reading a bundle in place: the head alone, or the whole file.

use super::error::{BundleError, BundleErrorKind as Kind, Field};
use super::header::{self, FileHeader, HASH_BYTES, MAX_BUNDLE_SIGNATURES};
use super::{CHUNK_BYTES, Manifest, SectionKind};
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
mod tests;
