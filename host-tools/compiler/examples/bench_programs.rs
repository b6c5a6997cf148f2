//! Writes programs for `cargo xtask bench-mcu`: `bench_programs FOLDER [fit]`.
//!
//! Of each model `NAME.program`; `NAME.rows`: inputs, each followed by the output that it must give; and
//! `NAME.ops`: a line an operator, of its kind, shapes, window and the model's operator that it came
//! from, with tabs in between. Models of the four MLPerf Tiny shapes with seeded weights are always
//! written, their outputs by the portable kernels on the natural layout; those of the corpus where it
//! is, with outputs of TensorFlow Lite Micro, and `kws.recordings` like `kws.rows`. Those called `way-…` take
//! ways through the kernels that no model takes, for predicted instructions alone; with `fit`, random
//! operators called `fit-…` too, to which those are fitted.

mod models;
#[path = "../tests/npz/mod.rs"]
mod npz;
#[path = "bench_programs/samples.rs"]
mod samples;

use edgeward::program::codec::Field as _;
use edgeward::program::layout::{self, SLOW, SLOW_TILE, UNPROVEN};
use edgeward::program::op::{Channel, Op};
use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::graph::Graph;
use edgeward_compiler::listing;
use edgeward_compiler::{Compiled, Options, compile, compile_graph};
use models::{CORPUS, shapes};
use samples::Doubt;
use std::error::Error;
use std::path::Path;

type Done<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Done {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: bench_programs FOLDER")?;
    let folder = Path::new(&folder);
    for (name, graph) in shapes::all() {
        seeded(folder, &format!("{name}-shape"), graph, Doubt::None)?;
    }
    for (name, graph, doubt) in samples::ways() {
        seeded(folder, &name, graph, doubt)?;
    }
    if std::env::args().nth(2).is_some_and(|word| word == "fit") {
        for (name, graph, doubt) in samples::all() {
            seeded(folder, &name, graph, doubt)?;
        }
    }
    let Some(corpus) = models::corpus() else {
        return Ok(());
    };
    for (name, file) in CORPUS {
        real(folder, name, &corpus, file)?;
    }
    recordings(folder, &corpus)?;
    Ok(())
}

/// A model with seeded weights.
fn seeded(folder: &Path, name: &str, graph: Graph, doubt: Doubt) -> Done {
    let natural = compile_graph(graph.clone(), &Options::mcu(Layout::Natural))?;
    let mut program = compile_graph(graph, &Options::mcu(Layout::CortexM))?;
    program.program = doubted(&program.program, doubt)?;
    arena(name, &program);
    let mut random = shapes::Random(7);
    let bytes = Aligned::copy_of(&natural.program);
    let program_of = |bytes| Program::verify(bytes).map_err(|error| format!("{name}: {error:?}"));
    let reference = program_of(bytes.as_ref())?;
    let header = *reference.header();
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let mut rows = Vec::new();
    for _ in 0..2 {
        let input: Vec<u8> = (0..header.input_len).map(|_| random.next() as u8).collect();
        let places = arena.as_mut().iter_mut().skip(header.input as usize);
        for (to, &from) in places.zip(&input) {
            *to = from.cast_signed();
        }
        let arena = arena.as_mut();
        let run = reference.run(&mut Portable, arena);
        run.map_err(|error| format!("{name}: {error:?}"))?;
        let (start, len) = (header.output as usize, header.output_len as usize);
        rows.extend(input);
        rows.extend(
            arena[start..][..len]
                .iter()
                .map(|value| value.cast_unsigned()),
        );
    }
    write(folder, name, &program, &rows)
}

