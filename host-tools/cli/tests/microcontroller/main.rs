//! The firmware of a microcontroller in QEMU, against a real broker and the host's own commands: from an
//! empty flash to telemetry in the store, through updates, a cut in mid-download, and a bad release.

mod board;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod common;
mod offers;
mod site;

use board::Board;
use common::snapshot;
use edgeward::bundle::BoardClass;
use offers::{Key, refused};
use serde_json::Value;
use site::{Site, Windows};
use std::time::{Duration, Instant};

/// How long a broker is gone.
const OUTAGE: Duration = Duration::from_secs(12);

/// What a microcontroller does in its life, on the broker of `site`; its stack is noted under that name.
fn a_life(site: &Site, image: &str, name: &str) {
    let mut board = Board::flash(site, image);
    let key = board.key();
    site.enroll(&key);
    // Boot, fetch, self-test, trial, confirm: and windows of its samples are in the store.
    site.roll_out("v1");
    let shown = site.until_it_runs("1.0.0");
    assert_eq!(shown["slots"][0]["state"], "confirmed", "{shown}");
    let shown = site.until("windows", |shown| {
        let inferences = shown["windows"][0]["inferences"].as_u64();
        inferences.is_some_and(|inferences| inferences > 0)
    });
    assert_eq!(shown["windows"][0]["samples"], 1000, "{shown}");
    its_latency_is_told_in_cycles(&shown);
    assert!(
        shown["agent"]
            .as_str()
            .is_some_and(|agent| agent.contains("mps2"))
    );

    // Its last inferences are pulled and run again here, by the portable kernels: every bit is the same.
    let pull = |out| site.json(&["record", "pull", Board::NAME, "--out", out], 0);
    let pulled = pull("last.record");
    assert!(pulled["parts"].as_u64() > Some(1), "{pulled}");
    let replayed = site.json(&["replay", "last.record"], 0);
    let release = &replayed["releases"][0];
    assert!(release["replayed"].as_u64() > Some(5), "{replayed}");
    assert_eq!(release["equal"], release["replayed"], "{replayed}");
    // The recorder is back with the board: what is pulled next is newer.
    let first = pulled["last"].as_u64();
    site.until("newer records", |_| {
        pull("next.record")["last"].as_u64() > first
    });

    // The power goes while the second release is on its way, and one of its chunks is lost.
    board.cut_power();
    let (digest, chunks) = site.chunks("v2");
    let lost = chunks.len() - 1;
    site.roll_out_without("v2", lost);
    board.start();
    board.until_flash_holds(&chunks[lost - 1]);
    board.cut_power();
    board.start();
    // Nothing of what was there is fetched again: what comes is the chunk that was missing.
    site.put_chunk(&digest, lost, &chunks[lost]);
    let shown = site.until_it_runs("2.0.0");
    assert_eq!(shown["floor"], 2, "{shown}");
    let resumed = site.event("Resumed", |_| true);
    assert_eq!(resumed["kept"], lost, "{resumed}");
    assert_eq!(resumed["total"], chunks.len(), "{resumed}");

    // The third predicts nonsense: the board leaves it, and says why.
    site.roll_out("bad");
    let shown = site.until("the revert", |shown| {
        shown["last_failure"]["reason"] == "prediction_drift"
    });
    assert_eq!(shown["last_failure"]["version"], "3.0.0", "{shown}");
    let shown = site.until_it_runs("2.0.0");
    assert_eq!(shown["floor"], 2, "{shown}");
    // No number is missing between what the board has said since it was flashed.
    assert_eq!(shown["gaps"], Value::Array(Vec::new()), "{shown}");
    its_log_is_read(site);
    its_stack_is_enough(site, name);
}

