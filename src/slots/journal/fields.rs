//! The fields of a record's payload: how a state is read and written where it is.

use super::super::Slot;
use super::{JournalState, RecordError, Rejection, SlotRecord, StateField};
use crate::place::{self, Blank, Fill};
use crate::telemetry::{Reason, SlotState};

place::records! {
    SlotRecord {
        state, digest, content, counter, version, head_bytes, total_bytes, rollout, attempts, max_boots,
    }
    Rejection { release, rollout, reason }
    JournalState {
        boot, root, floor, desired_sequence, desired_digest, slots, confirmed, rejected, last_failure,
    }
}

impl Blank for Rejection {
    fn blank() -> Self {
        Self {
            release: [0; 8],
            rollout: [0; 8],
            reason: Reason::Signature,
        }
    }
}

pub(super) fn fault(field: StateField, at: usize) -> RecordError {
    let offset = at as u32;
    RecordError::Payload { field, offset }
}

/// Reads the state that begins at `at` in a record, of which `record` is all before its CRC, and returns
/// where it ends.
///
/// # Errors
/// Names the first field that is wrong.
pub(super) fn read(
    state: &mut JournalState,
    record: &[u8],
    at: usize,
) -> Result<usize, RecordError> {
    let mut fields = Fields {
        record,
        at,
        error: RecordError::Full,
    };
    match fields.state(state) {
        Some(()) => Ok(fields.at),
        None => Err(fields.error),
    }
}

/// A record's payload, field by field, so that what is wrong with it can be named.
struct Fields<'a> {
    /// All of the record before its CRC.
    record: &'a [u8],
    /// Where the next field begins.
    at: usize,
    /// What is wrong, where something is.
    error: RecordError,
}

impl Fields<'_> {
    /// Reads the next field to its place, and says where it began.
    #[inline(never)]
    fn take(&mut self, field: StateField, place: &mut dyn Fill) -> Option<usize> {
        let at = self.at;
        let rest = self.record.get(at..).unwrap_or_default();
        match place::fill(place, rest) {
            Ok(left) => self.at += rest.len() - left.len(),
            Err(_) => return self.refuse(field, at),
        }
        Some(at)
    }

    fn refuse<T>(&mut self, field: StateField, at: usize) -> Option<T> {
        self.error = fault(field, at);
        None
    }

    /// Reads all fields; nothing when one is wrong.
    fn state(&mut self, state: &mut JournalState) -> Option<()> {
        let JournalState {
            boot,
            root,
            floor,
            desired_sequence,
            desired_digest,
            slots,
            confirmed,
            rejected,
            last_failure,
        } = state;
        self.take(StateField::Boot, boot)?;
        self.take(StateField::Root, root)?;
        self.take(StateField::Floor, floor)?;
        self.take(StateField::DesiredSequence, desired_sequence)?;
        self.take(StateField::DesiredDigest, desired_digest)?;
        for (slot, record) in Slot::ALL.into_iter().zip(slots) {
            let field = StateField::Slot(slot);
            let at = self.take(field, record)?;
            // Nothing that is stored.
            if record.state == SlotState::Revoked {
                return self.refuse(field, at);
            }
        }
        let at = self.take(StateField::Confirmed, confirmed)?;
        if confirmed.is_some_and(|index| index >= 2) {
            return self.refuse(StateField::Confirmed, at);
        }
        self.take(StateField::Rejected, rejected)?;
        self.take(StateField::LastFailure, last_failure)?;
        Some(())
    }
}
