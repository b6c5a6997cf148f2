//! How a release would do: recordings through the very runtime that boards run.

use crate::data::Samples;
use crate::names::{statistic_name, violation_name};
use crate::profile::class_index;
use crate::{MAX_FEATURES, MAX_OUTPUTS, Profile};
use edgeward::bundle::decode::{decode_policy, decode_profile};
use edgeward::bundle::{Bundle, BundleError, SectionKind};
use edgeward::contract::{Sample, ViolationKind};
use edgeward::engine::board::{BoardEngine, LoadError};
use edgeward::policy::Policy;
use edgeward::profile::OutputKind;
use edgeward::runtime::{ConfigError, Runtime};
use edgeward::telemetry::latency::LatencyHistogram;
use edgeward::telemetry::{Alarm, Statistic, Summary, release_id};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// The runtime as hosts and Linux boards have it.
pub type HostRuntime = Runtime<BoardEngine, Vec<f32>, MAX_FEATURES, MAX_OUTPUTS>;

/// Why a release can't be evaluated or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The bytes are no sound bundle.
    #[error("not a sound bundle: {0}")]
    Bundle(#[from] BundleError),
    /// The engine does not take the model.
    #[error("the model can't be loaded: {0}")]
    Model(#[from] LoadError),
    /// Model and profile do not fit.
    #[error("the model and its profile do not fit: {0:?}")]
    Config(ConfigError),
    /// A label is no class.
    #[error("the label `{label}` of sample {} is no class of the model ({classes})", row + 1)]
    Label {
        /// The label.
        label: String,
        /// The sample, from 0.
        row: usize,
        /// The classes there are.
        classes: String,
    },
}

/// A release, ready to run.
pub struct Release {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The profile.
    pub profile: Profile,
    runtime: Box<HostRuntime>,
}

/// What became of one inference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictionRow {
    /// Index of the recording.
    pub recording: usize,
    /// The sample that completed the input, from 0.
    pub sample: usize,
    /// The class's name; the first value's, for a model without classes.
    pub class: String,
    /// The confidence; the first value, for a model without classes.
    pub confidence: f32,
    /// Calibrated probabilities (or the values).
    pub outputs: Vec<f32>,
    /// What is odd about it.
    pub flags: Vec<&'static str>,
    /// Whether it is an older prediction once more, since there was no input to be had.
    pub fallback: bool,
    /// From complete input to answer, in microseconds.
    pub latency_us: u32,
    #[serde(skip)]
    class_index: usize,
}

/// How often a violation was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViolationRow {
    /// Its kind.
    pub kind: &'static str,
    /// The feature; none for kinds that concern whole samples.
    pub feature: Option<String>,
    /// How often.
    pub count: u64,
}

/// A statistic that left its limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DriftRow {
    /// The statistic.
    pub statistic: &'static str,
    /// The feature; none for the predictions.
    pub feature: Option<String>,
    /// Windows in which it did.
    pub windows: u32,
    /// Its largest value.
    pub largest: f32,
    /// Its limit in that window.
    pub limit: f32,
}

/// How one class came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the usual names of the field")]
pub struct ClassRow {
    pub class: String,
    pub support: u64,
    pub predicted: u64,
    pub precision: Option<f64>,
    pub recall: Option<f64>,
}

/// Latencies of the inferences, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LatencyReport {
    pub p50_us: u32,
    pub p99_us: u32,
    pub p999_us: u32,
    pub max_us: u32,
}

/// How a release did on recordings. The field names are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Samples streamed.
    pub samples: u64,
    /// Recordings streamed.
    pub recordings: usize,
    /// Samples that the policy kept out.
    pub rejected: u64,
    /// Predictions that the model made.
    pub predictions: u64,
    /// Inferences that failed.
    pub errors: u64,
    /// Share of the predictions that equal the label; none without labels.
    pub accuracy: Option<f64>,
    /// What the model itself expects of its accuracy (mean of the calibrated confidences).
    pub estimated_accuracy: Option<f64>,
    /// Mean absolute error of the first value, for a model without classes.
    pub mean_absolute_error: Option<f64>,
    /// Names of the classes, in the order of the confusion matrix.
    pub classes: Vec<String>,
    /// Predictions by label (rows) and class (columns); empty without labels.
    pub confusion: Vec<Vec<u64>>,
    /// Each class.
    pub per_class: Vec<ClassRow>,
    /// Latency on this machine.
    pub latency: Option<LatencyReport>,
    /// Complete drift windows.
    pub drift_windows: u32,
    /// Samples that a drift window takes.
    pub drift_window: u32,
    /// Statistics that left their limits.
    pub drift: Vec<DriftRow>,
    /// Violations of the contract.
    pub violations: Vec<ViolationRow>,
}

