//! Releases: packed, signed, verified, evaluated and run.

use crate::altered;
use crate::common::process::text;
use crate::common::{Place, model, snapshot};
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, SectionKind};
use edgeward_host::npy::Array;
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

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
    snapshot("inspect-program", &inspection);
    assert_eq!(inspection["kernels"], "natural");
    let listing = inspection["program"].as_array().expect("a listing");
    let text = |line: &Value| line.as_str().unwrap_or_default().to_owned();
    assert!(listing.iter().any(|line| text(line).contains("Conv")));
    assert!(sections.contains(&"program".into()) && !sections.contains(&"tract_model".into()));
    let evaluation = place.json(&["eval", "v2.bundle", "--data", &model("test.csv")], 0);
    assert_eq!(evaluation["accuracy"], 1.0);
}

/// Release 2 for a program and tract, with other text in the place of its `[golden]` table.
fn both(place: &Place, golden: &str) {
    for name in ["motion-v2.onnx", "train.csv", "outputs-v2.npy"] {
        std::fs::copy(model(name), place.path(name)).expect("copied");
    }
    let manifest = std::fs::read_to_string(model("v2.toml")).expect("the manifest");
    let line = "model = \"motion-v2.onnx\"";
    assert!(manifest.contains(line));
    let manifest = manifest.replace(line, &format!("{line}\nengine = \"both\""));
    let (before, golden_on) = manifest.split_once("[golden]").expect("a table");
    let (_, policy) = golden_on.split_once("[policy]").expect("a table");
    let text = format!("{before}{golden}\n[policy]{policy}");
    std::fs::write(place.path("both.toml"), text).expect("written");
}

/// A `[golden]` table of the example's vectors, or of others.
fn golden(input: &str, output: &str, tolerance: f64) -> String {
    format!("[golden]\ninput = {input:?}\noutput = {output:?}\ntolerance = {tolerance}")
}

#[test]
fn a_release_may_carry_a_program_and_its_onnx_file() {
    let place = Place::new();
    let (input, output) = (model("golden-v2-input.npy"), model("golden-v2-output.npy"));
    both(&place, &golden(&input, &output, 0.45));
    let packed = place.json(&["pack", "both.toml", "--out", "both.bundle"], 0);
    assert_eq!(packed["engine"], "program");
    snapshot("pack-both", &packed);
    let inspection = place.json(&["inspect", "both.bundle"], 0);
    assert_eq!(inspection["kernels"], "natural");
    let sections = inspection["sections"].as_array().into_iter().flatten();
    let kinds: Vec<_> = sections
        .filter_map(|section| section["kind"].as_str())
        .collect();
    assert!(kinds.contains(&"program") && kinds.contains(&"tract_model"));
    let evaluation = place.json(&["eval", "both.bundle", "--data", &model("test.csv")], 0);
    assert_eq!(evaluation["accuracy"], 1.0);
}

