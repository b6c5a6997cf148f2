//! AVX2: elements are 16 bits, since `vpmaddwd` adds two products of those without saturating.

use core::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_epi64,
    _mm256_and_si256, _mm256_blend_epi32, _mm256_castsi256_si128, _mm256_cvtepi16_epi32,
    _mm256_cvtepi32_ps, _mm256_cvttps_epi32, _mm256_div_ps, _mm256_extracti128_si256,
    _mm256_load_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_max_epi16, _mm256_min_epi16,
    _mm256_mul_epi32, _mm256_mullo_epi32, _mm256_packs_epi32, _mm256_permute4x64_epi64,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256,
    _mm256_shuffle_epi32, _mm256_sign_epi32, _mm256_sllv_epi32, _mm256_srai_epi32,
    _mm256_srav_epi32, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_sub_epi32,
    _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
};

use crate::program::kernels::packed::jobs::{Addend, Clamp, Conv, Depthwise, Pool, Strip, Sum};
use crate::program::kernels::packed::run::Base;
use crate::program::kernels::tiles::{strips, unroll};

/// Bytes of a vector.
const VECTOR: usize = 32;
/// Vectors of constants of eight channels, as `pack::lanes` writes them.
const CONSTANTS: usize = 7;
/// Bytes of an element.
const ELEMENT: usize = 2;

/// What requantizes eight accumulators.
#[derive(Clone, Copy)]
struct Scale {
    multiplier: __m256i,
    multiplier_odd: __m256i,
    even: __m256i,
    odd: __m256i,
    right: __m256i,
    left: __m256i,
    sign: __m256i,
}

/// A vector of the packed constants.
///
/// # Safety
/// `at` points to a vector at a multiple of 32.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn vector(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_load_si256(at.cast()) }
}

/// # Safety
/// `at` points to the constants of eight channels.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scale(at: *const u8) -> Scale {
    // SAFETY: the constants are seven vectors.
    unsafe {
        let multiplier = vector(at.add(VECTOR));
        Scale {
            multiplier,
            multiplier_odd: _mm256_srli_epi64::<32>(multiplier),
            even: vector(at.add(2 * VECTOR)),
            odd: vector(at.add(3 * VECTOR)),
            right: vector(at.add(4 * VECTOR)),
            left: vector(at.add(5 * VECTOR)),
            sign: vector(at.add(6 * VECTOR)),
        }
    }
}

/// Requantized accumulators with the zero point added; shifts to the left only where `WIDE`.
#[inline]
#[target_feature(enable = "avx2")]
fn requantize<const WIDE: bool>(sums: __m256i, scale: &Scale) -> __m256i {
    let sums = if WIDE {
        _mm256_sllv_epi32(sums, scale.left)
    } else {
        sums
    };
    let mut sign = _mm256_srai_epi32::<31>(sums);
    if WIDE {
        sign = _mm256_and_si256(sign, scale.sign);
    }
    let doubled = _mm256_add_epi32(sums, sums);
    let even = _mm256_mul_epi32(doubled, scale.multiplier);
    let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(doubled), scale.multiplier_odd);
    let even = _mm256_add_epi64(even, scale.even);
    let odd = _mm256_add_epi64(odd, scale.odd);
    // The upper halves of both: those of the even lanes come down into their places.
    let high = _mm256_blend_epi32::<0x55>(odd, _mm256_shuffle_epi32::<0xf5>(even));
    _mm256_srav_epi32(_mm256_add_epi32(high, sign), scale.right)
}

/// Clamps, packs and stores `count` channels of a pixel.
///
/// # Safety
/// `to` has room for `count` elements.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const BLOCKS: usize>(
    values: [__m256i; BLOCKS],
    to: *mut u8,
    count: usize,
    clamp: Clamp,
) {
    // SAFETY: whole vectors are stored where all of their channels exist; otherwise the channels that
    // exist are copied from the stack.
    unsafe {
        let all = if BLOCKS == 2 {
            _mm256_packs_epi32(values[0], values[BLOCKS - 1])
        } else {
            // Both halves of the one vector beside each other.
            _mm256_permute4x64_epi64::<0b1000>(_mm256_packs_epi32(values[0], values[0]))
        };
        let all = _mm256_max_epi16(all, _mm256_set1_epi16(clamp.min as i16));
        let all = _mm256_min_epi16(all, _mm256_set1_epi16(clamp.max as i16));
        if BLOCKS == 2 && count >= 16 {
            return _mm256_storeu_si256(to.cast(), all);
        }
        let mut elements = [0_i16; 16];
        _mm256_storeu_si256(elements.as_mut_ptr().cast(), all);
        if BLOCKS == 1 && count >= 8 {
            core::ptr::copy_nonoverlapping(elements.as_ptr().cast(), to, 8 * ELEMENT);
        } else {
            core::ptr::copy_nonoverlapping(elements.as_ptr().cast(), to, count * ELEMENT);
        }
    }
}

