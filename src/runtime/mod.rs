//! The runtime: one sample through contract, drift, model and guard.
//!
//! A [`Runtime`] owns an engine, its profile and policy, and all state; it takes samples and the
//! time, and returns what happened. It allocates nothing and never waits.

mod alarms;
mod config;

pub use alarms::MAX_ALARMS;
pub use config::ConfigError;

use crate::contract::{
    Contract, Outcome, Sample, SampleCheck, SourceInfo, SourceViolation, Violation, ViolationSet,
    check_source,
};
use crate::drift::{self, Windows};
use crate::engine::Engine;
use crate::guard::{Guard, InferenceError, Prediction};
use crate::policy::{Action, Policy};
use crate::profile::{Layout, Profile};
use crate::recorder::{Recorder, Stamp};
use crate::telemetry::{Alarm, ReleaseId, Summary};
use alarms::Alarms;

/// What became of one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The contract's verdict.
    pub check: SampleCheck,
    /// The answer, when one is due: the model's, or the last good one once more.
    pub prediction: Option<Prediction>,
    /// Why the inference that was due failed.
    pub error: Option<InferenceError>,
    /// Whether the drift window ended with this sample; [`Runtime::take_summary`] is then due.
    pub window_closed: bool,
}

/// Values of one sample, where vectors of four can be stored without crossing a boundary of sixteen
/// bytes: that takes some processors several cycles.
#[derive(Debug)]
#[cfg_attr(all(target_arch = "x86_64", target_feature = "sse2"), repr(align(64)))]
struct Aligned<const F: usize>([f32; F]);

/// A model at work on one stream.
///
/// `S` is the memory of the model's input tensor, at least window times features long: an array, a
/// `&'static mut [f32]` or a `Vec<f32>`. `F` and `C` bound the features and outputs. On
/// x86-64 an `F` that is a multiple of four is the faster one: features are looked at in fours.
///
/// The input tensor is kept complete in its own layout. After an inference the samples that stay are
/// moved once by the hop, so that nothing else is copied, and the tensor of the last inference stays
/// readable until then ([`last_input`](Self::last_input)).
#[derive(Debug)]
// Small fields first, where an instruction of two bytes reaches them; compilers put large ones there.
#[repr(C)]
pub struct Runtime<E, S, const F: usize, const C: usize> {
    samples: u32,
    rejected: u32,
    /// Samples in the tensor; a full one has been inferred.
    filled: usize,
    /// Samples offered since an answer was last due.
    since_answer: u32,
    /// How many more samples push the last flagged one out of the tensor.
    flagged_for: u32,
    tensor: S,
    /// The strongest action against the source as a whole.
    source_action: Action,
    closed: bool,
    from_ms: Option<u64>,
    release: ReleaseId,
    policy: Policy,
    engine: E,
    output: [f32; C],
    /// The sample at hand, as the model shall see it.
    values: Aligned<F>,
    guard: Guard<C>,
    contract: Contract<F>,
    drift: Windows<F>,
    profile: Profile<F, C>,
    alarms: Alarms,
}

