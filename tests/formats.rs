//! The examples of the format documents are what the code writes.
//!
//! A block that begins with "```hex NAME" holds bytes in hexadecimal; text after `;` is a comment.

use edgeward::bundle::decode::{decode_policy, decode_profile, encode_policy, encode_profile};
use edgeward::bundle::{BoardClass, BundleWriter, Description, Head, SectionKind};
use edgeward::contract::ViolationKind;
use edgeward::engine::{Elements, Tape};
use edgeward::guard::{Prediction, PredictionFlags};
use edgeward::policy::Policy;
use edgeward::profile::{
    BINS, DType, DriftLimits, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};
use edgeward::recorder::{Recorder, Snapshot, Stamp};
use edgeward::telemetry::codec::encode_frame;
use edgeward::telemetry::pull::{Command, Order, Pull, encode_command};
use edgeward::telemetry::{Alarm, Body, Event, FeatureSummary, Frame, Summary};
use edgeward::trust::Signer;
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::RingSigner;

const BUNDLE: &str = include_str!("../docs/BUNDLE.md");
const WIRE: &str = include_str!("../docs/WIRE.md");

fn check(document: &str, name: &str, expected: &[u8]) {
    let start = format!("```hex {name}\n");
    let block = document
        .split_once(&start)
        .and_then(|(_, rest)| rest.split_once("```"))
        .unwrap_or_else(|| panic!("no block {name}"))
        .0;
    let digits: String = block
        .lines()
        .flat_map(|line| line.split(';').next().unwrap_or(line).split_whitespace())
        .collect();
    let written: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digits, written, "{name}");
}

