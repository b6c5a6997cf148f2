//! NOR flash in a file, for Linux boards.
//!
//! The file obeys the rules of the real thing: it is erased to ones in whole sectors, a write only
//! clears bits, and both are aligned. Writes to a *journal* range (one that says what the rest
//! means) are ordered by `fdatasync`: all that came before is durable before such a write begins,
//! and the write itself before it returns. Other writes need no order among themselves.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read,
    check_write,
};
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of an erase sector.
pub const SECTOR_BYTES: usize = 4096;

/// Why a flash file can't be used, or an operation on it failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum FlashError {
    /// Another process has the file.
    InUse(PathBuf),
    /// The file has another size than the configuration says.
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes that the configuration says.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A write would set bits that only an erase can set.
    NotErased {
        /// Offset of the first such byte.
        offset: u32,
    },
    /// Not aligned, or beyond the end.
    Bounds(NorFlashErrorKind),
    /// The system refused.
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl fmt::Display for FlashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "{} is in use by another agent; one board has one agent",
                path.display()
            ),
            Self::Size {
                path,
                expected,
                found,
            } => write!(
                f,
                "{} has {found} bytes, the configuration says {expected}; \
                 set the size back, or remove the file to provision the board anew",
                path.display()
            ),
            Self::NotErased { offset } => {
                write!(f, "write at {offset} to flash that is not erased")
            }
            Self::Bounds(kind) => write!(f, "{kind}"),
            Self::Io { path, doing, error } => write!(f, "{doing} {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for FlashError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Bounds(kind) => *kind,
            _ => NorFlashErrorKind::Other,
        }
    }
}

impl From<NorFlashErrorKind> for FlashError {
    fn from(kind: NorFlashErrorKind) -> Self {
        Self::Bounds(kind)
    }
}

/// Flash in a file, locked for this process.
///
/// Invariant: on disk, whatever a journal range says was there before it was said.
#[derive(Debug)]
pub struct FileFlash {
    file: File,
    path: PathBuf,
    capacity: u32,
    journal: Range<u32>,
    unsynced: bool,
}

impl FileFlash {
    /// Opens the file at `path`, or makes it with all of its `capacity` bytes on disk, so that a
    /// full disk shows here and never in the middle of an update.
    ///
    /// `journal` is the range whose writes and erases are durable, in order, when they return.
    ///
    /// # Errors
    /// [`FlashError::InUse`], [`FlashError::Size`], [`FlashError::Bounds`] when the capacity is not
    /// a multiple of [`SECTOR_BYTES`], [`FlashError::Io`]. A file that can't be made is removed.
    pub fn open(path: &Path, capacity: u32, journal: Range<u32>) -> Result<Self, FlashError> {
        if capacity == 0 || !(capacity as usize).is_multiple_of(SECTOR_BYTES) {
            return Err(FlashError::Bounds(NorFlashErrorKind::NotAligned));
        }
        let fail = |doing| {
            move |error| FlashError::Io {
                path: path.to_owned(),
                doing,
                error,
            }
        };
        if !path.try_exists().map_err(fail("look for"))? {
            create(path, capacity).map_err(fail("create"))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(fail("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FlashError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(fail("lock")(error)),
        }
        let found = file.metadata().map_err(fail("stat"))?.len();
        if found != u64::from(capacity) {
            return Err(FlashError::Size {
                path: path.to_owned(),
                expected: u64::from(capacity),
                found,
            });
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            capacity,
            journal,
            unsynced: false,
        })
    }

    fn io(&self, doing: &'static str) -> impl FnOnce(io::Error) -> FlashError {
        let path = self.path.clone();
        move |error| FlashError::Io { path, doing, error }
    }

    fn sync(&mut self) -> Result<(), FlashError> {
        self.file.sync_data().map_err(self.io("sync"))?;
        self.unsynced = false;
        Ok(())
    }

    /// Changes the bytes at `offset`, in the order that the journal needs.
    fn put(&mut self, offset: u32, bytes: &[u8], doing: &'static str) -> Result<(), FlashError> {
        let end = offset + bytes.len() as u32;
        let journal = offset < self.journal.end && end > self.journal.start;
        if journal && self.unsynced {
            self.sync()?;
        }
        self.unsynced = true;
        self.file
            .write_all_at(bytes, u64::from(offset))
            .map_err(self.io(doing))?;
        if journal { self.sync() } else { Ok(()) }
    }
}

/// Makes an erased flash file: whole or not at all.
fn create(path: &Path, capacity: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let partial = PathBuf::from(name);
    let fill = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        for _ in 0..capacity as usize / SECTOR_BYTES {
            file.write_all(&[0xFF; SECTOR_BYTES])?;
        }
        file.sync_all()?;
        // A link refuses to replace a file that another agent made meanwhile; a rename would not.
        std::fs::hard_link(&partial, path).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    let result = fill();
    let removed = std::fs::remove_file(&partial);
    result.and(removed)
}

impl ErrorType for FileFlash {
    type Error = FlashError;
}

impl ReadNorFlash for FileFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        check_read(self, offset, bytes.len())?;
        self.file
            .read_exact_at(bytes, u64::from(offset))
            .map_err(self.io("read"))
    }

    fn capacity(&self) -> usize {
        self.capacity as usize
    }
}

