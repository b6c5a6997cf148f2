//! A TFLite file from the outside: import, compile, verify, run.
#![no_main]

#[path = "../../host-tools/compiler/tests/common/samples.rs"]
mod samples;
#[path = "../../host-tools/compiler/tests/common/tflite.rs"]
#[allow(dead_code, reason = "tests break more of a model than seeds do")]
mod tflite;

use edgeward_fuzz::compile::{Limited, accepted, compile_and_run};
use libfuzzer_sys::fuzz_target;
use tflite::Model;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

fuzz_target!(init: edgeward_fuzz::seeds(models), |bytes: &[u8]| {
    let mut marked = bytes.to_vec();
    if let Some(mark) = marked.get_mut(4..8) {
        mark.copy_from_slice(b"TFL3");
    }
    compile_and_run(&marked);
});

/// A model of each operator of the importer, and one of two in a row.
fn models() -> Vec<Vec<u8>> {
    let samples = samples::all().into_iter().map(|(_, model)| model);
    let models = samples.chain([Model::sound()]);
    accepted(models.map(|model| model.bytes()).collect())
}
