//! Four logits at once, by SSE2.

use super::{FIRST, LN_2, LN_2_REST, MOST, OTHERS, ROUND, Terms};
use crate::four::{load, store};
use core::arch::x86_64::{
    __m128, _mm_add_epi32, _mm_add_ps, _mm_andnot_ps, _mm_castps_si128, _mm_castsi128_ps,
    _mm_cmplt_ps, _mm_div_ps, _mm_max_ps, _mm_mul_ps, _mm_set1_epi32, _mm_set1_ps, _mm_slli_epi32,
    _mm_sub_ps,
};

/// See [`super::terms`].
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn terms(under: [f32; 4], temperature: f32) -> Terms {
    let z = _mm_div_ps(load(&under), _mm_set1_ps(temperature));
    let within = _mm_max_ps(z, _mm_set1_ps(-MOST));
    let nothing = _mm_cmplt_ps(z, _mm_set1_ps(-MOST));
    let found = _mm_andnot_ps(nothing, exp(within));
    let (mut shares, mut below) = ([0.0; 4], [0.0; 4]);
    store(&mut shares, found);
    store(&mut below, _mm_mul_ps(found, within));
    Terms { shares, below }
}

/// The exponential of numbers from -[`MOST`] to 0: the operations of `exp_of_negative`, in their order.
#[inline]
#[target_feature(enable = "sse2")]
fn exp(x: __m128) -> __m128 {
    let round = _mm_set1_ps(ROUND);
    let log2_e = _mm_set1_ps(core::f32::consts::LOG2_E);
    let shifted = _mm_add_ps(_mm_mul_ps(x, log2_e), round);
    let n = _mm_sub_ps(shifted, round);
    let rest = _mm_sub_ps(x, _mm_mul_ps(n, _mm_set1_ps(LN_2)));
    let rest = _mm_sub_ps(rest, _mm_mul_ps(n, _mm_set1_ps(LN_2_REST)));
    let mut sum = _mm_set1_ps(FIRST);
    for coefficient in OTHERS {
        sum = _mm_add_ps(_mm_mul_ps(sum, rest), _mm_set1_ps(coefficient));
    }
    let fraction = _mm_add_ps(_mm_mul_ps(sum, _mm_mul_ps(rest, rest)), rest);
    let fraction = _mm_add_ps(fraction, _mm_set1_ps(1.0));
    let exponent = _mm_add_epi32(_mm_castps_si128(shifted), _mm_set1_epi32(127));
    _mm_mul_ps(fraction, _mm_castsi128_ps(_mm_slli_epi32::<23>(exponent)))
}
