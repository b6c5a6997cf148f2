//! The seeded models as files, as the benches give them to other engines: read back, they compute the
//! same.

#[allow(dead_code, reason = "other tests break files, too")]
#[path = "common/tflite.rs"]
mod flat;
#[path = "../../../models/tiny/onnx.rs"]
mod onnx;
#[path = "../../../models/tiny/shapes.rs"]
mod shapes;
#[path = "../../../models/tiny/tflite.rs"]
mod tflite;

use edgeward::engine::Engine as _;
use edgeward::engine::program::ProgramEngine;
use edgeward_compiler::{Options, compile, compile_graph};

/// Inputs of an image, channels last, with the channels first.
fn channels_first(shape: &[usize], values: &[f32]) -> Vec<f32> {
    let &[_, height, width, channels] = shape else {
        return values.to_vec();
    };
    let pixels = height * width;
    (0..values.len())
        .map(|at| values[at % pixels * channels + at / pixels])
        .collect()
}

#[test]
fn files_of_the_seeded_models_compute_what_the_graphs_do() {
    for (name, graph) in shapes::all() {
        let shape = graph.tensor(graph.inputs[0]).shape.clone();
        let files = [tflite::write(&graph).unwrap(), onnx::write(&graph).unwrap()];
        let program = compile_graph(graph, &Options::linux()).unwrap().program;
        let mut direct = ProgramEngine::new(&program).unwrap();
        let mut random = shapes::Random(5);
        let mut input = vec![0.0; direct.input_len()];
        input.fill_with(|| (random.next() as i8) as f32 * 0.05);
        let mut expected = vec![0.0; direct.output_len()];
        direct.run(&input, &mut expected).unwrap();
        let inputs = [input.clone(), channels_first(&shape, &input)];
        for (file, input) in files.iter().zip(inputs) {
            let compiled = compile(file, &Options::linux());
            let compiled = compiled.unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut engine = ProgramEngine::new(&compiled.program).unwrap();
            let mut output = vec![0.0; engine.output_len()];
            engine.run(&input, &mut output).unwrap();
            assert_eq!(
                output,
                expected,
                "{name}, {:?}",
                edgeward_compiler::Format::of(file)
            );
        }
    }
}
