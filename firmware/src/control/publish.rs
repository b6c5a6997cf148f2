//! What is published next.

use super::{Action, Control, ControlError, Now, ONLINE};
use edgeward::telemetry::outbox::RecordKind;
use edgeward::topic::{self, Channel};
use edgeward::trust::{Signer, Verifier};
use embedded_storage::nor_flash::NorFlash;

/// A message to publish; a frame is in the outbox's buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    channel: Channel,
    /// Bytes of the frame.
    length: usize,
    retain: bool,
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
    /// The next message to publish, if there is one and it may go.
    pub(super) fn publish(&mut self, now: Now) -> Result<Option<Action<'_>>, ControlError> {
        let message = self.next_message(now)?;
        Ok(message.map(|message| self.action(message)))
    }

    /// Has a message go.
    pub(super) fn action(&self, message: Message) -> Action<'_> {
        let Message {
            channel,
            length,
            retain,
        } = message;
        Action::Publish {
            topic: topic::device(&self.setup.fleet, &self.setup.device, channel),
            payload: match channel {
                Channel::State => ONLINE,
                _ => self.outbox.buffer().get(..length).unwrap_or_default(),
            },
            retain,
        }
    }

    pub(super) fn next_message(&mut self, now: Now) -> Result<Option<Message>, ControlError> {
        self.before = None;
        self.pulls.passed();
        if !self.connected {
            return Ok(None);
        }
        if self.state_due {
            self.state_due = false;
            return Ok(Some(Message {
                channel: Channel::State,
                length: 0,
                retain: true,
            }));
        }
        self.sending
            .tick(self.outbox.acknowledged(), now.monotonic_ms);
        let Some(after) = self.sending.next_after() else {
            return Ok(None);
        };
        let device = &self.setup.device;
        let Some(frame) = self.outbox.sign_after(after, device, &self.signer)? else {
            return Ok(None);
        };
        let (channel, retain) = match frame.kind {
            RecordKind::Birth => (Channel::Birth, true),
            RecordKind::Event => (Channel::Event, false),
            _ => (Channel::Summary, false),
        };
        self.before = Some(after);
        self.sending.sent(frame.sequence, now.monotonic_ms);
        Ok(Some(Message {
            channel,
            length: frame.bytes,
            retain,
        }))
    }
}
