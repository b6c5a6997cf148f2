//! What the benches of monitoring share, on hosts and on a Cortex-M: values, and what a profile says of them.

use core::fmt::Write as _;
use edgeward::drift;
use edgeward::profile::{
    BINS, DType, DriftLimits, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};

/// Samples of a drift window.
pub const DRIFT_WINDOW: u32 = 1000;

/// Roughly normal values of variance one, by the sum of uniform ones.
pub fn normal() -> impl Iterator<Item = f32> {
    let mut state = 1_u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    core::iter::repeat_with(move || (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
}

/// What `sorted` values of training make of features that are all alike, and of four classes. Limits are so
/// far away that nothing is ever amiss.
pub fn profile<const F: usize, const C: usize>(
    sorted: &[f32],
    features: usize,
    window: u16,
    hop: u16,
    layout: Layout,
) -> Profile<F, C> {
    let edges = drift::edges_of_sorted(sorted).expect("values are finite");
    let mut reference = [0; BINS];
    sorted
        .iter()
        .for_each(|&x| reference[drift::bin_of(&edges, x)] += 1);
    let limits = DriftLimits {
        psi: 9.0,
        ks: 9.0,
        js: 9.0,
        wasserstein: 9.0,
    };
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window,
            hop,
            layout,
            period_ms: 10,
            max_age_ms: 1000,
            feature_version: 0,
        },
        features: (0..features)
            .map(|i| FeatureProfile {
                name: name(i),
                missing: MissingPolicy::HoldLast,
                min: -8.0,
                max: 8.0,
                mean: 0.0,
                sd: 1.0,
                max_rate: 12.0,
                stuck_run: 50,
                edges,
                reference,
                limits,
            })
            .collect(),
        output: OutputProfile {
            kind: OutputKind::Logits,
            names: (0..4).map(name).collect(),
            temperature: 1.5,
            class_counts: [100; 4].into_iter().collect(),
            score_mean: 0.5,
            score_sd: 0.2,
            score_p01: 0.3,
            score_p99: 0.9,
            entropy_mean: 1.0,
            class_psi_limit: 9.0,
            score_shift_limit: 9.0,
        },
        drift_window: DRIFT_WINDOW,
    }
}

/// A name of a feature or class.
fn name(number: usize) -> Name {
    let mut name = Name::new();
    write!(name, "f{number}").expect("it is short");
    name
}
