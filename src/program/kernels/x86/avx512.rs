//! AVX-512 with VNNI: elements are bytes, 128 above their value, since `vpdpbusd` multiplies unsigned
//! by signed bytes; biases have 128 times the sum of the weights taken off.

use core::arch::x86_64::{
    __m512i, _mm_mask_storeu_epi8, _mm_storel_epi64, _mm_storeu_si128, _mm256_loadu_si256,
    _mm256_mask_storeu_epi8, _mm256_storeu_si256, _mm512_add_epi16, _mm512_add_epi32,
    _mm512_add_epi64, _mm512_and_si512, _mm512_castsi128_si512, _mm512_castsi512_si128,
    _mm512_castsi512_si256, _mm512_cvtepi16_epi8, _mm512_cvtepi32_epi8, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi16, _mm512_cvtepu16_epi32, _mm512_cvttps_epi32, _mm512_div_ps,
    _mm512_dpbusd_epi32, _mm512_extracti32x4_epi32, _mm512_extracti64x4_epi64, _mm512_load_si512,
    _mm512_loadu_si512, _mm512_mask_shuffle_epi32, _mm512_mask_storeu_epi8, _mm512_mask_sub_epi32,
    _mm512_max_epi16, _mm512_max_epi32, _mm512_max_epu8, _mm512_min_epi16, _mm512_min_epi32,
    _mm512_min_epu8, _mm512_mul_epi32, _mm512_mullo_epi32, _mm512_packs_epi32, _mm512_packus_epi16,
    _mm512_permutexvar_epi32, _mm512_set_epi32, _mm512_set1_epi8, _mm512_set1_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_sllv_epi32, _mm512_srai_epi32,
    _mm512_srav_epi32, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi32,
    _mm512_unpackhi_epi8, _mm512_unpackhi_epi16, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
};

use crate::program::kernels::packed::jobs::{Addend, Clamp, Conv, Depthwise, Pool, Strip, Sum};
use crate::program::kernels::packed::run::Base;
use crate::program::kernels::tiles::{strips, unroll};

/// Bytes of a vector.
const VECTOR: usize = 64;
/// Vectors of constants of sixteen channels, as `pack::lanes` writes them.
const CONSTANTS: usize = 7;

/// What requantizes sixteen accumulators.
#[derive(Clone, Copy)]
struct Scale {
    multiplier: __m512i,
    multiplier_odd: __m512i,
    even: __m512i,
    odd: __m512i,
    right: __m512i,
    left: __m512i,
    sign: __m512i,
}

/// A vector of the packed constants.
///
/// # Safety
/// `at` points to a vector at a multiple of 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn vector(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_load_si512(at.cast()) }
}

/// # Safety
/// `at` points to the constants of sixteen channels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn scale(at: *const u8) -> Scale {
    // SAFETY: the constants are seven vectors.
    unsafe {
        let multiplier = vector(at.add(VECTOR));
        Scale {
            multiplier,
            multiplier_odd: _mm512_srli_epi64::<32>(multiplier),
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn requantize<const WIDE: bool>(sums: __m512i, scale: &Scale) -> __m512i {
    let sums = if WIDE {
        _mm512_sllv_epi32(sums, scale.left)
    } else {
        sums
    };
    let mut sign = _mm512_srai_epi32::<31>(sums);
    if WIDE {
        sign = _mm512_and_si512(sign, scale.sign);
    }
    let doubled = _mm512_add_epi32(sums, sums);
    let even = _mm512_mul_epi32(doubled, scale.multiplier);
    let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(doubled), scale.multiplier_odd);
    let even = _mm512_add_epi64(even, scale.even);
    let odd = _mm512_add_epi64(odd, scale.odd);
    // The upper halves of both: those of the even lanes come down into their places.
    let high = _mm512_mask_shuffle_epi32::<0xf5>(odd, 0x5555, even);
    _mm512_srav_epi32(_mm512_add_epi32(high, sign), scale.right)
}

/// Clamps, packs and stores `count` channels of a pixel.
///
/// # Safety
/// `to` has room for `count` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn store<const BLOCKS: usize>(
    values: [__m512i; BLOCKS],
    to: *mut u8,
    count: usize,
    clamp: Clamp,
) {
    let (min, max) = (clamp.min, clamp.max);
    // SAFETY: whole vectors are stored where all of their channels exist, masked ones elsewhere.
    unsafe {
        if BLOCKS == 4 {
            let low = _mm512_packs_epi32(values[0], values[1]);
            let high = _mm512_packs_epi32(values[2], values[3]);
            let all = _mm512_packus_epi16(low, high);
            let all = _mm512_max_epu8(all, _mm512_set1_epi8(min as i8));
            let all = _mm512_min_epu8(all, _mm512_set1_epi8(max as i8));
            if count >= 64 {
                _mm512_storeu_si512(to.cast(), all);
            } else {
                _mm512_mask_storeu_epi8(to.cast(), (1 << count) - 1, all);
            }
        } else if BLOCKS == 2 {
            let all = _mm512_packs_epi32(values[0], values[1]);
            let all = _mm512_max_epi16(all, _mm512_set1_epi16(min as i16));
            let all = _mm512_min_epi16(all, _mm512_set1_epi16(max as i16));
            let all = _mm512_cvtepi16_epi8(all);
            if count >= 32 {
                _mm256_storeu_si256(to.cast(), all);
            } else {
                _mm256_mask_storeu_epi8(to.cast(), (1 << count) - 1, all);
            }
        } else {
            let all = _mm512_max_epi32(values[0], _mm512_set1_epi32(min));
            let all = _mm512_cvtepi32_epi8(_mm512_min_epi32(all, _mm512_set1_epi32(max)));
            if count >= 16 {
                _mm_storeu_si128(to.cast(), all);
            } else {
                _mm_mask_storeu_epi8(to.cast(), (1 << count) - 1, all);
            }
        }
    }
}

