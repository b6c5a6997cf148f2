//! The demo's world: a broker, a collector with its store, a rollout controller, and boards as
//! processes of their own. Everything is production code on real files and sockets.

use super::broker::BrokerProcess;
use super::emulated::{self, Emulated};
use super::feeder::{self, Fault, Feeder, Recording, Stream};
use anyhow::{Context, Result, anyhow, bail};
use edgeward::bundle::write::sign;
use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::slots::Layout;
use edgeward::telemetry::{Birth, ReleaseId, SlotState, release_id};
use edgeward::trust::{PublicKey, Role};
use edgeward_firmware::linux::config::{Broker, Config, Flash, Protocol, Source};
use edgeward_firmware::linux::flash::SECTOR_BYTES;
use edgeward_host::collector::{Collector, now_ms};
use edgeward_host::controller::{Controller, ControllerHandle, keep_release};
use edgeward_host::keys::{KeyStore, Quorum};
use edgeward_host::mqtt::Options as MqttOptions;
use edgeward_host::release::Release;
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Device, FrameQuery, Kind, Store, StoredFrame};
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
/// The same of a board that is emulated, beside all the others.
const EMULATED_PATIENCE: Duration = Duration::from_secs(120);

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
    /// The Linux boards.
    pub boards: Vec<Board>,
    /// The microcontroller beside them, if there is one.
    pub emulated: Option<Emulated>,
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

impl Sensor {
    /// The line in which a source says what it delivers.
    fn header(&self) -> String {
        let features = self.features.join(",");
        format!("edgeward-source schema=1 dtype=f32 features={features}")
    }

    /// What the sensor of an emulated board replays: a sample each so many milliseconds, as the fault
    /// leaves them.
    pub fn recorded(&self, fault: Fault, period_ms: u64) -> Result<Vec<u8>> {
        let lines = feeder::recorded(&self.header(), &self.recordings, fault, period_ms);
        Ok(lines?)
    }
}

/// A signed bundle.
#[derive(Clone)]
pub struct Signed {
    /// The whole bundle.
    pub bundle: Vec<u8>,
    /// How telemetry names it.
    pub release: ReleaseId,
}

/// The same release for each class of boards in the fleet.
#[derive(Clone)]
pub struct Offer {
    /// For Linux boards.
    pub linux: Signed,
    /// For the microcontroller, where there is one.
    pub mcu: Option<Signed>,
}

impl Offer {
    /// The bundles.
    pub fn bundles(&self) -> Vec<&[u8]> {
        let all = [Some(&self.linux), self.mcu.as_ref()].into_iter();
        all.flatten().map(|it| &it.bundle[..]).collect()
    }
}

impl World {
    /// Builds it: keys, broker, collector, controller, boards with their own keys, enrolled.
    pub fn start(
        mosquitto: Option<&Path>,
        names: &[&str],
        emulated: Option<emulated::Ready>,
        sensor: &Sensor,
    ) -> Result<Self> {
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
        let broker = BrokerProcess::start(folder.path(), mosquitto, emulated.is_some())?;
        let options = broker.mqtt("collector");
        let collector = Collector::start(&options, Arc::clone(&store), &keys, FLEET)?;
        let options = broker.mqtt("controller");
        let controller = Controller::new(&options, Arc::clone(&store), &home, FLEET).spawn();
        let mut world = Self {
            boards: Vec::new(),
            emulated: None,
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
        if let Some(ready) = emulated {
            world.emulated = Some(world.flash(ready, sensor)?);
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
                port: self.broker.port(),
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
        self.enroll(name, key, BoardClass::Linux)?;
        let feeder = Feeder::start(Stream {
            socket,
            header: sensor.header(),
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

    /// Has `edgeward flash` make and start the microcontroller, and enrolls it by the key that it says.
    fn flash(&self, ready: emulated::Ready, sensor: &Sensor) -> Result<Emulated> {
        let broker = self.broker.for_microcontrollers.context("MQTT 5")?;
        let mut board = Emulated::new(ready, self.folder.path(), &self.home, broker);
        board.measure(&sensor.recorded(Fault::None, emulated::PERIOD_MS)?)?;
        let key = board.key(EMULATED_PATIENCE)?;
        self.enroll(board.name(), key, BoardClass::Mcu)?;
        Ok(board)
    }

    /// Has the host take what is signed with this key.
    fn enroll(&self, name: &str, key: PublicKey, class: BoardClass) -> Result<()> {
        Ok(self.store.enroll(&Device {
            name: name.to_owned(),
            fleet: FLEET.to_owned(),
            key,
            class,
            enrolled_ms: now_ms(),
            seen_ms: None,
            online: false,
            epoch: None,
            through: 0,
        })?)
    }

    /// How the host reaches the broker.
    pub fn mqtt(&self, client_id: &str) -> MqttOptions {
        self.broker.mqtt(client_id)
    }

    /// Signs a bundle with the fleet's release keys and keeps it for the broker.
    pub fn sign(&self, mut bundle: Vec<u8>) -> Result<Signed> {
        for signer in self.keys.signers(Role::Release)? {
            sign(&mut bundle, &signer)?;
        }
        let root = self.keys.root()?;
        keep_release(&self.home, &bundle, &root)?;
        let release = release_id(Release::open(&bundle, &root)?.digest());
        Ok(Signed { bundle, release })
    }

    /// Signs the same release for each class of boards.
    pub fn offer(&self, linux: &[u8], mcu: Option<&[u8]>) -> Result<Offer> {
        Ok(Offer {
            linux: self.sign(linux.to_vec())?,
            mcu: mcu.map(|mcu| self.sign(mcu.to_vec())).transpose()?,
        })
    }

    /// The microcontroller, of which a step is about.
    pub fn emulated(&mut self) -> Result<&mut Emulated> {
        self.emulated.as_mut().context("an emulated board")
    }

    /// How long a board may take for anything.
    pub fn patience(&self, board: &str) -> Duration {
        match &self.emulated {
            Some(emulated) if emulated.name() == board => EMULATED_PATIENCE,
            _ => PATIENCE,
        }
    }

    /// How long the slowest board of the fleet may take for anything.
    pub fn longest_patience(&self) -> Duration {
        self.emulated
            .as_ref()
            .map_or(PATIENCE, |_| EMULATED_PATIENCE)
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
        self.frame(board, after, |frame| wanted(&frame.body))
    }

    /// The same, where it matters of which boot it is.
    pub fn frame(
        &self,
        board: &str,
        after: u64,
        wanted: impl Fn(&StoredFrame) -> bool,
    ) -> Result<Option<StoredFrame>> {
        let mut found = None;
        wait_until(self.patience(board), || {
            let mut events = self.events(board, after)?.into_iter();
            found = events.find(&wanted);
            Ok(found.is_some())
        })?;
        Ok(found)
    }

    /// Waits until a board reports that it confirmed a release.
    pub fn confirmed(&self, board: &str, release: ReleaseId) -> Result<bool> {
        wait_until(self.patience(board), || {
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
        .chain(world.emulated.iter().map(Emulated::log_tail))
        .collect();
    bail!("{what} did not happen in time; logs: {}", logs.join("; "))
}
