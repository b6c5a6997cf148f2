//! Every changed byte of a signed thing is detected, and so is every missing and every added one. The
//! records of journal and outbox, which have checksums, are tried beside their code.

use edgeward::bundle::write::sign;
use edgeward::bundle::{BoardClass, Bundle, BundleWriter, Description, Head, SectionKind};
use edgeward::contract::ViolationKind;
use edgeward::recorder::{Recorder, Records};
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::codec::{
    MAX_ACK_PAYLOAD_BYTES, decode_ack, encode_ack, max_frame_bytes, sign_frame, verify_frame,
};
use edgeward::telemetry::pull::{
    Command, MAX_COMMAND_PAYLOAD_BYTES, Order, Pull, decode_command, encode_command, verify_part,
};
use edgeward::telemetry::{
    Ack, Alarm, Birth, Body, Crash, Event, Frame, Reason, Refused, SlotReport, SlotState,
    Statistic, Summary,
};
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{Role, Signer};

fn signer(number: u8) -> RingSigner {
    RingSigner::from_seed(&[number; 32]).expect("any seed is a key")
}

fn root(release: &[&RingSigner], threshold: u8) -> Root {
    let one = |signer: &RingSigner| RoleKeys::new(1, &[signer.public_key()]).expect("one fits");
    let keys: Vec<_> = release.iter().map(|signer| signer.public_key()).collect();
    let mut roles = [(); Role::COUNT].map(|()| one(&signer(99)));
    roles[Role::Release as usize] = RoleKeys::new(threshold, &keys).expect("they fit");
    Root { version: 1, roles }
}

/// A bundle of three sections whose data is a little more than one chunk, with gaps to pad.
fn small_bundle() -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "motion".into(),
        version: "1.2.3".into(),
        counter: 7,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .expect("the description is plain");
    writer
        .section(SectionKind::TractModel, vec![0xa5; 4000])
        .expect("first of its kind")
        .section(SectionKind::Policy, vec![1, 2, 3])
        .expect("first of its kind")
        .section(SectionKind::Golden, vec![9; 121])
        .expect("first of its kind");
    writer.finish().expect("it fits")
}

fn accepted(bytes: &[u8], root: &Root) -> Result<(), String> {
    let bundle = Bundle::open(bytes).map_err(|error| error.to_string())?;
    bundle
        .verify(root, &RingVerifier)
        .map_err(|error| error.to_string())?;
    bundle.verify_data().map_err(|error| error.to_string())
}

/// Which other values each byte takes.
#[derive(Clone, Copy)]
enum Changes {
    /// Its least bit, its greatest bit, or all of them flipped.
    Three,
    /// Each of its bits flipped.
    Bits,
}

/// `accepts` takes `bytes`, and neither with any one byte changed, nor cut short anywhere, nor with
/// one byte more at either end.
fn check(what: &str, bytes: &[u8], changes: Changes, accepts: impl Fn(&[u8]) -> bool) {
    let mut bytes = bytes.to_vec();
    assert!(accepts(&bytes), "{what}: untouched, it is sound");
    let flips: Vec<u8> = match changes {
        Changes::Three => vec![0x01, 0x80, 0xff],
        Changes::Bits => (0..8).map(|bit| 1 << bit).collect(),
    };
    for at in 0..bytes.len() {
        for flip in &flips {
            bytes[at] ^= flip;
            assert!(!accepts(&bytes), "{what}: byte {at} ^ {flip:#04x}");
            bytes[at] ^= flip;
        }
        assert!(!accepts(&bytes[..at]), "{what}: {at} bytes");
    }
    for more in 0..=255 {
        bytes.push(more);
        assert!(!accepts(&bytes), "{what}: and {more:#04x} behind");
        bytes.pop();
        bytes.insert(0, more);
        assert!(!accepts(&bytes), "{what}: and {more:#04x} before");
        bytes.remove(0);
    }
    assert!(accepts(&bytes), "{what}: restored, it is sound again");
}

#[test]
fn every_changed_byte_of_a_bundle_is_detected() {
    let key = signer(1);
    let root = root(&[&key], 1);
    let mut bytes = small_bundle();
    sign(&mut bytes, &key).expect("there is room");
    check("bundle", &bytes, Changes::Three, |bytes| {
        accepted(bytes, &root).is_ok()
    });
}

#[test]
fn every_truncation_of_a_bundle_is_detected() {
    let key = signer(1);
    let mut bytes = small_bundle();
    sign(&mut bytes, &key).expect("there is room");
    let head_bytes = Head::parse(&bytes).expect("it is sound").head_bytes() as usize;
    for len in 0..bytes.len() {
        let error = Bundle::open(&bytes[..len]).expect_err("it is too short");
        assert!(error.to_string().ends_with("the bytes end here"), "{error}");
        assert_eq!(Head::parse(&bytes[..len]).is_ok(), len >= head_bytes);
    }
    bytes.push(0);
    let error = Bundle::open(&bytes).expect_err("it is too long");
    assert!(error.to_string().starts_with("file at byte"), "{error}");
}

