//! Who answers, who runs beside, and who waits to take over again: the roles of the two slots' releases,
//! and what each sample means to them.
//!
//! A state machine without I/O of its own. It is fed samples, a source's announcements and what the
//! application wants; what comes of that goes to a [`Stage`]. Nothing here allocates or waits.

mod beside;
#[cfg(test)]
pub(crate) mod tests;

use crate::columns::{Columns, columns, order};
use crate::control::Mode;
use beside::Shadow;
use core::borrow::BorrowMut;
use core::marker::PhantomData;
use edgeward::contract::{Sample, SourceInfo, SourceViolation};
use edgeward::engine::Engine;
use edgeward::guard::{Prediction, ShadowMonitor, ShadowVerdict, TrialMonitor, Verdict};
use edgeward::policy::TrialPolicy;
use edgeward::recorder::{Recorder, Standing};
use edgeward::runtime::{Runtime, Step};
use edgeward::slots::Slot;
use edgeward::telemetry::{Alarm, Event, ReleaseId, Summary};

/// What became of a release that was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Of a trial.
    Trial(Slot, ReleaseId, Verdict),
    /// Of a shadow.
    Shadow(Slot, ReleaseId, ShadowVerdict),
}

/// What the caller does with what happens, and the time as it knows it.
pub trait Stage<R, E, S, const F: usize, const C: usize> {
    /// A window of the release that answers ended.
    fn summary(&mut self, summary: &Summary<F, C>);

    /// A trial or a shadow is decided. It is said once, and must arrive.
    fn told(&mut self, told: Told);

    /// A release has no role any more.
    fn spent(&mut self, slot: Slot, runtime: R);

    /// The release that answers raised an alarm.
    fn alarm(&mut self, _runtime: &Runtime<E, S, F, C>, _alarm: Alarm) {}

    /// The answer to a sample.
    fn answer(&mut self, _runtime: &Runtime<E, S, F, C>, _sequence: u32, _answer: &Prediction) {}

    /// Milliseconds that windows are stamped with.
    fn now_ms(&self) -> u64;

    /// Microseconds that latencies are measured with.
    fn clock_us(&self) -> u64;
}

/// A release that is loaded.
#[derive(Debug)]
struct Place<R, const F: usize> {
    runtime: R,
    columns: Columns<F>,
}

/// What the release that answers is judged by.
#[derive(Debug)]
struct Trial {
    monitor: TrialMonitor,
    /// The verdict was told.
    told: bool,
}

/// The releases of both slots and their roles. `R` is a runtime, or a box with one.
///
/// Invariant: `standby` is not `live`, the shadow is neither, and each of the three has a runtime in its
/// slot's place; there is a standby only while `live` is on trial.
#[derive(Debug)]
pub struct Cast<R, E, S, const F: usize, const C: usize> {
    places: [Option<Place<R, F>>; 2],
    /// Who answers.
    live: Option<Slot>,
    /// Whom to go back to while the one that answers is on trial.
    standby: Option<Slot>,
    trial: Option<Trial>,
    shadow: Option<Shadow>,
    ordered: [f32; F],
    runtimes: PhantomData<fn() -> (E, S)>,
}

impl<R, E, S, const F: usize, const C: usize> Default for Cast<R, E, S, F, C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, E, S, const F: usize, const C: usize> Cast<R, E, S, F, C> {
    /// Nobody answers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            places: [const { None }; 2],
            live: None,
            standby: None,
            trial: None,
            shadow: None,
            ordered: [0.0; F],
            runtimes: PhantomData,
        }
    }

    /// Who answers, and whether it is on trial: until the journal knows that it passed.
    #[must_use]
    pub fn live(&self) -> Option<(Slot, bool)> {
        self.live.map(|slot| (slot, self.trial.is_some()))
    }

    /// Who runs beside it, and how far they agree.
    #[must_use]
    pub fn shadow(&self) -> Option<(Slot, &ShadowMonitor)> {
        let shadow = self.shadow.as_ref()?;
        Some((shadow.slot, &shadow.monitor))
    }

    /// Whether [`judge`](Self::judge) has something to tell.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        let trial = self.trial.as_ref().filter(|trial| !trial.told);
        let shadow = self.shadow.as_ref().filter(|shadow| !shadow.told);
        trial.is_some_and(|trial| trial.monitor.verdict() != Verdict::Undecided)
            || shadow.is_some_and(|shadow| shadow.monitor.verdict() != ShadowVerdict::Undecided)
    }

    fn has_role(&self, slot: Slot) -> bool {
        let beside = self.shadow.as_ref().map(|shadow| shadow.slot);
        [self.live, self.standby, beside].contains(&Some(slot))
    }
}

