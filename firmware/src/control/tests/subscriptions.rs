//! What a board asks its broker for.

use super::super::subject::Subject;
use super::world::World;
use std::string::{String, ToString};
use std::vec::Vec;

/// All that is to be asked for (true) or ended, in this order.
fn asked(world: &mut World) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    while let Some((topic, wanted)) = world.head.subscription() {
        let again = world.head.subscription();
        assert_eq!(again, Some((topic.clone(), wanted)), "until it was done");
        world.head.subscribed();
        all.push((topic.to_string(), wanted));
    }
    all
}

/// What is subscribed to once these were done.
fn left(asked: &[(String, bool)]) -> Vec<String> {
    let mut left: Vec<String> = Vec::new();
    for (topic, wanted) in asked {
        left.retain(|known| known != topic);
        if *wanted {
            left.push(topic.clone());
        }
    }
    left.sort();
    left
}

const KNOWN: [&str; 4] = [
    "edgeward/v1/f/d/down/ack",
    "edgeward/v1/f/d/down/cmd",
    "edgeward/v1/f/desired",
    concat!("edgeward/v1/f/", "root", "/2"),
];

#[test]
fn requests_keep_their_order_and_a_new_connection_asks_for_all_that_is_wanted() {
    let mut world = World::new();
    assert_eq!(asked(&mut world), [], "all was asked for");
    world.head.ask(Subject::Desired);
    let desired = KNOWN[2].to_string();
    let again = [(desired.clone(), false), (desired, true)];
    assert_eq!(asked(&mut world), again);
    world.head.chunks.push(([7; 32], 3)).unwrap();
    world.head.want(Subject::Chunk([7; 32], 3));
    world.head.give_up(Subject::Chunk([6; 32], 3));
    world.head.subscribe_anew();
    let all = asked(&mut world);
    assert_eq!(all.len(), 5, "and what is not is not even ended: {all:?}");
    assert!(left(&all)[0].ends_with("/3"));
    assert_eq!(left(&all)[1..], KNOWN);
}

#[test]
fn a_full_queue_forgets_no_subscription() {
    let mut world = World::new();
    for pushed in 1..100 {
        world.head.subscribe_anew();
        for _ in 0..pushed {
            world.head.ask(Subject::Commands);
        }
        assert_eq!(left(&asked(&mut world)), KNOWN, "{pushed} pushed");
    }
}
