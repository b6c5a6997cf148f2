//! Which frames are on their way: a bounded window over the outbox, from its oldest frame on.

use heapless::Deque;

/// Frames on their way at once.
pub const WINDOW: usize = 32;
/// How long the host has for its first acknowledgement, in milliseconds.
const TIMEOUT_FIRST_MS: u64 = 5_000;
/// The longest that the board waits before it sends again what was not acknowledged.
const TIMEOUT_MAX_MS: u64 = 300_000;

/// Where sending stands.
///
/// Invariant: `flying` ascends, and its last number is `through` unless it is empty.
#[derive(Debug)]
pub(super) struct Sending {
    /// Frames sent and not acknowledged, by the low halves of their numbers: enough to tell which of two near ones is
    /// the later.
    flying: Deque<u32, WINDOW>,
    /// Every frame up to this number was sent since the last start.
    through: u64,
    timeout_ms: u64,
    deadline_ms: Option<u64>,
}

impl Sending {
    pub(super) fn new(acknowledged: u64) -> Self {
        Self {
            flying: Deque::new(),
            through: acknowledged,
            timeout_ms: TIMEOUT_FIRST_MS,
            deadline_ms: None,
        }
    }

    /// Starts again from what is acknowledged, because the connection is new.
    pub(super) fn restart(&mut self, acknowledged: u64) {
        *self = Self::new(acknowledged);
    }

    /// The number after which the next frame to send comes; none while the window is full.
    pub(super) fn next_after(&self) -> Option<u64> {
        (!self.flying.is_full()).then_some(self.through)
    }

    /// A frame went out.
    pub(super) fn sent(&mut self, sequence: u64, now_ms: u64) {
        // The caller asked `next_after`, so there is room.
        let _ = self.flying.push_back(sequence as u32);
        self.through = sequence;
        self.deadline_ms.get_or_insert(now_ms + self.timeout_ms);
    }

    /// The transport did not take the frame sent last; it will be next again.
    pub(super) fn take_back(&mut self, before: u64) {
        self.flying.pop_back();
        self.through = before;
        if self.flying.is_empty() {
            self.deadline_ms = None;
        }
    }

    /// Everything up to `through` is stored at the host.
    pub(super) fn acknowledged(&mut self, through: u64, now_ms: u64) {
        let before = self.flying.len();
        let stored = |&first: &u32| (through as u32).wrapping_sub(first).cast_signed() >= 0;
        while self.flying.front().is_some_and(stored) {
            self.flying.pop_front();
        }
        self.through = self.through.max(through);
        if self.flying.len() == before {
            return;
        }
        self.timeout_ms = TIMEOUT_FIRST_MS;
        self.deadline_ms = (!self.flying.is_empty()).then_some(now_ms + self.timeout_ms);
    }

    /// Starts again when the host did not answer in time, and gives it longer then.
    pub(super) fn tick(&mut self, acknowledged: u64, now_ms: u64) {
        if self.deadline_ms.is_some_and(|deadline| now_ms >= deadline) {
            let timeout_ms = (self.timeout_ms * 2).min(TIMEOUT_MAX_MS);
            self.restart(acknowledged);
            self.timeout_ms = timeout_ms;
        }
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// Frames sent and not acknowledged.
    pub(super) fn flying(&self) -> usize {
        self.flying.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_bounded_and_acknowledgements_open_it() {
        let mut sending = Sending::new(10);
        for sequence in 11..=10 + WINDOW as u64 {
            assert_eq!(sending.next_after(), Some(sequence - 1));
            sending.sent(sequence, 0);
        }
        assert_eq!(sending.next_after(), None);
        sending.acknowledged(12, 1);
        assert_eq!(sending.flying(), WINDOW - 2);
        assert_eq!(sending.next_after(), Some(10 + WINDOW as u64));
    }

    #[test]
    fn silence_sends_again_later_and_later() {
        let mut sending = Sending::new(0);
        sending.sent(1, 0);
        sending.sent(2, 0);
        sending.tick(0, TIMEOUT_FIRST_MS - 1);
        assert_eq!(sending.next_after(), Some(2));
        sending.tick(0, TIMEOUT_FIRST_MS);
        assert_eq!(sending.next_after(), Some(0));
        sending.sent(1, TIMEOUT_FIRST_MS);
        assert_eq!(sending.deadline_ms(), Some(3 * TIMEOUT_FIRST_MS));
        sending.acknowledged(1, 2 * TIMEOUT_FIRST_MS);
        assert_eq!(sending.deadline_ms(), None);
        sending.sent(2, 0);
        assert_eq!(sending.deadline_ms(), Some(TIMEOUT_FIRST_MS));
    }

    #[test]
    fn a_frame_that_was_not_taken_is_next_again() {
        let mut sending = Sending::new(0);
        sending.sent(3, 7);
        sending.take_back(0);
        assert_eq!(sending.next_after(), Some(0));
        assert_eq!(sending.deadline_ms(), None);
    }
}
