use super::*;
use edgeward::contract::Outcome;
use edgeward::engine::EngineError;
use edgeward::policy::Policy;
use edgeward::profile::{
    BINS, DType, DriftLimits, EDGES, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};
use edgeward::recorder::{Records, Snapshot, What};
use edgeward::telemetry::Reason;

/// Answers class 0, to so many values.
#[derive(Debug)]
pub(crate) struct Zero(pub usize);

impl Engine for Zero {
    fn input_len(&self) -> usize {
        self.0
    }

    fn output_len(&self) -> usize {
        2
    }

    fn run(&mut self, _: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        output.copy_from_slice(&[1.0, 0.0]);
        Ok(())
    }
}

fn name(text: &str) -> Name {
    Name::try_from(text).expect("a short name")
}

/// One feature that may be anything, `window` samples an answer, ten samples a drift window.
pub(crate) fn profile<const F: usize, const C: usize>(window: u16) -> Profile<F, C> {
    let any = f32::INFINITY;
    let mut edges = [0.0; EDGES];
    for (i, edge) in edges.iter_mut().enumerate() {
        *edge = i as f32 - 7.0;
    }
    let feature = FeatureProfile {
        name: name("x"),
        missing: MissingPolicy::HoldLast,
        min: -10.0,
        max: 10.0,
        mean: 0.0,
        sd: 4.0,
        max_rate: any,
        stuck_run: 0,
        edges,
        reference: [100; BINS],
        limits: DriftLimits {
            psi: any,
            ks: any,
            js: any,
            wasserstein: any,
        },
    };
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window,
            hop: window,
            layout: Layout::SamplesFirst,
            period_ms: 0,
            max_age_ms: 0,
            feature_version: 0,
        },
        features: [feature].into_iter().collect(),
        output: OutputProfile {
            kind: OutputKind::Logits,
            names: [name("a"), name("b")].into_iter().collect(),
            temperature: 1.0,
            class_counts: [100; 2].into_iter().collect(),
            score_mean: 0.7,
            score_sd: 0.1,
            score_p01: 0.1,
            score_p99: 1.0,
            entropy_mean: 0.6,
            class_psi_limit: any,
            score_shift_limit: any,
        },
        drift_window: 10,
    }
}

type Small = Runtime<Zero, Vec<f32>, 1, 2>;

/// A release whose last digit names its slot: 1 or 2.
fn release(n: u8, window: u16, shadow_inferences: u32) -> Small {
    let mut policy = Policy::standard();
    policy.trial.shadow_inferences = shadow_inferences;
    let tensor = vec![0.0; usize::from(window)];
    let engine = Zero(usize::from(window));
    let runtime = Runtime::new(engine, [n; 8], profile(window), policy, tensor);
    runtime.expect("a runtime")
}

/// What happened.
#[derive(Debug, Default)]
struct Log {
    /// Release and samples of each window.
    windows: Vec<(u8, u32)>,
    told: Vec<Told>,
    spent: Vec<u8>,
    answers: Vec<u8>,
}

impl Stage<Small, Zero, Vec<f32>, 1, 2> for Log {
    fn summary(&mut self, summary: &Summary<1, 2>) {
        self.windows.push((summary.release[0], summary.samples));
    }

    fn told(&mut self, told: Told) {
        self.told.push(told);
    }

    fn spent(&mut self, slot: Slot, runtime: Small) {
        assert_eq!(runtime.release()[0] % 10, slot as u8 + 1);
        self.spent.push(runtime.release()[0]);
    }

    fn answer(&mut self, runtime: &Small, _: u32, _: &Prediction) {
        self.answers.push(runtime.release()[0]);
    }

    fn now_ms(&self) -> u64 {
        1
    }

    fn clock_us(&self) -> u64 {
        1
    }
}

/// What a source that fits says.
const SOURCE: SourceInfo<'static> = SourceInfo {
    schema_version: 1,
    dtype: DType::F32,
    feature_version: 0,
    features: &["x"],
};

/// One whose samples are all rejected.
const STRANGER: SourceInfo<'static> = SourceInfo {
    schema_version: 2,
    ..SOURCE
};

