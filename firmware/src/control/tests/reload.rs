//! A confirmed release that can't be loaded for a while.

use super::*;

/// A board that could not load its confirmed release, with another one on trial.
fn on_trial() -> (World, Slot, Slot) {
    let (mut world, first) = World::confirmed(1);
    world.unloadable = true;
    world.runs.clear();
    world = world.restart();
    let second = world.install(2);
    assert_eq!(world.runs, [(second, Mode::Trial)]);
    world.loads.clear();
    (world, first, second)
}

#[test]
fn it_is_not_loaded_into_the_place_of_a_trial() {
    let (mut world, _, second) = on_trial();
    world.unloadable = false;
    world.now.monotonic_ms += 200_000;
    world.run();
    assert_eq!(world.loads, []);
    let next_ms = world.head.next_deadline_ms();
    let now_ms = world.now.monotonic_ms;
    assert!(next_ms.is_none_or(|at| at > now_ms), "nothing to wake for");
    assert_eq!(world.head.running(), Some(second));
    // What is confirmed then makes it the one before.
    world.judge(second, Verdict::Confirm);
    world.now.monotonic_ms += 200_000;
    world.run();
    assert_eq!(world.loads, []);
    assert_eq!(world.runs, [(second, Mode::Trial)]);
}

#[test]
fn it_is_loaded_when_the_trial_ends_without_a_confirmation() {
    let (mut world, first, second) = on_trial();
    world.judge(second, Verdict::Breach(Reason::ErrorRate));
    assert_eq!(world.loads, [(first, Purpose::Confirmed)], "at once");
    assert_eq!(world.head.running(), None);
    assert_eq!(world.head.birth().running, None);
    world.unloadable = false;
    world.until(world.now.monotonic_ms + 200_000);
    assert_eq!(world.runs.last(), Some(&(first, Mode::Confirmed)));
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn it_is_loaded_when_its_rollout_ends_the_trial() {
    let (mut world, first, _) = on_trial();
    world.unloadable = false;
    let target = world.publish(2);
    world.desire(3, &target, RolloutState::Aborted, 3);
    assert_eq!(world.runs.last(), Some(&(first, Mode::Confirmed)));
}

#[test]
fn no_trial_begins_while_it_is_being_loaded() {
    let (mut world, first) = World::confirmed(1);
    world.unloadable = true;
    world = world.restart();
    world.runs.clear();
    world.hold = Some(Purpose::Confirmed);
    world.now.monotonic_ms += 1_000;
    world.run();
    let held = world.held.take();
    assert_eq!(held, Some((first, Purpose::Confirmed)));
    world.offer(2);
    assert_eq!(world.runs, []);
    let (release, now) = (world.head.release(first), world.now);
    let outcome = Ok(world::policy(0));
    world
        .head
        .loaded(first, release, Purpose::Confirmed, outcome, now)
        .unwrap();
    world.run();
    let second = first.other();
    let expected = [(first, Mode::Confirmed), (second, Mode::Trial)];
    assert_eq!(world.runs, expected);
}

#[test]
fn a_birth_is_sent_when_what_runs_changes_and_not_at_each_try() {
    let (mut world, first) = World::confirmed(1);
    world.unloadable = true;
    world = world.restart();
    let told = |world: &World| world.head.outbox().next_sequence();
    assert_eq!(world.head.birth().running, None);
    let before = told(&world);
    world.until(400_000);
    assert_eq!(told(&world), before);
    world.unloadable = false;
    world.until(500_000);
    assert_eq!(world.head.birth().running, Some(first as u8));
    assert_eq!(told(&world), before + 1);
}
