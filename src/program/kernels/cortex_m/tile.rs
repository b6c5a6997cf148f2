//! Products of matrices: the inner loops of convolutions and fully connected layers.
//!
//! Weights lie two output channels to a halfword, `256 * odd + even` (see
//! [`layout`](crate::program::layout)). `SMLAD` of two activations with two such halfwords sums
//! `256 * odd + even` products at once, `SMLAD` with the sign-extended low bytes the even ones, and
//! the difference over 256 is the odd one: exact while an odd channel's sum fits in 24 bits, which
//! the compiler proves for each pair of channels. Widening four weights so takes one instruction
//! instead of two. Where that is not proven, [`one_apart`] takes both channels' weights out.
//!
//! Where weights are few, they have a halfword each ([`two_wide`]).
//!
//! A tile is two pixels by four output channels, eight accumulators; activations are widened to 16
//! bits, in pairs `(k, k + 2)` as `SXTB16` gives them, those of both pixels in turn.

use super::requantize::{Finish, pack, requantize};
use super::widen::widen;
use core::arch::naked_asm;
use core::mem::offset_of;

/// What [`two_pixels`], [`two_wide`], [`one_pixel`] and [`one_apart`] work on.
///
/// The fields lie in this order, since a naked function reads them by offset.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    /// Activations: of two pixels, where they are widened to, a multiple of four words; of one pixel
    /// as they are, a multiple of four bytes that need not be aligned.
    pub activations: *const u32,
    /// Their end.
    pub activations_end: *const u32,
    /// Weights of the first tile; those of the others follow.
    pub weights: *const u8,
    /// Constants of the first tile, 48 bytes; those of the others follow.
    pub channels: *const i32,
    /// End of the constants of the last tile of four channels.
    pub channels_end: *const i32,
    /// Where the first pixel's outputs go.
    pub output: *mut u8,
    /// Where the second pixel's outputs go; those of the next two pixels follow.
    pub second: *mut u8,
    /// `2 * zero point + 1`.
    pub rounding: i32,
    /// Raw, it may be one tile of one pixel or two.
    pub finish: Finish,
    /// Channels behind the last tile of four, 0 to 3.
    pub left: usize,
    /// Only of two pixels, as all that follows: first row of the first pixel; need not be aligned.
    pub source: *const u8,
    /// First row of the second pixel.
    pub source_second: *const u8,
    /// Words of four activations a row.
    pub words: usize,
    /// Rows; 0 where activations are widened already.
    pub rows: usize,
    /// Bytes from the end of a row's words to the next row's.
    pub gap: usize,
    /// Bytes from a pixel's source to that of the next but one.
    pub step: usize,
    /// Pairs of pixels; at least 1.
    pub pairs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Activations behind a row's words.
    pub tail: usize,
}

/// Words of a tile's constants.
pub const TILE: usize = 12;

/// Bytes of code of one step of the unrolled loop of [`two_pixels`], two words of activations.
const TWO_STEP: usize = 44;
/// Bytes of code of one step of the unrolled loop of [`two_wide`], two words of activations.
const WIDE_STEP: usize = 38;
/// Bytes of code of one step of the unrolled loop of [`one_pixel`], four activations.
const ONE_STEP: usize = 64;

