//! Models before they are packed: understood, quantized, profiled.

use crate::altered;
use crate::common::process::text;
use crate::common::{Place, model, snapshot};
use edgeward_host::npy::Array;
use serde_json::Value;

#[path = "../../../../models/broken/files.rs"]
#[allow(dead_code, reason = "what each is told is for tests of the libraries")]
mod files;

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

#[test]
fn a_float_model_is_quantized() {
    let place = Place::new();
    let windows = |value: f32| {
        let wave = |at: usize| value + (at % 50) as f32 / 50.0 - (at / 300) as f32 / 10.0;
        let values = (0..3000).map(wave).collect();
        Array::f32(&[10, 6, 50], values).expect("it fits")
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
    snapshot("quantize", &made);
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
        text(&nan.stderr).contains("error: nan.npy: element 0 of row 0"),
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

/// An array of recordings says of the features what the CSV file with the same samples does; it has no labels.
#[test]
fn a_profile_is_measured_from_an_array() {
    let place = Place::new();
    let line = "training = \"train.csv\"";
    let manifest = altered(&place, line, "training = \"train.npy\"");
    let text_of = std::fs::read_to_string(model("train.csv")).expect("the data");
    let cells = |line: &str| -> Vec<f32> {
        let cells = line.split(',').skip(2);
        cells.map(|cell| cell.parse().expect("a number")).collect()
    };
    let values: Vec<f32> = text_of.lines().skip(1).flat_map(cells).collect();
    let write = |shape: &[usize]| {
        let array = Array::f32(shape, values.clone()).expect("that many values");
        std::fs::write(place.path("train.npy"), array.to_bytes()).expect("written");
    };
    write(&[40, 100, 6]);
    let of_csv = place.json(&["profile", &model("v1.toml")], 0);
    let of_npy = place.json(&["profile", &manifest], 0);
    assert_eq!(of_npy["profile"]["features"], of_csv["profile"]["features"]);
    for field in ["training_samples", "training_windows", "drift_window"] {
        assert_eq!(
            of_npy["summary"][field], of_csv["summary"][field],
            "{field}"
        );
    }
    assert_eq!(of_npy["summary"]["temperature_fitted"], false, "no labels");
    assert!(of_npy["summary"]["accuracy"].is_null());
    // Two dimensions are one recording, so that windows span what were its borders.
    write(&[4000, 6]);
    let manifest_of = std::fs::read_to_string(place.path(&manifest)).expect("the manifest");
    let without = manifest_of.replace("outputs = \"outputs-v1.npy\"", "");
    assert_ne!(manifest_of, without);
    std::fs::write(place.path(&manifest), without).expect("written");
    let flat = place.json(&["profile", &manifest], 0);
    assert_eq!(flat["summary"]["training_windows"], (4000 - 50) / 10 + 1);
    // Other columns than features are an error that says what is wanted.
    write(&[100, 40, 2, 3]);
    let error = place.error(&["profile", &manifest], 1)["error"].to_string();
    assert!(
        error.contains("train.npy") && error.contains("[recordings, samples, 6]"),
        "{error}"
    );
    std::fs::write(place.path("train.npy"), "ax,ay").expect("written");
    let error = place.error(&["profile", &manifest], 1)["error"].to_string();
    assert!(error.contains("not an NPY file"), "{error}");
}

#[test]
fn a_shortage_is_told_of_the_file_that_it_is_in() {
    let place = Place::new();
    let line = "training = \"train.csv\"";
    let manifest = altered(&place, line, &format!("{line}\nvalidation = \"test.csv\""));
    let few = |name: &str| {
        let all = std::fs::read_to_string(model(name)).expect("the data");
        let lines: Vec<_> = all.lines().take(121).collect();
        lines.join("\n")
    };
    std::fs::write(place.path("test.csv"), few("test.csv")).expect("written");
    let said = text(&place.run(&["pack", &manifest], 1).stderr);
    assert!(
        said.contains("test.csv: drift limits need 30 windows")
            && said.contains("predictions make"),
        "{said}"
    );

    std::fs::copy(model("test.csv"), place.path("test.csv")).expect("copied");
    std::fs::write(place.path("train.csv"), few("train.csv")).expect("written");
    // The lab's outputs are those of all windows.
    let whole = std::fs::read_to_string(place.path(&manifest)).expect("the manifest");
    let without = whole.replace("outputs = \"outputs-v1.npy\"", "");
    assert_ne!(whole, without);
    std::fs::write(place.path(&manifest), without).expect("written");
    let said = text(&place.run(&["pack", &manifest], 1).stderr);
    assert!(
        said.contains("train.csv: drift limits need 30 windows") && said.contains("samples make"),
        "{said}"
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

/// A file that can't be read at all ends with 1, a model that no board runs with 3; either says why and
/// what to do, and nothing else: a panic of a library that was caught is not reported.
#[test]
fn broken_models_are_refused() {
    let place = Place::new();
    files::write(place.folder()).expect("the models are written");
    let unreadable = [
        ("half-a-file.onnx", "not an ONNX model"),
        ("half-a-file.tflite", "broken TFLite file"),
        ("a-cycle-of-two.tflite", "before it is written"),
        ("a-missing-buffer.tflite", "buffer 77"),
        ("a-huge-image.tflite", "make the model smaller"),
        ("data-in-another-file.onnx", "lies in another file"),
        (
            "a-scale-at-the-input-that-is-no-number.onnx",
            "the scale NaN",
        ),
        ("a-kernel-that-its-weights-do-not-have.onnx", "[1, 3]"),
    ];
    for (file, why) in unreadable {
        let output = place.run(&["import", file], 1);
        let said = text(&output.stderr);
        assert!(
            said.contains(why) && said.contains("next: "),
            "{file}: {said}"
        );
        assert!(
            !said.contains("panicked") && output.stdout.is_empty(),
            "{said}"
        );
    }
    let refused = [
        ("sparse-weights.tflite", "dense weights"),
        (
            "an-operator-from-elsewhere.tflite",
            "operator 1 RANK, tensor \"classes\"",
        ),
        ("a-multiplier-that-overflows.tflite", "quantize again"),
        ("an-unknown-operator.onnx", "Warp (the Warp), tensor \"z\""),
        ("a-cycle.onnx", "no earlier node"),
    ];
    for (file, why) in refused {
        let output = place.run(&["import", file], 3);
        let said = text(&output.stdout);
        assert!(said.contains(why), "{file}: {said}");
        assert!(output.stderr.is_empty(), "{file}: {}", text(&output.stderr));
    }
}
