//! The embedded broker: rumqttd in this process, in memory, for a first run and for tests.
//!
//! It keeps nothing on disk: a restart loses retained messages, which [`crate::mqtt::Mqtt`] publishes
//! again. It cannot be stopped but with its process; `edgeward broker` is that process. A site runs
//! Mosquitto.
//!
//! What rumqttd 0.20 does with retained messages: a new subscription delivers them at once; one that
//! stands already delivers nothing when it is asked for again, so unsubscribe first; a wildcard
//! subscription delivers at most as many as the connection has room in flight (100) and drops the
//! others without a word. So boards subscribe to chunks one by one, which a small receive window asks
//! for anyway. An empty message clears the retained one even when it is not sent as retained.

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Largest payload that passes, in bytes: a chunk or a frame with room to spare.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// Where the broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The address; loopback unless the site's network is trusted.
    pub address: IpAddr,
    /// Port for MQTT 3.1.1; 0 chooses a free one.
    pub port: u16,
    /// Port for MQTT 5, if any; 0 chooses a free one.
    pub port_v5: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 1883,
            port_v5: None,
        }
    }
}

/// Where a started broker listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// MQTT 3.1.1.
    pub v4: SocketAddr,
    /// MQTT 5, if asked for.
    pub v5: Option<SocketAddr>,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for a free one")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// It was started and answers nobody.
    #[error("the broker does not answer on {0}")]
    Silent(SocketAddr),
    /// The thread could not be started.
    #[error("cannot start the broker's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Starts the broker on threads of this process and waits until it accepts connections.
///
/// # Errors
/// [`BrokerError`] when an address can't be had or nobody answers there within five seconds.
pub fn start(options: &Options) -> Result<Listening, BrokerError> {
    let v4 = free_address(options.address, options.port)?;
    let v5 = options
        .port_v5
        .map(|port| free_address(options.address, port))
        .transpose()?;
    let mut broker = Broker::new(config(v4, v5));
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the embedded broker ended");
            }
        })?;
    for address in [Some(v4), v5].into_iter().flatten() {
        wait_for(address, Duration::from_secs(5))?;
    }
    Ok(Listening { v4, v5 })
}

/// Waits until somebody accepts connections at `address`.
///
/// # Errors
/// [`BrokerError::Silent`] when nobody does within `timeout`.
pub fn wait_for(address: SocketAddr, timeout: Duration) -> Result<(), BrokerError> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(BrokerError::Silent(address))
}

/// The address to listen on; binds it once, so that a taken one is an error here and now, since
/// rumqttd would only log it.
fn free_address(address: IpAddr, port: u16) -> Result<SocketAddr, BrokerError> {
    let wanted = SocketAddr::new(address, port);
    let bound = TcpListener::bind(wanted).and_then(|listener| listener.local_addr());
    bound.map_err(|source| BrokerError::Listen {
        address: wanted,
        source,
    })
}

/// Small segments: the sample configuration keeps 10 segments of 100 MB for each filter.
fn config(v4: SocketAddr, v5: Option<SocketAddr>) -> Config {
    let server = |name: &str, listen| {
        let settings = ServerSettings {
            name: name.to_owned(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections: ConnectionSettings {
                connection_timeout_ms: 10_000,
                max_payload_size: MAX_PAYLOAD_BYTES,
                max_inflight_count: 200,
                auth: None,
                external_auth: None,
                dynamic_filters: true,
            },
        };
        HashMap::from([(name.to_owned(), settings)])
    };
    Config {
        router: RouterConfig {
            max_connections: 10_000,
            max_outgoing_packet_count: 200,
            max_segment_size: 1 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: Some(server("v4", v4)),
        v5: v5.map(|listen| server("v5", listen)),
        ..Config::default()
    }
}