struct Bench {
    cast: Cast<Small, Zero, Vec<f32>, 1, 2>,
    log: Log,
    sequence: u32,
    recorder: Recorder<Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        Self {
            cast: Cast::new(),
            log: Log::default(),
            sequence: 0,
            recorder: Recorder::new(vec![0; 1 << 20]),
        }
    }

    /// Release 1 runs, and release 2 is on trial.
    fn on_trial() -> Self {
        let mut bench = Self::new();
        bench.start(Slot::A, release(1, 1, 0), Mode::Confirmed);
        bench.start(Slot::B, release(2, 1, 0), Mode::Trial);
        assert_eq!(bench.cast.live(), Some((Slot::B, true)));
        bench
    }

    /// Puts a release into its place and gives it a role.
    fn start(&mut self, slot: Slot, runtime: Small, mode: Mode) {
        self.cast.put(slot, runtime, Some(&SOURCE), &mut self.log);
        self.run(slot, mode);
    }

    fn run(&mut self, slot: Slot, mode: Mode) {
        assert!(self.cast.run(slot, mode, Some(&SOURCE), &mut self.log));
    }

    fn stop(&mut self, slot: Slot) {
        self.cast.stop(slot, Some(&SOURCE), &mut self.log);
    }

    fn feed(&mut self, samples: u32) {
        for _ in 0..samples {
            self.sequence += 1;
            let sample = Sample {
                sequence: self.sequence,
                time_ms: u64::from(self.sequence),
                values: &[(self.sequence % 7) as f32],
            };
            let recorder = Some(&mut self.recorder);
            let step = self.cast.sample(&sample, recorder, &mut self.log);
            assert_ne!(step.expect("somebody").check.outcome, Outcome::Rejected);
            self.cast.judge(Some(&SOURCE), &mut self.log);
        }
    }

    /// Windows, verdicts, and who was spent since the last time.
    fn happened(&mut self) -> (Vec<(u8, u32)>, Vec<Told>, Vec<u8>) {
        let log = core::mem::take(&mut self.log);
        (log.windows, log.told, log.spent)
    }

    /// Inferences of the shadow that were compared.
    fn compared(&self) -> Option<u32> {
        let (slot, shadow) = self.cast.shadow()?;
        assert_eq!(slot, Slot::B);
        Some(shadow.inferences())
    }
}

const PASSED: Told = Told::Trial(Slot::B, [2; 8], Verdict::Confirm);

#[test]
fn a_verdict_is_told_once_and_the_trial_ends_when_the_journal_knows() {
    let mut bench = Bench::on_trial();
    bench.feed(600);
    let (windows, told, spent) = bench.happened();
    assert_eq!((windows, told), (vec![(2, 10); 60], vec![PASSED]));
    assert!(spent.is_empty(), "somebody may go back to it");
    bench.cast.confirmed(Slot::A, &mut bench.log);
    assert_eq!(bench.cast.live(), Some((Slot::B, true)), "another slot");
    bench.cast.confirmed(Slot::B, &mut bench.log);
    assert_eq!(bench.cast.live(), Some((Slot::B, false)));
    assert_eq!(bench.log.spent, [1], "nobody goes back to it any more");
    bench.feed(300);
    assert!(bench.log.told.is_empty());
}

#[test]
fn a_breach_goes_back_before_anyone_is_told() {
    let mut bench = Bench::on_trial();
    bench.feed(13);
    bench.cast.announce(&STRANGER, |_| {});
    assert!(bench.cast.is_decided());
    bench.cast.judge(Some(&SOURCE), &mut bench.log);
    assert!(!bench.cast.is_decided());
    assert_eq!(bench.cast.live(), Some((Slot::A, false)));
    let breach = Verdict::Breach(Reason::Source);
    let told = vec![Told::Trial(Slot::B, [2; 8], breach)];
    assert_eq!(bench.happened(), (vec![(2, 10), (2, 3)], told, vec![2]));
    // It was made ready for the source, so that what the stranger announced does not reach it.
    bench.feed(10);
    assert_eq!(bench.happened().0, [(1, 10)]);
    bench.stop(Slot::B);
    assert_eq!(bench.cast.live(), Some((Slot::A, false)));
}

