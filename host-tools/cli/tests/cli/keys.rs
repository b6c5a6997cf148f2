//! Keys, and boards that are enrolled.

use crate::common::process::text;
use crate::common::{Place, snapshot};

#[test]
fn keys_are_made_listed_rotated_revoked_and_exported() {
    let place = Place::new();
    let output = place.run(&["keys", "list"], 1);
    assert!(text(&output.stderr).contains("next: make keys with `edgeward keys init`"));
    place.run(&["keys", "init", "--dry-run"], 0);
    assert!(!place.path(".edgeward").exists());
    let first = place.json(&["keys", "init", "--release", "1/2"], 0);
    snapshot("keys-init", &first);
    snapshot("keys-list", &place.json(&["keys", "list"], 0));
    assert_eq!(
        (
            first["root_version"].as_u64(),
            first["keys"].as_array().map(Vec::len)
        ),
        (Some(1), Some(5))
    );
    place.run(&["keys", "init"], 1);
    let rotated = place.json(&["keys", "rotate", "rollout"], 0);
    snapshot("keys-rotate", &rotated);
    assert_eq!(rotated["root_version"], 2);
    let release = first["keys"]
        .as_array()
        .and_then(|keys| keys.iter().find(|key| key["role"] == "release"));
    let id = release
        .and_then(|key| key["key"].as_str())
        .expect("a release key");
    snapshot("keys-revoke", &place.json(&["keys", "revoke", id], 0));
    let left = place.json(&["keys", "export", "--role", "release"], 0);
    snapshot("keys-export", &left);
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    let second = left[0]["key"].as_str().expect("an id");
    let output = place.run(&["keys", "revoke", second], 1);
    assert!(text(&output.stderr).contains("--replace"));
    place.run(&["keys", "revoke", "zz"], 2);
    let pem = place.run(&["keys", "export", "--role", "root", "--pem"], 0);
    assert!(text(&pem.stdout).starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let pem = place.json(&["keys", "export", "--role", "root", "--pem"], 0);
    let begin = "-----BEGIN PUBLIC KEY-----\n";
    assert!(
        pem[0]["pem"]
            .as_str()
            .is_some_and(|pem| pem.starts_with(begin))
    );
    let written = place.json(&["keys", "export", "--root", "root.cose"], 0);
    snapshot("keys-export-root", &written);
    assert!(place.path("root.cose").exists());
    // An earlier root that is damaged is told, and keeps nobody from anything.
    let damaged = place.path(".edgeward/keys/root-1.cose");
    std::fs::write(damaged, "damaged").expect("written");
    let listed = place.run(&["keys", "list"], 0);
    let told = text(&listed.stderr);
    assert!(
        told.contains("WARN") && told.contains("root-1.cose"),
        "{told}"
    );
    place.run(&["keys", "rotate", "rollout", "--partial", "next.part"], 0);
}

/// Moves the second private half of a role, as `keys list` shows them, into another home; that has the
/// public root as well.
fn hand_over(place: &Place, listed: &serde_json::Value, role: &str, home: &str) {
    let keys = listed["keys"].as_array().expect("keys").iter();
    let second = keys.filter(|key| key["role"] == role).nth(1);
    let id = second.and_then(|key| key["key"].as_str());
    let name = format!("{role}-{}.p8", id.expect("an id"));
    let (from, to) = (place.path(".edgeward/keys"), place.path(home).join("keys"));
    std::fs::create_dir_all(&to).expect("a folder");
    std::fs::rename(from.join(&name), to.join(&name)).expect("moved");
    std::fs::copy(from.join("root.cose"), to.join("root.cose")).expect("copied");
}

#[test]
fn several_people_sign_a_release_and_a_root_one_after_the_other() {
    let place = Place::new();
    let listed = place.json(&["keys", "init", "--root", "2/2", "--release", "2/2"], 0);
    hand_over(&place, &listed, "root", "bob");
    hand_over(&place, &listed, "release", "bob");
    let bundle = ["pack", &crate::common::model("v1.toml"), "-f", "v1.bundle"];
    let packed = place.json(&[&bundle[..], &["--sign"]].concat(), 0);
    assert_eq!(packed["signed_by"].as_array().map(Vec::len), Some(1));
    place.run(&["verify", "v1.bundle"], 3);
    let again = place.json(&["sign", "v1.bundle"], 0);
    assert_eq!(again["missing"], serde_json::json!([1, 2]));
    let signed = place.json(&["--home", "bob", "sign", "v1.bundle"], 0);
    assert_eq!(signed["missing"], serde_json::Value::Null);
    place.run(&["verify", "v1.bundle"], 0);

    let refused = place.run(&["keys", "rotate", "rollout"], 1);
    assert!(text(&refused.stderr).contains("--partial"));
    let begin = ["keys", "rotate", "rollout", "--partial", "next.part"];
    place.json(&[&begin[..], &["--dry-run"]].concat(), 0);
    assert!(!place.path("next.part").exists());
    let begun = place.json(&begin, 0);
    assert_eq!(begun["root_version"], 1, "nothing is in force");
    let own = place.json(&["keys", "countersign", "next.part"], 0);
    assert_eq!(
        (
            &own["in_force"],
            &own["valid_signatures"],
            &own["needed_signatures"]
        ),
        (&false.into(), &1.into(), &2.into())
    );
    let bob = ["--home", "bob", "keys", "countersign", "next.part"];
    let looked = place.json(&[&bob[..], &["--dry-run"]].concat(), 0);
    snapshot("keys-countersign", &looked);
    let roles: Vec<_> = looked["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|difference| (&difference["role"], &difference["change"]))
        .collect();
    let expected = ["revoked", "new"].map(serde_json::Value::from);
    assert_eq!(
        roles,
        expected
            .iter()
            .map(|change| (&looked["differences"][0]["role"], change))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        place.json(&["--home", "bob", "keys", "list"], 0)["root_version"],
        1
    );
    assert_eq!(place.json(&bob, 0)["in_force"], true);
    assert_eq!(
        place.json(&["keys", "countersign", "next.part"], 0)["in_force"],
        true
    );
    for home in [".edgeward", "bob"] {
        let listed = place.json(&["--home", home, "keys", "list"], 0);
        assert_eq!(listed["root_version"], 2, "{home}");
    }
    let over = place.run(&["keys", "countersign", "next.part"], 3);
    assert!(
        text(&over.stderr).contains("version 3"),
        "{}",
        text(&over.stderr)
    );
    place.run(&["keys", "countersign", "v1.bundle"], 3);
    place.run(&["keys", "countersign", "absent.part"], 1);
}

fn first_root(listed: &serde_json::Value) -> &str {
    let mut keys = listed["keys"].as_array().expect("keys").iter();
    let root = keys.find(|key| key["role"] == "root");
    root.and_then(|key| key["public"].as_str()).expect("a key")
}

/// The status of each key of a role that a folder lists, in order.
fn statuses(place: &Place, home: &str, role: &str) -> Vec<String> {
    let listed = place.json(&["--home", home, "keys", "list"], 0);
    let keys = listed["keys"].as_array().expect("keys").iter();
    let status = |key: &serde_json::Value| key["status"].as_str().expect("a word").to_owned();
    keys.filter(|key| key["role"] == role).map(status).collect()
}

#[test]
fn new_root_keys_are_made_by_those_who_hold_them() {
    let place = Place::new();
    let listed = place.json(&["keys", "init", "--root", "2/2"], 0);
    hand_over(&place, &listed, "root", "bob");

    // All in one folder: whoever has it needs nobody else, and is told so.
    let begin = ["keys", "rotate", "root", "--partial", "all.part"];
    let warned = place.run(&begin, 0);
    let warned = text(&warned.stderr);
    assert!(warned.contains("2 of the 2 root keys"), "{warned}");
    assert!(
        warned.contains("root-") && warned.contains(".p8"),
        "{warned}"
    );
    let pending = ["active", "active", "pending", "pending"];
    assert_eq!(statuses(&place, ".edgeward", "root"), pending);

    let make = ["--home", "bob", "keys", "make", "root"];
    place.json(&[&make[..], &["--dry-run"]].concat(), 0);
    assert_eq!(statuses(&place, "bob", "root"), ["active", "active"]);
    let made = place.json(&make, 0);
    snapshot("keys-make", &made);
    assert_eq!(
        statuses(&place, "bob", "root"),
        ["active", "active", "pending"]
    );
    let public = made["public"].as_str().expect("a key");
    let begin = ["keys", "rotate", "root", "--public", public];
    place.run(&begin, 2);
    let begin = [&begin[..], &["--partial", "root-2.part"]].concat();
    place.run(
        &["keys", "rotate", "root", "--partial", "x", "--public", "12"],
        2,
    );
    for wrong in [first_root(&listed), public] {
        let twice = ["--public", wrong, "--dry-run"];
        let refused = place.run(&[&begin[..], &twice].concat(), 1);
        assert!(text(&refused.stderr).contains("given twice"));
    }
    let begun = place.run(&begin, 0);
    assert!(!text(&begun.stderr).contains("warning"));
    let sign = ["keys", "countersign", "root-2.part"];
    let signed = place.json(&[&["--home", "bob"], &sign[..]].concat(), 0);
    assert_eq!(signed["in_force"], true);
    assert_eq!(place.json(&sign, 0)["in_force"], true);
    let active = ["active", "active", "revoked"];
    assert_eq!(statuses(&place, "bob", "root"), active);

    // One signature changed, and it is nobody's root.
    let rotate = ["keys", "rotate", "rollout", "--partial", "bad.part"];
    snapshot("keys-rotate-partial", &place.json(&rotate, 0));
    let mut bytes = std::fs::read(place.path("bad.part")).expect("the root");
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    std::fs::write(place.path("bad.part"), bytes).expect("written");
    place.run(&["--home", "bob", "keys", "countersign", "bad.part"], 3);
}

#[test]
fn devices_are_enrolled_and_forgotten() {
    let place = Place::new();
    let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    let shown = place.json(&["device", "enroll", "board-1", "--key", key], 0);
    snapshot("device-enroll", &shown);
    assert_eq!(
        place.json(&["device", "list"], 0).as_array().map(Vec::len),
        Some(1)
    );
    place.run(&["device", "enroll", "board-2", "--key", "12"], 2);
    place.run(&["device", "enroll", "a/b", "--key", key], 2);
    place.run(&["device", "show", "board-2"], 1);
    let other = key.replace("19bf", "29bf");
    place.run(&["device", "enroll", "board-1", "--key", &other], 1);
    let elsewhere = ["device", "enroll", "board-1", "--key", key, "--fleet", "x"];
    let refused = place.run(&elsewhere, 1);
    assert!(text(&refused.stderr).contains("is enrolled in fleet default"));
    let taken = place.run(&["device", "enroll", "board-2", "--key", key], 1);
    let taken = text(&taken.stderr);
    assert!(taken.contains("board-1 of fleet default"), "{taken}");
    assert!(taken.contains("forget board-1"), "{taken}");
    place.run(&["device", "show", "board-2"], 1);
    let forgotten = place.json(&["device", "forget", "board-1", "--dry-run"], 0);
    assert_eq!(forgotten["device"], "board-1");
    place.run(&["device", "show", "board-1"], 0);
    let forgotten = place.json(&["device", "forget", "board-1"], 0);
    snapshot("device-forget", &forgotten);
    place.run(&["device", "show", "board-1"], 1);
}
