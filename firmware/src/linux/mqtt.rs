//! MQTT by [`edgeward_mqtt`], with the precautions that rumqttc needs.
//!
//! One thread owns the connection. Nothing is published from that thread and nothing waits for it:
//! requests go into a bounded queue or come back, events into a bounded queue whose reader is woken.
//! Each connection has a client of its own, made anew after an error and whenever the old one stopped
//! making progress, so that no state of a broken connection can hold up the next.

use super::config::Config;
use crate::control::OFFLINE;
use crate::transport::{Event, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX, Transport, TransportError};
use anyhow::{Context, Result};
use edgeward::topic::{self, Channel};
use edgeward_mqtt::{
    Client, Credentials, Failure, Line, Loop, Negotiation, Protocol, Step, Will, load_tls,
};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Events that may wait for their reader; then the broker waits.
const EVENTS: usize = 64;
/// Most subscriptions at once.
const SUBSCRIPTIONS_MAX: usize = 64;
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
    /// Longest delay before a reconnection.
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
    let client_id = format!("edgeward-{}-{}", config.fleet, config.device);
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

/// What the connection's thread and the user of [`Mqtt`] share.
struct Shared {
    client: Mutex<Option<Client>>,
    stop: AtomicBool,
    stopped: Notify,
    published: AtomicU64,
    acked: AtomicU64,
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Option<Client>> {
        // The lock guards one assignment, which can't leave the value half changed.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outstanding(&self) -> u64 {
        let acked = self.acked.load(Ordering::SeqCst);
        self.published.load(Ordering::SeqCst).saturating_sub(acked)
    }
}

/// What the connection's thread tells.
enum Told {
    Connected { session_present: bool },
    Disconnected,
    Message { topic: String, payload: Vec<u8> },
}

/// A connection to an MQTT broker that repairs itself.
pub struct Mqtt {
    options: Options,
    shared: Arc<Shared>,
    events: Option<mpsc::Receiver<Told>>,
    worker: Option<JoinHandle<()>>,
    filters: Vec<String>,
    waiting: VecDeque<String>,
    seen: bool,
    session_present: bool,
}

impl Mqtt {
    /// A connection that is not begun yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            shared: Arc::new(Shared {
                client: Mutex::new(None),
                stop: AtomicBool::new(false),
                stopped: Notify::new(),
                published: AtomicU64::new(0),
                acked: AtomicU64::new(0),
            }),
            events: None,
            worker: None,
            filters: Vec::new(),
            waiting: VecDeque::new(),
            seen: false,
            session_present: false,
        }
    }

    /// Asks for the subscriptions that could not be asked for yet.
    fn flush_subscriptions(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let guard = self.shared.client();
        let Some(client) = guard.as_ref() else {
            return;
        };
        while let Some(filter) = self.waiting.front() {
            if !client.subscribe(filter) {
                return;
            }
            self.waiting.pop_front();
        }
    }

    fn connected(&mut self, session_present: bool) {
        // A process that just began knows nothing of what an old session brought, such as the
        // retained desired state: it asks again, whatever the broker remembers.
        self.session_present = session_present && self.seen;
        self.seen = true;
        // Whatever the broker remembers: a subscription that was on its way when the last connection
        // ended may never have reached it, and nobody would miss it. Asking twice costs nothing but
        // the retained messages once more.
        self.waiting = self.filters.iter().cloned().collect();
    }
}

impl Transport for Mqtt {
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

    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<(), TransportError> {
        let wildcard = topic.contains(['+', '#']);
        if topic.is_empty()
            || topic.len() > TOPIC_BYTES_MAX
            || wildcard
            || payload.len() > PAYLOAD_BYTES_MAX
        {
            return Err(TransportError::Invalid);
        }
        let guard = self.shared.client();
        let client = guard.as_ref().ok_or(TransportError::Disconnected)?;
        // Counted before it is queued, so that its acknowledgement can't overtake the count.
        self.shared.published.fetch_add(1, Ordering::SeqCst);
        if client.publish(topic, payload, retain, None) {
            Ok(())
        } else {
            self.shared.published.fetch_sub(1, Ordering::SeqCst);
            Err(TransportError::Full)
        }
    }

