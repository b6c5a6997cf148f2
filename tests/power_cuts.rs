//! Cuts the power of a board at every flash operation of its life, inside it in several ways, and
//! at every pair of them, and checks after each what the slots promise.
//!
//! The life: provisioning, a first release, an update with a shadow, a release that fails its
//! trial, one that crashes in its self-test, a downgrade, a new trust root, a release that crashes
//! in shadow and under the next rollout in its trial, one more update. After a cut the board boots
//! and goes on; a second cut hits anything it does from there.
//!
//! Checked at every boot: what is to run is, byte by byte, a release that was verified and put on
//! trial; one that was confirmed keeps running; nothing below the floor runs; floor, root and
//! desired sequence never fall; nothing that the journal acknowledged is lost; a trial, a shadow or
//! a self-test uses no more boots than it may; and the life ends as it would have without a cut.
//! Mutants, made by a flash that behaves as a worse design would, show that the simulation can fail.

use crc::{CRC_32_ISO_HDLC, Crc};
use edgeward::bundle::{BoardClass, CHUNK_BYTES};
use edgeward::slots::ram::{Cut, Edge, Op, RamError, RamFlash, Tear};
use edgeward::slots::{BootDecision, EARLY_BOOTS, Error, Layout, Slot, Slots};
use edgeward::sync::Target;
use edgeward::telemetry::{Reason, SlotState, Text};
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{PublicKey, sha256};
use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Instant;

/// Boots that a trial or shadow may use; a self-test may use as many.
const MAX_BOOTS: u8 = EARLY_BOOTS;
/// Without optimisation only every so-many-th second operation and word of a journal record is cut,
/// so that it ends in a minute; optimised, all are.
const EVERY: usize = if cfg!(debug_assertions) { 31 } else { 1 };
/// Lives without an end that are too many.
const MAX_LIVES: u32 = 40;

/// A worse design, by what its flash does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// None: the flash is honest.
    None,
    /// Both journal sectors are one, erased before it is written.
    OneJournalSector,
    /// The journal's CRC always holds.
    NoCrc,
    /// Both slots are one.
    OneSlot,
}

/// The flash of a board, shared with the hand that cuts its power.
#[derive(Clone)]
struct Bench<const W: usize, const E: usize> {
    ram: Rc<RefCell<RamFlash<W, E>>>,
    layout: Layout,
    mutant: Mutant,
}

impl<const W: usize, const E: usize> Bench<W, E> {
    fn moved(&self, offset: u32) -> u32 {
        let [first, second] = self.layout.journal;
        match self.mutant {
            Mutant::OneJournalSector
                if (second..second + self.layout.journal_bytes).contains(&offset) =>
            {
                offset - second + first
            }
            Mutant::OneSlot if self.layout.slot(Slot::B).contains(&offset) => {
                offset - self.layout.slots[1] + self.layout.slots[0]
            }
            _ => offset,
        }
    }
}

impl<const W: usize, const E: usize> ErrorType for Bench<W, E> {
    type Error = RamError;
}

impl<const W: usize, const E: usize> ReadNorFlash for Bench<W, E> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), RamError> {
        self.ram.borrow_mut().read(self.moved(offset), bytes)?;
        let record = self.mutant == Mutant::NoCrc && bytes.starts_with(b"EWJ1");
        if record && self.layout.is_journal(offset) {
            let payload = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
            let total = (payload + 16).next_multiple_of(32);
            if bytes.len() == total {
                let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(&bytes[..total - 4]);
                bytes[total - 4..].copy_from_slice(&crc.to_le_bytes());
            }
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.ram.borrow().capacity()
    }
}

