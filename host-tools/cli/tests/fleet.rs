//! The commands that run a fleet, as processes: an embedded broker, what they put onto it, and how
//! they exit.

use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::sync::{Desired, RolloutState};
use edgeward::telemetry::codec::{decode_ack, max_frame_bytes, max_payload_bytes, sign_frame};
use edgeward::telemetry::{
    Alarm, Birth, Body, Event as BoardEvent, Frame, Id, Reason, Refused, SlotReport, SlotState,
    Statistic, Summary, Text, release_id,
};
use edgeward::topic::{self, Channel};
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::Root;
use edgeward::trust::{Digest32, Role, Signer};
use edgeward_host::keys::{KeyStore, hex, unhex};
use edgeward_host::mqtt::{Event, Message, Mqtt, Options};
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Kind, Store, StoredFrame};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The fleet that commands concern unless told otherwise.
const FLEET: &str = "default";
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that runs until this is dropped, and what it printed first.
struct Running {
    child: Child,
    printed: Value,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts a command that prints one JSON object and goes on.
    fn start(mut command: Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut running = Self {
            child,
            printed: Value::Null,
        };
        let stdout = running.child.stdout.take().expect("piped");
        let printed = on_a_thread(move || {
            let mut values = serde_json::Deserializer::from_reader(stdout).into_iter();
            values.next()
        });
        let printed = printed.recv_timeout(PATIENCE).expect("output in time");
        running.printed = printed.expect("output").expect("JSON");
        running
    }
}

fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // The test may have given up.
        let _ = sender.send(work());
    });
    receiver
}

/// A home with keys and the motion model's first release, signed and unsigned, and a broker.
struct Place {
    folder: tempfile::TempDir,
    broker: SocketAddr,
    _broker: Running,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let args = ["broker", "--port", "0", "-o", "json"];
        let broker = Running::start(command(folder.path(), &args));
        let address = broker.printed["mqtt_3_1_1"].as_str().expect("an address");
        let place = Self {
            broker: address.parse().expect("an address"),
            _broker: broker,
            folder,
        };
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion/v1.toml");
        let manifest = manifest.display().to_string();
        place.json(&["keys", "init"], 0);
        place.json(&["pack", &manifest, "--out", "plain.bundle"], 0);
        place.json(&["pack", &manifest, "--out", "v1.bundle", "--sign"], 0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(self.folder.path(), args);
        command
            .args(["-o", "json"])
            .env("EDGEWARD_BROKER", self.broker.to_string());
        command
    }

