//! What every store must do. The suite takes a fresh store, so that a second implementation is one
//! more call.

use edgeward::bundle::BoardClass;
use edgeward::telemetry::Frame;
use edgeward::telemetry::codec::verify_frame;
use edgeward::trust::PublicKey;
use edgeward::trust::ring::RingVerifier;
use edgeward_host::catalog::Catalog;
use edgeward_host::status::{summary_of, window};
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{
    AlarmTotal, Device, FrameQuery, Kind, MAX_EPOCHS, Refusal, Seen, Store, StoreError,
    StoredFrame, Unknown, Why, look,
};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

fn device(name: &str, key: u8) -> Device {
    Device {
        name: name.to_owned(),
        fleet: "f".to_owned(),
        key: PublicKey([key; 32]),
        class: BoardClass::Linux,
        enrolled_ms: 5,
        seen_ms: None,
        online: false,
        epoch: None,
        through: 0,
    }
}

fn frame(device: &str, first: u64, last: u64) -> StoredFrame {
    StoredFrame {
        device: device.to_owned(),
        epoch: 1,
        acknowledged: 0,
        boot: 1,
        first_sequence: first,
        sequence: last,
        time_ms: last,
        received_ms: last,
        kind: if last.is_multiple_of(3) {
            Kind::Event
        } else {
            Kind::Summary
        },
        body: serde_json::json!({ "n": last }),
        raw: vec![last as u8; 3],
    }
}

fn alarms_and_strangers(store: &dyn Store) {
    store.enroll(&device("c", 3)).expect("enrolled");
    let mut alarm = frame("c", 1, 1);
    alarm.kind = Kind::Event;
    alarm.body = serde_json::json!({ "Alarm": {
        "release": [1, 2, 3, 4, 5, 6, 7, 8],
        "alarm": { "Violation": {
            "kind": "NotFinite", "feature": 0, "value": null, "sample": 1,
        } },
    } });
    // The second time it is known, and not counted again.
    store.ingest(&[alarm.clone()]).expect("stored");
    store.ingest(&[alarm]).expect("known");
    let totals = store.alarm_totals().expect("read");
    let total = |total: &AlarmTotal| (total.device.clone(), total.alarm.clone(), total.count);
    assert_eq!(
        totals.iter().map(total).collect::<Vec<_>>(),
        [("c".to_owned(), "not_finite".to_owned(), 1)]
    );

    let unknown = |name: &str, seen_ms| Unknown {
        fleet: "f".to_owned(),
        name: name.to_owned(),
        key_id: "00".repeat(8),
        first_ms: seen_ms,
        seen_ms,
        messages: 2,
    };
    store
        .note_unknown(&[unknown("x", 1), unknown("b", 1), unknown("x", 3)])
        .expect("noted");
    let found = store.unknown("f").expect("read");
    assert_eq!(found.len(), 1, "b is enrolled: {found:?}");
    assert_eq!(
        (found[0].first_ms, found[0].seen_ms, found[0].messages),
        (1, 3, 4)
    );
    assert!(store.unknown("g").expect("read").is_empty());
    // A flood of names pushes out what was heard of longest ago.
    let flood: Vec<Unknown> = (0..300)
        .map(|n| unknown(&format!("n{n}"), 10 + n))
        .collect();
    store.note_unknown(&flood).expect("noted");
    let found = store.unknown("f").expect("read");
    assert_eq!((found.len(), found[0].name.as_str()), (256, "n299"));
    assert!(store.forget("c").expect("forgotten"));
    assert!(store.alarm_totals().expect("read").is_empty());
}

