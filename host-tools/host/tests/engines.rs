//! The example models on every engine: programs by portable kernels and packed for each instruction
//! set of this processor are equal bit for bit; they and tract keep to the stated tolerance of ONNX
//! Runtime's golden vectors. (The models of the corpus, bit for bit: `golden.rs` and `packed.rs` of the
//! compiler.)

use edgeward::engine::Engine;
use edgeward::engine::program::ProgramEngine;
use edgeward::engine::tract::{ModelSpec, TractEngine};
use edgeward::program::Layout;
use edgeward::program::kernels::packed::Isa;
use edgeward_compiler::{Options, compile};
use edgeward_host::npy::Array;
use std::path::Path;

fn motion(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    std::fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Rows of floats along the first axis.
fn rows(name: &str) -> Vec<Vec<f32>> {
    let array = Array::parse(&motion(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let count = array.shape[0];
    let values = array.into_f32();
    let row = values.len() / count;
    values.chunks_exact(row).map(<[f32]>::to_vec).collect()
}

/// The tolerance that a manifest states.
fn tolerance(manifest: &str) -> f32 {
    let text = String::from_utf8(motion(manifest)).expect("a text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("tolerance = "));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("{manifest} states a tolerance"))
}

fn outputs(engine: &mut dyn Engine, inputs: &[Vec<f32>]) -> Vec<f32> {
    let run = |input: &Vec<f32>| {
        let mut output = vec![0.0; engine.output_len()];
        let run = engine.run(input, &mut output);
        run.unwrap_or_else(|error| panic!("{error:?}"));
        output
    };
    inputs.iter().flat_map(run).collect()
}

#[test]
fn all_engines_agree_on_the_example_models() {
    for release in ["v1", "v2"] {
        let model = motion(&format!("motion-{release}.onnx"));
        let inputs = rows(&format!("golden-{release}-input.npy"));
        let golden = rows(&format!("golden-{release}-output.npy")).concat();
        let tolerance = tolerance(&format!("{release}.toml"));
        let close = |name: &str, outputs: &[f32]| {
            assert_eq!(outputs.len(), golden.len());
            let pairs = outputs.iter().zip(&golden);
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{release}, {name}: largest difference {largest}, tolerance {tolerance}");
            assert!(largest <= tolerance, "{release}, {name}: {largest}");
        };
        let tract = TractEngine::load(&model, &ModelSpec::default());
        let mut tract = tract.unwrap_or_else(|error| panic!("{release}: {error}"));
        close("tract", &outputs(&mut tract, &inputs));
        let mut expected = None;
        for options in [Options::linux(), Options::mcu(Layout::Natural)] {
            let compiled = compile(&model, &options).unwrap_or_else(|error| panic!("{error}"));
            for isa in [None].into_iter().chain(Isa::available().map(Some)) {
                let engine = ProgramEngine::with(&compiled.program, isa);
                let mut engine = engine.unwrap_or_else(|error| panic!("{release}: {error:?}"));
                assert_eq!(engine.isa(), isa);
                let name = isa.map_or("portable", Isa::name);
                let outputs = outputs(&mut engine, &inputs);
                close(name, &outputs);
                assert_eq!(outputs, *expected.get_or_insert(outputs.clone()), "{name}");
            }
        }
    }
}
