//! Every cut of a life, and every second cut after it.

use super::bench::{Bench, Mutant};
use super::life::{Life, Simulation, World};
use edgeward::slots::ram::{Cut, Edge, Op, RamFlash, Tear};
use edgeward::slots::{Layout, Slots};
use edgeward::telemetry::{Reason, SlotState};
use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// Without optimisation only every so-many-th second operation and word of a journal record is cut,
/// so that it ends in a minute; optimised, all are.
pub const EVERY: usize = if cfg!(debug_assertions) { 31 } else { 1 };
/// Lives without an end that are too many.
const MAX_LIVES: u32 = 40;

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
pub struct Tally {
    pub operations: u64,
    pub singles: u64,
    pub pairs: u64,
    pub pairs_distinct: u64,
}

/// How closely a life is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// One cut, in a handful of ways an operation.
    Operations,
    /// One cut, at every word of a journal record (at one in three, where it has hundreds).
    Words,
    /// Two cuts, in a handful of ways an operation each.
    Pairs,
}

pub struct Explorer<const W: usize, const E: usize> {
    simulation: Simulation,
    mutant: Mutant,
    outcome: Option<Outcome>,
    seen: HashSet<u64>,
    pub tally: Tally,
    pub seed: u64,
}

impl<const W: usize, const E: usize> Explorer<W, E> {
    pub fn new(layout: Layout, mutant: Mutant) -> Self {
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
    pub fn explore(&mut self, blank: RamFlash<W, E>, detail: Detail) -> Result<(), String> {
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

/// Where the sample begins, so that different first cuts sample different second ones.
#[allow(clippy::modulo_one, reason = "in release every pair is tried")]
fn stagger(at: usize) -> usize {
    at % EVERY
}
