//! What a new trust root does to what was trusted before.

use super::*;
use crate::slots::Error;
use crate::slots::ram::{Cut, Edge, Tear};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_new_root_asks_for_the_desired_state_again() {
    let mut world = World::new();
    let bundle = bundle(1, BoardClass::Linux, 1, 9_000, 12);
    let target = world.publish(&bundle);
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    client.connected();
    let desired = world.desired.clone();
    client.desired(&desired, None, &mut slots).unwrap();
    for _ in 0..20 {
        world.turn(&mut client, &mut slots);
    }
    let release = release_id(&target.digest);
    let reason = Reason::Signature;
    assert_eq!(world.refused(Refused::Release { release, reason }), 1);
    let payload = to_vec(&root(2));
    let mut lone = seal(ContentType::Root, &payload, 11);
    assert!(
        client.root(&lone, &mut slots).unwrap().is_some(),
        "not by the old root"
    );
    let mut detached = [0; 200];
    let len =
        crate::trust::cose::sign_detached(&signer(1), ContentType::Root, &payload, &mut detached)
            .unwrap();
    lone.extend(&detached[..len]);
    assert_eq!(client.root(&lone, &mut slots), Ok(None));
    assert_eq!(slots.state().root.version, 2);
    // The rollout key moved on too: the old signature does not count any more, the new one does.
    assert!(
        client
            .desired(&desired, None, &mut slots)
            .unwrap()
            .is_some()
    );
    let again = signed(&desire(1, "r", RolloutState::Active, &target), 13);
    assert_eq!(client.desired(&again, None, &mut slots), Ok(None));
    for _ in 0..60 {
        world.turn(&mut client, &mut slots);
    }
    assert_eq!(world.ask_desired, 1);
    world.holds(&slots, &bundle);
}

#[test]
fn refusals_never_take_the_place_of_a_new_root() {
    let mut world = World::new();
    let target = target(&good(1, 9_000));
    let forged = signed(&desire(1, "r", RolloutState::Active, &target), 4);
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    flood(&mut client, &mut slots, &forged);
    let next = Root {
        version: 2,
        ..root(1)
    };
    let next = seal(ContentType::Root, &to_vec(&next), 1);
    assert_eq!(client.root(&next, &mut slots), Ok(None));
    flood(&mut client, &mut slots, &forged);
    world.turn(&mut client, &mut slots);
    assert_eq!(world.ask_desired, 1);
}

/// The root after the first, whose release key is `release`.
fn next_root(release: u8) -> Root {
    let mut next = root(1);
    next.version = 2;
    next.roles[Role::Release as usize] = RoleKeys::new(1, &[signer(release).public_key()]).unwrap();
    next
}

/// A board with release 1 staged or in shadow, and a broker that has it.
fn ready(shadow: bool) -> (World, Target, Slots<RamFlash<4, 4096>>) {
    let mut world = World::new();
    world.confirm = false;
    let target = world.publish(&good(1, 9_000));
    world.want(1, "r", RolloutState::Active, &target);
    let mut slots = world.run(60);
    assert_eq!(slots.record(Slot::A).state, SlotState::Staged);
    if shadow {
        slots.shadow(Slot::A, 2).unwrap();
    }
    world.confirm = true;
    (world, target, slots)
}

#[test]
fn a_release_that_waits_is_given_up_when_its_key_is_revoked() {
    for shadow in [false, true] {
        let (mut world, target, mut slots) = ready(shadow);
        let mut head = [0; HEAD];
        let mut client = Client::new(config(), RingVerifier, &mut head);
        client.connected();
        let bytes = seal(ContentType::Root, &to_vec(&next_root(12)), 1);
        assert_eq!(client.root(&bytes, &mut slots), Ok(None));
        assert_eq!(slots.record(Slot::A).state, SlotState::Empty);
        world.turn(&mut client, &mut slots);
        assert_eq!((world.stopped, world.ask_desired), (1, 1));
        let release = release_id(&target.digest);
        let reason = Reason::Revoked;
        assert_eq!(world.refused(Refused::Release { release, reason }), 1);
        let desired = world.desired.clone();
        assert_eq!(client.desired(&desired, None, &mut slots), Ok(None));
        for _ in 0..60 {
            world.turn(&mut client, &mut slots);
        }
        assert_eq!(slots.confirmed(), None);
        // The same release counts again once the new key has signed it.
        let bundle = bundle(1, BoardClass::Linux, 1, 9_000, 12);
        assert_eq!(world.publish(&bundle), target);
        for _ in 0..100 {
            world.turn(&mut client, &mut slots);
        }
        world.holds(&slots, &bundle);
    }
}

