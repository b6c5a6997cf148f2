//! Depthwise convolutions of any window: four channels at a time, tap by tap, as they lie.
//!
//! `SXTB16` takes a word of four channels apart into halfwords, and a product with a halfword of
//! weights takes one instruction. Where a window's taps lie is a list of offsets from its first one,
//! the same for all pixels whose windows lie inside the input; a tap outside points to a pixel of
//! zero points.

use super::requantize::{Finish, pack, requantize};
use super::{Stored, clamp_stretch};
use crate::program::kernels::portable::finish;
use crate::program::layout::{self, SLOW, UNPROVEN};
use crate::program::op::{Depthwise, Quantizer};
use core::arch::naked_asm;
use core::mem::offset_of;

/// What [`taps`] works on. The fields lie in this order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Taps {
    /// Offset of each tap from the window's first one; a multiple of three.
    offsets: *const usize,
    offsets_end: *const usize,
    /// Weights of the first four channels; those of the others follow.
    weights: *const u8,
    /// Constants of the first four channels, 48 bytes; those of the others follow.
    channels: *const Stored,
    /// End of the constants of the last four.
    channels_end: *const Stored,
    /// First pixel's outputs; those of the others follow.
    output: *mut u8,
    /// First tap of the first pixel's window.
    base: *const u8,
    /// `2 * zero point + 1`.
    rounding: i32,
    /// Bytes from a pixel's window to that of the next.
    step: usize,
    /// Pixels; at least 1.
    pixels: usize,
    /// How many of the last four channels there are; 0 for all.
    left: usize,
    finish: Finish,
}

/// Products of one tap, whose offset is in `$x`, with four channels: 8 instructions.
macro_rules! tap {
    ($x:literal) => {
        concat!(
            "ldr ",
            $x,
            ", [r3, ",
            $x,
            "]\n",
            "ldrd r12, lr, [r2], #8\n",
            "sxtb16 r11, ",
            $x,
            ", ror #8\n",
            "sxtb16 ",
            $x,
            ", ",
            $x,
            "\n",
            "smlabb r5, r11, lr, r5\n",
            "smlabb r4, ",
            $x,
            ", r12, r4\n",
            "smlatt r7, r11, lr, r7\n",
            "smlatt r6, ",
            $x,
            ", r12, r6\n",
        )
    };
}

/// Outputs of four channels, whose constants are at `r0`, into `r4`.
macro_rules! outputs {
    ($how:ident) => {
        concat!(
            "ldr r10, [sp, #{rounding}]\n",
            "ldrd r8, r9, [r0, #4]\n",
            requantize!($how, ["r8", "r9", "r10"], "r4"),
            "ldrd r8, r9, [r0, #16]\n",
            requantize!($how, ["r8", "r9", "r10"], "r5"),
            "ldrd r8, r9, [r0, #28]\n",
            requantize!($how, ["r8", "r9", "r10"], "r6"),
            "ldrd r8, r9, [r0, #40]\n",
            requantize!($how, ["r8", "r9", "r10"], "r7"),
            pack!("r4", "r5", "r6", "r7"),
        )
    };
}

/// Sums of four channels, whose constants are at `r12`.
macro_rules! sums {
    () => {
        concat!(
            "ldr.w r4, [r12]\n",
            "ldr.w r5, [r12, #12]\n",
            "ldr.w r6, [r12, #24]\n",
            "ldr.w r7, [r12, #36]\n",
            "ldrd r0, r1, [sp]\n",
            "3:\n",
            "ldmia.w r0!, {{r8, r9, r10}}\n",
            tap!("r8"),
            tap!("r9"),
            tap!("r10"),
            "cmp r0, r1\n",
            "bne 3b\n",
        )
    };
}

/// Stores the last four outputs of a pixel, of which some may be missing; goes to 7 or ends.
macro_rules! store_last {
    () => {
        concat!(
            "ldr r5, [sp, #{left}]\n",
            "lsls r5, r5, #31\n",
            // Carry: two of them, or three. Negative: one more.
            "bcs 10f\n",
            "bmi 11f\n",
            "str r4, [r1], #4\n",
            "b 7f\n",
            "10:\n",
            "strh r4, [r1], #2\n",
            "lsr.w r4, r4, #16\n",
            "bpl 7f\n",
            "11:\n",
            "strb r4, [r1], #1\n",
        )
    };
}

