use super::*;
use crate::guard::PredictionFlags;
use crate::telemetry::Refused;
use proptest::prelude::*;
use std::collections::VecDeque;

const RELEASE: ReleaseId = [7; 8];

fn stamp(sample: u32) -> Stamp {
    Stamp {
        time_ms: 1_000 + u64::from(sample),
        release: RELEASE,
        sample,
    }
}

fn prediction(class: u16) -> Prediction {
    Prediction {
        class,
        confidence: 0.75,
        flags: PredictionFlags::Z_OUTLIER,
        latency_us: 21,
        fallback: false,
    }
}

/// What one step of a test writes.
#[derive(Debug, Clone)]
enum Step {
    I8(Vec<i8>, Vec<i8>),
    F32(Vec<f32>, Vec<f32>),
    Failed(Vec<i8>),
    Event(Event),
}

fn write<B: AsRef<[u8]> + AsMut<[u8]>>(recorder: &mut Recorder<B>, sample: u32, step: &Step) {
    let (input, output) = match step {
        Step::Event(event) => return recorder.event(stamp(sample).time_ms, RELEASE, event),
        Step::I8(input, output) => (Elements::I8(input), Some(Elements::I8(output))),
        Step::F32(input, output) => (Elements::F32(input), Some(Elements::F32(output))),
        Step::Failed(input) => (Elements::I8(input), None),
    };
    let outputs = match step {
        Step::I8(_, output) => output.len(),
        Step::F32(_, output) => output.len(),
        _ => 3,
    };
    let mut entry = recorder.begin(stamp(sample), outputs);
    entry.input(input);
    match output {
        Some(output) => {
            entry.output(output);
            entry.finish(&Ok(prediction(2)));
        }
        None => entry.finish(&Err(InferenceError::Engine(
            crate::engine::EngineError::Run,
        ))),
    }
}

fn bytes_of(recorder: &impl Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; recorder.len()];
    recorder.read(0, &mut bytes);
    bytes
}

/// The bytes of one step alone, under its number.
fn alone(number: u32, step: &Step) -> Vec<u8> {
    let mut recorder = Recorder::new(vec![0; 4096]);
    recorder.written = u64::from(number) - 1;
    write(&mut recorder, number, step);
    bytes_of(&recorder)
}

fn event() -> Step {
    let what = Refused::Ack;
    Step::Event(Event::Refused { what })
}

#[test]
fn what_is_recorded_reads_back() {
    let mut recorder = Recorder::new([0; 1024]);
    write(
        &mut recorder,
        1,
        &Step::I8(vec![-128, 0, 127, 3, 4], vec![1, -2]),
    );
    recorder.set_standing(Standing::Trial);
    write(
        &mut recorder,
        2,
        &Step::F32(vec![1.5, f32::NAN], vec![-0.0]),
    );
    write(&mut recorder, 3, &Step::Failed(vec![9]));
    write(&mut recorder, 4, &event());
    let refused = Err(InferenceError::Output);
    let mut entry = recorder.begin(stamp(5), 1);
    entry.input(Elements::I8(&[1]));
    entry.output(Elements::F32(&[f32::INFINITY]));
    entry.finish(&refused);
    let bytes = bytes_of(&recorder);
    let records: Result<Vec<_>, _> = Records::new(&bytes).collect();
    let records = records.expect("sound");
    assert_eq!(records.len(), 5);
    for (record, number) in records.iter().zip(1..) {
        assert_eq!(record.number, number);
        assert_eq!((record.time_ms, record.release), (1_000 + number, RELEASE));
        let standing = if number == 1 {
            Standing::Confirmed
        } else {
            Standing::Trial
        };
        assert_eq!(record.standing, standing);
    }
    let inference = |index: usize| match records[index].what {
        What::Inference(inference) => inference,
        What::Event(_) => panic!("an inference"),
    };
    let first = inference(0);
    assert_eq!(first.outcome, Outcome::Answered);
    assert_eq!((first.sample, first.class, first.flags), (1, 2, 2));
    assert_eq!((first.confidence, first.latency_us), (0.75, 21));
    let input: Vec<_> = first.input.i8s().expect("int8").collect();
    assert_eq!(input, [-128, 0, 127, 3, 4]);
    assert_eq!(
        first.output.i8s().expect("int8").collect::<Vec<_>>(),
        [1, -2]
    );
    assert!(first.input.f32s().is_none());
    let second = inference(1);
    let bits: Vec<_> = second
        .input
        .f32s()
        .expect("float")
        .map(f32::to_bits)
        .collect();
    assert_eq!(bits, [1.5f32.to_bits(), f32::NAN.to_bits()]);
    let bits: Vec<_> = second
        .output
        .f32s()
        .expect("float")
        .map(f32::to_bits)
        .collect();
    assert_eq!(bits, [(-0.0f32).to_bits()], "minus zero is not zero");
    let third = inference(2);
    assert_eq!((third.outcome, third.output.len()), (Outcome::Failed, 0));
    assert_eq!(third.input.bytes(), [9]);
    assert!(matches!(
        records[3].what,
        What::Event(Event::Refused { .. })
    ));
    assert_eq!(inference(4).outcome, Outcome::Refused);
    assert_eq!(inference(4).confidence, 0.0);
}

