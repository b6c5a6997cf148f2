//! Quantization: the motion model beside ONNX Runtime's, random small networks, and refusals.

#[path = "../../../tests/program/engines.rs"]
#[allow(dead_code, reason = "the suite needs more of it")]
mod engines;
mod net;

use edgeward::engine::Engine;
use edgeward_host::data::{Columns, Samples};
use edgeward_host::model::{EngineChoice, Model};
use edgeward_host::npy::{Array, Values};
use edgeward_host::quantize::{Data, Method, QuantizeError, Quantized, quantize};
use net::{Net, uniform};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const CLASSES: [&str; 4] = ["standing", "running", "walking", "badminton"];
const FEATURES: [&str; 6] = ["ax", "ay", "az", "gx", "gy", "gz"];

fn motion(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    root.join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(motion(name)).expect("the example model is part of the repository")
}

/// Windows `[n, 6, 50]` of the recordings, ten samples apart, and their classes.
fn windows(name: &str) -> (Array, Vec<i64>) {
    let features = FEATURES.map(str::to_owned);
    let samples = Samples::load(&motion(name), Columns::of(&features)).expect("samples");
    let labels = samples.labels.as_ref().expect("labels");
    let (mut values, mut classes) = (Vec::new(), Vec::new());
    for rows in samples.windows(50, 10) {
        for feature in 0..6 {
            values.extend(rows.clone().map(|row| samples.row(row)[feature]));
        }
        let class = CLASSES
            .iter()
            .position(|class| *class == labels[rows.start]);
        classes.push(class.expect("a class") as i64);
    }
    let array = Array::f32(&[classes.len(), 6, 50], values).expect("it fits");
    (array, classes)
}

/// Share of the test windows that a model's program gets right.
fn accuracy(onnx: &[u8]) -> f64 {
    let (windows, classes) = windows("test.csv");
    let mut model = Model::load(onnx, EngineChoice::Program).expect("it becomes a program");
    let mut output = [0.0; 4];
    let values = windows.into_f32();
    let right = values
        .chunks_exact(300)
        .zip(&classes)
        .filter(|(window, class)| {
            model.engine.run(window, &mut output).expect("it runs");
            let best = output.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.map(|it| it.0 as i64) == Some(**class)
        });
    right.count() as f64 / classes.len() as f64
}

/// Data to calibrate with, and none to compare on.
fn data(calibration: Array, labels: Option<&[i64]>) -> Data<'_> {
    Data {
        calibration,
        eval: None,
        labels,
    }
}

fn quantized(method: Method) -> Quantized {
    let (windows, classes) = windows("train.csv");
    let float = read("motion-v1-float.onnx");
    quantize(&float, data(windows, Some(&classes)), method, &mut || {}).expect("it quantizes")
}

#[test]
fn the_motion_model_is_as_good_as_onnx_runtimes() {
    let theirs = accuracy(&read("motion-v1.onnx"));
    for method in [Method::MinMax, Method::Percentile(99.99)] {
        let Quantized { onnx, report } = quantized(method);
        if let Some(folder) = std::env::var_os("EDGEWARD_QUANTIZE_OUT") {
            let path = Path::new(&folder).join(format!("{}.onnx", report.method));
            std::fs::write(path, &onnx).expect("it is written");
        }
        let ours = accuracy(&onnx);
        println!(
            "{method:?}: {ours} here, {theirs} there; {:?}",
            report.comparison
        );
        assert!(
            (ours - theirs).abs() <= 0.005,
            "{method:?}: {ours}, ONNX Runtime's {theirs}"
        );
        assert_eq!(report.float_prefix, ["Sub (centre)", "Mul (scale)"]);
        let import = edgeward_host::import::import(&onnx).expect("an ONNX file");
        assert_eq!(
            import.quantization,
            edgeward_host::import::import(&read("motion-v1.onnx"))
                .expect("one")
                .quantization
        );
        let linux = &import.boards[0];
        assert!(linux.runs && linux.engine == "program", "{linux:?}");
        let (float, int8) = (
            report.comparison.accuracy_float,
            report.comparison.accuracy_int8,
        );
        assert!((float.expect("labels") - int8.expect("labels")).abs() <= 0.01);
    }
}

