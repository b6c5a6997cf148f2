//! How many instructions operators take on a Cortex-M4, from their shapes.
//!
//! What a kernel does is counted in terms: calls, rows, pairs of pixels, tiles, products, bytes that
//! are copied. Each term costs so many instructions; `table` has them as they were fitted to counts
//! of random operators in QEMU, and `cargo xtask bench-mcu` fails when a model is predicted worse than
//! [`MODEL_PERCENT`] or a large operator worse than [`OPERATOR_PERCENT`]. It runs programs, too, that go
//! the ways through the kernels that no model goes: costs are not fitted to these.
//!
//! Predictions are for the kernels with the DSP extension. Of a program in another layout they say what
//! the same operators would take there. Of a softmax they are a mean: its time depends on its input.

mod elements;
mod flags;
mod table;
mod terms;

use edgeward::program::Program;
use edgeward::program::op::Op;

pub use terms::{Terms, terms};

/// How far a model's prediction may be from the count.
pub const MODEL_PERCENT: f64 = 10.0;
/// How far an operator's may be, if it takes [`OPERATOR_LEAST`] instructions.
pub const OPERATOR_PERCENT: f64 = 20.0;
/// Smaller operators are not judged by themselves.
pub const OPERATOR_LEAST: u64 = 10_000;

/// Instructions that an operator of a program takes.
pub fn predict(program: &Program<'_>, op: &Op) -> u64 {
    let terms = terms(program, op);
    let cost = |(term, count): &(&'static str, f64)| count * cost_of(terms.kernel, term);
    let sum: f64 = terms.counts.iter().map(cost).sum();
    sum.round() as u64
}

fn cost_of(kernel: &str, term: &str) -> f64 {
    let mut rows = table::COSTS.iter();
    rows.find_map(|&(a, b, cost)| (a == kernel && b == term).then_some(cost))
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None is free, which a name without costs would be.
    #[test]
    fn kernels_that_models_rarely_take_cost_something() {
        for (kernel, terms) in [
            ("Dense portable", ["product", "output"]),
            ("Depthwise portable", ["product", "output"]),
            ("Pool portable", ["tap", "tried tap"]),
            ("Add portable", ["element", "repeated"]),
            ("Mul portable", ["element", "element"]),
            ("Conv", ["portable sum", "long output"]),
            ("Conv wide", ["portable sum", "long output"]),
            ("Conv apart", ["product of a single", "portable sum"]),
            ("Dense", ["long tile", "long output"]),
            ("Dense apart", ["product", "tile"]),
            ("Depthwise", ["long group", "long output"]),
            ("Depthwise sliding apart", ["block", "channel"]),
        ] {
            for term in terms {
                assert!(cost_of(kernel, term) > 0.0, "{kernel} {term}");
            }
        }
    }

    /// What runs on a Cortex-M without vectors of the DSP extension: what it is called in the
    /// documentation, its kernel, and what of its terms is told.
    type Told = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
    );

    #[rustfmt::skip]
    const TOLD: [Told; 15] = [
        ("Softmax", "Softmax", &[("element", "an element"), ("row", "a row")]),
        ("Mean", "Mean", &[("element", "an element"), ("channel", "a channel")]),
        ("Lookup", "Lookup", &[("element", "an element")]),
        ("Copy where elements follow each other", "Copy of rows",
            &[("element", "an element"), ("row", "a row")]),
        ("Copy of others", "Copy", &[("element", "an element"), ("row", "a row")]),
        ("Fill", "Fill", &[("element", "a byte")]),
        ("Dense that would read a word beyond the arena's end", "Dense portable",
            &[("product", "a product"), ("tile", "a tile of four outputs"), ("output", "an output")]),
        ("Depthwise of several outputs an input channel", "Depthwise portable",
            &[("product", "a product"), ("output", "an output")]),
        ("Pool that averages more than 255 elements", "Pool portable",
            &[("tap", "a tap"), ("tried tap", "more for each that is looked at"),
                ("row", "a kernel row of an output"), ("tried row", "more for each that is looked at"),
                ("output", "an output")]),
        ("Add of a difference, or whose sum is scaled by a half or more", "Add portable",
            &[("element", "an element"), ("repeated", "more for each that is repeated")]),
        ("ConvAdd whose sum is scaled by a half or more, on top of the Conv", "Conv",
            &[("portable sum", "an element")]),
        ("Mul whose product is scaled by a half or more", "Mul portable", &[("element", "an element")]),
        ("Conv of `UNPROVEN` sums, output by output in the fast kernel", "Conv apart",
            &[("product of a single", "a product"), ("single's tile", "a tile of four outputs"),
                ("long output", "an output")]),
        ("Dense of `UNPROVEN` sums, the same", "Dense apart",
            &[("product", "a product"), ("tile", "a tile of four outputs"), ("long output", "an output")]),
        ("Depthwise of 3 by 3 and stride 1 whose sums are `UNPROVEN`, the same", "Depthwise sliding apart",
            &[("block", "a block of six outputs"), ("channel", "a channel's row"),
                ("long output", "an output")]),
    ];

    #[test]
    fn the_documentation_tells_the_costs_as_they_were_fitted() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = std::fs::read_to_string(root.join("docs/PROGRAM.md")).expect("the page");
        for (name, kernel, terms) in TOLD {
            let told = terms
                .iter()
                .map(|(term, each)| format!("{:.1} {each}", cost_of(kernel, term)));
            let row = format!("| {name} | {} |", told.collect::<Vec<_>>().join(", "));
            assert!(text.contains(&row), "docs/PROGRAM.md lacks {row}");
        }
    }

    #[test]
    fn costs_are_sensible() {
        for &(kernel, term, cost) in &table::COSTS {
            assert!(cost.is_finite() && cost >= 0.0, "{kernel} {term}: {cost}");
        }
        // Two pixels by four outputs take twelve instructions for two products of each.
        let product = cost_of("Conv", "product of a pair");
        assert!((5.0..8.0).contains(&product), "{product}");
        assert_eq!(cost_of("Conv", "no such term"), 0.0);
    }
}
