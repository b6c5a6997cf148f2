//! A board, its broker and its host in one process.

#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]

mod board;
mod broker;
mod feed;
mod host;
mod ports;
mod proxy;
mod release;
mod wait;

pub use board::{BoardProcess, Log};
pub use broker::{broker, broker_v5};
pub use feed::{Feed, SOURCE};
pub use host::{Host, Received};
pub use proxy::Proxy;
pub use release::{CLASSES, bundle, golden, key, policy, root_trusting, slow_bundle};

use edgeward::telemetry::Frame;
use edgeward_firmware::{MAX_FEATURES, MAX_OUTPUTS};

type BoardFrame = Frame<MAX_FEATURES, MAX_OUTPUTS>;

/// The first release: it passes its self-test and goes on trial without a shadow.
pub fn first_release() -> Vec<u8> {
    bundle(1, &policy(0, 0), golden(1.0))
}
