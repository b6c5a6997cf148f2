//! A board's life, and what it promises at every boot.

use super::bench::Bench;
use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::slots::{BootDecision, EARLY_BOOTS, Error, Layout, Slot, Slots};
use edgeward::sync::Target;
use edgeward::telemetry::{Reason, SlotState, Text};
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{PublicKey, sha256};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Boots that a trial or shadow may use; a self-test may use as many.
const MAX_BOOTS: u8 = EARLY_BOOTS;

/// A release: a head whose signed part ends with the chunk table, then data.
struct Release {
    bytes: Vec<u8>,
    signed_bytes: u32,
    target: Target,
}

fn release(counter: u32) -> Release {
    let data: Vec<u8> = (0..600)
        .map(|at: u32| (at * 7 + counter * 31) as u8)
        .collect();
    let mut bytes = format!("release {counter:08}").into_bytes();
    for chunk in data.chunks(CHUNK_BYTES) {
        bytes.extend(sha256(chunk));
    }
    let signed_bytes = bytes.len() as u32;
    let digest = sha256(&bytes);
    bytes.resize(CHUNK_BYTES, 0);
    bytes.extend(&data);
    Release {
        signed_bytes,
        target: Target {
            class: BoardClass::Mcu,
            digest,
            counter,
            version: Text::try_from("1.0").expect("short"),
            head_bytes: CHUNK_BYTES as u32,
            total_bytes: bytes.len() as u32,
        },
        bytes,
    }
}

fn root(version: u32) -> Root {
    let role = RoleKeys::new(1, &[PublicKey([version as u8; 32])]).expect("one key");
    Root {
        version,
        roles: core::array::from_fn(|_| role.clone()),
    }
}

/// What happens next in a board's life; the number is a release counter or a root version.
#[derive(Debug, Clone, Copy)]
enum Goal {
    Provision,
    Run(u32),
    RunAfterShadow(u32),
    FailTrial(u32),
    CrashInSelfTest(u32),
    CrashInShadow(u32),
    CrashInTrial(u32),
    RefuseDowngrade(u32),
    Rotate(u32),
}

const LIFE: [Goal; 10] = [
    Goal::Provision,
    Goal::Run(1),
    Goal::RunAfterShadow(2),
    Goal::FailTrial(3),
    Goal::CrashInSelfTest(3),
    Goal::RefuseDowngrade(1),
    Goal::Rotate(2),
    Goal::CrashInShadow(4),
    Goal::CrashInTrial(4),
    Goal::Run(5),
];

/// What an observer outside of the board knows for sure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct World {
    goal: usize,
    retries: u64,
    provisioned: bool,
    boots: u32,
    floor: u32,
    root: u32,
    desired: u64,
    /// Number and fingerprint of the last record that the journal acknowledged.
    acknowledged: (u32, u64),
    /// The release whose confirmation returned.
    confirmed: Option<u32>,
    /// The release whose confirmation was begun after that.
    confirming: Option<u32>,
    /// The release whose trial was begun last, and the boots seen in it.
    trial: Option<(u32, u8)>,
    /// The rollout whose release ran last before its trial, whether it was in its self-test, the last
    /// boot seen in that, and how many were.
    early: Option<(([u8; 8], bool), u32, u8)>,
}

pub enum Life {
    Done,
    PowerCut,
    Died,
}

/// Ends the life when the power is off, or the test when it is not.
macro_rules! go {
    ($flash:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(_) if $flash.ram.borrow().is_off() => return Ok(Life::PowerCut),
            Err(error) => return Err(format!("{}: {error:?}", stringify!($result))),
        }
    };
}

/// As [`go`], for what the journal acknowledges.
macro_rules! done {
    ($flash:expr, $world:expr, $slots:ident . $($call:tt)*) => {{
        let value = go!($flash, $slots.$($call)*);
        $world.acknowledged = fingerprint(&$slots);
        value
    }};
}

/// The releases and the rules by which a board lives.
pub struct Simulation {
    pub layout: Layout,
    releases: Vec<Release>,
}

type Board<const W: usize, const E: usize> = Slots<Bench<W, E>>;

