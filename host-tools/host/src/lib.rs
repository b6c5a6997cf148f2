//! The library behind `edgeward`, the host command: everything a person does, without a terminal.

// What fails is returned; an assertion says what can't be.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod broker;
pub mod catalog;
pub mod collector;
pub mod controller;
pub mod data;
pub mod eval;
pub mod files;
pub mod flight;
pub mod import;
pub mod inspect;
pub mod keys;
pub mod model;
pub mod mqtt;
pub mod names;
pub mod npy;
pub mod pack;
pub mod profile;
pub mod quantize;
pub mod release;
pub mod replay;
pub mod rollout;
pub mod spec;
pub mod status;
pub mod store;
pub mod web;

/// Most features of a model; what boards are built for.
pub const MAX_FEATURES: usize = 128;
/// Most outputs of a model; what boards are built for.
pub const MAX_OUTPUTS: usize = 32;
/// The profile of a model.
pub type Profile = edgeward::profile::Profile<MAX_FEATURES, MAX_OUTPUTS>;
