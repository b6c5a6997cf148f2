//! The access lists of docs/OPERATING.md, on a Mosquitto.

#[path = "../../../firmware/tests/common/ports.rs"]
mod ports;

use edgeward_host::broker;
use edgeward_host::mqtt::{Credentials, Event, Message, Mqtt, Options};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn next_message(mqtt: &Mqtt) -> Message {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(Event::Message(message)) = mqtt.recv_timeout(Duration::from_millis(100)) {
            return message;
        }
    }
    panic!("no message within {PATIENCE:?}");
}

/// A Mosquitto that ends with its owner.
struct Mosquitto(std::process::Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts Mosquitto with more settings; none where it is not installed.
fn mosquitto(folder: &std::path::Path, settings: &str) -> Option<(Mosquitto, u16)> {
    let named = std::env::var_os("EDGEWARD_MOSQUITTO").map(std::path::PathBuf::from);
    let program = named.unwrap_or_else(|| "/usr/sbin/mosquitto".into());
    if !program.exists() {
        println!("skipped: no {}", program.display());
        return None;
    }
    let port = ports::free_port();
    let file = folder.join("mosquitto.conf");
    let settings = format!("listener {port} 127.0.0.1\nallow_anonymous true\n{settings}");
    std::fs::write(&file, settings).expect("written");
    let child = std::process::Command::new(program)
        .arg("-c")
        .arg(&file)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("Mosquitto starts");
    let mosquitto = Mosquitto(child);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    broker::wait_for(address, PATIENCE).expect("it listens");
    Some((mosquitto, port))
}

/// The access list of docs/OPERATING.md with this name.
fn access_list(name: &str) -> String {
    let page = include_str!("../../../docs/OPERATING.md");
    let begin = format!("```acl {name}\n");
    let (_, rest) = page.split_once(&begin).expect("the page has it");
    rest.split_once("```").expect("it ends").0.to_owned()
}

fn user(name: &str, client_id: &str, port: u16) -> Mqtt {
    let mut options = Options::new(client_id, "127.0.0.1", port);
    // Nobody checks the password here: what counts is what the name may do.
    options.credentials = Some(Credentials::new(name, "-"));
    Mqtt::connect(&options)
}

/// Sends on a topic that is denied, then on one that is not: only the second may come.
fn only_the_second(from: &Mqtt, to: &Mqtt, denied: &str, allowed: &str) {
    from.publish(denied, b"denied", false);
    from.publish(allowed, b"allowed", false);
    let message = next_message(to);
    assert_eq!(
        (message.topic.as_str(), &*message.payload),
        (allowed, &b"allowed"[..])
    );
}

#[test]
fn the_access_lists_of_the_documentation_let_boards_do_what_they_must_and_no_more() {
    for (name, board_user) in [("per-board", "press-03"), ("shared", "boards")] {
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("acl");
        std::fs::write(&list, access_list(name)).expect("written");
        // Mosquitto reads it under its own user, if the test is root.
        let settings = format!("acl_file {}\nuser root\n", list.display());
        let Some((_mosquitto, port)) = mosquitto(folder.path(), &settings) else {
            return;
        };
        let host = user("host", "host", port);
        let board = user(board_user, "board", port);
        let base = "edgeward/v1/plant-7";
        for topic in [
            "+/birth",
            "+/state",
            "+/up/summary",
            "+/up/event",
            "+/up/record",
            "desired",
            "+/down/ack",
            "+/down/cmd",
        ] {
            let granted = host.subscribe_and_wait(&format!("{base}/{topic}"), PATIENCE);
            granted.expect("the host may read all");
        }
        let desired = format!("{base}/desired");
        for channel in ["birth", "state", "up/summary", "up/event", "up/record"] {
            let own = format!("{base}/press-03/{channel}");
            only_the_second(&board, &host, &desired, &own);
            if name == "per-board" {
                let others = format!("{base}/press-04/{channel}");
                only_the_second(&board, &host, &others, &own);
            }
        }
        let digest = "ab".repeat(32);
        let blob = format!("edgeward/v1/blob/{digest}/0");
        only_the_second(&board, &host, &blob, &format!("{base}/press-03/state"));
        let own = format!("{base}/press-03/down/ack");
        let commands = format!("{base}/press-03/down/cmd");
        for topic in [&desired, &own, &commands, &format!("{base}/root/2"), &blob] {
            let granted = board.subscribe_and_wait(topic, PATIENCE);
            granted.expect("a board may read what is for it");
            only_the_second(&host, &board, "edgeward/v1/elsewhere", topic);
        }
        if name == "per-board" {
            let others = format!("{base}/press-04/down/ack");
            board.subscribe(&others);
            only_the_second(&host, &board, &others, &own);
        }
    }
}
