//! A/B slots on NOR flash: how a release gets from received bytes to the one that boots, and how
//! the board goes back.
//!
//! A slot is written once and chosen by a record: moving on is one append to the journal, so a cut
//! of power leaves the state before or the state after, and nothing between. States, their
//! transitions and the flash layout are in `docs/SLOTS.md`; the invariants there are tested by
//! cutting the power at and inside every flash operation, and at every pair of them
//! (`tests/power_cuts/`).
//!
//! What this module does not do: parse bundles or check signatures (the caller does, before
//! [`Slots::stage`]), run models, or decide whether a trial went well.

mod attempt;
mod flash;
pub mod journal;
mod layout;
#[cfg(any(test, feature = "std"))]
pub mod ram;
mod receive;
#[cfg(test)]
mod tests;

pub use journal::{JournalState, Rejection, RolloutTag, SlotRecord};
pub use layout::Layout;
pub use receive::Written;

use crate::sync::Target;
use crate::telemetry::{Reason, ReleaseId, SlotState, release_id};
use crate::trust::Digest32;
use crate::trust::root::Root;
use attempt::EARLY;
use embedded_storage::nor_flash::{NorFlash, NorFlashErrorKind};
use journal::{Journal, RecordError};

/// Boots that a release may take with it before its policy is known: as it is loaded, or in its
/// self-test. The next one that is to load it rejects it.
pub const EARLY_BOOTS: u8 = 2;

/// One of the two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Slot {
    /// The first.
    A = 0,
    /// The second.
    B = 1,
}

impl Slot {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The slot with this index.
    #[must_use]
    pub fn from_index(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::A),
            1 => Some(Self::B),
            _ => None,
        }
    }
}

/// Why a slot operation did not happen. Unless [`Error::Flash`] or [`Error::Worn`], nothing was
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// The flash failed.
    Flash(NorFlashErrorKind),
    /// The layout does not fit the flash.
    Layout,
    /// Both journal sectors are blank: the board was never provisioned.
    Unprovisioned,
    /// The journal is not blank and no record in it holds. Never repaired silently: it holds the
    /// trust root.
    Unreadable {
        /// Where the first record that does not hold begins in the flash.
        offset: u32,
        /// What is wrong with it; its offsets count from there.
        why: RecordError,
    },
    /// The board is provisioned already.
    Provisioned,
    /// A journal record that was written whole can't be understood (a newer format), or a state
    /// can't be written.
    Journal {
        /// Where the record begins in the flash, or would.
        offset: u32,
        /// What is wrong with it; its offsets count from there.
        why: RecordError,
    },
    /// What was written did not read back.
    Worn,
    /// The slot's state does not allow it.
    State(SlotState),
    /// The other slot is on trial; it can't be overwritten now.
    OnTrial,
    /// The release counter is below the floor given here.
    BelowFloor(u32),
    /// The release counter is that of the confirmed release, which is another one.
    CounterTaken,
    /// The release was refused or reverted before, under the same rollout.
    Rejected(Reason),
    /// More bytes than a slot has, or sizes that make no bundle.
    Size,
    /// A chunk or range beyond the release.
    Range,
    /// The head's digest is not the release's.
    Head,
    /// This chunk's hash is not the table's.
    Chunk(u32),
    /// The content changed since it was staged.
    Content,
    /// A root that is not the next version; the board has the one given here.
    RootVersion(u32),
    /// A desired state older than one accepted, or another one of the same number, given here.
    Replay(u64),
}

/// What a board should run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum BootDecision {
    /// Nothing was ever confirmed, and nothing is on trial.
    Empty,
    /// The release in this slot, confirmed before.
    Confirmed(Slot),
    /// The release in this slot, on trial.
    Trial {
        /// The slot.
        slot: Slot,
        /// Boots that the trial has used, this one included.
        attempt: u8,
    },
    /// A release failed, and the board goes back. Said once; the journal keeps the reason.
    Reverted {
        /// The release that failed.
        from: ReleaseId,
        /// The slot that runs instead; none when there is no other.
        to: Option<Slot>,
        /// Why.
        reason: Reason,
    },
}

