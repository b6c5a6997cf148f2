//! The five models of the corpus equal TensorFlow Lite Micro bit for bit, packed for every instruction
//! set of this processor, and seeded ones of the MLPerf Tiny shapes the portable kernels; no operator of
//! theirs is left to those. And random networks of the conformance suite equal the portable kernels.

mod common;
#[allow(dead_code, reason = "other tests run single operators")]
mod growing;
mod npz;
#[path = "../../../models/tiny/shapes.rs"]
mod shapes;

use common::corpus;
use edgeward::engine::Engine as _;
use edgeward::engine::program::ProgramEngine;
use edgeward::program::Layout;
use edgeward::program::kernels::packed::Isa;
use edgeward_compiler::{Options, compile, compile_graph};
use npz::read_npz;

/// How many rows of an archive were compared, two at least; `None` without a corpus.
fn check(model: &str, archive: &str) -> Option<usize> {
    let corpus = corpus()?;
    let models = corpus.join("models");
    let bytes = std::fs::read(models.join(format!("{model}.tflite"))).unwrap();
    let golden = read_npz(&models.join(archive));
    let count = golden["input"].rows().count();
    assert_eq!(golden["output"].rows().count(), count);
    assert!(count >= 2, "{archive} has {count} rows");
    for options in [Options::linux(), Options::mcu(Layout::Natural)] {
        let compiled = compile(&bytes, &options).unwrap_or_else(|error| panic!("{error}"));
        for isa in Isa::available() {
            let engine = ProgramEngine::with(&compiled.program, Some(isa));
            let mut engine = engine.unwrap_or_else(|error| panic!("{model}: {error:?}"));
            assert_eq!(engine.portable_ops(), 0, "{model}, {}", isa.name());
            let rows = golden["input"].rows().zip(golden["output"].rows());
            for (row, (input, expected)) in rows.enumerate() {
                let signed = |bytes: &[u8]| bytes.iter().map(|it| it.cast_signed()).collect();
                let (input, expected): (Vec<i8>, Vec<i8>) = (signed(input), signed(expected));
                let mut output = vec![0; expected.len()];
                engine.run_i8(&input, &mut output).unwrap();
                assert_eq!(output, expected, "{model}, row {row}, {}", isa.name());
            }
        }
    }
    Some(count)
}

#[test]
fn golden_rows_of_all_models() {
    for model in [
        "kws_ref_model",
        "vww_96_int8",
        "pretrainedResnet_quant",
        "ad01_int8",
        "str_ww_ref_model",
    ] {
        check(model, &format!("{model}.golden.npz"));
    }
}

#[test]
fn five_hundred_recordings_of_keywords() {
    let rows = check("kws_ref_model", "kws_ref_model.real.npz");
    assert!(rows.is_none_or(|rows| rows == 500), "{rows:?} recordings");
}

#[test]
fn seeded_models_of_the_shapes() {
    for (name, graph) in shapes::all() {
        let compiled = compile_graph(graph, &Options::linux()).unwrap();
        let mut portable = ProgramEngine::with(&compiled.program, None).unwrap();
        for isa in Isa::available() {
            let mut random = shapes::Random(11);
            let mut packed = ProgramEngine::with(&compiled.program, Some(isa)).unwrap();
            assert_eq!(packed.portable_ops(), 0, "{name}, {}", isa.name());
            for row in 0..3 {
                let mut input = vec![0; packed.input_len()];
                input.fill_with(|| random.next() as i8);
                let mut outputs = [0, 1].map(|_| vec![0; packed.output_len()]);
                portable.run_i8(&input, &mut outputs[0]).unwrap();
                packed.run_i8(&input, &mut outputs[1]).unwrap();
                assert_eq!(outputs[1], outputs[0], "{name}, row {row}, {}", isa.name());
            }
        }
    }
}

/// Networks that are compiled: fewer where the processor is an emulated one.
const NETWORKS: u64 = if cfg!(target_arch = "aarch64") {
    40
} else {
    400
};

/// What is compiled, planned and packed gives what the graph does without any of that.
#[test]
fn random_networks() {
    let mut packed = 0;
    for seed in 0..NETWORKS {
        let graph = growing::network(seed);
        let inputs = growing::inputs(&graph, seed);
        let expected = growing::definition(&graph, &inputs);
        let cortex_m = Options::mcu(Layout::CortexM);
        assert_eq!(
            growing::outputs(&graph, &cortex_m, &inputs),
            expected,
            "{seed}"
        );
        for options in [Options::linux(), Options::mcu(Layout::Natural)] {
            let program = growing::compiled(&graph, &options);
            for isa in Isa::available() {
                let mut engine = ProgramEngine::with(program.as_ref(), Some(isa)).unwrap();
                let verified = edgeward::program::Program::verify(program.as_ref()).unwrap();
                packed += verified.ops().count() - engine.portable_ops();
                for (input, expected) in inputs.iter().zip(&expected) {
                    let mut output = vec![0; expected.len()];
                    engine.run_i8(input, &mut output).unwrap();
                    assert_eq!(&output, expected, "{seed}, {}", isa.name());
                }
            }
        }
    }
    assert!(
        packed as u64 > 5 * NETWORKS || Isa::available().next().is_none(),
        "{packed}"
    );
}
