//! Frames signed where their records are read to.

use super::record::RECORD_HEADER;
use super::{Outbox, OutboxError, Record, RecordKind, max_record_bytes};
use crate::telemetry::Id;
use crate::telemetry::codec::{max_frame_bytes, sign_last};
use crate::trust::Signer;
use embedded_storage::nor_flash::NorFlash;

/// Bytes of the outbox's buffer in which any frame can be signed, too ([`Outbox::sign_after`]).
#[must_use]
pub const fn max_buffer_bytes(features: usize, outputs: usize) -> usize {
    let (record, frame) = (
        max_record_bytes(features, outputs),
        max_frame_bytes(features, outputs),
    );
    if record > frame { record } else { frame }
}

/// A signed frame in the outbox's buffer, until anything else is asked of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// What it holds.
    pub kind: RecordKind,
    /// Its number.
    pub sequence: u64,
    /// Bytes of the message, of which [`Outbox::buffer`] begins with so many.
    pub bytes: usize,
}

impl<S: NorFlash, const F: usize, const C: usize, const R: usize, const B: usize>
    Outbox<S, F, C, R, B>
{
    /// Signs the frame of the record that [`Outbox::peek_after`] gives, in the outbox's buffer.
    ///
    /// # Errors
    /// As of [`Outbox::peek_after`]; [`OutboxError::TooLarge`] when the buffer is too small for the frame.
    pub fn sign_after<K: Signer + ?Sized>(
        &mut self,
        after: u64,
        device: &Id,
        signer: &K,
    ) -> Result<Option<Signed>, OutboxError> {
        let Some(record) = self.peek_after(after)? else {
            return Ok(None);
        };
        let (body, record) = (record.body.len(), record.without_body());
        let too_large = OutboxError::TooLarge {
            bytes: max_frame_bytes(F, C) as u32,
            most: B as u32,
        };
        // Behind all that a message has before it: from there it moves to its place, once that is known.
        self.buffer
            .copy_within(RECORD_HEADER..RECORD_HEADER + body, B - body);
        let bytes = sign_last(device, &record, body, signer, &mut self.buffer);
        Ok(Some(Signed {
            kind: record.kind,
            sequence: record.sequence,
            bytes: bytes.map_err(|_| too_large)?,
        }))
    }

    /// The outbox's buffer: what [`Outbox::sign_after`] left there.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// The outbox's buffer, which it needs for nothing between two calls.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl Record<'_> {
    fn without_body(self) -> Record<'static> {
        Record {
            kind: self.kind,
            epoch: self.epoch,
            acknowledged: self.acknowledged,
            first_sequence: self.first_sequence,
            sequence: self.sequence,
            boot: self.boot,
            time_ms: self.time_ms,
            body: &[],
        }
    }
}
