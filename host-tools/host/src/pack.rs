//! From a specification to a bundle.
//!
//! Nothing is packed that was not seen to work: the model is loaded by the engine that boards use,
//! with the options that boards use; its golden vectors are run on it; and where the lab's outputs on
//! the training data are known, the packed model must give the same classes.

mod error;
mod golden;
mod program;

pub use error::{Computed, PackError};
pub use program::{PeakTensor, ProgramReport};

use crate::Profile;
use crate::data::{self, Columns, DataError, Samples};
use crate::keys::hex;
use crate::model::{EngineChoice, Model, ModelError, Target};
use crate::npy::Array;
use crate::profile::{self, Bound, Fit, HeldOut, Outputs, ProfileError, Recall};
use crate::spec::{KindSpec, LayoutSpec, Spec};
use edgeward::RUNTIME_VERSION;
use edgeward::bundle::decode::{encode_policy, encode_profile};
use edgeward::bundle::golden::encode_golden;
use edgeward::bundle::write::{BundleWriter, Description};
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::engine::board::BoardEngine;
use edgeward_compiler::Format;
use serde::Serialize;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Golden vectors that the engine makes for itself when asked to.
const SELF_MADE_VECTORS: usize = 8;

/// A golden vector: input and output.
type Vector = (Vec<f32>, Vec<f32>);

/// What may be let pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Without golden vectors, let the engine make its own.
    pub golden_from_engine: bool,
    /// Pack although the model disagrees with the lab's outputs, or with the labels.
    pub allow_skew: bool,
}

/// A bundle without signatures, and what was seen while it was packed.
#[derive(Debug)]
pub struct Packed {
    /// The bundle.
    pub bytes: Vec<u8>,
    /// The profile in it.
    pub profile: Profile,
    /// What was seen.
    pub report: Report,
}

/// What was seen while a bundle was packed. The field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it; units stand in the names")]
pub struct Report {
    pub name: String,
    pub version: String,
    pub counter: u32,
    pub class: &'static str,
    pub kernels: &'static str,
    pub digest: String,
    pub bytes: usize,
    pub engine: &'static str,
    pub engine_why: String,
    pub engine_mode: String,
    /// The program, where there is one.
    pub program: Option<ProgramReport>,
    pub golden: GoldenReport,
    pub skew: Option<SkewReport>,
    /// Latency budget of a trial (99th percentile, in microseconds); 0 when there is none.
    pub trial_p99_us: u32,
    /// The same of the guard, once it is confirmed.
    pub guard_p99_us: u32,
    pub profile: ProfileReport,
}

/// How the golden vectors came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GoldenReport {
    /// How many there are.
    pub vectors: usize,
    /// The engine's largest distance from a golden value.
    pub largest_error: f32,
    /// tract's, where the bundle carries a program and its ONNX file. The tolerance holds for it, too, unless
    /// the program made the vectors itself: tract rounds otherwise, and nobody stated by how much.
    pub tract_error: Option<f32>,
    /// What a distance may be.
    pub tolerance: f32,
    /// Who made them: `file`, which shows correctness, or `engine`, which shows reproducibility only.
    pub made_by: &'static str,
}

/// How the packed model compares with the lab's outputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SkewReport {
    /// Training windows.
    pub windows: usize,
    /// Windows in which they disagree.
    pub disagreements: usize,
    /// The share that may.
    pub limit: f32,
    /// Whether more than that did, and was let pass.
    pub allowed: bool,
}

/// The profile in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ProfileReport {
    pub features: usize,
    pub training_samples: usize,
    pub training_windows: usize,
    pub drift_window: u32,
    pub temperature: f32,
    pub temperature_fitted: bool,
    /// The end that the fit ran into: the accuracy that boards estimate will mean nothing.
    pub temperature_bound: Option<Bound>,
    pub accuracy: Option<f32>,
}

