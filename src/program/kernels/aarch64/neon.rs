//! NEON with the dot product of bytes: elements are int8 as they are.
//!
//! `SQRDMULH` is the rounded high product of [`crate::program::arith`], and `SRSHL` its rounding
//! shift once the sign of the number has been added.

use core::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, vaddq_s32, vaddw_high_s8, vaddw_high_s16, vaddw_s8, vaddw_s16,
    vandq_s32, vcombine_s8, vcombine_s16, vcvtq_f32_s32, vcvtq_s32_f32, vdivq_f32, vdupq_n_f32,
    vdupq_n_s8, vdupq_n_s16, vdupq_n_s32, veorq_s32, vget_low_s8, vget_low_s16, vld1q_dup_s32,
    vld1q_s8, vld1q_s32, vmaxq_s8, vmaxq_s16, vminq_s8, vmovl_high_s8, vmovl_high_s16, vmovl_s8,
    vmovl_s16, vmull_high_s8, vmull_s8, vmulq_s32, vnegq_s32, vqaddq_s32, vqmovn_s16, vqmovn_s32,
    vqrdmulhq_s32, vreinterpretq_s8_s32, vrshlq_s32, vshlq_s32, vshrq_n_s32, vst1q_s8, vsubq_s32,
};

use crate::program::kernels::packed::jobs::{Addend, Clamp, Conv, Depthwise, Pool, Strip, Sum};
use crate::program::kernels::packed::run::Base;
use crate::program::kernels::tiles::{strips, unroll};

/// Bytes of a vector.
const VECTOR: usize = 16;
/// Vectors of constants of four channels, as `pack::lanes` writes them.
const CONSTANTS: usize = 5;

/// What requantizes four accumulators.
#[derive(Clone, Copy)]
struct Scale {
    multiplier: int32x4_t,
    left: int32x4_t,
    right: int32x4_t,
    zero: int32x4_t,
}

/// # Safety
/// `at` points to four numbers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn vector(at: *const u8) -> int32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vld1q_s32(at.cast()) }
}

/// # Safety
/// `at` points to the constants of four channels.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn scale(at: *const u8) -> Scale {
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

/// `sums` with the dot products of four bytes each added.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the instruction reads and writes registers only, and is part of `dotprod`. The
    // intrinsic for it is not stable yet.
    unsafe {
        core::arch::asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Requantized accumulators with the zero point added; shifts to the left only where `WIDE`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn requantize<const WIDE: bool>(sums: int32x4_t, scale: &Scale) -> int32x4_t {
    let sums = if WIDE {
        vshlq_s32(sums, scale.left)
    } else {
        sums
    };
    let high = vqrdmulhq_s32(sums, scale.multiplier);
    // A shift of zero has no sign bit, and takes nothing off.
    let sign = vshrq_n_s32::<31>(vandq_s32(high, scale.right));
    vaddq_s32(vrshlq_s32(vqaddq_s32(high, sign), scale.right), scale.zero)
}

/// Sixteen numbers as bytes, saturated.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn narrow(values: [int32x4_t; 4]) -> int8x16_t {
    let low = vcombine_s16(vqmovn_s32(values[0]), vqmovn_s32(values[1]));
    let high = vcombine_s16(vqmovn_s32(values[2]), vqmovn_s32(values[3]));
    vcombine_s8(vqmovn_s16(low), vqmovn_s16(high))
}

/// Sixteen bytes as numbers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn widen(values: int8x16_t) -> [int32x4_t; 4] {
    let (low, high) = (vmovl_s8(vget_low_s8(values)), vmovl_high_s8(values));
    [
        vmovl_s16(vget_low_s16(low)),
        vmovl_high_s16(low),
        vmovl_s16(vget_low_s16(high)),
        vmovl_high_s16(high),
    ]
}

/// Clamps, packs and stores `count` channels of a pixel.
///
/// # Safety
/// `to` has room for `count` bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn store<const BLOCKS: usize>(
    values: [int32x4_t; BLOCKS],
    to: *mut u8,
    count: usize,
    clamp: Clamp,
) {
    let mut all = [vdupq_n_s32(0); 4];
    unroll!(blocks BLOCKS, j, { all[j] = values[j]; });
    let bytes = vmaxq_s8(narrow(all), vdupq_n_s8(clamp.min as i8));
    let bytes = vminq_s8(bytes, vdupq_n_s8(clamp.max as i8));
    // SAFETY: a whole vector is stored where all of its channels exist; otherwise those that exist
    // are copied from the stack.
    unsafe {
        if BLOCKS == 4 && count >= VECTOR {
            return vst1q_s8(to.cast(), bytes);
        }
        let mut copy = [0_i8; VECTOR];
        vst1q_s8(copy.as_mut_ptr(), bytes);
        let count = count.min(4 * BLOCKS);
        core::ptr::copy_nonoverlapping(copy.as_ptr().cast(), to, count);
    }
}

