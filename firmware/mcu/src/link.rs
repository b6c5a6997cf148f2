//! What the two tasks say to each other. Nothing here makes the inference task wait.

use crate::store::Held;
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use core::sync::atomic::AtomicU32;
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::policy::TrialPolicy;
use edgeward::recorder::Recorder;
use edgeward::slots::Slot;
use edgeward::telemetry::{Alarm, Reason, ReleaseId, Summary};
use edgeward::trust::Digest32;
use edgeward_firmware::control::{Mode, Purpose};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::channel::Channel;
use embassy_sync::signal::Signal;
use embassy_time::{Duration, Instant};

/// Reports that may wait.
const REPORTS: usize = 16;
/// How long the application may stand still before the board is restarted: longer than any operation of
/// its flash, and than a network may take.
const STANDSTILL: Duration = Duration::from_secs(120);

/// The flight recorder, which goes from task to task: nobody writes to it while it is sent, and no copy
/// of it takes memory.
pub(crate) type FlightRecorder = Recorder<&'static mut [u8]>;

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
    /// Lend the flight recorder; answered by [`Link::recorder`].
    Lend,
    /// Go on with the flight recorder that was lent.
    Record(FlightRecorder),
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

impl Report {
    /// The slot that it is of; none for an alarm.
    pub fn slot(&self) -> Option<Slot> {
        match *self {
            Self::Alarm(..) => None,
            Self::Trial(slot, ..) | Self::Shadow(slot, ..) | Self::Loaded { slot, .. } => {
                Some(slot)
            }
        }
    }
}

/// The way between the application and the inference task; a `static` of the board's crate.
pub struct Link {
    pub(crate) commands: Channel<CriticalSectionRawMutex, Command, 4>,
    pub(crate) reports: Channel<CriticalSectionRawMutex, Report, REPORTS>,
    pub(crate) summaries: Channel<CriticalSectionRawMutex, Summary<F, C>, 1>,
    /// The slot of the last [`Command::Stop`] holds nothing any more.
    pub(crate) stopped: Signal<CriticalSectionRawMutex, ()>,
    /// The flight recorder that [`Command::Lend`] asked for; none for a board that has none.
    pub(crate) recorder: Signal<CriticalSectionRawMutex, Option<FlightRecorder>>,
    /// Moves with each turn of the application.
    pub(crate) turns: AtomicU32,
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
            recorder: Signal::new(),
            turns: AtomicU32::new(0),
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

/// Notices an application that stands still. One that can't start says so and stays: it has no turns.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    turns: u32,
    /// When they moved last.
    since: Option<Instant>,
}

impl Pulse {
    /// Whether the application, seen at this turn, moved in the last two minutes, or never did.
    pub fn beats(&mut self, turns: u32, now: Instant) -> bool {
        if turns != self.turns {
            self.turns = turns;
            self.since = Some(now);
        }
        let still = self.since.map(|since| now.saturating_duration_since(since));
        still.is_none_or(|still| still < STANDSTILL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_stands_still_for_two_minutes_is_noticed() {
        let at = Instant::from_secs;
        let mut pulse = Pulse::default();
        assert!(pulse.beats(0, at(999)), "it can't start");
        assert!(pulse.beats(7, at(1000)));
        assert!(pulse.beats(7, at(1119)));
        assert!(!pulse.beats(7, at(1120)));
        assert!(pulse.beats(8, at(1121)), "it goes on");
    }
}
