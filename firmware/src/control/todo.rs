//! What waits for the caller: a place for each thing that must never be lost, and a bounded queue of
//! subscriptions.

use super::{Action, Mode, Purpose, Subject};
use edgeward::slots::Slot;
use heapless::Deque;

/// Subscriptions that may wait to be asked for or ended. Between two polls come at most the four of
/// a boot, the chunks of a connection that ended, two for each new trust root, and two for each of a
/// desired state and a trust root that is asked for again.
const TOPICS: usize = 24;

/// There is no room for another subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// What is to be done with a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    stop: bool,
    load: Option<Purpose>,
    run: Option<Mode>,
}

/// What waits. However much comes between two polls, each slot has its own place here: a later wish
/// replaces an earlier one, and nothing else does.
#[derive(Debug, Default)]
pub(super) struct Todo {
    slots: [Work; 2],
    /// To subscribe to, or not any more.
    topics: Deque<(Subject, bool), TOPICS>,
}

impl Todo {
    pub(super) fn is_empty(&self) -> bool {
        !self.has_work() && self.topics.is_empty()
    }

    /// Whether there is something to be done with a slot.
    pub(super) fn has_work(&self) -> bool {
        let due = |work: &Work| work.stop || work.load.is_some() || work.run.is_some();
        self.slots.iter().any(due)
    }

    pub(super) fn load(&mut self, slot: Slot, purpose: Purpose) {
        self.slots[slot as usize].load = Some(purpose);
    }

    pub(super) fn run(&mut self, slot: Slot, mode: Mode) {
        self.slots[slot as usize].run = Some(mode);
    }

    /// Also takes back what was to be done with the slot.
    pub(super) fn stop(&mut self, slot: Slot) {
        self.slots[slot as usize] = Work {
            stop: true,
            ..Work::default()
        };
    }

    /// Something to subscribe to, or not any more; an error where there is no room.
    pub(super) fn push_subject(&mut self, subject: Subject, wanted: bool) -> Result<(), Full> {
        self.topics.push_back((subject, wanted)).map_err(|_| Full)
    }

    /// What is to be done whatever else is wrong: what ends, and what the confirmed release needs to
    /// answer.
    pub(super) fn next_sound(&mut self) -> Option<Action<'static>> {
        for slot in Slot::ALL {
            let work = &mut self.slots[slot as usize];
            if core::mem::take(&mut work.stop) {
                return Some(Action::Stop(slot));
            }
            if work.load == Some(Purpose::Confirmed) {
                let purpose = work.load.take()?;
                return Some(Action::Load { slot, purpose });
            }
            if work.load.is_none() && work.run == Some(Mode::Confirmed) {
                let mode = work.run.take()?;
                return Some(Action::Run { slot, mode });
            }
        }
        None
    }

    /// The next thing to do with a slot: first what ends, then what begins, the confirmed release before the one
    /// that may have to go back to it.
    pub(super) fn next(&mut self) -> Option<Action<'static>> {
        for slot in Slot::ALL {
            if core::mem::take(&mut self.slots[slot as usize].stop) {
                return Some(Action::Stop(slot));
            }
        }
        let confirmed_first = |kind: fn(&Work) -> Option<bool>| {
            let with = |wanted| {
                let is = |slot: &Slot| kind(&self.slots[*slot as usize]) == Some(wanted);
                Slot::ALL.into_iter().find(is)
            };
            with(true).or_else(|| with(false))
        };
        let load = confirmed_first(|work| work.load.map(|it| it == Purpose::Confirmed));
        let run = confirmed_first(|work| work.run.map(|it| it == Mode::Confirmed));
        if let Some(slot) = load {
            let purpose = self.slots[slot as usize].load.take()?;
            return Some(Action::Load { slot, purpose });
        }
        if let Some(slot) = run {
            let mode = self.slots[slot as usize].run.take()?;
            return Some(Action::Run { slot, mode });
        }
        None
    }

    /// The next subscription to be asked for (true) or ended.
    pub(super) fn next_subject(&self) -> Option<(Subject, bool)> {
        self.topics.front().copied()
    }

    /// How many subscriptions wait to be asked for or ended.
    pub(super) fn subjects(&self) -> usize {
        self.topics.len()
    }

    /// The next subscription was asked for or ended.
    pub(super) fn forget_subject(&mut self) {
        self.topics.pop_front();
    }

    /// Nothing is to be subscribed to or not any more.
    pub(super) fn forget_subjects(&mut self) {
        self.topics.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_confirmed_release_comes_first_whatever_its_slot() {
        for confirmed in Slot::ALL {
            let mut todo = Todo::default();
            let other = confirmed.other();
            todo.load(other, Purpose::Candidate);
            todo.load(confirmed, Purpose::Confirmed);
            todo.run(other, Mode::Trial);
            todo.run(confirmed, Mode::Confirmed);
            let purpose = Purpose::Confirmed;
            let slot = confirmed;
            assert_eq!(todo.next(), Some(Action::Load { slot, purpose }));
            todo.stop(other);
            assert_eq!(todo.next(), Some(Action::Stop(other)));
            let mode = Mode::Confirmed;
            assert_eq!(todo.next(), Some(Action::Run { slot, mode }));
            assert_eq!(todo.next(), None, "what was stopped neither loads nor runs");
            assert!(todo.is_empty());
        }
    }

    #[test]
    fn a_full_queue_of_topics_loses_no_work() {
        let mut todo = Todo::default();
        for _ in 0..2 * TOPICS {
            let _ = todo.push_subject(Subject::Desired, false);
        }
        todo.stop(Slot::B);
        todo.load(Slot::B, Purpose::SelfTest);
        todo.run(Slot::A, Mode::Confirmed);
        let slot = Slot::B;
        let purpose = Purpose::SelfTest;
        assert_eq!(todo.next(), Some(Action::Stop(slot)));
        assert_eq!(todo.next(), Some(Action::Load { slot, purpose }));
        assert!(matches!(todo.next(), Some(Action::Run { .. })));
    }
}
