use super::super::latency::LatencyHistogram;
use super::*;
use proptest::prelude::*;

type S = Summary<3, 4>;

fn feature() -> impl Strategy<Value = FeatureSummary> {
    (
        prop::collection::vec(-1e3f32..1e3, 0..40),
        prop::array::uniform7(0u32..50),
        prop::array::uniform16(0u32..1000),
    )
        .prop_map(|(values, violations, bins)| {
            let mut whole = FeatureSummary::empty();
            for value in values {
                whole.merge(&FeatureSummary {
                    n: 1,
                    mean: value,
                    min: value,
                    max: value,
                    ..FeatureSummary::empty()
                });
            }
            FeatureSummary {
                bins,
                violations,
                ..whole
            }
        })
}

prop_compose! {
    fn summary()(
        features in prop::collection::vec(feature(), 3),
        classes in prop::collection::vec(0u32..100, 4),
        counts in prop::array::uniform8(0u32..1_000_000),
        times in (0u64..1000, 1000u64..2000),
        violations in prop::array::uniform17(0u32..9),
        latencies in prop::collection::vec(1u32..100_000, 0..30),
        score in (0f32..1.0, 0f32..5.0, 0f32..50.0, 0f32..50.0),
        core_khz in prop::sample::select(vec![0, 25_000, 25_000, 400_000]),
    ) -> S {
        let mut latency = LatencyHistogram::default();
        latencies.iter().for_each(|&us| latency.record(us));
        let n = classes.iter().sum();
        Summary {
            release: [7; 8],
            windows: 1 + counts[0] % 5,
            from_ms: times.0,
            to_ms: times.1,
            samples: counts[1],
            rejected: counts[2],
            inferences: counts[3],
            errors: counts[4],
            fallbacks: counts[5],
            violations,
            alarms: counts[6],
            dropped_events: counts[7],
            latency,
            features: features.into_iter().collect(),
            output: OutputSummary {
                n,
                classes: classes.iter().copied().collect(),
                score_mean: score.0,
                score_m2: score.1,
                entropy_sum: score.2,
                expected_right: score.3,
                z_outliers: counts[0] % 7,
                below_p01: counts[1] % 7,
                above_p99: counts[2] % 7,
            },
            core_khz,
        }
    }
}

fn close(a: f32, b: f32, scale: f32) -> bool {
    (a - b).abs() <= 1e-4 * scale.max(1.0)
}

/// Equal in all counts and extremes, and in all sums up to rounding.
fn same(a: &S, b: &S) -> bool {
    let mut left = a.clone();
    let floats_agree = left.features.iter_mut().zip(&b.features).all(|(x, y)| {
        let spread = y.max.abs().max(y.min.abs());
        let agree = x.n == 0
            || close(x.mean, y.mean, spread) && close(x.m2, y.m2, spread * spread * y.n as f32);
        (x.mean, x.m2) = (y.mean, y.m2);
        agree
    }) && close(a.output.score_mean, b.output.score_mean, 1.0)
        && close(a.output.score_m2, b.output.score_m2, b.output.score_m2)
        && close(a.output.entropy_sum, b.output.entropy_sum, 100.0)
        && close(a.output.expected_right, b.output.expected_right, 100.0);
    left.output.score_mean = b.output.score_mean;
    left.output.score_m2 = b.output.score_m2;
    left.output.entropy_sum = b.output.entropy_sum;
    left.output.expected_right = b.output.expected_right;
    floats_agree && left == *b
}

fn merged(a: &S, b: &S) -> S {
    let mut a = a.clone();
    a.merge(b).expect("same shape");
    a
}

proptest! {
    #[test]
    fn the_order_of_merges_does_not_matter(a in summary(), b in summary(), c in summary()) {
        let left = merged(&merged(&a, &b), &c);
        let right = merged(&a, &merged(&b, &c));
        prop_assert!(same(&left, &right), "{left:?}\n{right:?}");
        prop_assert!(same(&merged(&a, &b), &merged(&b, &a)));
    }

    #[test]
    fn nothing_is_neutral_but_for_dropped_events(a in summary(), dropped in 0u32..9) {
        let nothing = Summary { dropped_events: dropped, ..S::empty() };
        let expected = Summary { dropped_events: a.dropped_events + dropped, ..a.clone() };
        prop_assert_eq!(merged(&a, &nothing), expected.clone());
        prop_assert_eq!(merged(&nothing, &a), expected);
    }

    #[test]
    fn merged_moments_are_those_of_all_values(values in prop::collection::vec(-1e3f32..1e3, 2..200), cut in 0usize..200) {
        let moments = |values: &[f32]| {
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n.max(1.0);
            let m2 = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
            (values.len() as u32, mean as f32, m2 as f32)
        };
        let (left, right) = values.split_at(cut % values.len());
        let (mean, m2) = merge_moments(moments(left), moments(right));
        let whole = moments(&values);
        prop_assert!(close(mean, whole.1, 1e3));
        prop_assert!(close(m2, whole.2, whole.2));
    }
}

#[test]
fn a_merge_knows_the_clock_that_all_its_windows_had() {
    let window = |core_khz| {
        let mut window = Summary {
            windows: 1,
            core_khz,
            ..S::empty()
        };
        window.latency.record(128_000);
        window
    };
    let merge = |clocks: &[u32]| {
        let mut whole = S::empty();
        for &khz in clocks {
            whole.merge(&window(khz)).expect("same shape");
        }
        (whole.core_khz, whole.latency_p99_cycles())
    };
    assert_eq!(merge(&[25_000, 25_000]), (25_000, Some(3_200_000)));
    for unlike in [
        [25_000, 400_000, 25_000],
        [25_000, 25_000, 0],
        [0, 25_000, 25_000],
    ] {
        assert_eq!(merge(&unlike), (0, None));
    }
    // The longest and the fastest do not overflow.
    let mut most = window(u32::MAX);
    most.latency.record(u32::MAX);
    let cycles = u64::from(u32::MAX) * u64::from(u32::MAX) / 1000;
    assert_eq!(most.latency_p99_cycles(), Some(cycles));
    assert_eq!(
        Summary {
            core_khz: 1,
            ..S::empty()
        }
        .latency_p99_cycles(),
        None
    );
}

#[test]
fn counts_saturate() {
    let mut a = FeatureSummary {
        n: u32::MAX,
        bins: [u32::MAX - 1; BINS],
        ..FeatureSummary::empty()
    };
    a.merge(&a.clone());
    assert_eq!((a.n, a.bins), (u32::MAX, [u32::MAX; BINS]));
}

#[test]
fn what_does_not_belong_together_is_refused_and_unchanged() {
    let one = Summary {
        windows: 1,
        dropped_events: 3,
        features: Vec::from_array([FeatureSummary::empty()]),
        ..S::empty()
    };
    let mut subject = one.clone();
    let other = Summary {
        release: [1; 8],
        ..one.clone()
    };
    assert_eq!(subject.merge(&other), Err(MergeError::Release));
    let other = Summary {
        features: Vec::new(),
        ..one.clone()
    };
    assert_eq!(subject.merge(&other), Err(MergeError::Features));
    let mut other = one.clone();
    assert!(other.output.classes.push(1).is_ok());
    assert_eq!(subject.merge(&other), Err(MergeError::Classes));
    assert_eq!(subject, one);
}
