//! Replay: recorded inferences once more, on this machine, compared with what the board saw.
//!
//! An int8 program is run by the portable kernels, which define its arithmetic: every output must be
//! the recorded one, bit for bit, whatever kernels the board has. tract's float kernels differ between
//! processors, so there an output may be as far off as the release's own golden vectors may.

use crate::controller::releases_folder;
use crate::flight::FlightRecord;
use crate::keys::hex;
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::engine::board::{BoardEngine, LoadError};
use edgeward::engine::program::ProgramEngine;
use edgeward::recorder::{Inference, Outcome, RecordError, Tensor, What};
use edgeward::telemetry::{ReleaseId, release_id};
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

/// Why a record could not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The record.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The bundle.
    #[error("the bundle of release {release}: {why}")]
    Bundle {
        /// Which release.
        release: String,
        /// What is wrong.
        why: String,
    },
    /// The model takes or gives another number of elements than were recorded.
    #[error(
        "record {record} holds {recorded} elements of {what}, the model of release {release} has {model}"
    )]
    Shape {
        /// Number of the record.
        record: u64,
        /// Its release.
        release: String,
        /// Input or output.
        what: &'static str,
        /// Elements recorded.
        recorded: usize,
        /// Elements that the model has.
        model: usize,
    },
    /// The inference fails here.
    #[error("record {record}: the inference fails here and did not on the board")]
    Fails {
        /// Number of the record.
        record: u64,
    },
}

/// An output that differs. The field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Number of the record.
    pub record: u64,
    /// Number of the sample.
    pub sample: u32,
    /// First digits of the release's digest.
    pub release: String,
    /// Which element of the output.
    pub index: usize,
    /// What the board recorded; null where it is not finite.
    pub expected: f64,
    /// What came out here.
    pub seen: f64,
}

/// What became of one release's inferences. The field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReleaseReport {
    /// First digits of its digest.
    pub release: String,
    /// The model, where the bundle is at hand.
    pub model: Option<String>,
    /// Its version, likewise.
    pub version: Option<String>,
    /// How it was run here; none where the bundle is not at hand.
    pub engine: Option<&'static str>,
    /// How far an output may be off; none where not by a bit.
    pub tolerance: Option<f32>,
    /// Inferences recorded.
    pub inferences: usize,
    /// Those that were replayed.
    pub replayed: usize,
    /// Those whose every output is equal bit for bit.
    pub equal: usize,
    /// Those that are within the tolerance, these included.
    pub within: usize,
    /// Inferences that failed on the board, and so have no output.
    pub failed: usize,
}

/// What a replay found. The field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The device.
    pub device: String,
    /// Its boot.
    pub boot: u32,
    /// Records in all.
    pub records: usize,
    /// Events among them.
    pub events: usize,
    /// By release, in the order of their first inference.
    pub releases: Vec<ReleaseReport>,
    /// The first output that differs by more than is allowed.
    pub first_difference: Option<Difference>,
}

impl Report {
    /// Inferences that were replayed.
    #[must_use]
    pub fn replayed(&self) -> usize {
        self.releases.iter().map(|release| release.replayed).sum()
    }

    /// Those whose every output is equal bit for bit.
    #[must_use]
    pub fn equal(&self) -> usize {
        self.releases.iter().map(|release| release.equal).sum()
    }

    /// Releases whose bundle is not at hand.
    #[must_use]
    pub fn unknown(&self) -> Vec<&str> {
        let unknown = self.releases.iter().filter(|it| it.engine.is_none());
        unknown.map(|release| release.release.as_str()).collect()
    }
}

/// The published bundle of a release, if this home folder has it.
#[must_use]
pub fn published(home: &Path, release: ReleaseId) -> Option<Vec<u8>> {
    let files = std::fs::read_dir(releases_folder(home)).ok()?;
    let prefix = hex(&release);
    let mut found = files.filter_map(Result::ok).filter(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&prefix) && name.ends_with(".bundle")
    });
    std::fs::read(found.next()?.path()).ok()
}

/// The release that a bundle is, or none where it is no bundle.
#[must_use]
pub fn identify(bundle: &[u8]) -> Option<ReleaseId> {
    let bundle = Bundle::open(bundle).ok()?;
    Some(release_id(&bundle.head().digest()))
}

/// Replays every inference whose bundle `find` has; the first difference ends it.
///
/// # Errors
/// [`ReplayError`] when a bundle is not sound, or does not fit what was recorded.
pub fn replay(
    record: &FlightRecord,
    find: &mut dyn FnMut(ReleaseId) -> Option<Vec<u8>>,
) -> Result<Report, ReplayError> {
    let mut report = Report {
        device: record.device().to_owned(),
        boot: record.boot(),
        records: 0,
        events: 0,
        releases: Vec::new(),
        first_difference: None,
    };
    let mut models: BTreeMap<ReleaseId, (usize, Option<Model>)> = BTreeMap::new();
    for record in record.records() {
        let record = record?;
        report.records += 1;
        let What::Inference(inference) = record.what else {
            report.events += 1;
            continue;
        };
        let release = record.release;
        let (index, model) = match models.entry(release) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let model = find(release).map(|bytes| Model::load(&bytes, release));
                let model = model.transpose()?;
                report.releases.push(first_look(release, model.as_ref()));
                entry.insert((report.releases.len() - 1, model))
            }
        };
        let row = &mut report.releases[*index];
        row.inferences += 1;
        row.failed += usize::from(inference.outcome == Outcome::Failed);
        let Some(model) = model
            .as_mut()
            .filter(|_| inference.outcome != Outcome::Failed)
        else {
            continue;
        };
        let difference = model.compare(record.number, &inference)?;
        row.replayed += 1;
        row.equal += usize::from(difference.is_none());
        let beyond = difference.filter(|difference| model.is_beyond(difference));
        row.within += usize::from(beyond.is_none());
        if beyond.is_some() {
            report.first_difference = beyond;
            break;
        }
    }
    Ok(report)
}

