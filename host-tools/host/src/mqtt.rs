//! The host's MQTT client: rumqttc with the precautions that its open issues call for.
//!
//! - Nothing is published from the thread that polls (it would deadlock when the channel fills).
//! - What was not acknowledged is kept here and sent again: rumqttc drops it with its session.
//! - Every connection is a new client, so a wedged state can't outlive it; a connection without
//!   progress is given up.
//! - Subscriptions and maintained retained messages are renewed at each connection, since brokers that
//!   keep nothing on disk lose them in a restart.
//! - Reconnects back off, with jitter.

use rumqttc::{Client, Connection, Event as Raw, MqttOptions, Packet, QoS, SubscribeFilter};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Messages on their way to the broker, not yet acknowledged.
const WINDOW: usize = 32;
/// Messages that wait to be taken by the owner; beyond it the connection waits, and the broker with it.
const INBOX: usize = 16 * 1024;
/// Longest pause between two attempts to connect.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A connection that acknowledges nothing for so long, though it should, is given up.
const WEDGED: Duration = Duration::from_secs(10);
/// Largest packet in either direction.
const MAX_PACKET: usize = crate::broker::MAX_PAYLOAD_BYTES + 1024;

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
    #[error("the broker at {broker} did not acknowledge {waiting} messages within {seconds} s")]
    Timeout {
        /// Which broker.
        broker: String,
        /// Messages still waiting.
        waiting: usize,
        /// The time given.
        seconds: u64,
    },
}

/// A connection to the broker that is renewed until it is dropped.
pub struct Mqtt {
    shared: Arc<Shared>,
    inbox: Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
    broker: String,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    /// Connections so far; a message sent in an older one is not acknowledged in a newer.
    connections: u64,
    queue: VecDeque<Outgoing>,
    outstanding: VecDeque<Outgoing>,
    filters: Vec<String>,
    maintained: BTreeMap<String, Arc<[u8]>>,
    progress: Option<Instant>,
    stopped: bool,
}

#[derive(Clone)]
struct Outgoing {
    topic: String,
    payload: Arc<[u8]>,
    retain: bool,
}

impl Mqtt {
    /// Starts to connect, and goes on until it is dropped.
    #[must_use]
    pub fn connect(options: &Options) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (sender, inbox) = sync_channel(INBOX);
        let poller = std::thread::spawn({
            let (shared, options) = (Arc::clone(&shared), options.clone());
            move || poll_until_stopped(&options, &shared, &sender)
        });
        let publisher = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || publish_until_stopped(&shared)
        });
        let broker = format!("{}:{}", options.host, options.port);
        Self {
            shared,
            inbox,
            threads: vec![poller, publisher],
            broker,
        }
    }

    /// Subscribes now and at each new connection (QoS 1).
    pub fn subscribe(&self, filter: &str) {
        let mut state = self.shared.lock();
        if let Some(client) = &state.client {
            // A full channel means that the connection is about to be renewed, with all filters.
            let _ = client.try_subscribe(filter, QoS::AtLeastOnce);
        }
        state.filters.push(filter.to_owned());
    }

    /// Queues a message (QoS 1); it is sent again until the broker acknowledges it.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) {
        let outgoing = Outgoing {
            topic: topic.to_owned(),
            payload: payload.into(),
            retain,
        };
        self.shared.lock().queue.push_back(outgoing);
        self.shared.changed.notify_all();
    }

    /// Publishes a retained message, now and at each new connection.
    pub fn maintain(&self, topic: &str, payload: &[u8]) {
        self.shared
            .lock()
            .maintained
            .insert(topic.to_owned(), payload.into());
        self.publish(topic, payload, true);
    }

    /// Removes a retained message from the broker.
    pub fn clear(&self, topic: &str) {
        self.shared.lock().maintained.remove(topic);
        self.publish(topic, &[], true);
    }

    /// Messages queued or on their way.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let state = self.shared.lock();
        state.queue.len() + state.outstanding.len()
    }

    /// Waits until the broker acknowledged everything.
    ///
    /// # Errors
    /// [`MqttError::Timeout`] when it has not within `timeout`.
    pub fn flush(&self, timeout: Duration) -> Result<(), MqttError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        while !(state.queue.is_empty() && state.outstanding.is_empty()) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(MqttError::Timeout {
                    broker: self.broker.clone(),
                    waiting: state.queue.len() + state.outstanding.len(),
                    seconds: timeout.as_secs(),
                });
            };
            state = self.shared.wait(state, left);
        }
        Ok(())
    }

    /// The next event, if one comes in time.
    #[must_use]
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Event> {
        match self.inbox.recv_timeout(timeout) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        let client = {
            let mut state = self.shared.lock();
            state.stopped = true;
            state.client.take()
        };
        if let Some(client) = client {
            let _ = client.try_disconnect();
        }
        self.shared.changed.notify_all();
        // The poller may stand in a send to a full inbox.
        while self.inbox.try_recv().is_ok() {}
        for thread in self.threads.drain(..) {
            while !thread.is_finished() {
                while self.inbox.recv_timeout(Duration::from_millis(5)).is_ok() {}
            }
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(guard, time)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

/// Connects, polls until the connection ends, waits, and connects again.
fn poll_until_stopped(options: &Options, shared: &Shared, sender: &SyncSender<Event>) {
    let mut failures = 0;
    loop {
        let mut mqtt = MqttOptions::new(&options.client_id, &options.host, options.port);
        mqtt.set_keep_alive(Duration::from_secs(15))
            .set_clean_session(true)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET)
            .set_inflight(WINDOW as u16 * 2);
        if let Some((name, password)) = &options.credentials {
            mqtt.set_credentials(name, password);
        }
        let (client, mut connection) = Client::new(mqtt, WINDOW * 4);
        let ended = poll(&client, &mut connection, shared, sender, &mut failures);
        let mut state = shared.lock();
        state.client = None;
        if state.stopped {
            return;
        }
        drop(state);
        let _ = sender.send(Event::Disconnected(ended));
        let pause = backoff(failures);
        failures += 1;
        let until = Instant::now() + pause;
        let mut state = shared.lock();
        while !state.stopped {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                break;
            };
            state = shared.wait(state, left);
        }
        if state.stopped {
            return;
        }
    }
}

