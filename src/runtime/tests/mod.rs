//! The runtime as a whole, around an engine whose answers are known.

mod alarms;

use super::*;
use crate::contract::{MISSING, ViolationKind};
use crate::engine::EngineError;
use crate::guard::PredictionFlags;
use crate::profile::{DType, OutputKind};
use crate::testing::profile;

/// Remembers its inputs; answers logits that favour the class `winner`, or fails.
struct Recorder {
    inputs: usize,
    seen: Vec<Vec<f32>>,
    winner: usize,
    answer: Answer,
}

enum Answer {
    Logits,
    Fail,
    Nan,
}

impl Engine for Recorder {
    fn input_len(&self) -> usize {
        self.inputs
    }

    fn output_len(&self) -> usize {
        3
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        self.seen.push(input.to_vec());
        output.fill(0.0);
        output[self.winner] = 4.0;
        match self.answer {
            Answer::Logits => Ok(()),
            Answer::Fail => Err(EngineError::Run),
            Answer::Nan => {
                output[0] = f32::NAN;
                Ok(())
            }
        }
    }
}

type TestRuntime = Runtime<Recorder, Vec<f32>, 2, 3>;

fn runtime_with(
    window: u16,
    hop: u16,
    change: impl FnOnce(&mut Profile<2, 3>, &mut Policy),
) -> TestRuntime {
    let (mut profile, mut policy) = (profile::<2, 3>(window, hop), Policy::standard());
    change(&mut profile, &mut policy);
    let inputs = usize::from(window) * 2;
    Runtime::new(engine(inputs), [7; 8], profile, policy, vec![0.0; inputs]).unwrap()
}

fn runtime(window: u16, hop: u16) -> TestRuntime {
    runtime_with(window, hop, |_, _| {})
}

/// Pushes one sample; the clock gains five microseconds a reading.
fn push(runtime: &mut TestRuntime, sequence: u32, values: &[f32]) -> Step {
    let time_ms = u64::from(sequence) * 10;
    let mut micros = 0;
    runtime.push(
        &Sample {
            sequence,
            time_ms,
            values,
        },
        time_ms,
        &mut || {
            micros += 5;
            micros
        },
    )
}

/// An engine that remembers nothing yet.
fn engine(inputs: usize) -> Recorder {
    Recorder {
        inputs,
        seen: Vec::new(),
        winner: 1,
        answer: Answer::Logits,
    }
}

#[test]
fn a_runtime_begins_in_place_as_a_new_one_does() {
    let mut used = Runtime::blank(engine(0), vec![0.0; 8]);
    assert!(used.begin(engine(0), [7; 8]).is_err(), "of no profile");
    for (window, hop) in [(4, 1), (2, 2)] {
        let mut new = runtime(window, hop);
        let (profile, policy) = used.settings_mut();
        (*profile, *policy) = (new.profile.clone(), new.policy.clone());
        assert!(used.begin(engine(1), [7; 8]).is_err(), "of another input");
        used.begin(engine(usize::from(window) * 2), [7; 8]).unwrap();
        // A sample that breaks the contract, one behind, and a window that is not over.
        for i in [0, 1, 9, 3, 10, 11, 12] {
            let values = [if i == 9 { 1e9 } else { i as f32 }, 0.5];
            assert_eq!(push(&mut used, i, &values), push(&mut new, i, &values));
        }
        assert_eq!(used.engine.seen, new.engine.seen);
        assert_eq!(used.alarms.raised(), new.alarms.raised());
        assert!(used.alarms.raised() > 0);
        if hop == 2 {
            assert_eq!(used.take_summary(99), new.take_summary(99));
        }
    }
}

#[test]
fn inputs_slide_by_the_hop_in_both_layouts() {
    for layout in [Layout::SamplesFirst, Layout::FeaturesFirst] {
        for (window, hop) in [(1u32, 1u32), (4, 1), (4, 3), (4, 4), (5, 2)] {
            let mut runtime = runtime_with(window as u16, hop as u16, |profile, _| {
                profile.schema.layout = layout;
            });
            let value = |i: u32| [(i % 13) as f32 * 0.5, -((i % 11) as f32) * 0.25];
            let mut expected = Vec::new();
            for i in 0..40 {
                let step = push(&mut runtime, i, &value(i));
                let due = i + 1 >= window && (i + 1 - window).is_multiple_of(hop);
                assert_eq!(
                    step.prediction.is_some(),
                    due,
                    "{layout:?} {window}/{hop} at {i}"
                );
                if due {
                    let samples: Vec<_> = (i + 1 - window..=i).map(value).collect();
                    expected.push(match layout {
                        Layout::SamplesFirst => samples.concat(),
                        Layout::FeaturesFirst => (0..2)
                            .flat_map(|f| samples.iter().map(move |s| s[f]))
                            .collect(),
                    });
                    assert_eq!(runtime.last_input(), expected.last().unwrap().as_slice());
                }
            }
            assert_eq!(runtime.engine.seen, expected, "{layout:?} {window}/{hop}");
        }
    }
}

