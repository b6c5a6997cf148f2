//! Flash that takes nothing for a while.

use super::*;

/// Message by message, what the broker retains is asked for again: the times between.
fn waits(world: &World) -> std::vec::Vec<u64> {
    let pairs = world.failures.windows(2);
    pairs.map(|pair| pair[1] - pair[0]).collect()
}

/// The world's backoff begins at 100 ms and ends at 1 s.
const WAITS: [u64; 6] = [100, 200, 400, 800, 1000, 1000];

#[test]
fn a_desired_state_that_could_not_be_stored_is_asked_for_again_ever_later() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    let message = World::desired(2, &target, RolloutState::Active, 3);
    world.refuse(true);
    world.retain(&topic::desired("f"), message);
    world.until(3_500);
    assert_eq!(waits(&world), WAITS);
    assert_eq!(world.head.slots.state().desired_sequence, 1);
    assert_eq!(world.chunks, 11, "only those of the first release");
    world.refuse(false);
    world.until(5_000);
    assert_eq!(world.failures.len(), WAITS.len() + 1);
    assert_eq!(world.head.slots.on_trial(), Some(first.other()));
    // Nothing is asked for any more.
    world.judge(first.other(), Verdict::Confirm);
    world.acknowledge(world.head.outbox.next_sequence() - 1, 4);
    assert_eq!(world.head.next_deadline_ms(), None);
}

#[test]
fn an_abort_that_could_not_end_the_trial_is_followed_later() {
    let (mut world, first) = World::confirmed(1);
    let target = world.offer(2);
    let second = first.other();
    assert_eq!(world.head.slots.on_trial(), Some(second));
    let abort = World::desired(3, &target, RolloutState::Aborted, 3);
    world.refuse(true);
    world.retain(&topic::desired("f"), abort);
    assert_eq!(world.head.slots.on_trial(), Some(second));
    world.refuse(false);
    world.until(1_000);
    assert_eq!(world.head.slots.on_trial(), None);
    assert_eq!(world.stops, [second]);
}

#[test]
fn a_trust_root_that_could_not_be_stored_is_asked_for_again_ever_later() {
    let mut world = World::new();
    let mut bytes = [0; 2048];
    let payload = root(2).encode(&mut bytes).unwrap();
    let message = signed(1, ContentType::Root, payload);
    world.refuse(true);
    world.retain(&topic::root("f", 2), message);
    world.until(3_500);
    assert_eq!(waits(&world), WAITS);
    assert_eq!(world.head.slots.state().root.version, 1);
    world.refuse(false);
    world.until(5_000);
    assert_eq!(world.failures.len(), WAITS.len() + 1);
    assert_eq!(world.head.slots.state().root.version, 2);
}

#[test]
fn without_a_connection_nothing_is_asked_for_and_the_next_one_brings_it() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    let message = World::desired(2, &target, RolloutState::Active, 3);
    world.refuse(true);
    world.retain(&topic::desired("f"), message.clone());
    world.head.disconnected();
    world.until(1_000);
    assert_eq!(world.head.next_deadline_ms(), None);
    assert_eq!(world.failures.len(), 1);
    world.refuse(false);
    world.head.connected(false);
    world.retain(&topic::desired("f"), message);
    assert_eq!(world.head.slots.on_trial(), Some(first.other()));
}

#[test]
fn a_confirmed_release_that_can_not_be_loaded_is_loaded_again_ever_later() {
    let (mut world, first) = World::confirmed(1);
    world.loads.clear();
    world.self_test = Err(Reason::Corrupt);
    let mut world = world.restart();
    assert_eq!(world.head.running(), None);
    let mut loads = vec![];
    let end_ms = world.now.monotonic_ms + 10_000;
    let begun = world.now.monotonic_ms;
    while let Some(at_ms) = world.head.next_deadline_ms().filter(|&at| at <= end_ms) {
        let before = world.loads.len();
        world.now.monotonic_ms = at_ms;
        world.run();
        if world.loads.len() > before {
            loads.push(at_ms - begun);
        }
    }
    assert_eq!(loads, [1000, 3000, 7000]);
    assert!(
        world
            .loads
            .iter()
            .all(|load| *load == (first, Purpose::Confirmed))
    );
    world.self_test = Ok(());
    world.until(begun + 15_000);
    assert_eq!(world.head.running(), Some(first));
    let loads = world.loads.len();
    world.until(begun + 300_000);
    assert_eq!(world.loads.len(), loads);
}