/// Clamps, packs and stores `count` channels of four pixels.
///
/// # Safety
/// Each of `to` has room for `count` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn store_four(values: [__m512i; 4], to: [*mut u8; 4], count: usize, clamp: Clamp) {
    let low = _mm512_packs_epi32(values[0], values[1]);
    let all = _mm512_packus_epi16(low, _mm512_packs_epi32(values[2], values[3]));
    let all = _mm512_max_epu8(all, _mm512_set1_epi8(clamp.min as i8));
    let all = _mm512_min_epu8(all, _mm512_set1_epi8(clamp.max as i8));
    // Packing left four channels of each pixel in every 128 bits.
    let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let all = _mm512_permutexvar_epi32(order, all);
    let pixels = [
        _mm512_castsi512_si128(all),
        _mm512_extracti32x4_epi32::<1>(all),
        _mm512_extracti32x4_epi32::<2>(all),
        _mm512_extracti32x4_epi32::<3>(all),
    ];
    for (pixel, to) in pixels.into_iter().zip(to) {
        // SAFETY: the caller's promise; channels that do not exist are masked.
        unsafe {
            match count {
                16.. => _mm_storeu_si128(to.cast(), pixel),
                8 => _mm_storel_epi64(to.cast(), pixel),
                _ => _mm_mask_storeu_epi8(to.cast(), (1 << count) - 1, pixel),
            }
        }
    }
}

/// A convolution.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn conv(job: &Conv, base: Base) {
    for strip in &job.strips {
        // SAFETY: the caller's promise; `build` chose a tile of at most as many pixels as there are.
        unsafe {
            strips! { strip, conv_strip(job, strip, base);
                4: 1 2 3 4 5 6;
                2: 1 2 3 4 6 8;
                1: 1 2 4 8 12;
            }
        }
    }
}

/// One strip of channels for all pixels; the last tile goes back over pixels of the one before.
///
/// # Safety
/// As [`conv`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
        let mut sums = [[_mm512_setzero_si512(); BLOCKS]; TILE];
        unroll!(blocks BLOCKS, j, {
            let bias = vector(lanes.add(CONSTANTS * VECTOR * j));
            unroll!(pixels TILE, i, { sums[i][j] = bias; });
        });
        let mut weights = base.constants.add(strip.weights);
        for &run in &job.runs {
            let mut at = run as usize;
            let end = at + 4 * job.groups;
            while at < end {
                let mut columns = [_mm512_setzero_si512(); BLOCKS];
                unroll!(blocks BLOCKS, j, { columns[j] = vector(weights.add(VECTOR * j)); });
                weights = weights.add(VECTOR * BLOCKS);
                unroll!(pixels TILE, i, {
                    let group = from[i].add(at).cast::<i32>().read_unaligned();
                    let group = _mm512_set1_epi32(group);
                    unroll!(blocks BLOCKS, j, {
                        sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], group, columns[j]);
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
        let count = strip.count as usize;
        if BLOCKS == 1 && TILE.is_multiple_of(4) {
            unroll!(pixels TILE, i, {
                if i.is_multiple_of(4) {
                    let four = [sums[i][0], sums[i + 1][0], sums[i + 2][0], sums[i + 3][0]];
                    let to = [0, 1, 2, 3].map(|it| to.add(pixels[i + it][1] as usize));
                    store_four(four, to, count, job.clamp);
                }
            });
            return;
        }
        unroll!(pixels TILE, i, {
            let to = to.add(pixels[i][1] as usize);
            store(sums[i], to, count, job.clamp);
        });
    }
}

/// Four vectors of taps, turned so that the four taps of a channel lie together.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn interleave(taps: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = taps;
    let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
    let (low2, high2) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(low, low2),
        _mm512_unpackhi_epi16(low, low2),
        _mm512_unpacklo_epi16(high, high2),
        _mm512_unpackhi_epi16(high, high2),
    ]
}

