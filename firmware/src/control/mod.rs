//! The application's head: slots, update client, outbox and trial, tied together.
//!
//! A state machine without I/O of its own, but for the flash it was given. Events go in by methods,
//! what is to be done comes out of [`Control::poll`]; the board's crate or the agent moves bytes,
//! loads models and runs them. Everything that comes from the network is verified here before it has
//! any effect.

mod acknowledge;
mod publish;
mod pull;
mod release;
mod send;
mod subject;
#[cfg(test)]
mod tests;
mod todo;
mod unread;

pub use send::WINDOW;

use core::num::NonZeroU32;
use edgeward::bundle::BoardClass;
use edgeward::slots::{self, BootDecision, Slot, Slots};
use edgeward::sync::{self, UpdateClient};
use edgeward::telemetry::codec::max_frame_bytes;
use edgeward::telemetry::outbox::{Outbox, OutboxError};
use edgeward::telemetry::{Alarm, Crash, Event, Id, Refused, ReleaseId, Summary, Text};
use edgeward::topic::{self, Channel, Parsed, Topic};
use edgeward::trust::{Digest32, Signer, Verifier};
use embedded_storage::nor_flash::NorFlash;
use heapless::Vec;
use pull::Pulls;
use release::Waiting;
use send::Sending;
use subject::Subject;
use todo::Todo;

/// Refusals that are reported at once; further ones wait for [`REFUSAL_MS`] each, or are not
/// reported at all, so that whoever may publish can't wear out the flash.
const REFUSALS: u32 = 16;
/// How long it takes until one more refusal may be reported.
const REFUSAL_MS: u64 = 10_000;

/// How long a board waits before it loads its confirmed release again, at first and at most.
const RELOAD_MS: [u64; 2] = [1_000, 60_000];

/// Why something could not be done; what was there before is there still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ControlError {
    /// The slots or their journal.
    Slots(slots::Error),
    /// The outbox.
    Outbox(OutboxError),
    /// The working memory is too small for a frame.
    NoSpace,
}

impl From<slots::Error> for ControlError {
    fn from(error: slots::Error) -> Self {
        Self::Slots(error)
    }
}

impl From<OutboxError> for ControlError {
    fn from(error: OutboxError) -> Self {
        Self::Outbox(error)
    }
}

impl core::fmt::Display for ControlError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Slots(error) => write!(f, "slots: {error:?}"),
            Self::Outbox(error) => error.fmt(f),
            Self::NoSpace => f.write_str("the working memory is too small for a frame"),
        }
    }
}

impl core::error::Error for ControlError {}

/// The time, as the caller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970, where the board knows.
    pub unix_ms: Option<u64>,
}

impl Now {
    /// What frames are stamped with.
    fn stamp_ms(self) -> u64 {
        self.unix_ms.unwrap_or(self.monotonic_ms)
    }
}

/// Who the board is, beyond what the update client knows.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// Its fleet.
    pub fleet: Id,
    /// Its name.
    pub device: Id,
    /// Its class.
    pub class: BoardClass,
    /// Version of the firmware or agent.
    pub firmware: Text,
    /// Its tags, eight at most.
    pub tags: &'a [Text],
}

/// Why a release is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Purpose {
    /// To run the golden vectors of what was just received.
    SelfTest,
    /// To run it: it is the confirmed one.
    Confirmed,
    /// To run it, in shadow or on trial.
    Candidate,
}

/// How a loaded release is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Mode {
    /// Its predictions count.
    Confirmed,
    /// Its predictions count, and are watched.
    Trial,
    /// Beside the confirmed one, unused.
    Shadow,
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Action<'b> {
    /// Publish; when the transport does not take it, say so by [`Control::not_taken`].
    Publish {
        /// The topic.
        topic: Topic,
        /// The payload.
        payload: &'b [u8],
        /// Whether the broker keeps it.
        retain: bool,
    },
    /// Read the release from the slot, load its model, run its golden vectors, and answer by
    /// [`Control::loaded`].
    Load {
        /// The slot.
        slot: Slot,
        /// What for.
        purpose: Purpose,
    },
    /// Run the release of this slot, loaded before.
    Run {
        /// The slot.
        slot: Slot,
        /// How.
        mode: Mode,
    },
    /// Stop running this slot, live or in shadow; the confirmed one runs.
    Stop(Slot),
    /// The host wants the flight record: hold the recorder still, or copy it, and give it to
    /// [`Control::part`].
    Pull,
    /// There is more to do; poll again when convenient.
    More,
}