#[test]
fn a_power_cut_after_the_new_root_does_not_save_a_revoked_release() {
    for shadow in [false, true] {
        let (mut world, target, mut slots) = ready(shadow);
        slots.set_root(next_root(12)).unwrap();
        world.keep(slots);
        let slots = world.run(60);
        assert_eq!(slots.confirmed(), None);
        assert_eq!(slots.record(Slot::A).state, SlotState::Empty);
        let release = release_id(&target.digest);
        let reason = Reason::Revoked;
        assert_eq!(world.refused(Refused::Release { release, reason }), 1);
    }
}

#[test]
fn a_new_root_leaves_alone_what_it_still_trusts_and_what_is_confirmed() {
    let (mut world, target, mut slots) = ready(false);
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    client.connected();
    let bytes = seal(ContentType::Root, &to_vec(&next_root(2)), 1);
    assert_eq!(client.root(&bytes, &mut slots), Ok(None));
    assert_eq!(slots.record(Slot::A).state, SlotState::Staged);
    let asked = world.asked;
    let desired = world.desired.clone();
    assert_eq!(client.desired(&desired, None, &mut slots), Ok(None));
    for _ in 0..20 {
        world.turn(&mut client, &mut slots);
    }
    assert_eq!(slots.record(Slot::A).digest, target.digest);
    assert_eq!(slots.confirmed(), Some(Slot::A));
    assert_eq!((world.asked, world.stopped), (asked, 0));
    let mut next = next_root(12);
    next.version = 3;
    let bytes = seal(ContentType::Root, &to_vec(&next), 1);
    assert_eq!(client.root(&bytes, &mut slots), Ok(None));
    world.turn(&mut client, &mut slots);
    assert_eq!(slots.confirmed(), Some(Slot::A));
    assert_eq!(world.stopped, 0);
    // But it says so, and again after a restart, until the keys count once more.
    let said = Event::Slot {
        slot: 0,
        release: release_id(&target.digest),
        state: SlotState::Revoked,
    };
    assert!(client.is_revoked(Slot::A));
    world.turn(&mut client, &mut slots);
    assert!(world.events.contains(&said), "{:?}", world.events);
    world.keep(slots);
    world.events.clear();
    let mut slots = world.boot();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    assert!(!client.is_revoked(Slot::A), "nothing was looked at yet");
    world.turn(&mut client, &mut slots);
    assert!(client.is_revoked(Slot::A));
    assert_eq!(world.events, [said]);
    let mut next = next_root(2);
    next.version = 4;
    let bytes = seal(ContentType::Root, &to_vec(&next), 1);
    assert_eq!(client.root(&bytes, &mut slots), Ok(None));
    assert!(!client.is_revoked(Slot::A));
    world.turn(&mut client, &mut slots);
    assert_eq!(world.events, [said]);
}

/// A board with release 1 confirmed and release 2 on trial, both signed by key 2.
fn on_trial() -> (World, [Target; 2], Slots<RamFlash<4, 4096>>) {
    let mut world = World::new();
    let first = world.publish(&good(1, 9_000));
    world.want(1, "r", RolloutState::Active, &first);
    let slots = world.run(100);
    assert_eq!(slots.confirmed(), Some(Slot::A));
    world.keep(slots);
    world.confirm = false;
    let second = world.publish(&good(2, 9_000));
    world.want(2, "s", RolloutState::Active, &second);
    let mut slots = world.run(100);
    slots.begin_trial(Slot::B, 2).unwrap();
    world.events.clear();
    (world, [first, second], slots)
}

fn reverted(targets: &[Target; 2]) -> Event {
    Event::Reverted {
        from: release_id(&targets[1].digest),
        to: Some(release_id(&targets[0].digest)),
        reason: Reason::Revoked,
    }
}

