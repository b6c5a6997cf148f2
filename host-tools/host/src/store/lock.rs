//! How writers of the store wait for each other.

use std::time::Duration;

/// How long another process may hold the lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait until the lock is asked for again. SQLite's own pauses grow to a tenth of a second, in
/// which a writer that is never idle has taken the lock again: where the disk is slow, nobody else gets it.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits for the lock; `tries` is how often it was asked for. False when that is enough.
pub(super) fn wait(tries: i32) -> bool {
    std::thread::sleep(PAUSE);
    u32::try_from(tries).is_ok_and(|tries| PAUSE * tries < PATIENCE)
}