/// The application's head. Type parameters: flash of the slots and of the outbox, verifier, signer;
/// features, outputs, records of the outbox, its buffer, chunks on their way at once.
#[derive(Debug)]
pub struct Control<
    'a,
    S,
    O,
    V,
    K,
    const F: usize,
    const C: usize,
    const R: usize,
    const B: usize,
    const W: usize,
> {
    setup: Setup<'a>,
    signer: K,
    verifier: V,
    slots: &'a mut Slots<S>,
    client: UpdateClient<'a, V, W>,
    outbox: &'a mut Outbox<O, F, C, R, B>,
    sending: Sending,
    /// Where sending stood before the frame that was handed out last.
    before: Option<u64>,
    todo: Todo,
    /// Chunks that are subscribed to.
    chunks: Vec<(Digest32, u32), W>,
    connected: bool,
    state_due: bool,
    birth_due: bool,
    /// What this boot did and the outbox did not take, the last of it: births say what failed last, too.
    untold: Option<Event>,
    /// A release between load and trial.
    waiting: Waiting,
    /// The slot whose predictions count.
    running: Option<Slot>,
    refusals: u32,
    refusal_at_ms: u64,
    unreported: u32,
    /// The highest number that the host has acknowledged and the outbox does not know of yet.
    acknowledged: Option<u64>,
    /// Epoch of the next outbox, until one was begun in this boot.
    spare_epoch: Option<NonZeroU32>,
    restarted: bool,
    pulls: Pulls,
    /// The confirmed release could not be loaded.
    reload: Option<Reload>,
    /// What failed, until all is said that can be said.
    trouble: Option<ControlError>,
}

/// When a confirmed release that could not be loaded is loaded again.
#[derive(Debug, Clone, Copy)]
struct Reload {
    /// None while it is being loaded.
    at_ms: Option<u64>,
    /// How long it was waited last.
    wait_ms: u64,
}

/// What [`Control::new`] is made of.
#[derive(Debug)]
pub struct Parts<
    'a,
    S,
    O,
    V,
    K,
    const F: usize,
    const C: usize,
    const R: usize,
    const B: usize,
    const W: usize,
> {
    /// Who the board is.
    pub setup: Setup<'a>,
    /// The device's key.
    pub signer: K,
    /// Checks signatures.
    pub verifier: V,
    /// The slots, after [`Slots::begin_boot`].
    pub slots: &'a mut Slots<S>,
    /// The update client.
    pub client: UpdateClient<'a, V, W>,
    /// The outbox, with a buffer of [`max_buffer_bytes`](edgeward::telemetry::outbox::max_buffer_bytes).
    pub outbox: &'a mut Outbox<O, F, C, R, B>,
    /// A random number, drawn anew in each boot: the epoch of the next outbox, should this one turn
    /// out to be an old copy.
    pub spare_epoch: NonZeroU32,
}

impl<
    'a,
    S: NorFlash,
    O: NorFlash,
    V: Verifier,
    K: Signer,
    const F: usize,
    const C: usize,
    const R: usize,
    const B: usize,
    const W: usize,