#[test]
fn ranges_end_where_the_clamp_does_and_kept_scales_are_kept() {
    let report = quantized(Method::MinMax).report;
    let row = |name: &str| report.tensors.iter().find(|it| it.name == name);
    assert_eq!(row("conv1"), None, "the clamp is part of the convolution");
    let relu = row("relu1").expect("a value");
    assert_eq!(
        (relu.low, relu.zero_point, relu.from),
        (0.0, -128, "calibrated")
    );
    let pool = row("pool1").expect("a value");
    assert_eq!((pool.scale, pool.from), (relu.scale, "kept"));
    let names: Vec<_> = report.tensors.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "standardised",
            "relu1",
            "pool1",
            "relu2",
            "pool2",
            "features",
            "logits"
        ]
    );
}

#[test]
fn a_percentile_narrows_what_an_outlier_would_widen() {
    let (windows, _) = windows("train.csv");
    let mut values = windows.clone().into_f32();
    values[17] = 32_767.0;
    let spoilt = Array::f32(&windows.shape, values).expect("it fits");
    let float = read("motion-v1-float.onnx");
    let scale = |method| {
        let made =
            quantize(&float, data(spoilt.clone(), None), method, &mut || {}).expect("it quantizes");
        made.report.tensors[0].scale
    };
    let (all, most) = (scale(Method::MinMax), scale(Method::Percentile(99.9)));
    assert!(most < all / 100.0, "{most} beside {all}");
}

#[test]
fn a_model_that_is_ruined_is_warned_of() {
    let sound = quantized(Method::MinMax).report;
    assert_eq!(sound.warnings, [""; 0]);
    let ruined = quantized(Method::Percentile(60.0)).report;
    let [warning] = &ruined.warnings[..] else {
        panic!("{:?}", ruined.warnings);
    };
    for words in [
        "accuracy falls from 100.00 % to ",
        "the class is the float model's on ",
        "more rows",
        "min-max or a higher percentile",
    ] {
        assert!(warning.contains(words), "{warning}");
    }
    // Without labels the classes tell.
    let float = read("motion-v1-float.onnx");
    let unlabelled = data(windows("train.csv").0, None);
    let method = Method::Percentile(60.0);
    let made = quantize(&float, unlabelled, method, &mut || {}).expect("it quantizes");
    assert!(
        made.report.warnings[0].starts_with("the class is the float model's on "),
        "{:?}",
        made.report.warnings
    );
}

#[test]
fn rows_that_are_held_out_calibrate_nothing() {
    let (windows, classes) = windows("train.csv");
    let float = read("motion-v1-float.onnx");
    let scale_with = |outlier: usize, eval: Option<Array>| {
        let mut values = windows.clone().into_f32();
        values[300 * outlier] = 32_767.0;
        let labels = eval.is_none().then_some(&classes[..]);
        let data = Data {
            calibration: Array::f32(&windows.shape, values).expect("it fits"),
            eval,
            labels,
        };
        let report = quantize(&float, data, Method::MinMax, &mut || {})
            .expect("it quantizes")
            .report;
        (report.tensors[0].scale, report.rows, report.comparison)
    };
    let (plain, _, _) = scale_with(4, None);
    let (spoilt, rows, seen) = scale_with(3, None);
    assert!(
        plain < spoilt / 100.0,
        "row 4 is held out, row 3 is not: {plain}, {spoilt}"
    );
    assert_eq!((rows, seen.on, seen.rows), (192, "held out", 48));
    assert!(seen.accuracy_float.expect("labels") > 0.9);
    let eval = Array::f32(&[2, 300], vec![0.5; 600]).expect("it fits");
    let (all, rows, seen) = scale_with(4, Some(eval));
    assert_eq!((all, rows, seen.on, seen.rows), (spoilt, 240, "eval", 2));
}

