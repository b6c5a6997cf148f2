//! Averages and maxima over windows, four channels at a time.

use crate::program::exec::Step;
use crate::program::kernels::portable;
use crate::program::op::{Plane, Pool, Window};
use core::arch::asm;

/// Pooling.
pub fn pool(mut step: Step<'_, Pool>) -> Option<()> {
    let op = step.op();
    let taps = u32::from(op.window.kernel_h) * u32::from(op.window.kernel_w);
    // Sums of as many elements fit 16 bits.
    if op.maximum == 0 && taps > 255 {
        return portable::pool(step);
    }
    let start = step.arena().as_mut_ptr().cast::<u8>();
    for y in 0..op.output.height {
        for x in 0..op.output.width {
            // SAFETY: a pixel of an operator that was verified against this arena.
            unsafe { pixel(op, start, y, x) };
        }
    }
    Some(())
}

/// First row or column of a window inside the input, and how many of its taps are.
const fn inside(output: u16, stride: u8, pad: u16, kernel: u16, extent: u16) -> [usize; 2] {
    let start = output as usize * stride as usize;
    let end = start + kernel as usize;
    let (pad, extent) = (pad as usize, extent as usize);
    let first = start.saturating_sub(pad);
    let last = end.saturating_sub(pad);
    let last = if last < extent { last } else { extent };
    [first, last.saturating_sub(first)]
}

/// One pixel of the output.
///
/// # Safety
/// The operator must have been verified against the arena, and the pixel be one of its output.
unsafe fn pixel(op: &Pool, arena: *mut u8, y: u16, x: u16) {
    let Plane {
        height,
        width,
        channels,
        ..
    } = op.input;
    let window: &Window = &op.window;
    let [top, rows] = inside(y, window.stride_h, window.pad_top, window.kernel_h, height);
    let [left, columns] = inside(x, window.stride_w, window.pad_left, window.kernel_w, width);
    let count = (rows * columns) as i32;
    let depth = usize::from(channels);
    let place = usize::from(y) * usize::from(op.output.width) + usize::from(x);
    let average = |sum: i32| {
        let half = if sum > 0 { count / 2 } else { -(count / 2) };
        let value = sum.wrapping_add(half).checked_div(count).unwrap_or(0);
        value.max(i32::from(op.min)).min(i32::from(op.max)) as u8
    };
    // SAFETY: the taps that are counted lie inside the input; a word of four channels is only read
    // where four are left.
    unsafe {
        let first = arena.add(op.input.offset as usize + (top * usize::from(width) + left) * depth);
        let target = arena.add(op.output.offset as usize + place * depth);
        let row = usize::from(width) * depth;
        let mut channel = 0;
        while channel < depth {
            let four = depth - channel >= 4;
            let (mut even, mut odd, mut best) = (0_u32, 0_u32, 0x8080_8080);
            for y in 0..rows {
                let mut at = first.add(y * row + channel).cast_const();
                for _ in 0..columns {
                    let word = if four {
                        at.cast::<u32>().read_unaligned()
                    } else {
                        u32::from(at.read())
                    };
                    if op.maximum != 0 {
                        best = maximum(best, word);
                    } else {
                        (even, odd) = accumulate(even, odd, word);
                    }
                    at = at.wrapping_add(depth);
                }
            }
            let sums = [
                even as i16,
                odd as i16,
                (even >> 16) as i16,
                (odd >> 16) as i16,
            ];
            let taken = if four { 4 } else { 1 };
            for (index, sum) in sums.into_iter().enumerate().take(taken) {
                let value = match op.maximum {
                    0 => average(i32::from(sum)),
                    _ => (best.to_le_bytes()[index] as i8).max(op.min).min(op.max) as u8,
                };
                target.add(channel + index).write(value);
            }
            channel += taken;
        }
    }
}

/// Adds the bytes of a word to halfwords: the first and third, the second and fourth.
#[inline(always)]
fn accumulate(mut even: u32, mut odd: u32, word: u32) -> (u32, u32) {
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!(
            "sxtab16 {even}, {even}, {word}",
            "sxtab16 {odd}, {odd}, {word}, ror #8",
            even = inout(reg) even,
            odd = inout(reg) odd,
            word = in(reg) word,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    (even, odd)
}

/// The greater one of each pair of bytes.
#[inline(always)]
fn maximum(mut a: u32, b: u32) -> u32 {
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!(
            "ssub8 {greater}, {a}, {b}",
            "sel {a}, {a}, {b}",
            greater = out(reg) _,
            a = inout(reg) a,
            b = in(reg) b,
            options(pure, nomem, nostack),
        );
    }
    a
}
