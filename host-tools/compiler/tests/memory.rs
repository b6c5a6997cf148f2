//! What `inspect` finds out about a program's arena is what the planner said when it made it.

mod common;
#[path = "../../../models/tiny/shapes.rs"]
mod shapes;

use common::corpus;
use edgeward::program::{Aligned, Layout, Program};
use edgeward_compiler::memory::memory;
use edgeward_compiler::{Compiled, Options, compile, compile_graph};

const OPTIONS: [Options; 3] = [
    Options::mcu(Layout::CortexM),
    Options::mcu(Layout::Natural),
    Options::linux(),
];

fn check(name: &str, compiled: &Compiled) {
    let bytes = Aligned::copy_of(&compiled.program);
    let program = Program::verify(bytes.as_ref()).unwrap();
    let (found, plan) = (memory(&program), &compiled.report.plan);
    let said = [found.arena_bytes, found.bound_bytes, found.live_bytes];
    let planned = [plan.arena_bytes, plan.bound_bytes, plan.live_bytes];
    assert_eq!(said, planned, "{name}: {found:?} and {plan:?}");
    // Less than the usual planner takes, or as little as can be.
    let (arena, bound) = (plan.arena_bytes, plan.bound_bytes);
    let less = arena == bound || arena < plan.greedy_bytes;
    assert!(bound <= arena && less, "{name}: {plan:?}");
    assert_eq!(found.peak_operator, plan.peak_step, "{name}");
    let bytes = |peak: &[edgeward_compiler::memory::Tensor]| -> Vec<u64> {
        peak.iter().map(|tensor| tensor.bytes).collect()
    };
    assert_eq!(bytes(&found.peak), bytes(&plan.peak), "{name}");
}

#[test]
fn the_planner_and_the_program_agree() {
    for (name, graph) in shapes::all() {
        for options in &OPTIONS {
            check(name, &compile_graph(graph.clone(), options).unwrap());
        }
    }
}

#[test]
fn they_agree_of_the_corpus() {
    let Some(corpus) = corpus() else { return };
    for model in [
        "kws_ref_model",
        "vww_96_int8",
        "pretrainedResnet_quant",
        "ad01_int8",
        "str_ww_ref_model",
    ] {
        let bytes = std::fs::read(corpus.join(format!("models/{model}.tflite"))).unwrap();
        for options in &OPTIONS {
            check(model, &compile(&bytes, options).unwrap());
        }
    }
}
