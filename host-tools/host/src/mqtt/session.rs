//! What outlives a connection, and the task that makes one connection after the other.

use super::{Event, Message, Options};
use rumqttc::{
    AsyncClient, Event as Raw, EventLoop, Incoming, MqttOptions, Outgoing, QoS,
    SubscribeReasonCode as Granted,
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Messages on their way to the broker, not yet acknowledged.
const WINDOW: usize = 50;
/// Requests that rumqttc's channel takes; what does not fit is tried again at the next event.
const CHANNEL: usize = 256;
/// Largest packet in either direction.
const MAX_PACKET: usize = crate::broker::MAX_PAYLOAD_BYTES + 1024;
/// Silence after which the broker is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Shortest and longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// An acknowledgement that takes longer than this means that the connection is wedged.
const OVERDUE: Duration = Duration::from_secs(10);
/// How often that is looked at.
const WATCH: Duration = Duration::from_millis(500);
/// How long a full inbox is left alone before the next look.
const BACKPRESSURE: Duration = Duration::from_millis(2);

/// A message that the broker has not acknowledged.
#[derive(Debug)]
struct Outbound {
    topic: String,
    payload: Arc<[u8]>,
    retain: bool,
    /// When it went to the present connection.
    sent: Option<Instant>,
}

/// How a filter stands with the present connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    Wanted,
    Asked,
    Granted,
    Refused,
}

/// All that the client's threads share.
#[derive(Debug, Default)]
pub(super) struct Status {
    client: Option<AsyncClient>,
    connections: u64,
    last_error: Option<String>,
    /// Messages in the order of their tickets; what is renewed at a connection goes in front, with
    /// tickets below zero.
    queue: BTreeMap<i64, Outbound>,
    next_ticket: i64,
    /// Tickets that rumqttc has not numbered, in the order that it got them.
    unnumbered: VecDeque<i64>,
    numbered: HashMap<u16, i64>,
    subscriptions: BTreeMap<String, Subscription>,
    /// Filters that rumqttc has not numbered, in the order that it got them.
    asked: VecDeque<String>,
    subscribing: HashMap<u16, String>,
    /// Filters whose end rumqttc has not been told of.
    unwanted: VecDeque<String>,
    maintained: BTreeMap<String, Arc<[u8]>>,
}

impl Status {
    pub(super) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether the broker granted a subscription; nothing when it has not answered.
    pub(super) fn granted(&self, filter: &str) -> Option<bool> {
        match self.subscriptions.get(filter) {
            Some(Subscription::Granted) => Some(true),
            Some(Subscription::Refused) => Some(false),
            _ => None,
        }
    }

    fn push(&mut self, topic: &str, payload: Arc<[u8]>, retain: bool) {
        let outbound = Outbound {
            topic: topic.to_owned(),
            payload,
            retain,
            sent: None,
        };
        self.queue.insert(self.next_ticket, outbound);
        self.next_ticket += 1;
        self.pump();
    }

    /// A connection was made: what the broker may have lost goes out again.
    fn connected(&mut self, client: AsyncClient) {
        self.client = Some(client);
        if self.connections > 0 {
            // The last message for a topic that is queued anyway is the one that must stay.
            let queued: HashSet<String> = self.queue.values().map(|o| o.topic.clone()).collect();
            let first = self.queue.keys().next().copied().unwrap_or(0).min(0);
            let lost = self.maintained.iter();
            for (ticket, (topic, payload)) in (i64::MIN..first)
                .rev()
                .zip(lost.filter(|(topic, _)| !queued.contains(*topic)))
            {
                let outbound = Outbound {
                    topic: topic.clone(),
                    payload: Arc::clone(payload),
                    retain: true,
                    sent: None,
                };
                self.queue.insert(ticket, outbound);
            }
        }
        self.connections += 1;
        self.pump();
    }

    /// Forgets everything that belonged to the last connection.
    fn lose(&mut self, error: String) {
        self.client = None;
        self.last_error = Some(error);
        self.unnumbered.clear();
        self.numbered.clear();
        self.asked.clear();
        self.subscribing.clear();
        // A new session has no subscriptions, so there is nothing left to end.
        self.unwanted.clear();
        for outbound in self.queue.values_mut() {
            outbound.sent = None;
        }
        for state in self.subscriptions.values_mut() {
            *state = Subscription::Wanted;
        }
    }

