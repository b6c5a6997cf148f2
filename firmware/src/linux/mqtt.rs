//! MQTT by [`edgeward_mqtt`], with the precautions that rumqttc needs.
//!
//! One thread owns the connection. Nothing is published from that thread and nothing waits for it:
//! requests go into a bounded queue or come back, events into a bounded queue whose reader is woken.
//! Each connection has a client of its own, made anew after an error and whenever the old one stopped
//! making progress, so that no state of a broken connection can hold up the next.

#[cfg(test)]
mod tests;

use super::config::Config;
use super::subscriptions::Subscriptions;
use crate::control::OFFLINE;
use crate::transport::{
    Connector, Event, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX, Transport, TransportError,
};
use anyhow::{Context, Result};
use edgeward::topic::{self, Channel};
use edgeward_mqtt::{
    Backoff, Client, Credentials, Failure, Line, Loop, Negotiation, Protocol, Step, Will, load_tls,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Events that may wait for their reader; then the broker waits.
const EVENTS: usize = 64;
/// First delay before a reconnection.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// A connection that lived this long proves the broker well: the next delay is the first again.
const STABLE: Duration = Duration::from_secs(5);
/// How often the watchdog looks.
const WATCH: Duration = Duration::from_millis(500);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// Requests that may wait for the connection's task.
const QUEUE: usize = 256;
/// Publishes that may be on their way to the broker at once.
const INFLIGHT: u16 = 64;
/// How long a broker is asked to keep a session, in seconds: a week.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// Largest packet in either direction, in bytes.
const PACKET_BYTES: u32 = 64 * 1024;

/// How to reach a broker.
#[derive(Clone)]
pub struct Options {
    /// How each connection is made.
    pub line: Line,
    /// Versions of MQTT.
    pub protocol: Protocol,
    /// Longest delay before a reconnection, and before a refused subscription is asked for again.
    pub reconnect_max: Duration,
    /// Silence, or lack of acknowledgements, after which the connection is given up; longer than
    /// two pings are apart.
    pub stall: Duration,
}

/// A board's line to `host`: a session that outlives its connections, and bounded queues.
#[must_use]
pub fn line(host: &str, port: u16, client_id: &str, keep_alive_s: u16) -> Line {
    Line {
        host: host.to_owned(),
        port,
        client_id: client_id.to_owned(),
        keep_alive: Duration::from_secs(u64::from(keep_alive_s.max(5))),
        credentials: None,
        tls: None,
        will: None,
        session_expiry_s: SESSION_EXPIRY_S,
        inflight: INFLIGHT,
        queue: QUEUE,
        packet_bytes: PACKET_BYTES,
    }
}

/// How a board reaches the broker of its configuration, with the files that it names.
///
/// # Errors
/// When a file can't be read, or is not what it should be.
pub fn options(config: &Config) -> Result<Options> {
    let broker = &config.broker;
    let credentials = match (&broker.username, &broker.password_file) {
        (Some(user), Some(path)) => {
            let read = Credentials::from_file(user, path);
            Some(read.with_context(|| format!("broker.password_file {}", path.display()))?)
        }
        _ => None,
    };
    let state = topic::device(&config.fleet, &config.device, Channel::State);
    // No name has a dot, so no two boards have the same one.
    let client_id = format!("edgeward.{}.{}", config.fleet, config.device);
    let tls = broker.tls.as_ref().map(load_tls).transpose();
    Ok(Options {
        line: Line {
            credentials,
            tls: tls.context("broker.tls")?,
            will: Some(Will {
                topic: state.as_str().to_owned(),
                payload: OFFLINE.to_owned(),
            }),
            ..line(&broker.host, broker.port, &client_id, broker.keep_alive_s)
        },
        protocol: broker.protocol,
        reconnect_max: Duration::from_secs(u64::from(broker.reconnect_max_s)),
        stall: Duration::from_secs(2 * u64::from(broker.keep_alive_s)),
    })
}

/// A connection that is up.
struct Up {
    client: Client,
    /// Filters in the order in which they were asked for, until they are sent and have numbers.
    asked: VecDeque<String>,
}

/// What the connection's thread and the user of [`Mqtt`] share.
struct Shared {
    up: Mutex<Option<Up>>,
    stop: AtomicBool,
    stopped: Notify,
    published: AtomicU64,
    acked: AtomicU64,
}

impl Shared {
    fn up(&self) -> MutexGuard<'_, Option<Up>> {
        // The lock guards one assignment at a time, which can't leave the value half changed.
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outstanding(&self) -> u64 {
        let acked = self.acked.load(Ordering::SeqCst);
        self.published.load(Ordering::SeqCst).saturating_sub(acked)
    }
}

/// What the connection's thread tells.
enum Told {
    Connected {
        session_present: bool,
    },
    Disconnected,
    Message {
        topic: String,
        payload: Vec<u8>,
    },
    Refused {
        filter: String,
        reason: String,
    },
    /// After a refusal only.
    Granted {
        filter: String,
    },
}

/// A connection to an MQTT broker that repairs itself.
pub struct Mqtt {
    options: Options,
    shared: Arc<Shared>,
    events: Option<mpsc::Receiver<Told>>,
    worker: Option<JoinHandle<()>>,
    subscriptions: Subscriptions,
    seen: bool,
    session_present: bool,
}

impl Mqtt {
    /// A connection that is not begun yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            subscriptions: Subscriptions::new(options.reconnect_max),
            options,
            shared: Arc::new(Shared {
                up: Mutex::new(None),
                stop: AtomicBool::new(false),
                stopped: Notify::new(),
                published: AtomicU64::new(0),
                acked: AtomicU64::new(0),
            }),
            events: None,
            worker: None,
            seen: false,
            session_present: false,
        }
    }

    /// Asks for the subscriptions that could not be asked for yet.
    fn flush_subscriptions(&mut self) {
        let now = Instant::now();
        if self.subscriptions.next(now).is_none() {
            return;
        }
        let mut guard = self.shared.up();
        let Some(up) = guard.as_mut() else {
            return;
        };
        while let Some(filter) = self.subscriptions.next(now) {
            if !up.client.subscribe(filter) {
                return;
            }
            up.asked.extend(self.subscriptions.asked());
        }
    }

    /// Subscriptions that the broker refuses; each is asked for again.
    #[must_use]
    pub fn refused_subscriptions(&self) -> usize {
        self.subscriptions.refusals()
    }

    fn connected(&mut self, session_present: bool) {
        // A process that just began knows nothing of what an old session brought, such as the
        // retained desired state: it asks again, whatever the broker remembers.
        self.session_present = session_present && self.seen;
        self.seen = true;
        // Whatever the broker remembers: a subscription that was on its way when the last connection
        // ended may never have reached it, and nobody would miss it. Asking twice costs nothing but
        // the retained messages once more.
        self.subscriptions.connected();
    }

    fn told(&mut self) -> Option<Told> {
        let events = self.events.as_mut()?;
        events.try_recv().ok()
    }

    /// The broker answered a subscription.
    fn answered(&mut self, told: Option<Told>) {
        match told {
            Some(Told::Refused { filter, reason }) => {
                let news = self.subscriptions.refused(&filter, Instant::now());
                if news {
                    tracing::warn!(%filter, %reason, "the broker refuses a subscription; asking on");
                }
            }
            Some(Told::Granted { filter }) => {
                self.subscriptions.granted(&filter);
                tracing::info!(%filter, "the broker grants it now");
            }
            _ => {}
        }
    }
}

