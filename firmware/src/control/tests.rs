//! The head of a board on flash in memory, with a broker that keeps what is retained.

use super::*;
use edgeward::bundle::{Bundle, BundleWriter, Capabilities, Description, SectionKind};
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::policy::TrialPolicy;
use edgeward::slots::Layout;
use edgeward::slots::ram::RamFlash;
use edgeward::sync::{Board, Config, Desired, RolloutState, Target};
use edgeward::telemetry::codec::{max_frame_bytes, max_payload_bytes, sign_ack, verify_frame};
use edgeward::telemetry::outbox::{Region, SECTOR_OVERHEAD, max_record_bytes};
use edgeward::telemetry::{Ack, Frame, Reason, SlotState};
use edgeward::trust::cose::sign_embedded;
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::{RoleKeys, Root};
use std::collections::BTreeMap;

const F: usize = 2;
const C: usize = 2;
const R: usize = 64;
const B: usize = max_record_bytes(F, C);
const W: usize = 4;
const SLOT_FLASH: usize = 256 * 1024;

type Flash = RamFlash<4, 4096>;
type Head = Control<'static, Flash, Flash, RingVerifier, RingSigner, F, C, R, B, W>;

fn key(seed: u8) -> RingSigner {
    RingSigner::from_seed(&[seed; 32]).unwrap()
}

fn root(version: u32) -> Root {
    let role = |seed| RoleKeys::new(1, &[key(seed).public_key()]).unwrap();
    Root {
        version,
        roles: [role(1), role(2), role(3), role(4)],
    }
}

fn signed(seed: u8, content: ContentType, payload: &[u8]) -> std::vec::Vec<u8> {
    let mut out = vec![0; content.embedded_bytes(payload.len())];
    let len = sign_embedded(&key(seed), content, payload, &mut out).unwrap();
    out.truncate(len);
    out
}

fn bundle(counter: u32) -> std::vec::Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "m".into(),
        version: format!("{counter}"),
        counter,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .unwrap();
    let bytes: std::vec::Vec<u8> = (0..40_000u32).map(|i| (i * counter) as u8).collect();
    writer.section(SectionKind::TractModel, bytes).unwrap();
    let mut bundle = writer.finish().unwrap();
    edgeward::bundle::write::sign(&mut bundle, &key(2)).unwrap();
    bundle
}

fn policy(shadow_inferences: u32) -> TrialPolicy {
    TrialPolicy {
        min_inferences: 10,
        min_windows: 1,
        max_boots: 2,
        max_error_per_mille: 50,
        max_p99_us: 0,
        shadow_inferences,
        min_agreement_per_mille: 900,
    }
}

/// A board and its broker.
struct World {
    head: Head,
    now: Now,
    retained: BTreeMap<String, std::vec::Vec<u8>>,
    /// Messages on their way to the board.
    down: std::vec::Vec<(String, std::vec::Vec<u8>)>,
    /// What was published, in order.
    up: std::vec::Vec<(String, std::vec::Vec<u8>)>,
    loads: std::vec::Vec<(Slot, Purpose)>,
    runs: std::vec::Vec<(Slot, Mode)>,
    stops: std::vec::Vec<Slot>,
    chunks: usize,
    shadow: u32,
    self_test: Result<(), Reason>,
}