#[test]
fn a_trial_ends_when_its_key_is_revoked() {
    let (mut world, targets, mut slots) = on_trial();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    client.connected();
    let bytes = seal(ContentType::Root, &to_vec(&next_root(12)), 1);
    assert_eq!(client.root(&bytes, &mut slots), Ok(None));
    let state = SlotState::Rejected(Reason::Revoked);
    assert_eq!(slots.record(Slot::B).state, state);
    assert_eq!((slots.on_trial(), slots.confirmed()), (None, Some(Slot::A)));
    let failure = Some((release_id(&targets[1].digest), Reason::Revoked));
    assert_eq!(slots.state().last_failure, failure);
    assert_eq!(slots.state().floor, 1, "a failed trial burns nothing");
    world.turn(&mut client, &mut slots);
    assert_eq!(world.stopped, 1);
    assert!(
        world.events.contains(&reverted(&targets)),
        "{:?}",
        world.events
    );
    // What the broker has is not signed by a key that counts.
    let desired = world.desired.clone();
    assert_eq!(client.desired(&desired, None, &mut slots), Ok(None));
    for _ in 0..60 {
        world.turn(&mut client, &mut slots);
    }
    assert_eq!(slots.record(Slot::B).state, state);
    // Signed by the new key, the same release is tried under the same rollout.
    world.confirm = true;
    let again = bundle(2, BoardClass::Linux, 1, 9_000, 12);
    assert_eq!(world.publish(&again), targets[1]);
    for _ in 0..100 {
        world.turn(&mut client, &mut slots);
    }
    assert_eq!(slots.confirmed(), Some(Slot::B));
    world.holds(&slots, &again);
}

#[test]
fn a_trial_goes_on_under_a_root_that_trusts_it() {
    let (mut world, _, mut slots) = on_trial();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    // Another key for the rollouts: what began under the old one goes on.
    let mut next = next_root(2);
    next.roles[Role::Rollout as usize] = RoleKeys::new(1, &[signer(13).public_key()]).unwrap();
    let bytes = seal(ContentType::Root, &to_vec(&next), 1);
    assert_eq!(client.root(&bytes, &mut slots), Ok(None));
    world.turn(&mut client, &mut slots);
    assert_eq!(slots.on_trial(), Some(Slot::B));
    assert_eq!((world.stopped, world.events.as_slice()), (0, &[][..]));
}

#[test]
fn a_flash_that_can_not_be_read_for_a_moment_ends_no_trial() {
    let (mut world, _, slots) = on_trial();
    let unreadable = Arc::new(AtomicBool::new(false));
    let slot = slots.layout().slot(Slot::B);
    let flash = slots.into_flash();
    let flash = flash.with_unreadable(slot, unreadable.clone());
    let mut slots = Slots::open(flash, world.layout).unwrap();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    unreadable.store(true, Ordering::Relaxed);
    // A moment is one however often it is looked at meanwhile.
    for _ in 0..100 {
        let seen = client.review(1000, &mut slots);
        assert!(matches!(seen, Err(Error::Flash(_))), "{seen:?}");
    }
    assert_eq!(client.next_deadline_ms(), Some(1050));
    unreadable.store(false, Ordering::Relaxed);
    assert!(client.review(1049, &mut slots).is_err(), "not yet");
    assert_eq!(client.review(1050, &mut slots), Ok(None));
    assert_eq!(client.next_deadline_ms(), None);
    world.now_ms = 2000;
    world.turn(&mut client, &mut slots);
    assert_eq!(slots.on_trial(), Some(Slot::B));
    assert!(world.events.is_empty(), "{:?}", world.events);

    // One that stays so holds nothing.
    let mut client = Client::new(config(), RingVerifier, &mut head);
    unreadable.store(true, Ordering::Relaxed);
    let mut tries = vec![];
    let mut now_ms = 0;
    while client.review(now_ms, &mut slots).is_err() {
        assert!(client.review(now_ms, &mut slots).is_err(), "at {now_ms}");
        tries.push(now_ms);
        now_ms = client.next_deadline_ms().unwrap();
    }
    assert_eq!(tries, [0, 50, 150, 350, 750, 1150, 1550, 1950]);
    assert_eq!(now_ms, 2350);
    let lost = SlotState::Rejected(Reason::Corrupt);
    assert_eq!(slots.record(Slot::B).state, lost);
}

