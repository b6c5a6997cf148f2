use super::*;
use crate::store::StoreFlash;
use crate::testing::{MemoryFlash, store};
use edgeward::bundle::decode::{encode_policy, encode_profile};
use edgeward::bundle::golden::encode_golden;
use edgeward::bundle::{BoardClass, Bundle, BundleWriter, Description, SectionKind};
use edgeward::contract::SourceInfo;
use edgeward::drift::edges_of_sorted;
use edgeward::policy::Policy;
use edgeward::profile::{
    BINS, DType, DriftLimits, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};
use edgeward::program::codec::{Field, Writer};
use edgeward::program::{HEADER_BYTES, Header, MAGIC, Portable, VERSION};
use edgeward::recorder::{Records, Snapshot};
use edgeward_firmware::control::Mode;
use embedded_storage::nor_flash::NorFlash;
use std::vec::Vec;

/// Samples of two features in a window.
const WINDOW: u16 = 4;
const OUTPUTS: usize = 3;

const SOURCE: SourceInfo<'_> = SourceInfo {
    schema_version: 1,
    dtype: DType::F32,
    feature_version: 0,
    features: &["f0", "f1"],
};
/// As many sensors as no board has room for by default.
const MANY: SourceInfo<'_> = SourceInfo {
    features: &[
        "f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f10", "f11", "f12", "f13",
        "f14", "f15", "f16", "f17", "f18", "f19",
    ],
    ..SOURCE
};

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

fn feature(text: &str) -> FeatureProfile {
    let values: Vec<f32> = (-14..14).map(|i| i as f32 / 2.0).collect();
    let none = f32::INFINITY;
    FeatureProfile {
        name: name(text),
        missing: MissingPolicy::HoldLast,
        min: -10.0,
        max: 10.0,
        mean: 0.0,
        sd: 4.0,
        max_rate: none,
        stuck_run: 0,
        edges: edges_of_sorted(&values).unwrap(),
        reference: [2; BINS],
        limits: DriftLimits {
            psi: none,
            ks: none,
            js: none,
            wasserstein: none,
        },
    }
}

fn profile(source: &SourceInfo<'_>) -> Profile<32, OUTPUTS> {
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window: WINDOW,
            hop: 1,
            layout: Layout::SamplesFirst,
            period_ms: 0,
            max_age_ms: 0,
            feature_version: 0,
        },
        features: source.features.iter().map(|text| feature(text)).collect(),
        output: OutputProfile {
            kind: OutputKind::Logits,
            names: ["a", "b", "c"].into_iter().map(name).collect(),
            temperature: 1.0,
            class_counts: [100; OUTPUTS].into_iter().collect(),
            score_mean: 0.8,
            score_sd: 0.1,
            score_p01: 0.4,
            score_p99: 0.99,
            entropy_mean: 0.3,
            class_psi_limit: f32::INFINITY,
            score_shift_limit: f32::INFINITY,
        },
        drift_window: 1000,
    }
}

/// A program of no operators: its outputs are its first inputs.
fn program(inputs: usize) -> Vec<u8> {
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        layout: 0,
        flags: 0,
        bytes: HEADER_BYTES as u32,
        op_bytes: 0,
        op_count: 0,
        arena_bytes: inputs.next_multiple_of(16) as u32,
        input: 0,
        input_len: inputs as u32,
        input_scale: 1.0,
        output: 0,
        output_len: OUTPUTS as u32,
        output_scale: 1.0,
        input_zero_point: 0,
        output_zero_point: 0,
        feature_count: 0,
        features: 0,
        feature_inner: 0,
        input_planes: 0,
        reserved: [0; 2],
    };
    let mut bytes = vec![0; HEADER_BYTES];
    header.write(&mut Writer::new(&mut bytes)).unwrap();
    bytes
}