fn first_look(release: ReleaseId, model: Option<&Model>) -> ReleaseReport {
    ReleaseReport {
        release: hex(&release),
        model: model.map(|model| model.name.clone()),
        version: model.map(|model| model.version.clone()),
        engine: model.map(|model| match model.engine {
            BoardEngine::Program(_) => "program, portable kernels",
            BoardEngine::Tract(_) => "tract",
        }),
        tolerance: model.and_then(|model| model.tolerance),
        inferences: 0,
        replayed: 0,
        equal: 0,
        within: 0,
        failed: 0,
    }
}

/// A release's model, ready to be run again.
struct Model {
    release: String,
    name: String,
    version: String,
    engine: BoardEngine,
    tolerance: Option<f32>,
}

impl Model {
    fn load(bytes: &[u8], release: ReleaseId) -> Result<Self, ReplayError> {
        let fault = |why: String| ReplayError::Bundle {
            release: hex(&release),
            why,
        };
        let bundle = Bundle::open(bytes).map_err(|error| fault(error.to_string()))?;
        if release_id(&bundle.head().digest()) != release {
            return Err(fault("it is another release".into()));
        }
        let sound = bundle.verify_data();
        sound.map_err(|error| fault(error.to_string()))?;
        let (engine, tolerance) = match bundle.section(SectionKind::Program) {
            Some(program) => {
                let engine = ProgramEngine::with(program, None).map_err(LoadError::Program);
                (
                    engine.map(|engine| BoardEngine::Program(Box::new(engine))),
                    None,
                )
            }
            None => {
                let golden = bundle.section(SectionKind::Golden).map(Golden::parse);
                let tolerance = golden.and_then(Result::ok).map(|golden| golden.tolerance());
                (
                    BoardEngine::of_bundle(&bundle),
                    Some(tolerance.unwrap_or(0.0)),
                )
            }
        };
        Ok(Self {
            release: hex(&release),
            name: bundle.manifest().name.to_owned(),
            version: bundle.manifest().version.to_owned(),
            engine: engine.map_err(|error| fault(error.to_string()))?,
            tolerance,
        })
    }

    /// The first element of the output that is not the recorded one, bit for bit; of several, the one that
    /// is furthest off, where the model has a tolerance.
    fn compare(
        &mut self,
        record: u64,
        inference: &Inference<'_>,
    ) -> Result<Option<Difference>, ReplayError> {
        let (input, output) = (self.engine.input_len(), self.engine.output_len());
        for (what, recorded, model) in [
            ("input", inference.input.len(), input),
            ("output", inference.output.len(), output),
        ] {
            if recorded != model {
                return Err(ReplayError::Shape {
                    record,
                    release: self.release.clone(),
                    what,
                    recorded,
                    model,
                });
            }
        }
        let differences = self.differences(inference);
        let differences = differences.ok_or(ReplayError::Fails { record })?;
        let off = |(_, expected, seen): &(usize, f64, f64)| (expected - seen).abs();
        let worst = match self.tolerance {
            None => differences.first().copied(),
            // What is no number is further off than any.
            Some(_) => differences.iter().copied().reduce(|worst, next| {
                let further = off(&next).is_nan() || off(&next) > off(&worst);
                if further && !off(&worst).is_nan() {
                    next
                } else {
                    worst
                }
            }),
        };
        Ok(worst.map(|(index, expected, seen)| Difference {
            record,
            sample: inference.sample,
            release: self.release.clone(),
            index,
            expected,
            seen,
        }))
    }

    /// Every element that differs by a bit: its place, what was recorded, and what comes out here. None
    /// when the inference fails.
    fn differences(&mut self, inference: &Inference<'_>) -> Option<Vec<(usize, f64, f64)>> {
        if let (BoardEngine::Program(engine), Some(input), Some(expected)) = (
            &mut self.engine,
            inference.input.i8s(),
            inference.output.i8s(),
        ) {
            let input: Vec<i8> = input.collect();
            let mut seen = vec![0; inference.output.len()];
            engine.run_i8(&input, &mut seen).ok()?;
            let pairs = expected.zip(seen).enumerate();
            let differ = pairs.filter(|(_, (expected, seen))| expected != seen);
            return Some(
                differ
                    .map(|(at, (expected, seen))| (at, f64::from(expected), f64::from(seen)))
                    .collect(),
            );
        }
        let input = floats(&inference.input)?;
        let expected = floats(&inference.output)?;
        let mut seen = vec![0.0; expected.len()];
        self.engine.run(&input, &mut seen).ok()?;
        let pairs = expected.into_iter().zip(seen).enumerate();
        let differ = pairs.filter(|(_, (a, b))| a.to_bits() != b.to_bits());
        Some(
            differ
                .map(|(at, (expected, seen))| (at, f64::from(expected), f64::from(seen)))
                .collect(),
        )
    }

    /// Whether a difference is more than the model is allowed.
    fn is_beyond(&self, difference: &Difference) -> bool {
        let off = (difference.expected - difference.seen).abs();
        // Not a number is beyond any tolerance.
        !self.tolerance.is_some_and(|most| off <= f64::from(most))
    }
}

fn floats(tensor: &Tensor<'_>) -> Option<Vec<f32>> {
    tensor.f32s().map(Iterator::collect)
}
