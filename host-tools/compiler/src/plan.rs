//! Where everything lies in the arena.
//!
//! Regions and scratch are alive from the first operator that touches them to the last. Two that are
//! alive together lie apart, with one exception: the output of an operator may overlap an input that
//! dies there, as far as the operator's kernel allows (`edgeward::program::overlap`).
//!
//! Placing one thing after the other, each at the lowest or the highest free offset, is fast and
//! depends on the order. So the planner searches orders and directions: it starts from a few good
//! ones and keeps changes that do not make the arena larger, in rounds with less and less room,
//! until it meets the bound below which no plan can come. It draws from a fixed seed: the same graph
//! gives the same plan.

use crate::emit::{Lowered, Step};
use crate::memory::Tensor;

/// Orders that are tried in a round.
const TRIES: usize = 1500;
/// Rounds, each with half the room above the bound.
const ROUNDS: usize = 8;
/// Work of all tries together, in pairs of things compared.
const WORK_MAX: usize = 200_000_000;

/// Places of regions and scratch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Offset of each region.
    pub regions: Vec<u64>,
    /// Offset of each step's scratch; zero where there is none.
    pub scratch: Vec<u64>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Whether no output overlaps an input of its operator.
    pub disjoint: bool,
    /// The least that any plan needs: what is alive at the busiest step, overlapping as far as it may.
    pub bound_bytes: u64,
    /// What is alive at the busiest step without overlapping.
    pub live_bytes: u64,
    /// What the usual greedy planner needs: the largest first, each at the lowest free place, nothing
    /// over another.
    pub greedy_bytes: u64,
    /// The busiest step.
    pub peak_step: usize,
    /// Tensors alive there, the largest first; scratch has no name of its own.
    pub peak: Vec<Tensor>,
}

/// How a thing may lie towards another one that is alive at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// Apart.
    Apart,
    /// It is the output: apart, or at least so far before the other.
    Before(u64),
    /// It is the input: apart, or at least so far behind the other.
    Behind(u64),
    /// Apart, or at exactly the same place.
    Same,
}

#[derive(Debug, Clone)]
struct Item {
    bytes: u64,
    /// First and last time; steps count from one.
    first: usize,
    last: usize,
    /// Others alive at the same time.
    others: Vec<(usize, Relation)>,
}

/// Plans the arena.
pub fn plan(lowered: &Lowered, disjoint: bool, alignment: u64) -> Plan {
    let items = items(lowered, disjoint);
    let (peak_step, bound_bytes, live_bytes) = bounds(lowered, &items);
    let offsets = Search {
        items: &items,
        alignment,
        bound: bound_bytes,
    }
    .run();
    let regions = lowered.regions.len();
    let mut peak: Vec<Tensor> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if item.bytes > 0 && (item.first..=item.last).contains(&(peak_step + 1)) {
            let (name, shape) = match lowered.regions.get(index) {
                Some(region) => (&*region.name, &region.shape[..]),
                None => ("(scratch)", &[item.bytes as usize][..]),
            };
            let extents: Vec<String> = shape.iter().map(ToString::to_string).collect();
            peak.push(Tensor {
                name: name.to_owned(),
                shape: extents.join("x"),
                bytes: item.bytes,
            });
        }
    }
    peak.sort_by_key(|tensor| core::cmp::Reverse(tensor.bytes));
    Plan {
        regions: offsets[..regions].to_vec(),
        scratch: offsets[regions..].to_vec(),
        arena_bytes: end(&items, &offsets),
        disjoint,
        bound_bytes,
        live_bytes,
        greedy_bytes: greedy(lowered, alignment),
        peak_step,
        peak,
    }
}

/// Bytes of the arena by the usual greedy planner.
fn greedy(lowered: &Lowered, alignment: u64) -> u64 {
    let items = items(lowered, true);
    let search = Search {
        items: &items,
        alignment,
        bound: 0,
    };
    let [largest_first, ..] = search.starts();
    end(&items, &search.place(&largest_first, 0))
}

fn end(items: &[Item], offsets: &[u64]) -> u64 {
    items
        .iter()
        .zip(offsets)
        .map(|(item, offset)| offset + item.bytes)
        .max()
        .unwrap_or(0)
}

