//! Products of matrices: the inner loops of convolutions and fully connected layers.
//!
//! Weights lie two output channels to a halfword, `256 * odd + even` (see
//! [`layout`](crate::program::layout)). `SMLAD` of two activations with two such halfwords sums
//! `256 * odd + even` products at once, `SMLAD` with the sign-extended low bytes the even ones, and
//! the difference over 256 is the odd one: exact while an odd channel's sum fits in 24 bits, which
//! the compiler proves for each pair of channels. Widening four weights so takes one instruction
//! instead of two.
//!
//! A tile is two pixels by four output channels, eight accumulators; activations come widened to 16
//! bits, in pairs `(k, k + 2)` as `SXTB16` gives them, those of both pixels in turn.

use core::arch::naked_asm;
use core::mem::offset_of;

/// What [`two_pixels`] and [`one_pixel`] work on.
///
/// The fields lie in this order, since a naked function reads them by offset.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    /// Activations: of two pixels widened, a multiple of four words; of one pixel as they are, a
    /// multiple of four bytes that need not be aligned.
    pub activations: *const u32,
    /// Their end.
    pub activations_end: *const u32,
    /// Weights of the first tile; those of the others follow.
    pub weights: *const u8,
    /// Constants of the first tile, 48 bytes; those of the others follow.
    pub channels: *const i32,
    /// End of the constants of the last tile.
    pub channels_end: *const i32,
    /// Where the first pixel's outputs go, four bytes a tile.
    pub output: *mut u8,
    /// Where the second pixel's outputs go.
    pub second: *mut u8,
    /// `2 * zero point + 1`, or 0 to store accumulators instead of outputs.
    pub rounding: i32,
}

/// Bytes of code of one step of the unrolled loop of [`two_pixels`], two words of activations.
const TWO_STEP: usize = 44;
/// Bytes of code of one step of the unrolled loop of [`one_pixel`], four activations.
const ONE_STEP: usize = 64;

/// One step of two pixels: 16 products in 12 instructions.
macro_rules! two_step {
    () => {
        "ldmia r0!, {{r2, r3}}
         ldmia r1!, {{r4, r5}}
         smlad r7, r2, r4, r7
         smlad r11, r3, r4, r11
         smlad r9, r2, r5, r9
         smlad lr, r3, r5, lr
         sxtb16 r4, r4
         sxtb16 r5, r5
         smlad r6, r2, r4, r6
         smlad r10, r3, r4, r10
         smlad r8, r2, r5, r8
         smlad r12, r3, r5, r12
        "
    };
}

/// One step of one pixel: 16 products in 16 instructions.
macro_rules! one_step {
    () => {
        "ldr.w r2, [r0], #4
         ldmia.w r1!, {{r10, r11, r12, lr}}
         sxtb16 r3, r2, ror #8
         sxtb16 r2, r2
         smlad r7, r2, r10, r7
         smlad r9, r2, r11, r9
         smlad r7, r3, r12, r7
         smlad r9, r3, lr, r9
         sxtb16 r10, r10
         sxtb16 r11, r11
         sxtb16 r12, r12
         sxtb16 lr, lr
         smlad r6, r2, r10, r6
         smlad r8, r2, r11, r8
         smlad r6, r3, r12, r6
         smlad r8, r3, lr, r8
        "
    };
}

/// Requantizes two accumulators of one channel, whose constants are in `r2` and `r3`.
///
/// `SMMLAR` with twice the multiplier less 2^32 and the accumulator again is `round(acc * multiplier
/// / 2^31)`, halves up. Less one where negative, shifted by one bit less than it should be, plus
/// `2 * zero point + 1` and then shifted by the last bit, it is rounded with halves away from zero;
/// `SSAT` does that last shift and clamps.
macro_rules! requantize_two {
    ($a:literal, $b:literal) => {
        concat!(
            "smmlar ",
            $a,
            ", ",
            $a,
            ", r2, ",
            $a,
            "\n",
            "smmlar ",
            $b,
            ", ",
            $b,
            ", r2, ",
            $b,
            "\n",
            "add ",
            $a,
            ", ",
            $a,
            ", ",
            $a,
            ", asr #31\n",
            "add ",
            $b,
            ", ",
            $b,
            ", ",
            $b,
            ", asr #31\n",
            "asr ",
            $a,
            ", ",
            $a,
            ", r3\n",
            "asr ",
            $b,
            ", ",
            $b,
            ", r3\n",
            "add ",
            $a,
            ", ",
            $a,
            ", r4\n",
            "add ",
            $b,
            ", ",
            $b,
            ", r4\n",
            "ssat ",
            $a,
            ", #8, ",
            $a,
            ", asr #1\n",
            "ssat ",
            $b,
            ", #8, ",
            $b,
            ", asr #1\n",
        )
    };
}

