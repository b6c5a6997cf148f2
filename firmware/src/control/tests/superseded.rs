//! Releases that waited for their trial and are not wanted any more.

use super::*;
use edgeward::sync::Target;

/// A board with release 1 confirmed, and release 2 loaded, waiting for its rollout to go on.
fn waiting() -> (World, Slot, Target) {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.offer(2);
    world.desire(3, &target, RolloutState::Paused, 3);
    let second = first.other();
    let release = world.head.release(second);
    world.judge_shadow(second, release, ShadowVerdict::Pass);
    assert_eq!(world.head.slots.on_trial(), None);
    world.shadow = 0;
    world.runs.clear();
    (world, second, target)
}

/// The same, without a shadow: it is staged.
fn staged() -> (World, Slot, Target) {
    let (mut world, first) = World::confirmed(1);
    world.hold = Some(Purpose::Candidate);
    let target = world.offer(2);
    world.desire(3, &target, RolloutState::Paused, 3);
    let (slot, purpose) = world.held.take().unwrap();
    world.hold = None;
    let release = world.head.release(slot);
    let loaded = Ok(world::policy(0));
    world
        .head
        .loaded(slot, release, purpose, loaded, world.now)
        .unwrap();
    world.run();
    let second = first.other();
    assert_eq!(world.head.slots.record(second).state, SlotState::Staged);
    world.runs.clear();
    (world, second, target)
}

#[test]
fn a_release_that_waits_for_its_trial_gives_way_to_the_next() {
    for begin in [waiting, staged] {
        let (mut world, slot, _) = begin();
        let next = world.publish(3);
        world.desire(4, &next, RolloutState::Active, 3);
        assert_eq!(world.stops, [slot], "what was loaded is given back");
        assert_eq!(world.runs, [(slot, Mode::Trial)]);
        assert_eq!(world.head.slots.on_trial(), Some(slot));
        assert_eq!(world.head.slots.record(slot).digest, next.digest);
        let last = world.loads.last();
        assert_eq!(last, Some(&(slot, Purpose::Candidate)), "loaded anew");
    }
}

#[test]
fn a_release_that_waits_gives_way_while_the_next_one_is_paused_too() {
    let (mut world, slot, _) = staged();
    let next = world.publish(3);
    world.desire(4, &next, RolloutState::Paused, 3);
    assert_eq!(world.stops, [slot]);
    assert_eq!(world.head.slots.record(slot).state, SlotState::Empty);
    world.desire(5, &next, RolloutState::Active, 3);
    assert_eq!(world.runs, [(slot, Mode::Trial)]);
    assert_eq!(world.head.slots.record(slot).digest, next.digest);
}

#[test]
fn a_release_aborted_while_it_waits_leaves_nothing_to_the_next_one_in_its_slot() {
    let (mut world, slot, target) = staged();
    world.desire(4, &target, RolloutState::Aborted, 3);
    assert_eq!(world.stops, [slot]);
    assert_eq!(world.head.slots.record(slot).state, SlotState::Empty);
    let next = world.publish(3);
    // No load of it is answered: only what was loaded may be tried.
    world.hold = Some(Purpose::Candidate);
    world.desire(5, &next, RolloutState::Active, 3);
    assert_eq!(world.runs, []);
    assert_eq!(world.head.slots.record(slot).state, SlotState::Staged);
    assert_eq!(world.held, Some((slot, Purpose::Candidate)));
}

#[test]
fn a_release_that_the_board_is_not_to_run_any_more_is_given_up() {
    let (mut world, slot, target) = staged();
    // A rollout for another class of boards.
    let mut other = target.clone();
    other.class = BoardClass::Mcu;
    world.desire(4, &other, RolloutState::Active, 3);
    assert_eq!(world.stops, [slot]);
    assert_eq!(world.runs, []);
    assert_eq!(world.head.slots.record(slot).state, SlotState::Empty);
    world.desire(5, &target, RolloutState::Active, 3);
    assert_eq!(world.runs, [(slot, Mode::Trial)]);
}

#[test]
fn another_rollout_of_a_release_that_waits_begins_anew() {
    let (mut world, slot, target) = staged();
    world.desire_as("s", 4, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), Some(slot));
    world.judge(slot, Verdict::Breach(Reason::ErrorRate));
    // It failed under the rollout that tried it.
    world = world.restart();
    world.runs.clear();
    world.desire_as("s", 4, &target, RolloutState::Active, 3);
    assert_eq!(world.runs, []);
    assert_eq!(world.head.slots.on_trial(), None);
}
