//! Flash of journal and outbox, and the checksums of changed records made right.
//!
//! The layouts are those of `docs/SLOTS.md` and of the outbox's own documentation, written down a
//! second time: what repairs must not be what is tried.

use std::num::NonZeroU32;

use crc::{CRC_32_ISO_HDLC, Crc};
use edgeward::slots::journal::{JournalState, encode_record};
use edgeward::slots::ram::RamFlash;
use edgeward::telemetry::outbox::{Outbox, Region};

use crate::Mode::{Content, Raw, Repaired};
use crate::{root, telemetry};

/// Erase size, and bytes of a sector of journal and outbox.
pub const ERASE: usize = 4096;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A journal record around `payload`, its checksum right.
pub fn journal_record(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut record = b"EWJ1".to_vec();
    record.extend((payload.len() as u16).to_le_bytes());
    record.extend([1, 0]);
    record.extend(sequence.to_le_bytes());
    record.extend(payload);
    let total = (record.len() + 4).next_multiple_of(32);
    record.resize(total - 4, 0);
    record.extend(CRC.checksum(&record).to_le_bytes());
    record
}

/// Makes the checksum of every journal record in `bytes` right that begins where one may.
pub fn repair_journal(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + 12) {
        let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let total = (12 + len + 4).next_multiple_of(32);
        if header[..4] == *b"EWJ1"
            && let Some(record) = bytes.get_mut(at..at + total)
        {
            let crc = CRC.checksum(&record[..total - 4]);
            record[total - 4..].copy_from_slice(&crc.to_le_bytes());
            at += total;
        } else {
            at += 32;
        }
    }
}

/// Journal records of a board's first states.
pub fn journals() -> Vec<Vec<u8>> {
    let mut image = Vec::new();
    let mut state = JournalState::new(root());
    let mut seeds = Vec::new();
    for sequence in 1..4 {
        state.boot = sequence;
        state.floor = 7 * sequence;
        let mut record = [0; 2048];
        let len = encode_record(sequence, &state, &mut record).expect("it fits");
        image.extend(&record[..len]);
        seeds.push(Raw.seed(&record[..len]));
        let payload = usize::from(u16::from_le_bytes([record[4], record[5]]));
        seeds.push(Content.seed(&record[12..12 + payload]));
    }
    seeds.extend([Raw.seed(&image), Repaired.seed(&image)]);
    seeds
}

/// The outbox that is tried: four sectors, room for the smallest bodies.
pub type Small<S> = Outbox<S, 8, 4, 64, 2048>;
/// Its flash.
pub type Flash = RamFlash<4, ERASE>;

/// Where it lies.
pub fn region() -> Region {
    Region {
        offset: 0,
        sector_bytes: ERASE as u32,
        sectors: 4,
    }
}

/// Makes the checksums of every outbox sector and its records right, as far as their lengths lead.
pub fn repair_outbox(bytes: &mut [u8]) {
    for sector in bytes.chunks_mut(ERASE) {
        if sector.len() < 44 || sector[..4] != *b"EWOB" {
            continue;
        }
        let crc = CRC.checksum(&sector[..40]);
        sector[40..44].copy_from_slice(&crc.to_le_bytes());
        let mut at = 44;
        while let Some(len) = u32_at(sector, at + 4) {
            let end = (at + 40).saturating_add(len as usize);
            let Some(record) = sector.get_mut(at..end) else {
                break;
            };
            let mut digest = CRC.digest();
            digest.update(&record[..36]);
            digest.update(&record[40..]);
            record[36..40].copy_from_slice(&digest.finalize().to_le_bytes());
            at = end.next_multiple_of(4);
        }
    }
}

/// An outbox with a few frames, some of them acknowledged.
pub fn outboxes() -> Vec<Vec<u8>> {
    let mut flash = Flash::new(4 * ERASE);
    {
        let mut outbox =
            Small::open(&mut flash, region(), 1, NonZeroU32::MIN).expect("an empty flash");
        for (time, body) in telemetry::bodies().iter().cycle().take(9).enumerate() {
            outbox.push(time as u64, body).expect("there is room");
        }
        outbox.acknowledge(2).expect("it was made");
    }
    vec![Raw.seed(flash.bytes()), Repaired.seed(flash.bytes())]
}
