//! What the inference thread reports, written down.

use super::{Agent, TROUBLE, now};
use crate::control::{ControlError, Now, Purpose};
use crate::linux::inference::{Command, Report};
use crate::linux::stats::hex;
use crate::transport::hand_over;
use edgeward::engine::board::BoardEngine;
use edgeward::guard::Verdict;
use edgeward::policy::TrialPolicy;
use edgeward::recorder::Recorder;
use edgeward::slots::{self, Slot};
use edgeward::telemetry::outbox::OutboxError;
use edgeward::telemetry::{Reason, ReleaseId};
use std::thread;
use std::time::{Duration, Instant};

/// What loading a release came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub slot: Slot,
    pub release: ReleaseId,
    pub purpose: Purpose,
    pub outcome: Result<TrialPolicy, Reason>,
}

impl Agent<'_> {
    /// Does what a report of the inference thread asks for.
    pub(super) fn report(&mut self, report: Report<BoardEngine>, now: Now) {
        let result = match report {
            Report::Alarm(release, alarm) => {
                tracing::debug!(release = hex(&release), ?alarm, "alarm");
                self.control.alarm(release, alarm, now)
            }
            Report::Trial(slot, release, verdict) => {
                tracing::info!(?slot, release = hex(&release), ?verdict, "trial");
                let result = self.control.trial(slot, release, verdict, now);
                if verdict == Verdict::Confirm && self.control.has_confirmed(slot, release) {
                    self.commands.push_back(Command::Confirmed(slot));
                }
                result
            }
            Report::Shadow(slot, release, verdict) => {
                tracing::info!(?slot, release = hex(&release), ?verdict, "shadow");
                self.control.shadow(slot, release, verdict, now)
            }
            // Dropped here, off the inference thread.
            Report::Trash(_) => Ok(()),
            Report::Record(copy) => return self.recorded(copy),
        };
        let Err(error) = result else {
            return;
        };
        tracing::error!(%error, "report");
        // The inference thread says it once, and waits. None takes the place of one that waits.
        let verdict = matches!(report, Report::Trial(..) | Report::Shadow(..));
        if verdict && self.unwritten.is_none() {
            self.unwritten = Some((report, Instant::now() + TROUBLE));
        }
    }

    /// A copy of the flight recorder is there.
    fn recorded(&mut self, copy: Recorder<Vec<u8>>) {
        // While one is being sent, another would not fit to its parts.
        if self.control.is_pulling() && self.snapshot.is_none() {
            self.snapshot = Some(copy);
        }
    }

    /// The host wants the flight record: the inference thread is asked for a copy.
    pub(super) fn pull(&mut self) {
        tracing::info!(
            bytes = self.recorder_bytes,
            "the flight record is asked for"
        );
        self.snapshot = None;
        let copy = Recorder::new(vec![0; self.recorder_bytes]);
        if self.recorder_bytes == 0 {
            self.snapshot = Some(copy);
        } else {
            self.commands.push_back(Command::Record(copy));
        }
    }

    /// Sends the next part of the flight record, if one is due.
    pub(super) fn send_part(&mut self, now: Now) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        match self.control.part(snapshot, now) {
            Ok(Some(action)) => {
                if let Err(error) = hand_over(action, &mut self.transport) {
                    tracing::debug!(?error, "publish");
                    // What failed has been said before a part was asked for.
                    let _ = self.control.not_taken();
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "flight record"),
        }
        if !self.control.is_pulling() {
            self.snapshot = None;
        }
    }

    /// Says what loading a release came to, and says it again later where the flash did not take it: the
    /// update would stand still otherwise.
    pub(super) fn answer(&mut self, answer: Answer, now: Now) {
        let Answer {
            slot,
            release,
            purpose,
            outcome,
        } = answer;
        let Err(error) = self.control.loaded(slot, release, purpose, outcome, now) else {
            return;
        };
        tracing::error!(%error, "loaded");
        let passing = slots_failed(&error);
        self.unanswered = passing.then(|| (answer, Instant::now() + TROUBLE));
    }

    /// Stores the windows that closed. While one can't be stored, those after it stay with the inference
    /// thread, which merges them: no count is lost.
    pub(super) fn summaries(&mut self, now: Now) {
        loop {
            let due = self.unstored.take_if(|(_, at)| *at <= Instant::now());
            let summary = match (due, &self.unstored) {
                (Some((summary, _)), _) => Ok(summary),
                (None, Some(_)) => return,
                (None, None) => self.threads.summaries.try_recv(),
            };
            let Ok(summary) = summary else {
                return;
            };
            let Err(error) = self.control.summary(&summary, now) else {
                continue;
            };
            if matches!(error, ControlError::Outbox(OutboxError::TooLarge { .. })) {
                // No other try would end otherwise.
                tracing::error!(%error, "a window is lost");
                self.stats.counters().windows_lost += 1;
                continue;
            }
            tracing::error!(%error, "a window waits until it can be stored");
            self.unstored = Some((summary, Instant::now() + TROUBLE));
        }
    }

    /// Writes down what is left at the end. Of the windows, what could not be stored is tried again at once, and
    /// what can't be until [`LAST`] is counted as lost.
    pub(super) fn store_the_last(&mut self) {
        while self.reports() {}
        let deadline = Instant::now() + LAST;
        loop {
            if let Some((_, at)) = &mut self.unstored {
                *at = Instant::now();
            }
            self.summaries(now(self.begun));
            if self.unstored.is_none() {
                return;
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::park_timeout(Duration::from_millis(50));
        }
        let waiting = std::iter::from_fn(|| self.threads.summaries.try_recv().ok());
        let lost = waiting.count() as u64 + u64::from(self.unstored.take().is_some());
        tracing::error!(lost, "windows are lost: the flash takes none");
        self.stats.counters().windows_lost += lost;
    }
}

/// How long the last windows may take to be stored.
const LAST: Duration = Duration::from_secs(3);

/// Whether the flash of the slots failed, in which case nothing was written and another try may end
/// otherwise.
fn slots_failed(error: &ControlError) -> bool {
    matches!(
        error,
        ControlError::Slots(slots::Error::Flash(_) | slots::Error::Worn)
    )
}
