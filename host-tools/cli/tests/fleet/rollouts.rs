//! Rollouts, by hand and driven by `edgeward serve`.

use crate::board::{Board, empty_slot};
use crate::common::process::PATIENCE;
use crate::common::snapshot;
use crate::site::{FLEET, Site};
use edgeward::bundle::CHUNK_BYTES;
use edgeward::sync::RolloutState;
use edgeward::telemetry::{Reason, SlotState};
use edgeward::topic;
use edgeward_host::keys::hex;
use serde_json::Value;
use std::time::Instant;

#[test]
fn a_rollout_is_started_paused_resumed_aborted_and_rolled_back() {
    let place = Site::new();
    place.error(&["rollout", "status"], 1);
    place.error(&["rollout", "start", "plain.bundle"], 3);
    place.error(&["rollout", "start", "v1.bundle", "--phases", "50%,10%"], 2);
    let start = ["rollout", "start", "v1.bundle", "--id", "r-1"];
    std::fs::remove_dir_all(place.path(".edgeward/releases")).unwrap_or_default();
    let store = place.path(".edgeward/store.db");
    std::fs::remove_file(&store).unwrap_or_default();
    assert_eq!(
        place.json(&[&start[..], &["--dry-run"]].concat(), 0)["dry_run"],
        true
    );
    let back = ["rollback", "--to", "v1.bundle", "--dry-run"];
    assert_eq!(place.json(&back, 0)["dry_run"], true);
    assert!(!store.exists(), "a dry run makes no store");
    place.error(&["rollout", "status"], 1);

    let started = place.json(&[&start[..], &["--phases", "10%,100%"]].concat(), 0);
    snapshot("rollout-start", &started);
    assert_eq!(
        (&started["rollout"]["state"], &started["rollout"]["phase"]),
        (&"Running".into(), &0.into())
    );
    let first = place.desired();
    assert_eq!(
        (first.rollout.as_str(), first.state, first.share_per_mille),
        ("r-1", RolloutState::Active, 100)
    );
    // Without `edgeward serve` it stays in its first phase.
    let watch = ["rollout", "status", "--watch", "--timeout", "1"];
    assert_eq!(place.lines(&watch, 5)[0]["rollout"]["state"], "Running");

    let would = place.json(&["rollout", "pause", "--dry-run"], 0);
    assert_eq!(would["rollout"]["state"], "Paused");
    let paused = place.json(&["rollout", "pause"], 0);
    snapshot("rollout-pause", &paused);
    assert_eq!(paused["rollout"]["state"], "Paused");
    let second = place.desired();
    assert_eq!(second.state, RolloutState::Paused);
    assert!(second.sequence > first.sequence);
    place.error(&["rollout", "pause"], 1);
    snapshot("rollout-resume", &place.json(&["rollout", "resume"], 0));
    assert_eq!(place.desired().state, RolloutState::Active);
    place.error(&["rollout", "resume"], 1);
    assert_eq!(
        place.json(&["rollout", "status"], 0)["counts"]["targeted"],
        0
    );

    snapshot("rollout-abort", &place.json(&["rollout", "abort"], 0));
    assert_eq!(place.desired().state, RolloutState::Aborted);
    let aborted = place.json(&["rollout", "status"], 4);
    assert_eq!(aborted["rollout"]["state"]["Aborted"]["why"], "by hand");
    place.error(&["rollout", "abort"], 1);

    // What worked comes back under the next counter, for the whole fleet.
    place.error(&["rollback", "--to", "plain.bundle"], 3);
    let dry = place.json(&["rollback", "--to", "v1.bundle", "--dry-run"], 0);
    assert_eq!(dry["dry_run"], true);
    let back = place.json(&["rollback", "--to", "v1.bundle"], 0);
    snapshot("rollback", &back);
    assert_eq!(back["rollout"]["plan"]["targets"][0]["counter"], 2);
    let last = place.desired();
    assert_eq!((last.share_per_mille, last.targets[0].counter), (1000, 2));
    let again = place.retained(&topic::blob(&last.targets[0].digest, 0));
    assert_eq!(again.len(), CHUNK_BYTES);
    let history = place.json(&["rollout", "history"], 0);
    let names: Vec<_> = history["rollouts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|rollout| rollout["plan"]["id"].as_str().expect("a name"))
        .collect();
    assert_eq!(names.len(), 2);
    assert!(
        names[0].starts_with("rollback-") && names[1] == "r-1",
        "{names:?}"
    );

    // Records are printed as people and other commands write them.
    let target = &history["rollouts"][0]["plan"]["targets"][0];
    assert_eq!(target["class"], "linux");
    assert_eq!(target["digest"], hex(&last.targets[0].digest));

    // Where the release key is elsewhere, the same is written for whoever has it to sign.
    let keys = place.path(".edgeward/keys");
    let away = place.path("away");
    std::fs::create_dir(&away).expect("a folder");
    let held: Vec<_> = std::fs::read_dir(&keys)
        .expect("the keys")
        .map(|entry| entry.expect("a key").file_name())
        .filter(|name| name.to_string_lossy().starts_with("release-"))
        .collect();
    for name in &held {
        std::fs::rename(keys.join(name), away.join(name)).expect("moved away");
    }
    place.error(&["rollback", "--to", "v1.bundle"], 1);
    let out = ["rollback", "--to", "v1.bundle", "--out", "again.bundle"];
    let written = place.json(&out, 0);
    snapshot("rollback-out", &written);
    assert_eq!(
        (&written["counter"], &written["missing"]),
        (&3.into(), &serde_json::json!([0, 1]))
    );
    place.error(&["rollout", "start", "again.bundle"], 3);
    for name in &held {
        std::fs::rename(away.join(name), keys.join(name)).expect("moved back");
    }
    place.json(&["sign", "again.bundle"], 0);
    let start = ["rollout", "start", "again.bundle", "--id", "r-2"];
    place.json(&start, 0);
    assert_eq!(place.desired().targets[0].counter, 3);

    // What had not ended when another began never will.
    place.json(&["rollout", "start", "v1.bundle", "--id", "r-3"], 0);
    let history = place.json(&["rollout", "history"], 0);
    let rollouts = history["rollouts"].as_array().expect("a list").iter();
    let superseded: Vec<_> = rollouts.map(|rollout| &rollout["superseded"]).collect();
    assert_eq!(superseded, [false, true, true, false], "{history}");
}

#[test]
fn a_release_that_every_board_would_refuse_as_a_downgrade_is_not_started() {
    let place = Site::new();
    let _serve = place.serve();
    let mut boards = [("board-1", 7), ("board-2", 8)].map(|(name, seed)| {
        let mut board = Board::named(&place, name, seed);
        board.accepts_from(if name == "board-1" { 3 } else { 5 });
        board.acknowledged(&place.root());
        board
    });
    let start = ["rollout", "start", "v1.bundle", "--id", "r-1"];
    for args in [&start[..], &[&start[..], &["--dry-run"]].concat()] {
        let said = place.error(args, 3).to_string();
        assert!(said.contains("accepts 3 at least"), "{said}");
        // The counter that a board has confirmed is taken.
        assert!(said.contains("counter = 6"), "{said}");
    }
    place.error(&["rollout", "status"], 1);
    // What goes back goes above what boards report, though this host has sent them nothing.
    let back = place.json(&["rollback", "--to", "v1.bundle", "--dry-run"], 0);
    assert_eq!(back["rollout"]["plan"]["targets"][0]["counter"], 6);
    // A number out of all reach may be that of a stolen board: it neither uses up the fleet's counters nor
    // keeps the others from what they need.
    boards[1].accepts_from(4_000_000_000);
    boards[1].acknowledged(&place.root());
    let dry = ["rollback", "--to", "v1.bundle", "--dry-run", "-o", "json"];
    let output = place.run(&dry, 0);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("board-2 reports counter 4000000000"),
        "{said}"
    );
    let back: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(back["rollout"]["plan"]["targets"][0]["counter"], 4);
    boards[0].accepts_from(4_000_000_000);
    boards[0].acknowledged(&place.root());
    let said = place.error(&dry[..4], 3).to_string();
    assert!(said.contains("reports counter 4000000000"), "{said}");

    // One board that takes it is enough.
    boards[0].accepts_from(1);
    boards[0].acknowledged(&place.root());
    place.json(&start, 0);
}

