//! A board on flash in memory, with a broker that keeps what is retained.

use crate::control::*;
use edgeward::bundle::{Bundle, BundleWriter, Capabilities, Description, SectionKind};
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::policy::TrialPolicy;
use edgeward::slots::Layout;
use edgeward::slots::ram::RamFlash;
use edgeward::sync::{Board, Config, Desired, RolloutState, Target};
use edgeward::telemetry::codec::{sign_ack, verify_frame};
use edgeward::telemetry::outbox::{Region, SECTOR_OVERHEAD, max_buffer_bytes};
use edgeward::telemetry::{Ack, Body, Frame, Reason, ReleaseId};
use edgeward::trust::cose::{ContentType, sign_embedded};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::{RoleKeys, Root};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const F: usize = 2;
const C: usize = 2;
const R: usize = 64;
const B: usize = max_buffer_bytes(F, C);
const W: usize = 4;
const SLOT_FLASH: usize = 256 * 1024;

pub(super) type Flash = RamFlash<4, 4096>;
type Head = Control<'static, Flash, Flash, RingVerifier, RingSigner, F, C, R, B, W>;

fn key(seed: u8) -> RingSigner {
    RingSigner::from_seed(&[seed; 32]).unwrap()
}

pub(super) fn root(version: u32) -> Root {
    let role = |seed| RoleKeys::new(1, &[key(seed).public_key()]).unwrap();
    Root {
        version,
        roles: [role(1), role(2), role(3), role(4)],
    }
}

