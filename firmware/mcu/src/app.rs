//! The application's loop: flash, outbox and update client on one side, the broker on the other.

use crate::apart::Apart;
use crate::board::{Entropy, Flash, Network};
use crate::line::{self, Lost, Offline, Refused, Wire};
use crate::link::{Command, FlightRecorder, Link, Report, Window};
use crate::load;
use crate::patience::Patience;
use crate::store::{Store, StoreFlash};
use crate::way::{Talk, Way};
use crate::{CHUNKS, RECORDS};
use core::future::{Future, pending, poll_fn};
use core::net::SocketAddrV4;
use core::pin::pin;
use core::sync::atomic::Ordering;
use core::task::Poll;
use edgeward::guard::Verdict;
use edgeward::slots::{self, Slot};
use edgeward::telemetry::outbox::OutboxError;
use edgeward::telemetry::{SlotState, release_id};
use edgeward::trust::dalek::{DalekSigner, DalekVerifier};
use edgeward_firmware::control::{Action, Control, ControlError, Now, Purpose};
use edgeward_firmware::transport::{Transport, hand_over};
use embassy_futures::select::{Either, Either4, select, select4};
use embassy_time::{Duration, Instant, Timer, with_timeout};
use heapless::Deque;
use minimq::{Connection, Io, Session};

/// The head as microcontrollers have it.
pub(crate) type Head<S, const F: usize, const C: usize, const B: usize> = Control<
    'static,
    StoreFlash<S>,
    StoreFlash<S>,
    DalekVerifier,
    DalekSigner,
    F,
    C,
    RECORDS,
    B,
    CHUNKS,
>;

/// How long to wait after a failure of the flash before the next try.
const TROUBLE: Duration = Duration::from_secs(1);
/// Longest time until the head is asked again.
const NAP: Duration = Duration::from_secs(1);
/// What one turn does at most before it looks at the network.
const TURN: usize = 16;
/// Verdicts that may wait to be written down: one that came, and what loading came to of each slot.
const UNWRITTEN: usize = 4;
/// How long it may take to ask for all that is to be subscribed to.
const ASKING: Duration = Duration::from_secs(20);
/// How long a broker may take to answer to a connection.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Shortest and longest delay between two tries to connect.
const BACKOFF_MS: (u64, u64) = (200, 30_000);
/// How long a connection must last for the delays to begin anew: a broker that throws boards out as soon
/// as they are in is not asked several times a second.
const STABLE: Duration = Duration::from_secs(5);

pub(crate) struct App<S: Flash + 'static, const F: usize, const C: usize, const B: usize> {
    pub control: Head<S, F, C, B>,
    pub store: &'static Store<S>,
    pub link: &'static Link<F, C>,
    /// Verdicts that could not be written down; tried again. No more are taken meanwhile, but for what loading a slot
    /// came to, which is known here.
    pub unwritten: Deque<Report, UNWRITTEN>,
    /// A window that could not be stored; tried again.
    pub unstored: Option<Window<F, C>>,
    /// The flight recorder, while it is sent.
    pub recorder: Option<FlightRecorder>,
    /// The flash failed; nothing is tried before this.
    pub trouble_until: Option<Instant>,
    /// State of the jitter's generator.
    pub jitter: u32,
}

/// What the application reaches its broker by.
pub(crate) struct Line<N, E, W> {
    pub network: N,
    pub way: W,
    pub entropy: E,
    /// What MQTT knows of the board's side: it outlives connections.
    pub session: &'static mut Session<'static>,
    pub broker: SocketAddrV4,
}

/// The time as the head knows it: a microcontroller has no calendar.
pub(crate) fn now() -> Now {
    Now {
        monotonic_ms: Instant::now().as_millis(),
        unix_ms: None,
    }
}

impl<S: Flash, const F: usize, const C: usize, const B: usize> App<S, F, C, B> {
    /// An application that knows nothing of its broker yet.
    pub fn new(
        control: Head<S, F, C, B>,
        store: &'static Store<S>,
        link: &'static Link<F, C>,
        jitter: u32,
    ) -> Self {
        Self {
            control,
            store,
            link,
            unwritten: Deque::new(),
            unstored: None,
            recorder: None,
            trouble_until: None,
            jitter,
        }
    }

