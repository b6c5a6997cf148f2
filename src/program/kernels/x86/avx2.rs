//! AVX2: elements are 16 bits, since `vpmaddwd` adds two products of those without saturating.

use core::arch::x86_64::{
    __m128i, __m256i, _mm_storeu_si128, _mm256_add_epi16, _mm256_add_epi32 as add,
    _mm256_add_epi64 as add_wide, _mm256_and_si256 as and, _mm256_blend_epi32,
    _mm256_castsi256_si128, _mm256_cvtepi32_ps as to_floats, _mm256_cvttps_epi32 as truncate,
    _mm256_div_ps as divide, _mm256_extracti128_si256, _mm256_load_si256, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_max_epi16, _mm256_min_epi16, _mm256_mul_epi32 as multiply_even,
    _mm256_packs_epi32, _mm256_permute4x64_epi64, _mm256_set1_epi16, _mm256_set1_epi32 as splat,
    _mm256_set1_ps as splat_float, _mm256_setzero_si256 as zeros, _mm256_shuffle_epi32,
    _mm256_sllv_epi32 as shift_left_each, _mm256_srai_epi32 as shift_right,
    _mm256_srav_epi32 as shift_right_each, _mm256_srli_epi64, _mm256_storeu_si256,
    _mm256_sub_epi32 as sub, _mm256_unpackhi_epi16, _mm256_unpacklo_epi16, _mm256_xor_si256 as xor,
};

use super::requantization;
use crate::program::kernels::packed::jobs::{Clamp, Conv, Depthwise, Pool, Strip, Sum};
use crate::program::kernels::packed::run::Base;
use crate::program::kernels::vectors::{kernels, unroll};

type V = __m256i;

/// Bytes of a vector.
const VECTOR: usize = 32;
/// Bytes of an element.
const ELEMENT: usize = 2;
/// Vectors of numbers of one of elements.
const BLOCKS: usize = 2;
/// Taps that a step of a depthwise convolution takes, and vectors of their weights.
const TAPS: usize = 2;
const COLUMNS: usize = 2;
/// What elements lie above their value.
const BIAS: i32 = 0;

requantization!("avx2");
kernels! {
    "avx2";
    2: 1 2 4 5;
    1: 1 4 8;
    pieces: 1
}

/// A vector of the packed constants.
///
/// # Safety
/// `at` points to a vector at a multiple of 32.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn vector(at: *const u8) -> V {
    // SAFETY: the caller's promise.
    unsafe { _mm256_load_si256(at.cast()) }
}

/// Odd lanes in the places of even ones.
#[inline]
#[target_feature(enable = "avx2")]
fn down(values: V) -> V {
    _mm256_srli_epi64::<32>(values)
}

/// The upper halves of products; those of the even lanes come down into their places.
#[inline]
#[target_feature(enable = "avx2")]
fn merge(even: V, odd: V) -> V {
    _mm256_blend_epi32::<0x55>(odd, _mm256_shuffle_epi32::<0xf5>(even))
}