    /// Runs a command to its end, within a bounded time, and expects its exit code.
    fn run(&self, args: &[&str], exit: i32) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut stdout = child.stdout.take().expect("piped");
        let mut stderr = child.stderr.take().expect("piped");
        let read = |stream: &mut dyn Read| {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).map(|_| bytes)
        };
        let outputs = (
            on_a_thread(move || read(&mut stdout)),
            on_a_thread(move || read(&mut stderr)),
        );
        let mut running = Running {
            child,
            printed: Value::Null,
        };
        // Both streams end with the process; one that does not end is killed by the drop.
        let bytes = |stream: Receiver<std::io::Result<Vec<u8>>>| {
            let bytes = stream.recv_timeout(PATIENCE);
            bytes
                .unwrap_or_else(|_| panic!("{args:?}: no end within {PATIENCE:?}"))
                .expect("read")
        };
        let (stdout, stderr) = (bytes(outputs.0), bytes(outputs.1));
        let status = running.child.wait().expect("it ended");
        let text = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(exit), "{args:?}: {text}");
        Output {
            status,
            stdout,
            stderr,
        }
    }

    /// The JSON values that a command printed.
    fn lines(&self, args: &[&str], exit: i32) -> Vec<Value> {
        let output = self.run(args, exit);
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        values.map(|value| value.expect("JSON")).collect()
    }

    /// The one JSON value that a command printed.
    fn json(&self, args: &[&str], exit: i32) -> Value {
        let mut values = self.lines(args, exit);
        assert_eq!(values.len(), 1, "{args:?}: {values:?}");
        values.remove(0)
    }

    /// The error that a command printed.
    fn error(&self, args: &[&str], exit: i32) -> Value {
        let output = self.run(args, exit);
        let error: Value = serde_json::from_slice(&output.stderr).expect("JSON on stderr");
        assert_eq!(error["exit"], exit, "{args:?}: {error}");
        error
    }

    fn keys(&self) -> KeyStore {
        KeyStore::at(&self.path(".edgeward"))
    }

    fn root(&self) -> Root {
        self.keys().root().expect("a root")
    }

    fn client(&self, name: &str) -> Mqtt {
        let (host, port) = (self.broker.ip().to_string(), self.broker.port());
        Mqtt::connect(&Options::new(name, host, port))
    }

    /// What the broker keeps under a topic.
    fn retained(&self, topic: &str) -> Vec<u8> {
        let mqtt = self.client("reader");
        mqtt.subscribe_and_wait(topic, PATIENCE).expect("granted");
        next_message(&mqtt).payload
    }

    /// The desired state that the broker keeps, when the fleet's rollout keys signed it.
    fn desired(&self) -> Desired {
        let bytes = self.retained(&topic::desired(FLEET));
        let (role, content) = (Role::Rollout, ContentType::Desired);
        let root = self.root();
        let payload = root.verify_threshold(role, content, &bytes, &RingVerifier);
        let payload = payload.expect("signed by the rollout role");
        postcard::from_bytes(payload).expect("a desired state")
    }
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeward"));
    command.current_dir(folder).args(args);
    for name in ["HOME", "OUTPUT", "CONFIG", "FLEET", "BROKER", "LOG"] {
        command.env_remove(format!("EDGEWARD_{name}"));
    }
    command
}

fn next_message(mqtt: &Mqtt) -> Message {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(Event::Message(message)) = mqtt.recv_timeout(Duration::from_millis(100)) {
            return message;
        }
    }
    panic!("no message within {PATIENCE:?}");
}

#[test]
fn enrolling_for_a_new_outbox_takes_the_next_one_and_drops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let enroll = |more: &[&str]| {
        let key = hex(&RingSigner::from_seed(&[7; 32])
            .expect("a key")
            .public_key()
            .0);
        let done = Command::new(env!("CARGO_BIN_EXE_edgeward"))
            .args(["--home".as_ref(), home.as_os_str()])
            .args(["device", "enroll", "a", "--key", &key])
            .args(more)
            .output()
            .expect("it runs");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    enroll(&[]);
    let store = Sqlite::open(&home.join("store.db")).expect("opens");
    let begins = |epoch, time_ms| {
        let first = StoredFrame {
            device: "a".into(),
            epoch,
            acknowledged: 0,
            boot: 1,
            first_sequence: 1,
            sequence: 1,
            time_ms,
            received_ms: 1_800_000_000_000,
            kind: Kind::Event,
            body: Value::Null,
            raw: vec![],
        };
        let counts = store.ingest(&[first]).expect("read");
        counts.left_out.first().map(ToString::to_string)
    };
    assert_eq!(begins(1, 1_790_000_000_000), None);
    let why = begins(2, 1_780_000_000_000).expect("older");
    assert!(
        why.contains("`edgeward device enroll --new-outbox`"),
        "{why}"
    );
    // Enrolled again as before, nothing changes; nor does a look at what would be done.
    enroll(&[]);
    enroll(&["--new-outbox", "--dry-run"]);
    assert!(begins(2, 1_780_000_000_000).is_some());
    enroll(&["--new-outbox"]);
    assert_eq!(begins(2, 1_780_000_000_000), None);
    assert_eq!(store.epochs("a").expect("read").len(), 2);
}

