//! From a received release to a confirmed one, or back.

use super::{Action, Control, ControlError, Mode, Now, Purpose, RELOAD_MS, Reload};
use edgeward::guard::{ShadowVerdict, Verdict};
use edgeward::policy::TrialPolicy;
use edgeward::slots::{self, BootDecision, Slot};
use edgeward::telemetry::{Birth, Event, Reason, ReleaseId, SlotReport, SlotState, release_id};
use edgeward::trust::{Signer, Verifier};
use embedded_storage::nor_flash::NorFlash;
use heapless::Vec;

/// A release that is loaded and not on trial yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Waiting {
    /// There is none.
    Nothing,
    /// In shadow.
    Shadow(Slot, TrialPolicy),
    /// To be put on trial as soon as its rollout is not paused.
    Trial(Slot, TrialPolicy),
}

impl Waiting {
    fn slot(self) -> Option<Slot> {
        match self {
            Self::Nothing => None,
            Self::Shadow(slot, _) | Self::Trial(slot, _) => Some(slot),
        }
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
    /// Asks for what this boot runs, and reports a boot that reverted.
    pub(super) fn boot(&mut self, decision: BootDecision, now: Now) -> Result<(), ControlError> {
        // The first birth of a boot waits for what runs, but for the first of an outbox.
        let born = self.first_birth(now)?;
        self.birth_due = !born
            && matches!(
                decision,
                BootDecision::Empty | BootDecision::Reverted { to: None, .. }
            );
        match decision {
            BootDecision::Empty => {}
            BootDecision::Confirmed(slot) => self.todo.load(slot, Purpose::Confirmed),
            BootDecision::Trial { slot, .. } => {
                // The confirmed one first, to have something to go back to.
                if let Some(confirmed) = self.slots.confirmed() {
                    self.todo.load(confirmed, Purpose::Confirmed);
                }
                self.todo.load(slot, Purpose::Candidate);
            }
            BootDecision::Reverted { from, to, reason } => {
                if let Some(slot) = to {
                    self.todo.load(slot, Purpose::Confirmed);
                }
                let to = to.map(|slot| self.release(slot));
                self.reverted(Event::Reverted { from, to, reason }, now);
            }
        }
        Ok(())
    }

    /// The release in a slot.
    pub(super) fn release(&self, slot: Slot) -> ReleaseId {
        release_id(&self.slots.record(slot).digest)
    }

    /// Has a release loaded, unless it took its boots with it already: then it is rejected. Before
    /// its trial a boot counts as soon as it is to be loaded, for loading runs it.
    pub(super) fn load(
        &mut self,
        slot: Slot,
        purpose: Purpose,
        now: Now,
    ) -> Result<Action<'static>, ControlError> {
        if purpose == Purpose::Confirmed || !self.is_early(slot) {
            return Ok(Action::Load { slot, purpose });
        }
        let result = match self.slots.attempt(slot) {
            Ok(true) => return Ok(Action::Load { slot, purpose }),
            Ok(false) => {
                let release = self.release(slot);
                self.loaded(slot, release, purpose, Err(Reason::Crash), now)
            }
            Err(error) => Err(error.into()),
        };
        // One that was rejected, and could not be told of, is not loaded any more.
        if result.is_err() && self.is_early(slot) {
            self.todo.load(slot, purpose);
        }
        result.map(|()| Action::More)
    }

    /// Whether the trial of what is in a slot has not begun.
    fn is_early(&self, slot: Slot) -> bool {
        matches!(
            self.slots.record(slot).state,
            SlotState::Receiving | SlotState::Staged | SlotState::Shadow
        )
    }

    /// What [`super::Action::Load`] came to: the release's trial policy, when it is loaded and its
    /// golden vectors hold.
    ///
    /// # Errors
    /// Those of flash.
    pub fn loaded(
        &mut self,
        slot: Slot,
        release: ReleaseId,
        purpose: Purpose,
        outcome: Result<TrialPolicy, Reason>,
        now: Now,
    ) -> Result<(), ControlError> {
        if self.release(slot) != release {
            // The slot has been given to another release meanwhile.
            return Ok(());
        }
        match purpose {
            Purpose::SelfTest => {
                let outcome = outcome.map(|_| ());
                Ok(self.client.self_tested(outcome, self.slots)?)
            }
            Purpose::Confirmed => {
                if self.slots.confirmed() != Some(slot) {
                    return Ok(());
                }
                if outcome.is_ok() {
                    self.reload = None;
                    self.run(slot, Mode::Confirmed);
                } else {
                    self.load_later(now);
                }
                Ok(())
            }
            Purpose::Candidate => self.candidate(slot, outcome, now),
        }
    }