/// A convolution.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn conv(job: &Conv, base: Base) {
    for strip in &job.strips {
        // SAFETY: the caller's promise; `build` chose a tile of at most as many pixels as there are.
        unsafe {
            strips! { strip, conv_strip(job, strip, base);
                2: 1 2 4 5;
                1: 1 4 8;
            }
        }
    }
}

/// One strip of channels for all pixels; the last tile goes back over pixels of the one before.
///
/// # Safety
/// As [`conv`].
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
unsafe fn tile<const BLOCKS: usize, const TILE: usize, const WIDE: bool>(
    job: &Conv,
    strip: &Strip,
    base: Base,
    pixels: &[[u32; 2]; TILE],
) {
    // SAFETY: windows, runs, weights and constants lie in their memory, a group's elements behind
    // the end of a run in the slack.
    unsafe {
        let mut from = [base.data.cast_const(); TILE];
        unroll!(pixels TILE, i, { from[i] = from[i].add(pixels[i][0] as usize * ELEMENT); });
        let lanes = base.constants.add(strip.lanes);
        let mut sums = [[_mm256_setzero_si256(); BLOCKS]; TILE];
        unroll!(blocks BLOCKS, j, {
            let bias = vector(lanes.add(CONSTANTS * VECTOR * j));
            unroll!(pixels TILE, i, { sums[i][j] = bias; });
        });
        let mut weights = base.constants.add(strip.weights);
        for &run in &job.runs {
            let mut at = run as usize * ELEMENT;
            let end = at + 2 * ELEMENT * job.groups;
            while at < end {
                let mut columns = [_mm256_setzero_si256(); BLOCKS];
                unroll!(blocks BLOCKS, j, { columns[j] = vector(weights.add(VECTOR * j)); });
                weights = weights.add(VECTOR * BLOCKS);
                unroll!(pixels TILE, i, {
                    let pair = from[i].add(at).cast::<i32>().read_unaligned();
                    let pair = _mm256_set1_epi32(pair);
                    unroll!(blocks BLOCKS, j, {
                        let products = _mm256_madd_epi16(pair, columns[j]);
                        sums[i][j] = _mm256_add_epi32(sums[i][j], products);
                    });
                });
                at += 2 * ELEMENT;
            }
        }
        unroll!(blocks BLOCKS, j, {
            let scale = scale(lanes.add(CONSTANTS * VECTOR * j));
            unroll!(pixels TILE, i, { sums[i][j] = requantize::<WIDE>(sums[i][j], &scale); });
        });
        let to = base.data.add(strip.channel as usize * ELEMENT);
        unroll!(pixels TILE, i, {
            let to = to.add(pixels[i][1] as usize * ELEMENT);
            store(sums[i], to, strip.count as usize, job.clamp);
        });
    }
}

