//! All automation of the repository: `cargo xtask --help`.

mod aarch64;
mod ahead;
mod bare_metal;
mod bench_linux;
mod bench_mcu;
mod board_work;
mod boards;
mod elf;
#[path = "../../tests/program/engines.rs"]
#[allow(dead_code, reason = "the suite needs more of it")]
mod engines;
mod fuzz;
mod own_boards;
mod setup;
mod size;
mod stacks;
mod tally;
mod test;
mod tidy;

use anyhow::{Context, Result, bail};
use boards::Build;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::time::Instant;

/// Set-up, tests, fuzzing and checks, the same here and in CI.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what the tests need, then runs everything: format, lints, bare-metal build, tests (with
    /// the demo on the embedded broker and on Mosquitto), documentation, programs on AArch64 and on a
    /// Cortex-M4 under QEMU, fuzz smoke.
    Test(test::Options),
    /// Installs what the tests need (Debian packages when root, otherwise it says which; a Python
    /// environment in `target/venv`).
    Setup,
    /// Runs each fuzz target for a while.
    Fuzz(fuzz::Options),
    /// Proves that the core builds without std and alloc for a Cortex-M4.
    BareMetal,
    /// Builds the firmware of a board and prints where it is.
    BoardImage {
        /// The board's folder in `boards/`.
        board: String,
        /// With a standard library built for size, in which a panic leaves its address and no words.
        #[arg(long)]
        lean: bool,
    },
    /// Shows what a board's firmware takes of flash and RAM by part, and holds it to its budget.
    Size(size::Options),
    /// Times programs on this machine: ours, tract, and LiteRT and ONNX Runtime where Python has them.
    BenchLinux(bench_linux::Options),
    /// Counts the instructions of programs on a Cortex-M4 in QEMU, exactly, and of what a board does
    /// besides; checks the programs' outputs and every kernel bit for bit.
    BenchMcu(bench_mcu::Options),
    /// Runs the tests of programs on AArch64 under qemu-user: NEON with its dot product and without.
    TestAarch64,
    /// Counts the instructions of programs on AArch64 under qemu-user, exactly.
    BenchAarch64(aarch64::Options),
    /// Checks the limits of the code's style: lines a file and a function.
    Tidy,
}

fn main() -> Result<()> {
    let root = root()?;
    match Cli::parse().task {
        Task::Test(options) => test::run(&root, &options),
        Task::Setup => setup::run(&root).map(|_| ()),
        Task::Fuzz(options) => fuzz::run(&root, &options),
        Task::BareMetal => bare_metal::check(&root),
        Task::BoardImage { board, lean } => {
            let build = match lean {
                true => Build::WHOLE.lean(),
                false => Build::WHOLE,
            };
            println!("{}", boards::image(&root, &board, build)?.display());
            Ok(())
        }
        Task::Size(options) => size::run(&root, &options),
        Task::BenchLinux(options) => bench_linux::run(&root, &options),
        Task::BenchMcu(options) => bench_mcu::run(&root, &options),
        Task::TestAarch64 => test::aarch64_alone(&root),
        Task::BenchAarch64(options) => aarch64::bench(&root, &options),
        Task::Tidy => tidy::check(&root),
    }
}

/// The workspace's folder.
fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().context("xtask stands in the workspace")?;
    Ok(root.to_owned())
}

/// A cargo command in `folder`, without what an outer cargo left in the environment.
fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    clean(&mut command);
    command
}

/// Removes the outer cargo's variables, which would choose toolchain and flags for the inner one.
fn clean(command: &mut Command) {
    for name in [
        "CARGO",
        "RUSTC",
        "RUSTUP_TOOLCHAIN",
        "CARGO_MANIFEST_DIR",
        "CARGO_PKG_NAME",
    ] {
        command.env_remove(name);
    }
}

/// Stages that ended, each with its seconds.
static STAGES: Mutex<Vec<(String, f64)>> = Mutex::new(Vec::new());

/// Runs a command, shows it first, and fails when it fails.
fn step(title: &str, command: &mut Command) -> Result<()> {
    let start = announce(title, command);
    let status = command
        .status()
        .with_context(|| format!("{title}: cannot start {:?}", command.get_program()))?;
    finish(title, start, status)
}

/// Shows a command that is about to run.
fn announce(title: &str, command: &Command) -> Instant {
    eprintln!("\n=== {title}\n    {}", shown(command));
    Instant::now()
}

/// Notes how long a command took, and fails when it failed.
fn finish(title: &str, start: Instant, status: ExitStatus) -> Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    if let Ok(mut stages) = STAGES.lock() {
        stages.push((title.to_owned(), seconds));
    }
    if !status.success() {
        bail!("{title}: failed ({status})");
    }
    eprintln!("--- {title}: ok, {seconds:.1} s");
    Ok(())
}

/// Says how long each stage took.
fn print_stages() {
    let Ok(stages) = STAGES.lock() else { return };
    for (title, seconds) in stages.iter() {
        eprintln!("    {seconds:7.1} s  {title}");
    }
    let total: f64 = stages.iter().map(|(_, seconds)| seconds).sum();
    eprintln!("    {total:7.1} s  in all");
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
