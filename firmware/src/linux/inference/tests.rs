use super::*;
use crate::cast::tests::{Zero, profile};
use crate::linux::loader::STACK_BYTES;
use edgeward::engine::pool::PoolAllocator;
use edgeward::policy::Policy;
use edgeward::recorder::{Records, Snapshot, Standing, What};
use std::sync::mpsc::sync_channel;

/// Counts calls to the system's allocator; nothing here is in a pool's scope.
#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator::system();

fn loaded(slot: Slot) -> Loaded<Zero> {
    windowed(slot, 1)
}

/// A release that answers every `window` samples.
fn windowed(slot: Slot, window: u16) -> Loaded<Zero> {
    let (release, engine) = ([slot as u8 + 1; 8], Zero(usize::from(window)));
    let tensor = vec![0.0; usize::from(window)];
    let runtime = Runtime::new(engine, release, profile(window), Policy::standard(), tensor);
    Loaded {
        slot,
        runtime: Box::new(runtime.expect("a runtime")),
    }
}

/// The inference thread's state, with the other ends of its channels.
struct Bench {
    inference: Inference<Zero>,
    commands: SyncSender<Command<Zero>>,
    reports: Receiver<Report<Zero>>,
    stats: Arc<Stats>,
    sequence: u32,
    _summaries: Receiver<Summary<F, C>>,
}

impl Bench {
    /// Release 1 runs, and release 2 is on trial.
    fn on_trial() -> Self {
        let mut bench = Self::new();
        bench.told(Command::Run(loaded(Slot::A), Mode::Confirmed));
        bench.told(Command::Run(loaded(Slot::B), Mode::Trial));
        assert_eq!(bench.runs(), (Some([2; 8]), "trial"));
        bench
    }

    /// A source has announced itself, and nothing runs.
    fn new() -> Self {
        let (commands, commands_in) = sync_channel(16);
        let (reports_out, reports) = sync_channel(64);
        let (summaries_out, summaries) = sync_channel(64);
        let stats = Arc::new(Stats::default());
        let mut inference = Inference::new(
            commands_in,
            reports_out,
            summaries_out,
            std::thread::current(),
            stats.clone(),
            Beat::default(),
        )
        .recorded(Recorder::new(vec![0; 1 << 20]));
        let mut answers = Answers::default();
        let header = b"edgeward-source schema=1 dtype=f32 features=x";
        inference.line(header, &mut answers);
        Self {
            inference,
            commands,
            reports,
            stats,
            sequence: 0,
            _summaries: summaries,
        }
    }

    fn told(&mut self, command: Command<Zero>) {
        assert!(self.commands.try_send(command).is_ok());
        self.inference.commands();
    }

    /// What answers.
    fn runs(&self) -> (Option<ReleaseId>, &'static str) {
        let counters = self.stats.counters();
        (counters.release, counters.mode)
    }

    /// Feeds samples until a verdict is reported; how many verdicts there are then.
    fn verdicts(&mut self, samples: u32) -> Vec<Verdict> {
        let mut answers = Answers::default();
        for _ in 0..samples {
            self.sequence += 1;
            let line = format!("{},{},{}", self.sequence, self.sequence, self.sequence % 7);
            answers.text.clear();
            self.inference.line(line.as_bytes(), &mut answers);
            assert!(answers.text.contains(",a,"), "{}", answers.text);
        }
        let reports = self.reports.try_iter();
        reports
            .filter_map(|report| match report {
                Report::Trial(slot, _, verdict) => {
                    assert_eq!(slot, Slot::B);
                    Some(verdict)
                }
                _ => None,
            })
            .collect()
    }
}

/// Runtimes are large values before they are in their boxes.
fn with_room(test: fn()) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let outcome = thread.spawn(test).expect("a thread").join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_trial_that_somebody_ends_as_it_passes_leaves_the_release_before_it() {
    with_room(|| {
        let mut bench = Bench::on_trial();
        assert_eq!(bench.verdicts(300), [Verdict::Confirm]);
        // The rollout was aborted, or its key revoked, before the journal was told of the verdict.
        bench.told(Command::Stop(Slot::B));
        assert_eq!(bench.runs(), (Some([1; 8]), "confirmed"));
        assert!(
            bench.verdicts(300).is_empty(),
            "what is confirmed is not on trial"
        );
    });
}

