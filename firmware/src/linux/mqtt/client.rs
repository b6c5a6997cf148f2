//! The two protocol versions of rumqttc behind one small face.
//!
//! A client lives as long as its connection and no longer: what rumqttc keeps for retransmission
//! across connections is lost or stuck when the broker lost the session, and the outbox above keeps
//! it better.

use super::Options;
use crate::linux::config::Protocol;
use rumqttc::{Transport, v5};
use std::time::Duration;

/// Requests that may wait for the connection's task.
pub(super) const QUEUE: usize = 256;
/// Publishes that may be on their way to the broker at once.
const INFLIGHT: u16 = 64;
/// How long a broker is asked to keep a session, in seconds: a week.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// Largest packet in either direction, in bytes.
const PACKET_BYTES: usize = 64 * 1024;

/// The half that sends; cheap to clone, never blocks.
#[derive(Clone)]
pub(super) enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// The half that does the work.
pub(super) enum Loop {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// What one turn of a [`Loop`] brought.
pub(super) enum Step {
    Connected { session_present: bool },
    Message { topic: String, payload: Vec<u8> },
    PublishAcked,
    OtherIncoming,
    Outgoing,
}

/// Makes a client for one connection.
pub(super) fn new(options: &Options, clean: bool) -> (Client, Loop) {
    let transport = match &options.tls {
        Some(tls) => Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls.clone())),
        None => Transport::tcp(),
    };
    let keep_alive = Duration::from_secs(u64::from(options.keep_alive_s.max(5)));
    let host = options.host.as_str();
    match options.protocol {
        Protocol::V4 => {
            let mut mqtt = rumqttc::MqttOptions::new(&options.client_id, host, options.port);
            mqtt.set_keep_alive(keep_alive)
                .set_clean_session(clean)
                .set_transport(transport)
                .set_inflight(INFLIGHT)
                .set_max_packet_size(PACKET_BYTES, PACKET_BYTES);
            if let Some((user, password)) = &options.credentials {
                mqtt.set_credentials(user, password);
            }
            if let Some((topic, payload)) = &options.will {
                mqtt.set_last_will(rumqttc::LastWill::new(
                    topic,
                    payload.as_bytes(),
                    rumqttc::QoS::AtLeastOnce,
                    true,
                ));
            }
            let (client, mut events) = rumqttc::AsyncClient::new(mqtt, QUEUE);
            events.network_options.set_tcp_nodelay(true);
            (Client::V4(client), Loop::V4(Box::new(events)))
        }
        Protocol::V5 => {
            let mut mqtt = v5::MqttOptions::new(&options.client_id, host, options.port);
            mqtt.set_keep_alive(keep_alive)
                .set_clean_start(clean)
                .set_transport(transport)
                .set_outgoing_inflight_upper_limit(INFLIGHT)
                .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
                .set_max_packet_size(Some(PACKET_BYTES as u32));
            if let Some((user, password)) = &options.credentials {
                mqtt.set_credentials(user, password);
            }
            if let Some((topic, payload)) = &options.will {
                mqtt.set_last_will(v5::mqttbytes::v5::LastWill::new(
                    topic.as_str(),
                    payload.as_bytes().to_vec(),
                    v5::mqttbytes::QoS::AtLeastOnce,
                    true,
                    None,
                ));
            }
            let mut network = rumqttc::NetworkOptions::new();
            network.set_tcp_nodelay(true);
            mqtt.set_network_options(network);
            let (client, events) = v5::AsyncClient::new(mqtt, QUEUE);
            (Client::V5(client), Loop::V5(Box::new(events)))
        }
    }
}

impl Client {
    /// Queues a publish; false when the queue is full or the connection ended.
    pub(super) fn publish(&self, topic: &str, payload: &[u8], retain: bool) -> bool {
        match self {
            Self::V4(client) => client
                .try_publish(topic, rumqttc::QoS::AtLeastOnce, retain, payload)
                .is_ok(),
            Self::V5(client) => client
                .try_publish(
                    topic,
                    v5::mqttbytes::QoS::AtLeastOnce,
                    retain,
                    payload.to_vec(),
                )
                .is_ok(),
        }
    }

    /// Queues a subscription; false as for [`Client::publish`].
    pub(super) fn subscribe(&self, filter: &str) -> bool {
        match self {
            Self::V4(client) => client
                .try_subscribe(filter, rumqttc::QoS::AtLeastOnce)
                .is_ok(),
            Self::V5(client) => client
                .try_subscribe(filter, v5::mqttbytes::QoS::AtLeastOnce)
                .is_ok(),
        }
    }

    /// Queues the end of a subscription; false as for [`Client::publish`].
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        match self {
            Self::V4(client) => client.try_unsubscribe(filter).is_ok(),
            Self::V5(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    /// Queues the goodbye; false as for [`Client::publish`].
    pub(super) fn disconnect(&self) -> bool {
        match self {
            Self::V4(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        }
    }
}

impl Loop {
    /// Works until something happened. After an error, or when dropped in mid-turn, the loop is of
    /// no more use.
    pub(super) async fn poll(&mut self) -> Result<Step, String> {
        match self {
            Self::V4(events) => match events.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => Ok(v4_step(packet)),
                Ok(rumqttc::Event::Outgoing(_)) => Ok(Step::Outgoing),
                Err(error) => Err(error.to_string()),
            },
            Self::V5(events) => match events.poll().await {
                Ok(v5::Event::Incoming(packet)) => v5_step(packet),
                Ok(v5::Event::Outgoing(_)) => Ok(Step::Outgoing),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

fn v4_step(packet: rumqttc::Packet) -> Step {
    match packet {
        rumqttc::Packet::ConnAck(ack) => Step::Connected {
            session_present: ack.session_present,
        },
        rumqttc::Packet::Publish(publish) => Step::Message {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
        },
        rumqttc::Packet::PubAck(_) => Step::PublishAcked,
        _ => Step::OtherIncoming,
    }
}

fn v5_step(packet: v5::mqttbytes::v5::Packet) -> Result<Step, String> {
    use v5::mqttbytes::v5::Packet;
    Ok(match packet {
        Packet::ConnAck(ack) => Step::Connected {
            session_present: ack.session_present,
        },
        Packet::Publish(publish) => match String::from_utf8(publish.topic.to_vec()) {
            Ok(topic) => Step::Message {
                topic,
                payload: publish.payload.to_vec(),
            },
            Err(_) => Step::OtherIncoming,
        },
        Packet::PubAck(_) => Step::PublishAcked,
        Packet::Disconnect(reason) => return Err(format!("{:?}", reason.reason_code)),
        _ => Step::OtherIncoming,
    })
}