    /// Connects, works, and connects again, for ever.
    pub async fn run(&mut self, line: &mut Line<impl Network, impl Entropy, impl Way>) -> ! {
        let Line {
            network,
            way,
            entropy,
            session,
            broker,
        } = line;
        let mut delay_ms = BACKOFF_MS.0;
        loop {
            let connected = self.offline(network.connect(*broker));
            if let Ok(stream) = connected.await {
                let stream = Patience::new(stream);
                if way.talk(stream, self, session, entropy).await == Talk::Lasted {
                    delay_ms = BACKOFF_MS.0;
                }
            }
            let wait = self.jittered(delay_ms);
            delay_ms = (delay_ms * 2).min(BACKOFF_MS.1);
            self.offline(Timer::after_millis(wait)).await;
        }
    }

    /// Speaks MQTT over a stream until it ends.
    pub async fn talk(&mut self, stream: impl Io, session: &mut Session<'static>) -> Talk {
        let connected = {
            let shaken = Apart(pin!(session.connect(stream)));
            let shaken = with_timeout(HANDSHAKE, shaken);
            self.offline(shaken).await
        };
        let mut connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                say!(warn, "no connection: {}", Refused::of(&error));
                return Talk::Broken;
            }
            Err(_) => {
                say!(warn, "no connection: {}", Refused::Silent);
                return Talk::Broken;
            }
        };
        say!(info, "connected");
        let since = Instant::now();
        self.control.subscribe_anew();
        self.control.connected(false);
        let Lost = self.online(&mut connection).await;
        self.control.disconnected();
        say!(info, "disconnected");
        match since.elapsed() >= STABLE {
            true => Talk::Lasted,
            false => Talk::Broken,
        }
    }

    /// Between half and all of a delay, so that boards that lost the same broker don't all come back at
    /// once.
    fn jittered(&mut self, delay_ms: u64) -> u64 {
        self.jitter = self
            .jitter
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        delay_ms / 2 + u64::from(self.jitter >> 16) * (delay_ms / 2) / 0xFFFF
    }

    /// Works without a broker until `done` is.
    pub async fn offline<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        loop {
            let busy = self.act(&mut Offline).await;
            let wait = self.wait(busy);
            match select(&mut done, self.work(wait)).await {
                Either::First(output) => return output,
                Either::Second(work) => self.take(work),
            }
        }
    }

    /// Works with a broker until the connection is lost.
    async fn online<I: Io>(&mut self, connection: &mut Connection<'_, '_, I>) -> Lost {
        let waker = poll_fn(|task| Poll::Ready(task.waker().clone())).await;
        loop {
            // Before anything is said, which on a slow line would take the time for this. The application takes no
            // turn meanwhile: one on which it takes longer is not waited for.
            let asked = self.subscribe(connection);
            if with_timeout(ASKING, asked).await != Ok(Ok(())) {
                return Lost;
            }
            let before = self.control.subscriptions();
            let mut wire = Wire {
                connection,
                waker: &waker,
            };
            let busy = self.act(&mut wire).await;
            let wait = match self.control.subscriptions() > before {
                true => Duration::from_ticks(0),
                false => self.wait(busy),
            };
            let mut failed = None;
            let polled = match select(Apart(pin!(connection.poll())), self.work(wait)).await {
                Either::First(Ok(Some(message))) => {
                    failed = self.message(message.topic(), message.payload()).err();
                    true
                }
                Either::First(polled) => polled.is_ok(),
                Either::Second(work) => {
                    self.take(work);
                    true
                }
            };
            if let Some(error) = failed {
                self.free_idle_slot(error).await;
            }
            if !connection.is_connected() {
                return Lost;
            }
            if !polled {
                say!(warn, "the broker refused something");
            }
        }
    }

    /// Asks for what is to be subscribed to, as long as there is room.
    async fn subscribe<I: Io>(
        &mut self,
        connection: &mut Connection<'_, '_, I>,
    ) -> Result<(), Lost> {
        while let Some((topic, wanted)) = self.control.subscription() {
            if !line::subscribe(connection, &topic, wanted).await? {
                break;
            }
            self.control.subscribed();
        }
        Ok(())
    }

    /// Apart from the task, in which every frame would keep room for a message's signatures.
    #[inline(never)]
    fn message(&mut self, topic: &str, payload: &[u8]) -> Result<(), ControlError> {
        let taken = self.control.message(topic, payload, now());
        if let Err(error) = taken {
            self.trouble(Trouble::Message, error);
        }
        taken
    }

    /// How long until the head has something to do if nothing comes.
    fn wait(&self, busy: bool) -> Duration {
        let now = Instant::now();
        if let Some(until) = self.trouble_until {
            return until.saturating_duration_since(now);
        }
        if busy {
            return Duration::from_ticks(0);
        }
        let deadline = self.control.next_deadline_ms();
        deadline.map_or(NAP, |at_ms| {
            let ms = at_ms.saturating_sub(now.as_millis());
            NAP.min(Duration::from_millis(ms.max(1)))
        })
    }

    /// Waits for the inference task, or for so long. What is not to be taken now stays in its channel.
    fn work(&self, wait: Duration) -> impl Future<Output = Work<F, C>> + use<S, F, C, B> {
        let link = self.link;
        let (held_up, full) = (!self.unwritten.is_empty(), self.unstored.is_some());
        async move {
            let reports = async {
                match held_up {
                    true => pending().await,
                    false => link.reports.receive().await,
                }
            };
            let summaries = async {
                match full {
                    true => pending().await,
                    false => link.summaries.receive().await,
                }
            };
            match select4(reports, summaries, Timer::after(wait), pending::<()>()).await {
                Either4::First(report) => Work::Report(report),
                Either4::Second(summary) => Work::Summary(summary),
                _ => Work::Nothing,
            }
        }
    }

    fn take(&mut self, work: Work<F, C>) {
        match work {
            Work::Report(report) => self.report(report),
            Work::Summary(summary) => self.summary(summary),
            Work::Nothing => {}
        }
    }

    fn trouble(&mut self, what: Trouble, error: ControlError) {
        say!(warn, "{}: {}", what, error);
        self.trouble_until = Some(Instant::now() + TROUBLE);
    }

    /// Stores a window that closed.
    fn summary(&mut self, window: Window<F, C>) {
        match self.control.summary(window, now()) {
            Ok(()) => {}
            Err(error @ ControlError::Outbox(OutboxError::TooLarge { .. })) => {
                // No other try would end otherwise.
                self.trouble(Trouble::WindowLost, error);
            }
            Err(error) => {
                self.trouble(Trouble::WindowWaits, error);
                self.unstored = Some(window);
                return;
            }
        }
        // There is room: it was taken from the same few.
        let _ = self.link.spent.try_send(window);
    }

    /// Does what a report of the inference task asks for.
    fn report(&mut self, report: Report) {
        let now = now();
        let result = match report {
            Report::Alarm(release, alarm) => self.control.alarm(release, alarm, now),
            Report::Trial(slot, release, verdict) => {
                say!(info, "trial of slot {}: {}", slot as u8, verdict);
                let result = self.control.trial(slot, release, verdict, now);
                if verdict == Verdict::Confirm && self.control.has_confirmed(slot, release) {
                    self.tell(Command::Confirmed(slot));
                }
                result
            }
            Report::Shadow(slot, release, verdict) => {
                self.control.shadow(slot, release, verdict, now)
            }
            Report::Loaded {
                slot,
                release,
                purpose,
                outcome,
            } => {
                if let Err(reason) = outcome {
                    say!(warn, "slot {} not loaded: {}", slot as u8, reason);
                }
                self.control.loaded(slot, release, purpose, outcome, now)
            }
        };
        if let Err(error) = result {
            self.trouble(Trouble::Report, error);
            // The inference task says it once, and waits. An alarm is in its window's counts.
            if report.slot().is_some() {
                // There is room: each slot is loaded once before it is waited for.
                let _ = self.unwritten.push_back(report);
            }
        }
    }

    fn tell(&mut self, command: Command) {
        // The inference task takes commands before samples, and this task waits for its answers: four
        // never wait at once.
        if self.link.commands.try_send(command).is_err() {
            say!(warn, "the inference task takes no commands");
        }
    }

    /// What the head wants, for at most a turn; true when there is more.
    async fn act(&mut self, transport: &mut dyn Transport) -> bool {
        self.turn();
        if self
            .trouble_until
            .is_some_and(|until| Instant::now() < until)
        {
            return false;
        }
        self.trouble_until = None;
        for _ in 0..self.unwritten.len() {
            if let Some(report) = self.unwritten.pop_front() {
                self.report(report);
            }
        }
        if let Some(summary) = self.unstored.take() {
            self.summary(summary);
        }
        for _ in 0..TURN {
            self.turn();
            let action = match self.control.poll(now()) {
                Ok(Some(action)) => action,
                Ok(None) => {
                    self.send_part(transport).await;
                    return false;
                }
                Err(error) => {
                    self.trouble(Trouble::Control, error);
                    self.free_idle_slot(error).await;
                    self.send_part(transport).await;
                    return false;
                }
            };
            match hand_over(action, transport) {
                Ok(Some(Action::Load { slot, purpose })) => self.load(slot, purpose),
                Ok(Some(Action::Run { slot, mode })) => {
                    say!(info, "run slot {} {}", slot as u8, mode);
                    self.tell(Command::Run(slot, mode));
                }
                Ok(Some(Action::Stop(slot))) => {
                    // What is known of it is of no use any more.
                    self.unwritten.retain(|it| it.slot() != Some(slot));
                    self.stop(slot).await;
                }
                Ok(Some(Action::Pull)) => self.pull().await,
                Ok(_) => {}
                Err(_) => {
                    if let Some(error) = self.control.not_taken() {
                        self.trouble(Trouble::Control, error);
                        self.free_idle_slot(error).await;
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Takes the flight recorder from the inference task, unless it is here since an earlier pull.
    async fn pull(&mut self) {
        say!(info, "the flight record is asked for");
        if self.recorder.is_none() {
            self.link.recorder.reset();
            self.link.commands.send(Command::Lend).await;
            let none = || FlightRecorder::new(&mut []);
            let lent = self.link.recorder.wait().await.into_inner();
            self.recorder = Some(lent.unwrap_or_else(none));
        }
    }

    /// Sends the next part of the flight record, if one is due, and gives the recorder back when the
    /// pull is over.
    async fn send_part(&mut self, transport: &mut dyn Transport) {
        let Some(recorder) = self.recorder.take() else {
            return;
        };
        match self.control.part(&recorder, now()) {
            Ok(Some(action)) => {
                if hand_over(action, transport).is_err() {
                    // What failed has been said before a part was asked for.
                    let _ = self.control.not_taken();
                }
            }
            Ok(None) => {}
            Err(error) => say!(warn, "flight record: {}", error),
        }
        if self.control.is_pulling() {
            self.recorder = Some(recorder);
        } else {
            self.link.commands.send(Command::Record(recorder)).await;
        }
    }

    /// Says that this task lives, and what the inference task could not say.
    fn turn(&self) {
        self.link.turn();
        let lost = self.link.windows_lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            say!(warn, "{} windows are lost: the flash takes none", lost);
        }
    }

    /// Has a slot left, and waits until nothing of it is in use.
    async fn stop(&mut self, slot: Slot) {
        say!(info, "stop slot {}", slot as u8);
        self.link.stopped.reset();
        self.link.commands.send(Command::Stop(slot)).await;
        self.link.stopped.wait().await;
    }

    /// What is being received overwrites what was loaded and never ran: the store refuses that while it
    /// is loaded. A release whose golden vectors run is left at it: nothing of it is written then.
    async fn free_idle_slot(&mut self, error: ControlError) {
        let refused = matches!(error, ControlError::Slots(slots::Error::Flash(_)));
        let idle = self.control.slots().idle();
        let receives = self.control.slots().record(idle).state == SlotState::Receiving;
        if refused && receives && !self.control.is_self_testing() {
            self.stop(idle).await;
        }
    }

    /// Has what a slot holds loaded.
    fn load(&mut self, slot: Slot, purpose: Purpose) {
        let record = self.control.slots().record(slot);
        let (digest, bytes) = (record.digest, record.total_bytes);
        let release = release_id(&digest);
        say!(info, "load slot {} {}", slot as u8, purpose);
        let held = self.store.hold(slot, bytes);
        let checked = held
            .ok_or(edgeward::telemetry::Reason::Corrupt)
            .and_then(|held| load::check(&held, &digest).map(|()| held));
        match checked {
            Ok(held) => self.tell(Command::Load {
                slot,
                digest,
                purpose,
                held,
            }),
            Err(reason) => self.report(Report::Loaded {
                slot,
                release,
                purpose,
                outcome: Err(reason),
            }),
        }
    }
}

/// In what something went wrong.
#[derive(Clone, Copy)]
enum Trouble {
    Message,
    WindowLost,
    WindowWaits,
    Report,
    Control,
}

#[cfg(feature = "defmt")]
impl defmt::Format for Trouble {
    fn format(&self, f: defmt::Formatter<'_>) {
        match self {
            Self::Message => defmt::write!(f, "message"),
            Self::WindowLost => defmt::write!(f, "a window is lost"),
            Self::WindowWaits => defmt::write!(f, "a window waits"),
            Self::Report => defmt::write!(f, "report"),
            Self::Control => defmt::write!(f, "control"),
        }
    }
}

/// What came while waiting.
enum Work<const F: usize, const C: usize> {
    Report(Report),
    Summary(Window<F, C>),
    Nothing,
}
