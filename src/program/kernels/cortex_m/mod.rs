//! Kernels for the DSP extension of Cortex-M4 and M7 (feature `dsp`).
//!
//! Inner loops are naked functions, since stable Rust has no intrinsics for the extension and `asm!`
//! does not give `r6` and `r7`; what surrounds them is Rust on raw pointers, because a kernel reads
//! and writes one arena at a time. Everything leans on the verifier: a [`Step`] is only made of a
//! verified program and an arena of the stated size. What these kernels do not take (depthwise layers
//! of several outputs an input channel, averages of more than 255 elements, differences, scales of sums
//! and products that are a half or more) goes to the portable ones.
#![allow(unsafe_code)]

mod depthwise;
mod matrix;
mod pool;
mod product;
mod requantize;
mod sliding;
mod sum;
mod taps;
mod tile;
mod widen;
mod windows;

use super::super::exec::{Kernels, Step};
use super::super::layout;
use super::super::op::{Add, Channel, Conv, ConvAdd, Dense, Depthwise, Mul, Pool};

/// The kernels.
#[derive(Debug, Clone, Copy, Default)]
pub struct CortexM;

impl Kernels for CortexM {
    fn conv(&mut self, step: Step<'_, Conv>) {
        complete(windows::conv(step));
    }

    fn depthwise(&mut self, step: Step<'_, Depthwise>) {
        complete(depthwise::depthwise(step));
    }

    fn dense(&mut self, step: Step<'_, Dense>) {
        complete(matrix::dense(step));
    }

    fn conv_add(&mut self, step: Step<'_, ConvAdd>) {
        complete(windows::conv_add(step));
    }

    fn add(&mut self, step: Step<'_, Add>) {
        complete(sum::add(step));
    }

    fn mul(&mut self, step: Step<'_, Mul>) {
        complete(product::mul(step));
    }

    fn pool(&mut self, step: Step<'_, Pool>) {
        complete(pool::pool(step));
    }
}

/// A [`Channel`] as it lies in a program for Cortex-M.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Stored {
    bias: i32,
    multiplier: i32,
    shift: i32,
}

impl Stored {
    /// Flags of the operator whose first channel this is.
    const fn flags(&self) -> i32 {
        layout::flags(self.shift)
    }

    /// The channel as portable kernels see it.
    const fn natural(&self) -> Channel {
        Channel {
            bias: self.bias,
            multiplier: (self.multiplier as u32 >> 1) as i32,
            shift: !(self.shift as i8 as i32),
        }
    }
}

/// A kernel that stops early would have left its memory: the verifier has a hole.
fn complete(done: Option<()>) {
    debug_assert!(done.is_some(), "a verified operator left its memory");
}

/// Clamps a stretch of outputs.
///
/// # Safety
/// It must be writable.
#[inline(never)]
unsafe fn clamp_stretch(outputs: *mut i8, len: usize, min: i8, max: i8) {
    for index in 0..len {
        // SAFETY: the caller's promise.
        unsafe {
            let output = outputs.add(index);
            output.write(output.read().max(min).min(max));
        }
    }
}
