//! What both sets of NEON kernels share: elements are int8 as they are.
//!
//! `SQRDMULH` is the rounded high product of [`crate::program::arith`], and `SRSHL` its rounding
//! shift once the sign of the number has been added.

use core::arch::aarch64::{
    int8x16_t, int16x4_t, int16x8_t, int32x4_t, vaddw_high_s8, vaddw_high_s16, vaddw_s8, vaddw_s16,
    vandq_s32, vcombine_s8, vcombine_s16, vdup_n_s16, vdupq_n_s8, vdupq_n_s16, vget_high_s16,
    vget_low_s8, vget_low_s16, vld1q_dup_s32, vld1q_s8, vld1q_s32, vmaxq_s8, vmaxq_s16, vminq_s8,
    vmlal_s16, vmovl_high_s8, vmovl_high_s16, vmovl_s8, vmovl_s16, vmull_high_s8, vmull_s8,
    vqaddq_s32, vqmovn_s16, vqmovn_s32, vqrdmulhq_s32, vreinterpretq_u8_s8, vrshlq_s32, vshlq_s32,
    vst1q_s8, vst1q_u8,
};

use crate::program::kernels::packed::jobs::{Clamp, Depthwise};
use crate::program::kernels::vectors::unroll;

pub(super) use core::arch::aarch64::{
    vaddq_s32 as add, vcvtq_f32_s32 as to_floats, vcvtq_s32_f32 as truncate, vdivq_f32 as divide,
    vdupq_n_f32 as splat_float, vdupq_n_s32 as splat, veorq_s32 as xor, vshrq_n_s32 as shift_right,
    vsubq_s32 as sub,
};

pub(super) type V = int32x4_t;

/// Bytes of a vector.
pub(super) const VECTOR: usize = 16;
/// Bytes of an element.
pub(super) const ELEMENT: usize = 1;
/// Vectors of numbers of one of elements.
pub(super) const BLOCKS: usize = 4;
/// Taps that a step of a depthwise convolution takes, and vectors of their weights.
pub(super) const TAPS: usize = 1;
pub(super) const COLUMNS: usize = 1;
/// What elements lie above their value.
pub(super) const BIAS: i32 = 0;
/// Vectors of constants of four channels, as `pack::lanes` writes them.
pub(super) const CONSTANTS: usize = 5;

/// What requantizes four accumulators.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    multiplier: V,
    left: V,
    right: V,
    zero: V,
}

/// A vector of the packed constants.
///
/// # Safety
/// `at` points to a vector.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn vector(at: *const u8) -> V {
    // SAFETY: the caller's promise.
    unsafe { vld1q_s32(at.cast()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn zeros() -> V {
    splat(0)
}

/// # Safety
/// Four bytes can be read.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn group(at: *const u8) -> V {
    // SAFETY: the caller's promise.
    unsafe { vld1q_dup_s32(at.cast()) }
}

/// # Safety
/// `at` points to the constants of four channels.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn scale(at: *const u8) -> Scale {
    // SAFETY: the constants are five vectors.
    unsafe {
        Scale {
            multiplier: vector(at.add(VECTOR)),
            left: vector(at.add(2 * VECTOR)),
            right: vector(at.add(3 * VECTOR)),
            zero: vector(at.add(4 * VECTOR)),
        }
    }
}

/// Requantized accumulators with the zero point added; shifts to the left only where `WIDE`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn requantize<const WIDE: bool>(sums: V, scale: &Scale) -> V {
    let sums = if WIDE {
        vshlq_s32(sums, scale.left)
    } else {
        sums
    };
    let high = vqrdmulhq_s32(sums, scale.multiplier);
    // A shift of zero has no sign bit, and takes nothing off.
    let sign = shift_right::<31>(vandq_s32(high, scale.right));
    add(vrshlq_s32(vqaddq_s32(high, sign), scale.right), scale.zero)
}

/// Sixteen numbers as bytes, saturated.
#[inline]
#[target_feature(enable = "neon")]
fn narrow(values: [V; 4]) -> int8x16_t {
    let low = vcombine_s16(vqmovn_s32(values[0]), vqmovn_s32(values[1]));
    let high = vcombine_s16(vqmovn_s32(values[2]), vqmovn_s32(values[3]));
    vcombine_s8(vqmovn_s16(low), vqmovn_s16(high))
}

/// Sixteen numbers as bytes within limits.
#[inline]
#[target_feature(enable = "neon")]
fn clamped(values: [V; 4], clamp: Clamp) -> int8x16_t {
    let bytes = vmaxq_s8(narrow(values), vdupq_n_s8(clamp.min as i8));
    vminq_s8(bytes, vdupq_n_s8(clamp.max as i8))
}