/// # Safety
/// Four bytes can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group(at: *const u8) -> V {
    // SAFETY: the caller's promise.
    splat(unsafe { at.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx2")]
fn begin(bias: V) -> V {
    bias
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot(sums: V, group: V, columns: V) -> V {
    add(sums, _mm256_madd_epi16(group, columns))
}

#[inline]
#[target_feature(enable = "avx2")]
fn end(sums: V) -> V {
    sums
}

/// Saturated to 16 bits, within limits.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(low: V, high: V, clamp: Clamp) -> V {
    let all = _mm256_packs_epi32(low, high);
    let all = _mm256_max_epi16(all, _mm256_set1_epi16(clamp.min as i16));
    _mm256_min_epi16(all, _mm256_set1_epi16(clamp.max as i16))
}

/// Clamps, packs and stores `count` channels of a pixel.
///
/// # Safety
/// `to` has room for `count` elements.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const N: usize>(values: [V; N], to: *mut u8, count: usize, clamp: Clamp) {
    // SAFETY: whole vectors are stored where all of their channels exist; otherwise the channels that
    // exist are copied from the stack.
    unsafe {
        let mut all = narrow(values[0], values[N - 1], clamp);
        if N == 1 {
            // Both halves of the one vector beside each other.
            all = _mm256_permute4x64_epi64::<0b1000>(all);
        } else if count >= 16 {
            return _mm256_storeu_si256(to.cast(), all);
        }
        store_half(_mm256_castsi256_si128(all), to, count.min(8));
        if N == 2 && count > 8 {
            let rest = _mm256_extracti128_si256::<1>(all);
            store_half(rest, to.add(8 * ELEMENT), count - 8);
        }
    }
}

/// Clamps, packs and stores `count` channels of four pixels.
///
/// # Safety
/// Each of `to` has room for `count` elements.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_four(values: [V; 4], to: [*mut u8; 4], count: usize, clamp: Clamp) {
    for pixels in [[0, 1], [2, 3]] {
        let both = narrow(values[pixels[0]], values[pixels[1]], clamp);
        // Packing left four channels of each pixel in every 128 bits.
        let both = _mm256_permute4x64_epi64::<0b1101_1000>(both);
        // SAFETY: the caller's promise.
        unsafe {
            store_half(_mm256_castsi256_si128(both), to[pixels[0]], count.min(8));
            let second = _mm256_extracti128_si256::<1>(both);
            store_half(second, to[pixels[1]], count.min(8));
        }
    }
}

/// Stores up to eight elements.
///
/// # Safety
/// `to` has room for `count` elements.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_half(elements: __m128i, to: *mut u8, count: usize) {
    // SAFETY: the caller's promise; what does not exist is not copied from the stack.
    unsafe {
        if count == 8 {
            return _mm_storeu_si128(to.cast(), elements);
        }
        let mut copy = [0_i16; 8];
        _mm_storeu_si128(copy.as_mut_ptr().cast(), elements);
        core::ptr::copy_nonoverlapping(copy.as_ptr().cast(), to, count * ELEMENT);
    }
}

/// Sums with the products of two taps added.
///
/// # Safety
/// Taps and their weights can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn multiply_taps<const PIECES: usize>(
    sums: [V; BLOCKS],
    from: *const u8,
    taps: &[u32; TAPS],
    _: usize,
    weights: *const u8,
) -> [V; BLOCKS] {
    // SAFETY: the caller's promise.
    unsafe {
        let tap = |it: usize| _mm256_loadu_si256(from.add(taps[it] as usize * ELEMENT).cast());
        let (a, b): (V, V) = (tap(0), tap(1));
        let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
        [
            dot(sums[0], low, vector(weights)),
            dot(sums[1], high, vector(weights.add(VECTOR))),
        ]
    }
}

/// Stores the outputs of a depthwise convolution.
///
/// # Safety
/// `to` has room for `count` elements.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scatter<const PIECES: usize>(
    sums: [V; BLOCKS],
    to: *mut u8,
    job: &Depthwise,
    count: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { store(sums, to, count, job.clamp) }
}

/// Pairs of elements, in the order that packing undoes.
///
/// # Safety
/// Vectors can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pairs(a: *const u8, b: *const u8) -> [V; BLOCKS] {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast())) };
    [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)]
}

/// `sums` with the products of pairs and coefficients added.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_pairs(sums: V, pairs: V, coefficients: V) -> V {
    add(sums, _mm256_madd_epi16(pairs, coefficients))
}

type Totals = V;

#[inline]
#[target_feature(enable = "avx2")]
fn totals(maximum: bool) -> Totals {
    _mm256_set1_epi16(if maximum { i16::MIN } else { 0 })
}

/// # Safety
/// A vector can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn collect(all: Totals, at: *const u8, maximum: bool) -> Totals {
    // SAFETY: the caller's promise.
    let values = unsafe { _mm256_loadu_si256(at.cast()) };
    if maximum {
        _mm256_max_epi16(all, values)
    } else {
        _mm256_add_epi16(all, values)
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn spread(all: Totals) -> [V; BLOCKS] {
    [
        shift_right::<16>(_mm256_unpacklo_epi16(all, all)),
        shift_right::<16>(_mm256_unpackhi_epi16(all, all)),
    ]
}
