//! Following the desired state and the trust root: what to begin, and what to give up.

use super::client::{Job, Phase, UpdateClient};
use super::head::{HeadFault, check_signatures};
use super::{Plan, Refusal, Seen, Target, Verdict, evaluate};
use crate::slots::{Error, Slot, Slots};
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
                self.ask_desired = true;
                self.check_ready(slots)?;
                Ok(None)
            }
        }
    }

    /// Gives up the release that waits for its trial, or is in shadow, when its signatures do not
    /// hold under the root as it is now. One that was confirmed, or is on trial, was good when that
    /// began, and goes on.
    fn check_ready<S: NorFlash>(&mut self, slots: &mut Slots<S>) -> Result<(), Error> {
        let slot = slots.idle();
        let (state, digest) = (slots.record(slot).state, slots.record(slot).digest);
        if !matches!(state, SlotState::Staged | SlotState::Shadow) {
            return Ok(());
        }
        let root = &slots.state().root.clone();
        let holds = match slots.read_head(slot, self.head) {
            Ok(head) => check_signatures(head, &digest, root, &self.verifier).map(|_| ()),
            // Staged by a client that had more memory.
            Err(Error::Size) => Err(HeadFault::Damaged),
            Err(error) => return Err(error),
        };
        match holds {
            Ok(()) => Ok(()),
            Err(fault) => self.abandon(slot, fault, slots),
        }
    }

    /// Gives up what is ready in a slot, for its head does not hold, and says so.
    pub(super) fn abandon<S: NorFlash>(
        &mut self,
        slot: Slot,
        fault: HeadFault,
        slots: &mut Slots<S>,
    ) -> Result<(), Error> {
        let release = release_id(&slots.record(slot).digest);
        slots.abandon(slot)?;
        self.stop[slot as usize] = true;
        if fault == HeadFault::Unsigned {
            let reason = Reason::Signature;
            self.report(Event::Refused {
                what: Refused::Release { release, reason },
            });
        }
        self.slot_event(slot, slots);
        Ok(())
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
        self.stop[slot as usize] = true;
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
                self.stop[slot as usize] = true;
                self.report(Event::Reverted {
                    from: release_id(&target.digest),
                    to: to.map(|to| release_id(&slots.record(to).digest)),
                    reason,
                });
            }
            _ => {}
        }
        Ok(())
    }
}
