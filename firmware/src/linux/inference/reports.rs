//! What the inference thread tells the control thread: never waiting, never losing a count.

use super::{C, F, HELD, Inference, Report, unix_ms};
use edgeward::engine::Engine;
use edgeward::telemetry::Summary;
use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

impl<E: Engine> Inference<E> {
    /// Passes a window on, or merges it with those that could not be passed on.
    pub(super) fn summary(&mut self, summary: Summary<F, C>) {
        let last = self.held.back_mut();
        let merged = last.is_some_and(|last| last.merge(&summary).is_ok());
        if !merged {
            if self.held.len() == HELD {
                // The control thread is stuck since several releases: nothing helps there.
                self.stats.counters().windows_lost += 1;
                return;
            }
            self.held.push_back(summary);
        }
        self.pass_on();
    }

    /// Passes on what could not be passed on before.
    pub(super) fn pass_on(&mut self) {
        while let Some(summary) = self.held.pop_front() {
            if let Err(TrySendError::Full(summary)) = self.summaries.try_send(summary) {
                self.held.push_front(summary);
                break;
            }
        }
        while let Some(report) = self.late.pop_front() {
            if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
                // There is room: it was just taken from there.
                let _ = self.late.push_front(report);
                return;
            }
        }
    }

    /// A report that must arrive, sooner or later.
    pub(super) fn report(&mut self, report: Report<E>) {
        self.pass_on();
        if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
            // Eight are more than one release can cause, and the next one waits for the control
            // thread anyway.
            let _ = self.late.push_back(report);
        }
        self.control.unpark();
    }

    /// Passes on what the open window counted so far.
    pub fn flush(&mut self) {
        let summary = self.live.as_mut().and_then(|live| {
            let some = live.loaded.runtime.samples() > 0;
            some.then(|| live.loaded.runtime.take_summary(unix_ms()))
        });
        if let Some(summary) = summary {
            // A release that is replaced ends its window early.
            self.stats.counters().windows += 1;
            self.summary(summary);
            self.control.unpark();
        }
    }

    /// Passes on everything that is left, for at most `patience`: the thread ends.
    pub fn finish(&mut self, patience: Duration) {
        self.flush();
        let deadline = Instant::now() + patience;
        self.pass_on();
        while !(self.held.is_empty() && self.late.is_empty()) && Instant::now() < deadline {
            self.control.unpark();
            std::thread::sleep(Duration::from_millis(1));
            self.pass_on();
        }
        self.control.unpark();
    }
}
