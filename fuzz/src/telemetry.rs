//! Frames, acknowledgements, desired states, commands and flight records that boards and hosts would send.

use edgeward::bundle::BoardClass;
use edgeward::contract::ViolationKind;
use edgeward::engine::{Elements, EngineError, Tape};
use edgeward::guard::{InferenceError, Prediction, PredictionFlags};
use edgeward::recorder::{Recorder, Snapshot, Stamp};
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::codec::{MAX_ACK_PAYLOAD_BYTES, encode_ack, encode_frame};
use edgeward::telemetry::pull::{Command, MAX_COMMAND_PAYLOAD_BYTES, Order, Pull, encode_command};
use edgeward::telemetry::{
    Ack, Alarm, Birth, Body, Event, FeatureSummary, Frame, Id, Reason, SlotReport, SlotState,
    Summary, Text,
};
use edgeward::trust::cose::ContentType;

use crate::{Gullible, Mode, root, seal};

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
    summary.core_khz = 100;
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

/// Frames, of this version and of the one before, whose summaries lack the last field: a byte, as it is here.
pub fn frames() -> Vec<Vec<u8>> {
    let mut payloads = payloads();
    let mut before = payloads.clone();
    before.iter_mut().for_each(|payload| payload[0] = 0x82);
    before[1].pop();
    payloads.extend(before);
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

/// Commands.
pub fn commands() -> Vec<Vec<u8>> {
    let command = Command {
        fleet: Id::try_from("f").expect("short"),
        device: Id::try_from("board-1").expect("short"),
        boot: 3,
        sequence: 300,
        expires_s: 4_000_000_000,
        order: Order::PullRecord { pull: [7; 16] },
    };
    let mut buffer = [0; MAX_COMMAND_PAYLOAD_BYTES];
    let payload = encode_command(&command, &mut buffer).expect("it fits");
    in_each_mode(ContentType::Command, payload).into()
}

/// A record of each kind.
fn recorder() -> Recorder<Vec<u8>> {
    let mut recorder = Recorder::new(vec![0; 1024]);
    let stamp = Stamp {
        time_ms: 1_700_000_000_000,
        release: [2; 8],
        sample: 99,
    };
    let answer = Prediction {
        class: 1,
        confidence: 0.75,
        flags: PredictionFlags::Z_OUTLIER,
        latency_us: 21,
        fallback: false,
    };
    let failed = Err(InferenceError::Engine(EngineError::Run));
    for (output, judged) in [(true, Ok(answer)), (false, failed)] {
        let mut entry = recorder.begin(stamp, 3);
        entry.input(Elements::I8(&[1, -2, 3, 4, 5]));
        if output {
            entry.output(Elements::F32(&[0.5, 1.5, -2.0]));
        }
        entry.finish(&judged);
    }
    if let [_, _, Body::Event(event)] = &bodies() {
        recorder.event(5, [2; 8], event);
    }
    recorder
}

/// Flight records: the bytes themselves, and their parts.
pub fn records() -> Vec<Vec<u8>> {
    let recorder = recorder();
    let mut bytes = vec![0; recorder.len()];
    recorder.read(0, &mut bytes);
    let mut seeds = vec![Mode::Raw.seed(&bytes)];
    let device = Id::try_from("board-1").expect("short");
    for room in [277, 1141] {
        let mut out = vec![0; room];
        let mut pull = Pull::new([7; 16], 3, 5, &recorder, room).expect("room");
        while !pull.is_done() {
            let len = pull.sign_next(&device, &recorder, &Gullible, &mut out);
            let message = &out[..len.expect("room")];
            let payload = edgeward::trust::cose::parse(message).expect("ours").payload;
            seeds.extend([
                Mode::Repaired.seed(message),
                Mode::Content.seed(payload.expect("embedded")),
            ]);
            pull.sent();
        }
    }
    seeds
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
