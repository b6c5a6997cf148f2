//! What the flash did not do: when it is to be tried again, ever later.
//!
//! A message that held and could not be stored is asked for again: the broker retains it, so nothing of
//! it is kept here but that it is missing. A head that could not be read is read again.

use super::window::Timing;
use crate::slots::Error;

/// Whether something failed, and until when to wait with the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Again {
    /// Times in a row that it failed.
    tries: u8,
    due: Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Due {
    /// Nothing failed, or it is being tried again.
    #[default]
    Never,
    /// It failed; the next poll, which knows the time, says when to try again.
    Soon,
    /// To be tried again at this time.
    At { at_ms: u64 },
}

impl Again {
    /// It failed, again or for the first time.
    pub(super) fn failed(&mut self) {
        self.tries = self.tries.saturating_add(1);
        self.due = Due::Soon;
    }

    /// It went well.
    pub(super) fn done(&mut self) {
        *self = Self::default();
    }

    /// Takes the time of a failure that is new. Call in each poll, before anything that may fail.
    pub(super) fn tick(&mut self, now_ms: u64, timing: &Timing) {
        if self.due == Due::Soon {
            let at_ms = now_ms.saturating_add(timing.backoff(self.tries));
            self.due = Due::At { at_ms };
        }
    }

    /// Whether to try again now; true once a failure.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        let due = matches!(self.due, Due::At { at_ms } if now_ms >= at_ms);
        if due {
            self.due = Due::Never;
        }
        due
    }

    /// When it is to be tried again, as far as that is known.
    pub(super) fn deadline(&self) -> Option<u64> {
        match self.due {
            Due::At { at_ms } => Some(at_ms),
            _ => None,
        }
    }
}

/// Times in a row that the flash may refuse to be read before what it holds counts as lost.
const READS: u8 = 8;

/// Something that is read from flash, and what kept it from being read the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Unread {
    again: Again,
    /// What is said until the next try.
    error: Option<Error>,
}

impl Unread {
    /// Lets the next read happen once its time has come.
    pub(super) fn tick(&mut self, now_ms: u64, timing: &Timing) {
        self.again.tick(now_ms, timing);
        if self.again.take(now_ms) {
            self.error = None;
        }
    }

    /// What to say instead of reading.
    pub(super) fn waits(&self) -> Option<Error> {
        self.error
    }

    /// It could not be read. False when that happened too often.
    pub(super) fn failed(&mut self, error: Error) -> bool {
        let may = self.again.tries < READS;
        if may {
            self.again.failed();
            self.error = Some(error);
        }
        may
    }

    /// When it is to be read again, as far as that is known.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.again.deadline()
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
        again.done();
        again.failed();
        again.tick(0, &timing);
        assert_eq!(again.deadline(), Some(100));
    }
}
