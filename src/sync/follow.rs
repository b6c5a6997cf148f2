//! Following the desired state and the trust root: what to begin, and what to give up.

use super::client::{Action, Job, Phase, UpdateClient};
use super::{Plan, Refusal, Seen, Target, Verdict, evaluate};
use crate::slots::{Error, Slots};
use crate::telemetry::{Event, Reason, Refused, SlotState, release_id};
use crate::trust::Verifier;
use crate::trust::root::TrustError;
use embedded_storage::nor_flash::NorFlash;

impl<V: Verifier, const W: usize> UpdateClient<'_, V, W> {
    /// A desired state came. `now_s` is the time in seconds since 1970, where the board knows it.
    /// Returns why it was refused, if so; it has been reported then.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn desired<S: NorFlash>(
        &mut self,
        bytes: &[u8],
        now_s: Option<u64>,
        slots: &mut Slots<S>,
    ) -> Result<Option<Refusal>, Error> {
        let state = slots.state();
        let seen = Seen {
            sequence: state.desired_sequence,
            digest: state.desired_digest,
        };
        let board = &self.config.board;
        match evaluate(bytes, &state.root, &self.verifier, board, &seen, now_s) {
            Err(refusal) => {
                self.refused(refusal.refused());
                Ok(Some(refusal))
            }
            Ok(verdict) => {
                slots.set_desired(verdict.sequence, verdict.digest)?;
                self.follow(verdict, slots)?;
                Ok(None)
            }
        }
    }

    /// A new trust root came. Returns why it was refused, if so; it has been reported then.
    ///
    /// An accepted one may have revoked whoever signed the desired state, so that has to be
    /// delivered again before the client goes on.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn root<S: NorFlash>(
        &mut self,
        bytes: &[u8],
        slots: &mut Slots<S>,
    ) -> Result<Option<TrustError>, Error> {
        match slots.state().root.accept_next(bytes, &self.verifier) {
            Err(error) => {
                let version = match error {
                    TrustError::Version { offered, .. } => offered,
                    _ => 0,
                };
                self.refused(Refused::Root { version });
                Ok(Some(error))
            }
            Ok(root) => {
                slots.set_root(root)?;
                self.halt();
                self.push(Action::AskDesired);
                Ok(None)
            }
        }
    }

    /// Stops what is under way, without touching the slots.
    pub(super) fn halt(&mut self) {
        self.window.clear();
        self.job = None;
        self.phase = Phase::Idle;
    }

    pub(super) fn follow<S: NorFlash>(
        &mut self,
        verdict: Verdict,
        slots: &mut Slots<S>,
    ) -> Result<(), Error> {
        let (target, paused) = match verdict.plan {
            Plan::Install(target) => (target, false),
            Plan::Wait(target) => (target, true),
            Plan::Keep => {
                self.halt();
                return self.end_shadow(slots);
            }
            Plan::GiveUp(target) => {
                self.halt();
                return self.give_up(&target, slots);
            }
        };
        self.paused = paused;
        let same = |job: &Job| job.target == target && job.rollout == verdict.rollout;
        if self.job.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.halt();
        if slots.record(slots.idle()).digest != target.digest {
            self.end_shadow(slots)?;
        }
        self.job = Some(Job {
            target,
            rollout: verdict.rollout,
            signed_bytes: 0,
            head_tries: 0,
            told_damaged: false,
            told_unsigned: false,
        });
        self.phase = Phase::Begin;
        Ok(())
    }

    /// A release in shadow is not wanted any more.
    pub(super) fn end_shadow<S: NorFlash>(&mut self, slots: &mut Slots<S>) -> Result<(), Error> {
        let slot = slots.idle();
        if slots.record(slot).state != SlotState::Shadow {
            return Ok(());
        }
        slots.abandon(slot)?;
        self.push(Action::Stop(slot));
        self.slot_event(slot, slots);
        Ok(())
    }

    /// The rollout of this release was aborted.
    pub(super) fn give_up<S: NorFlash>(
        &mut self,
        target: &Target,
        slots: &mut Slots<S>,
    ) -> Result<(), Error> {
        let slot = slots.idle();
        let record = slots.record(slot);
        if record.digest != target.digest {
            return self.end_shadow(slots);
        }
        match record.state {
            SlotState::Receiving | SlotState::Staged => {
                slots.abandon(slot)?;
                self.slot_event(slot, slots);
            }
            SlotState::Shadow => self.end_shadow(slots)?,
            SlotState::Trial => {
                let reason = Reason::Operator;
                let to = slots.revert(slot, reason)?;
                self.push(Action::Stop(slot));
                self.push(Action::Event(Event::Reverted {
                    from: release_id(&target.digest),
                    to: to.map(|to| release_id(&slots.record(to).digest)),
                    reason,
                }));
            }
            _ => {}
        }
        Ok(())
    }
}