/// A convolution.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn conv(job: &Conv, base: Base) {
    for strip in &job.strips {
        // SAFETY: the caller's promise; `build` chose a tile of at most as many pixels as there are.
        unsafe {
            strips! { strip, conv_strip(job, strip, base);
                4: 1 2 4 5;
                1: 1 4 8;
            }
        }
    }
}

/// One strip of channels for all pixels; the last tile goes back over pixels of the one before.
///
/// # Safety
/// As [`conv`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn conv_strip<const BLOCKS: usize, const TILE: usize, const WIDE: bool>(
    job: &Conv,
    strip: &Strip,
    base: Base,
) {
    let Some(last) = job.pixels.len().checked_sub(TILE) else {
        return;
    };
    for at in (0..job.pixels.len()).step_by(TILE) {
        let pixels: &[[u32; 2]] = &job.pixels[at.min(last)..];
        if let Some(pixels) = pixels.first_chunk() {
            // SAFETY: the caller's promise.
            unsafe { tile::<BLOCKS, TILE, WIDE>(job, strip, base, pixels) }
        }
    }
}

/// A few pixels of a strip.
///
/// # Safety
/// As [`conv`].
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const BLOCKS: usize, const TILE: usize, const WIDE: bool>(
    job: &Conv,
    strip: &Strip,
    base: Base,
    pixels: &[[u32; 2]; TILE],
) {
    // SAFETY: windows, runs, weights and constants lie in their memory, a group's bytes behind the
    // end of a run in the slack.
    unsafe {
        let mut from = [base.data.cast_const(); TILE];
        unroll!(pixels TILE, i, { from[i] = from[i].add(pixels[i][0] as usize); });
        let lanes = base.constants.add(strip.lanes);
        let mut sums = [[vdupq_n_s32(0); BLOCKS]; TILE];
        unroll!(blocks BLOCKS, j, {
            let bias = vector(lanes.add(CONSTANTS * VECTOR * j));
            unroll!(pixels TILE, i, { sums[i][j] = bias; });
        });
        let mut weights = base.constants.add(strip.weights);
        for &run in &job.runs {
            let mut at = run as usize;
            let end = at + 4 * job.groups;
            while at < end {
                let mut columns = [vdupq_n_s8(0); BLOCKS];
                unroll!(blocks BLOCKS, j, {
                    columns[j] = vld1q_s8(weights.add(VECTOR * j).cast());
                });
                weights = weights.add(VECTOR * BLOCKS);
                unroll!(pixels TILE, i, {
                    let group = vreinterpretq_s8_s32(vld1q_dup_s32(from[i].add(at).cast()));
                    unroll!(blocks BLOCKS, j, {
                        sums[i][j] = dot(sums[i][j], columns[j], group);
                    });
                });
                at += 4;
            }
        }
        unroll!(blocks BLOCKS, j, {
            let scale = scale(lanes.add(CONSTANTS * VECTOR * j));
            unroll!(pixels TILE, i, { sums[i][j] = requantize::<WIDE>(sums[i][j], &scale); });
        });
        let to = base.data.add(strip.channel as usize);
        unroll!(pixels TILE, i, {
            let to = to.add(pixels[i][1] as usize);
            store(sums[i], to, strip.count as usize, job.clamp);
        });
    }
}

/// A depthwise convolution.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn depthwise(job: &Depthwise, base: Base) {
    // SAFETY: the caller's promise.
    unsafe {
        if job.wide {
            chunks::<true>(job, base);
        } else {
            chunks::<false>(job, base);
        }
    }
}

/// # Safety
/// As [`depthwise`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn chunks<const WIDE: bool>(job: &Depthwise, base: Base) {
    for chunk in &job.chunks {
        // SAFETY: taps, weights and constants of the chunk's phase lie in their memory; what a
        // vector reads behind its elements lies in the slack.
        unsafe {
            let from = base.data.cast_const().add(chunk.input as usize);
            let phase = chunk.phase as usize;
            let lanes = base
                .constants
                .add(job.lanes + 4 * CONSTANTS * VECTOR * phase);
            let mut weights = base.constants;
            weights = weights.add(job.weights + VECTOR * job.taps.len() * phase);
            let mut sums = [vdupq_n_s32(0); 4];
            unroll!(blocks 4, j, { sums[j] = vector(lanes.add(CONSTANTS * VECTOR * j)); });
            for &tap in &job.taps {
                let values = vld1q_s8(from.add(tap as usize).cast());
                let column = vld1q_s8(weights.cast());
                let low = vmull_s8(vget_low_s8(values), vget_low_s8(column));
                let high = vmull_high_s8(values, column);
                sums = accumulate(sums, low, high);
                weights = weights.add(VECTOR);
            }
            unroll!(blocks 4, j, {
                let scale = scale(lanes.add(CONSTANTS * VECTOR * j));
                sums[j] = requantize::<WIDE>(sums[j], &scale);
            });
            let to = base.data.add(chunk.output as usize);
            store(sums, to, usize::from(chunk.count), job.clamp);
        }
    }
}

