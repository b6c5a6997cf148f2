//! Kernels of packed programs for x86-64.
//!
//! Accumulators are exact 32-bit sums. Requantization is that of [`crate::program::arith`] in vectors:
//! even and odd lanes are multiplied to 64 bits, what both roundings and the zero point add is added
//! there at once (`build` works it out), and the sign of the accumulator sends halves away from zero.
#![allow(unsafe_code)]

pub(super) mod avx2;
pub(super) mod avx512;