impl Transport for Mqtt {
    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<(), TransportError> {
        let wildcard = topic.contains(['+', '#']);
        if topic.is_empty()
            || topic.len() > TOPIC_BYTES_MAX
            || wildcard
            || payload.len() > PAYLOAD_BYTES_MAX
        {
            return Err(TransportError::Invalid);
        }
        let guard = self.shared.up();
        let client = &guard.as_ref().ok_or(TransportError::Disconnected)?.client;
        // Counted before it is queued, so that its acknowledgement can't overtake the count.
        self.shared.published.fetch_add(1, Ordering::SeqCst);
        if client.publish(topic, payload, retain, None) {
            Ok(())
        } else {
            self.shared.published.fetch_sub(1, Ordering::SeqCst);
            Err(TransportError::Full)
        }
    }
}

impl Connector for Mqtt {
    fn subscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX {
            return Err(TransportError::Invalid);
        }
        if !self.subscriptions.want(filter) {
            tracing::warn!(%filter, "too many subscriptions");
            return Err(TransportError::Full);
        }
        self.flush_subscriptions();
        Ok(())
    }

    fn unsubscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        self.subscriptions.forget(filter);
        let guard = self.shared.up();
        let client = &guard.as_ref().ok_or(TransportError::Disconnected)?.client;
        if client.unsubscribe(filter) {
            Ok(())
        } else {
            Err(TransportError::Full)
        }
    }

    fn connect(&mut self) {
        if self.worker.is_some() {
            return;
        }
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.events = Some(receiver);
        let (options, shared) = (self.options.clone(), self.shared.clone());
        let reader = thread::current();
        let worker = thread::Builder::new()
            .name("mqtt".into())
            .spawn(move || work(&options, &shared, &sender, &reader));
        match worker {
            Ok(worker) => self.worker = Some(worker),
            Err(error) => tracing::error!(%error, "no thread for the connection"),
        }
    }

    fn poll(&mut self, handle: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut told = self.told();
        // The broker's answers to subscriptions are this side's own business.
        while let Some(Told::Refused { .. } | Told::Granted { .. }) = &told {
            self.answered(told.take());
            told = self.told();
        }
        let happened = told.is_some();
        match told {
            Some(Told::Connected { session_present }) => {
                self.connected(session_present);
                handle(Event::Connected {
                    session_present: self.session_present,
                });
            }
            Some(Told::Disconnected) => {
                self.session_present = false;
                handle(Event::Disconnected);
            }
            Some(Told::Message { topic, payload }) => handle(Event::Message {
                topic: &topic,
                payload: &payload,
            }),
            Some(Told::Refused { .. } | Told::Granted { .. }) | None => {}
        }
        self.flush_subscriptions();
        happened
    }

    fn session_present(&self) -> bool {
        self.session_present
    }

    fn disconnect(&mut self) {
        let deadline = Instant::now() + GOODBYE;
        let short = Duration::from_millis(5);
        let left = |deadline: Instant| Instant::now() < deadline;
        let up = || self.shared.up().is_some();
        while up() && self.shared.outstanding() > 0 && left(deadline) {
            thread::sleep(short);
        }
        let goodbye = self
            .shared
            .up()
            .as_ref()
            .is_some_and(|up| up.client.disconnect());
        // The goodbye ends the connection, and the connection's end clears the client.
        while goodbye && up() && left(deadline) {
            thread::sleep(short);
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.stopped.notify_one();
        // A full event queue must not hold up the thread that fills it.
        self.events = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.stopped.notify_one();
    }
}

