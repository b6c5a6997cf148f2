//! Waiting for what nobody announces.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what has to come: an end to a hang, no measure of speed.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until the answer is `Ok`. A test that waits in vain says for what, and what it saw instead.
pub fn wait_until<T, S: Debug>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match ask() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain until {what}; seen instead: {seen:?}"
        );
        thread::sleep(PAUSE);
    }
}
