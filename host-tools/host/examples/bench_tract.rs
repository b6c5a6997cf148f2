//! Times one inference of each ONNX model of a folder with tract: `bench_tract RUNS FOLDER`.
//!
//! Prints a line of JSON as `benches/peers.py` does. `cargo xtask bench-linux` calls it in turns with the
//! other engines. tract runs in its pool of memory, as on boards.

use edgeward::engine::pool::PoolAllocator;
use edgeward::engine::tract::{ModelSpec, TractEngine};
use edgeward::engine::{Engine as _, pool};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runs, folder] = arguments.as_slice() else {
        return Err("usage: bench_tract RUNS FOLDER".into());
    };
    let runs: usize = runs.parse()?;
    pool::reserve(64 << 20);
    let mut models = Vec::new();
    for entry in std::fs::read_dir(Path::new(folder))? {
        let path = entry?.path();
        if path.extension().is_none_or(|it| it != "onnx") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let engine = TractEngine::load(&std::fs::read(&path)?, &ModelSpec::default());
        let mut engine = engine.map_err(|error| format!("{name}: {error}"))?;
        let [median, least] = time(&mut engine, runs);
        models.push(format!(
            "\"{name}\": {{\"tract\": [{median:.2}, {least:.2}]}}"
        ));
    }
    println!("{{{}}}", models.join(", "));
    Ok(())
}

/// Median and least time of an inference in microseconds.
fn time(engine: &mut TractEngine, runs: usize) -> [f64; 2] {
    let input: Vec<f32> = (0..engine.input_len())
        .map(|index| (index.wrapping_mul(37) as i8) as f32 * 0.05)
        .collect();
    let mut output = vec![0.0; engine.output_len()];
    let mut times = Vec::with_capacity(runs);
    for run in 0..runs + runs / 5 + 3 {
        let start = Instant::now();
        engine
            .run(&input, &mut output)
            .expect("lengths are those of the model");
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
