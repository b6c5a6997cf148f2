//! An ONNX file from the outside: import, compile, verify, run.
#![no_main]

#[path = "../../host-tools/compiler/tests/common/graphs/mod.rs"]
#[allow(dead_code, reason = "tests ask for more of a graph than its file")]
mod graphs;

use edgeward_fuzz::compile::{Limited, accepted, compile_and_run};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

fuzz_target!(init: edgeward_fuzz::seeds(models), |bytes: &[u8]| compile_and_run(bytes));

/// Random graphs that are seeds: they come through all operators of the importer.
const GRAPHS: u64 = 300;

fn models() -> Vec<Vec<u8>> {
    let models: &[&[u8]] = &[
        include_bytes!("../../models/motion/motion-v1.onnx"),
        include_bytes!("../../models/motion/motion-v2.onnx"),
        include_bytes!("../../models/motion/motion-v1-float.onnx"),
        include_bytes!("../../tests/engine/softmax_int8.onnx"),
    ];
    let models = models.iter().map(|bytes| bytes.to_vec());
    let graphs = (0..GRAPHS).map(|seed| graphs::random(seed).file);
    accepted(models.chain(graphs).collect())
}
