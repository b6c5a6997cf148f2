//! What the inference task tells: never waiting, never losing a count.

use super::{C, F, Inference, now_ms};
use crate::link::Report;
use edgeward::program::Kernels;
use edgeward::telemetry::Summary;
use embassy_sync::channel::TrySendError;

impl<K: Kernels + Default> Inference<K> {
    /// Passes a window on, or merges it with what could not be passed on.
    pub(super) fn summary(&mut self, summary: Summary<F, C>) {
        self.pass_on();
        match &mut self.held {
            // The other is of another release. It has waited for as long as the application took to
            // load this one, so that its way is free or the flash fails for good; then this is lost.
            Some(held) => {
                let _ = held.merge(&summary);
            }
            None => self.held = Some(summary),
        }
        self.pass_on();
    }

    /// A report that must arrive, sooner or later.
    pub(super) fn report(&mut self, report: Report) {
        // More than one release can cause, and the next one waits for the application anyway.
        let _ = self.late.push_back(report);
        self.pass_on();
    }

    /// Passes on what could not be passed on before.
    pub(super) fn pass_on(&mut self) {
        if let Some(summary) = self.held.take()
            && let Err(TrySendError::Full(summary)) = self.link.summaries.try_send(summary)
        {
            self.held = Some(summary);
        }
        while let Some(report) = self.late.pop_front() {
            if let Err(TrySendError::Full(report)) = self.link.reports.try_send(report) {
                // There is room: it was just taken from there.
                let _ = self.late.push_front(report);
                return;
            }
        }
    }

    /// Passes on what the open window of the release that answers counted so far.
    pub(super) fn flush(&mut self) {
        let place = self
            .live
            .and_then(|live| self.places[live as usize].as_mut());
        let summary = place.and_then(|place| {
            let some = place.runtime.samples() > 0;
            some.then(|| place.runtime.take_summary(now_ms()))
        });
        if let Some(summary) = summary {
            self.summary(summary);
        }
    }
}
