//! Replays of records of the example models: what a board's fastest kernels gave, and what was changed.

use edgeward::RUNTIME_VERSION;
use edgeward::bundle::golden::encode_golden;
use edgeward::bundle::write::{BundleWriter, Description};
use edgeward::bundle::{BoardClass, Bundle, SectionKind};
use edgeward::engine::board::BoardEngine;
use edgeward::engine::program::ProgramEngine;
use edgeward::engine::{Elements, Engine, Tape};
use edgeward::guard::{InferenceError, Prediction, PredictionFlags};
use edgeward::program::Layout;
use edgeward::recorder::{Recorder, Stamp};
use edgeward::telemetry::pull::Pull;
use edgeward::telemetry::{Event, Id, Refused, ReleaseId, release_id};
use edgeward::trust::Signer;
use edgeward::trust::ring::RingSigner;
use edgeward_compiler::{Options, compile};
use edgeward_host::flight::FlightRecord;
use edgeward_host::npy::Array;
use edgeward_host::replay::{ReplayError, replay};
use std::path::Path;

fn motion(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    std::fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Golden inputs of the int8 release.
fn inputs() -> Vec<Vec<f32>> {
    let array = Array::parse(&motion("golden-v2-input.npy")).expect("an array");
    let count = array.shape[0];
    let values = array.into_f32();
    let row = values.len() / count;
    values.chunks_exact(row).map(<[f32]>::to_vec).collect()
}

fn bundle(class: BoardClass, kernels: &str, sections: &[(SectionKind, &[u8])]) -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "motion".into(),
        version: "2".into(),
        counter: 1,
        class,
        kernels: kernels.into(),
        arena_bytes: 0,
        min_runtime: RUNTIME_VERSION,
    })
    .expect("a manifest");
    for &(kind, bytes) in sections {
        writer.section(kind, bytes).expect("first of its kind");
    }
    writer.finish().expect("it fits")
}

fn id(bundle: &[u8]) -> ReleaseId {
    let bundle = Bundle::open(bundle).expect("a bundle");
    release_id(&bundle.head().digest())
}

/// Changes what is recorded as an output.
type Change<'a> = &'a dyn Fn(u32, &mut [i8], &mut [f32]);

/// A tape that changes outputs on their way to a recorder.
struct Changed<'a> {
    tape: &'a mut dyn Tape,
    sample: u32,
    change: Change<'a>,
}

impl Tape for Changed<'_> {
    fn input(&mut self, elements: Elements<'_>) {
        self.tape.input(elements);
    }

    fn output(&mut self, elements: Elements<'_>) {
        match elements {
            Elements::I8(elements) => {
                let mut elements = elements.to_vec();
                (self.change)(self.sample, &mut elements, &mut []);
                self.tape.output(Elements::I8(&elements));
            }
            Elements::F32(elements) => {
                let mut elements = elements.to_vec();
                (self.change)(self.sample, &mut [], &mut elements);
                self.tape.output(Elements::F32(&elements));
            }
        }
    }
}

/// What a board would have recorded of these inputs, signed and read again.
fn recorded(engine: &mut dyn Engine, release: ReleaseId, change: Change<'_>) -> FlightRecord {
    let mut recorder = Recorder::new(vec![0; 1 << 20]);
    for (input, sample) in inputs().iter().zip(0..) {
        let mut output = vec![0.0; engine.output_len()];
        let stamp = Stamp {
            time_ms: 1,
            release,
            sample,
        };
        let mut entry = recorder.begin(stamp, output.len());
        let mut tape = Changed {
            tape: &mut entry,
            sample,
            change,
        };
        let run = engine.run_on_tape(input, &mut output, &mut tape);
        let answer = Prediction {
            class: 0,
            confidence: 1.0,
            flags: PredictionFlags::NONE,
            latency_us: 1,
            fallback: false,
        };
        entry.finish(&run.map(|()| answer).map_err(InferenceError::Engine));
    }
    let what = Refused::Ack;
    recorder.event(2, release, &Event::Refused { what });
    let key = RingSigner::from_seed(&[3; 32]).expect("any seed is a key");
    let mut out = vec![0; 9117];
    let mut pull = Pull::new([1; 16], 3, 5, &recorder, out.len()).expect("room");
    let device = Id::try_from("board-1").expect("short");
    let mut file = Vec::new();
    while !pull.is_done() {
        let len = pull.sign_next(&device, &recorder, &key, &mut out);
        file.extend_from_slice(&out[..len.expect("room")]);
        pull.sent();
    }
    FlightRecord::open(&file, &key.public_key()).expect("sound")
}