impl Release {
    /// Loads a bundle. Its hashes are checked; its signatures are not.
    ///
    /// # Errors
    /// [`EvalError`] when it is unsound or does not run here.
    pub fn load(bytes: &[u8]) -> Result<Self, EvalError> {
        let bundle = Bundle::open(bytes)?;
        bundle.verify_data()?;
        let profile: Profile = decode_profile(bundle.require(SectionKind::Profile)?)?;
        let policy = decode_policy(bundle.require(SectionKind::Policy)?)?;
        let engine = BoardEngine::of_bundle(&bundle)?;
        let manifest = bundle.manifest();
        let digest = bundle.head().digest();
        let tensor = vec![0.0; usize::from(profile.schema.window) * profile.features.len()];
        let release = release_id(&digest);
        let runtime = Runtime::new(engine, release, profile.clone(), policy, tensor);
        Ok(Self {
            name: manifest.name.to_owned(),
            version: manifest.version.to_owned(),
            profile,
            runtime: Box::new(runtime.map_err(EvalError::Config)?),
        })
    }

    /// Names of the features, in order.
    #[must_use]
    pub fn features(&self) -> Vec<String> {
        let names = self.profile.features.iter();
        names.map(|feature| feature.name.to_string()).collect()
    }

    /// Names of the classes or values.
    #[must_use]
    pub fn classes(&self) -> Vec<String> {
        self.profile
            .output
            .names
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.runtime.policy()
    }

    /// Streams samples through the runtime, each recording from an empty window, as boards do on
    /// `reset`. `each` is given every answer.
    ///
    /// Recordings have no clock of their own: samples are the schema's period apart, and fresh.
    pub fn stream(
        &mut self,
        samples: &Samples,
        mut each: impl FnMut(PredictionRow),
        mut progress: impl FnMut(u64),
    ) -> Findings {
        let mut findings = Findings::default();
        let period_ms = u64::from(self.profile.schema.period_ms);
        let started = Instant::now();
        let mut clock_us = || started.elapsed().as_micros() as u64;
        for (recording, rows) in samples.recordings.iter().enumerate() {
            self.runtime.reset_window();
            for row in rows.clone() {
                let time_ms = row as u64 * period_ms;
                let sample = Sample {
                    sequence: row as u32,
                    time_ms,
                    values: samples.row(row),
                };
                let step = self.runtime.push(&sample, time_ms, &mut clock_us);
                if let Some(prediction) = step.prediction {
                    let class_index = usize::from(prediction.class);
                    let names = &self.profile.output.names;
                    each(PredictionRow {
                        recording,
                        sample: row,
                        class: names
                            .get(class_index)
                            .map(ToString::to_string)
                            .unwrap_or_default(),
                        confidence: prediction.confidence,
                        outputs: self.runtime.last_probabilities().to_vec(),
                        flags: flag_names(prediction.flags.bits()),
                        fallback: prediction.fallback,
                        latency_us: prediction.latency_us,
                        class_index,
                    });
                }
                while let Some(alarm) = self.runtime.pop_alarm() {
                    findings.alarm(&alarm);
                }
                if step.window_closed {
                    findings.windows += 1;
                    findings.summary(&self.runtime.take_summary(time_ms));
                }
            }
            progress(rows.end as u64);
        }
        if self.runtime.samples() > 0 {
            findings.summary(&self.runtime.take_summary(samples.len() as u64 * period_ms));
        }
        findings
    }

    /// Streams samples and compares the answers with the labels.
    ///
    /// # Errors
    /// [`EvalError::Label`] when a label is no class.
    pub fn evaluate(
        &mut self,
        samples: &Samples,
        progress: impl FnMut(u64),
    ) -> Result<Evaluation, EvalError> {
        let classes = self.classes();
        let has_classes = self.profile.output.kind != OutputKind::Values;
        let labels = samples.labels.as_deref();
        let truth = match labels {
            Some(labels) if has_classes => Some(label_indices(labels, &classes)?),
            _ => None,
        };
        let mut confusion = vec![vec![0u64; classes.len()]; classes.len()];
        let (mut deviation, mut deviations) = (0.0, 0u64);
        let findings = self.stream(
            samples,
            |answer| {
                if answer.fallback {
                    return;
                }
                if let Some(truth) = &truth {
                    confusion[truth[answer.sample]][answer.class_index] += 1;
                } else if let Some(value) =
                    labels.and_then(|l| l[answer.sample].parse::<f64>().ok())
                {
                    deviation += (f64::from(answer.confidence) - value).abs();
                    deviations += 1;
                }
            },
            progress,
        );
        let right: u64 = (0..classes.len())
            .map(|class| confusion[class][class])
            .sum();
        let total: u64 = confusion.iter().flatten().sum();
        let predictions = findings.predictions;
        let share = |part: f64, whole: u64| (whole > 0).then(|| part / whole as f64);
        Ok(Evaluation {
            name: self.name.clone(),
            version: self.version.clone(),
            samples: findings.samples,
            recordings: samples.recordings.len(),
            rejected: findings.rejected,
            predictions,
            errors: findings.errors,
            accuracy: share(right as f64, total),
            estimated_accuracy: share(findings.expected_right, predictions).filter(|_| has_classes),
            mean_absolute_error: share(deviation, deviations).filter(|_| !has_classes),
            per_class: if truth.is_some() {
                per_class(&classes, &confusion)
            } else {
                Vec::new()
            },
            confusion: if truth.is_some() {
                confusion
            } else {
                Vec::new()
            },
            latency: findings.latency_report(),
            drift_windows: findings.windows,
            drift_window: self.profile.drift_window,
            drift: findings.drift_rows(&self.features()),
            violations: findings.violation_rows(&self.features()),
            classes,
        })
    }
}

