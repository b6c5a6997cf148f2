//! A board that lost its outbox.

use crate::common::Place;
use edgeward::trust::Signer;
use edgeward::trust::ring::RingSigner;
use edgeward_host::keys::hex;
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{Kind, Store, StoredFrame};
use serde_json::Value;

#[test]
fn enrolling_for_a_new_outbox_takes_the_next_one_and_drops_nothing() {
    let place = Place::new();
    let key = RingSigner::from_seed(&[7; 32]).expect("a key");
    let key = hex(&key.public_key().0);
    let enroll = |more: &[&str]| {
        let again = [&["device", "enroll", "a", "--key", &key][..], more].concat();
        place.json(&again, 0)
    };
    enroll(&[]);
    let store = Sqlite::open(&place.path(".edgeward/store.db")).expect("opens");
    let begins = |epoch, time_ms| {
        let first = StoredFrame {
            device: "a".into(),
            epoch,
            acknowledged: 0,
            boot: 1,
            first_sequence: 1,
            sequence: 1,
            time_ms,
            received_ms: 1_800_000_000_000,
            kind: Kind::Event,
            body: Value::Null,
            raw: vec![],
        };
        let counts = store.ingest(&[first]).expect("read");
        counts.left_out.first().map(ToString::to_string)
    };
    assert_eq!(begins(1, 1_790_000_000_000), None);
    let why = begins(2, 1_780_000_000_000).expect("older");
    assert!(
        why.contains("`edgeward device enroll --new-outbox`"),
        "{why}"
    );
    // Enrolled again as before, nothing changes; nor does a look at what would be done.
    enroll(&[]);
    let would = enroll(&["--new-outbox", "--dry-run"]);
    assert_eq!(
        would["changes"].as_array().map(Vec::len),
        Some(1),
        "{would}"
    );
    assert!(begins(2, 1_780_000_000_000).is_some());
    enroll(&["--new-outbox"]);
    assert_eq!(begins(2, 1_780_000_000_000), None);
    assert_eq!(store.epochs("a").expect("read").len(), 2);
}