/// Clamps, packs and stores `count` channels of a pixel.
///
/// # Safety
/// `to` has room for `count` bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store<const N: usize>(
    values: [V; N],
    to: *mut u8,
    count: usize,
    clamp: Clamp,
) {
    let mut all = [zeros(); 4];
    unroll!(blocks N, j, { all[j] = values[j]; });
    let bytes = clamped(all, clamp);
    // SAFETY: a whole vector is stored where all of its channels exist; otherwise those that exist
    // are copied from the stack.
    unsafe {
        if N == 4 && count >= VECTOR {
            return vst1q_s8(to.cast(), bytes);
        }
        let mut copy = [0_i8; VECTOR];
        vst1q_s8(copy.as_mut_ptr(), bytes);
        let count = count.min(4 * N);
        core::ptr::copy_nonoverlapping(copy.as_ptr().cast(), to, count);
    }
}

/// Clamps, packs and stores `count` channels of four pixels.
///
/// # Safety
/// Each of `to` has room for `count` bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store_four(values: [V; 4], to: [*mut u8; 4], count: usize, clamp: Clamp) {
    let bytes = clamped(values, clamp);
    let mut copy = [[0_u8; 4]; 4];
    // SAFETY: the copy is as long as a vector; of a pixel what exists is copied from it.
    unsafe {
        vst1q_u8(copy.as_mut_ptr().cast(), vreinterpretq_u8_s8(bytes));
        for (pixel, to) in copy.iter().zip(to) {
            if count >= 4 {
                to.cast::<[u8; 4]>().write_unaligned(*pixel);
            } else {
                core::ptr::copy_nonoverlapping(pixel.as_ptr(), to, count);
            }
        }
    }
}

/// Sums with the products of a tap added.
///
/// # Safety
/// The tap and its weights can be read.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn multiply_taps<const PIECES: usize>(
    sums: [V; BLOCKS],
    from: *const u8,
    taps: &[u32; TAPS],
    _: usize,
    weights: *const u8,
) -> [V; BLOCKS] {
    // SAFETY: the caller's promise.
    let (values, column) = unsafe {
        let values = vld1q_s8(from.add(taps[0] as usize).cast());
        (values, vld1q_s8(weights.cast()))
    };
    let low = vmull_s8(vget_low_s8(values), vget_low_s8(column));
    let high = vmull_high_s8(values, column);
    [
        vaddw_s16(sums[0], vget_low_s16(low)),
        vaddw_high_s16(sums[1], low),
        vaddw_s16(sums[2], vget_low_s16(high)),
        vaddw_high_s16(sums[3], high),
    ]
}

/// Stores the outputs of a depthwise convolution.
///
/// # Safety
/// `to` has room for `count` elements.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn scatter<const PIECES: usize>(
    sums: [V; BLOCKS],
    to: *mut u8,
    job: &Depthwise,
    count: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { store(sums, to, count, job.clamp) }
}

/// Elements as numbers of 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn halves(elements: int8x16_t) -> Totals {
    [vmovl_s8(vget_low_s8(elements)), vmovl_high_s8(elements)]
}

/// Pairs of elements: four of one tensor, four of the other.
pub(super) type Pair = [int16x4_t; 2];

/// # Safety
/// Vectors can be read.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn pairs(a: *const u8, b: *const u8) -> [Pair; BLOCKS] {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (vld1q_s8(a.cast()), vld1q_s8(b.cast())) };
    let (a, b) = (halves(a), halves(b));
    [
        [vget_low_s16(a[0]), vget_low_s16(b[0])],
        [vget_high_s16(a[0]), vget_high_s16(b[0])],
        [vget_low_s16(a[1]), vget_low_s16(b[1])],
        [vget_high_s16(a[1]), vget_high_s16(b[1])],
    ]
}

/// Two coefficients, each in every lane.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn coefficients(pair: [i16; 2]) -> Pair {
    [vdup_n_s16(pair[0]), vdup_n_s16(pair[1])]
}

/// `sums` with the products of pairs and coefficients added.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn multiply_pairs(sums: V, pairs: Pair, coefficients: Pair) -> V {
    vmlal_s16(
        vmlal_s16(sums, pairs[0], coefficients[0]),
        pairs[1],
        coefficients[1],
    )
}

/// Shifted to the right, rounded down.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn shift_right_all(values: V, shift: i32) -> V {
    vshlq_s32(values, splat(-shift))
}

pub(super) type Totals = [int16x8_t; 2];

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn totals(maximum: bool) -> Totals {
    [vdupq_n_s16(if maximum { i16::MIN } else { 0 }); 2]
}

/// # Safety
/// A vector can be read.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn collect(all: Totals, at: *const u8, maximum: bool) -> Totals {
    // SAFETY: the caller's promise.
    let values = unsafe { vld1q_s8(at.cast()) };
    if maximum {
        let [low, high] = halves(values);
        [vmaxq_s16(all[0], low), vmaxq_s16(all[1], high)]
    } else {
        [
            vaddw_s8(all[0], vget_low_s8(values)),
            vaddw_high_s8(all[1], values),
        ]
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn spread(all: Totals) -> [V; BLOCKS] {
    [
        vmovl_s16(vget_low_s16(all[0])),
        vmovl_high_s16(all[0]),
        vmovl_s16(vget_low_s16(all[1])),
        vmovl_high_s16(all[1]),
    ]
}