#[test]
fn what_is_larger_than_the_ring_leaves_a_gap_and_nothing_else() {
    let mut recorder = Recorder::new([0; 103]);
    assert_eq!(recorder.capacity(), 100);
    write(&mut recorder, 1, &event());
    let before = bytes_of(&recorder);
    write(&mut recorder, 2, &Step::I8(vec![0; 100], vec![0]));
    assert_eq!(bytes_of(&recorder), before, "the small one stays");
    write(&mut recorder, 3, &event());
    let bytes = bytes_of(&recorder);
    let numbers: Vec<_> = Records::new(&bytes)
        .map(|record| record.expect("sound").number)
        .collect();
    assert_eq!(numbers, [1, 3]);
    let mut none = Recorder::new([0; 3]);
    write(&mut none, 1, &event());
    write(&mut none, 2, &Step::Failed(vec![]));
    assert!(none.is_empty());
}

#[test]
fn an_output_of_other_length_than_announced_is_not_recorded() {
    let mut recorder = Recorder::new([0; 256]);
    let mut entry = recorder.begin(stamp(1), 1);
    entry.input(Elements::I8(&[1]));
    entry.output(Elements::I8(&[1, 2, 3, 4, 5]));
    entry.finish(&Err(InferenceError::Output));
    let bytes = bytes_of(&recorder);
    let error = Records::new(&bytes)
        .next()
        .expect("one")
        .expect_err("no output");
    assert_eq!(error.field, RecordField::OutputBytes);
}

/// One of each, to be damaged.
fn samples() -> Vec<u8> {
    let mut recorder = Recorder::new(vec![0; 4096]);
    write(&mut recorder, 1, &Step::I8(vec![1, 2, 3, 4, 5], vec![6, 7]));
    write(&mut recorder, 2, &Step::F32(vec![1.0, 2.0], vec![3.0]));
    write(&mut recorder, 3, &Step::Failed(vec![1, 2]));
    write(&mut recorder, 4, &event());
    bytes_of(&recorder)
}

/// Writes what was read; `None` for what no recorder writes.
fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut out = Vec::new();
    for record in Records::new(bytes) {
        let record = record?;
        let mut recorder = Recorder::new(vec![0; bytes.len() + 64]);
        recorder.written = record.number - 1;
        recorder.set_standing(record.standing);
        match record.what {
            What::Event(event) => recorder.event(record.time_ms, record.release, &event),
            What::Inference(inference) => {
                let stamp = Stamp {
                    time_ms: record.time_ms,
                    release: record.release,
                    sample: inference.sample,
                };
                let mut entry = recorder.begin(stamp, inference.output.bytes().len());
                take(&mut entry, inference.input, false);
                if inference.outcome != Outcome::Failed {
                    take(&mut entry, inference.output, true);
                }
                let mut flags = PredictionFlags::NONE;
                for flag in [
                    PredictionFlags::INPUT,
                    PredictionFlags::Z_OUTLIER,
                    PredictionFlags::BELOW_P01,
                    PredictionFlags::ABOVE_P99,
                ] {
                    if inference.flags & flag.bits() != 0 {
                        flags.insert(flag);
                    }
                }
                entry.finish(&match inference.outcome {
                    Outcome::Answered => Ok(Prediction {
                        class: inference.class,
                        confidence: inference.confidence,
                        flags,
                        latency_us: inference.latency_us,
                        fallback: false,
                    }),
                    Outcome::Failed => Err(InferenceError::Engine(crate::engine::EngineError::Run)),
                    Outcome::Refused => Err(InferenceError::Output),
                });
            }
        }
        out.extend(bytes_of(&recorder));
    }
    Ok(out)
}

