//! The update client: from a signed desired state to a staged release, chunk by chunk.

use super::again::{Again, Unread};
use super::window::{Timing, Todo, Window};
use super::{Board, Target};
use crate::bundle::Capabilities;
use crate::slots::{Error, RolloutTag, Slot, Slots};
use crate::telemetry::{Event, Refused, SlotState, release_id};
use crate::trust::{Digest32, Verifier};
use embedded_storage::nor_flash::NorFlash;
use heapless::Deque;

/// Most chunks that a head may have; 64 hold the table of 32 MiB of data.
pub const MAX_HEAD_CHUNKS: u32 = 64;
/// Steps of work, one chunk's hash at most each, that one call of [`UpdateClient::poll`] does.
const STEPS: usize = 16;
/// Reports that may wait.
const REPORTS: usize = 8;
/// Refusals among them: those cost whoever may publish nothing, so they never take the last places.
const REFUSALS: usize = 4;

/// What the client must know of its board.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a> {
    /// Who the board is.
    pub board: Board<'a>,
    /// What it can run.
    pub capabilities: Capabilities<'a>,
    /// How long to wait for a chunk that was asked for.
    pub timeout_ms: u64,
    /// How long to wait before the first other try; doubled with each that fails.
    pub backoff_ms: u64,
    /// At most between two tries.
    pub backoff_max_ms: u64,
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Subscribe to chunk `n` of a blob ([`crate::topic`]) and hand what comes to
    /// [`UpdateClient::chunk`].
    Subscribe {
        /// The blob.
        digest: Digest32,
        /// The chunk.
        n: u32,
    },
    /// End that subscription.
    Unsubscribe {
        /// The blob.
        digest: Digest32,
        /// The chunk.
        n: u32,
    },
    /// Subscribe to the fleet's desired state again: the root changed, and with it who may say, or the
    /// flash did not take what came.
    AskDesired,
    /// Subscribe again to the trust root after the one the board has: the flash did not take it.
    AskRoot,
    /// Report this.
    Event(Event),
    /// Run the golden vectors of the release in this slot, all of whose chunks hold, and answer by
    /// [`UpdateClient::self_tested`].
    SelfTest(Slot),
    /// The release in this slot is staged, or was in shadow before the board restarted: begin (or
    /// go on with) its shadow or its trial, as its policy says.
    Start(Slot),
    /// Stop running this slot, in shadow or on trial: its rollout ended, or its keys were revoked.
    /// The slot is given up already; the confirmed one runs.
    Stop(Slot),
    /// There is more to do; poll again when convenient.
    More,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing to do until the next desired state.
    Idle,
    /// A release is wanted; see what is there.
    Begin,
    /// Fetching the head into memory; a bit a chunk that came.
    Head { have: u64 },
    /// The head did not hold; fetch it again at this time.
    HeadAgain { at_ms: u64 },
    /// After a restart: counting the chunks that hold.
    Scan { slot: Slot, at: u32, kept: u32 },
    /// Fetching what does not hold; everything before `at` holds or is in flight.
    Fetch { slot: Slot, at: u32 },
    /// All chunks hold.
    SelfTest { slot: Slot, asked: bool },
    /// Staged or further.
    Ready { slot: Slot, said: bool },
}

/// The release that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) target: Target,
    pub(super) rollout: RolloutTag,
    pub(super) signed_bytes: u32,
    pub(super) head_tries: u8,
    pub(super) told_damaged: bool,
    pub(super) told_unsigned: bool,
}

pub(super) enum Step {
    Act(Action),
    Again,
    Idle,
}

