//! The fixed header of a bundle and the manifest behind it.

use super::error::{BundleError, BundleErrorKind as Kind, Field};
use super::{
    BoardClass, CHUNK_BYTES, MAX_SECTIONS, MAX_TEXT_BYTES, Manifest, SECTION_ALIGN, Section,
    SectionKind,
};
use crate::trust::cose::BUNDLE_SIGNATURE_BYTES;
use crate::trust::root::MAX_KEYS;
use core::ops::Range;
use heapless::Vec;

/// The first bytes of every bundle.
pub const MAGIC: [u8; 8] = *b"EDGEWARD";
/// The format version that this code reads and writes.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a hash in the chunk table.
pub const HASH_BYTES: usize = 32;
/// Most signatures of a bundle.
pub const MAX_BUNDLE_SIGNATURES: usize = MAX_KEYS;
/// Bytes set aside for the signatures: their count, and each with its length.
pub const SIGNATURE_BLOCK_BYTES: usize = 1 + MAX_BUNDLE_SIGNATURES * (2 + BUNDLE_SIGNATURE_BYTES);
/// Bytes of the largest manifest: three texts, five numbers and the sections.
pub const MAX_MANIFEST_BYTES: usize =
    3 * (1 + MAX_TEXT_BYTES) + 5 + 1 + 5 + 3 + 1 + MAX_SECTIONS * (1 + 5 + 5 + HASH_BYTES);

/// The fixed header, checked in itself: every other place in the head follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Bytes of the manifest.
    pub manifest_bytes: u32,
    /// Chunks of the data part.
    pub chunk_count: u32,
    /// Bytes before the data part, a multiple of the chunk size.
    pub head_bytes: u32,
    /// Bytes in all, a multiple of 16.
    pub total_bytes: u32,
}

impl FileHeader {
    /// The header of a bundle with this much manifest and data.
    ///
    /// None when the sizes exceed 32 bits.
    #[must_use]
    pub fn new(manifest_bytes: u32, data_bytes: u32) -> Option<Self> {
        let chunk_count = data_bytes.div_ceil(CHUNK_BYTES as u32);
        let head_bytes = head_bytes(manifest_bytes, chunk_count)?;
        Some(Self {
            manifest_bytes,
            chunk_count,
            head_bytes,
            total_bytes: head_bytes.checked_add(data_bytes)?,
        })
    }

    /// Reads and checks the header at the start of `bytes`, of which it needs [`HEADER_BYTES`].
    ///
    /// # Errors
    /// Names the first field that is wrong, and its offset.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            // Wrong bytes are named before missing ones: a text file is not a truncated bundle.
            let field = if MAGIC.starts_with(bytes.get(..8).unwrap_or(bytes)) {
                (Field::File, bytes.len(), Kind::Truncated)
            } else {
                (Field::Magic, 0, Kind::NotABundle)
            };
            return Err(BundleError::at(field.0, field.1, field.2));
        };
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if bytes[..8] != MAGIC {
            return Err(BundleError::at(Field::Magic, 0, Kind::NotABundle));
        }
        if u16_at(8) != FORMAT_VERSION {
            return Err(BundleError::at(
                Field::FormatVersion,
                8,
                Kind::UnknownVersion(u16_at(8)),
            ));
        }
        let manifest_bytes = u32_at(16);
        let chunk_count = u32_at(20);
        let total_bytes = u32_at(28);
        same(
            Field::HeaderBytes,
            10,
            u16_at(10).into(),
            HEADER_BYTES as u32,
        )?;
        same(Field::ChunkBytes, 12, u32_at(12), CHUNK_BYTES as u32)?;
        if manifest_bytes == 0 || manifest_bytes as usize > MAX_MANIFEST_BYTES {
            return Err(BundleError::at(Field::ManifestBytes, 16, Kind::OutOfRange));
        }
        if chunk_count == 0 {
            return Err(BundleError::at(Field::ChunkCount, 20, Kind::Empty));
        }
        let head_bytes = head_bytes(manifest_bytes, chunk_count).ok_or(BundleError::at(
            Field::ChunkCount,
            20,
            Kind::OutOfRange,
        ))?;
        same(Field::HeadBytes, 24, u32_at(24), head_bytes)?;
        let data = total_bytes.checked_sub(head_bytes).ok_or(BundleError::at(
            Field::TotalBytes,
            28,
            Kind::OutOfRange,
        ))?;
        if !(total_bytes as usize).is_multiple_of(SECTION_ALIGN) {
            let kind = Kind::Misaligned(SECTION_ALIGN as u16);
            return Err(BundleError::at(Field::TotalBytes, 28, kind));
        }
        same(
            Field::ChunkCount,
            20,
            chunk_count,
            data.div_ceil(CHUNK_BYTES as u32),
        )?;
        if let Some(at) = bytes[32..].iter().position(|byte| *byte != 0) {
            return Err(BundleError::at(Field::Reserved, 32 + at, Kind::NotZero));
        }
        Ok(Self {
            manifest_bytes,
            chunk_count,
            head_bytes,
            total_bytes,
        })
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
        bytes[12..16].copy_from_slice(&(CHUNK_BYTES as u32).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.manifest_bytes.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.chunk_count.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.total_bytes.to_le_bytes());
        bytes
    }

    /// Where the manifest is.
    #[must_use]
    pub fn manifest_range(&self) -> Range<usize> {
        HEADER_BYTES..HEADER_BYTES + self.manifest_bytes as usize
    }

    /// Where the chunk table is.
    #[must_use]
    pub fn table_range(&self) -> Range<usize> {
        let start = self.manifest_range().end;
        start..start + self.chunk_count as usize * HASH_BYTES
    }

    /// Bytes from the start that the signatures cover: header, manifest and chunk table. The
    /// signature block follows them.
    #[must_use]
    pub fn signed_bytes(&self) -> usize {
        self.table_range().end
    }

    /// Bytes of data chunk `index`; none when there is no such chunk.
    #[must_use]
    pub fn chunk_len(&self, index: u32) -> Option<usize> {
        let data = self.total_bytes - self.head_bytes;
        let start = index.checked_mul(CHUNK_BYTES as u32)?;
        let rest = data.checked_sub(start).filter(|rest| *rest > 0)?;
        Some((rest as usize).min(CHUNK_BYTES))
    }
}

