//! The head of a board, from boot to boot.

mod deaths;
mod pull;
mod refusals;
mod reload;
mod strangers;
mod subscriptions;
mod superseded;
mod telemetry;
mod trust;
mod world;

use super::*;
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::sync::RolloutState;
use edgeward::telemetry::Body;
use edgeward::telemetry::{Reason, SlotState};
use edgeward::trust::Role;
use edgeward::trust::cose::ContentType;
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
    world.offer(2);
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
    world.offer(2);
    let second = first.other();
    assert_eq!(world.runs.last(), Some(&(second, Mode::Shadow)));
    assert_eq!(world.head.running(), Some(first));
    let release = world.head.release(second);
    world.judge_shadow(second, release, ShadowVerdict::Pass);
    assert_eq!(world.runs.last(), Some(&(second, Mode::Trial)));
    world.judge(second, Verdict::Confirm);

    let ends = [
        (3, ShadowVerdict::Fail, Reason::Shadow),
        (4, ShadowVerdict::Misfit, Reason::Source),
    ];
    for (counter, verdict, reason) in ends {
        world.stops.clear();
        world.offer(counter);
        let release = world.head.release(first);
        world.judge_shadow(first, release, verdict);
        assert_eq!(world.stops, [first]);
        let state = world.head.slots.record(first).state;
        assert_eq!(state, SlotState::Rejected(reason));
        assert_eq!(world.head.slots.confirmed(), Some(second));
    }
}

#[test]
fn a_paused_rollout_waits_with_the_trial() {
    let (mut world, first) = World::confirmed(1);
    world.shadow = 100;
    let target = world.offer(2);
    world.desire(3, &target, RolloutState::Paused, 3);
    let second = first.other();
    let release = world.head.release(second);
    world.judge_shadow(second, release, ShadowVerdict::Pass);
    assert_eq!(world.head.slots.on_trial(), None);
    world.desire(4, &target, RolloutState::Active, 3);
    assert_eq!(world.head.slots.on_trial(), Some(second));
    world.desire(5, &target, RolloutState::Aborted, 3);
    assert_eq!(world.head.slots.on_trial(), None);
    assert_eq!(world.stops, [second]);
    assert_eq!(world.head.running(), Some(first));
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
