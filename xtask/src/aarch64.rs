//! The core on AArch64: tests, and of the program engine exact counts of instructions under qemu-user.

use crate::bare_metal::Toolchain;
use crate::engines::ENGINES;
use crate::tally::{self, Tally};
use crate::{setup, step};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Emulator, linker and C library, each with the file that shows that it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-user", "/usr/bin/qemu-aarch64"),
    ("gcc-aarch64-linux-gnu", "/usr/bin/aarch64-linux-gnu-gcc"),
    (
        "libc6-dev-arm64-cross",
        // The C library itself comes with the compiler, without what is compiled against it.
        "/usr/aarch64-linux-gnu/include/stdio.h",
    ),
];
/// The processor on which instructions are counted: one whose NEON has the dot product of bytes.
const CPU: &str = "cortex-a76";
const FIGURES: &str = "benches/aarch64.txt";

/// What to do with the figures.
#[derive(Args)]
pub struct Options {
    /// Compares with benches/aarch64.txt and fails when a model takes over 1 % more than there by the
    /// vector kernels.
    #[arg(long)]
    check: bool,
    /// Writes benches/aarch64.txt.
    #[arg(long, conflicts_with = "check")]
    save: bool,
}

impl Options {
    /// As the tests run it.
    pub fn check() -> Self {
        Self {
            check: true,
            save: false,
        }
    }
}

/// The tests of programs on both processors and of what looks at samples, then the counts; skipped, and said so, where the tools
/// can't be installed.
pub fn test(root: &Path, tally: &mut Tally) -> Result<()> {
    let toolchain = match tools() {
        Ok(toolchain) => toolchain,
        Err(reason) => {
            tally.skip("programs on AArch64", &format!("{reason:#}"));
            return Ok(());
        }
    };
    for engine in ENGINES {
        let Some(cpu) = engine.cpu else { continue };
        let mut command = tests(root, &toolchain, cpu);
        // The tests fail where it is not what runs.
        command.env("EDGEWARD_ENGINE", engine.name);
        let title = format!("programs on AArch64, {cpu}");
        tally.add(tally::run(
            &title,
            command,
            &root.join(format!("target/test-{cpu}.log")),
        )?);
    }
    let title = format!("contract and drift on AArch64, {CPU}");
    tally.add(tally::run(
        &title,
        sample_tests(root, &toolchain),
        &root.join("target/test-samples.log"),
    )?);
    bench(root, &Options::check())
}

/// The tests of contract and drift: away from x86-64 they look at each feature alone.
fn sample_tests(root: &Path, toolchain: &Toolchain) -> Command {
    let mut command = cargo(root, toolchain, "test", CPU);
    command.args(["-p", "edgeward", "--features", "edgeward/std", "--lib"]);
    command.args(["--", "contract::", "drift::"]);
    command
}

/// The tests of programs on `cpu`.
fn tests(root: &Path, toolchain: &Toolchain, cpu: &str) -> Command {
    let mut command = cargo(root, toolchain, "test", cpu);
    command.args(["-p", "edgeward", "--features", "edgeward/std"]);
    for test in ["program_conformance", "program_packed", "packed"] {
        command.args(["--test", test]);
    }
    command
}

/// The builds of what [`test()`] runs; none where the tools can't be installed.
pub fn builds(root: &Path) -> Vec<Command> {
    let Ok(toolchain) = tools() else {
        return Vec::new();
    };
    let mut tests = tests(root, &toolchain, CPU);
    tests.arg("--no-run");
    let mut samples = cargo(root, &toolchain, "test", CPU);
    samples.args([
        "-p",
        "edgeward",
        "--features",
        "edgeward/std",
        "--lib",
        "--no-run",
    ]);
    let mut counts = cargo(root, &toolchain, "build", CPU);
    counts.args(["--example", "count_instructions"]);
    vec![tests, samples, counts]
}

/// Installs emulator and toolchain; an error says what is missing.
fn tools() -> Result<Toolchain> {
    let missing = |(_, file): &&(&str, &str)| !Path::new(file).exists();
    let wanted: Vec<&str> = PACKAGES.iter().filter(missing).map(|it| it.0).collect();
    setup::install(&wanted)?;
    if let Some((package, file)) = PACKAGES.iter().find(missing) {
        bail!("no {file} (Debian's package {package})");
    }
    Toolchain::find(TARGET)
}