/// Polls one connection; returns why it ended.
fn poll(
    client: &Client,
    connection: &mut Connection,
    shared: &Shared,
    sender: &SyncSender<Event>,
    failures: &mut u32,
) -> String {
    loop {
        let event = match connection.recv_timeout(Duration::from_millis(250)) {
            Ok(Ok(event)) => Some(event),
            Ok(Err(error)) => return error.to_string(),
            Err(rumqttc::RecvTimeoutError::Timeout) => None,
            Err(rumqttc::RecvTimeoutError::Disconnected) => return "client gone".to_owned(),
        };
        match event {
            Some(Raw::Incoming(Packet::ConnAck(_))) => {
                *failures = 0;
                connected(client, shared);
                let _ = sender.send(Event::Connected);
            }
            Some(Raw::Incoming(Packet::PubAck(_))) => {
                let mut state = shared.lock();
                state.outstanding.pop_front();
                state.progress = Some(Instant::now());
                drop(state);
                shared.changed.notify_all();
            }
            Some(Raw::Incoming(Packet::Publish(publish))) => {
                let _ = sender.send(Event::Message(Message {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                    retain: publish.retain,
                }));
            }
            _ => {}
        }
        let state = shared.lock();
        if state.stopped && state.outstanding.is_empty() {
            return "stopped".to_owned();
        }
        let idle = state
            .progress
            .map_or(Duration::ZERO, |since| since.elapsed());
        if !state.outstanding.is_empty() && idle > WEDGED {
            return format!("no acknowledgement for {} s", WEDGED.as_secs());
        }
    }
}

/// Renews what a new connection does not know: filters, retained messages, what was under way.
fn connected(client: &Client, shared: &Shared) {
    let mut state = shared.lock();
    let filters = state.filters.iter().map(|filter| SubscribeFilter {
        path: filter.clone(),
        qos: QoS::AtLeastOnce,
    });
    let filters: Vec<_> = filters.collect();
    if !filters.is_empty() {
        // The channel is empty: nothing was sent through this client yet.
        let _ = client.try_subscribe_many(filters);
    }
    while let Some(outgoing) = state.outstanding.pop_back() {
        state.queue.push_front(outgoing);
    }
    if state.connections > 0 {
        let again: Vec<_> = state
            .maintained
            .iter()
            .map(|(topic, payload)| Outgoing {
                topic: topic.clone(),
                payload: Arc::clone(payload),
                retain: true,
            })
            .collect();
        // In front, so that a newer message of the same topic in the queue goes last and holds.
        for outgoing in again.into_iter().rev() {
            state.queue.push_front(outgoing);
        }
    }
    state.connections += 1;
    state.client = Some(client.clone());
    state.progress = Some(Instant::now());
    drop(state);
    shared.changed.notify_all();
}

/// Sends what is queued, a window at a time.
fn publish_until_stopped(shared: &Shared) {
    let mut state = shared.lock();
    while !state.stopped {
        let room = state.outstanding.len() < WINDOW;
        let (Some(client), Some(next), true) =
            (state.client.clone(), state.queue.front().cloned(), room)
        else {
            state = shared.wait(state, Duration::from_millis(250));
            continue;
        };
        let Outgoing {
            topic,
            payload,
            retain,
        } = next;
        if client
            .try_publish(topic, QoS::AtLeastOnce, retain, payload.to_vec())
            .is_err()
        {
            // The channel is full for a moment.
            state = shared.wait(state, Duration::from_millis(5));
            continue;
        }
        if state.outstanding.is_empty() {
            state.progress = Some(Instant::now());
        }
        if let Some(outgoing) = state.queue.pop_front() {
            state.outstanding.push_back(outgoing);
        }
    }
}

/// 100 ms, doubled at each failure up to ten seconds, plus up to half of it again.
fn backoff(failures: u32) -> Duration {
    static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    let base = Duration::from_millis(100)
        .saturating_mul(1 << failures.min(10))
        .min(MAX_BACKOFF);
    // A multiplicative congruential step is enough to keep clients out of step.
    let seed = SEED
        .fetch_add(u64::from(std::process::id()) | 1, Ordering::Relaxed)
        .wrapping_mul(0x5851_f42d_4c95_7f2d);
    base + base.mul_f64((seed >> 40) as f64 / (1u64 << 25) as f64)
}
