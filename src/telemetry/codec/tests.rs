use super::*;
use crate::bundle::BoardClass;
use crate::contract::ViolationKind;
use crate::telemetry::{
    Alarm, Birth, Event, FeatureSummary, Reason, SlotReport, SlotState, Summary, Text,
};
use crate::trust::testing::{Fake, FakeVerifier};
use heapless::Vec;
use proptest::prelude::*;

type F4 = Frame<4, 3>;

fn text(text: &str) -> Text {
    Text::try_from(text).expect("short")
}

fn frame(sequence: u64, body: Body<4, 3>) -> F4 {
    Frame {
        device: Id::try_from("board-1").expect("short"),
        epoch: 9,
        acknowledged: 2,
        boot: 3,
        first_sequence: sequence,
        sequence,
        time_ms: 1_700_000_000_000,
        body,
    }
}

fn one_of_each() -> [F4; 3] {
    let slot = SlotReport {
        state: SlotState::Rejected(Reason::SelfTest),
        release: [9; 8],
        counter: 7,
        version: text("1.2.3"),
    };
    let birth = Birth {
        class: BoardClass::Linux,
        firmware: text("0.1.0"),
        slots: [slot.clone(), slot],
        running: Some(1),
        floor: 6,
        root_version: 1,
        desired: 5,
        tags: Vec::from_array([text("site-a")]),
        last_failure: Some(([1; 8], Reason::Crash)),
    };
    let mut summary = Summary::empty();
    summary.windows = 2;
    summary.samples = 300;
    summary.latency.record(70);
    for n in 0..4 {
        let feature = FeatureSummary {
            n,
            mean: 0.5,
            ..FeatureSummary::empty()
        };
        assert!(summary.features.push(feature).is_ok());
    }
    summary.output.classes = Vec::from_array([1, 200, 3]);
    summary.core_khz = 400_000;
    let event = Event::Alarm {
        release: [2; 8],
        alarm: Alarm::Violation {
            kind: ViolationKind::Stuck,
            feature: Some(2),
            value: 1.5,
            sample: 99,
        },
    };
    let mut summary = frame(7, Body::Summary(summary));
    summary.first_sequence = 5;
    [
        frame(4, Body::Birth(birth)),
        summary,
        frame(8, Body::Event(event)),
    ]
}

fn signed(frame: &F4, key: u8) -> std::vec::Vec<u8> {
    let mut out = [0; max_frame_bytes(4, 3)];
    let len = sign_frame(frame, &Fake(key), &mut out).expect("fits");
    out[..len].to_vec()
}

fn read(bytes: &[u8], key: u8) -> Result<F4, DecodeError> {
    verify_frame(bytes, &Fake(key).public_key(), &FakeVerifier)
}

#[test]
fn each_kind_is_read_as_it_was_written() {
    for frame in one_of_each() {
        assert_eq!(read(&signed(&frame, 1), 1), Ok(frame));
    }
}

#[test]
fn a_record_is_signed_as_the_frame_it_stands_for() {
    for frame in one_of_each() {
        let mut body = [0; max_body_bytes(4, 3)];
        let body = postcard::to_slice(&frame.body, &mut body).expect("fits");
        let record = Record {
            kind: RecordKind::of_body(&frame.body),
            epoch: frame.epoch,
            acknowledged: frame.acknowledged,
            first_sequence: frame.first_sequence,
            sequence: frame.sequence,
            boot: frame.boot,
            time_ms: frame.time_ms,
            body,
        };
        let mut out = [0; max_frame_bytes(4, 3)];
        let len = sign_record(&frame.device, &record, &Fake(1), &mut out);
        assert_eq!(&out[..len.expect("fits")], signed(&frame, 1));
        assert_eq!(record.frame(&frame.device), Ok(frame));
    }
}

#[test]
fn each_change_of_a_byte_is_noticed() {
    for frame in one_of_each() {
        let bytes = signed(&frame, 1);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes, 1).is_err(), "byte {at}, bit {bit}");
            }
        }
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len], 1).is_err(), "cut at {len}");
        }
        assert!(read(&[&bytes[..], &[0]].concat(), 1).is_err(), "longer");
    }
}

#[test]
fn another_key_and_another_content_are_refused() {
    let [frame, ..] = one_of_each();
    let bytes = signed(&frame, 1);
    assert!(matches!(
        read(&bytes, 2),
        Err(DecodeError::Cose(CoseError { kind, .. })) if kind == cose::CoseErrorKind::WrongKey
    ));
    let ack = Ack {
        device: frame.device,
        epoch: 9,
        through: 9,
    };
    let mut out = [0; MAX_ACK_BYTES];
    let len = sign_ack(&ack, &Fake(1), &mut out).expect("fits");
    assert!(matches!(
        read(&out[..len], 1),
        Err(DecodeError::Cose(CoseError { kind, .. })) if kind == cose::CoseErrorKind::WrongContent
    ));
}

