//! The commands, a file a group.

pub mod board;
pub mod broker;
pub mod change;
pub mod completions;
pub mod device;
pub mod eval;
pub mod flash;
pub mod fleet;
pub mod import;
pub mod inspect;
pub mod keys;
pub mod logs;
pub mod pack;
pub mod publish;
pub mod quantize;
pub mod record;
pub mod release;
pub mod rollout;
pub mod serve;
pub mod watch;