/// Training data, model and lab outputs, loaded and checked against each other.
pub struct Lab<'a> {
    spec: &'a Spec,
    /// The training samples.
    pub training: Samples,
    /// The rows of each training window.
    pub windows: Vec<Range<usize>>,
    /// Values that stand in for missing ones.
    means: Vec<f32>,
    bytes: Vec<u8>,
    model: Model,
    /// What one step of the program's output is worth, where there is a program or was one.
    output_step: Option<f32>,
    /// The lab's outputs, where the specification names them.
    reference: Option<(PathBuf, Outputs)>,
    /// Samples that the model was not trained on, where the specification names them.
    validation: Option<(PathBuf, Samples)>,
}

/// Packs a bundle; sign it with [`edgeward::bundle::write::sign`].
///
/// # Errors
/// [`PackError`]; [`PackError::is_refusal`] tells a policy's no from something broken.
pub fn pack(spec: &Spec, options: Options) -> Result<Packed, PackError> {
    let mut lab = Lab::load(spec)?;
    let (golden, golden_report) = match lab.golden(options) {
        Err(error @ PackError::Golden { .. }) if lab.may_fall_back() => {
            lab.fall_back(&error)?;
            lab.golden(options)?
        }
        golden => golden?,
    };
    let own = lab.outputs()?;
    let skew = lab.skew(&own, options)?;
    let (profile, fit) = lab.profile(&own)?;
    check_accuracy(fit, options)?;
    let section = |part| move |source| PackError::Section { part, source };
    let mut writer = BundleWriter::new(Description {
        name: spec.name.clone(),
        version: spec.version.clone(),
        counter: spec.counter,
        class: spec.target.class(),
        kernels: lab.model.kernels().to_owned(),
        arena_bytes: lab.model.arena_bytes(),
        min_runtime: RUNTIME_VERSION,
    })?;
    let policy = encode_policy(&spec.policy()).map_err(section("policy"))?;
    writer
        .section(
            SectionKind::Profile,
            encode_profile(&profile).map_err(section("profile"))?,
        )?
        .section(SectionKind::Policy, policy)?
        .section(SectionKind::Golden, golden)?;
    if let Some(compiled) = &lab.model.program {
        writer.section(SectionKind::Program, compiled.program.as_slice())?;
    }
    if lab.model.carries_onnx {
        writer.section(SectionKind::TractModel, lab.bytes.as_slice())?;
    }
    let bytes = writer.finish()?;
    let bundle = Bundle::open(&bytes).map_err(section("bundle"))?;
    let report = Report {
        name: spec.name.clone(),
        version: spec.version.clone(),
        counter: spec.counter,
        class: crate::names::class_name(spec.target.class()),
        kernels: lab.model.kernels(),
        digest: hex(&bundle.head().digest()),
        bytes: bytes.len(),
        engine: lab.model.engine.name(),
        engine_why: lab.model.why.clone(),
        engine_mode: lab.model.engine.to_string(),
        program: lab.model.program.as_ref().map(ProgramReport::of),
        golden: golden_report,
        skew,
        trial_p99_us: spec.policy().trial.max_p99_us,
        guard_p99_us: spec.policy().guard.max_p99_us,
        profile: lab.report(&profile, fit),
    };
    Ok(Packed {
        bytes,
        profile,
        report,
    })
}

