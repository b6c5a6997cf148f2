//! The example models on every engine: programs by portable kernels and packed for each instruction
//! set of this processor are equal bit for bit; they and tract keep to the stated tolerance of ONNX
//! Runtime's golden vectors. (The models of the corpus, bit for bit: `golden.rs` and `packed.rs` of the
//! compiler.)

use edgeward::RUNTIME_VERSION;
use edgeward::bundle::write::{BundleWriter, Description};
use edgeward::bundle::{BoardClass, Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::engine::board::{BoardEngine, LoadError};
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

/// A manifest that names other kernels than the program is laid out for is found out.
#[test]
fn a_program_is_laid_out_as_its_manifest_says() {
    let model = motion("motion-v2.onnx");
    let inputs = rows("golden-v2-input.npy");
    let mut expected = None;
    for (layout, own) in [(Layout::Natural, "natural"), (Layout::CortexM, "cortex-m")] {
        let compiled = compile(&model, &Options::mcu(layout)).expect("a program");
        for stated in ["natural", "cortex-m", "tract"] {
            let mut writer = BundleWriter::new(Description {
                name: "m".into(),
                version: "1".into(),
                counter: 1,
                class: BoardClass::Mcu,
                kernels: stated.into(),
                arena_bytes: compiled.report.plan.arena_bytes as u32,
                min_runtime: RUNTIME_VERSION,
            })
            .expect("a manifest");
            let program = compiled.program.as_slice();
            writer
                .section(SectionKind::Program, program)
                .expect("a section");
            let bytes = writer.finish().expect("a bundle");
            let bundle = Bundle::open(&bytes).expect("a bundle");
            let board = edgeward_host::inspect::Board {
                class: BoardClass::Mcu,
                floor: 0,
                slot_bytes: u32::MAX,
                root: None,
            };
            let inspection = edgeward_host::inspect::inspect(&bytes, &board).expect("a bundle");
            let refused = inspection.refusals.iter().any(|it| it.check == "kernels");
            assert_eq!(refused, stated != own, "{stated} of {own}");
            match BoardEngine::of_bundle(&bundle) {
                Ok(mut engine) => {
                    assert_eq!(stated, own);
                    let outputs = outputs(&mut engine, &inputs);
                    assert_eq!(outputs, *expected.get_or_insert(outputs.clone()));
                }
                Err(error) => {
                    let stated = stated.to_owned();
                    assert_eq!(error, LoadError::Kernels { stated, found: own });
                }
            }
        }
    }
}
