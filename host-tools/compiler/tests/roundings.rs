//! How often two roundings in fixed point differ from one: the table in `docs/CONFORMANCE.md`.

use edgeward::program::arith::requantize;
use edgeward_compiler::emit::scale::quantize_multiplier;
use std::path::Path;

const DRAWS: u32 = 800_000;

/// The next number in 0..1.
fn uniform(seed: &mut u64) -> f64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 11) as f64 / (1_u64 << 53) as f64
}

/// Of random accumulators whose outputs are int8, at scales of 2 to the power of `from` to `to`: how many
/// differ from one rounding of a float, halves to even, by two roundings and by one of the same fixed
/// point, halves up.
fn differ(from: f64, to: f64) -> [u32; 2] {
    let mut seed = 0x9E37_79B9_7F4A_7C15;
    let mut differ = [0; 2];
    for _ in 0..DRAWS {
        let scale = (from + (to - from) * uniform(&mut seed)).exp2() as f32;
        let accumulator = (uniform(&mut seed) * 255.0 - 128.0) / f64::from(scale);
        let accumulator = accumulator.round() as i32;
        let fixed = quantize_multiplier(f64::from(scale));
        let float = (accumulator as f32 * scale).round_ties_even() as i32;
        let twice = requantize(accumulator, fixed.multiplier, fixed.shift);
        let product = i64::from(accumulator) * i64::from(fixed.multiplier);
        let bits = 31 - fixed.shift;
        let once = (product + (1 << (bits - 1))) >> bits;
        differ[0] += u32::from(twice != float);
        differ[1] += u32::from(once != i64::from(float));
    }
    differ
}

#[test]
fn the_documentation_says_how_often_two_roundings_differ_from_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/CONFORMANCE.md")).expect("the page");
    let mut missing = String::new();
    for exponent in [-4, -6, -8, -10] {
        let from = exponent - 2;
        let [twice, once] = differ(f64::from(from), f64::from(exponent));
        let percent = 100.0 * f64::from(twice) / f64::from(DRAWS);
        let row = format!("| 2^{from} to 2^{exponent} | {percent:.2} % | {once} |\n");
        if !text.contains(&row) {
            missing += &row;
        }
    }
    assert!(missing.is_empty(), "docs/CONFORMANCE.md lacks\n{missing}");
}
