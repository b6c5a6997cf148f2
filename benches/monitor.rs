//! What monitoring costs: contract, drift, guard and flight recorder for themselves, and a runtime
//! around an engine that does nothing. Throughput is in feature samples (one value of one feature).

#[path = "monitor/profile.rs"]
mod shared;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgeward::contract::{Contract, MISSING, Sample};
use edgeward::drift::{Window, Windows};
use edgeward::engine::{Elements, Engine, EngineError, Tape};
use edgeward::guard::{Guard, Prediction, PredictionFlags};
use edgeward::policy::Policy;
use edgeward::profile::{Layout, Profile};
use edgeward::recorder::{Recorder, Stamp};
use edgeward::runtime::Runtime;
use std::hint::black_box;

/// As many as a Linux board has room for (`edgeward_firmware`'s `MAX_FEATURES` and `MAX_OUTPUTS`); the benches
/// fill fewer of them.
const F: usize = 128;
const C: usize = 32;
/// Samples that are prepared, so that branches are not learnt by heart.
const SAMPLES: usize = 4096;

/// An engine that copies the first values.
struct Null {
    inputs: usize,
}

impl Engine for Null {
    fn input_len(&self) -> usize {
        self.inputs
    }

    fn output_len(&self) -> usize {
        4
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        output.copy_from_slice(&input[..4]);
        Ok(())
    }
}

/// Roughly normal values.
fn values(n: usize) -> Vec<f32> {
    shared::normal().take(n).collect()
}

fn profile(features: usize, window: u16, hop: u16, layout: Layout) -> Profile<F, C> {
    let mut sorted = values(5000);
    sorted.sort_by(f32::total_cmp);
    shared::profile(&sorted, features, window, hop, layout)
}

/// Streams by their names, features, and whether the first of these never has a value, as a sensor leaves
/// it that delivers nothing.
const STREAMS: [(&str, usize, bool); 3] = [
    ("6", 6, false),
    ("30", 30, false),
    ("30/one missing", 30, true),
];

/// The samples one after the other, and enough behind the last for all places of a row.
fn stream(features: usize, missing: bool) -> Vec<f32> {
    let mut values = values(SAMPLES * features + F);
    if missing {
        values
            .iter_mut()
            .step_by(features)
            .for_each(|value| *value = MISSING);
    }
    values
}

fn contract(c: &mut Criterion) {
    let policy = Policy::standard();
    let mut group = c.benchmark_group("contract");
    for (name, features, missing) in STREAMS {
        let profile = profile(features, 100, 10, Layout::FeaturesFirst);
        let values = stream(features, missing);
        let mut contract = Contract::<F>::new(&profile, &policy);
        let (mut out, mut n) = ([0.0; F], 0u32);
        group.throughput(Throughput::Elements(features as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                n = n.wrapping_add(1);
                let at = n as usize % SAMPLES * features;
                let time_ms = u64::from(n) * 10;
                let sample = Sample {
                    sequence: n,
                    time_ms,
                    values: &values[at..at + features],
                };
                contract.check(
                    &profile,
                    &policy,
                    black_box(&sample),
                    time_ms,
                    &mut out,
                    &mut |v| {
                        black_box(v);
                    },
                )
            });
        });
    }
}

fn drift_windows(c: &mut Criterion) {
    let mut group = c.benchmark_group("drift");
    for (name, features, missing) in STREAMS {
        let profile = profile(features, 100, 10, Layout::FeaturesFirst);
        let values = stream(features, missing);
        let (mut windows, mut n) = (Windows::<F>::new(&profile.features), 0usize);
        group.throughput(Throughput::Elements(features as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                n += 1;
                if n.is_multiple_of(shared::DRIFT_WINDOW as usize) {
                    windows.clear();
                }
                let at = n % SAMPLES * features;
                let row = values[at..].first_chunk().unwrap();
                windows.push(&profile.features, black_box(row));
            });
        });
    }
    group.finish();

    // Once a window and feature.
    let profile = profile(1, 1, 1, Layout::SamplesFirst);
    let mut window = Window::EMPTY;
    values(1000)
        .iter()
        .for_each(|&x| window.push(&profile.features[0], x));
    c.bench_function("statistics", |b| {
        b.iter(|| black_box(&window).statistics(&profile.features[0]));
    });
}

