//! The tract engine against golden vectors made by ONNX Runtime, and what it refuses.
//!
//! The reference models of the shared corpus are TFLite files and not for this engine; what it runs
//! are the example models and the small graphs beside this file (`make_fixtures.py` makes them).

mod hostile;
mod support;

use edgeward::engine::onnx::{Description, Quantization};
use edgeward::engine::tract::{LoadError, Mode, ModelSpec, TractEngine};
use edgeward::engine::{Engine, EngineError};
use std::fs;
use std::path::{Path, PathBuf};
use support::{npy_rows, read, workspace};
use tract_onnx::prelude::*;

fn fixture(name: &str) -> PathBuf {
    workspace("tests/engine").join(name)
}

fn load(name: &str, spec: &ModelSpec) -> Result<TractEngine, LoadError> {
    TractEngine::load(&read(&fixture(&format!("{name}.onnx"))), spec)
}

fn raw() -> ModelSpec {
    ModelSpec {
        raw_integers: true,
        ..ModelSpec::default()
    }
}

/// The largest difference between the engine's outputs and the golden ones.
fn difference(engine: &mut TractEngine, input: &Path, output: &Path) -> f32 {
    let (inputs, outputs) = (npy_rows(input), npy_rows(output));
    assert_eq!(inputs.len(), outputs.len());
    let mut worst = 0.0f32;
    for (input, golden) in inputs.iter().zip(&outputs) {
        let mut made = vec![f32::NAN; golden.len()];
        engine.run(input, &mut made).unwrap();
        for (made, golden) in made.iter().zip(golden) {
            assert!(made.is_finite());
            worst = worst.max((made - golden).abs());
        }
    }
    worst
}

fn check_fixture(name: &str, spec: &ModelSpec, tolerance: f32) -> TractEngine {
    let mut engine = load(name, spec).unwrap();
    let [input, output] = ["input", "output"].map(|end| fixture(&format!("{name}.{end}.npy")));
    let worst = difference(&mut engine, &input, &output);
    println!("{name}: {}, off by {worst} at most", engine.mode());
    assert!(worst <= tolerance, "{name}: off by {worst}");
    engine
}

/// One value of a flat TOML file, without its quotes and comment.
fn setting<'a>(text: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let mut here = section.is_empty();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            here = name.starts_with(section) && name[section.len()..].starts_with(']');
        } else if let Some((name, value)) = line.split_once('=')
            && here
            && name.trim() == key
        {
            return Some(value.split('#').next()?.trim().trim_matches('"'));
        }
    }
    None
}

#[test]
fn every_example_model_reproduces_its_golden_vectors() {
    let mut models = 0;
    for folder in fs::read_dir(workspace("models")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = String::from_utf8(read(&file)).unwrap();
            let beside = |name: &str| file.parent().unwrap().join(name);
            let get = |section, key| setting(&text, section, key).unwrap();
            let model = read(&beside(get("", "model")));
            let mut engine = TractEngine::load(&model, &ModelSpec::default()).unwrap();
            let golden = [
                beside(get("golden", "input")),
                beside(get("golden", "output")),
            ];
            let tolerance: f32 = get("golden", "tolerance").parse().unwrap();
            let worst = difference(&mut engine, &golden[0], &golden[1]);
            println!("{}: off by {worst} of {tolerance}", file.display());
            assert!(worst <= tolerance, "{}: off by {worst}", file.display());
            models += 1;
        }
    }
    assert!(models >= 4, "only {models} models found");
}

#[test]
fn the_least_softmax_graph_is_right_behind_a_fence() {
    let mut engine = check_fixture("softmax_int8", &raw(), 0.0);
    let mut output = [0.0; 4];
    engine.run(&[10.0, 20.0, 30.0, 40.0], &mut output).unwrap();
    assert_eq!(output, [-120.0, -106.0, -67.0, 37.0]);
    let Mode::Fenced { after } = engine.mode() else {
        panic!("{:?}", engine.mode())
    };
    assert_eq!(after.len(), 1);
    assert!(after[0].contains("softmax"), "{after:?}");
}

