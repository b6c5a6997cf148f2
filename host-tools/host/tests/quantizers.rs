//! `edgeward quantize` beside ONNX Runtime's quantizer, on the example models and rows that calibrated
//! neither, by each way to find ranges. Motion's windows are seen at gains that it errs at, since of plain ones it misses none.
//!
//! The test runner sets `EDGEWARD_PYTHON` to an interpreter that has `models/digits/requirements.txt`.

use edgeward_host::data::load_npy;
use edgeward_host::npy::Array;
use edgeward_host::quantize::{Data, Method, Quantized, labels, quantize};
use std::path::Path;
use std::process::Command;

/// Most that accuracy may fall behind ONNX Runtime's quantizer: half a point.
const BEHIND: f64 = 0.005;
/// Most that outputs may be farther from the float model's than those of ONNX Runtime's quantizer. Two
/// networks are trained anew, so that figures differ from machine to machine.
const FARTHER: f64 = 1.2;

fn array(folder: &Path, model: &str, part: &str) -> Array {
    load_npy(&folder.join(format!("{model}-{part}.npy"))).expect("the script wrote it")
}

/// Share of rows whose largest output is the one labelled.
fn accuracy(outputs: &[f32], classes: &[i64]) -> f64 {
    let rows = outputs.chunks_exact(outputs.len() / classes.len());
    let right = rows.zip(classes).filter(|(row, class)| {
        let first = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
        (0..row.len()).fold(0, first) as i64 == **class
    });
    right.count() as f64 / classes.len() as f64
}

/// The float model's outputs, by tract.
fn float_outputs(model: &[u8], rows: &[f32], width: usize, outputs: usize) -> Vec<f32> {
    use edgeward::engine::Engine;
    use edgeward_host::model::{EngineChoice, Model};
    let mut model = Model::load(model, EngineChoice::Tract).expect("tract runs it");
    let mut all = Vec::new();
    let mut output = vec![0.0; outputs];
    for row in rows.chunks_exact(width) {
        model.engine.run(row, &mut output).expect("it runs");
        all.extend_from_slice(&output);
    }
    all
}

fn mean_difference(a: &[f32], b: &[f32]) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    differences.sum::<f64>() / a.len() as f64
}

#[test]
fn accuracy_and_outputs_are_those_of_onnx_runtimes_quantizer() {
    let Some(python) = std::env::var_os("EDGEWARD_PYTHON") else {
        println!("skipped: EDGEWARD_PYTHON names no Python with models/digits/requirements.txt");
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quantizers");
    std::fs::create_dir_all(&folder).expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quantizers.py");
    let made = Command::new(python).arg(script).arg(&folder).status();
    assert!(made.expect("EDGEWARD_PYTHON runs").success());
    let methods = [
        ("min-max", Method::MinMax),
        ("percentile", Method::Percentile(99.99)),
    ];
    for (model, (name, method)) in ["motion-1", "motion-2", "digits"]
        .into_iter()
        .flat_map(|model| methods.map(|method| (model, method)))
    {
        let float = std::fs::read(folder.join(format!("{model}-float.onnx"))).expect("written");
        let classes = labels(array(&folder, model, "labels")).expect("class indices");
        let eval = array(&folder, model, "eval");
        let width = eval.shape[1..].iter().product();
        let rows = eval.clone().into_f32();
        let theirs = array(&folder, model, name);
        let wanted = float_outputs(&float, &rows, width, theirs.shape[1]);
        let theirs = theirs.into_f32();
        let data = Data {
            calibration: array(&folder, model, "calibration"),
            eval: Some(eval),
            labels: Some(&classes),
        };
        let made = quantize(&float, data, method, &mut || {});
        let Quantized { report, .. } = made.expect("it quantizes");
        let seen = &report.comparison;
        let ours = seen.accuracy_int8.expect("there are labels");
        let (far, near) = (
            f64::from(seen.mean_difference),
            mean_difference(&theirs, &wanted),
        );
        println!(
            "{model}, {name}: {} rows; accuracy {:.4} in float, {ours:.4} here, {:.4} by ONNX Runtime's \
             quantizer; mean difference from float {far:.5} here, {near:.5} there",
            seen.rows,
            accuracy(&wanted, &classes),
            accuracy(&theirs, &classes),
        );
        assert_eq!((seen.on, seen.rows), ("eval", classes.len()));
        assert!(
            ours >= accuracy(&theirs, &classes) - BEHIND,
            "{model}, {name}: {ours}"
        );
        assert!(
            far <= FARTHER * near,
            "{model}, {name}: {far} beside {near}"
        );
    }
}
