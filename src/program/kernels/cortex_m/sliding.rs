//! Depthwise windows of three by three: planes of one channel, widened to 16 bits, and their sums.
//!
//! [`gather`] takes rows of pixels apart into a row a channel, two columns a word. [`outputs`] runs
//! down those rows six outputs at a time: a row of a window is one `SMLAD` of two columns and one
//! product of the third, or the other way round for every second output. Weights of a
//! kernel row are two words, `(k0, k1)` and `(k1, k2)`.

use super::requantize::{Finish, requantize};
use core::arch::naked_asm;
use core::mem::offset_of;

/// What [`gather`] works on. The fields lie in this order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// First channel of the first even column; need not be aligned.
    pub even: *const u8,
    /// First channel of the first odd column.
    pub odd: *const u8,
    /// Where the first word of the first channel's row goes, at a multiple of four.
    pub target: *mut u32,
    /// Bytes of a channel's row.
    pub row: usize,
    /// Pairs of columns; at least 1.
    pub pairs: usize,
    /// Groups of four channels; at least 1.
    pub groups: usize,
    /// Channels of a pixel.
    pub channels: usize,
}

/// Takes pixels apart: for each pair of columns and each channel one word.
///
/// Registers: `r0`, `r1` columns, `r2` target, `r3` bytes of a row, `r11` three times that, `r4` to
/// `r8` pixels and words, `r9` groups left, `r10` groups, `r12` pairs left, `lr` from the end of a
/// pixel's groups to the next but one pixel.
///
/// # Safety
/// Each column must be readable for four bytes a group, and the target writable: four rows a group.
#[unsafe(naked)]
pub unsafe extern "C" fn gather(columns: &Columns) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "sub sp, #4",
        "ldrd r10, lr, [r0, #20]",
        "ldr r12, [r0, #16]",
        "ldmia r0, {{r0-r3}}",
        "lsls lr, lr, #1",
        "sub lr, lr, r10, lsl #2",
        "add r11, r3, r3, lsl #1",
        // From the end of the last channel's row back to the next word of the first.
        "mul r9, r10, r3",
        "lsl r9, r9, #2",
        "rsb r9, r9, #4",
        "str r9, [sp]",
        "1:",
        "mov r9, r10",
        "2:",
        "ldr r4, [r0], #4",
        "ldr r5, [r1], #4",
        "sxtb16 r6, r4",
        "sxtb16 r7, r5",
        "sxtb16 r4, r4, ror #8",
        "sxtb16 r5, r5, ror #8",
        "pkhbt r8, r6, r7, lsl #16",
        "pkhtb r6, r7, r6, asr #16",
        "pkhbt r7, r4, r5, lsl #16",
        "pkhtb r4, r5, r4, asr #16",
        "str r8, [r2]",
        "str r7, [r2, r3]",
        "str r6, [r2, r3, lsl #1]",
        "str r4, [r2, r11]",
        "add r2, r2, r3, lsl #2",
        "subs r9, r9, #1",
        "bne 2b",
        "ldr r9, [sp]",
        "add r0, r0, lr",
        "add r1, r1, lr",
        "add r2, r2, r9",
        "subs r12, r12, #1",
        "bne 1b",
        "add sp, #4",
        "pop {{r4-r11, pc}}",
    )
}

/// What [`outputs`] works on. The fields lie in this order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sums {
    /// Rows of the first channel; those of the others follow, each 4 bytes and 12
    /// for each block of six outputs.
    pub rows: [*const u32; 3],
    /// Weights of the first channel, six words each.
    pub weights: *const u32,
    /// First channel's output of the first pixel.
    pub output: *mut u8,
    /// Constants of the first channel, 12 bytes each.
    pub constants: *const i32,
    /// End of the constants of the last channel.
    pub constants_end: *const i32,
    /// Pixels; at least 1.
    pub pixels: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Three times as many.
    pub channels_thrice: usize,
    /// `2 * zero point + 1`.
    pub rounding: i32,
    /// Raw, it may be one channel, and accumulators go to `output`: six for each block of pixels, a
    /// multiple of four.
    pub finish: Finish,
}

/// A row of six outputs in 14 instructions and one that loads the weights. The first
/// argument is the row's register, the others the addends of the first product of each output.
macro_rules! row {
    ($row:literal, $at:literal, $a:literal, $b:literal, $c:literal, $d:literal, $e:literal) => {
        concat!(
            "ldrd r10, r11, [r2, #",
            $at,
            "]\n",
            "ldmia ",
            $row,
            "!, {{r0, r1}}\n",
            "smlad r4, r0, r10, ",
            $a,
            "\n",
            "smlatb r5, r0, r10, ",
            $b,
            "\n",
            "smlabt r4, r1, r11, r4\n",
            "smlad r5, r1, r11, r5\n",
            "smlad r6, r1, r10, ",
            $c,
            "\n",
            "smlatb r7, r1, r10, ",
            $d,
            "\n",
            "ldrd r0, r1, [",
            $row,
            "], #4\n",
            "smlabt r6, r0, r11, r6\n",
            "smlad r7, r0, r11, r7\n",
            "smlad r8, r0, r10, ",
            $e,
            "\n",
            "smlatb r9, r0, r10, r9\n",
            "smlabt r8, r1, r11, r8\n",
            "smlad r9, r1, r11, r9\n",
        )
    };
}

/// Requantizes an accumulator whose shift is to the left, by `r1`; `r10` is the zero point.
macro_rules! left {
    ($($a:literal)*) => {
        concat!(
            $( "lsl ", $a, ", ", $a, ", r1\n", )*
            $( "smmlar ", $a, ", ", $a, ", r0, ", $a, "\n", )*
            $( "add ", $a, ", ", $a, ", r10\n", )*
            $( "ssat ", $a, ", #8, ", $a, "\n", )*
        )
    };
}

