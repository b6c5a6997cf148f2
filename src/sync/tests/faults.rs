//! A broker that does everything wrong for a while.

use super::*;
use proptest::prelude::*;

/// Everything goes wrong at random for a while; then the broker is honest, and the board gets
/// there.
fn converges(seed: u64, faults: Faults) -> Result<(), TestCaseError> {
    let mut world = World::new();
    world.random = seed | 1;
    world.faults = faults;
    let bundles = [good(1, 30_000), good(2, 26_000)];
    let targets = [world.publish(&bundles[0]), world.publish(&bundles[1])];
    let mut sequence = 0;
    for round in 0..6 {
        let mut slots = world.boot();
        let mut head = [0; HEAD];
        let mut client = client(&mut head);
        let honest = round == 5;
        if honest {
            world.faults = Faults::default();
            sequence += 1;
            world.want(sequence, "last", RolloutState::Active, &targets[1]);
        }
        for turn in 0..if honest { 400 } else { 60 } {
            if !honest && world.chance(10) {
                sequence += 1;
                let states = [
                    RolloutState::Active,
                    RolloutState::Paused,
                    RolloutState::Aborted,
                ];
                let state = states[usize::from(world.chance(30)) + usize::from(world.chance(10))];
                let which = usize::from(world.chance(50));
                let rollout = format!("r{}", sequence / 4);
                world.want(sequence, &rollout, state, &targets[which]);
            }
            if turn == 0 || world.chance(10) {
                let desired = world.desired.clone();
                client.connected();
                if !desired.is_empty() {
                    client.desired(&desired, None, &mut slots).unwrap();
                }
            } else if !honest && world.chance(10) {
                client.disconnected();
                world.subscribed.clear();
            }
            world.turn(&mut client, &mut slots);
            for slot in Slot::ALL {
                let state = slots.record(slot).state;
                if matches!(state, SlotState::Staged | SlotState::Confirmed) {
                    let digest = slots.record(slot).digest;
                    let at = targets
                        .iter()
                        .position(|target| target.digest == digest)
                        .unwrap();
                    let mut seen = vec![0; bundles[at].len()];
                    slots.read(slot, 0, &mut seen).unwrap();
                    prop_assert_eq!(&seen, &bundles[at], "{:?} in {:?}", state, slot);
                }
            }
        }
        if honest {
            world.holds(&slots, &bundles[1]);
        }
        world.keep(slots);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_broker_does_an_honest_one_ends_it(
        seed in any::<u64>(),
        lose in 0u8..60,
        damage in 0u8..60,
        repeat in 0u8..60,
    ) {
        converges(seed, Faults { lose, damage, repeat })?;
    }
}
