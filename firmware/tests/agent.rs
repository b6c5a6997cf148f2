//! The agent for Linux boards in this process, with a real broker, a real model and real flash files.

mod common;

use common::{
    BoardProcess, Feed, Host, broker, broker_v5, bundle, first_release, golden, key, policy,
    root_trusting,
};
use edgeward::bundle::Bundle;
use edgeward::bundle::write::sign;
use edgeward::contract::ViolationKind;
use edgeward::engine::Engine;
use edgeward::engine::board::BoardEngine;
use edgeward::engine::pool::PoolAllocator;
use edgeward::policy::Action;
use edgeward::recorder::{Records, What};
use edgeward::telemetry::pull::verify_part;
use edgeward::telemetry::{Body, Event, Reason, Refused, SlotState};
use edgeward::trust::PublicKey;
use edgeward::trust::ring::RingVerifier;
use edgeward_firmware::linux::config::Protocol;
use edgeward_firmware::linux::run;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

/// A board with release 1 confirmed, its host, and the folder that it lives in.
fn confirmed() -> (BoardProcess, Host, Feed, TempDir) {
    let broker = broker();
    confirmed_over(broker, broker, Protocol::default())
}

/// The same, with the host and the board at a broker's different addresses.
fn confirmed_over(
    host: SocketAddr,
    board: SocketAddr,
    protocol: Protocol,
) -> (BoardProcess, Host, Feed, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), board);
    board.config.broker.protocol = protocol;
    let host = Host::start(host, device_key);
    board.start();
    host.until("the board is online", |seen| seen.state == "online");
    host.roll_out(1, &first_release());
    let mut feed = Feed::start(&board);
    feed.until_confirmed(&board);
    (board, host, feed, folder)
}

/// Ends the agent's thread and waits until the broker has told.
fn stop(board: &mut BoardProcess, host: &Host) {
    board.stop();
    host.until("the board is offline", |seen| seen.state == "offline");
}

#[test]
fn a_board_answers_without_allocating_and_names_what_is_wrong() {
    let (mut board, host, mut feed, _folder) = confirmed();
    for _ in 0..90 {
        feed.samples(2000);
    }
    let stats = board.stats();
    assert_eq!(stats["mode"], "confirmed");
    let inferences = stats["steady_inferences"].as_u64().unwrap();
    assert!(inferences > 10_000, "{stats}");
    assert_eq!(stats["allocations_per_inference"], 0.0, "{stats}");
    assert_eq!(stats["frees_per_inference"], 0.0, "{stats}");
    let answers = feed
        .answers
        .iter()
        .filter(|line| !line.starts_with("alarm"));
    let answers: Vec<Vec<&str>> = answers
        .map(|line| line.trim().split(',').collect())
        .collect();
    assert!(answers.len() > 200);
    for answer in answers {
        assert!(
            answer.len() == 5 && common::CLASSES.contains(&answer[1]),
            "{answer:?}"
        );
    }

    // A hostile line is an error that names the field, and the stream goes on.
    feed.answers.clear();
    feed.line("1,2,0.1,oops,0,0,0,0");
    feed.samples(1);
    let expected = "error column 4: not a number of this field's type (ay)\n";
    assert_eq!(feed.answers[0], expected);

    // The recordings repeat samples, which is one alarm a window; a real source is not that fast.
    board.until_acknowledged();
    // A stuck channel raises the board's alarm, and the host stores the signed event.
    for n in 0..40 {
        let number = 1_000_000 + n;
        feed.line(&format!("{number},0,1.5,{n},0.{n},0.3{n},{n}.1,{n}.2"));
    }
    feed.samples(1);
    let alarm = feed.answers.iter().find(|line| line.contains("kind=Stuck"));
    assert!(
        alarm.is_some_and(|line| line.contains("feature=ax")),
        "{:?}",
        feed.answers
    );
    let stuck = |event: &Event| format!("{event:?}").contains("Stuck");
    host.until("the event is stored", |seen| seen.has_event(stuck));
    board.stop();
}