#[test]
fn the_bundle_example_is_what_the_writer_writes() {
    let mut writer = BundleWriter::new(Description {
        name: "m".into(),
        version: "1".into(),
        counter: 300,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .expect("the description is plain");
    writer
        .section(SectionKind::Policy, [1, 2, 3])
        .expect("first of its kind");
    let bytes = writer.finish().expect("it fits");
    let header = *Head::parse(&bytes).expect("it is sound").header();
    check(BUNDLE, "bundle-header", &bytes[..64]);
    check(BUNDLE, "bundle-manifest", &bytes[64..header.signed_bytes()]);
}

#[test]
fn the_example_of_a_profile_is_what_is_packed() {
    let name = |name: &str| Name::try_from(name).expect("a short name");
    let mut reference = [1; BINS];
    reference[0] = 300;
    let profile = Profile::<4, 4> {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window: 1,
            hop: 1,
            layout: Layout::SamplesFirst,
            period_ms: 10,
            max_age_ms: 1000,
            feature_version: 0,
        },
        features: [FeatureProfile {
            name: name("t"),
            missing: MissingPolicy::HoldLast,
            min: -1.0,
            max: 1.0,
            mean: 0.0,
            sd: 1.0,
            max_rate: f32::INFINITY,
            stuck_run: 0,
            edges: std::array::from_fn(|i| i as f32 - 7.0),
            reference,
            limits: DriftLimits {
                psi: 0.5,
                ks: 0.25,
                js: 0.25,
                wasserstein: 1.0,
            },
        }]
        .into_iter()
        .collect(),
        output: OutputProfile {
            kind: OutputKind::Values,
            names: [name("y")].into_iter().collect(),
            temperature: 1.0,
            class_counts: [].into_iter().collect(),
            score_mean: 0.0,
            score_sd: 1.0,
            score_p01: -2.0,
            score_p99: 2.0,
            entropy_mean: 0.0,
            class_psi_limit: f32::INFINITY,
            score_shift_limit: 1.0,
        },
        drift_window: 100,
    };
    let bytes = encode_profile(&profile).expect("it fits");
    check(BUNDLE, "profile", &bytes);
    assert_eq!(decode_profile(&bytes), Ok(profile));
}

#[test]
fn the_example_of_a_policy_is_the_standard_one() {
    let bytes = encode_policy(&Policy::standard()).expect("it fits");
    check(BUNDLE, "policy", &bytes);
    assert_eq!(decode_policy(&bytes), Ok(Policy::standard()));
}

#[test]
fn the_signature_example_is_what_we_sign() {
    let key = RingSigner::from_seed(&[1; 32]).expect("any seed is a key");
    let mut out = vec![0; ContentType::Ack.embedded_bytes(2)];
    cose::sign_embedded(&key, ContentType::Ack, b"hi", &mut out).expect("it fits");
    check(WIRE, "cose-ack", &out);
    assert_eq!(key.public_key().id().0[..], out[36..44]);
}

#[test]
fn the_examples_of_frames_are_what_a_board_writes() {
    let event = Event::Alarm {
        release: [2; 8],
        alarm: Alarm::Violation {
            kind: ViolationKind::Stuck,
            feature: Some(2),
            value: 1.5,
            sample: 99,
        },
    };
    check_frame("frame-event", 9, Body::Event(event));
    let mut summary = Summary::empty();
    summary.release = [2; 8];
    summary.windows = 1;
    (summary.from_ms, summary.to_ms) = (1_699_999_970_000, 1_700_000_000_000);
    (summary.samples, summary.inferences) = (100, 1);
    summary.latency.record(128_000);
    let mut feature = FeatureSummary::empty();
    (feature.bins[7], feature.n) = (100, 100);
    (feature.mean, feature.m2, feature.min, feature.max) = (0.5, 2.0, 0.25, 0.75);
    summary.features.push(feature).expect("room");
    summary.output.n = 1;
    summary.output.classes = [0, 1, 0].into_iter().collect();
    (summary.output.score_mean, summary.output.expected_right) = (0.75, 0.75);
    summary.output.entropy_sum = 0.5;
    summary.core_khz = 25_000;
    assert_eq!(summary.latency_p99_cycles(), Some(3_200_000));
    check_frame("frame-summary", 8, Body::Summary(summary));
}

fn check_frame(name: &str, sequence: u64, body: Body<4, 3>) {
    let frame = Frame {
        device: "board-1".try_into().expect("short"),
        epoch: 0x5eed,
        acknowledged: 6,
        boot: 3,
        first_sequence: sequence,
        sequence,
        time_ms: 1_700_000_000_000,
        body,
    };
    let mut bytes = [0; 256];
    let bytes = encode_frame(&frame, &mut bytes).expect("it fits");
    check(WIRE, name, bytes);
}

#[test]
fn the_examples_of_a_pull_are_what_host_and_board_write() {
    let command = Command {
        fleet: "plant-7".try_into().expect("short"),
        device: "board-1".try_into().expect("short"),
        boot: 3,
        sequence: 1_700_000_000_000,
        expires_s: 1_700_000_060,
        order: Order::PullRecord { pull: [0xAB; 16] },
    };
    let mut space = [0; 128];
    let bytes = encode_command(&command, &mut space).expect("it fits");
    check(WIRE, "command", bytes);

    let mut recorder = Recorder::new([0; 1024]);
    let stamp = Stamp {
        time_ms: 1_700_000_000_000,
        release: [2; 8],
        sample: 99,
    };
    let mut entry = recorder.begin(stamp, 2);
    entry.input(Elements::I8(&[1, 0, -1, 127, -128]));
    entry.output(Elements::I8(&[90, -90]));
    entry.finish(&Ok(Prediction {
        class: 0,
        confidence: 0.75,
        flags: PredictionFlags::Z_OUTLIER,
        latency_us: 21,
        fallback: false,
    }));
    let mut bytes = vec![0; recorder.len()];
    recorder.read(0, &mut bytes);
    check(WIRE, "record", &bytes);

    let mut out = [0; 512];
    let pull = Pull::new([0xAB; 16], 3, 1_700_000_000_100, &recorder, out.len()).expect("room");
    let device = "board-1".try_into().expect("short");
    let key = RingSigner::from_seed(&[1; 32]).expect("any seed is a key");
    let len = pull.sign_next(&device, &recorder, &key, &mut out);
    let message = cose::parse(&out[..len.expect("it fits")]).expect("of the one shape");
    assert_eq!(message.content, ContentType::Record);
    let head = message.payload.expect("embedded");
    let (head, records) = head.split_at(head.len() - bytes.len());
    assert_eq!(records, bytes);
    check(WIRE, "part", head);
}
