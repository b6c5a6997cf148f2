//! Operators that move bytes.

use crate::program::exec::Step;
use crate::program::op::{Copy, Fill};

/// Strided copy, the last axis fastest.
pub fn copy(mut step: Step<'_, Copy>) -> Option<()> {
    let op = step.op();
    let arena = step.arena();
    let [n0, n1, n2, n3] = op.shape.map(usize::from);
    let [i0, i1, i2, i3] = op.input_strides.map(|stride| stride as usize);
    let [o0, o1, o2, o3] = op.output_strides.map(|stride| stride as usize);
    for a in 0..n0 {
        for b in 0..n1 {
            for c in 0..n2 {
                let input = op.input as usize + a * i0 + b * i1 + c * i2;
                let output = op.output as usize + a * o0 + b * o1 + c * o2;
                if i3 == 1 && o3 == 1 {
                    let spans = [input..input + n3, output..output + n3];
                    let [from, to] = arena.get_disjoint_mut(spans).ok()?;
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                    continue;
                }
                for d in 0..n3 {
                    let value = *arena.get(input + d * i3)?;
                    *arena.get_mut(output + d * o3)? = value;
                }
            }
        }
    }
    Some(())
}

/// A stretch of one value.
pub fn fill(mut step: Step<'_, Fill>) -> Option<()> {
    let op = step.op();
    let start = op.output as usize;
    let end = start.checked_add(op.len as usize)?;
    step.arena().get_mut(start..end)?.fill(op.value);
    Some(())
}
