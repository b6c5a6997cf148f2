//! What the rollout controller keeps on the broker: roots first, whether or not there is a rollout.

use edgeward::bundle::{BoardClass, BundleWriter, Description, SectionKind};
use edgeward::sync::Desired;
use edgeward::telemetry::Id;
use edgeward::topic;
use edgeward::trust::Role;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward_host::broker::{self, Options as BrokerOptions};
use edgeward_host::collector::now_ms;
use edgeward_host::controller::{Controller, releases_folder};
use edgeward_host::keys::{KeyStore, Quorum, hex};
use edgeward_host::mqtt::{Event, Mqtt, Options};
use edgeward_host::release::Release;
use edgeward_host::rollout::{Plan, Rollout};
use edgeward_host::store::Store;
use edgeward_host::store::sqlite::Sqlite;
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
        expires_after_s: 86_400,
    };
    Rollout::start(plan, now_ms()).expect("a plan")
}

fn bundle() -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "m".to_owned(),
        version: "1".to_owned(),
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
