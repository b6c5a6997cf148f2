//! `edgeward quantize`.

use super::change::DryRun;
use super::release::{self, short};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use anyhow::Context as _;
use edgeward_host::data::{Columns, Samples, load_npy};
use edgeward_host::quantize::{
    Comparison, Data, Method, QuantizeError, Report, labels, quantize, steps,
};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Example:
  edgeward quantize model.onnx --calibrate windows.npy --eval test.npy --labels test-labels.npy
  edgeward quantize model.onnx --calibrate windows.npy --method percentile --percentile 99.9 --dry-run

The calibration data is one array of inputs as the model takes them (not standardised where the model
itself does that), the rows first: [rows, 6, 50] for an input [1, 6, 50]. From numpy:
  numpy.save(\"windows.npy\", windows.astype(numpy.float32))
Take 100 rows or more of everything that the field will show; ranges are what these rows reach.
min-max keeps every value seen; percentile cuts rare ones, which gives finer steps to the others: use it
when the report shows a range that a few outliers set.

Weights become int8 with a scale an output channel, activations int8 with a scale and a zero point a
tensor. What standardises the input (Sub, Mul, Div, Add of constants a feature) becomes part of the
program's input quantization. A batch normalization goes into the layer before it.
Operator set 13 or later, one input, one output, fixed shapes.

The two models are compared on the rows of --eval, which calibrate nothing. Without it every fifth row of
the calibration data is held out for that, where there are 40 or more; windows that overlap are then not
as new to the model as they should be. With fewer rows the comparison is on the calibration data itself.

Exit code 3: the model can't become int8; node, reason and what to do are printed.";

/// How ranges follow from what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum MethodName {
    /// From the least to the greatest value.
    MinMax,
    /// The range that holds `--percentile` percent of the values.
    Percentile,
}

/// Arguments of `quantize`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The float ONNX file.
    model: PathBuf,
    /// Inputs to calibrate with: an NPY array, the rows first.
    #[arg(long, value_name = "NPY")]
    calibrate: PathBuf,
    /// Where the range of an activation ends.
    #[arg(long, value_enum, default_value = "min-max")]
    method: MethodName,
    /// Percent of the values that a range holds, with `--method percentile`.
    #[arg(long, value_name = "PERCENT", default_value_t = 99.99)]
    percentile: f64,
    /// Inputs to compare the two models on: an NPY array as that to calibrate with.
    #[arg(long, value_name = "NPY")]
    eval: Option<PathBuf>,
    /// Class indices of the rows of --eval, or without it of --calibrate: an NPY array, or a CSV file's
    /// column `label`.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// The int8 ONNX file [default: MODEL-int8.onnx beside the model].
    #[arg(short = 'f', long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let out = args.out.clone().unwrap_or_else(|| beside(&args.model));
    release::check_target(&out)?;
    let model = release::read(&args.model)?;
    let calibration = load_npy(&args.calibrate)?;
    let eval = args.eval.as_deref().map(load_npy).transpose()?;
    let fail = |error: QuantizeError| {
        let exit = match error {
            QuantizeError::Graph { .. }
            | QuantizeError::Node { .. }
            | QuantizeError::Program(_) => Exit::Refused,
            _ => Exit::Error,
        };
        let file = args.file_of(&error);
        Failure::new(exit, format!("{}: {error}", file.display())).next(error.next())
    };
    let classes = args.labels.as_deref().map(|path| read_labels(path, &fail));
    let classes = classes.transpose()?;
    let method = match args.method {
        MethodName::MinMax => Method::MinMax,
        MethodName::Percentile => Method::Percentile(args.percentile),
    };
    let rows = |array: &edgeward_host::npy::Array| array.shape.first().copied().unwrap_or(0);
    let runs = steps(rows(&calibration), eval.as_ref().map(rows), method);
    let bar = context.out.bar(runs as u64, "runs");
    let data = Data {
        calibration,
        eval,
        labels: classes.as_deref(),
    };
    let made = quantize(&model, data, method, &mut || bar.inc(1));
    bar.finish_and_clear();
    let made = made.map_err(fail)?;
    for warning in &made.report.warnings {
        context.out.say(format!("warning: {warning}"));
    }
    let mut changes = args.dry_run.changes();
    if release::write(&mut changes, &out, &made.onnx)? {
        context.out.say(format!("wrote {}", out.display()));
    }
    changes.emit(context, &made.report, print)?;
    Ok(Exit::Ok)
}

