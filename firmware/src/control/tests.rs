//! The head of a board, from boot to boot.

mod world;

use super::*;
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::sync::RolloutState;
use edgeward::telemetry::{Reason, SlotState};
use world::{Flash, World, blank_outbox, root, signed};

#[test]
fn the_first_release_is_fetched_tested_tried_and_confirmed() {
    let (mut world, slot) = World::confirmed(1);
    let purposes: std::vec::Vec<_> = world.loads.iter().map(|load| load.1).collect();
    assert_eq!(purposes, [Purpose::SelfTest, Purpose::Candidate]);
    assert_eq!(world.runs, [(slot, Mode::Trial)]);
    assert_eq!(world.head.slots.confirmed(), Some(slot));
    assert_eq!(world.head.slots.state().floor, 1);
    let frames = world.frames();
    let numbers: std::vec::Vec<_> = frames.iter().map(|frame| frame.sequence).collect();
    assert_eq!(
        numbers,
        (1..=frames.len() as u64).collect::<std::vec::Vec<_>>()
    );
    let Some(Body::Birth(birth)) = frames.iter().rev().map(|f| &f.body).next() else {
        panic!("the last frame is not a birth");
    };
    assert_eq!(birth.running, Some(slot as u8));
    assert_eq!(birth.slots[slot as usize].state, SlotState::Confirmed);
}

#[test]
fn a_breach_goes_back_and_says_why() {
    let (mut world, first) = World::confirmed(1);
    let second = world.install(2);
    world.events();
    world.judge(second, Verdict::Breach(Reason::PredictionDrift));
    assert_eq!(world.head.slots.confirmed(), Some(first));
    assert_eq!(world.head.running(), Some(first));
    assert_eq!(world.stops, [second]);
    let reverted = Event::Reverted {
        from: world.head.release(second),
        to: Some(world.head.release(first)),
        reason: Reason::PredictionDrift,
    };
    assert!(world.events().contains(&reverted));
    // The same release under the same rollout is not tried again.
    let target = world.publish(2);
    world.desire(3, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    // A late verdict about it changes nothing.
    world.judge(second, Verdict::Confirm);
    assert_eq!(world.head.slots.confirmed(), Some(first));
}

#[test]
fn a_failed_self_test_never_runs() {
    let (mut world, first) = World::confirmed(1);
    world.self_test = Err(Reason::SelfTest);
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    let state = world.head.slots.record(first.other()).state;
    assert_eq!(state, SlotState::Rejected(Reason::SelfTest));
    assert_eq!(world.runs.len(), 1);
}

#[test]
fn a_release_that_is_refused_is_in_the_next_birth() {
    let (mut world, _) = World::confirmed(3);
    world.frames();
    let target = world.publish(2);
    world.desire(4, &target, RolloutState::Active, 3);
    let births: std::vec::Vec<_> = world
        .frames()
        .into_iter()
        .filter_map(|frame| match frame.body {
            Body::Birth(birth) => Some((birth.desired, birth.last_failure)),
            _ => None,
        })
        .collect();
    let failure = (
        edgeward::telemetry::release_id(&target.digest),
        Reason::Downgrade,
    );
    assert_eq!(births, [(4, Some(failure))]);
}

#[test]
fn a_shadow_comes_before_the_trial_and_may_end_it() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    let second = first.other();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Shadow)));
    assert_eq!(world.head.running(), Some(first));
    let release = world.head.release(second);
    let (pass, now) = (ShadowVerdict::Pass, world.now);
    world.head.shadow(second, release, pass, now).unwrap();
    world.run();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Trial)));
    world.judge(second, Verdict::Confirm);

    let target = world.publish(3);
    world.desire(3, &target, RolloutState::Active, 3);
    let release = world.head.release(first);
    let (fail, now) = (ShadowVerdict::Fail, world.now);
    world.head.shadow(first, release, fail, now).unwrap();
    world.run();
    assert_eq!(world.stops, [first]);
    let state = world.head.slots.record(first).state;
    assert_eq!(state, SlotState::Rejected(Reason::Shadow));
    assert_eq!(world.head.slots.confirmed(), Some(second));
}