#[test]
fn bad_releases_are_refused_or_reverted() {
    let (mut board, host, mut feed, _folder) = confirmed();
    // Release 2 does not reproduce its golden vectors: it never runs.
    host.roll_out(2, &bundle(2, &policy(0, 0), golden(2.0)));
    let became = |state: SlotState| move |event: &Event| matches!(event, Event::Slot { state: seen, .. } if *seen == state);
    let rejected = became(SlotState::Rejected(Reason::SelfTest));
    host.until("release 2 is refused", |seen| seen.has_event(rejected));

    // Release 3 agrees in shadow, then breaches its latency budget on trial, and is left again.
    host.roll_out(3, &bundle(3, &policy(20, 1), golden(1.0)));
    let reverted = |event: &Event| {
        let latency = Reason::Latency;
        matches!(event, Event::Reverted { reason, to: Some(_), .. } if *reason == latency)
    };
    feed.until("release 3 is reverted", || {
        host.shows(|seen| seen.has_event(reverted))
    });
    // The shadow came before, and is told before.
    assert!(host.received().has_event(became(SlotState::Shadow)));
    board.until("the board says so too", |stats| {
        stats["last_failure"][1] == "Latency" && stats["confirmed"] == 0 && stats["slot"] == 0
    });
    board.stop();
}

#[test]
fn a_release_that_does_not_fit_the_source_ends_without_a_sample() {
    let (mut board, host, mut feed, _folder) = confirmed();
    // The releases so far only flag it that a feature has another name.
    feed.line(&common::SOURCE.replace("ax", "other"));
    feed.samples(1);
    let unfit = |shadow| {
        let mut policy = policy(shadow, 0);
        policy.rules[ViolationKind::AbsentFeature as usize].action = Action::Reject;
        policy
    };
    host.roll_out(2, &bundle(2, &unfit(0), golden(1.0)));
    let reverted = |event: &Event| {
        let source = Reason::Source;
        matches!(event, Event::Reverted { reason, to: Some(_), .. } if *reason == source)
    };
    host.until("release 2 is reverted", |seen| seen.has_event(reverted));
    host.roll_out(3, &bundle(3, &unfit(20), golden(1.0)));
    let rejected = |event: &Event| {
        let source = SlotState::Rejected(Reason::Source);
        matches!(event, Event::Slot { state, .. } if *state == source)
    };
    host.until("release 3 leaves the shadow", |seen| {
        seen.has_event(rejected)
    });

    // One that is on trial when another source comes ends, too, and the release before answers.
    feed.line(common::SOURCE);
    let mut endless = unfit(0);
    endless.trial.min_inferences = u32::MAX;
    host.roll_out(4, &bundle(4, &endless, golden(1.0)));
    feed.until("release 4 is on trial", || {
        board.shows(|stats| stats["mode"] == "trial" && stats["slot"] == 1)
    });
    feed.line(&common::SOURCE.replace("ax", "other"));
    feed.answers.clear();
    feed.samples(100);
    let answer = |line: &&String| !line.starts_with("alarm") && !line.starts_with("error");
    assert!(feed.answers.iter().any(|line| answer(&line)));
    board.until("the board says so", |stats| {
        stats["last_failure"][1] == "Source" && stats["confirmed"] == 0 && stats["slot"] == 0
    });
    board.stop();
}

#[test]
fn a_revoked_key_ends_the_trial_of_its_release_and_no_restart_saves_it() {
    let (mut board, host, mut feed, _folder) = confirmed();
    // A trial that lasts as long as nobody ends it.
    let mut endless = policy(0, 0);
    endless.trial.min_inferences = u32::MAX;
    host.roll_out(2, &bundle(2, &endless, golden(1.0)));
    // Of release 1's trial, what is shown may still tell.
    feed.until("release 2 is on trial", || {
        board.shows(|stats| stats["mode"] == "trial" && stats["slot"] == 1)
    });
    host.trust(2, root_trusting(2, 12));
    let reverted = |event: &Event| {
        let revoked = Reason::Revoked;
        matches!(event, Event::Reverted { reason, to: Some(_), .. } if *reason == revoked)
    };
    feed.until("release 2 is reverted", || {
        host.shows(|seen| seen.has_event(reverted))
    });
    // Release 1 answers, and its key is said to be revoked, too.
    let first = |stats: &Value| stats["mode"] == "confirmed" && stats["slot"] == 0;
    feed.until("release 1 answers", || board.shows(first));
    let states = Some([SlotState::Revoked, SlotState::Rejected(Reason::Revoked)]);
    host.until("the board says so", |seen| seen.slots() == states);
    drop(feed);
    board.stop();
    board.start();
    let mut feed = Feed::start(&board);
    feed.until("release 1 answers after the restart", || {
        board.shows(|stats| first(stats) && stats["boot"] == 2)
    });
    // A release by the new key is taken.
    let mut third = bundle(3, &policy(0, 0), golden(1.0));
    sign(&mut third, &key(12)).unwrap();
    host.roll_out(3, &third);
    feed.until("release 3 is confirmed", || {
        board.shows(|stats| stats["confirmed"] == 1 && stats["last_failure"][1] == "Revoked")
    });
    board.stop();
}