impl<'a> Lab<'a> {
    /// Loads what the specification names.
    ///
    /// # Errors
    /// [`PackError`] names the file.
    pub fn load(spec: &'a Spec) -> Result<Self, PackError> {
        let path = spec.path(&spec.model);
        let bytes = std::fs::read(&path).map_err(|source| PackError::Io {
            path: path.clone(),
            source,
        })?;
        let model = Model::load_for(&bytes, spec.engine, spec.target).map_err(|source| {
            PackError::Model {
                path: path.clone(),
                source: Box::new(source),
            }
        })?;
        check_shapes(spec, &path, &model)?;
        let columns = Columns::of(&spec.input.features);
        let training = Samples::load(&spec.path(&spec.data.training), columns)?;
        let validation = spec.data.validation.as_ref().map(|path| {
            let path = spec.path(path);
            let samples = Samples::load(&path, columns)?;
            Ok::<_, DataError>((path, samples))
        });
        let (window, hop) = (usize::from(spec.input.window), usize::from(spec.input.hop));
        let reference = spec.data.outputs.as_ref().map(|outputs| {
            let path = spec.path(outputs);
            let outputs = read_outputs(&path, model.engine.output_len())?;
            Ok::<_, PackError>((path, outputs))
        });
        Ok(Self {
            spec,
            windows: training.windows(window, hop).collect(),
            means: profile::column_means(&training),
            training,
            bytes,
            output_step: model.program.as_ref().and_then(program::output_step),
            model,
            reference: reference.transpose()?,
            validation: validation.transpose()?,
        })
    }

    /// Whether the engine was ours to choose and tract could run the model instead of a program.
    fn may_fall_back(&self) -> bool {
        let onnx = Format::of(&self.bytes) == Format::Onnx;
        let ours = self.spec.engine == EngineChoice::Auto && self.spec.target == Target::Linux;
        ours && self.model.program.is_some() && onnx
    }

    /// Takes tract, since the program's golden vectors do not hold.
    fn fall_back(&mut self, error: &PackError) -> Result<(), PackError> {
        self.model = self.tract(format!("as an int8 program, {error}"))?;
        Ok(())
    }

    /// The model as tract runs it.
    fn tract(&self, why: String) -> Result<Model, PackError> {
        Model::tract(&self.bytes, why).map_err(|source| PackError::Model {
            path: self.spec.path(&self.spec.model),
            source: Box::new(ModelError::Tract(source)),
        })
    }

    /// The model's outputs on all training windows.
    ///
    /// # Errors
    /// [`PackError::Run`] when an inference fails.
    pub fn outputs(&mut self) -> Result<Outputs, PackError> {
        run_windows(
            self.spec,
            &mut self.model.engine,
            &self.training,
            &self.means,
        )
    }

    /// The profile: of the predictions from the validation data, else from the lab's outputs, else
    /// from `own`, the model's on the training data.
    ///
    /// # Errors
    /// [`PackError::Profile`] says what is wrong with the data.
    pub fn profile(&mut self, own: &Outputs) -> Result<(Profile, Fit), PackError> {
        let outputs = self.reference.as_ref().map_or(own, |(_, outputs)| outputs);
        let held_out = match &self.validation {
            Some((_, samples)) => {
                let made = run_windows(self.spec, &mut self.model.engine, samples, &self.means)?;
                Some((samples, made))
            }
            None => None,
        };
        let held_out = held_out
            .as_ref()
            .map(|(samples, outputs)| HeldOut { samples, outputs });
        profile::build(self.spec, &self.training, outputs, held_out).map_err(|source| {
            let held_out = self.validation.as_ref();
            let path = match held_out.filter(|_| source.is_of_predictions()) {
                Some((validation, _)) => validation.clone(),
                None => self.spec.path(&self.spec.data.training),
            };
            PackError::Profile { path, source }
        })
    }

    /// The profile in short.
    #[must_use]
    pub fn report(&self, profile: &Profile, fit: Fit) -> ProfileReport {
        ProfileReport {
            features: profile.features.len(),
            training_samples: self.training.len(),
            training_windows: self.windows.len(),
            drift_window: profile.drift_window,
            temperature: fit.temperature,
            temperature_fitted: fit.fitted,
            temperature_bound: fit.bound,
            accuracy: fit.accuracy,
        }
    }

