//! The update client against a model of a broker that loses, repeats, damages and reorders.

use super::client::MAX_HEAD_CHUNKS;
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
use proptest::prelude::*;
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
    let mut state = counter;
    let data: std::vec::Vec<u8> = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
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

fn evaluate_here(bytes: &[u8], seen: Seen, now_s: Option<u64>) -> Result<Verdict, Refusal> {
    let board = config().board;
    evaluate(bytes, &root(1), &RingVerifier, &board, &seen, now_s)
}

const FIRST: Seen = Seen {
    sequence: 0,
    digest: [0; 32],
};

#[test]
fn a_desired_state_says_what_to_do() {
    let target = target(&good(1, 100));
    for (state, plan) in [
        (RolloutState::Active, Plan::Install(target.clone())),
        (RolloutState::Paused, Plan::Wait(target.clone())),
        (RolloutState::Aborted, Plan::GiveUp(target.clone())),
    ] {
        let bytes = signed(&desire(1, "r", state, &target), 3);
        assert_eq!(evaluate_here(&bytes, FIRST, Some(999)).unwrap().plan, plan);
    }
    let desired = desire(1, "r", RolloutState::Active, &target);
    let keeps = [
        Desired {
            share_per_mille: 0,
            ..desired.clone()
        },
        Desired {
            tags: [Text::try_from("lab").unwrap()].into_iter().collect(),
            ..desired.clone()
        },
        desire(
            1,
            "r",
            RolloutState::Active,
            &Target {
                class: BoardClass::Mcu,
                ..target.clone()
            },
        ),
        Desired {
            targets: Vec::new(),
            ..desired.clone()
        },
    ];
    for keep in keeps {
        let verdict = evaluate_here(&signed(&keep, 3), FIRST, None).unwrap();
        assert_eq!(verdict.plan, Plan::Keep, "{keep:?}");
    }
}

#[test]
fn what_does_not_count_is_refused_by_name() {
    let target = target(&good(1, 100));
    let desired = desire(5, "r", RolloutState::Active, &target);
    let bytes = signed(&desired, 3);
    let verdict = evaluate_here(&bytes, FIRST, None).unwrap();
    let seen = |sequence, digest| Seen { sequence, digest };
    assert!(
        evaluate_here(&bytes, seen(5, verdict.digest), None).is_ok(),
        "the same again"
    );
    let replay = Err(Refusal::Replay { seen: 5 });
    assert_eq!(evaluate_here(&bytes, seen(5, [1; 32]), None), replay);
    let replay = Err(Refusal::Replay { seen: 6 });
    assert_eq!(evaluate_here(&bytes, seen(6, verdict.digest), None), replay);
    let expired = Err(Refusal::Expired { at_s: 1000 });
    assert_eq!(evaluate_here(&bytes, FIRST, Some(1000)), expired);
    for key in [1, 2, 4, 13] {
        let seen = evaluate_here(&signed(&desired, key), FIRST, None).unwrap_err();
        assert!(matches!(seen, Refusal::Trust(_)), "key {key}: {seen:?}");
        assert_eq!(seen.refused(), Refused::DesiredSignature);
    }
    let payload = to_vec(&desired);
    let other = seal(ContentType::Ack, &payload, 3);
    assert!(matches!(
        evaluate_here(&other, FIRST, None),
        Err(Refusal::Trust(_))
    ));
    let mut long = payload.clone();
    long.push(0);
    let long = seal(ContentType::Desired, &long, 3);
    assert_eq!(evaluate_here(&long, FIRST, None), Err(Refusal::Trailing(1)));
    let short = seal(ContentType::Desired, &payload[..payload.len() - 1], 3);
    assert_eq!(
        evaluate_here(&short, FIRST, None),
        Err(Refusal::Undecodable)
    );
    let refused = |desired: Desired| evaluate_here(&signed(&desired, 3), FIRST, None).unwrap_err();
    let fleet = Id::try_from("g").unwrap();
    assert_eq!(
        refused(Desired {
            fleet,
            ..desired.clone()
        }),
        Refusal::Fleet
    );
    let share_per_mille = 1001;
    assert_eq!(
        refused(Desired {
            share_per_mille,
            ..desired.clone()
        }),
        Refusal::OutOfRange
    );
    assert_eq!(
        refused(Desired {
            sequence: 0,
            ..desired.clone()
        }),
        Refusal::OutOfRange
    );
    let targets = [target.clone(), target].into_iter().collect();
    assert_eq!(
        refused(Desired { targets, ..desired }),
        Refusal::DuplicateClass
    );
}