#[test]
fn a_verdict_is_reported_once_and_the_trial_ends_when_the_journal_knows() {
    with_room(|| {
        let mut bench = Bench::on_trial();
        assert_eq!(bench.verdicts(300), [Verdict::Confirm]);
        assert!(bench.verdicts(300).is_empty());
        assert_eq!(bench.runs(), (Some([2; 8]), "trial"));
        bench.told(Command::Confirmed(Slot::A));
        assert_eq!(bench.runs(), (Some([2; 8]), "trial"), "another slot");
        bench.told(Command::Confirmed(Slot::B));
        assert_eq!(bench.runs(), (Some([2; 8]), "confirmed"));
        let trash = bench.reports.try_iter();
        let releases: Vec<_> = trash
            .filter_map(|report| match report {
                Report::Trash(runtime) => Some(runtime.release()),
                _ => None,
            })
            .collect();
        assert_eq!(releases, [[1u8; 8]], "nobody goes back to it any more");
        assert!(bench.verdicts(300).is_empty());
    });
}

/// Roles of the inferences that are recorded, the oldest first.
fn roles(bench: &mut Bench) -> Vec<(ReleaseId, Standing)> {
    bench.told(Command::Record(Recorder::new(vec![0; 1 << 20])));
    let copy = bench.reports.try_iter().find_map(|report| match report {
        Report::Record(copy) => Some(copy),
        _ => None,
    });
    let copy = copy.expect("a copy");
    let mut bytes = vec![0; copy.len()];
    copy.read(0, &mut bytes);
    Records::new(&bytes)
        .map(|record| record.expect("sound"))
        .filter(|record| matches!(record.what, What::Inference(_)))
        .map(|record| (record.release, record.standing))
        .collect()
}

#[test]
fn a_release_that_is_gone_back_to_is_recorded_as_confirmed() {
    with_room(|| {
        let mut bench = Bench::on_trial();
        bench.verdicts(1);
        bench.told(Command::Stop(Slot::B));
        bench.verdicts(1);
        let expected = [([2; 8], Standing::Trial), ([1; 8], Standing::Confirmed)];
        assert_eq!(roles(&mut bench), expected);
    });
}

/// Allocations and frees an inference, of a release that answers every ten samples, the third of which lies out
/// of range; what the source is told of it is written to a text of so many bytes.
fn calls_an_inference(room: usize) -> (f64, f64) {
    let mut bench = Bench::new();
    bench.told(Command::Run(windowed(Slot::A, 10), Mode::Confirmed));
    let mut lines: Vec<String> = Vec::new();
    for n in 1..=2000 {
        let value = if n % 10 == 3 { 50 } else { n % 7 };
        lines.push(format!("{n},{n},{value}"));
    }
    for (n, line) in (1..).zip(&lines) {
        let mut answers = Answers {
            text: String::with_capacity(if n % 10 == 3 { room } else { 1024 }),
        };
        bench.inference.line(line.as_bytes(), &mut answers);
        let expected = match n % 10 {
            3 => "kind=AboveRange",
            0 => ",a,",
            _ => "",
        };
        assert!(answers.text.contains(expected), "{n}: {}", answers.text);
        assert_eq!(answers.text.is_empty(), expected.is_empty(), "{n}");
        // As the control thread does.
        bench.reports.try_iter().for_each(drop);
    }
    let counters = bench.stats.counters();
    assert!(counters.counted, "the pool's allocator counts");
    assert_eq!(counters.steady_inferences, 200 - WARM_UP);
    let each = |calls: u64| calls as f64 / counters.steady_inferences as f64;
    (
        each(counters.steady_allocations),
        each(counters.steady_frees),
    )
}

#[test]
fn lines_that_only_fill_a_window_count_as_part_of_its_inference() {
    with_room(|| {
        assert_eq!(calls_an_inference(1024), (0.0, 0.0));
        // A text without room allocates when the alarm is written, at the third sample of ten.
        let (allocations, frees) = calls_an_inference(0);
        assert!(
            allocations >= 1.0,
            "{allocations} allocations, {frees} frees"
        );
    });
}
