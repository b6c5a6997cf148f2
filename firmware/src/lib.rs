//! The Edgeward application without a HAL, and the agent for Linux boards.
//!
//! What is outside of [`linux`] is `no_std` and does no I/O of its own: a board's crate or the agent
//! gives it flash, a transport, a clock and an engine.
#![cfg_attr(not(any(test, feature = "linux")), no_std)]
// What fails is returned; an assertion says what can't be.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod cast;
pub mod columns;
pub mod control;
pub mod decimal;
pub mod held;
pub mod lines;
pub mod provisioning;
pub mod transport;

#[cfg(feature = "linux")]
pub mod linux;

/// Most features of a model on a Linux board.
pub const MAX_FEATURES: usize = 128;
/// Most outputs of a model on a Linux board.
pub const MAX_OUTPUTS: usize = 32;
