//! Pulls of the flight record: commands of the host, and the parts that answer them.
//!
//! Parts go out when nothing else wants to, one at a time and with pauses between them, so that neither
//! telemetry nor a download waits for them. Nothing of it is kept over a restart or a lost connection:
//! whoever wants the record asks again.

use super::{Action, Control, ControlError, Now};
use core::mem;
use edgeward::recorder::Snapshot;
use edgeward::telemetry::codec::max_frame_bytes;
use edgeward::telemetry::pull::{Command, Order, Pull, PullId, decode_command};
use edgeward::telemetry::{Event, Refused};
use edgeward::topic::{self, Channel};
use edgeward::trust::cose::ContentType;
use edgeward::trust::{Role, Signer, Verifier};
use embedded_storage::nor_flash::NorFlash;
use heapless::Vec;

/// Pause between two parts, in milliseconds.
const PAUSE_MS: u64 = 5;
/// How long a pull may go on without a part that is taken until the recorder is let go, in milliseconds.
const PULL_MS: u64 = 60_000;
/// Pulls of this boot that are remembered, so that none of them is obeyed twice.
const OBEYED: usize = 8;

/// Where pulls stand.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    /// The greatest number of a command obeyed in this boot.
    newest: u64,
    /// The last pulls obeyed in this boot, the oldest first.
    obeyed: Vec<PullId, OBEYED>,
    state: State,
    /// When the pull at hand is given up.
    until_ms: u64,
    /// The same before the part that was handed out last.
    before_ms: u64,
    /// When the next part may go.
    next_ms: u64,
    /// The message handed out last was a part.
    out: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// The caller is to be told.
    Asked(PullId),
    /// The caller was told.
    Waiting(PullId),
    Sending(Pull),
}

impl Pulls {
    /// What the caller is to be told.
    pub(super) fn begin(&mut self) -> bool {
        match self.state {
            State::Asked(pull) => {
                self.state = State::Waiting(pull);
                true
            }
            _ => false,
        }
    }

    /// The connection is gone, and so is the host's interest.
    pub(super) fn end(&mut self) {
        self.state = State::Idle;
        self.out = false;
    }

    /// Another message was handed out since the last part.
    pub(super) fn passed(&mut self) {
        self.out = false;
    }

    /// Whether it was a part that the transport did not take.
    pub(super) fn take_back(&mut self) -> bool {
        if let (true, State::Sending(pull)) = (self.out, &mut self.state) {
            pull.take_back();
            self.until_ms = self.before_ms;
        }
        mem::take(&mut self.out)
    }

    /// Obeys a command; one that was obeyed already changes nothing.
    fn obey(&mut self, sequence: u64, pull: PullId, now_ms: u64) {
        if self.obeyed.contains(&pull) {
            return;
        }
        if self.obeyed.is_full() {
            self.obeyed.remove(0);
        }
        // Can't fail: one was just removed if it was full.
        let _ = self.obeyed.push(pull);
        self.newest = self.newest.max(sequence);
        self.state = State::Asked(pull);
        self.until_ms = now_ms + PULL_MS;
        self.next_ms = now_ms;
        self.out = false;
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        matches!(self.state, State::Sending(_)).then_some(self.next_ms)
    }
}

impl<
    S: NorFlash,
    O: NorFlash,
    V: Verifier,
    K: Signer,
    const F: usize,
    const C: usize,
    const R: usize,
    const B: usize,
    const W: usize,
