//! Kernels: what computes each operator.

#[cfg(all(target_arch = "arm", feature = "dsp"))]
pub mod cortex_m;
pub mod portable;

#[cfg(all(target_arch = "aarch64", feature = "std"))]
pub(crate) mod aarch64;
#[cfg(feature = "std")]
pub mod packed;
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), feature = "std"))]
pub(crate) mod vectors;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(crate) mod x86;