/// The first eight bytes of the SHA-256 of a rollout's id.
#[must_use]
pub fn rollout_tag(rollout: &str) -> RolloutTag {
    release_id(&crate::trust::sha256(rollout.as_bytes()))
}

/// The two slots of a board and its journal.
///
/// Invariants: the state in memory is the newest record of the journal; only a slot in
/// [`SlotState::Receiving`] is ever written or erased, and the slot that [`Slots::confirmed`] names
/// is never in that state; the floor, the root's version and the desired sequence never fall.
#[derive(Debug)]
// Small fields first, where an instruction of two bytes reaches them; compilers put large ones there.
#[repr(C)]
pub struct Slots<S> {
    flash: S,
    layout: Layout,
    journal: Journal,
    /// Whether a slot was being received when the board came up: a cut may have left one chunk of
    /// it with cells that read right only now and then.
    interrupted: bool,
    /// Whether this boot counts against the release in the idle slot, which is not on trial; never
    /// while no boot does.
    counted: bool,
    state: JournalState,
}

impl<S: NorFlash> Slots<S> {
    /// Opens the slots of a provisioned board. Reads only.
    ///
    /// # Errors
    /// [`Error::Unprovisioned`] on a blank journal, [`Error::Unreadable`] on a damaged one,
    /// [`Error::Journal`] on one of a newer format.
    pub fn open(mut flash: S, layout: Layout) -> Result<Self, Error> {
        layout.check(&flash)?;
        let mut state = JournalState::blank();
        let (sectors, bytes) = (layout.journal, layout.journal_bytes);
        let journal = Journal::open(&mut flash, sectors, bytes, &mut state)?;
        let receiving = |record: &SlotRecord| record.state == SlotState::Receiving;
        let interrupted = state.slots.iter().any(receiving);
        Ok(Self {
            flash,
            layout,
            journal,
            state,
            interrupted,
            counted: false,
        })
    }

    /// Sets up a board whose journal is blank, with its first trust root.
    ///
    /// # Errors
    /// [`Error::Provisioned`] when a journal is there, [`Error::Unreadable`] when what is there
    /// does not hold: whoever may throw it away calls [`Slots::format`] first.
    pub fn provision(mut flash: S, layout: Layout, root: Root) -> Result<Self, Error> {
        layout.check(&flash)?;
        let (sectors, bytes) = (layout.journal, layout.journal_bytes);
        let mut state = JournalState::blank();
        match Journal::open(&mut flash, sectors, bytes, &mut state) {
            Err(Error::Unprovisioned) => {}
            Ok(_) => return Err(Error::Provisioned),
            Err(error) => return Err(error),
        }
        state = JournalState::new(root);
        let mut journal = Journal::fresh(layout.journal, layout.journal_bytes);
        journal.append(&mut flash, &state)?;
        Ok(Self {
            flash,
            layout,
            journal,
            state,
            interrupted: false,
            counted: false,
        })
    }

    /// Erases the journal: trust root, floor and all that the board knew are gone, and
    /// [`Slots::provision`] can begin again. For the person at the bench, never for the board.
    ///
    /// # Errors
    /// [`Error::Layout`], [`Error::Flash`].
    pub fn format(flash: &mut S, layout: Layout) -> Result<(), Error> {
        layout.check(flash)?;
        for start in layout.journal {
            flash::erase(flash, start, start + layout.journal_bytes)?;
        }
        Ok(())
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> S {
        self.flash
    }

    /// Everything the journal knows.
    #[must_use]
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// Sequence number of the journal record that holds the state; each change has a greater one.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.journal.newest_sequence()
    }

    /// Where the slots are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the journal knows of one slot.
    #[must_use]
    pub fn record(&self, slot: Slot) -> &SlotRecord {
        &self.state.slots[slot as usize]
    }

    /// The slot that boots when no trial is under way.
    #[must_use]
    pub fn confirmed(&self) -> Option<Slot> {
        self.state.confirmed.and_then(Slot::from_index)
    }

    /// The slot that an update goes into.
    #[must_use]
    pub fn idle(&self) -> Slot {
        self.confirmed().map_or(Slot::A, Slot::other)
    }