/// Copies the arguments to the stack, `finish` as the address of the code that finishes a tile, and
/// behind them where the unrolled loop is entered, so that its first round does what is left over of
/// the steps: of `$first`, the bytes of activations behind the first step, `$bits` count the steps of
/// a round.
macro_rules! begin {
    ($first:literal, $bits:literal) => {
        concat!(
            "push {{r4-r11, lr}}\n",
            "sub sp, #84\n",
            "ldmia.w r0!, {{r1-r9}}\n",
            "stmia.w sp, {{r1-r9}}\n",
            "add r10, r1, #",
            $first,
            "\n",
            "sub r10, r10, r2\n",
            "ldmia.w r0, {{r0-r8, r12}}\n",
            "add r11, sp, #36\n",
            "stmia.w r11, {{r0-r8, r12}}\n",
            "adr.w r0, 6f\n",
            "cmp r9, #1\n",
            "it eq\nadreq.w r0, 7f\n",
            "it hi\nadrhi.w r0, 8f\n",
            "orr r0, r0, #1\n",
            "str r0, [sp, #{finish}]\n",
            "ubfx r10, r10, ",
            $bits,
            "\n",
            "movs r5, #{step}\n",
            "adr.w r6, 4f\n",
            "mla r6, r10, r5, r6\n",
            "orr r6, r6, #1\n",
            "str r6, [sp, #76]\n",
        )
    };
}

/// Biases of a tile's channels, whose constants are at `r0`.
macro_rules! biases {
    () => {
        "str r0, [sp, #80]
         ldr r6, [r0]
         ldr r7, [r0, #12]
         ldr.w r8, [r0, #24]
         ldr.w r9, [r0, #36]
         ldr r0, [sp]
        "
    };
}

/// Sums of pairs of channels begin with both biases.
macro_rules! paired {
    () => {
        "add r7, r6, r7, lsl #8
         add r9, r8, r9, lsl #8
        "
    };
}

/// One step of two pixels, with what it adds its sums to: 16 products in 12 instructions.
macro_rules! two_step {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "ldmia r0!, {{r2, r3}}\n",
            "ldmia r1!, {{r4, r5}}\n",
            "smlad r11, r3, r4, ",
            $b,
            "\n",
            "smlad r7, r2, r4, r7\n",
            "smlad lr, r3, r5, ",
            $d,
            "\n",
            "smlad r9, r2, r5, r9\n",
            "sxtb16 r4, r4\n",
            "sxtb16 r5, r5\n",
            "smlad r10, r3, r4, ",
            $a,
            "\n",
            "smlad r6, r2, r4, r6\n",
            "smlad r12, r3, r5, ",
            $c,
            "\n",
            "smlad r8, r2, r5, r8\n",
        )
    };
    () => {
        two_step!("r10", "r11", "r12", "lr")
    };
}

/// One step of two pixels with a halfword for each weight: 16 products in 11 instructions.
macro_rules! wide_step {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "ldmia r0!, {{r2, r3}}\n",
            "ldmia r1!, {{r4, r5}}\n",
            "smlad r10, r3, r4, ",
            $a,
            "\n",
            "smlad r6, r2, r4, r6\n",
            "smlad r11, r3, r5, ",
            $b,
            "\n",
            "smlad r7, r2, r5, r7\n",
            "ldmia r1!, {{r4, r5}}\n",
            "smlad r12, r3, r4, ",
            $c,
            "\n",
            "smlad r8, r2, r4, r8\n",
            "smlad lr, r3, r5, ",
            $d,
            "\n",
            "smlad r9, r2, r5, r9\n",
        )
    };
    () => {
        wide_step!("r10", "r11", "r12", "lr")
    };
}

/// Activations of one pixel and weights of one step.
macro_rules! one_load {
    () => {
        "ldr.w r2, [r0], #4
         ldmia.w r1!, {{r10, r11, r12, lr}}
         sxtb16 r3, r2, ror #8
         sxtb16 r2, r2
        "
    };
}

/// Products of one pixel with channels 0 and 1, or one of them, and with 2 and 3.
macro_rules! one_products {
    ($a:literal, $b:literal) => {
        concat!(
            "smlad ",
            $a,
            ", r2, r10, ",
            $a,
            "\n",
            "smlad ",
            $b,
            ", r2, r11, ",
            $b,
            "\n",
            "smlad ",
            $a,
            ", r3, r12, ",
            $a,
            "\n",
            "smlad ",
            $b,
            ", r3, lr, ",
            $b,
            "\n",
        )
    };
}

