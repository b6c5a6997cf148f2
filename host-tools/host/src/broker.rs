//! The embedded broker: rumqttd in this process, in memory, for a first run and for tests.
//!
//! It keeps nothing on disk: a restart loses retained messages, which [`crate::mqtt::Mqtt`] publishes
//! again. Stopping it closes the listeners and all connections, so that its port is free at once; one
//! idle thread of rumqttd's router, and what it retained, stay until the process ends, since rumqttd
//! has no way to end it. So `edgeward broker` is a process of its own. A site runs Mosquitto.
//!
//! What rumqttd 0.20 does with retained messages: a new subscription delivers them at once; one that
//! stands already delivers nothing when it is asked for again, so unsubscribe first; a wildcard
//! subscription delivers at most as many as the connection has room in flight (100) and drops the
//! others without a word. So boards subscribe to chunks one by one, which a small receive window asks
//! for anyway. An empty message clears the retained one even when it is not sent as retained.

use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a listener may take to come up.
const START: Duration = Duration::from_secs(5);

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
    #[error("cannot listen on {address}; choose another port, or 0 for a free one")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// It was started and answers nobody.
    #[error("the broker does not answer on {0}")]
    Silent(SocketAddr),
    /// It ended at its start.
    #[error("the broker on {address} ended: {reason}")]
    Ended {
        /// Where.
        address: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// The thread could not be started.
    #[error("cannot start the broker's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running broker; it stops when this is dropped.
#[derive(Debug)]
pub struct Broker {
    listening: Listening,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts the broker on threads of this process and waits until it accepts connections.
    ///
    /// # Errors
    /// [`BrokerError`] when an address can't be had or nobody answers there within five seconds.
    pub fn start(options: &Options) -> Result<Self, BrokerError> {
        let v4 = free_address(options.address, options.port)?;
        let v5 = options
            .port_v5
            .map(|port| free_address(options.address, port))
            .transpose()?;
        let listening = Listening { v4, v5 };
        let (stop, stopped) = oneshot::channel();
        let (failed, failure) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("broker".to_owned())
            .spawn(move || run(listening, stopped, &failed))?;
        let broker = Self {
            listening,
            stop: Some(stop),
            thread: Some(thread),
        };
        for address in [Some(v4), v5].into_iter().flatten() {
            if let Err(error) = wait_for(reachable(address), START) {
                let reason = failure.try_recv();
                return Err(reason.map_or(error, |reason| BrokerError::Ended { address, reason }));
            }
        }
        Ok(broker)
    }

    /// Where it listens.
    #[must_use]
    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// Whether the thread ended by itself, as it never should.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself; then there is nothing to stop.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the broker's thread panicked");
        }
    }
}

/// Starts the broker, to run until the process ends.
///
/// # Errors
/// As [`Broker::start`].
pub fn start(options: &Options) -> Result<Listening, BrokerError> {
    let broker = Broker::start(options)?;
    let listening = broker.listening();
    std::mem::forget(broker);
    Ok(listening)
}

/// The broker's thread: dropping the runtime closes the listeners and all connections.
fn run(listening: Listening, stop: oneshot::Receiver<()>, failed: &mpsc::Sender<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody waits any more when this fails.
            let _ = failed.send(error.to_string());
            return;
        }
    };
    let router = Router::new(0, router_config()).spawn();
    let mut v4 = Server::new(settings("v4", listening.v4), router.clone(), V4);
    let v5 = listening.v5;
    let mut v5 = v5.map(|address| Server::new(settings("v5", address), router, V5));
    let ended = runtime.block_on(async {
        let v5 = async {
            match &mut v5 {
                Some(server) => server.start(LinkType::Remote).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stop => Ok(()),
            ended = v4.start(LinkType::Remote) => ended,
            ended = v5 => ended,
        }
    });
    if let Err(error) = ended {
        tracing::error!(address = %listening.v4, %error, "the embedded broker ended");
        let _ = failed.send(error.to_string());
    }
}

/// An address under which a listener on this machine can be reached.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    reachable
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
fn router_config() -> RouterConfig {
    RouterConfig {
        max_connections: 10_000,
        max_outgoing_packet_count: 200,
        max_segment_size: 1 << 20,
        max_segment_count: 4,
        ..RouterConfig::default()
    }
}

fn settings(name: &str, listen: SocketAddr) -> ServerSettings {
    ServerSettings {
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
    }
}