/// The connection's thread: connects, works, backs off, and again.
fn work(options: &Options, shared: &Shared, events: &mpsc::Sender<Told>, reader: &Thread) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime for the connection");
            return;
        }
    };
    runtime.block_on(async {
        let work = reconnect(options, shared, events, reader);
        tokio::select! {
            () = work => {}
            () = shared.stopped.notified() => {}
        }
    });
    *shared.up() = None;
}

async fn reconnect(
    options: &Options,
    shared: &Shared,
    events: &mpsc::Sender<Told>,
    reader: &Thread,
) {
    let mut backoff = Backoff::new(BACKOFF_FIRST, options.reconnect_max);
    let mut connected_before = false;
    let mut told: Option<Failure> = None;
    let mut negotiation = Negotiation::new(options.protocol);
    while !shared.stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        // The first connection of a process starts from a clean session: what an older process
        // subscribed to means nothing to this one.
        let (client, turns) = Client::new(&options.line, negotiation.version(), !connected_before);
        shared.published.store(0, Ordering::SeqCst);
        shared.acked.store(0, Ordering::SeqCst);
        let mut connection = Connection {
            shared,
            events,
            reader,
            client,
            connected: false,
            stall: options.stall,
            negotiation: &mut negotiation,
            sent: BTreeMap::new(),
            refused: BTreeSet::new(),
        };
        let failure = connection.run(turns).await;
        let connected = connection.connected;
        *shared.up() = None;
        if connected {
            connected_before = true;
            told = None;
            let sent = events.send(Told::Disconnected).await;
            reader.unpark();
            if sent.is_err() {
                return;
            }
            tracing::info!(reason = %failure, "connection lost");
        } else if negotiation.failed(&failure) {
            tracing::info!(reason = %failure, next = %negotiation.version(), "another MQTT version");
            continue;
        } else if told.as_ref() != Some(&failure) {
            // Said once, since it may be so for days.
            tracing::warn!(reason = %failure, next = failure.advice(), "no connection");
            told = Some(failure);
        }
        if connected && begun.elapsed() > STABLE {
            backoff.reset();
        }
        tokio::time::sleep(backoff.jittered()).await;
    }
}

