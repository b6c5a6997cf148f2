//! What a board subscribes to, in few bytes: a topic takes three times as many.

use super::{Action, Control, Setup};
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
    pub(super) fn topic(&self, setup: &Setup) -> Topic {
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

    /// The next subscription to be asked for or ended.
    pub(super) fn next_topic(&mut self) -> Option<Action<'static>> {
        let (subject, wanted) = self.todo.next_subject()?;
        let topic = subject.topic(&self.setup);
        Some(match wanted {
            true => Action::Subscribe(topic),
            false => Action::Unsubscribe(topic),
        })
    }
}
