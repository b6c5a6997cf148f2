//! The example models on every engine: programs by portable kernels and packed for each instruction
//! set of this processor are equal bit for bit; they and tract keep to the stated tolerance of ONNX
//! Runtime's golden vectors. (The models of the corpus, bit for bit: `golden.rs` and `packed.rs` of the
//! compiler.) And tract through the operators and networks of the conformance suite.

#[path = "../../../tests/program/engines.rs"]
#[allow(dead_code, reason = "the suite needs more of it")]
mod engine_list;
#[path = "../../compiler/tests/growing/mod.rs"]
#[allow(dead_code, reason = "other tests run networks")]
mod growing;
#[path = "../../../models/tiny/onnx.rs"]
mod onnx;

use edgeward::RUNTIME_VERSION;
use edgeward::bundle::write::{BundleWriter, Description};
use edgeward::bundle::{BoardClass, Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::engine::board::{BoardEngine, LoadError};
use edgeward::engine::program::ProgramEngine;
use edgeward::engine::tract::{ModelSpec, TractEngine};
use edgeward::program::kernels::packed::Isa;
use edgeward::program::{Layout, Program};
use edgeward_compiler::graph::{Graph, Kind, Node, Tensor};
use edgeward_compiler::{Options, compile};
use edgeward_host::npy::Array;
use std::collections::BTreeMap;
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

/// Elements of an image, channels last, with the channels first; any other tensor's as they are.
fn channels_first(shape: &[usize], values: &[i8]) -> Vec<i8> {
    let &[_, height, width, channels] = shape else {
        return values.to_vec();
    };
    let pixels = height * width;
    (0..values.len())
        .map(|at| values[at % pixels * channels + at / pixels])
        .collect()
}

/// Whether the exact average of each output lies in the middle between two quanta.
fn halves(graph: &Graph, input: &[i8]) -> Option<Vec<bool>> {
    let node = graph.nodes.first()?;
    let Kind::AveragePool { window, .. } = &node.kind else {
        return None;
    };
    let (from, to) = (
        &graph.tensor(graph.inputs[0]).shape,
        &graph.tensor(node.outputs[0]).shape,
    );
    let half = |at: usize| {
        let (row, column, channel) = (at / to[3] / to[2], at / to[3] % to[2], at % to[3]);
        let taps = (0..window.kernel[0]).flat_map(|y| (0..window.kernel[1]).map(move |x| (y, x)));
        let seen = taps.filter_map(|(y, x)| {
            let y = (row * window.stride[0] + y).checked_sub(window.padding[0])?;
            let x = (column * window.stride[1] + x).checked_sub(window.padding[1])?;
            let inside = y < from[1] && x < from[2];
            inside.then(|| i32::from(input[(y * from[2] + x) * from[3] + channel]))
        });
        let (sum, count) = seen.fold((0, 0), |(sum, count), it| (sum + it, count + 1));
        (2 * sum).rem_euclid(2 * count) == count
    };
    Some((0..to.iter().product()).map(half).collect())
}

/// The operators that ONNX has, one by one: as far from the definition as the list of engines says. An
/// average differs only where it lies in the middle between two quanta, which the program rounds away
/// from zero and ONNX to even.
#[test]
fn operators_by_tract_keep_to_the_stated_tolerance() {
    let operator = engine_list::engine("tract")
        .apart(engine_list::OPERATOR)
        .most;
    // Elements, how many differ, and by how much at most, by kind.
    let mut seen: BTreeMap<String, (usize, usize, f32)> = BTreeMap::new();
    for seed in 0..1500 {
        let graph = growing::operator(seed);
        if matches!(
            graph.nodes[..],
            [
                Node {
                    kind: Kind::Conv { .. },
                    ..
                },
                _
            ]
        ) {
            // What the sum behind it makes of a step is up to its scales.
            continue;
        }
        let file = onnx::write(&graph).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let kinds: Vec<&str> = graph.nodes.iter().map(|node| node.kind.name()).collect();
        let kinds = kinds.join(" and ");
        let engine = TractEngine::load(&file, &ModelSpec::default());
        let mut engine = engine.unwrap_or_else(|error| panic!("{seed}, {kinds}: {error}"));
        let [from, to] = [graph.inputs[0], graph.outputs[0]].map(|id| graph.tensor(id));
        let (step, _) = to.per_tensor().expect("one scale");
        let (_, origin) = to.per_tensor().expect("one scale");
        let inputs = growing::inputs(&graph, seed);
        let expected = growing::definition(&graph, &inputs);
        for (input, expected) in inputs.iter().zip(&expected) {
            let given = reals(from, input);
            let mut output = vec![0.0; engine.output_len()];
            engine.run(&given, &mut output).expect("it runs");
            let halves = halves(&graph, input);
            let expected = channels_first(&to.shape, expected);
            let halves = halves.map(|all| {
                let all: Vec<i8> = all.into_iter().map(i8::from).collect();
                channels_first(&to.shape, &all)
            });
            let entry = seen.entry(kinds.clone()).or_default();
            for (at, (&value, &wanted)) in output.iter().zip(&expected).enumerate() {
                let steps = (value / step + f32::from(origin) - f32::from(wanted)).abs();
                entry.0 += 1;
                // A float's step is not exact.
                if steps > 0.01 {
                    entry.1 += 1;
                    entry.2 = entry.2.max(steps);
                    let middle = halves.as_ref().is_none_or(|all| all[at] == 1);
                    assert!(middle, "{seed}, {kinds}: {value} is no half, not {wanted}");
                }
                assert!(
                    steps <= operator + 0.01,
                    "{seed}, {kinds}, {at}: {steps} steps from {wanted}"
                );
            }
        }
    }
    for (kinds, (elements, differ, most)) in &seen {
        println!("{kinds}: {differ} of {elements} differ, by {most} steps at most");
    }
    assert!(seen.len() >= 20, "{:?}", seen.keys());
}

/// Networks of the suite that tract runs.
const NETWORKS: u64 = 400;

/// Real numbers in an image's order of channels first.
fn reals(tensor: &Tensor, values: &[i8]) -> Vec<f32> {
    let (scale, zero) = tensor.per_tensor().expect("one scale");
    let real = |&it: &i8| (f32::from(it) - f32::from(zero)) * scale;
    let values = channels_first(&tensor.shape, values);
    values.iter().map(real).collect()
}

/// The kinds of operators that a graph is as a program, without any rewriting.
fn kinds(graph: &Graph) -> Vec<&'static str> {
    let plain = Options {
        rewrites: &[],
        ..Options::linux()
    };
    let bytes = growing::compiled(graph, &plain);
    let program = Program::verify(bytes.as_ref()).expect("it is sound");
    program.ops().map(|op| op.name()).collect()
}