    /// The golden section, run on the engine.
    fn golden(&mut self, options: Options) -> Result<(Vec<u8>, GoldenReport), PackError> {
        let (tolerance, vectors, made_by) = match &self.spec.golden {
            Some(golden) => {
                let (input, output) = (
                    self.spec.path(&golden.input),
                    self.spec.path(&golden.output),
                );
                let inputs = read_vectors(&input, "input", self.model.engine.input_len())?;
                let outputs = read_vectors(&output, "output", self.model.engine.output_len())?;
                if inputs.len() != outputs.len() {
                    return Err(PackError::GoldenCount {
                        path: output,
                        outputs: outputs.len(),
                        inputs: inputs.len(),
                    });
                }
                let vectors = inputs.into_iter().zip(outputs).collect();
                (golden.tolerance, vectors, "file")
            }
            None if options.golden_from_engine => (0.0, self.own_vectors()?, "engine"),
            None => return Err(PackError::NoGolden),
        };
        let section = encode_golden(tolerance, &vectors).map_err(|source| PackError::Section {
            part: "golden",
            source,
        })?;
        let of = match self.model.program {
            Some(_) => Computed::Program,
            None => Computed::Tract,
        };
        let largest_error = golden::run(&mut self.model.engine, &section, of, tolerance)
            .map_err(|error| error.with_step(self.output_step))?;
        let limit = match made_by {
            "engine" => f32::INFINITY,
            _ => tolerance,
        };
        let tract_error = match self.model.program.is_some() && self.model.carries_onnx {
            true => Some(self.beside(&section, limit)?),
            false => None,
        };
        let report = GoldenReport {
            vectors: vectors.len(),
            largest_error,
            tract_error,
            tolerance,
            made_by,
        };
        Ok((section, report))
    }

    /// tract's largest distance from a golden value, with the ONNX file that lies beside the program.
    ///
    /// Vectors of another runtime hold for whoever takes that file as they hold for boards. The program's own say
    /// nothing of tract, which rounds once where a program rounds twice: their distance is measured, not judged.
    fn beside(&self, section: &[u8], limit: f32) -> Result<f32, PackError> {
        let mut tract = self.tract("it is carried beside the program".to_owned())?;
        golden::run(&mut tract.engine, section, Computed::TractBeside, limit)
            .map_err(|error| error.with_step(self.output_step))
    }

    /// Vectors that the engine makes itself, from training windows far apart.
    fn own_vectors(&mut self) -> Result<Vec<Vector>, PackError> {
        let step = self.windows.len().div_ceil(SELF_MADE_VECTORS).max(1);
        let mut vectors = Vec::new();
        for rows in self.windows.iter().step_by(step) {
            let input = profile::tensor(self.spec, &self.training, rows.clone(), |column| {
                self.means[column]
            });
            let mut output = vec![0.0; self.model.engine.output_len()];
            self.model
                .engine
                .run(&input, &mut output)
                .map_err(|error| PackError::Run {
                    what: "a training window".to_owned(),
                    error,
                })?;
            vectors.push((input, output));
        }
        Ok(vectors)
    }

    /// Compares the model's outputs with the lab's.
    fn skew(&self, own: &Outputs, options: Options) -> Result<Option<SkewReport>, PackError> {
        let Some((path, reference)) = &self.reference else {
            return Ok(None);
        };
        if reference.rows().len() != own.rows().len() {
            return Err(PackError::Profile {
                path: path.clone(),
                source: ProfileError::OutputCount {
                    windows: own.rows().len(),
                    window: self.spec.input.window,
                    hop: self.spec.input.hop,
                    found: reference.rows().len(),
                },
            });
        }
        let tolerance = self
            .spec
            .golden
            .as_ref()
            .map_or(0.0, |golden| golden.tolerance);
        let agree = |(a, b): &(&[f32], &[f32])| match self.spec.output.kind {
            KindSpec::Values => a.iter().zip(*b).all(|(a, b)| (a - b).abs() <= tolerance),
            _ => greatest(a) == greatest(b),
        };
        let windows = own.rows().len();
        let disagreements = windows - own.rows().zip(reference.rows()).filter(agree).count();
        let limit = self.spec.data.max_skew;
        let too_much = disagreements as f64 > f64::from(limit) * windows as f64;
        if too_much && !options.allow_skew {
            return Err(PackError::Skew {
                path: path.clone(),
                disagreements,
                windows,
                limit,
            });
        }
        Ok(Some(SkewReport {
            windows,
            disagreements,
            limit,
            allowed: too_much,
        }))
    }
}