pub(super) fn signed(seed: u8, content: ContentType, payload: &[u8]) -> std::vec::Vec<u8> {
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

pub(super) fn policy(shadow_inferences: u32) -> TrialPolicy {
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
pub(super) struct World {
    pub(super) head: Head,
    pub(super) now: Now,
    pub(super) retained: BTreeMap<String, std::vec::Vec<u8>>,
    /// Messages on their way to the board.
    pub(super) down: std::vec::Vec<(String, std::vec::Vec<u8>)>,
    /// What was published, in order.
    pub(super) up: std::vec::Vec<(String, std::vec::Vec<u8>)>,
    pub(super) loads: std::vec::Vec<(Slot, Purpose)>,
    pub(super) runs: std::vec::Vec<(Slot, Mode)>,
    pub(super) stops: std::vec::Vec<Slot>,
    pub(super) chunks: usize,
    /// Pulls of the flight record that were asked for.
    pub(super) pulls: usize,
    pub(super) shadow: u32,
    pub(super) self_test: Result<(), Reason>,
    /// Whether the confirmed release can't be loaded.
    pub(super) unloadable: bool,
    /// Loads of this purpose are not answered but kept in `held`.
    pub(super) hold: Option<Purpose>,
    pub(super) held: Option<(Slot, Purpose)>,
    /// Whether the flash of the slots takes nothing.
    refuses: Arc<AtomicBool>,
    /// When a message came that the board could not store.
    pub(super) failures: std::vec::Vec<u64>,
}

/// A number that was never given before.
fn random() -> NonZeroU32 {
    static LAST: AtomicU32 = AtomicU32::new(7);
    NonZeroU32::MIN.saturating_add(LAST.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn blank_outbox() -> Flash {
    Flash::new(8 * (B + SECTOR_OVERHEAD).next_multiple_of(4096))
}

fn region() -> Region {
    Region {
        offset: 0,
        sector_bytes: (B + SECTOR_OVERHEAD).next_multiple_of(4096) as u32,
        sectors: 8,
    }
}

fn head(slots: Flash, outbox: Flash, now: Now) -> Head {
    head_behind(slots, outbox, now, || ())
}

/// The same, where something happens as soon as everything is open.
fn head_behind(slots: Flash, outbox: Flash, now: Now, opened: impl FnOnce()) -> Head {
    let layout = Layout::split(SLOT_FLASH as u32, 4096).unwrap();
    let mut slots = match Slots::open(slots.clone(), layout) {
        Ok(slots) => slots,
        Err(_) => Slots::provision(slots, layout, root(1)).unwrap(),
    };
    let boot = slots.begin_boot().unwrap();
    let outbox = Outbox::open(outbox, region(), slots.state().boot, random()).unwrap();
    opened();
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
            tags: &[],
        },
        signer: key(5),
        verifier: RingVerifier,
        slots: Box::leak(Box::new(slots)),
        client: UpdateClient::new(config, RingVerifier, leak(16 * 1024)),
        outbox: Box::leak(Box::new(outbox)),
        spare_epoch: random(),
    };
    let mut head = Control::new(parts, now);
    head.begin(boot, now).unwrap();
    head
}

/// The flash of a head that is used no more.
fn slots_flash(head: &mut Head) -> Flash {
    let layout = Layout::split(SLOT_FLASH as u32, 4096).unwrap();
    let others = Slots::provision(Flash::new(SLOT_FLASH), layout, root(1)).unwrap();
    std::mem::replace(head.slots, others).into_flash()
}

/// The same, of its outbox.
pub(super) fn outbox_flash(head: &mut Head) -> Flash {
    let other = Outbox::open(blank_outbox(), region(), 0, random()).unwrap();
    std::mem::replace(head.outbox, other).into_flash()
}

impl World {
    pub(super) fn new() -> Self {
        let now = Now {
            monotonic_ms: 0,
            unix_ms: Some(1_000_000),
        };
        let refuses = Arc::new(AtomicBool::new(false));
        let flash = Flash::new(SLOT_FLASH).with_refusal(refuses.clone());
        let mut world = Self {
            head: head(flash, blank_outbox(), now),
            now,
            retained: BTreeMap::new(),
            down: vec![],
            up: vec![],
            loads: vec![],
            runs: vec![],
            stops: vec![],
            chunks: 0,
            pulls: 0,
            shadow: 0,
            self_test: Ok(()),
            unloadable: false,
            hold: None,
            held: None,
            refuses,
            failures: vec![],
        };
        world.head.connected(false);
        world.run();
        world
    }

    /// The power goes and comes back.
    pub(super) fn restart(self) -> Self {
        self.restart_with(|outbox| outbox)
    }

    /// The same, and something happened to the outbox's flash meanwhile.
    pub(super) fn restart_with(mut self, change: impl FnOnce(Flash) -> Flash) -> Self {
        let slots = slots_flash(&mut self.head);
        let outbox = change(outbox_flash(&mut self.head));
        self.head = head(slots, outbox, self.now);
        self.head.connected(false);
        self.run();
        self
    }

    /// Everything that happens without time passing.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() && self.down.is_empty() {
                return;
            }
            for (topic, payload) in std::mem::take(&mut self.down) {
                let result = self.head.message(&topic, &payload, self.now);
                if result.is_err() {
                    assert!(self.refuses.load(Ordering::Relaxed), "{result:?}");
                    self.failures.push(self.now.monotonic_ms);
                }
            }
        }
        panic!("it never comes to rest");
    }

    /// What the board does until it says what is wrong.
    pub(super) fn run_troubled(&mut self) -> ControlError {
        for _ in 0..10_000 {
            match self.try_turn() {
                Ok(true) => {}
                Ok(false) => panic!("nothing is wrong"),
                Err(error) => return error,
            }
            for (topic, payload) in std::mem::take(&mut self.down) {
                if self.head.message(&topic, &payload, self.now).is_err() {
                    self.failures.push(self.now.monotonic_ms);
                }
            }
        }
        panic!("it never comes to rest");
    }

    /// The flash of the slots takes nothing from now on, or does again.
    pub(super) fn refuse(&mut self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Lets time pass until the board has nothing more to do by itself, or this time has come.
    pub(super) fn until(&mut self, end_ms: u64) {
        self.run();
        while let Some(at_ms) = self.head.next_deadline_ms().filter(|&at| at <= end_ms) {
            self.now.monotonic_ms = at_ms;
            self.run();
        }
    }

    /// The power goes and comes back, and from then on the flash of the slots takes nothing.
    pub(super) fn restart_and_refuse(mut self) -> Self {
        let slots = slots_flash(&mut self.head);
        let outbox = outbox_flash(&mut self.head);
        self.head = head(slots, outbox, self.now);
        self.refuse(true);
        while self.try_turn().is_ok_and(|busy| busy) {}
        self
    }

    /// The power goes and comes back, and from then on this slot can't be read, until the switch is off.
    pub(super) fn restart_unreadable(mut self, slot: Slot) -> (Self, Arc<AtomicBool>) {
        let layout = Layout::split(SLOT_FLASH as u32, 4096).unwrap();
        let switch = Arc::new(AtomicBool::new(false));
        let slots = slots_flash(&mut self.head);
        let slots = slots.with_unreadable(layout.slot(slot), switch.clone());
        self.head = head(slots, outbox_flash(&mut self.head), self.now);
        switch.store(true, Ordering::Relaxed);
        self.head.connected(false);
        while self.try_turn().is_ok_and(|busy| busy) {}
        (self, switch)
    }

    /// The power goes and comes back, and from then on the outbox takes nothing, until the switch is off.
    pub(super) fn restart_with_full_outbox(mut self) -> (Self, Arc<AtomicBool>) {
        let switch = Arc::new(AtomicBool::new(false));
        let slots = slots_flash(&mut self.head);
        let outbox = outbox_flash(&mut self.head).with_refusal(switch.clone());
        let refuse = || switch.store(true, Ordering::Relaxed);
        self.head = head_behind(slots, outbox, self.now, refuse);
        self.head.connected(false);
        while self.try_turn().is_ok_and(|busy| busy) {}
        (self, switch)
    }

    fn turn(&mut self) -> bool {
        self.try_turn().unwrap()
    }

    fn try_turn(&mut self) -> Result<bool, ControlError> {
        while let Some((topic, wanted)) = self.head.subscription() {
            self.head.subscribed();
            if !wanted {
                continue;
            }
            self.chunks += usize::from(topic.contains("/blob/"));
            if let Some(payload) = self.retained.get(topic.as_str()) {
                self.down.push((topic.to_string(), payload.clone()));
            }
        }
        let Some(action) = self.head.poll(self.now)? else {
            return Ok(false);
        };
        match action {
            Action::Publish { topic, payload, .. } => {
                self.up.push((topic.to_string(), payload.to_vec()));
            }
            Action::Load { slot, purpose } if self.hold == Some(purpose) => {
                self.held = Some((slot, purpose));
            }
            Action::Load { slot, purpose } => {
                self.loads.push((slot, purpose));
                let fails = self.unloadable && purpose == Purpose::Confirmed;
                let outcome = match fails {
                    true => Err(Reason::Corrupt),
                    false => self.self_test.map(|()| policy(self.shadow)),
                };
                let release = self.head.release(slot);
                self.head
                    .loaded(slot, release, purpose, outcome, self.now)
                    .unwrap();
            }
            Action::Run { slot, mode } => self.runs.push((slot, mode)),
            Action::Stop(slot) => self.stops.push(slot),
            Action::Pull => self.pulls += 1,
            Action::More => {}
        }
        Ok(true)
    }

    pub(super) fn publish(&mut self, counter: u32) -> Target {
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

    pub(super) fn desire(&mut self, sequence: u64, target: &Target, state: RolloutState, seed: u8) {
        self.desire_as("r", sequence, target, state, seed);
    }

    /// A desired state of another rollout.
    pub(super) fn desire_as(
        &mut self,
        rollout: &str,
        sequence: u64,
        target: &Target,
        state: RolloutState,
        seed: u8,
    ) {
        let message = Self::desired_as(rollout, sequence, target, state, seed);
        self.down.push((topic::desired("f").to_string(), message));
        self.run();
    }

    pub(super) fn desired(
        sequence: u64,
        target: &Target,
        state: RolloutState,
        seed: u8,
    ) -> std::vec::Vec<u8> {
        Self::desired_as("r", sequence, target, state, seed)
    }

    fn desired_as(
        rollout: &str,
        sequence: u64,
        target: &Target,
        state: RolloutState,
        seed: u8,
    ) -> std::vec::Vec<u8> {
        let desired = Desired {
            fleet: Id::try_from("f").unwrap(),
            sequence,
            expires_s: 10_000,
            rollout: Id::try_from(rollout).unwrap(),
            state,
            targets: [target.clone()].into_iter().collect(),
            tags: Vec::new(),
            share_per_mille: 1000,
        };
        let mut bytes = [0; 512];
        let payload = postcard::to_slice(&desired, &mut bytes).unwrap();
        signed(seed, ContentType::Desired, payload)
    }

    /// The broker retains a message and delivers it.
    pub(super) fn retain(&mut self, topic: &str, message: std::vec::Vec<u8>) {
        self.retained.insert(topic.to_owned(), message.clone());
        self.down.push((topic.to_owned(), message));
        self.run();
    }

    /// Publishes a release and has the fleet run it.
    pub(super) fn offer(&mut self, counter: u32) -> Target {
        let target = self.publish(counter);
        self.desire(u64::from(counter), &target, RolloutState::Active, 3);
        target
    }

    /// The shadow in a slot has come to a verdict.
    pub(super) fn judge_shadow(&mut self, slot: Slot, release: ReleaseId, verdict: ShadowVerdict) {
        self.head.shadow(slot, release, verdict, self.now).unwrap();
        self.run();
    }

    pub(super) fn install(&mut self, counter: u32) -> Slot {
        self.offer(counter);
        self.head.slots.on_trial().unwrap()
    }

    pub(super) fn judge(&mut self, slot: Slot, verdict: Verdict) {
        let release = self.head.release(slot);
        self.head.trial(slot, release, verdict, self.now).unwrap();
        self.run();
    }

    pub(super) fn confirmed(counter: u32) -> (Self, Slot) {
        let mut world = Self::new();
        let slot = world.install(counter);
        world.judge(slot, Verdict::Confirm);
        (world, slot)
    }

    pub(super) fn acknowledge(&mut self, through: u64, seed: u8) {
        self.acknowledge_of(self.head.outbox.epoch(), through, seed);
    }

    pub(super) fn acknowledge_of(&mut self, epoch: u32, through: u64, seed: u8) {
        let message = Self::ack(epoch, through, seed);
        self.down.push(message);
        self.run();
    }

    /// An acknowledgement, signed by the key of this seed: topic and payload.
    pub(super) fn ack(epoch: u32, through: u64, seed: u8) -> (String, std::vec::Vec<u8>) {
        let ack = Ack {
            device: Id::try_from("d").unwrap(),
            epoch,
            through,
        };
        let mut bytes = [0; 256];
        let len = sign_ack(&ack, &key(seed), &mut bytes).unwrap();
        let topic = topic::device("f", "d", Channel::Ack).to_string();
        (topic, bytes[..len].to_vec())
    }

    /// The frames that were published since the last call.
    pub(super) fn frames(&mut self) -> std::vec::Vec<Frame<F, C>> {
        std::mem::take(&mut self.up)
            .into_iter()
            .filter(|(_, payload)| payload != ONLINE)
            .map(|(_, payload)| {
                verify_frame(&payload, &key(5).public_key(), &RingVerifier).unwrap()
            })
            .collect()
    }

    pub(super) fn events(&mut self) -> std::vec::Vec<Event> {
        let event = |frame: Frame<F, C>| match frame.body {
            Body::Event(event) => Some(event),
            _ => None,
        };
        self.frames().into_iter().filter_map(event).collect()
    }

    pub(super) fn refusals(&mut self) -> usize {
        let events = self.events();
        let refused = |event: &&Event| matches!(event, Event::Refused { .. });
        events.iter().filter(refused).count()
    }
}
