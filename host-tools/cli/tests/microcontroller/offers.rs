//! Offers that a board must refuse, each of them sent as whoever holds the broker could.

use crate::board::Board;
use crate::common::process::PATIENCE;
use crate::site::Site;
use edgeward::bundle::{BoardClass, write};
use edgeward::sync::{Desired, RolloutState};
use edgeward::telemetry::Id;
use edgeward::trust::Role;
use edgeward::trust::ring::RingSigner;
use edgeward_host::collector::now_ms;
use edgeward_host::keys::KeyStore;
use edgeward_host::release::{Changes, Release, publish_desired, repack, sign_desired};
use edgeward_host::store::Store;
use edgeward_host::store::sqlite::Sqlite;

const FLEET: &str = "default";

/// Offers content of `release` under another counter and for another class, signed by the release key
/// or by a stranger's, and waits until the board says why it refuses.
pub fn refused(site: &Site, release: &str, counter: u32, class: BoardClass, key: Key, why: &str) {
    let keys = KeyStore::at(&site.path(".edgeward"));
    let content = std::fs::read(site.path(&format!("{release}.bundle"))).expect("a bundle");
    let changes = Changes {
        version: Some(format!("{counter}.0.0")),
        counter: Some(counter),
        class: Some(class),
    };
    let mut bundle = repack(&content, &changes).expect("it is a bundle");
    let signers = match key {
        Key::Release => keys.signers(Role::Release).expect("keys"),
        Key::Stranger => {
            let document = RingSigner::generate().expect("randomness");
            vec![RingSigner::from_pkcs8(&document).expect("a key")]
        }
    };
    for signer in &signers {
        write::sign(&mut bundle, signer).expect("signed");
    }
    let client = site.client();
    let offered = Release::open_unchecked(&bundle).expect("a release");
    offered.publish(&client, |_| {});
    let mut target = offered.target().clone();
    // The desired state is honest in form: signed by the rollout key, for this class of boards.
    target.class = BoardClass::Mcu;
    let store = Sqlite::open(&site.path(".edgeward/store.db")).expect("the store");
    let desired = Desired {
        fleet: Id::try_from(FLEET).expect("short"),
        sequence: store.next_desired(FLEET).expect("a number"),
        expires_s: now_ms() / 1000 + 3600,
        rollout: Id::try_from(why).expect("short"),
        state: RolloutState::Active,
        targets: [target].into_iter().collect(),
        tags: heapless::Vec::new(),
        share_per_mille: 1000,
    };
    let signed = sign_desired(&keys, &desired).expect("signed");
    publish_desired(&client, &keys, FLEET, &signed).expect("it may be published");
    client.flush(PATIENCE).expect("the broker takes it");
    let event = site.event("Refused", |event| event["what"]["Release"]["reason"] == why);
    assert!(!event.is_null());
    let shown = site.json(&["device", "show", Board::NAME], 0);
    assert_eq!(shown["running"]["state"], "confirmed", "{shown}");
}

/// Who signs an offer.
#[derive(Clone, Copy)]
pub enum Key {
    Release,
    Stranger,
}
