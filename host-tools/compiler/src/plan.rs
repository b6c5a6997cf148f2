//! Where everything lies in the arena.

use crate::emit::Lowered;

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
}

struct Item {
    bytes: u64,
    first: usize,
    last: usize,
}

/// Places everything at the least offset that is free, large things first.
pub fn plan(lowered: &Lowered, disjoint: bool, alignment: u64) -> Plan {
    let mut items: Vec<Item> = lowered
        .regions
        .iter()
        .map(|region| Item {
            bytes: region.bytes,
            first: usize::MAX,
            last: 0,
        })
        .collect();
    let end = lowered.steps.len();
    let mut touch = |region: usize, step: usize| {
        items[region].first = items[region].first.min(step);
        items[region].last = items[region].last.max(step);
    };
    touch(lowered.input, 0);
    touch(lowered.output, end);
    for (index, step) in lowered.steps.iter().enumerate() {
        touch(step.write, index);
        step.reads
            .iter()
            .for_each(|&(region, _)| touch(region, index));
    }
    for (index, step) in lowered.steps.iter().enumerate() {
        items.push(Item {
            bytes: step.scratch,
            first: index,
            last: index,
        });
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&item| core::cmp::Reverse(items[item].bytes));
    let mut offsets: Vec<Option<u64>> = vec![None; items.len()];
    for item in order {
        let mut offset = 0_u64;
        loop {
            let hit = (0..items.len()).find(|&other| {
                let (a, b) = (&items[item], &items[other]);
                let alive = a.first <= b.last && b.first <= a.last;
                let apart = |at: u64| offset + a.bytes <= at || at + b.bytes <= offset;
                other != item && alive && offsets[other].is_some_and(|at| !apart(at))
            });
            let Some(other) = hit else { break };
            offset = (offsets[other].unwrap_or(0) + items[other].bytes).next_multiple_of(alignment);
        }
        offsets[item] = Some(if items[item].bytes == 0 { 0 } else { offset });
    }
    let offsets: Vec<u64> = offsets.into_iter().map(Option::unwrap_or_default).collect();
    let arena = offsets
        .iter()
        .zip(&items)
        .map(|(offset, item)| offset + item.bytes)
        .max();
    Plan {
        regions: offsets[..lowered.regions.len()].to_vec(),
        scratch: offsets[lowered.regions.len()..].to_vec(),
        arena_bytes: arena.unwrap_or(0),
        disjoint,
    }
}
