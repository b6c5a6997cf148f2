//! What a new trust root does to what was trusted before.

use super::*;

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
        let reason = Reason::Signature;
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
        let reason = Reason::Signature;
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
}
