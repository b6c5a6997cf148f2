//! Following the desired state and the trust root: what to begin, and what to give up.

use super::again::Unread;
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
    /// Those of the journal; it is asked for again then, ever later
    /// ([`Action::AskDesired`](super::Action::AskDesired)).
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
                let stored = slots.set_desired(verdict.sequence, verdict.digest);
                match stored.and_then(|()| self.follow(verdict, slots)) {
                    Ok(()) => self.desired_again.done(),
                    Err(error) => {
                        self.desired_again.failed();
                        return Err(error);
                    }
                }
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
    /// Those of the journal; a root that could not be stored is asked for again then, ever later
    /// ([`Action::AskRoot`](super::Action::AskRoot)), and one that is stored is followed by the next poll.
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
                if let Err(error) = slots.set_root(root) {
                    self.root_again.failed();
                    return Err(error);
                }
                self.root_again.done();
                self.halt();
                self.ask_desired = true;
                self.review_due = true;
                self.reviewed = [false; 2];
                self.look_through(slots)?;
                Ok(None)
            }
        }
    }

    /// Makes sure that nothing runs on trial, or is about to, that the root does not trust: looks at
    /// the releases in both slots once after a start and after each new root, and takes back those
    /// that too few of their keys vouch for now. Call before a release is loaded or confirmed.
    ///
    /// Returns a slot whose release is to be stopped, as [`Action::Stop`](super::Action::Stop) does,
    /// each once: call until it says none, or fails. What is confirmed runs on, and [`UpdateClient::is_revoked`]
    /// says so.
    ///
    /// `now_ms` is that of [`UpdateClient::poll`].
    ///
    /// # Errors
    /// Those of the journal, and of a flash that can't be read; a later call looks again. A head that
    /// can't be read is lost after eight tries, each after a longer wait than the one before.
    pub fn review<S: NorFlash>(
        &mut self,
        now_ms: u64,
        slots: &mut Slots<S>,
    ) -> Result<Option<Slot>, Error> {
        let timing = self.timing();
        for unread in &mut self.unread {
            unread.tick(now_ms, &timing);
        }
        let looked = self.look_through(slots);
        // What has ended stops, whether or not the other slot's head can be read.
        match self.stopped() {
            Some(slot) => Ok(Some(slot)),
            None => looked.map(|()| None),
        }
    }

    /// Whether the release in a slot was confirmed and is no longer signed by enough keys of the
    /// root, as far as it was looked at since.
    #[must_use]
    pub fn is_revoked(&self, slot: Slot) -> bool {
        self.revoked[slot as usize]
    }

    fn look_through<S: NorFlash>(&mut self, slots: &mut Slots<S>) -> Result<(), Error> {
        if !self.review_due {
            return Ok(());
        }
        let mut looked = Ok(());
        for slot in Slot::ALL {
            if self.reviewed[slot as usize] {
                continue;
            }
            match self.look_at(slot, slots) {
                Ok(()) => self.reviewed[slot as usize] = true,
                Err(error) => looked = looked.and(Err(error)),
            }
        }
        looked?;
        self.review_due = false;
        self.unread = Default::default();
        Ok(())
    }

    fn look_at<S: NorFlash>(&mut self, slot: Slot, slots: &mut Slots<S>) -> Result<(), Error> {
        let (state, release) = (
            slots.record(slot).state,
            release_id(&slots.record(slot).digest),
        );
        let held = matches!(
            state,
            SlotState::Staged | SlotState::Shadow | SlotState::Trial | SlotState::Confirmed
        );
        let fault = if held { self.fault(slot, slots)? } else { None };
        let known = core::mem::take(&mut self.revoked[slot as usize]);
        match (state, fault) {
            (_, None) => Ok(()),
            (SlotState::Confirmed, Some(HeadFault::Unsigned)) => {
                self.revoked[slot as usize] = true;
                // Said once, whatever root comes after.
                if !known {
                    self.report(Event::Slot {
                        slot: slot as u8,
                        release,
                        state: SlotState::Revoked,
                    });
                }
                Ok(())
            }
            // Whether it holds is for the next boot to say.
            (SlotState::Confirmed, Some(_)) => Ok(()),
            (SlotState::Trial, Some(fault)) => self.end_trial(slot, fault.since(), slots),
            (_, Some(fault)) => self.abandon(slot, fault, slots),
        }
    }

    /// What speaks against the head in a slot under the root as it is now. Read twice before it says
    /// so, for the answer costs a release.
    ///
    /// # Errors
    /// Those of a flash that can't be read, which says nothing of the release; one that can't be read too
    /// often in a row does not hold it.
    fn fault<S: NorFlash>(
        &mut self,
        slot: Slot,
        slots: &mut Slots<S>,
    ) -> Result<Option<HeadFault>, Error> {
        if let Some(error) = self.unread[slot as usize].waits() {
            return Err(error);
        }
        let digest = slots.record(slot).digest;
        let mut fault = None;
        for _ in 0..2 {
            fault = match slots.read_head(slot, self.head) {
                Ok(head) => {
                    let root = &slots.state().root;
                    check_signatures(head, &digest, root, &self.verifier).err()
                }
                // Staged by a client that had more memory: whether it is signed can't be known.
                Err(Error::Size) => Some(HeadFault::Refused(Reason::Unsupported)),
                Err(error) if self.unread[slot as usize].failed(error) => return Err(error),
                Err(_) => Some(HeadFault::Damaged),
            };
            if fault.is_none() {
                break;
            }
        }
        self.unread[slot as usize] = Unread::default();
        Ok(fault)
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
            let reason = fault.since();
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
                return self.end_waiting(slots);
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
        let held = slots.record(slots.idle());
        if held.digest != target.digest || held.rollout != verdict.rollout {
            self.end_waiting(slots)?;
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

    /// What waits for its trial, staged or in shadow, is not wanted any more, or under another rollout.
    fn end_waiting<S: NorFlash>(&mut self, slots: &mut Slots<S>) -> Result<(), Error> {
        let slot = slots.idle();
        match slots.record(slot).state {
            SlotState::Staged | SlotState::Shadow => self.drop_early(slot, slots),
            _ => Ok(()),
        }
    }

    /// Gives up a release before its trial, and has what is loaded of it stopped.
    fn drop_early<S: NorFlash>(&mut self, slot: Slot, slots: &mut Slots<S>) -> Result<(), Error> {
        slots.abandon(slot)?;
        self.stop[slot as usize] = true;
        self.slot_event(slot, slots);
        Ok(())
    }

    /// The rollout of this release was aborted.
    fn give_up<S: NorFlash>(&mut self, target: &Target, slots: &mut Slots<S>) -> Result<(), Error> {
        let slot = slots.idle();
        let record = slots.record(slot);
        if record.digest != target.digest {
            return self.end_waiting(slots);
        }
        match record.state {
            SlotState::Receiving | SlotState::Staged | SlotState::Shadow => {
                self.drop_early(slot, slots)
            }
            SlotState::Trial => self.end_trial(slot, Reason::Operator, slots),
            _ => Ok(()),
        }
    }

    /// Somebody who may end the trial in a slot did: the confirmed release runs again.
    fn end_trial<S: NorFlash>(
        &mut self,
        slot: Slot,
        reason: Reason,
        slots: &mut Slots<S>,
    ) -> Result<(), Error> {
        let from = release_id(&slots.record(slot).digest);
        let to = slots.revert(slot, reason)?;
        self.stop[slot as usize] = true;
        self.report(Event::Reverted {
            from,
            to: to.map(|to| release_id(&slots.record(to).digest)),
            reason,
        });
        Ok(())
    }
}
