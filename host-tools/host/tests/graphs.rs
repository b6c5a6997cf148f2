//! Random small int8 graphs of mixed rank, by their program and by others: tract, and ONNX Runtime where Python
//! is at hand.
//!
//! What is looked for is an operator that works along another axis than ONNX's, pads with another value, or gives
//! another shape: that is wrong by dozens of steps of the output, where rounding otherwise is wrong by a few.
//! `EDGEWARD_GRAPHS` says how many graphs; `EDGEWARD_PYTHON` names an interpreter that has
//! `models/digits/requirements.txt`.

#[path = "../../../tests/program/engines.rs"]
#[allow(dead_code, reason = "the suite needs more of it")]
mod engine_list;
#[path = "../../compiler/tests/common/graphs/mod.rs"]
mod graphs;

use edgeward::engine::Engine;
use edgeward_host::model::{EngineChoice, Model, ModelError};
use graphs::{Chance, Made, random};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Rows that each graph is run on.
const ROWS: usize = 3;
/// Graphs, where nothing else is said.
const GRAPHS: u64 = 400;

/// A graph and what its program gives, or why it is none.
struct Run {
    seed: u64,
    made: Made,
    rows: Vec<f32>,
    ours: Result<Vec<f32>, String>,
}

fn count() -> u64 {
    let count = std::env::var("EDGEWARD_GRAPHS").ok();
    count.and_then(|it| it.parse().ok()).unwrap_or(GRAPHS)
}

/// All graphs by their programs, once for all tests.
fn runs() -> &'static [Run] {
    static RUNS: OnceLock<Vec<Run>> = OnceLock::new();
    let run = |seed| {
        let made = random(seed);
        let rows = rows(&made, seed);
        let ours = match Model::load(&made.file, EngineChoice::Program) {
            Ok(mut model) => Ok(outputs(&mut model, &rows)),
            Err(ModelError::Program(error)) => Err(error.to_string()),
            Err(error) => panic!("{seed}: {error}; {:?}", made.operators),
        };
        Run {
            seed,
            made,
            rows,
            ours,
        }
    };
    RUNS.get_or_init(|| (0..count()).map(run).collect())
}

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

/// Writes the graphs and their rows for ONNX Runtime, and has it run them: gives the folder of its outputs.
fn by_onnx_runtime(python: &OsStr) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("graphs");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    for Run {
        seed, made, rows, ..
    } in runs()
    {
        let bytes: Vec<u8> = rows.iter().flat_map(|it| it.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{seed}.onnx")), &made.file).expect("it is written");
        std::fs::write(folder.join(format!("{seed}.in")), bytes).expect("it is written");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graphs.py");
    let made = Command::new(python).arg(script).arg(&folder).status();
    assert!(made.expect("EDGEWARD_PYTHON runs").success());
    folder
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

/// Compares all graphs that are programs with what an engine gives, as the list of engines says how closely.
fn compare(engine: &str, theirs: impl Fn(&Run) -> Option<Vec<f32>>) -> Tally {
    let apart = engine_list::engine(engine).apart(engine_list::GRAPH);
    let (mut tally, mut wrong) = (Tally::default(), Vec::new());
    for run in runs() {
        let Ok(ours) = &run.ours else { continue };
        let Some(theirs) = theirs(run) else {
            tally.absent += 1;
            continue;
        };
        match apart.check(ours, &theirs, run.made.step) {
            Ok(apart) => tally.add(apart),
            Err(why) => wrong.push(format!(
                "graph {}: {why}; {:?}",
                run.seed, run.made.operators
            )),
        }
    }
    println!(
        "{engine}: {} compared, {} not run there; steps of the output: mean {:.3}, of one graph at most {:.2}, \
         of one element at most {:.1}",
        tally.compared,
        tally.absent,
        tally.sum / tally.compared.max(1) as f32,
        tally.worst[0],
        tally.worst[1],
    );
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} are wrong:\n{}", wrong.join("\n"));
    tally
}

#[test]
fn most_random_graphs_are_programs() {
    let mut operators = BTreeMap::<&str, usize>::new();
    let mut refused = BTreeMap::<String, usize>::new();
    let mut taken = 0;
    for Run { made, ours, .. } in runs() {
        if let Err(text) = ours {
            let why = text.split_once(": ").map_or(&**text, |it| it.1);
            *refused.entry(why.chars().take(60).collect()).or_default() += 1;
            continue;
        }
        taken += 1;
        for operator in &made.operators[1..] {
            let name = operator.split(' ').next().unwrap_or_default();
            *operators.entry(name).or_default() += 1;
        }
    }
    println!("{taken} of {} graphs are programs: {operators:?}", count());
    println!("the others: {refused:#?}");
    assert!(taken >= count() / 2, "{taken} of {} are programs", count());
    if count() < GRAPHS {
        return;
    }
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

#[test]
fn random_graphs_mean_what_they_mean_to_tract() {
    let tally = compare("tract", |run| {
        let model = Model::load(&run.made.file, EngineChoice::Tract);
        model.ok().map(|mut model| outputs(&mut model, &run.rows))
    });
    let Tally {
        compared, absent, ..
    } = tally;
    assert!(compared >= absent, "tract runs {compared}, {absent} not");
}

#[test]
fn random_graphs_mean_what_they_mean_to_onnx_runtime() {
    let Some(python) = std::env::var_os("EDGEWARD_PYTHON") else {
        println!("skipped: EDGEWARD_PYTHON names no Python with models/digits/requirements.txt");
        return;
    };
    let folder = by_onnx_runtime(&python);
    let tally = compare("onnx-runtime", |run| {
        let bytes = std::fs::read(folder.join(format!("{}.out", run.seed))).ok()?;
        let float = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
        Some(bytes.as_chunks().0.iter().map(float).collect())
    });
    // It has no dilated convolution with auto_pad.
    let Tally {
        compared, absent, ..
    } = tally;
    assert!(
        absent * 9 <= compared,
        "ONNX Runtime runs {compared}, {absent} not"
    );
}
