//! What the rollout controller keeps on the broker: roots first, whether or not there is a rollout.

use edgeward::bundle::{BoardClass, BundleWriter, Description, SectionKind};
use edgeward::sync::Desired;
use edgeward::telemetry::{Birth, Id, SlotReport, SlotState, Text, release_id};
use edgeward::topic;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward::trust::{Digest32, PublicKey, Role};
use edgeward_host::broker::{self, Options as BrokerOptions};
use edgeward_host::collector::now_ms;
use edgeward_host::controller::{Controller, releases_folder, set_state};
use edgeward_host::keys::{KeyStore, Quorum, hex};
use edgeward_host::mqtt::{Event, Mqtt, Options};
use edgeward_host::release::Release;
use edgeward_host::rollout::{Plan, Rollout, State};
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Device, Kind, Store, StoredFrame};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FLEET: &str = "f";
const PATIENCE: Duration = Duration::from_secs(30);

fn options(client_id: &str, port: u16) -> Options {
    Options::new(client_id, "127.0.0.1", port)
}

/// What a board of the fleet sees.
struct Listener {
    mqtt: Mqtt,
    newest: BTreeMap<String, Vec<u8>>,
}

impl Listener {
    fn new(port: u16) -> Self {
        let mqtt = Mqtt::connect(&options("board", port));
        for filter in [
            topic::desired(FLEET).to_string(),
            format!("edgeward/v1/{FLEET}/root/+"),
        ] {
            mqtt.subscribe_and_wait(&filter, PATIENCE).expect("granted");
        }
        Self {
            mqtt,
            newest: BTreeMap::new(),
        }
    }

    /// Takes what comes until `done` finds what it looks for.
    fn until<T>(&mut self, what: &str, done: impl Fn(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = done(self) {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}"
            );
            if let Some(Event::Message(message)) = self.mqtt.recv_timeout(Duration::from_millis(50))
            {
                self.newest.insert(message.topic, message.payload);
            }
        }
    }

    /// The root after `held`, when the broker has it.
    fn next_root(&self, held: &Root) -> Option<Root> {
        let bytes = self
            .newest
            .get(topic::root(FLEET, held.version + 1).as_str())?;
        Some(held.accept_next(bytes, &RingVerifier).expect("a chain"))
    }

    /// The desired state, when the rollout keys of `root` signed it.
    fn desired(&self, root: &Root) -> Option<Desired> {
        let bytes = self.newest.get(topic::desired(FLEET).as_str())?;
        let (role, content) = (Role::Rollout, ContentType::Desired);
        let payload = root.verify_threshold(role, content, bytes, &RingVerifier);
        Some(postcard::from_bytes(payload.ok()?).expect("a desired state"))
    }
}

fn rollout(release: &Release<'_>) -> Rollout {
    let plan = Plan {
        id: Id::try_from("r-1").expect("short"),
        fleet: Id::try_from(FLEET).expect("short"),
        targets: vec![release.target().clone()],
        tags: Vec::new(),
        phases: vec![1000],
        soak_ms: 3_600_000,
        max_failures: 0,
        deadline_ms: 0,
        min_confirmed_per_mille: 0,
        expires_after_s: 86_400,
    };
    Rollout::start(plan, now_ms()).expect("a plan")
}

fn bundle() -> Vec<u8> {
    bundle_of("1")
}

fn bundle_of(version: &str) -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "m".to_owned(),
        version: version.to_owned(),
        counter: 1,
        class: BoardClass::Linux,
        kernels: "plain".to_owned(),
        arena_bytes: 0,
        min_runtime: 0,
    })
    .expect("a description");
    writer
        .section(SectionKind::TractModel, b"a model")
        .expect("a section");
    writer.finish().expect("a bundle")
}

