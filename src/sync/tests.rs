//! The update client against a model of a broker that loses, repeats, damages and reorders.

mod desired;
mod faults;
mod fetch;
mod rollout;
mod root;

use super::*;
use crate::bundle::write::{BundleWriter, Description, sign};
use crate::bundle::{CHUNK_BYTES, Capabilities, Head, SectionKind};
use crate::slots::ram::RamFlash;
use crate::slots::{BootDecision, Layout, Slot, Slots};
use crate::telemetry::{Event, Reason, Refused, SlotState, release_id};
use crate::trust::cose::{ContentType, sign_embedded};
use crate::trust::ring::{RingSigner, RingVerifier};
use crate::trust::root::{RoleKeys, Root};
use crate::trust::{Role, Signer, sha256};
use std::collections::{BTreeMap, BTreeSet};

const WINDOW: usize = 3;
const HEAD: usize = 2 * CHUNK_BYTES;
type Client<'a> = UpdateClient<'a, RingVerifier, WINDOW>;

fn signer(n: u8) -> RingSigner {
    RingSigner::from_seed(&[n; 32]).unwrap()
}

/// Key 1 is root's, 2 release's, 3 rollout's, 4 the collector's; later versions move them on.
fn root(version: u32) -> Root {
    let add = (version as u8 - 1) * 10;
    let role = |n: u8| RoleKeys::new(1, &[signer(n + add).public_key()]).unwrap();
    Root {
        version,
        roles: [role(1), role(2), role(3), role(4)],
    }
}

fn bundle(
    counter: u32,
    class: BoardClass,
    min_runtime: u16,
    bytes: usize,
    key: u8,
) -> std::vec::Vec<u8> {
    holding(&data(counter, bytes), counter, class, min_runtime, key)
}

/// Bytes that nobody else has.
fn data(seed: u32, bytes: usize) -> std::vec::Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn holding(
    data: &[u8],
    counter: u32,
    class: BoardClass,
    min_runtime: u16,
    key: u8,
) -> std::vec::Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "m".into(),
        version: format!("{counter}.0"),
        counter,
        class,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime,
    })
    .unwrap();
    writer.section(SectionKind::TractModel, data).unwrap();
    let mut bytes = writer.finish().unwrap();
    sign(&mut bytes, &signer(key)).unwrap();
    bytes
}

fn good(counter: u32, bytes: usize) -> std::vec::Vec<u8> {
    bundle(counter, BoardClass::Linux, 1, bytes, 2)
}

fn target(bundle: &[u8]) -> Target {
    let head = Head::parse(bundle).unwrap();
    let manifest = head.manifest().unwrap();
    Target {
        class: BoardClass::Linux,
        digest: head.digest(),
        counter: manifest.counter,
        version: Text::try_from(manifest.version).unwrap(),
        head_bytes: head.head_bytes(),
        total_bytes: head.total_bytes(),
    }
}

fn desire(sequence: u64, rollout: &str, state: RolloutState, target: &Target) -> Desired {
    Desired {
        fleet: Id::try_from("f").unwrap(),
        sequence,
        expires_s: 1000,
        rollout: Id::try_from(rollout).unwrap(),
        state,
        targets: [target.clone()].into_iter().collect(),
        tags: Vec::new(),
        share_per_mille: 1000,
    }
}

fn signed(desired: &Desired, key: u8) -> std::vec::Vec<u8> {
    let payload = to_vec(desired);
    seal(ContentType::Desired, &payload, key)
}

fn to_vec<T: Serialize>(value: &T) -> std::vec::Vec<u8> {
    postcard::to_extend(value, std::vec::Vec::new()).unwrap()
}

fn seal(content: ContentType, payload: &[u8], key: u8) -> std::vec::Vec<u8> {
    let mut out = vec![0; content.embedded_bytes(payload.len())];
    let len = sign_embedded(&signer(key), content, payload, &mut out).unwrap();
    out.truncate(len);
    out
}

fn config() -> Config<'static> {
    Config {
        board: Board {
            fleet: "f",
            device: "d1",
            class: BoardClass::Linux,
            tags: &[],
        },
        capabilities: Capabilities {
            class: BoardClass::Linux,
            kernels: &["tract"],
            runtime: 1,
            slot_bytes: u32::MAX,
            arena_bytes: u32::MAX,
        },
        timeout_ms: 100,
        backoff_ms: 50,
        backoff_max_ms: 400,
    }
}

/// The update client of a board that just booted.
fn client(head: &mut [u8; HEAD]) -> Client<'_> {
    Client::new(config(), RingVerifier, head)
}

/// How a broker treats one delivery.
#[derive(Clone, Copy, Default)]
struct Faults {
    lose: u8,
    damage: u8,
    repeat: u8,
}

struct World {
    flash: Option<RamFlash<4, 4096>>,
    layout: Layout,
    blobs: BTreeMap<([u8; 32], u32), std::vec::Vec<u8>>,
    subscribed: BTreeSet<([u8; 32], u32)>,
    on_the_way: std::vec::Vec<([u8; 32], u32, std::vec::Vec<u8>)>,
    desired: std::vec::Vec<u8>,
    faults: Faults,
    events: std::vec::Vec<Event>,
    asked: u32,
    ask_desired: u32,
    now_ms: u64,
    random: u64,
    self_test: Result<(), Reason>,
    /// Whether a staged release is tried and confirmed at once.
    confirm: bool,
    stopped: u32,
}