/// Whichever of the two heads can't be read.
#[test]
fn a_trial_ends_and_stops_whether_or_not_the_confirmed_head_can_be_read() {
    let (_, _, slots) = on_trial();
    let switch = Arc::new(AtomicBool::new(false));
    let (layout, unreadable) = (*slots.layout(), slots.layout().slot(Slot::A));
    let flash = slots
        .into_flash()
        .with_unreadable(unreadable, switch.clone());
    let mut slots = Slots::open(flash, layout).unwrap();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    switch.store(true, Ordering::Relaxed);
    let bytes = seal(ContentType::Root, &to_vec(&next_root(12)), 1);
    let taken = client.root(&bytes, &mut slots);
    assert!(matches!(taken, Err(Error::Flash(_))), "{taken:?}");
    let revoked = SlotState::Rejected(Reason::Revoked);
    assert_eq!(slots.record(Slot::B).state, revoked);
    assert_eq!(client.review(0, &mut slots), Ok(Some(Slot::B)));
    let seen = client.review(0, &mut slots);
    assert!(matches!(seen, Err(Error::Flash(_))), "said once: {seen:?}");
    // It is still seen that the confirmed one is not trusted, once that can be read.
    switch.store(false, Ordering::Relaxed);
    let later_ms = client.next_deadline_ms().unwrap();
    assert_eq!(client.review(later_ms, &mut slots), Ok(None));
    assert!(client.is_revoked(Slot::A));
}

#[test]
fn a_trial_whose_head_was_lost_ends_as_corrupt() {
    let (mut world, targets, mut slots) = on_trial();
    let at = slots.layout().slot(Slot::B).start as usize;
    let mut flash = slots.into_flash();
    flash.bytes_mut()[at + 20] ^= 1;
    slots = Slots::open(flash, world.layout).unwrap();
    let mut head = [0; HEAD];
    let mut client = Client::new(config(), RingVerifier, &mut head);
    world.turn(&mut client, &mut slots);
    let reason = Reason::Corrupt;
    assert_eq!(slots.record(Slot::B).state, SlotState::Rejected(reason));
    let from = release_id(&targets[1].digest);
    let failed = |event: &Event| matches!(event, Event::Reverted { from: of, reason: why, .. } if *of == from && *why == reason);
    assert!(world.events.iter().any(failed), "{:?}", world.events);
}

/// Wherever the power goes while a board takes the root and ends the trial, it either has the old
/// root, or the trial is over before anything else is done.
#[test]
fn no_power_cut_saves_a_trial_whose_key_was_revoked() {
    let bytes = seal(ContentType::Root, &to_vec(&next_root(12)), 1);
    let mut took = [false; 2];
    let (_, _, slots) = on_trial();
    let flash = slots.into_flash();
    let tears = [Tear::Before, Tear::After].into_iter().chain(
        [0, 20]
            .into_iter()
            .flat_map(|words| Edge::ALL.map(|edge| Tear::Inside(words, edge))),
    );
    for tear in tears {
        for op in 0.. {
            let (mut world, _, _) = on_trial();
            let mut cut = flash.clone();
            cut.power_on();
            cut.cut_at(Some(Cut { op, tear }));
            let mut slots = Slots::open(cut, world.layout).unwrap();
            let mut head = [0; HEAD];
            let mut client = Client::new(config(), RingVerifier, &mut head);
            let whole = client.root(&bytes, &mut slots).is_ok();
            world.keep(slots);
            let mut slots = world.boot();
            let mut head = [0; HEAD];
            let mut client = Client::new(config(), RingVerifier, &mut head);
            let new = slots.state().root.version == 2;
            took[usize::from(new)] = true;
            world.turn(&mut client, &mut slots);
            assert_eq!(slots.on_trial().is_none(), new, "{op} {tear:?}");
            if !new {
                assert_eq!(client.root(&bytes, &mut slots), Ok(None));
                world.turn(&mut client, &mut slots);
            }
            let state = SlotState::Rejected(Reason::Revoked);
            assert_eq!(slots.record(Slot::B).state, state, "{op} {tear:?}");
            assert_eq!(slots.confirmed(), Some(Slot::A));
            if whole {
                assert!(op >= 2, "the root and the revert are two writes");
                break;
            }
        }
    }
    assert_eq!(took, [true, true]);
}