/// The smallest of each kind of event, and of its variants.
fn events() -> Vec<Event> {
    let release = [2; 8];
    let refused = [
        Refused::DesiredSignature,
        Refused::DesiredReplay,
        Refused::DesiredExpired,
        Refused::Release {
            release,
            reason: Reason::Downgrade,
        },
        Refused::Chunk { release, index: 7 },
        Refused::Root { version: 2 },
        Refused::Ack,
        Refused::Command,
    ];
    let mut events: Vec<Event> = refused.map(|what| Event::Refused { what }).into();
    events.extend([
        Event::Alarm {
            release,
            alarm: Alarm::Violation {
                kind: ViolationKind::Stuck,
                feature: Some(2),
                value: 1.5,
                sample: 99,
            },
        },
        Event::Alarm {
            release,
            alarm: Alarm::Drift {
                statistic: Statistic::Psi,
                feature: None,
                value: 0.5,
                limit: 0.25,
            },
        },
        Event::Slot {
            slot: 1,
            release,
            state: SlotState::Rejected(Reason::Crash),
        },
        Event::Reverted {
            from: release,
            to: Some([3; 8]),
            reason: Reason::Latency,
        },
        Event::Resumed {
            release,
            kept: 3,
            total: 9,
        },
        Event::Crashed {
            how: Crash::Fault,
            at: 0x0800_1234,
        },
    ]);
    events
}

fn birth() -> Birth {
    let slot = SlotReport {
        state: SlotState::Confirmed,
        release: [9; 8],
        counter: 7,
        version: "1.2.3".try_into().expect("short"),
    };
    Birth {
        class: BoardClass::Linux,
        firmware: "0.1.0".try_into().expect("short"),
        slots: [slot.clone(), slot],
        running: Some(1),
        floor: 6,
        root_version: 1,
        desired: 5,
        tags: ["east".try_into().expect("short")].into_iter().collect(),
        last_failure: Some(([1; 8], Reason::Crash)),
    }
}

#[test]
fn every_changed_bit_and_truncation_of_each_kind_of_frame_is_detected() {
    let key = signer(3);
    let mut summary = Summary::empty();
    (summary.windows, summary.samples) = (2, 300);
    let mut bodies = vec![
        (5, Body::Birth(birth())),
        (5, Body::Summary(summary.clone())),
        (2, Body::Summary(summary)),
    ];
    bodies.extend(events().into_iter().map(|event| (5, Body::Event(event))));
    for (first_sequence, body) in bodies {
        let frame: Frame<2, 2> = Frame {
            device: "d".try_into().expect("short"),
            epoch: 9,
            acknowledged: 1,
            boot: 3,
            first_sequence,
            sequence: 5,
            time_ms: 1_700_000_000_000,
            body,
        };
        let mut out = [0; max_frame_bytes(2, 2)];
        let len = sign_frame(&frame, &key, &mut out).expect("it fits");
        let read =
            |bytes: &[u8]| verify_frame::<_, 2, 2>(bytes, &key.public_key(), &RingVerifier).ok();
        assert_eq!(read(&out[..len]).as_ref(), Some(&frame));
        let what = format!("{:?}", frame.body);
        check(&what, &out[..len], Changes::Bits, |bytes| {
            read(bytes).is_some()
        });
    }
}

#[test]
fn every_changed_bit_and_truncation_of_a_flight_records_parts_is_detected() {
    let key = signer(3);
    let device = "d".try_into().expect("short");
    let mut recorder = Recorder::new([0; 256]);
    for event in events().iter().take(6) {
        recorder.event(1_700_000_000_000, [2; 8], event);
    }
    let mut out = [0; 317];
    let mut pull = Pull::new([7; 16], 3, 5, &recorder, out.len()).expect("room");
    let (mut whole, mut parts) = (Vec::new(), 0);
    while !pull.is_done() {
        let len = pull.sign_next(&device, &recorder, &key, &mut out);
        let bytes = &out[..len.expect("it fits")];
        let part = verify_part(bytes, &key.public_key(), &RingVerifier).expect("sound");
        whole.extend_from_slice(part.bytes);
        check(&format!("part {parts}"), bytes, Changes::Bits, |bytes| {
            verify_part(bytes, &key.public_key(), &RingVerifier).is_ok()
        });
        pull.sent();
        parts += 1;
    }
    assert!(parts > 1 && Records::new(&whole).filter(Result::is_ok).count() == 6);
}