/// A program whose constants claim less than is true.
fn doubted(program: &[u8], doubt: Doubt) -> Done<Vec<u8>> {
    let mut changed = program.to_vec();
    let bytes = Aligned::copy_of(program);
    let program = Program::verify(bytes.as_ref()).map_err(|error| format!("{error:?}"))?;
    for (index, op) in program.ops().enumerate() {
        let (channels, outputs) = match op {
            Op::Conv(it) => (it.channels, it.output.channels),
            Op::ConvAdd(it) => (it.conv.channels, it.conv.output.channels),
            Op::Depthwise(it) => (it.channels, it.output.channels),
            Op::Dense(it) => (it.channels, it.outputs),
            _ => continue,
        };
        let mut flag = |output: usize, flags: i32| -> Done {
            let at = channels as usize + output * Channel::BYTES + SHIFT;
            let shift = changed.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>);
            let shift = shift.ok_or("constants behind the end")?;
            let before = i32::from_le_bytes(*shift);
            let missing = flags & !layout::flags(before);
            *shift = (before ^ missing).to_le_bytes();
            Ok(())
        };
        match doubt {
            Doubt::None => {}
            Doubt::Sums => flag(0, UNPROVEN)?,
            Doubt::Tiles => {
                flag(0, SLOW)?;
                // Every third tile of this operator, every second of the next, then all.
                let tiles = (0..usize::from(outputs)).step_by(4 * (3 - index % 3));
                tiles.into_iter().try_for_each(|it| flag(it, SLOW_TILE))?;
            }
        }
    }
    Ok(changed)
}

/// Where the shift lies in a channel's constants.
const SHIFT: usize = 8;

/// Writes a model's files.
fn write(folder: &Path, name: &str, compiled: &Compiled, rows: &[u8]) -> Done {
    let bytes = Aligned::copy_of(&compiled.program);
    let program = Program::verify(bytes.as_ref()).map_err(|error| format!("{name}: {error:?}"))?;
    let mut text = String::new();
    for (row, from) in listing::rows(&program).iter().zip(&compiled.report.names) {
        let (kind, input, output, detail) = (row.kind, &row.input, &row.output, &row.detail);
        text += &format!("{kind}\t{input} -> {output}\t{detail}\t{from}\n");
    }
    std::fs::write(folder.join(format!("{name}.program")), &compiled.program)?;
    std::fs::write(folder.join(format!("{name}.rows")), rows)?;
    std::fs::write(folder.join(format!("{name}.ops")), text)?;
    Ok(())
}

/// Says how good the plan of a model's arena is.
fn arena(name: &str, compiled: &Compiled) {
    let plan = &compiled.report.plan;
    if !name.starts_with("fit-") && !name.starts_with("way-") {
        println!(
            "{name}: arena {} bytes, no plan below {}, alive without overlaps {}, greedy {}",
            plan.arena_bytes, plan.bound_bytes, plan.live_bytes, plan.greedy_bytes
        );
    }
}

/// Recordings that are keywords, each with what TensorFlow Lite Micro gives of it.
fn recordings(folder: &Path, models: &Path) -> Done {
    let real = npz::read_npz(&models.join("kws_ref_model.real.npz"));
    let mut rows = Vec::new();
    for (input, output) in real["input"].rows().zip(real["output"].rows()) {
        rows.extend_from_slice(input);
        rows.extend_from_slice(output);
    }
    std::fs::write(folder.join("kws.recordings"), rows)?;
    Ok(())
}

/// A model of the corpus.
fn real(folder: &Path, name: &str, models: &Path, file: &str) -> Done {
    let bytes = std::fs::read(models.join(format!("{file}.tflite")))?;
    let program = compile(&bytes, &Options::mcu(Layout::CortexM))?;
    arena(name, &program);
    let golden = npz::read_npz(&models.join(format!("{file}.golden.npz")));
    let mut rows = Vec::new();
    // The ramp first: what the peers' figures were counted on.
    let mut pairs: Vec<_> = golden["input"]
        .rows()
        .zip(golden["output"].rows())
        .collect();
    if pairs.len() > 1 {
        pairs.swap(0, 1);
    }
    for (input, output) in pairs {
        rows.extend_from_slice(input);
        rows.extend_from_slice(output);
    }
    write(folder, name, &program, &rows)
}
