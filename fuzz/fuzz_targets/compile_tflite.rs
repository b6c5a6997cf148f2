//! A TFLite file from the outside: import, compile, verify, run.
#![no_main]

#[path = "../../host-tools/compiler/tests/common/tflite.rs"]
#[allow(dead_code, reason = "tests break more of a model than seeds do")]
mod tflite;

use edgeward_fuzz::compile::{Limited, compile_and_run};
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

/// The model that tests break, and one operator after another in its softmax's place.
fn models() -> Vec<Vec<u8>> {
    let sound = Model::sound();
    // AVERAGE_POOL_2D, LOGISTIC, MAX_POOL_2D, RELU, RELU6, RESHAPE, TANH, LEAKY_RELU, HARD_SWISH.
    let others = [1, 14, 17, 19, 21, 22, 28, 98, 117].map(|code| {
        let mut model = Model::sound();
        model.codes[1].0 = code;
        model.tensors[4].scales = vec![0.25];
        model.tensors[4].zero_points = vec![5];
        model.operators[1].options.clear();
        model
    });
    // ADD, MUL, CONCATENATION and SUB of what the convolution gives with itself.
    let pairs = [0, 18, 2, 41].map(|code| {
        let mut model = Model::sound();
        model.codes[1].0 = code;
        model.operators[1].inputs = vec![3, 3];
        model.operators[1].options = vec![(0, tflite::int(3)), (1, tflite::byte(0))];
        model.tensors[4].scales = vec![0.25];
        if code == 2 {
            model.tensors[4].shape[3] = 6;
        }
        model
    });
    let all = [sound].into_iter().chain(others).chain(pairs);
    all.map(|model| model.bytes()).collect()
}