/// Takes even channels out of four words of weights.
macro_rules! one_even {
    () => {
        "sxtb16 r10, r10
         sxtb16 r11, r11
         sxtb16 r12, r12
         sxtb16 lr, lr
        "
    };
}

/// One step of one pixel: 16 products in 16 instructions.
macro_rules! one_step {
    () => {
        concat!(
            one_load!(),
            one_products!("r7", "r9"),
            one_even!(),
            one_products!("r6", "r8"),
        )
    };
}

/// Requantizes the sums of a tile, whose constants are at `r0`: of each channel, those of the pixels.
macro_rules! outputs {
    ($how:ident, [$($a:literal)*] [$($b:literal)*] [$($c:literal)*] [$($d:literal)*]) => {
        concat!(
            "ldr r4, [sp, #{rounding}]\n",
            "ldrd r2, r3, [r0, #4]\n",
            requantize!($how, ["r2", "r3", "r4"], $($a)*),
            "ldrd r2, r3, [r0, #16]\n",
            requantize!($how, ["r2", "r3", "r4"], $($b)*),
            "ldrd r2, r3, [r0, #28]\n",
            requantize!($how, ["r2", "r3", "r4"], $($c)*),
            "ldrd r2, r3, [r0, #40]\n",
            requantize!($how, ["r2", "r3", "r4"], $($d)*),
        )
    };
    (two $how:ident) => {
        outputs!($how, ["r6" "r10"] ["r7" "r11"] ["r8" "r12"] ["r9" "lr"])
    };
    (one $how:ident) => { outputs!($how, ["r6"] ["r7"] ["r8"] ["r9"]) };
}

/// Takes the sums of odd channels out of those of pairs: a pixel's four registers.
macro_rules! apart {
    ($($even:literal $odd:literal)*) => {
        concat!(
            $( "sub ", $odd, ", ", $odd, ", ", $even, "\n", )*
            $( "asr ", $odd, ", ", $odd, ", #8\n", )*
        )
    };
}

/// Stores what there is of the last tile's outputs: a register and where it goes, of each pixel.
macro_rules! part {
    ($($a:literal $to:literal)*) => {
        concat!(
            "ldr r5, [sp, #{left}]\n",
            // Carry: two of them, or three. Negative: one more.
            "lsls r5, r5, #31\n",
            $(
                "itt cs\n",
                "strhcs ", $a, ", [", $to, "], #2\n",
                "lsrcs ", $a, ", ", $a, ", #16\n",
            )*
            $( "it mi\nstrbmi ", $a, ", [", $to, "], #1\n", )*
        )
    };
}

/// Goes on to the next two pixels, or ends.
macro_rules! next_pair {
    () => {
        concat!(
            "ldrd r4, r5, [sp, #{pairs}]\n",
            "ldr r2, [sp, #{second}]\n",
            "add r3, r2, r5\n",
            "strd r2, r3, [sp, #{output}]\n",
            "subs r4, #1\n",
            "str r4, [sp, #{pairs}]\n",
            "bne.w 1b\n",
        )
    };
}

