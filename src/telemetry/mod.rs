//! Telemetry: what a board reports, numbered, signed and kept until it is acknowledged.
//!
//! Byte by byte in `docs/WIRE.md`.

mod before;
pub mod codec;
pub mod latency;
pub mod merge;
pub mod outbox;
pub mod pull;
mod wire;

use crate::bundle::BoardClass;
use crate::contract::ViolationKind;
use crate::profile::BINS;
use crate::trust::Digest32;
use heapless::{String, Vec};
use latency::LatencyHistogram;
use serde::{Deserialize, Serialize};

/// Longest device or fleet name in bytes.
pub const ID_BYTES: usize = 32;
/// A device's or fleet's name: ASCII letters, digits, `-` and `_`.
pub type Id = String<ID_BYTES>;
/// Short text (versions, tags).
pub type Text = String<32>;
/// First eight bytes of a release's digest; names it in telemetry.
pub type ReleaseId = [u8; 8];

/// One numbered report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame<const F: usize, const C: usize> {
    /// The reporting device.
    pub device: Id,
    /// The outbox that counted the frame; see [`outbox::Outbox::epoch`].
    pub epoch: u32,
    /// Every frame of the epoch up to this number was acknowledged, as far as the device knew when
    /// it sent this one; less than `sequence`.
    pub acknowledged: u64,
    /// Boot in which the frame was made, counted by the device from 1.
    pub boot: u32,
    /// First sequence number that this frame answers for; less than `sequence` only after a merge.
    pub first_sequence: u64,
    /// Number of the frame, counted by the outbox over all boots from 1, without gaps.
    pub sequence: u64,
    /// The device's clock, in milliseconds since 1970 (or since boot, where it has no clock).
    pub time_ms: u64,
    /// What is reported.
    pub body: Body<F, C>,
}

/// What a frame reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "no allocator to box with")]
#[non_exhaustive]
pub enum Body<const F: usize, const C: usize> {
    /// The board came up, or its slots changed.
    Birth(Birth),
    /// One window.
    Summary(Summary<F, C>),
    /// Something happened.
    Event(Event),
}

/// What a frame reports, wherever it is.
#[derive(Debug, Clone, Copy)]
pub enum BodyRef<'a, const F: usize, const C: usize> {
    /// The board came up, or its slots changed.
    Birth(&'a Birth),
    /// One window.
    Summary(&'a Summary<F, C>),
    /// Something happened.
    Event(&'a Event),
}

impl<'a, const F: usize, const C: usize> From<&'a Body<F, C>> for BodyRef<'a, F, C> {
    fn from(body: &'a Body<F, C>) -> Self {
        match body {
            Body::Birth(birth) => Self::Birth(birth),
            Body::Summary(summary) => Self::Summary(summary),
            Body::Event(event) => Self::Event(event),
        }
    }
}

impl<'a, const F: usize, const C: usize> From<&'a Birth> for BodyRef<'a, F, C> {
    fn from(birth: &'a Birth) -> Self {
        Self::Birth(birth)
    }
}

impl<'a, const F: usize, const C: usize> From<&'a Summary<F, C>> for BodyRef<'a, F, C> {
    fn from(summary: &'a Summary<F, C>) -> Self {
        Self::Summary(summary)
    }
}

impl<'a, const F: usize, const C: usize> From<&'a Event> for BodyRef<'a, F, C> {
    fn from(event: &'a Event) -> Self {
        Self::Event(event)
    }
}

/// State of a slot as reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SlotState {
    /// Nothing usable.
    Empty,
    /// Being downloaded.
    Receiving,
    /// Complete, verified and self-tested.
    Staged,
    /// Running beside the confirmed release, unused.
    Shadow,
    /// Running on trial.
    Trial,
    /// Confirmed.
    Confirmed,
    /// Refused or reverted; the reason says why.
    Rejected(Reason),
    /// Confirmed, and no longer signed by enough release keys of the trust root. Only ever reported:
    /// a board runs it on, and finds out anew at every start.
    Revoked,
}

