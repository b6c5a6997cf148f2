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
