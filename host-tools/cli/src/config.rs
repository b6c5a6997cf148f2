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
    /// The broker, as host:port.
    pub broker: Option<String>,
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

    /// Makes the file's fleet and broker the defaults of the options of these names, in `command` and
    /// all below it. None when the file says nothing of them.
    pub fn defaults(&self, command: clap::Command) -> Option<clap::Command> {
        // Read once in the life of the process, so that nothing piles up.
        let leak = |text: &Option<String>| text.clone().map(|text| &*text.leak());
        let (fleet, broker) = (leak(&self.fleet), leak(&self.broker));
        (fleet.is_some() || broker.is_some()).then(|| with_defaults(command, fleet, broker))
    }
}

fn with_defaults(
    command: clap::Command,
    fleet: Option<&'static str>,
    broker: Option<&'static str>,
) -> clap::Command {
    command
        .mut_args(|arg| {
            let default = match arg.get_id().as_str() {
                "fleet" if arg.get_long().is_some() => fleet,
                "broker" if arg.get_long().is_some() => broker,
                _ => None,
            };
            match default {
                Some(default) => arg.default_value(default),
                None => arg,
            }
        })
        .mut_subcommands(|command| with_defaults(command, fleet, broker))
}
