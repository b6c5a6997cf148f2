//! Times of programs on this machine, beside other engines in the same run.

use crate::test::FEATURES;
use crate::{cargo, step};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to time.
#[derive(Args)]
pub struct Options {
    /// Folder of TFLite or ONNX models; by default those of the corpus, and where there is none, graphs
    /// of the MLPerf Tiny shapes with seeded weights. A TFLite model without an ONNX file of its name
    /// gets one with the same layers, so that tract and ONNX Runtime take part.
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
    /// Writes `benches/linux.txt`: needs the peers, and the models of the corpus.
    #[arg(long)]
    save: bool,
}

/// Median and least microseconds of each engine, by model.
type Times = BTreeMap<String, BTreeMap<String, [f64; 2]>>;

/// Runs all engines in turns and prints the table.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    // Before anything is built, which is a load as well.
    let before = load()?;
    let ours = example(root, "bench_linux")?;
    let tract = example(root, "bench_tract")?;
    let folder = gather(root, options)?;
    let python = root.join(&options.python);
    if !python.exists() {
        eprintln!(
            "!!! no LiteRT and no ONNX Runtime: python3 -m venv target/venv-peers && \
             target/venv-peers/bin/pip install ai-edge-litert onnxruntime numpy"
        );
    }
    ensure!(
        python.exists() || !options.save,
        "figures are saved beside those of the peers"
    );
    let mut best = Times::new();
    for _ in 0..options.rounds {
        merge(&mut best, turn(&ours, &[], &folder, options)?);
        merge(&mut best, turn(&tract, &[], &folder, options)?);
        if python.exists() {
            let script = root.join("benches/peers.py");
            merge(&mut best, turn(&python, &[&script], &folder, options)?);
        }
    }
    let tables = ratios(&best) + "\n" + &table(&best);
    print!("{tables}");
    if options.save {
        let about = about(&python, options, &before)?;
        std::fs::write(root.join("benches/linux.txt"), about + &tables)?;
    }
    Ok(())
}

/// The machine's load averages over 1, 5 and 15 minutes.
fn load() -> Result<String> {
    let all = std::fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let three: Vec<&str> = all.split_whitespace().take(3).collect();
    Ok(three.join(" "))
}

/// What a command prints, in one line.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// When, where and how the figures were taken: what a reader needs to doubt them.
fn about(python: &Path, options: &Options, before: &str) -> Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value
            .map_or("unknown", |(_, value)| value.trim())
            .to_owned()
    };
    let model = [field("model name"), field("cpu family"), field("model")];
    let cores = cpus.lines().filter(|it| it.starts_with("processor"));
    let (cores, date) = (cores.count(), said("date", &["-u", "+%Y-%m-%d"])?);
    let peers = "import importlib.metadata as m; \
        print(', '.join(f'{it} {m.version(it)}' for it in ('ai-edge-litert', 'onnxruntime')))";
    let peers = said(&python.to_string_lossy(), &["-c", peers])?;
    let (rustc, after) = (said("rustc", &["--version"])?, load()?);
    let (rounds, runs) = (options.rounds, options.runs);
    let [name, family, number] = model;
    Ok(format!(
        "# One inference on one core; of each engine the round with the least median.\n\
         # Written by `cargo xtask bench-linux --save` on {date}: all engines in turns, {rounds} rounds \
         of {runs} inferences\n\
         # (portable kernels a fiftieth of that).\n\
         # Machine: {name} (family {family}, model {number}), {cores} cores. Load average before \
         {before}, after {after}.\n\
         # Versions: {rustc}; {peers}.\n\
         # First how many times as long as the fastest of ours each takes, then the times.\n"
    ))
}

/// Builds an example and gives its path. With the features that the tests have, since tract takes ten
/// minutes to build with others.
fn example(root: &Path, name: &str) -> Result<PathBuf> {
    let mut build = cargo(root);
    build.args(["build", "--release", "--quiet", "--locked", "--workspace"]);
    build.args(["--features", FEATURES, "--example", name]);
    step(name, &mut build)?;
    Ok(target(root).join("release/examples").join(name))
}

/// A folder of the models in both formats: those asked for, or those of the corpus, or seeded ones.
fn gather(root: &Path, options: &Options) -> Result<PathBuf> {
    let tiny = example(root, "tiny")?;
    let folder = root.join("target/bench-linux");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let corpus = corpus(root).join("models");
    let models = match &options.models {
        Some(models) => Some(models.as_path()),
        None => Some(corpus.as_path()).filter(|it| it.is_dir()),
    };
    let mut twins = Command::new(tiny);
    twins.arg(&folder);
    match models {
        None => eprintln!("!!! no corpus: models with seeded weights"),
        Some(models) => {
            for entry in std::fs::read_dir(models)? {
                let path = entry?.path();
                if let (Some(name), Some("tflite" | "onnx")) = (
                    path.file_name(),
                    path.extension().and_then(|it| it.to_str()),
                ) {
                    std::fs::copy(&path, folder.join(name))?;
                }
            }
            twins.arg(models);
        }
    }
    step("models in both formats", &mut twins)?;
    Ok(folder)
}

