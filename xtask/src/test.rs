//! Everything that must hold before a change lands.

use crate::{bare_metal, cargo, fuzz, setup, step, tidy};
use anyhow::Result;
use clap::Args;
use std::path::Path;
use std::process::Command;

/// What to leave out when in a hurry; nothing is left out by default.
#[derive(Args)]
pub struct Options {
    /// Leaves out the fuzz smoke.
    #[arg(long)]
    pub quick: bool,
}

/// Runs all checks, cheapest first.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let found = setup::run(root)?;
    found.complain();
    step(
        "format",
        cargo(root).args(["fmt", "--all", "--", "--check"]),
    )?;
    tidy::check(root)?;
    step(
        "core alone, no features, debug assertions on",
        cargo(root).args(["test", "--quiet", "--locked", "-p", "edgeward"]),
    )?;
    bare_metal::check(root)?;
    step(
        "lints",
        cargo(root).args([
            "clippy",
            "--release",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-targets",
            "--features",
            "edgeward/std,edgeward/ring,edgeward/tract",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step("tests", &mut with_tools(tests(root), &found))?;
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
            "edgeward/std,edgeward/ring,edgeward/tract",
        ]),
    )?;
    if options.quick {
        return Ok(());
    }
    fuzz::run(
        root,
        &fuzz::Options {
            seconds: 5,
            target: None,
        },
    )?;
    Ok(())
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
        "edgeward/std,edgeward/ring,edgeward/tract",
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