/// The lab's vectors hold for whoever takes the ONNX file out of the bundle, too; the program's own hold for the
/// program alone, since tract rounds otherwise.
#[test]
fn tract_beside_a_program_keeps_to_the_labs_vectors() {
    let place = Place::new();
    both(&place, "");
    // Without a table: the program makes the vectors, and tract is measured.
    let arguments = ["pack", "both.toml", "--golden-from-engine"];
    let packed = place.json(&[&arguments[..], &["--out", "own.bundle"]].concat(), 0);
    assert_eq!(packed["golden"]["made_by"], "engine");
    assert_eq!(packed["golden"]["largest_error"], 0.0);
    let apart = packed["golden"]["tract_error"].as_f64().expect("measured");
    assert!(apart > 0.0, "tract gives what the program does: {packed}");
    let shown = text(&place.run(&arguments, 0).stdout);
    let line = shown.lines().find(|line| line.contains("tract, with"));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{shown}");
    let evaluation = place.json(&["eval", "both.toml", "--data", &model("test.csv")], 0);
    assert_eq!(evaluation["accuracy"], 1.0);

    // The same vectors as a lab's, with a tolerance that the program keeps to and tract does not.
    let bytes = std::fs::read(place.path("own.bundle")).expect("a bundle");
    let bundle = Bundle::open(&bytes).expect("a bundle");
    let golden_of = bundle.section(SectionKind::Golden).expect("a section");
    let vectors = Golden::parse(golden_of).expect("golden vectors");
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for vector in vectors.iter() {
        inputs.extend(vector.input.iter());
        outputs.extend(vector.output.iter());
    }
    let count = vectors.count() as usize;
    for (name, values, width) in [
        ("in.npy", inputs, vectors.input_len()),
        ("out.npy", outputs, vectors.output_len()),
    ] {
        let array = Array::f32(&[count, width], values).expect("rows of that width");
        std::fs::write(place.path(name), array.to_bytes()).expect("written");
    }
    both(&place, &golden("in.npy", "out.npy", apart / 2.0));
    let refused = place.error(&["pack", "-q", "both.toml", "--out", "refused.bundle"], 3);
    let said = refused["error"].as_str().expect("an error");
    assert!(said.contains(", tract gives "), "{said}");
    let next = refused["next"].as_str().expect("advice");
    assert!(next.contains("engine = \"program\""), "{next}");
    assert!(!place.path("refused.bundle").exists());
    // What the advice says helps: the program alone, or a tolerance for both.
    let manifest = std::fs::read_to_string(place.path("both.toml")).expect("the manifest");
    let alone = manifest.replace("engine = \"both\"", "engine = \"program\"");
    std::fs::write(place.path("alone.toml"), alone).expect("written");
    let packed = place.json(&["pack", "alone.toml", "--dry-run"], 0);
    assert_eq!(packed["golden"]["largest_error"], 0.0);
    assert!(packed["golden"]["tract_error"].is_null());
    both(&place, &golden("in.npy", "out.npy", apart));
    let packed = place.json(&["pack", "both.toml", "--dry-run"], 0);
    assert_eq!(packed["golden"]["tract_error"], apart);

    // And a program that misses them is named as the one that does.
    let (input, output) = (model("golden-v2-input.npy"), model("golden-v2-output.npy"));
    both(&place, &golden(&input, &output, 0.001));
    let refused = place.error(&["pack", "-q", "both.toml", "--dry-run"], 3);
    let said = refused["error"].as_str().expect("an error");
    assert!(said.contains(", the program gives "), "{said}");
    let next = refused["next"].as_str().expect("advice");
    assert!(next.contains("one step"), "{next}");
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
fn what_eval_could_not_judge_it_says() {
    let place = Place::with_bundle();
    let csv = std::fs::read_to_string(model("test.csv")).expect("the test data");
    let column = |line: &str| {
        let fields = line.split(',');
        let header = csv.lines().next().expect("a header").split(',');
        let kept = fields.zip(header).filter(|(_, name)| *name != "label");
        let kept: Vec<&str> = kept.map(|(field, _)| field).collect();
        kept.join(",") + "\n"
    };
    let few: String = csv.lines().take(61).map(column).collect();
    std::fs::write(place.path("few.csv"), few).expect("written");
    let eval = ["eval", "v1.bundle", "--data", "few.csv"];
    let seen = place.json(&eval, 0);
    assert!(seen["drift_window"].as_u64() > Some(60), "{seen}");
    let said = place.run(&eval, 0);
    let said = text(&said.stdout);
    let drift = format!(
        "drift was not judged: a window takes {} samples, and there are 60",
        seen["drift_window"]
    );
    assert!(said.contains(&drift), "{said}");
    assert!(
        said.contains("not judged: the data has no labels"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_not_there_is_said_to_be_absent() {
    let place = Place::new();
    for name in ["absent.onnx", "absent.toml"] {
        let said = place.run(&["run", name, "--data", "x.csv"], 2);
        let said = text(&said.stderr);
        assert!(said.contains(&format!("cannot read {name}")), "{said}");
        assert!(!said.contains("packing"), "{said}");
    }
    std::fs::write(place.path("m.toml"), "nam = 1\n").expect("written");
    let said = place.run(&["pack", "m.toml", "--out", "m.bundle"], 2);
    let said = text(&said.stderr);
    assert_eq!(said.matches("unknown field `nam`").count(), 1, "{said}");
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
fn quantization_costs_the_example_hardly_any_accuracy() {
    let place = Place::new();
    let accuracy = |manifest: &str| {
        let args = ["eval", &model(manifest), "--data", &model("test.csv")];
        let evaluation = place.json(&args, 0);
        evaluation["accuracy"].as_f64().expect("accuracy")
    };
    let float = accuracy("v1-float.toml");
    assert!(float >= 0.95, "{float}");
    for release in ["v1.toml", "v2.toml"] {
        let int8 = accuracy(release);
        assert!(
            (float - int8).abs() <= 0.02,
            "{release}: {int8}, float {float}"
        );
    }
}

#[test]
fn swapped_class_names_are_not_packed() {
    let place = Place::new();
    let manifest = altered(
        &place,
        "[\"standing\", \"running\", \"walking\", \"badminton\"]",
        "[\"running\", \"standing\", \"badminton\", \"walking\"]",
    );
    let output = place.run(&["pack", &manifest], 3);
    let said = text(&output.stderr);
    assert!(
        said.contains("% of the labelled windows")
            && said.contains("a guess would 25.0 %")
            && said.contains("`output.classes`")
            && said.contains("--allow-skew"),
        "{said}"
    );
    assert!(!place.path("m.bundle").exists());
    place.run(&["pack", &manifest, "--allow-skew"], 0);
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
            let operators = inspection["operators"].as_array().expect("operators");
            let predicted = |operator: &Value| operator["predicted_instructions"].as_u64();
            // What a Cortex-M takes is told of programs that are laid out for it, and of no other.
            let told = |it: &Value| match kernels {
                "cortex-m" => predicted(it) > Some(0),
                _ => it["predicted_instructions"].is_null(),
            };
            assert!(
                !operators.is_empty() && operators.iter().all(told),
                "{operators:?}"
            );
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
