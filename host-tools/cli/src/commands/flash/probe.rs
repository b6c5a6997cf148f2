//! A board of silicon: probe-rs writes its flash by a debug probe, and shows what it logs.

use super::{Args, Plan};
use crate::boards::Probe;
use crate::commands::change::Changes;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const PROGRAM: &str = "probe-rs";

/// Writes provisioning and firmware, and starts the board.
pub fn run(
    args: &Args,
    plan: Plan<'_>,
    probe: &Probe,
    mut changes: Changes,
    context: &Context,
) -> Result<Exit> {
    let board = plan.board;
    let usage = |what: &str| Failure::new(Exit::Usage, what);
    if args.samples.is_some() {
        return Err(usage("--samples is for boards in QEMU: this one has a sensor").into());
    }
    if args.folder.is_some() {
        return Err(usage("--folder is for boards in QEMU: this one has a flash").into());
    }
    let origin = board.storage.origin;
    let origin =
        origin.with_context(|| format!("board.toml of {}: no origin in [storage]", board.name))?;
    if !changes.are_only_said() {
        find_program()?;
    }
    let image = super::image(args, board, &changes, context)?;
    let chip = ["--chip", probe.chip.as_str()];
    if args.erase {
        let erase = || finish(Command::new(PROGRAM).arg("erase").args(chip));
        changes.make(
            format!("erase the whole flash of the {}", probe.chip),
            erase,
        )?;
    }
    let what = format!(
        "write {} bytes of provisioning at {origin:#010x}",
        plan.provisioning.len()
    );
    changes.make(what, || provision(&plan.provisioning, chip, origin))?;
    let verb = if args.no_start {
        "write"
    } else {
        "write and start"
    };
    let what = format!("{verb} {} on {}", image.display(), board.title);
    let mut write = Command::new(PROGRAM);
    write
        .arg(if args.no_start { "download" } else { "run" })
        .args(chip)
        .arg(&image);
    changes.make(what, || match args.no_start {
        true => finish(&mut write),
        false => Ok(()),
    })?;
    let value = serde_json::json!({
        "board": board.name, "device": args.name, "fleet": args.fleet.fleet,
        "chip": probe.chip, "broker": plan.broker.address,
        "tls": plan.broker.authorities.is_some(),
        "image": image.display().to_string(), "starts": !args.no_start,
    });
    changes.emit(context, &value, |_, w| {
        writeln!(w, "{} on {}", args.name, board.title)?;
        super::write_next(args, w)
    })?;
    if args.no_start || changes.are_only_said() {
        return Ok(Exit::Ok);
    }
    let error = write.stdin(Stdio::null()).exec();
    Err(error).context(PROGRAM)
}

/// Writes who the board is and whom it trusts.
fn provision(provisioning: &[u8], chip: [&str; 2], origin: u32) -> Result<()> {
    // It holds the broker's password; files of this kind are their owner's alone.
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(provisioning)?;
    let mut download = Command::new(PROGRAM);
    download
        .arg("download")
        .args(chip)
        .args(["--binary-format", "bin", "--base-address"])
        .arg(format!("{origin:#010x}"))
        .arg(file.path());
    finish(&mut download)
}

/// Whether probe-rs is there, before anything is built or written.
fn find_program() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |folder: &OsStr| std::path::Path::new(folder).join(PROGRAM).is_file();
    if std::env::split_paths(&path).any(|folder| there(folder.as_os_str())) {
        return Ok(());
    }
    let what = "there is no probe-rs on the PATH, which writes a chip's flash";
    Err(Failure::new(Exit::Error, what)
        .next("install it: `cargo install probe-rs-tools --locked`, or as https://probe.rs says")
        .into())
}

/// Runs a command to its end; what it says goes to stderr, where progress goes.
fn finish(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .context(PROGRAM)?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let what = format!("`{PROGRAM} {}` failed", words.join(" "));
        return Err(Failure::new(Exit::Error, what)
            .next("is the probe connected, and the board powered?")
            .into());
    }
    Ok(())
}
