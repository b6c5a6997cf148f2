//! The inference thread's work: samples in, answers out, and nothing in between that allocates,
//! waits, or touches flash or network.
//!
//! What others need to know goes into bounded channels set aside at the start; what finds them full
//! is counted (alarms) or merged (summaries), never waited for.

use super::stats::{Stats, WARM_UP};
use crate::control::Mode;
use crate::lines::{Header, Line, LineError, parse};
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use edgeward::contract::{MISSING, Outcome, Sample, SourceInfo};
use edgeward::engine::Engine;
use edgeward::engine::pool::{self, Calls};
use edgeward::guard::{Prediction, ShadowMonitor, ShadowVerdict, TrialMonitor, Verdict};
use edgeward::runtime::{Runtime, Step};
use edgeward::slots::Slot;
use edgeward::telemetry::{Alarm, ReleaseId, Summary};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A runtime as Linux boards have it.
pub type BoardRuntime<E> = Runtime<E, Vec<f32>, F, C>;

/// A release that is loaded.
pub struct Loaded<E> {
    /// Its slot.
    pub slot: Slot,
    /// Its runtime.
    pub runtime: Box<BoardRuntime<E>>,
}

/// What the control thread wants.
pub enum Command<E> {
    /// Run this release; with [`Mode::Trial`], keep the one before to go back to.
    Run(Loaded<E>, Mode),
    /// Put the release that runs in shadow on trial.
    Promote(Slot),
    /// Stop this slot and go back to the release before.
    Stop(Slot),
}

/// What the inference thread reports.
pub enum Report<E> {
    /// An alarm.
    Alarm(ReleaseId, Alarm),
    /// What became of a trial.
    Trial(Slot, ReleaseId, Verdict),
    /// What became of a shadow.
    Shadow(Slot, ReleaseId, ShadowVerdict),
    /// A release that does not run any more, to be dropped elsewhere.
    Trash(Box<BoardRuntime<E>>),
}

/// Where each feature of a runtime is in the source's lines; nothing where it is not.
type Columns = [Option<u16>; F];

struct Live<E> {
    loaded: Loaded<E>,
    columns: Columns,
    trial: Option<TrialMonitor>,
    inferences: u64,
}

struct Shadow<E> {
    loaded: Loaded<E>,
    columns: Columns,
    monitor: ShadowMonitor,
    /// Samples to leave out until its window is in step with the live one; none until known.
    skip: Option<u32>,
    /// Answers of the live release without one of the shadow.
    alone: u32,
    /// Its verdict was reported.
    told: bool,
}

/// Where answers go.
pub struct Answers {
    /// Lines to be written.
    pub text: String,
    /// Whether alarms are written between the answers.
    pub alarms: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            text: String::with_capacity(ANSWER_BYTES),
            alarms: true,
        }
    }
}

/// Bytes of answers that may wait until they are written.
pub const ANSWER_BYTES: usize = 64 * 1024;
/// Releases whose windows may wait at once for a control thread that is busy.
const HELD: usize = 4;
/// Longest answer to one line, alarms included; below this much room the answers are written.
pub const ANSWER_ROOM: usize = 16 * 1024;

/// The inference thread's state.
pub struct Inference<E> {
    live: Option<Live<E>>,
    standby: Option<Loaded<E>>,
    shadow: Option<Shadow<E>>,
    header: Option<String>,
    values: [f32; F],
    ordered: [f32; F],
    commands: Receiver<Command<E>>,
    reports: SyncSender<Report<E>>,
    summaries: SyncSender<Summary<F, C>>,
    /// Windows that found the way to the control thread full; those of one release are merged.
    held: VecDeque<Summary<F, C>>,
    /// Reports that must not be lost and found their way full.
    late: heapless::Deque<Report<E>, 8>,
    control: Thread,
    stats: Arc<Stats>,
    begun: Instant,
}

/// Milliseconds since 1970; 0 where the clock is before that.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

