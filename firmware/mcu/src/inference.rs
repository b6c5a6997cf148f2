//! The inference task: samples in, predictions judged, and nothing in between that waits for flash or
//! network.
//!
//! A release is made ready here too, a golden vector between two samples: its memory and the arena are
//! this task's, and the release that answers must not wait.
//!
//! What others need to know goes into the bounded channels of [`Link`]; what finds them full is counted
//! (alarms) or merged (summaries), never waited for.

use crate::board::{Reading, Sensor, Watchdog};
use crate::engine::{Arena, Seat};
use crate::link::{Command, FlightRecorder, Link, Pulse, Report, WINDOWS, Window};
use crate::load::{Candidate, Place, PlaceRuntime};
use crate::store::Held as HeldSlot;
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;
use edgeward::contract::{Sample, SourceInfo};
use edgeward::policy::TrialPolicy;
use edgeward::program::Kernels;
use edgeward::recorder::Recorder;
use edgeward::slots::Slot;
use edgeward::telemetry::{Alarm, Reason, ReleaseId, Summary, release_id};
use edgeward::trust::Digest32;
use edgeward_firmware::cast::{Cast, Stage, Told};
use edgeward_firmware::control::Purpose;
use edgeward_firmware::held::Late;
use embassy_futures::select::{Either3, select3};
use embassy_sync::channel::TrySendError;
use embassy_time::{Duration, Instant, Timer};
use heapless::{Deque, Vec};

/// Longest time between two meals of the watchdog when no sample comes.
const IDLE: Duration = Duration::from_millis(250);
/// Reports that may wait at once: more than one release can cause, and the next one waits for the
/// application anyway.
const LATE: usize = 8;

/// What releases of at most `F` features, `C` outputs and `N` elements of the input tensor live in: a `static` of the
/// board's crate. For each slot a runtime and its input tensor, and the windows' reports; neither is ever moved.
pub struct Stock<K: 'static, const F: usize, const C: usize, const N: usize> {
    tensors: [MaybeUninit<[f32; N]>; 2],
    runtimes: [MaybeUninit<PlaceRuntime<K, F, C>>; 2],
    windows: [MaybeUninit<Summary<F, C>>; WINDOWS],
}

impl<K, const F: usize, const C: usize, const N: usize> Stock<K, F, C, N> {
    /// Room in which nothing is.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tensors: [const { MaybeUninit::uninit() }; 2],
            runtimes: [const { MaybeUninit::uninit() }; 2],
            windows: [const { MaybeUninit::uninit() }; WINDOWS],
        }
    }
}

impl<K, const F: usize, const C: usize, const N: usize> Default for Stock<K, F, C, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, const F: usize, const C: usize, const N: usize> core::fmt::Debug for Stock<K, F, C, N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stock").finish_non_exhaustive()
    }
}

/// The inference task's state, for models of at most `F` features and `C` outputs. A release lives in the place of its
/// slot, in whatever role.
pub struct Inference<K: 'static, const F: usize, const C: usize> {
    link: &'static Link<F, C>,
    /// None before the task is [equipped](Self::equip).
    arena: Option<&'static Arena>,
    cast: Cast<Place<K, F, C>, Seat<K>, &'static mut [f32], F, C>,
    told: Teller<K, F, C>,
    /// Releases whose golden vectors run, each in its slot's place.
    candidates: [Option<Candidate<K>>; 2],
    /// None where the board has none.
    recorder: Option<FlightRecorder>,
    /// Whether the application has it, and the one here, which has no memory, only counts what goes
    /// unrecorded.
    lent: bool,
}

/// What is told to the application: never waiting, never losing a count.
struct Teller<K: 'static, const F: usize, const C: usize> {
    link: &'static Link<F, C>,
    /// Places in which no release is.
    places: [Option<Place<K, F, C>>; 2],
    windows: Windows<F, C>,
    /// Reports that must not be lost and found their way full.
    late: Late<Report, LATE>,
    /// The core's clock in kHz, which every window carries; 0 where it is not known.
    core_khz: u32,
}

/// The windows' reports. Those that wait and are of one release become one, so that only `HELD` changes of
/// the release that answers, while the application stores two, can cost a count.
struct Windows<const F: usize, const C: usize> {
    free: Vec<Window<F, C>, WINDOWS>,
    /// The oldest first.
    held: Deque<Window<F, C>, WINDOWS>,
}

impl<const F: usize, const C: usize> Windows<F, C> {
    /// Keeps a window, which is of a core with this clock in kHz; false when it is lost, because those of `HELD`
    /// other releases wait.
    fn keep(&mut self, summary: &Summary<F, C>, core_khz: u32) -> bool {
        if let Some(last) = self.held.back_mut()
            && last.merge(summary).is_ok()
        {
            last.core_khz = core_khz;
            return true;
        }
        let Some(window) = self.free.pop() else {
            return false;
        };
        window.copy_from(summary);
        window.core_khz = core_khz;
        // There is room for all.
        let _ = self.held.push_back(window);
        true
    }

