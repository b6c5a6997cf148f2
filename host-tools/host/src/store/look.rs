//! Reading the SQLite store without a trace.
//!
//! A connection that may only read still makes the two files of the write-ahead log beside a store that
//! nobody has open, and leaves them there. So a store without a log is opened as a file that does not
//! change, and what was read counts only when it did not change meanwhile; beside a log, the reader
//! takes that as it finds it. A log without its index, as a copy of the store may have, can't be read
//! without making one: the reader makes it beside a copy of its own.

use super::sqlite::Sqlite;
use super::{Store, StoreError};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Looks that were disturbed before somebody is told that the store is busy.
const TRIES: u32 = 20;
/// Pause after a look that was disturbed: somebody opens or closes the store, which takes about so long.
const PAUSE: Duration = Duration::from_millis(25);

/// What tells that a file was written.
#[derive(PartialEq)]
struct Trace {
    bytes: u64,
    modified: Option<SystemTime>,
    log: Log,
}

/// The write-ahead log beside a store.
#[derive(Clone, Copy, PartialEq)]
enum Log {
    /// There is none, so nobody has the store open.
    None,
    /// There is one, and its index.
    Indexed,
    /// There is one of so many bytes and no index: nobody has it open, and not all is in the file.
    Alone(u64),
}

impl Log {
    fn of(path: &Path) -> Self {
        match std::fs::metadata(beside(path, "-wal")) {
            Err(_) => Self::None,
            Ok(_) if beside(path, "-shm").exists() => Self::Indexed,
            Ok(log) => Self::Alone(log.len()),
        }
    }
}

impl Trace {
    /// `None` where there is no store.
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            bytes: meta.len(),
            modified: meta.modified().ok(),
            log: Log::of(path),
        })
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Lets `look` read the store in the file `path`; `None` where there is none, or nothing in it. No file is made or
/// written, and what others write meanwhile is not torn: `look` is then called again.
///
/// # Errors
/// What `look` returns, and [`StoreError`] when the file can't be opened or is no store.
pub fn look<T, E: From<StoreError>>(
    path: &Path,
    mut look: impl FnMut(&dyn Store) -> Result<T, E>,
) -> Result<Option<T>, E> {
    for _ in 0..TRIES {
        let Some(before) = Trace::of(path) else {
            return Ok(None);
        };
        let seen = open(path, before.log)
            .map_err(E::from)
            .and_then(|(store, _copy)| store.map(|store| look(&store)).transpose());
        // Beside a log and its index, SQLite's own locks see to it that nothing is torn, unless the log
        // went away.
        let after = Trace::of(path);
        let whole = match before.log {
            Log::Indexed => seen.is_ok() || after.is_some_and(|after| after.log == Log::Indexed),
            Log::None | Log::Alone(_) => after == Some(before),
        };
        if whole {
            return seen;
        }
        std::thread::sleep(PAUSE);
    }
    Err(StoreError::Busy.into())
}

/// The store, if anything is in it, and the folder of the copy that it is, to be kept for as long.
fn open(path: &Path, log: Log) -> Result<(Option<Sqlite>, Option<TempDir>), StoreError> {
    let failed = |error: std::io::Error| StoreError::Open {
        path: path.to_owned(),
        why: error.to_string(),
    };
    // Without a log nobody has it open: SQLite may skip the locks, whose files it would have to make.
    // With one, the index of the log (`-shm`) is read, and made in memory where it is out of date.
    match log {
        Log::None => Ok((connect(path, "immutable=1")?, None)),
        Log::Indexed => Ok((connect(path, "readonly_shm=1")?, None)),
        Log::Alone(_) => {
            let folder = tempfile::tempdir().map_err(failed)?;
            let copy = folder.path().join("store.db");
            std::fs::copy(path, &copy).map_err(failed)?;
            std::fs::copy(beside(path, "-wal"), beside(&copy, "-wal")).map_err(failed)?;
            Ok((connect(&copy, "cache=private")?, Some(folder)))
        }
    }
}

fn connect(path: &Path, how: &str) -> Result<Option<Sqlite>, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(uri(path, how), flags);
    let failed = |why: String| StoreError::Open {
        path: path.to_owned(),
        why,
    };
    Sqlite::to_read(opened.map_err(|error| failed(error.to_string()))?).map_err(|error| match error
    {
        StoreError::Other(why) => failed(why),
        error => error,
    })
}

