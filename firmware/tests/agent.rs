//! The agent for Linux boards in this process, with a real broker, a real model and real flash files.

mod common;

use common::{BoardProcess, Feed, Host, broker, broker_v5, bundle, golden, policy, until};
use edgeward::engine::pool::PoolAllocator;
use edgeward::telemetry::{Body, Event, Reason, SlotState};
use edgeward_firmware::linux::config::Protocol;
use edgeward_firmware::linux::run;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

/// A board with release 1 confirmed, its host, and the folder that it lives in.
fn confirmed() -> (BoardProcess, Host, Feed, tempfile::TempDir) {
    let broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), broker);
    let host = Host::start(broker, device_key);
    board.start();
    until("the board is online", || host.state() == "online");
    let first = host.publish(&bundle(1, &policy(0, 0), golden(1.0)));
    host.desire(1, &first);
    let mut feed = Feed::start(&board);
    feed.until("release 1 is confirmed", || board.stats()["confirmed"] == 0);
    (board, host, feed, folder)
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
    until("the outbox is empty", || {
        board.stats()["outbox_records"] == 0
    });
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
    until("the event is stored", || host.events().iter().any(stuck));
    board.stop();
}

#[test]
fn bad_releases_are_refused_or_reverted() {
    let (mut board, host, mut feed, _folder) = confirmed();
    // Release 2 does not reproduce its golden vectors: it never runs.
    let second = host.publish(&bundle(2, &policy(0, 0), golden(2.0)));
    host.desire(2, &second);
    let rejected = |event: &Event| {
        let state = SlotState::Rejected(Reason::SelfTest);
        matches!(event, Event::Slot { state: seen, .. } if *seen == state)
    };
    until("release 2 is refused", || {
        host.events().iter().any(rejected)
    });

    // Release 3 agrees in shadow, then breaches its latency budget on trial, and is left again.
    let third = host.publish(&bundle(3, &policy(20, 1), golden(1.0)));
    host.desire(3, &third);
    let reverted = |event: &Event| {
        let latency = Reason::Latency;
        matches!(event, Event::Reverted { reason, to: Some(_), .. } if *reason == latency)
    };
    feed.until("release 3 is reverted", || {
        host.events().iter().any(reverted)
    });
    let shadow = |event: &Event| {
        let state = SlotState::Shadow;
        matches!(event, Event::Slot { state: seen, .. } if *seen == state)
    };
    assert!(host.events().iter().any(shadow));
    until("the board says so too", || {
        let stats = board.stats();
        stats["last_failure"][1] == "Latency" && stats["confirmed"] == 0 && stats["slot"] == 0
    });
    board.stop();
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
    drop(feed);
    board.stop();
    until("the board is offline", || host.state() == "offline");
    host.acknowledge.store(true, Ordering::SeqCst);
    board.start();
    until("the outbox is empty", || {
        board.stats()["outbox_records"] == 0 && board.stats()["connected"] == true
    });
    let numbers = host.numbers();
    let gapless: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, gapless);
    // Every sample that a release saw is in exactly one summary.
    assert_eq!(u64::from(host.summarized()), samples);
    assert_eq!(board.stats()["boot"], 2);
    board.stop();
}

#[test]
fn a_board_that_lost_its_outbox_goes_on_under_the_same_key() {
    let (mut board, host, mut feed, _folder) = confirmed();
    feed.samples(1100);
    until("the first outbox is empty", || {
        board.stats()["outbox_records"] == 0 && host.answered() > 3
    });
    let before = host.answered();
    drop(feed);
    board.stop();
    until("the board is offline", || host.state() == "offline");
    std::fs::remove_file(&board.config.flash.outbox_path).unwrap();
    board.start();
    until("a new epoch", || host.epochs().len() == 2);
    let mut feed = Feed::start(&board);
    feed.samples(1100);
    drop(feed);
    until("the second outbox is empty", || {
        let stats = board.stats();
        stats["outbox_records"] == 0 && stats["connected"] == true && host.summarized() > 0
    });
    // Numbers begin at one again, with a birth, and none is missing.
    let numbers = host.numbers();
    let gapless: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, gapless);
    assert!(matches!(host.first().body, Body::Birth(_)));
    // Acknowledgements of the old outbox forget nothing of the new one, however high they go.
    host.acknowledge.store(false, Ordering::SeqCst);
    let through = host.answered();
    let [old, new] = host.epochs()[..] else {
        panic!("two epochs");
    };
    host.acknowledge_of(old, before);
    host.acknowledge_of(old, before + 1000);
    let mut feed = Feed::start(&board);
    feed.samples(1100);
    drop(feed);
    until("more frames", || host.answered() > through);
    let stats = board.stats();
    assert_eq!(stats["acknowledged"], through);
    assert_eq!(stats["epoch"], format!("{new:08x}"));
    // One of the new outbox does.
    host.acknowledge.store(true, Ordering::SeqCst);
    host.acknowledge_of(new, host.answered());
    until("everything is acknowledged", || {
        board.stats()["outbox_records"] == 0
    });
    assert_eq!(host.epochs().len(), 2);
    board.stop();
}

#[test]
fn a_board_speaks_mqtt_5_where_it_is_told_to() {
    let (v4, v5) = broker_v5();
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), v5);
    board.config.broker.protocol = Protocol::V5;
    let host = Host::start(v4, device_key);
    board.start();
    until("the board is online", || host.state() == "online");
    let first = host.publish(&bundle(1, &policy(0, 0), golden(1.0)));
    host.desire(1, &first);
    let mut feed = Feed::start(&board);
    feed.until("release 1 is confirmed", || board.stats()["confirmed"] == 0);
    until("everything is acknowledged", || {
        board.stats()["outbox_records"] == 0
    });
    board.stop();
    until("the board is offline", || host.state() == "offline");
}
