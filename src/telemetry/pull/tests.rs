use super::*;
use crate::recorder::Recorder;
use crate::telemetry::{Event, Refused};
use crate::trust::testing::{Fake, FakeVerifier};
use proptest::prelude::*;

const PULL: PullId = [0xAB; 16];

fn id(name: &str) -> Id {
    Id::try_from(name).expect("short")
}

fn command() -> Command {
    Command {
        fleet: id("plant"),
        device: id("board-1"),
        boot: 3,
        sequence: 300,
        expires_s: 1_800_000_000,
        order: Order::PullRecord { pull: PULL },
    }
}

/// A recorder with so many events, and its bytes.
fn recorder(events: u64) -> (Recorder<Vec<u8>>, Vec<u8>) {
    let mut recorder = Recorder::new(vec![0; 40 * 300]);
    let what = Refused::Ack;
    for n in 0..events {
        recorder.event(n, [1; 8], &Event::Refused { what });
    }
    let mut bytes = vec![0; recorder.len()];
    recorder.read(0, &mut bytes);
    (recorder, bytes)
}

/// All parts of a pull, in a buffer of this length.
fn pulled(events: u64, room: usize) -> Vec<Vec<u8>> {
    let (recorder, _) = recorder(events);
    let mut pull = Pull::new(PULL, 3, 1000, &recorder, room).expect("room");
    let mut out = vec![0; room];
    let mut parts = Vec::new();
    while !pull.is_done() {
        let device = id("board-1");
        let len = pull.sign_next(&device, &recorder, &Fake(1), &mut out);
        parts.push(out[..len.expect("room")].to_vec());
        pull.sent();
    }
    pull.take_back();
    assert!(!pull.is_done());
    let device = id("board-1");
    let len = pull.sign_next(&device, &recorder, &Fake(1), &mut out);
    assert_eq!(
        Some(&out[..len.expect("room")]),
        parts.last().map(|p| &p[..])
    );
    parts
}

fn read(bytes: &[u8]) -> Result<Part<'_>, DecodeError> {
    verify_part(bytes, &Fake(1).public_key(), &FakeVerifier)
}

#[test]
fn the_parts_of_a_pull_are_the_whole_record() {
    for (events, room) in [(0, 317), (1, 317), (70, 317), (70, 300), (300, 20_000)] {
        let (_, whole) = recorder(events);
        let parts = pulled(events, room);
        let mut all = Vec::new();
        for (bytes, number) in parts.iter().zip(0..) {
            assert!(bytes.len() <= room);
            let part = read(bytes).expect("sound");
            assert_eq!((part.part, usize::from(part.parts)), (number, parts.len()));
            assert_eq!(
                (part.device.as_str(), part.boot, part.pull),
                ("board-1", 3, PULL)
            );
            assert_eq!((part.time_ms, part.capacity), (1000, 12_000));
            assert_eq!(part.total as usize, whole.len());
            all.extend_from_slice(part.bytes);
        }
        assert_eq!(all, whole);
    }
}

#[test]
fn a_buffer_that_is_too_short_is_an_error_and_no_endless_pull() {
    let (recorder, _) = recorder(300);
    let new = |room| Pull::new(PULL, 3, 1000, &recorder, SEAL_BYTES + HEAD_BYTES + room);
    assert_eq!(new(0), Err(NoSpace));
    // 12,000 bytes, two a part.
    assert_eq!(new(2), Err(NoSpace));
    assert!(new(3).is_ok());
}

#[test]
fn the_longest_part_and_command_fit_their_bounds() {
    struct Full;
    impl Snapshot for Full {
        fn capacity(&self) -> usize {
            MAX_BYTES
        }
        fn len(&self) -> usize {
            MAX_BYTES
        }
        fn read(&self, _: usize, out: &mut [u8]) {
            out.fill(0xFF);
        }
    }
    let device = Id::try_from(&*"d".repeat(ID_BYTES)).expect("longest");
    let mut out = vec![0; MAX_FRAME_BYTES];
    let mut pull = Pull::new([0xFF; 16], u32::MAX, u64::MAX, &Full, out.len()).expect("room");
    assert_eq!(usize::from(pull.parts), MAX_BYTES / MAX_PART_BYTES);
    pull.next = pull.parts - 1;
    let len = pull.sign_next(&device, &Full, &Fake(1), &mut out);
    let part = read(&out[..len.expect("room")]).expect("sound");
    assert_eq!(part.bytes.len(), MAX_PART_BYTES);
    let command = Command {
        fleet: device.clone(),
        device,
        boot: u32::MAX,
        sequence: u64::MAX,
        expires_s: u64::MAX,
        order: Order::PullRecord { pull: [0xFF; 16] },
    };
    let mut space = [0; MAX_COMMAND_PAYLOAD_BYTES];
    let len = encode_command(&command, &mut space).expect("it fits").len();
    assert_eq!(len, MAX_COMMAND_PAYLOAD_BYTES);
    assert_eq!(decode_command(&space), Ok(command));
}