#[test]
fn boards_get_every_root_and_a_standing_that_the_newest_root_vouches_for() {
    let home = tempfile::tempdir().expect("a folder");
    let keys = KeyStore::at(home.path());
    let quorum = |_| Quorum {
        threshold: 1,
        keys: 1,
    };
    let first = keys.init(quorum).expect("keys");
    keys.rotate(Role::Release).expect("rotated");
    let store = Sqlite::open(&home.path().join("store.db")).expect("a store");
    let store: Arc<dyn Store> = Arc::new(store);
    let listening = broker::start(&BrokerOptions {
        port: 0,
        ..BrokerOptions::default()
    });
    let port = listening.expect("a broker").v4.port();
    let mut listener = Listener::new(port);
    let broker = options("controller", port);
    let mut controller = Controller::new(&broker, Arc::clone(&store), home.path(), FLEET);

    // Without any rollout, roots come nevertheless: those of before the start, and new ones.
    assert!(controller.step().expect("a step").is_none());
    let second = listener.until("the second root", |seen| seen.next_root(&first));
    keys.rotate(Role::Collector).expect("rotated");
    assert!(controller.step().expect("a step").is_none());
    let third = listener.until("the third root", |seen| seen.next_root(&second));

    let bytes = bundle();
    let release = Release::open_unchecked(&bytes).expect("a bundle");
    let path = releases_folder(home.path()).join(format!("{}.bundle", hex(release.digest())));
    std::fs::create_dir_all(releases_folder(home.path())).expect("a folder");
    std::fs::write(path, &bytes).expect("written");
    store
        .start_rollout(&rollout(&release), now_ms())
        .expect("saved");
    controller.step().expect("a step").expect("a rollout");
    let before = listener.until("the desired state", |seen| seen.desired(&third));

    // Nothing changed, so nothing is published: the next number is still free.
    controller.step().expect("a step").expect("a rollout");
    controller.mqtt().flush(PATIENCE).expect("acknowledged");
    let fourth = keys.rotate(Role::Rollout).expect("rotated");
    controller.step().expect("a step").expect("a rollout");
    let root = listener.until("the fourth root", |seen| seen.next_root(&third));
    assert_eq!(root, fourth);
    let after = listener.until("the standing signed anew", |seen| seen.desired(&fourth));
    assert_eq!(after.sequence, before.sequence + 1);
    assert_eq!((after.rollout, after.state), (before.rollout, before.state));

    // Without the rollout key nothing can be published, and no try uses up a number.
    let hidden = home.path().join("hidden");
    std::fs::rename(keys.folder(), &hidden).expect("moved");
    std::fs::create_dir(keys.folder()).expect("made");
    for entry in std::fs::read_dir(&hidden).expect("a folder") {
        let from = entry.expect("an entry").path();
        let name = from.file_name().expect("a name").to_owned();
        if !name.to_string_lossy().starts_with("rollout-") {
            std::fs::copy(&from, keys.folder().join(name)).expect("copied");
        }
    }
    let mut without = Controller::new(&broker, Arc::clone(&store), home.path(), FLEET);
    for _ in 0..5 {
        assert!(without.step().is_err(), "there is no key");
    }
    std::fs::remove_dir_all(keys.folder()).expect("removed");
    std::fs::rename(&hidden, keys.folder()).expect("moved back");
    without.step().expect("a step").expect("a rollout");
    assert_eq!(
        store.next_desired(FLEET).expect("drawn"),
        after.sequence + 2,
        "one number for the standing published at last"
    );
}

/// A store, a broker and keys.
struct World {
    home: tempfile::TempDir,
    store: Arc<dyn Store>,
    broker: Options,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let quorum = |_| Quorum {
            threshold: 1,
            keys: 1,
        };
        KeyStore::at(home.path()).init(quorum).expect("keys");
        let store = Sqlite::open(&home.path().join("store.db")).expect("a store");
        let listening = broker::start(&BrokerOptions {
            port: 0,
            ..BrokerOptions::default()
        });
        let port = listening.expect("a broker").v4.port();
        Self {
            home,
            store: Arc::new(store),
            broker: options("controller", port),
        }
    }

    fn controller(&self) -> Controller {
        let store = Arc::clone(&self.store);
        Controller::new(&self.broker, store, self.home.path(), FLEET)
    }

    /// Starts a rollout of a bundle of this version; its digest.
    fn start(&self, id: &str, version: &str) -> Digest32 {
        self.start_within(id, version, 0)
    }

    fn start_within(&self, id: &str, version: &str, deadline_ms: u64) -> Digest32 {
        let bytes = bundle_of(version);
        let release = Release::open_unchecked(&bytes).expect("a bundle");
        let folder = releases_folder(self.home.path());
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{}.bundle", hex(release.digest())));
        std::fs::write(path, &bytes).expect("written");
        let mut rollout = rollout(&release);
        rollout.plan.id = Id::try_from(id).expect("short");
        rollout.plan.deadline_ms = deadline_ms;
        self.store.start_rollout(&rollout, now_ms()).expect("saved");
        *release.digest()
    }

    fn is_done(&self) {
        let done = set_state(self.store.as_ref(), FLEET, |_| Some(State::Done));
        done.expect("changed").expect("a rollout");
    }

    /// The board `b` joins.
    fn enrolls(&self) {
        let device = Device {
            name: "b".to_owned(),
            fleet: FLEET.to_owned(),
            key: PublicKey([7; 32]),
            class: BoardClass::Linux,
            enrolled_ms: 0,
            seen_ms: None,
            online: false,
            epoch: None,
            through: 0,
        };
        self.store.enroll(&device).expect("enrolled");
    }

    /// An enrolled board reports how a slot stands that holds this release.
    fn reports(&self, sequence: u64, digest: &Digest32, state: SlotState) {
        let slot = |release, state| SlotReport {
            state,
            release,
            counter: 1,
            version: Text::new(),
        };
        let birth = Birth {
            class: BoardClass::Linux,
            firmware: Text::new(),
            slots: [
                slot(release_id(digest), state),
                slot([0; 8], SlotState::Empty),
            ],
            running: None,
            floor: 0,
            root_version: 1,
            desired: 1,
            tags: Default::default(),
            last_failure: None,
        };
        let frame = StoredFrame {
            device: "b".to_owned(),
            epoch: 1,
            acknowledged: 0,
            boot: 1,
            first_sequence: sequence,
            sequence,
            time_ms: sequence,
            received_ms: sequence,
            kind: Kind::Birth,
            body: serde_json::to_value(birth).expect("JSON"),
            raw: vec![1],
        };
        assert_eq!(self.store.ingest(&[frame]).expect("stored").new, 1);
    }

    /// Whether the broker holds the first chunk of a release; `other` is one that it holds.
    fn holds(&self, digest: &Digest32, other: &Digest32) -> bool {
        let mqtt = Mqtt::connect(&Options {
            client_id: "reader".to_owned(),
            ..self.broker.clone()
        });
        for digest in [digest, other] {
            let topic = topic::blob(digest, 0);
            mqtt.subscribe_and_wait(&topic, PATIENCE).expect("granted");
        }
        loop {
            if let Some(Event::Message(message)) = mqtt.recv_timeout(PATIENCE) {
                return message.topic == topic::blob(digest, 0).as_str();
            }
        }
    }
}

