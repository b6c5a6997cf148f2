//! Kernels of packed programs for AArch64.
#![allow(unsafe_code)]

pub(super) mod dot;
mod neon;
pub(super) mod plain;
