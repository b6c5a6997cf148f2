//! Frames, their acknowledgements, and what becomes of them when the outbox is lost.

use super::*;

#[test]
fn frames_wait_for_the_acknowledgement_of_the_collector() {
    let mut world = World::new();
    world.frames();
    for _ in 0..WINDOW + 8 {
        let alarm = Event::Refused { what: Refused::Ack };
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
fn while_a_head_can_not_be_read_the_board_says_what_it_has_to_say() {
    let (world, first) = World::confirmed(1);
    let (mut world, switch) = world.restart_unreadable(first);
    assert!(world.head.poll(world.now).is_err());
    assert_eq!(world.runs.last(), Some(&(first, Mode::Confirmed)));
    let frames = world.frames();
    let births = frames
        .iter()
        .filter(|it| it.boot == 2 && matches!(it.body, Body::Birth(_)));
    assert_eq!(births.count(), 1, "{frames:?}");
    // What is acknowledged meanwhile is forgotten, and more goes out.
    let last = frames.last().unwrap().sequence;
    let (topic, ack) = World::ack(world.head.outbox.epoch(), last, 4);
    world.head.message(&topic, &ack, world.now).unwrap();
    assert!(world.head.poll(world.now).is_err());
    assert_eq!(world.head.outbox.acknowledged(), last);
    switch.store(false, std::sync::atomic::Ordering::Relaxed);
    world.now.monotonic_ms += 10_000;
    world.run();
    assert_eq!(world.head.running(), Some(first));
}

#[test]
fn while_the_slots_take_nothing_the_board_says_what_it_has_to_say() {
    let (mut world, first) = World::confirmed(1);
    let target = world.publish(2);
    let desired = World::desired(2, &target, RolloutState::Active, 3);
    let topic = topic::desired("f").to_string();
    world.head.message(&topic, &desired, world.now).unwrap();
    world.refuse(true);
    for _ in 0..2 {
        world.head.disconnected();
        world.head.connected(false);
        world.up.clear();
        let error = world.run_troubled();
        assert!(matches!(error, ControlError::Slots(_)), "{error:?}");
        assert!(world.up.iter().any(|(_, payload)| payload == ONLINE));
        let frames = world.frames();
        let newest = frames.last().map(|frame| &frame.body);
        assert!(matches!(newest, Some(Body::Birth(_))), "{frames:?}");
        assert_eq!(world.head.running(), Some(first));
        // As often as it is asked, until it works.
        assert_eq!(world.run_troubled(), error);
    }
    world.refuse(false);
    world.run();
    assert_eq!(world.head.slots.on_trial(), Some(first.other()));
}

#[test]
fn while_the_outbox_takes_nothing_the_board_says_what_is_in_it() {
    let (mut world, _) = World::confirmed(1);
    let stored = world.frames().len();
    let (mut world, switch) = world.restart_with_full_outbox();
    // A birth is due, for the connection is new, and finds no room.
    assert!(world.up.iter().any(|(_, payload)| payload == ONLINE));
    let frames = world.frames();
    assert_eq!(frames.len(), stored);
    let error = world.run_troubled();
    assert!(matches!(error, ControlError::Outbox(_)), "{error:?}");
    // As soon as the outbox takes something again, it has one.
    switch.store(false, std::sync::atomic::Ordering::Relaxed);
    let last = frames.last().unwrap().sequence;
    world.acknowledge(last, 4);
    assert_eq!(world.head.outbox.acknowledged(), last);
    let frames = world.frames();
    let newest = frames.last().map(|frame| &frame.body);
    assert!(matches!(newest, Some(Body::Birth(_))), "{frames:?}");
}

#[test]
fn what_the_transport_does_not_take_is_next_again() {
    let mut world = World::new();
    world.frames();
    world.acknowledge(1, 4);
    let alarm = Event::Refused { what: Refused::Ack };
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
        let what = Refused::Ack;
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
