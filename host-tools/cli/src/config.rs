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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a file with this text is read as.
    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("edgeward.toml");
        std::fs::write(&path, text).expect("written");
        let said = |error: anyhow::Error| format!("{error:#}");
        let loaded = Config::load(Some(&path)).map_err(said);
        if let Err(said) = &loaded {
            assert!(said.contains(&*path.display().to_string()), "{said}");
        }
        loaded
    }

    /// A sound file.
    const SOUND: &str = "home = 'h'\noutput = 'json'\nfleet = 'f'\nbroker = 'mqtt://b:1'\n\
                         broker_ca = 'system'\nbroker_user = 'u'\nbroker_password_file = 'p'\n\
                         broker_cert = 'c'\nbroker_key = 'k'\nbroker_protocol = '5'\n";

    #[test]
    fn every_setting_is_read_and_files_are_those_beside_it() {
        let config = load(SOUND).expect("sound");
        assert_eq!(config.output, Some(Format::Json));
        assert_eq!(config.broker_ca, Some(PathBuf::from("system")));
        let key = config.broker_key.expect("a key");
        assert!(key.is_absolute() && key.ends_with("k"), "{}", key.display());
        let home = config.home.expect("a home");
        assert!(
            home.is_absolute() && home.ends_with("h"),
            "{}",
            home.display()
        );
    }

    proptest! {
        /// Any text: settings, or an error that names the file.
        #[test]
        fn any_text_is_settings_or_an_error(text in "\\PC{0,200}|([a-z_]{1,8} ?= ?['\"\\[{a-z0-9]{0,8}\n){0,4}") {
            let _ = load(&text);
        }

        /// One setting of a sound file with another name, or with a value of another kind: the error shows the line
        /// that it stands in.
        #[test]
        fn a_wrong_setting_is_named(at in 0usize..10, name in "[a-z]{3,9}", value in "[0-9]{1,5}|true|\\[\\]") {
            let line = SOUND.lines().nth(at).expect("ten settings");
            let (key, right) = line.split_once(" = ").expect("a setting");
            for wrong in [format!("x_{name} = {right}"), format!("{key} = {value}")] {
                let said = load(&SOUND.replace(line, &wrong)).expect_err("it is wrong");
                prop_assert!(said.contains(&wrong) && said.contains(&format!("line {}", at + 1)), "{said}");
            }
        }
    }
}