/// Requantizes one accumulator; see [`requantize_two`].
macro_rules! requantize_one {
    ($a:literal) => {
        concat!(
            "smmlar ",
            $a,
            ", ",
            $a,
            ", r2, ",
            $a,
            "\n",
            "add ",
            $a,
            ", ",
            $a,
            ", ",
            $a,
            ", asr #31\n",
            "asr ",
            $a,
            ", ",
            $a,
            ", r3\n",
            "add ",
            $a,
            ", ",
            $a,
            ", r4\n",
            "ssat ",
            $a,
            ", #8, ",
            $a,
            ", asr #1\n",
        )
    };
}

/// Requantizes and stores the outputs of a tile of two pixels; `r0` are the tile's constants.
macro_rules! two_outputs {
    () => {
        concat!(
            "ldrd r2, r3, [r0, #4]\n",
            requantize_two!("r6", "r10"),
            "ldrd r2, r3, [r0, #16]\n",
            requantize_two!("r7", "r11"),
            "ldrd r2, r3, [r0, #28]\n",
            requantize_two!("r8", "r12"),
            "ldrd r2, r3, [r0, #40]\n",
            requantize_two!("r9", "lr"),
            "bfi r6, r7, #8, #24\n",
            "bfi r10, r11, #8, #24\n",
            "ldrd r2, r3, [sp, #{output}]\n",
            "bfi r6, r8, #16, #16\n",
            "bfi r10, r12, #16, #16\n",
            "bfi r6, r9, #24, #8\n",
            "bfi r10, lr, #24, #8\n",
            "str r6, [r2], #4\n",
            "str r10, [r3], #4\n",
            "strd r2, r3, [sp, #{output}]\n",
        )
    };
}

/// Requantizes and stores the outputs of a tile of one pixel.
macro_rules! one_outputs {
    () => {
        concat!(
            "ldrd r2, r3, [r0, #4]\n",
            requantize_one!("r6"),
            "ldrd r2, r3, [r0, #16]\n",
            requantize_one!("r7"),
            "ldrd r2, r3, [r0, #28]\n",
            requantize_one!("r8"),
            "ldrd r2, r3, [r0, #40]\n",
            requantize_one!("r9"),
            "bfi r6, r7, #8, #24\n",
            "bfi r6, r8, #16, #16\n",
            "bfi r6, r9, #24, #8\n",
            "str r6, [r10], #4\n",
        )
    };
}