fn suite(store: &dyn Store) {
    store.enroll(&device("a", 1)).expect("enrolled");
    store
        .enroll(&device("a", 1))
        .expect("again with the same key");
    assert!(matches!(
        store.enroll(&device("a", 2)),
        Err(StoreError::OtherKey { .. })
    ));
    assert!(matches!(
        store.enroll(&device("b", 1)),
        Err(StoreError::SameKey { device, .. }) if device == "a"
    ));
    assert!(store.device("b").expect("read").is_none());
    store.enroll(&device("b", 2)).expect("enrolled");

    // Out of order, doubled, with a gap.
    let counts = store.ingest(&[frame("a", 1, 1), frame("a", 3, 3), frame("a", 1, 1)]);
    let counts = counts.expect("stored");
    assert_eq!((counts.new, counts.known), (2, 1));
    assert_eq!(store.device("a").expect("read").expect("there").through, 1);
    assert_eq!(store.gaps("a").expect("read"), [(2, 2)]);
    store
        .ingest(&[frame("a", 2, 2), frame("b", 1, 1)])
        .expect("stored");
    assert_eq!(store.device("a").expect("read").expect("there").through, 3);
    assert!(store.gaps("a").expect("read").is_empty());

    alarms_and_strangers(store);

    // A merged frame takes the place of what it covers, and is covered for ever.
    let counts = store.ingest(&[frame("a", 2, 5)]).expect("stored");
    assert_eq!((counts.new, counts.replaced), (1, 1), "the event stays");
    let counts = store
        .ingest(&[frame("a", 4, 4), frame("a", 2, 3)])
        .expect("stored");
    assert_eq!((counts.new, counts.known), (0, 2));
    assert_eq!(store.device("a").expect("read").expect("there").through, 5);
    let all = store.frames(&FrameQuery {
        device: Some("a".into()),
        ..FrameQuery::default()
    });
    let numbers: Vec<_> = all
        .expect("read")
        .iter()
        .map(|f| (f.first_sequence, f.sequence))
        .collect();
    assert_eq!(numbers, [(1, 1), (3, 3), (2, 5)]);

    // Other bytes for a number that is taken are left out, and counted.
    let mut other = frame("a", 1, 1);
    other.body = serde_json::json!({ "n": 99 });
    let counts = store.ingest(&[other]).expect("read");
    assert_eq!((counts.new, counts.known), (0, 0));
    assert_eq!(counts.left_out.len(), 1);
    assert_eq!(
        (counts.left_out[0].sequence, counts.left_out[0].why),
        (1, Why::Conflict)
    );

    // A frame that only says that others were lost replaces nothing, and closes the gap.
    store.ingest(&[frame("a", 7, 7)]).expect("stored");
    assert_eq!(store.gaps("a").expect("read"), [(6, 6)]);
    let mut lost = frame("a", 6, 8);
    lost.kind = Kind::Summary;
    lost.body = serde_json::json!({ "windows": 0, "dropped_events": 3 });
    let counts = store.ingest(&[lost.clone()]).expect("stored");
    assert_eq!((counts.new, counts.replaced), (1, 0));
    assert!(store.gaps("a").expect("read").is_empty());
    assert_eq!(store.device("a").expect("read").expect("there").through, 8);
    // And none at all where everything is there already, whatever it says.
    lost.first_sequence = 1;
    let counts = store.ingest(&[lost, frame("a", 1, 7)]).expect("read");
    assert_eq!((counts.new, counts.known, counts.replaced), (0, 2, 0));

    // One frame of an unknown device keeps all of its call out.
    let refused = store.ingest(&[frame("b", 2, 2), frame("nobody", 1, 1)]);
    assert!(matches!(refused, Err(StoreError::NoDevice(name)) if name == "nobody"));
    assert_eq!(store.device("b").expect("read").expect("there").through, 1);

    let heard = |device: &str, online, time_ms| Seen {
        device: device.to_owned(),
        online,
        time_ms: Some(time_ms),
    };
    let all = [heard("nobody", Some(true), 9), heard("a", Some(true), 9)];
    store.seen(&all).expect("noted");
    store.seen(&[heard("a", None, 7)]).expect("noted");
    let seen = store.device("a").expect("read").expect("there");
    assert_eq!((seen.online, seen.seen_ms), (true, Some(9)));
    let told = |device: &str| Seen {
        device: device.to_owned(),
        online: Some(false),
        time_ms: None,
    };
    store.seen(&[told("a"), told("b")]).expect("noted");
    let seen = |name| store.device(name).expect("read").expect("there");
    let seen = ["a", "b"].map(|name| (seen(name).online, seen(name).seen_ms));
    assert_eq!(seen, [(false, Some(9)), (false, None)]);

    let refusal = |n: u64| Refusal {
        time_ms: n,
        topic: "t".into(),
        reason: "signature".into(),
        detail: n.to_string(),
    };
    let first: Vec<_> = (0..3).map(refusal).collect();
    store.refuse(&first, &[("signature", 3)]).expect("noted");
    let counts = [("kind", 1), ("signature", 1000)];
    store.refuse(&[refusal(3)], &counts).expect("noted");
    assert_eq!(
        store.refusal_counts().expect("read"),
        [("kind".to_owned(), 1), ("signature".to_owned(), 1003)]
    );
    let kept: Vec<_> = store.refusals().expect("read");
    assert!(kept.iter().map(|kept| kept.time_ms).eq((0..4).rev()));

    assert_eq!(store.next_desired("f").expect("counted"), 1);
    assert_eq!(store.next_desired("f").expect("counted"), 2);
    assert_eq!(store.next_desired("g").expect("counted"), 1);

    store.audit("enroll", "a", 1).expect("noted");
    store.audit("rollout", "r-1", 2).expect("noted");
    assert_eq!(store.audit_log().expect("read").len(), 2);

    assert!(store.forget("a").expect("removed"));
    assert!(!store.forget("a").expect("nothing there"));
    assert!(
        store
            .frames(&FrameQuery {
                device: Some("a".into()),
                ..FrameQuery::default()
            })
            .expect("read")
            .is_empty()
    );
}