/// A command of cargo for the target, whose results run on `cpu`.
fn cargo(root: &Path, toolchain: &Toolchain, action: &str, cpu: &str) -> Command {
    let mut command = toolchain.cargo(root, action, TARGET, "std");
    command
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
            "aarch64-linux-gnu-gcc",
        )
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
            format!("qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu {cpu}"),
        )
        .args(["--quiet", "--locked", "-p", "edgeward-compiler"])
        .arg("--target-dir")
        .arg(root.join("target/aarch64"));
    command
}

/// Instructions of one model: MACs, and of each set of kernels.
#[derive(Default)]
struct Figures {
    macs: u64,
    kernels: BTreeMap<String, u64>,
}

type All = BTreeMap<String, Figures>;

/// The sets of kernels, the fastest first.
const KERNELS: [&str; 3] = ["neon-dot", "neon", "portable"];

/// Counts the instructions of every model by every set of kernels, and prints the table.
pub fn bench(root: &Path, options: &Options) -> Result<()> {
    let toolchain = tools()?;
    let mut build = cargo(root, &toolchain, "build", CPU);
    build.args(["--example", "count_instructions"]);
    step("programs for AArch64", &mut build)?;
    let folder = root.join("target/aarch64");
    let plugin = folder.join("count_instructions.so");
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&plugin)
        .arg(root.join("benches/count_instructions.c"));
    step("QEMU's plugin", &mut compile)?;
    let program = folder
        .join(TARGET)
        .join("release/examples/count_instructions");
    let all = count(root, &program, &plugin)?;
    let compiler = toolchain.version()?;
    let table = table(&all, &compiler)?;
    println!("{table}");
    let path = root.join(FIGURES);
    if options.save {
        std::fs::write(&path, &table)?;
    }
    if options.check {
        let known = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        compare(&known, &all, &compiler)?;
    }
    Ok(())
}

/// Runs the program under the plugin; its lines and the plugin's belong together in their order.
fn count(root: &Path, program: &PathBuf, plugin: &Path) -> Result<All> {
    let mut command = Command::new("qemu-aarch64");
    command
        .current_dir(root)
        .args(["-L", "/usr/aarch64-linux-gnu", "-cpu", CPU, "-plugin"])
        .arg(plugin)
        .arg(program);
    let output = command
        .output()
        .context("cannot start qemu-aarch64 (Debian's package qemu-user)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let counts: Vec<u64> = said
        .lines()
        .filter_map(|line| line.strip_prefix("instructions ")?.parse().ok())
        .collect();
    // The first of each pair is what went before.
    let counts: Vec<u64> = counts.iter().skip(1).step_by(2).copied().collect();
    let text = String::from_utf8_lossy(&output.stdout);
    // Where there is no corpus, a line says so.
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split(' ').collect())
        .filter(|words: &Vec<&str>| words.len() == 3)
        .collect();
    ensure!(
        lines.len() == counts.len() && lines.len() > 1,
        "{} runs, but {} counts: {said}",
        lines.len(),
        counts.len()
    );
    let mut all = All::new();
    for (words, &count) in lines.iter().zip(&counts).skip(1) {
        let figures = all.entry(words[0].to_owned()).or_default();
        figures.macs = words[2].parse()?;
        let count = count.saturating_sub(counts[0]);
        figures.kernels.insert(words[1].to_owned(), count);
    }
    Ok(all)
}

