//! `--dry-run`: what would be done is said, what can be checked is checked, and nothing is changed.

use crate::common::Place;
use crate::common::process::PATIENCE;
use crate::site::{Site, next_message};
use edgeward::topic;
use edgeward_host::keys::hex;
use edgeward_host::mqtt::Mqtt;

/// What anybody publishes at the broker, from the beginning of the watch.
struct Witness {
    mqtt: Mqtt,
    marker: Mqtt,
}

impl Witness {
    fn new(site: &Site) -> Self {
        let mqtt = site.client("witness");
        let all = "edgeward/v1/#";
        mqtt.subscribe_and_wait(all, PATIENCE).expect("granted");
        let witness = Self {
            mqtt,
            marker: site.client("marker"),
        };
        // What the broker kept from before comes now.
        witness.seen();
        witness
    }

    /// Topics of what came since the last call.
    fn seen(&self) -> Vec<String> {
        let end = "edgeward/v1/default/end";
        self.marker.publish(end, b"end", false);
        self.marker.flush(PATIENCE).expect("acknowledged");
        let mut topics = Vec::new();
        loop {
            match next_message(&self.mqtt).topic {
                topic if topic == end => return topics,
                topic => topics.push(topic),
            }
        }
    }
}

const KEY: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

/// Runs a dry run, which changes nothing and says what it would, in the same shape as the command.
fn dry(place: &Place, args: &[&str]) -> Vec<String> {
    let args = [args, &["--dry-run"]].concat();
    place.unchanged(&args.join(" "), || {
        let told = place.json(&args, 0);
        assert_eq!(told["dry_run"], true, "{args:?}: {told}");
        let output = place.run(&args, 0);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let changes = told["changes"].as_array().expect("a list").iter();
        let changes = changes.map(|change| change.as_str().expect("words").to_owned());
        let changes: Vec<String> = changes.collect();
        for change in &changes {
            // The name of a rollout is made of the time.
            let begin = change.split(" rollback-").next().expect("words");
            let begin = begin.split(" 1-0-0-").next().expect("words");
            assert!(text.contains(&format!("would {begin}")), "{args:?}: {text}");
        }
        assert!(text.ends_with("dry run: nothing was changed\n"), "{text}");
        changes
    })
}

#[test]
fn without_anything_there_a_dry_run_makes_nothing() {
    let place = Place::new();
    let changes = dry(&place, &["keys", "init", "--release", "2/3"]);
    assert!(
        changes[0].contains("3 release (of which 2 must sign)"),
        "{changes:?}"
    );
    let changes = dry(&place, &["device", "enroll", "b", "--key", KEY]);
    assert_eq!(changes, ["enroll b in fleet default"]);
    dry(&place, &["broker", "--port", "0"]);
    let refused: [(&[&str], i32, &str); 9] = [
        (&["keys", "init", "--root", "3/2"], 1, "impossible"),
        (&["keys", "rotate", "root"], 1, "no keys"),
        (&["keys", "revoke", "0011223344556677"], 1, "no keys"),
        (&["keys", "export", "--root", "r.cose"], 1, "no keys"),
        (
            &["device", "enroll", "b", "--key", "12"],
            2,
            "no Ed25519 public key",
        ),
        (&["device", "forget", "b"], 1, "no store"),
        (&["rollout", "pause"], 1, "no store"),
        (&["serve"], 1, "no keys"),
        (&["publish", "absent.bundle"], 1, "absent.bundle"),
    ];
    for (args, exit, says) in refused {
        let args = [args, &["--dry-run"]].concat();
        place.unchanged(&args.join(" "), || {
            let error = place.error(&args, exit);
            let said = error["error"].as_str().expect("a sentence");
            assert!(said.contains(says), "{args:?}: {said}");
        });
    }
}

