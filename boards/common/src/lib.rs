//! What boards of several kinds have in common: TCP by embassy-net, the record of a crash, how deep the stack
//! has been, and an inertial sensor that many of them can be wired to; and no allocator. Nothing here knows a chip.
#![no_std]
#![allow(unsafe_code)]

pub mod crash;
mod heap;
pub mod lan;
pub mod mpu6050;
pub mod stack;
