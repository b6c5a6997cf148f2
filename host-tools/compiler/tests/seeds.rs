//! Small sound files of both formats: between them they come through all operators of the importers. The
//! fuzz targets begin with them. What those of TFLite compute is in `tflite_operators.rs`, those of ONNX are
//! held against ONNX Runtime (`docs/CONFORMANCE.md`).

#[allow(dead_code, reason = "tests ask for more of a graph than its file")]
#[path = "common/graphs/mod.rs"]
mod graphs;
#[path = "common/samples.rs"]
mod samples;
#[allow(dead_code, reason = "other tests break files, too")]
#[path = "common/tflite.rs"]
mod tflite;

use edgeward_compiler::{CompileError, Reason, onnx};
use std::collections::BTreeSet;

/// Codes of TFLite's schema, and some beyond its last.
const CODES: std::ops::Range<i32> = 0..256;

/// Whether the importer reads an operator, whatever else it wants of it.
fn is_known(code: i32) -> bool {
    let (_, mut model) = samples::all().swap_remove(0);
    model.codes[0].0 = code;
    match edgeward_compiler::tflite::read(&model.bytes()) {
        Err(CompileError::Refused(refusal)) => !matches!(
            refusal.reason,
            Reason::Operator | Reason::Custom(_) | Reason::State
        ),
        _ => true,
    }
}

#[test]
fn samples_of_tflite_have_all_operators() {
    let known: BTreeSet<i32> = CODES.filter(|&code| is_known(code)).collect();
    let models = samples::all().into_iter();
    let codes: BTreeSet<i32> = models
        .flat_map(|(_, model)| model.codes.into_iter().map(|(code, _)| code))
        .collect();
    assert_eq!(codes, known);
    assert!(known.contains(&tflite::HARD_SWISH), "{known:?}");
}

#[test]
fn a_hundred_random_graphs_have_all_operators() {
    let graphs = (0..100).filter_map(|seed| onnx::import(&graphs::random(seed).file).ok());
    let kinds: BTreeSet<&str> = graphs
        .flat_map(|graph| graph.nodes.into_iter().map(|node| node.kind.name()))
        .collect();
    for kind in [
        "Add",
        "AveragePool",
        "Clamp",
        "Concat",
        "Conv",
        "Dense",
        "Depthwise",
        "HardSwish",
        "LeakyRelu",
        "Logistic",
        "MaxPool",
        "Mean",
        "Mul",
        "Pad",
        "Relu",
        "Requantize",
        "Reshape",
        "Slice",
        "Softmax",
        "Sub",
        "Tanh",
        "Transpose",
    ] {
        assert!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
}