/// Why a release was refused or reverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Reason {
    /// Not enough valid signatures by the release role.
    Signature,
    /// The release counter is below the board's floor.
    Downgrade,
    /// Made for another board class or kernel set.
    WrongClass,
    /// Needs a newer runtime, more memory or more flash than the board has.
    Unsupported,
    /// The bytes are not a bundle, or a hash does not hold.
    Corrupt,
    /// The golden vectors were not reproduced.
    SelfTest,
    /// It disagreed with the confirmed release in shadow.
    Shadow,
    /// Too many failed inferences in the trial.
    ErrorRate,
    /// Too slow in the trial.
    Latency,
    /// Its predictions left their profile in the trial.
    PredictionDrift,
    /// The board died too often in the trial.
    Crash,
    /// An operator asked for it.
    Operator,
    /// It was signed well until a new trust root revoked too many of the keys that had signed it.
    Revoked,
    /// What the board's source announces does not fit it: its contract rejects every sample.
    Source,
    /// Another release of the same counter is confirmed.
    CounterTaken,
}

/// One slot as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// Its state.
    pub state: SlotState,
    /// The release in it, all zero when empty.
    pub release: ReleaseId,
    /// Its release counter.
    pub counter: u32,
    /// Its version.
    pub version: Text,
}

/// Inventory, sent at every start and whenever a slot changes; retained by the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Board class.
    pub class: BoardClass,
    /// Version of the firmware or agent.
    pub firmware: Text,
    /// The two slots.
    pub slots: [SlotReport; 2],
    /// Index of the slot that runs, if any.
    pub running: Option<u8>,
    /// Least release counter the board accepts.
    pub floor: u32,
    /// Version of its trust root.
    pub root_version: u32,
    /// Sequence number of the desired state it last accepted.
    pub desired: u64,
    /// The board's tags.
    pub tags: Vec<Text, 8>,
    /// The last release that failed its trial or was refused, and why.
    pub last_failure: Option<(ReleaseId, Reason)>,
}

/// One feature over one window; mergeable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureSummary {
    /// Samples per bin.
    pub bins: [u32; BINS],
    /// Samples in the moments.
    pub n: u32,
    /// Mean.
    pub mean: f32,
    /// Sum of squared differences from the mean.
    pub m2: f32,
    /// Least value (positive infinity when `n` is 0).
    pub min: f32,
    /// Greatest value (negative infinity when `n` is 0).
    pub max: f32,
    /// Violations of each per-feature kind, indexed by [`ViolationKind`].
    pub violations: [u32; ViolationKind::PER_FEATURE],
}

/// The predictions of one window; mergeable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputSummary<const C: usize> {
    /// Predictions made by the model.
    pub n: u32,
    /// Predictions per class.
    pub classes: Vec<u32, C>,
    /// Mean score (confidence, or the first value).
    pub score_mean: f32,
    /// Sum of squared differences from it.
    pub score_m2: f32,
    /// Sum of the entropies, in nats.
    pub entropy_sum: f32,
    /// Sum of the calibrated confidences: expected number of right predictions (CBPE).
    pub expected_right: f32,
    /// Scores further than the guard's |z| from the profile.
    pub z_outliers: u32,
    /// Scores below the profile's 1st percentile.
    pub below_p01: u32,
    /// Scores above the profile's 99th percentile.
    pub above_p99: u32,
}

/// One window of a board; mergeable over time and over boards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary<const F: usize, const C: usize> {
    /// The release that ran.
    pub release: ReleaseId,
    /// Windows merged into this summary.
    pub windows: u32,
    /// When the first began, in milliseconds of the device's clock.
    pub from_ms: u64,
    /// When the last ended.
    pub to_ms: u64,
    /// Samples offered.
    pub samples: u32,
    /// Samples kept out by the policy.
    pub rejected: u32,
    /// Inferences tried.
    pub inferences: u32,
    /// Inferences that failed.
    pub errors: u32,
    /// Predictions answered from the last good one.
    pub fallbacks: u32,
    /// Violations of each kind, indexed by [`ViolationKind`].
    pub violations: [u32; ViolationKind::COUNT],
    /// Alarms raised.
    pub alarms: u32,
    /// Events that were dropped because the outbox was full.
    pub dropped_events: u32,
    /// Latency of the inferences.
    pub latency: LatencyHistogram,
    /// The features, in profile order.
    pub features: Vec<FeatureSummary, F>,
    /// The predictions.
    pub output: OutputSummary<C>,
    /// The clock of the core that ran the inferences, in kHz, which makes processor cycles of the
    /// latencies ([`latency_p99_cycles`](Self::latency_p99_cycles)); 0 where it is not known: on boards
    /// whose clock changes, in what version 2 of the format carried, and after a merge of different ones.
    pub core_khz: u32,
}