/// Epochs: which frame begins one, and that a closed one stays so.
fn epochs(store: &dyn Store) {
    const YEAR_2026: u64 = 1_770_000_000_000;
    store.enroll(&device("a", 1)).expect("enrolled");
    let of = |epoch, first, last, acknowledged, time_ms| StoredFrame {
        epoch,
        acknowledged,
        time_ms,
        received_ms: YEAR_2026 + 1000,
        ..frame("a", first, last)
    };
    let why = |frame: StoredFrame| {
        let counts = store.ingest(&[frame]).expect("read");
        assert_eq!(
            counts.new + counts.known,
            u32::from(counts.left_out.is_empty())
        );
        assert_eq!(counts.begun.len(), usize::from(counts.new == 1));
        counts.left_out.first().map(|left| left.why)
    };
    let standing = || {
        let device = store.device("a").expect("read").expect("there");
        (device.epoch, device.through)
    };
    assert_eq!(standing(), (None, 0));
    // The first frame comes first.
    assert_eq!(why(of(7, 2, 2, 0, YEAR_2026)), Some(Why::Unbegun));
    assert_eq!(standing(), (None, 0));
    assert_eq!(why(of(7, 1, 1, 0, YEAR_2026)), None);
    let counts = store.ingest(&[of(7, 2, 2, 0, 5), of(7, 5, 5, 0, 5), of(7, 8, 8, 0, 5)]);
    assert_eq!(counts.expect("stored").begun, []);
    assert_eq!(standing(), (Some(7), 2));
    // A new outbox: its numbers begin again, and nothing of the old one is taken any more.
    assert_eq!(why(of(9, 1, 1, 0, YEAR_2026 + 9)), None);
    assert_eq!(standing(), (Some(9), 1));
    assert_eq!(why(of(7, 3, 3, 2, 5)), Some(Why::Closed));
    assert_eq!(why(of(7, 9, 9, 8, YEAR_2026 + 99)), Some(Why::Closed));
    assert_eq!(
        why(of(7, 1, 1, 0, YEAR_2026 + 99)),
        Some(Why::Closed),
        "its first, changed"
    );
    let again = store.ingest(&[of(7, 1, 1, 0, YEAR_2026)]).expect("read");
    assert_eq!((again.known, again.left_out.len()), (1, 0), "a repetition");
    assert_eq!(standing(), (Some(9), 1));
    // One whose first frame was held back until a later one was begun.
    assert_eq!(why(of(8, 1, 1, 0, YEAR_2026 + 8)), Some(Why::Older));
    // A clock that does not know the year says nothing.
    assert_eq!(
        why(of(10, 1, 4, 0, 3)),
        None,
        "a full outbox merges its first frames"
    );
    assert_eq!(standing(), (Some(10), 4));
    // A board that was told to forget what this store does not know: it was restored, or the board
    // enrolled again.
    let ahead = [of(10, 9, 9, 8, 5)];
    assert_eq!(store.ingest(&ahead).expect("stored").new, 1);
    assert_eq!(standing(), (Some(10), 9));
    assert_eq!(why(of(11, 31, 31, 30, 5)), None);
    assert_eq!(standing(), (Some(11), 31));
    let known = store.epochs("a").expect("read");
    let told: Vec<_> = known
        .iter()
        .map(|known| {
            (
                known.epoch,
                known.elsewhere,
                known.last,
                known.lost,
                known.closed,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (7, 0, 8, 4, true),
            (9, 0, 1, 0, true),
            (10, 0, 9, 4, true),
            (11, 30, 31, 0, false)
        ]
    );
    let query = FrameQuery {
        device: Some("a".into()),
        after: Some(0),
        ..FrameQuery::default()
    };
    let newest = store.frames(&query).expect("read");
    assert_eq!((newest.len(), newest[0].epoch), (1, 11));
    let all = store
        .frames(&FrameQuery {
            after: None,
            ..query
        })
        .expect("read");
    let order: Vec<_> = all.iter().map(|frame| frame.epoch).collect();
    assert_eq!(order, [7, 7, 7, 7, 9, 10, 10, 11]);
    assert!(store.gaps("a").expect("read").is_empty());
    // There is an end to it.
    for epoch in 12..12 + MAX_EPOCHS - 4 {
        assert_eq!(why(of(epoch, 1, 1, 0, 5)), None);
    }
    assert_eq!(why(of(u32::MAX, 1, 1, 0, 5)), Some(Why::TooMany));
    assert!(store.forget("a").expect("removed"));
    assert!(store.epochs("a").expect("read").is_empty());
}

/// A board whose clock was far ahead when it began an epoch is not shut out by that.
fn clocks_ahead(store: &dyn Store) {
    const YEAR_2026: u64 = 1_770_000_000_000;
    const YEAR_2099: u64 = 4_070_000_000_000;
    const DAY: u64 = 86_400_000;
    store.enroll(&device("a", 1)).expect("enrolled");
    let begins = |epoch, time_ms, received_ms| {
        let first = StoredFrame {
            epoch,
            time_ms,
            received_ms,
            ..frame("a", 1, 1)
        };
        let counts = store.ingest(&[first]).expect("read");
        counts.left_out.first().map(|left| left.why)
    };
    assert_eq!(begins(1, YEAR_2099, YEAR_2026), None);
    // What is older than the receipt is still older, the next outbox is not.
    let older = Some(Why::Older);
    assert_eq!(begins(2, YEAR_2026 - 1, YEAR_2026 + DAY), older);
    assert_eq!(begins(3, YEAR_2026 + DAY, YEAR_2026 + DAY), None);
    // And back to a clock that is ahead, twice.
    assert_eq!(begins(4, YEAR_2099, YEAR_2026 + 2 * DAY), None);
    assert_eq!(begins(5, YEAR_2099 - 1, YEAR_2026 + 3 * DAY), None);
    // A clock that was ahead by less than the frame was on its way can't be told from a right one:
    // here somebody says that the outbox was lost, which holds for the next epoch only.
    assert_eq!(begins(6, YEAR_2026 + 9 * DAY, YEAR_2026 + 10 * DAY), None);
    assert_eq!(begins(7, YEAR_2026 + 8 * DAY, YEAR_2026 + 11 * DAY), older);
    store.expect_epoch("a").expect("noted");
    assert_eq!(begins(7, YEAR_2026 + 8 * DAY, YEAR_2026 + 11 * DAY), None);
    assert_eq!(begins(8, YEAR_2026 + 7 * DAY, YEAR_2026 + 12 * DAY), older);
    let device = store.device("a").expect("read").expect("there");
    assert_eq!((device.epoch, device.through), (Some(7), 1));
    assert_eq!(store.epochs("a").expect("read").len(), 6);
    assert!(store.forget("a").expect("removed"));
}

#[test]
fn sqlite_does_what_every_store_must() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Sqlite::open(&folder.path().join("deep/store.db")).expect("opened");
    suite(&store);
    epochs(&store);
    clocks_ahead(&store);
}

