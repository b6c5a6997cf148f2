//! What the inference thread tells the control thread and the source: never waiting, never losing a
//! count.

use super::answers::{answer, tell};
use super::{Answers, BoardRuntime, C, F, Inference, Report, unix_ms};
use crate::cast::{Stage, Told};
use crate::held::{Held, Late};
use crate::linux::stats::Stats;
use edgeward::engine::Engine;
use edgeward::guard::Prediction;
use edgeward::slots::Slot;
use edgeward::telemetry::{Alarm, Summary};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Releases whose windows may wait at once for a control thread that is busy.
const HELD: usize = 4;
/// Reports that may wait at once: more than one release can cause, and the next one waits for the control
/// thread anyway.
const LATE: usize = 8;

/// The ways to the control thread.
pub(super) struct Teller<E> {
    reports: SyncSender<Report<E>>,
    summaries: SyncSender<Summary<F, C>>,
    /// Windows that found the way to the control thread full.
    held: Box<Held<F, C, HELD>>,
    /// Reports that must not be lost and found their way full.
    late: Late<Report<E>, LATE>,
    control: Thread,
    stats: Arc<Stats>,
    begun: Instant,
}

impl<E> Teller<E> {
    /// Ways on which nothing is; `control` is woken when something comes.
    pub fn new(
        reports: SyncSender<Report<E>>,
        summaries: SyncSender<Summary<F, C>>,
        control: Thread,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            reports,
            summaries,
            held: Box::new(Held::new()),
            late: Late::new(),
            control,
            stats,
            begun: Instant::now(),
        }
    }

    /// A report that must arrive, sooner or later.
    pub fn report(&mut self, report: Report<E>) {
        // There is room for more than can come.
        let _ = self.late.tell(report);
        self.pass_on();
        self.wake();
    }

    /// Has the control thread look.
    pub fn wake(&self) {
        self.control.unpark();
    }

    /// Passes on what could not be passed on before.
    #[allow(
        clippy::result_large_err,
        reason = "a full channel gives the window back"
    )]
    pub fn pass_on(&mut self) {
        self.held
            .pass(|summary| full(self.summaries.try_send(summary)));
        self.late.pass(|report| full(self.reports.try_send(report)));
    }
}

/// What a full channel gives back. What nobody is there to take is gone.
fn full<T>(sent: Result<(), TrySendError<T>>) -> Result<(), T> {
    match sent {
        Err(TrySendError::Full(item)) => Err(item),
        _ => Ok(()),
    }
}

impl<E> Stage<Box<BoardRuntime<E>>, E, Vec<f32>, F, C> for Teller<E> {
    /// Also when a release that is replaced ends its window early.
    fn summary(&mut self, summary: &Summary<F, C>) {
        let kept = self.held.keep(summary);
        let mut counters = self.stats.counters();
        counters.windows += 1;
        // Otherwise the control thread is stuck since several releases: nothing helps there.
        counters.windows_lost += u64::from(!kept);
        drop(counters);
        self.pass_on();
        self.wake();
    }

    fn told(&mut self, told: Told) {
        self.report(match told {
            Told::Trial(slot, release, verdict) => Report::Trial(slot, release, verdict),
            Told::Shadow(slot, release, verdict) => Report::Shadow(slot, release, verdict),
        });
    }

    fn spent(&mut self, _: Slot, runtime: Box<BoardRuntime<E>>) {
        self.report(Report::Trash(runtime));
    }

    fn now_ms(&self) -> u64 {
        unix_ms()
    }

    fn clock_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }
}

/// What one sample causes.
pub(super) struct Sampled<'a, E> {
    pub teller: &'a mut Teller<E>,
    pub answers: &'a mut Answers,
    pub alarms: u32,
    pub drifting: u32,
    /// Alarms that found their way full.
    pub unqueued: u64,
}

impl<'a, E> Sampled<'a, E> {
    /// Nothing yet.
    pub fn new(teller: &'a mut Teller<E>, answers: &'a mut Answers) -> Self {
        Self {
            teller,
            answers,
            alarms: 0,
            drifting: 0,
            unqueued: 0,
        }
    }
}

impl<E: Engine> Stage<Box<BoardRuntime<E>>, E, Vec<f32>, F, C> for Sampled<'_, E> {
    fn summary(&mut self, summary: &Summary<F, C>) {
        self.teller.summary(summary);
    }

    fn told(&mut self, told: Told) {
        self.teller.told(told);
    }

    fn spent(&mut self, slot: Slot, runtime: Box<BoardRuntime<E>>) {
        self.teller.spent(slot, runtime);
    }

    fn alarm(&mut self, runtime: &BoardRuntime<E>, alarm: Alarm) {
        self.alarms += 1;
        self.drifting += u32::from(matches!(alarm, Alarm::Drift { .. }));
        self.teller.stats.counters().alarm(alarm);
        tell(runtime, alarm, self.answers);
        let report = Report::Alarm(runtime.release(), alarm);
        self.unqueued += u64::from(self.teller.reports.try_send(report).is_err());
    }

    fn answer(&mut self, runtime: &BoardRuntime<E>, sequence: u32, prediction: &Prediction) {
        answer(runtime, sequence, prediction, self.answers);
    }

    fn now_ms(&self) -> u64 {
        self.teller.now_ms()
    }

    fn clock_us(&self) -> u64 {
        self.teller.clock_us()
    }
}

impl<E: Engine> Inference<E> {
    /// Passes on everything that is left, for at most `patience`: the thread ends.
    pub fn finish(&mut self, patience: Duration) {
        self.cast.flush(&mut self.teller);
        let deadline = Instant::now() + patience;
        let teller = &mut self.teller;
        teller.pass_on();
        while !(teller.held.is_empty() && teller.late.is_empty()) && Instant::now() < deadline {
            teller.wake();
            std::thread::sleep(Duration::from_millis(1));
            teller.pass_on();
        }
        teller.wake();
    }
}
