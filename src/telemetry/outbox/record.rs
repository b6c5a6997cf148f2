//! The two things that an outbox writes: sector headers and records.
//!
//! All numbers are little-endian. Everything is padded with ones to the flash's word, so that each
//! word is written once between two erases.

use super::OutboxError;
use super::index::Entry;
use crate::telemetry::{Body, BodyRef, before};
use core::num::NonZeroU32;
use crc::{CRC_32_ISO_HDLC, Crc, NoTable};

/// Without its table: a record has some hundred bytes.
static CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);
/// First bytes of a sector in use.
const MAGIC: [u8; 4] = *b"EWOB";
/// Version of sector headers.
pub(super) const FORMAT: u8 = 2;
/// Version of records; those of the version [before] are read, too.
const RECORD_FORMAT: u8 = 3;
/// Bytes of a sector's header before its padding.
pub(super) const SECTOR_HEADER: usize = 44;
/// Bytes of a record's header.
pub(super) const RECORD_HEADER: usize = 40;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum RecordKind {
    /// A birth.
    Birth = 1,
    /// A summary.
    Summary = 2,
    /// An event.
    Event = 3,
    /// The highest acknowledged number; never leaves the outbox.
    Acknowledged = 16,
}

impl RecordKind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Birth),
            2 => Some(Self::Summary),
            3 => Some(Self::Event),
            16 => Some(Self::Acknowledged),
            _ => None,
        }
    }

    /// The kind of record that holds `body`.
    #[must_use]
    pub fn of_body<'a, const F: usize, const C: usize>(body: impl Into<BodyRef<'a, F, C>>) -> Self {
        match body.into() {
            BodyRef::Birth(_) => Self::Birth,
            BodyRef::Summary(_) => Self::Summary,
            BodyRef::Event(_) => Self::Event,
        }
    }
}

/// Start of a sector in use; written last where a sector is filled by compaction, so that its
/// presence commits the whole sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SectorHeader {
    /// Counts up with each sector that is opened, from 1.
    pub generation: u32,
    /// Bytes of a sector, to notice another layout.
    pub sector_bytes: u32,
    /// Sectors of the region, to notice another layout.
    pub sectors: u32,
    /// Names the outbox: the same in all its sectors.
    pub epoch: NonZeroU32,
    /// Every frame up to this number was acknowledged when the sector was opened.
    pub acknowledged: u64,
    /// The number of the next frame when the sector was opened.
    pub next_sequence: u64,
}

impl SectorHeader {
    pub(super) fn encode(&self) -> [u8; SECTOR_HEADER] {
        let mut bytes = [0; SECTOR_HEADER];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = FORMAT;
        bytes[8..12].copy_from_slice(&self.generation.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.sector_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.sectors.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.acknowledged.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.next_sequence.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.epoch.get().to_le_bytes());
        let crc = CRC.checksum(&bytes[..40]);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The version of an intact header that another version of this program wrote. Only version 1
    /// can be told from damage: its checksum lies at byte 36.
    pub(super) fn other_version(bytes: &[u8]) -> Option<u8> {
        let bytes = bytes.get(..SECTOR_HEADER)?;
        let intact = bytes[0..4] == MAGIC
            && bytes[4..8] == [1, 0, 0, 0]
            && u32_at(bytes, 36)? == CRC.checksum(&bytes[..36]);
        intact.then_some(1)
    }

    /// The header, or nothing when the bytes are not one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SECTOR_HEADER)?;
        let intact = bytes[0..4] == MAGIC
            && bytes[4..8] == [FORMAT, 0, 0, 0]
            && u32_at(bytes, 40)? == CRC.checksum(&bytes[..40]);
        let header = Self {
            generation: u32_at(bytes, 8)?,
            sector_bytes: u32_at(bytes, 12)?,
            sectors: u32_at(bytes, 16)?,
            acknowledged: u64_at(bytes, 20)?,
            next_sequence: u64_at(bytes, 28)?,
            epoch: NonZeroU32::new(u32_at(bytes, 36)?)?,
        };
        // Frames that were never made are not acknowledged: new ones would not be sent.
        // Nor do numbers go beyond what the host counts in, or generations beyond any flash's life.
        let possible = header.acknowledged < header.next_sequence
            && header.next_sequence <= i64::MAX as u64
            && header.generation <= i32::MAX as u32;
        (intact && possible).then_some(header)
    }
}

/// Start of a record; its body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub kind: RecordKind,
    /// Bytes of the body.
    pub len: u32,
    pub first_sequence: u64,
    pub sequence: u64,
    pub time_ms: u64,
    pub boot: u32,
}

impl RecordHeader {
    /// What the index holds of this record at `offset` in a sector.
    pub(super) fn entry(&self, sector: u16, offset: u32) -> Entry {
        Entry {
            first_sequence: self.first_sequence,
            sequence: self.sequence,
            offset,
            sector,
            kind: self.kind,
        }
    }

