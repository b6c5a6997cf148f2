//! What a board needs before its first boot, and the flash files that it finds at every one.

use super::agent::BUFFER;
use super::config::Config;
use super::flash::{FileFlash, SECTOR_BYTES};
use super::key;
use anyhow::{Context, Result, anyhow, bail};
use edgeward::slots::{Error, Layout, Slots};
use edgeward::telemetry::outbox::{MAX_SECTORS, Region, SECTOR_OVERHEAD};
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward::trust::{PublicKey, Signer};
use std::fs::DirBuilder;
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
    let signed = std::fs::read(&config.root)
        .with_context(|| format!("the first trust root {}", config.root.display()))?;
    let root = first_root(&signed)?;
    tracing::info!(version = root.version, "provisioned");
    let slots = Slots::provision(open()?, layout, root).map_err(fault)?;
    Ok((slots, layout))
}

/// Opens the outbox's flash.
pub(super) fn open_outbox(config: &Config) -> Result<(FileFlash, Region)> {
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