/// There are frames, and each number up to the last is one of them: none was merged.
fn assert_every_frame_came(host: &Host) {
    let numbers = host.received().numbers();
    assert!(!numbers.is_empty());
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "{numbers:?}"
    );
}

#[test]
fn frames_survive_a_restart_without_a_gap() {
    let (mut board, host, mut feed, _folder) = confirmed();
    // A second agent on the same flash is refused.
    let error = run(&board.config, &Arc::default()).unwrap_err();
    assert!(format!("{error:#}").contains("in use"), "{error:#}");

    host.acknowledge.store(false, Ordering::SeqCst);
    feed.samples(1100);
    let samples = board.stats()["samples"].as_u64().unwrap();
    assert!(samples > 1100, "{samples}");
    drop(feed);
    stop(&mut board, &host);
    host.acknowledge.store(true, Ordering::SeqCst);
    board.start();
    board.until_acknowledged();
    assert_every_frame_came(&host);
    // Every sample that a release saw is in exactly one summary.
    assert_eq!(host.received().summarized(), samples);
    assert_eq!(board.stats()["boot"], 2);
    board.stop();
}

#[test]
fn a_board_that_lost_its_outbox_goes_on_under_the_same_key() {
    let (mut board, host, mut feed, _folder) = confirmed();
    feed.samples(1100);
    board.until_acknowledged();
    let before = host.received().answered();
    assert!(before > 3, "{before}");
    drop(feed);
    stop(&mut board, &host);
    std::fs::remove_file(&board.config.flash.outbox_path).unwrap();
    board.start();
    host.until("a new epoch begins", |seen| seen.epochs().len() == 2);
    // Samples that come while the release is still loaded are in no window.
    board.until("the release runs", |stats| stats["mode"] == "confirmed");
    let mut feed = Feed::start(&board);
    feed.samples(1100);
    drop(feed);
    host.until("a summary of the new epoch comes", |seen| {
        seen.summarized() > 0
    });
    board.until_acknowledged();
    // Numbers begin at one again, with a birth, and none is missing.
    assert_every_frame_came(&host);
    let (through, [old, new]) = {
        let received = host.received();
        let first = received.frames().next().unwrap();
        assert!(matches!(first.body, Body::Birth(_)), "{first:?}");
        // While this guard is held no frame comes, so all that were answered for are acknowledged.
        host.acknowledge.store(false, Ordering::SeqCst);
        let epochs: [u32; 2] = received.epochs().try_into().unwrap();
        (received.answered(), epochs)
    };
    board.until("so the board knows", |stats| {
        stats["acknowledged"] == through
    });

    // Acknowledgements of the old outbox forget nothing of the new one, however high they go.
    let mut feed = Feed::start(&board);
    feed.samples(1100);
    drop(feed);
    host.until("more frames wait", |seen| seen.answered() > through + 1);
    host.acknowledge_of(old, before);
    host.acknowledge_of(old, before + 1000);
    // One of the new outbox does. The board has them in this order: had one of the old counted,
    // more than this number were acknowledged, or another epoch begun.
    host.acknowledge_of(new, through + 1);
    board.until("a number of the new epoch is acknowledged", |stats| {
        stats["acknowledged"].as_u64() > Some(through)
    });
    let stats = board.stats();
    assert_eq!(stats["acknowledged"], through + 1, "{stats}");
    assert_eq!(stats["epoch"], format!("{new:08x}"));
    assert!(stats["outbox_records"].as_u64() > Some(0), "{stats}");
    host.acknowledge.store(true, Ordering::SeqCst);
    host.acknowledge_of(new, host.received().answered());
    board.until_acknowledged();
    assert_eq!(host.received().epochs(), [old, new]);
    board.stop();
}

