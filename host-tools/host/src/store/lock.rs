//! How writers of the store wait for each other.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long another process may hold the lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait until the lock is asked for again. SQLite's own pauses grow to a tenth of a second, in
/// which a writer that is never idle has taken the lock again: where the disk is slow, nobody else gets it.
const PAUSE: Duration = Duration::from_millis(1);

std::thread_local! {
    /// When this thread was first refused the lock that it waits for: SQLite only counts the tries, and on a
    /// busy machine a pause takes several times as long as was asked for.
    static REFUSED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Waits for the lock; `tries` is how often it was asked for since it was first refused. False when that took
/// long enough.
pub(super) fn wait(tries: i32) -> bool {
    let patient = is_patient(tries, Instant::now());
    if patient {
        std::thread::sleep(PAUSE);
    }
    patient
}

/// Whether to ask again at this time.
fn is_patient(tries: i32, now: Instant) -> bool {
    let first = REFUSED.get().filter(|_| tries > 0).unwrap_or(now);
    REFUSED.set(Some(first));
    now.saturating_duration_since(first) < PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_by_the_clock_and_begins_anew_for_each_lock() {
        let begin = Instant::now();
        let at = move |ms: u64| begin + Duration::from_millis(ms);
        // A machine so busy that a pause takes a second.
        let answers = (0..6).map(|tries| is_patient(tries, at(1000 * tries as u64)));
        assert_eq!(
            answers.collect::<Vec<_>>(),
            [true, true, true, true, true, false]
        );
        // The next lock is waited for as long, however often it is asked for.
        assert!(is_patient(0, at(60_000)));
        assert!(is_patient(100_000, at(64_999)));
        assert!(!is_patient(100_001, at(65_000)));
        // Another thread waits for another lock.
        let elsewhere = std::thread::spawn(move || is_patient(1, at(90_000)));
        assert!(elsewhere.join().expect("it ends"));
    }
}