/// What the board logged is shown in words by the image that it ran, and by no other.
fn its_log_is_read(site: &Site) {
    let lines = site.lines(&["logs", Board::NAME], 0);
    snapshot("logs", &Value::Array(lines.clone()));
    let levels = |wanted: &str| lines.iter().filter(|line| line["level"] == wanted).count();
    // It started three times, and each time said so, and who it is.
    let begins = lines.iter().filter(|line| {
        let text = line["text"].as_str().unwrap_or_default();
        line["level"].is_null() && text.contains("qemu-mps2-an386") && text.contains(" image ")
    });
    let begins: Vec<_> = begins.collect();
    assert_eq!(begins.len(), 3, "{lines:?}");
    let says = |words: &str| lines.iter().find(|line| line["text"] == words);
    let connected = says("connected").expect("it connected");
    assert_eq!(connected["level"], "info", "{connected}");
    assert!(connected["time_s"].as_f64() > Some(0.0), "{connected}");
    assert!(says("trial of slot 0: Confirm").is_some(), "{lines:?}");
    assert!(levels("info") > 10, "{lines:?}");
    let warnings = site.lines(&["logs", Board::NAME, "--level", "warn"], 0);
    assert_eq!(
        warnings.len(),
        begins.len() + levels("warn") + levels("error")
    );

    // Another image: the same but for what it is called by.
    let id = begins[0]["text"]
        .as_str()
        .and_then(|text| text.rsplit_once(' '));
    let id = edgeward_host::keys::unhex::<8>(id.expect("an id").1).expect("eight bytes");
    let mut other = std::fs::read(site.path(Board::NAME).join("firmware.elf")).expect("an image");
    let at = other
        .windows(8)
        .position(|bytes| bytes == id)
        .expect("its hash");
    other[at] ^= 1;
    std::fs::write(site.path("other.elf"), other).expect("written");
    let error = site.error(&["logs", Board::NAME, "--image", "other.elf"], 1);
    assert!(error.to_string().contains("is another one"), "{error}");
}

/// The board logs how deep its stack has been, and that it was never used up. `cargo xtask test` asks for the
/// figure.
fn its_stack_is_enough(site: &Site, name: &str) {
    let lines = site.lines(&["logs", Board::NAME], 0);
    let depths = lines.iter().filter_map(|line| {
        let text = line["text"].as_str()?.strip_prefix("stack: ")?;
        let (depth, room) = text.strip_suffix(" bytes")?.split_once(" of ")?;
        Some((depth.parse().ok()?, room.parse().ok()?))
    });
    let depths: Vec<(u32, u32)> = depths.collect();
    let &(deepest, room) = depths.iter().max().expect("it told");
    // It is looked at from as far below its room again.
    assert!(deepest > 0, "{depths:?}");
    assert!(deepest <= room, "the stack took {deepest} of {room} bytes");
    if let Some(folder) = std::env::var_os("EDGEWARD_STACKS") {
        let noted = std::path::Path::new(&folder).join(name);
        std::fs::write(noted, format!("{deepest}\n")).expect("written");
    }
}

#[test]
fn a_board_lives_on_mosquitto() {
    if let Some(image) = board::image()
        && let Some(site) = Site::on_mosquitto()
    {
        a_life(&site, &image, "mosquitto");
    }
}

#[test]
fn a_board_lives_on_mosquitto_in_tls() {
    if let Some(image) = board::image()
        && let Some(site) = Site::on_secure_mosquitto()
    {
        a_life(&site, &image, "tls");
    }
}

/// A broker that is not who it should be: the board says so, goes on predicting, and comes back as soon as
/// the right one is there.
#[test]
fn a_board_refuses_a_broker_that_it_does_not_know() {
    let Some(image) = board::image() else { return };
    let Some(site) = Site::on_secure_mosquitto() else {
        return;
    };
    let board = Board::flash(&site, &image);
    site.enroll(&board.key());
    site.roll_out("v1");
    site.until_it_runs("1.0.0");
    let before = site.until_windows(1);
    let since = Instant::now();
    for (shown, words) in [
        (
            "stranger",
            "not signed by the authority that is trusted here",
        ),
        ("other-name", "the broker's certificate is for other names"),
        ("expired", "the broker's certificate has expired"),
    ] {
        site.stop_broker();
        site.show(shown);
        site.start_mosquitto();
        board.until_it_says(words);
    }
    // Meanwhile nothing reached the broker: the board has been there once.
    let connected = |line: &&str| *line == "connected";
    assert_eq!(board.said().lines().filter(connected).count(), 1);
    site.stop_broker();
    site.show("right");
    let gone = since.elapsed();
    site.start_mosquitto();
    let told: u64 = before.iter().map(|it| it.windows).sum();
    let after = site.until_windows(told + gone.as_secs());
    // A window of a board that stood still meanwhile would have been longer by as much.
    let ends = after.iter().map(|it| it.to_ms);
    let pauses = ends.clone().zip(ends.skip(1)).map(|(one, next)| next - one);
    let pauses: Vec<u64> = pauses.collect();
    let (shortest, longest) = (pauses.iter().min(), pauses.iter().max());
    let longer = longest
        .zip(shortest)
        .map(|(longest, shortest)| longest - shortest);
    let longer = longer.expect("several windows");
    assert!(u128::from(longer) < gone.as_millis() / 2, "{after:?}");
}