fn corpus(root: &Path) -> PathBuf {
    match std::env::var_os("EDGEWARD_CORPUS") {
        Some(path) => path.into(),
        None => root.join("../shared/corpus"),
    }
}

/// Where cargo builds what is for this machine.
pub fn target(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => path.into(),
        None => root.join("target"),
    }
}

/// One engine's turn: all models.
fn turn(program: &Path, before: &[&Path], models: &Path, options: &Options) -> Result<Times> {
    let mut command = Command::new("taskset");
    command.args(["-c", &options.core.to_string()]).arg(program);
    command
        .args(before)
        .arg(options.runs.to_string())
        .arg(models);
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

/// The least median of ours.
fn ours(engines: &BTreeMap<String, [f64; 2]>) -> f64 {
    let ours = engines.iter().filter(|it| is_ours(it.0));
    let least = ours.map(|it| it.1[0]).min_by(f64::total_cmp);
    least.unwrap_or(f64::NAN)
}

fn is_ours(engine: &str) -> bool {
    engine.starts_with("edgeward")
}

/// How many times as long as the fastest of ours each takes: a row a model, a column an engine, the
/// peers before our other sets of kernels.
fn ratios(times: &Times) -> String {
    let all: BTreeSet<(bool, &str)> = times
        .values()
        .flat_map(|engines| engines.keys().map(|name| (is_ours(name), name.as_str())))
        .collect();
    let mut text = String::from("| times ours |");
    for (_, name) in &all {
        let _ = write!(text, " {name} |");
    }
    text.push_str(" the fastest of ours, us |\n|---|");
    text.push_str(&"---|".repeat(all.len() + 1));
    text.push('\n');
    for (model, engines) in times {
        let least = ours(engines);
        let _ = write!(text, "| {model} |");
        for (_, name) in &all {
            let _ = match engines.get(*name) {
                Some([median, _]) => write!(text, " {:.2} |", median / least),
                None => write!(text, " - |"),
            };
        }
        let _ = writeln!(text, " {least:.1} |");
    }
    text
}

/// All times, by model, how many times as long as the fastest of ours each takes first.
fn table(times: &Times) -> String {
    let mut text = String::from("| model | engine | times ours | median us | least us |\n");
    text.push_str("|---|---|---|---|---|\n");
    for (model, engines) in times {
        let fastest = ours(engines);
        let mut engines: Vec<_> = engines.iter().collect();
        engines.sort_by(|a, b| a.1[0].total_cmp(&b.1[0]));
        for (engine, [median, least]) in engines {
            let ratio = median / fastest;
            let _ = writeln!(
                text,
                "| {model} | {engine} | {ratio:.2} | {median:.1} | {least:.1} |"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_round_counts_and_ratios_are_to_the_fastest_of_ours() {
        let round = |text: &str| serde_json::from_str::<Times>(text).expect("a round");
        let mut best = Times::new();
        merge(
            &mut best,
            round(r#"{"kws": {"edgeward a": [20.0, 18.0], "edgeward b": [50.0, 45.0]}}"#),
        );
        merge(&mut best, round(r#"{"kws": {"tract": [400.0, 390.0]}}"#));
        merge(
            &mut best,
            round(r#"{"kws": {"edgeward a": [25.0, 17.0], "tract": [300.0, 280.0]}}"#),
        );
        let table = table(&best);
        for line in [
            "| kws | edgeward a | 1.00 | 20.0 | 17.0 |",
            "| kws | edgeward b | 2.50 | 50.0 | 45.0 |",
            "| kws | tract | 15.00 | 300.0 | 280.0 |",
        ] {
            assert!(table.contains(line), "{table}");
        }
        merge(&mut best, round(r#"{"ic": {"edgeward a": [9.0, 8.0]}}"#));
        assert_eq!(
            ratios(&best),
            "| times ours | tract | edgeward a | edgeward b | the fastest of ours, us |\n\
             |---|---|---|---|---|\n\
             | ic | - | 1.00 | - | 9.0 |\n\
             | kws | 15.00 | 1.00 | 2.50 | 20.0 |\n"
        );
    }
}
