//! One suite over every set of kernels: bit for bit what a second, naive writing of TensorFlow Lite
//! Micro's arithmetic gives, over random shapes, strides, paddings, zero points and extremes.

mod program;

use edgeward::program::op::Op;
use edgeward::program::{Layout, Portable};
use program::build::{Builder, Draft, Place, Random};
use program::{check, conforms};

macro_rules! suite {
    ($name:ident, $layout:expr, $make:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn operators_equal_the_second_writing() {
                for kind in program::drafts::KINDS {
                    conforms(kind, $layout, 1..=7, 60, $make);
                }
            }
        }
    };
}

suite!(portable_natural, Layout::Natural, |_| Portable);
suite!(portable_cortex_m, Layout::CortexM, |_| Portable);

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
        let draft = Draft {
            op: Op::Softmax(op),
            builder: Builder::default(),
            inputs,
            expected: vec![share; usize::from(columns)],
        };
        let case = draft.place(Layout::Natural, Place::Tight(0));
        check(&case, &mut Portable, 1).unwrap_or_else(|error| panic!("{columns}: {error}"));
    }
}
