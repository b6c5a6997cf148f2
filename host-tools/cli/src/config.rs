//! The configuration file `edgeward.toml`.

use crate::output::Format;
use anyhow::Context as _;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Settings that a file may hold; the command line and EDGEWARD_* variables go before them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of keys and store.
    pub home: Option<PathBuf>,
    /// How results are printed.
    pub output: Option<Format>,
    /// The fleet that commands concern.
    pub fleet: Option<String>,
    /// The broker's address, `mqtt://host:port`.
    pub broker: Option<String>,
    /// The store, a path or a URL.
    pub store: Option<String>,
}

impl Config {
    /// Reads `path`; without one, `edgeward.toml` of the present folder if it exists.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let default = Path::new("edgeward.toml");
        let path = match path {
            Some(path) => path,
            None if default.is_file() => default,
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        toml::from_str(&text)
            .with_context(|| format!("the configuration file {} is wrong", path.display()))
    }
}
