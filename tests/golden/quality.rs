//! Counts of the contract against numpy's. The vectors have more of a stream than a board counts, which is not
//! compared: percentiles by interpolation, Tukey's fences, and deviations from the median.

use super::{corpus, feature, golden, number, row_f32};
use edgeward::contract::{Contract, MISSING, Sample, ViolationKind};
use edgeward::policy::Policy;
use edgeward::profile::{
    DType, FeatureProfile, Layout, OutputKind, OutputProfile, Profile, Schema,
};

#[test]
fn quality_counts_equal_numpys() {
    let Some(golden) = golden("quality.json") else {
        return;
    };
    let case = &golden["cases"][0];
    let (config, expected) = (&case["config"], &case["expected"]);
    let mut feature = feature();
    feature.min = number(config, "min") as f32;
    feature.max = number(config, "max") as f32;
    feature.mean = number(config, "train_mean") as f32;
    feature.sd = number(config, "train_sd") as f32;
    feature.max_rate = number(config, "max_rate") as f32;
    feature.stuck_run = number(config, "stuck_run") as u16;
    let z_limit = number(config, "z_threshold") as f32;
    let x: Vec<f32> = row_f32(&case["x"])
        .into_iter()
        .map(|x| if x.is_nan() { MISSING } else { x })
        .collect();
    let seen = quality(feature, z_limit, &x);

    let count = |kind: ViolationKind| f64::from(seen.counts[kind as usize]);
    assert_eq!(x.len() as f64, number(expected, "n"));
    assert_eq!(count(ViolationKind::NotFinite), 0.0);
    assert_eq!(count(ViolationKind::Missing), number(expected, "missing"));
    assert_eq!(
        count(ViolationKind::BelowRange),
        number(expected, "below_min")
    );
    assert_eq!(
        count(ViolationKind::AboveRange),
        number(expected, "above_max")
    );
    assert_eq!(
        count(ViolationKind::ZScore),
        number(expected, "z_outliers_train")
    );
    let rate = "rate_violations_between_consecutive_finite";
    assert_eq!(count(ViolationKind::Rate), number(expected, rate));
    assert_eq!(
        seen.longest_run,
        (number(expected, "longest_equal_run") as u16)
    );
    assert_eq!(
        seen.longest_run_end as f64,
        number(expected, "longest_equal_run_end_index")
    );
    assert_eq!(
        seen.first_stuck,
        expected["stuck_first_alarm_index"]
            .as_u64()
            .map(|i| i as usize)
    );

    let flat = &golden["cases"][1]["expected"];
    let text =
        std::fs::read_to_string(corpus().unwrap().join("streams/nab/art_flatline.csv")).unwrap();
    let x: Vec<f32> = text
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!(x.len() as f64, number(flat, "n"));
    let seen = quality(super::feature(), 3.0, &x);
    assert_eq!(
        f64::from(seen.longest_run),
        number(flat, "longest_equal_run")
    );
}

/// What the contract says of a whole stream of one feature.
struct Quality {
    counts: [u16; ViolationKind::PER_FEATURE],
    longest_run: u16,
    longest_run_end: usize,
    first_stuck: Option<usize>,
}

fn quality(feature: FeatureProfile, z_limit: f32, x: &[f32]) -> Quality {
    let profile = Profile::<1, 1> {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window: 1,
            hop: 1,
            layout: Layout::SamplesFirst,
            period_ms: 10,
            max_age_ms: 0,
            feature_version: 0,
        },
        features: [feature].into_iter().collect(),
        output: OutputProfile {
            kind: OutputKind::Values,
            names: heapless::Vec::new(),
            temperature: 1.0,
            class_counts: heapless::Vec::new(),
            score_mean: 0.0,
            score_sd: 1.0,
            score_p01: 0.0,
            score_p99: 0.0,
            entropy_mean: 0.0,
            class_psi_limit: 0.0,
            score_shift_limit: 0.0,
        },
        drift_window: 100,
    };
    let policy = Policy {
        z_limit,
        ..Policy::standard()
    };
    let mut contract = Contract::<1>::default();
    let mut seen = Quality {
        counts: [0; ViolationKind::PER_FEATURE],
        longest_run: 0,
        longest_run_end: 0,
        first_stuck: None,
    };
    for (i, &value) in x.iter().enumerate() {
        let time_ms = 10 * i as u64;
        let sample = Sample {
            sequence: i as u32,
            time_ms,
            values: &[value],
        };
        let check = contract.check(&profile, &policy, &sample, time_ms, &mut [0.0], &mut |_| {});
        if check.violations.contains(ViolationKind::Stuck) {
            seen.first_stuck.get_or_insert(i);
        }
        let run = contract.feature(0).unwrap().run();
        if run > seen.longest_run {
            (seen.longest_run, seen.longest_run_end) = (run, i);
        }
    }
    seen.counts = *contract.feature(0).unwrap().counts();
    seen
}
