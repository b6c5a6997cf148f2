//! What the controller decides while boards report and people step in.

use super::*;
use crate::rollout::Plan;
use crate::rollout::tests::plan;
use crate::store::sqlite::Sqlite;
use crate::store::{Device, Kind, StoredFrame};
use edgeward::bundle::BoardClass;
use edgeward::telemetry::{Id, Reason, SlotReport, SlotState, Text};
use edgeward::trust::PublicKey;

const FLEET: &str = "f";

fn text(value: &str) -> Text {
    Text::try_from(value).expect("short")
}

fn rollout(id: &str, phases: &[u16]) -> Rollout {
    let plan = Plan {
        id: Id::try_from(id).expect("short"),
        fleet: Id::try_from(FLEET).expect("short"),
        soak_ms: 0,
        ..plan(phases)
    };
    Rollout::start(plan, 0).expect("a plan")
}

/// A store with the boards `a` and `b`.
fn fleet() -> Sqlite {
    let store = Sqlite::in_memory().expect("a store");
    for name in ["a", "b"] {
        let device = Device {
            name: name.to_owned(),
            fleet: FLEET.to_owned(),
            key: PublicKey([name.as_bytes()[0]; 32]),
            class: BoardClass::Linux,
            enrolled_ms: 0,
            seen_ms: None,
            online: false,
            epoch: None,
            through: 0,
        };
        store.enroll(&device).expect("enrolled");
    }
    store
}

/// A board reports how the slot stands that holds the new release, having seen the desired state of
/// this number.
fn reports(store: &dyn Store, device: &str, sequence: u64, state: SlotState, desired: u64) {
    let slot = |release, state| SlotReport {
        state,
        release,
        counter: 2,
        version: text("2.0.0"),
    };
    let birth = Birth {
        class: BoardClass::Linux,
        firmware: Text::new(),
        slots: [slot([2; 8], state), slot([0; 8], SlotState::Empty)],
        running: (state == SlotState::Confirmed).then_some(0),
        floor: 0,
        root_version: 1,
        desired,
        tags: Default::default(),
        last_failure: None,
    };
    let frame = StoredFrame {
        device: device.to_owned(),
        epoch: 1,
        acknowledged: 0,
        boot: 1,
        first_sequence: sequence,
        sequence,
        time_ms: sequence,
        received_ms: sequence,
        kind: Kind::Birth,
        body: serde_json::to_value(birth).expect("JSON"),
        raw: vec![1],
    };
    assert_eq!(store.ingest(&[frame]).expect("stored").new, 1);
}

/// A host that has heard the boards all along looks at this time.
fn at(ms: u64) -> Now {
    Now {
        ms,
        hearing_since_ms: Some(0),
    }
}

/// Looks and acts as a controller does.
fn advance(store: &dyn Store, now: u64) -> Step {
    advance_at(store, at(now))
}

fn advance_at(store: &dyn Store, now: Now) -> Step {
    match look(store, FLEET, now).expect("read").expect("a rollout") {
        (_, true) => act(store, FLEET, now).expect("done").expect("a rollout"),
        (seen, false) => seen,
    }
}

#[test]
fn a_phase_is_of_the_enrolled_boards_and_waits_for_those_that_were_never_heard_of() {
    let store = fleet();
    let started = store
        .start_rollout(&rollout("r-1", &[999, 1000]), 0)
        .expect("new");
    for now in 1..5 {
        let (rollout, counts, decision) = advance(&store, now);
        assert_eq!((counts.targeted, counts.waiting), (2, 2));
        assert_eq!((rollout.phase, decision), (0, Decision::Wait));
    }
    let seen = started.after_sequence + 1;
    reports(&store, "a", 1, SlotState::Confirmed, seen);
    let (_, counts, decision) = advance(&store, 6);
    assert_eq!((counts.confirmed, counts.waiting), (1, 1));
    assert_eq!(decision, Decision::Wait);
    reports(&store, "b", 1, SlotState::Confirmed, seen);
    assert_eq!(advance(&store, 7).2, Decision::Advance);
}

#[test]
fn a_board_is_heard_of_when_something_new_of_it_comes() {
    let store = fleet();
    reports(&store, "a", 1, SlotState::Trial, 1);
    let heard = || {
        let boards = boards(&store, FLEET).expect("read");
        boards
            .iter()
            .map(|b| (b.reported, b.heard_ms))
            .collect::<Vec<_>>()
    };
    assert_eq!(heard(), [(true, 1), (false, 0)]);
    let seen = crate::store::Seen {
        device: "a".to_owned(),
        online: None,
        time_ms: Some(9),
    };
    store.seen(&[seen]).expect("noted");
    assert_eq!(heard(), [(true, 9), (false, 0)]);
}

