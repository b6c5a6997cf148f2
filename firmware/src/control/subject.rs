//! What a board subscribes to, in few bytes: a topic takes three times as many.

use super::{Control, Setup};
use edgeward::topic::{self, Channel, Topic};
use edgeward::trust::{Digest32, Signer, Verifier};
use embedded_storage::nor_flash::NorFlash;

/// What a subscription is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// The fleet's desired state.
    Desired,
    /// What the host has stored of this board.
    Acknowledgements,
    /// What the host wants of this board.
    Commands,
    /// A version of the fleet's trust root.
    Root(u32),
    /// A chunk of a release.
    Chunk(Digest32, u32),
}

impl Subject {
    /// Its topic, for the board of this fleet and name.
    pub(super) fn topic(&self, setup: &Setup<'_>) -> Topic {
        let device = |channel| topic::device(&setup.fleet, &setup.device, channel);
        match self {
            Self::Desired => topic::desired(&setup.fleet),
            Self::Acknowledgements => device(Channel::Ack),
            Self::Commands => device(Channel::Command),
            Self::Root(version) => topic::root(&setup.fleet, *version),
            Self::Chunk(digest, n) => topic::blob(digest, *n),
        }
    }
}

impl<
    S: NorFlash,
    O: NorFlash,
    V: Verifier,
    K: Signer,
    const F: usize,
    const C: usize,
    const R: usize,
    const B: usize,
    const W: usize,
> Control<'_, S, O, V, K, F, C, R, B, W>
{
    /// The trust root after the one the board has.
    pub(super) fn next_root(&self) -> Subject {
        Subject::Root(self.slots.state().root.version.saturating_add(1))
    }

    /// What the broker is to be asked for next, where that is true, also when it was asked before: the retained
    /// message is wanted; or what is to be ended. [`Control::subscribed`] says that it was done.
    #[must_use]
    pub fn subscription(&self) -> Option<(Topic, bool)> {
        let (subject, wanted) = self.todo.next_subject()?;
        Some((subject.topic(&self.setup), wanted))
    }

    /// How many requests wait.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.todo.subjects()
    }

    /// What [`Control::subscription`] said was done.
    pub fn subscribed(&mut self) {
        self.todo.forget_subject();
    }

    /// The broker knows of no subscription and the transport remembers none: all that is wanted is asked for, and
    /// nothing else.
    pub fn subscribe_anew(&mut self) {
        self.todo.forget_subjects();
        let known = [
            Subject::Desired,
            Subject::Acknowledgements,
            Subject::Commands,
            self.next_root(),
        ];
        let chunks = self.chunks.iter();
        let chunks = chunks.map(|&(digest, n)| Subject::Chunk(digest, n));
        for subject in known.into_iter().chain(chunks) {
            // There is room for four and a window's chunks.
            let _ = self.todo.push_subject(subject, true);
        }
    }

    /// Asks for a subscription.
    pub(super) fn want(&mut self, subject: Subject) {
        self.wish(subject, true);
    }

    /// Ends a subscription. What it is of is not wanted any more by now.
    pub(super) fn give_up(&mut self, subject: Subject) {
        self.wish(subject, false);
    }

    /// Has the broker deliver again what it retains.
    pub(super) fn ask(&mut self, subject: Subject) {
        self.give_up(subject);
        self.want(subject);
    }

    fn wish(&mut self, subject: Subject, wanted: bool) {
        if self.todo.push_subject(subject, wanted).is_err() {
            // What is lost comes unasked, and is ignored.
            self.subscribe_anew();
        }
    }
}
