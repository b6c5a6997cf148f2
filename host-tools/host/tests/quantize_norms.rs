//! Batch normalizations before quantization: what becomes of each, beside the float model that tract runs
//! as it came.

mod net;

use edgeward::engine::Engine;
use edgeward_host::model::{EngineChoice, Model};
use edgeward_host::npy::{Array, Values};
use edgeward_host::quantize::{Data, Method, QuantizeError, quantize};
use net::{Net, uniform};

/// A batch normalization over `channels` whose factors and offsets matter: 0.4 to 3.2, and up to 1.
fn normalize(net: &mut Net, channels: i64) {
    let mut draw = |low: f32, high: f32| -> Vec<f32> {
        let of = |_| low + (high - low) * (0.5 + 0.5 * uniform(&mut net.seed));
        (0..channels).map(of).collect()
    };
    let all = [
        draw(0.5, 2.0),
        draw(-0.5, 0.5),
        draw(-0.5, 0.5),
        draw(0.4, 1.5),
    ];
    let all = all.map(|floats| net.given(&[channels], floats));
    net.node("BatchNormalization", &all, &[]);
}

fn conv(net: &mut Net, outputs: i64, inputs: i64, bias: bool) {
    let mut constants = vec![net.constant(&[outputs, inputs, 3, 3], 0.5)];
    if bias {
        constants.push(net.constant(&[outputs], 0.5));
    }
    let attributes: &[(&str, &[i64])] = &[("kernel_shape", &[3, 3]), ("pads", &[1, 1, 1, 1])];
    net.node("Conv", &constants, attributes);
}

/// Ends in a product with a bias of its own, and a normalization of it.
fn classified(mut net: Net, features: i64, operator: &str) -> Vec<u8> {
    net.node("GlobalAveragePool", &[], &[]);
    net.node("Flatten", &[], &[("axis", &[1])]);
    let bias = net.constant(&[5], 0.5);
    match operator {
        "MatMul" => {
            let weights = net.constant(&[features, 5], 0.8);
            net.node("MatMul", &[weights], &[]);
            net.node("Add", &[bias], &[]);
        }
        "Gemm" => {
            let weights = net.constant(&[5, features], 0.8);
            net.node("Gemm", &[weights, bias], &[("transB", &[1])]);
        }
        _ => {
            let weights = net.constant(&[features, 5], 0.8);
            net.node("Gemm", &[weights], &[]);
        }
    }
    normalize(&mut net, 5);
    net.done(5)
}

/// Quantizes, and compares with the float file as it came; what became of the normalizations.
fn folded(float: &[u8]) -> Vec<String> {
    let mut seed = 7;
    let values: Vec<f32> = (0..60 * 3 * 36).map(|_| uniform(&mut seed)).collect();
    let shape = vec![60, 3, 6, 6];
    let data = Data {
        calibration: Array {
            shape,
            values: Values::F32(values.clone()),
        },
        eval: None,
        labels: None,
    };
    let made = quantize(float, data, Method::MinMax, &mut || {});
    let made = made.unwrap_or_else(|error| panic!("{error}; {}", error.next()));
    let mut before = Model::load(float, EngineChoice::Tract).expect("tract runs it");
    let mut after = Model::load(&made.onnx, EngineChoice::Program).expect("it is a program");
    let step = made.report.comparison.output_step;
    let (mut a, mut b) = ([0.0; 5], [0.0; 5]);
    let (mut differences, mut spread) = (0.0_f32, 0.0_f32);
    for row in values.chunks_exact(108) {
        before.engine.run(row, &mut a).expect("it runs");
        after.engine.run(row, &mut b).expect("it runs");
        differences += a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f32>();
        spread += a.iter().map(|a| a.abs()).sum::<f32>();
    }
    let (mean, size) = (differences / 300.0, spread / 300.0);
    println!("mean difference {mean}, a step {step}, mean size {size}");
    // A normalization that went wrong moves outputs by their own size.
    assert!(
        mean <= 3.0 * step && mean <= size / 10.0,
        "{mean}, {step}, {size}"
    );
    made.report.folded
}

#[test]
fn normalizations_go_into_the_layers_before_them() {
    for (bias, last) in [
        (true, "Gemm"),
        (false, "MatMul"),
        (true, "Gemm without a bias"),
    ] {
        let mut net = Net::new(&[1, 3, 6, 6], 11);
        conv(&mut net, 4, 3, bias);
        normalize(&mut net, 4);
        net.node("Relu", &[], &[]);
        let said = folded(&classified(net, 4, last));
        assert_eq!(said.len(), 2);
        assert!(said[0].ends_with("into Conv (the Conv v0)"), "{said:?}");
        let product = if last == "MatMul" { "MatMul" } else { "Gemm" };
        assert!(
            said[1].contains(&format!("into {product} (the {product}")),
            "{said:?}"
        );
    }
}

#[test]
fn a_normalization_on_the_input_becomes_its_quantization() {
    let mut net = Net::new(&[1, 3, 6, 6], 12);
    normalize(&mut net, 3);
    conv(&mut net, 4, 3, true);
    let said = folded(&classified(net, 4, "Gemm"));
    assert!(said[0].ends_with("to Mul and Add"), "{said:?}");
}

#[test]
fn a_normalization_that_stands_alone_becomes_a_convolution() {
    let mut net = Net::new(&[1, 3, 6, 6], 13);
    conv(&mut net, 4, 3, true);
    net.node("Relu", &[], &[]);
    normalize(&mut net, 4);
    conv(&mut net, 3, 4, false);
    let said = folded(&classified(net, 3, "Gemm"));
    assert!(said[0].ends_with("to Conv"), "{said:?}");
    // What it would fold into is read by another node as well.
    let mut net = Net::new(&[1, 3, 6, 6], 14);
    conv(&mut net, 4, 3, true);
    let shared = net.last.clone();
    normalize(&mut net, 4);
    net.node("Add", &[shared], &[]);
    let said = folded(&classified(net, 4, "Gemm"));
    assert!(said[0].ends_with("to Conv"), "{said:?}");
}

#[test]
fn a_normalization_of_vectors_that_stands_alone_has_a_scale_a_feature() {
    let mut net = Net::new(&[1, 3, 6, 6], 16);
    conv(&mut net, 4, 3, true);
    net.node("GlobalAveragePool", &[], &[]);
    net.node("Flatten", &[], &[("axis", &[1])]);
    let weights = net.constant(&[4, 6], 0.8);
    net.node("Gemm", &[weights], &[]);
    net.node("Relu", &[], &[]);
    normalize(&mut net, 6);
    let weights = net.constant(&[6, 5], 0.8);
    net.node("Gemm", &[weights], &[]);
    let said = folded(&net.done(5));
    assert!(said[0].ends_with("to Conv"), "{said:?}");
}

#[test]
fn parameters_that_do_not_go_together_are_refused() {
    let mut net = Net::new(&[1, 3, 6, 6], 15);
    conv(&mut net, 4, 3, true);
    normalize(&mut net, 4);
    let count = net.graph.initializer.len();
    net.graph.initializer[count - 1].float_data[2] = -4.0;
    let data = Data {
        calibration: Array::f32(&[2, 108], vec![0.5; 216]).expect("it fits"),
        eval: None,
        labels: None,
    };
    let error = quantize(&net.done(4), data, Method::MinMax, &mut || {}).expect_err("a variance");
    assert!(matches!(error, QuantizeError::Node { .. }), "{error}");
    assert!(error.to_string().contains("do not go together"), "{error}");
}
