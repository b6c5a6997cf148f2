//! The microcontroller boards that this command knows, and those of one's own.

use crate::exit::{Exit, Failure};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The `board.toml` of each.
const KNOWN: &[&str] = &[
    include_str!("../../../boards/nucleo-h743zi/board.toml"),
    include_str!("../../../boards/qemu-mps2-an386/board.toml"),
    include_str!("../../../boards/qemu-mps2-an500/board.toml"),
    include_str!("../../../boards/rpi-pico2/board.toml"),
];
/// What describes a board, in the folder of its crate.
const FILE: &str = "board.toml";

/// A board as its `board.toml` describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Board {
    /// Its name, and that of its folder.
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// Its class.
    pub class: String,
    /// The layouts of programs that it runs.
    pub kernels: Vec<String>,
    /// The compiler's name of its processor.
    pub target: String,
    /// What the linker may use.
    pub memory: Memory,
    /// The flash of outbox, journal and slots.
    pub storage: Storage,
    /// What models work in.
    pub arena: Arena,
    /// How it is run in QEMU, if it is.
    pub qemu: Option<Qemu>,
    /// How it is written by a debug probe, if it is.
    pub probe: Option<Probe>,
    /// The folder of its crate, where it is one of the user's own.
    #[serde(skip)]
    pub folder: Option<PathBuf>,
}

/// What the linker may use.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Memory {
    /// For the firmware.
    pub flash_bytes: u64,
    /// For all that it works in.
    pub ram_bytes: u64,
}

/// The flash of outbox, journal and slots.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Storage {
    /// Where it begins in the address space, on a board of silicon.
    pub origin: Option<u32>,
    /// Its size.
    pub bytes: usize,
}

/// What models work in.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Arena {
    /// Its size.
    pub bytes: u64,
}

/// How a board is run in QEMU.
#[derive(Debug, Clone, Deserialize)]
pub struct Qemu {
    /// QEMU's name of it.
    pub machine: String,
    /// Where it finds the loopback of this machine.
    pub host: std::net::Ipv4Addr,
}

/// How a board is written by a debug probe.
#[derive(Debug, Clone, Deserialize)]
pub struct Probe {
    /// What probe-rs calls its chip.
    pub chip: String,
}

/// The board of that name; or of one's own crate, by its folder.
pub fn find(name: &str) -> Result<Board> {
    let path = Path::new(name).join(FILE);
    if name.contains('/') {
        return own(Path::new(name));
    }
    let boards = known()?;
    let names: Vec<_> = boards.iter().map(|board| board.name.clone()).collect();
    if let Some(found) = boards.into_iter().find(|board| board.name == name) {
        return Ok(found);
    }
    let what = format!("{name:?} is no board that this command knows");
    let next = match path.is_file() {
        true => format!("for the crate in this folder give --board ./{name}"),
        false => format!(
            "there is {}; or give the folder of your own",
            names.join(", ")
        ),
    };
    Err(Failure::new(Exit::Usage, what).next(next).into())
}

fn own(folder: &Path) -> Result<Board> {
    let path = folder.join(FILE);
    let named = || path.display().to_string();
    let text = std::fs::read_to_string(&path).with_context(named)?;
    let mut board: Board = toml::from_str(&text).with_context(named)?;
    board.folder = Some(folder.to_owned());
    Ok(board)
}

/// The boards whose crates are in the repository.
pub fn known() -> Result<Vec<Board>> {
    let parsed = KNOWN.iter().map(|text| toml::from_str(text));
    let parsed: Result<Vec<Board>, _> = parsed.collect();
    parsed.context("a board.toml is wrong")
}

/// The checkout of the repository that a folder is in, where it has that board.
pub fn checkout(within: &Path, board: &str) -> Option<PathBuf> {
    let is_root = |folder: &&Path| folder.join("boards").join(board).join(FILE).is_file();
    within.ancestors().find(is_root).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_board_is_known_and_named_once() {
        let boards = super::known().expect("readable");
        let names: BTreeSet<_> = boards.iter().map(|board| board.name.clone()).collect();
        assert_eq!(names.len(), boards.len());
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards");
        let entries = std::fs::read_dir(folder).expect("boards/");
        let folders = entries.map(|entry| entry.expect("an entry").path());
        let there = folders.filter(|path| path.join(super::FILE).is_file());
        let there: BTreeSet<_> = there
            .map(|path| {
                path.file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(names, there);
        assert!(super::find("toaster").is_err());
    }

    #[test]
    fn every_board_is_started_somehow_and_where_it_is_written_is_known() {
        for board in super::known().expect("readable") {
            assert!(
                board.qemu.is_some() != board.probe.is_some(),
                "{}",
                board.name
            );
            assert_eq!(board.probe.is_some(), board.storage.origin.is_some());
            let of_file = super::own(std::path::Path::new(&format!(
                "{}/../../boards/{}",
                env!("CARGO_MANIFEST_DIR"),
                board.name
            )));
            assert_eq!(of_file.expect("readable").title, board.title);
        }
    }
}