/// A depthwise convolution.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn depthwise(job: &Depthwise, base: Base) {
    // SAFETY: the caller's promise.
    unsafe {
        match (job.pieces, job.wide) {
            (1, false) => chunks::<1, false>(job, base),
            (1, true) => chunks::<1, true>(job, base),
            (2, false) => chunks::<2, false>(job, base),
            (2, true) => chunks::<2, true>(job, base),
            (_, false) => chunks::<4, false>(job, base),
            (_, true) => chunks::<4, true>(job, base),
        }
    }
}

/// A vector made of `PIECES` stretches that lie `step` apart.
///
/// # Safety
/// Each stretch can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn gather<const PIECES: usize>(at: *const u8, step: usize) -> __m512i {
    use core::arch::x86_64::{
        _mm_loadu_si128, _mm512_castsi256_si512, _mm512_inserti32x4, _mm512_inserti64x4,
    };
    // SAFETY: the caller's promise.
    unsafe {
        match PIECES {
            1 => _mm512_loadu_si512(at.cast()),
            2 => {
                let low = _mm512_castsi256_si512(_mm256_loadu_si256(at.cast()));
                _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(at.add(step).cast()))
            }
            _ => {
                let all = _mm512_castsi128_si512(_mm_loadu_si128(at.cast()));
                let all = _mm512_inserti32x4::<1>(all, _mm_loadu_si128(at.add(step).cast()));
                let all = _mm512_inserti32x4::<2>(all, _mm_loadu_si128(at.add(2 * step).cast()));
                _mm512_inserti32x4::<3>(all, _mm_loadu_si128(at.add(3 * step).cast()))
            }
        }
    }
}

/// # Safety
/// As [`depthwise`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn chunks<const PIECES: usize, const WIDE: bool>(job: &Depthwise, base: Base) {
    let groups = job.taps.as_chunks::<4>().0;
    let step = job.steps[0] as usize;
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
            weights = weights.add(job.weights + 4 * VECTOR * groups.len() * phase);
            let mut sums = [_mm512_setzero_si512(); 4];
            unroll!(blocks 4, j, { sums[j] = vector(lanes.add(CONSTANTS * VECTOR * j)); });
            for group in groups {
                let mut taps = [_mm512_setzero_si512(); 4];
                unroll!(blocks 4, k, {
                    taps[k] = gather::<PIECES>(from.add(group[k] as usize), step);
                });
                let taps = interleave(taps);
                unroll!(blocks 4, j, {
                    let column = vector(weights.add(VECTOR * j));
                    sums[j] = _mm512_dpbusd_epi32(sums[j], taps[j], column);
                });
                weights = weights.add(4 * VECTOR);
            }
            unroll!(blocks 4, j, {
                let scale = scale(lanes.add(CONSTANTS * VECTOR * j));
                sums[j] = requantize::<WIDE>(sums[j], &scale);
            });
            let to = base.data.add(chunk.output as usize);
            scatter::<PIECES>(sums, to, job, usize::from(chunk.count));
        }
    }
}

/// Stores the pieces of a vector where they belong.
///
/// # Safety
/// Each piece has room for `count` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn scatter<const PIECES: usize>(
    sums: [__m512i; 4],
    to: *mut u8,
    job: &Depthwise,
    count: usize,
) {
    // SAFETY: the caller's promise; the pieces are copied from a vector on the stack.
    unsafe {
        if PIECES == 1 {
            return store(sums, to, count, job.clamp);
        }
        let mut bytes = [0_u8; VECTOR];
        store(sums, bytes.as_mut_ptr(), VECTOR, job.clamp);
        for piece in 0..PIECES {
            let from = bytes.as_ptr().add(piece * (VECTOR / PIECES));
            let to = to.add(piece * job.steps[1] as usize);
            if count == VECTOR / PIECES {
                core::ptr::copy_nonoverlapping(from, to, VECTOR / PIECES);
            } else {
                core::ptr::copy_nonoverlapping(from, to, count);
            }
        }
    }
}

/// One addend of a sum, scaled to the common scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn addend(elements: __m512i, it: &Addend) -> __m512i {
    let value = _mm512_sub_epi32(elements, _mm512_set1_epi32(it.zero));
    let low = _mm512_mullo_epi32(value, _mm512_set1_epi32(it.low));
    let low = _mm512_srai_epi32::<11>(_mm512_add_epi32(low, _mm512_set1_epi32(1 << 10)));
    let product = _mm512_mullo_epi32(value, _mm512_set1_epi32(it.high));
    let product = _mm512_add_epi32(product, low);
    let scaled = if it.shift == 0 {
        product
    } else {
        // Halves go away from zero.
        let half = _mm512_set1_epi32(1 << (it.shift - 1));
        let sign = _mm512_srai_epi32::<31>(product);
        let rounded = _mm512_add_epi32(_mm512_add_epi32(product, half), sign);
        _mm512_srav_epi32(rounded, _mm512_set1_epi32(it.shift))
    };
    if it.negative {
        _mm512_sub_epi32(_mm512_setzero_si512(), scaled)
    } else {
        scaled
    }
}

