//! Firmware, built: by the repository's automation, or in the folder of one's own board's crate.

use crate::boards::{self, Board};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::{Context as _, Result};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's compiler, the sources of its standard library, and a linker: packages, and what tells that they are there.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];
const FILES: [&str; 4] = [
    "/usr/bin/rustc",
    "/usr/bin/cargo",
    "/usr/lib/rustlib/src/rust/library/core",
    "/usr/bin/ld.lld-19",
];

/// Whether the firmware of this board can be built so.
///
/// # Errors
/// What stands against it, and what to do about it.
pub fn check(board: &Board, lean: bool) -> Result<()> {
    if lean && board.folder.is_some() {
        let what = "--lean builds a board of the repository, and this is your own";
        return Err(Failure::new(Exit::Usage, what)
            .next("build it as `cargo xtask board-image` does, and give --image")
            .into());
    }
    Ok(())
}

/// Has the repository's automation build the firmware.
///
/// # Errors
/// Where there is no checkout, no cargo or no compiler for the board: what to do about it.
pub fn build(board: &Board, lean: bool, context: &Context) -> Result<PathBuf> {
    check(board, lean)?;
    if let Some(folder) = &board.folder {
        return build_own(board, folder, context);
    }
    let here = std::env::current_dir()?;
    let root = boards::checkout(&here, &board.name).ok_or_else(|| {
        let what = format!(
            "there is no boards/{} here to build the firmware from",
            board.name
        );
        Failure::new(Exit::Error, what)
            .next("run this in a checkout of the repository, or give --image")
    })?;
    context
        .out
        .say(format!("building the firmware of {}", board.name));
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["xtask", "board-image", &board.name])
        .args(lean.then_some("--lean"))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| no_cargo(&error))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() {
        let what = format!("`cargo xtask board-image {}` failed", board.name);
        let next = format!(
            "it says why above; where it lacks the target, `rustup target add {}`",
            board.target
        );
        return Err(Failure::new(Exit::Error, what).next(next).into());
    }
    Ok(PathBuf::from(path))
}

fn no_cargo(error: &io::Error) -> anyhow::Error {
    let what = format!("cargo, which builds the firmware, does not start: {error}");
    Failure::new(Exit::Error, what)
        .next("install Rust: https://rustup.rs, or on Debian `apt-get install cargo-web`")
        .into()
}

/// Builds a crate of the user's own.
fn build_own(board: &Board, folder: &Path, context: &Context) -> Result<PathBuf> {
    let say = format!("building the firmware in {}", folder.display());
    context.out.say(say);
    let output = Compiler::find(folder, &board.target)
        .build(folder, &board.target)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| no_cargo(&error))?;
    if !output.status.success() {
        let what = format!("the firmware in {} does not build", folder.display());
        let next = format!(
            "it says why above; where it lacks the target, `rustup target add {}`, or on Debian `apt-get install {}`",
            board.target,
            PACKAGES.join(" ")
        );
        return Err(Failure::new(Exit::Error, what).next(next).into());
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let built = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    built.with_context(|| format!("{} builds no program", folder.display()))
}

/// Who compiles a crate for a board's processor, as `cargo xtask` finds it for the repository's own boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compiler {
    /// The one on the PATH: it has the processor's library, or says itself that it has not.
    Own,
    /// Debian's, which has no processor's library but the sources, and no linker of its own.
    Debian,
}

impl Compiler {
    fn find(folder: &Path, processor: &str) -> Self {
        let debian = || FILES.iter().all(|file| Path::new(file).exists());
        Self::of(
            || has_library(folder, processor) || rustup_adds(folder, processor),
            debian,
        )
    }

    /// By what there is; the second is asked where the first is missing.
    fn of(library: impl FnOnce() -> bool, debian: impl FnOnce() -> bool) -> Self {
        match library() || !debian() {
            true => Self::Own,
            false => Self::Debian,
        }
    }

    /// `cargo build --release` in `folder`.
    fn build(self, folder: &Path, processor: &str) -> Command {
        let mut command = match self {
            Self::Own => Command::new("cargo"),
            Self::Debian => Command::new("/usr/bin/cargo"),
        };
        command.current_dir(folder);
        command.args(["build", "--release", "--target", processor]);
        if self == Self::Debian {
            command
                .env("RUSTC", "/usr/bin/rustc")
                // What builds the standard library is unstable in every release.
                .env("RUSTC_BOOTSTRAP", "1")
                .arg("-Zbuild-std=core,alloc")
                .arg("--config")
                // Without quotes: in them, cargo finds no name that has a dot.
                .arg(format!("target.{processor}.linker=\"ld.lld-19\""));
        }
        command
    }
}

/// Whether the compiler on the PATH, as that folder has it, has the library of a processor.
fn has_library(folder: &Path, processor: &str) -> bool {
    let asked = Command::new("rustc")
        .current_dir(folder)
        .args(["--print", "target-libdir", "--target", processor])
        .stderr(Stdio::null())
        .output();
    asked.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&path).is_dir()
    })
}

/// Whether rustup is there and fetches it.
fn rustup_adds(folder: &Path, processor: &str) -> bool {
    let mut add = Command::new("rustup");
    add.current_dir(folder)
        .args(["target", "add", processor])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    add.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_without_the_processors_library_makes_it_where_it_is_debians() {
        assert_eq!(Compiler::of(|| true, || unreachable!()), Compiler::Own);
        assert_eq!(Compiler::of(|| false, || false), Compiler::Own);
        assert_eq!(Compiler::of(|| false, || true), Compiler::Debian);
        let said = |compiler: Compiler| {
            let command = compiler.build(Path::new("."), "thumbv8m.main-none-eabihf");
            let words: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
            let settings = command.get_envs().count();
            (words.join(" "), settings)
        };
        let plain = "build --release --target thumbv8m.main-none-eabihf";
        assert_eq!(said(Compiler::Own), (plain.to_owned(), 0));
        let debian =
            "-Zbuild-std=core,alloc --config target.thumbv8m.main-none-eabihf.linker=\"ld.lld-19\"";
        assert_eq!(said(Compiler::Debian), (format!("{plain} {debian}"), 2));
    }
}
