//! Two ways to run the motion model on its recordings, to be compared: the engine alone, and the whole
//! runtime around it.

use crate::support::{C, F, HOP, WINDOW, motion_profile, read, samples, workspace};
use edgeward::contract::Sample;
use edgeward::engine::Engine;
use edgeward::engine::tract::{ModelSpec, TractEngine};
use edgeward::policy::Policy;
use edgeward::recorder::Recorder;
use edgeward::runtime::Runtime;
use std::hint::black_box;
use std::time::Instant;

fn engine() -> TractEngine {
    let model = read(&workspace("models/motion/motion-v1.onnx"));
    TractEngine::load(&model, &ModelSpec::with_shape(&[1, 6, WINDOW])).unwrap()
}

/// The engine alone, on the recordings' windows one after the other.
pub struct Bare {
    engine: TractEngine,
    windows: Vec<Vec<f32>>,
    next: usize,
}

impl Bare {
    pub fn infer(&mut self) {
        let window = &self.windows[self.next % self.windows.len()];
        self.next += 1;
        let mut output = [0.0; 4];
        self.engine.run(black_box(window), &mut output).unwrap();
        black_box(output);
    }
}

/// The same windows sample by sample through the runtime.
pub struct Whole {
    /// Whether each inference is recorded, as a Linux board does.
    pub recorded: bool,
    runtime: Runtime<TractEngine, Vec<f32>, F, C>,
    recorder: Recorder<Vec<u8>>,
    stream: Vec<[f32; 6]>,
    next: u32,
    start: Instant,
}

impl Whole {
    pub fn infer(&mut self) {
        let start = self.start;
        let mut clock_us = || start.elapsed().as_micros() as u64;
        loop {
            let sequence = self.next;
            self.next = self.next.wrapping_add(1);
            let values = &self.stream[sequence as usize % self.stream.len()];
            let time_ms = u64::from(sequence) * 100;
            let sample = Sample {
                sequence,
                time_ms,
                values,
            };
            let recorder = self.recorded.then_some(&mut self.recorder);
            let step =
                self.runtime
                    .push_recorded(black_box(&sample), time_ms, &mut clock_us, recorder);
            if step.window_closed {
                black_box(self.runtime.take_summary(time_ms));
                while self.runtime.pop_alarm().is_some() {}
            }
            if step.prediction.is_some() {
                black_box(step);
                return;
            }
        }
    }
}

pub fn contenders() -> (Bare, Whole) {
    let stream = samples(&workspace("models/motion/test.csv"));
    let window = |start: usize| {
        let samples = &stream[start..start + WINDOW];
        (0..6)
            .flat_map(|c| samples.iter().map(move |sample| sample[c]))
            .collect()
    };
    let windows = (0..stream.len() - WINDOW)
        .step_by(HOP)
        .map(window)
        .collect();
    let profile = motion_profile(&samples(&workspace("models/motion/train.csv")));
    let tensor = vec![0.0; 6 * WINDOW];
    let runtime = Runtime::new(engine(), [0; 8], profile, Policy::standard(), tensor).unwrap();
    let bare = Bare {
        engine: engine(),
        windows,
        next: 0,
    };
    (
        bare,
        Whole {
            recorded: true,
            runtime,
            recorder: Recorder::new(vec![0; 256 << 10]),
            stream,
            next: 0,
            start: Instant::now(),
        },
    )
}

/// Nanoseconds an inference of each took: rounds of the two alternate, so that a noisy machine
/// disturbs both alike, and they are short, so that most pass between two interruptions.
pub fn compare(bare: &mut Bare, whole: &mut Whole, rounds: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut alone, mut within) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for n in 0..rounds {
        // Whoever goes first may find colder caches, so they take turns in that too.
        if n % 2 == 0 {
            alone.push(round(|| bare.infer()));
            within.push(round(|| whole.infer()));
        } else {
            within.push(round(|| whole.infer()));
            alone.push(round(|| bare.infer()));
        }
    }
    (alone, within)
}

/// Inferences in a round.
pub const INFERENCES: u32 = 10;

fn round(mut infer: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..INFERENCES).for_each(|_| infer());
    start.elapsed().as_nanos() as f64 / f64::from(INFERENCES)
}

/// The value that a share of all is below.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * share) as usize]
}
