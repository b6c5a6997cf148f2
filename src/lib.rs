//! Edgeward's core: what a board needs to run a signed model and keep it honest.
//!
//! The core is `no_std`, allocates nothing and does no I/O. Each subsystem is a state machine that
//! takes bytes, samples and ticks and returns what happened or what to do next, so that the same
//! code runs on a microcontroller, on a Linux board, in a simulator and under a fuzzer. Flash is
//! reached through [`embedded_storage::nor_flash::NorFlash`], keys through the traits of [`trust`],
//! inference through [`engine::Engine`].
//!
//! What it does not do: open sockets or files, read a clock, spawn threads, or decide when to run.
//! Those belong to the firmware and the agent.
//!
//! Read `docs/ARCHITECTURE.md` for the map, `docs/BUNDLE.md` and `docs/WIRE.md` for the formats.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
// What fails is returned; an assertion says what can't be.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod bundle;
pub mod contract;
pub mod drift;
pub mod engine;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod four;
pub mod guard;
mod place;
pub mod policy;
pub mod profile;
pub mod program;
pub mod recorder;
pub mod runtime;
pub mod slots;
pub mod sync;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod topic;
pub mod trust;

/// Version of the runtime's interface to bundles; a bundle names the least one it needs.
pub const RUNTIME_VERSION: u16 = 1;