    /// The slot on trial.
    #[must_use]
    pub fn on_trial(&self) -> Option<Slot> {
        Slot::ALL
            .into_iter()
            .find(|&slot| self.record(slot).state == SlotState::Trial)
    }

    /// Why a release is not to be tried under this rollout, if it failed under it before.
    #[must_use]
    pub fn rejection(&self, digest: &Digest32, rollout: RolloutTag) -> Option<Reason> {
        let release = release_id(digest);
        self.state
            .rejected
            .iter()
            .find(|past| past.release == release && past.rollout == rollout)
            .map(|past| past.reason)
    }

    /// Counts a boot and decides what runs. Call once a boot, before anything else.
    ///
    /// The content of the slot that is to run is hashed first. A trial that used up its boots, or
    /// whose content changed, reverts to the confirmed slot; a confirmed slot whose content changed
    /// gives way to the other one, if that was confirmed before and holds.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Worn`].
    pub fn begin_boot(&mut self) -> Result<BootDecision, Error> {
        let mut next = self.state.clone();
        next.boot = next.boot.saturating_add(1);
        let decision = match self.on_trial() {
            Some(slot) => self.boot_trial(&mut next, slot),
            None => self.boot_confirmed(&mut next),
        };
        self.commit(next)?;
        Ok(decision)
    }

    fn boot_trial(&mut self, next: &mut JournalState, slot: Slot) -> BootDecision {
        let record = self.record(slot);
        let used_up = record.attempts >= record.max_boots;
        if !used_up && self.holds(slot) {
            let record = &mut next.slots[slot as usize];
            record.attempts += 1;
            return BootDecision::Trial {
                slot,
                attempt: record.attempts,
            };
        }
        let reason = if used_up {
            Reason::Crash
        } else {
            Reason::Corrupt
        };
        let from = release_id(&self.record(slot).digest);
        fail(next, slot, reason);
        let to = match self.boot_confirmed(next) {
            BootDecision::Confirmed(to) => Some(to),
            BootDecision::Reverted { to, .. } => to,
            _ => None,
        };
        BootDecision::Reverted { from, to, reason }
    }

    fn boot_confirmed(&mut self, next: &mut JournalState) -> BootDecision {
        let Some(slot) = self.confirmed() else {
            return BootDecision::Empty;
        };
        if self.holds(slot) {
            return BootDecision::Confirmed(slot);
        }
        let from = release_id(&self.record(slot).digest);
        fail(next, slot, Reason::Corrupt);
        let other = slot.other();
        let fits = self.record(other).state == SlotState::Confirmed && self.holds(other);
        let to = fits.then_some(other);
        next.confirmed = to.map(|to| to as u8);
        BootDecision::Reverted {
            from,
            to,
            reason: Reason::Corrupt,
        }
    }

    /// Whether another release of this counter is confirmed. Counters order releases, and two of one
    /// counter have no order: either could replace the other for ever, unseen by the floor.
    #[must_use]
    pub fn is_counter_taken(&self, counter: u32, digest: &Digest32) -> bool {
        self.confirmed().is_some_and(|slot| {
            let record = self.record(slot);
            record.counter == counter && record.digest != *digest
        })
    }

    /// Whether the counter of a release, and what it is of, let it run here.
    fn check_counter(&self, counter: u32, digest: &Digest32) -> Result<(), Error> {
        if counter < self.state.floor {
            return Err(Error::BelowFloor(self.state.floor));
        }
        if self.is_counter_taken(counter, digest) {
            return Err(Error::CounterTaken);
        }
        Ok(())
    }

