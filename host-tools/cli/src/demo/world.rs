//! The demo's world: a broker, a collector with its store, a rollout controller, and boards as
//! processes of their own. Everything is production code on real files and sockets.

use super::feeder::{Feeder, Recording, Stream};
use anyhow::{Context, Result, anyhow, bail};
use edgeward::bundle::CHUNK_BYTES;
use edgeward::bundle::write::sign;
use edgeward::slots::Layout;
use edgeward::telemetry::{Birth, ReleaseId, SlotState};
use edgeward::trust::Role;
use edgeward_firmware::linux::config::{Broker, Config, Flash, Protocol, Source};
use edgeward_firmware::linux::flash::SECTOR_BYTES;
use edgeward_host::broker::wait_for;
use edgeward_host::collector::{Collector, now_ms};
use edgeward_host::controller::{Controller, ControllerHandle, keep_release};
use edgeward_host::keys::{KeyStore, Quorum};
use edgeward_host::mqtt::Options as MqttOptions;
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Device, FrameQuery, Kind, Store, StoredFrame};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The demo's fleet.
pub const FLEET: &str = "demo";
/// Samples a second that each board is fed.
const RATE: u32 = 2000;
/// How long any single thing may take before the demo says that it did not happen.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// The broker's process.
pub struct BrokerProcess {
    command: Vec<String>,
    address: SocketAddr,
    child: Option<Child>,
}

impl BrokerProcess {
    /// Starts the embedded broker, or Mosquitto when a path is given.
    fn start(folder: &Path, mosquitto: Option<&Path>) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let command = match mosquitto {
            None => {
                let me = std::env::current_exe()?;
                vec![
                    me.display().to_string(),
                    "broker".into(),
                    "--port".into(),
                    port.to_string(),
                ]
            }
            Some(path) => {
                let config = folder.join("mosquitto.conf");
                let text = format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
                     max_queued_messages 0\nlog_dest none\n"
                );
                std::fs::write(&config, text)?;
                vec![
                    path.display().to_string(),
                    "-c".into(),
                    config.display().to_string(),
                ]
            }
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut broker = Self {
            command,
            address,
            child: None,
        };
        broker.up()?;
        Ok(broker)
    }

    /// Starts the process, after [`BrokerProcess::down`] too.
    pub fn up(&mut self) -> Result<()> {
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.command[0]))?;
        self.child = Some(child);
        wait_for(self.address, Duration::from_secs(10))?;
        Ok(())
    }

    /// Kills the process; a broker that keeps nothing on disk forgets everything.
    pub fn down(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        // The process may be gone already, and nobody is left to be told.
        let _ = self.down();
    }
}

/// One board: its process, and the sensor that feeds it.
pub struct Board {
    /// Its name.
    pub name: String,
    /// Its sensor.
    pub feeder: Feeder,
    folder: PathBuf,
    config: PathBuf,
    child: Option<Child>,
}

impl Board {
    fn boot(&mut self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("agent.log"))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["agent", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting a board")?;
        self.child = Some(child);
        Ok(())
    }

    /// Chunks of a bundle that a slot of the board's flash holds.
    pub fn holds(&self, slot: usize, bundle: &[u8]) -> Result<usize> {
        let flash = std::fs::read(self.folder.join("slots.flash"))?;
        let layout = Layout::split(flash.len() as u32, SECTOR_BYTES as u32);
        let layout = layout.map_err(|error| anyhow!("the slots: {error:?}"))?;
        let held = flash.get(layout.slots[slot] as usize..).unwrap_or_default();
        let pairs = bundle.chunks(CHUNK_BYTES).zip(held.chunks(CHUNK_BYTES));
        Ok(pairs
            .filter(|(chunk, held)| held.starts_with(chunk))
            .count())
    }

    /// SIGKILL: as when the power goes.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.boot()
    }

    /// The end of its log, for a report of something unexpected.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // The process may be gone already, and nobody is left to be told.
        let _ = self.kill();
    }
}