const FAILED: SlotState = SlotState::Rejected(Reason::PredictionDrift);

#[test]
fn a_failure_that_is_reported_between_look_and_decision_counts() {
    for (phases, first) in [
        (&[1000][..], Decision::Finish),
        (&[999, 1000], Decision::Advance),
    ] {
        let store = fleet();
        let started = store
            .start_rollout(&rollout("r-1", phases), 0)
            .expect("new");
        let seen = started.after_sequence + 1;
        for name in ["a", "b"] {
            reports(&store, name, 1, SlotState::Confirmed, seen);
        }
        // What the boards had said by then asks for this; it would end the rollout, or widen it.
        let ((_, counts, decision), changes) = look(&store, FLEET, at(1))
            .expect("read")
            .expect("a rollout");
        assert_eq!((counts.confirmed, decision, changes), (2, first, true));
        reports(&store, "b", 2, FAILED, seen);
        let (after, counts, decision) =
            act(&store, FLEET, at(1)).expect("done").expect("a rollout");
        assert_eq!((counts.confirmed, counts.failed), (1, 1));
        assert!(matches!(decision, Decision::Abort { .. }), "{decision:?}");
        assert_eq!(after.phase, 0);
        assert_eq!(store.rollouts(FLEET).expect("read"), [after]);
    }
}

#[test]
fn nothing_is_written_between_what_a_decision_sees_and_what_it_stores() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = Sqlite::open(&path).expect("a store");
    store
        .start_rollout(&rollout("r-1", &[1000]), 0)
        .expect("new");
    let (asks, asked) = std::sync::mpsc::channel();
    let other = std::thread::scope(|scope| {
        let mut thread = None;
        let mut decided = |before: &Rollout, _: Vec<Member>| {
            thread = Some(scope.spawn(|| {
                let store = Sqlite::open(&path)?;
                asks.send(()).expect("somebody waits");
                // Waits for its turn, or is told that the store is busy: it has no say in between.
                let _ = store.next_desired(FLEET);
                store.rollouts(FLEET)
            }));
            let mut after = before.clone();
            after.state = State::Done;
            Ok(Some(after))
        };
        store.decide(FLEET, &mut decided).expect("decided");
        thread.map(|thread| thread.join().expect("no panic"))
    });
    asked.try_recv().expect("it was asked");
    let seen = other.expect("a thread").expect("read");
    assert_eq!(seen[0].state, State::Done);
}

#[test]
fn what_somebody_did_meanwhile_stands() {
    let store = fleet();
    let started = store
        .start_rollout(&rollout("r-1", &[1000]), 0)
        .expect("new");
    for name in ["a", "b"] {
        reports(
            &store,
            name,
            1,
            SlotState::Confirmed,
            started.after_sequence + 1,
        );
    }
    let ((_, _, decision), _) = look(&store, FLEET, at(1))
        .expect("read")
        .expect("a rollout");
    assert_eq!(decision, Decision::Finish);
    let aborted = State::Aborted {
        why: "by hand".to_owned(),
    };
    let by_hand = |_: &State| Some(aborted.clone());
    set_state(&store, FLEET, by_hand)
        .expect("changed")
        .expect("a rollout");
    let (after, _, decision) = act(&store, FLEET, at(1)).expect("done").expect("a rollout");
    assert_eq!((&after.state, decision), (&aborted, Decision::Wait));
    assert_eq!(store.rollouts(FLEET).expect("read")[0].state, aborted);
    let unchanged = set_state(&store, FLEET, |_| None).expect("read");
    let (before, now) = unchanged.expect("a rollout");
    assert_eq!(before, now);
}

#[test]
fn failures_of_earlier_attempts_do_not_count_whatever_was_published_meanwhile() {
    let store = fleet();
    let first = store
        .start_rollout(&rollout("r-1", &[1000]), 0)
        .expect("new");
    let number = store
        .next_desired_for(&first)
        .expect("drawn")
        .expect("it stands");
    reports(&store, "a", 1, FAILED, number);
    assert_eq!(store.last_desired(FLEET).expect("read"), number);

    // The standing of the first was read, and is to be published; then the second begins.
    let second = store
        .start_rollout(&rollout("r-2", &[1000]), 1)
        .expect("new");
    assert_eq!(second.after_sequence, number + 1);
    assert_eq!(store.next_desired_for(&first).expect("read"), None);
    let number = store
        .next_desired_for(&second)
        .expect("drawn")
        .expect("it stands");
    assert_eq!(number, second.after_sequence + 1);
    let (_, counts, decision) = advance(&store, 2);
    assert_eq!(
        (counts.waiting, counts.failed, decision),
        (2, 0, Decision::Wait)
    );
    // It saw the second, and failed again.
    reports(&store, "a", 2, FAILED, number);
    let (_, counts, decision) = advance(&store, 3);
    assert_eq!(counts.failed, 1);
    assert!(matches!(decision, Decision::Abort { .. }), "{decision:?}");

    let again = store.start_rollout(&rollout("r-1", &[1000]), 4);
    assert!(matches!(again, Err(StoreError::RolloutExists(id)) if id == "r-1"));
}