/// As long as this passes the fence is needed; when it fails, tract has mended its test.
#[test]
fn without_the_fence_tract_folds_softmax_into_a_table() {
    let mut bytes: &[u8] = &read(&fixture("softmax_int8.onnx"));
    let model = onnx().model_for_read(&mut bytes).unwrap();
    let plan = model.into_optimized().unwrap().into_runnable().unwrap();
    let input = Tensor::from_shape(&[1, 4], &[10i8, 20, 30, 40]).unwrap();
    let output = plan.run(tvec!(input.into_tvalue())).unwrap();
    let output = output[0]
        .try_as_plain_ram()
        .unwrap()
        .as_slice::<i8>()
        .unwrap()
        .to_vec();
    assert_ne!(output, [-120, -106, -67, 37]);
}

#[test]
fn a_classifier_that_ends_in_softmax_q_and_dq_is_right() {
    // One step of the closing quantization is 1/256.
    for name in ["softmax_closed", "softmax_log"] {
        let engine = check_fixture(name, &ModelSpec::default(), 1.0 / 256.0);
        assert_eq!(engine.input_shape(), [1, 8], "the open batch is one");
        assert_eq!(engine.output_shape(), [1, 4]);
    }
}

#[test]
fn operators_that_work_element_by_element_still_become_tables() {
    let engine = check_fixture("table_int8", &ModelSpec::default(), 1e-6);
    assert_eq!(*engine.mode(), Mode::Optimised);
}

#[test]
fn a_change_from_uint8_to_int8_is_not_folded() {
    let engine = check_fixture("table_uint8", &ModelSpec::default(), 1e-6);
    assert!(
        matches!(engine.mode(), Mode::Fenced { .. }),
        "{:?}",
        engine.mode()
    );
}

#[test]
fn runs_do_not_depend_on_each_other() {
    let mut engine = load("softmax_closed", &ModelSpec::default()).unwrap();
    let rows = npy_rows(&fixture("softmax_closed.input.npy"));
    let run = |engine: &mut TractEngine, row: &[f32]| {
        let mut output = [0.0; 4];
        engine.run(row, &mut output).unwrap();
        output
    };
    let alone = run(&mut engine, &rows[0]);
    for row in &rows {
        run(&mut engine, row);
    }
    assert_eq!(run(&mut engine, &rows[0]), alone);
}

#[test]
fn wrong_lengths_are_named_and_leave_the_engine_usable() {
    let mut engine = load("softmax_closed", &ModelSpec::default()).unwrap();
    assert_eq!((engine.input_len(), engine.output_len()), (8, 4));
    let short = engine.run(&[0.0; 7], &mut [0.0; 4]);
    assert_eq!(
        short,
        Err(EngineError::InputLength {
            expected: 8,
            given: 7
        })
    );
    let long = engine.run(&[0.0; 8], &mut [0.0; 5]);
    assert_eq!(
        long,
        Err(EngineError::OutputLength {
            expected: 4,
            given: 5
        })
    );
    assert_eq!(engine.run(&[0.0; 8], &mut [0.0; 4]), Ok(()));
}

#[test]
fn not_a_number_does_not_stop_the_engine() {
    let mut engine = load("softmax_closed", &ModelSpec::default()).unwrap();
    let mut output = [0.0; 4];
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        engine.run(&[value; 8], &mut output).unwrap();
    }
}

#[test]
fn quantized_inputs_are_rounded_and_saturated() {
    let mut engine = load("softmax_int8", &raw()).unwrap();
    let mut run = |input: [f32; 4]| {
        let mut output = [0.0; 4];
        engine.run(&input, &mut output).unwrap();
        output
    };
    assert_eq!(
        run([-1000.0, 500.0, 0.4, 4.6]),
        run([-128.0, 127.0, 0.0, 5.0])
    );
}

/// What a refusal says; it must name what to look for and what to do.
fn refusal(name: &str, spec: &ModelSpec) -> String {
    load(name, spec).expect_err(name).to_string()
}

