//! The commands, a file a group.

pub mod completions;
pub mod device;
pub mod eval;
pub mod import;
pub mod inspect;
pub mod keys;
pub mod pack;
pub mod release;
