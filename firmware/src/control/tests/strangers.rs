//! Messages that nobody asked for, or that somebody forged.

use super::*;

#[test]
fn forged_and_flooding_messages_change_nothing() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    world.refusals();
    for sequence in 2..200 {
        // The collector may acknowledge, not roll out.
        world.desire(sequence, &target, RolloutState::Active, 4);
    }
    assert_eq!(world.head.slots.state().desired_sequence, 1);
    assert_eq!(
        world.head.slots.record(first.other()).state,
        SlotState::Empty
    );
    assert_eq!(world.refusals(), REFUSALS as usize);
    assert_eq!(world.head.unreported_refusals(), 198 - REFUSALS);
    world.acknowledge(world.head.outbox.next_sequence() - 1, 4);
    world.now.monotonic_ms += REFUSAL_MS;
    world.desire(2, &target, RolloutState::Active, 4);
    assert_eq!(world.refusals(), 1);
}

/// More chunks that nobody asked for than the board's queues have places.
fn strays(world: &mut World) {
    for n in 0..300 {
        let topic = topic::blob(&[7; 32], n).to_string();
        world.head.message(&topic, &[0; 64], world.now).unwrap();
    }
}

#[test]
fn strays_do_not_crowd_out_what_follows_a_load() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    let second = first.other();
    let purpose = Purpose::Candidate;
    world.hold = Some(purpose);
    world.desire(2, &target, RolloutState::Active, 3);
    assert_eq!(world.held.take(), Some((second, purpose)));
    strays(&mut world);
    world.hold = None;
    let (release, now) = (world.head.release(second), world.now);
    let policy = Ok(world::policy(100));
    world
        .head
        .loaded(second, release, purpose, policy, now)
        .unwrap();
    strays(&mut world);
    world.run();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Shadow)));
}

#[test]
fn strays_do_not_crowd_out_a_self_test_or_an_abort() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    strays(&mut world);
    world.desire(2, &target, RolloutState::Active, 3);
    let second = first.other();
    assert!(world.loads.contains(&(second, Purpose::SelfTest)));
    assert_eq!(world.head.slots.on_trial(), Some(second));
    strays(&mut world);
    world.desire(3, &target, RolloutState::Aborted, 3);
    assert_eq!(world.stops, [second]);
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn strays_do_not_crowd_out_a_breach() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    strays(&mut world);
    world.judge(second, Verdict::Breach(Reason::PredictionDrift));
    assert_eq!(world.stops, [second]);
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn strays_and_forgeries_leave_nothing_to_do_twice() {
    let (mut world, _) = World::confirmed(1);
    strays(&mut world);
    assert!(!world.head.is_pressing(), "nothing was asked for");
    let topic = topic::desired("f").to_string();
    world.head.message(&topic, b"forged", world.now).unwrap();
    assert!(world.head.is_pressing(), "a refusal is to be stored");
    world.run();
    assert!(!world.head.is_pressing());
}