fn head(slots: Flash, outbox: Flash, now: Now) -> Head {
    let layout = Layout::split(SLOT_FLASH as u32, 4096).unwrap();
    let mut slots = match Slots::open(slots.clone(), layout) {
        Ok(slots) => slots,
        Err(_) => Slots::provision(slots, layout, root(1)).unwrap(),
    };
    let boot = slots.begin_boot().unwrap();
    let region = Region {
        offset: 0,
        sector_bytes: (B + SECTOR_OVERHEAD).next_multiple_of(4096) as u32,
        sectors: 8,
    };
    let outbox = Outbox::open(outbox, region, slots.state().boot).unwrap();
    let config = Config {
        board: Board {
            fleet: "f",
            device: "d",
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
        timeout_ms: 1000,
        backoff_ms: 100,
        backoff_max_ms: 1000,
    };
    let leak = |bytes: usize| Box::leak(vec![0; bytes].into_boxed_slice());
    let parts = Parts {
        setup: Setup {
            fleet: Id::try_from("f").unwrap(),
            device: Id::try_from("d").unwrap(),
            class: BoardClass::Linux,
            firmware: Text::try_from("t").unwrap(),
            tags: Vec::new(),
        },
        signer: key(5),
        verifier: RingVerifier,
        slots,
        boot,
        client: UpdateClient::new(config, RingVerifier, leak(16 * 1024)),
        outbox,
        payload: leak(max_payload_bytes(F, C)),
        frame: leak(max_frame_bytes(F, C)),
    };
    Control::new(parts, now).unwrap()
}

impl World {
    fn new() -> Self {
        let now = Now {
            monotonic_ms: 0,
            unix_ms: Some(1_000_000),
        };
        let outbox = Flash::new(8 * (B + SECTOR_OVERHEAD).next_multiple_of(4096));
        let mut world = Self {
            head: head(Flash::new(SLOT_FLASH), outbox, now),
            now,
            retained: BTreeMap::new(),
            down: vec![],
            up: vec![],
            loads: vec![],
            runs: vec![],
            stops: vec![],
            chunks: 0,
            shadow: 0,
            self_test: Ok(()),
        };
        world.head.connected(false);
        world.run();
        world
    }

    /// The power goes and comes back.
    fn restart(mut self) -> Self {
        let slots = self.head.slots.into_flash();
        let outbox = self.head.outbox.into_flash();
        self.head = head(slots, outbox, self.now);
        self.head.connected(false);
        self.run();
        self
    }

    /// Everything that happens without time passing.
    fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() && self.down.is_empty() {
                return;
            }
            for (topic, payload) in std::mem::take(&mut self.down) {
                self.head.message(&topic, &payload, self.now).unwrap();
            }
        }
        panic!("it never comes to rest");
    }

    fn turn(&mut self) -> bool {
        let Some(action) = self.head.poll(self.now).unwrap() else {
            return false;
        };
        match action {
            Action::Subscribe(topic) => {
                self.chunks += usize::from(topic.contains("/blob/"));
                if let Some(payload) = self.retained.get(topic.as_str()) {
                    self.down.push((topic.to_string(), payload.clone()));
                }
            }
            Action::Publish { topic, payload, .. } => {
                self.up.push((topic.to_string(), payload.to_vec()));
            }
            Action::Load { slot, purpose } => {
                self.loads.push((slot, purpose));
                let outcome = self.self_test.map(|()| policy(self.shadow));
                let release = self.head.release(slot);
                self.head
                    .loaded(slot, release, purpose, outcome, self.now)
                    .unwrap();
            }
            Action::Run { slot, mode } => self.runs.push((slot, mode)),
            Action::Stop(slot) => self.stops.push(slot),
            Action::Unsubscribe(_) | Action::More => {}
        }
        true
    }

    fn publish(&mut self, counter: u32) -> Target {
        let bytes = bundle(counter);
        let opened = Bundle::open(&bytes).unwrap();
        let digest = opened.head().digest();
        for (n, chunk) in bytes.chunks(4096).enumerate() {
            let topic = topic::blob(&digest, n as u32).to_string();
            self.retained.insert(topic, chunk.to_vec());
        }
        Target {
            class: BoardClass::Linux,
            digest,
            counter,
            version: Text::try_from(format!("{counter}").as_str()).unwrap(),
            head_bytes: opened.head().head_bytes(),
            total_bytes: bytes.len() as u32,
        }
    }

    fn desire(&mut self, sequence: u64, target: &Target, state: RolloutState, seed: u8) {
        let desired = Desired {
            fleet: Id::try_from("f").unwrap(),
            sequence,
            expires_s: 10_000,
            rollout: Id::try_from("r").unwrap(),
            state,
            targets: [target.clone()].into_iter().collect(),
            tags: Vec::new(),
            share_per_mille: 1000,
        };
        let mut bytes = [0; 512];
        let payload = postcard::to_slice(&desired, &mut bytes).unwrap();
        let message = signed(seed, ContentType::Desired, payload);
        self.down.push((topic::desired("f").to_string(), message));
        self.run();
    }

    fn install(&mut self, counter: u32) -> Slot {
        let target = self.publish(counter);
        self.desire(u64::from(counter), &target, RolloutState::Active, 3);
        self.head.slots.on_trial().unwrap()
    }

    fn judge(&mut self, slot: Slot, verdict: Verdict) {
        let release = self.head.release(slot);
        self.head.trial(slot, release, verdict, self.now).unwrap();
        self.run();
    }

    fn confirmed(counter: u32) -> (Self, Slot) {
        let mut world = Self::new();
        let slot = world.install(counter);
        world.judge(slot, Verdict::Confirm);
        (world, slot)
    }

    fn acknowledge(&mut self, through: u64, seed: u8) {
        let ack = Ack {
            device: Id::try_from("d").unwrap(),
            through,
        };
        let mut bytes = [0; 256];
        let len = sign_ack(&ack, &key(seed), &mut bytes).unwrap();
        let topic = topic::device("f", "d", Channel::Ack).to_string();
        self.down.push((topic, bytes[..len].to_vec()));
        self.run();
    }

    /// The frames that were published since the last call.
    fn frames(&mut self) -> std::vec::Vec<Frame<F, C>> {
        std::mem::take(&mut self.up)
            .into_iter()
            .filter(|(_, payload)| payload != ONLINE)
            .map(|(_, payload)| {
                verify_frame(&payload, &key(5).public_key(), &RingVerifier).unwrap()
            })
            .collect()
    }

    fn events(&mut self) -> std::vec::Vec<Event> {
        let event = |frame: Frame<F, C>| match frame.body {
            Body::Event(event) => Some(event),
            _ => None,
        };
        self.frames().into_iter().filter_map(event).collect()
    }

    fn refusals(&mut self) -> usize {
        let events = self.events();
        let refused = |event: &&Event| matches!(event, Event::Refused { .. });
        events.iter().filter(refused).count()
    }
}