/// A payload signed by two keys, both of which are needed.
fn signed_by_two(content: ContentType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; content.embedded_bytes(payload.len()) + content.detached_bytes()];
    let len = cose::sign_embedded(&signer(1), content, payload, &mut bytes).expect("it fits");
    cose::sign_detached(&signer(2), content, payload, &mut bytes[len..]).expect("it fits");
    bytes
}

/// A root each of whose roles needs two keys.
fn root_of_two(version: u32) -> Root {
    let keys = [signer(1).public_key(), signer(2).public_key()];
    let role = || RoleKeys::new(2, &keys).expect("they fit");
    Root {
        version,
        roles: [(); Role::COUNT].map(|()| role()),
    }
}

#[test]
fn every_change_of_what_the_host_signs_is_detected() {
    let root = root_of_two(1);
    let ack = Ack {
        device: "d".try_into().expect("short"),
        epoch: 9,
        through: 300,
    };
    let mut space = [0; MAX_ACK_PAYLOAD_BYTES];
    let payload = encode_ack(&ack, &mut space).expect("it fits");
    let bytes = signed_by_two(ContentType::Ack, payload);
    let verified = |role, content, bytes: &[u8]| {
        root.verify_threshold(role, content, bytes, &RingVerifier)
            .map(<[u8]>::to_vec)
            .ok()
    };
    check("ack", &bytes, Changes::Bits, |bytes| {
        let payload = verified(Role::Collector, ContentType::Ack, bytes);
        payload.is_some_and(|payload| decode_ack(&payload) == Ok(ack.clone()))
    });
    let command = Command {
        fleet: "f".try_into().expect("short"),
        device: "d".try_into().expect("short"),
        boot: 3,
        sequence: 300,
        expires_s: 4_000_000_000,
        order: Order::PullRecord { pull: [7; 16] },
    };
    let mut space = [0; MAX_COMMAND_PAYLOAD_BYTES];
    let payload = encode_command(&command, &mut space).expect("it fits");
    let bytes = signed_by_two(ContentType::Command, payload);
    check("command", &bytes, Changes::Bits, |bytes| {
        let payload = verified(Role::Collector, ContentType::Command, bytes);
        payload.is_some_and(|payload| decode_command(&payload) == Ok(command.clone()))
    });
    let target = Target {
        class: BoardClass::Linux,
        digest: [4; 32],
        counter: 300,
        version: "1.2.3".try_into().expect("short"),
        head_bytes: 4096,
        total_bytes: 8192,
    };
    let desired = Desired {
        fleet: "f".try_into().expect("short"),
        sequence: 6,
        expires_s: 4_000_000_000,
        rollout: "r".try_into().expect("short"),
        state: RolloutState::Active,
        targets: [target].into_iter().collect(),
        tags: ["east".try_into().expect("short")].into_iter().collect(),
        share_per_mille: 1000,
    };
    let payload = postcard::to_extend(&desired, Vec::new()).expect("a vector takes all");
    let bytes = signed_by_two(ContentType::Desired, &payload);
    check("desired state", &bytes, Changes::Bits, |bytes| {
        verified(Role::Rollout, ContentType::Desired, bytes).is_some()
    });
}

#[test]
fn every_change_of_a_trust_root_is_detected() {
    let mut space = [0; 2048];
    for (first, version) in [(true, 1), (false, 2)] {
        let new = root_of_two(version);
        let payload = new.encode(&mut space).expect("it fits");
        let bytes = signed_by_two(ContentType::Root, payload);
        check("root", &bytes, Changes::Bits, |bytes| {
            let accepted = if first {
                Root::accept_first(bytes, &RingVerifier)
            } else {
                root_of_two(1).accept_next(bytes, &RingVerifier)
            };
            accepted.is_ok()
        });
    }
}

#[test]
fn thresholds_count_distinct_valid_keys() {
    let keys = [signer(1), signer(2), signer(3)];
    let two_of_three = root(&[&keys[0], &keys[1], &keys[2]], 2);
    let mut bytes = small_bundle();
    let says = |bytes: &[u8], expected: &str| {
        let error = accepted(bytes, &two_of_three).expect_err("too few signed");
        assert_eq!(error, expected);
    };
    says(&bytes, "0 valid signature(s) of the release role, 2 needed");
    for _ in 0..2 {
        sign(&mut bytes, &keys[0]).expect("there is room");
        says(&bytes, "1 valid signature(s) of the release role, 2 needed");
    }
    sign(&mut bytes, &signer(50)).expect("there is room");
    says(&bytes, "1 valid signature(s) of the release role, 2 needed");
    sign(&mut bytes, &keys[2]).expect("there is room");
    accepted(&bytes, &two_of_three).expect("two of three signed");
}
