//! Enrolled devices: whose telemetry is believed.
//!
//! A board makes its own key and shows the public half once; a person enrolls it here.

use crate::keys::{hex, unhex};
use edgeward::telemetry::Id;
use edgeward::trust::PublicKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Why a device can't be enrolled or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The registry can't be read or written.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// Read or write.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry is damaged.
    #[error("{} is no registry of devices", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A name that can't stand in a topic.
    #[error("`{0}` is no name: 1 to {max} of the letters a-z, A-Z, digits, `_` and `-`", max = Id::new().capacity())]
    Name(String),
    /// A key that is none.
    #[error("`{0}` is no Ed25519 public key: 64 hexadecimal digits are wanted")]
    Key(String),
    /// Another key is enrolled under this name.
    #[error("{device} is enrolled with another key ({key}); forget it first if it was replaced")]
    Conflict {
        /// The device.
        device: String,
        /// Its key.
        key: String,
    },
    /// No such device.
    #[error("no device {0} is enrolled")]
    Unknown(String),
}

/// An enrolled device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub device: String,
    /// Its fleet.
    pub fleet: String,
    /// Its public key, 64 hexadecimal digits.
    pub key: String,
    /// When it was enrolled, in seconds since 1970.
    pub enrolled_s: u64,
}

impl Device {
    /// Checks names and key.
    ///
    /// # Errors
    /// [`DeviceError::Name`] or [`DeviceError::Key`].
    pub fn new(device: &str, fleet: &str, key: &str, enrolled_s: u64) -> Result<Self, DeviceError> {
        for name in [device, fleet] {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            if name.is_empty() || !name.chars().all(plain) || Id::try_from(name).is_err() {
                return Err(DeviceError::Name(name.to_owned()));
            }
        }
        let bytes = unhex::<32>(key).ok_or_else(|| DeviceError::Key(key.to_owned()))?;
        Ok(Self {
            device: device.to_owned(),
            fleet: fleet.to_owned(),
            key: hex(&bytes),
            enrolled_s,
        })
    }

    /// Its public key; none when the registry was edited by hand into something else.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        unhex(&self.key).map(PublicKey)
    }
}

/// Where enrolled devices are kept.
pub trait Registry {
    /// All devices, by name.
    ///
    /// # Errors
    /// When the registry can't be read.
    fn list(&self) -> Result<Vec<Device>, DeviceError>;
    /// Enrolls a device; the same again changes nothing.
    ///
    /// # Errors
    /// [`DeviceError::Conflict`] when another key has the name.
    fn enroll(&mut self, device: Device) -> Result<(), DeviceError>;
    /// Forgets a device: its telemetry is refused from now on.
    ///
    /// # Errors
    /// [`DeviceError::Unknown`] when there is no such device.
    fn forget(&mut self, device: &str) -> Result<Device, DeviceError>;
}

/// A registry in one JSON file.
#[derive(Debug, Clone)]
pub struct FileRegistry {
    path: PathBuf,
}

impl FileRegistry {
    /// The registry `devices.json` of `home`; it need not exist.
    #[must_use]
    pub fn at(home: &Path) -> Self {
        Self {
            path: home.join("devices.json"),
        }
    }

    fn read(&self) -> Result<BTreeMap<String, Device>, DeviceError> {
        let path = self.path.clone();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| DeviceError::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(source) => Err(DeviceError::Io {
                verb: "read",
                path,
                source,
            }),
        }
    }

    fn write(&self, devices: &BTreeMap<String, Device>) -> Result<(), DeviceError> {
        let partial = self.path.with_extension("json.partial");
        let write = || -> io::Result<()> {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = std::fs::File::create(&partial)?;
            serde_json::to_writer_pretty(&mut file, devices)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&partial, &self.path)
        };
        write().map_err(|source| DeviceError::Io {
            verb: "write",
            path: self.path.clone(),
            source,
        })
    }
}

impl Registry for FileRegistry {
    fn list(&self) -> Result<Vec<Device>, DeviceError> {
        Ok(self.read()?.into_values().collect())
    }

    fn enroll(&mut self, device: Device) -> Result<(), DeviceError> {
        let mut devices = self.read()?;
        if let Some(known) = devices.get(&device.device) {
            if known.key == device.key && known.fleet == device.fleet {
                return Ok(());
            }
            return Err(DeviceError::Conflict {
                device: device.device,
                key: known.key.clone(),
            });
        }
        devices.insert(device.device.clone(), device);
        self.write(&devices)
    }

    fn forget(&mut self, device: &str) -> Result<Device, DeviceError> {
        let mut devices = self.read()?;
        let forgotten = devices
            .remove(device)
            .ok_or_else(|| DeviceError::Unknown(device.to_owned()))?;
        self.write(&devices)?;
        Ok(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn a_device_is_enrolled_once_and_forgotten() {
        let home = tempfile::tempdir().expect("folder");
        let mut registry = FileRegistry::at(home.path());
        let device = Device::new("board-1", "demo", KEY, 7).expect("device");
        registry.enroll(device.clone()).expect("enrolled");
        let again = Device::new("board-1", "demo", &KEY.to_uppercase(), 8).expect("device");
        registry.enroll(again).expect("the same again");
        assert_eq!(registry.list().expect("list"), [device]);
        let other = Device::new("board-1", "demo", &KEY.replace('1', "2"), 8).expect("device");
        assert!(matches!(
            registry.enroll(other),
            Err(DeviceError::Conflict { .. })
        ));
        registry.forget("board-1").expect("forgotten");
        assert!(matches!(
            registry.forget("board-1"),
            Err(DeviceError::Unknown(_))
        ));
    }

    #[test]
    fn names_that_would_break_a_topic_are_refused() {
        for name in ["", "a/b", "a+", "a.b", "#", "ä", &"x".repeat(100)] {
            assert!(
                matches!(Device::new(name, "demo", KEY, 0), Err(DeviceError::Name(_))),
                "{name}"
            );
        }
        assert!(matches!(
            Device::new("a", "demo", "12", 0),
            Err(DeviceError::Key(_))
        ));
    }
}