impl Simulation {
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            releases: (0..6).map(release).collect(),
        }
    }

    fn counter_of(&self, digest: &[u8; 32]) -> Option<u32> {
        let found = self
            .releases
            .iter()
            .find(|release| release.target.digest == *digest);
        found.map(|release| release.target.counter)
    }

    /// Boots once and lives until the end, a cut, or a death.
    pub fn live<const W: usize, const E: usize>(
        &self,
        flash: &Bench<W, E>,
        world: &mut World,
    ) -> Result<Life, String> {
        let mut slots = match Slots::open(flash.clone(), self.layout) {
            Err(Error::Unprovisioned | Error::Unreadable { .. }) if !world.provisioned => {
                go!(flash, Slots::format(&mut flash.clone(), self.layout));
                go!(flash, Slots::provision(flash.clone(), self.layout, root(1)))
            }
            opened => go!(flash, opened),
        };
        world.provisioned = true;
        world.root = world.root.max(1);
        let opened = fingerprint(&slots);
        let kept = opened.0 > world.acknowledged.0 || opened == world.acknowledged;
        if !kept {
            return Err(format!(
                "lost {:?}, found {opened:?}: {world:?}",
                world.acknowledged
            ));
        }
        let decision = done!(flash, world, slots.begin_boot());
        self.check_boot(flash, &slots, decision, world)?;
        while let Some(goal) = LIFE.get(world.goal) {
            match self.pursue(flash, &mut slots, *goal, world)? {
                Life::Done => {
                    world.goal += 1;
                    world.retries = 0;
                }
                other => return Ok(other),
            }
        }
        Ok(Life::Done)
    }

    fn check_boot<const W: usize, const E: usize>(
        &self,
        flash: &Bench<W, E>,
        slots: &Board<W, E>,
        decision: BootDecision,
        world: &mut World,
    ) -> Result<(), String> {
        let state = slots.state();
        let fail = |what: &str| Err(format!("{what}: {decision:?}, {world:?}, {state:?}"));
        if state.boot <= world.boots {
            return fail("the boot count stands still");
        }
        if state.floor < world.floor {
            return fail("the floor fell");
        }
        if state.root.version < world.root {
            return fail("the root went back");
        }
        if state.desired_sequence < world.desired {
            return fail("the desired sequence fell");
        }
        let (slot, trial) = match decision {
            BootDecision::Empty => (None, None),
            BootDecision::Confirmed(slot) => (Some(slot), None),
            BootDecision::Trial { slot, attempt } => (Some(slot), Some(attempt)),
            BootDecision::Reverted { to, .. } => (to, None),
        };
        let Some(slot) = slot else {
            return if world.confirmed.is_some() {
                fail("nothing boots")
            } else {
                world.boots = state.boot;
                Ok(())
            };
        };
        let record = slots.record(slot);
        let Some(counter) = self.counter_of(&record.digest) else {
            return fail("an unknown release boots");
        };
        let expected = &self.releases[counter as usize].bytes;
        let at = flash.moved(self.layout.slot(slot).start) as usize;
        if flash.ram.borrow().bytes()[at..at + expected.len()] != expected[..] {
            return fail("what boots is not the release");
        }
        if counter < world.floor || counter < state.floor {
            return fail("what boots is below the floor");
        }
        match trial {
            None if Some(counter) != world.confirmed && Some(counter) != world.confirming => {
                return fail("what boots was never confirmed, or not last");
            }
            None => {}
            Some(attempt) => {
                let seen = match world.trial {
                    Some((of, seen)) if of == counter => seen + 1,
                    _ => return fail("a trial runs that was never begun"),
                };
                if attempt > MAX_BOOTS || seen >= MAX_BOOTS {
                    return fail("a trial uses too many boots");
                }
                world.trial = Some((counter, seen));
            }
        }
        world.boots = slots.state().boot;
        Ok(())
    }

    fn pursue<const W: usize, const E: usize>(
        &self,
        flash: &Bench<W, E>,
        slots: &mut Board<W, E>,
        goal: Goal,
        world: &mut World,
    ) -> Result<Life, String> {
        match goal {
            Goal::Provision => Ok(Life::Done),
            Goal::Run(counter)
            | Goal::RunAfterShadow(counter)
            | Goal::FailTrial(counter)
            | Goal::CrashInSelfTest(counter)
            | Goal::CrashInShadow(counter)
            | Goal::CrashInTrial(counter) => self.install(flash, slots, goal, counter, world),
            Goal::RefuseDowngrade(counter) => {
                let target = &self.releases[counter as usize].target;
                match slots.begin_receive(target, [0xDD; 8]) {
                    Err(Error::BelowFloor(_)) => Ok(Life::Done),
                    other => Err(format!("a downgrade: {other:?}")),
                }
            }
            Goal::Rotate(version) => {
                if slots.state().root.version + 1 == version {
                    done!(flash, world, slots.set_root(root(version)));
                }
                world.root = version;
                Ok(Life::Done)
            }
        }
    }

    fn install<const W: usize, const E: usize>(
        &self,
        flash: &Bench<W, E>,
        slots: &mut Board<W, E>,
        goal: Goal,
        counter: u32,
        world: &mut World,
    ) -> Result<Life, String> {
        let release = &self.releases[counter as usize];
        let digest = release.target.digest;
        for _ in 0..10 {
            if world.early.is_some_and(|(_, _, seen)| seen > MAX_BOOTS) {
                return Err(format!(
                    "a release took too many boots before its trial: {world:?}"
                ));
            }
            if let Some(slot) = slots.on_trial() {
                if let Some(life) = self.try_out(flash, slots, slot, goal, world)? {
                    return Ok(life);
                }
                continue;
            }
            let current = slots.confirmed().map(|slot| slots.record(slot).digest);
            if current == Some(digest) {
                return Ok(Life::Done);
            }
            let rollout = [world.goal as u8, world.retries as u8, 0, 0, 0, 0, 0, 0];
            if slots.rejection(&digest, rollout).is_some() {
                if !matches!(goal, Goal::Run(_) | Goal::RunAfterShadow(_)) {
                    return Ok(Life::Done);
                }
                // Cuts used the trial's boots up: the host rolls it out again.
                world.retries += 1;
                continue;
            }
            let sequence = world.goal as u64 * 100 + world.retries + 1;
            done!(
                flash,
                world,
                slots.set_desired(sequence, [sequence as u8; 32])
            );
            world.desired = sequence;
            let slot = slots.idle();
            let record = slots.record(slot);
            let staged = record.digest == digest
                && record.rollout == rollout
                && matches!(record.state, SlotState::Staged | SlotState::Shadow);
            if !staged {
                let slot = done!(flash, world, slots.begin_receive(&release.target, rollout));
                if !go!(flash, fill(slots, slot, release)) || !go!(flash, early(slots, world)) {
                    continue;
                }
                if matches!(goal, Goal::CrashInSelfTest(_)) {
                    return Ok(Life::Died);
                }
                if !go!(flash, stage(slots, slot, release)) {
                    continue;
                }
                world.acknowledged = fingerprint(slots);
            }
            if matches!(goal, Goal::RunAfterShadow(_) | Goal::CrashInShadow(_)) {
                if !go!(flash, early(slots, world)) {
                    continue;
                }
                if slots.record(slot).state == SlotState::Staged {
                    done!(flash, world, slots.shadow(slot, MAX_BOOTS));
                }
                if matches!(goal, Goal::CrashInShadow(_)) {
                    return Ok(Life::Died);
                }
            }
            world.trial = Some((counter, 0));
            done!(flash, world, slots.begin_trial(slot, MAX_BOOTS));
        }
        Err(format!(
            "{goal:?} does not end: {world:?} {:?}",
            slots.state()
        ))
    }

    /// One boot's part of a trial; none to go on.
    fn try_out<const W: usize, const E: usize>(
        &self,
        flash: &Bench<W, E>,
        slots: &mut Board<W, E>,
        slot: Slot,
        goal: Goal,
        world: &mut World,
    ) -> Result<Option<Life>, String> {
        let counter = self.counter_of(&slots.record(slot).digest).unwrap_or(0);
        let mut off = || -> Result<Life, String> {
            match goal {
                Goal::FailTrial(_) => {
                    done!(flash, world, slots.revert(slot, Reason::PredictionDrift));
                }
                Goal::CrashInTrial(_) => return Ok(Life::Died),
                _ => {
                    world.confirming = Some(counter);
                    done!(flash, world, slots.confirm(slot));
                    world.confirmed = Some(counter);
                    world.floor = counter;
                }
            }
            Ok(Life::Done)
        };
        match off()? {
            Life::Done => Ok(None),
            other => Ok(Some(other)),
        }
    }
}