    /// Hands rumqttc as much as the window allows, and never waits.
    fn pump(&mut self) {
        let Some(client) = &self.client else {
            return;
        };
        while let Some(filter) = self.unwanted.front() {
            if client.try_unsubscribe(filter).is_err() {
                return;
            }
            self.unwanted.pop_front();
        }
        let wanted = self.subscriptions.iter_mut();
        for (filter, state) in wanted.filter(|(_, state)| **state == Subscription::Wanted) {
            if client.try_subscribe(filter, QoS::AtLeastOnce).is_err() {
                return;
            }
            *state = Subscription::Asked;
            self.asked.push_back(filter.clone());
        }
        let in_flight = self.unnumbered.len() + self.numbered.len();
        let waiting = self.queue.iter_mut().filter(|(_, o)| o.sent.is_none());
        for (ticket, outbound) in waiting.take(WINDOW.saturating_sub(in_flight)) {
            let (topic, payload) = (outbound.topic.as_str(), outbound.payload.to_vec());
            let sent = client.try_publish(topic, QoS::AtLeastOnce, outbound.retain, payload);
            if sent.is_err() {
                return;
            }
            outbound.sent = Some(Instant::now());
            self.unnumbered.push_back(*ticket);
        }
    }

    /// rumqttc numbers requests in the order in which it got them.
    fn numbered(&mut self, outgoing: &Outgoing) {
        match outgoing {
            Outgoing::Publish(id) => {
                if let Some(ticket) = self.unnumbered.pop_front() {
                    self.numbered.insert(*id, ticket);
                }
            }
            Outgoing::Subscribe(id) => {
                if let Some(filter) = self.asked.pop_front() {
                    self.subscribing.insert(*id, filter);
                }
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, incoming: &Incoming) {
        match incoming {
            Incoming::PubAck(ack) => {
                if let Some(ticket) = self.numbered.remove(&ack.pkid) {
                    self.queue.remove(&ticket);
                }
            }
            Incoming::SubAck(ack) => {
                if let Some(filter) = self.subscribing.remove(&ack.pkid)
                    && let Some(state) = self.subscriptions.get_mut(&filter)
                {
                    let refused = ack.return_codes.contains(&Granted::Failure);
                    *state = if refused {
                        Subscription::Refused
                    } else {
                        Subscription::Granted
                    };
                }
            }
            _ => {}
        }
        self.pump();
    }

    fn is_wedged(&self) -> bool {
        let sent = self.queue.values().filter_map(|outbound| outbound.sent);
        sent.min().is_some_and(|oldest| oldest.elapsed() > OVERDUE)
    }
}

/// The shared state, and a bell that rings when it changes.
#[derive(Debug, Default)]
pub(super) struct Session {
    status: Mutex<Status>,
    changed: Condvar,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, Status> {
        // Every change under the lock leaves the state usable, even one that panicked.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Status) -> T) -> T {
        read(&self.lock())
    }

    /// Waits until `done` says yes; false when the time is over first.
    pub(super) fn wait(&self, timeout: Duration, done: impl Fn(&Status) -> bool) -> bool {
        let (status, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |status| !done(status))
            .unwrap_or_else(PoisonError::into_inner);
        done(&status)
    }

    pub(super) fn last_error(&self) -> String {
        let error = self.read(|status| status.last_error.clone());
        error.unwrap_or_else(|| "no error was seen".to_owned())
    }

    pub(super) fn queue(&self, topic: &str, payload: &[u8], retain: bool) {
        self.change(|status| status.push(topic, payload.into(), retain));
    }

    pub(super) fn maintain(&self, topic: &str, payload: &[u8]) {
        let payload: Arc<[u8]> = payload.into();
        self.change(|status| {
            let kept = Arc::clone(&payload);
            status.maintained.insert(topic.to_owned(), kept);
            status.push(topic, payload, true);
        });
    }

    pub(super) fn clear(&self, topic: &str) {
        self.change(|status| {
            status.maintained.remove(topic);
            status.push(topic, Arc::default(), true);
        });
    }

    pub(super) fn subscribe(&self, filter: &str) {
        self.change(|status| {
            let wanted = Subscription::Wanted;
            status.subscriptions.insert(filter.to_owned(), wanted);
            status.pump();
        });
    }

    pub(super) fn unsubscribe(&self, filter: &str) {
        self.change(|status| {
            if status.subscriptions.remove(filter).is_some() {
                status.unwanted.push_back(filter.to_owned());
                status.pump();
            }
        });
    }

    /// Tells the broker that this client leaves, if it is there.
    pub(super) fn say_goodbye(&self) -> bool {
        let status = self.lock();
        let client = status.client.as_ref();
        client.is_some_and(|client| client.try_disconnect().is_ok())
    }
}

/// Why a connection was given up.
enum End {
    Stop,
    Lost(String),
}

/// The client's thread: one connection after the other until it is told to stop.
pub(super) fn run(options: &Options, session: &Session, inbox: &SyncSender<Event>, stop: &Notify) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(connections(options, session, inbox, stop)),
        Err(error) => session.change(|status| status.lose(error.to_string())),
    }
}

