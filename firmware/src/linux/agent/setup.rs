//! What the configuration says of the board, in the words of those who work with it.

use crate::control::Setup;
use crate::linux::config::Config;
use anyhow::{Context, Result};
use edgeward::RUNTIME_VERSION;
use edgeward::bundle::{BoardClass, Capabilities};
use edgeward::engine::board;
use edgeward::sync::{Board, Config as SyncConfig};
use edgeward::telemetry::{Id, Text};

/// A short text of the configuration.
pub(super) fn text(text: &str) -> Result<Text> {
    let fits = Text::try_from(text).ok();
    fits.with_context(|| format!("{text:?} is too long"))
}

/// Who the board is.
pub(super) fn setup<'a>(config: &Config, tags: &'a [Text]) -> Result<Setup<'a>> {
    let id = |name: &str| {
        let fits = Id::try_from(name).ok();
        fits.with_context(|| format!("{name:?} is too long"))
    };
    Ok(Setup {
        fleet: id(&config.fleet)?,
        device: id(&config.device)?,
        class: BoardClass::Linux,
        firmware: text(env!("CARGO_PKG_VERSION"))?,
        tags,
    })
}

/// What the update client is told of the board.
pub(super) fn sync_config<'a>(
    config: &'a Config,
    tags: &'a [Text],
    slot_bytes: u32,
) -> SyncConfig<'a> {
    SyncConfig {
        board: Board {
            fleet: &config.fleet,
            device: &config.device,
            class: BoardClass::Linux,
            tags,
        },
        capabilities: Capabilities {
            class: BoardClass::Linux,
            kernels: &board::KERNELS,
            runtime: RUNTIME_VERSION,
            slot_bytes,
            arena_bytes: u32::MAX,
        },
        timeout_ms: 5_000,
        backoff_ms: 500,
        backoff_max_ms: 60_000,
    }
}
