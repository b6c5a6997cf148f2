//! NEON with its dot product of bytes.

use super::neon::{
    BIAS, BLOCKS, COLUMNS, CONSTANTS, ELEMENT, TAPS, V, VECTOR, add, coefficients, collect, divide,
    group, multiply_pairs, multiply_taps, pairs, requantize, scale, scatter, shift_right,
    shift_right_all, splat, splat_float, spread, store, store_four, sub, to_floats, totals,
    truncate, vector, xor, zeros,
};
use crate::program::kernels::packed::jobs::{Clamp, Conv, Depthwise, Pool, Strip, Sum};
use crate::program::kernels::packed::run::Base;
use crate::program::kernels::vectors::{kernels, unroll};

kernels! {
    "neon,dotprod";
    4: 1 2 4 5;
    1: 1 4 8;
    pieces: 1
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn begin(bias: V) -> V {
    bias
}

/// `sums` with the dot products of four bytes each added.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(sums: V, group: V, columns: V) -> V {
    let mut sums = sums;
    // SAFETY: the instruction reads and writes registers only, and is part of `dotprod`. The
    // intrinsic for it is not stable yet.
    unsafe {
        core::arch::asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) columns,
            b = in(vreg) group,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn end(sums: V) -> V {
    sums
}
