//! Commands, and the flight records that answer them.

use super::*;
use edgeward::recorder::Recorder;
use edgeward::telemetry::pull::{Command, Order, Part, PullId, encode_command, verify_part};
use edgeward::trust::ring::{RingSigner, RingVerifier};

const PULL: PullId = [0xAB; 16];

/// The command of this number; the first has the pull's name that parts are looked at for.
fn command(world: &World, sequence: u64) -> Command {
    let mut pull = PULL;
    pull[0] ^= sequence as u8 - 1;
    pulling(world, sequence, pull)
}

fn pulling(world: &World, sequence: u64, pull: PullId) -> Command {
    Command {
        fleet: Id::try_from("f").unwrap(),
        device: Id::try_from("d").unwrap(),
        boot: world.head.slots().state().boot,
        sequence,
        expires_s: 10_000,
        order: Order::PullRecord { pull },
    }
}

/// Sends a command that the key of this seed signed; 4 is the collector's.
fn send(world: &mut World, command: &Command, seed: u8) {
    let mut space = [0; 128];
    let payload = encode_command(command, &mut space).unwrap();
    let message = signed(seed, ContentType::Command, payload);
    let topic = topic::device("f", "d", Channel::Command).to_string();
    world.down.push((topic, message));
    world.run();
}

fn recorder(events: u64) -> Recorder<std::vec::Vec<u8>> {
    let mut recorder = Recorder::new(vec![0; 40_000]);
    for n in 0..events {
        let what = Refused::Ack;
        recorder.event(n, [1; 8], &Event::Refused { what });
    }
    recorder
}

fn bytes(recorder: &impl edgeward::recorder::Snapshot) -> std::vec::Vec<u8> {
    let mut bytes = vec![0; recorder.len()];
    recorder.read(0, &mut bytes);
    bytes
}

/// The part that is published next, if one is due.
fn part(
    world: &mut World,
    recorder: &Recorder<std::vec::Vec<u8>>,
) -> Option<(u16, u16, std::vec::Vec<u8>)> {
    let action = world.head.part(recorder, world.now).unwrap()?;
    let Action::Publish {
        topic,
        payload,
        retain,
    } = action
    else {
        panic!("{action:?}");
    };
    assert_eq!(topic.as_str(), "edgeward/v1/f/d/up/record");
    assert!(!retain);
    let key = RingSigner::from_seed(&[5; 32]).unwrap().public_key();
    let Part {
        device,
        boot,
        pull,
        part,
        parts,
        bytes,
        ..
    } = verify_part(payload, &key, &RingVerifier).unwrap();
    assert_eq!((device.as_str(), &pull[1..]), ("d", &PULL[1..]));
    let bytes = bytes.to_vec();
    assert_eq!(boot, world.head.slots().state().boot);
    Some((part, parts, bytes))
}

#[test]
fn a_pull_sends_the_whole_record_with_pauses_and_ends() {
    for events in [0, 300] {
        let mut world = World::new();
        let order = command(&world, 1);
        send(&mut world, &order, 4);
        assert_eq!(world.pulls, 1);
        assert_eq!(world.refusals(), 0);
        let recorder = recorder(events);
        let (mut all, mut number) = (std::vec::Vec::new(), 0);
        while world.head.is_pulling() {
            if let Some((part, parts, bytes)) = part(&mut world, &recorder) {
                assert_eq!(part, number);
                assert_eq!(parts > 1, events > 0);
                all.extend(bytes);
                number += 1;
                assert_eq!(self::part(&mut world, &recorder), None, "a pause");
            }
            // It knows when it goes on, and telemetry may go at any time between.
            if let Some(at_ms) = world.head.next_deadline_ms() {
                world.now.monotonic_ms = world.now.monotonic_ms.max(at_ms);
            }
            world.run();
        }
        assert_eq!(all, bytes(&recorder));
        // The same command once more is a repetition, and no refusal.
        send(&mut world, &order, 4);
        assert_eq!((world.pulls, world.refusals()), (1, 0));
        assert!(!world.head.is_pulling());
        assert_eq!(part(&mut world, &recorder), None);
    }
}