#[test]
fn a_confirmed_release_that_comes_during_a_trial_is_the_one_to_go_back_to() {
    let mut bench = Bench::new();
    // The confirmed one could not be loaded; its trial began alone.
    bench.start(Slot::B, release(2, 1, 0), Mode::Trial);
    bench.feed(105);
    bench.start(Slot::A, release(1, 1, 0), Mode::Confirmed);
    assert_eq!(bench.cast.live(), Some((Slot::B, true)));
    // And once more, in another copy.
    bench.start(Slot::A, release(11, 1, 0), Mode::Confirmed);
    assert_eq!(bench.log.spent, [1]);
    bench.feed(105);
    let (windows, told, _) = bench.happened();
    assert_eq!((windows, told), (vec![(2, 10); 21], vec![PASSED]));
    bench.stop(Slot::B);
    assert_eq!(bench.cast.live(), Some((Slot::A, false)));
    bench.feed(1);
    assert_eq!(
        (bench.log.answers.pop(), bench.log.spent.pop()),
        (Some(11), Some(2))
    );
}

#[test]
fn running_the_slot_that_answers_loses_no_count() {
    for again in [Mode::Confirmed, Mode::Trial] {
        let mut bench = Bench::on_trial();
        bench.feed(13);
        bench.run(Slot::B, again);
        assert_eq!(bench.happened().0, [(2, 10), (2, 3)]);
        bench.feed(3);
        // The same in another copy, whose place is taken.
        bench.start(Slot::B, release(12, 1, 0), again);
        assert_eq!(bench.happened().0, [(2, 3)]);
        assert_eq!(bench.cast.live(), Some((Slot::B, again == Mode::Trial)));
        bench.feed(10);
        assert_eq!(bench.happened().0, [(12, 10)]);
    }
}

#[test]
fn a_trial_over_a_trial_leaves_whom_to_go_back_to() {
    let mut bench = Bench::on_trial();
    bench.feed(3);
    bench.start(Slot::B, release(12, 1, 0), Mode::Trial);
    bench.run(Slot::B, Mode::Trial);
    bench.feed(3);
    assert_eq!(bench.happened(), (vec![(2, 3)], vec![], vec![2]));
    bench.stop(Slot::B);
    assert_eq!(bench.happened(), (vec![(12, 3)], vec![], vec![12]));
    assert_eq!(bench.cast.live(), Some((Slot::A, false)));
    // Nobody goes back to what was on trial itself.
    let mut bench = Bench::on_trial();
    bench.run(Slot::A, Mode::Trial);
    assert_eq!(bench.happened().2, [2]);
    bench.stop(Slot::A);
    assert_eq!(bench.cast.live(), None);
}

#[test]
fn who_leaves_every_role_is_spent_and_who_had_none_stays() {
    let mut bench = Bench::new();
    bench.start(Slot::A, release(1, 1, 0), Mode::Confirmed);
    // It passed its self-test, and waits.
    let waits = release(2, 1, 0);
    bench
        .cast
        .put(Slot::B, waits, Some(&SOURCE), &mut bench.log);
    bench.run(Slot::A, Mode::Confirmed);
    bench.cast.reset();
    bench.feed(10);
    assert!(bench.log.spent.is_empty());
    assert!(bench.cast.ready(Slot::B, [2; 8]).is_some());
    assert!(bench.cast.ready(Slot::B, [1; 8]).is_none());
    // Confirmed at once: nobody goes back.
    bench.run(Slot::B, Mode::Confirmed);
    assert_eq!(bench.log.spent, [1]);
    // What is stopped is in no place and has no role, whatever it had.
    bench.stop(Slot::A);
    bench.stop(Slot::B);
    assert_eq!(bench.log.spent, [1, 2]);
    assert_eq!(bench.cast.live(), None);
    let run = |bench: &mut Bench, slot| {
        let source = Some(&SOURCE);
        bench.cast.run(slot, Mode::Trial, source, &mut bench.log)
    };
    assert!(!run(&mut bench, Slot::B));
    // The release to go back to is stopped: then there is none.
    let mut bench = Bench::on_trial();
    bench.stop(Slot::A);
    bench.stop(Slot::B);
    assert_eq!((bench.cast.live(), bench.log.spent), (None, vec![1, 2]));
}

