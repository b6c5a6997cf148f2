//! Kernels: what computes each operator.

#[cfg(all(target_arch = "arm", feature = "dsp"))]
pub mod cortex_m;
pub mod portable;

#[cfg(feature = "std")]
pub mod packed;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(crate) mod x86;