/// Brings the desired release into the idle slot.
///
/// A state machine: give it what comes ([`UpdateClient::desired`], [`UpdateClient::chunk`],
/// [`UpdateClient::connected`], ...), then call [`UpdateClient::poll`] until it says none. It keeps
/// at most `W` chunks in flight and writes each as it comes, so memory is the head and the chunk in
/// the caller's hands. What holds in the slot is never fetched again, whatever was in between.
///
/// Nothing that the network does or fails to do ends a trial, except a signed abort of the rollout,
/// and a signed root that revokes the keys of the release.
#[derive(Debug)]
// Small fields first, where an instruction of two bytes reaches them; compilers put large ones there.
#[repr(C)]
pub struct UpdateClient<'a, V, const W: usize> {
    pub(super) phase: Phase,
    pub(super) head: &'a mut [u8],
    pub(super) paused: bool,
    pub(super) connected: bool,
    /// The desired state is to be asked for again; not queued, so that nothing can crowd it out.
    pub(super) ask_desired: bool,
    /// The releases in the slots were not looked at since the start, or since the root changed.
    /// Nothing uses `head` while this is so.
    pub(super) review_due: bool,
    /// Slots that are to be stopped; not queued either.
    pub(super) stop: [bool; 2],
    /// Slots that were looked at since then: another one's head, which can't be read, has none of them
    /// read and verified again.
    pub(super) reviewed: [bool; 2],
    /// Slots that were confirmed and whose release the root no longer trusts.
    pub(super) revoked: [bool; 2],
    /// A desired state, and a root, that held and could not be stored.
    pub(super) desired_again: Again,
    pub(super) root_again: Again,
    /// Whether the head in each slot could not be read, and when it is tried again.
    pub(super) unread: [Unread; 2],
    /// The blob that the window's chunks are of.
    pub(super) blob: Digest32,
    pub(super) job: Option<Job>,
    pub(super) config: Config<'a>,
    pub(super) verifier: V,
    pub(super) window: Window<W>,
    /// Reports that wait.
    pub(super) reports: Deque<Event, REPORTS>,
}

impl<'a, V: Verifier, const W: usize> UpdateClient<'a, V, W> {
    /// A client that waits for a desired state. `head` holds the head of the release while it is
    /// fetched; one with a larger head is refused as [`Reason::Unsupported`](crate::telemetry::Reason::Unsupported).
    #[must_use]
    pub fn new(config: Config<'a>, verifier: V, head: &'a mut [u8]) -> Self {
        Self {
            config,
            verifier,
            head,
            job: None,
            paused: false,
            connected: false,
            phase: Phase::Idle,
            window: Window::new(),
            blob: [0; 32],
            reports: Deque::new(),
            stop: [false; 2],
            ask_desired: false,
            desired_again: Again::default(),
            root_again: Again::default(),
            review_due: true,
            reviewed: [false; 2],
            unread: [Unread::default(); 2],
            revoked: [false; 2],
        }
    }

    /// The connection is up; all subscriptions are new.
    pub fn connected(&mut self) {
        self.connected = true;
    }

