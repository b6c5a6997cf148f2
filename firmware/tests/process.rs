//! The agent as a process of its own: signals, kills in mid-download, and a broker that goes away.

mod common;

use common::{BoardProcess, Feed, Host, Proxy, broker, bundle, golden, policy, slow_bundle, until};
use edgeward::telemetry::{Event, Reason, SlotState};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const AGENT: &str = env!("CARGO_BIN_EXE_edgeward-agent");

#[test]
fn a_killed_board_goes_on_where_it_was_and_ends_well_on_sigterm() {
    let broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), broker);
    let host = Host::start(broker, device_key);
    board.spawn(AGENT);
    until("the board is online", || host.state() == "online");

    // All chunks but the last can be had: the board gets as far as that, and is killed.
    let release = bundle(1, &policy(0, 0), golden(1.0));
    let last = release.len().div_ceil(4096) - 1;
    let target = host.publish_but(&release, &[last]);
    host.desire(1, &target);
    until("the download begins", || {
        board.stats()["slots"][0]["state"] == "Receiving"
    });
    board.until_quiet();
    board.kill();
    until("the broker tells", || host.state() == "offline");

    host.publish_but(&release, &(0..last).collect::<Vec<_>>());
    board.spawn(AGENT);
    let mut feed = Feed::start(&board);
    feed.until("release 1 is confirmed", || board.stats()["confirmed"] == 0);
    let resumed = host.events().into_iter().find_map(|event| match event {
        Event::Resumed { kept, total, .. } => Some((kept, total)),
        _ => None,
    });
    let total = last as u32 + 1;
    assert_eq!(resumed, Some((total - 1, total)));

    drop(feed);
    assert!(board.terminate().success());
    until("the board says goodbye", || host.state() == "offline");
}

#[test]
fn a_board_predicts_without_a_broker_and_reports_everything_afterwards() {
    let proxy = Proxy::to(broker());
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), proxy.address());
    let host = Host::start(proxy.broker(), device_key);
    board.spawn(AGENT);
    let release = bundle(1, &policy(0, 0), golden(1.0));
    let target = host.publish(&release);
    host.desire(1, &target);
    let mut feed = Feed::start(&board);
    feed.until("release 1 is confirmed", || board.stats()["confirmed"] == 0);

    proxy.cut();
    until("the board notices", || board.stats()["connected"] == false);
    let before = board.stats()["predictions"].as_u64().unwrap();
    feed.samples(4000);
    let stats = board.stats();
    assert!(stats["predictions"].as_u64().unwrap() > before + 200);
    assert!(stats["outbox_records"].as_u64().unwrap() > 0);

    proxy.mend();
    drop(feed);
    let samples = board.stats()["samples"].as_u64().unwrap();
    until("the outbox is empty", || {
        board.stats()["outbox_records"] == 0
    });
    assert!(board.terminate().success());
    until("the last window is stored", || {
        u64::from(host.summarized()) == samples
    });
    let numbers = host.numbers();
    let sequence = host.answered();
    assert!(sequence >= numbers.len() as u64);
    assert!(host.gapless(), "{numbers:?}");
}

#[test]
fn a_release_that_hangs_takes_two_boots_with_it_and_is_left_at_the_third() {
    let broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), broker);
    board.hangs_after_ms(100);
    let host = Host::start(broker, device_key);
    board.spawn(AGENT);
    let first = host.publish(&bundle(1, &policy(0, 0), golden(1.0)));
    host.desire(1, &first);
    let mut feed = Feed::start(&board);
    feed.until("release 1 is confirmed", || board.stats()["confirmed"] == 0);
    drop(feed);

    // It passes its self-test, which has all the time it wants, and goes on trial.
    let second = host.publish(&slow_bundle(2, &policy(0, 0)));
    host.desire(2, &second);
    for boot in 1..=2 {
        until("release 2 is on trial", || board.stats()["mode"] == "trial");
        let status = board.feed_until_it_ends();
        assert_eq!(status.signal(), Some(6), "boot {boot} aborts: {status}");
        board.spawn(AGENT);
    }
    until("release 1 runs again", || {
        let stats = board.stats();
        stats["mode"] == "confirmed" && stats["slot"] == 0
    });
    assert_eq!(board.stats()["last_failure"][1], "Crash");
    let reverted = |event: &Event| {
        let crash = Reason::Crash;
        matches!(event, Event::Reverted { reason, to: Some(_), .. } if *reason == crash)
    };
    until("the host knows why", || host.events().iter().any(reverted));
    let mut feed = Feed::start(&board);
    feed.samples(100);
    assert!(!feed.answers.is_empty(), "release 1 answers");
    drop(feed);
    assert!(board.terminate().success());
}

