//! A board, its broker and its host in one process.

#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]

mod proxy;
mod release;

pub use proxy::Proxy;
pub use release::{CLASSES, bundle, golden, policy, slow_bundle};
use release::{key, signed, signed_root};

use edgeward::bundle::{BoardClass, Bundle};
use edgeward::sync::{Desired, RolloutState, Target};
use edgeward::telemetry::codec::{sign_ack, verify_frame};
use edgeward::telemetry::{Ack, Body, Event, Frame, Id, Text};
use edgeward::topic::{self, Channel};
use edgeward::trust::PublicKey;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use edgeward_firmware::linux::config::Source;
use edgeward_firmware::linux::{Config, provision, run};
use edgeward_firmware::{MAX_FEATURES, MAX_OUTPUTS};
use rumqttc::{Client, Event as MqttEvent, MqttOptions, Packet, QoS};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type BoardFrame = Frame<MAX_FEATURES, MAX_OUTPUTS>;

const SAMPLES: &str = include_str!("../../../models/motion/test.csv");
const PATIENCE: Duration = Duration::from_secs(60);

/// An in-memory broker for MQTT 3.1.1; it ends with the process.
pub fn broker() -> SocketAddr {
    let listen = free_address();
    start_broker(listen, free_address());
    listen
}

/// The same, with the address for MQTT 5 behind that for 3.1.1.
pub fn broker_v5() -> (SocketAddr, SocketAddr) {
    let (v4, v5) = (free_address(), free_address());
    start_broker(v4, v5);
    (v4, v5)
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn start_broker(v4: SocketAddr, v5: SocketAddr) {
    use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
    let server = |name: &str, listen| {
        let settings = ServerSettings {
            name: name.into(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections: ConnectionSettings {
                connection_timeout_ms: 10_000,
                max_payload_size: 64 * 1024,
                max_inflight_count: 200,
                auth: None,
                external_auth: None,
                dynamic_filters: true,
            },
        };
        Some([(name.to_owned(), settings)].into_iter().collect())
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 1 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: server("v4", v4),
        v5: server("v5", v5),
        ..Config::default()
    };
    thread::spawn(move || {
        let ended = Broker::new(config).start();
        panic!("the broker ended: {ended:?}");
    });
    for address in [v4, v5] {
        until("the broker listens", || TcpStream::connect(address).is_ok());
    }
}

/// Waits for a condition; a test that waits in vain says for what.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the host received.
#[derive(Default)]
struct Received {
    /// Frames by epoch, in the order in which the epochs came.
    epochs: Vec<(u32, BTreeMap<u64, BoardFrame>)>,
    state: String,
}

/// The host's half: publishes releases, stores frames, acknowledges them.
pub struct Host {
    client: Client,
    received: Arc<Mutex<Received>>,
    pub acknowledge: Arc<AtomicBool>,
}

impl Host {
    pub fn start(broker: SocketAddr, device_key: PublicKey) -> Self {
        let mut options = MqttOptions::new("host", broker.ip().to_string(), broker.port());
        options.set_max_packet_size(64 * 1024, 64 * 1024);
        let (client, mut connection) = Client::new(options, 1000);
        let channels = [
            Channel::Birth,
            Channel::State,
            Channel::Summary,
            Channel::Event,
        ];
        for channel in channels {
            let filter = topic::devices("f", channel);
            client.subscribe(filter.as_str(), QoS::AtLeastOnce).unwrap();
        }
        let host = Self {
            client: client.clone(),
            received: Arc::default(),
            acknowledge: Arc::new(AtomicBool::new(true)),
        };
        let (received, acknowledge) = (host.received.clone(), host.acknowledge.clone());
        thread::spawn(move || {
            for event in connection.iter() {
                let Ok(MqttEvent::Incoming(Packet::Publish(message))) = event else {
                    continue;
                };
                let mut received = received.lock().unwrap();
                if message.topic.ends_with("/state") {
                    received.state = String::from_utf8(message.payload.to_vec()).unwrap();
                    continue;
                }
                let (epoch, through) = store(&mut received.epochs, &message.payload, &device_key);
                if acknowledge.load(Ordering::SeqCst) {
                    let topic = topic::device("f", "d", Channel::Ack);
                    // Never from the polling thread by a call that may wait.
                    let ack = ack(epoch, through);
                    let _ = client.try_publish(topic.as_str(), QoS::AtLeastOnce, false, ack);
                }
            }
        });
        host
    }

    pub fn publish(&self, bytes: &[u8]) -> Target {
        self.publish_but(bytes, &[])
    }

    /// Publishes a release without some of its chunks.
    pub fn publish_but(&self, bytes: &[u8], without: &[usize]) -> Target {
        let opened = Bundle::open(bytes).unwrap();
        let digest = opened.head().digest();
        for (n, chunk) in bytes.chunks(4096).enumerate() {
            if without.contains(&n) {
                continue;
            }
            let topic = topic::blob(&digest, n as u32);
            let topic = topic.as_str();
            self.client
                .publish(topic, QoS::AtLeastOnce, true, chunk)
                .unwrap();
        }
        Target {
            class: BoardClass::Linux,
            digest,
            counter: opened.manifest().counter,
            version: Text::try_from(opened.manifest().version).unwrap(),
            head_bytes: opened.head().head_bytes(),
            total_bytes: bytes.len() as u32,
        }
    }

    pub fn desire(&self, sequence: u64, target: &Target) {
        let desired = Desired {
            fleet: Id::try_from("f").unwrap(),
            sequence,
            expires_s: u64::MAX,
            rollout: Id::try_from("r").unwrap(),
            state: RolloutState::Active,
            targets: [target.clone()].into_iter().collect(),
            tags: heapless::Vec::new(),
            share_per_mille: 1000,
        };
        let mut bytes = [0; 512];
        let payload = postcard::to_slice(&desired, &mut bytes).unwrap();
        let message = signed(3, ContentType::Desired, payload);
        let topic = topic::desired("f");
        self.client
            .publish(topic.as_str(), QoS::AtLeastOnce, true, message)
            .unwrap();
    }

    pub fn state(&self) -> String {
        self.received.lock().unwrap().state.clone()
    }

    /// Up to which number every frame, or one that answers for it, has come.
    pub fn answered(&self) -> u64 {
        answered(&self.frames())
    }

    /// The frames of the newest epoch.
    fn frames(&self) -> BTreeMap<u64, BoardFrame> {
        let received = self.received.lock().unwrap();
        let newest = received.epochs.last();
        newest.map(|(_, frames)| frames.clone()).unwrap_or_default()
    }

    /// The first frame of the newest epoch.
    pub fn first(&self) -> BoardFrame {
        self.frames()[&1].clone()
    }

    /// Sends an acknowledgement that the collector signed.
    pub fn acknowledge_of(&self, epoch: u32, through: u64) {
        let topic = topic::device("f", "d", Channel::Ack);
        self.client
            .publish(topic.as_str(), QoS::AtLeastOnce, false, ack(epoch, through))
            .unwrap();
    }

    /// The epochs that were seen, in order.
    pub fn epochs(&self) -> Vec<u32> {
        let received = self.received.lock().unwrap();
        received.epochs.iter().map(|(epoch, _)| *epoch).collect()
    }

    /// Whether every number up to the last is answered for exactly once.
    pub fn gapless(&self) -> bool {
        let frames = self.frames();
        let last = frames.keys().next_back().copied().unwrap_or(0);
        answered(&frames) == last
    }

    pub fn numbers(&self) -> Vec<u64> {
        self.frames().into_keys().collect()
    }

    pub fn events(&self) -> Vec<Event> {
        let event = |frame: &BoardFrame| match frame.body {
            Body::Event(event) => Some(event),
            _ => None,
        };
        self.frames().values().filter_map(event).collect()
    }

    /// Samples in all summaries.
    pub fn summarized(&self) -> u32 {
        let samples = |frame: &BoardFrame| match &frame.body {
            Body::Summary(summary) => summary.samples,
            _ => 0,
        };
        self.frames().values().map(samples).sum()
    }
}

/// Stores a frame and says up to which number of its epoch there is no gap.
fn store(
    epochs: &mut Vec<(u32, BTreeMap<u64, BoardFrame>)>,
    bytes: &[u8],
    key: &PublicKey,
) -> (u32, u64) {
    let mut frame: BoardFrame = verify_frame(bytes, key, &RingVerifier).unwrap();
    // It grows from one sending to the next.
    frame.acknowledged = 0;
    let epoch = frame.epoch;
    if !epochs.iter().any(|(known, _)| *known == epoch) {
        epochs.push((epoch, BTreeMap::new()));
    }
    let known = epochs.iter_mut().find(|(known, _)| *known == epoch);
    let frames = &mut known.unwrap().1;
    // A merged frame takes the place of those that it answers for.
    frames.retain(|n, _| !(frame.first_sequence..frame.sequence).contains(n));
    let before = frames.insert(frame.sequence, frame.clone());
    assert!(
        before.is_none_or(|before| before == frame || before.first_sequence > frame.first_sequence),
        "two frames of one number"
    );
    (epoch, answered(frames))
}

fn answered(frames: &BTreeMap<u64, BoardFrame>) -> u64 {
    let mut through = 0;
    for frame in frames.values() {
        if frame.first_sequence != through + 1 {
            break;
        }
        through = frame.sequence;
    }
    through
}

fn ack(epoch: u32, through: u64) -> Vec<u8> {
    let ack = Ack {
        device: Id::try_from("d").unwrap(),
        epoch,
        through,
    };
    let mut bytes = [0; 256];
    let len = sign_ack(&ack, &key(4), &mut bytes).unwrap();
    bytes[..len].to_vec()
}

/// A board: its configuration and the agent's thread.
pub struct BoardProcess {
    pub config: Config,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    agent: Option<JoinHandle<()>>,
    child: Option<Child>,
}

impl BoardProcess {
    pub fn provisioned(folder: &Path, broker: SocketAddr) -> (Self, PublicKey) {
        let text = format!(
            r#"
            fleet = "f"
            device = "d"
            flash = {{ bytes = 2097152, outbox_bytes = 262144 }}
            broker = {{ host = "{}", port = {}, keep_alive_s = 5, reconnect_max_s = 1 }}
            source = {{ listen = "samples.sock" }}
            "#,
            broker.ip(),
            broker.port()
        );
        let config = Config::parse(&text, Path::new("")).unwrap();
        let (path, key) = provision(folder, &config, &signed_root()).unwrap();
        let board = Self {
            config: Config::load(&path).unwrap(),
            path,
            stop: Arc::default(),
            agent: None,
            child: None,
        };
        (board, key)
    }

    pub fn start(&mut self) {
        self.stop = Arc::default();
        let (config, stop) = (self.config.clone(), self.stop.clone());
        let agent = thread::Builder::new().stack_size(8 << 20);
        let agent = agent.spawn(move || run(&config, &stop).unwrap()).unwrap();
        self.agent = Some(agent);
        until("the agent listens", || self.try_connect().is_some());
    }

    /// Starts the agent as a process.
    pub fn spawn(&mut self, program: &str) {
        let mut command = Command::new(program);
        command.arg("--config").arg(&self.path);
        self.child = Some(command.spawn().unwrap());
        until("the agent listens", || self.try_connect().is_some());
    }

    /// Has the agent take an inference for hung after so long; before it is spawned.
    pub fn hangs_after_ms(&mut self, hang_ms: u32) {
        self.config.hang_ms = hang_ms;
        self.change("hang_ms = 10000", &format!("hang_ms = {hang_ms}"));
    }

    /// Has the agent take a step of a load for hung after so long; before it is spawned.
    pub fn load_hangs_after_ms(&mut self, hang_ms: u32) {
        self.config.load_hang_ms = hang_ms;
        let new = format!("load_hang_ms = {hang_ms}");
        self.change("load_hang_ms = 120000", &new);
    }

    fn change(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.path).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(&self.path, text.replace(old, new)).unwrap();
    }

    /// Waits until the process ended by itself.
    pub fn until_it_ends(&mut self) -> ExitStatus {
        let mut status = None;
        let child = self.child.as_mut().unwrap();
        until("the agent ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        status.unwrap()
    }

    /// Streams samples to the process, as a source that does not care, until the process ended.
    pub fn feed_until_it_ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let mut source = self.try_connect().unwrap();
        let header = "edgeward-source schema=1 dtype=f32 features=ax,ay,az,gx,gy,gz\n";
        source.write_all(header.as_bytes()).unwrap();
        // Somebody must read the answers, or the agent leaves this source.
        let mut answers = source.try_clone().unwrap();
        thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        let mut sequence = 0;
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "in vain: the agent ends");
            let line = format!("{sequence},0,0.1,0.2,0.3,0.{sequence},0.5,0.6\n");
            // It may have ended this moment.
            let _ = source.write_all(line.as_bytes());
            sequence += 1;
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the process as a power cut would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the process to end, and waits until it did.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let asked = Command::new("kill").arg(child.id().to_string()).status();
        assert!(asked.unwrap().success());
        child.wait().unwrap()
    }

    /// Waits until nothing more is written to the slots' flash.
    pub fn until_quiet(&self) {
        let written = || {
            let metadata = std::fs::metadata(&self.config.flash.path).unwrap();
            metadata.modified().unwrap()
        };
        until("the flash is quiet", || {
            written()
                .elapsed()
                .is_ok_and(|quiet| quiet > Duration::from_secs(1))
        });
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.agent.take().unwrap().join().unwrap();
    }

    fn try_connect(&self) -> Option<UnixStream> {
        match &self.config.source {
            Source::Listen(path) => UnixStream::connect(path).ok(),
            other => panic!("{other:?}"),
        }
    }

    pub fn stats(&self) -> serde_json::Value {
        let mut stream = self.try_connect().unwrap();
        stream.write_all(b"stats\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for BoardProcess {
    fn drop(&mut self) {
        // A test that failed leaves no process behind.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A source that streams the test recordings round and round.
pub struct Feed {
    write: UnixStream,
    read: BufReader<UnixStream>,
    /// Recording and values of each sample.
    rows: Vec<(&'static str, &'static str)>,
    at: usize,
    sequence: u32,
    pub answers: Vec<String>,
}

impl Feed {
    pub fn start(board: &BoardProcess) -> Self {
        let write = board.try_connect().unwrap();
        let read = BufReader::new(write.try_clone().unwrap());
        let row = |line: &'static str| {
            let (recording, rest) = line.split_once(',').unwrap();
            (recording, rest.split_once(',').unwrap().1)
        };
        let mut feed = Self {
            write,
            read,
            rows: SAMPLES.lines().skip(1).map(row).collect(),
            at: 0,
            sequence: 0,
            answers: vec![],
        };
        feed.line("edgeward-source schema=1 dtype=f32 features=ax,ay,az,gx,gy,gz");
        feed
    }

    pub fn line(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.write.write_all(line.as_bytes()).unwrap();
    }

    /// Streams some samples and reads what is answered to the last of them.
    pub fn samples(&mut self, count: usize) {
        for _ in 0..count {
            let (recording, values) = self.rows[self.at];
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            self.line(&format!("{},{},{values}", self.sequence, time.as_millis()));
            self.sequence += 1;
            self.at = (self.at + 1) % self.rows.len();
            if self.rows[self.at].0 != recording {
                self.line("reset");
            }
        }
        // Whatever comes before this line's answer answers the samples.
        self.line("stats");
        loop {
            let mut line = String::new();
            let read = self.read.read_line(&mut line).unwrap();
            assert!(read > 0, "the agent hung up");
            if line.starts_with('{') {
                return;
            }
            self.answers.push(line);
        }
    }

    /// Streams until a condition holds.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            self.samples(100);
            thread::sleep(Duration::from_millis(5));
        }
    }
}
