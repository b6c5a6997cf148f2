//! An outbox with no room, or of a program that took more.

use super::*;

/// Stores windows of another release each until no more can be.
pub(super) fn fill(outbox: &mut Small<'_>) -> Result<usize, OutboxError> {
    for pushed in 0..100 {
        match outbox.push(0, &released(1, pushed as u8)) {
            Ok(_) => {}
            Err(OutboxError::Full) => return Ok(pushed),
            Err(error) => return Err(error),
        }
    }
    panic!("releases were merged");
}

#[test]
fn releases_are_kept_apart_and_a_full_outbox_says_so() {
    let mut flash = flash();
    let mut outbox = Small::open(&mut flash, REGION, 1, fresh(1)).expect("opens");
    let pushed = fill(&mut outbox).expect("fills");
    assert_eq!(outbox.len(), pushed);
    assert!(pushed > 5, "{pushed}");
    // Nothing was lost, and what is acknowledged makes room again.
    let held = contents(&mut outbox).expect("reads");
    assert!(held.iter().all(|one| one.samples == 1 && one.dropped == 0));
    assert_eq!(outbox.acknowledge(4), Ok(()));
    assert_eq!(outbox.push(0, &summary(1)), Ok(pushed as u64 + 1));
}

#[test]
fn a_full_outbox_opens_again_with_all_that_it_holds() {
    let mut flash = flash();
    let pushed = fill(&mut Small::open(&mut flash, REGION, 1, fresh(1)).expect("opens"));
    let pushed = pushed.expect("fills") as u64;
    // One start, and one behind the mark of the first.
    for boot in 2..4 {
        let mut outbox = Small::open(&mut flash, REGION, boot, fresh(boot)).expect("opens");
        assert_eq!(outbox.next_sequence(), pushed + 1);
        let held = contents(&mut outbox).expect("reads");
        assert_eq!(held.len() as u64, pushed);
        assert!(held.iter().all(|one| one.samples == 1 && one.dropped == 0));
        let refused = outbox.push(0, &released(1, 200));
        assert_eq!(refused, Err(OutboxError::Full));
    }
    let mut outbox = Small::open(&mut flash, REGION, 4, fresh(4)).expect("opens");
    assert_eq!(outbox.acknowledge(4), Ok(()));
    assert_eq!(outbox.push(0, &summary(1)), Ok(pushed + 1));
}

#[test]
fn a_record_of_a_program_with_more_features_is_counted_and_those_behind_it_are_kept() {
    let mut flash = Flash::new(10 * 1024);
    let region = Region {
        sector_bytes: 2048,
        ..REGION
    };
    let mut summary = Summary::<6, 1>::empty();
    let feature = FeatureSummary {
        bins: [u32::MAX; crate::profile::BINS],
        ..FeatureSummary::empty()
    };
    while summary.features.push(feature.clone()).is_ok() {}
    type Large<'a> = Outbox<&'a mut Flash, 6, 1, 16, { max_record_bytes(6, 1) }>;
    let mut outbox = Large::open(&mut flash, region, 1, fresh(1)).expect("opens");
    assert_eq!(outbox.push(0, &Body::<6, 1>::Summary(summary)), Ok(1));
    for n in 2..4 {
        let event = Event::Refused { what: Refused::Ack };
        assert_eq!(outbox.push(n, &event), Ok(n));
    }
    let mut outbox = Small::open(&mut flash, region, 2, fresh(2)).expect("opens");
    assert_eq!(outbox.next_sequence(), 4);
    let held = contents(&mut outbox).expect("reads");
    let seen: Vec<_> = held
        .iter()
        .map(|one| (one.first, one.last, one.dropped, one.event))
        .collect();
    assert_eq!(
        seen,
        [(1, 1, 1, false), (2, 2, 0, true), (3, 3, 0, true)],
        "{held:?}"
    );
}
