//! Kernels: what computes each operator.

#[cfg(all(target_arch = "arm", feature = "dsp"))]
pub mod cortex_m;
pub mod portable;