impl NorFlash for FileFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SECTOR_BYTES;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        check_erase(self, from, to)?;
        if from == to {
            return Ok(());
        }
        self.put(from, &vec![0xFF; (to - from) as usize], "erase")
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        check_write(self, offset, bytes.len())?;
        let mut there = [0; SECTOR_BYTES];
        let mut at = offset;
        for part in bytes.chunks(SECTOR_BYTES) {
            let there = &mut there[..part.len()];
            self.read(at, there)?;
            if let Some(i) = there
                .iter()
                .zip(part)
                .position(|(old, new)| old & new != *new)
            {
                return Err(FlashError::NotErased {
                    offset: at + i as u32,
                });
            }
            at += part.len() as u32;
        }
        self.put(offset, bytes, "write")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: u32 = SECTOR_BYTES as u32;

    fn open(path: &Path) -> FileFlash {
        FileFlash::open(path, 4 * SECTOR, 0..SECTOR).unwrap()
    }

    #[test]
    fn a_new_file_is_erased_whole_and_keeps_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flash");
        let mut flash = open(&path);
        let mut bytes = [0; 8];
        flash.read(3 * SECTOR, &mut bytes).unwrap();
        assert_eq!(bytes, [0xFF; 8]);
        flash.write(SECTOR + 4, &[1, 2, 3, 4]).unwrap();
        flash.write(8, &[5, 6, 7, 8]).unwrap();
        drop(flash);
        let mut flash = open(&path);
        flash.read(SECTOR + 4, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 0xFF, 0xFF, 0xFF, 0xFF]);
        flash.erase(SECTOR, 2 * SECTOR).unwrap();
        flash.read(SECTOR + 4, &mut bytes).unwrap();
        assert_eq!(bytes, [0xFF; 8]);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_write_never_sets_a_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut flash = open(&folder.path().join("flash"));
        flash.write(0, &[0xF0, 0xFF, 0xFF, 0xFF]).unwrap();
        flash.write(0, &[0x10, 0xFF, 0xFF, 0xFF]).unwrap();
        let error = flash.write(0, &[0x10, 0xFF, 0xFF, 0xFF].map(|b| b | 1));
        assert!(
            matches!(error, Err(FlashError::NotErased { offset: 0 })),
            "{error:?}"
        );
        let mut bytes = [0; 4];
        flash.read(0, &mut bytes).unwrap();
        assert_eq!(
            bytes,
            [0x10, 0xFF, 0xFF, 0xFF],
            "a refused write changes nothing"
        );
    }

    #[test]
    fn bounds_and_alignment_hold() {
        let folder = tempfile::tempdir().unwrap();
        let mut flash = open(&folder.path().join("flash"));
        let kind = |result: Result<(), FlashError>| result.unwrap_err().kind();
        assert_eq!(kind(flash.write(2, &[0; 4])), NorFlashErrorKind::NotAligned);
        assert_eq!(kind(flash.write(0, &[0; 3])), NorFlashErrorKind::NotAligned);
        assert_eq!(kind(flash.erase(4, SECTOR)), NorFlashErrorKind::NotAligned);
        assert_eq!(
            kind(flash.write(4 * SECTOR, &[0; 4])),
            NorFlashErrorKind::OutOfBounds
        );
        assert_eq!(
            kind(flash.read(4 * SECTOR - 1, &mut [0; 2])),
            NorFlashErrorKind::OutOfBounds
        );
    }

    #[test]
    fn a_second_agent_and_another_size_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flash");
        let flash = open(&path);
        let second = FileFlash::open(&path, 4 * SECTOR, 0..0);
        assert!(matches!(second, Err(FlashError::InUse(_))), "{second:?}");
        drop(flash);
        let larger = FileFlash::open(&path, 8 * SECTOR, 0..0);
        assert!(
            matches!(larger, Err(FlashError::Size { expected, found, .. })
                if expected == 8 * u64::from(SECTOR) && found == 4 * u64::from(SECTOR)),
            "{larger:?}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_made_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing").join("flash");
        assert!(matches!(
            FileFlash::open(&missing, SECTOR, 0..0),
            Err(FlashError::Io {
                doing: "create",
                ..
            })
        ));
        assert!(FileFlash::open(&folder.path().join("odd"), 100, 0..0).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // A device that is always full stands for a full disk.
        assert!(create(Path::new("/dev/full/flash"), SECTOR).is_err());
    }
}