    /// The connection is down; the subscriptions are gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.window.disconnected();
    }

    /// Whether what a slot holds may begin its trial now: it is what the desired state wants, and its
    /// rollout is not paused.
    #[must_use]
    pub fn may_begin<S: NorFlash>(&self, slot: Slot, slots: &Slots<S>) -> bool {
        let record = slots.record(slot);
        let wanted =
            |job: &Job| (job.target.digest, job.rollout) == (record.digest, record.rollout);
        !self.paused && self.job.as_ref().is_some_and(wanted)
    }

    /// When [`UpdateClient::poll`] has something to do next if nothing comes before; none if never.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let head = match self.phase {
            Phase::HeadAgain { at_ms } => Some(at_ms),
            _ => None,
        };
        let again = [&self.desired_again, &self.root_again]
            .into_iter()
            .filter_map(Again::deadline)
            .filter(|_| self.connected);
        let unread = self.unread.iter().filter_map(Unread::deadline);
        let window = self.window.deadline().filter(|_| self.asking());
        head.into_iter()
            .chain(window)
            .chain(again)
            .chain(unread)
            .min()
    }

    /// The next thing to do at `now_ms`, a clock that never goes back; none until something comes
    /// or [`UpdateClient::next_deadline_ms`], or, while a trial runs, until that ends.
    ///
    /// # Errors
    /// Those of the journal and the flash; polling again tries again.
    pub fn poll<S: NorFlash>(
        &mut self,
        now_ms: u64,
        slots: &mut Slots<S>,
    ) -> Result<Option<Action>, Error> {
        let timing = self.timing();
        self.desired_again.tick(now_ms, &timing);
        self.root_again.tick(now_ms, &timing);
        if let Some(slot) = self.review(now_ms, slots)? {
            return Ok(Some(Action::Stop(slot)));
        }
        if self.connected {
            if self.root_again.take(now_ms) {
                return Ok(Some(Action::AskRoot));
            }
            self.ask_desired |= self.desired_again.take(now_ms);
        }
        if let Some(action) = self.waiting() {
            return Ok(Some(action));
        }
        for _ in 0..STEPS {
            let digest = self.blob;
            match self.window.poll(now_ms, self.asking(), &timing) {
                Some(Todo::Subscribe(n)) => return Ok(Some(Action::Subscribe { digest, n })),
                Some(Todo::Unsubscribe(n)) => return Ok(Some(Action::Unsubscribe { digest, n })),
                None => {}
            }
            match self.step(now_ms, slots)? {
                Step::Act(action) => return Ok(Some(action)),
                Step::Again => {}
                Step::Idle => return Ok(self.waiting()),
            }
        }
        Ok(Some(self.waiting().unwrap_or(Action::More)))
    }

    /// Whether the answer to [`Action::SelfTest`] is due.
    #[must_use]
    pub fn is_self_testing(&self) -> bool {
        matches!(self.phase, Phase::SelfTest { asked: true, .. })
    }

    pub(super) fn asking(&self) -> bool {
        self.connected && !self.paused && self.job.is_some()
    }

    pub(super) fn timing(&self) -> Timing {
        Timing {
            timeout_ms: self.config.timeout_ms,
            backoff_ms: self.config.backoff_ms,
            backoff_max_ms: self.config.backoff_max_ms,
        }
    }

    /// Whether [`UpdateClient::poll`] has something that was decided already.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        self.stop.contains(&true) || self.review_due || self.ask_desired || !self.reports.is_empty()
    }

    /// The next slot that is to be stopped.
    pub(super) fn stopped(&mut self) -> Option<Slot> {
        let stop = &mut self.stop;
        Slot::ALL
            .into_iter()
            .find(|&slot| core::mem::take(&mut stop[slot as usize]))
    }

    /// What was decided already, the most pressing first.
    fn waiting(&mut self) -> Option<Action> {
        if let Some(slot) = self.stopped() {
            return Some(Action::Stop(slot));
        }
        if core::mem::take(&mut self.ask_desired) {
            return Some(Action::AskDesired);
        }
        self.reports.pop_front().map(Action::Event)
    }

    pub(super) fn report(&mut self, event: Event) {
        // Full only when the caller does not poll; what it loses then is a report.
        let _ = self.reports.push_back(event);
    }

    pub(super) fn refused(&mut self, what: Refused) {
        if self.reports.len() < REFUSALS {
            self.report(Event::Refused { what });
        }
    }

    pub(super) fn slot_event<S: NorFlash>(&mut self, slot: Slot, slots: &Slots<S>) {
        let record = slots.record(slot);
        self.report(Event::Slot {
            slot: slot as u8,
            release: release_id(&record.digest),
            state: record.state,
        });
    }

    pub(super) fn step<S: NorFlash>(
        &mut self,
        now_ms: u64,
        slots: &mut Slots<S>,
    ) -> Result<Step, Error> {
        let Some(job) = &self.job else {
            return Ok(Step::Idle);
        };
        match self.phase {
            Phase::Idle => Ok(Step::Idle),
            Phase::Begin => self.begin(slots),
            Phase::HeadAgain { at_ms } => {
                if now_ms < at_ms || !self.asking() {
                    return Ok(Step::Idle);
                }
                self.phase = Phase::Head { have: 0 };
                Ok(Step::Again)
            }
            Phase::Head { have } => self.fetch_head(have, now_ms, slots),
            Phase::Scan { slot, at, kept } => {
                let total = slots.chunks(slot);
                if at < total {
                    let kept = kept + u32::from(self.good(slot, at, slots)?);
                    let at = at + 1;
                    self.phase = Phase::Scan { slot, at, kept };
                    return Ok(Step::Again);
                }
                self.phase = Phase::Fetch { slot, at: 0 };
                let release = release_id(&job.target.digest);
                Ok(Step::Act(Action::Event(Event::Resumed {
                    release,
                    kept,
                    total,
                })))
            }
            Phase::Fetch { slot, at } => self.fetch(slot, at, slots),
            Phase::SelfTest { slot, asked: false } => {
                self.phase = Phase::SelfTest { slot, asked: true };
                Ok(Step::Act(Action::SelfTest(slot)))
            }
            Phase::SelfTest { asked: true, .. } => Ok(Step::Idle),
            Phase::Ready { slot, said } => {
                match slots.record(slot).state {
                    SlotState::Staged | SlotState::Shadow if !said && !self.paused => {
                        self.phase = Phase::Ready { slot, said: true };
                        return Ok(Step::Act(Action::Start(slot)));
                    }
                    SlotState::Staged | SlotState::Shadow | SlotState::Trial => {}
                    // Confirmed, or failed: either way this desired state is done with.
                    _ => self.phase = Phase::Idle,
                }
                Ok(Step::Idle)
            }
        }
    }
}
