//! What the two tasks say to each other. Nothing here makes the inference task wait.

use crate::store::Held;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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
const REPORTS: usize = 12;
/// How long the application may stand still before the board is restarted, and how long its start may take: longer
/// than any operation of its flash, and than a network may take.
const STANDSTILL: Duration = Duration::from_secs(120);

/// The flight recorder, which goes from task to task: nobody writes to it while it is sent, and no copy
/// of it takes memory.
pub(crate) type FlightRecorder = Recorder<&'static mut [u8]>;

/// Releases whose windows may wait at once for an application that is busy: the one on trial, and the
/// one that is gone back to.
pub(crate) const HELD: usize = 2;
/// Windows that the application may have at once: the one that it stores, and the next.
const GIVEN: usize = 2;
/// Windows that there is memory for.
pub(crate) const WINDOWS: usize = HELD + GIVEN;

/// A window's report, which goes from task to task and comes back: it is copied nowhere.
pub(crate) type Window<const F: usize, const C: usize> = &'static mut Summary<F, C>;

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

/// The way between the application and the inference task, for models of at most `F` features and `C` outputs; a
/// `static` of the board's crate.
pub struct Link<const F: usize, const C: usize> {
    pub(crate) commands: Channel<CriticalSectionRawMutex, Command, 4>,
    pub(crate) reports: Channel<CriticalSectionRawMutex, Report, REPORTS>,
    /// The window that is to be stored next.
    pub(crate) summaries: Channel<CriticalSectionRawMutex, Window<F, C>, 1>,
    /// The memory of those that are stored.
    pub(crate) spent: Channel<CriticalSectionRawMutex, Window<F, C>, GIVEN>,
    /// The slot of the last [`Command::Stop`] holds nothing any more.
    pub(crate) stopped: Signal<CriticalSectionRawMutex, ()>,
    /// The flight recorder that [`Command::Lend`] asked for; none for a board that has none. In a cell, which
    /// keeps the signal from saying in the recorder's own bytes that nothing is there: as long as nothing is on
    /// the way it is all zeros, so that no copy of it lies in flash.
    pub(crate) recorder: Signal<CriticalSectionRawMutex, Cell<Option<FlightRecorder>>>,
    /// Moves with each turn of the application.
    pub(crate) turns: AtomicU32,
    /// Whether the application said that it can't start and never will.
    pub(crate) stays: AtomicBool,
    /// Windows that found no place to wait in.
    pub(crate) windows_lost: AtomicU32,
}

impl<const F: usize, const C: usize> Link<F, C> {
    /// A way on which nothing is.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            commands: Channel::new(),
            reports: Channel::new(),
            summaries: Channel::new(),
            spent: Channel::new(),
            stopped: Signal::new(),
            recorder: Signal::new(),
            turns: AtomicU32::new(0),
            stays: AtomicBool::new(false),
            windows_lost: AtomicU32::new(0),
        }
    }

    /// For a board whose application can't start and never will, once that was said: no restart would help it, and
    /// its watchdog is fed on. [`run`](crate::run) does so by itself for what it returns.
    pub fn stay(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }

    /// Says that the application lives.
    pub(crate) fn turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }
}

impl<const F: usize, const C: usize> core::fmt::Debug for Link<F, C> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl<const F: usize, const C: usize> Default for Link<F, C> {
    fn default() -> Self {
        Self::new()
    }
}

/// Notices an application that stands still, be it before its first turn.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    turns: u32,
    /// When they moved last, or were looked at first.
    since: Option<Instant>,
}

impl Pulse {
    /// Whether the application at the other end moved in the last two minutes, of which the first begin with the
    /// first look; always, where it said that it [stays](Link::stay).
    pub fn beats<const F: usize, const C: usize>(
        &mut self,
        link: &Link<F, C>,
        now: Instant,
    ) -> bool {
        let turns = link.turns.load(Ordering::Relaxed);
        let since = *self.since.get_or_insert(now);
        if turns != self.turns {
            self.turns = turns;
            self.since = Some(now);
            return true;
        }
        now.saturating_duration_since(since) < STANDSTILL || link.stays.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_secs(seconds)
    }

    #[test]
    fn an_application_that_stands_still_for_two_minutes_is_noticed() {
        let (link, mut pulse) = (Link::<1, 1>::new(), Pulse::default());
        assert!(pulse.beats(&link, at(990)), "it starts");
        link.turn();
        assert!(pulse.beats(&link, at(1000)));
        assert!(pulse.beats(&link, at(1119)));
        assert!(!pulse.beats(&link, at(1120)));
        link.turn();
        assert!(pulse.beats(&link, at(1121)), "it goes on");
    }

    #[test]
    fn a_start_that_hangs_is_noticed_and_a_board_that_never_will_start_stays() {
        let (link, mut pulse) = (Link::<1, 1>::new(), Pulse::default());
        assert!(pulse.beats(&link, at(0)));
        assert!(pulse.beats(&link, at(119)));
        assert!(!pulse.beats(&link, at(120)));
        link.stay();
        assert!(pulse.beats(&link, at(121)));
        assert!(pulse.beats(&link, at(1_000_000)));
    }
}
