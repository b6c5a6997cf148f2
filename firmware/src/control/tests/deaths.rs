//! Releases that take the board down with them.

use super::world::policy;
use super::*;
use edgeward::slots::ram::{Cut, Tear};

#[test]
fn a_shadow_that_dies_is_rejected_at_the_third_boot() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.offer(2);
    let second = first.other();
    let runs = world.runs.len();
    for boot in 1..=2 {
        assert_eq!(world.runs.last(), Some(&(second, Mode::Shadow)), "{boot}");
        world = world.restart();
        world.desire(2, &target, RolloutState::Active, 3);
    }
    let release = world.head.release(second);
    let state = SlotState::Rejected(Reason::Crash);
    assert_eq!(world.head.slots.record(second).state, state);
    // It ran in one more boot than the first, and is not even loaded in the third.
    let shadows = |run: &&(Slot, Mode)| run.1 == Mode::Shadow;
    assert_eq!(world.runs[runs..].iter().filter(shadows).count(), 1);
    let loaded = world.loads.iter().filter(|load| load.0 == second).count();
    assert_eq!(
        loaded, 3,
        "the self-test, and once in each boot that it ran"
    );
    assert_eq!(world.head.running(), Some(first));
    let slot = second as u8;
    let told = Event::Slot {
        slot,
        release,
        state,
    };
    assert!(world.events().contains(&told));
    let failed = Some((release, Reason::Crash));
    assert_eq!(world.head.birth().last_failure, failed);
    // It is not tried again under the same rollout.
    world = world.restart();
    world.desire(2, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.record(second).state, state);
    assert_eq!(world.runs.last(), Some(&(first, Mode::Confirmed)));
}

#[test]
fn a_self_test_that_dies_is_rejected_at_the_third_boot() {
    let (mut world, first) = World::confirmed(1);
    world.hold = Some(Purpose::SelfTest);
    let target = world.offer(2);
    let second = first.other();
    for boot in 1..=2 {
        assert_eq!(
            world.held.take(),
            Some((second, Purpose::SelfTest)),
            "{boot}"
        );
        world = world.restart();
        world.desire(2, &target, RolloutState::Active, 3);
    }
    assert_eq!(world.held, None);
    let state = SlotState::Rejected(Reason::Crash);
    assert_eq!(world.head.slots.record(second).state, state);
    assert_eq!(world.head.running(), Some(first));
    let told = |event: &Event| matches!(event, Event::Slot { state: told, .. } if *told == state);
    assert!(world.events().iter().any(told));
    // The next release gets through.
    world.hold = None;
    assert_eq!(world.install(3), second);
}

#[test]
fn a_board_that_is_switched_off_while_a_rollout_is_paused_holds_it_against_nobody() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    world.hold = Some(Purpose::Candidate);
    world.desire(2, &target, RolloutState::Active, 3);
    let second = first.other();
    assert_eq!(world.held.take(), Some((second, Purpose::Candidate)));
    world.desire(3, &target, RolloutState::Paused, 3);
    let (release, now) = (world.head.release(second), world.now);
    let outcome = Ok(policy(0));
    world
        .head
        .loaded(second, release, Purpose::Candidate, outcome, now)
        .unwrap();
    world.run();
    assert_eq!(world.head.slots.record(second).attempts, 0);
    for _ in 0..5 {
        world = world.restart();
    }
    assert_eq!(world.head.slots.record(second).state, SlotState::Staged);
}

#[test]
fn a_trial_that_dies_reverts_at_the_third_boot() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    world = world.restart();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Trial)));
    world.events();
    world = world.restart();
    assert_eq!(world.runs.last(), Some(&(first, Mode::Confirmed)));
    let reverted = |event: &Event| {
        matches!(
            event,
            Event::Reverted {
                reason: Reason::Crash,
                to: Some(_),
                ..
            }
        )
    };
    assert!(world.events().iter().any(reverted));
}

#[test]
fn an_orderly_stop_is_no_death() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    for _ in 0..5 {
        world.head.end().unwrap();
        world = world.restart();
        assert_eq!(world.head.slots.on_trial(), Some(second));
    }
    assert_eq!(world.head.slots.confirmed(), Some(first));
}

#[test]
fn what_begins_in_the_journal_runs_even_if_the_outbox_can_not_tell() {
    let second = Slot::B;
    // Two lives that are the same up to the moment when the candidate is loaded.
    let until_loaded = |cut| {
        let (world, first) = World::confirmed(1);
        assert_eq!(first.other(), second);
        let mut world = world.restart_with(|mut outbox| {
            outbox.power_on();
            outbox.cut_at(cut);
            outbox
        });
        world.hold = Some(Purpose::Candidate);
        world.offer(2);
        assert_eq!(world.held.take(), Some((second, Purpose::Candidate)));
        world
    };
    let op = world::outbox_flash(&mut until_loaded(None).head)
        .ops()
        .len() as u32;
    for (shadow, mode, state) in [
        (0, Mode::Trial, SlotState::Trial),
        (100, Mode::Shadow, SlotState::Shadow),
    ] {
        let tear = Tear::Before;
        let mut world = until_loaded(Some(Cut { op, tear }));
        let (head, now) = (&mut world.head, world.now);
        let release = head.release(second);
        let policy = Ok(policy(shadow));
        let mut told = head.loaded(second, release, Purpose::Candidate, policy, now);
        if told.is_ok() {
            told = head.poll(now).map(|_| ());
        }
        assert!(matches!(told, Err(ControlError::Outbox(_))), "{told:?}");
        assert_eq!(head.slots.record(second).state, state);
        let slot = second;
        assert_eq!(head.poll(now), Ok(Some(Action::Run { slot, mode })));
    }
}

#[test]
fn a_boot_that_reverted_says_so_as_soon_as_the_outbox_takes_it() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    let reverted = Event::Reverted {
        from: world.head.release(second),
        to: Some(world.head.release(first)),
        reason: Reason::Crash,
    };
    world = world.restart();
    assert_eq!(world.head.slots.on_trial(), Some(second));
    world.events();
    let (mut world, switch) = world.restart_with_full_outbox();
    assert_eq!(world.head.slots.on_trial(), None);
    assert_eq!(world.head.running(), Some(first), "it answers meanwhile");
    assert!(matches!(
        world.head.poll(world.now),
        Err(ControlError::Outbox(_))
    ));
    assert!(!world.events().contains(&reverted));
    switch.store(false, std::sync::atomic::Ordering::Relaxed);
    world.run();
    let told = world.events();
    assert_eq!(told.iter().filter(|it| **it == reverted).count(), 1);
}
