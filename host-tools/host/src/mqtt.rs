//! The host's MQTT client, over [`edgeward_mqtt`], with the precautions that rumqttc's open issues
//! call for. It speaks MQTT 5 where the broker offers it and 3.1.1 elsewhere, unless told otherwise.
//!
//! rumqttc 0.25 forgets unacknowledged messages when the broker has lost the session, and can wedge
//! for ever after a broker's restart or when a message is published from the task that polls it.
//! So this client trusts it with one connection at a time:
//!
//! - Every session is a clean one, and after an error the event loop is thrown away.
//! - What the broker has not acknowledged is kept here, and sent again in order.
//! - Subscriptions and maintained retained messages are renewed at each connection, since brokers
//!   that keep nothing on disk lose them in a restart.
//! - Nothing waits for rumqttc's channel, so that nothing can deadlock with the task that empties it.
//! - That task's future is never dropped but with its connection: dropping it now and then, as
//!   `recv_timeout` of rumqttc does, starts a slow connection attempt over and over.
//! - A connection on which an acknowledgement is overdue is given up.
//! - Reconnects back off, with jitter.
//!
//! Delivery is at least once, so a receiver must recognise what it has seen. An acknowledgement says
//! that the broker has the message, not that anybody received it.

mod session;

pub use edgeward_mqtt::{
    Address, AddressError, Authority, Credentials, Failure, Protocol, Tls, TlsConfig, TlsError,
    Version, certificates, load_tls,
};

use session::{Session, Status};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// Messages that wait to be taken by the owner; beyond it the connection is read no further, and
/// the broker waits with it.
const INBOX: usize = 16 * 1024;
/// How long a client that is dropped waits for its goodbye to be sent.
const GOODBYE: Duration = Duration::from_secs(1);

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of this client, unique at the broker.
    pub client_id: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Versions of MQTT.
    pub protocol: Protocol,
    /// User name and password, if the broker asks.
    pub credentials: Option<Credentials>,
    /// TLS, if the port speaks it.
    pub tls: Option<Arc<TlsConfig>>,
}

impl Options {
    /// Neither TLS nor a password, and any version of MQTT.
    #[must_use]
    pub fn new(client_id: impl Into<String>, host: impl Into<String>, port: u16) -> Self {
        Self {
            client_id: client_id.into(),
            host: host.into(),
            port,
            protocol: Protocol::Auto,
            credentials: None,
            tls: None,
        }
    }
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Whether it was retained.
    pub retain: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The connection stands; subscriptions are on their way.
    Connected,
    /// The connection ended, and why; the next attempt follows by itself.
    Disconnected(Failure),
    /// A message came.
    Message(Message),
}

/// Why something did not happen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MqttError {
    /// The broker did not do what was asked in time.
    #[error(
        "{what} within {seconds} s by the broker at {broker}: {}",
        last(failure)
    )]
    Timeout {
        /// Which broker.
        broker: String,
        /// What did not happen.
        what: String,
        /// The time given.
        seconds: u64,
        /// What the connection last failed of.
        failure: Option<Failure>,
    },
    /// There is no connection, and trying again won't mend it.
    #[error("the broker at {broker}: {failure}")]
    NoConnection {
        /// Which broker.
        broker: String,
        /// Why.
        failure: Failure,
    },
    /// The broker took the connection, and refuses what was asked.
    #[error("the broker at {broker} refuses {what}: {reason}")]
    Refused {
        /// Which broker.
        broker: String,
        /// A subscription or a message.
        what: String,
        /// What it said.
        reason: String,
    },
}

fn last(failure: &Option<Failure>) -> String {
    let failure = failure.as_ref();
    failure.map_or_else(|| "no error was seen".to_owned(), Failure::to_string)
}

/// A connection to the broker that is renewed until it is dropped.
///
/// Dropping it says goodbye to the broker; what is still queued is lost, so [`flush`](Self::flush)
/// first.
#[derive(Debug)]
pub struct Mqtt {
    session: Arc<Session>,
    inbox: Receiver<Event>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    broker: String,
}

impl Mqtt {
    /// Starts to connect, and goes on until it is dropped.
    #[must_use]
    pub fn connect(options: &Options) -> Self {
        let session = Arc::new(Session::default());
        let stop = Arc::new(Notify::new());
        let (sender, inbox) = sync_channel(INBOX);
        let thread = std::thread::spawn({
            let (session, stop, options) =
                (Arc::clone(&session), Arc::clone(&stop), options.clone());
            move || session::run(&options, &session, &sender, &stop)
        });
        Self {
            session,
            inbox,
            stop,
            thread: Some(thread),
            broker: format!("{}:{}", options.host, options.port),
        }
    }