#[test]
fn bad_data_is_refused_by_row_and_shape() {
    let float = read("motion-v1-float.onnx");
    let refused = |shape: &[usize], values: Vec<f32>, labels: Option<&[i64]>| {
        let array = Array::f32(shape, values).expect("it fits");
        let error = quantize(&float, data(array, labels), Method::MinMax, &mut || {})
            .expect_err("it is refused");
        (error.to_string(), error.next())
    };
    let (what, next) = refused(&[10, 50, 6], vec![0.5; 3000], None);
    assert_eq!(
        what,
        "the calibration data has shape [10, 50, 6]; the model takes [6, 50] a row"
    );
    assert_eq!(next, "save one array [rows, 6, 50], or [rows, 300]");
    let mut values = vec![0.5; 3000];
    values[301] = f32::NAN;
    let (what, _) = refused(&[10, 6, 50], values, None);
    assert_eq!(what, "element 1 of row 1 of the calibration data is NaN");
    let (what, _) = refused(&[10, 6, 50], vec![0.5; 3000], Some(&[0]));
    assert_eq!(what, "1 labels for 10 rows of calibration data");
    let (what, _) = refused(&[1, 6, 50], vec![0.5; 300], Some(&[4]));
    assert_eq!(what, "the label 4 is none of the model's 4 outputs");
    let array = Array::f32(&[2, 300], vec![0.5; 600]).expect("it fits");
    let few = quantize(&float, data(array, None), Method::MinMax, &mut || {})
        .expect("few rows, and it works");
    assert!(
        few.report.warnings[0].starts_with("2 rows"),
        "{:?}",
        few.report.warnings
    );
    let twice = quantize(
        &few.onnx,
        data(windows("train.csv").0, None),
        Method::MinMax,
        &mut || {},
    );
    let why = twice.expect_err("it is refused").to_string();
    assert!(why.contains("quantized already"), "{why}");
}

/// What a random network is made of.
#[derive(Debug, Clone)]
struct Plan {
    channels: i64,
    extent: i64,
    filters: i64,
    scaled: bool,
    relu: bool,
    depthwise: bool,
    residual: bool,
    pool: &'static str,
    matmul: bool,
    ending: Option<&'static str>,
    seed: u64,
}

fn plans() -> impl Strategy<Value = Plan> {
    let flags = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let pools = prop::sample::select(vec!["MaxPool", "AveragePool", "GlobalAveragePool"]);
    let endings = prop::sample::select(vec![None, Some("Softmax"), Some("Tanh"), Some("Sigmoid")]);
    (
        1..4_i64,
        6..10_i64,
        2..7_i64,
        flags,
        pools,
        endings,
        any::<u64>(),
    )
        .prop_map(
            |(
                channels,
                extent,
                filters,
                (scaled, relu, depthwise, residual, matmul),
                pool,
                ending,
                seed,
            )| Plan {
                channels,
                extent,
                filters,
                scaled,
                relu,
                depthwise,
                residual,
                pool,
                matmul,
                ending,
                seed,
            },
        )
}

