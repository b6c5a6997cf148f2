//! The two protocol versions of rumqttc behind one small face.
//!
//! A client lives as long as its connection and no longer: what rumqttc keeps for retransmission
//! across connections is lost or stuck when the broker lost the session, and its owner keeps it
//! better.

use crate::{Credentials, Failure, TlsConfig, Version};
use rumqttc::{Outgoing, Transport, v5};
use std::sync::Arc;
use std::time::Duration;

/// The retained message that the broker sends for a client that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Its topic.
    pub topic: String,
    /// What it says.
    pub payload: String,
}

/// How one connection is made.
#[derive(Debug, Clone)]
pub struct Line {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Unique at the broker.
    pub client_id: String,
    /// Silence after which the broker is asked whether it is there, at least 1 s.
    pub keep_alive: Duration,
    /// User name and password, if the broker asks.
    pub credentials: Option<Credentials>,
    /// TLS, if wanted.
    pub tls: Option<Arc<TlsConfig>>,
    /// What others are told when this client is gone.
    pub will: Option<Will>,
    /// How long a broker of MQTT 5 is asked to keep the session of a client that is gone, in
    /// seconds; 0 for a session that ends with its connection.
    pub session_expiry_s: u32,
    /// Publishes that may be on their way to the broker at once.
    pub inflight: u16,
    /// Requests that may wait for the connection's task.
    pub queue: usize,
    /// Largest packet in either direction, in bytes.
    pub packet_bytes: u32,
}

/// The half that sends; cheap to clone, never blocks.
#[derive(Debug, Clone)]
pub struct Client(Half);

