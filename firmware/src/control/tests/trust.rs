//! New trust roots.

use super::*;

#[test]
fn a_new_root_is_followed_and_the_next_is_asked_for() {
    let mut world = World::new();
    let mut bytes = [0; 2048];
    let payload = root(2).encode(&mut bytes).unwrap().to_vec();
    let forged = signed(3, ContentType::Root, &payload);
    let good = signed(1, ContentType::Root, &payload);
    let topic = topic::root("f", 2).to_string();
    world.down.push((topic.clone(), forged));
    world.run();
    assert_eq!(world.head.slots.state().root.version, 1);
    world.down.push((topic, good));
    world.run();
    assert_eq!(world.head.slots.state().root.version, 2);
    assert_eq!(world.head.next_root(), Subject::Root(3));
}

/// The second root, by which the releases' key is another one.
fn revoking() -> std::vec::Vec<u8> {
    let mut next = root(2);
    next.roles[Role::Release as usize] = root(2).roles[Role::Root as usize].clone();
    let mut bytes = [0; 2048];
    let payload = next.encode(&mut bytes).unwrap();
    signed(1, ContentType::Root, payload)
}

#[test]
fn a_revoked_release_in_shadow_is_stopped_and_never_tried() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    let second = first.other();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Shadow)));
    let release = world.head.release(second);
    // The verdict is there, the new root comes before the trial has begun.
    let (pass, now) = (ShadowVerdict::Pass, world.now);
    world.head.shadow(second, release, pass, now).unwrap();
    let topic = topic::root("f", 2).to_string();
    world.head.message(&topic, &revoking(), now).unwrap();
    world.run();
    assert_eq!(world.stops, [second]);
    assert_eq!(world.head.slots.record(second).state, SlotState::Empty);
    world.head.shadow(second, release, pass, now).unwrap();
    world.desire(3, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    assert_eq!(world.runs.last(), Some(&(second, Mode::Shadow)));
    // What is confirmed runs on.
    assert_eq!(world.head.running(), Some(first));
    assert_eq!(world.head.slots.confirmed(), Some(first));
    let reason = Reason::Revoked;
    let what = Refused::Release { release, reason };
    assert!(world.events().contains(&Event::Refused { what }));
}

/// What the newest birth says of the slots, and which of them runs.
fn said(world: &mut World) -> ([SlotState; 2], Option<u8>) {
    let frames = world.frames();
    let births = frames.iter().rev().filter_map(|frame| match &frame.body {
        Body::Birth(birth) => Some(birth),
        _ => None,
    });
    let birth = births.take(1).next().unwrap();
    (birth.slots.each_ref().map(|slot| slot.state), birth.running)
}

#[test]
fn a_revoked_release_on_trial_goes_back_and_is_never_confirmed() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    world.frames();
    let (release, now) = (world.head.release(second), world.now);
    let topic = topic::root("f", 2).to_string();
    world.head.message(&topic, &revoking(), now).unwrap();
    // The verdict was on its way already.
    world
        .head
        .trial(second, release, Verdict::Confirm, now)
        .unwrap();
    world.run();
    assert_eq!(world.stops, [second]);
    assert_eq!(world.head.running(), Some(first));
    let slots = &world.head.slots;
    let rejected = SlotState::Rejected(Reason::Revoked);
    assert_eq!(slots.record(second).state, rejected);
    assert_eq!((slots.confirmed(), slots.state().floor), (Some(first), 1));
    // The confirmed one is by the same key: it runs on, and its operator is told, at each start.
    let mut states = [SlotState::Revoked; 2];
    states[second as usize] = rejected;
    assert_eq!(said(&mut world), (states, Some(first as u8)));
    world.loads.clear();
    let mut world = world.restart();
    assert_eq!(world.loads, [(first, Purpose::Confirmed)]);
    assert_eq!(said(&mut world), (states, Some(first as u8)));
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn a_power_cut_after_the_new_root_does_not_load_a_revoked_trial_again() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    let from = world.head.release(second);
    let mut next = root(2);
    next.roles[Role::Release as usize] = root(2).roles[Role::Root as usize].clone();
    // The power goes when the root is written, and nothing else is.
    world.head.slots.set_root(next).unwrap();
    world.frames();
    world.loads.clear();
    let mut world = world.restart();
    assert_eq!(world.loads, [(first, Purpose::Confirmed)]);
    assert_eq!(world.head.running(), Some(first));
    let reverted = Event::Reverted {
        from,
        to: Some(world.head.release(first)),
        reason: Reason::Revoked,
    };
    assert!(world.events().contains(&reverted));
}

#[test]
fn a_journal_that_can_not_be_written_keeps_no_confirmed_release_from_answering() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    let mut next = root(2);
    next.roles[Role::Release as usize] = root(2).roles[Role::Root as usize].clone();
    world.head.slots.set_root(next).unwrap();
    world.loads.clear();
    world.runs.clear();
    // The trial can't be taken back, and is not begun again.
    let mut world = world.restart_and_refuse();
    assert_eq!(world.loads, [(first, Purpose::Confirmed)]);
    assert_eq!(world.runs, [(first, Mode::Confirmed)]);
    assert_eq!(world.head.running(), Some(first));
    world.refuse(false);
    world.run();
    let rejected = SlotState::Rejected(Reason::Revoked);
    assert_eq!(world.head.slots.record(second).state, rejected);
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn a_shadow_that_the_new_root_trusts_begins_anew_with_the_desired_state() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    let second = first.other();
    let (release, runs) = (world.head.release(second), world.runs.len());
    let mut bytes = [0; 2048];
    let payload = root(2).encode(&mut bytes).unwrap().to_vec();
    let next = signed(1, ContentType::Root, &payload);
    world.down.push((topic::root("f", 2).to_string(), next));
    world.run();
    let (pass, now) = (ShadowVerdict::Pass, world.now);
    world.head.shadow(second, release, pass, now).unwrap();
    world.run();
    assert_eq!(
        world.head.slots.on_trial(),
        None,
        "not before it is desired"
    );
    world.desire(2, &target, RolloutState::Active, 3);
    assert_eq!(world.runs[runs..], [(second, Mode::Shadow)]);
    world.head.shadow(second, release, pass, now).unwrap();
    world.run();
    assert_eq!(world.head.slots.on_trial(), Some(second));
    assert_eq!(world.stops, []);
}
