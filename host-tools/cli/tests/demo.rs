//! The demo is the end-to-end test: real processes, real broker traffic, no mock in the path.

#[allow(dead_code, reason = "each test takes what it needs")]
mod common;

use common::process::text;
use common::{Place, firmware, run};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock};

/// The demo with an emulated board wants the machine for itself: the others run side by side.
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs the demo and returns its report, failing with the steps that went wrong.
fn demo(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_edgeward"))
        .args(["demo", "-o", "json"])
        .args(arguments)
        .output()
        .expect("the edgeward binary starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON ({error}) from the demo; stderr:\n{stderr}"));
    let steps = report["steps"].as_array().expect("steps");
    let wrong: Vec<_> = steps.iter().filter(|step| step["ok"] != true).collect();
    assert!(
        wrong.is_empty(),
        "steps that went wrong: {wrong:#?}\nstderr:\n{stderr}"
    );
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(output.status.code(), Some(0), "stderr:\n{stderr}");
    report
}

/// What every run of the demo must show, whatever the broker and the boards: `of` says which.
fn check(report: &serde_json::Value, of: &str) {
    // Evidence is of another shape for each step.
    let mut shape = report.clone();
    for step in shape["steps"].as_array_mut().into_iter().flatten() {
        step["evidence"] = serde_json::Value::Null;
    }
    common::snapshot("demo", &shape);
    // Shown whether or not the test passes: how long it takes is the machine's matter.
    let seconds = report["seconds"].as_f64().expect("seconds");
    writeln!(std::io::stderr(), "the demo {of}: {seconds:.1} s").expect("stderr takes it");
    assert!(seconds > 0.0, "{report:#}");
    assert_eq!(report["allocations_per_inference"], 0.0, "{report:#}");
    let names: Vec<_> = report["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|step| step["name"].as_str())
        .collect();
    for part in [
        "both engines",
        "release 1",
        "accuracy",
        "allocations",
        "gain drift",
        "swapped axes",
        "stuck channel",
        "missing samples",
        "NaN",
        "stale",
        "duplicate",
        "release 2",
        "flight record",
        "release 3",
        "rollout stops",
        "forged",
        "downgrade",
        "board class",
        "corrupted chunk",
        "killed in mid-download",
        "broker stops",
    ] {
        assert!(
            names.iter().any(|name| name.contains(part)),
            "no step for {part} in {names:#?}"
        );
    }
    for step in report["steps"].as_array().into_iter().flatten() {
        assert!(
            !step["evidence"].is_null(),
            "a step without evidence: {step:#}"
        );
    }
}

/// The names of the steps about the board in QEMU, each of which must be there.
const ON_THE_BOARD: [&str; 20] = [
    "the same releases for a microcontroller",
    "an emulated microcontroller comes up",
    "the microcontroller predicts",
    "gain drift, press-1",
    "swapped axes, press-1",
    "stuck channel, press-1",
    "missing samples, press-1",
    "missing values, press-1",
    "NaN, press-1",
    "stale sample, press-1",
    "duplicate, press-1",
    "microcontroller killed in mid-trial",
    "microcontroller's flight record",
    "release 3 fails its trial on press-1",
    "forged signature, press-1",
    "downgrade, press-1",
    "another board class, press-1",
    "corrupted chunk on the broker, press-1",
    "microcontroller killed in mid-download",
    "nothing of the microcontroller is missing",
];

#[test]
fn the_whole_loop_with_a_microcontroller_in_qemu() {
    let Some(image) = firmware::image() else {
        return;
    };
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let report = demo(&["--board", "qemu-mps2-an386", "--image", &image]);
    check(&report, "with a microcontroller in QEMU");
    let step = |name: &str| {
        let steps = report["steps"].as_array().into_iter().flatten();
        let mut found = steps.filter(|step| step["name"] == name);
        found.next().unwrap_or_else(|| panic!("no step {name}"))
    };
    for name in ON_THE_BOARD {
        step(name);
    }
    let seen = |name: &str| step(name)["seen"].as_str().unwrap_or_default().to_owned();
    let first = seen("release 1 reaches the fleet");
    assert!(first.starts_with("4 boards confirmed"), "{first}");
    // The whole steps are judged by the demo; here it is the proof that lies beside them.
    let evidence = |name: &str| &step(name)["evidence"];
    let flight = evidence("microcontroller's flight record");
    let replay = &flight["replay"]["releases"][0];
    let equal = replay["equal"].as_u64().expect("a number of inferences");
    assert!(equal >= 10, "{flight}");
    assert_eq!(replay["replayed"], equal, "{flight}");
    let download = evidence("microcontroller killed in mid-download");
    let resumed = &download["resumed"]["body"]["Resumed"];
    assert!(resumed["kept"].as_u64() > Some(0), "{download}");
    let whole = evidence("nothing of the microcontroller is missing");
    // Once at first, without a fault, for each fault, slow, killed in mid-trial and in mid-download.
    assert_eq!(whole["boots"], 13, "{whole}");
}

/// A folder with a program for each name, which is all of `PATH`: each does what the script says.
fn programs(place: &Place, scripts: &[(&str, &str)]) -> String {
    let folder = place.path("bin");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, script) in scripts {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        let may_run = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, may_run).expect("it may run");
    }
    folder.display().to_string()
}