> Control<'a, S, O, V, K, F, C, R, B, W>
{
    /// The head of a board that just booted; [`begin`](Self::begin) comes next.
    pub fn new(parts: Parts<'a, S, O, V, K, F, C, R, B, W>, now: Now) -> Self {
        // What is said is signed in the outbox's buffer.
        const { assert!(B >= max_frame_bytes(F, C)) };
        let acknowledged = parts.outbox.acknowledged();
        Self {
            setup: parts.setup,
            signer: parts.signer,
            verifier: parts.verifier,
            slots: parts.slots,
            client: parts.client,
            outbox: parts.outbox,
            sending: Sending::new(acknowledged),
            before: None,
            todo: Todo::default(),
            chunks: Vec::new(),
            connected: false,
            state_due: false,
            birth_due: true,
            untold: None,
            waiting: Waiting::Nothing,
            running: None,
            refusals: REFUSALS,
            refusal_at_ms: now.monotonic_ms,
            unreported: 0,
            acknowledged: None,
            spare_epoch: Some(parts.spare_epoch),
            restarted: false,
            pulls: Pulls::default(),
            reload: None,
            trouble: None,
        }
    }

    /// Begins with what [`Slots::begin_boot`] decided: asks for subscriptions and for what this boot runs.
    ///
    /// # Errors
    /// When the outbox can't take its first birth. The report of a boot that reverted is tried again by
    /// [`Control::poll`].
    pub fn begin(&mut self, boot: BootDecision, now: Now) -> Result<(), ControlError> {
        self.subscribe_anew();
        let begun = self.boot(boot, now);
        if begun.is_err() {
            // No release is to blame for this boot's end. Where the journal can't say so either, it counts.
            let _ = self.slots.end_boot();
        }
        begun
    }

    /// The broker took the connection. `session_present` says that it kept the subscriptions.
    pub fn connected(&mut self, session_present: bool) {
        self.connected = true;
        self.state_due = true;
        self.sending.restart(self.outbox.acknowledged());
        self.before = None;
        // A broker that lost the session has likely lost what it retained, too. An outbox that holds
        // no more than its first birth is about to send it.
        self.birth_due |= !session_present && self.outbox.next_sequence() > 2;
        self.client.connected();
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.pulls.end();
        self.client.disconnected();
        // The client asks for its chunks again by itself.
        while let Some((digest, n)) = self.chunks.pop() {
            self.give_up(Subject::Chunk(digest, n));
        }
    }

    /// A message came. What is not meant for this board, or not signed by who may say it, changes
    /// nothing; the latter is reported. What holds and could not be stored is asked for again, ever
    /// later, by [`Control::poll`].
    ///
    /// # Errors
    /// Those of flash.
    pub fn message(&mut self, topic: &str, bytes: &[u8], now: Now) -> Result<(), ControlError> {
        let fleet_is_mine = |fleet: &str| fleet == self.setup.fleet.as_str();
        match topic::parse(topic) {
            Some(Parsed::Desired { fleet }) if fleet_is_mine(fleet) => {
                let now_s = now.unix_ms.map(|ms| ms / 1000);
                self.client.desired(bytes, now_s, self.slots)?;
            }
            Some(Parsed::Root { fleet, version }) if fleet_is_mine(fleet) => {
                self.root(version, bytes)?;
            }
            Some(Parsed::Blob { digest, chunk }) => {
                let at_ms = now.monotonic_ms;
                // One that was not asked for is ignored and not even unsubscribed from: whoever may
                // publish could keep the board busy with that.
                if self.chunks.contains(&(digest, chunk)) {
                    self.client
                        .chunk(&digest, chunk, bytes, at_ms, self.slots)?;
                }
            }
            Some(Parsed::Device {
                fleet,
                device,
                channel,
            }) if fleet_is_mine(fleet) && device == self.setup.device.as_str() => match channel {
                Channel::Ack => self.acknowledgement(bytes, now)?,
                Channel::Command => self.command(bytes, now)?,
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    #[inline(never)]
    fn root(&mut self, version: u32, bytes: &[u8]) -> Result<(), ControlError> {
        if version <= self.slots.state().root.version {
            return Ok(());
        }
        let before = self.next_root();
        let result = self.client.root(bytes, self.slots);
        let next = self.next_root();
        if next != before {
            self.give_up(before);
            self.want(next);
            self.birth_due = true;
            // Whoever signed the release or its rollout may be revoked: what had not begun its
            // trial begins anew when the desired state comes again.
            self.waiting = Waiting::Nothing;
        }
        result?;
        Ok(())
    }

    /// A new outbox begins with a birth, so that the host knows what the board is from then on.
    /// Whether it just did.
    fn first_birth(&mut self, now: Now) -> Result<bool, ControlError> {
        let first = self.outbox.next_sequence() == 1;
        if first {
            let birth = self.birth();
            self.outbox.push(now.stamp_ms(), &birth)?;
        }
        Ok(first)
    }

    /// A window closed.
    ///
    /// # Errors
    /// Those of the outbox; the summary is not stored then.
    pub fn summary(&mut self, summary: &Summary<F, C>, now: Now) -> Result<(), ControlError> {
        self.outbox.push(now.stamp_ms(), summary)?;
        Ok(())
    }

    /// The runtime raised an alarm.
    ///
    /// # Errors
    /// Those of the outbox; the event is lost then, its count in the summary is not.
    pub fn alarm(
        &mut self,
        release: ReleaseId,
        alarm: Alarm,
        now: Now,
    ) -> Result<(), ControlError> {
        self.event(&Event::Alarm { release, alarm }, now)
    }

    /// The boot before this one ended in a crash.
    ///
    /// # Errors
    /// Those of the outbox; the event is lost then.
    pub fn crashed(&mut self, how: Crash, at: u32, now: Now) -> Result<(), ControlError> {
        self.event(&Event::Crashed { how, at }, now)
    }

    /// Stores an event, unless it is one refusal too many.
    fn event(&mut self, event: &Event, now: Now) -> Result<(), ControlError> {
        // The host's rollouts look at births: each says how the slots stand, and what failed last.
        self.birth_due |= match event {
            Event::Slot { .. } | Event::Reverted { .. } => true,
            Event::Refused { what } => matches!(what, Refused::Release { .. }),
            _ => false,
        };
        if matches!(event, Event::Refused { .. }) && !self.may_report_refusal(now.monotonic_ms) {
            self.unreported = self.unreported.saturating_add(1);
            return Ok(());
        }
        self.outbox.push(now.stamp_ms(), event)?;
        Ok(())
    }

    fn may_report_refusal(&mut self, now_ms: u64) -> bool {
        let passed = now_ms.saturating_sub(self.refusal_at_ms) / REFUSAL_MS;
        let gained = u32::try_from(passed).unwrap_or(u32::MAX);
        self.refusals = self.refusals.saturating_add(gained).min(REFUSALS);
        self.refusal_at_ms += passed * REFUSAL_MS;
        let may = self.refusals > 0;
        self.refusals -= u32::from(may);
        may
    }

    /// The transport did not take what the last poll, or [`Control::part`], said to publish. Nothing more can be said
    /// then: what failed before that, as [`Control::poll`] would have said behind it.
    pub fn not_taken(&mut self) -> Option<ControlError> {
        if !self.pulls.take_back() {
            match self.before.take() {
                Some(before) => self.sending.take_back(before),
                None => self.state_due = true,
            }
        }
        self.trouble.take()
    }

    /// Whether something waits that does not come from the network by itself again: poll before the
    /// next message.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        !self.todo.is_empty() || self.client.is_pressing()
    }

    /// The next thing to do, or none until something comes or [`Control::next_deadline_ms`].
    ///
    /// # Errors
    /// Those of flash; polling again tries again.
    pub fn poll(&mut self, now: Now) -> Result<Option<Action<'_>>, ControlError> {
        self.reload(now);
        // A journal that can't be written must not keep the confirmed release from answering.
        match self.todo.next_sound() {
            Some(Action::Load { slot, purpose }) => return self.load(slot, purpose, now).map(Some),
            Some(action) => return Ok(Some(action)),
            None => {}
        }
        let done = match self.trouble.take() {
            // A release that begins does not wait for what could not be told of it.
            Some(ControlError::Outbox(_)) if self.todo.has_work() => self.work(now),
            // What failed is tried again when all is said that can be said.
            Some(error) => Err(error),
            None => self.work(now),
        };
        match done {
            Ok(Some(action)) => Ok(Some(action)),
            Ok(None) => self.publish(now),
            Err(error) => self.poll_troubled(error, now),
        }
    }

    /// The next thing to do but to say what waits.
    fn work(&mut self, now: Now) -> Result<Option<Action<'static>>, ControlError> {
        self.review(now)?;
        match self.todo.next() {
            Some(Action::Load { slot, purpose }) => return self.load(slot, purpose, now).map(Some),
            Some(action) => return Ok(Some(action)),
            None => {}
        }
        self.forget(now)?;
        if self.pulls.begin() {
            return Ok(Some(Action::Pull));
        }
        if self.start_waiting(now)? {
            return Ok(Some(Action::More));
        }
        if let Some(action) = self.client.poll(now.monotonic_ms, self.slots)? {
            self.follow(action, now)?;
            return Ok(Some(Action::More));
        }
        Ok(self.bear(now)?.then_some(Action::More))
    }

    /// Does what the update client says.
    fn follow(&mut self, action: sync::Action, now: Now) -> Result<(), ControlError> {
        match action {
            sync::Action::Subscribe { digest, n } => {
                // The client keeps to `W` chunks; one beyond would only look unwanted when it comes.
                let _ = self.chunks.push((digest, n));
                self.want(Subject::Chunk(digest, n));
            }
            sync::Action::Unsubscribe { digest, n } => {
                self.chunks.retain(|chunk| *chunk != (digest, n));
                self.give_up(Subject::Chunk(digest, n));
            }
            sync::Action::AskDesired => self.ask(Subject::Desired),
            sync::Action::AskRoot => self.ask(self.next_root()),
            sync::Action::Event(event) => self.event(&event, now)?,
            sync::Action::SelfTest(slot) => self.todo.load(slot, Purpose::SelfTest),
            sync::Action::Start(slot) => self.todo.load(slot, Purpose::Candidate),
            sync::Action::Stop(slot) => self.stop(slot),
            _ => {}
        }
        Ok(())
    }

    /// When [`Control::poll`] has something to do next if nothing comes before; none if never.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let sending = self.sending.deadline_ms().filter(|_| self.connected);
        let all = [
            sending,
            self.client.next_deadline_ms(),
            self.pulls.deadline_ms(),
            self.reload_ms(),
        ];
        all.into_iter().flatten().min()
    }

    /// The board stops on purpose: no release has died in this boot.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn end(&mut self) -> Result<(), ControlError> {
        Ok(self.slots.end_boot()?)
    }

    /// The slots.
    #[must_use]
    pub fn slots(&self) -> &Slots<S> {
        self.slots
    }

    /// The slots, to read a release from them.
    pub fn slots_mut(&mut self) -> &mut Slots<S> {
        self.slots
    }

    /// Whether the answer to a load for a self-test is due, by [`Control::loaded`].
    #[must_use]
    pub fn is_self_testing(&self) -> bool {
        self.client.is_self_testing()
    }

    /// The outbox.
    #[must_use]
    pub fn outbox(&self) -> &Outbox<O, F, C, R, B> {
        self.outbox
    }

    /// Whether the outbox was an old copy and a new one was begun in this boot; see
    /// [`OutboxError::AcknowledgedUnknown`].
    #[must_use]
    pub fn outbox_restarted(&self) -> bool {
        self.restarted
    }

    /// The slot whose predictions count.
    #[must_use]
    pub fn running(&self) -> Option<Slot> {
        self.running
    }

    /// Frames sent and not acknowledged.
    #[must_use]
    pub fn flying(&self) -> usize {
        self.sending.flying()
    }

    /// Refusals that were too many to be reported.
    #[must_use]
    pub fn unreported_refusals(&self) -> u32 {
        self.unreported
    }
}

/// Payload of the state topic while the board is connected.
pub const ONLINE: &[u8] = b"online";
/// Payload of the state topic when it is not; also the last will.
pub const OFFLINE: &str = "offline";
