//! The example models as programs: within their tolerance of ONNX Runtime's golden vectors.

#[allow(dead_code, reason = "archives are read by other tests")]
mod npz;

use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::{Options, compile};
use npz::read_npy;
use std::path::Path;

fn motion(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    std::fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Rows of floats along the first axis.
fn rows(name: &str) -> Vec<Vec<f32>> {
    let array = read_npy(&motion(name));
    let row = array.bytes.len() / array.shape[0];
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let floats = |row: &[u8]| row.chunks_exact(4).map(float).collect();
    array.bytes.chunks_exact(row).map(floats).collect()
}

/// A program's outputs on each of `inputs`, floats in and out.
fn run(model: &str, options: &Options, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let compiled =
        compile(&motion(model), options).unwrap_or_else(|error| panic!("{model}: {error}"));
    let bytes = Aligned::copy_of(&compiled.program);
    let program =
        Program::verify(bytes.as_ref()).unwrap_or_else(|error| panic!("{model}: {error:?}"));
    let header = *program.header();
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let mut outputs = Vec::new();
    for input in inputs {
        assert_eq!(input.len(), header.input_len as usize);
        let arena = arena.as_mut();
        program.quantize(input, &mut arena[header.input as usize..][..input.len()]);
        program
            .run(&mut Portable, arena)
            .expect("the arena is as the program wants it");
        let mut output = vec![0.0; header.output_len as usize];
        program.dequantize(&arena[header.output as usize..], &mut output);
        outputs.push(output);
    }
    outputs
}

fn tolerance(manifest: &str) -> f32 {
    let text = String::from_utf8(motion(manifest)).expect("a text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("tolerance = "));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("it states a tolerance")
}

#[test]
fn programs_keep_to_the_golden_vectors_of_onnx_runtime() {
    for release in ["v1", "v2", "bad"] {
        let inputs = rows(&format!("golden-{release}-input.npy"));
        let expected = rows(&format!("golden-{release}-output.npy"));
        let tolerance = tolerance(&format!("{release}.toml"));
        for options in [Options::linux(), Options::mcu(Layout::Natural)] {
            let outputs = run(&format!("motion-{release}.onnx"), &options, &inputs);
            assert_eq!(outputs.len(), expected.len());
            let pairs = outputs.iter().flatten().zip(expected.iter().flatten());
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{release}: largest difference {largest}, tolerance {tolerance}");
            assert!(
                largest <= tolerance,
                "{release}: {largest} is beyond {tolerance}"
            );
        }
    }
}