#[test]
fn a_broker_that_is_away_is_waited_for_as_long_as_one_says_or_not_at_all() {
    let place = Site::new();
    let away = ["--broker", "mqtt://127.0.0.1:1"];
    let start = ["rollout", "start", "v1.bundle", "--id", "r-1"];
    let begin = Instant::now();
    let error = place.error(&[&start[..], &away, &["--timeout", "1"]].concat(), 5);
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    let said = error["error"].as_str().expect("a sentence");
    assert!(
        said.contains("Connection refused") && said.contains("noted"),
        "{said}"
    );
    let pause = ["rollout", "pause"];
    place.error(&[&pause[..], &away, &["--timeout", "1"]].concat(), 5);
    let resume = ["rollout", "resume", "--no-wait"];
    let resumed = place.json(&[&resume[..], &away].concat(), 0);
    assert_eq!(resumed["rollout"]["state"], "Running");
    let back = ["rollback", "--to", "v1.bundle"];
    place.run(&[&back[..], &away, &["--timeout", "1"]].concat(), 5);
    place.json(&[&back[..], &away, &["--no-wait"]].concat(), 0);
    let both = ["rollout", "abort", "--no-wait", "--timeout", "1"];
    place.run(&both, 2);

    // What was noted is published by `edgeward serve`.
    let serve = place.serve();
    assert_eq!(serve.first_json()["fleet"], FLEET);
    assert!(place.desired().rollout.starts_with("rollback-"));
}