#[test]
fn every_output_of_a_program_is_equal_bit_for_bit_whatever_kernels_ran() {
    let model = motion("motion-v2.onnx");
    for (layout, class, kernels) in [
        (Layout::Natural, BoardClass::Linux, "natural"),
        (Layout::CortexM, BoardClass::Mcu, "cortex-m"),
    ] {
        let compiled = compile(&model, &Options::mcu(layout)).expect("a program");
        let sections = [(SectionKind::Program, compiled.program.as_slice())];
        let bundle = bundle(class, kernels, &sections);
        let release = id(&bundle);
        let mut engine = ProgramEngine::new(&compiled.program).expect("a program");
        let count = inputs().len();
        let record = recorded(&mut engine, release, &|_, _, _| {});
        let mut find = |asked| (asked == release).then(|| bundle.clone());
        let report = replay(&record, &mut find).expect("it fits");
        assert_eq!(report.first_difference, None);
        assert_eq!((report.records, report.events), (count + 1, 1));
        assert_eq!((report.replayed(), report.equal()), (count, count));
        assert_eq!(report.releases[0].tolerance, None);

        // One bit of one output.
        let flip = |sample: u32, elements: &mut [i8], _: &mut [f32]| {
            if sample == 2 {
                elements[1] ^= 1;
            }
        };
        let record = recorded(&mut engine, release, &flip);
        let report = replay(&record, &mut find).expect("it fits");
        let difference = report.first_difference.as_ref().expect("a difference");
        assert_eq!((difference.record, difference.sample), (3, 2));
        assert_eq!(difference.index, 1);
        assert_eq!((difference.expected - difference.seen).abs(), 1.0);
        assert_eq!((report.replayed(), report.equal()), (3, 2), "it ends there");

        // Without the bundle nothing is replayed, and the report says of which release.
        let report = replay(&record, &mut |_| None).expect("nothing to fit");
        assert_eq!(report.replayed(), 0);
        assert_eq!(report.unknown().len(), 1);
        // Another bundle is no substitute, nor one that is damaged.
        let other = self::bundle(
            class,
            kernels,
            &[(SectionKind::Program, &compiled.program[..64])],
        );
        let mut damaged = bundle.clone();
        *damaged.last_mut().expect("a byte") ^= 1;
        for wrong in [other, damaged, vec![]] {
            let error = replay(&record, &mut |_| Some(wrong.clone()));
            assert!(
                matches!(error, Err(ReplayError::Bundle { .. })),
                "{error:?}"
            );
        }
    }
}

#[test]
fn tracts_outputs_may_be_off_by_the_releases_own_tolerance() {
    let model = motion("motion-v2.onnx");
    let golden = encode_golden(0.01, &[(vec![0.0; 300], vec![0.0; 4])]).expect("a vector");
    let sections = [
        (SectionKind::TractModel, model.as_slice()),
        (SectionKind::Golden, golden.as_slice()),
    ];
    let bundle = bundle(BoardClass::Linux, "tract", &sections);
    let release = id(&bundle);
    let opened = Bundle::open(&bundle).expect("a bundle");
    let mut engine = BoardEngine::of_bundle(&opened).expect("a model");
    let count = inputs().len();
    for (off, equal, within) in [(0.0, count, count), (0.009, 0, count), (0.011, 0, 0)] {
        let change = move |_, _: &mut [i8], elements: &mut [f32]| elements[3] += off;
        let record = recorded(&mut engine, release, &change);
        let mut find = |_| Some(bundle.clone());
        let report = replay(&record, &mut find).expect("it fits");
        let row = &report.releases[0];
        assert_eq!(row.tolerance, Some(0.01));
        assert_eq!((row.equal, row.within), (equal, within), "off by {off}");
        assert_eq!(report.first_difference.is_some(), within == 0);
        if let Some(difference) = report.first_difference {
            assert_eq!((difference.record, difference.index), (1, 3));
        }
    }
    // What is not a number is no output of tract.
    let change = |_, _: &mut [i8], elements: &mut [f32]| elements[0] = f32::NAN;
    let record = recorded(&mut engine, release, &change);
    let report = replay(&record, &mut |_| Some(bundle.clone())).expect("it fits");
    assert!(report.first_difference.is_some());
}
