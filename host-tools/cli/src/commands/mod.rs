//! The commands, a file a group.

pub mod completions;