/// A release for this source whose golden vectors have these outputs; the right ones are 1, 2 and 3.
fn bundle(source: &SourceInfo<'_>, outputs: &[[f32; OUTPUTS]]) -> Vec<u8> {
    let inputs = source.features.len() * usize::from(WINDOW);
    let given: Vec<f32> = (1..=inputs).map(|i| i as f32).collect();
    let vectors: Vec<_> = outputs
        .iter()
        .map(|output| (given.clone(), output.to_vec()))
        .collect();
    let mut writer = BundleWriter::new(Description {
        name: "m".into(),
        version: "1".into(),
        counter: 1,
        class: BoardClass::Mcu,
        kernels: "natural".into(),
        arena_bytes: inputs.next_multiple_of(16) as u32,
        min_runtime: 1,
    })
    .unwrap();
    let sections = [
        (SectionKind::Program, program(inputs)),
        (
            SectionKind::Profile,
            encode_profile(&profile(source)).unwrap(),
        ),
        (
            SectionKind::Policy,
            encode_policy(&Policy::standard()).unwrap(),
        ),
        (SectionKind::Golden, encode_golden(0.0, &vectors).unwrap()),
    ];
    for (kind, bytes) in sections {
        writer.section(kind, bytes).unwrap();
    }
    writer.finish().unwrap()
}

const RIGHT: [f32; OUTPUTS] = [1.0, 2.0, 3.0];
const WRONG: [f32; OUTPUTS] = [1.0, 2.0, 4.0];

/// An inference task whose turns the test takes, with room for models of at most `F` features, `C` outputs and `N`
/// elements of the input tensor.
struct Bench<const F: usize, const C: usize, const N: usize> {
    task: Inference<Portable, F, C>,
    link: &'static Link<F, C>,
    store: &'static crate::Store<MemoryFlash>,
    source: SourceInfo<'static>,
    sequence: u32,
}

/// One of a board as they are by default.
type Usual = Bench<16, 16, 1024>;

impl<const F: usize, const C: usize, const N: usize> Bench<F, C, N> {
    fn new(source: SourceInfo<'static>) -> Self {
        let link: &'static Link<F, C> = Box::leak(Box::default());
        let arena = Box::leak(vec![0; 128].into_boxed_slice());
        let arena = Box::leak(Box::new(Arena::new(arena)));
        let stock = Box::leak(Box::new(Stock::<_, F, C, N>::new()));
        Self {
            task: {
                let mut task = Inference::new(link);
                task.equip(arena, stock);
                task
            },
            link,
            store: store(),
            source,
            sequence: 0,
        }
    }

    /// Puts a release into a slot and has it loaded.
    fn load(&mut self, slot: Slot, purpose: Purpose, outputs: &[[f32; OUTPUTS]]) {
        let bytes = bundle(&self.source, outputs);
        let start = self.store.map().slots.slot(slot).start;
        StoreFlash(self.store).write(start, &bytes).unwrap();
        self.command(Command::Load {
            slot,
            digest: Bundle::open(&bytes).unwrap().head().digest(),
            purpose,
            held: self.store.hold(slot, bytes.len() as u32).unwrap(),
        });
    }

    /// The flight recorder, if it is lent.
    fn lend(&mut self) -> Option<FlightRecorder> {
        self.command(Command::Lend);
        self.link
            .recorder
            .try_take()
            .expect("an answer")
            .into_inner()
    }

    fn command(&mut self, command: Command) {
        self.task.command(command, &self.source);
    }

    fn sample(&mut self) {
        let value = (self.sequence % 5) as f32;
        self.sample_of(value);
    }

    fn sample_of(&mut self, value: f32) {
        let reading = Reading::Sample {
            sequence: self.sequence,
            time_ms: u64::from(self.sequence),
            count: self.source.features.len(),
        };
        self.sequence += 1;
        let mut values = [0.0; F];
        values[0] = value;
        self.task.reading(reading, &values, &self.source);
    }

    /// What the release in slot A answered so far.
    fn answered(&self) -> u32 {
        self.task
            .cast
            .runtime(Slot::A)
            .unwrap()
            .guard()
            .inferences()
    }

    /// What loading came to, if that is known.
    fn outcome(&self) -> Option<Result<(), Reason>> {
        match self.link.reports.try_receive().ok()? {
            Report::Loaded { outcome, .. } => Some(outcome.map(|_| ())),
            other => panic!("{other:?}"),
        }
    }

