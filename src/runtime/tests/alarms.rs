//! What raises an alarm, and how often.

use super::*;
use crate::telemetry::Statistic;

fn alarms(runtime: &mut TestRuntime) -> Vec<Alarm> {
    std::iter::from_fn(|| runtime.pop_alarm()).collect()
}

#[test]
fn alarms_are_raised_once_a_kind_feature_and_window() {
    let mut runtime = runtime_with(1, 1, |profile, _| profile.drift_window = 4);
    for i in 0..4 {
        push(&mut runtime, i, &[11.0, MISSING]);
    }
    let violation = |kind, feature, value, sample| Alarm::Violation {
        kind,
        feature: Some(feature),
        value,
        sample,
    };
    let raised = alarms(&mut runtime);
    assert_eq!(raised[0], violation(ViolationKind::AboveRange, 0, 11.0, 0));
    assert!(matches!(
        raised[1],
        Alarm::Violation {
            kind: ViolationKind::Missing,
            feature: Some(1),
            ..
        }
    ));
    assert_eq!(raised.len(), 2);
    assert_eq!(runtime.take_summary(0).alarms, 2);
    push(&mut runtime, 4, &[11.5, 0.0]);
    assert_eq!(
        alarms(&mut runtime),
        [violation(ViolationKind::AboveRange, 0, 11.5, 4)]
    );
}

#[test]
fn alarms_beyond_the_queue_are_counted() {
    let mut runtime = runtime(1, 1);
    for i in 0..40 {
        // Each of these samples is alone in its window.
        push(&mut runtime, i, &[11.0, 0.0]);
        if i < 39 {
            let summary = runtime.take_summary(0);
            assert_eq!(summary.dropped_events, u32::from(i as usize >= MAX_ALARMS));
        }
    }
    assert_eq!(alarms(&mut runtime).len(), MAX_ALARMS);
}

#[test]
fn drift_is_an_alarm_at_the_windows_end() {
    let mut runtime = runtime_with(1, 1, |profile, _| {
        profile.drift_window = 28;
        for feature in &mut profile.features {
            feature.limits.psi = 0.5;
            feature.limits.ks = 0.2;
        }
    });
    // The first feature is as in training, the second one sits in the upper half.
    for i in 0..28u32 {
        let x = (i % 14) as f32 - 6.5;
        push(&mut runtime, i, &[x, x.abs()]);
    }
    let raised = alarms(&mut runtime);
    assert_eq!(raised.len(), 1, "{raised:?}");
    let Alarm::Drift {
        statistic,
        feature,
        value,
        limit,
    } = raised[0]
    else {
        panic!("{raised:?}")
    };
    assert_eq!(feature, Some(1));
    assert!(value > limit);
    assert!(matches!(statistic, Statistic::Psi | Statistic::Ks));
}

#[test]
fn predictions_that_collapse_are_an_alarm() {
    let mut runtime = runtime_with(1, 1, |profile, _| {
        profile.drift_window = 50;
        profile.output.class_psi_limit = 0.5;
    });
    for i in 0..50 {
        runtime.engine.winner = i as usize % 3;
        push(&mut runtime, i, &[(i % 5) as f32, 0.0]);
    }
    assert_eq!(
        alarms(&mut runtime),
        [],
        "all classes alike, as in training"
    );
    runtime.take_summary(0);
    for i in 50..100 {
        runtime.engine.winner = 2;
        push(&mut runtime, i, &[(i % 5) as f32, 0.0]);
    }
    let raised = alarms(&mut runtime);
    assert!(
        matches!(
            raised[..],
            [Alarm::Drift {
                statistic: Statistic::ClassPsi,
                feature: None,
                ..
            }]
        ),
        "{raised:?}"
    );
}

#[test]
fn budgets_of_errors_latency_and_accuracy_are_alarms() {
    let statistics = |change: fn(&mut Policy), fail_every: u32| {
        let mut runtime = runtime_with(1, 1, |profile, policy| {
            profile.drift_window = 100;
            change(policy);
        });
        for i in 0..100 {
            runtime.engine.answer = if fail_every > 0 && i % fail_every == 0 {
                Answer::Fail
            } else {
                Answer::Logits
            };
            push(&mut runtime, i, &[(i % 5) as f32, 0.0]);
        }
        let raised = alarms(&mut runtime);
        raised
            .into_iter()
            .map(|alarm| match alarm {
                Alarm::Drift { statistic, .. } => statistic,
                Alarm::Violation { .. } => panic!("{alarm:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(statistics(|_| {}, 0), []);
    assert_eq!(statistics(|_| {}, 20), [], "exactly 50 per mille");
    assert_eq!(statistics(|_| {}, 17), [Statistic::ErrorRate]);
    assert_eq!(
        statistics(|policy| policy.guard.max_p99_us = 4, 0),
        [Statistic::LatencyP99]
    );
    assert_eq!(statistics(|policy| policy.guard.max_p99_us = 5, 0), []);
    assert_eq!(
        statistics(|p| p.guard.min_accuracy_per_mille = 970, 0),
        [Statistic::EstimatedAccuracy]
    );
    assert_eq!(statistics(|p| p.guard.min_accuracy_per_mille = 960, 0), []);
}
