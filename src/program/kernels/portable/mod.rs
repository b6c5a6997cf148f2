//! Kernels for any processor, in safe code: the definition of every operator.
//!
//! Each is a loop over outputs in row-major order, all channels of a pixel together, in the
//! arithmetic of TensorFlow Lite Micro's reference kernels. Faster kernels equal these bit for bit.
//!
//! Accumulators are 32 bits and wrap, so that the order of additions is free and a hostile program
//! overflows without a panic; those of a program made from a model do not overflow.
//!
//! A kernel gives `None` when it would leave the arena or the program. The verifier promises that
//! it never does; a debug build asserts it.

mod conv;
mod elementwise;
mod pool;
mod rearrange;
mod softmax;
mod taps;

pub use conv::{conv, conv_add, dense, depthwise};
#[cfg(any(all(test, feature = "std"), all(target_arch = "arm", feature = "dsp")))]
pub(crate) use elementwise::sum;
pub use elementwise::{add, lookup, mul};
#[cfg(feature = "std")]
pub(crate) use elementwise::{first, joined, second};
pub use pool::{mean, pool};
pub use rearrange::{copy, fill};
pub use softmax::softmax;
#[cfg(feature = "std")]
pub(crate) use softmax::{exponentials, share, total};

use super::super::arith::requantize;
use super::super::op::{Channel, Quantizer};

/// `clamp(zero point + value, min, max)`.
#[inline]
pub(crate) fn clamp(value: i32, quantizer: &Quantizer) -> i8 {
    value
        .wrapping_add(i32::from(quantizer.zero_point))
        .max(i32::from(quantizer.min))
        .min(i32::from(quantizer.max)) as i8
}

/// What becomes of an accumulator that the channel's bias is part of.
#[inline]
pub(crate) fn finish(accumulator: i32, channel: &Channel, quantizer: &Quantizer) -> i8 {
    clamp(
        requantize(accumulator, channel.multiplier, channel.shift),
        quantizer,
    )
}

/// `length` elements of the arena from `at` on.
fn part(arena: &[i8], at: usize, length: usize) -> Option<&[i8]> {
    arena.get(at..at.checked_add(length)?)
}

/// `length` constants of the program from `at` on.
fn constants(program: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    program.get(at..at.checked_add(length)?)
}
