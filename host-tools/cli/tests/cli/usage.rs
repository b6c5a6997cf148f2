//! Wrong arguments, settings and where they come from, errors.

use crate::common::process::text;
use crate::common::{Place, model, run, snapshot};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn wrong_usage_exits_with_2_and_teaches() {
    let place = Place::new();
    place.run(&["pakc"], 2);
    place.run(&["keys", "rotate", "nobody"], 2);
    let output = place.run(&["keys", "list", "-o", "yaml"], 2);
    assert!(text(&output.stderr).contains("use table or json"));
    std::fs::write(place.path("edgeward.toml"), "hmoe = \"x\"\n").expect("written");
    let output = place.run(&["keys", "list"], 2);
    assert!(
        text(&output.stderr).contains("hmoe"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_time_that_no_clock_counts_is_wrong_usage() {
    let place = Place::new();
    let commands: [&[&str]; 8] = [
        &["rollout", "start", "a.bundle", "--soak"],
        &["rollout", "start", "a.bundle", "--deadline"],
        &["rollout", "start", "a.bundle", "--expires"],
        &["rollout", "status", "--timeout"],
        &["publish", "a.bundle", "--timeout"],
        &["watch", "--timeout"],
        &["watch", "--since"],
        &["device", "show", "b", "--since"],
    ];
    for command in commands {
        for seconds in ["18446744073709551615", "3162240001", "-1", "1.5"] {
            place.run(&[command, &[seconds]].concat(), 2);
        }
        // What comes next is that there are neither keys nor a store.
        place.run(&[command, &["3162240000"]].concat(), 1);
    }
    let never = ["rollout", "start", "a.bundle", "--expires", "0"];
    place.run(&never, 2);
}

#[test]
fn the_embedded_broker_is_no_other() {
    let place = Place::new();
    place.run(&["keys", "init"], 0);
    let serve = [
        "serve",
        "--with-broker",
        "--http",
        "127.0.0.1:0",
        "--dry-run",
    ];
    for other in ["site-broker", "mqtt://192.0.2.7:1884", "127.0.0.2", "[::1]"] {
        let error = place.error(&[&serve[..], &["--broker", other]].concat(), 2);
        let said = error["error"].as_str().expect("a sentence");
        assert!(said.contains("127.0.0.1") && said.contains(other), "{said}");
        assert!(error["next"].is_string());
        // Wherever it is named.
        let mut command = place.command(&serve);
        run(command.env("EDGEWARD_BROKER", other), 2);
    }
}

#[test]
fn settings_come_from_flag_then_environment_then_file() {
    let place = Place::new();
    std::fs::write(
        place.path("edgeward.toml"),
        "home = \"by-file\"\noutput = \"json\"\n",
    )
    .expect("written");
    let output = place.run(&["keys", "init"], 0);
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
    assert!(place.path("by-file/keys/root.cose").exists());
    let status = place
        .command(&["keys", "init"])
        .env("EDGEWARD_HOME", "by-env")
        .output()
        .expect("it starts")
        .status;
    assert_eq!(status.code(), Some(0));
    assert!(place.path("by-env/keys/root.cose").exists());
    let mut both = place.command(&["keys", "init", "--home", "by-flag"]);
    assert_eq!(
        both.env("EDGEWARD_HOME", "by-env")
            .output()
            .expect("it starts")
            .status
            .code(),
        Some(0)
    );
    assert!(place.path("by-flag/keys/root.cose").exists());
}

#[test]
fn the_home_in_a_file_is_relative_to_the_file() {
    let place = Place::new();
    std::fs::create_dir(place.path("site")).expect("a folder");
    std::fs::write(place.path("site/edgeward.toml"), "home = \"keep\"\n").expect("written");
    place.run(&["keys", "init", "--config", "site/edgeward.toml"], 0);
    assert!(place.path("site/keep/keys/root.cose").exists());
}

#[test]
fn the_file_sets_the_fleet_that_commands_concern() {
    let place = Place::new();
    std::fs::write(place.path("edgeward.toml"), "fleet = \"by-file\"\n").expect("written");
    let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    let enroll = ["device", "enroll", "b", "--dry-run", "--key", key];
    assert_eq!(place.json(&enroll, 0)["fleet"], "by-file");
    let by_flag = [&enroll[..], &["--fleet", "by-flag"]].concat();
    assert_eq!(place.json(&by_flag, 0)["fleet"], "by-flag");
    let mut command = place.command(&[&enroll[..], &["-o", "json"]].concat());
    let output = command
        .env("EDGEWARD_FLEET", "by-env")
        .output()
        .expect("it starts");
    let device: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(device["fleet"], "by-env");
}

#[test]
fn errors_are_json_where_json_was_asked_for() {
    let place = Place::new();
    let output = place.run(&["-o", "json", "keys", "list"], 1);
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON on stderr");
    assert_eq!(error["exit"], 1);
    assert!(error["error"].is_string() && error["next"].is_string());
    assert!(output.stdout.is_empty());
    snapshot("error", &error);
    // Arguments that are wrong are wrong in JSON too, whoever asked for it.
    for (args, says) in [
        (&["pakc"][..], "pakc"),
        (&["device", "enroll", "b"], "--key"),
        (&["keys", "rotate", "nobody"], "nobody"),
    ] {
        let error = place.error(args, 2);
        let said = error["error"].as_str().expect("a sentence");
        assert!(said.contains(says) && !said.contains("Usage"), "{said}");
        let mut command = place.command(args);
        let output = run(command.env("EDGEWARD_OUTPUT", "json"), 2);
        assert_eq!(
            serde_json::from_slice::<Value>(&output.stderr).ok(),
            Some(error)
        );
    }
}

/// What a command writes to a terminal, which both of its streams are.
fn on_a_terminal(place: &Place, args: &[&str], no_colour: &str) -> String {
    let command = place.command(args);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = |word: &OsStr| format!("'{}'", word.to_string_lossy());
    let line: Vec<String> = words.map(quoted).collect();
    let mut script = Command::new("script");
    script
        .args(["-q", "-e", "-c", &line.join(" "), "/dev/null"])
        .current_dir(place.folder())
        .env("TERM", "xterm")
        .env("NO_COLOR", no_colour);
    text(&run(&mut script, 0).stdout)
}

#[test]
fn bars_and_colours_are_for_terminals_and_data_is_alone_on_stdout() {
    let place = Place::with_bundle();
    let list = ["keys", "list"];
    let bold = "\x1b[1m";
    assert!(on_a_terminal(&place, &list, "").contains(bold));
    assert!(!on_a_terminal(&place, &list, "1").contains('\x1b'));
    assert!(!text(&place.run(&list, 0).stdout).contains('\x1b'));
    let eval = [
        "eval",
        "v1.bundle",
        "--data",
        &model("test.csv"),
        "-o",
        "json",
    ];
    let bar = "/4000";
    assert!(on_a_terminal(&place, &eval, "1").contains(bar));
    let quiet = [&eval[..], &["-q"]].concat();
    assert!(!on_a_terminal(&place, &quiet, "1").contains(bar));
    let piped = place.run(&eval, 0);
    assert_eq!(text(&piped.stderr), "");
    assert!(serde_json::from_slice::<Value>(&piped.stdout).is_ok());
    // What is being done goes to stderr, and can be silenced.
    let pack = ["pack", &model("v1.toml"), "--dry-run", "-o", "json"];
    let packed = place.run(&pack, 0);
    assert!(text(&packed.stderr).contains("packing motion"));
    assert!(serde_json::from_slice::<Value>(&packed.stdout).is_ok());
    assert_eq!(
        text(&place.run(&[&pack[..], &["-q"]].concat(), 0).stderr),
        ""
    );
}

#[test]
fn completions_know_every_command() {
    let place = Place::new();
    let help = text(&place.run(&["--help"], 0).stdout);
    let commands = help.split("Commands:").nth(1).expect("a list");
    let commands = commands.split("Options:").next().expect("its end");
    let name = |line: &'_ str| line.split_whitespace().next().map(str::to_owned);
    let names: Vec<String> = commands.lines().filter_map(name).collect();
    assert!(names.len() > 18, "{names:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&place.run(&["completions", shell], 0).stdout);
        for word in names
            .iter()
            .map(String::as_str)
            .chain(["enroll", "dry-run"])
        {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        let value = place.json(&["completions", shell], 0);
        snapshot("completions", &value);
        assert_eq!(
            (&value["shell"], &value["script"]),
            (&shell.into(), &script.into())
        );
    }
}

#[test]
fn what_is_no_file_is_not_written_over() {
    let place = Place::new();
    place.json(&["keys", "init"], 0);
    let socket = place.path("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    for dry_run in [&[][..], &["--dry-run"]] {
        let export = ["keys", "export", "--root", "socket"];
        let error = place.error(&[&export[..], dry_run].concat(), 1).to_string();
        assert!(error.contains("not a regular file"), "{error}");
        let begin = ["keys", "rotate", "release", "--partial", "socket"];
        place.error(&[&begin[..], dry_run].concat(), 1);
    }
    let kind = std::fs::metadata(&socket).expect("there").file_type();
    assert!(!kind.is_file());
}

#[test]
fn the_flash_of_a_board_is_for_its_owner_alone() {
    let place = Place::new();
    place.json(&["keys", "init"], 0);
    let flash = [
        "flash",
        "b-1",
        "--board",
        "qemu-mps2-an386",
        "--image",
        ".edgeward/keys/root.cose",
        "--no-start",
    ];
    let path = place.path("b-1/flash.bin");
    let mode = || {
        std::fs::metadata(&path)
            .expect("flash")
            .permissions()
            .mode()
            & 0o777
    };
    snapshot("flash", &place.json(&flash, 0));
    assert_eq!(mode(), 0o600);
    // One of before is closed, also where nothing in it changes.
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("opened");
    place.json(&flash, 0);
    assert_eq!(mode(), 0o600);
}

#[test]
fn a_log_wants_the_image_that_wrote_it() {
    let place = Place::new();
    std::fs::write(place.path("uart.log"), "\0half a line").expect("written");
    place.run(&["logs", "uart.log"], 2);
    let error = place.error(&["logs", "uart.log", "--image", "uart.log"], 1);
    assert!(error.to_string().contains("no ELF image"), "{error}");
    place.run(&["logs", "absent", "--image", "absent"], 1);
    let level = ["logs", "uart.log", "--image", "uart.log", "--level", "loud"];
    place.run(&level, 2);
}

#[test]
fn names_that_are_none_and_boards_that_nobody_enrolled_are_not_watched() {
    let place = Place::new();
    place.run(&["watch", "--fleet", "a/b"], 2);
    place.run(&["rollout", "status", "--fleet", ""], 2);
    let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    place.run(&["device", "enroll", "board-1", "--key", key], 0);
    let refused = place.run(&["watch", "--device", "nope", "--timeout", "1"], 1);
    assert!(text(&refused.stderr).contains("no device nope is enrolled"));
    place.run(&["watch", "--device", "board-1", "--timeout", "1"], 0);
}

#[test]
fn the_agent_is_a_command_like_the_others() {
    let place = Place::new();
    assert!(text(&place.run(&["--help"], 0).stdout).contains("\n  agent "));
    assert!(text(&place.run(&["help", "agent"], 0).stdout).contains("agent.toml"));
    for args in [&["agent", "--help"][..], &["-q", "agent", "--help"]] {
        let help = place.run(args, 0);
        assert!(text(&help.stdout).contains("--print-key"), "{args:?}");
    }
    place.run(&["-q", "agent", "--config", "absent.toml"], 1);
}