#[test]
fn a_signed_bundle_is_published_and_an_unsigned_one_is_refused() {
    let place = Place::new();
    let error = place.error(&["publish", "plain.bundle"], 3);
    let said = error["error"].as_str().expect("a sentence");
    assert!(said.contains("edgeward sign"), "{said}");
    let dry = place.json(&["publish", "v1.bundle", "--dry-run"], 0);
    assert_eq!(dry["dry_run"], true);
    assert!(!place.path(".edgeward/releases").exists());

    let published = place.json(&["publish", "v1.bundle"], 0);
    let bytes = std::fs::read(place.path("v1.bundle")).expect("the bundle");
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK_BYTES).collect();
    assert_eq!(published["chunks"], chunks.len());
    assert_eq!(
        (&published["counter"], &published["version"]),
        (&1.into(), &"1.0.0".into())
    );
    let digest: Digest32 = published["digest"]
        .as_str()
        .and_then(unhex)
        .expect("a digest");
    for n in [0, chunks.len() - 1] {
        let topic = topic::blob(&digest, u32::try_from(n).expect("few"));
        assert_eq!(place.retained(&topic), chunks[n], "chunk {n}");
    }

    // A broker that is not there is a question of time.
    let nowhere = ["publish", "v1.bundle", "--broker", "127.0.0.1:1"];
    place.error(&[&nowhere[..], &["--timeout", "1"]].concat(), 5);
}

#[test]
fn a_rollout_is_started_paused_resumed_aborted_and_rolled_back() {
    let place = Place::new();
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
    assert_eq!(paused["rollout"]["state"], "Paused");
    let second = place.desired();
    assert_eq!(second.state, RolloutState::Paused);
    assert!(second.sequence > first.sequence);
    place.error(&["rollout", "pause"], 1);
    place.json(&["rollout", "resume"], 0);
    assert_eq!(place.desired().state, RolloutState::Active);
    place.error(&["rollout", "resume"], 1);
    assert_eq!(
        place.json(&["rollout", "status"], 0)["counts"]["targeted"],
        0
    );

    place.json(&["rollout", "abort"], 0);
    assert_eq!(place.desired().state, RolloutState::Aborted);
    let aborted = place.json(&["rollout", "status"], 4);
    assert_eq!(aborted["rollout"]["state"]["Aborted"]["why"], "by hand");
    place.error(&["rollout", "abort"], 1);

    // What worked comes back under the next counter, for the whole fleet.
    place.error(&["rollback", "--to", "plain.bundle"], 3);
    let dry = place.json(&["rollback", "--to", "v1.bundle", "--dry-run"], 0);
    assert_eq!(dry["dry_run"], true);
    let back = place.json(&["rollback", "--to", "v1.bundle"], 0);
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
}

#[test]
fn a_broker_that_is_away_is_waited_for_as_long_as_one_says_or_not_at_all() {
    let place = Place::new();
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
    let serve = Running::start(place.command(&["serve", "--http", "127.0.0.1:0"]));
    assert_eq!(serve.printed["fleet"], FLEET);
    assert!(place.desired().rollout.starts_with("rollback-"));
}

