//! Brokers in this process.

use super::ports::free_port;
use super::wait::{LIMIT, wait_until};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;

/// An in-memory broker for MQTT 3.1.1; it ends with the process.
pub fn broker() -> SocketAddr {
    let listen = free_address();
    start_broker(listen, free_address());
    listen
}

/// The same, with the address for MQTT 5 behind that for 3.1.1.
pub fn broker_v5() -> (SocketAddr, SocketAddr) {
    let (v4, v5) = (free_address(), free_address());
    start_broker(v4, v5);
    (v4, v5)
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn start_broker(v4: SocketAddr, v5: SocketAddr) {
    use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
    let server = |name: &str, listen| {
        let settings = ServerSettings {
            name: name.into(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections: ConnectionSettings {
                connection_timeout_ms: 10_000,
                max_payload_size: 64 * 1024,
                max_inflight_count: 200,
                auth: None,
                external_auth: None,
                dynamic_filters: true,
            },
        };
        Some([(name.to_owned(), settings)].into_iter().collect())
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 1 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: server("v4", v4),
        v5: server("v5", v5),
        ..Config::default()
    };
    thread::spawn(move || {
        let ended = Broker::new(config).start();
        panic!("the broker ended: {ended:?}");
    });
    for address in [v4, v5] {
        wait_until("the broker listens", LIMIT, || TcpStream::connect(address));
    }
}