    /// What becomes of a release for that source.
    fn loaded(&mut self) -> Result<(), Reason> {
        self.load(Slot::A, Purpose::Confirmed, &[RIGHT]);
        while self.task.advance(&self.source) {}
        self.outcome().unwrap()
    }

    /// Has slot A confirmed and answering.
    fn answering(source: SourceInfo<'static>) -> Self {
        let mut bench = Self::new(source);
        assert_eq!(bench.loaded(), Ok(()));
        bench.command(Command::Run(Slot::A, Mode::Confirmed));
        (0..WINDOW).for_each(|_| bench.sample());
        assert_eq!(bench.answered(), 1);
        bench
    }
}

#[test]
fn a_release_answers_between_the_golden_vectors_of_the_next() {
    let mut bench = Usual::answering(SOURCE);
    bench.load(Slot::B, Purpose::SelfTest, &[RIGHT; 3]);
    for turn in 1..=3 {
        assert!(bench.task.advance(&SOURCE), "a vector is left");
        assert_eq!(bench.outcome(), None);
        bench.sample();
        assert_eq!(bench.answered(), 1 + turn);
    }
    assert!(bench.task.advance(&SOURCE));
    assert_eq!(bench.outcome(), Some(Ok(())));
    assert!(!bench.task.advance(&SOURCE), "nothing is left to do");
}

#[test]
fn the_first_wrong_vector_ends_a_self_test() {
    let mut bench = Usual::answering(SOURCE);
    bench.load(Slot::B, Purpose::SelfTest, &[RIGHT, WRONG, RIGHT]);
    assert!(bench.task.advance(&SOURCE));
    assert_eq!(bench.outcome(), None);
    assert!(bench.task.advance(&SOURCE));
    assert_eq!(bench.outcome(), Some(Err(Reason::SelfTest)));
    assert!(!bench.task.advance(&SOURCE));
    // What failed lets go of its slot, and of the memory of its tensor.
    let start = bench.store.map().slots.slot(Slot::B).start;
    StoreFlash(bench.store).write(start, &[0; 8]).unwrap();
    assert!(bench.task.told.places[Slot::B as usize].is_some());
}

#[test]
fn a_slot_that_is_left_is_tested_no_more() {
    let mut bench = Usual::answering(SOURCE);
    bench.load(Slot::B, Purpose::SelfTest, &[RIGHT; 3]);
    assert!(bench.task.advance(&SOURCE));
    let start = bench.store.map().slots.slot(Slot::B).start;
    assert!(StoreFlash(bench.store).write(start, &[0; 8]).is_err());
    bench.command(Command::Stop(Slot::B));
    assert!(bench.link.stopped.signaled());
    assert!(!bench.task.advance(&SOURCE));
    assert_eq!(bench.outcome(), None);
    StoreFlash(bench.store).write(start, &[0; 8]).unwrap();
    bench.sample();
    assert_eq!(bench.answered(), 2);
}

#[test]
fn windows_carry_the_clock_of_the_core() {
    let mut bench = Usual::answering(SOURCE);
    // Windows are closed when the release that answered is left.
    bench.command(Command::Stop(Slot::A));
    let unknown = bench.link.summaries.try_receive().unwrap();
    assert_eq!((unknown.inferences, unknown.core_khz), (1, 0));
    assert_eq!(unknown.latency_p99_cycles(), None);

    let mut bench = Usual::answering(SOURCE);
    bench.task.clock(400_000);
    bench.command(Command::Stop(Slot::A));
    let window = bench.link.summaries.try_receive().unwrap();
    let p99_us = window.latency.quantile_us(990).unwrap();
    let cycles = Some(u64::from(p99_us) * 400);
    assert_eq!(
        (window.core_khz, window.latency_p99_cycles()),
        (400_000, cycles)
    );
}

fn numbers(recorder: &FlightRecorder) -> Vec<u64> {
    let mut bytes = vec![0; recorder.len()];
    recorder.read(0, &mut bytes);
    let records = Records::new(&bytes);
    records.map(|record| record.unwrap().number).collect()
}