#[test]
fn a_clock_that_went_back_hides_no_rollout() {
    let store = fleet();
    let start = |id, time_ms| store.start_rollout(&rollout(id, &[1000]), time_ms);
    start("before", 500).expect("started");
    let after = start("after", 400).expect("started");
    let all = store.rollouts(FLEET).expect("read");
    assert_eq!(all.first(), Some(&after));
    assert!(store.next_desired_for(&after).expect("drawn").is_some());
}

/// Drives a rollout of two phases for so long, with a host that hears its boards for the first
/// `stands_ms` of each minute: when it went on to its last phase.
fn goes_on_at(plan: Plan, stands_ms: u64, board: SlotState) -> Option<u64> {
    const MINUTE: u64 = 60_000;
    let store = fleet();
    let rollout = Rollout::start(plan, 0).expect("a plan");
    let started = store.start_rollout(&rollout, 0).expect("new");
    reports(
        &store,
        "a",
        1,
        SlotState::Confirmed,
        started.after_sequence + 1,
    );
    reports(&store, "b", 1, board, started.after_sequence + 1);
    let mut heard = None;
    for ms in (0..30 * MINUTE).step_by(250) {
        let connected = ms % MINUTE < stands_ms;
        let hearing_since_ms = connected.then_some(ms - ms % MINUTE);
        let now = Now {
            ms,
            hearing_since_ms,
        };
        heard = hear(&store, FLEET, heard, now).expect("noted");
        if advance_at(&store, now).0.phase > 0 {
            return Some(ms);
        }
    }
    None
}

#[test]
fn connections_that_never_last_add_up() {
    let plan = |soak_ms, deadline_ms| Plan {
        soak_ms,
        deadline_ms,
        ..rollout("r-1", &[999, 1000]).plan
    };
    // 20 seconds of each minute: 100 are over in the sixth.
    for stands_ms in [20_000, 59_000] {
        let minutes = 100_000 / stands_ms;
        let expected = minutes * 60_000 + 100_000 % stands_ms;
        for (plan, board) in [
            (plan(100_000, 0), SlotState::Confirmed),
            (plan(0, 100_000), SlotState::Empty),
        ] {
            let at = goes_on_at(plan, stands_ms, board).expect("it goes on");
            // Each connection ends between two looks.
            let late = at.checked_sub(expected).expect("no earlier");
            assert!(late <= 250 * (minutes + 2), "{stands_ms}: {at} {expected}");
        }
    }
}

#[test]
fn what_was_heard_is_stored_when_it_ends_and_only_then() {
    let store = fleet();
    store
        .start_rollout(&rollout("r-1", &[1000]), 0)
        .expect("new");
    let until = || {
        let rollout = store.newest_rollout(FLEET).expect("read");
        rollout.and_then(|it| it.listening).map(|it| it.until_ms)
    };
    let now = |ms, hearing_since_ms| Now {
        ms,
        hearing_since_ms,
    };
    let step = |heard, now| {
        let heard = hear(&store, FLEET, heard, now).expect("noted");
        advance_at(&store, now);
        heard
    };
    let heard = step(None, now(100, Some(0)));
    let heard = step(heard, now(9000, Some(0)));
    assert_eq!(until(), Some(0), "now and then");
    // There was a break between two looks.
    let heard = hear(&store, FLEET, heard, now(9400, Some(9200))).expect("noted");
    assert_eq!(until(), Some(9000));
    let heard = step(heard, now(9400, Some(9200)));
    assert_eq!(step(heard, now(9700, None)), None);
    assert_eq!(until(), Some(9400));
    // What another host heard longer stands, and a pause takes nothing in.
    let less = Listening {
        from_ms: 0,
        until_ms: 9300,
    };
    note(&store, FLEET, less).expect("noted");
    set_state(&store, FLEET, |_| Some(State::Paused)).expect("paused");
    let paused = Listening {
        from_ms: 0,
        until_ms: 9900,
    };
    note(&store, FLEET, paused).expect("noted");
    assert_eq!(until(), Some(9400));
}