/// The suite's random networks in their ONNX form: by tract as far from the definition as the list of engines
/// says, and exactly the definition by the program that is made of the file.
#[test]
fn networks_by_tract_keep_to_the_stated_tolerance() {
    let tract = engine_list::engine("tract");
    let (mut operators, mut refused) = (BTreeMap::new(), BTreeMap::<String, u64>::new());
    let (mut compared, mut differ, mut ends, mut vary) = (0, 0, 0, 0);
    let mut worst = BTreeMap::<&str, [f32; 2]>::new();
    for seed in 0..NETWORKS {
        let graph = growing::network(seed);
        let names: Vec<_> = graph.nodes.iter().map(|node| node.kind.name()).collect();
        let file = onnx::write(&graph).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let [from, to] = [graph.inputs[0], graph.outputs[0]].map(|id| graph.tensor(id));
        let (step, _) = to.per_tensor().expect("one scale");
        let inputs = growing::inputs(&graph, seed);
        let definition = growing::definition(&graph, &inputs);
        let given: Vec<Vec<f32>> = inputs.iter().map(|input| reals(from, input)).collect();
        let expected: Vec<f32> = definition.iter().flat_map(|it| reals(to, it)).collect();

        let engine = TractEngine::load(&file, &ModelSpec::default());
        let mut engine = engine.unwrap_or_else(|error| panic!("{seed}, {names:?}: {error}"));
        let of = match names.contains(&"AveragePool") {
            true => engine_list::AVERAGE_NETWORK,
            false => engine_list::NETWORK,
        };
        let apart = tract
            .apart(of)
            .check(&expected, &outputs(&mut engine, &given), step);
        let apart = apart.unwrap_or_else(|why| panic!("{seed}, {names:?}: {why}"));
        for (worst, apart) in worst.entry(of).or_default().iter_mut().zip(apart) {
            *worst = worst.max(apart);
        }
        compared += expected.len();
        differ += usize::from(apart[1] > 0.01);
        let elements = definition.iter().flatten();
        ends += elements
            .filter(|it| matches!(**it, i8::MIN | i8::MAX))
            .count();
        vary += usize::from(definition.iter().any(|it| *it != definition[0]));
        for kind in kinds(&graph) {
            *operators.entry(kind).or_insert(0) += 1;
        }

        match compile(&file, &Options::linux()) {
            Ok(compiled) => {
                let mut program = ProgramEngine::with(&compiled.program, None).expect("a program");
                assert_eq!(outputs(&mut program, &given), expected, "{seed}, {names:?}");
            }
            Err(error) => {
                let error = error.to_string();
                let (_, why) = error.split_once("\": ").expect("a tensor and why");
                *refused.entry(why.to_owned()).or_default() += 1;
            }
        }
    }
    println!(
        "tract: {compared} outputs of {NETWORKS} networks, {differ} of which differ, mean and largest at most \
         {worst:?}; {ends} outputs are an end of int8, those of {vary} networks depend on the input"
    );
    println!("operators: {operators:?}; no program of the file: {refused:?}");
    // Where outputs clamp, or are the same for all inputs, nothing would tell.
    assert!(ends * 2 < compared, "{ends} of {compared}");
    assert!(vary as u64 * 5 > NETWORKS * 3, "{vary} of {NETWORKS}");
    for kind in [
        "Conv",
        "Depthwise",
        "Dense",
        "Add",
        "Mul",
        "Pool",
        "Lookup",
        "Copy",
        "Fill",
    ] {
        assert!(
            operators.get(kind).is_some_and(|&count| count >= 20),
            "{kind}"
        );
    }
    assert!(refused.is_empty(), "{refused:?}");
}
