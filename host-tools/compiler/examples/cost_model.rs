//! Holds predicted instructions against counted ones, for `cargo xtask bench-mcu`:
//! `cost_model FOLDER [TABLE]`.
//!
//! Of each model the folder has `NAME.program` and `NAME.counts`, a line an operator: its instructions.
//! With TABLE, costs are fitted to them first (those called `fit-` are random operators, made for that)
//! and written there as Rust; not to those called `way-`, whose operators no model has. Exits with 1 when
//! one of these or a model is predicted worse than the limits of `edgeward_compiler::cost`.

use edgeward::program::{Aligned, Program};
use edgeward_compiler::cost::{
    MODEL_PERCENT, OPERATOR_LEAST, OPERATOR_PERCENT, Terms, predict, terms,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// One operator of one program.
struct Sample {
    model: String,
    index: usize,
    name: &'static str,
    terms: Terms,
    counted: f64,
    predicted: f64,
}

/// Kernels' ways of which the programs called `way-` are there to have some: those that docs/PROGRAM.md tells
/// among them.
const WAYS: [(&str, &str); 51] = [
    ("Add portable", "element"),
    ("Add portable", "repeated"),
    ("Mul portable", "element"),
    ("Mul", "stretch"),
    ("Mul", "clamp"),
    ("Conv", "clamp"),
    ("Conv", "long output"),
    ("Conv", "portable sum"),
    ("Conv wide", "clamp"),
    ("Conv wide", "long output"),
    ("Conv wide", "portable sum"),
    ("Conv apart", "clamp"),
    ("Conv apart", "long output"),
    ("Conv apart", "moved product"),
    ("Conv apart", "portable sum"),
    ("Conv apart", "product of a single"),
    ("Conv apart", "single's tile"),
    ("Conv apart", "sum"),
    ("Copy", "element"),
    ("Copy", "row"),
    ("Copy of rows", "element"),
    ("Copy of rows", "row"),
    ("Dense", "long output"),
    ("Dense apart", "long output"),
    ("Dense apart", "product"),
    ("Dense apart", "tile"),
    ("Dense portable", "output"),
    ("Dense portable", "product"),
    ("Dense portable", "tile"),
    ("Depthwise", "long group"),
    ("Depthwise portable", "output"),
    ("Depthwise portable", "product"),
    ("Depthwise sliding", "clamp"),
    ("Depthwise sliding apart", "block"),
    ("Depthwise sliding apart", "channel"),
    ("Depthwise sliding apart", "clamp"),
    ("Depthwise sliding apart", "long output"),
    ("Fill", "element"),
    ("Lookup", "element"),
    ("Mean", "channel"),
    ("Mean", "element"),
    ("Pool maximum", "group"),
    ("Pool maximum", "output"),
    ("Pool maximum", "tap"),
    ("Pool portable", "output"),
    ("Pool portable", "row"),
    ("Pool portable", "tap"),
    ("Pool portable", "tried row"),
    ("Pool portable", "tried tap"),
    ("Softmax", "element"),
    ("Softmax", "row"),
];

/// Costs by kernel and term.
type Costs = BTreeMap<(&'static str, &'static str), f64>;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: cost_model FOLDER [TABLE]")?;
    let mut samples = read(Path::new(&folder))?;
    if let Some(table) = arguments.next() {
        let costs = fit(&samples);
        for sample in &mut samples {
            sample.predicted = apply(&costs, &sample.terms);
        }
        std::fs::write(table, text(&costs)?)?;
    }
    judge(&samples)
}

fn read(folder: &Path) -> Result<Vec<Sample>, Box<dyn Error>> {
    let mut samples = Vec::new();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".counts").map(str::to_owned));
    }
    names.sort();
    for model in names {
        let bytes = std::fs::read(folder.join(format!("{model}.program")))?;
        let bytes = Aligned::copy_of(&bytes);
        let program = Program::verify(bytes.as_ref()).map_err(|error| format!("{error:?}"))?;
        let counts = std::fs::read_to_string(folder.join(format!("{model}.counts")))?;
        let counts: Vec<f64> = counts.lines().map(str::parse).collect::<Result<_, _>>()?;
        if counts.len() != program.ops().count() {
            return Err(format!("{model}: counts of other operators").into());
        }
        for ((index, op), counted) in program.ops().enumerate().zip(counts) {
            samples.push(Sample {
                model: model.clone(),
                index,
                name: op.name(),
                terms: terms(&program, &op),
                counted,
                predicted: predict(&program, &op) as f64,
            });
        }
    }
    if samples.is_empty() {
        return Err("no counts".into());
    }
    Ok(samples)
}

fn apply(costs: &Costs, terms: &Terms) -> f64 {
    let cost = |&(term, count): &(&'static str, f64)| {
        count * costs.get(&(terms.kernel, term)).copied().unwrap_or(0.0)
    };
    terms.counts.iter().map(cost).sum()
}