    /// Fills in the header and the checksum of a record whose body is already in place.
    pub(super) fn seal(&self, record: &mut [u8]) -> Result<(), OutboxError> {
        let needed = RECORD_HEADER + self.len as usize;
        let most = record.len() as u32;
        let record = record.get_mut(..needed).ok_or(OutboxError::TooLarge {
            bytes: needed as u32,
            most,
        })?;
        record[0] = self.kind as u8;
        record[1] = RECORD_FORMAT;
        record[2..4].fill(0);
        record[4..8].copy_from_slice(&self.len.to_le_bytes());
        record[8..16].copy_from_slice(&self.first_sequence.to_le_bytes());
        record[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        record[24..32].copy_from_slice(&self.time_ms.to_le_bytes());
        record[32..36].copy_from_slice(&self.boot.to_le_bytes());
        let crc = checksum(record);
        record[36..40].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// The header, without a look at the checksum; nothing when it can't be one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER)?;
        let header = Self {
            kind: RecordKind::of(bytes[0])?,
            len: u32_at(bytes, 4)?,
            first_sequence: u64_at(bytes, 8)?,
            sequence: u64_at(bytes, 16)?,
            time_ms: u64_at(bytes, 24)?,
            boot: u32_at(bytes, 32)?,
        };
        let plausible = matches!(bytes[1..4], [RECORD_FORMAT | before::VERSION, 0, 0])
            && header.first_sequence <= header.sequence
            // Frames count from 1; a host refuses number 0, and would be sent it for ever.
            && (header.kind == RecordKind::Acknowledged || header.first_sequence > 0)
            // The host counts no further, and no board gets there.
            && header.sequence < i64::MAX as u64;
        plausible.then_some(header)
    }

    /// Makes a record of the version before, which `buffer` begins with, one of this version; leaves another
    /// as it is. Nothing when it then has no room, which no record has that this program may have written.
    pub(super) fn complete(mut self, buffer: &mut [u8]) -> Option<Self> {
        if buffer.get(1) == Some(&before::VERSION) {
            let end = RECORD_HEADER + self.len as usize;
            let missing = before::missing(buffer.get(RECORD_HEADER..end)?);
            let place = buffer.get_mut(end..end + missing.len())?;
            place.copy_from_slice(missing);
            self.len += missing.len() as u32;
            self.seal(buffer).ok()?;
        }
        Some(self)
    }

    /// Whether the checksum of the whole record holds.
    pub(super) fn holds(&self, record: &[u8]) -> bool {
        record
            .get(..RECORD_HEADER + self.len as usize)
            .is_some_and(|record| u32_at(record, 36) == Some(checksum(record)))
    }
}

/// CRC-32 of a record but for the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(record.get(..36).unwrap_or_default());
    digest.update(record.get(RECORD_HEADER..).unwrap_or_default());
    digest.finalize()
}

/// Reads a body that takes all of `bytes`.
pub(super) fn decode_body<const F: usize, const C: usize>(
    bytes: &[u8],
) -> Result<Body<F, C>, OutboxError> {
    match postcard::take_from_bytes(bytes) {
        Ok((body, [])) => Ok(body),
        _ => Err(OutboxError::Body),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = SectorHeader::decode(&bytes);
            if let Some(header) = RecordHeader::decode(&bytes) {
                let _ = header.holds(&bytes);
            }
        }
    }

    #[test]
    fn each_flipped_byte_of_a_header_or_record_is_noticed() {
        let header = SectorHeader {
            generation: 3,
            sector_bytes: 4096,
            sectors: 4,
            acknowledged: 7,
            next_sequence: 9,
            epoch: NonZeroU32::MAX,
        };
        let bytes = header.encode();
        assert_eq!(SectorHeader::decode(&bytes), Some(header));
        for at in 0..bytes.len() {
            for flip in 1..=255 {
                let mut bytes = bytes;
                bytes[at] ^= flip;
                assert_eq!(SectorHeader::decode(&bytes), None, "byte {at} ^ {flip}");
            }
            assert_eq!(SectorHeader::decode(&bytes[..at]), None, "{at} bytes");
        }
        let impossible = SectorHeader {
            acknowledged: 9,
            ..header
        };
        assert_eq!(SectorHeader::decode(&impossible.encode()), None);
        let mut number_zero = [0; RECORD_HEADER];
        let zero = RecordHeader {
            kind: RecordKind::Summary,
            len: 0,
            first_sequence: 0,
            sequence: 1,
            time_ms: 0,
            boot: 0,
        };
        assert_eq!(zero.seal(&mut number_zero), Ok(()));
        assert_eq!(RecordHeader::decode(&number_zero), None);
        let mut record = [5; RECORD_HEADER + 3];
        let header = RecordHeader {
            kind: RecordKind::Event,
            len: 3,
            first_sequence: 1,
            sequence: 2,
            time_ms: 3,
            boot: 4,
        };
        assert_eq!(header.seal(&mut record), Ok(()));
        assert_eq!(RecordHeader::decode(&record), Some(header));
        let accepts =
            |bytes: &[u8]| RecordHeader::decode(bytes).is_some_and(|header| header.holds(bytes));
        for at in 0..record.len() {
            for flip in 1..=255 {
                let mut record = record;
                record[at] ^= flip;
                assert!(!accepts(&record), "byte {at} ^ {flip}");
            }
            assert!(!accepts(&record[..at]), "{at} bytes");
        }
    }
}