#[test]
fn what_goes_unrecorded_while_the_recorder_is_lent_is_a_gap_of_its_size() {
    let mut bench = Usual::answering(SOURCE);
    assert!(bench.lend().is_none(), "there is none");
    let memory = Box::leak(vec![0; 4096].into_boxed_slice());
    bench.task.recorder = Some(Recorder::new(memory));
    bench.sample();
    let lent = bench.lend().unwrap();
    assert!(bench.lend().is_none(), "it is lent");
    let before = bench.answered();
    // An inference; and one alarm of a value out of range, which takes the last answer's place.
    bench.sample();
    bench.sample_of(99.0);
    let mut alarms = 0;
    while let Ok(report) = bench.link.reports.try_receive() {
        alarms += u64::from(matches!(report, Report::Alarm(..)));
    }
    assert!(alarms > 0);
    let unrecorded = u64::from(bench.answered() - before) + alarms;
    bench.command(Command::Record(lent));
    bench.sample();
    let numbers = numbers(&bench.lend().unwrap());
    let [first, last] = numbers[..] else {
        panic!("{numbers:?}");
    };
    assert_eq!(last - first - 1, unrecorded, "{numbers:?}");
}

#[test]
fn a_board_runs_models_of_as_many_features_as_it_has_room_for() {
    // Exactly what such a release has.
    let mut bench = Bench::<20, OUTPUTS, 80>::answering(MANY);
    bench.sample();
    assert_eq!(bench.answered(), 2);
    bench.command(Command::Stop(Slot::A));
    let window = bench.link.summaries.try_receive().unwrap();
    assert_eq!((window.features.len(), window.inferences), (20, 2));
    let samples = u32::from(WINDOW) + 1;
    let seen = |at: usize| window.features[at].n;
    assert_eq!((seen(0), seen(19)), (samples, samples));
}

#[test]
fn a_release_of_more_than_a_board_has_room_for_is_refused() {
    let unsupported = Err(Reason::Unsupported);
    assert_eq!(Bench::<20, OUTPUTS, 80>::new(MANY).loaded(), Ok(()));
    assert_eq!(Bench::<19, OUTPUTS, 80>::new(MANY).loaded(), unsupported);
    assert_eq!(Bench::<20, 2, 80>::new(MANY).loaded(), unsupported);
    assert_eq!(Bench::<20, OUTPUTS, 79>::new(MANY).loaded(), unsupported);
    assert_eq!(Usual::new(MANY).loaded(), unsupported);
    // Its slot is free for another one.
    let mut bench = Usual::new(MANY);
    assert_eq!(bench.loaded(), unsupported);
    bench.source = SOURCE;
    let slot = bench.store.map().slots.slot(Slot::A);
    let mut flash = StoreFlash(bench.store);
    flash.erase(slot.start, slot.end).unwrap();
    assert_eq!(bench.loaded(), Ok(()));
}

#[test]
fn memory_of_no_bytes_is_no_flight_recorder() {
    let mut bench = Usual::answering(SOURCE);
    bench.task.record(&mut []);
    assert!(bench.lend().is_none());
}

#[test]
fn a_busy_application_costs_no_count_of_a_trial_that_is_begun_and_reverted() {
    let mut bench = Usual::new(SOURCE);
    let window = |release: u8| Summary {
        release: [release; 8],
        windows: 1,
        inferences: 1,
        ..Summary::empty()
    };
    let lost = |link: &Link<16, 16>| link.windows_lost.load(Ordering::Relaxed);
    bench.task.told.summary(&window(1));
    let stored = bench.link.summaries.try_receive().unwrap();
    // One more is on the way; then the trial, and the release that is gone back to.
    for release in [1, 2, 2, 2, 1, 1] {
        bench.task.told.summary(&window(release));
    }
    assert_eq!(lost(bench.link), 0);
    // A third change is one too many.
    bench.task.told.summary(&window(2));
    assert_eq!(lost(bench.link), 1);
    let mut told = vec![(stored.release[0], stored.windows)];
    bench.link.spent.try_send(stored).unwrap();
    while let Ok(window) = bench.link.summaries.try_receive() {
        told.push((window.release[0], window.windows));
        bench.link.spent.try_send(window).unwrap();
        bench.task.told.pass_on();
    }
    assert_eq!(told, [(1, 1), (1, 1), (2, 3), (1, 2)]);
}
