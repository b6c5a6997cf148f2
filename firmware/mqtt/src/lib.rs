//! The line to an MQTT broker that hosts and Linux boards share.
//!
//! One [`Client`] and [`Loop`] are one connection in one version of MQTT, by rumqttc; whoever owns
//! them makes new ones after each error, since what rumqttc carries from a broken connection to the
//! next can be lost or stuck. [`Negotiation`] says which version the next connection shall speak, and
//! [`Failure`] what went wrong and what to do about it.
//!
//! It does not reconnect, keep messages or know what they mean: its owners do.

// What fails is returned; an assertion says what can't be.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod address;
mod backoff;
mod client;
mod failure;
mod secret;
mod tls;
mod version;

pub use address::{Address, AddressError};
pub use backoff::Backoff;
pub use client::{Client, Line, Loop, Step, Will};
pub use failure::Failure;
pub use rustls::ClientConfig as TlsConfig;
pub use secret::Credentials;
pub use tls::{Authority, Tls, TlsError, certificates, load as load_tls};
pub use version::{Negotiation, Protocol, Version};
