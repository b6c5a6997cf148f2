//! Runs one inference of each model by each set of kernels of this processor, for
//! `benches/count_instructions.c` to count: each stands between two calls of `sched_yield`.
//!
//! Prints a line a pair of calls, `MODEL KERNELS MACS`; the first pair has nothing in between.
//! `cargo xtask bench-aarch64` runs it.

mod models;

use edgeward::engine::Engine as _;
use edgeward::engine::program::ProgramEngine;
use edgeward::program::kernels::packed::Isa;
use edgeward_compiler::{Options, compile_graph};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    mark();
    mark();
    println!("nothing - 0");
    for (name, graph) in models::all()? {
        let compiled = compile_graph(graph, &Options::linux())?;
        for isa in Isa::available().map(Some).chain([None]) {
            let engine = ProgramEngine::with(&compiled.program, isa);
            let mut engine = engine.map_err(|error| format!("{name}: {error:?}"))?;
            let input: Vec<i8> = (0..engine.input_len())
                .map(|index| index.wrapping_mul(37) as i8)
                .collect();
            let mut output = vec![0; engine.output_len()];
            mark();
            let run = engine.run_i8(&input, &mut output);
            mark();
            run.map_err(|error| format!("{name}: {error:?}"))?;
            let kernels = isa.map_or("portable", Isa::name);
            println!("{name} {kernels} {}", compiled.report.macs);
        }
    }
    Ok(())
}

/// A call that the plugin sees.
fn mark() {
    std::thread::yield_now();
}
