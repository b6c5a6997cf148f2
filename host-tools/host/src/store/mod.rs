//! What the host remembers: devices, every frame that they signed, releases, rollouts, and who did
//! what.
//!
//! One trait, so that a fleet that outgrows a file can move to a server; [`sqlite::Sqlite`] is the
//! default. Every implementation must pass the suite in `tests/store.rs`.

mod boards;
mod ingest;
mod lock;
mod look;
mod rollouts;
mod schema;
pub mod sqlite;

use crate::rollout::Rollout;
use edgeward::bundle::BoardClass;
use edgeward::trust::PublicKey;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use look::look;

/// Epochs of a device at most. Each is a few bytes that are kept until the device is forgotten.
pub const MAX_EPOCHS: u32 = 1000;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be opened.
    #[error("cannot open the store {}: {why}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Written by another version of Edgeward, or not by Edgeward at all.
    #[error(
        "the store has version {found}, this program needs {expected}; use the program that wrote it, or another store"
    )]
    Version {
        /// The version found.
        found: i64,
        /// The version needed.
        expected: i64,
    },
    /// Another process holds it for too long.
    #[error("the store is locked by another process; stop it, or try again")]
    Busy,
    /// No space left.
    #[error("the disk is full: nothing was stored, and nothing was lost; make room and try again")]
    Full,
    /// Damaged.
    #[error(
        "the store is damaged ({0}); restore a backup: boards send again what was not acknowledged"
    )]
    Corrupt(String),
    /// A name is enrolled with another key.
    #[error("{device} is enrolled with another key; `edgeward device forget {device}` comes first")]
    OtherKey {
        /// The device.
        device: String,
    },
    /// The key is another board's.
    #[error("{device} of fleet {fleet} is enrolled with this key, which is one board's alone")]
    SameKey {
        /// That board.
        device: String,
        /// Its fleet.
        fleet: String,
    },
    /// No such device.
    #[error("no device {0} is enrolled")]
    NoDevice(String),
    /// A rollout of this name was started before.
    #[error("the fleet had a rollout {0} before")]
    RolloutExists(String),
    /// Anything else that the database says.
    #[error("the store failed: {0}")]
    Other(String),
}

/// An enrolled device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its fleet.
    pub fleet: String,
    /// The key that its frames must be signed with.
    #[serde(serialize_with = "as_hex")]
    pub key: PublicKey,
    /// Its class.
    pub class: BoardClass,
    /// When it was enrolled, in milliseconds since 1970.
    pub enrolled_ms: u64,
    /// When a frame that it signed, and that was not stored before, came last. Neither what is not
    /// signed nor what anybody can send again counts.
    pub seen_ms: Option<u64>,
    /// Whether the broker says that it is connected.
    pub online: bool,
    /// The epoch of its outbox whose frames are taken; none before the first.
    pub epoch: Option<u32>,
    /// Frames of that epoch up to this number are stored without a gap.
    pub through: u64,
}

/// An outbox of a device, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Epoch {
    /// The number that names it, carried in each of its frames.
    pub epoch: u32,
    /// When its first frame was received, in milliseconds since 1970.
    pub begun_ms: u64,
    /// Frames up to this number were acknowledged before this store knew of the epoch: they are in
    /// the store that acknowledged them, if anywhere.
    pub elsewhere: u64,
    /// Its highest number that is stored.
    pub last: u64,
    /// Frames up to `last` that are not here and will not come: in a closed epoch each that is
    /// missing, in the current one those that the board was told to forget.
    pub lost: u64,
    /// Whether a newer epoch took its place: no new frame of it is taken.
    pub closed: bool,
}

fn as_hex<S: serde::Serializer>(key: &PublicKey, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&crate::keys::hex(&key.0))
}

/// What a frame reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Inventory.
    Birth,
    /// One or more windows.
    Summary,
    /// Something happened.
    Event,
}