#[test]
fn the_first_release_is_fetched_tested_tried_and_confirmed() {
    let (mut world, slot) = World::confirmed(1);
    let purposes: std::vec::Vec<_> = world.loads.iter().map(|load| load.1).collect();
    assert_eq!(purposes, [Purpose::SelfTest, Purpose::Candidate]);
    assert_eq!(world.runs, [(slot, Mode::Trial)]);
    assert_eq!(world.head.slots.confirmed(), Some(slot));
    assert_eq!(world.head.slots.state().floor, 1);
    let frames = world.frames();
    let numbers: std::vec::Vec<_> = frames.iter().map(|frame| frame.sequence).collect();
    assert_eq!(
        numbers,
        (1..=frames.len() as u64).collect::<std::vec::Vec<_>>()
    );
    let Some(Body::Birth(birth)) = frames.iter().rev().map(|f| &f.body).next() else {
        panic!("the last frame is not a birth");
    };
    assert_eq!(birth.running, Some(slot as u8));
    assert_eq!(birth.slots[slot as usize].state, SlotState::Confirmed);
}

#[test]
fn a_breach_goes_back_and_says_why() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    world.events();
    world.judge(second, Verdict::Breach(Reason::PredictionDrift));
    assert_eq!(world.head.slots.confirmed(), Some(first));
    assert_eq!(world.head.running(), Some(first));
    assert_eq!(world.stops, [second]);
    let reverted = Event::Reverted {
        from: world.head.release(second),
        to: Some(world.head.release(first)),
        reason: Reason::PredictionDrift,
    };
    assert!(world.events().contains(&reverted));
    // The same release under the same rollout is not tried again.
    let target = world.publish(2);
    world.desire(3, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    // A late verdict about it changes nothing.
    world.judge(second, Verdict::Confirm);
    assert_eq!(world.head.slots.confirmed(), Some(first));
}

#[test]
fn a_failed_self_test_never_runs() {
    let (mut world, first) = World::confirmed(1);
    world.self_test = Err(Reason::SelfTest);
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    let state = world.head.slots.record(first.other()).state;
    assert_eq!(state, SlotState::Rejected(Reason::SelfTest));
    assert_eq!(world.runs.len(), 1);
}

#[test]
fn a_shadow_comes_before_the_trial_and_may_end_it() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    let second = first.other();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Shadow)));
    assert_eq!(world.head.running(), Some(first));
    let release = world.head.release(second);
    let (pass, now) = (ShadowVerdict::Pass, world.now);
    world.head.shadow(second, release, pass, now).unwrap();
    world.run();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Trial)));
    world.judge(second, Verdict::Confirm);

    let target = world.publish(3);
    world.desire(3, &target, RolloutState::Active, 3);
    let release = world.head.release(first);
    let (fail, now) = (ShadowVerdict::Fail, world.now);
    world.head.shadow(first, release, fail, now).unwrap();
    world.run();
    assert_eq!(world.stops, [first]);
    let state = world.head.slots.record(first).state;
    assert_eq!(state, SlotState::Rejected(Reason::Shadow));
    assert_eq!(world.head.slots.confirmed(), Some(second));
}

#[test]
fn a_paused_rollout_waits_with_the_trial() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    world.desire(3, &target, RolloutState::Paused, 3);
    let second = first.other();
    let release = world.head.release(second);
    let (pass, now) = (ShadowVerdict::Pass, world.now);
    world.head.shadow(second, release, pass, now).unwrap();
    world.run();
    assert_eq!(world.head.slots.on_trial(), None);
    world.desire(4, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), Some(second));
    world.desire(5, &target, RolloutState::Aborted, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    assert_eq!(world.stops, [second]);
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn a_trial_that_dies_reverts_at_the_third_boot() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    world = world.restart();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Trial)));
    world.events();
    world = world.restart();
    assert_eq!(world.runs.last(), Some(&(first, Mode::Confirmed)));
    let reverted = |event: &Event| {
        matches!(
            event,
            Event::Reverted {
                reason: Reason::Crash,
                to: Some(_),
                ..
            }
        )
    };
    assert!(world.events().iter().any(reverted));
}