fn guard(c: &mut Criterion) {
    let (profile, policy) = (profile(1, 1, 1, Layout::SamplesFirst), Policy::standard());
    let logits = values(SAMPLES * 4);
    let (mut guard, mut n) = (Guard::<C>::default(), 0usize);
    c.bench_function("guard/4", |b| {
        b.iter(|| {
            n += 1;
            let at = n % SAMPLES * 4;
            let output = black_box(&logits[at..at + 4]);
            let mut prediction = guard
                .judge(&profile.output, &policy.guard, output, false)
                .unwrap();
            guard.finish(&policy.guard, &mut prediction, 50);
            prediction
        });
    });
}

/// One inference into a ring of 256 KiB, and a copy of the whole ring as a pull takes it.
fn recorder(c: &mut Criterion) {
    let mut group = c.benchmark_group("recorder");
    let floats = values(600);
    let bytes: Vec<i8> = floats.iter().map(|&x| (x * 16.0) as i8).collect();
    let answer = Ok(Prediction {
        class: 1,
        confidence: 0.5,
        flags: PredictionFlags::NONE,
        latency_us: 20,
        fallback: false,
    });
    let inputs = [Elements::I8(&bytes), Elements::F32(&floats)];
    let outputs = [Elements::I8(&bytes[..4]), Elements::F32(&floats[..4])];
    for (name, (input, output)) in ["int8/600", "f32/600"]
        .into_iter()
        .zip(inputs.into_iter().zip(outputs))
    {
        let mut recorder = Recorder::new(vec![0; 256 << 10]);
        let mut n = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                n += 1;
                let stamp = Stamp {
                    time_ms: u64::from(n),
                    release: [1; 8],
                    sample: n,
                };
                let mut entry = recorder.begin(stamp, 4);
                entry.input(black_box(input));
                entry.output(black_box(output));
                entry.finish(&answer);
            });
        });
        let mut copy = Recorder::new(vec![0; 256 << 10]);
        group.bench_function(format!("{name}/copy"), |b| {
            b.iter(|| black_box(&recorder).copy_to(&mut copy));
        });
    }
}

fn runtime(c: &mut Criterion) {
    let mut group = c.benchmark_group("runtime");
    for (name, features, window, hop, layout) in [
        ("features-first/6x100/10", 6, 100, 10, Layout::FeaturesFirst),
        ("samples-first/6x100/10", 6, 100, 10, Layout::SamplesFirst),
        ("tabular/30", 30, 1, 1, Layout::SamplesFirst),
    ] {
        let inputs = features * usize::from(window);
        let profile = profile(features, window, hop, layout);
        let tensor = vec![0.0; inputs];
        let policy = Policy::standard();
        let mut runtime = Runtime::new(Null { inputs }, [0; 8], profile, policy, tensor).unwrap();
        let values = values(SAMPLES * features);
        let mut n = 0u32;
        group.throughput(Throughput::Elements(features as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                n = n.wrapping_add(1);
                let at = n as usize % SAMPLES * features;
                let time_ms = u64::from(n) * 10;
                let sample = Sample {
                    sequence: n,
                    time_ms,
                    values: &values[at..at + features],
                };
                let step = runtime.push(black_box(&sample), time_ms, &mut || 0);
                if step.window_closed {
                    black_box(runtime.take_summary(time_ms));
                    while runtime.pop_alarm().is_some() {}
                }
                step
            });
        });
    }
}

criterion_group!(benches, contract, drift_windows, guard, recorder, runtime);
criterion_main!(benches);