/// Number of the newest record, and a hash of what it says.
fn fingerprint<const W: usize, const E: usize>(slots: &Board<W, E>) -> (u32, u64) {
    let mut buffer = [0; 2048];
    let mut hasher = DefaultHasher::new();
    let state = postcard::to_slice(slots.state(), &mut buffer).expect("a record has room for it");
    state.hash(&mut hasher);
    (slots.sequence(), hasher.finish())
}

/// Counts a boot in which the release in the idle slot runs before its trial. False when it took too
/// many with it, and is rejected.
fn early<const W: usize, const E: usize>(
    slots: &mut Board<W, E>,
    world: &mut World,
) -> Result<bool, Error> {
    let slot = slots.idle();
    let may = slots.attempt(slot)?;
    if may {
        let (record, boot) = (slots.record(slot), slots.state().boot);
        let phase = (record.rollout, record.state == SlotState::Receiving);
        let seen = match world.early {
            Some((of, last, seen)) if of == phase => seen + u8::from(last != boot),
            _ => 1,
        };
        world.early = Some((phase, boot, seen));
    } else {
        slots.reject(slot, Reason::Crash)?;
    }
    world.acknowledged = fingerprint(slots);
    Ok(may)
}

/// Writes what does not hold; false when it has to be looked at again.
fn fill<const W: usize, const E: usize>(
    slots: &mut Board<W, E>,
    slot: Slot,
    release: &Release,
) -> Result<bool, Error> {
    for (n, chunk) in release.bytes.chunks(CHUNK_BYTES).enumerate() {
        if slots.hash_chunk(slot, n as u32)? != sha256(chunk) {
            let written = slots.write_chunk(slot, n as u32, chunk)?;
            if written.lost.start < n as u32 {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Stages what was received; false when it has to be looked at again.
fn stage<const W: usize, const E: usize>(
    slots: &mut Board<W, E>,
    slot: Slot,
    release: &Release,
) -> Result<bool, Error> {
    match slots.stage(slot, release.signed_bytes) {
        Ok(()) => Ok(true),
        Err(Error::Head) => {
            slots.write_chunk(slot, 0, &release.bytes[..CHUNK_BYTES])?;
            Ok(false)
        }
        Err(Error::Chunk(n)) => {
            let chunk = release.bytes.chunks(CHUNK_BYTES).nth(n as usize);
            slots.write_chunk(slot, n, chunk.unwrap_or_default())?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