/// A path as SQLite's URI, with what means something in one escaped.
fn uri(path: &Path, how: &str) -> String {
    let mut uri = String::from("file:");
    for letter in path.to_string_lossy().chars() {
        match letter {
            '%' => uri.push_str("%25"),
            '?' => uri.push_str("%3f"),
            '#' => uri.push_str("%23"),
            letter => uri.push(letter),
        }
    }
    uri + "?mode=ro&" + how
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every file of a folder and what is in it.
    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .map(|path| (path.clone(), std::fs::read(path).expect("a file")))
            .collect()
    }

    fn audited(path: &Path) -> Option<usize> {
        look(path, |store| store.audit_log().map(|log| log.len())).expect("a store")
    }

    #[test]
    fn looking_leaves_no_trace_whether_the_store_is_closed_open_or_was_left_by_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a b%20?#.db");
        assert_eq!(audited(&path), None);
        assert!(files(folder.path()).is_empty());

        let store = Sqlite::open(&path).expect("a store");
        store.audit("a", "b", 1).expect("noted");
        drop(store);
        let closed = files(folder.path());
        assert_eq!((audited(&path), closed.len()), (Some(1), 1));
        assert!(files(folder.path()) == closed);

        let store = Sqlite::open(&path).expect("a store");
        store.audit("a", "c", 2).expect("noted");
        let open = files(folder.path());
        assert_eq!((audited(&path), open.len()), (Some(2), 3));
        // Within one process SQLite gives both the same index of the log, in which readers are noted;
        // a process that only looks can't write it.
        let lasting = |files: BTreeMap<PathBuf, Vec<u8>>| {
            let kept = files.into_iter();
            kept.filter(|(path, _)| !path.to_string_lossy().ends_with("-shm"))
                .collect::<Vec<_>>()
        };
        assert!(lasting(files(folder.path())) == lasting(open.clone()));

        // What a process leaves that is killed: the three files, and nobody who holds them.
        let left = tempfile::tempdir().expect("a folder");
        for (path, bytes) in &open {
            let name = path.file_name().expect("a name");
            std::fs::write(left.path().join(name), bytes).expect("written");
        }
        let path = left.path().join("a b%20?#.db");
        let before = files(left.path());
        assert_eq!(audited(&path), Some(2));
        assert!(files(left.path()) == before);

        // A copy without the index, which SQLite makes anew for whoever opens it.
        std::fs::remove_file(beside(&path, "-shm")).expect("removed");
        let before = files(left.path());
        assert_eq!((audited(&path), before.len()), (Some(2), 2));
        assert!(files(left.path()) == before);
    }

    #[test]
    fn what_somebody_writes_meanwhile_is_seen_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        drop(Sqlite::open(&path).expect("a store"));
        let mut looks = 0;
        let seen = look(&path, |store| {
            let before = store.audit_log()?.len();
            looks += 1;
            if looks == 1 {
                // Opened, written and closed, so that the log goes into the file that is being read.
                Sqlite::open(&path)?.audit("a", "b", 1)?;
            }
            Ok::<_, StoreError>((before, store.audit_log()?.len()))
        });
        assert_eq!(seen.expect("a store"), Some((1, 1)));
        assert_eq!(looks, 2);
    }

    #[test]
    fn what_is_no_store_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        std::fs::write(&path, "no store, but a text that is long enough").expect("written");
        let seen = look(&path, |store| store.devices());
        assert!(matches!(seen, Err(StoreError::Corrupt(_))), "{seen:?}");
        let other = folder.path().join("other.db");
        let made = Connection::open(&other).expect("a database");
        made.execute_batch("CREATE TABLE mine (a);").expect("made");
        drop(made);
        let seen = look(&other, |store| store.devices());
        assert!(matches!(seen, Err(StoreError::Version { .. })), "{seen:?}");
        assert_eq!(files(folder.path()).len(), 2);
    }

    #[test]
    fn a_store_that_was_never_finished_is_none_and_can_be_made_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        // A full disk, or a kill, leaves nothing, or a page that only says that there will be a log.
        std::fs::write(&path, "").expect("written");
        assert_eq!(audited(&path), None);
        let made = Connection::open(&path).expect("a database");
        made.pragma_update(None, "journal_mode", "WAL")
            .expect("set");
        drop(made);
        assert!(std::fs::metadata(&path).expect("a file").len() > 0);
        assert_eq!(audited(&path), None);
        drop(Sqlite::open(&path).expect("a store"));
        assert_eq!(audited(&path), Some(0));
    }
}
