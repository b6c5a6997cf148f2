//! What outlives a connection, and the task that makes one connection after the other.

use super::{Event, Message, Options};
use edgeward_mqtt::{Backoff, Client, Failure, Line, Loop, Negotiation, Step, Version};
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
const MAX_PACKET: u32 = crate::broker::MAX_PAYLOAD_BYTES as u32 + 1024;
/// Silence after which the broker is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Shortest and longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A connection that stood for so long proves that broker and name are all right: the next pause is the
/// shortest again. Two clients of one name, who throw each other off, never get there.
const STABLE: Duration = Duration::from_secs(5);
/// Shortest and longest pause before a refused subscription is asked for again.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
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
    /// Seconds after which a broker of MQTT 5 may forget it.
    expiry_s: Option<u32>,
    /// When it went to the present connection.
    sent: Option<Instant>,
}

/// How a filter stands with the present connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subscription {
    Wanted,
    Asked,
    Granted,
    Refused(Refusal),
}

/// A subscription that the broker refused.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    why: String,
    backoff: Backoff,
    /// When it is asked for again; none while the broker has not answered that.
    again: Option<Instant>,
}

/// All that the client's threads share.
#[derive(Debug, Default)]
pub(super) struct Status {
    client: Option<(Client, Version)>,
    connections: u64,
    /// Since when the present one stands.
    since: Option<Instant>,
    /// What the last connection failed of, until there is another.
    failure: Option<Failure>,
    /// Topic of a message that the broker refused, and why; the first that nobody was told of.
    refusal: Option<(String, String)>,
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

    pub(super) fn connected_for(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.client.as_ref().map(|(_, version)| *version)
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.clone()
    }

    /// Why there is no connection, when trying again can't help.
    pub(super) fn hopeless(&self) -> Option<Failure> {
        self.failure().filter(Failure::is_final)
    }

    /// Whether the broker granted a subscription; nothing when it has not answered.
    pub(super) fn granted(&self, filter: &str) -> Option<Result<(), String>> {
        match self.subscriptions.get(filter) {
            Some(Subscription::Granted) => Some(Ok(())),
            Some(Subscription::Refused(refusal)) => Some(Err(refusal.why.clone())),
            _ => None,
        }
    }

    fn push(&mut self, topic: &str, payload: Arc<[u8]>, retain: bool, expiry_s: Option<u32>) {
        let outbound = Outbound {
            topic: topic.to_owned(),
            payload,
            retain,
            expiry_s,
            sent: None,
        };
        self.queue.insert(self.next_ticket, outbound);
        self.next_ticket += 1;
        self.pump();
    }