/// A sum of two tensors.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn sum(job: &Sum, base: Base) {
    // SAFETY: rows lie in memory, what a vector reads behind them in the slack.
    unsafe {
        let scale = scale(base.constants.add(job.lanes));
        for row in 0..job.rows.rows {
            let at =
                [0, 1, 2].map(|it| base.data.add(job.rows.first[it] + row * job.rows.pitch[it]));
            for column in (0..job.rows.len).step_by(VECTOR) {
                let mut values = widen(_mm512_loadu_si512(at[0].add(column).cast()));
                let others = widen(_mm512_loadu_si512(at[1].add(column).cast()));
                unroll!(blocks 4, j, {
                    let a = addend(values[j], &job.addends[0]);
                    let both = _mm512_add_epi32(a, addend(others[j], &job.addends[1]));
                    values[j] = if job.wide {
                        requantize::<true>(both, &scale)
                    } else {
                        requantize::<false>(both, &scale)
                    };
                });
                let count = (job.rows.len - column).min(VECTOR);
                store(values, at[2].add(column), count, job.clamp);
            }
        }
    }
}

/// Elements as numbers, in the order that packing undoes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn widen(elements: __m512i) -> [__m512i; 4] {
    let zero = _mm512_setzero_si512();
    let low = _mm512_unpacklo_epi8(elements, zero);
    let high = _mm512_unpackhi_epi8(elements, zero);
    [
        _mm512_unpacklo_epi16(low, zero),
        _mm512_unpackhi_epi16(low, zero),
        _mm512_unpacklo_epi16(high, zero),
        _mm512_unpackhi_epi16(high, zero),
    ]
}

/// Averages or maxima.
///
/// # Safety
/// The processor has the instructions; the job was built for them and for `base`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn pool(job: &Pool, base: Base) {
    for spot in &job.spots {
        for channel in (0..job.channels).step_by(32) {
            let taps = i32::from(spot.rows) * i32::from(spot.columns);
            // SAFETY: the part of the window that `build` worked out lies in the tensor, what a vector
            // reads behind it in the slack.
            unsafe {
                let mut total = _mm512_setzero_si512();
                for row in 0..usize::from(spot.rows) {
                    let row = base
                        .data
                        .add(spot.input as usize + row * job.pitch + channel);
                    for column in 0..usize::from(spot.columns) {
                        let at = row.add(column * job.channels);
                        let values = _mm512_cvtepu8_epi16(_mm256_loadu_si256(at.cast()));
                        total = if job.maximum {
                            _mm512_max_epi16(total, values)
                        } else {
                            _mm512_add_epi16(total, values)
                        };
                    }
                }
                let halves = [
                    _mm512_cvtepu16_epi32(_mm512_castsi512_si256(total)),
                    _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(total)),
                ];
                let to = base.data.add(spot.output as usize + channel);
                for (half, values) in halves.into_iter().enumerate() {
                    let first = channel + 16 * half;
                    if first >= job.channels {
                        break;
                    }
                    let values = if job.maximum {
                        values
                    } else {
                        average(values, taps)
                    };
                    let clamp = Clamp {
                        min: i32::from(job.min) + 128,
                        max: i32::from(job.max) + 128,
                    };
                    let count = (job.channels - first).min(16);
                    store([values], to.add(16 * half), count, clamp);
                }
            }
        }
    }
}

/// The average of `taps` elements whose sum is given, as an element; halves go away from zero.
///
/// Sum and divisor are below 2^17, so that the quotient in single precision is the nearest number
/// and never rounds up to an integer that it does not reach.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn average(total: __m512i, taps: i32) -> __m512i {
    use core::arch::x86_64::_mm512_cmplt_epi32_mask;
    let total = _mm512_sub_epi32(total, _mm512_set1_epi32(128 * taps));
    let half = _mm512_set1_epi32(taps / 2);
    let negative = _mm512_cmplt_epi32_mask(total, _mm512_setzero_si512());
    let up = _mm512_add_epi32(total, half);
    let rounded = _mm512_mask_sub_epi32(up, negative, total, half);
    let quotient = _mm512_div_ps(_mm512_cvtepi32_ps(rounded), _mm512_set1_ps(taps as f32));
    let average = _mm512_cvttps_epi32(quotient);
    _mm512_add_epi32(average, _mm512_set1_epi32(128))
}
