//! The demo is the end-to-end test: real processes, real broker traffic, no mock in the path.

#[allow(dead_code, reason = "each test takes what it needs")]
mod common;

use std::path::Path;
use std::process::Command;

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

/// What every run of the demo must show, whatever the broker.
fn check(report: &serde_json::Value) {
    // Evidence is of another shape for each step.
    let mut shape = report.clone();
    for step in shape["steps"].as_array_mut().into_iter().flatten() {
        step["evidence"] = serde_json::Value::Null;
    }
    common::snapshot("demo", &shape);
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

#[test]
fn the_whole_loop_on_the_embedded_broker() {
    check(&demo(&[]));
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
    check(&demo(&["--mosquitto", &mosquitto.to_string_lossy()]));
}