    /// Makes the idle slot ready for a release and returns it. What the slot holds stays until
    /// chunks overwrite it, so a release that is there already, whole or in part, is not lost: the
    /// caller hashes before it fetches.
    ///
    /// # Errors
    /// [`Error::OnTrial`], [`Error::BelowFloor`], [`Error::CounterTaken`], [`Error::Rejected`] (same
    /// release, same rollout), [`Error::Size`], [`Error::Flash`], [`Error::Worn`].
    pub fn begin_receive(&mut self, target: &Target, rollout: RolloutTag) -> Result<Slot, Error> {
        let slot = self.idle();
        let record = self.record(slot);
        if record.state == SlotState::Trial {
            return Err(Error::OnTrial);
        }
        self.check_counter(target.counter, &target.digest)?;
        if let Some(reason) = self.rejection(&target.digest, rollout) {
            return Err(Error::Rejected(reason));
        }
        let sized = target.head_bytes > 0
            && target.head_bytes < target.total_bytes
            && target
                .head_bytes
                .is_multiple_of(crate::bundle::CHUNK_BYTES as u32)
            && target.total_bytes <= self.layout.slot_bytes;
        if !sized {
            return Err(Error::Size);
        }
        let mut fresh = SlotRecord {
            state: SlotState::Receiving,
            digest: target.digest,
            content: [0; 32],
            counter: target.counter,
            version: target.version.clone(),
            head_bytes: target.head_bytes,
            total_bytes: target.total_bytes,
            rollout,
            attempts: 0,
            max_boots: 0,
        };
        if record.state == SlotState::Receiving {
            // The same one goes on, and so do the boots that its self-test took; another one has
            // another digest or rollout.
            let again = record.digest == fresh.digest && record.rollout == fresh.rollout;
            fresh.attempts = if again { record.attempts } else { 0 };
        }
        if *record != fresh {
            self.change(&mut |next| next.slots[slot as usize].clone_from(&fresh))?;
        }
        Ok(slot)
    }

    /// Puts a release on trial. This boot is its first attempt: a caller that restarts to run it
    /// calls [`Slots::end_boot`] before.
    ///
    /// `max_boots` is how many boots may end without a confirmation; the next one reverts. 0 counts
    /// as 1.
    ///
    /// # Errors
    /// [`Error::State`] unless staged or in shadow, [`Error::BelowFloor`], [`Error::CounterTaken`],
    /// [`Error::Content`] when the slot no longer holds what was staged, [`Error::Flash`],
    /// [`Error::Worn`].
    pub fn begin_trial(&mut self, slot: Slot, max_boots: u8) -> Result<(), Error> {
        self.expect(slot, &[SlotState::Staged, SlotState::Shadow])?;
        let record = self.record(slot);
        self.check_counter(record.counter, &record.digest)?;
        if !self.holds(slot) {
            return Err(Error::Content);
        }
        self.change(&mut |next| {
            let record = &mut next.slots[slot as usize];
            record.state = SlotState::Trial;
            record.attempts = 1;
            record.max_boots = max_boots.max(1);
        })
    }

    /// Confirms the release on trial: it boots from now on, and the floor rises to its counter.
    /// The other slot stays as it is until the next update overwrites it.
    ///
    /// # Errors
    /// [`Error::State`] unless on trial; [`Error::Flash`], [`Error::Worn`].
    pub fn confirm(&mut self, slot: Slot) -> Result<(), Error> {
        self.expect(slot, &[SlotState::Trial])?;
        self.change(&mut |next| {
            let record = &mut next.slots[slot as usize];
            record.state = SlotState::Confirmed;
            record.attempts = 0;
            next.floor = next.floor.max(record.counter);
            next.confirmed = Some(slot as u8);
        })
    }

    /// Refuses a release before its trial.
    ///
    /// # Errors
    /// [`Error::State`] unless receiving, staged or in shadow; [`Error::Flash`], [`Error::Worn`].
    pub fn reject(&mut self, slot: Slot, reason: Reason) -> Result<(), Error> {
        self.expect(slot, &EARLY)?;
        self.change(&mut |next| fail(next, slot, reason))
    }

    /// Remembers that a release is not for this board, without touching a slot: its head said so.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Worn`].
    pub fn refuse(
        &mut self,
        digest: &Digest32,
        rollout: RolloutTag,
        reason: Reason,
    ) -> Result<(), Error> {
        let release = release_id(digest);
        let rejection = Rejection {
            release,
            rollout,
            reason,
        };
        self.change(&mut |next| {
            next.last_failure = Some((release, reason));
            remember(next, rejection);
        })
    }

    /// Gives up a release before its trial without holding it against it: its rollout ended.
    ///
    /// # Errors
    /// [`Error::State`] unless receiving, staged or in shadow; [`Error::Flash`], [`Error::Worn`].
    pub fn abandon(&mut self, slot: Slot) -> Result<(), Error> {
        self.expect(slot, &EARLY)?;
        self.change(&mut |next| next.slots[slot as usize] = SlotRecord::empty())
    }