/// One connection, from its first packet to its last.
struct Connection<'a> {
    shared: &'a Shared,
    events: &'a mpsc::Sender<Told>,
    reader: &'a Thread,
    client: Client,
    connected: bool,
    stall: Duration,
    negotiation: &'a mut Negotiation,
    /// Subscriptions that the broker has not answered, by their numbers.
    sent: BTreeMap<u16, String>,
    /// Those that it refused and has not granted since.
    refused: BTreeSet<String>,
}

impl Connection<'_> {
    /// A subscription was sent under this number, in the order in which they were asked for.
    fn numbered(&mut self, id: u16) {
        let mut up = self.shared.up();
        if let Some(filter) = up.as_mut().and_then(|up| up.asked.pop_front()) {
            self.sent.insert(id, filter);
        }
    }

    /// What the reader is to know of the broker's answer to a subscription.
    fn subscribed(&mut self, id: u16, refused: Option<String>) -> Option<Told> {
        let filter = self.sent.remove(&id)?;
        match refused {
            Some(reason) => {
                self.refused.insert(filter.clone());
                Some(Told::Refused { filter, reason })
            }
            None if self.refused.remove(&filter) => Some(Told::Granted { filter }),
            None => None,
        }
    }

    /// Works until the connection ends, and says why it did.
    async fn run(&mut self, mut turns: Loop) -> Failure {
        let mut heard = Instant::now();
        let mut progress = Instant::now();
        loop {
            let step = {
                let mut turn = pin!(turns.poll());
                loop {
                    tokio::select! {
                        step = &mut turn => break step,
                        () = tokio::time::sleep(WATCH) => {
                            if self.shared.outstanding() == 0 {
                                progress = Instant::now();
                            }
                            let oldest = heard.min(progress);
                            if oldest.elapsed() > self.stall {
                                let stuck = "no progress; starting anew".to_owned();
                                return if self.connected {
                                    Failure::Lost(stuck)
                                } else {
                                    Failure::Silent
                                };
                            }
                        }
                    }
                }
            };
            let step = match step {
                Ok(step) => step,
                Err(failure) => return failure,
            };
            if step.is_incoming() {
                heard = Instant::now();
            }
            let told = match step {
                Step::Connected { session_present } => {
                    *self.shared.up() = Some(Up {
                        client: self.client.clone(),
                        asked: VecDeque::new(),
                    });
                    self.connected = true;
                    self.negotiation.connected();
                    tracing::debug!(mqtt = %self.negotiation.version(), "the broker answers");
                    Told::Connected { session_present }
                }
                Step::Message { topic, payload, .. } => Told::Message { topic, payload },
                Step::PublishAcked { refused, .. } => {
                    if let Some(reason) = refused {
                        // The frame stays in the outbox, for a broker that was mended.
                        tracing::warn!(%reason, "the broker refuses a message");
                    }
                    self.shared.acked.fetch_add(1, Ordering::SeqCst);
                    progress = Instant::now();
                    continue;
                }
                Step::SubscribeSent(id) => {
                    self.numbered(id);
                    continue;
                }
                Step::SubscribeAcked { id, refused } => match self.subscribed(id, refused) {
                    Some(told) => told,
                    None => continue,
                },
                _ => continue,
            };
            if self.events.send(told).await.is_err() {
                return Failure::Lost("the agent stopped".into());
            }
            self.reader.unpark();
            // The reader may have taken its time; that was not the broker's silence.
            heard = Instant::now();
        }
    }
}
