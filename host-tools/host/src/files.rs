//! Files that are there as a whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Access rights of a file that the process's mask alone restricts.
pub const BY_MASK: u32 = 0o666;
/// Access rights of a file that everybody may read and its owner alone may write.
pub const PUBLIC: u32 = 0o644;
/// Access rights of a file that its owner alone may read.
pub const PRIVATE: u32 = 0o600;

/// Whether there is something under a name that is no file, a device or a pipe say, and that no file may take
/// the place of.
#[must_use]
pub fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|there| !there.is_file())
}

/// Writes a file so that under its name there is what was there before, or all of `bytes`: also when the
/// disk is full, the process ends, the power goes, or another process writes it at the same time. On
/// disk when it returns.
///
/// It is written beside, under a name that nobody else has and that ends in `.partial`; what fails takes
/// that along, and only a process that is killed leaves it behind.
///
/// # Errors
/// When the folder can't be written, or there is something else than a file under that name.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if is_special(path) {
        return Err(io::Error::other("it is not a regular file"));
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".partial")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("folder");
        let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("entry").file_name();
        let names = entries.map(|entry| name(entry).to_string_lossy().into_owned());
        names.collect()
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_else_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.key");
        for (bytes, mode) in [(&b"first"[..], PUBLIC), (b"second, longer", PRIVATE)] {
            write_whole(&path, bytes, mode).expect("written");
            assert_eq!(std::fs::read(&path).expect("there"), bytes);
            let seen = std::fs::metadata(&path).expect("there").permissions();
            assert_eq!(seen.mode() & 0o077 == 0, mode == PRIVATE);
            assert_eq!(names(folder.path()), ["a.key"]);
        }
    }

    #[test]
    fn what_fails_leaves_no_part_behind() {
        let folder = tempfile::tempdir().expect("folder");
        // Nothing can be renamed over a folder that is not empty.
        let path = folder.path().join("taken");
        std::fs::create_dir_all(path.join("by")).expect("folders");
        assert!(write_whole(&path, b"x", PUBLIC).is_err());
        assert_eq!(names(folder.path()), ["taken"]);
        let away = folder.path().join("away").join("file");
        assert!(write_whole(&away, b"x", PUBLIC).is_err());
    }

    /// Renaming would take a device's or a pipe's place, for everybody.
    #[test]
    fn what_is_no_file_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        for path in [&path, &link] {
            let refused = write_whole(path, b"x", PUBLIC).expect_err("no file");
            assert!(refused.to_string().contains("regular file"), "{refused}");
            assert!(is_special(path));
        }
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["link", "socket"]);
    }

    /// With one name for all, one process renames what the other has just begun to write.
    #[test]
    fn writers_at_the_same_time_do_not_meet() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("root.cose");
        let write = |byte: u8| {
            for _ in 0..50 {
                write_whole(&path, &vec![byte; 100_000], PUBLIC).expect("written");
                let seen = std::fs::read(&path).expect("there");
                assert_eq!(seen.len(), 100_000);
                assert!(seen.iter().all(|&it| it == seen[0]), "mixed");
            }
        };
        std::thread::scope(|scope| {
            for byte in [1, 2] {
                scope.spawn(move || write(byte));
            }
        });
        assert_eq!(names(folder.path()), ["root.cose"]);
    }
}
