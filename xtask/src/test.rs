//! Everything that must hold before a change lands.

use crate::ahead::Ahead;
use crate::boards::Build;
use crate::tally::{self, Tally};
use crate::{
    aarch64, bare_metal, bench_mcu, boards, cargo, fuzz, own_boards, print_stages, setup, size,
    stacks, step, tidy,
};
use anyhow::Result;
use clap::Args;
use std::path::Path;
use std::process::Command;

/// Features of all that is built for this machine: other ones build tract anew.
pub const FEATURES: &str = "edgeward/std,edgeward/ring,edgeward/tract,edgeward-mcu/tls";

/// What to leave out when in a hurry; nothing is left out by default.
#[derive(Args)]
pub struct Options {
    /// Leaves out AArch64 and the count of instructions on a Cortex-M4, and builds the fuzz targets only.
    #[arg(long)]
    pub quick: bool,
    /// Also compiles and links what takes long and runs on no machine here: the firmware of boards of
    /// silicon, each within its budget, and a board's crate as `edgeward board new` makes it.
    #[arg(long)]
    pub all: bool,
}

/// Runs all checks, cheapest first, and says at the end what ran, what was skipped and how long it took.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    let all = checks(root, options, &mut tally);
    eprintln!("\n=== summary");
    print_stages();
    tally.print();
    all?;
    tally.judge(setup::can_install())
}

/// Only what runs on AArch64.
pub fn aarch64_alone(root: &Path) -> Result<()> {
    let mut tally = Tally::default();
    aarch64::test(root, &mut tally)?;
    tally.print();
    tally.judge(setup::can_install())
}

fn checks(root: &Path, options: &Options, tally: &mut Tally) -> Result<()> {
    let found = setup::run(root)?;
    found.complain();
    step(
        "format",
        cargo(root).args(["fmt", "--all", "--", "--check"]),
    )?;
    tidy::check(root)?;
    let mut core = cargo(root);
    core.args(["test", "--quiet", "--locked", "-p", "edgeward"]);
    tally.add(tally::run(
        "core alone, no features, debug assertions on",
        core,
        &root.join("target/test-core.log"),
    )?);
    bare_metal::check(root)?;
    step("lints", &mut lints(root))?;
    let image = boards::image(root, boards::TESTED, Build::WHOLE)?;
    let second = boards::image(root, boards::STARTED, Build::WHOLE)?;
    let lean = boards::lean_image(root, tally)?;
    boards::lint(root, tally)?;
    boards::test_build_script(root, tally)?;
    // What an earlier run noted says nothing of these images.
    let stacks = stacks::folder(root)?;
    step("tests, built", tests(root).arg("--no-run"))?;
    let ahead = Ahead::start(root, later(root, options)?)?;
    let mut tests = with_tools(tests(root), &found);
    tests.env("EDGEWARD_MCU_IMAGE", image);
    tests.env("EDGEWARD_M7_IMAGE", second);
    tests.envs(lean.map(|image| ("EDGEWARD_LEAN_IMAGE", image)));
    tests.env("EDGEWARD_STACKS", stacks);
    let ran = tally::run("tests", tests, &root.join("target/test.log"));
    ahead.wait();
    tally.add(ran?);
    size::run(root, &size::Options::check())?;
    stacks::check(root, &root.join(size::FIGURES), tally)?;
    step(
        "documentation",
        cargo(root).env("RUSTDOCFLAGS", "-D warnings").args([
            "doc",
            "--release",
            "--quiet",
            "--locked",
            "--no-deps",
            "--workspace",
            "--features",
            FEATURES,
        ]),
    )?;
    if options.all {
        size::every_board(root)?;
        own_boards::check(root)?;
    }
    if options.quick {
        // They are a workspace of their own, which the lints above do not see.
        return fuzz::build(root, false).map(|_| ());
    }
    aarch64::test(root, tally)?;
    bench_mcu::run(root, &bench_mcu::Options::check())?;
    fuzz::run(
        root,
        &fuzz::Options {
            seconds: 5,
            target: None,
            planted: false,
        },
    )?;
    Ok(())
}

/// Builds that stages behind the tests will want.
fn later(root: &Path, options: &Options) -> Result<Vec<Command>> {
    let mut builds = Vec::from(boards::kws_builds(root)?);
    builds.push(fuzz::build_command(root, false));
    if !options.quick {
        builds.extend(aarch64::builds(root));
    }
    Ok(builds)
}

fn lints(root: &Path) -> Command {
    let mut command = cargo(root);
    command.args([
        "clippy",
        "--release",
        "--quiet",
        "--locked",
        "--workspace",
        "--all-targets",
        "--features",
        FEATURES,
        "--",
        "-D",
        "warnings",
    ]);
    command
}

fn tests(root: &Path) -> Command {
    let mut command = cargo(root);
    command.args([
        "test",
        "--release",
        "--quiet",
        "--locked",
        "--workspace",
        "--features",
        FEATURES,
    ]);
    command
}

/// Tells the tests where the tools are; a test whose tool is missing says that it skips.
fn with_tools(mut command: Command, found: &setup::Found) -> Command {
    if let Some(python) = &found.python {
        command.env("EDGEWARD_PYTHON", python);
    }
    if let Some(mosquitto) = &found.mosquitto {
        command.env("EDGEWARD_MOSQUITTO", mosquitto);
    }
    command
}