/// Bytes of the head with all its signatures, in whole chunks.
fn head_bytes(manifest_bytes: u32, chunk_count: u32) -> Option<u32> {
    let used = chunk_count
        .checked_mul(HASH_BYTES as u32)?
        .checked_add(manifest_bytes)?
        .checked_add((HEADER_BYTES + SIGNATURE_BLOCK_BYTES) as u32)?;
    used.checked_next_multiple_of(CHUNK_BYTES as u32)
}

fn same(field: Field, offset: usize, found: u32, expected: u32) -> Result<(), BundleError> {
    if found == expected {
        return Ok(());
    }
    Err(BundleError::at(
        field,
        offset,
        Kind::Inconsistent { expected, found },
    ))
}

/// Decodes and checks the manifest; `head` holds the bundle's first bytes up to its end at least.
///
/// The encoding is postcard's. It is read by hand, so that an error names the field and its offset,
/// and so that no number has two forms.
pub(super) fn manifest<'a>(
    head: &'a [u8],
    header: &FileHeader,
) -> Result<Manifest<'a>, BundleError> {
    let range = header.manifest_range();
    let mut cursor = Cursor {
        bytes: head.get(..range.end).unwrap_or(head),
        at: range.start,
        error: BundleError::at(Field::ManifestEnd, range.start, Kind::Truncated),
    };
    let manifest = fields(&mut cursor, header);
    manifest.ok_or(cursor.error)
}

/// Reads the fields; where one is wrong, the cursor says why.
fn fields<'a>(cursor: &mut Cursor<'a>, header: &FileHeader) -> Option<Manifest<'a>> {
    let name = cursor.text(Field::Name)?;
    let version = cursor.text(Field::Version)?;
    let counter = cursor.u32(Field::Counter)?;
    let at = cursor.at;
    let class = match cursor.u32(Field::Class)? {
        0 => BoardClass::Linux,
        1 => BoardClass::Mcu,
        code => return cursor.fail(Field::Class, at, Kind::UnknownVariant(code)),
    };
    let kernels = cursor.text(Field::Kernels)?;
    let arena_bytes = cursor.u32(Field::ArenaBytes)?;
    let at = cursor.at;
    let Ok(min_runtime) = u16::try_from(cursor.u32(Field::MinRuntime)?) else {
        return cursor.fail(Field::MinRuntime, at, Kind::NotCanonical);
    };
    let sections = sections(cursor, header)?;
    if cursor.at != header.manifest_range().end {
        return cursor.fail(Field::ManifestEnd, cursor.at, Kind::Trailing);
    }
    Some(Manifest {
        name,
        version,
        counter,
        class,
        kernels,
        arena_bytes,
        min_runtime,
        sections,
    })
}