#[test]
fn a_paused_rollout_waits_with_the_trial() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
    world.desire(3, &target, RolloutState::Paused, 3);
    let second = first.other();
    let release = world.head.release(second);
    let (pass, now) = (ShadowVerdict::Pass, world.now);
    world.head.shadow(second, release, pass, now).unwrap();
    world.run();
    assert_eq!(world.head.slots.on_trial(), None);
    world.desire(4, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), Some(second));
    world.desire(5, &target, RolloutState::Aborted, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    assert_eq!(world.stops, [second]);
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn a_shadow_that_dies_is_rejected_at_the_third_boot() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
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
    let target = world.publish(2);
    world.desire(2, &target, RolloutState::Active, 3);
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
    let outcome = Ok(world::policy(0));
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
fn frames_wait_for_the_acknowledgement_of_the_collector() {
    let mut world = World::new();
    world.frames();
    for _ in 0..WINDOW + 8 {
        let alarm = Event::Refused {
            what: Refused::Command,
        };
        world.head.outbox.push(0, &Body::Event(alarm)).unwrap();
    }
    world.run();
    assert_eq!(
        world.frames().len(),
        WINDOW - 1,
        "the window counts the birth"
    );
    // Forged: the rollout's key is not the collector's.
    world.acknowledge(5, 3);
    assert_eq!(world.head.outbox.acknowledged(), 0);
    world.acknowledge(5, 4);
    assert_eq!(world.head.outbox.acknowledged(), 5);
    assert_eq!(world.frames().len(), 5);
    // After a reconnection everything from there is sent again, in order.
    world.head.disconnected();
    world.head.connected(true);
    world.run();
    let frames = world.frames();
    assert_eq!(frames[0].sequence, 6);
    assert_eq!(frames.len(), WINDOW);
    // So it is when nothing comes back in time.
    world.now.monotonic_ms = world.head.next_deadline_ms().unwrap();
    world.run();
    assert_eq!(world.frames()[0].sequence, 6);
}

#[test]
fn what_the_transport_does_not_take_is_next_again() {
    let mut world = World::new();
    world.frames();
    world.acknowledge(1, 4);
    let alarm = Event::Refused {
        what: Refused::Command,
    };
    for _ in 0..2 {
        world.head.outbox.push(0, &Body::Event(alarm)).unwrap();
    }
    let published = |world: &mut World| match world.head.poll(world.now).unwrap() {
        Some(Action::Publish { payload, .. }) => payload.to_vec(),
        other => panic!("{other:?}"),
    };
    let first = published(&mut world);
    world.head.not_taken();
    assert_eq!(published(&mut world), first);
    assert_ne!(published(&mut world), first);
}

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
    assert_eq!(world.head.next_root(), topic::root("f", 3));
}

#[test]
fn a_download_goes_on_where_it_was() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    let last = topic::blob(&target.digest, target.total_bytes.div_ceil(4096) - 1);
    let chunk = world.retained.remove(last.as_str()).unwrap();
    world.desire(2, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    world.retained.insert(last.to_string(), chunk);
    world.chunks = 0;
    let desired = world.retained.len();
    world = world.restart();
    world.desire(2, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), Some(first.other()));
    assert_eq!(world.chunks, 1, "of {desired} chunks");
    let resumed = |event: &Event| matches!(event, Event::Resumed { .. });
    assert!(world.events().iter().any(resumed));
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
    let reason = Reason::Signature;
    let what = Refused::Release { release, reason };
    assert!(world.events().contains(&Event::Refused { what }));
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

#[test]
fn a_board_that_lost_its_outbox_begins_a_new_epoch_with_a_birth() {
    let (mut world, _) = World::confirmed(1);
    let (old, number) = (world.head.outbox.epoch(), world.head.outbox.next_sequence());
    world.acknowledge(2, 4);
    let mut world = world.restart_with(|_| blank_outbox());
    world.up.clear();
    world.head.disconnected();
    world.head.connected(true);
    world.run();
    let new = world.head.outbox.epoch();
    assert_ne!(new, old);
    let frames = world.frames();
    assert!(matches!(frames[0].body, Body::Birth(_)), "{:?}", frames[0]);
    assert_eq!((frames[0].sequence, frames[0].acknowledged), (1, 0));
    assert!(frames.iter().all(|frame| frame.epoch == new));
    // Old acknowledgements forget nothing of it, whatever their number, and are no refusals.
    for through in 1..number + 50 {
        world.acknowledge_of(old, through, 4);
    }
    assert_eq!(
        (world.head.outbox.epoch(), world.head.outbox.acknowledged()),
        (new, 0)
    );
    assert!(!world.head.outbox_restarted());
    assert_eq!(world.frames(), []);
    world.acknowledge(1, 4);
    assert_eq!(world.head.outbox.acknowledged(), 1);
    // The next frames say so.
    world.head.disconnected();
    world.head.connected(true);
    world.run();
    assert!(world.frames().iter().all(|frame| frame.acknowledged == 1));
}

#[test]
fn an_old_copy_of_the_outbox_is_noticed_and_left() {
    let (world, _) = World::confirmed(1);
    let mut copy: Option<Flash> = None;
    let mut world = world.restart_with(|flash| copy.insert(flash).clone());
    let epoch = world.head.outbox.epoch();
    for _ in 0..9 {
        let what = Refused::Command;
        world
            .head
            .outbox
            .push(0, &Body::Event(Event::Refused { what }))
            .unwrap();
    }
    let through = world.head.outbox.next_sequence() - 1;
    world.acknowledge(through, 4);
    assert_eq!(world.head.outbox.acknowledged(), through);
    assert!(!world.head.outbox_restarted());
    let mut world = world.restart_with(|_| copy.unwrap());
    assert_eq!(world.head.outbox.epoch(), epoch, "nothing tells yet");
    world.frames();
    // Forged, it says nothing.
    world.acknowledge(through, 3);
    assert_eq!(world.head.outbox.epoch(), epoch);
    world.acknowledge(through, 4);
    assert_ne!(world.head.outbox.epoch(), epoch);
    assert!(world.head.outbox_restarted());
    let frames = world.frames();
    let first = frames.iter().find(|frame| frame.epoch != epoch).unwrap();
    assert!(
        first.sequence == 1 && matches!(first.body, Body::Birth(_)),
        "{first:?}"
    );
    // It is in flash.
    let now = world.head.outbox.epoch();
    assert_eq!(world.restart().head.outbox.epoch(), now);
}
