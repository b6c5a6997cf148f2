//! The update client: what should run, whether it concerns this board, and how it gets here.

mod again;
pub mod client;
mod desired;
mod fetch;
mod follow;
mod head;
#[cfg(all(test, feature = "ring"))]
mod tests;
mod window;

pub use client::{Action, Config, UpdateClient};
pub use desired::{Board, DesiredField, Plan, Refusal, Seen, Verdict, cohort_per_mille, evaluate};

use crate::bundle::BoardClass;
use crate::place::{self, Blank};
use crate::telemetry::{Id, Text};
use crate::trust::Digest32;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Most board classes that one desired state serves.
pub const MAX_TARGETS: usize = 4;

/// A release for one board class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The class.
    pub class: BoardClass,
    /// Digest of the bundle (SHA-256 of its header, manifest and chunk table).
    pub digest: Digest32,
    /// Its release counter.
    pub counter: u32,
    /// Its version, for people.
    pub version: Text,
    /// Bytes before the first section's chunk, a multiple of the chunk size.
    pub head_bytes: u32,
    /// Bytes in all.
    pub total_bytes: u32,
}

/// Whether the rollout goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RolloutState {
    /// Boards in the cohort install the release.
    Active,
    /// Boards that have not begun a trial wait.
    Paused,
    /// Boards that have not confirmed the release give it up.
    Aborted,
}

/// What a fleet should run: one retained message, signed by the rollout role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The fleet.
    pub fleet: Id,
    /// Counts up with every message of a fleet; a board refuses less than it has seen.
    pub sequence: u64,
    /// When it stops to count, in seconds since 1970.
    pub expires_s: u64,
    /// Names the rollout; part of the cohort's hash.
    pub rollout: Id,
    /// Whether it goes on.
    pub state: RolloutState,
    /// One release a board class.
    pub targets: Vec<Target, MAX_TARGETS>,
    /// Tags that a board must have, all of them.
    pub tags: Vec<Text, 4>,
    /// Boards out of a thousand that are in the cohort.
    pub share_per_mille: u16,
}

place::numbers! {
    RolloutState { Active, Paused, Aborted }
}

place::records! {
    Target { class, digest, counter, version, head_bytes, total_bytes }
    Desired { fleet, sequence, expires_s, rollout, state, targets, tags, share_per_mille }
}

impl Blank for Target {
    fn blank() -> Self {
        Self {
            class: BoardClass::Linux,
            digest: [0; 32],
            counter: 0,
            version: Text::new(),
            head_bytes: 0,
            total_bytes: 0,
        }
    }
}

impl Blank for Desired {
    fn blank() -> Self {
        Self {
            fleet: Id::new(),
            sequence: 0,
            expires_s: 0,
            rollout: Id::new(),
            state: RolloutState::Paused,
            targets: Vec::new(),
            tags: Vec::new(),
            share_per_mille: 0,
        }
    }
}

#[cfg(test)]
mod in_place {
    use super::*;

    #[test]
    fn desired_states_are_read_and_written_in_place_as_they_are_by_serde() {
        let text = |text| Text::try_from(text).expect("short");
        let mut desired = Desired::blank();
        desired.fleet = Id::try_from("plant").expect("short");
        desired.sequence = 300;
        desired.tags = [text("a"), text("b")].into_iter().collect();
        let target = |class| Target {
            class,
            digest: [7; 32],
            counter: 9,
            version: text("1.2"),
            head_bytes: 4096,
            total_bytes: 70_000,
        };
        let targets = [target(BoardClass::Linux), target(BoardClass::Mcu)];
        desired.targets = targets.into_iter().collect();
        place::check(&desired, &Desired::blank());
    }
}