#[test]
fn what_a_board_in_the_demo_lacks_is_said_before_anything_is_started() {
    let demo = ["demo", "--board", "qemu-mps2-an386", "-o", "json"];
    let place = Place::new();
    let refused = |path: String, within: &str, exit: i32| {
        let mut command = place.command(&demo);
        command.env("PATH", path).current_dir(within);
        let output = run(&mut command, exit);
        let said = text(&output.stderr);
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
        // Neither a title nor a step: nothing but what is built, and the error.
        assert!(!said.contains(" s] ") && !said.contains("ok  "), "{said}");
        let last = said.lines().last().unwrap_or_default();
        let error: serde_json::Value = serde_json::from_str(last).expect(&said);
        let word = |of: &str| error[of].as_str().unwrap_or_default().to_owned();
        (word("error"), word("next"))
    };
    let here = env!("CARGO_MANIFEST_DIR");
    let (error, next) = refused(programs(&place, &[]), here, 1);
    assert!(error.contains("qemu-system-arm"), "{error}");
    assert!(next.contains("apt-get install qemu-system-arm"), "{next}");

    let qemu = ("qemu-system-arm", "exit 0");
    let (error, next) = refused(programs(&place, &[qemu]), here, 1);
    assert!(error.contains("cargo"), "{error}");
    assert!(next.contains("rustup.rs"), "{next}");

    let outside = place.folder().display().to_string();
    let (error, next) = refused(programs(&place, &[qemu]), &outside, 1);
    assert!(error.contains("boards/qemu-mps2-an386"), "{error}");
    assert!(next.contains("checkout"), "{next}");

    let without_target = (
        "cargo",
        "[ \"$*\" = \"xtask board-image qemu-mps2-an386\" ] && exit 1; echo /dev/null",
    );
    let (error, next) = refused(programs(&place, &[qemu, without_target]), here, 1);
    assert!(error.contains("board-image"), "{error}");
    assert!(next.contains("rustup target add thumbv7em"), "{next}");

    // What can't be is no matter of what lacks.
    let other = |board: &str| place.error(&["demo", "--board", board], 2)["next"].clone();
    assert!(other("nucleo-h743zi").to_string().contains("board list"));
    assert!(other("toaster").to_string().contains("qemu-mps2-an386"));
    std::fs::write(place.path("no.elf"), "no image").expect("written");
    let mut command = place.command(&[&demo[..], &["--image", "no.elf"]].concat());
    command.env("PATH", programs(&place, &[qemu]));
    let said = text(&run(&mut command, 1).stderr);
    assert!(said.contains("no.elf is no firmware"), "{said}");
}

#[test]
fn the_whole_loop_on_the_embedded_broker() {
    let _beside = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    check(&demo(&[]), "on the embedded broker");
}

#[test]
fn the_whole_loop_on_mosquitto() {
    let Some(mosquitto) = std::env::var_os("EDGEWARD_MOSQUITTO") else {
        eprintln!("skipped: EDGEWARD_MOSQUITTO names no Mosquitto; `cargo xtask test` installs it");
        return;
    };
    assert!(
        Path::new(&mosquitto).exists(),
        "EDGEWARD_MOSQUITTO names no file"
    );
    let _beside = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    check(
        &demo(&["--mosquitto", &mosquitto.to_string_lossy()]),
        "on Mosquitto",
    );
}