#[test]
fn a_rollout_that_some_boards_refuse_is_partly_done() {
    let place = Place::new();
    let serve = Running::start(place.command(&["serve", "--http", "127.0.0.1:0"]));
    assert_eq!(serve.printed["fleet"], FLEET);
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

/// A board without a runtime: a key, and what it reports.
struct Board {
    name: &'static str,
    key: RingSigner,
    mqtt: Mqtt,
    sequence: u64,
}

impl Board {
    const NAME: &'static str = "board-1";

    /// A board that `place` has enrolled.
    fn enrolled(place: &Place) -> Self {
        Self::named(place, Self::NAME, 7)
    }

    fn named(place: &Place, name: &'static str, seed: u8) -> Self {
        let key = RingSigner::from_seed(&[seed; 32]).expect("a key");
        let public = hex(&key.public_key().0);
        place.json(&["device", "enroll", name, "--key", &public], 0);
        let mqtt = place.client(name);
        let acks = topic::device(FLEET, name, Channel::Ack);
        mqtt.subscribe_and_wait(&acks, PATIENCE).expect("granted");
        Self {
            name,
            key,
            mqtt,
            sequence: 0,
        }
    }

    fn send(&mut self, channel: Channel, body: Body<2, 2>) {
        self.send_as(self.name, channel, body);
    }

    /// Sends under a name that may be another's.
    fn send_as(&mut self, name: &str, channel: Channel, body: Body<2, 2>) {
        self.sequence += 1;
        let frame = Frame {
            device: Id::try_from(name).expect("short"),
            epoch: 1,
            acknowledged: 0,
            boot: 1,
            first_sequence: self.sequence,
            sequence: self.sequence,
            time_ms: 0,
            body,
        };
        let mut payload = [0; max_payload_bytes(2, 2)];
        let mut out = [0; max_frame_bytes(2, 2)];
        let len = sign_frame(&frame, &self.key, &mut payload, &mut out).expect("fits");
        let topic = topic::device(FLEET, name, channel);
        let retain = channel == Channel::Birth;
        self.mqtt.publish(&topic, &out[..len], retain);
    }

    /// Waits until all that was sent is acknowledged by the collector of `root`.
    fn acknowledged(&self, root: &Root) {
        loop {
            let message = next_message(&self.mqtt);
            let (role, content) = (Role::Collector, ContentType::Ack);
            let payload = root.verify_threshold(role, content, &message.payload, &RingVerifier);
            let ack = decode_ack(payload.expect("signed by the collector")).expect("an ack");
            if ack.through == self.sequence {
                return;
            }
        }
    }

    /// Reports that it runs the release of `desired`.
    fn confirms(&mut self, desired: &Desired) {
        self.reports(desired, SlotState::Confirmed);
    }

    /// Reports how a slot stands that holds the release of `desired`.
    fn reports(&mut self, desired: &Desired, state: SlotState) {
        let target = &desired.targets[0];
        let mut release = [0; 8];
        release.copy_from_slice(&target.digest[..8]);
        let held = SlotReport {
            state,
            release,
            counter: target.counter,
            version: target.version.clone(),
        };
        self.birth(held, desired.sequence);
    }

    /// Reports what one slot holds; the other is empty.
    fn birth(&mut self, held: SlotReport, desired: u64) {
        let running = (held.state == SlotState::Confirmed).then_some(0);
        let birth = Birth {
            class: BoardClass::Linux,
            firmware: Text::new(),
            slots: [held, empty_slot()],
            running,
            floor: 0,
            root_version: 1,
            desired,
            tags: Default::default(),
            last_failure: None,
        };
        self.send(Channel::Birth, Body::Birth(birth));
    }
}

fn empty_slot() -> SlotReport {
    SlotReport {
        state: SlotState::Empty,
        release: [0; 8],
        counter: 0,
        version: Text::new(),
    }
}

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
    let start = Instant::now();
    loop {
        let (status, body) = get(address, path);
        assert_eq!(status, "200", "{body}");
        if body.contains(what) {
            return body;
        }
        assert!(start.elapsed() < PATIENCE, "no {what} in {path}: {body}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn serve_collects_shows_and_drives_and_watch_follows() {
    let place = Place::new();
    let serve = Running::start(place.command(&["serve", "--http", "127.0.0.1:0"]));
    assert_eq!(serve.printed["fleet"], FLEET);
    let http = serve.printed["http"].as_str().expect("an address");
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
    let others = ["watch", "--timeout", "1", "--device", "board-2"];
    assert_eq!(place.lines(&others, 0), [Value::Null; 0]);

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
fn an_operator_reads_names_and_finds_boards_that_nobody_enrolled() {
    let place = Place::new();
    let serve = Running::start(place.command(&["serve", "--http", "127.0.0.1:0"]));
    let http = serve.printed["http"].as_str().expect("an address");
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

    let mut watch = command(place.folder.path(), &["watch", "--timeout", "1"]);
    let output = watch.output().expect("it runs");
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
    assert_eq!(shown["windows"][0]["latency_p99_us"], 250);
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

    // A board that nobody enrolled is refused, and can be found by the id of its key.
    assert_eq!(
        place.json(&["device", "list", "--unknown"], 0),
        Value::Array(vec![])
    );
    let stranger = RingSigner::from_seed(&[9; 32]).expect("a key");
    let mut newcomer = Board {
        name: Board::NAME,
        key: RingSigner::from_seed(&[9; 32]).expect("a key"),
        mqtt: place.client("stranger"),
        sequence: 0,
    };
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
