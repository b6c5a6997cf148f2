//! Flight records: asked for, kept, shown and replayed.

use crate::board::{Board, empty_slot};
use crate::common::process::text;
use crate::common::snapshot;
use crate::site::Site;
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::engine::board::BoardEngine;
use edgeward::engine::{Elements, Tape};
use edgeward::guard::{InferenceError, Prediction, PredictionFlags};
use edgeward::recorder::{Recorder, Stamp};
use edgeward::telemetry::release_id;

/// A recorder with an inference of each golden vector of a bundle; `off` is added to the outputs.
fn recorded(bundle: &[u8], off: f32) -> Recorder<Vec<u8>> {
    let bundle = Bundle::open(bundle).expect("a bundle");
    let release = release_id(&bundle.head().digest());
    let mut engine = BoardEngine::of_bundle(&bundle).expect("a model");
    let golden = bundle.section(SectionKind::Golden).expect("golden vectors");
    let golden = Golden::parse(golden).expect("golden vectors");
    let mut recorder = Recorder::new(vec![0; 1 << 20]);
    for (vector, sample) in golden.iter().zip(0..) {
        let input: Vec<f32> = vector.input.iter().collect();
        let mut output = vec![0.0; engine.output_len()];
        engine.run(&input, &mut output).expect("it runs");
        output.iter_mut().for_each(|x| *x += off);
        let stamp = Stamp {
            time_ms: 1,
            release,
            sample,
        };
        let mut entry = recorder.begin(stamp, output.len());
        entry.input(Elements::F32(&input));
        entry.output(Elements::F32(&output));
        let answer: Result<_, InferenceError> = Ok(Prediction {
            class: 1,
            confidence: 0.75,
            flags: PredictionFlags::NONE,
            latency_us: 21,
            fallback: false,
        });
        entry.finish(&answer);
    }
    recorder
}

#[test]
fn a_flight_record_is_pulled_listed_shown_and_replayed() {
    let place = Site::new();
    place.json(&["publish", "v1.bundle"], 0);
    let bundle = std::fs::read(place.path("v1.bundle")).expect("the bundle");
    let _serve = place.serve();
    let mut board = Board::enrolled(&place);
    let pull = ["record", "pull", Board::NAME];
    let said = |error: &serde_json::Value| error.to_string();
    let error = place.error(&pull, 1);
    assert!(said(&error).contains("has not reported"), "{error}");
    let error = place.error(&[&pull[..], &["--fleet", "other"]].concat(), 2);
    assert!(said(&error).contains("--fleet default"), "{error}");
    place.error(&["record", "pull", "nobody"], 1);
    board.birth(empty_slot(), 0);
    board.acknowledged(&place.root());
    let error = place.error(&[&pull[..], &["--timeout", "1"]].concat(), 5);
    assert!(said(&error).contains("0 of 0 parts"), "{error}");
    let dry = place.json(&[&pull[..], &["--dry-run"]].concat(), 0);
    assert_eq!(dry["dry_run"], true);
    assert_eq!(place.json(&["record", "list"], 0), serde_json::json!([]));

    let answer = board.answers(&place, recorded(&bundle, 0.0));
    let pulled = place.json(&pull, 0);
    snapshot("record-pull", &pulled);
    answer.join().expect("the board saw one sound command");
    let file = pulled["file"].as_str().expect("a file");
    let records = pulled["records"].as_u64().expect("a count");
    assert!(
        records > 3 && pulled["parts"].as_u64() > Some(1),
        "{pulled}"
    );
    assert_eq!(pulled["device"], Board::NAME);
    let listed = place.json(&["record", "list"], 0);
    snapshot("record-list", &listed);
    assert_eq!(
        (&listed[0]["file"], &listed[0]["records"]),
        (&file.into(), &records.into())
    );
    let shown = place.json(&["record", "show", file, "--last", "2"], 0);
    snapshot("record-show", &shown);
    let last = &shown["records"][1];
    assert_eq!(
        (&last["role"], &last["confidence"]),
        (&"confirmed".into(), &0.75.into())
    );
    assert_eq!(last["what"], "running", "named by the published bundle");
    let replayed = place.json(&["replay", file], 0);
    snapshot("replay", &replayed);
    let release = &replayed["releases"][0];
    assert_eq!(
        (&release["replayed"], &release["equal"]),
        (&records.into(), &records.into())
    );
    assert_eq!(release["engine"], "tract");
    place.json(&["replay", file, "--bundle", "v1.bundle"], 0);
    // It is signed: another key, and a changed byte, are refused.
    let stranger = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    place.error(&["replay", file, "--key", stranger], 3);
    let mut bytes = std::fs::read(place.path(file)).expect("the record");
    bytes[100] ^= 1;
    std::fs::write(place.path("bad.record"), bytes).expect("written");
    place.error(&["replay", "bad.record"], 3);
    let beside = place.path(".edgeward/records/bad.record");
    std::fs::copy(place.path("bad.record"), &beside).expect("copied");
    assert_eq!(place.json(&["record", "list"], 6), listed, "it is left out");
    std::fs::remove_file(&beside).expect("removed");

    // A record whose outputs are not the release's.
    let answer = board.answers(&place, recorded(&bundle, 0.5));
    place.json(&[&pull[..], &["--out", "off.record"]].concat(), 0);
    answer.join().expect("the board saw one sound command");
    let replayed = place.json(&["replay", "off.record"], 1);
    snapshot("replay-difference", &replayed);
    let difference = &replayed["first_difference"];
    assert_eq!(difference["record"], 1);
    let value = |name: &str| difference[name].as_f64().expect("a number");
    assert!(
        (value("expected") - value("seen") - 0.5).abs() < 0.01,
        "{difference}"
    );
    // Without the bundle there is nothing to compare with.
    std::fs::remove_dir_all(place.path(".edgeward/releases")).expect("removed");
    let output = place.run(&["replay", "off.record", "-o", "json"], 1);
    let error = text(&output.stderr);
    assert!(error.contains("--bundle"), "{error}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the report");
    assert_eq!(report["releases"][0]["replayed"], 0);
}
