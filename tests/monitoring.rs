//! Properties of the monitoring path that hold for any input: nothing panics, counts add up, merges
//! equal wholes, and nothing that is not finite reaches model or telemetry.

use edgeward::contract::{MISSING, Outcome, Sample, ViolationKind};
use edgeward::drift::{self, Window, statistics};
use edgeward::engine::{Engine, EngineError};
use edgeward::policy::{Action, Policy};
use edgeward::profile::{
    BINS, DType, DriftLimits, EDGES, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};
use edgeward::runtime::Runtime;
use edgeward::telemetry::Summary;
use proptest::prelude::*;

const F: usize = 3;
const C: usize = 2;

/// Answers what the inputs make of it, finite or not, and minds that these are finite.
struct Sums(usize);

impl Engine for Sums {
    fn input_len(&self) -> usize {
        self.0
    }

    fn output_len(&self) -> usize {
        C
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        assert!(input.iter().all(|x| x.is_finite()), "{input:?}");
        let sum: f32 = input.iter().sum();
        if sum == 1.0 {
            return Err(EngineError::Run);
        }
        output.copy_from_slice(&[sum, -sum]);
        Ok(())
    }
}

fn feature(mean: f32, edges: [f32; EDGES], missing: MissingPolicy) -> FeatureProfile {
    let limits = DriftLimits {
        psi: 0.1,
        ks: 0.1,
        js: 0.1,
        wasserstein: 0.1,
    };
    FeatureProfile {
        name: Name::try_from("x").unwrap(),
        missing,
        min: -100.0,
        max: 100.0,
        mean,
        sd: 1.0,
        max_rate: 10.0,
        stuck_run: 3,
        edges,
        reference: [5; BINS],
        limits,
    }
}

fn profile(window: u16, hop: u16, layout: Layout, drift_window: u32) -> Profile<F, C> {
    let edges = core::array::from_fn(|i| i as f32 - 7.0);
    let missing = [
        MissingPolicy::Reject,
        MissingPolicy::HoldLast,
        MissingPolicy::Impute,
    ];
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window,
            hop,
            layout,
            period_ms: 10,
            max_age_ms: 50,
            feature_version: 0,
        },
        features: missing
            .into_iter()
            .zip(["x", "y", "z"])
            .map(|(missing, name)| FeatureProfile {
                name: Name::try_from(name).unwrap(),
                ..feature(0.5, edges, missing)
            })
            .collect(),
        output: OutputProfile {
            kind: OutputKind::Logits,
            names: ["a", "b"]
                .into_iter()
                .map(|name| Name::try_from(name).unwrap())
                .collect(),
            temperature: 1.0,
            class_counts: [1, 1].into_iter().collect(),
            score_mean: 0.8,
            score_sd: 0.1,
            score_p01: 0.5,
            score_p99: 0.99,
            entropy_mean: 0.3,
            class_psi_limit: 0.5,
            score_shift_limit: 1.0,
        },
        drift_window,
    }
}

/// Any f32, with those more often that matter.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -8.0f32..8.0,
        2 => any::<u32>().prop_map(f32::from_bits),
        1 => prop::sample::select(vec![
            MISSING, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN,
            f32::MIN_POSITIVE, 1e-45, 0.0, -0.0, 1.0,
        ]),
    ]
}

fn policy(actions: &[u8]) -> Policy {
    let mut policy = Policy::standard();
    for (rule, action) in policy.rules.iter_mut().zip(actions) {
        rule.action = match action % 4 {
            0 => Action::Count,
            1 => Action::Flag,
            2 => Action::Reject,
            _ => Action::Fallback,
        };
    }
    policy
}

/// One sample: how far number and time move, and the values (more or fewer than there should be).
type Offered = (u32, u64, Vec<f32>);

fn offered() -> impl Strategy<Value = Offered> {
    let step = prop_oneof![8 => Just(1), 1 => Just(0), 1 => any::<u32>()];
    let wait = prop_oneof![8 => Just(10), 1 => Just(0), 1 => any::<u64>()];
    let right = prop::collection::vec(value(), F);
    let values = prop_oneof![9 => right, 1 => prop::collection::vec(value(), 0..6)];
    (step, wait, values)
}

fn check_summary(summary: &Summary<F, C>, accepted: u32) {
    assert_eq!(summary.samples, accepted + summary.rejected);
    let output = &summary.output;
    assert_eq!(summary.inferences, output.n + summary.errors);
    assert_eq!(output.classes.iter().sum::<u32>(), output.n);
    assert_eq!(summary.latency.count(), u64::from(output.n));
    for x in [
        output.score_mean,
        output.score_m2,
        output.entropy_sum,
        output.expected_right,
    ] {
        assert!(x.is_finite(), "{output:?}");
    }
    for feature in &summary.features {
        assert_eq!(feature.bins.iter().sum::<u32>(), feature.n);
        assert!(feature.n <= accepted);
        assert!(
            feature.mean.is_finite() && feature.m2.is_finite(),
            "{feature:?}"
        );
        assert!(feature.m2 >= 0.0 || feature.n == 0);
    }
    for kind in &ViolationKind::ALL[..ViolationKind::PER_FEATURE] {
        let i = *kind as usize;
        let by_feature = summary
            .features
            .iter()
            .map(|f| f.violations[i])
            .sum::<u32>();
        assert_eq!(by_feature, summary.violations[i], "{kind:?}");
    }
}