#[test]
fn predictions_carry_class_confidence_and_latency() {
    let mut runtime = runtime(2, 1);
    assert_eq!(push(&mut runtime, 0, &[0.0, 0.0]).prediction, None);
    let prediction = push(&mut runtime, 1, &[0.5, 0.0]).prediction.unwrap();
    let expected = 4f32.exp() / (4f32.exp() + 2.0);
    assert_eq!((prediction.class, prediction.latency_us), (1, 5));
    assert!((prediction.confidence - expected).abs() < 1e-6);
    assert!(!prediction.fallback);
    assert_eq!(prediction.flags, PredictionFlags::NONE);
    assert!((runtime.last_probabilities().iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert_eq!(runtime.last_output(), [0.0, 4.0, 0.0]);
}

#[test]
fn a_flagged_sample_flags_every_prediction_it_is_part_of() {
    let mut runtime = runtime(3, 1);
    let flagged: Vec<_> = (0..9)
        .map(|i| {
            let x = if i == 3 { 10.5 } else { i as f32 * 0.5 };
            let step = push(&mut runtime, i, &[x, 0.0]);
            step.prediction
                .is_some_and(|p| p.flags.contains(PredictionFlags::INPUT))
        })
        .collect();
    assert_eq!(
        flagged,
        [false, false, false, true, true, true, false, false, false]
    );
}

#[test]
fn rejected_samples_reach_neither_model_nor_drift() {
    let mut runtime = runtime_with(2, 1, |_, policy| {
        policy.rules[ViolationKind::AboveRange as usize].action = Action::Reject;
    });
    for (i, x) in [1.0, 11.0, 2.0, 3.0].into_iter().enumerate() {
        push(&mut runtime, i as u32, &[x, 0.0]);
    }
    assert_eq!(
        runtime.engine.seen,
        [[1.0, 0.0, 2.0, 0.0], [2.0, 0.0, 3.0, 0.0]]
    );
    let summary = runtime.take_summary(99);
    assert_eq!(
        (summary.samples, summary.rejected, summary.features[0].n),
        (4, 1, 3)
    );
    assert_eq!(summary.features[0].max, 3.0);
}

#[test]
fn filled_in_values_reach_the_model_and_not_the_drift_summary() {
    let mut runtime = runtime(2, 1);
    push(&mut runtime, 0, &[1.0, 2.0]);
    push(&mut runtime, 1, &[MISSING, 3.0]);
    assert_eq!(runtime.engine.seen, [[1.0, 2.0, 1.0, 3.0]]);
    let summary = runtime.take_summary(0);
    assert_eq!((summary.features[0].n, summary.features[1].n), (1, 2));
    assert_eq!(
        summary.features[0].violations[ViolationKind::Missing as usize],
        1
    );
}

#[test]
fn fallbacks_keep_the_pace_and_run_out() {
    let mut runtime = runtime_with(2, 2, |_, policy| policy.guard.max_fallbacks = 2);
    let nothing = push(&mut runtime, 0, &[f32::NAN, 0.0]);
    assert_eq!(
        (nothing.prediction, nothing.error),
        (None, None),
        "nothing to fall back on"
    );
    for i in 1..3 {
        push(&mut runtime, i, &[i as f32, 0.0]);
    }
    let answers: Vec<_> = (3..11)
        .map(|i| {
            push(&mut runtime, i, &[f32::NAN, 0.0])
                .prediction
                .map(|p| p.fallback)
        })
        .collect();
    let (none, last) = (None, Some(true));
    assert_eq!(answers, [none, last, none, last, none, none, none, none]);
    let summary = runtime.take_summary(0);
    assert_eq!(
        (summary.fallbacks, summary.rejected, summary.inferences),
        (2, 9, 1)
    );

    push(&mut runtime, 11, &[0.5, 0.0]);
    assert!(
        push(&mut runtime, 12, &[0.75, 0.0])
            .prediction
            .is_some_and(|p| !p.fallback)
    );
    push(&mut runtime, 13, &[f32::NAN, 0.0]);
    let again = push(&mut runtime, 14, &[f32::NAN, 0.0]).prediction;
    assert!(
        again.is_some_and(|p| p.fallback),
        "a good prediction fills the supply"
    );
}

#[test]
fn failed_inferences_are_counted_and_answered_from_the_last() {
    let mut runtime = runtime(1, 1);
    push(&mut runtime, 0, &[0.0, 0.0]);
    runtime.engine.answer = Answer::Fail;
    let step = push(&mut runtime, 1, &[0.5, 0.0]);
    assert_eq!(step.error, Some(InferenceError::Engine(EngineError::Run)));
    assert!(step.prediction.is_some_and(|p| p.fallback && p.class == 1));
    runtime.engine.answer = Answer::Nan;
    assert_eq!(
        push(&mut runtime, 2, &[0.25, 0.0]).error,
        Some(InferenceError::Output)
    );
    let summary = runtime.take_summary(0);
    assert_eq!(
        (summary.inferences, summary.errors, summary.output.n),
        (3, 2, 1)
    );
    assert_eq!(summary.latency.count(), 1);
}

#[test]
fn a_window_closes_with_its_last_sample_and_adds_up() {
    let mut runtime = runtime_with(4, 2, |profile, _| profile.drift_window = 10);
    for i in 0..10 {
        let step = push(&mut runtime, i, &[i as f32 * 0.5, 6.0 - i as f32]);
        assert_eq!(step.window_closed, i == 9);
    }
    let summary = runtime.take_summary(123);
    assert_eq!(summary.release, [7; 8]);
    assert_eq!(
        (summary.windows, summary.from_ms, summary.to_ms),
        (1, 0, 123)
    );
    assert_eq!(
        (summary.samples, summary.rejected, summary.inferences),
        (10, 0, 4)
    );
    assert_eq!(summary.features.len(), 2);
    for feature in &summary.features {
        assert_eq!(feature.bins.iter().sum::<u32>(), 10);
    }
    assert!((summary.features[0].mean - 2.25).abs() < 1e-6);
    assert_eq!(summary.output.classes.as_slice(), [0, 4, 0]);
    assert!(summary.output.expected_right <= 4.0 && summary.output.expected_right > 3.5);

    assert!(!push(&mut runtime, 10, &[0.0, 0.0]).window_closed);
    assert_eq!(
        runtime.take_summary(200).samples,
        1,
        "a new window has begun"
    );
}

#[test]
fn a_window_that_is_not_taken_is_discarded() {
    let mut runtime = runtime_with(1, 1, |profile, _| profile.drift_window = 3);
    for i in 0..7 {
        assert_eq!(
            push(&mut runtime, i, &[i as f32 * 0.1, 0.0]).window_closed,
            i % 3 == 2
        );
    }
    assert_eq!(runtime.take_summary(0).samples, 1);
}

#[test]
fn a_new_recording_empties_the_tensor() {
    let mut runtime = runtime(3, 1);
    for i in 0..5 {
        push(&mut runtime, i, &[i as f32, 0.0]);
    }
    runtime.reset_window();
    let answers: Vec<_> = (0..4)
        .map(|i| {
            push(&mut runtime, i, &[i as f32 * 0.5, 0.0])
                .prediction
                .is_some()
        })
        .collect();
    assert_eq!(answers, [false, false, true, true]);
    let summary = runtime.take_summary(0);
    assert_eq!(
        (summary.samples, summary.violations),
        (9, [0; ViolationKind::COUNT])
    );
}

#[test]
fn a_source_that_does_not_fit_is_kept_out_until_another_comes() {
    let mut runtime = runtime(1, 1);
    let good = SourceInfo {
        schema_version: 1,
        dtype: DType::F32,
        feature_version: 0,
        features: &["f0", "f1"],
    };
    let mut names = Vec::new();
    let bad = SourceInfo {
        features: &["f0", "gyro"],
        ..good
    };
    let found = runtime.announce(&bad, |v| names.push(v.name.map(String::from)));
    assert!(
        found.contains(ViolationKind::AbsentFeature)
            && found.contains(ViolationKind::UnknownFeature)
    );
    assert_eq!(names, [Some("gyro".into()), Some("f1".into())]);
    assert_eq!(
        push(&mut runtime, 0, &[0.0, 0.0]).check.outcome,
        Outcome::Rejected
    );
    assert_eq!(std::iter::from_fn(|| runtime.pop_alarm()).count(), 2);
    assert_eq!(runtime.source_action(), Action::Reject);

    assert!(runtime.announce(&good, |_| {}).is_empty());
    assert_eq!(runtime.source_action(), Action::Count);
    assert_eq!(
        push(&mut runtime, 1, &[0.5, 0.0]).check.outcome,
        Outcome::Accepted
    );
    let extra = SourceInfo {
        features: &["f0", "f1", "gyro"],
        ..good
    };
    runtime.announce(&extra, |_| {});
    let step = push(&mut runtime, 2, &[0.25, 0.0]);
    assert_eq!(step.check.outcome, Outcome::Flagged);
    assert!(
        step.prediction
            .is_some_and(|p| p.flags.contains(PredictionFlags::INPUT))
    );
    let summary = runtime.take_summary(0);
    assert_eq!(
        summary.violations[ViolationKind::UnknownFeature as usize],
        2
    );
}

#[test]
fn values_without_classes_are_scored_by_the_first() {
    let mut runtime = runtime_with(1, 1, |profile, _| {
        profile.output.kind = OutputKind::Values;
        profile.output.class_counts.clear();
        profile.output.score_p01 = -1.0;
    });
    runtime.engine.winner = 0;
    let prediction = push(&mut runtime, 0, &[0.0, 0.0]).prediction.unwrap();
    assert_eq!((prediction.class, prediction.confidence), (0, 4.0));
    assert!(prediction.flags.contains(PredictionFlags::Z_OUTLIER));
    assert!(prediction.flags.contains(PredictionFlags::ABOVE_P99));
    let output = runtime.take_summary(0).output;
    assert_eq!(
        (
            output.n,
            output.z_outliers,
            output.above_p99,
            output.below_p01
        ),
        (1, 1, 1, 0)
    );
    assert_eq!((output.score_mean, output.expected_right), (4.0, 0.0));
    assert_eq!(output.classes.iter().sum::<u32>(), 0);
}

#[test]
fn what_enters_the_model_and_leaves_it_is_recorded() {
    use crate::recorder::{Outcome, Recorder as Flight, Records, Snapshot, What};
    let mut runtime = runtime(2, 1);
    let mut flight = Flight::new([0; 4096]);
    let mut steps = Vec::new();
    for sequence in 0..6 {
        runtime.engine.answer = match sequence {
            3 => Answer::Fail,
            4 => Answer::Nan,
            _ => Answer::Logits,
        };
        let sample = Sample {
            sequence,
            time_ms: u64::from(sequence) * 10,
            values: &[sequence as f32, -0.0],
        };
        let mut clock_us = || 5;
        let now_ms = 1000 + u64::from(sequence);
        steps.push(runtime.push_recorded(&sample, now_ms, &mut clock_us, Some(&mut flight)));
    }
    let mut bytes = vec![0; flight.len()];
    flight.read(0, &mut bytes);
    let records: Vec<_> = Records::new(&bytes).map(Result::unwrap).collect();
    assert_eq!(records.len(), 5, "one an inference, answered or not");
    for ((record, seen), sequence) in records.iter().zip(&runtime.engine.seen).zip(1u32..) {
        let What::Inference(inference) = record.what else {
            panic!("an inference");
        };
        assert_eq!(
            (record.release, record.number),
            ([7; 8], u64::from(sequence))
        );
        assert_eq!(
            (inference.sample, record.time_ms),
            (sequence, 1000 + u64::from(sequence))
        );
        let input = inference.input.f32s().unwrap().map(f32::to_bits);
        assert!(input.eq(seen.iter().map(|x| x.to_bits())));
        let output: Vec<_> = inference.output.f32s().unwrap().collect();
        let step = &steps[sequence as usize];
        let outcome = match sequence {
            3 => Outcome::Failed,
            4 => Outcome::Refused,
            _ => Outcome::Answered,
        };
        assert_eq!(inference.outcome, outcome);
        match outcome {
            Outcome::Failed => assert!(output.is_empty()),
            Outcome::Refused => assert!(output[0].is_nan()),
            Outcome::Answered => {
                let prediction = step.prediction.unwrap();
                assert_eq!(output, [0.0, 4.0, 0.0]);
                assert_eq!(inference.class, prediction.class);
                assert_eq!(inference.confidence, prediction.confidence);
            }
        }
    }
}
