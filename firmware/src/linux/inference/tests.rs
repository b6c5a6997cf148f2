use super::*;
use crate::cast::tests::{Zero, profile};
use crate::linux::loader::STACK_BYTES;
use edgeward::policy::Policy;
use edgeward::recorder::{Records, Snapshot, Standing, What};
use std::sync::mpsc::sync_channel;

fn loaded(slot: Slot) -> Loaded<Zero> {
    let release = [slot as u8 + 1; 8];
    let runtime = Runtime::new(Zero(1), release, profile(1), Policy::standard(), vec![0.0]);
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
        let mut bench = Self {
            inference,
            commands,
            reports,
            stats,
            sequence: 0,
            _summaries: summaries,
        };
        bench.told(Command::Run(loaded(Slot::A), Mode::Confirmed));
        bench.told(Command::Run(loaded(Slot::B), Mode::Trial));
        assert_eq!(bench.runs(), (Some([2; 8]), "trial"));
        bench
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