/// Outputs of a run of pixels, four channels at a time.
///
/// Registers: `r0`, `r1` offsets and their end, `r2` weights, `r3` window and channel, `r4` to `r7`
/// sums, `r8` to `r10` three offsets, then elements, `r11` two more of a tap's elements, `r12`, `lr`
/// weights. The rest is on the stack: a copy of [`Taps`], whose `finish` is overwritten by where the
/// channels' constants lie, and behind it where the code is that finishes four channels.
///
/// # Safety
/// What `taps` points to must be readable, and writable for the outputs, in these lengths; taps four
/// bytes at a time. Words must lie at multiples of four, elements and outputs need not. Raw, it may be
/// four channels of one pixel, and outputs are 16 bytes of accumulators.
#[unsafe(naked)]
unsafe extern "C" fn taps(taps: &Taps) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "sub sp, #52",
        "ldmia.w r0, {{r1-r12}}",
        "stmia.w sp, {{r1-r12}}",
        // How groups end.
        "adr.w r0, 4f",
        "cmp r12, #1",
        "it eq\nadreq.w r0, 5f",
        "it hi\nadrhi.w r0, 6f",
        "orr r0, r0, #1",
        "str r0, [sp, #48]",
        // A pixel.
        "1:",
        "ldr r2, [sp, #{weights}]",
        "ldr r12, [sp, #{channels}]",
        "ldr r3, [sp, #{base}]",
        // Four channels of it.
        "2:",
        "str r12, [sp, #{finish}]",
        sums!(),
        "ldr r0, [sp, #{finish}]",
        "ldr r1, [sp, #{output}]",
        "ldr pc, [sp, #48]",
        ".p2align 2",
        "4:",
        "stmia r1!, {{r4-r7}}",
        "b 7f",
        ".p2align 2",
        "5:",
        outputs!(rounded),
        "b 8f",
        ".p2align 2",
        "6:",
        outputs!(rectified),
        "8:",
        "ldr r8, [sp, #{channels_end}]",
        "add r12, r0, #48",
        "cmp r12, r8",
        "beq 9f",
        "str r4, [r1], #4",
        "str r1, [sp, #{output}]",
        "adds r3, #4",
        "b 2b",
        "9:",
        store_last!(),
        "7:",
        "str r1, [sp, #{output}]",
        "ldrd r4, r5, [sp, #{step}]",
        "ldr r3, [sp, #{base}]",
        "add r3, r4",
        "str r3, [sp, #{base}]",
        "subs r5, #1",
        "str r5, [sp, #{pixels}]",
        "bne 1b",
        "add sp, #52",
        "pop {{r4-r11, pc}}",
        weights = const offset_of!(Taps, weights),
        channels = const offset_of!(Taps, channels),
        channels_end = const offset_of!(Taps, channels_end),
        output = const offset_of!(Taps, output),
        base = const offset_of!(Taps, base),
        rounding = const offset_of!(Taps, rounding),
        step = const offset_of!(Taps, step),
        pixels = const offset_of!(Taps, pixels),
        left = const offset_of!(Taps, left),
        finish = const offset_of!(Taps, finish),
    )
}

/// The kernels' part of an operator: where everything lies.
pub struct Windows<'a> {
    op: &'a Depthwise,
    /// The list of taps, and how many there are with those that fill it up.
    offsets: *mut usize,
    taps: usize,
    /// A pixel of zero points.
    outside: *mut u8,
    /// A copy of the input's end, and where that begins.
    end: Option<(*mut u8, *const u8)>,
    weights: *const u8,
    channels: *const Stored,
    input: *const u8,
    output: *mut u8,
    arena_end: *const u8,
    flags: i32,
}

/// Channels at a time.
const FOUR: usize = 4;

