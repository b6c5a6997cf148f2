//! A message that held and could not be stored: when its topic is to be asked for again.
//!
//! The broker retains what this is about, so nothing of it is kept here but that it is missing.

use super::window::Timing;

/// Whether a retained message is missing, and until when to wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Again {
    /// Times in a row that it could not be stored.
    tries: u8,
    due: Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Due {
    /// Nothing is missing, or it was asked for.
    #[default]
    Never,
    /// It could not be stored; the next poll, which knows the time, says when to ask.
    Soon,
    /// To be asked for at this time.
    At { at_ms: u64 },
}

impl Again {
    /// The message came and could not be stored.
    pub(super) fn failed(&mut self) {
        self.tries = self.tries.saturating_add(1);
        self.due = Due::Soon;
    }

    /// The message came and is stored.
    pub(super) fn stored(&mut self) {
        *self = Self::default();
    }

    /// Takes the time of a failure that is new. Call in each poll, before anything that may fail.
    pub(super) fn tick(&mut self, now_ms: u64, timing: &Timing) {
        if self.due == Due::Soon {
            let at_ms = now_ms.saturating_add(timing.backoff(self.tries));
            self.due = Due::At { at_ms };
        }
    }

    /// Whether to ask for it now; true once a failure.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        let due = matches!(self.due, Due::At { at_ms } if now_ms >= at_ms);
        if due {
            self.due = Due::Never;
        }
        due
    }

    /// When it is to be asked for, as far as that is known.
    pub(super) fn deadline(&self) -> Option<u64> {
        match self.due {
            Due::At { at_ms } => Some(at_ms),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_asks_once_and_later_than_the_one_before() {
        let timing = Timing {
            timeout_ms: 0,
            backoff_ms: 100,
            backoff_max_ms: 300,
        };
        let mut again = Again::default();
        let mut now_ms = 5;
        again.tick(now_ms, &timing);
        assert!(!again.take(u64::MAX), "nothing is missing");
        for wait_ms in [100, 200, 300, 300] {
            again.failed();
            again.tick(now_ms, &timing);
            again.tick(now_ms + 50, &timing);
            assert_eq!(again.deadline(), Some(now_ms + wait_ms));
            assert!(!again.take(now_ms + wait_ms - 1));
            now_ms += wait_ms;
            assert!(again.take(now_ms));
            assert!(!again.take(now_ms));
            assert_eq!(again.deadline(), None);
        }
        again.stored();
        again.failed();
        again.tick(0, &timing);
        assert_eq!(again.deadline(), Some(100));
    }
}
