//! The agent's configuration: one static TOML file.
//!
//! Relative paths are relative to the file's folder. Unknown keys are errors, so that a spelling
//! mistake never silently means a default.

use super::flash::SECTOR_BYTES;
use anyhow::{Context, Result, bail, ensure};
use edgeward::recorder;
use edgeward::topic::is_name;
pub use edgeward_mqtt::{Authority, Protocol, Tls};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Rates of a replay that can be waited for: the time between two samples is a duration.
const REPLAY_HZ: std::ops::RangeInclusive<f32> = 0.001..=1e6;

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Versions of MQTT.
    #[serde(default)]
    pub protocol: Protocol,
    /// Seconds between two pings, 5 to 3600.
    #[serde(default = "default_keep_alive_s")]
    pub keep_alive_s: u16,
    /// Longest delay before a reconnection, in seconds, 1 to 3600.
    #[serde(default = "default_reconnect_max_s")]
    pub reconnect_max_s: u16,
    /// User name; with `password_file`.
    pub username: Option<String>,
    /// File with the password in its first line.
    pub password_file: Option<PathBuf>,
    /// TLS, if wanted.
    pub tls: Option<Tls>,
}

/// Flash in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flash {
    /// File of the journal and the two slots.
    pub path: PathBuf,
    /// Its size in bytes, a multiple of 4096.
    pub bytes: u32,
    /// File of the outbox.
    pub outbox_path: PathBuf,
    /// Its size in bytes, a multiple of 4096.
    pub outbox_bytes: u32,
}

impl Default for Flash {
    fn default() -> Self {
        Self {
            path: "slots.flash".into(),
            bytes: 8 << 20,
            outbox_path: "outbox.flash".into(),
            outbox_bytes: 1 << 20,
        }
    }
}

/// Where samples come from: exactly one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Source {
    /// A Unix socket that a source connects to.
    Listen(PathBuf),
    /// Standard input; answers go to standard output.
    Stdin {
        /// Whether the end of the input ends the agent.
        #[serde(default)]
        stop_at_end: bool,
    },
    /// A file in the line protocol, replayed.
    Replay {
        /// The file.
        file: PathBuf,
        /// Samples a second, 0.001 to 1,000,000; 0 for as fast as it goes.
        #[serde(default)]
        rate_hz: f32,
        /// Whether to begin again at the end, with a `reset`.
        #[serde(default)]
        repeat: bool,
    },
}

/// Everything the agent needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The fleet.
    pub fleet: String,
    /// The device, unique in the fleet.
    pub device: String,
    /// Tags that rollouts select by, at most 8 of at most 32 bytes.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The device's private key; made at the first start.
    #[serde(default = "default_key")]
    pub key: PathBuf,
    /// The first trust root, read when the board is provisioned and never again.
    #[serde(default = "default_root")]
    pub root: PathBuf,
    /// What is logged: `error`, `warn`, `info`, `debug` or a filter such as `edgeward=debug`.
    #[serde(default = "default_log")]
    pub log: String,
    /// Longest that one sample's inference may take, in milliseconds, before the agent takes it for
    /// hung and ends; 0 switches this off.
    #[serde(default = "default_hang_ms")]
    pub hang_ms: u32,
    /// Longest that one step of loading a received release may take, in milliseconds: making its
    /// model ready, or one golden vector. After that the agent takes it for hung and ends; 0 switches
    /// this off.
    #[serde(default = "default_load_hang_ms")]
    pub load_hang_ms: u32,
    /// Bytes of memory for the flight recorder, at most 4 MiB; 0 switches it off.
    #[serde(default = "default_recorder_bytes")]
    pub recorder_bytes: u32,
    /// The broker.
    pub broker: Broker,
    /// Flash files.
    #[serde(default)]
    pub flash: Flash,
    /// Where samples come from.
    pub source: Source,
}

fn default_recorder_bytes() -> u32 {
    256 << 10
}
fn default_port() -> u16 {
    1883
}
fn default_keep_alive_s() -> u16 {
    15
}
fn default_reconnect_max_s() -> u16 {
    30
}
fn default_key() -> PathBuf {
    "device.key".into()
}
fn default_root() -> PathBuf {
    "root.cose".into()
}
fn default_hang_ms() -> u32 {
    10_000
}
fn default_load_hang_ms() -> u32 {
    120_000
}
fn default_log() -> String {
    "info".into()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it can't be read, is no TOML, has unknown or missing keys, or values out of range; the
    /// message names key and line.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).with_context(|| path.display().to_string())
    }

    /// Checks the text of a file in `folder`.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let mut config: Self = toml::from_str(text)?;
        config.check()?;
        for path in config.paths() {
            *path = folder.join(&path);
        }
        Ok(config)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![
            &mut self.key,
            &mut self.root,
            &mut self.flash.path,
            &mut self.flash.outbox_path,
        ];
        if let Some(tls) = &mut self.broker.tls {
            if let Authority::File(ca) = &mut tls.ca {
                paths.push(ca);
            }
            paths.extend(tls.cert.iter_mut().chain(&mut tls.key));
        }
        paths.extend(&mut self.broker.password_file);
        match &mut self.source {
            Source::Listen(path) | Source::Replay { file: path, .. } => paths.push(path),
            Source::Stdin { .. } => {}
        }
        paths
    }

    fn check(&self) -> Result<()> {
        let name = "1 to 32 letters, digits, `-` or `_`";
        ensure!(is_name(&self.fleet), "fleet: {name}");
        ensure!(is_name(&self.device), "device: {name}");
        ensure!(self.tags.len() <= 8, "tags: at most 8");
        if let Some(tag) = self
            .tags
            .iter()
            .find(|tag| tag.is_empty() || tag.len() > 32)
        {
            bail!("tags: {tag:?} is not 1 to 32 bytes long");
        }
        for (key, bytes) in [
            ("flash.bytes", self.flash.bytes),
            ("flash.outbox_bytes", self.flash.outbox_bytes),
        ] {
            let whole = bytes > 0 && (bytes as usize).is_multiple_of(SECTOR_BYTES);
            ensure!(whole, "{key}: not a multiple of {SECTOR_BYTES}");
        }
        ensure!(
            self.hang_ms == 0 || self.hang_ms >= 100,
            "hang_ms: 0 or at least 100"
        );
        ensure!(
            self.load_hang_ms == 0 || self.load_hang_ms >= 100,
            "load_hang_ms: 0 or at least 100"
        );
        let recorder = self.recorder_bytes as usize;
        ensure!(
            recorder == 0 || (4096..=recorder::MAX_BYTES).contains(&recorder),
            "recorder_bytes: 0 or 4096 to {}",
            recorder::MAX_BYTES
        );
        ensure!(
            (5..=3600).contains(&self.broker.keep_alive_s),
            "broker.keep_alive_s: 5 to 3600"
        );
        ensure!(
            (1..=3600).contains(&self.broker.reconnect_max_s),
            "broker.reconnect_max_s: 1 to 3600"
        );
        ensure!(
            self.broker.username.is_some() == self.broker.password_file.is_some(),
            "broker: `username` and `password_file` go together"
        );
        if let Some(tls) = &self.broker.tls {
            ensure!(
                tls.cert.is_some() == tls.key.is_some(),
                "broker.tls: `cert` and `key` go together"
            );
        }
        if let Source::Replay { rate_hz, .. } = self.source {
            ensure!(
                rate_hz == 0.0 || REPLAY_HZ.contains(&rate_hz),
                "source.replay.rate_hz: 0 or {} to {}",
                REPLAY_HZ.start(),
                REPLAY_HZ.end()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