impl Args {
    /// The file that an error is about.
    fn file_of(&self, error: &QuantizeError) -> &Path {
        let file = match error {
            QuantizeError::Data { of, .. } | QuantizeError::Shape { of, .. } => match *of {
                "evaluation" => self.eval.as_ref(),
                _ => Some(&self.calibrate),
            },
            QuantizeError::Labels(_) => self.labels.as_ref(),
            _ => None,
        };
        file.unwrap_or(&self.model)
    }
}

/// `model.onnx` as `model-int8.onnx`.
fn beside(model: &Path) -> PathBuf {
    let mut name = model.file_stem().unwrap_or_default().to_owned();
    name.push("-int8.onnx");
    model.with_file_name(name)
}

fn read_labels(path: &Path, fail: &dyn Fn(QuantizeError) -> Failure) -> anyhow::Result<Vec<i64>> {
    let csv = path
        .extension()
        .is_some_and(|it| it.eq_ignore_ascii_case("csv"));
    if !csv {
        return Ok(labels(load_npy(path)?).map_err(fail)?);
    }
    let column = ["label".to_owned()];
    let columns = Columns {
        features: &column,
        label: "",
        recording: "",
    };
    let samples =
        Samples::load(path, columns).context("class indices are read from the column `label`")?;
    let rows = samples.values.len();
    let array = edgeward_host::npy::Array::f32(&[rows], samples.values).context("no label")?;
    Ok(labels(array).map_err(fail)?)
}

fn print(report: &Report, w: &mut dyn Write) -> io::Result<()> {
    let operators = report.operators.iter();
    let operators: Vec<_> = operators
        .map(|op| format!("{} {}", op.count, op.name))
        .collect();
    writeln!(w, "int8          {}", operators.join(", "))?;
    if !report.float_prefix.is_empty() {
        let prefix = report.float_prefix.join(", ");
        writeln!(
            w,
            "on input      {prefix}: part of the input's quantization"
        )?;
    }
    for line in &report.folded {
        writeln!(w, "folded        {line}")?;
    }
    let percentile = report
        .percentile
        .map_or(String::new(), |it| format!(" {it}"));
    writeln!(
        w,
        "calibrated    {}{percentile} over {} rows",
        report.method, report.rows
    )?;
    writeln!(
        w,
        "file          {} bytes, was {}",
        report.int8_bytes, report.float_bytes
    )?;
    writeln!(
        w,
        "program       {} bytes, {} of arena",
        report.program_bytes, report.arena_bytes
    )?;
    compared(&report.comparison, w)?;
    writeln!(w)?;
    let mut table = Table::new(["widest ranges", "low", "high", "step", "zero point"]);
    for row in report.widest() {
        table.row([
            row.name.clone(),
            short(f64::from(row.low)),
            short(f64::from(row.high)),
            short(f64::from(row.scale)),
            row.zero_point.to_string(),
        ]);
    }
    table.write(w)
}

/// How the two models do beside each other.
fn compared(beside: &Comparison, w: &mut dyn Write) -> io::Result<()> {
    let on = match beside.on {
        "eval" => "rows of --eval",
        "held out" => "rows held out",
        _ => "rows that it was calibrated with, which flatters",
    };
    writeln!(w, "compared on   {} {on}", beside.rows)?;
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    if let (Some(float), Some(int8)) = (beside.accuracy_float, beside.accuracy_int8) {
        writeln!(
            w,
            "accuracy      {} in float, {} in int8",
            percent(float),
            percent(int8)
        )?;
    }
    if let Some(agreement) = beside.agreement {
        writeln!(w, "same class    {} of the rows", percent(agreement))?;
    }
    writeln!(
        w,
        "difference    {} in the mean, at most {}; a step of the output is {}",
        short(f64::from(beside.mean_difference)),
        short(f64::from(beside.largest_difference)),
        short(f64::from(beside.output_step))
    )
}
