//! Widening of activations to 16 bits, as [`super::tile`] reads them.

use core::arch::naked_asm;

/// Where activations come from and go to: rows of words.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// First row of the first pixel; need not be aligned.
    pub source: *const u8,
    /// First row of the second pixel.
    pub second: *const u8,
    /// Where the widened words go, at a multiple of four.
    pub target: *mut u32,
    /// Words of four activations a row; at least 1.
    pub words: usize,
    /// Rows; at least 1.
    pub rows: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// Four activations of two pixels in 7 instructions.
macro_rules! two_words {
    () => {
        "ldr r4, [r0], #4
         ldr r5, [r1], #4
         sxtb16 r6, r4
         sxtb16 r7, r5
         sxtb16 r8, r4, ror #8
         sxtb16 r9, r5, ror #8
         stmia r2!, {{r6-r9}}
        "
    };
}

/// Widens rows of two pixels, their words in turn; gives the end of what it wrote.
///
/// Registers: `r0`, `r1` sources, `r2` target, `r3` words left of the row, `r10` words, `r11` rows
/// left, `r12` from the end of a row to the next.
///
/// # Safety
/// The sources must be readable and the target writable in these lengths: 16 bytes a word.
#[unsafe(naked)]
pub unsafe extern "C" fn two(rows: &Rows) -> *mut u32 {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "ldr r10, [r0, #12]",
        "ldrd r11, r12, [r0, #16]",
        "ldmia r0, {{r0-r2}}",
        "sub r12, r12, r10, lsl #2",
        "1:",
        "subs r3, r10, #4",
        "blo 3f",
        "2:",
        two_words!(),
        two_words!(),
        two_words!(),
        two_words!(),
        "subs r3, r3, #4",
        "bhs 2b",
        "3:",
        "adds r3, #4",
        "beq 5f",
        "4:",
        two_words!(),
        "subs r3, r3, #1",
        "bne 4b",
        "5:",
        "add r0, r0, r12",
        "add r1, r1, r12",
        "subs r11, r11, #1",
        "bne 1b",
        "mov r0, r2",
        "pop {{r4-r11, pc}}",
    )
}
