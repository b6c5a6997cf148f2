//! What a board needs before its first boot, and the flash files that it finds at every one.

use super::agent::{BUFFER, RECORDS};
use super::config::Config;
use super::flash::{FileFlash, FlashError, SECTOR_BYTES};
use super::key;
use super::stats::hex;
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use anyhow::{Context, Result, anyhow, bail};
use edgeward::slots::{Error, Layout, Slots};
use edgeward::telemetry::outbox::{MAX_SECTORS, Outbox, Region, SECTOR_OVERHEAD, max_record_bytes};
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward::trust::{PublicKey, Signer};
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::num::NonZeroU32;
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
        Err(Error::Unreadable { offset, why }) => bail!(
            "{}: the journal is damaged at byte {offset} ({why:?}); it holds the trust root, so it is never repaired by \
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

/// The outbox of a Linux board.
pub(super) type AgentOutbox = Outbox<FileFlash, F, C, RECORDS, BUFFER>;

/// Opens the outbox, or begins a new one where it is gone or of no use; what is of no use is kept
/// beside it.
///
/// Which key's frames an outbox was made for is noted beside the key, so that a first start can be
/// told from a loss.
pub(super) fn open_outbox(config: &Config, key: &PublicKey, boot: u32) -> Result<AgentOutbox> {
    let (note, path) = (note_path(&config.key), &config.flash.outbox_path);
    let key_text = hex(&key.0);
    let noted = match std::fs::read_to_string(&note) {
        Ok(text) => text.trim() == key_text,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| note.display().to_string()),
    };
    let there = path.try_exists()?;
    let outbox = match try_open_outbox(config, boot)? {
        Ok(outbox) => outbox,
        Err(why) => {
            let mut name = path.as_os_str().to_owned();
            name.push(".unusable");
            let aside = PathBuf::from(name);
            std::fs::rename(path, &aside).with_context(|| path.display().to_string())?;
            tracing::warn!(why, kept = %aside.display(), "the outbox can't be used");
            try_open_outbox(config, boot)?.map_err(|why| anyhow!(why))?
        }
    };
    if noted && outbox.next_sequence() == 1 {
        tracing::warn!(
            path = %path.display(),
            epoch = format!("{:08x}", outbox.epoch()),
            "the outbox {}: reports that the host had not acknowledged are lost, a new one begins",
            if there { "held nothing readable" } else { "was gone" }
        );
    }
    if !noted {
        // Before the first frame; a power cut here leaves the outbox, and the next start notes it.
        key::write_whole(&note, key_text.as_bytes()).with_context(|| note.display().to_string())?;
    }
    Ok(outbox)
}

/// A random number for an epoch.
pub(super) fn random() -> Result<NonZeroU32> {
    edgeward::trust::ring::random().context("the system gives no random numbers")
}

/// The outbox in the configured file, which is made where there is none; the inner error says why
/// what is there is of no use.
fn try_open_outbox(config: &Config, boot: u32) -> Result<Result<AgentOutbox, String>> {
    let (flash, region) = match outbox_flash(config)? {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error.to_string())),
    };
    match Outbox::open(flash, region, boot, random()?) {
        Ok(outbox) => Ok(Ok(outbox)),
        Err(error) if error.is_foreign() => Ok(Err(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Where it is noted which key's frames the outbox counts.
fn note_path(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".outbox");
    name.into()
}

/// The flash of the outbox; the inner error is a file of another size.
fn outbox_flash(config: &Config) -> Result<Result<(FileFlash, Region), FlashError>> {
    let bytes = config.flash.outbox_bytes;
    let sector_bytes =
        (max_record_bytes(F, C) + SECTOR_OVERHEAD).next_multiple_of(SECTOR_BYTES) as u32;
    let sectors = (bytes / sector_bytes).min(MAX_SECTORS as u32);
    if sectors < 3 {
        bail!("flash.outbox_bytes: at least {}", 3 * sector_bytes);
    }
    // Every record of the outbox counts, so every write is durable when it returns.
    let flash = match FileFlash::open(&config.flash.outbox_path, bytes, 0..bytes) {
        Err(error @ FlashError::Size { .. }) => return Ok(Err(error)),
        opened => opened?,
    };
    let region = Region {
        offset: 0,
        sector_bytes,
        sectors: sectors as u16,
    };
    Ok(Ok((flash, region)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::telemetry::{Body, Event, Refused};
    use std::collections::BTreeSet;

    const CONFIG: &str = r#"
        fleet = "f"
        device = "press-03"
        [broker]
        host = "h"
        [source]
        listen = "s"
    "#;

    fn body() -> Body<F, C> {
        Body::Event(Event::Refused { what: Refused::Ack })
    }

    #[test]
    fn an_outbox_that_is_gone_or_of_no_use_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(CONFIG, folder.path()).unwrap();
        let path = &config.flash.outbox_path;
        let key = key::load_or_create(&config.key).unwrap().public_key();
        let bytes = config.flash.outbox_bytes as usize;
        let damages: [&dyn Fn(); 4] = [
            &|| std::fs::remove_file(path).unwrap(),
            &|| std::fs::write(path, b"cut short").unwrap(),
            &|| std::fs::write(path, vec![0; bytes]).unwrap(),
            &|| std::fs::write(path, vec![0xA5; bytes]).unwrap(),
        ];
        let mut epochs = BTreeSet::new();
        for (damage, boot) in damages.into_iter().zip(1..) {
            for (again, number) in [(false, 1), (true, 2)] {
                let mut outbox = Box::new(open_outbox(&config, &key, boot).unwrap());
                assert_eq!(outbox.push(1, &body()), Ok(number));
                assert_ne!(epochs.insert(outbox.epoch()), again, "damage before {boot}");
            }
            damage();
        }
        assert_eq!(epochs.len(), 4);
        let kept = folder.path().join("outbox.flash.unusable");
        assert_eq!(std::fs::read(kept).unwrap(), b"cut short");
    }

    #[test]
    fn an_outbox_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(CONFIG, folder.path()).unwrap();
        let key = key::load_or_create(&config.key).unwrap().public_key();
        let _outbox = Box::new(open_outbox(&config, &key, 1).unwrap());
        let error = open_outbox(&config, &key, 1).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
    }
}
