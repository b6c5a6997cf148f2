//! The portable kernels through the suite: bit for bit what a second, naive writing of TensorFlow Lite
//! Micro's arithmetic gives, over random shapes, strides, paddings, zero points and extremes, on either
//! layout. And the list of engines, which the documentation has as it is.

mod program;

use edgeward::program::op::Op;
use edgeward::program::{Layout, Portable};
use program::build::{Builder, Draft, Place, Random};
use program::engines::{self, ENGINES};
use program::{check, kernels, suite};
use std::collections::BTreeMap;

/// Cases of the suite that run: each kind in each place and size thirty times.
const CASES: u64 = 15_600;

fn conforms(layout: Layout) {
    for index in 0..CASES {
        let sample = suite::sample(layout, index);
        if let Err(error) = check(&sample.case, &mut Portable) {
            let ops = suite::ops(&sample.case);
            panic!("case {index}, {}: {error}\n{ops:?}", sample.kind);
        }
    }
}

#[test]
fn the_portable_kernels_equal_the_second_writing() {
    conforms(Layout::Natural);
}

#[test]
fn the_portable_kernels_equal_the_second_writing_in_the_layout_of_cortex_m() {
    conforms(Layout::CortexM);
}

/// As many cases as run in QEMU reach every kernel for Cortex-M, each at least ten times.
#[test]
fn the_suite_reaches_every_kernel() {
    let mut counts = BTreeMap::new();
    for index in 0..3_250 {
        for kernel in kernels::of(&suite::sample(Layout::CortexM, index).case) {
            *counts.entry(kernel).or_insert(0) += 1;
        }
    }
    println!("{counts:?}");
    for kernel in kernels::ALL {
        let count = counts.remove(kernel).unwrap_or(0);
        assert!(count >= 10, "{kernel}: {count} times");
    }
    assert!(counts.is_empty(), "{counts:?}");
}

/// Convolutions that fill the widest strips of AVX-512 and of AVX2.
#[test]
fn the_suite_fills_the_widest_vectors() {
    let widest = [("AVX-512", 64, 6), ("AVX2", 16, 5)];
    let ops = (0..CASES).flat_map(|index| suite::ops(&suite::sample(Layout::Natural, index).case));
    let ops: Vec<Op> = ops.collect();
    for (name, channels, pixels) in widest {
        let fills = |op: &&Op| kernels::fills(op, channels, pixels);
        let count = ops.iter().filter(fills).count();
        println!("{name}: {count} of {} operators", ops.len());
        assert!(count >= 100, "{name}: {count}");
    }
}

/// Spoilt constants that the verifier takes are among the suite, and change what comes out.
#[test]
fn some_spoilt_constants_are_taken_and_tell() {
    for layout in [Layout::Natural, Layout::CortexM] {
        let (mut taken, mut told) = (0, 0);
        for index in 0..2_600 {
            if let Some(spoilt) = suite::spoilt(layout, index) {
                taken += 1;
                let good = suite::sample(layout, index).case;
                told += u32::from(good.expected != spoilt.case.expected);
            }
        }
        assert!(taken > 300 && told > 100, "{layout:?}: {taken}, {told}");
    }
}

#[test]
fn the_documentation_has_the_list_of_engines() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/CONFORMANCE.md"));
    let (text, table) = (text.expect("the page"), engines::table());
    assert!(text.contains(&table), "docs/CONFORMANCE.md lacks\n{table}");
    let mut names: Vec<_> = ENGINES.iter().map(|engine| engine.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ENGINES.len());
}

#[test]
fn softmax_is_within_a_unit_of_real_numbers() {
    let mut random = Random(7);
    for (columns, scale) in [(2, 0.1), (12, 0.2), (10, 0.05), (1, 1.0), (100, 0.01)] {
        let op = program::drafts::softmax_op(1, columns, scale);
        let data: Vec<i8> = (0..columns).map(|_| random.int8()).collect();
        let max = f64::from(*data.iter().max().unwrap());
        let power = |&value: &i8| (scale * (f64::from(value) - max)).exp();
        let sum: f64 = data.iter().map(power).sum();
        let made = program::reference::softmax(&op, &data);
        for (value, made) in data.iter().zip(&made) {
            let real = (256.0 * power(value) / sum - 128.0).min(127.0);
            assert!(
                (real - f64::from(*made)).abs() <= 1.0,
                "{scale}: {real}, {made}"
            );
        }
    }
}

#[test]
fn softmax_of_the_longest_vectors_stays_in_range() {
    for (columns, value) in [(511, -3), (512, 5), (513, 5), (1024, 127), (4095, -128)] {
        let op = program::drafts::softmax_op(1, columns, 0.1);
        let inputs = vec![vec![value; usize::from(columns)]];
        // Half a unit rounds up, but the largest exponential is a little less than one.
        let share = if columns < 512 { -127 } else { -128 };
        let expected = vec![share; usize::from(columns)];
        let draft = Draft::new(Op::Softmax(op), Builder::default(), inputs, expected);
        let case = draft.place(Layout::Natural, Place::Tight(0));
        check(&case, &mut Portable).unwrap_or_else(|error| panic!("{columns}: {error}"));
    }
}
