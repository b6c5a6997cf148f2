use super::*;
use crate::slots::ram::RamFlash;
use crate::trust::PublicKey;
use crate::trust::root::{MAX_KEYS, RoleKeys};
use embedded_storage::nor_flash::ReadNorFlash;
use proptest::prelude::*;

const SECTOR: u32 = 4096;
const SECTORS: [u32; 2] = [0, SECTOR];

fn open<S: NorFlash>(flash: &mut S) -> Result<(Journal, JournalState), Error> {
    let mut state = JournalState::blank();
    let journal = Journal::open(flash, SECTORS, SECTOR, &mut state)?;
    Ok((journal, state))
}

fn root(version: u32, keys: usize) -> Root {
    let key = |n: usize| PublicKey([n as u8; 32]);
    let role = RoleKeys {
        threshold: 1,
        keys: (0..keys).map(key).collect(),
    };
    Root {
        version,
        roles: core::array::from_fn(|_| role.clone()),
    }
}

fn state(floor: u32) -> JournalState {
    JournalState {
        floor,
        ..JournalState::new(root(1, 1))
    }
}

fn largest() -> JournalState {
    let text = Text::try_from("v".repeat(32).as_str()).unwrap();
    let slot = SlotRecord {
        state: SlotState::Rejected(Reason::Operator),
        digest: [0xFF; 32],
        content: [0xFF; 32],
        counter: u32::MAX,
        version: text,
        head_bytes: u32::MAX,
        total_bytes: u32::MAX,
        rollout: [0xFF; 8],
        attempts: u8::MAX,
        max_boots: u8::MAX,
    };
    let rejection = Rejection {
        release: [0xFF; 8],
        rollout: [0xFF; 8],
        reason: Reason::Operator,
    };
    JournalState {
        boot: u32::MAX,
        root: root(u32::MAX, MAX_KEYS),
        floor: u32::MAX,
        desired_sequence: u64::MAX,
        desired_digest: [0xFF; 32],
        slots: [slot.clone(), slot],
        confirmed: Some(1),
        rejected: core::iter::repeat_n(rejection, MAX_REJECTED).collect(),
        last_failure: Some(([0xFF; 8], Reason::Operator)),
    }
}

#[test]
fn the_largest_state_fits_a_record() {
    let mut out = [0; RECORD_BYTES_MAX];
    let total = encode_record(u32::MAX, &largest(), &mut out).unwrap();
    assert_eq!(
        decode_record(&out[..total]),
        Ok((u32::MAX, largest(), total))
    );
    assert!(encode_record(1, &largest(), &mut out[..total - 1]).is_err());
    assert_eq!(
        encode_record(1, &largest(), &mut []),
        Err(RecordError::Full)
    );
}