#[test]
fn an_acknowledgement_is_read_as_it_was_written_and_fits_its_bound() {
    let ack = Ack {
        device: Id::try_from(&*"d".repeat(ID_BYTES)).expect("longest"),
        epoch: u32::MAX,
        through: u64::MAX,
    };
    let mut out = [0; MAX_ACK_BYTES];
    let len = sign_ack(&ack, &Fake(1), &mut out).expect("fits");
    assert_eq!(len, MAX_ACK_BYTES);
    let key = Fake(1).public_key();
    let payload = cose::verify_one(&out, ContentType::Ack, &key, &FakeVerifier).expect("signed");
    assert_eq!(decode_ack(payload), Ok(ack));
}

#[test]
fn a_wrong_field_is_named_with_its_offset() {
    let [birth, summary, event] = one_of_each();
    let refused = |frame: &F4| read(&signed(frame, 1), 1);
    let value = |field, offset| Err(DecodeError::Value { field, offset });
    let mut bad = event.clone();
    bad.device = Id::try_from("a/b").expect("short");
    assert_eq!(refused(&bad), value(Field::Device, 1));
    let mut bad = event.clone();
    bad.first_sequence = 7;
    assert_eq!(
        refused(&bad),
        value(Field::FirstSequence, 12),
        "a merged event"
    );
    let mut bad = summary;
    bad.first_sequence = 8;
    assert_eq!(refused(&bad), value(Field::FirstSequence, 12), "backwards");
    let mut bad = event.clone();
    (bad.first_sequence, bad.sequence) = (0, 0);
    assert_eq!(refused(&bad), value(Field::FirstSequence, 12), "from zero");
    let mut bad = event;
    bad.first_sequence = u64::MAX;
    bad.sequence = u64::MAX;
    assert_eq!(refused(&bad), value(Field::Sequence, 22));
    let mut bad = birth.clone();
    bad.epoch = 0;
    assert_eq!(refused(&bad), value(Field::Epoch, 9));
    let mut bad = birth.clone();
    bad.acknowledged = bad.sequence;
    assert_eq!(refused(&bad), value(Field::Acknowledged, 10));
    let mut payload = [0; 1024];
    let payload = encode_frame(&birth, &mut payload).expect("fits").to_vec();
    for len in 0..payload.len() {
        let error = decode_frame::<4, 3>(&payload[..len]);
        assert!(matches!(error, Err(DecodeError::Malformed { .. })), "{len}");
    }
    let longer = [&payload[..], &[0]].concat();
    let end = DecodeError::Malformed {
        field: Field::End,
        offset: payload.len() as u32,
    };
    assert_eq!(decode_frame::<4, 3>(&longer), Err(end));
    let long = [0; MAX_FRAME_BYTES + 1];
    let bytes = long.len() as u32;
    assert_eq!(read(&long, 1), Err(DecodeError::TooLong { bytes }));
}

#[test]
fn another_version_is_an_error_that_says_so() {
    let [frame, ..] = one_of_each();
    let mut space = [0; 1024];
    let payload = encode_frame(&frame, &mut space).expect("fits").to_vec();
    let ack = Ack {
        device: frame.device,
        epoch: 9,
        through: 9,
    };
    let mut space = [0; MAX_ACK_PAYLOAD_BYTES];
    let acknowledgement = encode_ack(&ack, &mut space).expect("fits").to_vec();
    assert_eq!(decode_ack(&acknowledgement), Ok(ack));
    let version = |found, reads| DecodeError::Version { found, reads };
    for (byte, found) in [(0x81, 1), (0x84, 4), (0xFF, 127)] {
        let newer = |payload: &[u8]| [&[byte], &payload[1..]].concat();
        let (frame, ack) = (newer(&payload), newer(&acknowledgement));
        assert_eq!(decode_frame::<4, 3>(&frame), Err(version(found, 3)));
        assert_eq!(decode_ack(&ack), Err(version(found, 2)));
    }
    // Version 1 began with the device's name.
    assert_eq!(decode_frame::<4, 3>(&payload[1..]), Err(version(1, 3)));
    assert_eq!(decode_ack(&acknowledgement[1..]), Err(version(1, 2)));
    let words = version(1, 3).to_string();
    assert!(
        words.contains("version 1") && words.contains("version 3"),
        "{words}"
    );
}

