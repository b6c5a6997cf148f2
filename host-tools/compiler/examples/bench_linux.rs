//! Times one inference of models on this machine: `bench_linux RUNS FOLDER`.
//!
//! Compiles each TFLite file of the folder for Linux, and each ONNX file that has no twin in TFLite, and
//! runs it packed for each instruction set of this processor, and by the portable kernels. Prints a line
//! of JSON as `benches/peers.py` does: `{model: {engine: [median, least] in microseconds}}`.
//! `cargo xtask bench-linux` calls all engines in turns.

use edgeward::engine::Engine as _;
use edgeward::engine::program::ProgramEngine;
use edgeward::program::kernels::packed::Isa;
use edgeward_compiler::{Options, compile};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let runs = arguments.next().ok_or("usage: bench_linux RUNS FOLDER")?;
    let runs: usize = runs.parse()?;
    let folder = arguments.next().ok_or("usage: bench_linux RUNS FOLDER")?;
    let mut models = Vec::new();
    for path in files(Path::new(&folder))? {
        let compiled = compile(&std::fs::read(&path)?, &Options::linux())?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        models.push(time_all(&name, &compiled.program, runs)?);
    }
    println!("{{{}}}", models.join(", "));
    Ok(())
}

/// Times a program with every set of kernels: an entry of the line of JSON.
fn time_all(name: &str, program: &[u8], runs: usize) -> Result<String, Box<dyn Error>> {
    let mut engines = Vec::new();
    for isa in Isa::available().map(Some).chain([None]) {
        let engine = ProgramEngine::with(program, isa);
        let mut engine = engine.map_err(|error| format!("{name}: {error:?}"))?;
        let runs = if isa.is_some() {
            runs
        } else {
            runs.div_ceil(50)
        };
        let [median, least] = time(&mut engine, runs);
        let isa = isa.map_or("portable", Isa::name);
        engines.push(format!("\"edgeward {isa}\": [{median:.2}, {least:.2}]"));
    }
    Ok(format!("\"{name}\": {{{}}}", engines.join(", ")))
}

/// The models of a folder, one file of each.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is = |kind: &str| path.extension().is_some_and(|it| it == kind);
        if is("tflite") || is("onnx") && !path.with_extension("tflite").exists() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Median and least time of an inference in microseconds.
fn time(engine: &mut ProgramEngine, runs: usize) -> [f64; 2] {
    let input: Vec<i8> = (0..engine.input_len())
        .map(|index| index.wrapping_mul(37) as i8)
        .collect();
    let mut output = vec![0; engine.output_len()];
    let mut times = Vec::with_capacity(runs);
    for run in 0..runs + runs / 5 + 3 {
        let start = Instant::now();
        engine
            .run_i8(&input, &mut output)
            .expect("lengths are those of the program");
        if run >= runs / 5 + 3 {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    [
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN),
        times.first().copied().unwrap_or(f64::NAN),
    ]
}
