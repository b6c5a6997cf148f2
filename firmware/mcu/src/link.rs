//! What the two tasks say to each other. Nothing here makes the inference task wait.

use crate::store::Held;
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use core::sync::atomic::AtomicU32;
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::policy::TrialPolicy;
use edgeward::slots::Slot;
use edgeward::telemetry::{Alarm, Reason, ReleaseId, Summary};
use edgeward::trust::Digest32;
use edgeward_firmware::control::{Mode, Purpose};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::channel::Channel;
use embassy_sync::signal::Signal;

/// Reports that may wait.
const REPORTS: usize = 16;

/// What the application wants of the inference task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make this release ready and run its golden vectors.
    Load {
        /// Its slot.
        slot: Slot,
        /// Its digest.
        digest: Digest32,
        /// What for.
        purpose: Purpose,
        /// Its bytes, all hashes of which hold.
        held: Held,
    },
    /// Run the release of this slot.
    Run(Slot, Mode),
    /// The journal knows that this slot's release passed its trial.
    Confirmed(Slot),
    /// Leave this slot and go back to the release before; answered by [`Link::stopped`].
    Stop(Slot),
}

/// What the inference task tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Report {
    /// An alarm.
    Alarm(ReleaseId, Alarm),
    /// What became of a trial.
    Trial(Slot, ReleaseId, Verdict),
    /// What became of a shadow.
    Shadow(Slot, ReleaseId, ShadowVerdict),
    /// What loading a release came to.
    Loaded {
        /// The slot.
        slot: Slot,
        /// The release.
        release: ReleaseId,
        /// What for.
        purpose: Purpose,
        /// Its trial policy, or why it can't run.
        outcome: Result<TrialPolicy, Reason>,
    },
}

/// The way between the application and the inference task; a `static` of the board's crate.
pub struct Link {
    pub(crate) commands: Channel<CriticalSectionRawMutex, Command, 4>,
    pub(crate) reports: Channel<CriticalSectionRawMutex, Report, REPORTS>,
    pub(crate) summaries: Channel<CriticalSectionRawMutex, Summary<F, C>, 1>,
    /// The slot of the last [`Command::Stop`] holds nothing any more.
    pub(crate) stopped: Signal<CriticalSectionRawMutex, ()>,
    /// Windows that found no place to wait in.
    pub(crate) windows_lost: AtomicU32,
}

impl Link {
    /// A way on which nothing is.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            commands: Channel::new(),
            reports: Channel::new(),
            summaries: Channel::new(),
            stopped: Signal::new(),
            windows_lost: AtomicU32::new(0),
        }
    }
}

impl core::fmt::Debug for Link {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}