    /// Takes back what is stored, and gives the application the next one if there is room on the way.
    fn pass_on(&mut self, link: &Link<F, C>) {
        while let Ok(window) = link.spent.try_receive() {
            // There is room for all.
            let _ = self.free.push(window);
        }
        if let Some(window) = self.held.pop_front()
            && let Err(window) = full(link.summaries.try_send(window))
        {
            // It was just taken from there.
            let _ = self.held.push_front(window);
        }
    }
}

/// Runs the inference task: commands of the application and samples of the sensor, for ever. The
/// watchdog is fed here and nowhere else: a loop that hangs, in a model or before it, restarts the board,
/// and so does an application that stands still, or does not get through its start.
pub async fn run<K: Kernels + Default, const F: usize, const C: usize>(
    inference: &mut Inference<K, F, C>,
    mut sensor: impl Sensor,
    mut watchdog: impl Watchdog,
) -> ! {
    let link = inference.link;
    let mut values = [0.0; F];
    let mut application = Pulse::default();
    loop {
        if application.beats(link, Instant::now()) {
            watchdog.feed();
        }
        let idle = match inference.advance(&sensor.source()) {
            true => Duration::from_ticks(0),
            false => IDLE,
        };
        let commands = link.commands.receive();
        match select3(commands, sensor.next(&mut values), Timer::after(idle)).await {
            Either3::First(command) => inference.command(command, &sensor.source()),
            Either3::Second(reading) => inference.reading(reading, &values, &sensor.source()),
            Either3::Third(()) => {}
        }
        inference.told.pass_on();
    }
}

impl<K: Kernels + Default, const F: usize, const C: usize> Inference<K, F, C> {
    /// A task's state before the first release.
    #[must_use]
    pub const fn new(link: &'static Link<F, C>) -> Self {
        Self {
            link,
            arena: None,
            cast: Cast::new(),
            told: Teller {
                link,
                places: [const { None }; 2],
                windows: Windows {
                    free: Vec::new(),
                    held: Deque::new(),
                },
                late: Late::new(),
                core_khz: 0,
            },
            candidates: [None, None],
            recorder: None,
            lent: false,
        }
    }

    /// Gives it what releases work in; without that, it refuses each.
    pub fn equip<const N: usize>(
        &mut self,
        arena: &'static Arena,
        stock: &'static mut Stock<K, F, C, N>,
    ) {
        self.arena = Some(arena);
        let places = self.told.places.iter_mut().zip(&mut stock.runtimes);
        for ((place, room), tensor) in places.zip(&mut stock.tensors) {
            *place = Some(blank(room, tensor));
        }
        for room in &mut stock.windows {
            // There is room for all.
            let _ = self.told.windows.free.push(room.write(Summary::empty()));
        }
    }

    /// Has summaries carry the clock of the core that runs the task, in kHz, so that their latencies can be told in
    /// cycles. The clock must be the same for as long as it runs.
    pub fn clock(&mut self, core_khz: u32) {
        self.told.core_khz = core_khz;
    }

    /// Keeps the last inputs, outputs and alarms in this memory; where it is empty, the board has no flight recorder.
    pub fn record(&mut self, memory: &'static mut [u8]) {
        self.recorder = (!memory.is_empty()).then(|| Recorder::new(memory));
    }

    #[inline(never)]
    fn reading(&mut self, reading: Reading, values: &[f32], source: &SourceInfo<'_>) {
        match reading {
            Reading::Sample {
                sequence,
                time_ms,
                count,
            } => {
                let sample = Sample {
                    sequence,
                    time_ms,
                    values: values.get(..count).unwrap_or_default(),
                };
                let recorder = self.recorder.as_mut();
                self.cast.sample(&sample, recorder, &mut self.told);
                self.cast.judge(Some(source), &mut self.told);
            }
            Reading::Reset => self.cast.reset(),
        }
    }

    #[inline(never)]
    fn command(&mut self, command: Command, source: &SourceInfo<'_>) {
        match command {
            Command::Load {
                slot,
                digest,
                purpose,
                held,
            } => self.load(slot, &digest, purpose, held, source),
            Command::Run(slot, mode) => {
                let _ = self.cast.run(slot, mode, Some(source), &mut self.told);
            }
            Command::Confirmed(slot) => self.cast.confirmed(slot, &mut self.told),
            Command::Stop(slot) => {
                self.candidates[slot as usize] = None;
                self.cast.stop(slot, Some(source), &mut self.told);
                self.link.stopped.signal(());
            }
            Command::Lend => {
                let wanted = self.recorder.as_mut().filter(|_| !self.lent);
                let lent = wanted.map(|own| core::mem::replace(own, Recorder::new(&mut [])));
                self.lent |= lent.is_some();
                self.link.recorder.signal(Cell::new(lent));
            }
            Command::Record(mut recorder) => {
                if let Some(meanwhile) = self.recorder.take() {
                    recorder.skip(&meanwhile);
                }
                self.lent = false;
                self.recorder = Some(recorder);
            }
        }
        // One that does not fit the source need not wait for a sample.
        self.cast.judge(Some(source), &mut self.told);
    }