impl<E: Engine> Inference<E> {
    /// A thread's state before the first release. `control` is woken when there is a report.
    pub fn new(
        commands: Receiver<Command<E>>,
        reports: SyncSender<Report<E>>,
        summaries: SyncSender<Summary<F, C>>,
        control: Thread,
        stats: Arc<Stats>,
    ) -> Self {
        stats.counters().counted = pool::installed();
        Self {
            live: None,
            standby: None,
            shadow: None,
            header: None,
            values: [0.0; F],
            ordered: [0.0; F],
            commands,
            reports,
            summaries,
            held: VecDeque::with_capacity(HELD),
            late: heapless::Deque::new(),
            control,
            stats,
            begun: Instant::now(),
        }
    }

    /// The source that sent the header is gone.
    pub fn source_gone(&mut self) {
        self.header = None;
        self.reset();
    }

    fn reset(&mut self) {
        if let Some(live) = &mut self.live {
            live.loaded.runtime.reset_window();
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.loaded.runtime.reset_window();
            // After a reset both begin at once, so they are in step.
            shadow.skip = Some(0);
            shadow.alone = 0;
        }
    }

    /// Handles one line of the source and writes what is to be answered.
    pub fn line(&mut self, line: &[u8], answers: &mut Answers) {
        let before = pool::calls();
        match parse::<F>(line, &mut self.values) {
            Ok(Line::Sample {
                sequence,
                time_ms,
                count,
            }) if self.header.is_some() => {
                self.sample(sequence, time_ms, count, before, answers);
            }
            Ok(Line::Sample { .. }) => {
                self.stats.counters().bad_lines += 1;
                answers.text.push_str("error no header yet\n");
            }
            Ok(Line::Reset) => self.reset(),
            Ok(Line::Stats) => answers.text.push_str(&self.stats.line()),
            Ok(Line::Header(header)) => {
                let text = String::from_utf8_lossy(line).into_owned();
                self.announce(&header, answers);
                self.header = Some(text);
            }
            Ok(Line::Empty) => {}
            Err(error) => self.bad_line(line, error, answers),
        }
    }

    /// Says what is wrong with a line, and in which field.
    pub fn bad_line(&mut self, line: &[u8], error: LineError, answers: &mut Answers) {
        self.stats.counters().bad_lines += 1;
        let field = field_name(self.header.as_deref(), line, error.column);
        // Writing to a string can't fail.
        let _ = match field {
            Some(field) => writeln!(answers.text, "error {error} ({field})"),
            None => writeln!(answers.text, "error {error}"),
        };
    }

    /// A source says what it delivers: each release that runs compares it with its profile.
    fn announce(&mut self, header: &Header<'_, F>, answers: &mut Answers) {
        if let Some(live) = &mut self.live {
            live.columns = columns(&live.loaded.runtime, header);
            let runtime = &mut live.loaded.runtime;
            runtime.announce(&info(header), |violation| {
                let name = violation.name.unwrap_or("-");
                let _ = writeln!(
                    answers.text,
                    "alarm violation kind={:?} feature={name}",
                    violation.kind
                );
            });
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.columns = columns(&shadow.loaded.runtime, header);
            shadow.loaded.runtime.announce(&info(header), |_| {});
        }
        self.reset();
    }

    /// The hot path.
    fn sample(
        &mut self,
        sequence: u32,
        time_ms: u64,
        count: usize,
        before: Calls,
        answers: &mut Answers,
    ) {
        let now_ms = unix_ms();
        let begun = self.begun;
        let Some(live) = &mut self.live else {
            self.stats.counters().idle_samples += 1;
            return;
        };
        let runtime = &mut live.loaded.runtime;
        let given = self.values.get(..count).unwrap_or_default();
        let features = runtime.profile().features.len();
        order(given, &live.columns, features, &mut self.ordered);
        let sample = Sample {
            sequence,
            time_ms,
            values: &self.ordered[..features],
        };
        let mut clock_us = || begun.elapsed().as_micros() as u64;
        let step = runtime.push(&sample, now_ms, &mut clock_us);
        if let Some(prediction) = &step.prediction {
            answer(runtime, sequence, prediction, answers);
        }
        let release = runtime.release();
        let mut alarms = 0;
        let mut drifting = 0;
        let mut unqueued = 0;
        if let Some(trial) = &mut live.trial {
            trial.on_step(&step);
        }
        while let Some(alarm) = runtime.pop_alarm() {
            alarms += 1;
            drifting += u32::from(matches!(alarm, Alarm::Drift { .. }));
            if let Some(trial) = &mut live.trial {
                trial.on_alarm(&alarm);
            }
            self.stats.counters().alarm(alarm);
            tell(runtime, alarm, answers);
            if self
                .reports
                .try_send(Report::Alarm(release, alarm))
                .is_err()
            {
                unqueued += 1;
            }
        }
        if step.window_closed {
            let summary = runtime.take_summary(now_ms);
            if let Some(trial) = &mut live.trial {
                trial.on_window(runtime.profile(), &summary);
            }
            self.summary(summary);
        }
        self.shadow_sample(sequence, time_ms, count, now_ms, &step);
        self.count(&step, drifting, unqueued, before);
        self.judge();
        if alarms > 0 || step.window_closed {
            self.control.unpark();
        }
    }

