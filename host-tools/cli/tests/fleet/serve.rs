//! `edgeward serve`, its pages, and what an operator sees.

use crate::board::Board;
use crate::common::process::{PATIENCE, free_ports, text, wait_until};
use crate::common::snapshot;
use crate::site::{FLEET, Site};
use edgeward::telemetry::{
    Alarm, Body, Event as BoardEvent, Refused, Statistic, Summary, release_id,
};
use edgeward::topic::{self, Channel};
use edgeward::trust::Signer;
use edgeward::trust::ring::RingSigner;
use edgeward_host::keys::hex;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Status and body of a page.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    // Version 1.0: the body comes as it is, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status");
    (status.to_owned(), body.to_owned())
}

/// Asks for a page until it says what is waited for.
fn page_with(address: &str, path: &str, what: &str) -> String {
    wait_until(what, PATIENCE, || {
        let (status, body) = get(address, path);
        assert_eq!(status, "200", "{body}");
        if body.contains(what) {
            return Ok(body);
        }
        Err(body)
    })
}

#[test]
fn serve_collects_shows_and_drives_and_watch_follows() {
    let place = Site::new();
    let serve = place.serve();
    assert_eq!(serve.first_json()["fleet"], FLEET);
    let http = serve.first_json()["http"].clone();
    let http = http.as_str().expect("an address");
    snapshot("serve", &serve.first_json());
    let mut board = Board::enrolled(&place);
    let what = Refused::Ack;
    board.send(Channel::Event, Body::Event(BoardEvent::Refused { what }));
    board.acknowledged(&place.root());
    let fleet: Value = serde_json::from_str(&get(http, "/api/fleet").1).expect("JSON");
    assert_eq!(fleet["boards"][0]["device"]["name"], Board::NAME);
    assert_eq!(fleet["boards"][0]["device"]["through"], 1);

    // A forged report is refused, and counted.
    let topic = topic::device(FLEET, Board::NAME, Channel::Event);
    let forger = place.client("forger");
    forger.publish(&topic, b"forged", false);
    forger.flush(PATIENCE).expect("acknowledged");
    let metrics = page_with(http, "/metrics", "edgeward_refused_total{reason=");
    let stored = format!("edgeward_frames_stored{{device=\"{}\"}} 1\n", Board::NAME);
    assert!(metrics.contains(&stored), "{metrics}");
    let page = page_with(http, "/", Board::NAME);
    assert!(page.starts_with("<!doctype html>"), "{page}");
    assert_eq!(get(http, "/nothing").0, "404");

    let seen = place.lines(&["watch", "--timeout", "1"], 0);
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(
        (&seen[0]["device"], &seen[0]["kind"]),
        (&Board::NAME.into(), &"event".into())
    );
    let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    place.json(&["device", "enroll", "board-2", "--key", key], 0);
    let others = ["watch", "--timeout", "1", "--device", "board-2"];
    assert_eq!(place.lines(&others, 0), [Value::Null; 0]);
    place.json(&["device", "forget", "board-2"], 0);

    // It brings new roots to the broker by itself, and finishes what the boards confirmed.
    place.json(&["keys", "rotate", "rollout"], 0);
    let signed = place.retained(&topic::root(FLEET, 2));
    assert_eq!(place.keys().root_bytes().expect("a root"), signed);
    let phases = ["--phases", "100%", "--soak", "0"];
    let start = ["rollout", "start", "v1.bundle"];
    place.json(&[&start[..], &phases].concat(), 0);
    board.confirms(&place.desired());
    board.acknowledged(&place.root());
    let ended = place.lines(&["rollout", "status", "--watch", "--timeout", "50"], 0);
    let last = ended.last().expect("a line");
    assert_eq!(
        (&last["rollout"]["state"], &last["counts"]["confirmed"]),
        (&"Done".into(), &1.into())
    );
}

