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

mod bench;
mod explore;
mod life;

use bench::Mutant;
use edgeward::slots::Layout;
use edgeward::slots::ram::RamFlash;
use explore::{Detail, EVERY, Explorer, Tally};
use std::time::Instant;

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
