//! The agent for Linux boards.

pub mod config;
pub mod flash;
pub mod key;
pub mod mqtt;