/// The body of [`two_pixels`] and [`two_wide`]: a step and its bytes of code, and what is done to biases
/// before, and to sums behind all steps.
macro_rules! two {
    ($step:ident, $bytes:ident, $before:expr, $after:expr) => {
        naked_asm!(
            begin!("8", "#3, #3"),
            "1:",
            widen!(),
            "ldrd r1, r0, [sp, #{weights}]",
            // A tile.
            "2:",
            biases!(),
            $before,
            $step!("r6", "r7", "r8", "r9"),
            "ldr pc, [sp, #76]",
            ".p2align 2",
            "4:",
            $step!(), $step!(), $step!(), $step!(), $step!(), $step!(), $step!(), $step!(),
            "ldr r2, [sp, #{end}]",
            "cmp r0, r2",
            "bne.w 4b",
            $after,
            "ldr r0, [sp, #80]",
            "ldr pc, [sp, #{finish}]",
            ".p2align 2",
            "6:",
            "ldr r2, [sp, #{output}]",
            "stmia r2!, {{r6-r12, lr}}",
            "b 12f",
            ".p2align 2",
            "7:",
            outputs!(two rounded),
            "b 9f",
            ".p2align 2",
            "8:",
            outputs!(two rectified),
            "9:",
            pack!("r6", "r7", "r8", "r9"),
            pack!("r10", "r11", "r12", "lr"),
            "ldrd r2, r3, [sp, #{output}]",
            "ldr r5, [sp, #{channels_end}]",
            "adds r0, #48",
            "cmp r0, r5",
            "bhi 10f",
            "str r6, [r2], #4",
            "str r10, [r3], #4",
            "strd r2, r3, [sp, #{output}]",
            "bne.w 2b",
            "ldr r5, [sp, #{left}]",
            "cmp r5, #0",
            "bne.w 2b",
            "b 11f",
            "10:",
            part!("r6" "r2" "r10" "r3"),
            "strd r2, r3, [sp, #{output}]",
            "11:",
            next_pair!(),
            "12:",
            "add sp, #84",
            "pop {{r4-r11, pc}}",
            step = const $bytes,
            end = const offset_of!(Tiles, activations_end),
            weights = const offset_of!(Tiles, weights),
            channels_end = const offset_of!(Tiles, channels_end),
            output = const offset_of!(Tiles, output),
            second = const offset_of!(Tiles, second),
            rounding = const offset_of!(Tiles, rounding),
            finish = const offset_of!(Tiles, finish),
            left = const offset_of!(Tiles, left),
            source = const offset_of!(Tiles, source),
            words = const offset_of!(Tiles, words),
            rows = const offset_of!(Tiles, rows),
            tail = const offset_of!(Tiles, tail),
            gap = const offset_of!(Tiles, gap),
            step_bytes = const offset_of!(Tiles, step),
            pairs = const offset_of!(Tiles, pairs),
        )
    };
}

/// Outputs of pairs of pixels, four channels a tile.
///
/// Registers: `r0` activations, `r1` weights, `r2`, `r3` activations of the first and second pixel,
/// `r4`, `r5` weights of channels 0 and 1, and 2 and 3; `r6` to `r9` sums of the first pixel, `r10`,
/// `r11`, `r12`, `lr` of the second. The rest is on the stack: a copy of [`Tiles`], where the
/// unrolled loop is entered, and the tile's constants.
///
/// # Safety
/// What `tiles` points to must be readable, and writable for activations and outputs (32 bytes of
/// accumulators at `output` where they are raw), in these lengths; words must lie at multiples of
/// four, sources and outputs need not.
#[unsafe(naked)]
pub unsafe extern "C" fn two_pixels(tiles: &Tiles) {
    two!(
        two_step,
        TWO_STEP,
        paired!(),
        apart!("r6" "r7" "r8" "r9" "r10" "r11" "r12" "lr")
    )
}

/// As [`two_pixels`], from weights that have a halfword each: `r4`, `r5` are those of channels 0 and 1,
/// then of 2 and 3.
///
/// # Safety
/// As [`two_pixels`].
#[unsafe(naked)]
pub unsafe extern "C" fn two_wide(tiles: &Tiles) {
    two!(wide_step, WIDE_STEP, "", "")
}