impl Kind {
    /// As the store and JSON name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Birth => "birth",
            Self::Summary => "summary",
            Self::Event => "event",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Birth, Self::Summary, Self::Event]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A frame whose signature held.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredFrame {
    /// The device that signed it.
    pub device: String,
    /// The epoch of its outbox.
    pub epoch: u32,
    /// Number up to which the device knew its frames to be acknowledged when it sent this one.
    #[serde(skip)]
    pub acknowledged: u64,
    /// The device's boot.
    pub boot: u32,
    /// First number that it answers for.
    pub first_sequence: u64,
    /// Its number.
    pub sequence: u64,
    /// The device's clock in milliseconds.
    pub time_ms: u64,
    /// The host's clock in milliseconds.
    pub received_ms: u64,
    /// What it reports.
    pub kind: Kind,
    /// The report.
    pub body: serde_json::Value,
    /// The signed bytes, so that anyone can verify it again.
    #[serde(skip)]
    pub raw: Vec<u8>,
}

/// Which frames.
#[derive(Debug, Clone, Default)]
pub struct FrameQuery {
    /// Of devices of this fleet.
    pub fleet: Option<String>,
    /// Of this device.
    pub device: Option<String>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// In the current epoch, with a greater number than this (with `device`).
    pub after: Option<u64>,
    /// Received at or after this time, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// The newest first; else the oldest.
    pub newest_first: bool,
    /// At most so many; 0 for all.
    pub limit: usize,
}

/// What became of the frames of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ingested {
    /// Stored.
    pub new: u32,
    /// Stored before, and left as they are.
    pub known: u32,
    /// Frames that are left out, since they can't be what the device has to say now.
    pub left_out: Vec<LeftOut>,
    /// Devices that go on with another outbox than before.
    pub begun: Vec<Begun>,
    /// Stored frames that a merged frame took the place of.
    pub replaced: u32,
    /// The frames that were stored: device, epoch and number of each.
    pub stored: Vec<(String, u32, u64)>,
}

/// A frame that is signed by its device and left out all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The device.
    pub device: String,
    /// The frame's epoch.
    pub epoch: u32,
    /// Its number.
    pub sequence: u64,
    /// Why.
    pub why: Why,
}

/// Why a frame was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Why {
    /// Something else is stored under its number.
    Conflict,
    /// Of an epoch that a newer one took the place of.
    Closed,
    /// Of an epoch that is not known, and not its first frame.
    Unbegun,
    /// The first frame of an epoch that is not known, made before the current one began.
    Older,
    /// The first frame of one epoch more than are kept of a device.
    TooMany,
}

impl Why {
    /// In one word that metrics can count.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Closed | Self::Unbegun | Self::Older | Self::TooMany => "epoch",
        }
    }
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (epoch, sequence) = (self.epoch, self.sequence);
        match self.why {
            Why::Conflict => write!(f, "another frame {sequence} is stored"),
            Why::Closed => write!(
                f,
                "frame {sequence} of epoch {epoch:08x}, which a newer one replaced: a replay, an old \
                 copy of the board's outbox, or a second board with its key"
            ),
            Why::Unbegun => write!(
                f,
                "frame {sequence} of epoch {epoch:08x}, which does not begin with it: it will be \
                 sent again after the first"
            ),
            Why::Older => write!(
                f,
                "epoch {epoch:08x} was begun before the current one: a replay, or the board's clock \
                 went back; if the board lost its outbox, `edgeward device enroll --new-outbox`"
            ),
            Why::TooMany => write!(
                f,
                "epoch {epoch:08x} is one too many: the board loses its outbox at each start; \
                 `edgeward device forget` once that is mended"
            ),
        }
    }
}

/// A device went on with another outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Begun {
    /// The device.
    pub device: String,
    /// The new epoch.
    pub epoch: u32,
    /// What is known of the one before; none for a device's first.
    pub before: Option<Epoch>,
}

/// A sign of life of a device, or word of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The device; one that is not enrolled is left out.
    pub device: String,
    /// Whether it is connected (`None`: as it was).
    pub online: Option<bool>,
    /// When it was heard of, in milliseconds since 1970; none when others spoke of it, or somebody who
    /// can't be told from others.
    pub time_ms: Option<u64>,
}

/// A board that reports and that nobody enrolled. Nothing of it is believed: anyone may send so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// The fleet whose topic it used.
    pub fleet: String,
    /// The name that it used.
    pub name: String,
    /// The id of the key that it says it signs with: 16 hexadecimal digits, as `device list` shows.
    pub key_id: String,
    /// When it was first heard of, in milliseconds since 1970.
    pub first_ms: u64,
    /// When it was last heard of.
    pub seen_ms: u64,
    /// Messages so far.
    pub messages: u64,
}

