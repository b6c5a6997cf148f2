//! A board in QEMU: a folder holds its flash, and QEMU takes this process's place.

use super::{Args, Plan};
use crate::boards::{Board, Qemu};
use crate::commands::change::Changes;
use crate::commands::{logs, release};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Format;
use anyhow::{Context as _, Result};
use std::io::PipeWriter;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = "qemu-system-arm";

/// Makes the board's folder and starts the board in it.
pub fn run(
    args: &Args,
    plan: Plan<'_>,
    qemu: &Qemu,
    mut changes: Changes,
    context: &Context,
) -> Result<Exit> {
    let board = plan.board;
    let folder = args.folder.clone();
    let folder = folder.unwrap_or_else(|| PathBuf::from(&args.name));
    if !folder.is_dir() {
        let make = || Ok(std::fs::create_dir_all(&folder)?);
        changes.make(format!("make {}", folder.display()), make)?;
    }
    let flash = folder.join("flash.bin");
    write_flash(&flash, board, &plan.provisioning, args.erase, &mut changes)?;
    if let Some(samples) = &args.samples {
        let bytes = std::fs::read(samples).with_context(|| samples.display().to_string())?;
        release::write(&mut changes, &folder.join("samples.txt"), &bytes)?;
    }
    let image = super::image(args, board, &changes, context)?;
    keep_image(&image, &folder.join(logs::IMAGE), &mut changes)?;
    let value = serde_json::json!({
        "board": board.name, "device": args.name, "fleet": args.fleet.fleet,
        "folder": folder.display().to_string(), "broker": plan.broker.address,
        "tls": plan.broker.authorities.is_some(),
        "image": image.display().to_string(), "starts": !args.no_start,
    });
    if !args.no_start {
        let what = format!("start {} in {}", board.title, folder.display());
        changes.make(what, || Ok(()))?;
    }
    changes.emit(context, &value, |_, w| {
        writeln!(w, "{}: {} on {}", folder.display(), args.name, board.title)?;
        super::write_next(args, w)
    })?;
    if args.no_start || changes.are_only_said() {
        return Ok(Exit::Ok);
    }
    start(qemu, &folder, context)
}

/// Makes the board's flash, or writes its provisioning anew and leaves the rest.
fn write_flash(
    path: &Path,
    board: &Board,
    provisioning: &[u8],
    erase: bool,
    changes: &mut Changes,
) -> Result<()> {
    let blank = || vec![0xFF; board.storage.bytes];
    let mut flash = match std::fs::read(path) {
        Ok(flash) if !erase => flash,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| path.display().to_string());
        }
        _ => blank(),
    };
    if flash.len() != board.storage.bytes {
        let what = format!(
            "{} has {} bytes, the flash of {} has {}",
            path.display(),
            flash.len(),
            board.name,
            board.storage.bytes
        );
        return Err(Failure::new(Exit::Error, what)
            .next("give another --folder, or --erase")
            .into());
    }
    flash[..provisioning.len()].copy_from_slice(provisioning);
    // It holds the broker's password and the device's private key.
    release::write_private(changes, path, &flash)?;
    Ok(())
}

/// Keeps a copy of the firmware in the board's folder: it has the words of what the board logs.
fn keep_image(image: &Path, copy: &Path, changes: &mut Changes) -> Result<()> {
    if changes.are_only_said() && !image.exists() {
        let what = format!("write {}", copy.display());
        return changes.make(what, || Ok(())).map(|_| ());
    }
    let bytes = std::fs::read(image).with_context(|| image.display().to_string())?;
    release::write(changes, copy, &bytes).map(|_| ())
}

/// Whether QEMU is there.
pub fn check() -> Result<()> {
    let answers = Command::new(PROGRAM)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match answers {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(no_qemu(&status.to_string())),
        Err(error) => Err(no_qemu(&error.to_string())),
    }
}

fn no_qemu(why: &str) -> anyhow::Error {
    let what = format!("{PROGRAM} does not start: {why}");
    Failure::new(Exit::Error, what)
        .next("on Debian `apt-get install qemu-system-arm`")
        .into()
}

/// Replaces this process by QEMU, so that whoever ends the one ends the other.
fn start(machine: &Qemu, folder: &Path, context: &Context) -> Result<Exit> {
    let mut qemu = Command::new(PROGRAM);
    // People see what the board says as it says it; programs read the file.
    let uart = if context.out.format() == Format::Table {
        qemu.stdout(read_aloud(folder, context)?);
        "stdio,id=uart,signal=on,logfile=uart.log,logappend=on"
    } else {
        "file,id=uart,path=uart.log,append=on"
    };
    let error = qemu
        .current_dir(folder)
        .args(["-machine", &machine.machine])
        .args(["-display", "none", "-monitor", "none", "-nic", "user"])
        .args(["-chardev", uart, "-serial", "chardev:uart"])
        .args(["-semihosting-config", "enable=on,target=native"])
        .args(["-kernel", logs::IMAGE])
        .stdin(Stdio::null())
        .exec();
    Err(no_qemu(&error.to_string()))
}

/// Where what is written is shown as `edgeward logs` does, by a process that ends with whoever writes.
fn read_aloud(folder: &Path, context: &Context) -> Result<PipeWriter> {
    let (reader, writer) = std::io::pipe()?;
    let this = std::env::current_exe()?;
    let mut command = Command::new(this);
    if context.out.quiet() {
        command.arg("--quiet");
    }
    command
        .args(["logs", "-o", "table", "-", "--image"])
        .arg(folder.join(logs::IMAGE))
        .stdin(reader)
        .spawn()
        .context("the process that shows the log")?;
    Ok(writer)
}