#[derive(Debug, Clone)]
enum Half {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// The half that does the work.
pub struct Loop {
    turns: Turns,
    host: String,
    connected: bool,
}

enum Turns {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// What one turn of a [`Loop`] brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The broker took the connection.
    Connected {
        /// Whether it kept the session of the connection before.
        session_present: bool,
    },
    /// A message came.
    Message {
        /// Its topic.
        topic: String,
        /// Its bytes.
        payload: Vec<u8>,
        /// Whether it was retained.
        retain: bool,
    },
    /// The broker answered a publish.
    PublishAcked {
        /// Its number.
        id: u16,
        /// Why it was not taken; only MQTT 5 says so.
        refused: Option<String>,
    },
    /// The broker answered a subscription.
    SubscribeAcked {
        /// Its number.
        id: u16,
        /// Why it was not granted.
        refused: Option<String>,
    },
    /// Another packet came.
    OtherIncoming,
    /// A publish was sent, under this number.
    PublishSent(u16),
    /// A subscription was sent, under this number.
    SubscribeSent(u16),
    /// The goodbye was sent.
    DisconnectSent,
    /// Another packet was sent.
    OtherOutgoing,
}

impl Step {
    /// Whether the broker sent something.
    #[must_use]
    pub fn is_incoming(&self) -> bool {
        !matches!(
            self,
            Self::PublishSent(_)
                | Self::SubscribeSent(_)
                | Self::DisconnectSent
                | Self::OtherOutgoing
        )
    }
}

impl Client {
    /// Makes the two halves of one connection. `clean` asks the broker to forget the session before.
    #[must_use]
    pub fn new(line: &Line, version: Version, clean: bool) -> (Self, Loop) {
        let transport = match &line.tls {
            Some(tls) => Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls.clone())),
            None => Transport::tcp(),
        };
        let (half, turns) = match version {
            Version::V4 => {
                let (client, mut events) =
                    rumqttc::AsyncClient::new(v4_options(line, transport, clean), line.queue);
                events.network_options.set_tcp_nodelay(true);
                (Half::V4(client), Turns::V4(Box::new(events)))
            }
            Version::V5 => {
                let (client, events) =
                    v5::AsyncClient::new(v5_options(line, transport, clean), line.queue);
                (Half::V5(client), Turns::V5(Box::new(events)))
            }
        };
        let turns = Loop {
            turns,
            host: line.host.clone(),
            connected: false,
        };
        (Self(half), turns)
    }

    /// Queues a publish (QoS 1); false when the queue is full or the connection ended. A broker of
    /// MQTT 5 drops a message that nobody fetched within `expiry_s` seconds.
    #[must_use]
    pub fn publish(
        &self,
        topic: &str,
        payload: &[u8],
        retain: bool,
        expiry_s: Option<u32>,
    ) -> bool {
        match &self.0 {
            Half::V4(client) => client
                .try_publish(topic, rumqttc::QoS::AtLeastOnce, retain, payload)
                .is_ok(),
            Half::V5(client) => {
                let (quality, payload) = (v5::mqttbytes::QoS::AtLeastOnce, payload.to_vec());
                let sent = match expiry_s {
                    None => client.try_publish(topic, quality, retain, payload),
                    Some(_) => client.try_publish_with_properties(
                        topic,
                        quality,
                        retain,
                        payload,
                        v5::mqttbytes::v5::PublishProperties {
                            message_expiry_interval: expiry_s,
                            ..Default::default()
                        },
                    ),
                };
                sent.is_ok()
            }
        }
    }

    /// Queues a subscription (QoS 1); false as for [`Client::publish`].
    #[must_use]
    pub fn subscribe(&self, filter: &str) -> bool {
        match &self.0 {
            Half::V4(client) => client
                .try_subscribe(filter, rumqttc::QoS::AtLeastOnce)
                .is_ok(),
            Half::V5(client) => client
                .try_subscribe(filter, v5::mqttbytes::QoS::AtLeastOnce)
                .is_ok(),
        }
    }

    /// Queues the end of a subscription; false as for [`Client::publish`].
    #[must_use]
    pub fn unsubscribe(&self, filter: &str) -> bool {
        match &self.0 {
            Half::V4(client) => client.try_unsubscribe(filter).is_ok(),
            Half::V5(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    /// Queues the goodbye; false as for [`Client::publish`].
    #[must_use]
    pub fn disconnect(&self) -> bool {
        match &self.0 {
            Half::V4(client) => client.try_disconnect().is_ok(),
            Half::V5(client) => client.try_disconnect().is_ok(),
        }
    }
}

fn v4_options(line: &Line, transport: Transport, clean: bool) -> rumqttc::MqttOptions {
    let mut mqtt = rumqttc::MqttOptions::new(&line.client_id, &line.host, line.port);
    let packet_bytes = line.packet_bytes as usize;
    mqtt.set_keep_alive(line.keep_alive)
        .set_clean_session(clean)
        .set_transport(transport)
        .set_inflight(line.inflight)
        .set_max_packet_size(packet_bytes, packet_bytes);
    if let Some(credentials) = &line.credentials {
        mqtt.set_credentials(&credentials.username, credentials.password());
    }
    if let Some(will) = &line.will {
        mqtt.set_last_will(rumqttc::LastWill::new(
            &will.topic,
            will.payload.as_bytes(),
            rumqttc::QoS::AtLeastOnce,
            true,
        ));
    }
    mqtt
}

fn v5_options(line: &Line, transport: Transport, clean: bool) -> v5::MqttOptions {
    let mut mqtt = v5::MqttOptions::new(&line.client_id, &line.host, line.port);
    mqtt.set_keep_alive(line.keep_alive)
        .set_clean_start(clean)
        .set_transport(transport)
        .set_outgoing_inflight_upper_limit(line.inflight)
        .set_session_expiry_interval(Some(line.session_expiry_s))
        .set_max_packet_size(Some(line.packet_bytes));
    if let Some(credentials) = &line.credentials {
        mqtt.set_credentials(&credentials.username, credentials.password());
    }
    if let Some(will) = &line.will {
        mqtt.set_last_will(v5::mqttbytes::v5::LastWill::new(
            will.topic.as_str(),
            will.payload.as_bytes().to_vec(),
            v5::mqttbytes::QoS::AtLeastOnce,
            true,
            None,
        ));
    }
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    mqtt.set_network_options(network);
    mqtt
}

impl Loop {
    /// Works until something happened. After an error, or when dropped in mid-turn, the loop is of
    /// no more use.
    ///
    /// # Errors
    /// [`Failure`] says why the connection was not made, or ended.
    pub async fn poll(&mut self) -> Result<Step, Failure> {
        let step = match &mut self.turns {
            Turns::V4(events) => match events.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => v4_step(packet),
                Ok(rumqttc::Event::Outgoing(outgoing)) => sent(&outgoing),
                Err(error) if self.connected => return Err(Failure::lost_v4(&error)),
                Err(error) => return Err(Failure::of_v4(error, &self.host)),
            },
            Turns::V5(events) => match events.poll().await {
                Ok(v5::Event::Incoming(packet)) => v5_step(packet)?,
                Ok(v5::Event::Outgoing(outgoing)) => sent(&outgoing),
                Err(error) if self.connected => return Err(Failure::lost_v5(&error)),
                Err(error) => return Err(Failure::of_v5(error, &self.host)),
            },
        };
        self.connected |= matches!(step, Step::Connected { .. });
        Ok(step)
    }
}

fn sent(outgoing: &Outgoing) -> Step {
    match outgoing {
        Outgoing::Publish(id) => Step::PublishSent(*id),
        Outgoing::Subscribe(id) => Step::SubscribeSent(*id),
        Outgoing::Disconnect => Step::DisconnectSent,
        _ => Step::OtherOutgoing,
    }
}

fn v4_step(packet: rumqttc::Packet) -> Step {
    use rumqttc::{Packet, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(ack) => Step::Connected {
            session_present: ack.session_present,
        },
        Packet::Publish(publish) => Step::Message {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            retain: publish.retain,
        },
        Packet::PubAck(ack) => Step::PublishAcked {
            id: ack.pkid,
            refused: None,
        },
        Packet::SubAck(ack) => Step::SubscribeAcked {
            id: ack.pkid,
            refused: ack
                .return_codes
                .contains(&SubscribeReasonCode::Failure)
                .then(|| "the broker refuses it".to_owned()),
        },
        _ => Step::OtherIncoming,
    }
}

fn v5_step(packet: v5::mqttbytes::v5::Packet) -> Result<Step, Failure> {
    use v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
    Ok(match packet {
        Packet::ConnAck(ack) => Step::Connected {
            session_present: ack.session_present,
        },
        Packet::Publish(publish) => match String::from_utf8(publish.topic.to_vec()) {
            Ok(topic) => Step::Message {
                topic,
                payload: publish.payload.to_vec(),
                retain: publish.retain,
            },
            Err(_) => Step::OtherIncoming,
        },
        Packet::PubAck(ack) => Step::PublishAcked {
            id: ack.pkid,
            refused: match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                reason => Some(format!("the broker says {reason:?}")),
            },
        },
        Packet::SubAck(ack) => Step::SubscribeAcked {
            id: ack.pkid,
            refused: ack
                .return_codes
                .iter()
                .find(|code| !matches!(code, SubscribeReasonCode::Success(_)))
                .map(|code| format!("the broker says {code:?}")),
        },
        Packet::Disconnect(reason) => {
            let code = reason.reason_code;
            return Err(Failure::Lost(format!("the broker says {code:?}")));
        }
        _ => Step::OtherIncoming,
    })
}