#[test]
fn only_an_authentic_command_of_this_boot_and_time_has_any_effect() {
    let mut world = World::new();
    let sound = command(&world, 5);
    let mut wrong = vec![];
    for seed in [1, 2, 3, 5] {
        wrong.push((sound.clone(), seed));
    }
    let mut change = |change: fn(&mut Command)| {
        let mut command = sound.clone();
        change(&mut command);
        wrong.push((command, 4));
    };
    change(|it| it.fleet = Id::try_from("g").unwrap());
    change(|it| it.device = Id::try_from("e").unwrap());
    change(|it| it.boot += 1);
    change(|it| it.boot -= 1);
    change(|it| it.expires_s = 1000);
    world.refusals();
    for (command, seed) in &wrong {
        send(&mut world, command, *seed);
        assert_eq!(world.pulls, 0, "{command:?} by {seed}");
        assert!(!world.head.is_pulling());
        assert_eq!(world.refusals(), 1);
    }
    let topic = topic::device("f", "d", Channel::Command).to_string();
    world.down.push((topic, b"no command".to_vec()));
    world.run();
    assert_eq!((world.pulls, world.refusals()), (0, 1));
    // None of them used up the number.
    send(&mut world, &sound, 4);
    assert_eq!((world.pulls, world.refusals()), (1, 0));
    // One of the boot before.
    let mut world = world.restart();
    world.refusals();
    send(&mut world, &sound, 4);
    assert_eq!((world.pulls, world.refusals()), (1, 1));
    let fresh = command(&world, 1);
    send(&mut world, &fresh, 4);
    assert_eq!((world.pulls, world.refusals()), (2, 0));
}

#[test]
fn a_board_without_a_clock_obeys_until_the_next_boot() {
    let mut world = World::new();
    world.now.unix_ms = None;
    let order = |world: &World, sequence| Command {
        expires_s: 1,
        ..command(world, sequence)
    };
    for sequence in 10..30 {
        let newer = order(&world, sequence);
        send(&mut world, &newer, 4);
        assert_eq!(world.pulls, sequence as usize - 9);
    }
    world.refusals();
    // What expired can't be told there: none that is older is obeyed, whether it was before or not.
    for sequence in [9, 11, 20] {
        let older = order(&world, sequence);
        send(&mut world, &older, 4);
        assert_eq!((world.pulls, world.refusals()), (20, 1), "{sequence}");
    }
    let last = order(&world, 29);
    send(&mut world, &last, 4);
    assert_eq!((world.pulls, world.refusals()), (20, 0), "a repetition");
}

#[test]
fn a_board_with_a_clock_obeys_hosts_whose_clocks_differ_and_none_of_the_last_twice() {
    let mut world = World::new();
    let sequences = [1_000_000, 5, 700, 5, 6, 7, 8, 9];
    let orders = sequences.iter().zip(0..).map(|(&sequence, name)| {
        let pull = [name; 16];
        pulling(&world, sequence, pull)
    });
    let orders: std::vec::Vec<_> = orders.collect();
    for _ in 0..3 {
        for order in &orders {
            send(&mut world, order, 4);
        }
        assert_eq!((world.pulls, world.refusals()), (orders.len(), 0));
    }
    // What is forgotten has expired by then, unless somebody pulls all the time.
    let ninth = pulling(&world, 1, [99; 16]);
    send(&mut world, &ninth, 4);
    send(&mut world, &orders[0], 4);
    assert_eq!((world.pulls, world.refusals()), (orders.len() + 2, 0));
    world.now.unix_ms = Some(10_000_000);
    send(&mut world, &orders[1], 4);
    assert_eq!((world.pulls, world.refusals()), (orders.len() + 2, 1));
}