    /// A connection was made: what the broker may have lost goes out again.
    fn connected(&mut self, client: Client, version: Version) {
        self.client = Some((client, version));
        self.since = Some(Instant::now());
        self.failure = None;
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
                    expiry_s: None,
                    sent: None,
                };
                self.queue.insert(ticket, outbound);
            }
        }
        self.connections += 1;
        self.pump();
    }

    /// Forgets everything that belonged to the last connection.
    fn lose(&mut self, failure: Failure) {
        self.client = None;
        self.since = None;
        self.failure = Some(failure);
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
        let Some((client, _)) = &self.client else {
            return;
        };
        while let Some(filter) = self.unwanted.front() {
            if !client.unsubscribe(filter) {
                return;
            }
            self.unwanted.pop_front();
        }
        let wanted = self.subscriptions.iter_mut();
        for (filter, state) in wanted.filter(|(_, state)| **state == Subscription::Wanted) {
            if !client.subscribe(filter) {
                return;
            }
            *state = Subscription::Asked;
            self.asked.push_back(filter.clone());
        }
        let in_flight = self.unnumbered.len() + self.numbered.len();
        let waiting = self.queue.iter_mut().filter(|(_, o)| o.sent.is_none());
        for (ticket, outbound) in waiting.take(WINDOW.saturating_sub(in_flight)) {
            let (topic, payload) = (outbound.topic.as_str(), &outbound.payload);
            if !client.publish(topic, payload, outbound.retain, outbound.expiry_s) {
                return;
            }
            outbound.sent = Some(Instant::now());
            self.unnumbered.push_back(*ticket);
        }
    }

    /// Asks for what the broker refused a while ago.
    fn ask_again(&mut self, now: Instant) {
        let Some((client, _)) = &self.client else {
            return;
        };
        for (filter, state) in &mut self.subscriptions {
            let Subscription::Refused(refusal) = state else {
                continue;
            };
            if refusal.again.is_some_and(|at| at <= now) && client.subscribe(filter) {
                refusal.again = None;
                self.asked.push_back(filter.clone());
            }
        }
    }

    /// The broker answered a subscription.
    fn subscribed(&mut self, id: u16, refused: Option<String>) {
        let Some(filter) = self.subscribing.remove(&id) else {
            return;
        };
        let Some(state) = self.subscriptions.get_mut(&filter) else {
            return;
        };
        let before = match state {
            Subscription::Refused(refusal) => Some(refusal.backoff.clone()),
            _ => None,
        };
        // Said once, since it may be so for days.
        match (&refused, &before) {
            (Some(reason), None) => {
                tracing::warn!(
                    filter,
                    reason,
                    "subscription refused by the broker; asking on"
                );
            }
            (None, Some(_)) => tracing::info!(filter, "subscription granted now"),
            _ => {}
        }
        *state = refused.map_or(Subscription::Granted, |why| {
            let mut backoff = before.unwrap_or_else(|| Backoff::new(ASK_AGAIN.0, ASK_AGAIN.1));
            let again = Some(Instant::now() + backoff.delay());
            Subscription::Refused(Refusal {
                why,
                backoff,
                again,
            })
        });
    }

    /// What a turn of the connection changes. rumqttc numbers requests in the order in which it got
    /// them.
    fn step(&mut self, step: Step) {
        match step {
            Step::PublishSent(id) => {
                if let Some(ticket) = self.unnumbered.pop_front() {
                    self.numbered.insert(id, ticket);
                }
            }
            Step::SubscribeSent(id) => {
                if let Some(filter) = self.asked.pop_front() {
                    self.subscribing.insert(id, filter);
                }
            }
            Step::PublishAcked { id, refused } => {
                let ticket = self.numbered.remove(&id);
                // What was refused would be refused again: it is told of, and not kept.
                let done = ticket.and_then(|ticket| self.queue.remove(&ticket));
                if let (Some(outbound), Some(reason)) = (done, refused) {
                    tracing::warn!(topic = outbound.topic, reason, "refused by the broker");
                    self.refusal.get_or_insert((outbound.topic, reason));
                }
            }
            Step::SubscribeAcked { id, refused } => self.subscribed(id, refused),
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

    /// The refusal that nobody was told of, if there is one.
    pub(super) fn refusal(&self) -> Option<(String, String)> {
        self.lock().refusal.take()
    }

    pub(super) fn queue(&self, topic: &str, payload: &[u8], retain: bool, expiry_s: Option<u32>) {
        self.change(|status| status.push(topic, payload.into(), retain, expiry_s));
    }

    pub(super) fn maintain(&self, topic: &str, payload: &[u8]) {
        let payload: Arc<[u8]> = payload.into();
        self.change(|status| {
            let kept = Arc::clone(&payload);
            status.maintained.insert(topic.to_owned(), kept);
            status.push(topic, payload, true, None);
        });
    }

    pub(super) fn clear(&self, topic: &str) {
        self.change(|status| {
            status.maintained.remove(topic);
            status.push(topic, Arc::default(), true, None);
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
        client.is_some_and(|(client, _)| client.disconnect())
    }
}

/// Why a connection was given up.
enum End {
    Stop,
    Lost(Failure),
}

/// The client's thread: one connection after the other until it is told to stop.
pub(super) fn run(options: &Options, session: &Session, inbox: &SyncSender<Event>, stop: &Notify) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(connections(options, session, inbox, stop)),
        Err(error) => {
            let failure = Failure::Unreachable(error.to_string());
            session.change(|status| status.lose(failure));
        }
    }
}

async fn connections(
    options: &Options,
    session: &Session,
    inbox: &SyncSender<Event>,
    stop: &Notify,
) {
    let line = line(options);
    let mut negotiation = Negotiation::new(options.protocol);
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let before = session.read(|status| status.connections);
        // A fresh event loop each time: nothing that went wrong in the last one is carried over.
        let version = negotiation.version();
        let (client, turns) = Client::new(&line, version, true);
        let end = tokio::select! {
            end = serve((client, version), turns, session, inbox) => end,
            () = stop.notified() => End::Stop,
            () = watch(session) => {
                let seconds = OVERDUE.as_secs();
                End::Lost(Failure::Lost(format!("no acknowledgement for {seconds} s")))
            }
        };
        let End::Lost(failure) = end else {
            return;
        };
        let (accepted, since) = session.read(|status| (status.connections > before, status.since));
        tracing::debug!(client = options.client_id, %version, %failure, "connection lost");
        if accepted {
            negotiation.connected();
            if since.is_some_and(|since| since.elapsed() >= STABLE) {
                backoff.reset();
            }
        } else if negotiation.failed(&failure) {
            continue;
        }
        session.change(|status| status.lose(failure.clone()));
        // An owner who takes no events misses nothing.
        let _ = inbox.try_send(Event::Disconnected(failure));
        tokio::select! {
            () = tokio::time::sleep(backoff.jittered()) => {}
            () = stop.notified() => return,
        }
    }
}

/// Each connection's session ends with it.
fn line(options: &Options) -> Line {
    Line {
        host: options.host.clone(),
        port: options.port,
        client_id: options.client_id.clone(),
        keep_alive: KEEP_ALIVE,
        credentials: options.credentials.clone(),
        tls: options.tls.clone(),
        will: None,
        session_expiry_s: 0,
        inflight: WINDOW as u16 * 2,
        queue: CHANNEL,
        packet_bytes: MAX_PACKET,
    }
}

/// Looks after a connection, and returns when a message has waited too long for its
/// acknowledgement.
async fn watch(session: &Session) {
    while !session.read(Status::is_wedged) {
        session.change(|status| status.ask_again(Instant::now()));
        tokio::time::sleep(WATCH).await;
    }
}

/// Drives one connection to its end.
async fn serve(
    client: (Client, Version),
    mut turns: Loop,
    session: &Session,
    inbox: &SyncSender<Event>,
) -> End {
    loop {
        let step = match turns.poll().await {
            Ok(step) => step,
            Err(failure) => return End::Lost(failure),
        };
        match step {
            Step::Connected { .. } => {
                let (client, version) = client.clone();
                session.change(|status| status.connected(client, version));
                let _ = inbox.try_send(Event::Connected);
            }
            Step::Message {
                topic,
                payload,
                retain,
            } => {
                let message = Message {
                    topic,
                    payload,
                    retain,
                };
                if !deliver(message, inbox).await {
                    return End::Stop;
                }
            }
            Step::DisconnectSent => return End::Lost(Failure::Lost("said goodbye".into())),
            step => session.change(|status| status.step(step)),
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
