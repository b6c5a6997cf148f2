//! Two ways to run the motion model on its recordings, to be compared: the engine alone, and the whole
//! runtime around it.

use crate::support::{C, F, HOP, WINDOW, motion_profile, read, samples, workspace};
use edgeward::contract::Sample;
use edgeward::engine::tract::{ModelSpec, TractEngine};
use edgeward::engine::{Engine, EngineError, Tape};
use edgeward::policy::Policy;
use edgeward::recorder::Recorder;
use edgeward::runtime::Runtime;
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

/// The one engine of both: two of them lie in different places of memory and caches, which alone makes
/// a difference of several hundred nanoseconds, either way.
#[derive(Clone)]
pub struct Shared(Rc<RefCell<TractEngine>>);

impl Shared {
    fn load() -> Self {
        let model = read(&workspace("models/motion/motion-v1.onnx"));
        let engine = TractEngine::load(&model, &ModelSpec::with_shape(&[1, 6, WINDOW])).unwrap();
        Self(Rc::new(RefCell::new(engine)))
    }
}

impl Engine for Shared {
    fn input_len(&self) -> usize {
        self.0.borrow().input_len()
    }

    fn output_len(&self) -> usize {
        self.0.borrow().output_len()
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        self.0.borrow_mut().run(input, output)
    }

    fn run_on_tape(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        tape: &mut dyn Tape,
    ) -> Result<(), EngineError> {
        self.0.borrow_mut().run_on_tape(input, output, tape)
    }
}

/// The engine alone, on the recordings' windows one after the other.
pub struct Bare {
    engine: Shared,
    windows: Vec<Vec<f32>>,
    /// The windows of a round, copied before it begins: the runtime's own tensor is in the caches, too.
    ready: Vec<Vec<f32>>,
    next: usize,
}

impl Bare {
    pub fn prepare(&mut self) {
        for ready in &mut self.ready {
            ready.copy_from_slice(&self.windows[self.next]);
            self.next = (self.next + 1) % self.windows.len();
        }
    }

    pub fn round(&mut self) {
        for window in &self.ready {
            let mut output = [0.0; 4];
            self.engine.run(black_box(window), &mut output).unwrap();
            black_box(output);
        }
    }
}

/// The same windows sample by sample through the runtime.
pub struct Whole {
    /// Whether each inference is recorded, as a Linux board does.
    pub recorded: bool,
    runtime: Runtime<Shared, Vec<f32>, F, C>,
    recorder: Recorder<Vec<u8>>,
    stream: Vec<[f32; 6]>,
    /// The samples of a round, copied before it begins: a sensor's driver has just written what it hands on.
    ready: Vec<[f32; 6]>,
    /// The next sample's place in the stream.
    next: usize,
    sequence: u32,
    start: Instant,
}

impl Whole {
    pub fn prepare(&mut self) {
        for ready in &mut self.ready {
            *ready = self.stream[self.next];
            self.next = (self.next + 1) % self.stream.len();
        }
    }

    /// As many inferences as a round has, once the first window is full.
    pub fn round(&mut self) {
        let start = self.start;
        let mut clock_us = || start.elapsed().as_micros() as u64;
        for values in &self.ready {
            let (sequence, time_ms) = (self.sequence, u64::from(self.sequence) * 100);
            self.sequence = sequence.wrapping_add(1);
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
            black_box(step);
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
    let windows: Vec<_> = (0..stream.len() - WINDOW)
        .step_by(HOP)
        .map(window)
        .collect();
    let profile = motion_profile(&samples(&workspace("models/motion/train.csv")));
    let tensor = vec![0.0; 6 * WINDOW];
    let engine = Shared::load();
    let runtime =
        Runtime::new(engine.clone(), [0; 8], profile, Policy::standard(), tensor).unwrap();
    let bare = Bare {
        engine,
        ready: vec![vec![0.0; 6 * WINDOW]; INFERENCES as usize],
        windows,
        next: 0,
    };
    (
        bare,
        Whole {
            recorded: true,
            runtime,
            recorder: Recorder::new(vec![0; 256 << 10]),
            ready: vec![[0.0; 6]; HOP * INFERENCES as usize],
            stream,
            next: 0,
            sequence: 0,
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
        bare.prepare();
        whole.prepare();
        if n % 2 == 0 {
            alone.push(timed(|| bare.round()));
            within.push(timed(|| whole.round()));
        } else {
            within.push(timed(|| whole.round()));
            alone.push(timed(|| bare.round()));
        }
    }
    (alone, within)
}

/// Inferences in a round.
pub const INFERENCES: u32 = 10;

fn timed(round: impl FnOnce()) -> f64 {
    let start = Instant::now();
    round();
    start.elapsed().as_nanos() as f64 / f64::from(INFERENCES)
}

/// The value that a share of all is below.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * share) as usize]
}
