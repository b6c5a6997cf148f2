//! The agent for Linux boards.

pub mod agent;
pub mod args;
pub mod config;
pub mod flash;
pub mod inference;
pub mod key;
pub mod loader;
pub mod mqtt;
pub mod provision;
pub mod reader;
pub mod source;
pub mod stats;
mod subscriptions;
pub mod watchdog;

pub use agent::run;
pub use args::main_from_args;
pub use config::Config;
pub use provision::provision;