#[test]
fn every_changed_byte_of_a_record_is_detected() {
    let mut out = [0; RECORD_BYTES_MAX];
    let total = encode_record(7, &state(3), &mut out).unwrap();
    let mut tried = 0;
    for at in 0..total {
        for flip in 1..=255 {
            out[at] ^= flip;
            assert!(
                decode_record(&out[..total]).is_err(),
                "byte {at} xor {flip}"
            );
            out[at] ^= flip;
            tried += 1;
        }
    }
    assert!(decode_record(&out[..total]).is_ok());
    assert!(tried > 100 * 255, "{tried}");
    for len in 0..total {
        assert!(decode_record(&out[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn a_record_of_another_version_is_named_not_skipped() {
    let mut out = [0; RECORD_BYTES_MAX];
    let total = encode_record(7, &state(3), &mut out).unwrap();
    out[6] = 2;
    let crc = CRC.checksum(&out[..total - 4]);
    out[total - 4..total].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode_record(&out[..total]), Err(RecordError::Version(2)));
    let mut flash = RamFlash::<4, 4096>::new(2 * SECTOR as usize);
    flash.write(64, &out[..total]).unwrap();
    let seen = open(&mut flash).unwrap_err();
    let (offset, why) = (64, RecordError::Version(2));
    assert_eq!(seen, Error::Journal { offset, why });
}

fn size<T: Serialize>(value: &T) -> usize {
    let bytes = postcard::to_extend(value, std::vec::Vec::new());
    bytes.unwrap().len()
}

#[test]
fn what_was_written_whole_and_is_no_state_is_named_with_its_place() {
    let mut out = [0; RECORD_BYTES_MAX];
    let state = state(3);
    let total = encode_record(7, &state, &mut out).unwrap();
    let root = 12 + size(&state.boot);
    let floor = root + size(&state.root);
    let slot_a = floor + size(&state.floor) + size(&state.desired_sequence) + 32;
    let slot_b = slot_a + size(&state.slots[0]);
    let confirmed = slot_b + size(&state.slots[1]);
    let length = usize::from(u16::from_le_bytes([out[4], out[5]]));
    let cases = [
        // Bytes with the highest bit set are a number that does not end.
        (12, vec![0xFF; 5], StateField::Boot, 12),
        (root, vec![0xFF; 5], StateField::Root, root),
        (floor, vec![0xFF; 5], StateField::Floor, floor),
        (slot_a, vec![0xFF], StateField::Slot(Slot::A), slot_a),
        (slot_b, vec![0xFF], StateField::Slot(Slot::B), slot_b),
        (confirmed, vec![2], StateField::Confirmed, confirmed),
        (confirmed, vec![1, 2], StateField::Confirmed, confirmed),
        (4, vec![length as u8 + 1], StateField::End, 12 + length),
        (12 + length, vec![1], StateField::End, 12 + length),
    ];
    for (at, change, field, offset) in cases {
        let mut bad = out;
        bad[at..at + change.len()].copy_from_slice(&change);
        let crc = CRC.checksum(&bad[..total - 4]);
        bad[total - 4..total].copy_from_slice(&crc.to_le_bytes());
        let offset = offset as u32;
        let why = RecordError::Payload { field, offset };
        assert_eq!(decode_record(&bad[..total]), Err(why), "{change:?} at {at}");
    }
}

#[test]
fn blank_damaged_and_fresh_are_told_apart() {
    let mut flash = RamFlash::<8, 4096>::new(2 * SECTOR as usize);
    let blank = open(&mut flash).unwrap_err();
    assert_eq!(blank, Error::Unprovisioned);
    flash.write(64, &[0; 8]).unwrap();
    let damaged = open(&mut flash).unwrap_err();
    let why = RecordError::Magic;
    assert_eq!(damaged, Error::Unreadable { offset: 0, why });
    let mut journal = Journal::fresh(SECTORS, SECTOR);
    journal.append(&mut flash, &state(1)).unwrap();
    let (_, seen) = open(&mut flash).unwrap();
    assert_eq!(seen, state(1));
}

/// The newest state wins through many turns of the sectors, whatever the word size.
fn turns<const WRITE: usize>() {
    let mut flash = RamFlash::<WRITE, 2048>::new(2 * SECTOR as usize);
    let mut journal = Journal::fresh(SECTORS, SECTOR);
    for floor in 0..100 {
        journal.append(&mut flash, &state(floor)).unwrap();
        let (reopened, seen) = open(&mut flash).unwrap();
        assert_eq!(seen, state(floor));
        if floor % 3 == 0 {
            journal = reopened;
        }
    }
    let erases = flash.ops().iter().filter(|op| op.erase).count();
    assert!((5..25).contains(&erases), "{erases} erases for 100 records");
}

#[test]
fn sectors_take_turns_for_every_word_size() {
    turns::<1>();
    turns::<2>();
    turns::<4>();
    turns::<8>();
    turns::<16>();
    turns::<32>();
}

#[test]
fn a_damaged_newest_record_gives_the_one_before() {
    for at in 0..10 {
        let mut flash = RamFlash::<4, 4096>::new(2 * SECTOR as usize);
        let mut journal = Journal::fresh(SECTORS, SECTOR);
        journal.append(&mut flash, &state(1)).unwrap();
        let end = journal.place.tail as usize;
        journal.append(&mut flash, &state(2)).unwrap();
        flash.bytes_mut()[end + at * 20] ^= 0x10;
        let (mut journal, seen) = open(&mut flash).unwrap();
        assert_eq!(seen, state(1));
        // The torn tail sends the next record to the other sector.
        journal.append(&mut flash, &state(3)).unwrap();
        assert_eq!(journal.place.sector, 1);
        let (_, seen) = open(&mut flash).unwrap();
        assert_eq!(seen, state(3));
    }
}

#[test]
fn a_torn_record_that_comes_and_goes_is_never_taken_for_a_later_one() {
    use crate::slots::ram::{Cut, Edge, Tear};
    let mut surprises = 0;
    for seed in 0..64 {
        let mut flash = RamFlash::<4, 4096>::new(2 * SECTOR as usize);
        flash.seed(seed);
        let mut journal = Journal::fresh(SECTORS, SECTOR);
        journal.append(&mut flash, &state(1)).unwrap();
        // The power goes in the last word of the second record.
        let tear = Tear::Inside(u32::MAX, Edge::Unstable);
        let op = flash.ops().len() as u32;
        flash.cut_at(Some(Cut { op, tear }));
        journal.append(&mut flash, &state(2)).unwrap_err();
        flash.power_on();
        let (mut journal, seen) = open(&mut flash).unwrap();
        if seen == state(2) {
            continue;
        }
        journal.append(&mut flash, &state(3)).unwrap();
        for _ in 0..32 {
            let sector = &mut [0; RECORD_BYTES_MAX];
            flash.read(0, sector).unwrap();
            let first = decode_record(sector).unwrap().2;
            surprises += u32::from(decode_record(&sector[first..]).is_ok());
            let (_, seen) = open(&mut flash).unwrap();
            assert_eq!(seen, state(3), "seed {seed}");
        }
    }
    assert!(
        surprises > 100,
        "the torn record never came back: {surprises}"
    );
}

proptest! {
    #[test]
    fn any_bytes_open_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        at in 0usize..7000,
        magic in any::<bool>(),
    ) {
        let mut flash = RamFlash::<4, 4096>::new(2 * SECTOR as usize);
        flash.bytes_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
        if magic {
            flash.bytes_mut()[at / 32 * 32..][..4].copy_from_slice(&MAGIC);
        }
        let _ = decode_record(&bytes);
        prop_assert!(open(&mut flash).is_err());
    }

    #[test]
    fn damage_never_gives_a_state_that_was_not_written(
        records in 1u32..12,
        at in 0usize..8192,
        bytes in proptest::collection::vec(any::<u8>(), 1..64),
    ) {
        let mut flash = RamFlash::<4, 4096>::new(2 * SECTOR as usize);
        let mut journal = Journal::fresh(SECTORS, SECTOR);
        for floor in 1..=records {
            journal.append(&mut flash, &state(floor)).unwrap();
        }
        let len = bytes.len().min(8192 - at);
        flash.bytes_mut()[at..at + len].copy_from_slice(&bytes[..len]);
        match open(&mut flash) {
            Ok((_, seen)) => prop_assert_eq!(&seen, &state(seen.floor)),
            Err(error) => {
                let unreadable = matches!(error, Error::Unreadable { .. });
                prop_assert!(unreadable, "{:?}", error);
            }
        }
    }
}

#[test]
fn parts_of_a_state_are_read_and_written_in_place_as_they_are_by_serde() {
    let state = largest();
    let blank = JournalState::blank();
    place::check(&state.slots[0], &blank.slots[0]);
    place::check(&state.rejected, &blank.rejected);
    place::check(&state.last_failure, &blank.last_failure);
    place::check(&state.confirmed, &blank.confirmed);
    place::check(&root(7, 2), &blank.root);
    place::check(&state, &blank);
}