/// A broker that does not let the board in: the board says why, and is in as soon as it has the right password.
#[test]
fn a_board_with_a_wrong_password_says_so() {
    let Some(image) = board::image() else { return };
    let Some(mut site) = Site::on_mosquitto_with_passwords() else {
        return;
    };
    {
        let board = Board::flash(&site, &image);
        site.enroll(&board.key());
        board.until_it_says("the broker refuses the board's user name or password");
        let connected = |line: &str| line == "connected";
        assert!(!board.said().lines().any(connected), "{}", board.said());
    }
    site.boards_say("battery staple");
    let board = Board::flash(&site, &image);
    board.until_boot_says(2, "\nconnected\n");
    site.roll_out("v1");
    site.until_it_runs("1.0.0");
    site.until_windows(1);
}

#[test]
fn a_board_lives_on_the_embedded_broker() {
    if let Some(image) = board::image() {
        a_life(&Site::on_the_embedded_broker(), &image, "embedded");
    }
}

/// Another processor and another place of the network device, from the same crates: it boots, fetches,
/// confirms, and its windows are in the store.
#[test]
fn a_cortex_m7_reports() {
    let Some(image) = board::image_for_m7() else {
        return;
    };
    let site = Site::on_the_embedded_broker();
    let board = Board::of_kind(&site, "qemu-mps2-an500", Some(&image));
    reports(&site, &board, "qemu-mps2-an500");
}

/// A crate that `edgeward board new` makes compiles as it is, of what is here already, and what it makes is a
/// board of its own name.
#[test]
fn a_board_of_ones_own_compiles_and_reports() {
    if board::image().is_none() {
        return;
    }
    let site = Site::on_the_embedded_broker();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root
        .canonicalize()
        .expect("the checkout")
        .display()
        .to_string();
    let new = ["board", "new", "own-board", "--like", "qemu-mps2-an386"];
    site.json(&[&new[..], &["--checkout", &root]].concat(), 0);
    let board = Board::of_kind(&site, "./own-board", None);
    reports(&site, &board, "own-board");
}

/// From an empty flash to a window in the store.
fn reports(site: &Site, board: &Board<'_>, name: &str) {
    site.enroll(&board.key());
    site.roll_out("v1");
    let shown = site.until_it_runs("1.0.0");
    let agent = shown["agent"].as_str();
    assert!(
        agent.is_some_and(|agent| agent.starts_with(name)),
        "{shown}"
    );
    let shown = site.until("windows", |shown| {
        let inferences = shown["windows"][0]["inferences"].as_u64();
        inferences.is_some_and(|inferences| inferences > 0)
    });
    its_latency_is_told_in_cycles(&shown);
}

/// Its summaries carry the clock of its core, 25 MHz, and the latency's 99th percentile is shown in its cycles.
fn its_latency_is_told_in_cycles(shown: &Value) {
    let window = &shown["windows"][0];
    assert_eq!(window["core_khz"], 25_000, "{shown}");
    let p99_us = window["latency_p99_us"].as_u64().expect("it answered");
    assert!(p99_us > 0, "{shown}");
    assert_eq!(window["latency_p99_cycles"], 25 * p99_us, "{shown}");
}

/// What a board refuses, what its sensor may do to it, and a release that its board dies of in the trial.
#[test]
fn a_board_in_trouble_keeps_what_it_has_and_says_so() {
    let Some(image) = board::image() else { return };
    let site = Site::on_the_embedded_broker();
    let mut board = Board::flash(&site, &image);
    site.enroll(&board.key());
    site.roll_out("v2");
    site.until_it_runs("2.0.0");
    refused(&site, "v1", 9, BoardClass::Mcu, Key::Stranger, "Signature");
    refused(&site, "v1", 1, BoardClass::Mcu, Key::Release, "Downgrade");
    refused(
        &site,
        "v1",
        9,
        BoardClass::Linux,
        Key::Release,
        "WrongClass",
    );

    board.restart_measuring("loud.txt");
    let alarm = site.event("Alarm", |event| !event["alarm"]["Drift"].is_null());
    assert!(
        alarm["alarm"]["Drift"]["value"].as_f64() > Some(0.0),
        "{alarm}"
    );

    // Whenever the driver hangs, the watchdog bites; the second time in the trial, the release goes.
    board.restart_measuring("hanging.txt");
    site.roll_out("bad");
    let shown = site.until("the revert", |shown| {
        shown["last_failure"]["reason"] == "crash"
    });
    assert_eq!(shown["last_failure"]["version"], "3.0.0", "{shown}");
    let shown = site.until_it_runs("2.0.0");
    assert_eq!(shown["floor"], 2, "{shown}");
    assert_eq!(shown["gaps"], Value::Array(Vec::new()), "{shown}");
}