#[test]
fn a_rollout_that_some_boards_refuse_is_partly_done() {
    let place = Site::new();
    let serve = place.serve();
    assert_eq!(serve.first_json()["fleet"], FLEET);
    let mut good = Board::named(&place, "good", 7);
    let mut bad = Board::named(&place, "bad", 8);
    let start = ["rollout", "start", "v1.bundle", "--phases", "100%"];
    let bounds = ["--soak", "0", "--max-failures", "1"];
    // A phase without boards would be over at once: both are known before it begins.
    for board in [&mut good, &mut bad] {
        board.birth(empty_slot(), 0);
        board.acknowledged(&place.root());
    }
    place.json(&[&start[..], &bounds].concat(), 0);
    let desired = place.desired();
    good.confirms(&desired);
    good.acknowledged(&place.root());
    let watch = ["rollout", "status", "--watch", "--timeout"];
    let open = place.lines(&[&watch[..], &["1"]].concat(), 5);
    let counts = &open.last().expect("a line")["counts"];
    assert_eq!(
        (&counts["confirmed"], &counts["waiting"]),
        (&1.into(), &1.into())
    );

    bad.reports(&desired, SlotState::Rejected(Reason::SelfTest));
    bad.acknowledged(&place.root());
    let ended = place.lines(&[&watch[..], &["50"]].concat(), 6);
    let last = ended.last().expect("a line");
    assert_eq!(last["rollout"]["state"], "Done");
    let counts = &last["counts"];
    assert_eq!(
        (&counts["confirmed"], &counts["failed"]),
        (&1.into(), &1.into())
    );
    place.json(&["rollout", "status"], 6);

    // The release again: what failed before does not count, for the board tries again; one more than
    // may fail stops it.
    let strict = ["--soak", "0", "--id", "strict"];
    let would = place.json(&[&start[..], &strict, &["--dry-run"]].concat(), 0);
    let counts = &would["counts"];
    assert_eq!(
        (&counts["waiting"], &counts["failed"]),
        (&1.into(), &0.into()),
        "{would}"
    );
    place.json(&[&start[..], &strict].concat(), 0);
    let open = place.lines(&[&watch[..], &["1"]].concat(), 5);
    let counts = &open.last().expect("a line")["counts"];
    assert_eq!(
        (&counts["waiting"], &counts["failed"]),
        (&1.into(), &0.into())
    );
    let desired = place.desired();
    assert_eq!(desired.rollout, "strict");
    bad.reports(&desired, SlotState::Rejected(Reason::SelfTest));
    let stopped = place.lines(&[&watch[..], &["50"]].concat(), 4);
    let why = &stopped.last().expect("a line")["rollout"]["state"]["Aborted"]["why"];
    assert!(
        why.as_str().is_some_and(|why| why.contains("1 of 2")),
        "{why}"
    );
}

#[test]
fn a_rollout_that_paused_by_itself_is_not_waited_for() {
    let place = Site::new();
    let serve = place.serve();
    assert_eq!(serve.first_json()["fleet"], FLEET);
    let mut bad = Board::named(&place, "bad", 8);
    bad.birth(empty_slot(), 0);
    bad.acknowledged(&place.root());
    let start = ["rollout", "start", "v1.bundle", "--phases", "100%"];
    let bounds = ["--soak", "0", "--max-failures", "1"];
    place.json(&[&start[..], &bounds].concat(), 0);
    // One that somebody paused is followed: he lets it go on.
    place.json(&["rollout", "pause"], 0);
    let watch = ["rollout", "status", "--watch", "--timeout"];
    let open = place.lines(&[&watch[..], &["1"]].concat(), 5);
    let last = open.last().expect("a line");
    assert_eq!(last["rollout"]["state"], "Paused");
    place.json(&["rollout", "status"], 0);
    place.json(&["rollout", "resume"], 0);

    let desired = place.desired();
    bad.reports(&desired, SlotState::Rejected(Reason::SelfTest));
    bad.acknowledged(&place.root());
    let began = Instant::now();
    let ended = place.lines(&[&watch[..], &["3000"]].concat(), 6);
    assert!(began.elapsed() < PATIENCE);
    let last = ended.last().expect("a line");
    assert_eq!(last["rollout"]["state"], "Paused");
    let why = last["rollout"]["paused_why"].as_str().expect("a sentence");
    assert!(why.contains("0 of its 1 boards confirmed"), "{why}");
    place.json(&["rollout", "status"], 6);
}