#[test]
fn a_pull_goes_on_as_long_as_its_parts_are_taken() {
    let mut world = World::new();
    let recorder = recorder(300);
    let order = command(&world, 1);
    send(&mut world, &order, 4);
    let (mut number, mut parts) = (0, u16::MAX);
    while number < parts {
        world.now.monotonic_ms += 40_000;
        world.run();
        let taken = part(&mut world, &recorder).unwrap();
        assert_eq!(taken.0, number);
        (number, parts) = (number + 1, taken.1);
    }
    assert!(parts > 1, "more than a minute");

    // One that nobody takes ends.
    let order = command(&world, 2);
    send(&mut world, &order, 4);
    for _ in 0..2 {
        assert!(part(&mut world, &recorder).is_some());
        world.head.not_taken();
        world.now.monotonic_ms += 30_000;
    }
    assert_eq!(part(&mut world, &recorder), None);
    assert!(!world.head.is_pulling());
}

#[test]
fn a_pull_ends_with_the_connection_with_its_time_and_with_the_next() {
    let mut world = World::new();
    let recorder = recorder(300);
    let order = command(&world, 1);
    send(&mut world, &order, 4);
    assert!(part(&mut world, &recorder).is_some());
    world.head.disconnected();
    assert!(!world.head.is_pulling());
    world.head.connected(true);
    world.run();
    assert_eq!(part(&mut world, &recorder), None);

    let order = command(&world, 2);
    send(&mut world, &order, 4);
    assert_eq!(part(&mut world, &recorder).map(|it| it.0), Some(0));
    let order = command(&world, 3);
    send(&mut world, &order, 4);
    assert_eq!(world.pulls, 3);
    assert_eq!(part(&mut world, &recorder).map(|it| it.0), Some(0), "anew");

    world.now.monotonic_ms += 60_000;
    assert_eq!(part(&mut world, &recorder), None);
    assert!(
        !world.head.is_pulling(),
        "whoever holds the recorder still may let go"
    );
}

#[test]
fn a_pull_goes_on_and_ends_while_a_head_can_not_be_read() {
    let (world, first) = World::confirmed(1);
    let (mut world, _switch) = world.restart_unreadable(first);
    let recorder = recorder(0);
    for (sequence, taken) in [(1, true), (2, false)] {
        let mut space = [0; 128];
        let payload = encode_command(&command(&world, sequence), &mut space).unwrap();
        let message = signed(4, ContentType::Command, payload);
        let topic = topic::device("f", "d", Channel::Command);
        world.head.message(&topic, &message, world.now).unwrap();
        let asked = std::iter::from_fn(|| match world.head.poll(world.now) {
            Ok(Some(action)) => Some(action == Action::Pull),
            failed => failed.map(|_| false).ok(),
        });
        assert_eq!(asked.filter(|pull| *pull).count(), 1);
        assert!(world.head.poll(world.now).is_err());
        assert!(world.head.is_pulling());
        if taken {
            assert_eq!(part(&mut world, &recorder).map(|it| it.0), Some(0));
        } else {
            world.now.monotonic_ms += 60_000;
        }
        assert_eq!(part(&mut world, &recorder), None);
        assert!(!world.head.is_pulling());
    }
}

#[test]
fn a_part_that_was_not_taken_is_next_again_and_frames_are_untouched() {
    let mut world = World::new();
    world.frames();
    let recorder = recorder(300);
    let order = command(&world, 1);
    send(&mut world, &order, 4);
    let first = part(&mut world, &recorder).unwrap();
    world.head.not_taken();
    world.now.monotonic_ms += 10;
    assert_eq!(part(&mut world, &recorder), Some(first));
    // A frame that is not taken after a part is no part.
    let alarm = Event::Refused { what: Refused::Ack };
    world.head.outbox.push(0, &Body::Event(alarm)).unwrap();
    let published = |world: &mut World| match world.head.poll(world.now).unwrap() {
        Some(Action::Publish { payload, .. }) => payload.to_vec(),
        other => panic!("{other:?}"),
    };
    let frame = published(&mut world);
    world.head.not_taken();
    assert_eq!(published(&mut world), frame);
    world.now.monotonic_ms += 10;
    assert_eq!(part(&mut world, &recorder).map(|it| it.0), Some(1));
}