/// Outputs of two pixels, four channels a tile.
///
/// Registers: `r0` activations, `r1` weights, `r2`, `r3` activations of the first and second pixel,
/// `r4`, `r5` weights of channels 0 and 1, and 2 and 3; `r6` to `r9` sums of the first pixel, `r10`,
/// `r11`, `r12`, `lr` of the second. The rest is on the stack: a copy of [`Tiles`], and where the
/// unrolled loop is entered, so that its first round does what is left over.
///
/// # Safety
/// What `tiles` points to must be readable, and writable for the outputs (32 bytes of accumulators a
/// tile at `output` where `rounding` is 0), in these lengths; words must lie at multiples of four,
/// outputs need not.
#[unsafe(naked)]
pub unsafe extern "C" fn two_pixels(tiles: &Tiles) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "sub sp, #44",
        // Copy the arguments, and find the entry: steps left over after whole rounds of eight.
        "ldmia r0, {{r1-r8}}",
        "stmia sp, {{r1-r8}}",
        "sub r4, r2, r1
         ubfx r4, r4, #3, #3
         rsbs r4, r4, #8",
        "and r4, r4, #7",
        "movs r5, #{step}",
        "adr.w r6, 2f",
        "mla r6, r4, r5, r6",
        "orr r6, r6, #1",
        "str r6, [sp, #40]",
        "mov r1, r3",
        "1:",
        "ldr r2, [sp, #{channels}]",
        "ldr r0, [sp]",
        "ldr r6, [r2]",
        "ldr r7, [r2, #12]",
        "ldr.w r8, [r2, #24]",
        "ldr.w r9, [r2, #36]",
        "add r7, r6, r7, lsl #8",
        "add r9, r8, r9, lsl #8",
        "mov r10, r6",
        "mov r11, r7",
        "mov r12, r8",
        "mov lr, r9",
        "ldr pc, [sp, #40]",
        ".p2align 2",
        "2:",
        two_step!(), two_step!(), two_step!(), two_step!(),
        two_step!(), two_step!(), two_step!(), two_step!(),
        "ldr r2, [sp, #{end}]",
        "cmp r0, r2",
        "bne.w 2b",
        // The odd channels' own sums.
        "ldr r0, [sp, #{channels}]",
        "ldr r4, [sp, #{rounding}]",
        "sub r7, r7, r6
         sub r9, r9, r8
         sub r11, r11, r10
         sub lr, lr, r12",
        "asr r7, r7, #8",
        "asr r9, r9, #8",
        "asr r11, r11, #8",
        "asr lr, lr, #8",
        "cmp r4, #0\nbeq.w 3f",
        two_outputs!(),
        "4:",
        "ldr r2, [sp, #{channels_end}]",
        "adds r0, #48",
        "str r0, [sp, #{channels}]",
        "cmp r0, r2",
        "bne.w 1b",
        "add sp, #44\npop {{r4-r11, pc}}",
        "3:",
        "ldr r2, [sp, #{output}]",
        "stmia r2!, {{r6-r12, lr}}",
        "str r2, [sp, #{output}]",
        "b.w 4b",
        step = const TWO_STEP,
        end = const offset_of!(Tiles, activations_end),
        channels = const offset_of!(Tiles, channels),
        channels_end = const offset_of!(Tiles, channels_end),
        output = const offset_of!(Tiles, output),
        rounding = const offset_of!(Tiles, rounding),
    )
}

/// Outputs of one pixel, four channels a tile, from activations of 8 bits. `second` is not used.
///
/// Registers: `r0` activations, `r1` weights, `r2`, `r3` widened activations, `r5` their end, `r10` to `r12`
/// and `lr` weights, `r6` to `r9` sums.
///
/// # Safety
/// As [`two_pixels`]; 16 bytes of accumulators a tile where `rounding` is 0.
#[unsafe(naked)]
pub unsafe extern "C" fn one_pixel(tiles: &Tiles) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "sub sp, #44",
        "ldmia r0, {{r1-r8}}",
        "stmia sp, {{r1-r8}}",
        // Entry: steps left over after whole rounds of four.
        "sub r4, r2, r1",
        "ubfx r4, r4, #2, #2",
        "rsbs r4, r4, #4",
        "and r4, r4, #3",
        "movs r5, #{step}",
        "adr.w r6, 2f",
        "mla r6, r4, r5, r6",
        "orr r6, r6, #1",
        "str r6, [sp, #40]",
        "mov r5, r2",
        "mov r1, r3",
        "1:",
        "ldr r2, [sp, #{channels}]",
        "ldr r0, [sp]",
        "ldr r6, [r2]",
        "ldr r7, [r2, #12]",
        "ldr.w r8, [r2, #24]",
        "ldr.w r9, [r2, #36]",
        "add r7, r6, r7, lsl #8",
        "add r9, r8, r9, lsl #8",
        "ldr pc, [sp, #40]",
        ".p2align 2",
        "2:",
        one_step!(), one_step!(), one_step!(), one_step!(),
        "cmp r0, r5",
        "bne.w 2b",
        "ldr r0, [sp, #{channels}]",
        "ldr r4, [sp, #{rounding}]",
        "sub r7, r7, r6",
        "sub r9, r9, r8",
        "asr r7, r7, #8",
        "asr r9, r9, #8",
        "ldr r10, [sp, #{output}]",
        "cmp r4, #0",
        "beq.w 3f",
        one_outputs!(),
        "4:",
        "str r10, [sp, #{output}]",
        "ldr r2, [sp, #{channels_end}]",
        "adds r0, #48",
        "str r0, [sp, #{channels}]",
        "cmp r0, r2",
        "bne.w 1b",
        "add sp, #44",
        "pop {{r4-r11, pc}}",
        "3:",
        "stmia r10!, {{r6-r9}}",
        "b.w 4b",
        step = const ONE_STEP,
        channels = const offset_of!(Tiles, channels),
        channels_end = const offset_of!(Tiles, channels_end),
        output = const offset_of!(Tiles, output),
        rounding = const offset_of!(Tiles, rounding),
    )
}