#[test]
fn each_change_of_a_byte_is_noticed() {
    for bytes in pulled(7, 317) {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes).is_err(), "byte {at}, bit {bit}");
            }
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(read(&[&bytes[..], &[0]].concat()).is_err(), "longer");
        let other = verify_part(&bytes, &Fake(2).public_key(), &FakeVerifier);
        assert!(other.is_err(), "another device's");
    }
    let long = vec![0; MAX_FRAME_BYTES + 1];
    assert!(matches!(read(&long), Err(DecodeError::TooLong { .. })));
}

/// A payload of a part with these figures.
fn payload(capacity: u32, total: u32, part: u16, parts: u16, bytes: usize) -> Vec<u8> {
    let bytes_of = bytes as u32;
    let of_record = (capacity, total, part, parts, bytes_of);
    let head = (VERSION_BYTE, "d", 1_u32, PULL, 2_u64, of_record);
    let mut payload = postcard::to_extend(&head, Vec::new()).expect("a vector takes all");
    payload.resize(payload.len() + bytes, 9);
    payload
}

#[test]
fn figures_that_contradict_each_other_are_named() {
    let refused = |payload: &[u8]| match decode_part(payload) {
        Ok(_) => None,
        Err(DecodeError::Value { field, .. }) => Some(field),
        Err(other) => panic!("{other}"),
    };
    let max = MAX_BYTES as u32;
    for (payload, field) in [
        (payload(8, 8, 0, 1, 8), None),
        (payload(0, 0, 0, 1, 0), None),
        (payload(max, 300, 3, 4, 100), None),
        (payload(max + 1, 8, 0, 1, 8), Some(Field::Capacity)),
        (payload(7, 8, 0, 1, 8), Some(Field::Total)),
        (payload(8, 8, 1, 1, 8), Some(Field::Part)),
        (payload(8, 8, 0, 0, 8), Some(Field::Part)),
        (payload(max, max, 0, MAX_PARTS + 1, 8), Some(Field::Parts)),
        (payload(8, 8, 0, 1, 7), Some(Field::Bytes)),
        (payload(8, 8, 0, 2, 8), Some(Field::Bytes)),
        (payload(8, 8, 0, 2, 9), Some(Field::Bytes)),
        (payload(8, 8, 0, 2, 0), Some(Field::Bytes)),
        (
            payload(max, max, 0, 2, MAX_PART_BYTES + 1),
            Some(Field::Bytes),
        ),
    ] {
        assert_eq!(refused(&payload), field);
    }
    let sound = payload(300, 300, 0, 3, 100);
    for len in 0..sound.len() {
        let cut = decode_part(&sound[..len]);
        assert!(matches!(cut, Err(DecodeError::Malformed { .. })), "{len}");
    }
    let longer = [&sound[..], &[0]].concat();
    let (field, offset) = (Field::End, sound.len() as u32);
    let end = DecodeError::Malformed { field, offset };
    assert_eq!(decode_part(&longer), Err(end));
    let older = [&[0x81], &sound[1..]].concat();
    assert_eq!(
        decode_part(&older),
        Err(DecodeError::Version { found: 1, reads: 2 })
    );
}

#[test]
fn a_command_is_read_as_it_was_written_and_names_its_faults() {
    let mut space = [0; MAX_COMMAND_PAYLOAD_BYTES];
    let payload = encode_command(&command(), &mut space)
        .expect("it fits")
        .to_vec();
    assert_eq!(decode_command(&payload), Ok(command()));
    for len in 0..payload.len() {
        let cut = decode_command(&payload[..len]);
        assert!(matches!(cut, Err(DecodeError::Malformed { .. })), "{len}");
    }
    let longer = decode_command(&[&payload[..], &[0]].concat());
    assert!(matches!(longer, Err(DecodeError::Malformed { .. })));
    let version = decode_command(&[&[0x83], &payload[1..]].concat());
    assert_eq!(version, Err(DecodeError::Version { found: 3, reads: 2 }));
    let mut bad = command();
    bad.fleet = id("a/b");
    let payload = encode_command(&bad, &mut space).expect("it fits");
    let (field, offset) = (Field::Fleet, 1);
    assert_eq!(
        decode_command(payload),
        Err(DecodeError::Value { field, offset })
    );
}

proptest! {
    #[test]
    fn any_payload_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_command(&bytes);
        let _ = decode_part(&bytes);
        let _ = read(&bytes);
    }

    #[test]
    fn any_damaged_payload_is_read_without_a_panic(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut part = payload(300, 300, 0, 3, 100);
        let at_part = at.index(part.len());
        part[at_part] = byte;
        if let Ok(part) = decode_part(&part) {
            prop_assert!(part.bytes.len() <= part.total as usize && part.part < part.parts);
        }
        let _ = decode_part(&part[..cut.index(part.len())]);
        let mut space = [0; MAX_COMMAND_PAYLOAD_BYTES];
        let mut bytes = encode_command(&command(), &mut space).expect("it fits").to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(command) = decode_command(&bytes) {
            prop_assert!(crate::topic::is_name(&command.device));
        }
    }
}

#[test]
fn orders_are_read_and_written_in_place_as_they_are_by_serde() {
    let order = |pull| Order::PullRecord { pull };
    place::check(&order(PULL), &order([0; 16]));
}
