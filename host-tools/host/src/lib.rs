//! The library behind `edgeward`, the host command: everything a person does, without a terminal.
pub mod rollout;
