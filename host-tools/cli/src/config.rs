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
    /// The broker, as mqtt://host:port or mqtts://host:port.
    pub broker: Option<String>,
    /// Who signed the broker's certificate: a PEM file, or `system`.
    pub broker_ca: Option<PathBuf>,
    /// The user name at the broker.
    pub broker_user: Option<String>,
    /// A file with the password in its first line.
    pub broker_password_file: Option<PathBuf>,
    /// This client's certificate, PEM.
    pub broker_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub broker_key: Option<PathBuf>,
    /// Versions of MQTT: `auto`, `5` or `3.1.1`.
    pub broker_protocol: Option<String>,
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
        let mut config: Self = toml::from_str(&text)
            .with_context(|| format!("the configuration file {} is wrong", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = [
            &mut config.broker_ca,
            &mut config.broker_password_file,
            &mut config.broker_cert,
            &mut config.broker_key,
        ];
        for file in files.into_iter().flatten() {
            // The one word that stands where a file could be named.
            if file.as_path() != Path::new("system") {
                *file = folder.join(&file);
            }
        }
        config.home = config.home.map(|home| folder.join(home));
        Ok(config)
    }

    /// Makes what the file says the defaults of the options of these names, in `command` and all below
    /// it. None when the file says nothing of them.
    pub fn defaults(&self, command: clap::Command) -> Option<clap::Command> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let defaults: Vec<(&str, &'static str)> = [
            ("fleet", self.fleet.clone()),
            ("broker", self.broker.clone()),
            ("broker_ca", path(&self.broker_ca)),
            ("broker_user", self.broker_user.clone()),
            ("broker_password_file", path(&self.broker_password_file)),
            ("broker_cert", path(&self.broker_cert)),
            ("broker_key", path(&self.broker_key)),
            ("broker_protocol", self.broker_protocol.clone()),
        ]
        .into_iter()
        // Read once in the life of the process, so that nothing piles up.
        .filter_map(|(name, value)| Some((name, &*value?.leak())))
        .collect();
        (!defaults.is_empty()).then(|| with_defaults(command, &defaults))
    }
}

fn with_defaults(command: clap::Command, defaults: &[(&str, &'static str)]) -> clap::Command {
    command
        .mut_args(|arg| {
            let known = defaults.iter().find(|(name, _)| arg.get_id() == name);
            match known {
                Some((_, default)) if arg.get_long().is_some() => arg.default_value(default),
                _ => arg,
            }
        })
        .mut_subcommands(|command| with_defaults(command, defaults))
}
