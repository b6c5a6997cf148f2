//! Times of programs on this machine, beside other engines in the same run.

use crate::{cargo, step};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to time.
#[derive(Args)]
pub struct Options {
    /// Folder of TFLite models, and of ONNX models for ONNX Runtime; by default those of the corpus,
    /// and where there is none, graphs of the MLPerf Tiny shapes with seeded weights.
    #[arg(long)]
    models: Option<PathBuf>,
    /// Inferences a model and round.
    #[arg(long, default_value_t = 1000)]
    runs: u32,
    /// Rounds; in each, every engine runs every model.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Processor core to stay on.
    #[arg(long, default_value_t = 1)]
    core: u32,
    /// Python with `ai-edge-litert`, `onnxruntime` and `numpy`.
    #[arg(long, default_value = "target/venv-peers/bin/python")]
    python: PathBuf,
}

/// Median and least microseconds of each engine, by model.
type Times = BTreeMap<String, BTreeMap<String, [f64; 2]>>;

/// Runs all engines in turns and prints the table.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let corpus = corpus(root).join("models");
    let models = match &options.models {
        Some(models) => Some(models.as_path()),
        None => Some(corpus.as_path()).filter(|it| it.is_dir()),
    };
    let mut build = cargo(root);
    build.args(["build", "--release", "--quiet", "--locked"]);
    build.args(["-p", "edgeward-compiler", "--example", "bench_linux"]);
    step("bench_linux", &mut build)?;
    let ours = target(root).join("release/examples/bench_linux");
    let python = root.join(&options.python);
    match models {
        None => eprintln!("!!! no corpus: seeded models, for which LiteRT has no files"),
        Some(_) if !python.exists() => eprintln!(
            "!!! no LiteRT: python3 -m venv target/venv-peers && \
             target/venv-peers/bin/pip install ai-edge-litert onnxruntime numpy"
        ),
        Some(_) => {}
    }
    let peers = models.is_some() && python.exists();
    let mut best = Times::new();
    for _ in 0..options.rounds {
        merge(&mut best, turn(&ours, &[], models, options)?);
        if peers {
            let script = root.join("benches/peers.py");
            merge(&mut best, turn(&python, &[&script], models, options)?);
        }
    }
    print(&best);
    Ok(())
}

fn corpus(root: &Path) -> PathBuf {
    match std::env::var_os("EDGEWARD_CORPUS") {
        Some(path) => path.into(),
        None => root.join("../shared/corpus"),
    }
}

fn target(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => path.into(),
        None => root.join("target"),
    }
}

/// One engine's turn: all models.
fn turn(
    program: &Path,
    before: &[&Path],
    models: Option<&Path>,
    options: &Options,
) -> Result<Times> {
    let mut command = Command::new("taskset");
    command.args(["-c", &options.core.to_string()]).arg(program);
    command
        .args(before)
        .arg(options.runs.to_string())
        .args(models);
    let output = command
        .output()
        .with_context(|| format!("taskset (util-linux) for {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("reading {line:?}"))
}

/// Keeps the round with the least median of each engine.
fn merge(best: &mut Times, round: Times) {
    for (model, engines) in round {
        let known = best.entry(model).or_default();
        for (engine, [median, least]) in engines {
            let entry = known.entry(engine).or_insert([median, least]);
            *entry = [entry[0].min(median), entry[1].min(least)];
        }
    }
}

fn print(times: &Times) {
    println!("| model | engine | median us | least us | ratio to LiteRT |");
    println!("|---|---|---|---|---|");
    for (model, engines) in times {
        let litert = engines.get("litert xnnpack").map(|it| it[0]);
        let mut engines: Vec<_> = engines.iter().collect();
        engines.sort_by(|a, b| a.1[0].total_cmp(&b.1[0]));
        for (engine, [median, least]) in engines {
            let ratio = litert.map_or("".into(), |litert| format!("{:.2}", median / litert));
            println!("| {model} | {engine} | {median:.1} | {least:.1} | {ratio} |");
        }
    }
}
