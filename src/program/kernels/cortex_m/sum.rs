//! Sums of two tensors.

use super::clamp_stretch;
use super::product::each_stretch;
use crate::program::exec::Step;
use crate::program::kernels::portable;
use crate::program::op::{Add, AddScale, Quantizer};
use core::arch::naked_asm;

/// What [`pairs`] works on. The fields lie in this order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Sums {
    a: *const u8,
    b: *const u8,
    target: *mut u8,
    /// Zero points times 2^20.
    zeros: [i32; 2],
    /// Multipliers times two, less 2^32 where they are 2^31 or more.
    multipliers: [i32; 2],
    /// Shifts to the right, less one.
    shifts: [i32; 2],
    multiplier: i32,
    shift: i32,
    /// `2 * zero point + 1`.
    rounding: i32,
    end: *mut u8,
}

impl Sums {
    /// `None` for scales that [`pairs`] does not apply.
    fn new(scale: &AddScale) -> Option<Self> {
        let (a, shift_a) = input(scale.multiplier_a, scale.shift_a)?;
        let (b, shift_b) = input(scale.multiplier_b, scale.shift_b)?;
        if scale.multiplier < 1 << 30 || scale.shift >= 0 {
            return None;
        }
        Some(Self {
            a: core::ptr::null(),
            b: core::ptr::null(),
            target: core::ptr::null_mut(),
            zeros: [scale.zero_a, scale.zero_b].map(|zero| i32::from(zero) << 20),
            multipliers: [a, b],
            shifts: [shift_a, shift_b],
            multiplier: scale.multiplier.wrapping_mul(2),
            shift: !i32::from(scale.shift),
            rounding: 2 * i32::from(scale.quantizer.zero_point) + 1,
            end: core::ptr::null_mut(),
        })
    }
}

/// Multiplier and shift of an input as [`pairs`] takes them.
fn input(multiplier: i32, shift: i8) -> Option<(i32, i32)> {
    match (multiplier, shift) {
        // Half of a multiple of 2^20 is exact: all of it, shifted by one.
        (0x4000_0000, 0) => Some((0, 0)),
        (0x4000_0000.., ..=-1) => Some((multiplier.wrapping_mul(2), !i32::from(shift))),
        _ => None,
    }
}

/// Sum of one element in 20 instructions: both inputs times 2^20 to their common scale, then to the
/// output's. See [`super::tile`] for the rounding.
macro_rules! one_sum {
    () => {
        "ldrsb r12, [r0], #1
         ldrsb lr, [r1], #1
         rsb r12, r3, r12, lsl #20
         rsb lr, r4, lr, lsl #20
         smmlar r12, r12, r5, r12
         smmlar lr, lr, r6, lr
         add r12, r12, r12, asr #31
         add lr, lr, lr, asr #31
         asr r12, r12, r7
         asr lr, lr, r8
         add r12, r12, #1
         add lr, lr, #1
         asr r12, r12, #1
         add r12, r12, lr, asr #1
         smmlar r12, r12, r9, r12
         add r12, r12, r12, asr #31
         asr r12, r12, r10
         add r12, r12, r11
         ssat r12, #8, r12, asr #1
         strb r12, [r2], #1
        "
    };
}

/// Sums of an even number of elements, one after the other; at least two.
///
/// Registers: `r0`, `r1` inputs, `r2` target, `r3`, `r4` zero points, `r5`, `r6` multipliers, `r7`,
/// `r8` shifts of the inputs, `r9` multiplier, `r10` shift, `r11` rounding, `r12`, `lr` elements.
///
/// # Safety
/// Both inputs must be readable, and the target writable, up to its end.
#[unsafe(naked)]
unsafe extern "C" fn pairs(sums: &Sums) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "ldr r12, [r0, #48]",
        "push {{r12}}",
        "ldmia.w r0, {{r0-r11}}",
        "1:",
        one_sum!(),
        one_sum!(),
        "ldr r12, [sp]",
        "cmp r2, r12",
        "bne.w 1b",
        "add sp, #4",
        "pop {{r4-r11, pc}}",
    )
}

/// Sum or difference of two tensors.
pub fn add(mut step: Step<'_, Add>) -> Option<()> {
    let (op, program) = (step.op(), step.program());
    if Sums::new(&op.scale).is_none() {
        return portable::add(step);
    }
    let start = step.arena().as_mut_ptr().cast::<u8>();
    let target = start.wrapping_add(op.output as usize);
    // SAFETY: the verifier found operands and output in the arena or the program.
    unsafe {
        let mut go = |[a, b]: [*const u8; 2], at: usize, len: usize| {
            stretch(&op.scale, a, b, target.add(at), len);
        };
        each_stretch([&op.a, &op.b], program, start, op.len as usize, &mut go);
    }
    Some(())
}

/// Sums of `len` elements, one after the other.
///
/// # Safety
/// All three must be readable or writable for `len`; the target may be one of the inputs.
#[inline(never)]
pub unsafe fn stretch(scale: &AddScale, a: *const u8, b: *const u8, target: *mut u8, len: usize) {
    let mut done = 0;
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(sums) = Sums::new(scale)
            && len >= 2
        {
            done = len & !1;
            pairs(&Sums {
                a,
                b,
                target,
                end: target.add(done),
                ..sums
            });
            let Quantizer { min, max, .. } = scale.quantizer;
            if min > i8::MIN || max < i8::MAX {
                clamp_stretch(target.cast(), done, min, max);
            }
        }
        for index in done..len {
            let (a, b) = (a.add(index).read() as i8, b.add(index).read() as i8);
            target.add(index).write(portable::sum(scale, a, b) as u8);
        }
    }
}
