//! Files and a profile for tests and benches of the engine: NPY, the motion model's recordings.
// Each of them uses a part.
#![allow(dead_code)]

use edgeward::drift;
use edgeward::profile::{
    BINS, DType, DriftLimits, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};
use std::fs;
use std::path::{Path, PathBuf};

/// Features and outputs that a Linux board has room for.
pub const F: usize = 128;
pub const C: usize = 32;
/// Samples in the motion model's input, and new ones between two inferences.
pub const WINDOW: usize = 50;
pub const HOP: usize = 10;
const CHANNELS: [&str; 6] = ["ax", "ay", "az", "gx", "gy", "gz"];

pub fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Rows of a row-major little-endian f32 NPY file, split along its first axis.
pub fn npy_rows(path: &Path) -> Vec<Vec<f32>> {
    let bytes = read(path);
    assert_eq!(&bytes[..7], b"\x93NUMPY\x01", "{}", path.display());
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_len]).unwrap();
    assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"));
    let shape = header.split_once("'shape': (").unwrap().1;
    let rows: usize = shape.split_once(',').unwrap().0.trim().parse().unwrap();
    let data = &bytes[10 + header_len..];
    let values: Vec<f32> = data
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    values
        .chunks_exact(values.len() / rows)
        .map(<[f32]>::to_vec)
        .collect()
}

/// The samples of a motion CSV file, all recordings in one stream.
pub fn samples(path: &Path) -> Vec<[f32; 6]> {
    let text = String::from_utf8(read(path)).unwrap();
    let row = |line: &str| {
        let values: Vec<f32> = line
            .split(',')
            .skip(2)
            .map(|v| v.parse().unwrap())
            .collect();
        values.try_into().unwrap()
    };
    text.lines().skip(1).map(row).collect()
}

/// A profile of the motion model's training data whose limits nothing exceeds.
pub fn motion_profile(training: &[[f32; 6]]) -> Profile<F, C> {
    let feature = |channel: usize| {
        let mut sorted: Vec<f32> = training.iter().map(|sample| sample[channel]).collect();
        sorted.sort_by(f32::total_cmp);
        let n = sorted.len() as f32;
        let mean = sorted.iter().sum::<f32>() / n;
        let sd = (sorted.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / (n - 1.0)).sqrt();
        let edges = drift::edges_of_sorted(&sorted).unwrap();
        let mut reference = [0; BINS];
        sorted
            .iter()
            .for_each(|&x| reference[drift::bin_of(&edges, x)] += 1);
        FeatureProfile {
            name: Name::try_from(CHANNELS[channel]).unwrap(),
            missing: MissingPolicy::HoldLast,
            min: -1000.0,
            max: 1000.0,
            mean,
            sd,
            max_rate: 1000.0,
            stuck_run: 50,
            edges,
            reference,
            limits: DriftLimits {
                psi: 99.0,
                ks: 9.0,
                js: 9.0,
                wasserstein: 999.0,
            },
        }
    };
    let names = ["standing", "running", "walking", "badminton"];
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window: WINDOW as u16,
            hop: HOP as u16,
            layout: Layout::FeaturesFirst,
            period_ms: 100,
            max_age_ms: 1000,
            feature_version: 0,
        },
        features: (0..CHANNELS.len()).map(feature).collect(),
        output: OutputProfile {
            kind: OutputKind::Logits,
            names: names
                .into_iter()
                .map(|name| Name::try_from(name).unwrap())
                .collect(),
            temperature: 0.83,
            class_counts: [60; 4].into_iter().collect(),
            score_mean: 0.9,
            score_sd: 0.1,
            score_p01: 0.3,
            score_p99: 1.0,
            entropy_mean: 0.3,
            class_psi_limit: 99.0,
            score_shift_limit: 99.0,
        },
        drift_window: 1000,
    }
}