    /// Adds one sample to the counters.
    fn count(&mut self, step: &Step, drifting: u32, unqueued: u64, before: Calls) {
        let Some(live) = &mut self.live else {
            return;
        };
        let after = pool::calls();
        let mut counters = self.stats.counters();
        counters.samples += 1;
        counters.rejected += u64::from(step.check.outcome == Outcome::Rejected);
        counters.errors += u64::from(step.error.is_some());
        counters.alarms_not_queued += unqueued;
        if step.window_closed {
            counters.windows += 1;
            counters.drifting = drifting;
        }
        let Some(prediction) = step.prediction else {
            return;
        };
        if prediction.fallback {
            counters.fallbacks += 1;
            return;
        }
        live.inferences += 1;
        counters.predictions += 1;
        counters.latency.record(prediction.latency_us);
        if live.inferences > WARM_UP {
            counters.steady_inferences += 1;
            counters.steady_allocations += after.allocations - before.allocations;
            counters.steady_frees += after.frees - before.frees;
        }
    }

    /// Passes a window on, or merges it with those that could not be passed on.
    fn summary(&mut self, summary: Summary<F, C>) {
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
    fn pass_on(&mut self) {
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
    fn report(&mut self, report: Report<E>) {
        self.pass_on();
        if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
            // Eight are more than one release can cause, and the next one waits for the control
            // thread anyway.
            let _ = self.late.push_back(report);
        }
        self.control.unpark();
    }

    /// Gives the release in shadow the same sample.
    fn shadow_sample(
        &mut self,
        sequence: u32,
        time_ms: u64,
        count: usize,
        now_ms: u64,
        step: &Step,
    ) {
        let begun = self.begun;
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| !shadow.told) else {
            return;
        };
        let runtime = &mut shadow.loaded.runtime;
        let confirmed = step.prediction.filter(|prediction| !prediction.fallback);
        let mut answered = None;
        match &mut shadow.skip {
            // Begins with the sample after the next answer, and as much later as brings it in step.
            None => {
                if confirmed.is_some() {
                    let schema = &runtime.profile().schema;
                    let (window, hop) = (u32::from(schema.window), u32::from(schema.hop));
                    runtime.reset_window();
                    shadow.skip = Some((hop - window % hop) % hop);
                    shadow.alone = 0;
                }
                return;
            }
            Some(skip) if *skip > 0 => *skip -= 1,
            Some(_) => {
                let given = self.values.get(..count).unwrap_or_default();
                let features = runtime.profile().features.len();
                order(given, &shadow.columns, features, &mut self.ordered);
                let sample = Sample {
                    sequence,
                    time_ms,
                    values: &self.ordered[..features],
                };
                let mut clock_us = || begun.elapsed().as_micros() as u64;
                answered = Some(runtime.push(&sample, now_ms, &mut clock_us));
                while runtime.pop_alarm().is_some() {}
            }
        }
        let Some(confirmed) = confirmed else {
            return;
        };
        let theirs = answered.filter(|step| step.prediction.is_some() || step.error.is_some());
        if let Some(theirs) = theirs {
            let class = theirs.prediction.filter(|p| !p.fallback).map(|p| p.class);
            shadow.monitor.record(confirmed.class, class);
            shadow.alone = 0;
        } else {
            shadow.alone += 1;
            let schema = &runtime.profile().schema;
            let patience = u32::from(schema.window / schema.hop.max(1)) + 2;
            if shadow.alone > patience {
                shadow.skip = None;
            }
        }
        let agreement = shadow.monitor.agreement_per_mille();
        self.stats.counters().shadow_agreement_per_mille = Some(agreement);
    }