/// Alarms of one kind that a device raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlarmTotal {
    /// The device.
    pub device: String,
    /// The kind, as [`crate::names::alarm_name`] calls it.
    pub alarm: String,
    /// How many.
    pub count: u64,
}

/// A message that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// On which topic.
    pub topic: String,
    /// Why, in one word that metrics can count.
    pub reason: String,
    /// Why, in a sentence.
    pub detail: String,
}

/// A line of the audit log; each holds the hash of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Its number, from 1.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What was done.
    pub action: String,
    /// To what.
    pub detail: String,
    /// SHA-256 over the hash before, the time, the action and the detail, in hexadecimal digits.
    pub hash: String,
}

/// A release that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Its digest in hexadecimal digits.
    pub digest: String,
    /// The model.
    pub name: String,
    /// The version.
    pub version: String,
    /// The release counter.
    pub counter: u32,
    /// The class of boards it is for.
    pub class: BoardClass,
    /// Bytes of its head.
    pub head_bytes: u32,
    /// Bytes in all.
    pub total_bytes: u32,
    /// When it was published, in milliseconds since 1970.
    pub published_ms: u64,
}

/// An enrolled device and what it said of itself last.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The device.
    pub device: Device,
    /// Its newest birth; none as long as it never sent one.
    pub birth: Option<StoredFrame>,
}

/// What follows from a rollout's standing and the members of its fleet; `None` for nothing.
pub type Decide<'a> = dyn FnMut(&Rollout, Vec<Member>) -> Result<Option<Rollout>, StoreError> + 'a;

/// The host's memory. All methods are atomic: what they return an error for did not happen.
pub trait Store: Send + Sync {
    /// Enrolls a device; again with the same key changes nothing.
    ///
    /// # Errors
    /// [`StoreError::OtherKey`] when the name is taken, [`StoreError::SameKey`] when the key is.
    fn enroll(&self, device: &Device) -> Result<(), StoreError>;
    /// Whether name and key go together as far as is known: what [`Store::enroll`] would refuse.
    ///
    /// # Errors
    /// As [`Store::enroll`].
    fn check_key(&self, device: &Device) -> Result<(), StoreError>;
    /// The next epoch that a device begins is taken whatever its clock says, once: somebody knows
    /// that the board lost its outbox.
    ///
    /// # Errors
    /// [`StoreError`].
    fn expect_epoch(&self, name: &str) -> Result<(), StoreError>;
    /// One device.
    ///
    /// # Errors
    /// [`StoreError`].
    fn device(&self, name: &str) -> Result<Option<Device>, StoreError>;
    /// All devices, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    fn devices(&self) -> Result<Vec<Device>, StoreError>;
    /// Removes a device and its frames; whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    fn forget(&self, name: &str) -> Result<bool, StoreError>;
    /// Notes that devices were heard of, in one transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    fn seen(&self, seen: &[Seen]) -> Result<(), StoreError>;

    /// Stores frames in one transaction. A frame whose numbers are all stored is left out; a merged
    /// summary takes the place of the summaries that it covers, but for one of no window, which only
    /// says that frames were lost. Events are never replaced.
    ///
    /// Each outbox that a device ever had is an epoch, and only the newest takes new frames. A frame
    /// of an epoch that was never seen begins it, and closes the one before for ever, when
    /// * no frame was acknowledged between number 1 and it: it answers for the number after
    ///   `acknowledged`, which is 1 for a new outbox;
    /// * by the device's own clock it was not made before the first frame of the current epoch (nor
    ///   before that was received, where the clock was ahead), as far as both clocks knew the year;
    /// * the device has fewer than [`MAX_EPOCHS`].
    ///
    /// Numbers that the device says were acknowledged and are not here count as stored, since it has
    /// forgotten them: the store was restored from a backup, or the device enrolled again.
    ///
    /// # Errors
    /// [`StoreError::NoDevice`] for a frame of an unknown device; nothing is stored then.
    fn ingest(&self, frames: &[StoredFrame]) -> Result<Ingested, StoreError>;
    /// Frames that match: those of one device by number, others by time of receipt.
    ///
    /// # Errors
    /// [`StoreError`].
    fn frames(&self, query: &FrameQuery) -> Result<Vec<StoredFrame>, StoreError>;
    /// How many frames of a device there are.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_frames(&self, device: &str) -> Result<u64, StoreError>;
    /// The epochs of a device, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn epochs(&self, device: &str) -> Result<Vec<Epoch>, StoreError>;
    /// Ranges of numbers that are missing below the highest stored one of the current epoch.
    ///
    /// # Errors
    /// [`StoreError`].
    fn gaps(&self, device: &str) -> Result<Vec<(u64, u64)>, StoreError>;