#[test]
fn the_greatest_numbers_overflow_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Sqlite::open(&folder.path().join("store.db")).expect("opened");
    store.enroll(&device("a", 1)).expect("enrolled");
    let greatest = u64::try_from(i64::MAX).expect("positive");
    let event = |first, last| StoredFrame {
        kind: Kind::Event,
        ..frame("a", first, last)
    };
    let counts = store.ingest(&[event(1, 1), event(3, greatest)]);
    assert_eq!(counts.expect("stored").new, 2);
    assert_eq!(store.gaps("a").expect("read"), [(2, 2)]);
    // The range that closes the gap ends at the greatest number, and another one lies in it.
    store.ingest(&[event(2, greatest)]).expect("stored");
    let through = || store.device("a").expect("read").expect("there").through;
    assert_eq!(through(), greatest);
    assert!(store.gaps("a").expect("read").is_empty());
    // What is beyond what SQLite counts is known already, or a conflict; never a panic.
    let counts = store.ingest(&[event(2, u64::MAX), event(u64::MAX, u64::MAX)]);
    assert_eq!(counts.expect("read").new, 0);
    assert_eq!(through(), greatest);
}

#[test]
fn what_was_stored_is_there_after_opening_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    {
        let store = Sqlite::open(&path).expect("opened");
        store.enroll(&device("a", 1)).expect("enrolled");
        store.ingest(&[frame("a", 1, 1)]).expect("stored");
    }
    let store = Sqlite::open(&path).expect("opened again");
    assert_eq!(store.device("a").expect("read").expect("there").through, 1);
    assert_eq!(
        store.frames(&FrameQuery::default()).expect("read")[0].raw,
        [1; 3]
    );
}

