use super::*;
use crate::contract::{Outcome, SampleCheck, ViolationSet};
use crate::guard::{InferenceError, Prediction, PredictionFlags};
use crate::policy::{Action, Policy};

const POLICY: TrialPolicy = TrialPolicy {
    min_inferences: 200,
    min_windows: 2,
    max_boots: 2,
    max_error_per_mille: 50,
    max_p99_us: 100,
    shadow_inferences: 100,
    min_agreement_per_mille: 900,
};

fn step(prediction: Option<u32>, error: bool, window_closed: bool) -> Step {
    Step {
        check: SampleCheck {
            outcome: Outcome::Accepted,
            action: Action::Count,
            violations: ViolationSet::EMPTY,
            filled: 0,
        },
        prediction: prediction.map(|latency_us| Prediction {
            class: 0,
            confidence: 0.9,
            flags: PredictionFlags::NONE,
            latency_us,
            fallback: error,
        }),
        error: error.then_some(InferenceError::Output),
        window_closed,
    }
}

fn drift(statistic: Statistic) -> Alarm {
    Alarm::Drift {
        statistic,
        feature: None,
        value: 2.0,
        limit: 1.0,
    }
}

/// A window that ended with so many predictions; ten are a full one.
fn window(trial: &mut TrialMonitor, predictions: u32) {
    let mut profile = crate::testing::profile::<1, 3>(1, 1);
    profile.drift_window = 10;
    profile.output.class_psi_limit = f32::INFINITY;
    let engine = crate::testing::SumEngine {
        inputs: 1,
        outputs: 3,
    };
    let policy = Policy::standard();
    let mut runtime =
        crate::runtime::Runtime::new(engine, [0; 8], profile.clone(), policy, [0.0]).unwrap();
    let mut summary = runtime.take_summary(0);
    summary.output.n = predictions;
    trial.on_window(&profile, &summary);
}

/// A step, and the window that it ends, if it does.
fn feed(trial: &mut TrialMonitor, step: &Step) {
    trial.on_step(step);
    if step.window_closed {
        window(trial, 10);
    }
}

#[test]
fn windows_with_too_few_predictions_confirm_nothing() {
    let mut trial = TrialMonitor::new(POLICY);
    (0..1000).for_each(|_| trial.on_step(&step(Some(1), false, false)));
    (0..100).for_each(|_| window(&mut trial, 4));
    assert_eq!((trial.windows(), trial.verdict()), (0, Verdict::Undecided));
    window(&mut trial, 5);
    assert_eq!(trial.verdict(), Verdict::Undecided);
    window(&mut trial, 5);
    assert_eq!((trial.windows(), trial.verdict()), (2, Verdict::Confirm));
}

#[test]
fn a_quiet_trial_is_confirmed_when_it_has_seen_enough() {
    let mut trial = TrialMonitor::new(POLICY);
    for i in 0..200 {
        assert_eq!(trial.verdict(), Verdict::Undecided);
        feed(&mut trial, &step(Some(100), false, i % 50 == 49));
        trial.on_step(&step(None, false, false));
    }
    assert_eq!(trial.verdict(), Verdict::Confirm);
    assert_eq!((trial.inferences(), trial.windows()), (200, 4));

    let mut waiting = TrialMonitor::new(POLICY);
    (0..1000).for_each(|_| waiting.on_step(&step(Some(1), false, false)));
    assert_eq!(waiting.verdict(), Verdict::Undecided, "no window has ended");
}

#[test]
fn errors_breach_as_a_rate_and_not_one_by_one() {
    let mut broken = TrialMonitor::new(POLICY);
    for _ in 0..19 {
        broken.on_step(&step(None, true, false));
        assert_eq!(broken.verdict(), Verdict::Undecided);
    }
    broken.on_step(&step(None, true, false));
    assert_eq!(broken.verdict(), Verdict::Breach(Reason::ErrorRate));

    let run = |errors: u32| {
        let mut trial = TrialMonitor::new(POLICY);
        // The failures come last, so that the rate is within its limit all along.
        for i in 0..200 {
            feed(&mut trial, &step(Some(1), i >= 200 - errors, i % 100 == 99));
        }
        trial.verdict()
    };
    assert_eq!(run(10), Verdict::Confirm, "exactly 50 per mille");
    assert_eq!(run(11), Verdict::Breach(Reason::ErrorRate));
}

#[test]
fn the_99th_percentile_breaches_and_single_outliers_do_not() {
    let run = |slow: u32| {
        let mut trial = TrialMonitor::new(POLICY);
        for i in 0..200 {
            let latency_us = if i < slow { 101 } else { 100 };
            feed(&mut trial, &step(Some(latency_us), false, i % 100 == 99));
        }
        trial.verdict()
    };
    assert_eq!(run(1), Verdict::Confirm);
    assert_eq!(
        run(2),
        Verdict::Breach(Reason::Latency),
        "two of the first hundred"
    );
    let mut unlimited = TrialMonitor::new(TrialPolicy {
        max_p99_us: 0,
        ..POLICY
    });
    (0..200).for_each(|i| {
        feed(&mut unlimited, &step(Some(u32::MAX), false, i % 100 == 99));
    });
    assert_eq!(unlimited.verdict(), Verdict::Confirm);
}