/// A payload as version 2 wrote it.
fn before(frame: &F4) -> std::vec::Vec<u8> {
    let mut frame = frame.clone();
    let mut clockless = 0;
    if let Body::Summary(summary) = &mut frame.body {
        summary.core_khz = 0;
        clockless = 1;
    }
    let mut space = [0; 1024];
    let payload = encode_frame(&frame, &mut space).expect("fits");
    [&[0x82], &payload[1..payload.len() - clockless]].concat()
}

#[test]
fn a_frame_of_version_2_is_read_and_its_clock_is_not_known() {
    for frame in one_of_each() {
        let payload = before(&frame);
        let read = decode_frame::<4, 3>(&payload).expect("readable");
        let mut expected = frame;
        if let Body::Summary(summary) = &mut expected.body {
            assert_eq!(summary.latency_p99_cycles(), Some(70 * 400));
            summary.core_khz = 0;
            assert_eq!(summary.latency_p99_cycles(), None);
        }
        assert_eq!(read, expected);
        for len in 0..payload.len() {
            let cut = decode_frame::<4, 3>(&payload[..len]);
            assert!(matches!(cut, Err(DecodeError::Malformed { .. })), "{len}");
        }
        // No byte more is taken for the clock that it does not have.
        for byte in 0..=255 {
            let longer = decode_frame::<4, 3>(&[&payload[..], &[byte]].concat());
            let malformed = matches!(longer, Err(DecodeError::Malformed { .. }));
            assert!(malformed, "{byte:02x} more: {longer:?}");
        }
    }
}

#[test]
fn the_largest_frame_fits_its_bound() {
    let mut summary = Summary::<128, 32>::empty();
    let feature = FeatureSummary {
        bins: [u32::MAX; crate::profile::BINS],
        n: u32::MAX,
        violations: [u32::MAX; ViolationKind::PER_FEATURE],
        ..FeatureSummary::empty()
    };
    while summary.features.push(feature.clone()).is_ok() {}
    while summary.output.classes.push(u32::MAX).is_ok() {}
    for count in [
        &mut summary.windows,
        &mut summary.samples,
        &mut summary.rejected,
        &mut summary.inferences,
        &mut summary.errors,
        &mut summary.fallbacks,
        &mut summary.alarms,
        &mut summary.dropped_events,
        &mut summary.output.n,
        &mut summary.output.z_outliers,
        &mut summary.output.below_p01,
        &mut summary.output.above_p99,
        &mut summary.core_khz,
    ] {
        *count = u32::MAX;
    }
    summary.violations = [u32::MAX; ViolationKind::COUNT];
    (summary.from_ms, summary.to_ms) = (u64::MAX, u64::MAX);
    summary.latency = crate::telemetry::latency::full();
    let body = Body::Summary(summary);
    let mut space = std::vec![0; 2 * max_body_bytes(128, 32)];
    let len = postcard::to_slice(&body, &mut space).expect("fits").len();
    // Two lengths take a byte less than allowed for.
    assert!((0..=4).contains(&(max_body_bytes(128, 32) - len)), "{len}");
    assert!(max_frame_bytes(128, 32) <= MAX_FRAME_BYTES);
}

#[test]
fn who_claims_to_have_sent_a_frame_can_be_told() {
    let [frame, ..] = one_of_each();
    let mut bytes = signed(&frame, 1);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(claimed_device(&bytes), Some(frame.device));
    assert_eq!(claimed_device(&bytes[1..]), None);
}

proptest! {
    #[test]
    fn any_payload_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode_frame::<4, 3>(&bytes);
        let _ = decode_ack(&bytes);
        let _ = claimed_device(&bytes);
        let _ = read(&bytes, 1);
    }

    /// A valid start leads the parser into the body.
    #[test]
    fn any_damaged_payload_is_read_without_a_panic(
        which in 0usize..3, of_before in any::<bool>(),
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let frame = &one_of_each()[which];
        let mut payload = [0; 1024];
        let mut payload = match of_before {
            true => before(frame),
            false => encode_frame(frame, &mut payload).expect("fits").to_vec(),
        };
        let payload = &mut payload[..];
        prop_assert!(decode_frame::<4, 3>(payload).is_ok(), "whole before it is damaged");
        payload[at.index(payload.len())] = byte;
        let _ = decode_frame::<4, 3>(payload);
        let _ = decode_frame::<4, 3>(&payload[..cut.index(payload.len())]);
        // Too small capacities are an error too.
        let _ = decode_frame::<1, 1>(payload);
    }
}