#[test]
fn every_changed_byte_of_a_desired_state_is_refused() {
    let bytes = signed(
        &desire(5, "r", RolloutState::Active, &target(&good(1, 100))),
        3,
    );
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            assert!(
                evaluate_here(&changed, FIRST, None).is_err(),
                "byte {at} xor {flip}"
            );
        }
        assert!(
            evaluate_here(&bytes[..at], FIRST, None).is_err(),
            "cut to {at}"
        );
    }
}

#[test]
fn cohorts_are_fair_and_differ_by_rollout() {
    let mut counts = [0; 10];
    let mut both = 0;
    for n in 0..10_000 {
        let device = format!("board-{n}");
        let drawn = cohort_per_mille("r1", &device);
        assert!(drawn < 1000);
        counts[usize::from(drawn / 100)] += 1;
        both += u32::from(drawn < 100 && cohort_per_mille("r2", &device) < 100);
    }
    assert!(
        counts.iter().all(|count| (880..1120).contains(count)),
        "{counts:?}"
    );
    assert!((50..160).contains(&both), "{both} boards are early twice");
    assert_ne!(cohort_per_mille("ab", "c"), cohort_per_mille("a", "bc"));
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
            Action::Start(_) | Action::More => {}
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

    /// Boots and runs for so many turns with all the broker has.
    fn run(&mut self, turns: u32) -> Slots<RamFlash<4, 4096>> {
        let mut slots = self.boot();
        let mut head = [0; HEAD];
        let mut client = Client::new(config(), RingVerifier, &mut head);
        client.connected();
        let desired = self.desired.clone();
        client.desired(&desired, None, &mut slots).unwrap();
        for _ in 0..turns {
            self.turn(&mut client, &mut slots);
        }
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

#[test]
fn a_release_is_fetched_once_and_confirmed() {
    let mut world = World::new();
    let bundle = good(1, 30_000);
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.run(200);
    world.holds(&slots, &bundle);
    assert_eq!(world.asked as usize, bundle.len().div_ceil(CHUNK_BYTES));
    assert!(world.subscribed.is_empty());
    let mut seen = vec![0; bundle.len()];
    slots.read(Slot::A, 0, &mut seen).unwrap();
    assert_eq!(seen, bundle);
    // At the next boot there is nothing to do.
    world.keep(slots);
    let asked = world.asked;
    let slots = world.run(50);
    world.holds(&slots, &bundle);
    assert_eq!(world.asked, asked);
    // An old release that is still in the idle slot comes back without a fetch.
    world.keep(slots);
    let next = good(1, 26_000);
    let next_target = world.publish(&next);
    world.want(2, "s", RolloutState::Active, &next_target);
    let slots = world.run(200);
    world.holds(&slots, &next);
    world.keep(slots);
    let asked = world.asked;
    world.want(3, "t", RolloutState::Active, &target);
    let slots = world.run(200);
    world.holds(&slots, &bundle);
    assert_eq!(world.asked, asked);
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    let mut world = World::new();
    let bundle = good(1, 40_000);
    let total = bundle.len().div_ceil(CHUNK_BYTES) as u32;
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let slots = world.run(6);
    world.keep(slots);
    let before = world.asked;
    assert!(before > 2 && before < total, "{before} of {total}");
    let slots = world.run(200);
    world.holds(&slots, &bundle);
    let release = release_id(&target.digest);
    let resumed = world.events.iter().find_map(|event| match event {
        Event::Resumed {
            release: of,
            kept,
            total,
        } if *of == release => Some((*kept, *total)),
        _ => None,
    });
    let (kept, of) = resumed.unwrap();
    assert_eq!(of, total);
    assert!(kept >= 2, "{kept}");
    assert_eq!(world.asked - before, total - kept, "only what was missing");
}

#[test]
fn a_damaged_chunk_is_reported_once_and_fetched_when_repaired() {
    let mut world = World::new();
    let bundle = good(1, 30_000);
    let target = world.publish(&bundle);
    let right = world.blobs[&(target.digest, 4)].clone();
    world.blobs.get_mut(&(target.digest, 4)).unwrap()[7] ^= 1;
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    client.connected();
    let desired = world.desired.clone();
    client.desired(&desired, None, &mut slots).unwrap();
    for _ in 0..300 {
        world.turn(&mut client, &mut slots);
    }
    let release = release_id(&target.digest);
    assert_eq!(world.refused(Refused::Chunk { release, index: 4 }), 1);
    assert_eq!(slots.record(Slot::A).state, SlotState::Receiving);
    let tries = world.asked;
    assert!(tries < 60, "{tries} subscriptions in 6 seconds: no backoff");
    world.blobs.insert((target.digest, 4), right);
    for _ in 0..100 {
        world.turn(&mut client, &mut slots);
    }
    world.holds(&slots, &bundle);
}

#[test]
fn a_damaged_head_is_fetched_again() {
    let mut world = World::new();
    let bundle = good(1, 10_000);
    let target = world.publish(&bundle);
    for at in [100, 5, bundle.len() % 4096, 4000] {
        let mut world = World::new();
        world.publish(&bundle);
        world.blobs.get_mut(&(target.digest, 0)).unwrap()[at] ^= 1;
        world.want(1, "r", RolloutState::Active, &target);
        let mut slots = world.boot();
        let mut head = [0; HEAD];
        let mut client = Client::new(config(), RingVerifier, &mut head);
        client.connected();
        let desired = world.desired.clone();
        client.desired(&desired, None, &mut slots).unwrap();
        for _ in 0..100 {
            world.turn(&mut client, &mut slots);
        }
        assert_eq!(world.events.len(), 1, "byte {at}: {:?}", world.events);
        assert_eq!(slots.record(Slot::A).state, SlotState::Empty, "byte {at}");
        world.publish(&bundle);
        for _ in 0..100 {
            world.turn(&mut client, &mut slots);
        }
        world.holds(&slots, &bundle);
    }
}

/// Offers a bundle to a board that runs release 5; it must be refused for `reason`, once, with the
/// slots as they were.
fn refused_for(reason: Reason, offered: &[u8], change: impl Fn(&mut Target)) {
    let mut world = World::new();
    let running = good(5, 9_000);
    let target = world.publish(&running);
    world.want(1, "r", RolloutState::Active, &target);
    let slots = world.run(100);
    world.holds(&slots, &running);
    let before = slots.state().slots.clone();
    world.keep(slots);
    world.events.clear();
    let mut target = world.publish(offered);
    change(&mut target);
    world.want(2, "s", RolloutState::Active, &target);
    let slots = world.run(200);
    let release = release_id(&target.digest);
    let what = Refused::Release { release, reason };
    assert_eq!(world.refused(what), 1, "{:?}", world.events);
    assert_eq!(world.events.len(), 1, "{:?}", world.events);
    assert_eq!(slots.state().slots, before);
    let last_failure = (reason != Reason::Signature).then_some((release, reason));
    assert_eq!(slots.state().last_failure, last_failure);
    assert!(world.subscribed.is_empty());
    // Not again at the next boot, except for a signature, which a new root may make good.
    world.keep(slots);
    let slots = world.run(100);
    let again = 1 + usize::from(reason == Reason::Signature);
    assert_eq!(world.refused(what), again);
    assert_eq!(slots.state().floor, 5);
}

#[test]
fn a_release_that_is_not_for_this_board_is_refused_by_name() {
    refused_for(
        Reason::Signature,
        &bundle(6, BoardClass::Linux, 1, 9_000, 3),
        |_| {},
    );
    refused_for(Reason::Downgrade, &good(4, 9_000), |_| {});
    refused_for(Reason::Downgrade, &good(4, 9_000), |target| {
        target.counter = 6
    });
    refused_for(
        Reason::WrongClass,
        &bundle(6, BoardClass::Mcu, 1, 9_000, 2),
        |_| {},
    );
    refused_for(
        Reason::Unsupported,
        &bundle(6, BoardClass::Linux, 2, 9_000, 2),
        |_| {},
    );
    refused_for(Reason::Unsupported, &good(6, 60_000), |_| {});
    refused_for(Reason::Corrupt, &good(6, 9_000), |target| {
        target.counter = 7
    });
    refused_for(Reason::Corrupt, &good(6, 9_000), |target| {
        target.total_bytes += 16
    });
    refused_for(Reason::Corrupt, &good(6, 9_000), |target| {
        target.head_bytes += 1
    });
    let most = MAX_HEAD_CHUNKS * CHUNK_BYTES as u32;
    refused_for(Reason::Unsupported, &good(6, 9_000), |target| {
        target.head_bytes = most + CHUNK_BYTES as u32;
        target.total_bytes += most;
    });
}

#[test]
fn a_release_that_failed_is_tried_again_only_under_another_rollout() {
    let mut world = World::new();
    world.self_test = Err(Reason::SelfTest);
    let bundle = good(1, 9_000);
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let slots = world.run(100);
    let rejected = SlotState::Rejected(Reason::SelfTest);
    assert_eq!(slots.record(Slot::A).state, rejected);
    world.keep(slots);
    world.self_test = Ok(());
    let asked = world.asked;
    let slots = world.run(100);
    assert_eq!(slots.record(Slot::A).state, rejected);
    assert_eq!(world.asked, asked);
    world.keep(slots);
    world.want(2, "s", RolloutState::Active, &target);
    let slots = world.run(100);
    world.holds(&slots, &bundle);
    assert_eq!(world.asked, asked, "all of it was there");
}

#[test]
fn a_paused_rollout_waits_and_an_aborted_one_is_given_up() {
    let mut world = World::new();
    world.confirm = false;
    let bundle = good(1, 30_000);
    let target = world.publish(&bundle);
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    client.connected();
    let say = |world: &mut World, client: &mut Client<'_>, slots: &mut _, n, state, turns| {
        world.want(n, "r", state, &target);
        let desired = world.desired.clone();
        assert_eq!(client.desired(&desired, None, slots), Ok(None));
        for _ in 0..turns {
            world.turn(client, slots);
        }
    };
    say(
        &mut world,
        &mut client,
        &mut slots,
        1,
        RolloutState::Active,
        4,
    );
    say(
        &mut world,
        &mut client,
        &mut slots,
        2,
        RolloutState::Paused,
        50,
    );
    assert_eq!(slots.record(Slot::A).state, SlotState::Receiving);
    assert!(world.subscribed.is_empty());
    say(
        &mut world,
        &mut client,
        &mut slots,
        3,
        RolloutState::Active,
        100,
    );
    assert_eq!(slots.record(Slot::A).state, SlotState::Staged);
    slots.begin_trial(Slot::A, 2).unwrap();
    say(
        &mut world,
        &mut client,
        &mut slots,
        4,
        RolloutState::Paused,
        5,
    );
    assert_eq!(
        slots.record(Slot::A).state,
        SlotState::Trial,
        "begun before the pause"
    );
    say(
        &mut world,
        &mut client,
        &mut slots,
        5,
        RolloutState::Aborted,
        5,
    );
    let rejected = SlotState::Rejected(Reason::Operator);
    assert_eq!(slots.record(Slot::A).state, rejected);
    assert_eq!(world.stopped, 1);
    let reverted = |event: &Event| matches!(event, Event::Reverted { to: None, .. });
    assert!(world.events.iter().any(reverted));
}

#[test]
fn a_shadow_whose_rollout_ends_is_stopped() {
    for other in [false, true] {
        let mut world = World::new();
        world.confirm = false;
        let bundle = good(1, 9_000);
        let target = world.publish(&bundle);
        world.want(1, "r", RolloutState::Active, &target);
        let mut slots = world.run(60);
        slots.shadow(Slot::A, 2).unwrap();
        world.keep(slots);
        let next = good(2, 9_000);
        let next = world.publish(&next);
        if other {
            world.want(2, "s", RolloutState::Active, &next);
        } else {
            world.want(2, "r", RolloutState::Aborted, &target);
        }
        let slots = world.run(60);
        assert_eq!(world.stopped, 1);
        let expected = if other {
            SlotState::Staged
        } else {
            SlotState::Empty
        };
        assert_eq!(slots.record(Slot::A).state, expected);
    }
}

#[test]
fn a_new_root_asks_for_the_desired_state_again() {
    let mut world = World::new();
    let bundle = bundle(1, BoardClass::Linux, 1, 9_000, 12);
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    client.connected();
    let desired = world.desired.clone();
    client.desired(&desired, None, &mut slots).unwrap();
    for _ in 0..20 {
        world.turn(&mut client, &mut slots);
    }
    let release = release_id(&target.digest);
    let reason = Reason::Signature;
    assert_eq!(world.refused(Refused::Release { release, reason }), 1);
    let payload = to_vec(&root(2));
    let mut lone = seal(ContentType::Root, &payload, 11);
    assert!(
        client.root(&lone, &mut slots).unwrap().is_some(),
        "not by the old root"
    );
    let mut detached = [0; 200];
    let len =
        crate::trust::cose::sign_detached(&signer(1), ContentType::Root, &payload, &mut detached)
            .unwrap();
    lone.extend(&detached[..len]);
    assert_eq!(client.root(&lone, &mut slots), Ok(None));
    assert_eq!(slots.state().root.version, 2);
    // The rollout key moved on too: the old signature does not count any more, the new one does.
    assert!(
        client
            .desired(&desired, None, &mut slots)
            .unwrap()
            .is_some()
    );
    let again = signed(&desire(1, "r", RolloutState::Active, &target), 13);
    assert_eq!(client.desired(&again, None, &mut slots), Ok(None));
    for _ in 0..60 {
        world.turn(&mut client, &mut slots);
    }
    assert_eq!(world.ask_desired, 1);
    world.holds(&slots, &bundle);
}

/// As many messages that are not the rollout's as come in one turn of a caller.
fn flood(client: &mut Client<'_>, slots: &mut Slots<RamFlash<4, 4096>>, forged: &[u8]) {
    for _ in 0..300 {
        assert!(client.desired(forged, None, slots).unwrap().is_some());
    }
}

#[test]
fn refusals_never_take_the_place_of_an_abort() {
    let mut world = World::new();
    world.confirm = false;
    let bundle = good(1, 9_000);
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.run(60);
    slots.begin_trial(Slot::A, 2).unwrap();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    let forged = signed(&desire(2, "r", RolloutState::Aborted, &target), 4);
    flood(&mut client, &mut slots, &forged);
    let abort = signed(&desire(2, "r", RolloutState::Aborted, &target), 3);
    assert_eq!(client.desired(&abort, None, &mut slots), Ok(None));
    flood(&mut client, &mut slots, &forged);
    world.turn(&mut client, &mut slots);
    assert_eq!(world.stopped, 1);
    let reverted = |event: &Event| matches!(event, Event::Reverted { to: None, .. });
    assert!(world.events.iter().any(reverted), "{:?}", world.events);
    assert!(world.refused(Refused::DesiredSignature) > 0);
}

#[test]
fn refusals_never_take_the_place_of_a_new_root() {
    let mut world = World::new();
    let target = target(&good(1, 9_000));
    let forged = signed(&desire(1, "r", RolloutState::Active, &target), 4);
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    flood(&mut client, &mut slots, &forged);
    let next = Root {
        version: 2,
        ..root(1)
    };
    let next = seal(ContentType::Root, &to_vec(&next), 1);
    assert_eq!(client.root(&next, &mut slots), Ok(None));
    flood(&mut client, &mut slots, &forged);
    world.turn(&mut client, &mut slots);
    assert_eq!(world.ask_desired, 1);
}

/// The root after the first, whose release key is `release`.
fn next_root(release: u8) -> Root {
    let mut next = root(1);
    next.version = 2;
    next.roles[Role::Release as usize] = RoleKeys::new(1, &[signer(release).public_key()]).unwrap();
    next
}

/// A board with release 1 staged or in shadow, and a broker that has it.
fn ready(shadow: bool) -> (World, Target, Slots<RamFlash<4, 4096>>) {
    let mut world = World::new();
    world.confirm = false;
    let target = world.publish(&good(1, 9_000));
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.run(60);
    assert_eq!(slots.record(Slot::A).state, SlotState::Staged);
    if shadow {
        slots.shadow(Slot::A, 2).unwrap();
    }
    world.confirm = true;
    (world, target, slots)
}

#[test]
fn a_release_that_waits_is_given_up_when_its_key_is_revoked() {
    for shadow in [false, true] {
        let (mut world, target, mut slots) = ready(shadow);
        let mut head = [0; HEAD];
        let mut client = Client::new(config(), RingVerifier, &mut head);
        client.connected();
        let bytes = seal(ContentType::Root, &to_vec(&next_root(12)), 1);
        assert_eq!(client.root(&bytes, &mut slots), Ok(None));
        assert_eq!(slots.record(Slot::A).state, SlotState::Empty);
        world.turn(&mut client, &mut slots);
        assert_eq!((world.stopped, world.ask_desired), (1, 1));
        let release = release_id(&target.digest);
        let reason = Reason::Signature;
        assert_eq!(world.refused(Refused::Release { release, reason }), 1);
        let desired = world.desired.clone();
        assert_eq!(client.desired(&desired, None, &mut slots), Ok(None));
        for _ in 0..60 {
            world.turn(&mut client, &mut slots);
        }
        assert_eq!(slots.confirmed(), None);
        // The same release counts again once the new key has signed it.
        let bundle = bundle(1, BoardClass::Linux, 1, 9_000, 12);
        assert_eq!(world.publish(&bundle), target);
        for _ in 0..100 {
            world.turn(&mut client, &mut slots);
        }
        world.holds(&slots, &bundle);
    }
}

#[test]
fn a_power_cut_after_the_new_root_does_not_save_a_revoked_release() {
    for shadow in [false, true] {
        let (mut world, target, mut slots) = ready(shadow);
        slots.set_root(next_root(12)).unwrap();
        world.keep(slots);
        let slots = world.run(60);
        assert_eq!(slots.confirmed(), None);
        assert_eq!(slots.record(Slot::A).state, SlotState::Empty);
        let release = release_id(&target.digest);
        let reason = Reason::Signature;
        assert_eq!(world.refused(Refused::Release { release, reason }), 1);
    }
}

#[test]
fn a_new_root_leaves_alone_what_it_still_trusts_and_what_is_confirmed() {
    let (mut world, target, mut slots) = ready(false);
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    client.connected();
    let bytes = seal(ContentType::Root, &to_vec(&next_root(2)), 1);
    assert_eq!(client.root(&bytes, &mut slots), Ok(None));
    assert_eq!(slots.record(Slot::A).state, SlotState::Staged);
    let asked = world.asked;
    let desired = world.desired.clone();
    assert_eq!(client.desired(&desired, None, &mut slots), Ok(None));
    for _ in 0..20 {
        world.turn(&mut client, &mut slots);
    }
    assert_eq!(slots.record(Slot::A).digest, target.digest);
    assert_eq!(slots.confirmed(), Some(Slot::A));
    assert_eq!((world.asked, world.stopped), (asked, 0));
    let mut next = next_root(12);
    next.version = 3;
    let bytes = seal(ContentType::Root, &to_vec(&next), 1);
    assert_eq!(client.root(&bytes, &mut slots), Ok(None));
    world.turn(&mut client, &mut slots);
    assert_eq!(slots.confirmed(), Some(Slot::A));
    assert_eq!(world.stopped, 0);
}

/// Everything goes wrong at random for a while; then the broker is honest, and the board gets
/// there.
fn converges(seed: u64, faults: Faults) -> Result<(), TestCaseError> {
    let mut world = World::new();
    world.random = seed | 1;
    world.faults = faults;
    let bundles = [good(1, 30_000), good(2, 26_000)];
    let targets = [world.publish(&bundles[0]), world.publish(&bundles[1])];
    let mut sequence = 0;
    for round in 0..6 {
        let mut slots = world.boot();
        let mut head = [0; HEAD];
        let mut client = Client::new(config(), RingVerifier, &mut head);
        let honest = round == 5;
        if honest {
            world.faults = Faults::default();
            sequence += 1;
            world.want(sequence, "last", RolloutState::Active, &targets[1]);
        }
        for turn in 0..if honest { 400 } else { 60 } {
            if !honest && world.chance(10) {
                sequence += 1;
                let states = [
                    RolloutState::Active,
                    RolloutState::Paused,
                    RolloutState::Aborted,
                ];
                let state = states[usize::from(world.chance(30)) + usize::from(world.chance(10))];
                let which = usize::from(world.chance(50));
                let rollout = format!("r{}", sequence / 4);
                world.want(sequence, &rollout, state, &targets[which]);
            }
            if turn == 0 || world.chance(10) {
                let desired = world.desired.clone();
                client.connected();
                if !desired.is_empty() {
                    client.desired(&desired, None, &mut slots).unwrap();
                }
            } else if !honest && world.chance(10) {
                client.disconnected();
                world.subscribed.clear();
            }
            world.turn(&mut client, &mut slots);
            for slot in Slot::ALL {
                let state = slots.record(slot).state;
                if matches!(state, SlotState::Staged | SlotState::Confirmed) {
                    let digest = slots.record(slot).digest;
                    let at = targets
                        .iter()
                        .position(|target| target.digest == digest)
                        .unwrap();
                    let mut seen = vec![0; bundles[at].len()];
                    slots.read(slot, 0, &mut seen).unwrap();
                    prop_assert_eq!(&seen, &bundles[at], "{:?} in {:?}", state, slot);
                }
            }
        }
        if honest {
            world.holds(&slots, &bundles[1]);
        }
        world.keep(slots);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_broker_does_an_honest_one_ends_it(
        seed in any::<u64>(),
        lose in 0u8..60,
        damage in 0u8..60,
        repeat in 0u8..60,
    ) {
        converges(seed, Faults { lose, damage, repeat })?;
    }

    #[test]
    fn any_bytes_are_no_desired_state(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(evaluate_here(&bytes, FIRST, None).is_err());
        let signed = seal(ContentType::Desired, &bytes, 3);
        // Signed by the right key, but by chance a desired state of this fleet: not in this life.
        prop_assert!(evaluate_here(&signed, FIRST, None).is_err());
    }

    #[test]
    fn a_growing_share_only_adds_boards(device in "[a-z0-9-]{1,32}", share in 0u16..1000) {
        let target = Target {
            class: BoardClass::Linux,
            digest: [1; 32],
            counter: 1,
            version: Text::new(),
            head_bytes: 4096,
            total_bytes: 8192,
        };
        let in_cohort = |share_per_mille| {
            let desired = desire(1, "r", RolloutState::Active, &target);
            let desired = Desired { share_per_mille, ..desired };
            let bytes = signed(&desired, 3);
            let board = Board { device: &device, ..config().board };
            let verdict = evaluate(&bytes, &root(1), &RingVerifier, &board, &FIRST, None).unwrap();
            matches!(verdict.plan, Plan::Install(_))
        };
        prop_assert!(!in_cohort(share) || in_cohort(share + 1));
        prop_assert!(in_cohort(1000));
        prop_assert!(!in_cohort(0));
    }
}