/// Counts of a window's bins: some of them empty, now and then all.
fn counts(most: u32) -> impl Strategy<Value = [u32; BINS]> {
    let count = move || prop_oneof![1 => Just(0), 1 => 0..5u32, 3 => 0..most];
    let full = prop::collection::vec(count(), BINS);
    prop_oneof![1 => Just([0; BINS]), 40 => full.prop_map(|row| row.try_into().unwrap())]
}

/// Shares of the bins, with so much added to each count.
fn shares(counts: &[u32; BINS], added: f64) -> [f64; BINS] {
    let counts = counts.map(|count| f64::from(count) + added);
    let total: f64 = counts.iter().sum();
    counts.map(|count| count / total)
}

/// The statistics as their definitions read, in f64 and without a thought to cost.
mod defined {
    use super::{BINS, EDGES};

    pub fn psi(p: &[f64; BINS], q: &[f64; BINS]) -> f64 {
        p.iter().zip(q).map(|(p, q)| (q - p) * (q / p).ln()).sum()
    }

    /// p and q up to each bin.
    fn distributions(p: &[f64; BINS], q: &[f64; BINS]) -> Vec<[f64; 2]> {
        let up_to = |row: &[f64; BINS], bin: usize| row[..=bin].iter().sum::<f64>();
        (0..BINS)
            .map(|bin| [up_to(p, bin), up_to(q, bin)])
            .collect()
    }

    pub fn ks(p: &[f64; BINS], q: &[f64; BINS]) -> f64 {
        let differences = distributions(p, q).into_iter().map(|[p, q]| (p - q).abs());
        differences.fold(0.0, f64::max)
    }

    /// Square root of the Jensen-Shannon divergence in bits.
    pub fn js_distance(p: &[f64; BINS], q: &[f64; BINS]) -> f64 {
        let to_middle = |a: &[f64; BINS], b: &[f64; BINS]| -> f64 {
            let pairs = a.iter().zip(b).filter(|&(&a, _)| a > 0.0);
            pairs.map(|(a, b)| a * (2.0 * a / (a + b)).log2()).sum()
        };
        (0.5 * to_middle(p, q) + 0.5 * to_middle(q, p))
            .max(0.0)
            .sqrt()
    }

    /// The area between the distribution functions, which are straight from edge to edge, by small
    /// steps.
    pub fn wasserstein(edges: &[f32; EDGES], p: &[f64; BINS], q: &[f64; BINS]) -> f64 {
        const STEPS: u32 = 200;
        let difference: Vec<_> = distributions(p, q)
            .into_iter()
            .map(|[p, q]| p - q)
            .collect();
        let mut area = 0.0;
        for (edge, at) in edges.windows(2).zip(difference.windows(2)) {
            let step = f64::from(edge[1] - edge[0]) / f64::from(STEPS);
            for i in 0..STEPS {
                let between = (f64::from(i) + 0.5) / f64::from(STEPS);
                area += (at[0] + (at[1] - at[0]) * between).abs() * step;
            }
        }
        area
    }
}