    fn subscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX {
            return Err(TransportError::Invalid);
        }
        if !self.filters.iter().any(|known| known == filter) {
            if self.filters.len() >= SUBSCRIPTIONS_MAX {
                return Err(TransportError::Full);
            }
            self.filters.push(filter.to_owned());
        }
        if !self.waiting.iter().any(|waiting| waiting == filter) {
            self.waiting.push_back(filter.to_owned());
        }
        self.flush_subscriptions();
        Ok(())
    }

    fn unsubscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        self.filters.retain(|known| known != filter);
        self.waiting.retain(|waiting| waiting != filter);
        let guard = self.shared.client();
        let client = guard.as_ref().ok_or(TransportError::Disconnected)?;
        if client.unsubscribe(filter) {
            Ok(())
        } else {
            Err(TransportError::Full)
        }
    }

    fn poll(&mut self, handle: &mut dyn FnMut(Event<'_>)) -> bool {
        let told = self
            .events
            .as_mut()
            .and_then(|events| events.try_recv().ok());
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
            None => {}
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
        let up = || self.shared.client().is_some();
        while up() && self.shared.outstanding() > 0 && left(deadline) {
            thread::sleep(short);
        }
        let goodbye = self
            .shared
            .client()
            .as_ref()
            .is_some_and(Client::disconnect);
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
    *shared.client() = None;
}

async fn reconnect(
    options: &Options,
    shared: &Shared,
    events: &mpsc::Sender<Told>,
    reader: &Thread,
) {
    let random = SystemRandom::new();
    let mut backoff = BACKOFF_FIRST;
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
        };
        let failure = connection.run(turns).await;
        let connected = connection.connected;
        *shared.client() = None;
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
            backoff = BACKOFF_FIRST;
        }
        tokio::time::sleep(jittered(backoff, &random)).await;
        backoff = (backoff * 2).min(options.reconnect_max.max(BACKOFF_FIRST));
    }
}

/// Between half and all of `delay`, so that a fleet does not come back at once.
fn jittered(delay: Duration, random: &SystemRandom) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness the full delay is still a delay.
    if random.fill(&mut bytes).is_err() {
        return delay;
    }
    delay / 2 + (delay / 2) * u32::from(u16::from_le_bytes(bytes)) / u32::from(u16::MAX)
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
}

