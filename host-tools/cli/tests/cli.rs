//! The command as a person or a script uses it: real processes, exit codes, and JSON whose field
//! names stay.
//!
//! Field names are compared with `tests/snapshots`; `EDGEWARD_BLESS=1` writes them anew.

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder of its own, in which commands run.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgeward"));
        command.current_dir(self.folder.path()).args(args);
        for name in ["HOME", "OUTPUT", "CONFIG", "FLEET", "BROKER", "LOG"] {
            command.env_remove(format!("EDGEWARD_{name}"));
        }
        command
    }

    /// Runs the command and expects its exit code.
    fn run(&self, args: &[&str], exit: i32) -> Output {
        let output = self.command(args).output().expect("the command starts");
        assert_eq!(
            output.status.code(),
            Some(exit),
            "{args:?}: {}",
            text(&output.stderr)
        );
        output
    }

    /// Runs the command with `-o json`.
    fn json(&self, args: &[&str], exit: i32) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat(), exit);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("JSON on stdout: {}", text(&output.stdout)))
    }

    /// Makes keys and packs the motion model's first release, signed.
    fn with_bundle() -> Self {
        let place = Self::new();
        place.run(&["keys", "init"], 0);
        place.run(
            &["pack", &model("v1.toml"), "--out", "v1.bundle", "--sign"],
            0,
        );
        place
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn model(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    folder.join(name).display().to_string()
}

/// Every path of field names in `value`, list entries as `[]`.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = format!("{at}.{name}");
                found.insert(path.clone());
                fields(value, &path, found);
            }
        }
        Value::Array(values) => {
            for value in values {
                fields(value, &format!("{at}[]"), found);
            }
        }
        _ => {}
    }
}

