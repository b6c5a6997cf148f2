//! Random small int8 graphs of mixed rank, by their program and by others: tract, and ONNX Runtime where Python
//! is at hand.
//!
//! What is looked for is an operator that works along another axis than ONNX's, pads with another value, or gives
//! another shape: that is wrong by dozens of steps of the output, where rounding otherwise is wrong by a few.
//! `EDGEWARD_GRAPHS` says how many graphs; `EDGEWARD_PYTHON` names an interpreter that has
//! `models/digits/requirements.txt`.

#[path = "../../compiler/tests/common/graphs.rs"]
mod graphs;

use edgeward::engine::Engine;
use edgeward_host::model::{EngineChoice, Model, ModelError};
use graphs::{Chance, Made, random};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rows that each graph is run on.
const ROWS: usize = 3;
/// Mean and largest difference from another engine's output, in steps of the output's scale. Each operator may
/// round otherwise by a step of its own, which a product behind it may widen: of 2,000 graphs, one has a mean of
/// 1, and one an element of 15.
const MEAN: f32 = 1.5;
const LARGEST: f32 = 16.0;

fn rows(made: &Made, seed: u64) -> Vec<f32> {
    let mut chance = Chance(seed ^ 0x5555);
    let count = ROWS * made.inputs;
    (0..count).map(|_| made.size * chance.uniform()).collect()
}

fn outputs(model: &mut Model, rows: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; model.engine.output_len()];
    let mut all = Vec::new();
    for row in rows.chunks_exact(rows.len() / ROWS) {
        model.engine.run(row, &mut output).expect("it runs");
        all.extend_from_slice(&output);
    }
    all
}

/// Writes the graphs and their rows for ONNX Runtime, and has it run them; `None` without Python.
fn by_onnx_runtime(all: &[(u64, Made)]) -> Option<PathBuf> {
    let Some(python) = std::env::var_os("EDGEWARD_PYTHON") else {
        println!(
            "without ONNX Runtime: EDGEWARD_PYTHON names no Python with models/digits/requirements.txt"
        );
        return None;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("graphs");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    for (seed, made) in all {
        let bytes: Vec<u8> = rows(made, *seed)
            .iter()
            .flat_map(|it| it.to_le_bytes())
            .collect();
        std::fs::write(folder.join(format!("{seed}.onnx")), &made.file).expect("it is written");
        std::fs::write(folder.join(format!("{seed}.in")), bytes).expect("it is written");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graphs.py");
    let made = Command::new(python).arg(script).arg(&folder).status();
    assert!(made.expect("EDGEWARD_PYTHON runs").success());
    Some(folder)
}

/// How far two outputs are apart; an error says that it is too far.
fn compare(ours: &[f32], theirs: &[f32], step: f32) -> Result<[f32; 2], String> {
    if ours.len() != theirs.len() {
        return Err(format!("{} elements and {}", ours.len(), theirs.len()));
    }
    let steps = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / step);
    let largest = steps.clone().fold(0.0, f32::max);
    let mean = steps.sum::<f32>() / ours.len() as f32;
    if mean <= MEAN && largest <= LARGEST {
        return Ok([mean, largest]);
    }
    Err(format!(
        "steps of the output: mean {mean}, largest {largest}"
    ))
}

/// What was compared with one engine.
#[derive(Debug, Default)]
struct Tally {
    compared: usize,
    absent: usize,
    worst: [f32; 2],
    /// Mean differences, and largest ones, all together.
    sum: f32,
}

impl Tally {
    fn add(&mut self, apart: [f32; 2]) {
        self.compared += 1;
        self.sum += apart[0];
        for (worst, apart) in self.worst.iter_mut().zip(apart) {
            *worst = worst.max(apart);
        }
    }
}

#[test]
fn random_graphs_mean_what_they_mean_to_others() {
    let count = std::env::var("EDGEWARD_GRAPHS")
        .ok()
        .and_then(|it| it.parse().ok());
    let count: u64 = count.unwrap_or(400);
    let all: Vec<(u64, Made)> = (0..count).map(|seed| (seed, random(seed))).collect();
    let folder = by_onnx_runtime(&all);
    let (mut tract, mut runtime) = (Tally::default(), Tally::default());
    let (mut refused, mut wrong) = (BTreeMap::<String, usize>::new(), Vec::new());
    let mut operators = BTreeMap::<String, usize>::new();
    for (seed, made) in &all {
        let rows = rows(made, *seed);
        let ours = match Model::load(&made.file, EngineChoice::Program) {
            Ok(mut model) => outputs(&mut model, &rows),
            Err(ModelError::Program(error)) => {
                let text = error.to_string();
                let why = text.split_once(": ").map_or(&*text, |it| it.1);
                *refused.entry(why.chars().take(60).collect()).or_default() += 1;
                continue;
            }
            Err(error) => panic!("{seed}: {error}; {:?}", made.operators),
        };
        for operator in &made.operators[1..] {
            let name = operator.split(' ').next().unwrap_or_default();
            *operators.entry(name.to_owned()).or_default() += 1;
        }
        let mut judge = |by: &str, tally: &mut Tally, theirs: Option<Vec<f32>>| match theirs {
            None => tally.absent += 1,
            Some(theirs) => match compare(&ours, &theirs, made.step) {
                Ok(apart) => tally.add(apart),
                Err(why) => wrong.push(format!(
                    "graph {seed} and {by}: {why}; {:?}",
                    made.operators
                )),
            },
        };
        let by_tract = Model::load(&made.file, EngineChoice::Tract);
        judge(
            "tract",
            &mut tract,
            by_tract.ok().map(|mut model| outputs(&mut model, &rows)),
        );
        if let Some(folder) = &folder {
            let bytes = std::fs::read(folder.join(format!("{seed}.out"))).ok();
            let floats = bytes.map(|bytes| {
                let float = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
                bytes.as_chunks().0.iter().map(float).collect()
            });
            judge("ONNX Runtime", &mut runtime, floats);
        }
    }
    let taken = count as usize - refused.values().sum::<usize>();
    println!("{taken} of {count} graphs are programs: {operators:?}");
    println!("the others: {refused:#?}");
    for (name, tally) in [("tract", &tract), ("ONNX Runtime", &runtime)] {
        println!(
            "{name}: {} compared, {} not run there; steps of the output: mean {:.3}, of one graph at most {:.2}, \
             of one element at most {:.1}",
            tally.compared,
            tally.absent,
            tally.sum / tally.compared.max(1) as f32,
            tally.worst[0],
            tally.worst[1],
        );
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(taken as u64 >= count / 2, "{taken} of {count} are programs");
    assert!(
        tract.compared >= taken / 2,
        "tract runs {} of {taken}",
        tract.compared
    );
    if folder.is_some() {
        // It has no dilated convolution with auto_pad.
        assert!(
            runtime.absent * 10 <= taken,
            "ONNX Runtime refuses {} of {taken}",
            runtime.absent
        );
    }
    if count >= 400 {
        for name in [
            "Conv",
            "Gemm",
            "MatMul",
            "Add",
            "Sub",
            "Mul",
            "Reshape",
            "Transpose",
            "Pad",
            "Softmax",
            "Concat",
        ] {
            assert!(operators.contains_key(name), "no {name}");
        }
    }
}