impl Connection<'_> {
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
                    *self.shared.client() = Some(self.client.clone());
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
                Step::SubscribeAcked {
                    refused: Some(reason),
                    ..
                } => {
                    tracing::warn!(%reason, "the broker refuses a subscription");
                    continue;
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn jitter_stays_between_half_and_all() {
        let random = SystemRandom::new();
        let delay = Duration::from_secs(8);
        let delays: Vec<_> = (0..200).map(|_| jittered(delay, &random)).collect();
        assert!(delays.iter().all(|d| *d >= delay / 2 && *d <= delay));
        assert!(delays.iter().any(|d| *d != delays[0]));
    }

    fn options(port: u16) -> Options {
        Options {
            line: line("127.0.0.1", port, "t", 5),
            protocol: Protocol::V4,
            reconnect_max: Duration::from_secs(1),
            stall: Duration::from_secs(1),
        }
    }

    /// Polls until `ended` says so; what is new unparks this thread.
    fn poll_until(
        mqtt: &mut Mqtt,
        what: &str,
        handle: &mut dyn FnMut(Event<'_>),
        mut ended: impl FnMut(&Mqtt) -> bool,
    ) {
        let limit = Duration::from_secs(60);
        let deadline = Instant::now() + limit;
        while !ended(mqtt) {
            let waiting = mqtt.waiting.len();
            assert!(
                Instant::now() < deadline,
                "waited {limit:?} in vain until {what}; {waiting} requests wait"
            );
            if !mqtt.poll(handle) {
                thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    /// Polls until an event has come.
    fn wait_for(mqtt: &mut Mqtt, what: &str, wanted: fn(&Event<'_>) -> bool) {
        let seen = Cell::new(false);
        let mut look = |event: Event<'_>| seen.set(seen.get() || wanted(&event));
        poll_until(mqtt, what, &mut look, |_| seen.get());
    }

    fn connected(event: &Event<'_>) -> bool {
        matches!(event, Event::Connected { .. })
    }

    /// A broker that takes connections and subscriptions, and acknowledges no publish.
    fn deaf_broker() -> (u16, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // CONNACK: no session, accepted.
                stream.write_all(&[0x20, 2, 0, 0]).unwrap();
                let mut bytes = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    hears.lock().unwrap().extend(&bytes[..read]);
                }
            }
        });
        (port, heard)
    }

    #[test]
    fn a_connection_without_progress_is_given_up_and_subscriptions_are_asked_again() {
        let (port, heard) = deaf_broker();
        let mut mqtt = Mqtt::new(options(port));
        mqtt.subscribe("a/topic").unwrap();
        mqtt.connect();
        wait_for(&mut mqtt, "it is connected", connected);
        mqtt.publish("lost", b"x", false).unwrap();
        let disconnected = |event: &Event<'_>| *event == Event::Disconnected;
        wait_for(&mut mqtt, "it gives up", disconnected);
        wait_for(&mut mqtt, "it is connected again", connected);
        let asked = || {
            let heard = heard.lock().unwrap();
            heard.windows(7).filter(|part| part == b"a/topic").count()
        };
        poll_until(&mut mqtt, "it asks again", &mut |_| {}, |_| asked() >= 2);
    }

    #[test]
    fn a_subscription_that_got_lost_on_the_way_is_asked_again_although_the_session_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, hears) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel();
        thread::spawn(move || {
            // The first connection ends before the broker has read any subscription.
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            ends.recv().unwrap();
            drop(stream);
            // CONNACK: the session is there, accepted.
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[0x20, 2, 1, 0]).unwrap();
            let (mut heard, mut bytes) = (Vec::<u8>::new(), [0; 1024]);
            while let Ok(read @ 1..) = stream.read(&mut bytes) {
                heard.extend(&bytes[..read]);
                if heard.windows(7).any(|part| part == b"a/topic") {
                    asked.send(()).unwrap();
                    return;
                }
            }
        });
        let mut mqtt = Mqtt::new(options(port));
        mqtt.subscribe("a/topic").unwrap();
        mqtt.connect();
        wait_for(&mut mqtt, "it is connected", connected);
        assert!(mqtt.waiting.is_empty(), "it is on its way");
        end.send(()).unwrap();
        let asked_again = |_: &Mqtt| hears.try_recv().is_ok();
        poll_until(&mut mqtt, "it asks again", &mut |_| {}, asked_again);
    }

    #[test]
    fn without_a_broker_requests_come_back_at_once() {
        let mut mqtt = Mqtt::new(options(9));
        mqtt.connect();
        assert_eq!(
            mqtt.publish("a/b", b"x", false),
            Err(TransportError::Disconnected)
        );
        assert_eq!(
            mqtt.publish("a/+", b"x", false),
            Err(TransportError::Invalid)
        );
        let large = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert_eq!(
            mqtt.publish("a", &large, false),
            Err(TransportError::Invalid)
        );
        for i in 0..SUBSCRIPTIONS_MAX {
            mqtt.subscribe(&format!("a/{i}")).unwrap();
        }
        assert_eq!(mqtt.subscribe("one/more"), Err(TransportError::Full));
        assert!(!mqtt.poll(&mut |_| panic!("no event without a broker")));
        mqtt.disconnect();
    }
}
