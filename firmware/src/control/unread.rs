//! What goes on while flash can't be read.

use super::{Action, Control, ControlError, Now};
use edgeward::trust::{Signer, Verifier};
use embedded_storage::nor_flash::NorFlash;

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
    /// What goes on while heads can't be read: nothing is loaded or tried, and the board says what it
    /// has to say, its flight record among it, and hears what is said to it.
    pub(super) fn poll_unread(
        &mut self,
        error: ControlError,
        now: Now,
    ) -> Result<Option<Action<'_>>, ControlError> {
        if let Some(action) = self.next_topic() {
            return Ok(Some(action));
        }
        self.forget(now)?;
        if self.pulls.begin() {
            return Ok(Some(Action::Pull));
        }
        if self.bear(now)? {
            return Ok(Some(Action::More));
        }
        self.publish(now)?
            .map_or(Err(error), |action| Ok(Some(action)))
    }

    /// Stores what could not be stored at the start, or a birth, if one is due.
    pub(super) fn bear(&mut self, now: Now) -> Result<bool, ControlError> {
        if let Some(event) = self.untold {
            self.event(&event, now)?;
            self.untold = None;
            return Ok(true);
        }
        let due = self.birth_due || (self.connected && self.outbox.needs_birth());
        if due {
            let birth = self.birth();
            self.outbox.push(now.stamp_ms(), &birth)?;
            self.birth_due = false;
        }
        Ok(due)
    }
}
