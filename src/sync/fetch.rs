//! Fetching a release: the head into memory, then what does not hold into the slot.

use super::client::{MAX_HEAD_CHUNKS, Phase, Step, UpdateClient};
use super::head::{HeadFault, check_head};
use crate::bundle::{CHUNK_BYTES, FileHeader};
use crate::slots::{Error, Slot, Slots};
use crate::telemetry::{Event, Reason, Refused, SlotState, release_id};
use crate::trust::{Digest32, Verifier, sha256};
use embedded_storage::nor_flash::NorFlash;

impl<V: Verifier, const W: usize> UpdateClient<'_, V, W> {
    /// A chunk came. Anything that is not wanted now is ignored.
    ///
    /// # Errors
    /// Those of the flash; the chunk is asked for again.
    pub fn chunk<S: NorFlash>(
        &mut self,
        digest: &Digest32,
        n: u32,
        bytes: &[u8],
        now_ms: u64,
        slots: &mut Slots<S>,
    ) -> Result<(), Error> {
        if *digest != self.blob || !self.window.wants(n) {
            return Ok(());
        }
        match self.phase {
            Phase::Head { have } => {
                let start = n as usize * CHUNK_BYTES;
                let place = self.head.get_mut(start..start + CHUNK_BYTES);
                match place.filter(|_| bytes.len() == CHUNK_BYTES) {
                    Some(place) => {
                        place.copy_from_slice(bytes);
                        let have = have | 1 << n;
                        self.phase = Phase::Head { have };
                        self.window.done(n);
                    }
                    None => self.bad_chunk(n, now_ms),
                }
                Ok(())
            }
            Phase::Fetch { slot, at } => {
                if self.expected(n) != Some(sha256(bytes)) {
                    self.bad_chunk(n, now_ms);
                    return Ok(());
                }
                match slots.write_chunk(slot, n, bytes) {
                    Ok(written) => {
                        self.window.done(n);
                        let at = back(at, &written.lost);
                        self.phase = Phase::Fetch { slot, at };
                        Ok(())
                    }
                    Err(error) => {
                        let timing = self.timing();
                        self.window.bad(n, now_ms, &timing);
                        Err(error)
                    }
                }
            }
            _ => Ok(()),
        }
    }

    /// The self-test of the slot that [`Action::SelfTest`](super::Action::SelfTest) named is over.
    ///
    /// # Errors
    /// Those of the journal and the flash.
    pub fn self_tested<S: NorFlash>(
        &mut self,
        outcome: Result<(), Reason>,
        slots: &mut Slots<S>,
    ) -> Result<(), Error> {
        let Phase::SelfTest { slot, .. } = self.phase else {
            return Ok(());
        };
        let signed_bytes = self.job.as_ref().map_or(0, |job| job.signed_bytes);
        if let Err(reason) = outcome {
            slots.reject(slot, reason)?;
            self.phase = Phase::Idle;
            self.slot_event(slot, slots);
            return Ok(());
        }
        match slots.stage(slot, signed_bytes) {
            Ok(()) => {
                self.phase = Phase::Ready { slot, said: false };
                self.slot_event(slot, slots);
            }
            // The flash lost something since: fetch that again, even if it happens to read right
            // the next time.
            Err(Error::Chunk(at)) => {
                self.window.want(at);
                self.phase = Phase::Fetch { slot, at };
            }
            Err(Error::Head) => self.phase = Phase::Fetch { slot, at: 0 },
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn bad_chunk(&mut self, n: u32, now_ms: u64) {
        let timing = self.timing();
        if self.window.bad(n, now_ms, &timing) {
            self.refused(Refused::Chunk {
                release: release_id(&self.blob),
                index: n,
            });
        }
    }

    /// Sees what is there of the wanted release, and what speaks against it.
    pub(super) fn begin<S: NorFlash>(&mut self, slots: &mut Slots<S>) -> Result<Step, Error> {
        let Some(job) = &self.job else {
            return Ok(Step::Idle);
        };
        let target = &job.target;
        let slot = slots.idle();
        let record = slots.record(slot);
        let there = record.digest == target.digest && record.state != SlotState::Empty;
        if record.state == SlotState::Trial {
            if there {
                self.phase = Phase::Ready { slot, said: true };
            }
            // Another one's trial ends first.
            return Ok(Step::Idle);
        }
        let running = slots
            .confirmed()
            .map(|confirmed| slots.record(confirmed).digest);
        let failed = slots.rejection(&target.digest, job.rollout).is_some();
        if running == Some(target.digest) || failed {
            self.phase = Phase::Idle;
            return Ok(Step::Idle);
        }
        if self.paused {
            return Ok(Step::Idle);
        }
        if target.counter < slots.state().floor {
            return self.refuse(Reason::Downgrade, slots);
        }
        if slots.is_counter_taken(target.counter, &target.digest) {
            return self.refuse(Reason::CounterTaken, slots);
        }
        let whole = target.head_bytes > 0
            && target.head_bytes.is_multiple_of(CHUNK_BYTES as u32)
            && target.head_bytes < target.total_bytes;
        if !whole {
            return self.refuse(Reason::Corrupt, slots);
        }
        let fits = target.total_bytes <= slots.layout().slot_bytes
            && target.head_bytes as usize <= self.head.len()
            && target.head_bytes <= MAX_HEAD_CHUNKS * CHUNK_BYTES as u32;
        if !fits {
            return self.refuse(Reason::Unsupported, slots);
        }
        let ready = matches!(record.state, SlotState::Staged | SlotState::Shadow);
        let resumes = there && ready && record.rollout == job.rollout;
        self.blob = target.digest;
        if resumes {
            return self.resume(slot, slots);
        }
        self.phase = Phase::Head { have: 0 };
        if there && record.head_bytes == target.head_bytes {
            slots.read_head(slot, self.head)?;
            if let Ok(signed_bytes) = self.check_head(slots) {
                return self.accept(signed_bytes, slots);
            }
        }
        Ok(Step::Again)
    }

    /// The wanted release is staged or in shadow already. The root may be another one than when it
    /// was received, so its head must hold once more.
    fn resume<S: NorFlash>(&mut self, slot: Slot, slots: &mut Slots<S>) -> Result<Step, Error> {
        slots.read_head(slot, self.head)?;
        let Err(fault) = self.check_head(slots) else {
            self.phase = Phase::Ready { slot, said: false };
            return Ok(Step::Again);
        };
        self.abandon(slot, fault, slots)?;
        if let HeadFault::Refused(reason) = fault {
            return self.refuse(reason, slots);
        }
        if let Some(job) = &mut self.job {
            job.told_unsigned = fault == HeadFault::Unsigned;
        }
        self.phase = Phase::Head { have: 0 };
        Ok(Step::Again)
    }

    /// The release will never run on this board: remember that and say so, once.
    pub(super) fn refuse<S: NorFlash>(
        &mut self,
        reason: Reason,
        slots: &mut Slots<S>,
    ) -> Result<Step, Error> {
        if let Some(job) = &self.job {
            let digest = job.target.digest;
            slots.refuse(&digest, job.rollout, reason)?;
            let release = release_id(&digest);
            let what = Refused::Release { release, reason };
            // Once a desired state that is signed, so that nobody fills the reports with these.
            self.report(Event::Refused { what });
        }
        self.window.clear();
        self.phase = Phase::Idle;
        Ok(Step::Idle)
    }

    pub(super) fn head_bytes(&self) -> usize {
        self.job
            .as_ref()
            .map_or(0, |job| job.target.head_bytes as usize)
    }

    pub(super) fn check_head<S: NorFlash>(&self, slots: &Slots<S>) -> Result<u32, HeadFault> {
        let job = self.job.as_ref().ok_or(HeadFault::Damaged)?;
        let bytes = self
            .head
            .get(..self.head_bytes())
            .ok_or(HeadFault::Damaged)?;
        let state = slots.state();
        let mut board = self.config.capabilities;
        board.slot_bytes = board.slot_bytes.min(slots.layout().slot_bytes);
        check_head(
            bytes,
            &job.target,
            &state.root,
            &self.verifier,
            &board,
            state.floor,
        )
    }

    pub(super) fn fetch_head<S: NorFlash>(
        &mut self,
        have: u64,
        now_ms: u64,
        slots: &mut Slots<S>,
    ) -> Result<Step, Error> {
        let chunks = (self.head_bytes() / CHUNK_BYTES) as u32;
        let missing = (0..chunks.min(MAX_HEAD_CHUNKS)).filter(|n| have & 1 << n == 0);
        let mut complete = true;
        for n in missing {
            complete = false;
            self.window.want(n);
        }
        if !complete {
            let due = self.window.deadline().is_some_and(|at_ms| at_ms <= now_ms);
            return Ok(if due && self.asking() {
                Step::Again
            } else {
                Step::Idle
            });
        }
        let fault = match self.check_head(slots) {
            Ok(signed_bytes) => return self.accept(signed_bytes, slots),
            Err(HeadFault::Refused(reason)) => return self.refuse(reason, slots),
            Err(fault) => fault,
        };
        let timing = self.timing();
        let release = release_id(&self.blob);
        let Some(job) = &mut self.job else {
            return Ok(Step::Idle);
        };
        job.head_tries = job.head_tries.saturating_add(1);
        let at_ms = now_ms.saturating_add(timing.backoff(job.head_tries));
        let unsigned = fault == HeadFault::Unsigned;
        let told = if unsigned {
            &mut job.told_unsigned
        } else {
            &mut job.told_damaged
        };
        let first = !core::mem::replace(told, true);
        self.phase = Phase::HeadAgain { at_ms };
        if first && unsigned {
            let reason = Reason::Signature;
            self.refused(Refused::Release { release, reason });
        } else if first {
            // Which of the head's chunks it is can't be known: the first stands for all.
            let index = 0;
            self.refused(Refused::Chunk { release, index });
        }
        Ok(Step::Idle)
    }

    /// The head holds: the idle slot is the release's from here on.
    pub(super) fn accept<S: NorFlash>(
        &mut self,
        signed_bytes: u32,
        slots: &mut Slots<S>,
    ) -> Result<Step, Error> {
        let Some(job) = &mut self.job else {
            return Ok(Step::Idle);
        };
        job.signed_bytes = signed_bytes;
        let before = slots.record(slots.idle());
        let resumed = before.state == SlotState::Receiving && before.digest == job.target.digest;
        let slot = slots.begin_receive(&job.target, job.rollout)?;
        self.revoked[slot as usize] = false;
        if resumed {
            let (at, kept) = (0, 0);
            self.phase = Phase::Scan { slot, at, kept };
        } else {
            self.phase = Phase::Fetch { slot, at: 0 };
            self.slot_event(slot, slots);
        }
        Ok(Step::Again)
    }

    /// What chunk `n` must hash to, by the head in memory.
    pub(super) fn expected(&self, n: u32) -> Option<Digest32> {
        let head = self.head.get(..self.head_bytes())?;
        let head_chunks = (head.len() / CHUNK_BYTES) as u32;
        let Some(index) = n.checked_sub(head_chunks) else {
            let start = n as usize * CHUNK_BYTES;
            return head.get(start..start + CHUNK_BYTES).map(sha256);
        };
        let header = FileHeader::parse(head).ok()?;
        let table = head.get(header.table_range())?;
        table.chunks_exact(32).nth(index as usize)?.try_into().ok()
    }

    pub(super) fn good<S: NorFlash>(
        &self,
        slot: Slot,
        n: u32,
        slots: &mut Slots<S>,
    ) -> Result<bool, Error> {
        let seen = slots.hash_chunk(slot, n)?;
        Ok(self.expected(n) == Some(seen))
    }

    /// Looks at one chunk: it holds, is written from the head in memory, or is asked for.
    pub(super) fn fetch<S: NorFlash>(
        &mut self,
        slot: Slot,
        at: u32,
        slots: &mut Slots<S>,
    ) -> Result<Step, Error> {
        if at >= slots.chunks(slot) {
            if !self.window.is_empty() {
                return Ok(Step::Idle);
            }
            self.phase = Phase::SelfTest { slot, asked: false };
            return Ok(Step::Again);
        }
        let start = at as usize * CHUNK_BYTES;
        let in_head = start < self.head_bytes();
        let asked = self.window.contains(at);
        if !in_head && !asked && self.window.is_full() {
            return Ok(Step::Idle);
        }
        let mut next = at + 1;
        if !asked && !self.good(slot, at, slots)? {
            if in_head {
                let bytes = self.head.get(start..start + CHUNK_BYTES);
                let written = slots.write_chunk(slot, at, bytes.unwrap_or_default())?;
                next = back(next, &written.lost);
            } else {
                self.window.want(at);
            }
        }
        self.phase = Phase::Fetch { slot, at: next };
        Ok(Step::Again)
    }
}

/// Where to look on after a write: further back when it took other chunks along.
fn back(at: u32, lost: &core::ops::Range<u32>) -> u32 {
    if lost.is_empty() {
        at
    } else {
        at.min(lost.start)
    }
}
