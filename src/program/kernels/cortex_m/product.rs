//! Products of two tensors, and operands that are repeated.

use super::clamp_stretch;
use super::requantize::requantize;
use crate::program::exec::Step;
use crate::program::kernels::portable;
use crate::program::op::{Mul, Operand, Quantizer};
use core::arch::naked_asm;
use core::mem::offset_of;

/// What [`products`] works on. The fields lie in this order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Products {
    a: *const u8,
    b: *const u8,
    target: *mut u8,
    zeros: [i32; 2],
    /// Times two, less 2^32 where it is 2^31 or more.
    multiplier: i32,
    /// To the right, less one.
    shift: i32,
    /// `2 * zero point + 1`.
    rounding: i32,
    end: *mut u8,
}

/// Products of elements, one after the other; at least one.
///
/// Registers: `r0`, `r1` inputs, `r2` target, `r3`, `r4` zero points, `r5` multiplier, `r6` shift, `r7`
/// rounding, `r8` end, `r12`, `lr` elements.
///
/// # Safety
/// Both inputs must be readable, and the target writable, up to its end.
#[unsafe(naked)]
unsafe extern "C" fn products(products: &Products) {
    naked_asm!(
        "push {{r4-r8, lr}}",
        "ldr.w r8, [r0, #{end}]",
        "ldmia.w r0, {{r0-r7}}",
        "1:",
        "ldrsb r12, [r0], #1",
        "ldrsb lr, [r1], #1",
        "sub r12, r12, r3",
        "sub lr, lr, r4",
        "mul r12, r12, lr",
        requantize!(rounded, ["r5", "r6", "r7"], "r12"),
        "strb r12, [r2], #1",
        "cmp r2, r8",
        "bne 1b",
        "pop {{r4-r8, pc}}",
        end = const offset_of!(Products, end),
    )
}

/// Product of two tensors.
pub fn mul(mut step: Step<'_, Mul>) -> Option<()> {
    let (op, program) = (step.op(), step.program());
    if op.multiplier < 1 << 30 || op.shift >= 0 {
        return portable::mul(step);
    }
    let start = step.arena().as_mut_ptr().cast::<u8>();
    let target = start.wrapping_add(op.output as usize);
    let len = op.len as usize;
    let work = Products {
        a: core::ptr::null(),
        b: core::ptr::null(),
        target,
        zeros: [op.zero_a, op.zero_b].map(i32::from),
        multiplier: op.multiplier.wrapping_mul(2),
        shift: !i32::from(op.shift),
        rounding: 2 * i32::from(op.quantizer.zero_point) + 1,
        end: target,
    };
    // SAFETY: the verifier found operands and output in the arena or the program.
    unsafe {
        each_stretch(
            [&op.a, &op.b],
            program,
            start,
            len,
            &mut |[a, b], at, len| {
                let target = target.add(at);
                products(&Products {
                    a,
                    b,
                    target,
                    end: target.add(len),
                    ..work
                });
            },
        );
        let Quantizer { min, max, .. } = op.quantizer;
        if min > i8::MIN || max < i8::MAX {
            clamp_stretch(target.cast(), len, min, max);
        }
    }
    Some(())
}

/// Operands shorter than this, where they are repeated, are laid out several times.
const SHORT: usize = 32;

/// Calls `go` with both operands, the place in the output, and how many elements go on from there
/// before one of the operands begins again.
///
/// # Safety
/// Operands that are not constant must lie in the arena that begins at `arena`, and one that is shorter
/// than `len` apart from what `go` writes.
pub unsafe fn each_stretch(
    operands: [&Operand; 2],
    program: &[u8],
    arena: *const u8,
    len: usize,
    go: &mut dyn FnMut([*const u8; 2], usize, usize),
) {
    let mut rooms = [[0_u8; 2 * SHORT]; 2];
    let mut starts = [arena; 2];
    let mut periods = [len; 2];
    for (index, operand) in operands.into_iter().enumerate() {
        let base = match operand.constant {
            0 => arena,
            _ => program.as_ptr(),
        };
        let start = base.wrapping_add(operand.offset as usize);
        let own = operand.len as usize;
        (starts[index], periods[index]) = (start, own);
        if own < SHORT && own < len {
            let room = &mut rooms[index];
            periods[index] = room.len() / own * own;
            for (place, to) in room.iter_mut().enumerate() {
                // SAFETY: an element of the operand.
                *to = unsafe { start.add(place % own).read() };
            }
            starts[index] = room.as_ptr();
        }
    }
    let mut done = 0;
    while done < len {
        let places = periods.map(|period| done % period);
        let left = (periods[0] - places[0]).min(periods[1] - places[1]);
        let count = left.min(len - done);
        let at = [0, 1].map(|index| starts[index].wrapping_add(places[index]));
        go(at, done, count);
        done += count;
    }
}
