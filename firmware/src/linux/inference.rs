//! The inference thread's work: samples in, answers out, and nothing in between that allocates,
//! waits, or touches flash or network.
//!
//! What others need to know goes into bounded channels set aside at the start; what finds them full
//! is counted (alarms) or merged (summaries), never waited for.

mod answers;
mod reports;
mod roles;
#[cfg(test)]
mod tests;

pub use answers::{ANSWER_BYTES, ANSWER_ROOM, Answers};

use answers::field_name;
use reports::{Sampled, Teller};

use super::stats::{Stats, WARM_UP};
use super::watchdog::Beat;
use crate::cast::Cast;
use crate::control::Mode;
use crate::lines::{Header, Line, LineError, parse};
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use edgeward::contract::{Outcome, Sample};
use edgeward::engine::Engine;
use edgeward::engine::pool::{self, Calls};
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::recorder::Recorder;
use edgeward::runtime::{Runtime, Step};
use edgeward::slots::Slot;
use edgeward::telemetry::{Alarm, ReleaseId, Summary};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::Thread;
use std::time::{SystemTime, UNIX_EPOCH};

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
    /// The journal knows that this slot's release passed its trial: there is no way back any more.
    Confirmed(Slot),
    /// Stop this slot and go back to the release before.
    Stop(Slot),
    /// Copy the flight recorder into this one, and give it back.
    Record(Recorder<Vec<u8>>),
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
    /// A copy of the flight recorder.
    Record(Recorder<Vec<u8>>),
}

impl<E> Report<E> {
    /// Whether it is a verdict on what is in this slot.
    pub fn is_of(&self, slot: Slot) -> bool {
        matches!(self, Self::Trial(it, ..) | Self::Shadow(it, ..) if *it == slot)
    }
}

/// The inference thread's state.
pub struct Inference<E> {
    cast: Cast<Box<BoardRuntime<E>>, E, Vec<f32>, F, C>,
    header: Option<String>,
    values: [f32; F],
    commands: Receiver<Command<E>>,
    teller: Teller<E>,
    stats: Arc<Stats>,
    beat: Beat,
    /// Answers since the release that answers began to.
    inferences: u64,
    /// What the sample lines since the model's last answer asked of the system's allocator: those that only fill
    /// its window are part of an inference, too.
    spent: Calls,
    /// Up to which call `spent` has them.
    spent_to: Calls,
    /// The last inferences and alarms of the release that answers.
    recorder: Option<Recorder<Vec<u8>>>,
}

/// Milliseconds since 1970; 0 where the clock is before that.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

impl<E: Engine> Inference<E> {
    /// A thread's state before the first release. `control` is woken when there is a report; `beat`
    /// moves with each line.
    pub fn new(
        commands: Receiver<Command<E>>,
        reports: SyncSender<Report<E>>,
        summaries: SyncSender<Summary<F, C>>,
        control: Thread,
        stats: Arc<Stats>,
        beat: Beat,
    ) -> Self {
        stats.counters().counted = pool::installed();
        Self {
            cast: Cast::new(),
            header: None,
            values: [0.0; F],
            commands,
            teller: Teller::new(reports, summaries, control, stats.clone()),
            stats,
            beat,
            inferences: 0,
            spent: Calls::default(),
            spent_to: Calls::default(),
            recorder: None,
        }
    }

    /// Records inferences and alarms from now on.
    #[must_use]
    pub fn recorded(mut self, recorder: Recorder<Vec<u8>>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// The source that sent the header is gone.
    pub fn source_gone(&mut self) {
        self.header = None;
        self.cast.reset();
    }

    /// Handles one line of the source and writes what is to be answered.
    pub fn line(&mut self, line: &[u8], answers: &mut Answers) {
        self.beat.begin();
        self.work_on(line, answers);
        self.beat.end();
    }

    fn work_on(&mut self, line: &[u8], answers: &mut Answers) {
        self.spent_to = pool::calls();
        match parse::<F>(line, &mut self.values) {
            Ok(Line::Sample {
                sequence,
                time_ms,
                count,
            }) if self.header.is_some() => {
                self.sample(sequence, time_ms, count, answers);
                // What comes behind an answer, a verdict, say, is the next one's.
                self.spend();
            }
            Ok(Line::Sample { .. }) => {
                self.stats.counters().bad_lines += 1;
                answers.text.push_str("error no header yet\n");
            }
            Ok(Line::Reset) => self.cast.reset(),
            Ok(Line::Stats) => answers.text.push_str(&self.stats.line()),
            Ok(Line::Header(header)) => {
                let text = String::from_utf8_lossy(line).into_owned();
                self.announce(&header, answers);
                self.header = Some(text);
                // After the header is kept: the release before is compared with it.
                self.judge();
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
        self.cast.announce(&header.info(), |violation| {
            let name = violation.name.unwrap_or("-");
            // Writing to a string can't fail.
            let _ = writeln!(
                answers.text,
                "alarm violation kind={:?} feature={name}",
                violation.kind
            );
        });
    }

    /// The hot path.
    fn sample(&mut self, sequence: u32, time_ms: u64, count: usize, answers: &mut Answers) {
        let sample = Sample {
            sequence,
            time_ms,
            values: self.values.get(..count).unwrap_or_default(),
        };
        let mut told = Sampled::new(&mut self.teller, answers);
        let recorder = self.recorder.as_mut();
        let Some(step) = self.cast.sample(&sample, recorder, &mut told) else {
            self.stats.counters().idle_samples += 1;
            return;
        };
        let (alarms, drifting, unqueued) = (told.alarms, told.drifting, told.unqueued);
        self.count(&step, drifting, unqueued);
        self.judge();
        if alarms > 0 {
            self.teller.wake();
        }
    }

    /// Adds this line's calls to the allocator, as far as they are not yet there.
    fn spend(&mut self) {
        let now = pool::calls();
        self.spent.allocations += now.allocations - self.spent_to.allocations;
        self.spent.frees += now.frees - self.spent_to.frees;
        self.spent_to = now;
    }

    /// Adds one sample to the counters.
    fn count(&mut self, step: &Step, drifting: u32, unqueued: u64) {
        self.spend();
        let mut counters = self.stats.counters();
        counters.samples += 1;
        counters.rejected += u64::from(step.check.outcome == Outcome::Rejected);
        counters.errors += u64::from(step.error.is_some());
        counters.alarms_not_queued += unqueued;
        if step.window_closed {
            counters.drifting = drifting;
        }
        let Some(prediction) = step.prediction else {
            return;
        };
        if prediction.fallback {
            counters.fallbacks += 1;
            return;
        }
        if let Some((_, shadow)) = self.cast.shadow()
            && shadow.inferences() > 0
        {
            counters.shadow_agreement_per_mille = Some(shadow.agreement_per_mille());
        }
        let spent = std::mem::take(&mut self.spent);
        self.inferences += 1;
        counters.predictions += 1;
        counters.latency.record(prediction.latency_us);
        if self.inferences > WARM_UP {
            counters.steady_inferences += 1;
            counters.steady_allocations += spent.allocations;
            counters.steady_frees += spent.frees;
        }
    }
}