    /// Subscribes now and at each new connection (QoS 1).
    pub fn subscribe(&self, filter: &str) {
        self.session.subscribe(filter);
    }

    /// Subscribes, and waits until the broker has granted it.
    ///
    /// # Errors
    /// [`MqttError`] when it refused, or did not answer within `timeout`; it is asked again all the
    /// same, ever later, and at the next connection.
    pub fn subscribe_and_wait(&self, filter: &str, timeout: Duration) -> Result<(), MqttError> {
        self.session.subscribe(filter);
        let settled =
            |status: &Status| status.granted(filter).is_some() || status.hopeless().is_some();
        self.session.wait(timeout, settled);
        match self.session.read(|status| status.granted(filter)) {
            Some(Ok(())) => Ok(()),
            Some(Err(reason)) => Err(MqttError::Refused {
                broker: self.broker.clone(),
                what: format!("the subscription to {filter}"),
                reason,
            }),
            None => Err(self.in_vain(format!("{filter} was not subscribed to"), timeout)),
        }
    }

    fn in_vain(&self, what: String, timeout: Duration) -> MqttError {
        let broker = self.broker.clone();
        match self.session.read(Status::hopeless) {
            Some(failure) => MqttError::NoConnection { broker, failure },
            None => MqttError::Timeout {
                broker,
                what,
                seconds: timeout.as_secs(),
                failure: self.session.read(Status::failure),
            },
        }
    }

    /// Ends a subscription, now and for each new connection.
    pub fn unsubscribe(&self, filter: &str) {
        self.session.unsubscribe(filter);
    }

    /// Queues a message (QoS 1); it is sent again until the broker acknowledges it.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) {
        self.session.queue(topic, payload, retain, None);
    }

    /// As [`publish`](Self::publish), not retained; a broker of MQTT 5 forgets the message when nobody
    /// fetched it within `expiry`.
    pub fn publish_for(&self, topic: &str, payload: &[u8], expiry: Duration) {
        let seconds = u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
        self.session.queue(topic, payload, false, Some(seconds));
    }

    /// Publishes a retained message, now and at each new connection.
    pub fn maintain(&self, topic: &str, payload: &[u8]) {
        self.session.maintain(topic, payload);
    }

    /// Removes a retained message from the broker.
    pub fn clear(&self, topic: &str) {
        self.session.clear(topic);
    }

    /// Messages queued or on their way.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.session.read(Status::waiting)
    }

    /// Whether the connection stands, as far as is known.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session.read(Status::is_connected)
    }

    /// For how long the connection stands, as far as is known; none when it does not.
    #[must_use]
    pub fn connected_for(&self) -> Option<Duration> {
        self.session.read(Status::connected_for)
    }

    /// Waits until the connection stands. Nothing is sent but what that takes.
    ///
    /// # Errors
    /// [`MqttError`] when it did not within `timeout`, and when there can be none until somebody changes
    /// a setting.
    pub fn connected(&self, timeout: Duration) -> Result<(), MqttError> {
        self.session.wait(timeout, |status| {
            status.is_connected() || status.hopeless().is_some()
        });
        if self.is_connected() {
            return Ok(());
        }
        Err(self.in_vain("no connection was accepted".to_owned(), timeout))
    }

    /// The version of MQTT that the present connection speaks.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.session.read(Status::version)
    }

    /// Waits until the broker acknowledged everything.
    ///
    /// # Errors
    /// [`MqttError`] when it has not within `timeout`, when there can be no connection until somebody
    /// changes a setting, and when the broker refused a message since the last call (only MQTT 5
    /// tells).
    pub fn flush(&self, timeout: Duration) -> Result<(), MqttError> {
        self.session.wait(timeout, |status| {
            status.waiting() == 0 || status.hopeless().is_some()
        });
        if let Some((topic, reason)) = self.session.refusal() {
            return Err(MqttError::Refused {
                broker: self.broker.clone(),
                what: format!("a message to {topic}"),
                reason,
            });
        }
        match self.waiting() {
            0 => Ok(()),
            waiting => {
                Err(self.in_vain(format!("{waiting} messages were not acknowledged"), timeout))
            }
        }
    }

    /// The next event, if one comes in time.
    #[must_use]
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Event> {
        self.inbox.recv_timeout(timeout).ok()
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        if self.session.say_goodbye() {
            self.session.wait(GOODBYE, |status| !status.is_connected());
        }
        self.stop.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the client's thread panicked");
        }
    }
}