impl<'a> Windows<'a> {
    /// # Safety
    /// `op` must have been verified against the arena, and need scratch; `weights` and `channels` must
    /// be its own.
    pub unsafe fn new(
        op: &'a Depthwise,
        arena: &mut [i8],
        weights: *const u8,
        channels: *const Stored,
    ) -> Self {
        let all = usize::from(op.input.channels).next_multiple_of(4);
        let taps = layout::depthwise_taps(&op.window) as usize;
        let arena = arena.as_mut_ptr_range();
        let (start, arena_end) = (arena.start.cast::<u8>(), arena.end.cast::<u8>());
        // SAFETY: offsets of planes and of scratch, which is as long, were verified.
        unsafe {
            let offsets = start.add(op.scratch as usize);
            let outside = offsets.add(taps * 4);
            outside.write_bytes(op.input_zero_point as u8, all);
            let input = start.add(op.input.offset as usize).cast_const();
            let behind = input.add(op.input.bytes() as usize);
            let mut windows = Self {
                op,
                offsets: offsets.cast(),
                taps,
                outside,
                end: None,
                weights,
                channels,
                input,
                output: start.add(op.output.offset as usize),
                arena_end,
                flags: channels.read().flags(),
            };
            if behind.wrapping_add(all - usize::from(op.input.channels)) > arena_end.cast_const() {
                let bytes = all.min(op.input.bytes() as usize);
                let end = behind.sub(bytes);
                let copy = outside.add(all);
                copy.copy_from_nonoverlapping(end, bytes);
                windows.end = Some((copy, end));
            }
            windows
        }
    }

    /// Computes all outputs.
    ///
    /// # Safety
    /// As [`Self::new`].
    pub unsafe fn run(&self) {
        let op = self.op;
        let (height, width) = (usize::from(op.output.height), usize::from(op.output.width));
        let mut inside = false;
        // SAFETY: pixels of the output.
        unsafe {
            for y in 0..height {
                let mut x = 0;
                while x < width {
                    let count = self.inside(y, x);
                    if count == 0 || !inside {
                        self.list(y, x);
                        inside = count > 0;
                    }
                    let count = count.max(1);
                    self.pixels(y, x, count);
                    x += count;
                }
            }
            let Quantizer { min, max, .. } = op.quantizer;
            if min > i8::MIN || max < i8::MAX {
                clamp_stretch(self.output.cast(), op.output.bytes() as usize, min, max);
            }
        }
    }

    /// The first tap of a pixel's window, which may lie outside the input.
    fn base(&self, y: usize, x: usize) -> *const u8 {
        let window = &self.op.window;
        let row = (y * usize::from(window.stride_h)).wrapping_sub(usize::from(window.pad_top));
        let column = (x * usize::from(window.stride_w)).wrapping_sub(usize::from(window.pad_left));
        let pixel = row.wrapping_mul(usize::from(self.op.input.width));
        let pixel = pixel.wrapping_add(column);
        let depth = usize::from(self.op.input.channels);
        self.input.wrapping_add(pixel.wrapping_mul(depth))
    }

    /// How many pixels from `[y, x]` on have windows that lie inside the input, and can be read by words.
    fn inside(&self, y: usize, x: usize) -> usize {
        let (op, window) = (self.op, &self.op.window);
        let reach = |kernel: u16, dilation: u8| (usize::from(kernel) - 1) * usize::from(dilation);
        let down = reach(window.kernel_h, window.dilation_h);
        let right = reach(window.kernel_w, window.dilation_w);
        let row = (y * usize::from(window.stride_h)).wrapping_sub(usize::from(window.pad_top));
        let stride = usize::from(window.stride_w);
        let pad = usize::from(window.pad_left);
        let columns = usize::from(op.input.width) + pad;
        let whole = row < usize::from(op.input.height)
            && row + down < usize::from(op.input.height)
            && x * stride >= pad
            && x * stride + right < columns;
        if !whole {
            return 0;
        }
        let end = ((columns - right - 1) / stride + 1).min(usize::from(op.output.width));
        let depth = usize::from(op.input.channels);
        let last = (down * usize::from(op.input.width) + right) * depth;
        let mut count = end - x;
        while count > 0
            && self
                .base(y, x + count - 1)
                .wrapping_add(last + depth.next_multiple_of(4))
                > self.arena_end
        {
            count -= 1;
        }
        count
    }