async fn connections(
    options: &Options,
    session: &Session,
    inbox: &SyncSender<Event>,
    stop: &Notify,
) {
    let mut backoff = BACKOFF.0;
    loop {
        let before = session.read(|status| status.connections);
        // A fresh event loop each time: nothing that went wrong in the last one is carried over.
        let (client, eventloop) = AsyncClient::new(to_rumqttc(options), CHANNEL);
        let end = tokio::select! {
            end = serve(client, eventloop, session, inbox) => end,
            () = stop.notified() => End::Stop,
            () = overdue(session) => {
                End::Lost(format!("no acknowledgement for {} s", OVERDUE.as_secs()))
            }
        };
        let End::Lost(error) = end else {
            return;
        };
        tracing::debug!(client = options.client_id, error, "connection lost");
        session.change(|status| status.lose(error.clone()));
        // An owner who takes no events misses nothing.
        let _ = inbox.try_send(Event::Disconnected(error));
        if session.read(|status| status.connections) > before {
            backoff = BACKOFF.0;
        }
        tokio::select! {
            () = tokio::time::sleep(jitter(backoff)) => {}
            () = stop.notified() => return,
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

fn to_rumqttc(options: &Options) -> MqttOptions {
    let mut mqtt = MqttOptions::new(&options.client_id, &options.host, options.port);
    mqtt.set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_max_packet_size(MAX_PACKET, MAX_PACKET)
        .set_inflight(WINDOW as u16 * 2);
    if let Some((name, password)) = &options.credentials {
        mqtt.set_credentials(name, password);
    }
    mqtt
}

/// Half to all of a time, so that clients that lost the same broker don't all come back at once.
fn jitter(time: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    // The system seeds RandomState, which is all the randomness that is needed here.
    let random = RandomState::new().hash_one(0u8) % 1024;
    time / 2 + (time / 2).mul_f64(random as f64 / 1024.0)
}

/// Returns when a message has waited too long for its acknowledgement.
async fn overdue(session: &Session) {
    while !session.read(Status::is_wedged) {
        tokio::time::sleep(WATCH).await;
    }
}

/// Drives one connection to its end.
async fn serve(
    client: AsyncClient,
    mut eventloop: EventLoop,
    session: &Session,
    inbox: &SyncSender<Event>,
) -> End {
    loop {
        let event = match eventloop.poll().await {
            Ok(event) => event,
            Err(error) => return End::Lost(error.to_string()),
        };
        match event {
            Raw::Incoming(Incoming::ConnAck(_)) => {
                session.change(|status| status.connected(client.clone()));
                let _ = inbox.try_send(Event::Connected);
            }
            Raw::Incoming(Incoming::Publish(publish)) => {
                let message = Message {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                    retain: publish.retain,
                };
                if !deliver(message, inbox).await {
                    return End::Stop;
                }
            }
            Raw::Incoming(incoming) => session.change(|status| status.acknowledged(&incoming)),
            Raw::Outgoing(Outgoing::Disconnect) => return End::Lost("said goodbye".into()),
            Raw::Outgoing(outgoing) => session.change(|status| status.numbered(&outgoing)),
        }
    }
}

/// Hands a message to the owner; while the inbox is full nothing more is read from the broker.
/// False when there is no owner any more.
async fn deliver(message: Message, inbox: &SyncSender<Event>) -> bool {
    let mut event = Event::Message(message);
    loop {
        match inbox.try_send(event) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(again)) => event = again,
        }
        tokio::time::sleep(BACKPRESSURE).await;
    }
}
