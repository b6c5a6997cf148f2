//! What a board subscribes to, in few bytes: a topic takes three times as many.

use super::Setup;
use edgeward::topic::{self, Channel, Topic};
use edgeward::trust::Digest32;

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