impl World {
    fn new() -> Self {
        let layout = Layout::split(128 * 1024, 4096).unwrap();
        let flash = RamFlash::<4, 4096>::new(128 * 1024);
        let slots = Slots::provision(flash, layout, root(1)).unwrap();
        Self {
            flash: Some(slots.into_flash()),
            layout,
            blobs: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            on_the_way: std::vec::Vec::new(),
            desired: std::vec::Vec::new(),
            faults: Faults::default(),
            events: std::vec::Vec::new(),
            asked: 0,
            ask_desired: 0,
            now_ms: 0,
            random: 1,
            self_test: Ok(()),
            confirm: true,
            stopped: 0,
        }
    }

    fn publish(&mut self, bundle: &[u8]) -> Target {
        let target = target(bundle);
        for (n, chunk) in bundle.chunks(CHUNK_BYTES).enumerate() {
            self.blobs.insert((target.digest, n as u32), chunk.to_vec());
        }
        target
    }

    fn want(&mut self, sequence: u64, rollout: &str, state: RolloutState, target: &Target) {
        self.desired = signed(&desire(sequence, rollout, state, target), 3);
    }

    fn chance(&mut self, of_100: u8) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) % 100 < u64::from(of_100)
    }

    fn boot(&mut self) -> Slots<RamFlash<4, 4096>> {
        let mut flash = self.flash.take().unwrap();
        flash.power_on();
        let mut slots = Slots::open(flash, self.layout).unwrap();
        let decision = slots.begin_boot().unwrap();
        assert!(!matches!(decision, BootDecision::Reverted { .. }));
        self.subscribed.clear();
        self.on_the_way.clear();
        slots
    }

    fn act(
        &mut self,
        action: Action,
        client: &mut Client<'_>,
        slots: &mut Slots<RamFlash<4, 4096>>,
    ) {
        match action {
            Action::Subscribe { digest, n } => {
                assert!(
                    self.subscribed.insert((digest, n)),
                    "chunk {n} is subscribed already"
                );
                assert!(self.subscribed.len() <= WINDOW, "{:?}", self.subscribed);
                self.asked += 1;
                let Some(bytes) = self.blobs.get(&(digest, n)).cloned() else {
                    return;
                };
                let slot = slots.idle();
                let record = slots.record(slot);
                if record.digest == digest && record.state == SlotState::Receiving {
                    let here = slots.hash_chunk(slot, n).unwrap();
                    assert_ne!(here, sha256(&bytes), "chunk {n} holds and is fetched again");
                }
                let copies = 1 + usize::from(self.chance(self.faults.repeat));
                for _ in 0..copies {
                    let mut bytes = bytes.clone();
                    if self.chance(self.faults.lose) {
                        continue;
                    }
                    if self.chance(self.faults.damage) {
                        let at = self.random as usize % bytes.len();
                        bytes[at] ^= 1;
                    }
                    self.on_the_way.push((digest, n, bytes));
                }
            }
            Action::Unsubscribe { digest, n } => {
                assert!(
                    self.subscribed.remove(&(digest, n)),
                    "chunk {n} is not subscribed"
                );
            }
            Action::AskDesired => self.ask_desired += 1,
            Action::Event(event) => self.events.push(event),
            Action::SelfTest(_) => client.self_tested(self.self_test, slots).unwrap(),
            Action::Start(slot) if self.confirm => {
                slots.begin_trial(slot, 2).unwrap();
                slots.confirm(slot).unwrap();
            }
            Action::Stop(_) => self.stopped += 1,
            Action::AskRoot | Action::Start(_) | Action::More => {}
        }
    }

    /// One turn of the caller's loop: all actions, a delivery, some time.
    fn turn(&mut self, client: &mut Client<'_>, slots: &mut Slots<RamFlash<4, 4096>>) {
        for polled in 0.. {
            assert!(polled < 1000, "polls for ever");
            match client.poll(self.now_ms, slots).unwrap() {
                Some(action) => self.act(action, client, slots),
                None => break,
            }
        }
        if !self.on_the_way.is_empty() {
            let at = self.random as usize % self.on_the_way.len();
            let (digest, n, bytes) = self.on_the_way.swap_remove(at);
            client
                .chunk(&digest, n, &bytes, self.now_ms, slots)
                .unwrap();
        }
        self.now_ms += 20;
    }

    fn turns(&mut self, turns: u32, client: &mut Client<'_>, slots: &mut Slots<RamFlash<4, 4096>>) {
        for _ in 0..turns {
            self.turn(client, slots);
        }
    }

    /// The board is connected and hears what is desired.
    fn connect(&self, client: &mut Client<'_>, slots: &mut Slots<RamFlash<4, 4096>>) {
        client.connected();
        client.desired(&self.desired, None, slots).unwrap();
    }

    /// Boots and runs for so many turns with all the broker has.
    fn run(&mut self, turns: u32) -> Slots<RamFlash<4, 4096>> {
        let mut slots = self.boot();
        let mut head = [0; HEAD];
        let mut client = client(&mut head);
        self.connect(&mut client, &mut slots);
        self.turns(turns, &mut client, &mut slots);
        slots
    }

    fn keep(&mut self, slots: Slots<RamFlash<4, 4096>>) {
        self.flash = Some(slots.into_flash());
    }

    fn refused(&self, expected: Refused) -> usize {
        let expected = Event::Refused { what: expected };
        self.events
            .iter()
            .filter(|event| **event == expected)
            .count()
    }

    fn holds(&self, slots: &Slots<RamFlash<4, 4096>>, bundle: &[u8]) {
        let slot = slots.confirmed().unwrap();
        assert_eq!(slots.record(slot).digest, target(bundle).digest);
    }
}

/// As many messages that are not the rollout's as come in one turn of a caller.
fn flood(client: &mut Client<'_>, slots: &mut Slots<RamFlash<4, 4096>>, forged: &[u8]) {
    for _ in 0..300 {
        assert!(client.desired(forged, None, slots).unwrap().is_some());
    }
}
