//! AVX-512 with VNNI: elements are bytes, 128 above their value, since `vpdpbusd` multiplies unsigned
//! by signed bytes; biases have 128 times the sum of the weights taken off.

use core::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm_mask_storeu_epi8, _mm_storel_epi64, _mm_storeu_si128,
    _mm256_loadu_si256, _mm256_mask_storeu_epi8, _mm256_storeu_si256, _mm512_add_epi16,
    _mm512_add_epi32 as add, _mm512_add_epi64 as add_wide, _mm512_and_si512 as and,
    _mm512_castsi128_si512, _mm512_castsi256_si512, _mm512_castsi512_si128, _mm512_cvtepi16_epi8,
    _mm512_cvtepi32_epi8, _mm512_cvtepi32_ps as to_floats, _mm512_cvttps_epi32 as truncate,
    _mm512_div_ps as divide, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_extracti32x4_epi32,
    _mm512_inserti32x4, _mm512_inserti64x4, _mm512_load_si512, _mm512_loadu_si512,
    _mm512_mask_shuffle_epi32, _mm512_mask_storeu_epi8, _mm512_max_epi16, _mm512_max_epi32,
    _mm512_max_epu8, _mm512_min_epi16, _mm512_min_epi32, _mm512_min_epu8,
    _mm512_mul_epi32 as multiply_even, _mm512_packs_epi32, _mm512_packus_epi16,
    _mm512_permutexvar_epi32, _mm512_set_epi32, _mm512_set1_epi8, _mm512_set1_epi16,
    _mm512_set1_epi32 as splat, _mm512_set1_ps as splat_float, _mm512_setzero_si512 as zeros,
    _mm512_sllv_epi32 as shift_left_each, _mm512_srai_epi32 as shift_right,
    _mm512_srav_epi32 as shift_right_each, _mm512_srli_epi64, _mm512_storeu_si512,
    _mm512_sub_epi32 as sub, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16, _mm512_unpacklo_epi8,
    _mm512_unpacklo_epi16, _mm512_xor_si512 as xor,
};

use super::requantization;
use crate::program::kernels::packed::jobs::{Clamp, Conv, Depthwise, Pool, Strip, Sum};
use crate::program::kernels::packed::run::Base;
use crate::program::kernels::vectors::{kernels, unroll};

type V = __m512i;

/// Bytes of a vector.
const VECTOR: usize = 64;
/// Bytes of an element.
const ELEMENT: usize = 1;
/// Vectors of numbers of one of elements.
const BLOCKS: usize = 4;
/// Taps that a step of a depthwise convolution takes, and vectors of their weights.
const TAPS: usize = 4;
const COLUMNS: usize = 4;
/// What elements lie above their value.
const BIAS: i32 = 128;

requantization!("avx512f,avx512bw,avx512vl,avx512vnni");
kernels! {
    "avx512f,avx512bw,avx512vl,avx512vnni";
    4: 1 2 3 4 5 6;
    2: 1 2 3 4 6 8;
    1: 1 2 4 8 12;
    pieces: 1 2 4
}

/// A vector of the packed constants.
///
/// # Safety
/// `at` points to a vector at a multiple of 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn vector(at: *const u8) -> V {
    // SAFETY: the caller's promise.
    unsafe { _mm512_load_si512(at.cast()) }
}

/// Odd lanes in the places of even ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn down(values: V) -> V {
    _mm512_srli_epi64::<32>(values)
}

/// The upper halves of products; those of the even lanes come down into their places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn merge(even: V, odd: V) -> V {
    _mm512_mask_shuffle_epi32::<0xf5>(odd, 0x5555, even)
}

/// # Safety
/// Four bytes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn group(at: *const u8) -> V {
    // SAFETY: the caller's promise.
    splat(unsafe { at.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn begin(bias: V) -> V {
    bias
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot(sums: V, group: V, columns: V) -> V {
    _mm512_dpbusd_epi32(sums, group, columns)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn end(sums: V) -> V {
    sums
}

/// Clamps, packs and stores `count` channels of a pixel.
///
/// # Safety
/// `to` has room for `count` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn store<const N: usize>(values: [V; N], to: *mut u8, count: usize, clamp: Clamp) {
    let (min, max) = (clamp.min, clamp.max);
    // SAFETY: whole vectors are stored where all of their channels exist, masked ones elsewhere.
    unsafe {
        if N == 4 {
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
        } else if N == 2 {
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
            let all = _mm512_max_epi32(values[0], splat(min));
            let all = _mm512_cvtepi32_epi8(_mm512_min_epi32(all, splat(max)));
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
unsafe fn store_four(values: [V; 4], to: [*mut u8; 4], count: usize, clamp: Clamp) {
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

/// Four vectors of taps, turned so that the four taps of a channel lie together.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn interleave(taps: [V; 4]) -> [V; 4] {
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

/// A vector made of `PIECES` stretches that lie `step` apart.
///
/// # Safety
/// Each stretch can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn gather<const PIECES: usize>(at: *const u8, step: usize) -> V {
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

/// Sums with the products of four taps added.
///
/// # Safety
/// Taps of all pieces, which lie `step` apart, and their weights can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_taps<const PIECES: usize>(
    sums: [V; BLOCKS],
    from: *const u8,
    taps: &[u32; TAPS],
    step: usize,
    weights: *const u8,
) -> [V; BLOCKS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut values = [zeros(); TAPS];
        unroll!(blocks TAPS, k, { values[k] = gather::<PIECES>(from.add(taps[k] as usize), step); });
        let values = interleave(values);
        let mut sums = sums;
        unroll!(blocks BLOCKS, j, {
            sums[j] = dot(sums[j], values[j], vector(weights.add(VECTOR * j)));
        });
        sums
    }
}

/// Stores the pieces of a vector where they belong.
///
/// # Safety
/// Each piece has room for `count` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn scatter<const PIECES: usize>(
    sums: [V; BLOCKS],
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

/// Elements as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn halves(elements: V) -> [V; 2] {
    [
        _mm512_unpacklo_epi8(elements, zeros()),
        _mm512_unpackhi_epi8(elements, zeros()),
    ]
}

/// Pairs of elements, in the order that packing undoes.
///
/// # Safety
/// Vectors can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn pairs(a: *const u8, b: *const u8) -> [V; BLOCKS] {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast())) };
    let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
    let (low, high) = (halves(low), halves(high));
    [low[0], low[1], high[0], high[1]]
}

/// `sums` with the products of pairs and coefficients added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_pairs(sums: V, pairs: V, coefficients: V) -> V {
    _mm512_dpwssd_epi32(sums, pairs, coefficients)
}

type Totals = [V; 2];

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn totals(_: bool) -> Totals {
    [zeros(); 2]
}

/// # Safety
/// A vector can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn collect(all: Totals, at: *const u8, maximum: bool) -> Totals {
    // SAFETY: the caller's promise.
    let [low, high] = halves(unsafe { _mm512_loadu_si512(at.cast()) });
    if maximum {
        [
            _mm512_max_epi16(all[0], low),
            _mm512_max_epi16(all[1], high),
        ]
    } else {
        [
            _mm512_add_epi16(all[0], low),
            _mm512_add_epi16(all[1], high),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn spread(all: Totals) -> [V; BLOCKS] {
    [
        _mm512_unpacklo_epi16(all[0], zeros()),
        _mm512_unpackhi_epi16(all[0], zeros()),
        _mm512_unpacklo_epi16(all[1], zeros()),
        _mm512_unpackhi_epi16(all[1], zeros()),
    ]
}
