//! The application for microcontrollers: what the agent is to a Linux board, in fixed memory.
//!
//! A board's crate brings flash, network, sensor, entropy, watchdog and an embassy time driver
//! ([`board`]), and starts two tasks that share nothing but a [`Link`]: [`run`] owns flash, outbox,
//! update client and the connection to the broker; [`inference::run`] owns the models and answers
//! samples, from an executor of its own where nothing else may stretch its latency.
//!
//! What it does not do: allocate, know a HAL or a chip, choose priorities, or run ONNX models: a release
//! for it holds an int8 program, which runs in place in the slot's flash.
//!
//! What a model may have at most is a board's figure, for which [`types!`] names all that hangs on it.
#![cfg_attr(not(test), no_std)]
// What fails is returned; an assertion says what can't be.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

/// Logs, where the board does: `say!(info, "slot {}", 1)` is `defmt::info!("slot {}", 1)`.
#[cfg(feature = "defmt")]
macro_rules! say {
    ($level:ident, $($said:tt)+) => {
        defmt::$level!($($said)+)
    };
}

#[cfg(not(feature = "defmt"))]
macro_rules! say {
    ($level:ident, $text:literal $(, $value:expr)* $(,)?) => {{
        let _ = ($(&$value,)*);
    }};
}

mod apart;
mod app;
pub mod board;
mod crash;
mod engine;
pub mod inference;
mod key;
mod line;
mod link;
mod load;
mod patience;
mod space;
mod start;
pub mod store;
#[cfg(test)]
mod testing;
mod types;
mod way;

pub use crash::CrashRecord;
#[cfg(feature = "tls")]
pub use edgeward_tls::Memory as TlsMemory;
pub use engine::Arena;
pub use link::Link;
pub use space::{Memory, Space, send_bytes};
#[cfg(feature = "tls")]
pub use start::run_secure;
pub use start::{Parts, StartError, run};
pub use store::{Map, Store};
#[doc(hidden)]
pub use types::check_figures;

/// Bytes of the outbox's buffer, of models with so many features and outputs.
pub use edgeward::telemetry::outbox::max_buffer_bytes as buffer_bytes;
/// Bytes of the outbox's largest record, of models with so many features and outputs.
pub use edgeward::telemetry::outbox::max_record_bytes as record_bytes;

/// Frames that the outbox may hold at once.
pub const RECORDS: usize = 64;
/// Chunks on their way at once. Each waits in the network's buffers, since only one is in memory.
pub const CHUNKS: usize = 1;
/// Chunks that the head of a release may have: one holds the table of 400 KB.
pub const HEAD_CHUNKS: usize = 1;