/// Costs of each kernel's terms, none below zero, with the least sum of squared relative errors.
fn fit(samples: &[Sample]) -> Costs {
    let mut kernels: BTreeMap<&'static str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples.iter().filter(|it| !it.model.starts_with("way-")) {
        kernels.entry(sample.terms.kernel).or_default().push(sample);
    }
    let mut costs = Costs::new();
    for (kernel, samples) in kernels {
        let mut names: Vec<&'static str> = Vec::new();
        for (name, count) in samples.iter().flat_map(|sample| &sample.terms.counts) {
            if *count > 0.0 && !names.contains(name) {
                names.push(name);
            }
        }
        let rows: Vec<(Vec<f64>, f64)> = samples
            .iter()
            .map(|sample| {
                let of = |name: &&str| {
                    let all = sample.terms.counts.iter();
                    let same = all.filter(|(term, _)| term == name);
                    same.map(|(_, count)| count).sum::<f64>()
                };
                let scale = 1.0 / sample.counted.max(300.0);
                let row = names.iter().map(|name| of(name) * scale).collect();
                (row, sample.counted * scale)
            })
            .collect();
        for (name, cost) in names.iter().zip(least_squares(&rows)) {
            costs.insert((kernel, name), (cost * 1000.0).round() / 1000.0);
        }
    }
    costs
}

/// Non-negative least squares, a coordinate at a time on columns of equal length.
fn least_squares(rows: &[(Vec<f64>, f64)]) -> Vec<f64> {
    let width = rows.first().map_or(0, |(row, _)| row.len());
    let lengths: Vec<f64> = (0..width)
        .map(|at| {
            rows.iter()
                .map(|(row, _)| row[at] * row[at])
                .sum::<f64>()
                .sqrt()
        })
        .collect();
    let product = |a: usize, b: usize| {
        let sum: f64 = rows.iter().map(|(row, _)| row[a] * row[b]).sum();
        sum / (lengths[a] * lengths[b])
    };
    let matrix: Vec<Vec<f64>> = (0..width)
        .map(|a| (0..width).map(|b| product(a, b)).collect())
        .collect();
    let target: Vec<f64> = (0..width)
        .map(|at| rows.iter().map(|(row, b)| row[at] * b).sum::<f64>() / lengths[at])
        .collect();
    let mut found = vec![0.0_f64; width];
    for _ in 0..100_000 {
        let mut moved = 0.0_f64;
        for at in 0..width {
            let sum: f64 = matrix[at].iter().zip(&found).map(|(a, b)| a * b).sum();
            let next = (found[at] + target[at] - sum).max(0.0);
            moved = moved.max((next - found[at]).abs());
            found[at] = next;
        }
        if moved < 1e-12 {
            break;
        }
    }
    found
        .iter()
        .zip(lengths)
        .map(|(it, length)| it / length)
        .collect()
}

fn text(costs: &Costs) -> Result<String, Box<dyn Error>> {
    let mut text = String::from(
        "//! What each term costs; written by `cargo xtask bench-mcu --fit`.\n\n\
         /// Kernel, term, instructions.\n#[rustfmt::skip]\n",
    );
    let found: Vec<_> = costs.iter().filter(|(_, cost)| **cost > 0.0).collect();
    writeln!(
        text,
        "pub const COSTS: [(&str, &str, f64); {}] = [",
        found.len()
    )?;
    for ((kernel, term), cost) in found {
        writeln!(text, "    ({kernel:?}, {term:?}, {cost:?}),")?;
    }
    text.push_str("];\n");
    Ok(text)
}

/// The first of [`WAYS`] that none of these operators goes.
fn untaken(samples: &[Sample]) -> Option<(&'static str, &'static str)> {
    let taken = |&(kernel, term): &(&'static str, &'static str)| {
        samples.iter().any(|it| {
            let mut counts = it.terms.counts.iter();
            let counted = it.counted >= OPERATOR_LEAST as f64 && it.model.starts_with("way-");
            counted && it.terms.kernel == kernel && counts.any(|&(is, n)| is == term && n > 0.0)
        })
    };
    WAYS.into_iter().find(|way| !taken(way))
}

/// Prints how far predictions are off, and fails beyond the limits.
fn judge(samples: &[Sample]) -> Result<ExitCode, Box<dyn Error>> {
    if let Some((kernel, term)) = untaken(samples) {
        return Err(format!("no operator of a program called way- has {kernel}, {term}").into());
    }
    let mut models: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        models.entry(&sample.model).or_default().push(sample);
    }
    let mut bad = false;
    println!(
        "{:<18} {:>12} {:>12} {:>7}  worst operator",
        "model", "counted", "predicted", "off"
    );
    for (model, operators) in models {
        let off = |counted: f64, predicted: f64| (predicted / counted.max(1.0) - 1.0) * 100.0;
        let counted: f64 = operators.iter().map(|it| it.counted).sum();
        let predicted: f64 = operators.iter().map(|it| it.predicted).sum();
        let total = off(counted, predicted);
        let of = |it: &Sample| off(it.counted, it.predicted);
        let large = operators
            .iter()
            .filter(|it| it.counted >= OPERATOR_LEAST as f64);
        let worst = large.max_by(|a, b| of(a).abs().total_cmp(&of(b).abs()));
        let mut line = format!("{model:<18} {counted:>12} {predicted:>12.0} {total:>+6.1}%");
        let mut beyond = total.abs() > MODEL_PERCENT;
        if let Some(worst) = worst {
            let (index, name, off) = (worst.index, worst.name, of(worst));
            write!(line, "  {index} {name} {:.0} {off:+.1}%", worst.counted)?;
            beyond |= off.abs() > OPERATOR_PERCENT;
        }
        if beyond && !model.starts_with("fit-") {
            line += "  BEYOND THE LIMIT";
            bad = true;
        }
        println!("{line}");
    }
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
