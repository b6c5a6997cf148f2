//! The inference task: samples in, predictions judged, and nothing in between that waits for flash or
//! network.
//!
//! What others need to know goes into the bounded channels of [`Link`]; what finds them full is counted
//! (alarms) or merged (summaries), never waited for.

mod report;
mod roles;
mod shadow;

use crate::board::{Reading, Sensor, Watchdog};
use crate::engine::Arena;
use crate::link::{Command, Link, Report};
use crate::load::PlaceRuntime;
use crate::{MAX_FEATURES as F, MAX_INPUT, MAX_OUTPUTS as C};
use edgeward::contract::{Sample, SourceInfo};
use edgeward::guard::TrialMonitor;
use edgeward::program::Kernels;
use edgeward::slots::Slot;
use edgeward::telemetry::Summary;
use edgeward_firmware::columns::{Columns, columns, order};
use embassy_futures::select::{Either3, select3};
use embassy_time::{Duration, Instant, Timer};
use heapless::Deque;
use shadow::Shadow;

/// Longest time between two meals of the watchdog when no sample comes.
const IDLE: Duration = Duration::from_millis(250);

/// Memory for the input tensors of both slots.
pub type Tensors = [[f32; MAX_INPUT]; 2];

/// A release that is loaded.
struct Place<K> {
    runtime: PlaceRuntime<K>,
    columns: Columns<F>,
}

/// What the release that answers is judged by.
struct Trial {
    monitor: TrialMonitor,
    /// The verdict was reported.
    told: bool,
}

/// The inference task's state. A release lives in the place of its slot, in whatever role.
pub struct Inference<K: 'static> {
    link: &'static Link,
    arena: &'static Arena,
    places: [Option<Place<K>>; 2],
    /// Memory of tensors whose place is empty.
    tensors: [Option<&'static mut [f32]>; 2],
    /// Who answers.
    live: Option<Slot>,
    /// Whom to go back to while the one that answers is on trial.
    standby: Option<Slot>,
    trial: Option<Trial>,
    shadow: Option<Shadow>,
    ordered: [f32; F],
    /// A window that found the way to the application full, with those that were merged into it.
    held: Option<Summary<F, C>>,
    /// Reports that must not be lost and found their way full.
    late: Deque<Report, 8>,
}

fn now_ms() -> u64 {
    Instant::now().as_millis()
}

/// Runs the inference task: commands of the application and samples of the sensor, for ever. The
/// watchdog is fed here and nowhere else: a loop that hangs, in a model or before it, restarts the board.
pub async fn run<K: Kernels + Default>(
    inference: &mut Inference<K>,
    mut sensor: impl Sensor,
    mut watchdog: impl Watchdog,
) -> ! {
    let link = inference.link;
    let mut values = [0.0; F];
    loop {
        watchdog.feed();
        let commands = link.commands.receive();
        match select3(commands, sensor.next(&mut values), Timer::after(IDLE)).await {
            Either3::First(command) => inference.command(command, &sensor.source()),
            Either3::Second(reading) => inference.reading(reading, &values),
            Either3::Third(()) => {}
        }
        inference.pass_on();
    }
}

impl<K: Kernels + Default> Inference<K> {
    /// A task's state before the first release.
    pub fn new(link: &'static Link, arena: &'static Arena, tensors: &'static mut Tensors) -> Self {
        Self {
            link,
            arena,
            places: [const { None }; 2],
            tensors: tensors.each_mut().map(|tensor| Some(&mut tensor[..])),
            live: None,
            standby: None,
            trial: None,
            shadow: None,
            ordered: [0.0; F],
            held: None,
            late: Deque::new(),
        }
    }

    fn reading(&mut self, reading: Reading, values: &[f32; F]) {
        match reading {
            Reading::Sample {
                sequence,
                time_ms,
                count,
            } => {
                let given = values.get(..count).unwrap_or_default();
                self.sample(sequence, time_ms, given);
            }
            Reading::Reset => self.reset(),
        }
    }

    fn reset(&mut self) {
        for place in self.places.iter_mut().flatten() {
            place.runtime.reset_window();
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.reset();
        }
    }

    /// The hot path.
    fn sample(&mut self, sequence: u32, time_ms: u64, given: &[f32]) {
        let Some(live) = self.live else { return };
        let Some(place) = &mut self.places[live as usize] else {
            return;
        };
        let now_ms = now_ms();
        let runtime = &mut place.runtime;
        let features = runtime.profile().features.len();
        order(given, &place.columns, features, &mut self.ordered);
        let sample = Sample {
            sequence,
            time_ms,
            values: self.ordered.get(..features).unwrap_or_default(),
        };
        let step = runtime.push(&sample, now_ms, &mut || Instant::now().as_micros());
        if let Some(trial) = &mut self.trial {
            trial.monitor.on_step(&step);
        }
        let release = runtime.release();
        while let Some(alarm) = runtime.pop_alarm() {
            if let Some(trial) = &mut self.trial {
                trial.monitor.on_alarm(&alarm);
            }
            // One that finds no room is in the window's counts all the same.
            let _ = self.link.reports.try_send(Report::Alarm(release, alarm));
        }
        if step.window_closed {
            let summary = runtime.take_summary(now_ms);
            if let Some(trial) = &mut self.trial {
                trial.monitor.on_window(runtime.profile(), &summary);
            }
            self.summary(summary);
        }
        self.shadow_sample(sequence, time_ms, given, &step);
        self.judge();
    }

    /// Makes a release ready for a role: what it counted before is not part of any report.
    fn prepare(&mut self, slot: Slot, source: &SourceInfo<'_>) -> bool {
        let Some(place) = &mut self.places[slot as usize] else {
            return false;
        };
        place.columns = columns(place.runtime.profile(), source.features);
        place.runtime.reset_window();
        let _ = place.runtime.take_summary(now_ms());
        while place.runtime.pop_alarm().is_some() {}
        place.runtime.announce(source, |_| {});
        true
    }

    fn command(&mut self, command: Command, source: &SourceInfo<'_>) {
        match command {
            Command::Load {
                slot,
                digest,
                purpose,
                held,
            } => self.load(slot, &digest, purpose, held),
            Command::Run(slot, mode) => self.run(slot, mode, source),
            Command::Confirmed(slot) => self.confirmed(slot),
            Command::Stop(slot) => {
                self.stop(slot, source);
                self.unload(slot);
                self.link.stopped.signal(());
            }
        }
        // One that does not fit the source need not wait for a sample.
        self.judge();
    }
}