> Control<'_, S, O, V, K, F, C, R, B, W>
{
    /// A command came.
    #[inline(never)]
    pub(super) fn command(&mut self, bytes: &[u8], now: Now) -> Result<(), ControlError> {
        let root = &self.slots.state().root;
        let content = ContentType::Command;
        let payload = root.verify_threshold(Role::Collector, content, bytes, &self.verifier);
        let command = payload.ok().and_then(|bytes| decode_command(bytes).ok());
        let Some(command) = command.filter(|command| self.holds(command, now)) else {
            let what = Refused::Command;
            return self.event(&Event::Refused { what }, now);
        };
        if let Order::PullRecord { pull } = command.order {
            self.pulls.obey(command.sequence, pull, now.monotonic_ms);
        }
        Ok(())
    }

    /// Whether a command that is signed well is for this board and this moment.
    ///
    /// With a clock the expiry bounds how long a command holds, and hosts whose clocks differ may give any
    /// number. Without one the numbers must rise, or whoever carries commands could have each of them
    /// obeyed again later. One that was obeyed already holds: brokers may deliver twice.
    fn holds(&self, command: &Command, now: Now) -> bool {
        let Order::PullRecord { pull } = command.order else {
            return false;
        };
        let timely = match now.unix_ms {
            Some(ms) => ms / 1000 < command.expires_s,
            None => command.sequence > self.pulls.newest,
        };
        command.fleet == self.setup.fleet
            && command.device == self.setup.device
            && command.boot == self.slots.state().boot
            && (timely || self.pulls.obeyed.contains(&pull))
    }

    /// Whether a pull is under way: the snapshot that [`Control::part`] is given must stay as it is.
    #[must_use]
    pub fn is_pulling(&self) -> bool {
        !matches!(self.pulls.state, State::Idle)
    }

    /// The next part of the flight record to publish, if one is due; call it after [`Action::Pull`]
    /// whenever [`Control::poll`] has nothing or fails, until [`Control::is_pulling`] says that it is over. When
    /// the transport does not take it, say so by [`Control::not_taken`].
    ///
    /// # Errors
    /// [`ControlError::NoSpace`] when the working memory is too small for the record; the pull is over
    /// then.
    pub fn part(
        &mut self,
        snapshot: &(impl Snapshot + ?Sized),
        now: Now,
    ) -> Result<Option<Action<'_>>, ControlError> {
        // What was handed out before was taken, or the caller would have said so.
        self.pulls.out = false;
        let (done, next_ms) = match &self.pulls.state {
            State::Idle | State::Asked(_) => return Ok(None),
            State::Waiting(_) => (false, self.pulls.next_ms),
            State::Sending(pull) => (pull.is_done(), self.pulls.next_ms),
        };
        if done || !self.connected || now.monotonic_ms >= self.pulls.until_ms {
            self.pulls.end();
            return Ok(None);
        }
        if now.monotonic_ms < next_ms {
            return Ok(None);
        }
        let len = self.sign_part(snapshot, now);
        if len.is_err() {
            self.pulls.end();
        }
        let len = len?;
        self.pulls.out = true;
        // As long as parts are taken it goes on, however slow the line is.
        self.pulls.before_ms = self.pulls.until_ms;
        self.pulls.until_ms = now.monotonic_ms + PULL_MS;
        self.pulls.next_ms = now.monotonic_ms + PAUSE_MS;
        let (fleet, device) = (&self.setup.fleet, &self.setup.device);
        Ok(Some(Action::Publish {
            topic: topic::device(fleet, device, Channel::Record),
            payload: self.outbox.buffer().get(..len).unwrap_or_default(),
            retain: false,
        }))
    }

    /// Signs the next part of the pull at hand into the outbox's buffer.
    fn sign_part(
        &mut self,
        snapshot: &(impl Snapshot + ?Sized),
        now: Now,
    ) -> Result<usize, ControlError> {
        let no_space = |_| ControlError::NoSpace;
        if let State::Waiting(id) = self.pulls.state {
            let boot = self.slots.state().boot;
            let room = max_frame_bytes(F, C);
            let pull = Pull::new(id, boot, now.stamp_ms(), snapshot, room);
            self.pulls.state = State::Sending(pull.map_err(no_space)?);
        }
        let State::Sending(pull) = &mut self.pulls.state else {
            return Err(ControlError::NoSpace);
        };
        let device = &self.setup.device;
        let len = pull.sign_next(device, snapshot, &self.signer, self.outbox.buffer_mut());
        let len = len.map_err(no_space)?;
        pull.sent();
        Ok(len)
    }
}
