//! An ONNX file from the outside: import, compile, verify, run.
#![no_main]

use edgeward_fuzz::compile::{Limited, compile_and_run};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

fuzz_target!(init: edgeward_fuzz::seeds(models), |bytes: &[u8]| compile_and_run(bytes));

fn models() -> Vec<Vec<u8>> {
    let models: &[&[u8]] = &[
        include_bytes!("../../models/motion/motion-v1.onnx"),
        include_bytes!("../../models/motion/motion-v2.onnx"),
        include_bytes!("../../models/motion/motion-v1-float.onnx"),
        include_bytes!("../../tests/engine/softmax_int8.onnx"),
    ];
    models.iter().map(|bytes| bytes.to_vec()).collect()
}