/// What becomes of six sums: 10 stores them as they are, 7 and 9 make outputs, and go to 3.
macro_rules! finish {
    () => {
        concat!(
            "10:\n",
            "ldrd r0, r1, [sp, #48]\n",
            "stmia r0!, {{r4-r9}}\n",
            "subs r1, #6\n",
            "strd r0, r1, [sp, #48]\n",
            "bgt.w 2b\n",
            "b 6f\n",
            ".p2align 2\n",
            "7:\n",
            "blt.w 8f\n",
            requantize!(rounded, ["r0", "r1", "r10"], "r4" "r5" "r6" "r7" "r8" "r9"),
            "b 3f\n",
            ".p2align 2\n",
            "9:\n",
            "blt.w 8f\n",
            requantize!(rectified, ["r0", "r1", "r10"], "r4" "r5" "r6" "r7" "r8" "r9"),
        )
    };
}

/// Stores up to six outputs, a pixel apart; goes to 2 where more are to come, to 6 where a channel ends.
macro_rules! store {
    () => {
        concat!(
            "ldrd r0, r1, [sp, #48]\n",
            "ldrd r10, r11, [sp, #{channels}]\n",
            "subs r1, #6\n",
            "bmi 4f\n",
            "strb r4, [r0]\n",
            "strb r5, [r0, r10]\n",
            "strb r6, [r0, r10, lsl #1]\n",
            "strb r7, [r0, r11]\n",
            "strb r8, [r0, r10, lsl #2]\n",
            "add r0, r0, r11, lsl #1\n",
            "sub r10, r0, r10\n",
            "strb r9, [r10]\n",
            "strd r0, r1, [sp, #48]\n",
            "bne.w 2b\n",
            "b.w 6f\n",
            // Less than six pixels are left: r1 + 6 of them.
            "4:\n",
            "adds r1, #5\n",
            "tbb [pc, r1]\n",
            "5:\n",
            ".byte (51f - 5b) / 2\n",
            ".byte (52f - 5b) / 2\n",
            ".byte (53f - 5b) / 2\n",
            ".byte (54f - 5b) / 2\n",
            ".byte (55f - 5b) / 2\n",
            ".p2align 1\n",
            "55:\n",
            "strb r8, [r0, r10, lsl #2]\n",
            "54:\n",
            "strb r7, [r0, r11]\n",
            "53:\n",
            "strb r6, [r0, r10, lsl #1]\n",
            "52:\n",
            "strb r5, [r0, r10]\n",
            "51:\n",
            "strb r4, [r0]\n",
        )
    };
}

/// A row of outputs of several channels, one after another.
///
/// Registers: `r3`, `r12`, `lr` rows, `r2` weights, `r0`, `r1` columns, `r10`, `r11` weights of a
/// kernel row, `r4` to `r9` sums. The rest is on the stack: a copy of [`Sums`], whose `finish` becomes
/// an address of code, where the channel's next output goes, and how many are left.
///
/// # Safety
/// What `sums` points to must be readable, and writable for the outputs, in these lengths.
#[unsafe(naked)]
pub unsafe extern "C" fn outputs(sums: &Sums) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "sub sp, #56",
        "ldmia.w r0, {{r1-r12}}",
        "stmia.w sp, {{r1-r12}}",
        // How outputs are finished.
        "adr.w r0, 10f",
        "cmp r12, #1",
        "it eq\nadreq.w r0, 7f",
        "it hi\nadrhi.w r0, 9f",
        "orr r0, r0, #1",
        "str r0, [sp, #{finish}]",
        "mov r12, r2",
        "mov lr, r3",
        "mov r3, r1",
        "mov r2, r4",
        // A channel.
        "1:",
        "ldr r0, [sp, #{output}]",
        "ldr r1, [sp, #{pixels}]",
        "strd r0, r1, [sp, #48]",
        // Six outputs of it.
        "2:",
        "ldr r11, [sp, #{constants}]",
        "ldr r9, [r11]",
        row!("r3", "0", "r9", "r9", "r9", "r9", "r9"),
        row!("r12", "8", "r4", "r5", "r6", "r7", "r8"),
        row!("lr", "16", "r4", "r5", "r6", "r7", "r8"),
        "ldr r11, [sp, #{constants}]",
        "ldr r10, [sp, #{rounding}]",
        "ldrd r0, r1, [r11, #4]",
        "cmp r1, #0",
        "ldr pc, [sp, #{finish}]",
        ".p2align 2",
        finish!(),
        "3:",
        store!(),
        "6:",
        "adds r3, #4",
        "add r12, r12, #4",
        "add lr, lr, #4",
        "adds r2, #24",
        "ldrd r0, r1, [sp, #{output}]",
        "ldr r4, [sp, #{constants_end}]",
        "adds r0, #1",
        "adds r1, #12",
        "strd r0, r1, [sp, #{output}]",
        "cmp r1, r4",
        "bne.w 1b",
        "add sp, #56",
        "pop {{r4-r11, pc}}",
        "8:",
        "mvns r1, r1",
        "asr r10, r10, #1",
        left!("r4" "r5" "r6" "r7" "r8" "r9"),
        "b.w 3b",
        output = const offset_of!(Sums, output),
        constants = const offset_of!(Sums, constants),
        constants_end = const offset_of!(Sums, constants_end),
        pixels = const offset_of!(Sums, pixels),
        channels = const offset_of!(Sums, channels),
        rounding = const offset_of!(Sums, rounding),
        finish = const offset_of!(Sums, finish),
    )
}
