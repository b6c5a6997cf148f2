//! An ONNX file from the outside, up to where it is decoded: the walk over its bytes ends, and what it
//! refuses lies inside the file.
#![no_main]

use edgeward::engine::wire;
use edgeward_fuzz::planted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(models), |bytes: &[u8]| {
    if let Err(error) = wire::check(bytes) {
        assert!(error.offset < bytes.len());
        assert!(!error.to_string().is_empty());
        planted(error.message == "SparseTensorProto");
    }
});

fn models() -> Vec<Vec<u8>> {
    let small: &[&[u8]] = &[
        include_bytes!("../../tests/engine/softmax_int8.onnx"),
        include_bytes!("../../tests/engine/two_inputs.onnx"),
        include_bytes!("../../models/motion/motion-v1.onnx"),
    ];
    small.iter().map(|bytes| bytes.to_vec()).collect()
}
