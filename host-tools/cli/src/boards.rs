//! The microcontroller boards that this command knows.

use crate::exit::{Exit, Failure};
use anyhow::{Context, Result};
use serde::Deserialize;

/// The `board.toml` of each.
const KNOWN: &[&str] = &[include_str!("../../../boards/qemu-mps2-an386/board.toml")];

/// A board as its `board.toml` describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Board {
    /// Its name, and that of its folder.
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// The flash of outbox, journal and slots.
    pub storage: Storage,
    /// How it is run in QEMU.
    pub qemu: Qemu,
}

/// The flash of outbox, journal and slots.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Storage {
    /// Its size.
    pub bytes: usize,
}

/// How a board is run in QEMU.
#[derive(Debug, Clone, Deserialize)]
pub struct Qemu {
    /// QEMU's name of it.
    pub machine: String,
    /// Where it finds the loopback of this machine.
    pub host: std::net::Ipv4Addr,
}

/// The board of that name.
pub fn find(name: &str) -> Result<Board> {
    let boards = all()?;
    let names: Vec<_> = boards.iter().map(|board| board.name.clone()).collect();
    let found = boards.into_iter().find(|board| board.name == name);
    found.ok_or_else(|| {
        let what = format!("{name:?} is no board that this command knows");
        Failure::new(Exit::Usage, what)
            .next(format!("there is {}", names.join(", ")))
            .into()
    })
}

fn all() -> Result<Vec<Board>> {
    let parsed = KNOWN.iter().map(|text| toml::from_str(text));
    let parsed: Result<Vec<Board>, _> = parsed.collect();
    parsed.context("a board.toml is wrong")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_board_is_readable_and_named_once() {
        let boards = super::all().expect("readable");
        let mut names: Vec<_> = boards.iter().map(|board| &board.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), boards.len());
        assert!(super::find("toaster").is_err());
    }
}
