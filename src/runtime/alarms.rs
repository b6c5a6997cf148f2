//! The queue of alarms.

use crate::telemetry::Alarm;
use heapless::Deque;

/// Alarms that wait to be taken; what finds the queue full is counted and dropped, since the
/// window's summary has the counts anyway.
pub const MAX_ALARMS: usize = 32;

/// Alarms to be taken, and how many there were in this window.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    queue: Deque<Alarm, MAX_ALARMS>,
    raised: u32,
    dropped: u32,
}

impl Alarms {
    pub(super) fn raise(&mut self, alarm: Alarm) {
        self.raised = self.raised.saturating_add(1);
        if self.queue.push_back(alarm).is_err() {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Alarm> {
        self.queue.pop_front()
    }

    pub(super) fn raised(&self) -> u32 {
        self.raised
    }

    pub(super) fn dropped(&self) -> u32 {
        self.dropped
    }

    /// The counts start at zero; alarms that were not taken stay in the queue.
    pub(super) fn start_window(&mut self) {
        self.raised = 0;
        self.dropped = 0;
    }
}
