//! Runs the fuzz targets with libFuzzer on a stable toolchain.

use crate::{cargo, step};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::Path;
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
}

/// libFuzzer's instrumentation, all of it in stable code-generation options. No sanitizer: the code
/// under test is safe Rust, and overflow and debug assertions are on.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=yes \
    -Coverflow-checks=yes";

/// Builds and runs the targets, each on a corpus of its own that grows in `target/fuzz/corpus`.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    // Named, so that build scripts are not instrumented.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = root.join("fuzz");
    let targets = targets(&folder)?;
    let chosen: Vec<&String> = targets
        .iter()
        .filter(|name| options.target.as_ref().is_none_or(|only| only == *name))
        .collect();
    if chosen.is_empty() {
        bail!("no such fuzz target; there are: {}", targets.join(", "));
    }
    step(
        "fuzz targets",
        cargo(&folder)
            .env("RUSTFLAGS", FLAGS)
            .args(["build", "--release", "--target", &host])
            .arg("--target-dir")
            .arg(root.join("target/fuzz")),
    )?;
    for name in chosen {
        let corpus = root.join("target/fuzz/corpus").join(name);
        std::fs::create_dir_all(&corpus)?;
        let binary = root
            .join("target/fuzz")
            .join(&host)
            .join("release")
            .join(name);
        let mut command = Command::new(binary);
        command
            .current_dir(root.join("target/fuzz"))
            .arg(format!("-max_total_time={}", options.seconds))
            .args([
                "-max_len=16384",
                "-timeout=10",
                "-print_final_stats=1",
                "-verbosity=1",
            ])
            .arg(&corpus);
        step(&format!("fuzz {name}"), &mut command)?;
    }
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