#[test]
fn a_budget_is_judged_however_short_the_trial() {
    let run = |min_inferences: u32, errors: u32, latency_us: u32, max_p99_us: u32| {
        let mut trial = TrialMonitor::new(TrialPolicy {
            min_inferences,
            max_p99_us,
            ..POLICY
        });
        let mut inferences = 0;
        while trial.verdict() == Verdict::Undecided {
            // The failures are spread, so that their rate is within its limit all along.
            let error = inferences % 24 == 23 && inferences / 24 < errors;
            feed(
                &mut trial,
                &step(Some(latency_us), error, inferences % 20 == 19),
            );
            inferences += 1;
        }
        (trial.verdict(), inferences)
    };
    let slow = Verdict::Breach(Reason::Latency);
    assert_eq!(run(50, 0, 101, 100), (slow, 100));
    assert_eq!(run(50, 0, 100, 100), (Verdict::Confirm, 100));
    // As many inferences as latencies are wanted, and some of them without one.
    assert_eq!(run(100, 4, 101, 100), (slow, 104));
    assert_eq!(run(50, 0, 101, 0), (Verdict::Confirm, 50), "no budget");
}

#[test]
fn drift_of_predictions_breaches_and_drift_of_inputs_does_not() {
    let mut trial = TrialMonitor::new(POLICY);
    for statistic in [
        Statistic::Psi,
        Statistic::Ks,
        Statistic::JensenShannon,
        Statistic::Wasserstein,
    ] {
        trial.on_alarm(&drift(statistic));
    }
    trial.on_alarm(&Alarm::Violation {
        kind: crate::contract::ViolationKind::Stuck,
        feature: Some(0),
        value: 0.0,
        sample: 0,
    });
    assert_eq!(trial.verdict(), Verdict::Undecided);
    for statistic in [Statistic::ClassPsi, Statistic::ScoreShift] {
        let mut trial = trial.clone();
        trial.on_alarm(&drift(statistic));
        assert_eq!(trial.verdict(), Verdict::Breach(Reason::PredictionDrift));
        // It stays, whatever follows.
        (0..500).for_each(|_| trial.on_step(&step(Some(1), false, true)));
        assert_eq!(trial.verdict(), Verdict::Breach(Reason::PredictionDrift));
    }
}

#[test]
fn a_collapse_shows_over_the_trial_where_one_window_is_too_short() {
    let run = |classes: [u32; 3], windows: u32| {
        let mut profile = crate::testing::profile::<1, 3>(1, 1);
        profile.drift_window = 10;
        profile.output.class_psi_limit = 2.2;
        let engine = crate::testing::SumEngine {
            inputs: 1,
            outputs: 3,
        };
        let policy = Policy::standard();
        let mut runtime =
            crate::runtime::Runtime::new(engine, [0; 8], profile.clone(), policy, [0.0]).unwrap();
        let mut trial = TrialMonitor::new(POLICY);
        for _ in 0..windows {
            let mut summary = runtime.take_summary(0);
            summary.output.classes = classes.into_iter().collect();
            trial.on_window(&profile, &summary);
        }
        trial.verdict()
    };
    let breach = Verdict::Breach(Reason::PredictionDrift);
    assert_eq!(run([10, 0, 0], 1), Verdict::Undecided);
    assert_eq!(run([10, 0, 0], 5), breach);
    assert_eq!(run([6, 4, 0], 100), breach, "one class never comes");
    assert_eq!(run([6, 3, 1], 100), Verdict::Undecided);
    assert_eq!(
        run([0, 0, 0], 100),
        Verdict::Undecided,
        "no predictions, no shares"
    );
}

#[test]
fn shadow_passes_with_the_least_agreement_and_fails_at_once_below_it() {
    let run = |disagreements: u32, of: u32| {
        let mut shadow = ShadowMonitor::new(&POLICY);
        for i in 0..of {
            shadow.record(1, Some(u16::from(i >= disagreements)));
        }
        shadow.verdict()
    };
    assert_eq!(run(10, 99), ShadowVerdict::Undecided);
    assert_eq!(run(10, 100), ShadowVerdict::Pass);
    assert_eq!(run(11, 11), ShadowVerdict::Fail);
    assert_eq!(
        ShadowMonitor::new(&Policy::standard().trial).verdict(),
        ShadowVerdict::Pass
    );

    let mut failing = ShadowMonitor::new(&POLICY);
    assert_eq!(failing.agreement_per_mille(), 1000);
    failing.record(1, None);
    failing.record(1, Some(1));
    assert_eq!(failing.agreement_per_mille(), 500);
}

#[test]
fn a_source_that_is_rejected_as_a_whole_breaches_and_rejected_samples_do_not() {
    let mut trial = TrialMonitor::new(POLICY);
    let mut shadow = ShadowMonitor::new(&POLICY);
    for action in [Action::Count, Action::Flag] {
        trial.on_source(action);
        shadow.on_source(action);
    }
    let mut rejected = step(None, false, true);
    rejected.check.outcome = Outcome::Rejected;
    rejected.check.action = Action::Reject;
    for _ in 0..1000 {
        trial.on_step(&rejected);
        window(&mut trial, 0);
    }
    assert_eq!(trial.verdict(), Verdict::Undecided);
    assert_eq!(shadow.verdict(), ShadowVerdict::Undecided);
    for action in [Action::Reject, Action::Fallback] {
        let mut trial = trial.clone();
        trial.on_source(action);
        // The breach stays, whatever source comes next.
        trial.on_source(Action::Count);
        assert_eq!(trial.verdict(), Verdict::Breach(Reason::Source));
        let mut shadow = shadow.clone();
        shadow.on_source(action);
        assert_eq!(shadow.verdict(), ShadowVerdict::Misfit);
    }
}
