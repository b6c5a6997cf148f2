//! What a rollout does with a release that is here.

use super::*;

#[test]
fn a_release_that_failed_is_tried_again_only_under_another_rollout() {
    let mut world = World::new();
    world.self_test = Err(Reason::SelfTest);
    let bundle = good(1, 9_000);
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let slots = world.run(100);
    let rejected = SlotState::Rejected(Reason::SelfTest);
    assert_eq!(slots.record(Slot::A).state, rejected);
    world.keep(slots);
    world.self_test = Ok(());
    let asked = world.asked;
    let slots = world.run(100);
    assert_eq!(slots.record(Slot::A).state, rejected);
    assert_eq!(world.asked, asked);
    world.keep(slots);
    world.want(2, "s", RolloutState::Active, &target);
    let slots = world.run(100);
    world.holds(&slots, &bundle);
    assert_eq!(world.asked, asked, "all of it was there");
}

#[test]
fn a_paused_rollout_waits_and_an_aborted_one_is_given_up() {
    let mut world = World::new();
    world.confirm = false;
    let bundle = good(1, 30_000);
    let target = world.publish(&bundle);
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = client(&mut head);
    client.connected();
    let mut sequence = 0;
    let mut say = |world: &mut World, slots: &mut _, state, turns| {
        sequence += 1;
        world.want(sequence, "r", state, &target);
        assert_eq!(client.desired(&world.desired, None, slots), Ok(None));
        world.turns(turns, &mut client, slots);
    };
    say(&mut world, &mut slots, RolloutState::Active, 4);
    say(&mut world, &mut slots, RolloutState::Paused, 50);
    assert_eq!(slots.record(Slot::A).state, SlotState::Receiving);
    assert!(world.subscribed.is_empty());
    say(&mut world, &mut slots, RolloutState::Active, 100);
    assert_eq!(slots.record(Slot::A).state, SlotState::Staged);
    slots.begin_trial(Slot::A, 2).unwrap();
    say(&mut world, &mut slots, RolloutState::Paused, 5);
    assert_eq!(
        slots.record(Slot::A).state,
        SlotState::Trial,
        "begun before the pause"
    );
    say(&mut world, &mut slots, RolloutState::Aborted, 5);
    let rejected = SlotState::Rejected(Reason::Operator);
    assert_eq!(slots.record(Slot::A).state, rejected);
    assert_eq!(world.stopped, 1);
    let reverted = |event: &Event| matches!(event, Event::Reverted { to: None, .. });
    assert!(world.events.iter().any(reverted));
}

#[test]
fn a_shadow_whose_rollout_ends_is_stopped() {
    for other in [false, true] {
        let mut world = World::new();
        world.confirm = false;
        let bundle = good(1, 9_000);
        let target = world.publish(&bundle);
        world.want(1, "r", RolloutState::Active, &target);
        let mut slots = world.run(60);
        slots.shadow(Slot::A, 2).unwrap();
        world.keep(slots);
        let next = good(2, 9_000);
        let next = world.publish(&next);
        if other {
            world.want(2, "s", RolloutState::Active, &next);
        } else {
            world.want(2, "r", RolloutState::Aborted, &target);
        }
        let slots = world.run(60);
        assert_eq!(world.stopped, 1);
        let expected = if other {
            SlotState::Staged
        } else {
            SlotState::Empty
        };
        assert_eq!(slots.record(Slot::A).state, expected);
    }
}

#[test]
fn refusals_never_take_the_place_of_an_abort() {
    let mut world = World::new();
    world.confirm = false;
    let bundle = good(1, 9_000);
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.run(60);
    slots.begin_trial(Slot::A, 2).unwrap();
    let mut head = [0; HEAD];
    let mut client = client(&mut head);
    let forged = signed(&desire(2, "r", RolloutState::Aborted, &target), 4);
    flood(&mut client, &mut slots, &forged);
    let abort = signed(&desire(2, "r", RolloutState::Aborted, &target), 3);
    assert_eq!(client.desired(&abort, None, &mut slots), Ok(None));
    flood(&mut client, &mut slots, &forged);
    world.turn(&mut client, &mut slots);
    assert_eq!(world.stopped, 1);
    let reverted = |event: &Event| matches!(event, Event::Reverted { to: None, .. });
    assert!(world.events.iter().any(reverted), "{:?}", world.events);
    assert!(world.refused(Refused::DesiredSignature) > 0);
}