/// Outputs of one pixel, four channels a tile, from activations of 8 bits.
///
/// Registers: `r0` activations, `r1` weights, `r2`, `r3` widened activations, `r5` their end, `r10`
/// to `r12` and `lr` weights, `r6` to `r9` sums.
///
/// # Safety
/// As [`two_pixels`]; 16 bytes of accumulators where they are raw.
#[unsafe(naked)]
pub unsafe extern "C" fn one_pixel(tiles: &Tiles) {
    naked_asm!(
        begin!("0", "#2, #2"),
        "ldrd r1, r0, [sp, #{weights}]",
        "2:",
        "ldr r5, [sp, #{end}]",
        biases!(),
        paired!(),
        "ldr pc, [sp, #76]",
        ".p2align 2",
        "4:",
        one_step!(), one_step!(), one_step!(), one_step!(),
        "cmp r0, r5",
        "bne.w 4b",
        apart!("r6" "r7" "r8" "r9"),
        "ldr r0, [sp, #80]",
        "ldr.w r10, [sp, #{output}]",
        "ldr pc, [sp, #{finish}]",
        ".p2align 2",
        "6:",
        "stmia r10!, {{r6-r9}}",
        "b 11f",
        ".p2align 2",
        "7:",
        outputs!(one rounded),
        "b 9f",
        ".p2align 2",
        "8:",
        outputs!(one rectified),
        "9:",
        pack!("r6", "r7", "r8", "r9"),
        "ldr r5, [sp, #{channels_end}]",
        "adds r0, #48",
        "cmp r0, r5",
        "bhi 10f",
        "str r6, [r10], #4",
        "str.w r10, [sp, #{output}]",
        "bne.w 2b",
        "ldr r5, [sp, #{left}]",
        "cmp r5, #0",
        "bne.w 2b",
        "b 11f",
        "10:",
        part!("r6" "r10"),
        "11:",
        "add sp, #84",
        "pop {{r4-r11, pc}}",
        step = const ONE_STEP,
        end = const offset_of!(Tiles, activations_end),
        weights = const offset_of!(Tiles, weights),
        channels_end = const offset_of!(Tiles, channels_end),
        output = const offset_of!(Tiles, output),
        rounding = const offset_of!(Tiles, rounding),
        finish = const offset_of!(Tiles, finish),
        left = const offset_of!(Tiles, left),
    )
}

/// Products of two activations with the weights of two channels. Of `256 * odd + even`, modulo 2^16,
/// less the even weight, the high byte is the odd one.
macro_rules! apart_products {
    ($x:literal, $w:literal, $even:literal, $odd:literal) => {
        concat!(
            "sxtb16 r4, ",
            $w,
            "\n",
            "ssub16 ",
            $w,
            ", ",
            $w,
            ", r4\n",
            "smlad ",
            $even,
            ", ",
            $x,
            ", r4, ",
            $even,
            "\n",
            "sxtb16 ",
            $w,
            ", ",
            $w,
            ", ror #8\n",
            "smlad ",
            $odd,
            ", ",
            $x,
            ", ",
            $w,
            ", ",
            $odd,
            "\n",
        )
    };
}

/// Accumulators of one tile of one pixel, from activations of 8 bits, with nothing proven of them:
/// they wrap at 32 bits. 16 products in 24 instructions and two of the loop.
///
/// Registers: as [`one_pixel`].
///
/// # Safety
/// As [`one_pixel`] where it is raw.
#[unsafe(naked)]
pub unsafe extern "C" fn one_apart(tiles: &Tiles) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "ldrd r4, r5, [r0]",
        "ldrd r1, r3, [r0, #{weights}]",
        "ldr.w r2, [r0, #{output}]",
        "push {{r2}}",
        "ldr r6, [r3]",
        "ldr r7, [r3, #12]",
        "ldr.w r8, [r3, #24]",
        "ldr.w r9, [r3, #36]",
        "mov r0, r4",
        "2:",
        one_load!(),
        apart_products!("r2", "r10", "r6", "r7"),
        apart_products!("r2", "r11", "r8", "r9"),
        apart_products!("r3", "r12", "r6", "r7"),
        apart_products!("r3", "lr", "r8", "r9"),
        "cmp r0, r5",
        "bne 2b",
        "pop {{r2}}",
        "stmia r2!, {{r6-r9}}",
        "pop {{r4-r11, pc}}",
        weights = const offset_of!(Tiles, weights),
        output = const offset_of!(Tiles, output),
    )
}