/// A depthwise convolution.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
unsafe fn chunks<const WIDE: bool>(job: &Depthwise, base: Base) {
    let groups = job.taps.as_chunks::<2>().0;
    for chunk in &job.chunks {
        // SAFETY: taps, weights and constants of the chunk's phase lie in their memory; what a
        // vector reads behind its elements lies in the slack.
        unsafe {
            let from = base.data.cast_const().add(chunk.input as usize * ELEMENT);
            let phase = chunk.phase as usize;
            let lanes = base
                .constants
                .add(job.lanes + 2 * CONSTANTS * VECTOR * phase);
            let mut weights = base.constants;
            weights = weights.add(job.weights + 2 * VECTOR * groups.len() * phase);
            let mut sums = [vector(lanes), vector(lanes.add(CONSTANTS * VECTOR))];
            for group in groups {
                let tap =
                    |it: u32| _mm256_loadu_si256(from.add(it as usize * ELEMENT).cast::<__m256i>());
                let (a, b) = (tap(group[0]), tap(group[1]));
                let pairs = [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
                unroll!(blocks 2, j, {
                    let products = _mm256_madd_epi16(pairs[j], vector(weights.add(VECTOR * j)));
                    sums[j] = _mm256_add_epi32(sums[j], products);
                });
                weights = weights.add(2 * VECTOR);
            }
            unroll!(blocks 2, j, {
                let scale = scale(lanes.add(CONSTANTS * VECTOR * j));
                sums[j] = requantize::<WIDE>(sums[j], &scale);
            });
            let to = base.data.add(chunk.output as usize * ELEMENT);
            store(sums, to, usize::from(chunk.count), job.clamp);
        }
    }
}

/// One addend of a sum, scaled to the common scale.
#[inline]
#[target_feature(enable = "avx2")]
fn addend(elements: __m256i, it: &Addend) -> __m256i {
    let value = _mm256_sub_epi32(elements, _mm256_set1_epi32(it.zero));
    let low = _mm256_mullo_epi32(value, _mm256_set1_epi32(it.low));
    let low = _mm256_srai_epi32::<11>(_mm256_add_epi32(low, _mm256_set1_epi32(1 << 10)));
    let product = _mm256_mullo_epi32(value, _mm256_set1_epi32(it.high));
    let product = _mm256_add_epi32(product, low);
    let scaled = if it.shift == 0 {
        product
    } else {
        // Halves go away from zero.
        let half = _mm256_set1_epi32(1 << (it.shift - 1));
        let sign = _mm256_srai_epi32::<31>(product);
        let rounded = _mm256_add_epi32(_mm256_add_epi32(product, half), sign);
        _mm256_srav_epi32(rounded, _mm256_set1_epi32(it.shift))
    };
    if it.negative {
        _mm256_sub_epi32(_mm256_setzero_si256(), scaled)
    } else {
        scaled
    }
}

/// A sum of two tensors.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn sum(job: &Sum, base: Base) {
    // SAFETY: rows lie in memory, what a vector reads behind them in the slack.
    unsafe {
        let scale = scale(base.constants.add(job.lanes));
        for row in 0..job.rows.rows {
            let at = [0, 1, 2].map(|it| {
                let element = job.rows.first[it] + row * job.rows.pitch[it];
                base.data.add(element * ELEMENT)
            });
            for column in (0..job.rows.len).step_by(8) {
                let load = |from: *mut u8| {
                    let from = from.add(column * ELEMENT);
                    _mm256_cvtepi16_epi32(_mm_loadu_si128(from.cast()))
                };
                let a = addend(load(at[0]), &job.addends[0]);
                let b = addend(load(at[1]), &job.addends[1]);
                let both = _mm256_add_epi32(a, b);
                let value = if job.wide {
                    requantize::<true>(both, &scale)
                } else {
                    requantize::<false>(both, &scale)
                };
                let count = (job.rows.len - column).min(8);
                store([value], at[2].add(column * ELEMENT), count, job.clamp);
            }
        }
    }
}

/// Averages or maxima.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn pool(job: &Pool, base: Base) {
    let clamp = Clamp {
        min: i32::from(job.min),
        max: i32::from(job.max),
    };
    for spot in &job.spots {
        for channel in (0..job.channels).step_by(16) {
            let taps = i32::from(spot.rows) * i32::from(spot.columns);
            // SAFETY: the part of the window that `build` worked out lies in the tensor, what a vector
            // reads behind it in the slack.
            unsafe {
                let mut total = _mm256_set1_epi16(if job.maximum { i16::MIN } else { 0 });
                for row in 0..usize::from(spot.rows) {
                    let row = spot.input as usize + row * job.pitch + channel;
                    for column in 0..usize::from(spot.columns) {
                        let at = base.data.add((row + column * job.channels) * ELEMENT);
                        let values = _mm256_loadu_si256(at.cast());
                        total = if job.maximum {
                            _mm256_max_epi16(total, values)
                        } else {
                            _mm256_add_epi16(total, values)
                        };
                    }
                }
                let halves = [
                    _mm256_cvtepi16_epi32(_mm256_castsi256_si128(total)),
                    _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(total)),
                ];
                let to = base.data.add((spot.output as usize + channel) * ELEMENT);
                for (half, values) in halves.into_iter().enumerate() {
                    let first = channel + 8 * half;
                    if first >= job.channels {
                        break;
                    }
                    let values = if job.maximum {
                        values
                    } else {
                        average(values, taps)
                    };
                    let count = (job.channels - first).min(8);
                    store([values], to.add(8 * half * ELEMENT), count, clamp);
                }
            }
        }
    }
}

/// The average of `taps` elements whose sum is given; halves go away from zero.
///
/// Sum and divisor are below 2^17, so that the quotient in single precision is the nearest number
/// and never rounds up to an integer that it does not reach.
#[inline]
#[target_feature(enable = "avx2")]
fn average(total: __m256i, taps: i32) -> __m256i {
    let half = _mm256_sign_epi32(_mm256_set1_epi32(taps / 2), total);
    let rounded = _mm256_cvtepi32_ps(_mm256_add_epi32(total, half));
    _mm256_cvttps_epi32(_mm256_div_ps(rounded, _mm256_set1_ps(taps as f32)))
}