/// The model's outputs on all windows of `samples`.
fn run_windows(
    spec: &Spec,
    engine: &mut BoardEngine,
    samples: &Samples,
    means: &[f32],
) -> Result<Outputs, PackError> {
    let (window, hop) = (usize::from(spec.input.window), usize::from(spec.input.hop));
    let width = engine.output_len();
    let mut values = Vec::new();
    let mut output = vec![0.0; width];
    for (index, rows) in samples.windows(window, hop).enumerate() {
        let input = profile::tensor(spec, samples, rows, |column| means[column]);
        engine
            .run(&input, &mut output)
            .map_err(|error| PackError::Run {
                what: format!("window {index} of the data"),
                error,
            })?;
        values.extend_from_slice(&output);
    }
    Ok(Outputs { width, values })
}

/// Refuses a model that knows no more of the labels than a guess does.
fn check_accuracy(fit: Fit, options: Options) -> Result<(), PackError> {
    match fit.recall {
        Some(Recall { mean, chance }) if mean <= chance && !options.allow_skew => {
            Err(PackError::Guess { mean, chance })
        }
        _ => Ok(()),
    }
}

/// The index of the greatest value, the first of equals.
fn greatest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Refuses a model whose tensors are not what the specification says.
fn check_shapes(spec: &Spec, path: &Path, model: &Model) -> Result<(), PackError> {
    let (window, features) = (usize::from(spec.input.window), spec.input.features.len());
    let shape = &model.input_shape;
    let (wanted, layout) = match spec.input.layout {
        LayoutSpec::SamplesFirst => ([window, features], "samples first"),
        LayoutSpec::FeaturesFirst => ([features, window], "features first"),
    };
    // A flat tensor takes either layout; a deeper one must have the right one, whatever axes of
    // extent one stand between or behind.
    let long = |shape: &[usize]| -> Vec<usize> {
        shape
            .iter()
            .copied()
            .filter(|&extent| extent != 1)
            .collect()
    };
    let flat = window == 1 || long(shape).len() <= 1;
    let fits =
        model.engine.input_len() == window * features && (flat || long(shape) == long(&wanted));
    if !fits {
        return Err(PackError::Input {
            path: path.to_owned(),
            found: shape.clone(),
            window: spec.input.window,
            features,
            layout,
        });
    }
    let named = spec.output.classes.len();
    if model.engine.output_len() != named {
        return Err(PackError::Output {
            path: path.to_owned(),
            found: model.output_shape.clone(),
            named,
        });
    }
    Ok(())
}

/// Rows of `len` values each, whatever shape they have beyond the first dimension.
fn read_vectors(path: &Path, side: &'static str, len: usize) -> Result<Vec<Vec<f32>>, PackError> {
    let array: Array = data::load_npy(path)?;
    let count = array.shape.first().copied().unwrap_or(0);
    let values: usize = array.shape.iter().product();
    if count == 0 || values != count * len {
        return Err(PackError::GoldenShape {
            path: path.to_owned(),
            found: array.shape,
            side,
            wanted: len,
        });
    }
    Ok(array
        .into_f32()
        .chunks(len.max(1))
        .map(<[f32]>::to_vec)
        .collect())
}

/// The lab's outputs: one row a window.
fn read_outputs(path: &Path, width: usize) -> Result<Outputs, PackError> {
    let array = data::load_npy(path)?;
    let count = array.shape.first().copied().unwrap_or(0);
    let values: usize = array.shape.iter().product();
    if values != count * width {
        return Err(PackError::Data(DataError::Shape {
            path: path.to_owned(),
            found: array.shape,
            wanted: format!("[windows, {width}]"),
        }));
    }
    Ok(Outputs {
        width,
        values: array.into_f32(),
    })
}