/// The whole world. Fields are dropped in their order: boards first, the broker last.
pub struct World {
    /// The boards.
    pub boards: Vec<Board>,
    _controller: ControllerHandle,
    _collector: Collector,
    /// What the host remembers.
    pub store: Arc<dyn Store>,
    /// The host's keys.
    pub keys: KeyStore,
    /// The host's folder.
    pub home: PathBuf,
    /// The broker.
    pub broker: BrokerProcess,
    folder: tempfile::TempDir,
}

/// What the boards are fed with.
pub struct Sensor {
    /// The recordings.
    pub recordings: Vec<Recording>,
    /// Names of the features.
    pub features: Vec<String>,
    /// Names of the classes.
    pub classes: Vec<String>,
}

impl World {
    /// Builds it: keys, broker, collector, controller, boards with their own keys, enrolled.
    pub fn start(mosquitto: Option<&Path>, names: &[&str], sensor: &Sensor) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("edgeward-demo-")
            .tempdir()?;
        let home = folder.path().join("host");
        let keys = KeyStore::at(&home);
        keys.init(|_| Quorum {
            threshold: 1,
            keys: 1,
        })?;
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&home.join("store.db"))?);
        let broker = BrokerProcess::start(folder.path(), mosquitto)?;
        let options = mqtt_options(&broker, "collector");
        let collector = Collector::start(&options, Arc::clone(&store), &keys, FLEET)?;
        let options = mqtt_options(&broker, "controller");
        let controller = Controller::new(&options, Arc::clone(&store), &home, FLEET).spawn();
        let mut world = Self {
            boards: Vec::new(),
            _controller: controller,
            _collector: collector,
            store,
            keys,
            home,
            broker,
            folder,
        };
        for name in names {
            let board = world.provision(name, sensor)?;
            world.boards.push(board);
        }
        Ok(world)
    }

    fn provision(&self, name: &str, sensor: &Sensor) -> Result<Board> {
        let folder = self.folder.path().join(name);
        let socket = folder.join("samples.sock");
        let config = Config {
            fleet: FLEET.to_owned(),
            device: name.to_owned(),
            tags: vec!["wearable".to_owned()],
            key: "device.key".into(),
            root: "root.cose".into(),
            log: "info".to_owned(),
            hang_ms: 10_000,
            load_hang_ms: 120_000,
            recorder_bytes: 256 << 10,
            broker: Broker {
                host: "127.0.0.1".to_owned(),
                port: self.broker.address.port(),
                protocol: Protocol::Auto,
                keep_alive_s: 5,
                reconnect_max_s: 1,
                username: None,
                password_file: None,
                tls: None,
            },
            flash: Flash {
                bytes: 2 << 20,
                ..Flash::default()
            },
            source: Source::Listen(socket.clone()),
        };
        let root = self.keys.root_bytes()?;
        let (config, key) = edgeward_firmware::linux::provision(&folder, &config, &root)?;
        self.store.enroll(&Device {
            name: name.to_owned(),
            fleet: FLEET.to_owned(),
            key,
            class: edgeward::bundle::BoardClass::Linux,
            enrolled_ms: now_ms(),
            seen_ms: None,
            online: false,
            epoch: None,
            through: 0,
        })?;
        let header = format!(
            "edgeward-source schema=1 dtype=f32 features={}",
            sensor.features.join(",")
        );
        let feeder = Feeder::start(Stream {
            socket,
            header,
            recordings: sensor.recordings.clone(),
            rate: RATE,
            classes: sensor.classes.clone(),
        });
        let mut board = Board {
            name: name.to_owned(),
            feeder,
            folder,
            config,
            child: None,
        };
        board.boot()?;
        Ok(board)
    }

    /// How the host reaches the broker.
    pub fn mqtt(&self, client_id: &str) -> MqttOptions {
        mqtt_options(&self.broker, client_id)
    }

    /// Signs a bundle with the fleet's release keys and keeps it for the broker.
    pub fn sign(&self, mut bundle: Vec<u8>) -> Result<Vec<u8>> {
        for signer in self.keys.signers(Role::Release)? {
            sign(&mut bundle, &signer)?;
        }
        keep_release(&self.home, &bundle, &self.keys.root()?)?;
        Ok(bundle)
    }

    /// The newest birth of a board, as the collector stored it.
    pub fn birth(&self, board: &str) -> Result<Option<Birth>> {
        let query = FrameQuery {
            device: Some(board.to_owned()),
            kind: Some(Kind::Birth),
            newest_first: true,
            limit: 1,
            ..FrameQuery::default()
        };
        let Some(frame) = self.store.frames(&query)?.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_value(frame.body)?))
    }

    /// Number of the newest stored frame of a board.
    pub fn newest(&self, board: &str) -> Result<u64> {
        let query = FrameQuery {
            device: Some(board.to_owned()),
            newest_first: true,
            limit: 1,
            ..FrameQuery::default()
        };
        Ok(self
            .store
            .frames(&query)?
            .first()
            .map_or(0, |frame| frame.sequence))
    }

    /// The stored events of a board that are numbered above `after`.
    pub fn events(&self, board: &str, after: u64) -> Result<Vec<StoredFrame>> {
        let query = FrameQuery {
            device: Some(board.to_owned()),
            kind: Some(Kind::Event),
            after: Some(after),
            ..FrameQuery::default()
        };
        Ok(self.store.frames(&query)?)
    }

    /// Windows of one of a board's boots in the stored summaries.
    pub fn windows(&self, board: &str, boot: u64) -> Result<u64> {
        let query = FrameQuery {
            device: Some(board.to_owned()),
            kind: Some(Kind::Summary),
            ..FrameQuery::default()
        };
        let summaries = self.store.frames(&query)?;
        let of_boot = summaries
            .iter()
            .filter(|frame| u64::from(frame.boot) == boot);
        Ok(of_boot
            .filter_map(|frame| frame.body["windows"].as_u64())
            .sum())
    }

    /// Waits for a stored event of a board that `wanted` likes, numbered above `after`.
    pub fn event(
        &self,
        board: &str,
        after: u64,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<Option<StoredFrame>> {
        let mut found = None;
        wait_until(PATIENCE, || {
            let mut events = self.events(board, after)?.into_iter();
            found = events.find(|frame| wanted(&frame.body));
            Ok(found.is_some())
        })?;
        Ok(found)
    }

    /// Waits until a board reports that it confirmed a release.
    pub fn confirmed(&self, board: &str, release: ReleaseId) -> Result<bool> {
        wait_until(PATIENCE, || {
            let birth = self.birth(board)?;
            Ok(birth.is_some_and(|birth| running(&birth) == Some((release, SlotState::Confirmed))))
        })
    }

    /// A board by name.
    pub fn board(&self, name: &str) -> Result<&Board> {
        let found = self.boards.iter().find(|board| board.name == name);
        found.with_context(|| format!("no board {name}"))
    }
}