#[test]
fn a_dry_run_leaves_files_keys_store_and_broker_as_they_are() {
    let site = Site::new();
    site.json(&["device", "enroll", "b", "--key", KEY], 0);
    let start = ["rollout", "start", "v1.bundle", "--id"];
    site.json(&[&start[..], &["r-1"]].concat(), 0);
    let witness = Witness::new(&site);
    let keys = site.keys().root().expect("a root");
    let roles = keys.roles.iter().map(|role| hex(&role.keys[0].id().0));
    let roles: Vec<String> = roles.collect();
    let manifest = crate::common::model("v1.toml");
    let other = KEY.replace("19bf", "29bf");

    let commands: [(&[&str], &str); 13] = [
        (
            &["pack", &manifest, "--out", "new.bundle", "--sign"],
            "write new.bundle",
        ),
        (&["sign", "plain.bundle"], "overwrite plain.bundle"),
        (
            &["keys", "rotate", "release"],
            "replace 1 release keys in root version 2 (",
        ),
        (
            &["keys", "revoke", &roles[1], "--replace"],
            "revoke this release key",
        ),
        (
            &["keys", "export", "--root", "root.cose"],
            "write root.cose",
        ),
        (&["device", "enroll", "c", "--key", &other], "enroll c"),
        (&["device", "forget", "b"], "forget b and the 0 frames"),
        (&["publish", "v1.bundle"], "keep a copy"),
        (&[&start[..], &["r-2"]].concat(), "keep counter 1"),
        (&["rollout", "pause"], "note that r-1 is paused"),
        (
            &["rollout", "abort", "--no-wait"],
            "note that r-1 is aborted",
        ),
        (&["rollback", "--to", "v1.bundle"], "keep counter 2"),
        (&["serve", "--http", "127.0.0.1:0"], "collect fleet default"),
    ];
    for (args, says) in commands {
        let changes = dry(&site, args);
        assert!(changes[0].starts_with(says), "{args:?}: {changes:?}");
    }
    assert_eq!(dry(&site, &["sign", "v1.bundle"]), [""; 0], "it is signed");
    assert_eq!(witness.seen(), [""; 0]);

    // What the commands refuse, the dry run refuses, with the same exit code.
    let away: [&str; 4] = ["--broker", "127.0.0.1:1", "--timeout", "1"];
    let refused: [(&[&str], i32); 13] = [
        (&["keys", "init"], 1),
        (&["keys", "revoke", &roles[1]], 1),
        (&["keys", "export", "--root", "nowhere/root.cose"], 1),
        (&["pack", &manifest, "--out", "nowhere/new.bundle"], 1),
        (&["device", "enroll", "b", "--key", &other], 1),
        (&["device", "enroll", "c", "--key", KEY], 1),
        (&["publish", "plain.bundle"], 3),
        (&[&["publish", "v1.bundle"], &away[..]].concat(), 5),
        (&[&start[..], &["r-1"]].concat(), 1),
        (&[&start[..], &["r-3"], &away].concat(), 5),
        (&["rollout", "resume"], 1),
        (&["rollback", "--to", "plain.bundle"], 3),
        (&[&["serve"], &away[..]].concat(), 5),
    ];
    for (args, exit) in refused {
        let dry = [args, &["--dry-run"]].concat();
        site.unchanged(&dry.join(" "), || site.error(&dry, exit));
        if args[0] != "serve" && exit != 5 {
            site.unchanged(&args.join(" "), || site.error(args, exit));
        }
    }
    assert_eq!(witness.seen(), [""; 0]);

    // The witness sees what is published, and a paused rollout can be resumed.
    site.json(&["rollout", "pause"], 0);
    let seen = witness.seen();
    assert!(
        seen.contains(&topic::desired("default").to_string()),
        "{seen:?}"
    );
    let changes = dry(&site, &["rollout", "resume"]);
    assert_eq!(changes[0], "note that r-1 is resumed");
    assert_eq!(witness.seen(), [""; 0]);
}