#[test]
fn refusals_name_the_tensor_and_what_to_do() {
    let default = ModelSpec::default();
    for (name, spec, says) in [
        (
            "softmax_int8",
            default.clone(),
            "input x int8[1,4]: takes quantized values; put a Quant",
        ),
        ("two_inputs", default.clone(), "2 inputs (x, x2)"),
        (
            "unknown_operator",
            default.clone(),
            "does not know: Frobnicate (middle)",
        ),
        ("only_class", default.clone(), "no output is float"),
        ("only_class", default.clone(), "class int64[1]"),
        (
            "open_length",
            default.clone(),
            "input x float[batch,steps]: has open extents",
        ),
        (
            "external_data",
            default.clone(),
            "tensor w lies in another file; save",
        ),
        (
            "softmax_closed",
            ModelSpec::with_shape(&[1, 9]),
            "does not take the shape [1, 9]",
        ),
        (
            "open_length",
            ModelSpec::with_shape(&[1, 1 << 30]),
            "elements",
        ),
        ("open_length", ModelSpec::with_shape(&[1, 0]), "elements"),
    ] {
        let said = refusal(name, &spec);
        assert!(said.contains(says), "{name}: {said}");
    }
    let unknown = ModelSpec {
        output: Some("nothing".into()),
        ..default.clone()
    };
    assert!(refusal("several_outputs", &unknown).contains("shares float[1,4]"));
    let wrong = ModelSpec {
        output: Some("class".into()),
        ..default
    };
    assert!(refusal("several_outputs", &wrong).contains("output class is not float"));
}

#[test]
fn of_several_outputs_the_first_float_or_the_named_one_is_taken() {
    let mut engine = load("several_outputs", &ModelSpec::default()).unwrap();
    assert_eq!(engine.output_name(), "shares");
    let mut output = [0.0; 4];
    engine.run(&[0.0; 4], &mut output).unwrap();
    assert_eq!(output, [0.25; 4]);
    let named = ModelSpec {
        output: Some("minus".into()),
        ..ModelSpec::default()
    };
    let mut engine = load("several_outputs", &named).unwrap();
    engine.run(&[1.0, 2.0, 3.0, 4.0], &mut output).unwrap();
    assert_eq!(output, [-1.0, -2.0, -3.0, -4.0]);
}

#[test]
fn a_given_shape_closes_open_extents() {
    let engine = load("open_length", &ModelSpec::with_shape(&[1, 7])).unwrap();
    assert_eq!((engine.input_len(), engine.output_len()), (7, 7));
}

#[test]
fn damaged_files_are_errors_and_no_more() {
    let whole = read(&workspace("models/motion/motion-v1.onnx"));
    let spec = ModelSpec::default();
    assert!(matches!(
        TractEngine::load(b"", &spec),
        Err(LoadError::Parse { .. })
    ));
    assert!(matches!(
        TractEngine::load(b"not a model", &spec),
        Err(LoadError::Wire(_))
    ));
    for cut in (1..whole.len()).step_by(397) {
        assert!(
            TractEngine::load(&whole[..cut], &spec).is_err(),
            "cut to {cut} bytes"
        );
    }
    // A changed byte may well leave a valid model; it must leave the program alive.
    for at in (0..whole.len()).step_by(211) {
        let mut changed = whole.clone();
        changed[at] ^= 0x11;
        let _either = TractEngine::load(&changed, &spec);
    }
}

#[test]
fn a_description_says_what_the_file_holds() {
    let motion = read(&workspace("models/motion/motion-v1.onnx"));
    let description = Description::read(&motion).unwrap();
    assert_eq!(description.quantization, Quantization::Qdq);
    assert_eq!(description.inputs[0].to_string(), "input float[1,6,50]");
    assert_eq!(description.inputs[0].concrete_shape(), Some(vec![1, 6, 50]));
    assert_eq!(description.operators["Conv"], 2);
    // The standardisation in front of the first QuantizeLinear is float on one side.
    assert!(!description.fully_int8());
    assert_eq!(description.float_nodes, ["Sub (centre)", "Mul (scale)"]);

    let float = read(&workspace("models/motion/motion-v1-float.onnx"));
    assert_eq!(
        Description::read(&float).unwrap().quantization,
        Quantization::Float
    );
    let closed = Description::read(&read(&fixture("softmax_closed.onnx"))).unwrap();
    assert!(closed.fully_int8(), "{:?}", closed.float_nodes);
    assert_eq!(closed.inputs[0].to_string(), "x float[batch,8]");
    assert_eq!(closed.weight_bytes, 32 + 4 + 4 + 4 + 1 + 1 + 1);
    let unknown = Description::read(&read(&fixture("unknown_operator.onnx"))).unwrap();
    assert_eq!(unknown.unknown_nodes, ["Frobnicate (middle)"]);
}