    /// Ends a trial or a shadow that is decided. A breach goes back at once, before anyone is told.
    fn judge(&mut self) {
        let trial = self.live.as_ref().and_then(|live| {
            let verdict = live.trial.as_ref()?.verdict();
            let decided = verdict != Verdict::Undecided;
            decided.then(|| (live.loaded.slot, live.loaded.runtime.release(), verdict))
        });
        if let Some((slot, release, verdict)) = trial {
            match verdict {
                Verdict::Confirm => {
                    if let Some(live) = &mut self.live {
                        live.trial = None;
                    }
                    if let Some(standby) = self.standby.take() {
                        self.report(Report::Trash(standby.runtime));
                    }
                    self.stats.counters().mode = "confirmed";
                }
                _ => self.stop(slot),
            }
            self.report(Report::Trial(slot, release, verdict));
        }
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| !shadow.told) else {
            return;
        };
        let verdict = shadow.monitor.verdict();
        if verdict != ShadowVerdict::Undecided {
            shadow.told = true;
            let (slot, release) = (shadow.loaded.slot, shadow.loaded.runtime.release());
            self.report(Report::Shadow(slot, release, verdict));
        }
    }

    /// Does what the control thread wants, if it wants something.
    pub fn commands(&mut self) {
        self.pass_on();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Run(loaded, Mode::Shadow) => self.start_shadow(loaded),
                Command::Run(loaded, mode) => self.start(loaded, mode),
                Command::Promote(slot) => {
                    if let Some(shadow) = self.shadow.take_if(|s| s.loaded.slot == slot) {
                        self.start(shadow.loaded, Mode::Trial);
                    }
                }
                Command::Stop(slot) => self.stop(slot),
            }
            self.show();
        }
    }

    fn prepare(&mut self, runtime: &mut BoardRuntime<E>) -> Columns {
        runtime.reset_window();
        // What it counted in another role is not part of any report.
        let _ = runtime.take_summary(unix_ms());
        while runtime.pop_alarm().is_some() {}
        let mut scratch = [0.0; F];
        match self
            .header
            .as_deref()
            .map(|text| parse::<F>(text.as_bytes(), &mut scratch))
        {
            Some(Ok(Line::Header(header))) => {
                runtime.announce(&info(&header), |_| {});
                columns(runtime, &header)
            }
            _ => [None; F],
        }
    }

    fn start(&mut self, mut loaded: Loaded<E>, mode: Mode) {
        let columns = self.prepare(&mut loaded.runtime);
        let trial = (mode == Mode::Trial).then(|| {
            let policy = loaded.runtime.policy().trial;
            TrialMonitor::new(policy)
        });
        self.flush();
        let live = Live {
            loaded,
            columns,
            trial,
            inferences: 0,
        };
        if let Some(before) = self.live.replace(live) {
            let keep = mode == Mode::Trial && before.trial.is_none();
            let old = if keep {
                self.standby.replace(before.loaded)
            } else {
                Some(before.loaded)
            };
            if let Some(old) = old {
                self.report(Report::Trash(old.runtime));
            }
        }
        self.show();
    }

    fn start_shadow(&mut self, mut loaded: Loaded<E>) {
        let columns = self.prepare(&mut loaded.runtime);
        let monitor = ShadowMonitor::new(&loaded.runtime.policy().trial);
        let shadow = Shadow {
            loaded,
            columns,
            monitor,
            skip: None,
            alone: 0,
            told: false,
        };
        if let Some(before) = self.shadow.replace(shadow) {
            self.report(Report::Trash(before.loaded.runtime));
        }
        self.show();
    }

    fn stop(&mut self, slot: Slot) {
        if let Some(shadow) = self.shadow.take_if(|shadow| shadow.loaded.slot == slot) {
            self.report(Report::Trash(shadow.loaded.runtime));
        }
        if self
            .live
            .as_ref()
            .is_some_and(|live| live.loaded.slot == slot)
        {
            self.flush();
            if let Some(live) = self.live.take() {
                self.report(Report::Trash(live.loaded.runtime));
            }
            if let Some(standby) = self.standby.take() {
                self.start(standby, Mode::Confirmed);
            }
        }
        self.show();
    }

    /// Passes on what the open window counted so far.
    pub fn flush(&mut self) {
        let summary = self.live.as_mut().and_then(|live| {
            let some = live.loaded.runtime.samples() > 0;
            some.then(|| live.loaded.runtime.take_summary(unix_ms()))
        });
        if let Some(summary) = summary {
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

    /// Shows in the counters what runs.
    fn show(&mut self) {
        let mut counters = self.stats.counters();
        let live = self.live.as_ref();
        counters.release = live.map(|live| live.loaded.runtime.release());
        counters.slot = live.map(|live| live.loaded.slot as u8);
        counters.mode = match live {
            None => "",
            Some(live) if live.trial.is_some() => "trial",
            Some(_) => "confirmed",
        };
        counters.shadow = self.shadow.as_ref().map(|s| s.loaded.runtime.release());
        if self.shadow.is_none() {
            counters.shadow_agreement_per_mille = None;
        }
    }
}

/// The source's announcement as the core takes it.
fn info<'a>(header: &'a Header<'a, F>) -> SourceInfo<'a> {
    SourceInfo {
        schema_version: header.schema,
        dtype: header.dtype,
        feature_version: header.feature_version,
        features: &header.features,
    }
}

/// Where the source has each feature of a runtime.
fn columns<E: Engine>(runtime: &BoardRuntime<E>, header: &Header<'_, F>) -> Columns {
    let mut columns = [None; F];
    for (column, feature) in columns.iter_mut().zip(&runtime.profile().features) {
        let at = header
            .features
            .iter()
            .position(|name| *name == feature.name.as_str());
        *column = at.and_then(|at| u16::try_from(at).ok());
    }
    columns
}

/// Brings the values of a line into the order of a profile; what is not there is missing.
fn order(given: &[f32], columns: &Columns, features: usize, out: &mut [f32; F]) {
    for (value, column) in out.iter_mut().zip(columns).take(features) {
        *value = column
            .and_then(|at| given.get(usize::from(at)))
            .copied()
            .unwrap_or(MISSING);
    }
}

/// Writes one answer. Flag 16 marks a fallback.
fn answer<E: Engine>(
    runtime: &BoardRuntime<E>,
    sequence: u32,
    prediction: &Prediction,
    answers: &mut Answers,
) {
    let names = &runtime.profile().output.names;
    let class = names.get(usize::from(prediction.class));
    let flags = prediction.flags.bits() | u8::from(prediction.fallback) << 4;
    // Writing to a string can't fail, and its capacity outlasts one line.
    let _ = writeln!(
        answers.text,
        "{sequence},{},{:.6},{flags},{}",
        class.map_or("-", |name| name.as_str()),
        prediction.confidence,
        prediction.latency_us
    );
}

/// Writes one alarm.
fn tell<E: Engine>(runtime: &BoardRuntime<E>, alarm: Alarm, answers: &mut Answers) {
    if !answers.alarms {
        return;
    }
    let features = &runtime.profile().features;
    let name = |index: Option<u16>| {
        let feature = index.and_then(|index| features.get(usize::from(index)));
        feature.map_or("-", |feature| feature.name.as_str())
    };
    let _ = match alarm {
        Alarm::Violation {
            kind,
            feature,
            value,
            sample,
        } => writeln!(
            answers.text,
            "alarm violation kind={kind:?} feature={} value={value} sample={sample}",
            name(feature)
        ),
        Alarm::Drift {
            statistic,
            feature,
            value,
            limit,
        } => writeln!(
            answers.text,
            "alarm drift statistic={statistic:?} feature={} value={value} limit={limit}",
            name(feature)
        ),
        _ => Ok(()),
    };
}

/// The name of the field in which a sample line is wrong, if it has one.
fn field_name<'a>(header: Option<&'a str>, line: &[u8], column: u16) -> Option<&'a str> {
    if !line.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    match column {
        0 => None,
        1 => Some("sequence"),
        2 => Some("time_ms"),
        _ => header?
            .split_ascii_whitespace()
            .find_map(|field| field.strip_prefix("features="))?
            .split(',')
            .nth(usize::from(column) - 3),
    }
}
