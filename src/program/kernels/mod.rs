//! Kernels: what computes each operator.

pub mod portable;