fn table(all: &All, compiler: &str) -> Result<String> {
    let mut text = format!(
        "# Instructions an inference on AArch64 (qemu-user with a plugin that counts), exact.\n\
         # Written by `cargo xtask bench-aarch64 --save`. neon-dot: NEON with its dot product.\n\
         # `-shape` models have the shapes of MLPerf Tiny and seeded weights; the others are the real ones.\n\
         # Compiler: {compiler}\n",
    );
    let [dot, plain, portable] = KERNELS;
    let _ = writeln!(
        text,
        "{:<10} {:>10} {dot:>10} {:>7} {plain:>10} {:>7} {portable:>10} {:>7} {:>14}",
        "model", "MACs", "per MAC", "per MAC", "per MAC", "portable/dot"
    );
    for (name, figures) in all {
        let mut counts = [0; 3];
        for (count, kernels) in counts.iter_mut().zip(KERNELS) {
            let known = figures.kernels.get(kernels);
            *count = *known.with_context(|| format!("{name} did not run by {kernels}"))?;
        }
        let each = |count: u64| count as f64 / figures.macs as f64;
        let [dot, plain, portable] = counts;
        let _ = writeln!(
            text,
            "{name:<10} {:>10} {dot:>10} {:>7.3} {plain:>10} {:>7.3} {portable:>10} {:>7.3} {:>14.1}",
            figures.macs,
            each(dot),
            each(plain),
            each(portable),
            portable as f64 / dot as f64
        );
    }
    Ok(text)
}

/// Fails when the vector kernels of a model take over 1 % more than the figures known, or are not
/// among them; over 10 % where another compiler laid out what is around the vector instructions. What
/// the portable kernels take is the compiler's affair altogether.
fn compare(known: &str, all: &All, compiler: &str) -> Result<()> {
    let same = known.contains(&format!("# Compiler: {compiler}\n"));
    let per_cent = if same {
        101
    } else {
        eprintln!("    {FIGURES} is of another compiler than {compiler}: 10 % more is not a rise");
        110
    };
    let known: BTreeMap<&str, [u64; 2]> = known
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let count = |at: usize| words.get(at)?.parse().ok();
            Some((*words.first()?, [count(2)?, count(4)?]))
        })
        .collect();
    let mut complaints = Vec::new();
    for (name, figures) in all {
        let Some(then) = known.get(name.as_str()) else {
            complaints.push(format!("{name} is not in {FIGURES}"));
            continue;
        };
        for (kernels, &then) in KERNELS.iter().zip(then) {
            let now = figures.kernels.get(*kernels).copied().unwrap_or(u64::MAX);
            if now.saturating_mul(100) > then.saturating_mul(per_cent) {
                complaints.push(format!(
                    "{name}: {now} instructions by {kernels}, {then} in {FIGURES}"
                ));
            }
        }
    }
    // The others come with the corpus, which need not be here.
    let seeded = known.keys().filter(|name| name.ends_with("-shape"));
    for name in seeded.filter(|name| !all.contains_key(**name)) {
        complaints.push(format!("{name} of {FIGURES} was not counted"));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dot: u64, plain: u64) -> All {
        let kernels = [("neon-dot", dot), ("neon", plain), ("portable", 9_000_000)];
        let kernels = kernels.map(|(name, count)| (name.to_owned(), count));
        let figures = Figures {
            macs: 1_000_000,
            kernels: kernels.into(),
        };
        [("kws".to_owned(), figures)].into()
    }

    #[test]
    fn a_rise_of_more_than_one_in_a_hundred_is_named() {
        let known = table(&all(200_000, 300_000), "rustc 1").expect("all kernels ran");
        let check = |all: &All| compare(&known, all, "rustc 1");
        check(&all(202_000, 303_000)).expect("within the limit");
        check(&all(100_000, 100_000)).expect("fewer");
        for (worse, kernels) in [
            (all(202_001, 300_000), "neon-dot"),
            (all(200_000, 303_001), "neon"),
        ] {
            let error = check(&worse).expect_err("too many").to_string();
            assert!(error.contains(&format!("by {kernels},")), "{error}");
        }
        let error = compare("", &all(1, 1), "rustc 1").expect_err("unknown");
        assert!(error.to_string().contains("kws is not in"), "{error}");
        let more = format!("{known}ad-shape 1 2 3 4 5 6 7\nad 1 2 3 4 5 6 7\n");
        let error = compare(&more, &all(1, 1), "rustc 1").expect_err("one is gone");
        assert_eq!(
            error.to_string(),
            format!("ad-shape of {FIGURES} was not counted")
        );
        let other = |all: &All| compare(&known, all, "rustc 2");
        other(&all(220_000, 330_000)).expect("another compiler");
        other(&all(220_001, 330_000)).expect_err("too many by any");
    }
}