/// Regions, then the scratch of each step.
fn items(lowered: &Lowered, disjoint: bool) -> Vec<Item> {
    let item = |bytes| Item {
        bytes,
        first: usize::MAX,
        last: 0,
        others: Vec::new(),
    };
    let mut items: Vec<Item> = lowered
        .regions
        .iter()
        .map(|region| item(region.bytes))
        .collect();
    let mut touch = |region: usize, time: usize| {
        items[region].first = items[region].first.min(time);
        items[region].last = items[region].last.max(time);
    };
    touch(lowered.input, 0);
    touch(lowered.output, lowered.steps.len() + 1);
    for (index, step) in lowered.steps.iter().enumerate() {
        touch(step.write, index + 1);
        step.reads
            .iter()
            .for_each(|&(region, _)| touch(region, index + 1));
    }
    for (index, step) in lowered.steps.iter().enumerate() {
        items.push(Item {
            first: index + 1,
            last: index + 1,
            ..item(step.scratch)
        });
    }
    for a in 0..items.len() {
        for b in 0..items.len() {
            let (x, y) = (&items[a], &items[b]);
            let together = x.first <= y.last && y.first <= x.last;
            if a != b && together && x.bytes > 0 && y.bytes > 0 {
                let relation = if disjoint {
                    Relation::Apart
                } else {
                    relation(lowered, &items, a, b)
                };
                items[a].others.push((b, relation));
            }
        }
    }
    items
}

/// How `a` may lie towards `b`.
fn relation(lowered: &Lowered, items: &[Item], a: usize, b: usize) -> Relation {
    let over = |input: usize, output: usize| {
        let time = items[input].last;
        if items[output].first != time {
            return None;
        }
        let step: &Step = lowered.steps.get(time.checked_sub(1)?)?;
        let mut reads = step.reads.iter().filter(|&&(region, _)| region == input);
        let (_, first) = reads.next().filter(|_| step.write == output)?;
        reads.try_fold(first.least()?, |most, (_, next)| {
            Some(most.max(next.least()?))
        })
    };
    let same = |input: usize, output: usize| {
        let time = items[input].last;
        let step = time
            .checked_sub(1)
            .and_then(|index| lowered.steps.get(index));
        step.is_some_and(|step| {
            let mut reads = step.reads.iter().filter(|&&(region, _)| region == input);
            step.write == output
                && items[output].first == time
                && items[input].bytes == items[output].bytes
                && reads.next().is_some_and(|(_, overlap)| overlap.same())
                && reads.next().is_none()
        })
    };
    match (over(b, a), over(a, b)) {
        (Some(distance), _) => Relation::Before(distance),
        (_, Some(distance)) => Relation::Behind(distance),
        _ if same(a, b) || same(b, a) => Relation::Same,
        _ => Relation::Apart,
    }
}

/// The busiest step, what it needs at least, and what it would need without overlaps.
fn bounds(lowered: &Lowered, items: &[Item]) -> (usize, u64, u64) {
    let mut busiest = (
        0,
        items[lowered.input].bytes.max(items[lowered.output].bytes),
        0,
    );
    for (index, step) in lowered.steps.iter().enumerate() {
        let time = index + 1;
        let alive = items
            .iter()
            .filter(|item| (item.first..=item.last).contains(&time));
        let live: u64 = alive.map(|item| item.bytes).sum();
        let output = &items[step.write];
        let saved = output.others.iter().map(|&(other, relation)| {
            let input = items[other].bytes;
            match relation {
                // Only one that dies here: the relation says so.
                Relation::Before(distance) if items[other].last == time => {
                    let both = output.bytes.max(distance + input);
                    (input + output.bytes).saturating_sub(both)
                }
                Relation::Same if items[other].last == time => output.bytes,
                _ => 0,
            }
        });
        let saved = saved.sum::<u64>().min(output.bytes);
        let saved = if output.first == time { saved } else { 0 };
        if live - saved > busiest.1 || index == 0 {
            busiest = (index, busiest.1.max(live - saved), busiest.2);
        }
        busiest.2 = busiest.2.max(live);
    }
    let (step, bound, live) = busiest;
    (step, bound, live.max(bound))
}

/// An order in which things are placed, and which of them go as high as they can.
#[derive(Debug, Clone)]
struct Candidate {
    order: Vec<usize>,
    high: Vec<bool>,
}

struct Search<'a> {
    items: &'a [Item],
    alignment: u64,
    bound: u64,
}