/// Compares the field names of `value` with the snapshot.
fn snapshot(name: &str, value: &Value) {
    let mut found = BTreeSet::new();
    fields(value, "", &mut found);
    let found: String = found.into_iter().map(|path| path + "\n").collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/snapshots/{name}.txt"));
    if std::env::var_os("EDGEWARD_BLESS").is_some() {
        std::fs::write(&path, &found).expect("the snapshot is written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "{name}: field names changed; scripts rely on them"
    );
}

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
fn keys_are_made_listed_rotated_revoked_and_exported() {
    let place = Place::new();
    let output = place.run(&["keys", "list"], 1);
    assert!(text(&output.stderr).contains("next: make keys with `edgeward keys init`"));
    place.run(&["keys", "init", "--dry-run"], 0);
    assert!(!place.path(".edgeward").exists());
    let first = place.json(&["keys", "init", "--release", "1/2"], 0);
    snapshot("keys-list", &first);
    assert_eq!(
        (
            first["root_version"].as_u64(),
            first["keys"].as_array().map(Vec::len)
        ),
        (Some(1), Some(5))
    );
    place.run(&["keys", "init"], 1);
    let rotated = place.json(&["keys", "rotate", "rollout"], 0);
    assert_eq!(rotated["root_version"], 2);
    let release = first["keys"]
        .as_array()
        .and_then(|keys| keys.iter().find(|key| key["role"] == "release"));
    let id = release
        .and_then(|key| key["key"].as_str())
        .expect("a release key");
    place.run(&["keys", "revoke", id], 0);
    let left = place.json(&["keys", "export", "--role", "release"], 0);
    snapshot("keys-export", &left);
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    let second = left[0]["key"].as_str().expect("an id");
    let output = place.run(&["keys", "revoke", second], 1);
    assert!(text(&output.stderr).contains("--replace"));
    place.run(&["keys", "revoke", "zz"], 2);
    let pem = place.run(&["keys", "export", "--role", "root", "--pem"], 0);
    assert!(text(&pem.stdout).starts_with("-----BEGIN PUBLIC KEY-----\n"));
    place.run(&["keys", "export", "--root", "root.cose"], 0);
    assert!(place.path("root.cose").exists());
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
}

#[test]
fn devices_are_enrolled_and_forgotten() {
    let place = Place::new();
    let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    let shown = place.json(&["device", "enroll", "board-1", "--key", key], 0);
    snapshot("device-show", &shown);
    assert_eq!(
        place.json(&["device", "list"], 0).as_array().map(Vec::len),
        Some(1)
    );
    place.run(&["device", "enroll", "board-2", "--key", "12"], 2);
    place.run(&["device", "enroll", "a/b", "--key", key], 2);
    place.run(&["device", "show", "board-2"], 1);
    let other = key.replace("19bf", "29bf");
    place.run(&["device", "enroll", "board-1", "--key", &other], 1);
    let forgotten = place.json(&["device", "forget", "board-1", "--dry-run"], 0);
    assert_eq!(forgotten["device"], "board-1");
    place.run(&["device", "show", "board-1"], 0);
    place.run(&["device", "forget", "board-1"], 0);
    place.run(&["device", "show", "board-1"], 1);
}

#[test]
fn a_model_is_understood() {
    let place = Place::new();
    let import = place.json(&["import", &model("motion-v1.onnx")], 0);
    snapshot("import", &import);
    assert_eq!(import["quantization"], "QDQ");
    assert_eq!(
        (&import["boards"][0]["class"], &import["boards"][0]["runs"]),
        (&"linux".into(), &true.into())
    );
    assert_eq!(import["boards"][0]["engine"], "program");
    assert_eq!(import["boards"][1]["runs"], true);
    let float = place.json(&["import", &model("motion-v1-float.onnx")], 0);
    assert_eq!(float["boards"][0]["engine"], "tract");
    assert_eq!(float["boards"][1]["runs"], false);
    let why = float["boards"][1]["why"].as_str().unwrap_or_default();
    assert!(
        why.contains("Conv (conv1)") && why.contains("quantize"),
        "{why}"
    );
    std::fs::write(place.path("no.onnx"), b"not a model").expect("written");
    let output = place.run(&["import", "no.onnx"], 1);
    assert!(text(&output.stderr).contains("next: "));
    place.run(&["import", "absent.onnx"], 1);
}

/// Release 1 asks for tract; release 2 is int8 all through and becomes a program by itself.
#[test]
fn a_release_carries_what_its_engine_wants() {
    let place = Place::new();
    let kinds = |bundle: &str| {
        let inspection = place.json(&["inspect", bundle], 0);
        let sections = inspection["sections"].as_array().cloned();
        let kind = |section: &Value| section["kind"].as_str().map(str::to_owned);
        let kinds: Vec<_> = sections.iter().flatten().filter_map(kind).collect();
        (inspection, kinds)
    };
    let packed = place.json(&["pack", &model("v1.toml"), "--out", "v1.bundle"], 0);
    assert_eq!(packed["engine"], "tract");
    let (inspection, sections) = kinds("v1.bundle");
    assert!(inspection["program"].is_null());
    assert!(sections.contains(&"tract_model".into()) && !sections.contains(&"program".into()));
    let packed = place.json(&["pack", &model("v2.toml"), "--out", "v2.bundle"], 0);
    assert_eq!(packed["engine"], "program");
    let (inspection, sections) = kinds("v2.bundle");
    assert_eq!(inspection["kernels"], "natural");
    let listing = inspection["program"].as_array().expect("a listing");
    let text = |line: &Value| line.as_str().unwrap_or_default().to_owned();
    assert!(listing.iter().any(|line| text(line).contains("Conv")));
    assert!(sections.contains(&"program".into()) && !sections.contains(&"tract_model".into()));
    let evaluation = place.json(&["eval", "v2.bundle", "--data", &model("test.csv")], 0);
    assert_eq!(evaluation["accuracy"], 1.0);
}

/// One model for three targets: each in its layout, with the golden vectors run on that very layout.
#[test]
fn a_release_is_laid_out_for_its_boards() {
    let place = Place::new();
    let manifest = model("v2.toml");
    for (target, class, kernels, layout) in [
        ("linux", "linux", "natural", "weights natural"),
        ("cortex-m", "mcu", "cortex-m", "weights Cortex-M DSP"),
        ("mcu", "mcu", "natural", "weights natural"),
    ] {
        let bundle = format!("{target}.bundle");
        let packed = place.json(
            &["pack", &manifest, "--target", target, "--out", &bundle],
            0,
        );
        assert_eq!(
            (&packed["class"], &packed["kernels"]),
            (&class.into(), &kernels.into())
        );
        let mode = packed["engine_mode"].as_str().unwrap_or_default();
        assert_eq!(mode.contains("portable kernels"), class == "mcu", "{mode}");
        assert!(
            packed["program"]["peak"][0]["bytes"].is_number(),
            "{packed}"
        );
        for (board, taken) in [("linux", class == "linux"), ("mcu", class == "mcu")] {
            let inspection = place.json(&["inspect", &bundle, "--class", board], 0);
            assert_eq!(inspection["kernels"], kernels);
            let head = inspection["program"][0].as_str().unwrap_or_default();
            assert!(head.contains(layout), "{head}");
            let refusals = inspection["refusals"].as_array().cloned();
            let refusals = refusals.unwrap_or_default();
            let fit = refusals.iter().any(|refusal| refusal["check"] == "fit");
            assert_eq!(fit, !taken, "{target} on {board}: {refusals:?}");
        }
        // Whoever evaluates it here runs it by the portable kernels, if need be.
        let evaluation = place.json(&["eval", &bundle, "--data", &model("test.csv")], 0);
        assert_eq!(evaluation["accuracy"], 1.0);
    }
    // Release 1 asks for tract, which no microcontroller runs.
    let refused = place.run(&["pack", &model("v1.toml"), "--target", "cortex-m"], 1);
    assert!(
        text(&refused.stderr).contains("microcontrollers run int8 programs alone"),
        "{}",
        text(&refused.stderr)
    );
    let said = place.run(&["pack", &manifest, "--target", "mcu", "--dry-run"], 0);
    let said = text(&said.stdout);
    assert!(
        said.contains("for mcu boards with natural kernels"),
        "{said}"
    );
    assert!(said.contains("peak      at operator"), "{said}");
}

#[test]
fn a_float_model_is_quantized() {
    let place = Place::new();
    let windows = |value: f32| {
        let wave = |at: usize| value + (at % 50) as f32 / 50.0 - (at / 300) as f32 / 10.0;
        let values = (0..3000).map(wave).collect();
        edgeward_host::npy::Array::f32(&[10, 6, 50], values).expect("it fits")
    };
    std::fs::write(place.path("windows.npy"), windows(0.0).to_bytes()).expect("written");
    std::fs::write(place.path("nan.npy"), windows(f32::NAN).to_bytes()).expect("written");
    std::fs::write(
        place.path("labels.csv"),
        "label\n0\n1\n2\n3\n0\n1\n2\n3\n0\n1\n",
    )
    .expect("written");
    let float = model("motion-v1-float.onnx");
    let common = [
        "quantize",
        &float,
        "--calibrate",
        "windows.npy",
        "-f",
        "int8.onnx",
    ];
    let dry = place.json(&[&common[..], &["--dry-run"]].concat(), 0);
    assert_eq!(dry["rows"], 10);
    assert!(
        !place.path("int8.onnx").exists(),
        "a dry run writes nothing"
    );
    let labelled = [
        &common[..],
        &["--labels", "labels.csv", "--method", "percentile"],
    ]
    .concat();
    let made = place.json(&labelled, 0);
    assert_eq!(
        (&made["method"], &made["percentile"]),
        (&"percentile".into(), &99.99.into())
    );
    assert!(made["comparison"]["accuracy_int8"].is_number(), "{made}");
    assert_eq!(made["comparison"]["on"], "calibration");
    std::fs::copy(place.path("windows.npy"), place.path("eval.npy")).expect("copied");
    let judged = place.json(&[&labelled[..], &["--eval", "eval.npy"]].concat(), 0);
    assert_eq!(judged["comparison"]["on"], "eval");
    assert_eq!(judged["comparison"]["rows"], 10);
    let import = place.json(&["import", "int8.onnx"], 0);
    assert_eq!(import["boards"][0]["engine"], "program");
    let said = place.run(&labelled, 0);
    assert!(
        text(&said.stdout).contains("WIDEST RANGES")
            && text(&said.stdout).contains("which flatters"),
        "{}",
        text(&said.stdout)
    );
    let nan = place.run(&["quantize", &float, "--calibrate", "nan.npy"], 1);
    assert!(
        text(&nan.stderr).contains("element 0 of row 0"),
        "{}",
        text(&nan.stderr)
    );
    let twice = place.run(&["quantize", "int8.onnx", "--calibrate", "windows.npy"], 3);
    assert!(
        text(&twice.stderr).contains("next: give the float model"),
        "{}",
        text(&twice.stderr)
    );
}

#[test]
fn a_release_is_packed_signed_verified_evaluated_and_run() {
    let place = Place::new();
    // A key that is missing is found out before the work.
    let output = place.run(
        &["pack", &model("v1.toml"), "--out", "v1.bundle", "--sign"],
        1,
    );
    assert!(text(&output.stderr).contains("keys init"));
    place.run(&["keys", "init"], 0);
    let packed = place.json(&["pack", &model("v1.toml"), "--out", "v1.bundle"], 0);
    snapshot("pack", &packed);
    assert_eq!(packed["golden"]["made_by"], "file");
    assert_eq!(packed["written"], true);
    // The same input gives the same release.
    let again = place.json(
        &[
            "pack",
            &model("v1.toml"),
            "--out",
            "again.bundle",
            "--dry-run",
        ],
        0,
    );
    assert_eq!(again["digest"], packed["digest"]);
    assert!(!place.path("again.bundle").exists());
    assert_eq!(packed["trial_p99_us"], 100_000);
    // A file to write never hides what the environment says of the format.
    let mut command = place.command(&["pack", &model("v1.toml"), "-f", "v1.bundle"]);
    let output = command.env("EDGEWARD_OUTPUT", "json").output();
    let by_env: Value = serde_json::from_slice(&output.expect("it starts").stdout).expect("JSON");
    assert_eq!(by_env["digest"], packed["digest"]);
    let budgeted = place.run(&["pack", &model("v1.toml"), "--dry-run"], 0);
    assert!(text(&budgeted.stdout).contains("p99 at most 100000 us on trial"));
    let manifest = altered(&place, "latency_p99_us = 100_000", "latency_p99_us = 0");
    let unbudgeted = place.run(&["pack", &manifest, "--dry-run"], 0);
    assert!(text(&unbudgeted.stdout).contains("no budget"));
    let taken = place.run(&["pack", &model("v1.toml"), "-o", "v1.bundle"], 2);
    assert!(text(&taken.stderr).contains("--out FILE"));

    let unsigned = place.json(&["verify", "v1.bundle"], 3);
    assert_eq!(unsigned["refusals"][0]["check"], "signature");
    let signed = place.json(&["sign", "v1.bundle"], 0);
    snapshot("sign", &signed);
    let verified = place.json(&["verify", "v1.bundle"], 0);
    snapshot("verify", &verified);
    assert_eq!(
        (&verified["ok"], &verified["digest"]),
        (&true.into(), &packed["digest"])
    );
    snapshot("inspect", &place.json(&["inspect", "v1.bundle"], 0));
    let shown = text(&place.run(&["inspect", "v1.bundle"], 0).stdout);
    assert!(shown.contains("this board would take it\n"), "{shown}");

    let evaluation = place.json(&["eval", "v1.bundle", "--data", &model("test.csv")], 0);
    snapshot("eval", &evaluation);
    assert!(
        evaluation["accuracy"].as_f64() >= Some(0.95),
        "{evaluation}"
    );
    assert_eq!(
        (
            evaluation["predictions"].as_u64(),
            evaluation["errors"].as_u64()
        ),
        (Some(240), Some(0))
    );
    let by_toml = place.json(
        &["eval", &model("v1.toml"), "--data", &model("test.csv")],
        0,
    );
    assert_eq!(by_toml["accuracy"], evaluation["accuracy"]);
}

#[test]
fn predictions_come_from_stdin_as_lines() {
    let place = Place::with_bundle();
    let csv = std::fs::read_to_string(model("test.csv")).expect("the test data");
    let head: String = csv
        .lines()
        .take(61)
        .map(|line| format!("{line}\n"))
        .collect();
    let mut child = place
        .command(&["run", "v1.bundle", "--data", "-", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(head.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("it ends");
    let lines: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "60 samples, window 50, hop 10");
    snapshot("run", &lines[0]);
    assert_eq!(lines[1]["sample"], 59);
}

#[test]
fn a_board_refuses_what_is_not_for_it() {
    let place = Place::with_bundle();
    let refused = |args: &[&str], check: &str| {
        let report = place.json(&[&["verify", "v1.bundle"], args].concat(), 3);
        let found: Vec<_> = report["refusals"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|r| &r["check"])
            .collect();
        assert_eq!(found, [check], "{args:?}: {report}");
    };
    refused(&["--class", "mcu"], "fit");
    refused(&["--floor", "2"], "downgrade");
    refused(&["--slot-bytes", "4096"], "fit");
    place.run(&["verify", "v1.bundle", "--floor", "1"], 0);
    place.run(&["keys", "init", "--home", "other"], 0);
    refused(&["--home", "other"], "signature");
    refused(&["--root", "other/keys/root.cose"], "signature");

    let sound = std::fs::read(place.path("v1.bundle")).expect("the bundle");
    for at in [0, 70, sound.len() / 2, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        std::fs::write(place.path("bad.bundle"), &bytes).expect("written");
        place.run(&["verify", "bad.bundle"], 3);
    }
    std::fs::write(place.path("bad.bundle"), &sound[..sound.len() - 1]).expect("written");
    let output = place.run(&["verify", "bad.bundle"], 3);
    assert!(text(&output.stderr).contains("next: "));
    place.run(&["verify", "absent.bundle"], 1);
}

/// Copies the motion model's files and changes the manifest of release 1.
fn altered(place: &Place, from: &str, to: &str) -> String {
    for name in [
        "motion-v1.onnx",
        "train.csv",
        "outputs-v1.npy",
        "golden-v1-input.npy",
        "golden-v1-output.npy",
    ] {
        std::fs::copy(model(name), place.path(name)).expect("copied");
    }
    let manifest = std::fs::read_to_string(model("v1.toml")).expect("the manifest");
    assert!(manifest.contains(from), "{from}");
    std::fs::write(place.path("m.toml"), manifest.replace(from, to)).expect("written");
    "m.toml".to_owned()
}

#[test]
fn what_does_not_hold_is_not_packed() {
    let place = Place::new();
    let output = place.run(&["pack", &model("bad.toml"), "--out", "bad.bundle"], 3);
    let said = text(&output.stderr);
    assert!(
        said.contains("training-serving skew") && said.contains("--allow-skew"),
        "{said}"
    );
    assert!(!place.path("bad.bundle").exists());
    let allowed = place.json(
        &[
            "pack",
            &model("bad.toml"),
            "--out",
            "bad.bundle",
            "--allow-skew",
        ],
        0,
    );
    assert_eq!(allowed["skew"]["allowed"], true);

    let manifest = altered(&place, "[golden]", "[golden]");
    let mut golden = std::fs::read(place.path("golden-v1-output.npy")).expect("the vectors");
    let last = golden.len() - 4;
    golden[last..].copy_from_slice(&99.5f32.to_le_bytes());
    std::fs::write(place.path("golden-v1-output.npy"), golden).expect("written");
    let output = place.run(&["pack", &manifest], 3);
    let said = text(&output.stderr);
    assert!(
        said.contains("golden vector 9, element 3: expected 99.5"),
        "{said}"
    );
}

#[test]
fn without_golden_vectors_the_engine_must_be_asked_to_make_them() {
    let place = Place::new();
    let manifest = altered(&place, "counter = 1", "counter = 1");
    let text_of = std::fs::read_to_string(place.path(&manifest)).expect("the manifest");
    let end = text_of.find("[golden]").expect("a table");
    std::fs::write(place.path(&manifest), &text_of[..end]).expect("written");
    let output = place.run(&["pack", &manifest], 3);
    assert!(text(&output.stderr).contains("--golden-from-engine"));
    let packed = place.json(&["pack", &manifest, "--golden-from-engine"], 0);
    assert_eq!(packed["golden"]["made_by"], "engine");
    assert!(place.path("m.bundle").exists());
    let shown = text(
        &place
            .run(&["pack", &manifest, "--golden-from-engine"], 0)
            .stdout,
    );
    assert!(shown.contains("not correctness"), "{shown}");
}

#[test]
fn a_wrong_manifest_is_named() {
    let place = Place::new();
    for (from, to, exit, said) in [
        ("hop = 10", "hopp = 10", 2, "unknown field `hopp`"),
        ("hop = 10", "hop = 60", 2, "`input.hop`"),
        (
            "features-first",
            "samples-first",
            1,
            "the model's input has shape [1, 6, 50]",
        ),
        ("\"ax\", ", "\"a0\", ", 1, "there is no column `a0`"),
        ("train.csv", "absent.csv", 1, "absent.csv"),
        (
            "\"badminton\"]",
            "\"badminton\", \"rest\"]",
            1,
            "has 5 names",
        ),
        (
            "period_ms = 100",
            "period_ms = 100\ndrift_window = 3000",
            1,
            "takes more than half of the 4000 samples, and is compared with the rest; 6000 would",
        ),
    ] {
        let manifest = altered(&place, from, to);
        let output = place.run(&["pack", &manifest], exit);
        assert!(
            text(&output.stderr).contains(said),
            "{said}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_profile_is_measured() {
    let place = Place::new();
    let profile = place.json(&["profile", &model("v1.toml")], 0);
    snapshot("profile", &profile);
    assert_eq!(profile["summary"]["training_windows"], 240);
    assert_eq!(
        profile["profile"]["features"].as_array().map(Vec::len),
        Some(6)
    );
}

#[test]
fn held_out_data_measures_the_predictions() {
    let place = Place::new();
    let line = "training = \"train.csv\"";
    let manifest = altered(&place, line, &format!("{line}\nvalidation = \"test.csv\""));
    std::fs::copy(model("test.csv"), place.path("test.csv")).expect("copied");
    let with = place.json(&["profile", &manifest], 0);
    let without = place.json(&["profile", &model("v1.toml")], 0);
    let mean = |profile: &Value| profile["profile"]["output"]["score_mean"].as_f64();
    assert!(mean(&with) < mean(&without), "{with}");
    assert_eq!(
        with["profile"]["features"][0]["mean"],
        without["profile"]["features"][0]["mean"]
    );
}
