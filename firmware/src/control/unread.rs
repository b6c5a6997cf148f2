//! What goes on while flash can't be read or written.

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
    /// What goes on while heads can't be read, or flash can't be written: nothing is loaded or tried, and the board
    /// says what it has to say, its flight record among it, and hears what is said to it. The error comes when all
    /// of that is said.
    pub(super) fn poll_troubled(
        &mut self,
        error: ControlError,
        now: Now,
    ) -> Result<Option<Action<'_>>, ControlError> {
        if let Some(action) = self.say(error, now) {
            self.trouble = Some(error);
            return Ok(Some(action));
        }
        // An outbox that can't be read is said as soon as nothing else is wrong.
        let Ok(Some(message)) = self.next_message(now) else {
            return Err(error);
        };
        self.trouble = Some(error);
        Ok(Some(self.action(message)))
    }

    fn say(&mut self, error: ControlError, now: Now) -> Option<Action<'static>> {
        // What flash does not take keeps nothing from being said.
        let _ = self.forget(now);
        if self.pulls.begin() {
            return Some(Action::Pull);
        }
        let takes_none = matches!(error, ControlError::Outbox(_));
        let born = !takes_none && self.bear(now) == Ok(true);
        born.then_some(Action::More)
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
