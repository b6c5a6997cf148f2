//! NEON as every AArch64 processor has it: products of 16 bits, added in pairs.

use core::arch::aarch64::{
    vget_low_s8, vmull_high_s8, vmull_s8, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s32,
    vzip1q_s32, vzip2q_s32,
};

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
    "neon";
    4: 1 2 3;
    1: 1 4 8;
    pieces: 1
}

/// Accumulators of four channels: two adjacent lanes a channel.
type Pairs = [V; 2];

#[inline]
#[target_feature(enable = "neon")]
fn begin(bias: V) -> Pairs {
    [vzip1q_s32(bias, zeros()), vzip2q_s32(bias, zeros())]
}

/// `sums` with the products of four bytes each added.
#[inline]
#[target_feature(enable = "neon")]
fn dot(sums: Pairs, group: V, columns: V) -> Pairs {
    let (group, columns) = (vreinterpretq_s8_s32(group), vreinterpretq_s8_s32(columns));
    let low = vmull_s8(vget_low_s8(columns), vget_low_s8(group));
    let high = vmull_high_s8(columns, group);
    [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)]
}

#[inline]
#[target_feature(enable = "neon")]
fn end(sums: Pairs) -> V {
    vpaddq_s32(sums[0], sums[1])
}