#[test]
fn telemetry_is_collected_without_the_rollout_key_and_rollouts_wait_for_it() {
    let place = Site::new();
    let phases = ["--phases", "100%", "--soak", "0"];
    let start = ["rollout", "start", "v1.bundle"];
    place.json(&[&start[..], &phases].concat(), 0);
    let mut board = Board::enrolled(&place);
    let (keys, away) = (place.path(".edgeward/keys"), place.path("away"));
    std::fs::create_dir(&away).expect("a folder");
    let names: Vec<_> = std::fs::read_dir(&keys)
        .expect("the keys")
        .map(|entry| entry.expect("a key").file_name())
        .filter(|name| name.to_string_lossy().starts_with("rollout"))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    for name in &names {
        std::fs::rename(keys.join(name), away.join(name)).expect("moved away");
    }

    let serve = place.serve();
    serve.until_it_says("rollouts wait until the keys are there");
    board.confirms(&place.desired());
    board.acknowledged(&place.root());
    serve.until_it_says("the rollout waits");
    let status = place.json(&["rollout", "status"], 0);
    assert_eq!(status["rollout"]["state"], "Running");

    for name in &names {
        std::fs::rename(away.join(name), keys.join(name)).expect("moved back");
    }
    let ended = place.lines(&["rollout", "status", "--watch", "--timeout", "50"], 0);
    let last = ended.last().expect("a line");
    assert_eq!(last["rollout"]["state"], "Done");
}

#[test]
fn what_runs_until_it_is_stopped_ends_well_on_sigterm() {
    let place = Site::new();
    let serve = place.serve();
    let mut board = Board::enrolled(&place);
    let what = Refused::Ack;
    board.send(Channel::Event, Body::Event(BoardEvent::Refused { what }));
    board.acknowledged(&place.root());
    let watch = place.start(&["watch"]);
    assert_eq!(watch.first_json()["device"], Board::NAME);
    let broker = place.start(&["broker", "--port", "0"]);
    broker.first_json();
    let all = [
        "serve",
        "--with-broker",
        "--http",
        "127.0.0.1:0",
        "--broker",
        &format!("127.0.0.1:{}", free_ports::<1>()[0]),
    ];
    let whole = place.start(&all);
    whole.first_json();
    for (name, running) in [
        ("watch", watch),
        ("broker", broker),
        ("serve", serve),
        ("serve --with-broker", whole),
    ] {
        running.terminate();
        let output = running.end();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
    }
    // What the collector had in memory is written at its end.
    let listed = place.json(&["device", "list"], 0);
    assert!(listed[0]["seen_ms"].is_u64(), "{listed}");
}

#[test]
fn pages_for_other_machines_come_with_a_warning_and_no_example_makes_them() {
    let place = Site::new();
    let serve = ["serve", "--dry-run", "--http"];
    let said = |address: &str| {
        let output = place.run(&[&serve[..], &[address]].concat(), 0);
        text(&output.stderr)
    };
    let open = said("0.0.0.0:0");
    assert!(open.contains("no password"), "{open}");
    let here = said("127.0.0.1:0");
    assert!(!here.contains("no password"), "{here}");
    let help = text(&place.run(&["serve", "--help"], 0).stdout);
    assert!(
        help.contains("--http 127.0.0.1") && !help.contains("0.0.0.0"),
        "{help}"
    );
}

