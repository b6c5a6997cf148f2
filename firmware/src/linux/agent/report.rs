//! What the inference thread reports, written down.

use super::{Agent, TROUBLE};
use crate::control::Now;
use crate::linux::inference::{Command, Report};
use crate::linux::stats::hex;
use edgeward::engine::board::BoardEngine;
use edgeward::guard::Verdict;
use std::time::Instant;

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
        };
        let Err(error) = result else {
            return;
        };
        tracing::error!(%error, "report");
        // The inference thread says it once, and waits.
        if matches!(report, Report::Trial(..) | Report::Shadow(..)) {
            self.unwritten = Some((report, Instant::now() + TROUBLE));
        }
    }
}
