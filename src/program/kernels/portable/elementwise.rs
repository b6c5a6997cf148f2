//! Operators that go element by element.

use super::{clamp, part};
use crate::program::arith::{doubling_high_mul, requantize, rounding_shift};
use crate::program::exec::Step;
use crate::program::op::{Add, AddScale, Lookup, Mul, Operand};

/// Sum: TensorFlow Lite's `reference_integer_ops::AddFunc`; difference: its `SubFunc`.
#[inline]
pub(crate) fn sum(scale: &AddScale, a: i8, b: i8) -> i8 {
    joined(scale, first(scale, a), second(scale, b))
}

/// The first addend of a sum at the common scale.
#[inline]
pub(crate) fn first(scale: &AddScale, a: i8) -> i32 {
    let a = (i32::from(a) - i32::from(scale.zero_a)) << 20;
    scale_down(a, scale.multiplier_a, scale.shift_a)
}

/// The second addend of a sum at the common scale, its sign turned where it is subtracted.
#[inline]
pub(crate) fn second(scale: &AddScale, b: i8) -> i32 {
    let b = (i32::from(b) - i32::from(scale.zero_b)) << 20;
    let b = scale_down(b, scale.multiplier_b.wrapping_abs(), scale.shift_b);
    if scale.multiplier_b < 0 {
        b.wrapping_neg()
    } else {
        b
    }
}

/// The sum of two addends at the common scale.
#[inline]
pub(crate) fn joined(scale: &AddScale, a: i32, b: i32) -> i8 {
    clamp(
        scale_down(a.wrapping_add(b), scale.multiplier, scale.shift),
        &scale.quantizer,
    )
}

/// TensorFlow Lite's `MultiplyByQuantizedMultiplierSmallerThanOneExp`; `shift` is -31 to 0.
#[inline]
fn scale_down(x: i32, multiplier: i32, shift: i8) -> i32 {
    rounding_shift(
        doubling_high_mul(x, multiplier),
        u32::from(shift.unsigned_abs()),
    )
}

/// Element `index` of an operand that is repeated when it is shorter.
#[inline]
fn element(operand: &Operand, program: &[u8], arena: &[i8], index: usize) -> Option<i8> {
    let len = operand.len as usize;
    let index = if index < len {
        index
    } else {
        index.checked_rem(len)?
    };
    let at = (operand.offset as usize).checked_add(index)?;
    if operand.constant == 0 {
        arena.get(at).copied()
    } else {
        program.get(at).map(|&byte| byte as i8)
    }
}

/// Sum or difference of two tensors.
pub fn add(mut step: Step<'_, Add>) -> Option<()> {
    let (op, program) = (step.op(), step.program());
    let arena = step.arena();
    for index in 0..op.len as usize {
        let a = element(&op.a, program, arena, index)?;
        let b = element(&op.b, program, arena, index)?;
        *arena.get_mut(op.output as usize + index)? = sum(&op.scale, a, b);
    }
    Some(())
}

/// Product of two tensors: TensorFlow Lite's `reference_integer_ops::MulElementwise`.
pub fn mul(mut step: Step<'_, Mul>) -> Option<()> {
    let (op, program) = (step.op(), step.program());
    let arena = step.arena();
    for index in 0..op.len as usize {
        let a = i32::from(element(&op.a, program, arena, index)?) - i32::from(op.zero_a);
        let b = i32::from(element(&op.b, program, arena, index)?) - i32::from(op.zero_b);
        let product = requantize(a * b, op.multiplier, i32::from(op.shift));
        *arena.get_mut(op.output as usize + index)? = clamp(product, &op.quantizer);
    }
    Some(())
}

/// A function of one element by its table.
pub fn lookup(mut step: Step<'_, Lookup>) -> Option<()> {
    let (op, program) = (step.op(), step.program());
    let table = program.get(op.table as usize..)?.first_chunk::<256>()?;
    let arena = step.arena();
    part(arena, op.input as usize, op.len as usize)?;
    for index in 0..op.len as usize {
        let value = *arena.get(op.input as usize + index)?;
        // -128 is entry 0: the top bit turns over.
        let value = *table.get(usize::from(value as u8 ^ 0x80))?;
        *arena.get_mut(op.output as usize + index)? = value as i8;
    }
    Some(())
}