#[test]
fn an_operator_reads_names_and_finds_boards_that_nobody_enrolled() {
    let place = Site::new();
    let serve = place.serve();
    let http = serve.first_json()["http"].clone();
    let http = http.as_str().expect("an address");
    let mut board = Board::enrolled(&place);
    // It knows this release only from the bundle that was published here.
    place.json(&["rollout", "start", "v1.bundle", "--phases", "100%"], 0);
    let desired = place.desired();
    let release = release_id(&desired.targets[0].digest);
    board.confirms(&desired);
    for (feature, value) in [(2, 9.5), (2, 9.75)] {
        let alarm = Alarm::Violation {
            kind: edgeward::contract::ViolationKind::Stuck,
            feature: Some(feature),
            value,
            sample: 7,
        };
        board.send(
            Channel::Event,
            Body::Event(BoardEvent::Alarm { release, alarm }),
        );
    }
    let alarm = Alarm::Drift {
        statistic: Statistic::ClassPsi,
        feature: None,
        value: 0.75,
        limit: 0.5,
    };
    board.send(
        Channel::Event,
        Body::Event(BoardEvent::Alarm { release, alarm }),
    );
    let mut summary = Summary::empty();
    (summary.release, summary.windows, summary.samples) = (release, 1, 200);
    (summary.inferences, summary.alarms) = (20, 3);
    summary.latency.record(250);
    board.send(Channel::Summary, Body::Summary(summary));
    board.acknowledged(&place.root());

    let output = place.run(&["watch", "--timeout", "1"], 0);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.get(9..)).collect();
    let wanted = "board-1 motion 1.0.0 window: 200 samples, 20 inferences, 0 errors, p99 250 us; \
                  high stuck az (9.75) x2; high prediction_drift (class_psi 0.750, limit 0.500)";
    assert_eq!(lines, [wanted]);
    let alarms = place.lines(&["watch", "--timeout", "1"], 0);
    assert_eq!(alarms.len(), 3);
    assert_eq!(
        (&alarms[0]["alarm"]["feature"], &alarms[0]["alarm"]["model"]),
        (&"az".into(), &"motion".into())
    );

    let shown = place.json(&["device", "show", Board::NAME], 0);
    assert_eq!(shown["running"]["model"], "motion");
    assert_eq!(shown["running"]["state"], "confirmed");
    let digest = hex(&desired.targets[0].digest);
    assert_eq!(shown["running"]["digest"], digest);
    assert_eq!(shown["slots"][1]["state"], "empty");
    assert_eq!(shown["rollout"]["board"], "confirmed");
    assert_eq!(shown["missing_frames"], 0);
    assert_eq!(
        (&shown["alarms"][0]["feature"], &shown["alarms"][0]["count"]),
        (&"az".into(), &2.into())
    );
    let window = &shown["windows"][0];
    assert_eq!(window["latency_p99_us"], 250);
    let clock = (&window["core_khz"], &window["latency_p99_cycles"]);
    assert_eq!(clock, (&Value::Null, &Value::Null), "a Linux board");
    let listed = place.json(&["device", "list"], 0);
    assert_eq!(listed[0]["running"]["version"], "1.0.0");
    let metrics = get(http, "/metrics").1;
    for line in [
        "edgeward_alarms_total{device=\"board-1\",alarm=\"stuck\",severity=\"high\"} 2\n",
        "edgeward_slot_state{device=\"board-1\",slot=\"A\",state=\"confirmed\"} 1\n",
        "edgeward_frames_missing{device=\"board-1\"} 0\n",
        "edgeward_unknown_boards 0\n",
        "version=\"1.0.0\"",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }

    // A board that tells the clock of its core is shown in cycles, too.
    let mut summary = Summary::empty();
    (summary.release, summary.windows, summary.inferences) = (release, 1, 1);
    summary.latency.record(128_000);
    summary.core_khz = 25_000;
    board.send(Channel::Summary, Body::Summary(summary));
    board.acknowledged(&place.root());
    let shown = place.json(&["device", "show", Board::NAME], 0);
    let window = &shown["windows"][0];
    let clock = (&window["core_khz"], &window["latency_p99_cycles"]);
    assert_eq!(clock, (&25_000.into(), &3_200_000.into()));
    let table = place.run(&["device", "show", Board::NAME], 0).stdout;
    let table = String::from_utf8(table).expect("UTF-8");
    assert!(table.contains("P99 CYCLES"), "{table}");
    assert!(table.contains("128000  3.2 M"), "{table}");
    let cycles = "edgeward_latency_p99_cycles{device=\"board-1\"} 3200000\n";
    page_with(http, "/metrics", cycles);
    page_with(http, "/", "3.2 M cycles (128 ms at 25 MHz)");

    // A board that nobody enrolled is refused, and can be found by the id of its key.
    assert_eq!(
        place.json(&["device", "list", "--unknown"], 0),
        Value::Array(vec![])
    );
    let stranger = RingSigner::from_seed(&[9; 32]).expect("a key");
    let mut newcomer = Board::stranger(&place, 9);
    let what = Refused::Ack;
    let body = Body::Event(BoardEvent::Refused { what });
    newcomer.send_as("board-9", Channel::Event, body);
    page_with(http, "/metrics", "edgeward_unknown_boards 1\n");
    let unknown = place.json(&["device", "list", "--unknown"], 0);
    assert_eq!(unknown[0]["name"], "board-9");
    let id = hex(&stranger.public_key().id().0);
    assert_eq!(unknown[0]["key_id"], id);
    let public = hex(&stranger.public_key().0);
    let enrolled = place.json(&["device", "enroll", "board-9", "--key", &public], 0);
    assert_eq!(enrolled["key_id"], id);
    assert_eq!(
        place.json(&["device", "list", "--unknown"], 0),
        Value::Array(vec![])
    );
}
