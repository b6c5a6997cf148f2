//! Runs the fuzz targets with libFuzzer on a stable toolchain.

use crate::{announce, cargo, step};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long and which.
#[derive(Args)]
pub struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 30)]
    pub seconds: u32,
    /// Only this target.
    #[arg(long)]
    pub target: Option<String>,
    /// Builds each target with a wrong assertion deep inside, and fails unless it is found.
    #[arg(long)]
    pub planted: bool,
}

/// libFuzzer's instrumentation, all of it in stable code-generation options. No sanitizer: the code
/// under test is safe Rust, and overflow and debug assertions are on.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=yes \
    -Coverflow-checks=yes";

/// Where they are built.
const TARGET_DIR: &str = "target/fuzz";

/// Longest input: more than a bundle with the example model, which has about 24,700 bytes.
const MAX_LEN: u32 = 32 * 1024;

/// Builds and runs the targets, each on a corpus of its own that grows in `target/fuzz/corpus` from
/// seeds that the target writes itself.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let folder = root.join("fuzz");
    let targets = targets(&folder)?;
    let chosen: Vec<&String> = targets
        .iter()
        .filter(|name| options.target.as_ref().is_none_or(|only| only == *name))
        .collect();
    if chosen.is_empty() {
        bail!("no such fuzz target; there are: {}", targets.join(", "));
    }
    let binaries = build(root, options.planted)?;
    for name in chosen {
        let source = folder.join("fuzz_targets").join(name).with_extension("rs");
        if options.planted && !std::fs::read_to_string(source)?.contains("planted(") {
            eprintln!("!!! {name} has no planted bug, so nothing is proven about its reach");
            continue;
        }
        let command = command(root, &binaries.join(name), options)?;
        if options.planted {
            find_planted(name, command)?;
        } else {
            step(&format!("fuzz {name}"), &mut { command })?;
        }
    }
    Ok(())
}

/// Builds all targets, and says in which folder they are.
pub fn build(root: &Path, planted: bool) -> Result<PathBuf> {
    step("fuzz targets", &mut build_command(root, planted))?;
    Ok(root.join(TARGET_DIR).join(host()).join("release"))
}

/// The build of all targets.
pub fn build_command(root: &Path, planted: bool) -> Command {
    let mut build = cargo(&root.join("fuzz"));
    build
        .env("RUSTFLAGS", FLAGS)
        .args(["build", "--release", "--target", &host()]);
    if planted {
        build.args(["--features", "planted"]);
    }
    build.arg("--target-dir").arg(root.join(TARGET_DIR));
    build
}

/// This machine's target: named, so that build scripts are not instrumented.
fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// How a target is run: its seeds written anew, everything it finds kept in `target/fuzz`.
fn command(root: &Path, binary: &Path, options: &Options) -> Result<Command> {
    let name = binary.file_name().context("a target's name")?;
    let kind = if options.planted { "planted" } else { "corpus" };
    let corpus = root.join("target/fuzz").join(kind).join(name);
    if options.planted && corpus.exists() {
        // What an earlier run found would be found at once.
        std::fs::remove_dir_all(&corpus)?;
    }
    std::fs::create_dir_all(&corpus)?;
    let mut command = Command::new(binary);
    command
        .current_dir(root.join("target/fuzz"))
        .env("EDGEWARD_FUZZ_SEEDS", &corpus)
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-max_len={MAX_LEN}"))
        .args(["-timeout=10", "-print_final_stats=1", "-verbosity=1"]);
    if options.planted {
        command.arg(format!("-artifact_prefix={}/", corpus.display()));
    }
    command.arg(&corpus);
    Ok(command)
}

/// Runs a target whose assertion is wrong, and fails unless it says so.
fn find_planted(name: &str, mut command: Command) -> Result<()> {
    let title = format!("planted bug of {name}");
    let start = announce(&title, &command);
    let output = command
        .output()
        .with_context(|| format!("{title}: cannot start"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains("the planted bug is found") {
        let end: Vec<&str> = said.lines().rev().take(20).collect();
        for line in end.iter().rev() {
            eprintln!("{line}");
        }
        bail!("{title}: not found, so the fuzzer does not reach what lies there");
    }
    eprintln!(
        "--- {title}: found in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The targets are the files in `fuzz/fuzz_targets`.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.join("fuzz_targets")).context("fuzz/fuzz_targets")? {
        let path = entry?.path();
        if let Some(stem) = path
            .file_stem()
            .filter(|_| path.extension().is_some_and(|e| e == "rs"))
        {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
