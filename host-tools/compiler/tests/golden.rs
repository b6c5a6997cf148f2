//! The five models of the corpus equal TensorFlow Lite Micro bit for bit, through portable kernels.

mod common;
mod npz;

use common::corpus;
use edgeward::program::{Aligned, Layout, Portable, Program};
use edgeward_compiler::{Options, compile};
use npz::read_npz;
use std::path::Path;

const MODELS: [&str; 5] = [
    "kws_ref_model",
    "vww_96_int8",
    "pretrainedResnet_quant",
    "ad01_int8",
    "str_ww_ref_model",
];

/// Runs a program on each row of inputs and compares with the rows of outputs: how many there are, two at
/// least; `None` without a corpus.
fn check(model: &str, archive: &str, options: &Options) -> Option<usize> {
    let corpus = corpus()?;
    let models = corpus.join("models");
    let bytes = std::fs::read(models.join(format!("{model}.tflite"))).unwrap();
    let compiled = compile(&bytes, options).unwrap_or_else(|error| panic!("{model}: {error}"));
    let bytes = Aligned::copy_of(&compiled.program);
    let program = Program::verify(bytes.as_ref()).unwrap_or_else(|e| panic!("{model}: {e:?}"));
    let header = *program.header();
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let golden = read_npz(&models.join(archive));
    let (inputs, outputs) = (&golden["input"], &golden["output"]);
    let rows = inputs.shape[0];
    assert_eq!(outputs.shape[0], rows);
    assert_eq!(
        (inputs.rows().count(), outputs.rows().count()),
        (rows, rows)
    );
    assert!(rows >= 2, "{archive} has {rows} rows");
    for (row, (input, output)) in inputs.rows().zip(outputs.rows()).enumerate() {
        assert_eq!(input.len(), header.input_len as usize);
        let start = header.input as usize;
        let arena = arena.as_mut();
        for (at, &byte) in arena[start..].iter_mut().zip(input) {
            *at = byte.cast_signed();
        }
        program.run(&mut Portable, arena).unwrap();
        let start = header.output as usize;
        let ours = &arena[start..start + header.output_len as usize];
        let differ = ours
            .iter()
            .zip(output)
            .filter(|(ours, theirs)| **ours != theirs.cast_signed());
        let differ = differ
            .map(|(ours, theirs)| (*ours, theirs.cast_signed()))
            .collect::<Vec<_>>();
        assert!(
            differ.is_empty(),
            "{model}, row {row} of {archive}: (ours, TFLM's) {differ:?}"
        );
    }
    Some(rows)
}

#[test]
fn golden_rows_of_all_models_in_overlapping_arenas() {
    for model in MODELS {
        check(
            model,
            &format!("{model}.golden.npz"),
            &Options::mcu(Layout::Natural),
        );
    }
}

#[test]
fn arenas_stay_within_their_budgets() {
    let Some(corpus) = corpus() else { return };
    let budgets = [16_000, 38_000, 36_000, 768, 4_096];
    for (model, budget) in MODELS.into_iter().zip(budgets) {
        let bytes = std::fs::read(corpus.join(format!("models/{model}.tflite"))).unwrap();
        let report = compile(&bytes, &Options::mcu(Layout::Natural))
            .unwrap()
            .report;
        let plan = &report.plan;
        println!("{model}\n{report}");
        assert!(
            (plan.bound_bytes..=budget).contains(&plan.arena_bytes),
            "{model}: {plan:?}"
        );
    }
}

/// A number with its thousands apart.
fn thousands(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1000), number % 1000),
    }
}

#[test]
fn the_documentation_tells_the_arenas_as_they_are_planned() {
    let Some(corpus) = corpus() else { return };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/PROGRAM.md");
    let page = std::fs::read_to_string(page).unwrap();
    let names = [
        "keyword spotting",
        "visual wake words",
        "image classification",
        "anomaly detection",
        "wake word, streaming",
    ];
    for (model, name) in MODELS.into_iter().zip(names) {
        let bytes = std::fs::read(corpus.join(format!("models/{model}.tflite"))).unwrap();
        let compiled = compile(&bytes, &Options::mcu(Layout::CortexM)).unwrap();
        let plan = &compiled.report.plan;
        let above = (plan.arena_bytes - plan.bound_bytes) as f64 * 100.0;
        let above = match above / plan.bound_bytes as f64 {
            0.0 => "0".to_owned(),
            percent => format!("{percent:.1} %"),
        };
        let [arena, bound, live, greedy] = [
            plan.arena_bytes,
            plan.bound_bytes,
            plan.live_bytes,
            plan.greedy_bytes,
        ]
        .map(thousands);
        let row = format!("| {name} | {arena} | {bound} | {above} | {live} | {greedy} |");
        assert!(page.contains(&row), "docs/PROGRAM.md lacks {row}");
    }
}

#[test]
fn golden_rows_of_all_models_in_the_layout_of_cortex_m() {
    for model in MODELS {
        let options = Options::mcu(Layout::CortexM);
        check(model, &format!("{model}.golden.npz"), &options);
    }
}

#[test]
fn golden_rows_of_all_models_in_disjoint_arenas() {
    for model in MODELS {
        check(model, &format!("{model}.golden.npz"), &Options::linux());
    }
}

#[test]
fn five_hundred_recordings_of_keywords() {
    for options in [Options::mcu(Layout::Natural), Options::linux()] {
        let rows = check("kws_ref_model", "kws_ref_model.real.npz", &options);
        assert!(rows.is_none_or(|rows| rows == 500), "{rows:?} recordings");
    }
}
