//! What the host has stored, and so is forgotten here.

use super::{Control, ControlError, Now};
use edgeward::telemetry::codec::decode_ack;
use edgeward::telemetry::outbox::OutboxError;
use edgeward::telemetry::{Event, Refused};
use edgeward::trust::cose::ContentType;
use edgeward::trust::{Role, Signer, Verifier};
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
    /// An acknowledgement came.
    #[inline(never)]
    pub(super) fn acknowledgement(&mut self, bytes: &[u8], now: Now) -> Result<(), ControlError> {
        let root = &self.slots.state().root;
        let payload =
            root.verify_threshold(Role::Collector, ContentType::Ack, bytes, &self.verifier);
        let ack = payload.ok().and_then(|payload| decode_ack(payload).ok());
        let Some(ack) = ack.filter(|ack| ack.device == self.setup.device) else {
            let what = Refused::Ack;
            return self.event(&Event::Refused { what }, now);
        };
        // One of an outbox that is gone says nothing of this one, however late or often it comes.
        if ack.epoch == self.outbox.epoch() {
            self.acknowledged = self.acknowledged.max(Some(ack.through));
        }
        Ok(())
    }

    /// Forgets what the host has stored. Acknowledgements are cumulative and each costs a write, so
    /// that those that came together count as one.
    pub(super) fn forget(&mut self, now: Now) -> Result<(), ControlError> {
        let Some(through) = self.acknowledged.take() else {
            return Ok(());
        };
        match self.outbox.acknowledge(through) {
            // The host has frames of this epoch that are not of this outbox: an old copy of the
            // flash came back, or another board has one. All numbers up to these are taken.
            Err(OutboxError::AcknowledgedUnknown { .. }) => self.begin_anew(now),
            result => {
                self.sending.acknowledged(through, now.monotonic_ms);
                Ok(result?)
            }
        }
    }

    /// Goes on with a new outbox, once a boot at most.
    fn begin_anew(&mut self, now: Now) -> Result<(), ControlError> {
        let Some(epoch) = self.spare_epoch.take() else {
            return Ok(());
        };
        self.outbox.begin_anew(epoch);
        self.sending.restart(0);
        self.before = None;
        self.restarted = true;
        let born = self.first_birth(now);
        self.birth_due |= born.is_err();
        born.map(|_| ())
    }
}
