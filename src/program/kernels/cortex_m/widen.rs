//! Widening of activations to 16 bits, a part of the kernels of two pixels in [`super::tile`].

/// Widens two pixels' activations, and moves their sources on to the next two: a word of four
/// activations of both in 7 instructions.
///
/// What lies behind the words of rows is widened afterwards, all of it together: of a group of four,
/// the first goes to its place, the second 8 bytes behind it, the third 6 before that, the fourth 8
/// behind that.
///
/// Registers: `r0`, `r1` sources, `r2` target, `r3` words left of the row, `r10` words, `r11` rows
/// left, `r12` from the end of a row's words to the next. Then `r3` elements of a row, `r6` distances,
/// the next one in its low byte.
macro_rules! widen {
    () => {
        concat!(
            "ldrd r10, r11, [sp, #{words}]\n",
            "cmp r11, #0\n",
            "beq 24f\n",
            "ldr r12, [sp, #{gap}]\n",
            "ldr r2, [sp]\n",
            "ldrd r0, r1, [sp, #{source}]\n",
            "20:\n",
            "subs r3, r10, #4\n",
            "blo 22f\n",
            "21:\n",
            widen!(@words),
            widen!(@words),
            widen!(@words),
            widen!(@words),
            "subs r3, r3, #4\n",
            "bhs 21b\n",
            "22:\n",
            "adds r3, #4\n",
            "beq 25f\n",
            "23:\n",
            widen!(@words),
            "subs r3, r3, #1\n",
            "bne 23b\n",
            "25:\n",
            "add r0, r0, r12\n",
            "add r1, r1, r12\n",
            "subs r11, r11, #1\n",
            "bne 20b\n",
            widen!(@tails),
            "ldrd r0, r1, [sp, #{source}]\n",
            "ldr r2, [sp, #{step_bytes}]\n",
            "add r0, r0, r2\n",
            "add r1, r1, r2\n",
            "strd r0, r1, [sp, #{source}]\n",
            "24:\n",
        )
    };
    (@words) => {
        "ldr r4, [r0], #4
         ldr r5, [r1], #4
         sxtb16 r6, r4
         sxtb16 r7, r5
         sxtb16 r8, r4, ror #8
         sxtb16 r9, r5, ror #8
         stmia r2!, {{r6-r9}}
        "
    };
    (@tails) => {
        concat!(
            "ldr r3, [sp, #{tail}]\n",
            "cmp r3, #0\n",
            "beq 28f\n",
            "ldr.w r11, [sp, #{rows}]\n",
            "add r12, r12, r10, lsl #2\n",
            "sub r12, r12, r3\n",
            "ldrd r0, r1, [sp, #{source}]\n",
            "add r0, r0, r10, lsl #2\n",
            "add r1, r1, r10, lsl #2\n",
            "movw r6, #0xFA08\n",
            "movt r6, #0x0608\n",
            "26:\n",
            "mov r7, r3\n",
            "27:\n",
            "ldrsb r4, [r0], #1\n",
            "ldrsb r5, [r1], #1\n",
            "strh r4, [r2]\n",
            "strh r5, [r2, #4]\n",
            "sxtb r5, r6\n",
            "ror.w r6, r6, #8\n",
            "add r2, r5\n",
            "subs r7, #1\n",
            "bne 27b\n",
            "add r0, r12\n",
            "add r1, r12\n",
            "subs r11, r11, #1\n",
            "bne 26b\n",
            "28:\n",
        )
    };
}
pub(super) use widen;
