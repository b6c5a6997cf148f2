//! Cuts of power at any operation, and bits that decay.

use super::full::fill;
use super::*;

#[test]
fn a_cut_at_any_operation_loses_nothing() {
    let mut whole = Life::new();
    assert_eq!(whole.run(45), Ok(()));
    let ops = whole.flash.ops().to_vec();
    assert!(ops.iter().filter(|op| op.erase).count() > 6, "compacts");
    let mut cuts = 0;
    for (at, op) in ops.iter().enumerate() {
        for tear in tears(op.words) {
            let mut life = Life::new();
            life.flash.seed(at as u64);
            life.flash.cut_at(Some(Cut {
                op: at as u32,
                tear,
            }));
            assert!(life.run(45).is_err());
            life.check();
            life.check();
            assert_eq!(life.run(60), Ok(()), "op {at}, {tear:?}");
            life.check();
            cuts += 1;
        }
    }
    assert!(cuts > 1000, "{cuts}");
}

#[test]
fn a_second_cut_while_the_first_is_recovered_loses_nothing() {
    let mut whole = Life::new();
    assert_eq!(whole.run(45), Ok(()));
    let ops = whole.flash.ops().to_vec();
    let mut twice = 0;
    for (at, op) in ops.iter().enumerate() {
        let first = tears(op.words);
        for (choice, second_op) in (0..8).enumerate() {
            let mut life = Life::new();
            life.flash.seed((at * 8 + choice) as u64);
            let tear = first[(at + choice * 5) % first.len()];
            life.flash.cut_at(Some(Cut {
                op: at as u32,
                tear,
            }));
            assert!(life.run(45).is_err());
            life.flash.power_on();
            let tears = tears(100);
            let tear = tears[(at * 3 + choice) % tears.len()];
            life.flash.cut_at(Some(Cut {
                op: second_op,
                tear,
            }));
            // The number of the first cut push is used again, or was not.
            twice += usize::from(life.run(50).is_err());
            life.check();
            assert_eq!(life.run(60), Ok(()), "op {at}, then {second_op}, {tear:?}");
            life.check();
        }
    }
    // Some recoveries end before the operation that was to be cut.
    assert!(twice > 4 * ops.len(), "{twice} second cuts");
}

fn tears(words: u32) -> Vec<Tear> {
    let mut tears = vec![Tear::Before, Tear::After];
    let mut places = vec![0, 1, 4, words / 2, words.saturating_sub(1)];
    places.sort_unstable();
    places.dedup();
    for place in places.into_iter().filter(|place| *place < words) {
        for edge in Edge::ALL {
            tears.push(Tear::Inside(place, edge));
        }
    }
    tears
}

#[test]
fn decayed_bits_are_answered_for_by_a_count() {
    let mut life = Life::new();
    assert_eq!(life.run(12), Ok(()));
    let intact = life.flash.clone();
    let mut outbox = Small::open(&mut life.flash, REGION, 9, fresh(9)).expect("opens");
    let before = contents(&mut outbox).expect("reads");
    // One byte in eight, all over the region: every number is still answered for, in order.
    for at in (1024..5 * 1024).step_by(8) {
        let mut flash = intact.clone();
        flash.bytes_mut()[at] ^= 0x10;
        let mut outbox = Small::open(&mut flash, REGION, 9, fresh(9)).expect("opens");
        let held = contents(&mut outbox).expect("reads");
        let mut expected = before[0].first;
        for one in &held {
            assert_eq!(one.first, expected, "byte {at}: {held:?}");
            expected = one.last + 1;
        }
        // A damaged newest sector can cost the last numbers; they are then used again.
        assert_eq!(expected, outbox.next_sequence(), "byte {at}: {held:?}");
    }
}

#[test]
fn a_record_that_decays_while_it_waits_is_answered_for_by_a_count() {
    let mut flash = flash();
    let mut outbox = Small::open(&mut flash, REGION, 1, fresh(1)).expect("opens");
    for n in 1..=4 {
        assert_eq!(outbox.push(n, &summary(10)), Ok(n));
    }
    let entry = outbox.index.after(1).expect("there");
    let at = 1024 + usize::from(entry.sector) * 1024 + entry.offset as usize + 50;
    outbox.flash.bytes_mut()[at] ^= 1;
    let held = contents(&mut outbox).expect("reads");
    let seen: Vec<_> = held
        .iter()
        .map(|one| (one.last, one.samples, one.dropped))
        .collect();
    assert_eq!(seen, [(1, 10, 0), (2, 0, 1), (3, 10, 0), (4, 10, 0)]);
}

#[test]
fn a_record_that_decays_in_a_full_outbox_is_answered_for_by_a_count() {
    let mut flash = flash();
    let mut outbox = Small::open(&mut flash, REGION, 1, fresh(1)).expect("opens");
    let pushed = fill(&mut outbox).expect("fills") as u64;
    let entry = outbox.index.after(1).expect("there");
    let at = 1024 + usize::from(entry.sector) * 1024 + entry.offset as usize + 50;
    outbox.flash.bytes_mut()[at] ^= 1;
    // It is counted beside the one before, which makes room for both.
    let held = contents(&mut outbox).expect("reads");
    assert_eq!(held.len() as u64, pushed);
    assert_eq!((held[1].first, held[1].last), (1, 2), "{held:?}");
    assert_eq!((held[1].samples, held[1].dropped), (1, 1));
    assert_eq!(held[2].first, 3);
}

