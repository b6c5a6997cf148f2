//! What a desired state says, and what does not count.

use super::*;
use proptest::prelude::*;

fn evaluate_here(bytes: &[u8], seen: Seen, now_s: Option<u64>) -> Result<Verdict, Refusal> {
    let board = config().board;
    evaluate(bytes, &root(1), &RingVerifier, &board, &seen, now_s)
}

const FIRST: Seen = Seen {
    sequence: 0,
    digest: [0; 32],
};

#[test]
fn a_desired_state_says_what_to_do() {
    let target = target(&good(1, 100));
    for (state, plan) in [
        (RolloutState::Active, Plan::Install(target.clone())),
        (RolloutState::Paused, Plan::Wait(target.clone())),
        (RolloutState::Aborted, Plan::GiveUp(target.clone())),
    ] {
        let bytes = signed(&desire(1, "r", state, &target), 3);
        assert_eq!(evaluate_here(&bytes, FIRST, Some(999)).unwrap().plan, plan);
    }
    let desired = desire(1, "r", RolloutState::Active, &target);
    let keeps = [
        Desired {
            share_per_mille: 0,
            ..desired.clone()
        },
        Desired {
            tags: [Text::try_from("lab").unwrap()].into_iter().collect(),
            ..desired.clone()
        },
        desire(
            1,
            "r",
            RolloutState::Active,
            &Target {
                class: BoardClass::Mcu,
                ..target.clone()
            },
        ),
        Desired {
            targets: Vec::new(),
            ..desired.clone()
        },
    ];
    for keep in keeps {
        let verdict = evaluate_here(&signed(&keep, 3), FIRST, None).unwrap();
        assert_eq!(verdict.plan, Plan::Keep, "{keep:?}");
    }
}

#[test]
fn what_does_not_count_is_refused_by_name() {
    let target = target(&good(1, 100));
    let desired = desire(5, "r", RolloutState::Active, &target);
    let bytes = signed(&desired, 3);
    let verdict = evaluate_here(&bytes, FIRST, None).unwrap();
    let seen = |sequence, digest| Seen { sequence, digest };
    assert!(
        evaluate_here(&bytes, seen(5, verdict.digest), None).is_ok(),
        "the same again"
    );
    let replay = Err(Refusal::Replay { seen: 5, offset: 2 });
    assert_eq!(evaluate_here(&bytes, seen(5, [1; 32]), None), replay);
    let replay = Err(Refusal::Replay { seen: 6, offset: 2 });
    assert_eq!(evaluate_here(&bytes, seen(6, verdict.digest), None), replay);
    let expired = Err(Refusal::Expired {
        at_s: 1000,
        offset: 3,
    });
    assert_eq!(evaluate_here(&bytes, FIRST, Some(1000)), expired);
    for key in [1, 2, 4, 13] {
        let seen = evaluate_here(&signed(&desired, key), FIRST, None).unwrap_err();
        assert!(matches!(seen, Refusal::Trust(_)), "key {key}: {seen:?}");
        assert_eq!(seen.refused(), Refused::DesiredSignature);
    }
    let payload = to_vec(&desired);
    let other = seal(ContentType::Ack, &payload, 3);
    assert!(matches!(
        evaluate_here(&other, FIRST, None),
        Err(Refusal::Trust(_))
    ));
    let mut long = payload.clone();
    long.push(0);
    let long = seal(ContentType::Desired, &long, 3);
    let offset = payload.len() as u32;
    let trailing = Err(Refusal::Trailing { offset });
    assert_eq!(evaluate_here(&long, FIRST, None), trailing);
    // A share of 1000 takes two bytes; what is cut off is named, with where it begins.
    let share = DesiredField::Share;
    for (kept, field, offset) in [
        (payload.len() - 1, share, payload.len() as u32 - 2),
        (payload.len() - 2, share, payload.len() as u32 - 2),
        (1, DesiredField::Fleet, 0),
        (2, DesiredField::Sequence, 2),
    ] {
        let short = seal(ContentType::Desired, &payload[..kept], 3);
        let seen = evaluate_here(&short, FIRST, None);
        assert_eq!(seen, Err(Refusal::Undecodable { field, offset }), "{kept}");
    }
    let refused = |desired: Desired| evaluate_here(&signed(&desired, 3), FIRST, None).unwrap_err();
    let fleet = Id::try_from("g").unwrap();
    assert_eq!(
        refused(Desired {
            fleet,
            ..desired.clone()
        }),
        Refusal::Fleet { offset: 0 }
    );
    let share_per_mille = 1001;
    assert_eq!(
        refused(Desired {
            share_per_mille,
            ..desired.clone()
        }),
        Refusal::OutOfRange {
            field: share,
            offset: payload.len() as u32 - 2
        }
    );
    assert_eq!(
        refused(Desired {
            sequence: 0,
            ..desired.clone()
        }),
        Refusal::OutOfRange {
            field: DesiredField::Sequence,
            offset: 2
        }
    );
    let targets = [target.clone(), target].into_iter().collect();
    let twice = refused(Desired { targets, ..desired });
    assert!(
        matches!(twice, Refusal::DuplicateClass { offset: 4.. }),
        "{twice:?}"
    );
}

#[test]
fn every_changed_byte_of_a_desired_state_is_refused() {
    let bytes = signed(
        &desire(5, "r", RolloutState::Active, &target(&good(1, 100))),
        3,
    );
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            assert!(
                evaluate_here(&changed, FIRST, None).is_err(),
                "byte {at} xor {flip}"
            );
        }
        assert!(
            evaluate_here(&bytes[..at], FIRST, None).is_err(),
            "cut to {at}"
        );
    }
}

#[test]
fn cohorts_are_fair_and_differ_by_rollout() {
    let mut counts = [0; 10];
    let mut both = 0;
    for n in 0..10_000 {
        let device = format!("board-{n}");
        let drawn = cohort_per_mille("r1", &device);
        assert!(drawn < 1000);
        counts[usize::from(drawn / 100)] += 1;
        both += u32::from(drawn < 100 && cohort_per_mille("r2", &device) < 100);
    }
    assert!(
        counts.iter().all(|count| (880..1120).contains(count)),
        "{counts:?}"
    );
    assert!((50..160).contains(&both), "{both} boards are early twice");
    assert_ne!(cohort_per_mille("ab", "c"), cohort_per_mille("a", "bc"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_bytes_are_no_desired_state(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(evaluate_here(&bytes, FIRST, None).is_err());
        let signed = seal(ContentType::Desired, &bytes, 3);
        // Signed by the right key, but by chance a desired state of this fleet: not in this life.
        prop_assert!(evaluate_here(&signed, FIRST, None).is_err());
    }

    #[test]
    fn a_growing_share_only_adds_boards(device in "[a-z0-9-]{1,32}", share in 0u16..1000) {
        let target = Target {
            class: BoardClass::Linux,
            digest: [1; 32],
            counter: 1,
            version: Text::new(),
            head_bytes: 4096,
            total_bytes: 8192,
        };
        let in_cohort = |share_per_mille| {
            let desired = desire(1, "r", RolloutState::Active, &target);
            let desired = Desired { share_per_mille, ..desired };
            let bytes = signed(&desired, 3);
            let board = Board { device: &device, ..config().board };
            let verdict = evaluate(&bytes, &root(1), &RingVerifier, &board, &FIRST, None).unwrap();
            matches!(verdict.plan, Plan::Install(_))
        };
        prop_assert!(!in_cohort(share) || in_cohort(share + 1));
        prop_assert!(in_cohort(1000));
        prop_assert!(!in_cohort(0));
    }
}
