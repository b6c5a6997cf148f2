//! Four numbers at once, by SSE2.
//!
//! For targets that have it: all of x86-64 but those that leave its vectors alone, as kernels and boot code do
//! (`x86_64-unknown-none`). What uses this has a portable way beside it.
#![allow(unsafe_code)]

use core::arch::x86_64::{
    __m128, __m128i, _mm_and_ps, _mm_castsi128_ps, _mm_cmpnlt_ps, _mm_loadu_ps, _mm_loadu_si128,
    _mm_movemask_ps, _mm_set1_epi32, _mm_set1_ps, _mm_storeu_ps, _mm_storeu_si128,
};

// Whoever calls what is compiled here rests on that.
const _: () = assert!(cfg!(target_feature = "sse2"));

/// The four of `all` from `at` on, if there are so many.
#[inline]
pub(crate) fn from<T, const F: usize>(all: &[T; F], at: usize) -> Option<&[T; 4]> {
    all.get(at..)?.first_chunk()
}

/// As [`from`], to be changed.
#[inline]
pub(crate) fn from_mut<T, const F: usize>(all: &mut [T; F], at: usize) -> Option<&mut [T; 4]> {
    all.get_mut(at..)?.first_chunk_mut()
}

#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn load(floats: &[f32; 4]) -> __m128 {
    // SAFETY: sixteen bytes to read, at any alignment.
    unsafe { _mm_loadu_ps(floats.as_ptr()) }
}

#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn store(floats: &mut [f32; 4], vector: __m128) {
    // SAFETY: sixteen bytes to write, at any alignment.
    unsafe { _mm_storeu_ps(floats.as_mut_ptr(), vector) }
}

#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn load_counts(counts: &[u32; 4]) -> __m128i {
    // SAFETY: sixteen bytes to read, at any alignment.
    unsafe { _mm_loadu_si128(counts.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn store_counts(counts: &mut [u32; 4], vector: __m128i) {
    // SAFETY: sixteen bytes to write, at any alignment.
    unsafe { _mm_storeu_si128(counts.as_mut_ptr().cast(), vector) }
}

/// Each without its sign.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn magnitude(vector: __m128) -> __m128 {
    _mm_and_ps(vector, _mm_castsi128_ps(_mm_set1_epi32(i32::MAX)))
}

/// A mask of those that are NaN or infinite.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn not_finite(vector: __m128) -> __m128 {
    _mm_cmpnlt_ps(magnitude(vector), _mm_set1_ps(f32::INFINITY))
}

/// Whether one of the first `N` of the four has its highest bit set.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn any_of<const N: usize>(mask: __m128) -> bool {
    _mm_movemask_ps(mask) & ((1 << N) - 1) != 0
}