#[test]
fn an_orderly_stop_is_no_death() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    for _ in 0..5 {
        world.head.end().unwrap();
        world = world.restart();
        assert_eq!(world.head.slots.on_trial(), Some(second));
    }
    assert_eq!(world.head.slots.confirmed(), Some(first));
}

#[test]
fn frames_wait_for_the_acknowledgement_of_the_collector() {
    let mut world = World::new();
    world.frames();
    for _ in 0..WINDOW + 8 {
        let alarm = Event::Refused {
            what: Refused::Command,
        };
        world.head.outbox.push(0, &Body::Event(alarm)).unwrap();
    }
    world.run();
    assert_eq!(
        world.frames().len(),
        WINDOW - 1,
        "the window counts the birth"
    );
    // Forged: the rollout's key is not the collector's.
    world.acknowledge(5, 3);
    assert_eq!(world.head.outbox.acknowledged(), 0);
    world.acknowledge(5, 4);
    assert_eq!(world.head.outbox.acknowledged(), 5);
    assert_eq!(world.frames().len(), 5);
    // After a reconnection everything from there is sent again, in order.
    world.head.disconnected();
    world.head.connected(true);
    world.run();
    let frames = world.frames();
    assert_eq!(frames[0].sequence, 6);
    assert_eq!(frames.len(), WINDOW);
    // So it is when nothing comes back in time.
    world.now.monotonic_ms = world.head.next_deadline_ms().unwrap();
    world.run();
    assert_eq!(world.frames()[0].sequence, 6);
}

#[test]
fn what_the_transport_does_not_take_is_next_again() {
    let mut world = World::new();
    world.frames();
    world.acknowledge(1, 4);
    let alarm = Event::Refused {
        what: Refused::Command,
    };
    for _ in 0..2 {
        world.head.outbox.push(0, &Body::Event(alarm)).unwrap();
    }
    let published = |world: &mut World| match world.head.poll(world.now).unwrap() {
        Some(Action::Publish { payload, .. }) => payload.to_vec(),
        other => panic!("{other:?}"),
    };
    let first = published(&mut world);
    world.head.not_taken();
    assert_eq!(published(&mut world), first);
    assert_ne!(published(&mut world), first);
}

#[test]
fn forged_and_flooding_messages_change_nothing() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    world.refusals();
    for sequence in 2..200 {
        // The collector may acknowledge, not roll out.
        world.desire(sequence, &target, RolloutState::Active, 4);
    }
    assert_eq!(world.head.slots.state().desired_sequence, 1);
    assert_eq!(
        world.head.slots.record(first.other()).state,
        SlotState::Empty
    );
    assert_eq!(world.refusals(), REFUSALS as usize);
    assert_eq!(world.head.unreported_refusals(), 198 - REFUSALS);
    world.acknowledge(world.head.outbox.next_sequence() - 1, 4);
    world.now.monotonic_ms += REFUSAL_MS;
    world.desire(2, &target, RolloutState::Active, 4);
    assert_eq!(world.refusals(), 1);
}

#[test]
fn a_new_root_is_followed_and_the_next_is_asked_for() {
    let mut world = World::new();
    let mut bytes = [0; 2048];
    let payload = root(2).encode(&mut bytes).unwrap().to_vec();
    let forged = signed(3, ContentType::Root, &payload);
    let good = signed(1, ContentType::Root, &payload);
    let topic = topic::root("f", 2).to_string();
    world.down.push((topic.clone(), forged));
    world.run();
    assert_eq!(world.head.slots.state().root.version, 1);
    world.down.push((topic, good));
    world.run();
    assert_eq!(world.head.slots.state().root.version, 2);
    assert_eq!(world.head.next_root(), topic::root("f", 3));
}

#[test]
fn a_download_goes_on_where_it_was() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    let last = topic::blob(&target.digest, target.total_bytes.div_ceil(4096) - 1);
    let chunk = world.retained.remove(last.as_str()).unwrap();
    world.desire(2, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    world.retained.insert(last.to_string(), chunk);
    world.chunks = 0;
    let desired = world.retained.len();
    world = world.restart();
    world.desire(2, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), Some(first.other()));
    assert_eq!(world.chunks, 1, "of {desired} chunks");
    let resumed = |event: &Event| matches!(event, Event::Resumed { .. });
    assert!(world.events().iter().any(resumed));
}