/// Reads the sections and checks that they lie in the data part, one after the other.
fn sections(cursor: &mut Cursor<'_>, header: &FileHeader) -> Option<Vec<Section, MAX_SECTIONS>> {
    let at = cursor.at;
    let count = cursor.u32(Field::Sections)? as usize;
    if count == 0 {
        return cursor.fail(Field::Sections, at, Kind::Empty);
    }
    let mut sections = Vec::new();
    let mut end = header.head_bytes;
    for index in 0..count.min(MAX_SECTIONS + 1) {
        let Some(section) = section(cursor, header, end, &sections) else {
            cursor.error = cursor.error.index(index);
            return None;
        };
        // The end is within `total_bytes`, so this is at most the next multiple of 16 of that.
        end = section.offset + section.len;
        if sections.push(section).is_err() {
            return cursor.fail(Field::Sections, at, Kind::TooMany);
        }
    }
    let expected = end.next_multiple_of(SECTION_ALIGN as u32);
    if let Err(error) = same(Field::TotalBytes, 28, header.total_bytes, expected) {
        cursor.error = error;
        return None;
    }
    Some(sections)
}

/// Reads one section that must begin at or after `end`, the end of the one before it.
fn section(
    cursor: &mut Cursor<'_>,
    header: &FileHeader,
    end: u32,
    before: &[Section],
) -> Option<Section> {
    let at = cursor.at;
    let code = cursor.u32(Field::SectionKind)?;
    let Some(kind) = SectionKind::from_code(code) else {
        return cursor.fail(Field::SectionKind, at, Kind::UnknownVariant(code));
    };
    if before.iter().any(|section| section.kind == kind) {
        return cursor.fail(Field::SectionKind, at, Kind::Duplicate);
    }
    let at = cursor.at;
    let offset = cursor.u32(Field::SectionOffset)?;
    if !(offset as usize).is_multiple_of(SECTION_ALIGN) {
        let kind = Kind::Misaligned(SECTION_ALIGN as u16);
        return cursor.fail(Field::SectionOffset, at, kind);
    }
    if offset < end {
        return cursor.fail(Field::SectionOffset, at, Kind::Overlap);
    }
    let gap_max = if before.is_empty() { 0 } else { CHUNK_BYTES };
    if offset >= header.total_bytes || (offset - end) as usize > gap_max {
        return cursor.fail(Field::SectionOffset, at, Kind::OutOfRange);
    }
    let at = cursor.at;
    let len = cursor.u32(Field::SectionLen)?;
    if len == 0 {
        return cursor.fail(Field::SectionLen, at, Kind::Empty);
    }
    if len > header.total_bytes - offset {
        return cursor.fail(Field::SectionLen, at, Kind::OutOfRange);
    }
    let sha256 = *cursor
        .slice(Field::SectionHash, HASH_BYTES)?
        .first_chunk()?;
    Some(Section {
        kind,
        offset,
        len,
        sha256,
    })
}

/// Reads postcard's encoding. What is wrong stays here, so that only its absence is handed on.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    error: BundleError,
}

impl<'a> Cursor<'a> {
    #[inline(never)]
    fn wrong(&mut self, field: Field, at: usize, kind: Kind) {
        self.error = BundleError::at(field, at, kind);
    }

    fn fail<T>(&mut self, field: Field, at: usize, kind: Kind) -> Option<T> {
        self.wrong(field, at, kind);
        None
    }

    #[inline(never)]
    fn slice(&mut self, field: Field, len: usize) -> Option<&'a [u8]> {
        let slice = self.bytes.get(self.at..self.at.saturating_add(len));
        if slice.is_none() {
            return self.fail(field, self.bytes.len(), Kind::Truncated);
        }
        self.at += len;
        slice
    }

    /// A number in groups of seven bits, least first, in as few bytes as it needs.
    #[inline(never)]
    fn u32(&mut self, field: Field) -> Option<u32> {
        let start = self.at;
        let mut value = 0_u64;
        for index in 0..5 {
            let &byte = self.slice(field, 1)?.first()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    break;
                }
                if let Ok(value) = u32::try_from(value) {
                    return Some(value);
                }
                break;
            }
        }
        self.fail(field, start, Kind::NotCanonical)
    }

    #[inline(never)]
    fn text(&mut self, field: Field) -> Option<&'a str> {
        let start = self.at;
        let len = self.u32(field)? as usize;
        if len > 0 && len <= MAX_TEXT_BYTES {
            let text = core::str::from_utf8(self.slice(field, len)?);
            if let Some(text) = text.ok().filter(|text| text_is_plain(text)) {
                return Some(text);
            }
        }
        self.fail(field, start, Kind::BadText)
    }
}

/// Whether a text may stand in a manifest: 1 to 32 bytes and no control characters, because it is
/// printed on terminals.
pub(super) fn text_is_plain(text: &str) -> bool {
    (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}