impl<R, E, S, const F: usize, const C: usize> Cast<R, E, S, F, C>
where
    R: BorrowMut<Runtime<E, S, F, C>>,
    E: Engine,
    S: AsRef<[f32]> + AsMut<[f32]>,
{
    /// The runtime in a slot's place.
    #[must_use]
    pub fn runtime(&self, slot: Slot) -> Option<&Runtime<E, S, F, C>> {
        let place = self.places[slot as usize].as_ref()?;
        Some(place.runtime.borrow())
    }

    /// The trial policy of a release, if it is in this slot's place already.
    #[must_use]
    pub fn ready(&self, slot: Slot, release: ReleaseId) -> Option<TrialPolicy> {
        let runtime = self.runtime(slot)?;
        (runtime.release() == release).then(|| runtime.policy().trial)
    }

    /// Puts a release into its slot's place, without a role. Whoever was there [stops](Self::stop).
    #[inline(never)]
    pub fn put(
        &mut self,
        slot: Slot,
        runtime: R,
        source: Option<&SourceInfo<'_>>,
        stage: &mut impl Stage<R, E, S, F, C>,
    ) {
        self.stop(slot, source, stage);
        let columns = [None; F];
        self.places[slot as usize] = Some(Place { runtime, columns });
    }

    /// Gives the release of a slot a role; false when there is none, or it has one that it can't have
    /// at the same time.
    ///
    /// What the release that answered counted is told before anything of it is forgotten. Over a
    /// confirmed release a trial makes that one the release to go back to; over another trial it
    /// leaves that one as it is. A confirmed release that comes while another slot is on trial becomes
    /// the one to go back to, and the trial goes on. Who has no role any more is spent; who had none
    /// before stays.
    pub fn run(
        &mut self,
        slot: Slot,
        mode: Mode,
        source: Option<&SourceInfo<'_>>,
        stage: &mut impl Stage<R, E, S, F, C>,
    ) -> bool {
        if self.places[slot as usize].is_none() {
            return false;
        }
        let other = slot.other();
        let had_role = self.has_role(other);
        match mode {
            Mode::Shadow => {
                if [self.live, self.standby].contains(&Some(slot)) {
                    return false;
                }
                self.prepare(slot, source);
                self.shadow = self.shadow_of(slot);
            }
            Mode::Confirmed if self.trial.is_some() && self.live == Some(other) => {
                self.shadow.take_if(|shadow| shadow.slot == slot);
                self.standby = Some(slot);
            }
            Mode::Confirmed | Mode::Trial => self.answer_by(slot, mode, source, stage),
        }
        if had_role && !self.has_role(other) {
            self.spend(other, stage);
        }
        true
    }

    /// From now on this slot's release answers.
    fn answer_by(
        &mut self,
        slot: Slot,
        mode: Mode,
        source: Option<&SourceInfo<'_>>,
        stage: &mut impl Stage<R, E, S, F, C>,
    ) {
        self.flush(stage);
        self.prepare(slot, source);
        self.shadow.take_if(|shadow| shadow.slot == slot);
        self.standby.take_if(|standby| *standby == slot);
        let before = self.live.replace(slot).filter(|before| *before != slot);
        let was_trial = self.trial.take().is_some();
        if mode == Mode::Confirmed {
            self.standby = None;
            return;
        }
        // What is on trial is never gone back to.
        if let Some(confirmed) = before.filter(|_| !was_trial) {
            self.standby = Some(confirmed);
        }
        self.trial = self.runtime(slot).map(|runtime| {
            let mut monitor = TrialMonitor::new(runtime.policy().trial);
            monitor.on_source(runtime.source_action());
            Trial {
                monitor,
                told: false,
            }
        });
    }

    fn shadow_of(&self, slot: Slot) -> Option<Shadow> {
        let runtime = self.runtime(slot)?;
        let mut monitor = ShadowMonitor::new(&runtime.policy().trial);
        monitor.on_source(runtime.source_action());
        Some(Shadow::new(slot, monitor))
    }

    /// Makes a release ready for a role: what it counted before is not part of any report.
    fn prepare(&mut self, slot: Slot, source: Option<&SourceInfo<'_>>) {
        let Some(place) = &mut self.places[slot as usize] else {
            return;
        };
        let runtime: &mut Runtime<E, S, F, C> = place.runtime.borrow_mut();
        runtime.reset_window();
        runtime.start_window();
        while runtime.pop_alarm().is_some() {}
        place.columns = [None; F];
        if let Some(source) = source {
            place.columns = columns(runtime.profile(), source.features);
            runtime.announce(source, |_| {});
        }
    }

    /// The journal knows that this slot's release boots from now on: there is no way back any more.
    pub fn confirmed(&mut self, slot: Slot, stage: &mut impl Stage<R, E, S, F, C>) {
        if self.live == Some(slot) {
            self.trial = None;
            if let Some(standby) = self.standby.take() {
                self.spend(standby, stage);
            }
        }
    }

    /// Leaves a slot and empties its place; if it answered, the release before answers again.
    pub fn stop(
        &mut self,
        slot: Slot,
        source: Option<&SourceInfo<'_>>,
        stage: &mut impl Stage<R, E, S, F, C>,
    ) {
        self.shadow.take_if(|shadow| shadow.slot == slot);
        self.standby.take_if(|standby| *standby == slot);
        if self.live == Some(slot) {
            self.go_back(source, stage);
        }
        self.spend(slot, stage);
    }

    /// Whoever was confirmed answers from now on, and whoever answered is spent.
    fn go_back(&mut self, source: Option<&SourceInfo<'_>>, stage: &mut impl Stage<R, E, S, F, C>) {
        self.flush(stage);
        self.trial = None;
        let before = core::mem::replace(&mut self.live, self.standby.take());
        if let Some(live) = self.live {
            self.prepare(live, source);
        }
        if let Some(before) = before {
            self.spend(before, stage);
        }
    }

    /// Empties a place that nobody has a role in.
    fn spend(&mut self, slot: Slot, stage: &mut impl Stage<R, E, S, F, C>) {
        if let Some(place) = self.places[slot as usize].take() {
            stage.spent(slot, place.runtime);
        }
    }

    /// A source says what it delivers: each release that runs compares it with its profile, and begins
    /// a recording. `report` hears of what is wrong with it for the release that answers.
    pub fn announce(&mut self, source: &SourceInfo<'_>, report: impl FnMut(&SourceViolation<'_>)) {
        if let Some(place) = self
            .live
            .and_then(|slot| self.places[slot as usize].as_mut())
        {
            let runtime: &mut Runtime<E, S, F, C> = place.runtime.borrow_mut();
            place.columns = columns(runtime.profile(), source.features);
            runtime.announce(source, report);
            if let Some(trial) = &mut self.trial {
                trial.monitor.on_source(runtime.source_action());
            }
        }
        if let Some(shadow) = &mut self.shadow
            && let Some(place) = &mut self.places[shadow.slot as usize]
        {
            let runtime: &mut Runtime<E, S, F, C> = place.runtime.borrow_mut();
            place.columns = columns(runtime.profile(), source.features);
            runtime.announce(source, |_| {});
            shadow.monitor.on_source(runtime.source_action());
        }
        self.reset();
    }

    /// What comes next is a new recording.
    pub fn reset(&mut self) {
        for place in self.places.iter_mut().flatten() {
            let runtime: &mut Runtime<E, S, F, C> = place.runtime.borrow_mut();
            runtime.reset_window();
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.reset();
        }
    }

    /// The hot path: one sample, its values in the source's order; nothing when nobody answers. What it
    /// decided is for [`judge`](Self::judge) to say.
    pub fn sample<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        given: &Sample<'_>,
        mut recorder: Option<&mut Recorder<B>>,
        stage: &mut impl Stage<R, E, S, F, C>,
    ) -> Option<Step> {
        let place = self.places[self.live? as usize].as_mut()?;
        let now_ms = stage.now_ms();
        let runtime: &mut Runtime<E, S, F, C> = place.runtime.borrow_mut();
        let features = runtime.profile().features.len();
        order(given.values, &place.columns, features, &mut self.ordered);
        let sample = Sample {
            values: self.ordered.get(..features).unwrap_or_default(),
            ..*given
        };
        if let Some(recorder) = &mut recorder {
            recorder.set_standing(match self.trial {
                Some(_) => Standing::Trial,
                None => Standing::Confirmed,
            });
        }
        let mut clock_us = || stage.clock_us();
        let step = runtime.push_recorded(&sample, now_ms, &mut clock_us, recorder.as_deref_mut());
        if let Some(trial) = &mut self.trial {
            trial.monitor.on_step(&step);
        }
        if let Some(prediction) = &step.prediction {
            stage.answer(runtime, given.sequence, prediction);
        }
        let release = runtime.release();
        while let Some(alarm) = runtime.pop_alarm() {
            if let Some(trial) = &mut self.trial {
                trial.monitor.on_alarm(&alarm);
            }
            if let Some(recorder) = &mut recorder {
                recorder.event(now_ms, release, &Event::Alarm { release, alarm });
            }
            stage.alarm(runtime, alarm);
        }
        if step.window_closed {
            end_window(runtime, now_ms, self.trial.as_mut(), stage);
        }
        self.shadow_sample(given, &step, now_ms, stage);
        Some(step)
    }

    /// Ends a trial or a shadow that is decided. A breach goes back at once, before anyone is told. A
    /// trial that passed keeps the release to go back to until the journal knows
    /// ([`confirmed`](Self::confirmed)): somebody may have ended it meanwhile.
    pub fn judge(
        &mut self,
        source: Option<&SourceInfo<'_>>,
        stage: &mut impl Stage<R, E, S, F, C>,
    ) {
        let trial = self.trial.as_mut().filter(|trial| !trial.told);
        let verdict = trial.map_or(Verdict::Undecided, |trial| {
            let verdict = trial.monitor.verdict();
            trial.told = verdict != Verdict::Undecided;
            verdict
        });
        if verdict != Verdict::Undecided
            && let Some(slot) = self.live
            && let Some(release) = self.runtime(slot).map(Runtime::release)
        {
            if verdict != Verdict::Confirm {
                self.go_back(source, stage);
            }
            stage.told(Told::Trial(slot, release, verdict));
        }
        let Some(shadow) = self.shadow.as_mut().filter(|shadow| !shadow.told) else {
            return;
        };
        let (slot, verdict) = (shadow.slot, shadow.monitor.verdict());
        shadow.told = verdict != ShadowVerdict::Undecided;
        if shadow.told
            && let Some(release) = self.runtime(slot).map(Runtime::release)
        {
            stage.told(Told::Shadow(slot, release, verdict));
        }
    }

    /// Tells what the open window of the release that answers counted so far, and begins another.
    pub fn flush(&mut self, stage: &mut impl Stage<R, E, S, F, C>) {
        let place = self
            .live
            .and_then(|slot| self.places[slot as usize].as_mut());
        let Some(place) = place else { return };
        let runtime: &mut Runtime<E, S, F, C> = place.runtime.borrow_mut();
        if runtime.samples() > 0 {
            let now_ms = stage.now_ms();
            end_window(runtime, now_ms, None, stage);
        }
    }
}

/// Tells what a window counted. Apart from what each sample runs through, which would take a report's room on
/// the stack, too.
#[inline(never)]
fn end_window<R, E, S, const F: usize, const C: usize>(
    runtime: &mut Runtime<E, S, F, C>,
    now_ms: u64,
    trial: Option<&mut Trial>,
    stage: &mut impl Stage<R, E, S, F, C>,
) where
    E: Engine,
    S: AsRef<[f32]> + AsMut<[f32]>,
{
    let mut summary = Summary::empty();
    runtime.take_summary_into(&mut summary, now_ms);
    if let Some(trial) = trial {
        trial.monitor.on_window(runtime.profile(), &summary);
    }
    stage.summary(&summary);
}