proptest! {
    #[test]
    fn any_stream_is_survived_and_counts_add_up(
        samples in prop::collection::vec(offered(), 1..120),
        actions in prop::collection::vec(any::<u8>(), ViolationKind::COUNT),
        (window, hop) in (1u16..6).prop_flat_map(|window| (Just(window), 1..=window)),
        features_first in any::<bool>(),
        drift_window in 1u32..40,
    ) {
        let layout = if features_first { Layout::FeaturesFirst } else { Layout::SamplesFirst };
        let inputs = usize::from(window) * F;
        let profile = profile(window, hop, layout, drift_window);
        let mut runtime =
            Runtime::new(Sums(inputs), [0; 8], profile, policy(&actions), vec![0.0; inputs]).unwrap();
        let (mut sequence, mut time_ms, mut accepted, mut offered) = (0u32, 0u64, 0, 0);
        for (step, wait, values) in &samples {
            sequence = sequence.wrapping_add(*step);
            time_ms = time_ms.wrapping_add(*wait);
            let sample = Sample { sequence, time_ms, values };
            let step = runtime.push(&sample, time_ms.wrapping_add(*wait), &mut || time_ms);
            offered += 1;
            accepted += u32::from(step.check.outcome != Outcome::Rejected);
            if let Some(prediction) = step.prediction {
                prop_assert!(usize::from(prediction.class) < C);
                prop_assert!((0.0..=1.0).contains(&prediction.confidence));
            }
            prop_assert_eq!(step.window_closed, offered == drift_window);
            if step.window_closed {
                check_summary(&runtime.take_summary(time_ms), accepted);
                (accepted, offered) = (0, 0);
            }
        }
        check_summary(&runtime.take_summary(time_ms), accepted);
    }

    #[test]
    fn the_bin_is_the_number_of_edges_at_or_below(
        mut edges in prop::collection::vec(-1e3f32..1e3, EDGES),
        ties in any::<prop::sample::Index>(),
        x in any::<u32>().prop_map(f32::from_bits).prop_filter("a number", |x| !x.is_nan()),
        at in any::<prop::sample::Index>(),
    ) {
        edges.sort_by(f32::total_cmp);
        let tied = ties.index(EDGES - 1);
        edges[tied + 1] = edges[tied];
        edges.sort_by(f32::total_cmp);
        let edges: [f32; EDGES] = edges.try_into().unwrap();
        for x in [x, edges[at.index(EDGES)]] {
            let expected = edges.iter().filter(|&&edge| edge <= x).count();
            prop_assert_eq!(drift::bin_of(&edges, x), expected);
        }
    }

    #[test]
    fn merged_windows_equal_the_whole(
        values in prop::collection::vec(value(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let feature = feature(0.5, core::array::from_fn(|i| i as f32 - 7.0), MissingPolicy::Impute);
        let fill = |values: &[f32]| {
            let mut window = Window::EMPTY;
            values.iter().for_each(|&x| window.push(&feature, x));
            window
        };
        let whole = fill(&values);
        let (a, b) = values.split_at(cut.index(values.len() + 1));
        let mut merged = fill(a);
        merged.merge(&fill(b));
        prop_assert_eq!(merged.counts(), whole.counts());
        prop_assert_eq!(merged.n(), whole.n());
        let (seen, expected) = (merged.moments(), whole.moments());
        let sd = expected.sd().unwrap_or(0.0);
        prop_assert!((seen.mean - expected.mean).abs() <= 1e-5 * (sd + expected.mean.abs()));
        prop_assert!((seen.m2 - expected.m2).abs() <= 1e-3 * expected.m2.abs());
        prop_assert!(whole.moments().m2.is_finite());
    }

    #[test]
    fn statistics_are_what_their_definitions_say(
        reference in counts(2000),
        window in counts(200),
        mut edges in prop::collection::vec(-1e3f32..1e3, EDGES),
        tie in any::<prop::sample::Index>(),
    ) {
        edges.sort_by(f32::total_cmp);
        let tied = tie.index(EDGES - 1);
        edges[tied + 1] = edges[tied];
        let edges: [f32; EDGES] = edges.try_into().unwrap();
        let empty = |row: &[u32; BINS]| row.iter().all(|&count| count == 0);
        let found = drift::evaluate(&edges, &reference, &window);
        prop_assert_eq!(found.is_none(), empty(&reference) || empty(&window));
        let Some(found) = found else { return Ok(()) };

        let (p, q) = (shares(&reference, 0.0), shares(&window, 0.0));
        let (smooth_p, smooth_q) = (shares(&reference, 0.5), shares(&window, 0.5));
        let (psi, js) = (defined::psi(&smooth_p, &smooth_q), defined::js_distance(&p, &q));
        let (ks, area) = (defined::ks(&p, &q), defined::wasserstein(&edges, &p, &q));
        let near = |seen: f32, exact: f64, unit: f64| (f64::from(seen) - exact).abs() <= 1e-4 * unit;
        prop_assert!(near(found.psi, psi, psi.max(0.1)), "PSI {} {psi}", found.psi);
        prop_assert!(near(found.ks, ks, 0.05), "KS {} {ks}", found.ks);
        prop_assert!(near(found.js, js, 0.05), "JS {} {js}", found.js);
        let width = f64::from(edges[EDGES - 1] - edges[0]);
        prop_assert!(near(found.wasserstein, area, width), "W1 {} {area}", found.wasserstein);

        // A row against itself and its double: the shares are the same.
        let double = window.map(|count| 2 * count);
        prop_assert!(statistics::js_distance(&window, &double) < 1e-6);
        prop_assert!(statistics::ks(&window, &double) < 1e-6);
        prop_assert!(statistics::wasserstein(&edges, &window, &double) < 1e-3);
        prop_assert!(statistics::psi(&window, &window) == 0.0);
    }

    #[test]
    fn edges_of_training_data_hold_all_of_it(
        mut values in prop::collection::vec(-1e30f32..1e30, 1..200),
        repeated in any::<bool>(),
    ) {
        if repeated {
            values.iter_mut().for_each(|x| *x = x.signum());
        }
        values.sort_by(f32::total_cmp);
        let edges = drift::edges_of_sorted(&values).unwrap();
        prop_assert!(edges.is_sorted());
        for &x in &values {
            prop_assert!((1..BINS - 1).contains(&drift::bin_of(&edges, x)));
        }
    }
}
