//! Boots that a release takes with it before its trial: it hangs or panics as it is loaded, in its
//! self-test, or in shadow.

use super::{EARLY_BOOTS, Error, Slot, Slots};
use crate::telemetry::SlotState;
use embedded_storage::nor_flash::NorFlash;

/// States in which a release may run without having been put on trial.
pub(super) const EARLY: [SlotState; 3] =
    [SlotState::Receiving, SlotState::Staged, SlotState::Shadow];

impl<S: NorFlash> Slots<S> {
    /// Counts this boot against a release that is about to be loaded, to be self-tested or to run in
    /// shadow: unless [`Slots::stage`], [`Slots::settle`] or [`Slots::end_boot`] says otherwise, it
    /// took this boot with it. Call before it runs, as often as needed: a boot counts once.
    ///
    /// False, and nothing is written, when it has taken as many boots as it may already
    /// ([`EARLY_BOOTS`], or what [`Slots::shadow`] said): reject it as
    /// [`Reason::Crash`](crate::telemetry::Reason::Crash), and do not run it.
    ///
    /// # Errors
    /// [`Error::State`] unless receiving, staged or in shadow; [`Error::Flash`], [`Error::Worn`].
    pub fn attempt(&mut self, slot: Slot) -> Result<bool, Error> {
        self.expect(slot, &EARLY)?;
        if self.counted {
            return Ok(true);
        }
        let record = self.record(slot);
        let most = match record.max_boots {
            0 => EARLY_BOOTS,
            most => most,
        };
        if record.attempts >= most {
            return Ok(false);
        }
        self.change(&mut |next| next.slots[slot as usize].attempts += 1)?;
        self.counted = true;
        Ok(true)
    }

    /// Says that a release which was counted by [`Slots::attempt`] did what it was to do and does
    /// not run any more: no boot counts against it.
    ///
    /// # Errors
    /// [`Error::State`] unless receiving, staged or in shadow; [`Error::Flash`], [`Error::Worn`].
    pub fn settle(&mut self, slot: Slot) -> Result<(), Error> {
        self.expect(slot, &EARLY)?;
        if self.record(slot).attempts == 0 {
            return Ok(());
        }
        self.change(&mut |next| next.slots[slot as usize].attempts = 0)
    }

    /// Runs the staged release beside the confirmed one, its predictions unused. This boot counts as
    /// one of its attempts.
    ///
    /// `max_boots` is how many boots it may take with it; the next one that
    /// [`Slots::attempt`]s it does not run it. 0 counts as 1.
    ///
    /// # Errors
    /// [`Error::State`] unless staged; [`Error::Flash`], [`Error::Worn`].
    pub fn shadow(&mut self, slot: Slot, max_boots: u8) -> Result<(), Error> {
        self.expect(slot, &[SlotState::Staged])?;
        let counted = self.counted;
        self.change(&mut |next| {
            let record = &mut next.slots[slot as usize];
            record.state = SlotState::Shadow;
            record.max_boots = max_boots.max(1);
            if !counted {
                record.attempts = record.attempts.saturating_add(1);
            }
        })?;
        self.counted = true;
        Ok(())
    }

    /// Says that this boot ends on purpose: it does not count as one in which a release died.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Worn`].
    pub fn end_boot(&mut self) -> Result<(), Error> {
        let counted = self.counted.then(|| self.idle());
        let Some(slot) = self.on_trial().or(counted) else {
            return Ok(());
        };
        self.change(&mut |next| {
            let record = &mut next.slots[slot as usize];
            record.attempts = record.attempts.saturating_sub(1);
        })?;
        self.counted = false;
        Ok(())
    }
}