    /// Lists where the taps of a pixel's window lie.
    ///
    /// # Safety
    /// As [`Self::new`]; `[y, x]` must be a pixel of the output.
    #[inline(never)]
    unsafe fn list(&self, y: usize, x: usize) {
        let (op, window) = (self.op, &self.op.window);
        let base = self.base(y, x);
        let depth = usize::from(op.input.channels);
        let all = depth.next_multiple_of(4);
        let mut taps = 0;
        let mut at = self.outside.cast_const();
        let put = |tap: usize, at: *const u8| {
            // SAFETY: the list is as long as there are taps.
            unsafe {
                self.offsets
                    .add(tap)
                    .write(at.addr().wrapping_sub(base.addr()))
            }
        };
        let first = |output: usize, stride: u8, pad: u16| {
            (output * usize::from(stride)).wrapping_sub(usize::from(pad))
        };
        for row in 0..usize::from(window.kernel_h) {
            let row = first(y, window.stride_h, window.pad_top)
                .wrapping_add(row * usize::from(window.dilation_h));
            for column in 0..usize::from(window.kernel_w) {
                let column = first(x, window.stride_w, window.pad_left)
                    .wrapping_add(column * usize::from(window.dilation_w));
                at = self.outside.cast_const();
                if row < usize::from(op.input.height) && column < usize::from(op.input.width) {
                    let pixel = row * usize::from(op.input.width) + column;
                    at = self.input.wrapping_add(pixel * depth);
                    if let Some((copy, end)) = self.end
                        && at.wrapping_add(all) > self.arena_end
                    {
                        at = copy.wrapping_add(at.addr() - end.addr());
                    }
                }
                put(taps, at);
                taps += 1;
            }
        }
        for tap in taps..self.taps {
            put(tap, at);
        }
    }

    /// Outputs of `count` pixels from `[y, x]` on, whose taps were listed.
    ///
    /// # Safety
    /// As [`Self::list`].
    unsafe fn pixels(&self, y: usize, x: usize, count: usize) {
        let op = self.op;
        let depth = usize::from(op.output.channels);
        let pixel = y * usize::from(op.output.width) + x;
        let work = Taps {
            offsets: self.offsets,
            offsets_end: self.offsets.wrapping_add(self.taps),
            weights: self.weights,
            channels: self.channels,
            channels_end: self.channels.wrapping_add(depth.next_multiple_of(4)),
            output: self.output.wrapping_add(pixel * depth),
            base: self.base(y, x),
            rounding: 2 * i32::from(op.quantizer.zero_point) + 1,
            step: usize::from(op.window.stride_w) * depth,
            pixels: count,
            left: depth % 4,
            finish: Finish::of(&op.quantizer),
        };
        // SAFETY: taps, outputs and constants are those of the operator.
        unsafe {
            if self.flags & (UNPROVEN | SLOW) == 0 {
                return taps(&work);
            }
            for index in 0..count {
                self.slow(Taps {
                    output: work.output.add(index * depth),
                    base: work.base.wrapping_add(index * work.step),
                    pixels: 1,
                    ..work
                });
            }
        }
    }

    /// Outputs of a pixel, four channels at a time, where some of them takes the long way.
    ///
    /// # Safety
    /// As [`Self::pixels`].
    #[inline(never)]
    unsafe fn slow(&self, pixel: Taps) {
        let depth = usize::from(self.op.output.channels);
        let mut work = pixel;
        // SAFETY: the buffer holds accumulators of four channels; outputs are those of the pixel.
        unsafe {
            for first in (0..depth).step_by(FOUR) {
                let mut sums = [0_i32; FOUR];
                work.output = sums.as_mut_ptr().cast();
                work.channels = self.channels.add(first);
                work.channels_end = work.channels.add(FOUR);
                work.weights = self.weights.add(first * self.taps * 2);
                work.base = pixel.base.wrapping_add(first);
                work.finish = Finish::Raw;
                taps(&work);
                for (index, sum) in sums.into_iter().enumerate().take(depth - first) {
                    let channel = work.channels.add(index).read().natural();
                    let value = finish(sum, &channel, &self.op.quantizer);
                    pixel.output.add(first + index).write(value as u8);
                }
            }
        }
    }
}