fn take(tape: &mut impl Tape, tensor: Tensor<'_>, output: bool) {
    let (i8s, f32s): (Vec<i8>, Vec<f32>) = match tensor {
        Tensor::I8(_) => (tensor.i8s().expect("int8").collect(), vec![]),
        Tensor::F32(_) => (vec![], tensor.f32s().expect("float").collect()),
    };
    let elements = match tensor {
        Tensor::I8(_) => Elements::I8(&i8s),
        Tensor::F32(_) => Elements::F32(&f32s),
    };
    if output {
        tape.output(elements);
    } else {
        tape.input(elements);
    }
}

#[test]
fn every_damaged_byte_is_an_error_or_another_record() {
    let bytes = samples();
    assert_eq!(rewritten(&bytes).as_ref(), Ok(&bytes));
    let (mut refused, mut other) = (0, 0);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            match rewritten(&damaged) {
                Err(error) => {
                    assert!(error.offset as usize <= at + 4096);
                    refused += 1;
                }
                Ok(again) => {
                    assert_ne!(again, bytes, "byte {at}, bit {bit}");
                    other += 1;
                }
            }
        }
        let whole = Records::new(&bytes[..at]).all(|record| record.is_ok());
        let ends: Vec<_> = ends(&bytes);
        assert_eq!(whole, at == 0 || ends.contains(&at), "cut at {at}");
    }
    assert!(refused > 100 && other > 100, "{refused} and {other}");
}

fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        at += u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four")) as usize;
        ends.push(at);
    }
    ends
}

fn steps() -> impl Strategy<Value = Step> {
    let i8s = |most| prop::collection::vec(any::<i8>(), 0..most);
    let f32s = |most| prop::collection::vec(any::<f32>(), 1..most);
    prop_oneof![
        (i8s(70), prop::collection::vec(any::<i8>(), 1..6)).prop_map(|(a, b)| Step::I8(a, b)),
        (f32s(20), f32s(4)).prop_map(|(a, b)| Step::F32(a, b)),
        i8s(40).prop_map(Step::Failed),
        Just(event()),
    ]
}

proptest! {
    /// After each write the ring holds the newest records, as many as fit with the room that the newest
    /// asked for, and a copy of another size the newest of these.
    #[test]
    fn the_ring_keeps_the_newest(
        capacity in 0usize..700, smaller in 0usize..700, steps in prop::collection::vec(steps(), 1..40),
    ) {
        let mut recorder = Recorder::new(vec![0xEE; capacity]);
        let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
        let room = recorder.capacity();
        for (number, step) in (1..).zip(&steps) {
            let bytes = alone(number, step);
            // An output may turn out shorter than the room made for it.
            let asked = match step {
                Step::I8(input, output) => INFERENCE_BYTES + padded(input.len()) + 4 * output.len(),
                Step::Failed(input) => INFERENCE_BYTES + padded(input.len()) + 12,
                _ => bytes.len(),
            };
            write(&mut recorder, number, step);
            if asked <= room {
                while room - expected.iter().map(Vec::len).sum::<usize>() < asked {
                    expected.pop_front();
                }
                expected.push_back(bytes);
            }
            let all: Vec<u8> = expected.iter().flatten().copied().collect();
            prop_assert_eq!(bytes_of(&recorder), all.clone());
            prop_assert!(Records::new(&all).all(|record| record.is_ok()));
            prop_assert_eq!(rewritten(&all), Ok(all));
        }
        let mut copy = Recorder::new(vec![0xDD; smaller]);
        write(&mut copy, 1, &event());
        recorder.copy_to(&mut copy);
        let mut kept: Vec<u8> = Vec::new();
        for bytes in expected.iter().rev() {
            if kept.len() + bytes.len() > copy.capacity() {
                break;
            }
            kept = [&bytes[..], &kept].concat();
        }
        prop_assert_eq!(bytes_of(&copy), kept);
        let mut tail = vec![0; recorder.len() / 3];
        let at = recorder.len() - tail.len();
        recorder.read(at, &mut tail);
        prop_assert_eq!(&tail[..], &bytes_of(&recorder)[at..]);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Records::new(&bytes).count() <= bytes.len() / HEAD_BYTES + 1);
    }

    /// A sound start leads the reader to every field.
    #[test]
    fn any_damaged_record_is_read_without_a_panic(
        at in any::<prop::sample::Index>(), word in any::<u32>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = samples();
        let at = at.index(bytes.len() - 4);
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        prop_assert!(Records::new(&bytes).count() <= 5);
        let _ = Records::new(&bytes[..cut.index(bytes.len())]).count();
    }
}