/// Waits until release 2 is rejected for the boots that it took, and release 1 answers alone.
fn left_at_the_third_boot(board: &mut BoardProcess, host: &Host) {
    until("release 2 is rejected", || {
        let stats = board.stats();
        stats["slots"][1]["state"] == "Rejected(Crash)" && stats["mode"] == "confirmed"
    });
    assert_eq!(board.stats()["last_failure"][1], "Crash");
    let rejected = SlotState::Rejected(Reason::Crash);
    let told =
        |event: &Event| matches!(event, Event::Slot { slot: 1, state, .. } if *state == rejected);
    until("the host knows why", || host.events().iter().any(told));
    let mut feed = Feed::start(board);
    feed.samples(100);
    assert!(!feed.answers.is_empty(), "release 1 answers");
    drop(feed);
    assert!(board.terminate().success());
}

#[test]
fn a_shadow_that_hangs_takes_two_boots_with_it_and_is_left_at_the_third() {
    let broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), broker);
    board.hangs_after_ms(100);
    let host = Host::start(broker, device_key);
    board.spawn(AGENT);
    let first = host.publish(&bundle(1, &policy(0, 0), golden(1.0)));
    host.desire(1, &first);
    let mut feed = Feed::start(&board);
    feed.until("release 1 is confirmed", || board.stats()["confirmed"] == 0);
    drop(feed);

    let second = host.publish(&slow_bundle(2, &policy(1000, 0)));
    host.desire(2, &second);
    for boot in 1..=2 {
        until("release 2 is in shadow", || {
            board.stats()["slots"][1]["state"] == "Shadow"
        });
        let status = board.feed_until_it_ends();
        assert_eq!(status.signal(), Some(6), "boot {boot} aborts: {status}");
        board.spawn(AGENT);
    }
    left_at_the_third_boot(&mut board, &host);
}

#[test]
fn a_self_test_that_hangs_takes_two_boots_with_it_and_is_left_at_the_third() {
    let broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let (mut board, device_key) = BoardProcess::provisioned(folder.path(), broker);
    let host = Host::start(broker, device_key);
    board.spawn(AGENT);
    let first = host.publish(&bundle(1, &policy(0, 0), golden(1.0)));
    host.desire(1, &first);
    let mut feed = Feed::start(&board);
    feed.until("release 1 is confirmed", || board.stats()["confirmed"] == 0);
    drop(feed);
    assert!(board.terminate().success());

    // From here on a golden vector of release 2 takes too long; release 1 is not asked again.
    board.load_hangs_after_ms(150);
    board.spawn(AGENT);
    let second = host.publish(&slow_bundle(2, &policy(0, 0)));
    host.desire(2, &second);
    for boot in 1..=2 {
        let status = board.until_it_ends();
        assert_eq!(status.signal(), Some(6), "boot {boot} aborts: {status}");
        board.spawn(AGENT);
    }
    left_at_the_third_boot(&mut board, &host);
}

#[test]
fn samples_may_come_by_standard_input_and_its_end_ends_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let (board, _) = BoardProcess::provisioned(folder.path(), broker());
    let path = folder.path().join("stdin.toml");
    let text = std::fs::read_to_string(folder.path().join("agent.toml")).unwrap();
    let listen = "[source]\nlisten = \"samples.sock\"";
    assert!(text.contains(listen), "{text}");
    let text = text.replace(listen, "[source.stdin]\nstop_at_end = true");
    std::fs::write(&path, text).unwrap();
    drop(board);

    let mut command = Command::new(AGENT);
    command.arg("--config").arg(&path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines = "1,2,3\nedgeward-source schema=1 dtype=f32 features=a\n1,2,3\nnonsense\nstats\n";
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = text.lines().collect();
    assert_eq!(answers[0], "error no header yet");
    assert_eq!(answers[1], "error column 1: neither a sample nor a command");
    let stats: serde_json::Value = serde_json::from_str(answers[2]).unwrap();
    assert_eq!(
        (&stats["idle_samples"], &stats["bad_lines"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn a_bad_command_line_or_configuration_is_an_error_that_says_what() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| Command::new(AGENT).args(args).output().unwrap();
    assert_eq!(run(&[]).status.code(), Some(2));
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "fleet = 'f'\nflet = 1").unwrap();
    let output = run(&["--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("flet") && said.contains("agent.toml"),
        "{said}"
    );
}