#[test]
fn keys_are_asked_for_only_when_something_is_to_be_signed() {
    let world = World::new();
    let mut controller = world.controller();
    controller.mqtt().connected(PATIENCE).expect("a broker");
    world.start("r-1", "1");
    controller.step().expect("a step").expect("a rollout");
    let keys = KeyStore::at(world.home.path());
    for entry in std::fs::read_dir(keys.folder()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if name.starts_with("rollout-") {
            std::fs::remove_file(&path).expect("removed");
        }
    }
    // What stands is published, and nothing follows from it.
    controller.step().expect("a step").expect("a rollout");
    assert!(
        world.controller().step().is_err(),
        "this one published nothing"
    );
    // A rollout that ended waits for no key.
    world.is_done();
    world
        .controller()
        .step()
        .expect("a step")
        .expect("a rollout");
}

#[test]
fn a_host_without_a_broker_takes_no_board_for_silent() {
    let world = World::new();
    world.enrolls();
    let digest = world.start_within("r-1", "1", 300);
    world.reports(1, &digest, SlotState::Trial);
    let nobody = options("away", 1);
    let store = Arc::clone(&world.store);
    let mut away = Controller::new(&nobody, store, world.home.path(), FLEET);
    // Twice the deadline and more, in which nothing could come.
    std::thread::sleep(Duration::from_millis(700));
    let (rollout, counts) = away.step().expect("a step").expect("a rollout");
    assert_eq!((rollout.state, counts.busy), (State::Running, 1));
    drop(away);

    // With a broker it has a whole deadline to be heard of; then somebody should look.
    let mut controller = world.controller();
    controller.mqtt().connected(PATIENCE).expect("a broker");
    let connected = Instant::now();
    let paused = loop {
        let (rollout, counts) = controller.step().expect("a step").expect("a rollout");
        if rollout.state != State::Running {
            assert!(connected.elapsed() > Duration::from_millis(290));
            assert_eq!((counts.failed, counts.silent), (0, 1));
            break rollout;
        }
        assert!(connected.elapsed() < PATIENCE, "{rollout:?} {counts:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(paused.state, State::Paused);
    let why = paused.paused_why.expect("a sentence");
    assert!(
        why.contains("1 of 1 boards") && why.contains("300 ms"),
        "{why}"
    );
}

#[test]
fn releases_leave_the_broker_when_no_rollout_and_no_board_wants_them() {
    let world = World::new();
    world.enrolls();
    let mut controller = world.controller();
    let mut step = || {
        controller.step().expect("a step").expect("a rollout");
        // Once more, now that the standing is published.
        controller.step().expect("a step").expect("a rollout");
        controller.mqtt().flush(PATIENCE).expect("acknowledged");
    };
    let first = world.start("r-1", "1");
    world.is_done();
    step();
    let second = world.start("r-2", "2");
    step();
    assert!(world.holds(&first, &second), "the second is not through");
    world.reports(1, &first, SlotState::Staged);
    world.is_done();
    step();
    assert!(world.holds(&first, &second), "a board is at it");
    world.reports(2, &first, SlotState::Confirmed);
    step();
    assert!(!world.holds(&first, &second));
    assert!(world.holds(&second, &second), "the newest stays");
    // It comes back when it is wanted again.
    assert_eq!(world.start("r-3", "1"), first);
    step();
    assert!(world.holds(&first, &second));
}
