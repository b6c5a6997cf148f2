//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Delays that double up to a longest one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Delays from `first` to `most`, or `first` for ever where that is longer.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            next: first,
            most: most.max(first),
        }
    }

    /// It went well: the next delay is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait this time.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        delay
    }

    /// Between half and all of that, so that clients that lost the same broker don't all come back
    /// at once.
    pub fn jittered(&mut self) -> Duration {
        let delay = self.delay();
        // The system seeds RandomState, which is all the randomness that is needed here.
        let random = RandomState::new().hash_one(0_u8) % 1024;
        delay / 2 + (delay / 2).mul_f64(random as f64 / 1023.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_longest_and_begin_again() {
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        let delays: Vec<_> = (0..5).map(|_| backoff.delay().as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.delay(), first);
        let mut short = Backoff::new(first, Duration::ZERO);
        assert_eq!([short.delay(), short.delay()], [first, first]);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let delay = Duration::from_secs(8);
        let mut backoff = Backoff::new(delay, delay);
        let delays: Vec<_> = (0..200).map(|_| backoff.jittered()).collect();
        assert!(delays.iter().all(|d| *d >= delay / 2 && *d <= delay));
        assert!(delays.iter().any(|d| *d != delays[0]));
    }
}
