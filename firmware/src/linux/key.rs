//! The device's key: made on the board, never leaves it.

use anyhow::{Context, Result};
use edgeward::trust::ring::RingSigner;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads the PKCS#8 key at `path`, or makes one there (mode 0600) if there is none.
///
/// # Errors
/// When the file can't be read or made, or holds no Ed25519 key.
pub fn load_or_create(path: &Path) -> Result<RingSigner> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(path).with_context(|| format!("make the device key {}", path.display()))?
        }
        Err(error) => {
            return Err(error).with_context(|| format!("read the device key {}", path.display()));
        }
    };
    RingSigner::from_pkcs8(&bytes).with_context(|| path.display().to_string())
}

/// Makes a key.
fn create(path: &Path) -> Result<Vec<u8>> {
    let document = RingSigner::generate().context("no randomness")?;
    write_whole(path, &document)?;
    Ok(document)
}

/// Writes a file (mode 0600) that is there whole, and durably, or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let partial = Path::new(&name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(partial, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::trust::Signer;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.key");
        let first = load_or_create(&path).unwrap();
        let again = load_or_create(&path).unwrap();
        assert_eq!(first.public_key(), again.public_key());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.key");
        std::fs::write(&path, b"not a key").unwrap();
        assert!(load_or_create(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key");
    }

    proptest! {
        /// Any bytes, and a sound key that was cut, lengthened or changed: the same key, or an error that names the
        /// file; never a panic, nor another file.
        #[test]
        fn what_is_no_key_is_an_error_that_names_the_file(
            any in proptest::collection::vec(any::<u8>(), 0..128),
            keep in any::<prop::sample::Index>(),
            flip in proptest::option::of((any::<prop::sample::Index>(), 1u8..)),
            sound in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("device.key");
            let mut bytes = any;
            let key = RingSigner::generate().unwrap();
            let public = RingSigner::from_pkcs8(&key).unwrap().public_key();
            if sound {
                bytes = [&key[..keep.index(key.len() + 1)], &bytes[..bytes.len().min(2)]].concat();
                if let Some((at, with)) = flip
                    && !bytes.is_empty()
                {
                    let at = at.index(bytes.len());
                    bytes[at] ^= with;
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            match load_or_create(&path) {
                Ok(loaded) => prop_assert_eq!(loaded.public_key(), public),
                Err(error) => {
                    let said = format!("{error:#}");
                    prop_assert!(said.contains("device.key: "), "{said}");
                }
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), bytes);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