fn network(plan: &Plan) -> Vec<u8> {
    let Plan {
        channels,
        extent,
        filters,
        ..
    } = *plan;
    let mut net = Net::new(&[1, channels, extent, extent], plan.seed);
    if plan.scaled {
        let mean = net.constant(&[1, channels, 1, 1], 0.5);
        net.node("Sub", &[mean], &[]);
    }
    let pads: &[i64] = &[1, 1, 1, 1];
    let (w, b) = (
        net.constant(&[filters, channels, 3, 3], 0.5),
        net.constant(&[filters], 0.5),
    );
    net.node(
        "Conv",
        &[w, b],
        &[("kernel_shape", &[3, 3]), ("pads", pads)],
    );
    if plan.relu {
        net.node("Relu", &[], &[]);
    }
    let side = net.last.clone();
    if plan.depthwise {
        let (w, b) = (
            net.constant(&[filters, 1, 3, 3], 0.5),
            net.constant(&[filters], 0.5),
        );
        net.node(
            "Conv",
            &[w, b],
            &[
                ("kernel_shape", &[3, 3]),
                ("pads", pads),
                ("group", &[filters]),
            ],
        );
    }
    if plan.residual && net.last != side {
        net.node("Add", &[side], &[]);
    }
    let mut features = filters;
    if plan.pool == "GlobalAveragePool" {
        net.node(plan.pool, &[], &[]);
    } else {
        net.node(
            plan.pool,
            &[],
            &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])],
        );
        features *= (extent / 2) * (extent / 2);
    }
    net.node("Flatten", &[], &[("axis", &[1])]);
    if plan.matmul {
        let w = net.constant(&[features, 5], 0.3);
        net.node("MatMul", &[w], &[]);
        let b = net.constant(&[5], 0.5);
        net.node("Add", &[b], &[]);
    } else {
        let (w, b) = (net.constant(&[5, features], 0.3), net.constant(&[5], 0.5));
        net.node("Gemm", &[w, b], &[("transB", &[1])]);
    }
    if let Some(ending) = plan.ending {
        net.node(ending, &[], &[]);
    }
    net.done(5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random small networks quantize and compile; on the calibration data no output differs from
    /// the float model's by more than a tenth of the range of the output's scale (of its 256 steps). Where a
    /// percentile cuts rare values, those that saturate may: the mean difference is at most a twentieth.
    #[test]
    fn random_networks_stay_near_their_float_form(plan in plans(), percentile in prop::option::of(prop::sample::select(vec![99.0, 99.9, 99.99]))) {
        let float = network(&plan);
        let mut seed = plan.seed ^ 0x5555;
        let (channels, extent) = (plan.channels as usize, plan.extent as usize);
        let values = (0..16 * channels * extent * extent).map(|_| uniform(&mut seed)).collect();
        let rows = Array { shape: vec![16, channels, extent, extent], values: Values::F32(values) };
        let method = percentile.map_or(Method::MinMax, Method::Percentile);
        let made = quantize(&float, data(rows, None), method, &mut || {});
        let made = made.map_err(|error| TestCaseError::fail(format!("{error}; {}", error.next())))?;
        let seen = &made.report.comparison;
        let (difference, share) = match percentile {
            None => (seen.largest_difference, 0.1),
            Some(_) => (seen.mean_difference, 0.05),
        };
        let bound = share * 256.0 * seen.output_step;
        prop_assert!(difference <= bound, "{difference} over {bound}: {seen:?}");
    }

    /// The int8 form of random small networks gives nearly the same outputs by its program and by tract, which
    /// computes the graph's operators one by one in floats.
    #[test]
    fn programs_of_random_networks_agree_with_tract(plan in plans()) {
        let mut seed = plan.seed ^ 0x5555;
        let (channels, extent) = (plan.channels as usize, plan.extent as usize);
        let width = channels * extent * extent;
        let values: Vec<f32> = (0..16 * width).map(|_| uniform(&mut seed)).collect();
        let rows = Array { shape: vec![16, channels, extent, extent], values: Values::F32(values.clone()) };
        let made = quantize(&network(&plan), data(rows, None), Method::MinMax, &mut || {});
        let made = made.map_err(|error| TestCaseError::fail(format!("{error}; {}", error.next())))?;
        let [by_program, by_tract] = [EngineChoice::Program, EngineChoice::Tract].map(|choice| {
            let model = Model::load(&made.onnx, choice);
            let mut model = model.unwrap_or_else(|error| panic!("{choice:?}: {error}"));
            let run = |row: &[f32]| {
                let mut output = vec![0.0; model.engine.output_len()];
                model.engine.run(row, &mut output).expect("it runs");
                output
            };
            values.chunks_exact(width).flat_map(run).collect::<Vec<f32>>()
        });
        let step = made.report.comparison.output_step;
        let of = if plan.pool == "AveragePool" { engines::AVERAGES } else { engines::QUANTIZED };
        let apart = engines::engine("tract").apart(of).check(&by_program, &by_tract, step);
        prop_assert!(apart.is_ok(), "{apart:?}");
    }

    /// Bytes that are no sound model are refused, whatever they are.
    #[test]
    fn hostile_bytes_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut net = network(&Plan {
            channels: 1, extent: 6, filters: 2, scaled: true, relu: true, depthwise: false, residual: false,
            pool: "MaxPool", matmul: false, ending: None, seed: 1,
        });
        let at = at.index(net.len());
        if cut { net.truncate(at) } else { net[at] = byte }
        let rows = Array::f32(&[2, 36], vec![0.5; 72]).expect("it fits");
        let _ = quantize(&net, data(rows, None), Method::MinMax, &mut || {});
    }
}

#[test]
fn refusals_name_the_node() {
    let mut net = Net::new(&[1, 4], 1);
    net.node("Erf", &[], &[]);
    let rows = || data(Array::f32(&[8, 4], vec![0.5; 32]).expect("it fits"), None);
    let error =
        quantize(&net.done(4), rows(), Method::MinMax, &mut || {}).expect_err("it is refused");
    assert!(matches!(error, QuantizeError::Node { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("Erf (the Erf v0), which makes v0"),
        "{error}"
    );
    let error =
        quantize(b"no model", rows(), Method::MinMax, &mut || {}).expect_err("it is refused");
    assert!(matches!(error, QuantizeError::Load(_)), "{error}");
    let net = Net::new(&[1, 4], 1);
    let range = quantize(&net.done(4), rows(), Method::Percentile(40.0), &mut || {});
    assert!(matches!(range, Err(QuantizeError::Percentile(_))));
}