#[test]
fn a_board_speaks_mqtt_5_where_it_is_told_to() {
    let (v4, v5) = broker_v5();
    let (mut board, host, feed, _folder) = confirmed_over(v4, v5, Protocol::V5);
    board.until_acknowledged();
    drop(feed);
    stop(&mut board, &host);
}

/// What the parts that came so far carry together, when all are there.
fn flight_record(parts: &[Vec<u8>], key: &PublicKey) -> Option<(u32, Vec<u8>)> {
    let part = |bytes| verify_part(bytes, key, &RingVerifier).unwrap();
    let all: Vec<_> = parts.iter().map(|bytes| part(bytes)).collect();
    let first = all.first()?;
    assert!(
        all.iter()
            .zip(0..)
            .all(|(part, number)| part.part == number)
    );
    let bytes: Vec<u8> = all.iter().flat_map(|part| part.bytes).copied().collect();
    let whole = all.len() == usize::from(first.parts) && bytes.len() == first.total as usize;
    whole.then_some((first.capacity, bytes))
}

#[test]
fn the_flight_record_is_sent_when_the_collector_asks_and_replays_exactly() {
    let broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), broker);
    let host = Host::start(broker, device_key);
    board.start();
    host.until("the board is online", |seen| seen.state == "online");
    let release = first_release();
    host.roll_out(1, &release);
    let mut feed = Feed::start(&board);
    feed.until_confirmed(&board);
    feed.samples(2000);
    let boot = board.stats()["boot"].as_u64().unwrap() as u32;
    // Neither another role's key nor another boot's command has an effect.
    host.pull(boot, 9, 3);
    host.pull(boot + 1, 9, 4);
    let refused = |event: &&Event| {
        let what = Refused::Command;
        **event == Event::Refused { what }
    };
    host.until("both are refused", |seen| {
        seen.events().filter(refused).count() == 2
    });
    assert!(host.received().parts.is_empty());

    host.pull(boot, 1, 4);
    host.until("the flight record is there", |seen| {
        flight_record(&seen.parts, &device_key).is_some()
    });
    let (capacity, bytes) = flight_record(&host.received().parts, &device_key).unwrap();
    assert_eq!(capacity, 256 << 10);
    let bundle = Bundle::open(&release).unwrap();
    let mut engine = BoardEngine::of_bundle(&bundle).unwrap();
    let (mut inferences, mut last) = (0, None);
    for record in Records::new(&bytes) {
        let record = record.unwrap();
        assert_eq!(record.release, bundle.head().digest()[..8]);
        let What::Inference(inference) = record.what else {
            continue;
        };
        let input: Vec<f32> = inference.input.f32s().unwrap().collect();
        let mut output = vec![0.0; engine.output_len()];
        engine.run(&input, &mut output).unwrap();
        let recorded = inference.output.f32s().unwrap();
        assert!(
            recorded
                .map(f32::to_bits)
                .eq(output.iter().map(|x| x.to_bits()))
        );
        inferences += 1;
        last = Some(inference);
    }
    assert!(inferences > 90, "{inferences}");
    // The last one is what was answered last.
    let answers = feed.answers.iter().rev();
    let mut answers = answers.filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let last = last.unwrap();
    let class = common::CLASSES[usize::from(last.class)];
    let said = format!("{},{class},{:.6},", last.sample, last.confidence);
    assert!(answers.next().unwrap().starts_with(&said), "{said}");
    stop(&mut board, &host);

    // Without a recorder the answer says so.
    host.received().parts.clear();
    board.config.recorder_bytes = 0;
    board.start();
    host.until("the board is online", |seen| seen.state == "online");
    host.pull(boot + 1, 1, 4);
    host.until("the board has answered", |seen| !seen.parts.is_empty());
    let answer = flight_record(&host.received().parts, &device_key);
    assert_eq!(answer, Some((0, vec![])));
    board.stop();
}