fn mqtt_options(broker: &BrokerProcess, client_id: &str) -> MqttOptions {
    MqttOptions::new(
        client_id,
        broker.address.ip().to_string(),
        broker.address.port(),
    )
}

/// The release that a board runs, and the state of its slot.
pub fn running(birth: &Birth) -> Option<(ReleaseId, SlotState)> {
    let slot = birth.slots.get(usize::from(birth.running?))?;
    Some((slot.release, slot.state))
}

/// Both slots in a few words: `2.0.0 Confirmed, 1.0.0 Confirmed`; the running one first.
pub fn slots(birth: &Birth) -> String {
    let mut order = [0, 1];
    if birth.running == Some(1) {
        order = [1, 0];
    }
    let words = order.map(|index| {
        let slot = &birth.slots[index];
        match slot.state {
            SlotState::Empty => "empty".to_owned(),
            SlotState::Rejected(reason) => format!("{} rejected: {reason:?}", slot.version),
            state => format!("{} {state:?}", slot.version).to_lowercase(),
        }
    });
    words.join(", ")
}

/// Looks again and again until `done`; false when it was not within `patience`.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Fails with the boards' logs unless `happened`.
pub fn must(happened: bool, what: &str, world: &World) -> Result<()> {
    if happened {
        return Ok(());
    }
    let logs: Vec<String> = world
        .boards
        .iter()
        .map(|board| format!("{}: {}", board.name, board.log_tail()))
        .collect();
    bail!(
        "{what} did not happen in {} s; logs: {}",
        PATIENCE.as_secs(),
        logs.join("; ")
    )
}