    /// Ends the trial without a confirmation and returns the slot that boots again.
    ///
    /// # Errors
    /// [`Error::State`] unless on trial; [`Error::Flash`], [`Error::Worn`].
    pub fn revert(&mut self, slot: Slot, reason: Reason) -> Result<Option<Slot>, Error> {
        self.expect(slot, &[SlotState::Trial])?;
        self.change(&mut |next| fail(next, slot, reason))?;
        Ok(self.confirmed())
    }

    /// Accepts the next trust root; the caller has checked its signatures.
    ///
    /// # Errors
    /// [`Error::RootVersion`] unless it is one more than the board's; [`Error::Flash`],
    /// [`Error::Worn`].
    pub fn set_root(&mut self, root: Root) -> Result<(), Error> {
        let version = self.state.root.version;
        if version.checked_add(1) != Some(root.version) {
            return Err(Error::RootVersion(version));
        }
        self.change(&mut |next| next.root.clone_from(&root))
    }

    /// Remembers the desired state last accepted, by its number and the SHA-256 of its payload.
    ///
    /// # Errors
    /// [`Error::Replay`] when an accepted one is newer, or is another one of the same number;
    /// [`Error::Flash`], [`Error::Worn`].
    pub fn set_desired(&mut self, sequence: u64, digest: Digest32) -> Result<(), Error> {
        let seen = self.state.desired_sequence;
        if sequence == seen && digest == self.state.desired_digest {
            return Ok(());
        }
        if sequence <= seen {
            return Err(Error::Replay(seen));
        }
        self.change(&mut |next| {
            next.desired_sequence = sequence;
            next.desired_digest = digest;
        })
    }

    /// Whether a slot still holds what was staged. Read twice before it says no, for the answer
    /// costs a release; a flash that can't be read does not hold.
    fn holds(&mut self, slot: Slot) -> bool {
        let expected = self.record(slot).content;
        let total = self.record(slot).total_bytes;
        (0..2).any(|_| self.hash(slot, 0..total) == Ok(expected))
    }

    fn expect(&self, slot: Slot, states: &[SlotState]) -> Result<(), Error> {
        let state = self.record(slot).state;
        if states.contains(&state) {
            Ok(())
        } else {
            Err(Error::State(state))
        }
    }

    /// Makes a changed state the state, on flash first.
    #[inline(never)]
    fn change(&mut self, change: &mut dyn FnMut(&mut JournalState)) -> Result<(), Error> {
        let mut next = self.state.clone();
        change(&mut next);
        self.commit(next)
    }

    /// Makes `next` the state, on flash first.
    fn commit(&mut self, next: JournalState) -> Result<(), Error> {
        assert!(
            next.floor >= self.state.floor
                && next.root.version >= self.state.root.version
                && next.desired_sequence >= self.state.desired_sequence,
            "the floor, the root and the desired sequence never fall"
        );
        self.journal.append(&mut self.flash, &next)?;
        self.state = next;
        let early = |record: &SlotRecord| EARLY.contains(&record.state) && record.attempts > 0;
        self.counted &= self.state.slots.iter().any(early);
        Ok(())
    }
}

/// Marks the release in a slot as failed and remembers it. One whose keys were revoked is not held
/// against: it may come again under the same rollout once other keys have signed it.
fn fail(state: &mut JournalState, slot: Slot, reason: Reason) {
    let record = &mut state.slots[slot as usize];
    let release = release_id(&record.digest);
    let rejection = Rejection {
        release,
        rollout: record.rollout,
        reason,
    };
    record.state = SlotState::Rejected(reason);
    record.attempts = 0;
    state.last_failure = Some((release, reason));
    if reason != Reason::Revoked {
        remember(state, rejection);
    }
}

fn remember(state: &mut JournalState, rejection: Rejection) {
    if state.rejected.is_full() {
        state.rejected.remove(0);
    }
    // Can't fail: one was just removed if it was full.
    let _ = state.rejected.push(rejection);
}