/// Everything that summaries and alarms of a stream said, added up.
#[derive(Debug, Default)]
pub struct Findings {
    windows: u32,
    samples: u64,
    rejected: u64,
    errors: u64,
    predictions: u64,
    expected_right: f64,
    latency: LatencyHistogram,
    /// By kind and feature; a feature of none for whole samples.
    violations: BTreeMap<(ViolationKind, Option<usize>), u64>,
    /// Windows, largest value and its limit, by feature and statistic.
    drift: BTreeMap<(Option<u16>, &'static str), (u32, f32, f32)>,
}

impl Findings {
    fn alarm(&mut self, alarm: &Alarm) {
        let Alarm::Drift {
            statistic,
            feature,
            value,
            limit,
        } = *alarm
        else {
            return;
        };
        let entry = self.drift.entry((feature, statistic_name(statistic)));
        let (windows, largest, its_limit) = entry.or_insert((0, value, limit));
        *windows += 1;
        // Of an estimated accuracy, the least is the worst.
        let worse = match statistic {
            Statistic::EstimatedAccuracy => value < *largest,
            _ => value > *largest,
        };
        if worse {
            (*largest, *its_limit) = (value, limit);
        }
    }

    fn summary(&mut self, summary: &Summary<MAX_FEATURES, MAX_OUTPUTS>) {
        self.samples += u64::from(summary.samples);
        self.rejected += u64::from(summary.rejected);
        self.errors += u64::from(summary.errors);
        self.predictions += u64::from(summary.output.n);
        self.expected_right += f64::from(summary.output.expected_right);
        self.latency.merge(&summary.latency);
        for kind in ViolationKind::ALL {
            let whole = summary.violations[kind as usize];
            if kind as usize >= ViolationKind::PER_FEATURE {
                self.count(kind, None, whole);
                continue;
            }
            for (feature, found) in summary.features.iter().enumerate() {
                self.count(kind, Some(feature), found.violations[kind as usize]);
            }
        }
    }

    fn count(&mut self, kind: ViolationKind, feature: Option<usize>, count: u32) {
        if count > 0 {
            *self.violations.entry((kind, feature)).or_default() += u64::from(count);
        }
    }

    fn latency_report(&self) -> Option<LatencyReport> {
        Some(LatencyReport {
            p50_us: self.latency.quantile_us(500)?,
            p99_us: self.latency.quantile_us(990)?,
            p999_us: self.latency.quantile_us(999)?,
            max_us: self.latency.max_us(),
        })
    }

    /// The violations, named.
    #[must_use]
    pub fn violation_rows(&self, features: &[String]) -> Vec<ViolationRow> {
        let row =
            |(&(kind, feature), &count): (&(ViolationKind, Option<usize>), &u64)| ViolationRow {
                kind: violation_name(kind),
                feature: feature.and_then(|index| features.get(index).cloned()),
                count,
            };
        self.violations.iter().map(row).collect()
    }

    fn drift_rows(&self, features: &[String]) -> Vec<DriftRow> {
        let rows = self.drift.iter();
        rows.map(
            |(&(feature, statistic), &(windows, largest, limit))| DriftRow {
                statistic,
                feature: feature.and_then(|index| features.get(usize::from(index)).cloned()),
                windows,
                largest,
                limit,
            },
        )
        .collect()
    }
}

fn label_indices(labels: &[String], classes: &[String]) -> Result<Vec<usize>, EvalError> {
    let index = |(row, label): (usize, &String)| {
        class_index(classes, label).ok_or_else(|| EvalError::Label {
            label: label.clone(),
            row,
            classes: classes.join(", "),
        })
    };
    labels.iter().enumerate().map(index).collect()
}

fn per_class(classes: &[String], confusion: &[Vec<u64>]) -> Vec<ClassRow> {
    let row = |(index, class): (usize, &String)| {
        let support: u64 = confusion[index].iter().sum();
        let predicted: u64 = confusion.iter().map(|row| row[index]).sum();
        let right = confusion[index][index] as f64;
        ClassRow {
            class: class.clone(),
            support,
            predicted,
            precision: (predicted > 0).then(|| right / predicted as f64),
            recall: (support > 0).then(|| right / support as f64),
        }
    };
    classes.iter().enumerate().map(row).collect()
}

fn flag_names(bits: u8) -> Vec<&'static str> {
    [
        (1, "input"),
        (2, "z_score"),
        (4, "below_p01"),
        (8, "above_p99"),
    ]
    .into_iter()
    .filter(|&(bit, _)| bits & bit != 0)
    .map(|(_, name)| name)
    .collect()
}
