//! How a release gets here, and which are refused.

use super::*;
use crate::sync::client::MAX_HEAD_CHUNKS;

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
    // The content of the release before is still in the idle slot: it comes back, under a counter of
    // its own, for its head alone.
    world.keep(slots);
    let next = good(2, 26_000);
    let next_target = world.publish(&next);
    world.want(2, "s", RolloutState::Active, &next_target);
    let slots = world.run(200);
    world.holds(&slots, &next);
    world.keep(slots);
    let asked = world.asked;
    let back = holding(&data(1, 30_000), 3, BoardClass::Linux, 1, 2);
    let back_target = world.publish(&back);
    world.want(3, "t", RolloutState::Active, &back_target);
    let slots = world.run(200);
    world.holds(&slots, &back);
    assert_eq!(world.asked - asked, 1);
    // A release that failed and is still in the idle slot comes again without a fetch.
    world.keep(slots);
    let last = good(4, 26_000);
    let last_target = world.publish(&last);
    world.self_test = Err(Reason::SelfTest);
    world.want(4, "u", RolloutState::Active, &last_target);
    let slots = world.run(200);
    world.holds(&slots, &back);
    world.keep(slots);
    let asked = world.asked;
    world.self_test = Ok(());
    world.want(5, "v", RolloutState::Active, &last_target);
    let slots = world.run(200);
    world.holds(&slots, &last);
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
    let mut client = client(&mut head);
    world.connect(&mut client, &mut slots);
    world.turns(300, &mut client, &mut slots);
    let release = release_id(&target.digest);
    assert_eq!(world.refused(Refused::Chunk { release, index: 4 }), 1);
    assert_eq!(slots.record(Slot::A).state, SlotState::Receiving);
    let tries = world.asked;
    assert!(tries < 60, "{tries} subscriptions in 6 seconds: no backoff");
    world.blobs.insert((target.digest, 4), right);
    world.turns(100, &mut client, &mut slots);
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
        let mut client = client(&mut head);
        world.connect(&mut client, &mut slots);
        world.turns(100, &mut client, &mut slots);
        assert_eq!(world.events.len(), 1, "byte {at}: {:?}", world.events);
        assert_eq!(slots.record(Slot::A).state, SlotState::Empty, "byte {at}");
        world.publish(&bundle);
        world.turns(100, &mut client, &mut slots);
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
    refused_for(Reason::CounterTaken, &good(5, 9_016), |_| {});
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
fn the_release_that_runs_may_be_offered_again_and_one_that_failed_takes_no_counter() {
    let mut world = World::new();
    let running = good(5, 9_000);
    let target = world.publish(&running);
    for (sequence, rollout) in [(1, "r"), (2, "s"), (3, "t")] {
        world.want(sequence, rollout, RolloutState::Active, &target);
        let slots = world.run(100);
        world.holds(&slots, &running);
        world.keep(slots);
    }
    // Two releases of the next counter: the first fails, so that the second may have it.
    world.self_test = Err(Reason::SelfTest);
    let failing = world.publish(&good(6, 9_000));
    world.want(4, "u", RolloutState::Active, &failing);
    let slots = world.run(100);
    world.holds(&slots, &running);
    world.keep(slots);
    world.self_test = Ok(());
    let next = good(6, 9_016);
    let target = world.publish(&next);
    world.want(5, "v", RolloutState::Active, &target);
    let slots = world.run(100);
    world.holds(&slots, &next);
    let refused = |event: &Event| matches!(event, Event::Refused { .. });
    assert!(!world.events.iter().any(refused), "{:?}", world.events);
}
