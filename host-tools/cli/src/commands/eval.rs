//! `edgeward eval` and `run`.

use super::release::{self, short};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Format, Table};
use edgeward_host::data::Columns;
use edgeward_host::eval::{Evaluation, PredictionRow, ViolationRow};
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  edgeward eval digits.bundle --data test.csv\n\nEach recording (column `recording`) begins with an empty window, as in training. The column `label`\nholds names or numbers of classes. Changes nothing."
)]
pub struct EvalArgs {
    /// The bundle, or a model's TOML file, which is then packed in memory.
    bundle: PathBuf,
    /// Test data, CSV or NPY; `-` is CSV on stdin.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Column that holds the label.
    #[arg(long, value_name = "COLUMN", default_value = "label")]
    label: String,
    /// Column that names the recording.
    #[arg(long, value_name = "COLUMN", default_value = "recording")]
    recording: String,
}

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  head -5 test.csv | edgeward run digits.bundle --data - -o json\n\nNothing is judged but the input; JSON output is one object a line. Changes nothing."
)]
pub struct RunArgs {
    /// The bundle, or a model's TOML file, which is then packed in memory.
    bundle: PathBuf,
    /// Data, CSV or NPY; `-` is CSV on stdin.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
}

/// Runs `eval`.
pub fn run_eval(args: &EvalArgs, context: &Context) -> anyhow::Result<Exit> {
    let mut release = release::load(&args.bundle, context)?;
    let features = release.features();
    let columns = Columns {
        features: &features,
        label: &args.label,
        recording: &args.recording,
    };
    let samples = release::samples(&args.data, columns)?;
    let bar = context.out.bar(samples.len() as u64, "samples");
    let evaluation = release.evaluate(&samples, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    context.out.emit(&evaluation, print)?;
    Ok(Exit::Ok)
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.1}%", share * 100.0))
}

fn print(evaluation: &Evaluation, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "{} {}: {} predictions on {} samples of {} recordings, {} samples rejected, {} errors",
        evaluation.name,
        evaluation.version,
        evaluation.predictions,
        evaluation.samples,
        evaluation.recordings,
        evaluation.rejected,
        evaluation.errors
    )?;
    if let Some(error) = evaluation.mean_absolute_error {
        writeln!(w, "mean absolute error  {}", short(error))?;
    }
    if evaluation.accuracy.is_some() {
        writeln!(w, "accuracy             {}", percent(evaluation.accuracy))?;
    }
    if evaluation.predictions > 0
        && evaluation.accuracy.is_none()
        && evaluation.mean_absolute_error.is_none()
    {
        writeln!(w, "accuracy             not judged: the data has no labels")?;
    }
    if evaluation.estimated_accuracy.is_some() {
        writeln!(
            w,
            "estimated accuracy   {}",
            percent(evaluation.estimated_accuracy)
        )?;
    }
    if let Some(latency) = &evaluation.latency {
        writeln!(
            w,
            "latency              p50 {} us, p99 {} us, p99.9 {} us, most {} us",
            latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us
        )?;
    }
    if !evaluation.confusion.is_empty() {
        writeln!(w)?;
        print_confusion(evaluation, w)?;
    }
    writeln!(w)?;
    print_violations(&evaluation.violations, w)?;
    writeln!(w)?;
    print_drift(evaluation, w)
}

fn print_confusion(evaluation: &Evaluation, w: &mut dyn Write) -> io::Result<()> {
    let classes = evaluation.classes.iter().map(String::as_str);
    let header = std::iter::once("label \\ class").chain(classes);
    let mut table = Table::new(header.chain(["recall", "precision"]));
    for (row, class) in evaluation.confusion.iter().zip(&evaluation.per_class) {
        let cells = std::iter::once(class.class.clone()).chain(row.iter().map(u64::to_string));
        table.row(cells.chain([percent(class.recall), percent(class.precision)]));
    }
    table.write(w)
}

fn print_violations(violations: &[ViolationRow], w: &mut dyn Write) -> io::Result<()> {
    if violations.is_empty() {
        return writeln!(w, "no violations of the input contract");
    }
    let mut table = Table::new(["violation", "feature", "samples"]);
    for row in violations {
        let feature = row.feature.clone().unwrap_or("-".into());
        table.row([row.kind.into(), feature, row.count.to_string()]);
    }
    table.write(w)
}

fn print_drift(evaluation: &Evaluation, w: &mut dyn Write) -> io::Result<()> {
    if evaluation.drift_windows == 0 {
        return writeln!(
            w,
            "drift was not judged: a window takes {} samples, and there are {}",
            evaluation.drift_window, evaluation.samples
        );
    }
    if evaluation.drift.is_empty() {
        return writeln!(w, "no drift in {} windows", evaluation.drift_windows);
    }
    writeln!(w, "drift in {} windows:", evaluation.drift_windows)?;
    let mut table = Table::new(["drift of", "statistic", "windows", "largest", "limit"]);
    for row in &evaluation.drift {
        table.row([
            row.feature.clone().unwrap_or("predictions".into()),
            row.statistic.into(),
            row.windows.to_string(),
            short(f64::from(row.largest)),
            short(f64::from(row.limit)),
        ]);
    }
    table.write(w)
}

/// Runs `run`.
pub fn run(args: &RunArgs, context: &Context) -> anyhow::Result<Exit> {
    let mut release = release::load(&args.bundle, context)?;
    let features = release.features();
    let samples = release::samples(&args.data, Columns::of(&features))?;
    let mut answers = Vec::new();
    let findings = release.stream(&samples, |answer| answers.push(answer), |_| {});
    let violations = findings.violation_rows(&features);
    for row in &violations {
        let feature = row.feature.as_deref().unwrap_or("sample");
        context.out.say(format!(
            "violation: {} of {feature} ({})",
            row.kind, row.count
        ));
    }
    if answers.is_empty() {
        let window = release.profile.schema.window;
        context.out.say(format!(
            "no prediction: an inference needs {window} accepted samples in a row"
        ));
    }
    match context.out.format() {
        Format::Json => print_lines(&answers, context)?,
        Format::Table => print_answers(&answers, context)?,
    }
    Ok(Exit::Ok)
}

fn print_lines(answers: &[PredictionRow], context: &Context) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    for answer in answers {
        serde_json::to_writer(&mut bytes, answer)?;
        bytes.push(b'\n');
    }
    context.out.raw(&bytes)
}

fn print_answers(answers: &[PredictionRow], context: &Context) -> anyhow::Result<()> {
    let mut table = Table::new(["recording", "sample", "class", "confidence", "flags"]);
    for answer in answers {
        table.row([
            answer.recording.to_string(),
            answer.sample.to_string(),
            answer.class.clone(),
            short(f64::from(answer.confidence)),
            answer.flags.join(" "),
        ]);
    }
    let mut bytes = Vec::new();
    table.write(&mut bytes)?;
    context.out.raw(&bytes)
}