impl Search<'_> {
    fn run(&self) -> Vec<u64> {
        let mut best = self.place(&self.starts()[0], self.bound);
        let mut best_end = end(self.items, &best);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let pairs: usize = self.items.iter().map(|item| item.others.len() + 1).sum();
        let tries = TRIES.min(WORK_MAX / pairs.max(1) / ROUNDS).max(1);
        let mut room = self.bound;
        for _ in 0..ROUNDS {
            for mut candidate in self.starts() {
                let mut offsets = self.place(&candidate, room);
                let mut reached = end(self.items, &offsets);
                for _ in 0..tries / 4 {
                    if reached < best_end {
                        (best, best_end) = (offsets.clone(), reached);
                    }
                    if best_end <= self.bound || reached <= room {
                        break;
                    }
                    let next = candidate.changed(&mut random);
                    offsets = self.place(&next, room);
                    let next_end = end(self.items, &offsets);
                    if next_end <= reached {
                        (candidate, reached) = (next, next_end);
                    }
                }
            }
            if best_end <= self.bound {
                break;
            }
            room = self.bound + (best_end - self.bound) / 2;
        }
        best
    }

    /// Orders that are good for chains, for large things, and for things that live long.
    fn starts(&self) -> [Candidate; 4] {
        let placed: Vec<usize> = (0..self.items.len())
            .filter(|&at| self.items[at].bytes > 0)
            .collect();
        let sorted = |key: &dyn Fn(&Item) -> (u64, u64), high: bool| {
            let mut order = placed.clone();
            order.sort_by_key(|&at| key(&self.items[at]));
            Candidate {
                order,
                high: vec![high; self.items.len()],
            }
        };
        let size = |item: &Item| (u64::MAX - item.bytes, item.first as u64);
        let time = |item: &Item| (item.first as u64, u64::MAX - item.bytes);
        let back = |item: &Item| (u64::MAX - item.last as u64, u64::MAX - item.bytes);
        let span = |item: &Item| {
            (
                u64::MAX - (item.last - item.first) as u64,
                u64::MAX - item.bytes,
            )
        };
        [
            sorted(&size, false),
            sorted(&time, true),
            sorted(&back, false),
            sorted(&span, false),
        ]
    }

    fn place(&self, candidate: &Candidate, room: u64) -> Vec<u64> {
        let mut offsets: Vec<Option<u64>> = vec![None; self.items.len()];
        let mut taken = Vec::new();
        for &at in &candidate.order {
            self.taken(at, &offsets, &mut taken);
            let high = candidate.high[at]
                .then(|| self.highest(at, room, &mut taken))
                .flatten();
            offsets[at] = Some(high.unwrap_or_else(|| self.lowest(&mut taken)));
        }
        offsets.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Open intervals in which the thing at `at` must not begin.
    fn taken(&self, at: usize, offsets: &[Option<u64>], taken: &mut Vec<(i64, i64)>) {
        taken.clear();
        let bytes = self.items[at].bytes as i64;
        for &(other, relation) in &self.items[at].others {
            let Some(offset) = offsets[other] else {
                continue;
            };
            let (offset, extent) = (offset as i64, self.items[other].bytes as i64);
            let (from, to) = (offset - bytes, offset + extent);
            match relation {
                Relation::Apart => taken.push((from, to)),
                Relation::Before(distance) => taken.push((offset - bytes.min(distance as i64), to)),
                Relation::Behind(distance) => {
                    taken.push((from, offset + extent.min(distance as i64)))
                }
                Relation::Same => taken.extend([(from, offset), (offset, to)]),
            }
        }
    }

    fn lowest(&self, taken: &mut [(i64, i64)]) -> u64 {
        taken.sort_unstable();
        let mut offset = 0_i64;
        for &(from, to) in &*taken {
            if from < offset && offset < to {
                offset = (to as u64).next_multiple_of(self.alignment) as i64;
            }
        }
        offset as u64
    }

    fn highest(&self, at: usize, room: u64, taken: &mut [(i64, i64)]) -> Option<u64> {
        taken.sort_unstable_by_key(|&(_, to)| core::cmp::Reverse(to));
        let down = |offset: i64| {
            let offset = u64::try_from(offset).ok()?;
            Some(offset / self.alignment * self.alignment)
        };
        let mut offset = down(room as i64 - self.items[at].bytes as i64)?;
        for &(from, to) in &*taken {
            if from < offset as i64 && (offset as i64) < to {
                offset = down(from)?;
            }
        }
        Some(offset)
    }
}

impl Candidate {
    /// A neighbour: one thing earlier or later, two exchanged, or one that goes the other way.
    fn changed(&self, random: &mut Random) -> Self {
        let mut next = self.clone();
        let len = next.order.len();
        for _ in 0..=random.below(2) {
            let (a, b) = (random.below(len), random.below(len));
            match random.below(3) {
                0 => next.order.swap(a, b),
                1 => {
                    let moved = next.order.remove(a);
                    next.order.insert(b, moved);
                }
                _ => {
                    let item = next.order[a];
                    next.high[item] = !next.high[item];
                }
            }
        }
        next
    }
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 33) as usize).checked_rem(limit).unwrap_or(0)
    }
}