    /// Has a release made ready, unless it is. Who loads another one into a slot, or leaves it, hears no
    /// more of the one before.
    fn load(
        &mut self,
        slot: Slot,
        digest: &Digest32,
        purpose: Purpose,
        held: HeldSlot,
        source: &SourceInfo<'_>,
    ) {
        self.candidates[slot as usize] = None;
        let release = release_id(digest);
        let ready = self.cast.ready(slot, release);
        if let Some(policy) = ready.filter(|_| purpose != Purpose::SelfTest) {
            self.loaded(slot, release, purpose, Ok(policy));
            return;
        }
        // Its place is wanted.
        self.cast.stop(slot, Some(source), &mut self.told);
        let arena = self.arena.ok_or(Reason::Unsupported);
        match arena.and_then(|arena| Candidate::new(held, digest, purpose, arena)) {
            Ok(candidate) => self.candidates[slot as usize] = Some(candidate),
            Err(reason) => self.loaded(slot, release, purpose, Err(reason)),
        }
    }

    /// Runs one golden vector, if a release is being made ready; true when there is more to do.
    #[inline(never)]
    fn advance(&mut self, source: &SourceInfo<'_>) -> bool {
        let Some((slot, candidate)) = Slot::ALL
            .into_iter()
            .zip(&mut self.candidates)
            .find(|(_, candidate)| candidate.is_some())
        else {
            return false;
        };
        let place = &mut self.told.places[slot as usize];
        let step = match (candidate.as_mut(), place.as_deref_mut()) {
            (Some(candidate), Some(runtime)) => candidate.step::<C>(runtime.tensor_mut()),
            _ => Err(Reason::Unsupported),
        };
        if step == Ok(true) {
            return true;
        }
        let Some(candidate) = candidate.take() else {
            return false;
        };
        let (release, purpose) = (candidate.release(), candidate.purpose);
        let made = step.and_then(|_| candidate.finish(place));
        let outcome = made.map(|runtime| {
            let policy = runtime.policy().trial;
            self.cast.put(slot, runtime, Some(source), &mut self.told);
            policy
        });
        self.loaded(slot, release, purpose, outcome);
        true
    }

    fn loaded(
        &mut self,
        slot: Slot,
        release: ReleaseId,
        purpose: Purpose,
        outcome: Result<TrialPolicy, Reason>,
    ) {
        self.told.report(Report::Loaded {
            slot,
            release,
            purpose,
            outcome,
        });
    }
}

/// A runtime of nothing in its place. Apart, for the stack's sake.
#[inline(never)]
fn blank<K: Kernels + Default, const F: usize, const C: usize, const N: usize>(
    room: &'static mut MaybeUninit<PlaceRuntime<K, F, C>>,
    tensor: &'static mut MaybeUninit<[f32; N]>,
) -> Place<K, F, C> {
    let tensor = tensor.write([0.0; N]);
    room.write(PlaceRuntime::blank(Seat(None), tensor))
}

impl<K, const F: usize, const C: usize> Teller<K, F, C> {
    /// A report that must arrive, sooner or later.
    fn report(&mut self, report: Report) {
        // There is room for more than can come.
        let _ = self.late.tell(report);
        self.pass_on();
    }

    /// Passes on what could not be passed on before.
    fn pass_on(&mut self) {
        let link = self.link;
        self.windows.pass_on(link);
        self.late.pass(|report| full(link.reports.try_send(report)));
    }
}

/// What a full channel gives back.
fn full<T>(sent: Result<(), TrySendError<T>>) -> Result<(), T> {
    sent.map_err(|TrySendError::Full(item)| item)
}

impl<K, const F: usize, const C: usize> Stage<Place<K, F, C>, Seat<K>, &'static mut [f32], F, C>
    for Teller<K, F, C>
where
    K: Kernels + Default,
{
    fn summary(&mut self, summary: &Summary<F, C>) {
        self.pass_on();
        if !self.windows.keep(summary, self.core_khz) {
            // The flash fails since several releases: nothing helps there.
            self.link.windows_lost.fetch_add(1, Ordering::Relaxed);
        }
        self.pass_on();
    }

    fn told(&mut self, told: Told) {
        self.report(match told {
            Told::Trial(slot, release, verdict) => Report::Trial(slot, release, verdict),
            Told::Shadow(slot, release, verdict) => Report::Shadow(slot, release, verdict),
        });
    }

    fn spent(&mut self, slot: Slot, runtime: Place<K, F, C>) {
        // What it ran is not in use any more.
        runtime.engine_mut().0 = None;
        self.places[slot as usize] = Some(runtime);
    }

    fn alarm(&mut self, runtime: &PlaceRuntime<K, F, C>, alarm: Alarm) {
        // One that finds no room is in the window's counts all the same.
        let report = Report::Alarm(runtime.release(), alarm);
        let _ = self.link.reports.try_send(report);
    }

    fn now_ms(&self) -> u64 {
        Instant::now().as_millis()
    }

    fn clock_us(&self) -> u64 {
        Instant::now().as_micros()
    }
}

#[cfg(test)]
mod tests;