#[test]
fn a_shadow_that_a_reset_meets_before_it_began_begins_with_it() {
    let mut bench = Bench::new();
    bench.start(Slot::A, release(1, 4, 0), Mode::Confirmed);
    bench.feed(2);
    bench.start(Slot::B, release(2, 4, 5), Mode::Shadow);
    bench.cast.reset();
    bench.feed(4);
    assert_eq!(bench.compared(), Some(1));
}

#[test]
fn a_shadow_keeps_in_step_over_a_reset_and_passes_into_its_trial() {
    let mut bench = Bench::new();
    bench.start(Slot::A, release(1, 4, 0), Mode::Confirmed);
    bench.feed(6);
    bench.start(Slot::B, release(2, 4, 5), Mode::Shadow);
    // The next answer is the eighth sample's; the shadow begins with the ninth.
    bench.feed(2);
    assert_eq!(bench.compared(), Some(0));
    bench.feed(8);
    assert_eq!(bench.compared(), Some(2));
    // In mid-window, a new recording and a new source.
    bench.feed(3);
    bench.cast.reset();
    bench.feed(4);
    assert_eq!(bench.compared(), Some(3));
    bench.feed(1);
    bench.cast.announce(&SOURCE, |_| {});
    bench.feed(4);
    assert_eq!((bench.compared(), bench.log.told.len()), (Some(4), 0));
    bench.feed(8);
    let passed = Told::Shadow(Slot::B, [2; 8], ShadowVerdict::Pass);
    assert_eq!(
        (bench.compared(), bench.happened().1),
        (Some(5), vec![passed])
    );
    assert!(
        !bench
            .cast
            .run(Slot::A, Mode::Shadow, Some(&SOURCE), &mut bench.log),
        "it answers"
    );
    bench.run(Slot::B, Mode::Trial);
    assert_eq!(
        (bench.cast.live(), bench.compared()),
        (Some((Slot::B, true)), None)
    );
    assert!(bench.log.spent.is_empty());
}

#[test]
fn a_shadow_that_no_sample_of_the_source_reaches_is_told_at_once() {
    let mut bench = Bench::new();
    bench.start(Slot::A, release(1, 1, 0), Mode::Confirmed);
    let beside = release(2, 1, 5);
    bench.cast.put(Slot::B, beside, None, &mut bench.log);
    let cast = &mut bench.cast;
    assert!(cast.run(Slot::B, Mode::Shadow, Some(&STRANGER), &mut bench.log));
    cast.judge(Some(&SOURCE), &mut bench.log);
    cast.judge(Some(&SOURCE), &mut bench.log);
    let misfit = Told::Shadow(Slot::B, [2; 8], ShadowVerdict::Misfit);
    assert_eq!(bench.log.told, [misfit]);
    bench.stop(Slot::B);
    assert_eq!(bench.log.spent, [2]);
}

#[test]
fn what_is_recorded_says_in_which_role_a_release_answered() {
    let mut bench = Bench::on_trial();
    bench.feed(300);
    bench.cast.confirmed(Slot::B, &mut bench.log);
    bench.feed(2);
    let mut bytes = vec![0; bench.recorder.len()];
    bench.recorder.read(0, &mut bytes);
    let roles: Vec<_> = Records::new(&bytes)
        .map(|record| record.expect("sound"))
        .filter(|record| matches!(record.what, What::Inference(_)))
        .map(|record| (record.release, record.standing))
        .collect();
    let tried = vec![([2; 8], Standing::Trial); 300];
    let confirmed = vec![([2; 8], Standing::Confirmed); 2];
    assert_eq!(roles, [tried, confirmed].concat());
}
