//! Small sound files of both formats: they compile, and between them come through all operators of the
//! importers. The fuzz targets begin with them.

#[allow(dead_code, reason = "tests ask for more of a graph than its file")]
#[path = "common/graphs/mod.rs"]
mod graphs;
#[allow(dead_code, reason = "other tests break files, too")]
#[path = "common/tflite.rs"]
mod tflite;

use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::{Options, compile, onnx};
use std::collections::BTreeSet;

#[test]
fn samples_of_tflite_compile_and_run() {
    for (name, model) in tflite::Model::samples() {
        for options in [
            Options::linux(),
            Options::mcu(Layout::Natural),
            Options::mcu(Layout::CortexM),
        ] {
            let compiled = compile(&model.bytes(), &options);
            let compiled = compiled.unwrap_or_else(|error| panic!("{name}: {error}"));
            let bytes = Aligned::copy_of(&compiled.program);
            let program = Program::verify(bytes.as_ref()).expect("the compiler verified it");
            let mut arena = Aligned::zeros(program.header().arena_bytes as usize);
            let ran = program.run(&mut Portable, arena.as_mut());
            ran.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
    }
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