impl<const W: usize, const E: usize> NorFlash for Bench<W, E> {
    const WRITE_SIZE: usize = W;
    const ERASE_SIZE: usize = E;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), RamError> {
        let moved = self.moved(from);
        self.ram.borrow_mut().erase(moved, moved + (to - from))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), RamError> {
        self.ram.borrow_mut().write(self.moved(offset), bytes)
    }
}

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
struct World {
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

enum Life {
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
struct Simulation {
    layout: Layout,
    releases: Vec<Release>,
}

type Board<const W: usize, const E: usize> = Slots<Bench<W, E>>;

impl Simulation {
    fn new(layout: Layout) -> Self {
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
    fn live<const W: usize, const E: usize>(
        &self,
        flash: &Bench<W, E>,
        world: &mut World,
    ) -> Result<Life, String> {
        let mut slots = match Slots::open(flash.clone(), self.layout) {
            Err(Error::Unprovisioned | Error::Unreadable) if !world.provisioned => {
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

/// What a life must end with, whatever happened in between.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    floor: u32,
    root: u32,
    confirmed: Option<[u8; 32]>,
    idle: Reason,
}

/// A board at a moment: its flash, and what is known of it.
#[derive(Clone)]
struct Moment<const W: usize, const E: usize> {
    flash: RamFlash<W, E>,
    world: World,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    operations: u64,
    singles: u64,
    pairs: u64,
    pairs_distinct: u64,
}

/// How closely a life is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// One cut, in a handful of ways an operation.
    Operations,
    /// One cut, at every word of a journal record (at one in three, where it has hundreds).
    Words,
    /// Two cuts, in a handful of ways an operation each.
    Pairs,
}

struct Explorer<const W: usize, const E: usize> {
    simulation: Simulation,
    mutant: Mutant,
    outcome: Option<Outcome>,
    seen: HashSet<u64>,
    tally: Tally,
    seed: u64,
}

impl<const W: usize, const E: usize> Explorer<W, E> {
    fn new(layout: Layout, mutant: Mutant) -> Self {
        Self {
            simulation: Simulation::new(layout),
            mutant,
            outcome: None,
            seen: HashSet::new(),
            tally: Tally::default(),
            seed: 0,
        }
    }

    /// Lives from `from` to a cut or to the end. Returns the moment after, the operations, and
    /// whether it is the end.
    fn run(
        &mut self,
        from: &Moment<W, E>,
        cut: Option<Cut>,
    ) -> Result<(Moment<W, E>, Vec<Op>, bool), String> {
        let mut flash = from.flash.clone();
        self.seed += 1;
        flash.seed(self.seed);
        flash.power_on();
        flash.cut_at(cut);
        let bench = Bench {
            ram: Rc::new(RefCell::new(flash)),
            layout: self.simulation.layout,
            mutant: self.mutant,
        };
        let mut world = from.world.clone();
        for _ in 0..MAX_LIVES {
            let ended = match self.simulation.live(&bench, &mut world)? {
                Life::Died => continue,
                Life::PowerCut => false,
                Life::Done => true,
            };
            let mut flash = bench.ram.borrow().clone();
            let ops = flash.ops().to_vec();
            flash.power_on();
            return Ok((Moment { flash, world }, ops, ended));
        }
        Err(format!("no end after {MAX_LIVES} lives: {world:?}"))
    }

    /// Lives to the end without a cut and compares with how it should end.
    fn finish(&mut self, from: &Moment<W, E>) -> Result<Vec<Op>, String> {
        let (end, ops, ended) = self.run(from, None)?;
        if !ended {
            return Err("a cut that nobody made".into());
        }
        let layout = self.simulation.layout;
        let bench = Bench {
            ram: Rc::new(RefCell::new(end.flash)),
            layout,
            mutant: self.mutant,
        };
        let slots = Slots::open(bench, layout).map_err(|error| format!("at the end: {error:?}"))?;
        let state = slots.state();
        let idle = match slots.record(slots.idle()).state {
            // The crash is the last failure, whichever cut used a boot up.
            SlotState::Rejected(reason) => reason,
            _ => Reason::Crash,
        };
        let outcome = Outcome {
            floor: state.floor,
            root: state.root.version,
            confirmed: slots.confirmed().map(|slot| slots.record(slot).digest),
            idle,
        };
        let expected = self.outcome.get_or_insert_with(|| outcome.clone());
        if *expected != outcome {
            return Err(format!("ends as {outcome:?}, not as {expected:?}"));
        }
        Ok(ops)
    }

    /// Whether a moment is new.
    fn is_new(&mut self, moment: &Moment<W, E>) -> bool {
        let mut hasher = DefaultHasher::new();
        moment.flash.fingerprint(&mut hasher);
        moment.world.hash(&mut hasher);
        self.seen.insert(hasher.finish())
    }

    /// Every cut of a life, and with [`Detail::Pairs`] every second cut after it.
    fn explore(&mut self, blank: RamFlash<W, E>, detail: Detail) -> Result<(), String> {
        let start = Moment {
            flash: blank,
            world: World::default(),
        };
        let ops = self.finish(&start)?;
        self.tally.operations = ops.len() as u64;
        for (at, op) in ops.iter().enumerate() {
            for tear in self.tears(op, detail == Detail::Words) {
                let cut = Cut {
                    op: at as u32,
                    tear,
                };
                self.tally.singles += 1;
                let context = |error| format!("after {cut:?} in {op:?}: {error}");
                let (moment, _, ended) = self.run(&start, Some(cut)).map_err(context)?;
                assert!(!ended, "{cut:?} of {op:?} did not happen");
                let then = self.finish(&moment).map_err(context)?;
                if detail != Detail::Pairs || !self.is_new(&moment) {
                    continue;
                }
                for (second_at, second_op) in
                    then.iter().enumerate().skip(stagger(at)).step_by(EVERY)
                {
                    for tear in self.tears(second_op, false) {
                        let second = Cut {
                            op: second_at as u32,
                            tear,
                        };
                        self.tally.pairs += 1;
                        let context = |error| {
                            format!("after {cut:?} in {op:?}, {second:?} in {second_op:?}: {error}")
                        };
                        let (moment, _, _) = self.run(&moment, Some(second)).map_err(context)?;
                        if self.is_new(&moment) {
                            self.tally.pairs_distinct += 1;
                            self.finish(&moment).map_err(context)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Where an operation is cut: with `all`, along the words of a journal write too.
    fn tears(&self, op: &Op, all: bool) -> Vec<Tear> {
        let last = op.words - 1;
        let journal = self.simulation.layout.is_journal(op.offset);
        let mut tears = vec![Tear::Before];
        if !all {
            tears.extend([
                Tear::Inside(0, Edge::Mixed),
                Tear::Inside(op.words / 2, Edge::Old),
                Tear::Inside(last, Edge::Mixed),
            ]);
            if op.erase || journal {
                tears.push(Tear::Inside(
                    if op.erase { 0 } else { last },
                    Edge::Unstable,
                ));
            }
            if op.erase {
                tears.push(Tear::Inside(0, Edge::Weak));
            }
            return tears;
        }
        for done in [0, 1, op.words / 2, last.saturating_sub(1), last] {
            tears.extend(Edge::ALL.map(|edge| Tear::Inside(done, edge)));
        }
        if journal && !op.erase {
            for done in (0..op.words).step_by(EVERY.max(op.words as usize / 100)) {
                tears.push(Tear::Inside(done, Edge::Mixed));
                tears.push(Tear::Inside(done, Edge::Unstable));
            }
        }
        tears.push(Tear::After);
        tears
    }
}

fn small_layout(erase: u32) -> Layout {
    let journal_bytes = 4096.max(erase);
    let slot_bytes = 8192.max(erase);
    Layout {
        journal: [0, journal_bytes],
        journal_bytes,
        slots: [2 * journal_bytes, 2 * journal_bytes + slot_bytes],
        slot_bytes,
    }
}

fn blank<const W: usize, const E: usize>() -> (Layout, RamFlash<W, E>) {
    let layout = small_layout(E as u32);
    let bytes = 2 * (layout.journal_bytes + layout.slot_bytes);
    (layout, RamFlash::new(bytes as usize))
}

fn singles<const W: usize, const E: usize>() -> Tally {
    let (layout, flash) = blank::<W, E>();
    let mut explorer = Explorer::<W, E>::new(layout, Mutant::None);
    let began = Instant::now();
    explorer
        .explore(flash, Detail::Words)
        .unwrap_or_else(|error| panic!("{error}"));
    let tally = explorer.tally;
    println!(
        "words of {W}, sectors of {E}: {} operations, {} cuts, {:.1?}",
        tally.operations,
        tally.singles,
        began.elapsed()
    );
    assert!(tally.operations > 30 && tally.singles > 1000);
    tally
}

#[test]
fn every_cut_leaves_a_board_that_boots_what_was_confirmed() {
    let tallies = [
        singles::<1, 4096>(),
        singles::<4, 4096>(),
        singles::<8, 2048>(),
        singles::<32, 4096>(),
        singles::<4, 16384>(),
    ];
    let total: u64 = tallies.iter().map(|tally| tally.singles).sum();
    println!("{total} single cuts");
}

#[test]
fn every_pair_of_cuts_leaves_a_board_that_boots_what_was_confirmed() {
    let (layout, flash) = blank::<8, 4096>();
    let mut explorer = Explorer::<8, 4096>::new(layout, Mutant::None);
    let began = Instant::now();
    explorer
        .explore(flash, Detail::Pairs)
        .unwrap_or_else(|error| panic!("{error}"));
    let tally = explorer.tally;
    println!(
        "every {EVERY}. second operation: {tally:?}, {:.1?}",
        began.elapsed()
    );
    assert!(tally.pairs > 500 && tally.pairs_distinct > 300);
}

#[test]
fn a_file_that_persists_pages_in_any_order_keeps_the_promise() {
    let (layout, flash) = blank::<4, 4096>();
    let journal_end = 2 * layout.journal_bytes;
    let mut cuts = 0;
    for seed in 0..8 {
        let mut explorer = Explorer::<4, 4096>::new(layout, Mutant::None);
        explorer.seed = seed << 32;
        let flash = flash.clone().with_page_cache(0..journal_end);
        explorer
            .explore(flash, Detail::Operations)
            .unwrap_or_else(|error| panic!("{error}"));
        cuts += explorer.tally.singles;
    }
    println!("{cuts} cuts of a file behind a page cache");
}

/// What the simulation says of a worse design.
fn verdict(mutant: Mutant) -> String {
    let (layout, flash) = blank::<4, 4096>();
    let mut explorer = Explorer::<4, 4096>::new(layout, mutant);
    let seen = explorer.explore(flash, Detail::Words);
    let error = seen.expect_err("the simulation lets a worse design pass");
    println!(
        "{mutant:?}: found at cut {} {}",
        explorer.tally.singles,
        &error[..error.len().min(160)]
    );
    error
}

#[test]
fn worse_designs_are_found() {
    let one_sector = verdict(Mutant::OneJournalSector);
    assert!(
        one_sector.contains("after"),
        "only a cut shows it: {one_sector}"
    );
    let no_crc = verdict(Mutant::NoCrc);
    assert!(no_crc.contains("after"), "only a cut shows it: {no_crc}");
    verdict(Mutant::OneSlot);
}

#[test]
fn a_file_without_barriers_is_found() {
    let (layout, flash) = blank::<4, 4096>();
    let found = (0..8).any(|seed| {
        let mut explorer = Explorer::<4, 4096>::new(layout, Mutant::None);
        explorer.seed = seed << 32;
        // A barrier that nothing reaches.
        let flash = flash.clone().with_page_cache(u32::MAX..u32::MAX);
        explorer.explore(flash, Detail::Operations).is_err()
    });
    assert!(found, "the simulation lets a file without fsync pass");
}

/// Where the sample begins, so that different first cuts sample different second ones.
#[allow(clippy::modulo_one, reason = "in release every pair is tried")]
fn stagger(at: usize) -> usize {
    at % EVERY
}