/// Sixteen sums with sixteen products added.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn accumulate(sums: [int32x4_t; 4], low: int16x8_t, high: int16x8_t) -> [int32x4_t; 4] {
    [
        vaddw_s16(sums[0], vget_low_s16(low)),
        vaddw_high_s16(sums[1], low),
        vaddw_s16(sums[2], vget_low_s16(high)),
        vaddw_high_s16(sums[3], high),
    ]
}

/// One addend of a sum, scaled to the common scale.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn addend(elements: int32x4_t, it: &Addend) -> int32x4_t {
    let value = vsubq_s32(elements, vdupq_n_s32(it.zero));
    let low = vmulq_s32(value, vdupq_n_s32(it.low));
    let low = vshrq_n_s32::<11>(vaddq_s32(low, vdupq_n_s32(1 << 10)));
    let product = vaddq_s32(vmulq_s32(value, vdupq_n_s32(it.high)), low);
    // Halves go away from zero.
    let right = vdupq_n_s32(-it.shift);
    let sign = vshrq_n_s32::<31>(vandq_s32(product, right));
    let scaled = vrshlq_s32(vaddq_s32(product, sign), right);
    if it.negative {
        vnegq_s32(scaled)
    } else {
        scaled
    }
}

/// A sum of two tensors.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn sum(job: &Sum, base: Base) {
    // SAFETY: rows lie in memory, what a vector reads behind them in the slack.
    unsafe {
        let scale = scale(base.constants.add(job.lanes));
        for row in 0..job.rows.rows {
            let at = [0, 1, 2].map(|it| job.rows.first[it] + row * job.rows.pitch[it]);
            for column in (0..job.rows.len).step_by(VECTOR) {
                let mut values = widen(vld1q_s8(base.data.add(at[0] + column).cast()));
                let others = widen(vld1q_s8(base.data.add(at[1] + column).cast()));
                unroll!(blocks 4, j, {
                    let a = addend(values[j], &job.addends[0]);
                    let both = vaddq_s32(a, addend(others[j], &job.addends[1]));
                    values[j] = if job.wide {
                        requantize::<true>(both, &scale)
                    } else {
                        requantize::<false>(both, &scale)
                    };
                });
                let count = (job.rows.len - column).min(VECTOR);
                store(values, base.data.add(at[2] + column), count, job.clamp);
            }
        }
    }
}

/// Averages or maxima.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn pool(job: &Pool, base: Base) {
    let clamp = Clamp {
        min: i32::from(job.min),
        max: i32::from(job.max),
    };
    for spot in &job.spots {
        for channel in (0..job.channels).step_by(VECTOR) {
            let taps = i32::from(spot.rows) * i32::from(spot.columns);
            // SAFETY: the part of the window that `build` worked out lies in the tensor, what a vector
            // reads behind it in the slack.
            unsafe {
                let start = if job.maximum { i16::MIN } else { 0 };
                let mut totals = [vdupq_n_s16(start); 2];
                for row in 0..usize::from(spot.rows) {
                    let row = spot.input as usize + row * job.pitch + channel;
                    for column in 0..usize::from(spot.columns) {
                        let at = base.data.add(row + column * job.channels);
                        let values = vld1q_s8(at.cast());
                        totals = if job.maximum {
                            let high = vmaxq_s16(totals[1], vmovl_high_s8(values));
                            [vmaxq_s16(totals[0], vmovl_s8(vget_low_s8(values))), high]
                        } else {
                            let high = vaddw_high_s8(totals[1], values);
                            [vaddw_s8(totals[0], vget_low_s8(values)), high]
                        };
                    }
                }
                let mut values = [
                    vmovl_s16(vget_low_s16(totals[0])),
                    vmovl_high_s16(totals[0]),
                    vmovl_s16(vget_low_s16(totals[1])),
                    vmovl_high_s16(totals[1]),
                ];
                if !job.maximum {
                    unroll!(blocks 4, j, { values[j] = average(values[j], taps); });
                }
                let to = base.data.add(spot.output as usize + channel);
                store(values, to, (job.channels - channel).min(VECTOR), clamp);
            }
        }
    }
}

/// The average of `taps` elements whose sum is given; halves go away from zero.
///
/// Sum and divisor are below 2^17, so that the quotient in single precision is the nearest number
/// and never rounds up to an integer that it does not reach.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn average(total: int32x4_t, taps: i32) -> int32x4_t {
    let sign = vshrq_n_s32::<31>(total);
    let half = vsubq_s32(veorq_s32(vdupq_n_s32(taps / 2), sign), sign);
    let rounded = vcvtq_f32_s32(vaddq_s32(total, half));
    vcvtq_s32_f32(vdivq_f32(rounded, vdupq_n_f32(taps as f32)))
}
