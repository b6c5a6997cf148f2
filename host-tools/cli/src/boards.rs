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
    /// What a model may have.
    #[serde(default)]
    pub model: Model,
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

/// What a model may have; a board refuses a release of more. Of what its `board.toml` does not say, a board's build
/// script takes as much (`boards/build`).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Features.
    pub features: usize,
    /// Outputs.
    pub outputs: usize,
    /// Elements of its input tensor.
    pub inputs: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            features: 16,
            outputs: 16,
            inputs: 1024,
        }
    }
}

impl Model {
    /// Fails where no board could be built so.
    fn check(self) -> Result<()> {
        for (key, value, most) in [
            ("features", self.features, edgeward_host::MAX_FEATURES),
            ("outputs", self.outputs, edgeward_host::MAX_OUTPUTS),
        ] {
            if !(1..=most).contains(&value) {
                let what = format!("[model] {key} = {value}");
                let next = format!("give 1 to {most}: no release has more");
                return Err(Failure::new(Exit::Usage, what).next(next).into());
            }
        }
        if self.inputs < self.features {
            let what = format!("[model] inputs = {}", self.inputs);
            let next = format!(
                "give at least as many as there are features, {}: an input tensor has an element of each",
                self.features
            );
            return Err(Failure::new(Exit::Usage, what).next(next).into());
        }
        Ok(())
    }
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
    let mut board = parse(&text).with_context(named)?;
    board.folder = Some(folder.to_owned());
    Ok(board)
}

fn parse(text: &str) -> Result<Board> {
    let board: Board = toml::from_str(text)?;
    board.model.check()?;
    Ok(board)
}

/// The boards whose crates are in the repository.
pub fn known() -> Result<Vec<Board>> {
    let parsed: Result<Vec<Board>, _> = KNOWN.iter().map(|text| parse(text)).collect();
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
    fn what_a_model_may_have_is_said_or_has_a_default() {
        let known = super::KNOWN[0];
        let (before, rest) = known.split_once("[model]").expect("its section");
        let (_, after) = rest.split_once("\n\n").expect("another section");
        let parsed = |model: &str| super::parse(&format!("{before}{model}\n\n{after}"));
        let figures = |model: &str| {
            let model = parsed(model).expect("readable").model;
            [model.features, model.outputs, model.inputs]
        };
        assert_eq!(figures(""), [16, 16, 1024]);
        assert_eq!(
            figures("[model]\nfeatures = 20\ninputs = 400"),
            [20, 16, 400]
        );
        for (wrong, said) in [
            ("features = 129", "[model] features = 129"),
            ("outputs = 0", "[model] outputs = 0"),
            ("features = 20\ninputs = 19", "[model] inputs = 19"),
            ("feature = 20", "unknown field `feature`"),
        ] {
            let error = parsed(&format!("[model]\n{wrong}")).expect_err(wrong);
            let error = format!("{error:#}");
            assert!(error.contains(said), "{wrong}: {error}");
        }
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
