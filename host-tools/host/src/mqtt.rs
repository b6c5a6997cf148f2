//! The host's MQTT client: MQTT 3.1.1 by rumqttc, with the precautions that its open issues call for.
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
    /// User name and password, if the broker asks.
    pub credentials: Option<(String, String)>,
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
    Disconnected(String),
    /// A message came.
    Message(Message),
}

/// Why something did not happen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MqttError {
    /// The broker did not take everything in time.
    #[error(
        "the broker at {broker} did not acknowledge {waiting} messages within {seconds} s: {last_error}"
    )]
    Timeout {
        /// Which broker.
        broker: String,
        /// Messages still waiting.
        waiting: usize,
        /// The time given.
        seconds: u64,
        /// What the connection last said.
        last_error: String,
    },
    /// The broker did not confirm a subscription in time, or refused it.
    #[error("the broker at {broker} did not grant the subscription to {filter}: {last_error}")]
    Subscription {
        /// Which broker.
        broker: String,
        /// The filter.
        filter: String,
        /// What the connection last said.
        last_error: String,
    },
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
    /// [`MqttError::Subscription`] when it refused, or did not answer within `timeout`; it is then
    /// asked again at the next connection.
    pub fn subscribe_and_wait(&self, filter: &str, timeout: Duration) -> Result<(), MqttError> {
        self.session.subscribe(filter);
        let settled = |status: &Status| status.granted(filter).is_some();
        self.session.wait(timeout, settled);
        if self.session.read(|status| status.granted(filter)) == Some(true) {
            return Ok(());
        }
        Err(MqttError::Subscription {
            broker: self.broker.clone(),
            filter: filter.to_owned(),
            last_error: self.session.last_error(),
        })
    }

    /// Ends a subscription, now and for each new connection.
    pub fn unsubscribe(&self, filter: &str) {
        self.session.unsubscribe(filter);
    }

    /// Queues a message (QoS 1); it is sent again until the broker acknowledges it.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) {
        self.session.queue(topic, payload, retain);
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

    /// Waits until the broker acknowledged everything.
    ///
    /// # Errors
    /// [`MqttError::Timeout`] when it has not within `timeout`.
    pub fn flush(&self, timeout: Duration) -> Result<(), MqttError> {
        if self.session.wait(timeout, |status| status.waiting() == 0) {
            return Ok(());
        }
        Err(MqttError::Timeout {
            broker: self.broker.clone(),
            waiting: self.waiting(),
            seconds: timeout.as_secs(),
            last_error: self.session.last_error(),
        })
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
