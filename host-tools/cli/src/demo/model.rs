//! The example model's releases, carried in the program so that the demo runs anywhere.

use super::feeder::Recording;
use super::world::Sensor;
use anyhow::{Context, Result};
use edgeward_host::data::{Columns, Samples};
use edgeward_host::model::{EngineChoice, Target};
use edgeward_host::pack::{self, Options, pack};
use edgeward_host::spec::Spec;
use std::path::Path;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../../models/motion/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "v1.toml",
    "v2.toml",
    "bad.toml",
    "motion-v1.onnx",
    "motion-v2.onnx",
    "motion-bad.onnx",
    "train.csv",
    "test.csv",
    "outputs-v1.npy",
    "outputs-v2.npy",
    "outputs-bad.npy",
    "golden-v1-input.npy",
    "golden-v1-output.npy",
    "golden-v2-input.npy",
    "golden-v2-output.npy",
    "golden-bad-input.npy",
    "golden-bad-output.npy",
];

/// Unsigned bundles of the three releases.
pub struct Releases {
    /// The first.
    pub v1: Vec<u8>,
    /// The better one.
    pub v2: Vec<u8>,
    /// The one that goes wrong on live data.
    pub bad: Vec<u8>,
    /// Drift window of the first, in samples.
    pub drift_window: u32,
    /// What each was packed as, in this order.
    pub reports: [pack::Report; 3],
}

/// Writes the model's files into a folder.
pub fn unpack(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, bytes) in FILES {
        std::fs::write(folder.join(name), bytes).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

/// Packs the three releases as `edgeward pack --target` does: for Linux boards by the engines that their
/// descriptions name, for microcontrollers as programs. Trials are short, so that the demo is.
pub fn releases(folder: &Path, target: Target) -> Result<Releases> {
    let build = |file: &str, allow_skew| -> Result<_> {
        let mut spec = Spec::load(&folder.join(file))?;
        if target != Target::Linux {
            (spec.target, spec.engine) = (target, EngineChoice::Program);
        }
        spec.policy.trial.min_inferences = Some(120);
        spec.policy.trial.min_windows = Some(2);
        let options = Options {
            allow_skew,
            ..Options::default()
        };
        let packed = pack(&spec, options).with_context(|| format!("packing {file}"))?;
        Ok((packed.bytes, packed.report))
    };
    let (v1, first) = build("v1.toml", false)?;
    let (v2, second) = build("v2.toml", false)?;
    // Packing refuses the bad release for its skew against the lab's outputs; somebody overrode it.
    let (bad, third) = build("bad.toml", true)?;
    Ok(Releases {
        v1,
        v2,
        bad,
        drift_window: first.profile.drift_window,
        reports: [first, second, third],
    })
}

/// The test recordings.
pub fn sensor(folder: &Path) -> Result<Sensor> {
    let spec = Spec::load(&folder.join("v1.toml"))?;
    let columns = Columns::of(&spec.input.features);
    let samples = Samples::load(&folder.join("test.csv"), columns)?;
    let labels = samples
        .labels
        .as_ref()
        .context("the test recordings are labelled")?;
    let mut recordings = Vec::new();
    for rows in samples.recordings.clone() {
        let label = labels.get(rows.start).context("a label a row")?;
        let label = spec.output.classes.iter().position(|class| class == label);
        recordings.push(Recording {
            label: label.context("a class of the model")?,
            samples: rows.map(|row| samples.row(row).to_vec()).collect(),
        });
    }
    Ok(Sensor {
        recordings,
        features: spec.input.features.clone(),
        classes: spec.output.classes.clone(),
    })
}