/// A statistic of a window against the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Statistic {
    /// Population stability index.
    Psi,
    /// Kolmogorov-Smirnov.
    Ks,
    /// Jensen-Shannon distance.
    JensenShannon,
    /// First Wasserstein distance.
    Wasserstein,
    /// PSI of the predicted classes' shares.
    ClassPsi,
    /// Shift of the mean score, in standard deviations.
    ScoreShift,
    /// Failed inferences per mille.
    ErrorRate,
    /// 99th percentile of the latency, in microseconds.
    LatencyP99,
    /// Estimated accuracy, per mille.
    EstimatedAccuracy,
    /// Block CUSUM of the feature. Reserved: nothing computes it, and a host takes it from who does.
    Cusum,
}

/// Something that a person may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Alarm {
    /// A sample broke the contract; raised at the first of a kind and feature in a window.
    Violation {
        /// Which way.
        kind: ViolationKind,
        /// Which feature; none for kinds that concern the whole sample.
        feature: Option<u16>,
        /// The value.
        value: f32,
        /// Number of the sample.
        sample: u32,
    },
    /// A window's statistic is beyond its limit.
    Drift {
        /// Which statistic.
        statistic: Statistic,
        /// Which feature; none for the predictions.
        feature: Option<u16>,
        /// The value.
        value: f32,
        /// The limit.
        limit: f32,
    },
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// The runtime raised an alarm.
    Alarm {
        /// The release that ran.
        release: ReleaseId,
        /// The alarm.
        alarm: Alarm,
    },
    /// A slot's state changed.
    Slot {
        /// Index of the slot.
        slot: u8,
        /// The release in it.
        release: ReleaseId,
        /// Its new state.
        state: SlotState,
    },
    /// Something offered to the board was refused and changed nothing.
    Refused {
        /// What was refused.
        what: Refused,
    },
    /// The board went back to its confirmed release.
    Reverted {
        /// The release that failed.
        from: ReleaseId,
        /// The release that runs again; none on a board that had no other.
        to: Option<ReleaseId>,
        /// Why.
        reason: Reason,
    },
    /// A download went on after an interruption.
    Resumed {
        /// The release.
        release: ReleaseId,
        /// Chunks that were there already.
        kept: u32,
        /// Chunks in all.
        total: u32,
    },
    /// The firmware ended itself, and the board started again.
    Crashed {
        /// How.
        how: Crash,
        /// Where: the line of a panic; the address of the instruction otherwise, and in a lean image.
        at: u32,
    },
}

/// How firmware ends itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Crash {
    /// An assertion did not hold.
    Panic,
    /// The processor could not go on.
    Fault,
    /// The inference loop stood still for too long.
    Watchdog,
}

/// What a board refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refused {
    /// A desired state that is not signed well enough, or not readable.
    DesiredSignature,
    /// A desired state older than one accepted before.
    DesiredReplay,
    /// A desired state past its expiry.
    DesiredExpired,
    /// A release.
    Release {
        /// Which.
        release: ReleaseId,
        /// Why.
        reason: Reason,
    },
    /// A chunk whose hash is not the manifest's.
    Chunk {
        /// The release.
        release: ReleaseId,
        /// The chunk's index in the bundle.
        index: u32,
    },
    /// A new trust root.
    Root {
        /// Its claimed version.
        version: u32,
    },
    /// An acknowledgement that is not signed by the collector.
    Ack,
    /// A command that is not signed by the collector, or not for this board, this boot and this time,
    /// or older than one that was obeyed.
    Command,
}

/// The host's cumulative acknowledgement, signed by the collector role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The device it is for.
    pub device: Id,
    /// The epoch whose numbers are meant; a device ignores those of another than its outbox has.
    pub epoch: u32,
    /// Every frame up to and with this sequence number is stored.
    pub through: u64,
}

/// Full digest and its short form.
#[must_use]
pub fn release_id(digest: &Digest32) -> ReleaseId {
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    id
}
