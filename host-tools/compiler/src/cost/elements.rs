//! What kernels of operators that go element by element do.

use super::terms::{Counts, clamps};
use edgeward::program::op::{Add, AddScale, Mul, Operand};

/// Whether the fast kernel applies these scales: it adds, and shifts to the right.
fn is_fast(scale: &AddScale) -> bool {
    let falls = |multiplier, shift| match (multiplier, shift) {
        (0x4000_0000.., ..=-1) => true,
        // Half of an input is exact.
        (multiplier, shift) => multiplier == 0x4000_0000 && shift == 0,
    };
    let inputs = [
        (scale.multiplier_a, scale.shift_a),
        (scale.multiplier_b, scale.shift_b),
    ];
    let output = scale.multiplier >= 1 << 30 && scale.shift < 0;
    output
        && inputs
            .into_iter()
            .all(|(multiplier, shift)| falls(multiplier, shift))
}

/// What adding to a convolution takes on top of it.
pub(super) fn added(scale: &AddScale, elements: f64) -> Vec<(&'static str, f64)> {
    match is_fast(scale) {
        true if clamps(&scale.quantizer) => vec![("sum", elements), ("clamp", elements)],
        true => vec![("sum", elements)],
        false => vec![("portable sum", elements)],
    }
}

pub(super) fn add(op: &Add) -> Counts {
    let operands = [&op.a, &op.b];
    if !is_fast(&op.scale) {
        return ("Add portable", portable(operands, op.len));
    }
    let stretches = Stretches::of(operands, op.len);
    // Elements go two by two, the last of an odd stretch alone.
    let mut counts = vec![
        ("element", (u64::from(op.len) - stretches.odd) as f64),
        ("single", stretches.odd as f64),
        ("stretch", stretches.count as f64),
    ];
    if clamps(&op.scale.quantizer) {
        counts.push(("clamp", (u64::from(op.len) - stretches.odd) as f64));
    }
    ("Add", counts)
}

pub(super) fn mul(op: &Mul) -> Counts {
    let operands = [&op.a, &op.b];
    if op.multiplier < 1 << 30 || op.shift >= 0 {
        return ("Mul portable", portable(operands, op.len));
    }
    let stretches = Stretches::of(operands, op.len);
    let mut counts = vec![
        ("element", op.len.into()),
        ("stretch", stretches.count as f64),
    ];
    if clamps(&op.quantizer) {
        counts.push(("clamp", op.len.into()));
    }
    ("Mul", counts)
}

/// Each element by itself; those of an operand that is repeated behind its first round are sought.
fn portable(operands: [&Operand; 2], len: u32) -> Vec<(&'static str, f64)> {
    let repeated = operands.map(|operand| f64::from(len.saturating_sub(operand.len)));
    vec![("element", len.into()), ("repeated", repeated.iter().sum())]
}

/// Operands shorter than this, where they are repeated, are laid out several times.
const SHORT: u64 = 32;

/// How elements are cut where an operand begins again.
struct Stretches {
    count: u64,
    /// Those of an odd number of elements.
    odd: u64,
}

impl Stretches {
    fn of(operands: [&Operand; 2], len: u32) -> Self {
        let len = u64::from(len);
        let periods = operands.map(|operand| {
            let own = u64::from(operand.len).max(1);
            if own < SHORT && own < len {
                2 * SHORT / own * own
            } else {
                own
            }
        });
        let (mut it, mut done) = (Self { count: 0, odd: 0 }, 0);
        while done < len {
            let left = periods.map(|period| period - done % period);
            let count = left[0].min(left[1]).min(len - done);
            it.count += 1;
            it.odd += count % 2;
            done += count;
        }
        it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_end_where_an_operand_begins_again() {
        let operand = |len| Operand {
            offset: 0,
            len,
            constant: 0,
        };
        let of = |a, b, len| {
            let it = Stretches::of([&operand(a), &operand(b)], len);
            (it.count, it.odd)
        };
        assert_eq!(of(100, 100, 100), (1, 0));
        assert_eq!(of(101, 101, 101), (1, 1));
        // Five elements lie twelve times in a row, and forty as they are.
        assert_eq!(of(100, 5, 100), (2, 0));
        assert_eq!(of(120, 40, 120), (3, 0));
        assert_eq!(of(41, 41 * 3, 123), (3, 3));
    }
}