impl<E, S, const F: usize, const C: usize> Runtime<E, S, F, C>
where
    E: Engine,
    S: AsRef<[f32]> + AsMut<[f32]>,
{
    /// A runtime at the beginning of a stream and of a window.
    ///
    /// # Errors
    /// [`ConfigError`] when the profile contradicts itself, the engine or the memory given.
    pub fn new(
        engine: E,
        release: ReleaseId,
        profile: Profile<F, C>,
        policy: Policy,
        tensor: S,
    ) -> Result<Self, ConfigError> {
        config::validate_runtime(&profile, &engine, tensor.as_ref().len())?;
        let mut runtime = Self::blank(engine, tensor);
        runtime.profile = profile;
        runtime.policy = policy;
        runtime.restart(release);
        Ok(runtime)
    }

    /// A runtime of nothing, where one is to be: [`begin`](Self::begin) makes one of it without moving it, and so
    /// without as much of the stack. Before that no sample may be given to it.
    #[must_use]
    pub fn blank(engine: E, tensor: S) -> Self {
        Self {
            engine,
            release: ReleaseId::default(),
            contract: Contract::default(),
            drift: Windows::new(&[]),
            profile: Profile::empty(),
            policy: Policy::standard(),
            guard: Guard::default(),
            alarms: Alarms::default(),
            tensor,
            filled: 0,
            values: Aligned([0.0; F]),
            output: [0.0; C],
            since_answer: 0,
            flagged_for: 0,
            source_action: Action::Count,
            samples: 0,
            rejected: 0,
            from_ms: None,
            closed: false,
        }
    }

    /// Profile and policy, to write those of another release in place; [`begin`](Self::begin) comes next, and
    /// no sample before it.
    pub fn settings_mut(&mut self) -> (&mut Profile<F, C>, &mut Policy) {
        (&mut self.profile, &mut self.policy)
    }

    /// Begins with another release: what was known of the one before is gone. Profile and policy are those that
    /// were [written](Self::settings_mut), the memory is the same.
    ///
    /// # Errors
    /// As for [`new`](Self::new). Profile and policy may be another release's than the rest then: no sample before
    /// a `begin` that went well.
    #[inline(never)]
    pub fn begin(&mut self, engine: E, release: ReleaseId) -> Result<(), ConfigError> {
        config::validate_runtime(&self.profile, &engine, self.tensor.as_ref().len())?;
        self.engine = engine;
        self.restart(release);
        Ok(())
    }

    /// At the beginning of a stream and of a window, by profile and policy as they are.
    fn restart(&mut self, release: ReleaseId) {
        self.release = release;
        self.contract = Contract::new(&self.profile, &self.policy);
        self.drift = Windows::new(&self.profile.features);
        self.guard = Guard::default();
        self.alarms = Alarms::default();
        self.filled = 0;
        self.values = Aligned([0.0; F]);
        self.output = [0.0; C];
        self.since_answer = 0;
        self.flagged_for = 0;
        self.source_action = Action::Count;
        self.samples = 0;
        self.rejected = 0;
        self.from_ms = None;
        self.closed = false;
    }

    /// Takes in one sample, and runs an inference when one is due.
    ///
    /// `clock_us` is read twice when an inference runs, around all that makes an answer of the
    /// complete input; any monotonic count of microseconds will do.
    ///
    /// A window that ended and was not taken ([`take_summary`](Self::take_summary)) is discarded.
    pub fn push(
        &mut self,
        sample: &Sample<'_>,
        now_ms: u64,
        clock_us: &mut impl FnMut() -> u64,
    ) -> Step {
        self.push_recorded(sample, now_ms, clock_us, None::<&mut Recorder<[u8; 0]>>)
    }

    /// As [`push`](Self::push), and records the inference, if one runs. Alarms are for the caller to
    /// record as it takes them ([`Recorder::event`]).
    pub fn push_recorded<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        sample: &Sample<'_>,
        now_ms: u64,
        clock_us: &mut impl FnMut() -> u64,
        recorder: Option<&mut Recorder<B>>,
    ) -> Step {
        if self.closed {
            self.start_window();
        }
        self.from_ms.get_or_insert(now_ms);
        self.samples += 1;
        self.since_answer = self.since_answer.saturating_add(1);

        let mut check = self.check(sample, now_ms);
        if self.source_action > check.action {
            check = check.strengthened(self.source_action);
        }
        let mut step = Step {
            check,
            prediction: None,
            error: None,
            window_closed: false,
        };
        if check.outcome == Outcome::Rejected {
            self.rejected += 1;
            if check.action == Action::Fallback && self.answer_due() {
                step.prediction = self.guard.fall_back(&self.policy.guard);
            }
        } else {
            self.take_in(sample, &check);
            if self.filled == usize::from(self.profile.schema.window) {
                self.since_answer = 0;
                let stamp = Stamp {
                    time_ms: now_ms,
                    release: self.release,
                    sample: sample.sequence,
                };
                match self.infer(clock_us, recorder, stamp) {
                    Ok(prediction) => step.prediction = Some(prediction),
                    Err(error) => {
                        step.error = Some(error);
                        step.prediction = self.guard.fall_back(&self.policy.guard);
                    }
                }
            }
        }
        if self.samples >= self.profile.drift_window {
            self.close_window();
            step.window_closed = true;
        }
        step
    }

    /// Compares what a source announces with the profile; call it for every new source.
    ///
    /// Each violation is counted and, where the policy asks for more than that, raised as an alarm
    /// and given to `report` with the feature's name. The strongest action holds for all samples
    /// until another source is announced.
    pub fn announce(
        &mut self,
        source: &SourceInfo<'_>,
        mut report: impl FnMut(&SourceViolation<'_>),
    ) -> ViolationSet {
        let mut found = ViolationSet::EMPTY;
        self.source_action = Action::Count;
        for violation in check_source(&self.profile, source) {
            found.insert(violation.kind);
            let action = self.policy.rule(violation.kind).action;
            self.source_action = self.source_action.max(action);
            self.contract.count(violation.kind);
            if action > Action::Count {
                self.alarms.raise(Alarm::Violation {
                    kind: violation.kind,
                    feature: violation.feature,
                    value: 0.0,
                    sample: 0,
                });
                report(&violation);
            }
        }
        found
    }

    /// The strongest action against the source that was announced last: from [`Action::Reject`] on,
    /// no sample of it reaches the model.
    #[must_use]
    pub fn source_action(&self) -> Action {
        self.source_action
    }

    /// Forgets the stream, because what comes next is a new recording: the tensor is emptied, and
    /// no rate, run, gap or duplicate reaches across. The window's counts stay.
    pub fn reset_window(&mut self) {
        self.contract.start_stream();
        self.filled = 0;
        self.flagged_for = 0;
        self.since_answer = 0;
    }

    /// The window's report, and a new window. `now_ms` is its end.
    ///
    /// Due when a step says [`Step::window_closed`]; before that (on the way down, say) it reports a
    /// shorter window. [`Summary::dropped_events`] counts alarms that found the queue full;
    /// [`Summary::core_khz`] is 0, for whoever knows the core's clock to say.
    pub fn take_summary(&mut self, now_ms: u64) -> Summary<F, C> {
        let mut summary = Summary::empty();
        self.take_summary_into(&mut summary, now_ms);
        summary
    }

    /// As [`take_summary`](Self::take_summary), to where the report is to be.
    pub fn take_summary_into(&mut self, summary: &mut Summary<F, C>, now_ms: u64) {
        summary.release = self.release;
        summary.windows = 1;
        summary.from_ms = self.from_ms.unwrap_or(now_ms);
        summary.to_ms = now_ms;
        summary.samples = self.samples;
        summary.rejected = self.rejected;
        summary.inferences = self.guard.inferences();
        summary.errors = self.guard.errors();
        summary.fallbacks = self.guard.fallbacks();
        summary.violations = *self.contract.stream().counts();
        summary.alarms = self.alarms.raised();
        summary.dropped_events = self.alarms.dropped();
        summary.latency.clone_from(self.guard.latency());
        summary.features.clear();
        for (index, feature) in self.profile.features.iter().enumerate() {
            if let (Some(window), Some(state)) =
                (self.drift.get(index), self.contract.feature(index))
            {
                // As many as the profile has, for which there is the same room.
                let _ = summary.features.push(window.summary(feature, &state));
            }
        }
        summary.output = self.guard.summary(&self.profile.output);
        summary.core_khz = 0;
        self.start_window();
    }

    /// The oldest alarm that was not taken yet.
    pub fn pop_alarm(&mut self) -> Option<Alarm> {
        self.alarms.pop()
    }

    /// Calibrated probabilities of the last inference (the values, for a model without classes).
    #[must_use]
    pub fn last_probabilities(&self) -> &[f32] {
        let outputs = self.profile.output.names.len();
        self.guard.probabilities().get(..outputs).unwrap_or(&[])
    }

    /// The model's raw output of the last inference.
    #[must_use]
    pub fn last_output(&self) -> &[f32] {
        self.output.get(..self.engine.output_len()).unwrap_or(&[])
    }

    /// The input tensor: of the last inference, until the next sample is taken in. After [`begin`](Self::begin)
    /// it is what the memory held before, until the first inference.
    #[must_use]
    pub fn last_input(&self) -> &[f32] {
        self.tensor
            .as_ref()
            .get(..self.engine.input_len())
            .unwrap_or(&[])
    }

    /// The release that runs.
    #[must_use]
    pub fn release(&self) -> ReleaseId {
        self.release
    }

    /// The profile.
    #[must_use]
    pub fn profile(&self) -> &Profile<F, C> {
        &self.profile
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Samples in this window so far.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// This window's drift state of the features, in profile order.
    #[must_use]
    pub fn windows(&self) -> &Windows<F> {
        &self.drift
    }

    /// The guard's state.
    #[must_use]
    pub fn guard(&self) -> &Guard<C> {
        &self.guard
    }

    /// The engine: another one in its place makes no other release of this runtime.
    pub fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// All of the tensor's memory; what is written there is lost with the next release that [begins](Self::begin).
    pub fn tensor_mut(&mut self) -> &mut [f32] {
        self.tensor.as_mut()
    }

    /// Gives the engine and the tensor's memory back.
    pub fn into_parts(self) -> (E, S) {
        (self.engine, self.tensor)
    }

    /// The contract's verdict; raises alarms.
    fn check(&mut self, sample: &Sample<'_>, now_ms: u64) -> SampleCheck {
        let alarms = &mut self.alarms;
        let mut report = |violation: Violation| {
            if violation.first {
                alarms.raise(Alarm::Violation {
                    kind: violation.kind,
                    feature: violation.feature,
                    value: violation.value,
                    sample: sample.sequence,
                });
            }
        };
        self.contract.check(
            &self.profile,
            &self.policy,
            sample,
            now_ms,
            &mut self.values.0,
            &mut report,
        )
    }

    /// Adds a sample to the drift windows and to the tensor.
    fn take_in(&mut self, sample: &Sample<'_>, check: &SampleCheck) {
        if check.filled == 0 {
            self.drift.push(&self.profile.features, &self.values.0);
        } else {
            self.push_as_it_came(sample);
        }

        let schema = &self.profile.schema;
        let (window, hop) = (usize::from(schema.window), usize::from(schema.hop));
        let count = self.profile.features.len();
        let tensor = self.tensor.as_mut();
        let shift = self.filled == window;
        match schema.layout {
            Layout::SamplesFirst => {
                if shift {
                    tensor.copy_within(hop * count..window * count, 0);
                    self.filled -= hop;
                }
                let at = self.filled * count;
                tensor[at..at + count].copy_from_slice(&self.values.0[..count]);
            }
            Layout::FeaturesFirst => {
                if shift {
                    // All series at once: the end of each is then the next one's beginning, and about
                    // to be overwritten.
                    tensor.copy_within(hop..window * count, 0);
                    self.filled -= hop;
                }
                let mut at = self.filled;
                for &value in &self.values.0[..count] {
                    tensor[at] = value;
                    at += window;
                }
            }
        }
        self.filled += 1;
        self.flagged_for = if check.outcome == Outcome::Flagged {
            u32::from(schema.window)
        } else {
            self.flagged_for.saturating_sub(1)
        };
    }

    /// Adds a sample of which values were filled in to the drift windows without these, which are no
    /// evidence of anything.
    #[cold]
    #[inline(never)]
    fn push_as_it_came(&mut self, sample: &Sample<'_>) {
        let mut values = [f32::NAN; F];
        values[..sample.values.len()].copy_from_slice(sample.values);
        self.drift.push(&self.profile.features, &values);
    }

    /// Runs the model on the full tensor.
    #[inline(never)]
    fn infer<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        clock_us: &mut impl FnMut() -> u64,
        recorder: Option<&mut Recorder<B>>,
        stamp: Stamp,
    ) -> Result<Prediction, InferenceError> {
        let start_us = clock_us();
        let input = &self.tensor.as_ref()[..self.engine.input_len()];
        let output = &mut self.output[..self.engine.output_len()];
        let mut entry = recorder.map(|recorder| recorder.begin(stamp, output.len()));
        let run = match &mut entry {
            Some(entry) => self.engine.run_on_tape(input, output, entry),
            None => self.engine.run(input, output),
        };
        let judged = run.map_err(InferenceError::Engine).and_then(|()| {
            let flagged = self.flagged_for > 0;
            let profile = &self.profile.output;
            self.guard
                .judge(profile, &self.policy.guard, output, flagged)
        });
        let judged = match judged {
            Ok(mut prediction) => {
                let took_us = clock_us().saturating_sub(start_us);
                let took_us = u32::try_from(took_us).unwrap_or(u32::MAX);
                self.guard
                    .finish(&self.policy.guard, &mut prediction, took_us);
                Ok(prediction)
            }
            Err(error) => {
                self.guard.fail();
                Err(error)
            }
        };
        if let Some(entry) = entry {
            entry.finish(&judged);
        }
        judged
    }

    /// Whether a source that delivers good samples would have had an answer by now.
    fn answer_due(&mut self) -> bool {
        let due = self.since_answer >= u32::from(self.profile.schema.hop);
        if due {
            self.since_answer = 0;
        }
        due
    }

    /// Raises the alarms of a window that ended.
    #[cold]
    #[inline(never)]
    fn close_window(&mut self) {
        self.closed = true;
        let full = self.profile.drift_window;
        for (index, feature) in self.profile.features.iter().enumerate() {
            // One alarm a feature: the summary has the counts, and so every other statistic.
            let excess = self.drift.get(index).and_then(|window| {
                let found = window.statistics(feature)?;
                drift::drifted(&found, &feature.limits, window.n(), full)
            });
            if let Some(excess) = excess {
                self.alarms.raise(Alarm::Drift {
                    statistic: excess.statistic,
                    feature: Some(index as u16),
                    value: excess.value,
                    limit: excess.limit,
                });
            }
        }
        let answers = full / u32::from(self.profile.schema.hop).max(1);
        let output = &self.profile.output;
        for excess in self.guard.exceeded(output, &self.policy.guard, answers) {
            self.alarms.raise(Alarm::Drift {
                statistic: excess.statistic,
                feature: None,
                value: excess.value,
                limit: excess.limit,
            });
        }
    }

    /// Begins a new window; what the open one counted is gone.
    #[cold]
    #[inline(never)]
    pub fn start_window(&mut self) {
        self.contract.start_window();
        self.drift.clear();
        self.guard.start_window();
        self.alarms.start_window();
        self.samples = 0;
        self.rejected = 0;
        self.from_ms = None;
        self.closed = false;
    }
}

#[cfg(test)]
mod tests;
