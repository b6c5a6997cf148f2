//! What unit tests share.

use crate::engine::{Engine, EngineError};
use crate::profile::{
    BINS, DType, DriftLimits, EDGES, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};

/// Answers the sum of its inputs in the first output, and one more in each further one.
#[derive(Debug)]
pub struct SumEngine {
    pub inputs: usize,
    pub outputs: usize,
}

impl Engine for SumEngine {
    fn input_len(&self) -> usize {
        self.inputs
    }

    fn output_len(&self) -> usize {
        self.outputs
    }

    fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), EngineError> {
        let sum: f32 = input.iter().sum();
        for (i, out) in output.iter_mut().enumerate() {
            *out = sum + i as f32;
        }
        Ok(())
    }
}

/// A feature that is uniform over -7 to 7: plausible to 10, bins of width one.
pub fn feature(name: &str) -> FeatureProfile {
    let mut edges = [0.0; EDGES];
    for (i, edge) in edges.iter_mut().enumerate() {
        *edge = i as f32 - 7.0;
    }
    let mut reference = [100; BINS];
    reference[0] = 0;
    reference[BINS - 1] = 0;
    FeatureProfile {
        name: Name::try_from(name).unwrap(),
        missing: MissingPolicy::HoldLast,
        min: -10.0,
        max: 10.0,
        mean: 0.0,
        sd: 4.04,
        max_rate: f32::INFINITY,
        stuck_run: 0,
        edges,
        reference,
        limits: DriftLimits {
            psi: f32::INFINITY,
            ks: f32::INFINITY,
            js: f32::INFINITY,
            wasserstein: f32::INFINITY,
        },
    }
}

/// `C` classes, equally frequent.
pub fn output_profile<const C: usize>(kind: OutputKind) -> OutputProfile<C> {
    OutputProfile {
        kind,
        names: (0..C)
            .map(|i| Name::try_from(format!("class{i}").as_str()).unwrap())
            .collect(),
        temperature: 1.0,
        class_counts: (0..C).map(|_| 100).collect(),
        score_mean: 0.8,
        score_sd: 0.1,
        score_p01: 0.4,
        score_p99: 0.99,
        entropy_mean: 0.3,
        class_psi_limit: f32::INFINITY,
        score_shift_limit: f32::INFINITY,
    }
}

/// `F` features of [`feature`], a window of `window` samples and a hop of `hop`.
pub fn profile<const F: usize, const C: usize>(window: u16, hop: u16) -> Profile<F, C> {
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window,
            hop,
            layout: Layout::SamplesFirst,
            period_ms: 10,
            max_age_ms: 1000,
            feature_version: 0,
        },
        features: (0..F).map(|i| feature(&format!("f{i}"))).collect(),
        output: output_profile(OutputKind::Logits),
        drift_window: 100,
    }
}