#[test]
fn a_length_that_decayed_ends_no_start() {
    /// As boards have it: the buffer is no multiple of the flash's word.
    type Signing<'a> = Outbox<&'a mut Flash, 1, 1, 16, { max_buffer_bytes(1, 1) }>;
    const { assert!(!max_buffer_bytes(1, 1).is_multiple_of(8)) };
    let mut intact = Flash::new(10 * 1024);
    // A record of any length up to the buffer's fits behind the first.
    let region = Region {
        sector_bytes: 2048,
        ..REGION
    };
    let mut outbox = Signing::open(&mut intact, region, 1, fresh(1)).expect("opens");
    for n in 1..=3 {
        assert_eq!(outbox.push(n, &event()), Ok(n));
    }
    let entry = outbox.index.after(1).expect("there");
    let at = 1024 + usize::from(entry.sector) * 2048 + entry.offset as usize + 4;
    for len in (0..2100).chain(u32::MAX - 100..=u32::MAX) {
        let mut flash = intact.clone();
        flash.bytes_mut()[at..at + 4].copy_from_slice(&len.to_le_bytes());
        let outbox = Signing::open(&mut flash, region, 2, fresh(2));
        let held = outbox.and_then(|mut outbox| contents(&mut outbox));
        assert!(held.is_ok(), "{len}: {held:?}");
    }
}

#[test]
fn a_cut_before_an_outbox_is_full_or_while_it_opens_again_loses_nothing() {
    let life = |flash: &mut Flash, stored: &mut u64| -> Result<usize, OutboxError> {
        let mut outbox = Small::open(flash, REGION, 1, fresh(1))?;
        let filled = fill(&mut outbox);
        *stored = outbox.next_sequence() - 1;
        filled
    };
    let mut whole = flash();
    let mut stored = 0;
    assert_eq!(life(&mut whole, &mut stored), Ok(stored as usize));
    let mut cuts = 0;
    for (at, op) in whole.ops().to_vec().iter().enumerate() {
        for tear in tears(op.words) {
            let mut flash = flash();
            flash.seed(at as u64);
            let op = at as u32;
            flash.cut_at(Some(Cut { op, tear }));
            let mut stored = 0;
            assert!(life(&mut flash, &mut stored).is_err());
            // The push that was cut may be there or not.
            let given: Given = (1..=stored + 1).map(|n| (n, Some(1))).collect();
            let doubtful = BTreeSet::from([stored + 1]);
            let mut told = 0;
            // The second start is cut, too.
            for second in [Some(at as u32 % 4), None, None] {
                flash.power_on();
                flash.cut_at(second.map(|op| Cut { op, tear }));
                let opened = Small::open(&mut flash, REGION, 2, fresh(2));
                let held = opened.and_then(|mut outbox| contents(&mut outbox));
                let Ok(held) = held else {
                    assert!(second.is_some(), "op {op}, {tear:?}: {held:?}");
                    continue;
                };
                let checked = check(&held, &given, 0, &doubtful);
                assert_eq!(checked, Ok(()), "op {op}, {tear:?}: {held:?}");
                // A number that was told is not given again.
                let last = held.last().map_or(0, |one| one.last);
                assert!(last >= told, "op {op}, {tear:?}: {held:?}");
                told = last;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 300, "{cuts}");
}

#[test]
fn a_cut_while_a_new_outbox_replaces_an_old_one_mixes_nothing() {
    let mut before = flash();
    let mut outbox = Small::open(&mut before, REGION, 1, fresh(1)).expect("opens");
    for n in 1..=60 {
        assert_eq!(outbox.push(n, &summary(1)), Ok(n));
    }
    before.power_on();
    let mut whole = before.clone();
    let anew = |flash: &mut Flash| {
        let mut outbox = Small::open(flash, REGION, 2, fresh(2))?;
        outbox.begin_anew(fresh(2));
        outbox.push(1, &event())
    };
    assert_eq!(anew(&mut whole), Ok(1));
    let ops = whole.ops().to_vec();
    let mut seen = BTreeSet::new();
    for (at, op) in ops.iter().enumerate() {
        for tear in tears(op.words) {
            let mut flash = before.clone();
            flash.seed(at as u64);
            flash.cut_at(Some(Cut {
                op: at as u32,
                tear,
            }));
            assert!(anew(&mut flash).is_err());
            flash.power_on();
            // What was torn may read otherwise each time.
            for boot in 3..6 {
                let mut outbox = Small::open(&mut flash, REGION, boot, fresh(boot)).expect("opens");
                let (epoch, next) = (outbox.epoch(), outbox.next_sequence());
                assert!(epoch != 1001 || next > 1, "op {at}, {tear:?}");
                assert!(epoch == 1001 || next <= 5, "op {at}, {tear:?}: {next}");
                seen.insert(epoch);
                assert!(outbox.push(1, &event()).is_ok());
            }
        }
    }
    assert!(seen.contains(&1001) && seen.contains(&1002), "{seen:?}");
}