/// The power goes in a trial: it goes on with the next boot, and one that took the boots it may take is
/// over.
#[test]
fn a_trial_outlives_a_power_cut_and_ends_with_the_third_boot() {
    let Some(image) = board::image() else { return };
    let site = Site::on_the_embedded_broker();
    let mut board = Board::flash(&site, &image);
    site.enroll(&board.key());
    site.roll_out("v1");
    site.until_it_runs("1.0.0");

    // At ten samples a second a trial takes minutes.
    board.restart_measuring("slow.txt");
    board.until_boot_says(2, "Confirmed");
    site.roll_out("v2");
    board.until_boot_says(2, "run slot 1 Trial");
    board.restart_measuring("recording.txt");
    board.until_boot_says(3, "Trial { slot: B, attempt: 2 }");
    let shown = site.until_it_runs("2.0.0");
    assert_eq!(shown["floor"], 2, "{shown}");

    board.restart_measuring("slow.txt");
    board.until_boot_says(4, "Confirmed");
    site.roll_out("bad");
    board.until_boot_says(4, "run slot 0 Trial");
    board.cut_power();
    board.start();
    board.until_boot_says(5, "Trial { slot: A, attempt: 2 }");
    board.until_boot_says(5, "run slot 0 Trial");
    board.cut_power();
    board.start();
    board.until_boot_says(6, "Reverted");
    let shown = site.until("the revert", |shown| {
        shown["last_failure"]["reason"] == "crash"
    });
    assert_eq!(shown["last_failure"]["version"], "3.0.0", "{shown}");
    let shown = site.until_it_runs("2.0.0");
    assert_eq!(shown["floor"], 2, "{shown}");
    assert_eq!(shown["gaps"], Value::Array(Vec::new()), "{shown}");
}

/// A broker that goes and forgets: the board goes on, and nothing of what it counted is lost or doubled.
#[test]
fn a_board_without_its_broker_goes_on_and_reports_later() {
    let Some(image) = board::image() else { return };
    let Some(site) = Site::on_mosquitto() else {
        return;
    };
    let board = Board::flash(&site, &image);
    site.enroll(&board.key());
    site.roll_out("v1");
    site.until_it_runs("1.0.0");
    // A window takes about a second, and is told at once while there is a broker.
    let before = site.until_windows(1);
    site.stop_broker();
    board.until_it_says("disconnected");
    // As long as the broker is gone.
    std::thread::sleep(OUTAGE);
    site.start_mosquitto();
    let told: u64 = before.iter().map(|it| it.windows).sum();
    let after = site.until_windows(told + OUTAGE.as_secs());
    let whole = |it: &Windows| it.windows == 1 && it.samples == 1000;
    assert!(after.iter().all(whole), "{after:?}");
    // A board that stood still without its broker would have ended no window for as long.
    let ends = after.iter().map(|it| it.to_ms);
    let pauses = ends.clone().zip(ends.skip(1)).map(|(one, next)| next - one);
    let longest = pauses.max().expect("several windows");
    assert!(u128::from(longest) < OUTAGE.as_millis() / 2, "{after:?}");
}

/// A driver of the board's that does not work: whatever it does, the board starts again and says how it
/// ended, signed like all that it says.
#[test]
fn a_crash_is_reported_by_the_next_boot() {
    let Some(image) = board::image() else { return };
    crashes(&image);
}

/// A lean image has no words for a panic, and knows one from a fault all the same.
#[test]
fn a_crash_of_a_lean_image_is_reported_by_the_next_boot() {
    let Some(image) = board::lean_image() else {
        return;
    };
    crashes(&image);
}

/// Every kind of crash, one after the other.
fn crashes(image: &str) {
    let site = Site::on_the_embedded_broker();
    let board = Board::flash(&site, image);
    let key = board.key();
    site.enroll(&key);
    for (word, how) in [("panic", "Panic"), ("fault", "Fault"), ("hang", "Watchdog")] {
        // A last line counts without a newline, too.
        board.measures(&format!("1,0,0,0,0,0,0,0\n2,2000,0,0,0,0,0,0\n{word}"));
        board.until_it_says(&format!("the boot before crashed: {how}"));
        // Until then it may crash faster than it connects. A recording that ends in a reset begins again,
        // or the next one would never be read.
        board.measures("1,0,0,0,0,0,0,0\n2,500,0,0,0,0,0,0\nreset\n");
        let crash = site.event("Crashed", |crash| crash["how"] == how);
        assert_ne!(crash["at"], 0, "{crash}");
    }
}
