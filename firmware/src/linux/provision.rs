//! What a board needs before its first boot, and the flash files that it finds at every one.

use super::agent::BUFFER;
use super::config::Config;
use super::flash::{FileFlash, SECTOR_BYTES};
use super::key;
use super::stats::hex;
use anyhow::{Context, Result, anyhow, bail};
use edgeward::slots::{Error, Layout, Slots};
use edgeward::telemetry::outbox::{MAX_SECTORS, Region, SECTOR_OVERHEAD};
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward::trust::{PublicKey, Signer};
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Makes a board's folder: its key, its first trust root (`signed_root`, as the host exports it) and
/// `agent.toml`. Relative paths in `config` are relative to the folder. Returns the path of the
/// configuration and the key to enroll.
///
/// What is there already stays: provisioning twice makes no second key.
///
/// # Errors
/// When a file can't be written, or `signed_root` is not a root signed by its own keys.
pub fn provision(
    folder: &Path,
    config: &Config,
    signed_root: &[u8],
) -> Result<(PathBuf, PublicKey)> {
    first_root(signed_root)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| folder.display().to_string())?;
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| path.display().to_string())
    };
    write(&folder.join(&config.root), signed_root)?;
    let path = folder.join("agent.toml");
    let text = toml::to_string(config)?;
    // What will be read must be what was meant.
    Config::parse(&text, folder)?;
    write(&path, text.as_bytes())?;
    let key = key::load_or_create(&folder.join(&config.key))?;
    Ok((path, key.public_key()))
}

fn first_root(bytes: &[u8]) -> Result<Root> {
    Root::accept_first(bytes, &RingVerifier)
        .map_err(|error| anyhow!("the trust root is not signed by its own keys: {error:?}"))
}

/// Opens the board's slots; a blank flash is provisioned with the first trust root.
pub(super) fn open_slots(config: &Config) -> Result<(Slots<FileFlash>, Layout)> {
    let (path, bytes) = (&config.flash.path, config.flash.bytes);
    let fault = |error: Error| anyhow!("{}: {error:?}", path.display());
    let layout = Layout::split(bytes, SECTOR_BYTES as u32).map_err(fault)?;
    // The journal's sectors lie one after the other, before the slots.
    let journal = layout.journal[0]..layout.journal[1] + layout.journal_bytes;
    let open = || FileFlash::open(path, bytes, journal.clone());
    match Slots::open(open()?, layout) {
        Ok(slots) => return Ok((slots, layout)),
        Err(Error::Unprovisioned) => {}
        Err(Error::Unreadable) => bail!(
            "{}: the journal is damaged; it holds the trust root, so it is never repaired by \
             itself. Remove the file to provision the board anew",
            path.display()
        ),
        Err(error) => return Err(fault(error)),
    }
    let signed = std::fs::read(&config.root).with_context(|| {
        format!(
            "the first trust root {} (`edgeward keys export --root FILE` writes it)",
            config.root.display()
        )
    })?;
    let root = first_root(&signed)?;
    tracing::info!(version = root.version, "provisioned");
    let slots = Slots::provision(open()?, layout, root).map_err(fault)?;
    Ok((slots, layout))
}

/// Opens the outbox's flash.
///
/// The host knows a frame by its key and number, and an outbox that is made anew counts from one
/// again: under the same key, the host would take the new frames for old ones and drop them. So
/// which key's frames the outbox counts is noted beside the key, and a key that lost its outbox is
/// refused.
pub(super) fn open_outbox(config: &Config, key: &PublicKey) -> Result<(FileFlash, Region)> {
    let (note, path) = (note_path(&config.key), &config.flash.outbox_path);
    let key_text = hex(&key.0);
    let noted = match std::fs::read_to_string(&note) {
        Ok(text) => text.trim() == key_text,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| note.display().to_string()),
    };
    if noted && !path.try_exists()? {
        bail!(
            "{} is gone, and the host would drop the frames of a new one as already known. Run \
             `edgeward device forget {}` at the host, remove {} and enroll the board anew; or put \
             the file back",
            path.display(),
            config.device,
            config.key.display()
        );
    }
    let opened = outbox_flash(config)?;
    if !noted {
        // Before the first frame; a power cut here leaves the outbox, and the next start notes it.
        write_whole(&note, key_text.as_bytes()).with_context(|| note.display().to_string())?;
    }
    Ok(opened)
}

/// Where it is noted which key's frames the outbox counts.
fn note_path(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".outbox");
    name.into()
}

/// Writes a file that is there whole, and durably, or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let partial = Path::new(&name);
    let mut file = File::create(partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(partial, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn outbox_flash(config: &Config) -> Result<(FileFlash, Region)> {
    let bytes = config.flash.outbox_bytes;
    let sector_bytes = (BUFFER + SECTOR_OVERHEAD).next_multiple_of(SECTOR_BYTES) as u32;
    let sectors = (bytes / sector_bytes).min(MAX_SECTORS as u32);
    if sectors < 3 {
        bail!("flash.outbox_bytes: at least {}", 3 * sector_bytes);
    }
    // Every record of the outbox counts, so every write is durable when it returns.
    let flash = FileFlash::open(&config.flash.outbox_path, bytes, 0..bytes)?;
    let region = Region {
        offset: 0,
        sector_bytes,
        sectors: sectors as u16,
    };
    Ok((flash, region))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
        fleet = "f"
        device = "press-03"
        [broker]
        host = "h"
        [source]
        listen = "s"
    "#;

    #[test]
    fn a_key_does_not_outlive_its_outbox() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(CONFIG, folder.path()).unwrap();
        // The key may be there long before the first start, printed to be enrolled.
        let first = key::load_or_create(&config.key).unwrap().public_key();
        for _ in 0..2 {
            open_outbox(&config, &first).unwrap();
        }
        std::fs::remove_file(&config.flash.outbox_path).unwrap();
        // Provisioning the slots anew does not help, either: it is the key that the host knows.
        let error = open_outbox(&config, &first).unwrap_err().to_string();
        assert!(error.contains("edgeward device forget press-03"), "{error}");
        assert!(!config.flash.outbox_path.exists());
        // What the error says to do helps, also when the new key is printed first.
        std::fs::remove_file(&config.key).unwrap();
        let second = key::load_or_create(&config.key).unwrap().public_key();
        open_outbox(&config, &second).unwrap();
        std::fs::remove_file(&config.flash.outbox_path).unwrap();
        assert!(open_outbox(&config, &second).is_err());
    }

    #[test]
    fn an_outbox_from_before_the_note_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(CONFIG, folder.path()).unwrap();
        let key = key::load_or_create(&config.key).unwrap().public_key();
        open_outbox(&config, &key).unwrap();
        std::fs::remove_file(note_path(&config.key)).unwrap();
        open_outbox(&config, &key).unwrap();
        std::fs::remove_file(&config.flash.outbox_path).unwrap();
        assert!(open_outbox(&config, &key).is_err());
    }
}
