//! Frames, acknowledgements and desired states that boards and hosts would send.

use edgeward::bundle::BoardClass;
use edgeward::contract::ViolationKind;
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::codec::{MAX_ACK_PAYLOAD_BYTES, encode_ack, encode_frame};
use edgeward::telemetry::{
    Ack, Alarm, Birth, Body, Event, FeatureSummary, Frame, Id, Reason, SlotReport, SlotState,
    Summary, Text,
};
use edgeward::trust::cose::ContentType;

use crate::{Mode, root, seal};

fn text(text: &str) -> Text {
    Text::try_from(text).expect("short")
}

/// A birth, a summary and an event.
pub fn bodies() -> [Body<8, 4>; 3] {
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
        tags: [text("site-a")].into_iter().collect(),
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
        assert!(
            summary.features.push(feature).is_ok(),
            "four fit into eight"
        );
    }
    summary.output.classes = [1, 200, 3].into_iter().collect();
    let event = Event::Alarm {
        release: [2; 8],
        alarm: Alarm::Violation {
            kind: ViolationKind::Stuck,
            feature: Some(2),
            value: 1.5,
            sample: 99,
        },
    };
    [
        Body::Birth(birth),
        Body::Summary(summary),
        Body::Event(event),
    ]
}

/// The payload of each of [`bodies`] as a frame.
pub fn payloads() -> Vec<Vec<u8>> {
    let frames = bodies().map(|body| Frame::<8, 4> {
        device: Id::try_from("board-1").expect("short"),
        epoch: 0x5eed,
        acknowledged: 2,
        boot: 3,
        first_sequence: 5,
        sequence: 5,
        time_ms: 1_700_000_000_000,
        body,
    });
    let mut buffer = vec![0; 32 * 1024];
    let payload = |frame: &Frame<8, 4>| {
        let payload = encode_frame(frame, &mut buffer).expect("it fits");
        payload.to_vec()
    };
    frames.iter().map(payload).collect()
}

fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
    let mut buffer = vec![0; 32 * 1024];
    postcard::to_slice(value, &mut buffer)
        .expect("it fits")
        .to_vec()
}

/// A payload in each mode: bare, inside a message, and as the content of one.
fn in_each_mode(content: ContentType, payload: &[u8]) -> [Vec<u8>; 3] {
    let message = seal(content, payload);
    [
        Mode::Raw.seed(&message),
        Mode::Repaired.seed(&message),
        Mode::Content.seed(payload),
    ]
}

/// Frames.
pub fn frames() -> Vec<Vec<u8>> {
    let payloads = payloads();
    let seeds = payloads
        .iter()
        .flat_map(|p| in_each_mode(ContentType::Frame, p));
    seeds.collect()
}

/// Acknowledgements.
pub fn acks() -> Vec<Vec<u8>> {
    let ack = Ack {
        device: Id::try_from("board-1").expect("short"),
        epoch: 0x5eed,
        through: 300,
    };
    let mut buffer = [0; MAX_ACK_PAYLOAD_BYTES];
    let payload = encode_ack(&ack, &mut buffer).expect("it fits");
    in_each_mode(ContentType::Ack, payload).into()
}

/// Desired states, and a root.
pub fn desired() -> Vec<Vec<u8>> {
    let target = Target {
        class: BoardClass::Linux,
        digest: [1; 32],
        counter: 2,
        version: text("2.0.0"),
        head_bytes: 4096,
        total_bytes: 24_688,
    };
    let desired = Desired {
        fleet: Id::try_from("f").expect("short"),
        sequence: 6,
        expires_s: 4_000_000_000,
        rollout: Id::try_from("r").expect("short"),
        state: RolloutState::Active,
        targets: [target].into_iter().collect(),
        tags: [].into_iter().collect(),
        share_per_mille: 1000,
    };
    let mut seeds: Vec<_> = in_each_mode(ContentType::Desired, &encoded(&desired)).into();
    let mut buffer = [0; 4096];
    let root = root().encode(&mut buffer).expect("a root").to_vec();
    seeds.extend(in_each_mode(ContentType::Root, &root));
    seeds
}