    /// Alarms stored by device and kind, since the device was enrolled.
    ///
    /// # Errors
    /// [`StoreError`].
    fn alarm_totals(&self) -> Result<Vec<AlarmTotal>, StoreError>;

    /// Notes boards that report and that nobody enrolled; of those only the 256 heard of last are
    /// kept. Messages add up.
    ///
    /// # Errors
    /// [`StoreError`].
    fn note_unknown(&self, boards: &[Unknown]) -> Result<(), StoreError>;
    /// Boards of a fleet that report and are not enrolled, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn unknown(&self, fleet: &str) -> Result<Vec<Unknown>, StoreError>;

    /// Notes refused messages in one transaction: `refusals` in full, of which the newest thousand are
    /// kept, and how many there were by reason, which is kept for ever. A flood is only counted, so
    /// `counts` may exceed `refusals`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn refuse(&self, refusals: &[Refusal], counts: &[(&str, u64)]) -> Result<(), StoreError>;
    /// The refusals kept, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn refusals(&self) -> Result<Vec<Refusal>, StoreError>;
    /// Refusals by reason since the store was made.
    ///
    /// # Errors
    /// [`StoreError`].
    fn refusal_counts(&self) -> Result<Vec<(String, u64)>, StoreError>;

    /// Notes a published release.
    ///
    /// # Errors
    /// [`StoreError`].
    fn save_release(&self, release: &ReleaseRecord) -> Result<(), StoreError>;
    /// All releases, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn releases(&self) -> Result<Vec<ReleaseRecord>, StoreError>;

    /// Every device that is enrolled in a fleet, by name, with its newest birth.
    ///
    /// # Errors
    /// [`StoreError`].
    fn members(&self, fleet: &str) -> Result<Vec<Member>, StoreError>;

    /// Stores a new rollout and draws the number that its desired states come after, in one
    /// transaction: no number in between is drawn for another. The rollout as it is stored.
    ///
    /// # Errors
    /// [`StoreError::RolloutExists`] when the fleet had one of its name.
    fn start_rollout(&self, rollout: &Rollout, time_ms: u64) -> Result<Rollout, StoreError>;
    /// Shows `decide` the fleet's newest rollout and the [`members`](Self::members), and stores the
    /// rollout that it returns in the place of that one: all in one transaction, so that no report of a
    /// board and no other decision comes in between. `decide` must not use the store; without a rollout
    /// it is not called.
    ///
    /// # Errors
    /// [`StoreError`], of `decide` as well; nothing is changed then.
    fn decide(&self, fleet: &str, decide: &mut Decide<'_>) -> Result<(), StoreError>;
    /// All rollouts of a fleet, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn rollouts(&self, fleet: &str) -> Result<Vec<Rollout>, StoreError>;
    /// The rollout of a fleet that was started last.
    ///
    /// # Errors
    /// [`StoreError`].
    fn newest_rollout(&self, fleet: &str) -> Result<Option<Rollout>, StoreError>;
    /// The next sequence number for a fleet's desired state; never the same twice.
    ///
    /// # Errors
    /// [`StoreError`].
    fn next_desired(&self, fleet: &str) -> Result<u64, StoreError>;
    /// As [`next_desired`](Self::next_desired), for a desired state that says how `rollout` stands:
    /// `None` when it is not the newest of its fleet or no longer stands so.
    ///
    /// # Errors
    /// [`StoreError`].
    fn next_desired_for(&self, rollout: &Rollout) -> Result<Option<u64>, StoreError>;
    /// The number that was drawn last for a fleet's desired state; 0 for none.
    ///
    /// # Errors
    /// [`StoreError`].
    fn last_desired(&self, fleet: &str) -> Result<u64, StoreError>;

    /// Adds a line to the audit log.
    ///
    /// # Errors
    /// [`StoreError`].
    fn audit(&self, action: &str, detail: &str, time_ms: u64) -> Result<(), StoreError>;
    /// The audit log, the oldest first, after its chain of hashes was checked.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a line was changed or removed.
    fn audit_log(&self) -> Result<Vec<AuditEntry>, StoreError>;
}
