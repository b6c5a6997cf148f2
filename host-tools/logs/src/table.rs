//! The table of format strings in an image.

use crate::elf::Elf;
use crate::frame::{Level, Malformed, decode};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The version of defmt's wire format that this reads.
const WIRE: &str = "4";
/// Bytes of the linker's note in front of its hash, and of the hash that boards say.
const NOTE_BYTES: usize = 16;
const ID_BYTES: usize = 8;

/// Why an image tells nothing of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not an ELF file for a 32-bit processor.
    #[error("it is no ELF image of a 32-bit little-endian processor")]
    NoImage,
    /// It logs nothing by defmt.
    #[error("it has no table of log lines (no .defmt section)")]
    NoTable,
    /// Written by a defmt whose frames are of another kind.
    #[error("its log is in version {0} of defmt's format, this program reads version {WIRE}")]
    Version(String),
    /// Frames are not encoded as this expects.
    #[error("its log is encoded as {0}, this program reads rzcobs")]
    Encoding(String),
    /// A symbol in the table that is none of defmt's.
    #[error("its table of log lines is damaged at index {0}")]
    Damaged(u32),
}

/// A format string, and the level at which it is logged if it is a line of its own.
#[derive(Debug)]
struct Entry {
    level: Option<Level>,
    is_line: bool,
    format: String,
}

/// What an image says of its log.
#[derive(Debug)]
pub struct Image {
    entries: BTreeMap<u32, Entry>,
    timestamp: Option<String>,
    id: Option<String>,
}

/// A symbol of defmt: JSON in place of a name.
#[derive(Deserialize)]
struct Name {
    tag: String,
    data: String,
}

impl Image {
    /// Reads an image.
    ///
    /// # Errors
    /// [`ImageError`] when it has no table, or one that this does not read.
    pub fn parse(elf: &[u8]) -> Result<Self, ImageError> {
        let elf = Elf::new(elf).ok_or(ImageError::NoImage)?;
        let (section, _) = elf.named(".defmt").ok_or(ImageError::NoTable)?;
        check(&elf)?;
        let mut image = Self {
            entries: BTreeMap::new(),
            timestamp: None,
            id: id_of(&elf),
        };
        for symbol in elf.symbols().filter(|symbol| symbol.section == section) {
            // Beside defmt's own symbols are the linker's.
            if !symbol.name.starts_with('{') {
                continue;
            }
            let name: Name = serde_json::from_str(symbol.name)
                .map_err(|_| ImageError::Damaged(symbol.address))?;
            image.add(symbol.address, name);
        }
        Ok(image)
    }

    fn add(&mut self, index: u32, name: Name) {
        let level = match name.tag.as_str() {
            "defmt_timestamp" => {
                self.timestamp = Some(name.data);
                return;
            }
            "defmt_trace" => Some(Level::Trace),
            "defmt_debug" => Some(Level::Debug),
            "defmt_info" => Some(Level::Info),
            "defmt_warn" => Some(Level::Warn),
            "defmt_error" => Some(Level::Error),
            _ => None,
        };
        let entry = Entry {
            level,
            is_line: level.is_some() || name.tag == "defmt_println",
            format: name.data,
        };
        self.entries.insert(index, entry);
    }

    /// Which image it is: the first bytes of the linker's hash in hexadecimal, where it has one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The format string that is no line of its own.
    pub(crate) fn format(&self, index: u16) -> Result<&str, Malformed> {
        let entry = self.entries.get(&u32::from(index)).ok_or(Malformed)?;
        if entry.is_line {
            return Err(Malformed);
        }
        Ok(&entry.format)
    }

    /// The format string of a line, and its level.
    pub(crate) fn line(&self, index: u16) -> Result<(Option<Level>, &str), Malformed> {
        let entry = self.entries.get(&u32::from(index)).ok_or(Malformed)?;
        if !entry.is_line {
            return Err(Malformed);
        }
        Ok((entry.level, &entry.format))
    }

    /// How a frame's time is to be read.
    pub(crate) fn timestamp(&self) -> Option<&str> {
        self.timestamp.as_deref()
    }

    /// What a frame says, without the zero at its end; none where it is no frame of this image.
    pub(crate) fn read(&self, frame: &[u8]) -> Option<crate::Line> {
        decode(self, frame).ok()
    }
}

/// Version and encoding, which stand in names of symbols.
fn check(elf: &Elf<'_>) -> Result<(), ImageError> {
    for symbol in elf.symbols() {
        // One of the linkers keeps the quotes of its script.
        let name = symbol.name.trim_matches('"');
        if let Some(version) = name.strip_prefix("_defmt_version_ = ") {
            let known = version == WIRE;
            known
                .then_some(())
                .ok_or_else(|| ImageError::Version(version.to_owned()))?;
        }
        if let Some(encoding) = name.strip_prefix("_defmt_encoding_ = ") {
            let known = encoding == "rzcobs";
            known
                .then_some(())
                .ok_or_else(|| ImageError::Encoding(encoding.to_owned()))?;
        }
    }
    Ok(())
}

fn id_of(elf: &Elf<'_>) -> Option<String> {
    let (_, note) = elf.named(".note.gnu.build-id")?;
    let hash = note.get(NOTE_BYTES..)?.get(..ID_BYTES)?;
    Some(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}