    fn candidate(
        &mut self,
        slot: Slot,
        outcome: Result<TrialPolicy, Reason>,
        now: Now,
    ) -> Result<(), ControlError> {
        let state = self.slots.record(slot).state;
        match (state, outcome) {
            (SlotState::Trial, Ok(_)) => {
                self.run(slot, Mode::Trial);
                Ok(())
            }
            (SlotState::Trial, Err(reason)) => self.revert(slot, reason, now),
            (SlotState::Staged | SlotState::Shadow, Ok(policy)) => {
                let beside = policy.shadow_inferences > 0 && self.slots.confirmed().is_some();
                if !beside {
                    self.waiting = Waiting::Trial(slot, policy);
                    return Ok(());
                }
                if state == SlotState::Staged {
                    self.slots.shadow(slot, policy.max_boots)?;
                }
                self.waiting = Waiting::Shadow(slot, policy);
                self.todo.run(slot, Mode::Shadow);
                if state == SlotState::Staged {
                    self.slot_event(slot, now)?;
                }
                Ok(())
            }
            (SlotState::Staged | SlotState::Shadow, Err(reason)) => {
                self.slots.reject(slot, reason)?;
                self.slot_event(slot, now)
            }
            _ => Ok(()),
        }
    }

    /// Puts a release on trial that waits for it, unless its rollout is paused or does not want it any
    /// more. True when it did.
    pub(super) fn start_waiting(&mut self, now: Now) -> Result<bool, ControlError> {
        let Waiting::Trial(slot, policy) = self.waiting else {
            return Ok(false);
        };
        // What is being loaded is about to run, and would run in the trial's place.
        if self.reload.is_some_and(|reload| reload.at_ms.is_none()) {
            return Ok(false);
        }
        if !self.client.may_begin(slot, self.slots) {
            // It may wait for weeks, and does not run: no boot that ends meanwhile is its fault.
            return match self.slots.settle(slot) {
                Ok(()) | Err(slots::Error::State(_)) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        self.waiting = Waiting::Nothing;
        match self.slots.begin_trial(slot, policy.max_boots) {
            // What is done comes before what is said of it, which may fail.
            Ok(()) => {
                self.run(slot, Mode::Trial);
                self.slot_event(slot, now)?;
            }
            Err(slots::Error::Content) => {
                self.todo.stop(slot);
                self.slots.reject(slot, Reason::Corrupt)?;
                self.slot_event(slot, now)?;
            }
            // Given up meanwhile, or overtaken by a higher floor: it does not run.
            Err(
                slots::Error::State(_) | slots::Error::BelowFloor(_) | slots::Error::CounterTaken,
            ) => {
                self.todo.stop(slot);
            }
            Err(error) => {
                self.waiting = Waiting::Trial(slot, policy);
                return Err(error.into());
            }
        }
        Ok(true)
    }

    fn run(&mut self, slot: Slot, mode: Mode) {
        self.running = Some(slot);
        self.birth_due = true;
        self.todo.run(slot, mode);
    }

    /// Takes back what the root does not trust any more, before anything is loaded or confirmed.
    pub(super) fn review(&mut self, now: Now) -> Result<(), ControlError> {
        let now_ms = now.monotonic_ms;
        while let Some(slot) = self.client.review(now_ms, self.slots)? {
            self.stop(slot);
        }
        Ok(())
    }

    /// The confirmed release could not be loaded. It could once, so that a passing fault of flash or
    /// memory is likelier than any other; a board without a model helps nobody.
    fn load_later(&mut self, now: Now) {
        // The first birth of a boot waits for what runs; further tries change nothing that it says.
        self.birth_due |= self.reload.is_none();
        let [first, most] = RELOAD_MS;
        let wait_ms = self
            .reload
            .map_or(first, |last| most.min(last.wait_ms.saturating_mul(2)));
        self.reload = Some(Reload {
            at_ms: Some(now.monotonic_ms.saturating_add(wait_ms)),
            wait_ms,
        });
    }

    /// When the confirmed release is to be loaded again: not while another one is on trial, in whose
    /// place it would run.
    pub(super) fn reload_ms(&self) -> Option<u64> {
        let at_ms = self.reload.and_then(|reload| reload.at_ms);
        at_ms.filter(|_| self.slots.on_trial().is_none())
    }

    /// Has the confirmed release loaded again, when it is time.
    pub(super) fn reload(&mut self, now: Now) {
        if self
            .reload_ms()
            .is_none_or(|at_ms| at_ms > now.monotonic_ms)
        {
            return;
        }
        if let (Some(reload), Some(slot)) = (&mut self.reload, self.slots.confirmed()) {
            reload.at_ms = None;
            self.todo.load(slot, Purpose::Confirmed);
        }
    }

    /// What became of the trial of a release.
    ///
    /// # Errors
    /// Those of flash; the trial goes on then.
    pub fn trial(
        &mut self,
        slot: Slot,
        release: ReleaseId,
        verdict: Verdict,
        now: Now,
    ) -> Result<(), ControlError> {
        self.review(now)?;
        let record = self.slots.record(slot);
        if record.state != SlotState::Trial || release_id(&record.digest) != release {
            return Ok(());
        }
        match verdict {
            Verdict::Confirm => {
                self.slots.confirm(slot)?;
                // The one before, which could not be loaded, is not wanted any more.
                self.reload = None;
                self.slot_event(slot, now)
            }
            Verdict::Breach(reason) => self.revert(slot, reason, now),
            _ => Ok(()),
        }
    }

    /// Whether this release is in this slot and boots from now on.
    #[must_use]
    pub fn has_confirmed(&self, slot: Slot, release: ReleaseId) -> bool {
        self.slots.confirmed() == Some(slot) && self.release(slot) == release
    }

    /// What became of the shadow of a release.
    ///
    /// # Errors
    /// Those of flash.
    pub fn shadow(
        &mut self,
        slot: Slot,
        release: ReleaseId,
        verdict: ShadowVerdict,
        now: Now,
    ) -> Result<(), ControlError> {
        let Waiting::Shadow(waiting, policy) = self.waiting else {
            return Ok(());
        };
        if waiting != slot || self.release(slot) != release {
            return Ok(());
        }
        match verdict {
            ShadowVerdict::Pass => {
                self.waiting = Waiting::Trial(slot, policy);
                Ok(())
            }
            ShadowVerdict::Fail => self.end_shadow(slot, Reason::Shadow, now),
            ShadowVerdict::Misfit => self.end_shadow(slot, Reason::Source, now),
            _ => Ok(()),
        }
    }

    fn end_shadow(&mut self, slot: Slot, reason: Reason, now: Now) -> Result<(), ControlError> {
        self.slots.reject(slot, reason)?;
        self.waiting = Waiting::Nothing;
        self.todo.stop(slot);
        self.slot_event(slot, now)
    }

    fn revert(&mut self, slot: Slot, reason: Reason, now: Now) -> Result<(), ControlError> {
        let from = self.release(slot);
        let to = self.slots.revert(slot, reason)?;
        self.stop(slot);
        let to = to.map(|slot| self.release(slot));
        self.reverted(Event::Reverted { from, to, reason }, now);
        Ok(())
    }

    /// Reports a way back. The journal has it, and nothing says it again: the board does, as soon as it can.
    fn reverted(&mut self, event: Event, now: Now) {
        if self.event(&event, now).is_err() {
            self.untold = Some(event);
        }
    }

    /// Ends running a slot, and runs the confirmed one: at once, or as soon as it is loaded.
    pub(super) fn stop(&mut self, slot: Slot) {
        if self.waiting.slot() == Some(slot) {
            self.waiting = Waiting::Nothing;
        }
        if self.running == Some(slot) {
            self.running = self.slots.confirmed().filter(|_| self.reload.is_none());
            if let Some(reload) = &mut self.reload {
                reload.at_ms = Some(0);
            }
        }
        self.birth_due = true;
        self.todo.stop(slot);
    }

    fn slot_event(&mut self, slot: Slot, now: Now) -> Result<(), ControlError> {
        let event = Event::Slot {
            slot: slot as u8,
            release: self.release(slot),
            state: self.slots.record(slot).state,
        };
        self.event(&event, now)
    }

    /// The board's inventory.
    #[must_use]
    pub fn birth(&self) -> Birth {
        let state = self.slots.state();
        let report = |slot: Slot| {
            let record = self.slots.record(slot);
            let empty = record.state == SlotState::Empty;
            let revoked = record.state == SlotState::Confirmed && self.client.is_revoked(slot);
            SlotReport {
                state: if revoked {
                    SlotState::Revoked
                } else {
                    record.state
                },
                release: if empty {
                    ReleaseId::default()
                } else {
                    release_id(&record.digest)
                },
                counter: record.counter,
                version: record.version.clone(),
            }
        };
        Birth {
            class: self.setup.class,
            firmware: self.setup.firmware.clone(),
            slots: Slot::ALL.map(report),
            running: self.running.map(|slot| slot as u8),
            floor: state.floor,
            root_version: state.root.version,
            desired: state.desired_sequence,
            // A birth has room for all that a board may have.
            tags: Vec::from_slice(self.setup.tags).unwrap_or_default(),
            last_failure: state.last_failure,
        }
    }
}