#[test]
fn a_store_of_frames_of_version_2_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    rusqlite::Connection::open(&path)
        .and_then(|old| old.execute_batch(include_str!("store-2.sql")))
        .expect("made");
    let store = Sqlite::open(&path).expect("opened");
    let device = store.device("board-1").expect("read").expect("there");
    assert_eq!((device.epoch, device.through), (Some(1), 3));
    let all = FrameQuery::default();
    let frames = store.frames(&all).expect("read");
    assert_eq!(frames.len(), 3);
    for frame in &frames {
        let read: Frame<4, 3> =
            verify_frame(&frame.raw, &device.key, &RingVerifier).expect("signed and readable");
        assert_eq!(read.sequence, frame.sequence);
    }
    // What is shown comes from the signed bytes; the clock is not known.
    let summary = frames.iter().find(|it| it.kind == Kind::Summary);
    let summary = summary.expect("there");
    let read = summary_of(&summary.raw).expect("readable");
    assert_eq!((read.samples, read.latency_p99_cycles()), (300, None));
    let shown = window(0, &read, &Catalog::at(folder.path()));
    assert_eq!((shown.latency_p99_us, shown.core_khz), (Some(70), None));
    // The same reports again are known, and what follows is stored beside them.
    let counts = store.ingest(&frames).expect("known");
    assert_eq!((counts.new, counts.known), (0, 3));
    let mut next = summary.clone();
    (next.first_sequence, next.sequence) = (4, 4);
    next.body["core_khz"] = 25_000.into();
    let counts = store.ingest(&[next]).expect("stored");
    assert_eq!(counts.new, 1);
    assert_eq!(store.frames(&all).expect("read").len(), 4);
    let found = look(&path, |store| store.devices()).expect("read only");
    assert_eq!(found.expect("a store")[0].through, 4);
}

#[test]
fn a_changed_audit_log_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = Sqlite::open(&path).expect("opened");
    for n in 0..3 {
        store.audit("act", &n.to_string(), n).expect("noted");
    }
    let other = rusqlite::Connection::open(&path).expect("opened");
    other
        .execute("DELETE FROM audit WHERE number = 2", [])
        .expect("removed");
    assert!(matches!(store.audit_log(), Err(StoreError::Corrupt(_))));
}

#[test]
fn what_is_not_a_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text.db");
    std::fs::write(
        &text,
        "a text that is longer than the header of a database".repeat(40),
    )
    .expect("written");
    let before = std::fs::read(&text).expect("read");
    assert!(matches!(Sqlite::open(&text), Err(StoreError::Corrupt(_))));
    assert_eq!(std::fs::read(&text).expect("read"), before);

    let other = folder.path().join("other.db");
    rusqlite::Connection::open(&other)
        .and_then(|c| c.execute_batch("CREATE TABLE t (x); PRAGMA user_version = 7"))
        .expect("another program's database");
    assert!(matches!(
        Sqlite::open(&other),
        Err(StoreError::Version {
            found: 7,
            expected: 2
        })
    ));
}

#[test]
fn frames_and_what_another_process_writes_do_not_shut_each_other_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = Sqlite::open(&path).expect("opened");
    store.enroll(&device("a", 1)).expect("enrolled");
    let other = Sqlite::open(&path).expect("opened once more");
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0..200 {
                other.audit("act", "b", n).expect("noted");
            }
        });
        for n in 1..=200 {
            store.ingest(&[frame("a", n, n)]).expect("stored");
        }
    });
    assert_eq!(
        store.device("a").expect("read").expect("there").through,
        200
    );
}

/// A collector whose disk is slow holds the lock nearly all the time. SQLite's own pauses, which grow to a tenth of
/// a second, miss the moments between.
#[test]
fn a_command_gets_in_beside_a_writer_that_hardly_rests() {
    let (held, rest) = (Duration::from_millis(20), Duration::from_micros(200));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = Sqlite::open(&path).expect("opened");
    store.enroll(&device("a", 1)).expect("enrolled");
    let (enough, turns) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let busy = rusqlite::Connection::open(&path).expect("opened once more");
            busy.busy_timeout(Duration::from_secs(60)).expect("set");
            while !enough.load(Ordering::Relaxed) {
                busy.execute_batch("BEGIN IMMEDIATE").expect("the lock");
                turns.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(held);
                busy.execute_batch("COMMIT").expect("given back");
                std::thread::sleep(rest);
            }
        });
        while turns.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let stored = (1..=10).try_for_each(|n| store.ingest(&[frame("a", n, n)]).map(drop));
        enough.store(true, Ordering::Relaxed);
        stored.expect("every one gets in");
    });
    assert!(turns.load(Ordering::Relaxed) > 1, "the writer went on");
}
