//! Commands that only look change no file, and say so when there is nothing to look at.

use crate::board::Board;
use crate::common::Place;
use crate::common::process::text;
use crate::common::{model, snapshot};
use crate::site::Site;
use edgeward::telemetry::{Alarm, Body, Event, Statistic, Summary, release_id};
use edgeward::topic::Channel;

/// Those that read the store.
const STORE: [&[&str]; 6] = [
    &["watch", "--timeout", "1"],
    &["device", "list"],
    &["device", "list", "--unknown"],
    &["device", "show", "board-1"],
    &["rollout", "status"],
    &["rollout", "history"],
];

#[test]
fn without_a_store_none_is_made_and_it_is_said_what_to_do() {
    let place = Place::new();
    place.run(&["keys", "init"], 0);
    for args in STORE {
        place.unchanged(&args.join(" "), || {
            let error = place.error(args, 1);
            let said = error["error"].as_str().expect("a sentence");
            assert_eq!(said, "there is no store in .edgeward", "{args:?}");
            let next = error["next"].as_str().expect("advice");
            assert!(next.contains("edgeward serve"), "{args:?}: {next}");
            let told = text(&place.run(args, 1).stderr);
            assert_eq!(told, format!("error: {said}\nnext: {next}\n"), "{args:?}");
        });
    }
    std::fs::write(place.path(".edgeward/store.db"), "x".repeat(4096)).expect("written");
    place.unchanged("device list", || {
        let error = place.error(&["device", "list"], 1);
        let said = error["error"].as_str().expect("a sentence");
        assert!(said.contains("damaged"), "{said}");
    });
}

#[test]
fn looking_changes_nothing_whether_the_store_is_in_use_closed_or_was_left_open() {
    let site = Site::new();
    let serve = site.serve();
    let mut board = Board::enrolled(&site);
    site.json(&["rollout", "start", "v1.bundle", "--phases", "100%"], 0);
    let desired = site.desired();
    board.confirms(&desired);
    let release = release_id(&desired.targets[0].digest);
    let alarm = Alarm::Drift {
        statistic: Statistic::ClassPsi,
        feature: None,
        value: 0.75,
        limit: 0.5,
    };
    let event = Event::Alarm { release, alarm };
    board.send(Channel::Event, Body::Event(event));
    let mut summary = Summary::empty();
    (summary.release, summary.windows, summary.samples) = (release, 1, 200);
    board.send(Channel::Summary, Body::Summary(summary));
    board.acknowledged(&site.root());
    let mut stranger = Board::stranger(&site, 9);
    let body = Body::Event(Event::Alarm { release, alarm });
    stranger.send_as("board-9", Channel::Event, body);
    crate::common::process::wait_until(
        "the stranger to be noted",
        crate::common::process::PATIENCE,
        || {
            let unknown = site.json(&["device", "list", "--unknown"], 0);
            let noted = unknown.as_array().is_some_and(|list| !list.is_empty());
            if noted {
                Ok(())
            } else {
                Err(unknown.to_string())
            }
        },
    );
    for args in STORE {
        assert!(!site.lines(args, 0).is_empty(), "{args:?}");
    }

    // Killed: the log of the store stays, with what is not in the store's file yet.
    drop(serve);
    assert!(site.path(".edgeward/store.db-wal").exists());
    all_look(&site);
    // Closed: the one file.
    site.json(
        &[
            "device",
            "enroll",
            "board-2",
            "--key",
            "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1",
        ],
        0,
    );
    assert!(!site.path(".edgeward/store.db-wal").exists());
    all_look(&site);

    snapshot("device-list", &site.json(&["device", "list"], 0));
    let unknown = site.json(&["device", "list", "--unknown"], 0);
    snapshot("device-list-unknown", &unknown);
    snapshot("device-show", &site.json(&["device", "show", "board-1"], 0));
    snapshot("rollout-status", &site.json(&["rollout", "status"], 0));
    snapshot("rollout-history", &site.json(&["rollout", "history"], 0));
    let watch = ["watch", "--since", "3600", "--timeout", "1"];
    snapshot("watch", &site.lines(&watch, 0)[0]);
}

fn all_look(site: &Site) {
    let onnx = model("motion-v2.onnx");
    let (manifest, data) = (model("v2.toml"), model("test.csv"));
    let others: [&[&str]; 9] = [
        &["import", &onnx],
        &["profile", &manifest],
        &["inspect", "v1.bundle"],
        &["verify", "v1.bundle"],
        &["eval", "v1.bundle", "--data", &data],
        &["run", &manifest, "--data", &data],
        &["keys", "list"],
        &["keys", "export", "--pem"],
        &["completions", "bash"],
    ];
    for args in STORE.iter().chain(&others) {
        site.unchanged(&args.join(" "), || site.run(args, 0));
    }
}
