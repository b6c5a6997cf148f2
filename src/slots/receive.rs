//! Filling a slot: chunks in, hashes over what is there, and the check that makes it a release.

use super::{Error, Slot, Slots, flash};
use crate::bundle::CHUNK_BYTES;
use crate::telemetry::SlotState;
use crate::trust::{Digest32, Hasher};
use core::ops::Range;
use embedded_storage::nor_flash::NorFlash;

/// Reads that must agree before a release is staged whose download a restart interrupted.
const SUSPECT_READS: u32 = 8;

/// What writing a chunk did beyond writing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Chunks that an erase took along, the written one left out of account: where the flash's
    /// erase size is larger than a chunk, whatever these held is gone.
    pub lost: Range<u32>,
}

impl<S: NorFlash> Slots<S> {
    /// Chunks that the release in a slot has, its head included.
    #[must_use]
    pub fn chunks(&self, slot: Slot) -> u32 {
        self.record(slot).total_bytes.div_ceil(CHUNK_BYTES as u32)
    }

    /// Bytes of the release that chunk `n` holds.
    fn chunk_range(&self, slot: Slot, n: u32) -> Result<Range<u32>, Error> {
        let total = self.record(slot).total_bytes;
        let start = n.checked_mul(CHUNK_BYTES as u32).ok_or(Error::Range)?;
        if start >= total {
            return Err(Error::Range);
        }
        Ok(start..total.min(start + CHUNK_BYTES as u32))
    }

    /// Writes chunk `n` of the release being received, erasing what must be, and reads it back.
    ///
    /// The caller has checked the chunk's hash; [`Slots::stage`] checks all of them again. With an
    /// erase size up to [`CHUNK_BYTES`] the chunk's own sectors are erased and no other. With a
    /// larger one the sector is erased only when the chunk's place is not blank, and the answer
    /// says which chunks that took along.
    ///
    /// # Errors
    /// [`Error::State`] unless receiving, [`Error::Range`] when there is no such chunk or `bytes`
    /// is not its length, [`Error::Flash`], [`Error::Worn`] when it does not read back.
    pub fn write_chunk(&mut self, slot: Slot, n: u32, bytes: &[u8]) -> Result<Written, Error> {
        self.expect(slot, &[SlotState::Receiving])?;
        // Can't be: no state change makes the confirmed slot one that receives. But the price of a
        // mistake here is the board.
        assert_ne!(
            self.confirmed(),
            Some(slot),
            "the confirmed slot is never written"
        );
        let range = self.chunk_range(slot, n)?;
        if range.len() != bytes.len() {
            return Err(Error::Range);
        }
        let base = self.layout.slots[slot as usize];
        let at = base + range.start;
        let erase = S::ERASE_SIZE as u32;
        let large = erase > CHUNK_BYTES as u32;
        let place_end = at + CHUNK_BYTES as u32;
        if large && flash::is_erased(&mut self.flash, at, place_end)? {
            let written = flash::write(&mut self.flash, at, bytes);
            if written.is_ok() && flash::equals(&mut self.flash, at, bytes)? {
                return Ok(Written { lost: n..n });
            }
            // Blank it was not, although it read so: a cut left it half erased or half written.
        }
        let from = at / erase * erase;
        let to = place_end.next_multiple_of(erase);
        flash::erase(&mut self.flash, from, to)?;
        flash::write(&mut self.flash, at, bytes)?;
        if !flash::equals(&mut self.flash, at, bytes)? {
            return Err(Error::Worn);
        }
        let chunk = CHUNK_BYTES as u32;
        Ok(Written {
            lost: (from - base) / chunk..((to - base) / chunk).min(self.chunks(slot)),
        })
    }

    /// Reads bytes of a slot, from `offset` in it.
    ///
    /// # Errors
    /// [`Error::Range`] beyond the slot, [`Error::Flash`].
    pub fn read(&mut self, slot: Slot, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        let end = u64::from(offset) + bytes.len() as u64;
        if end > u64::from(self.layout.slot_bytes) {
            return Err(Error::Range);
        }
        let base = self.layout.slots[slot as usize];
        flash::read(&mut self.flash, base + offset, bytes)
    }

    /// Reads the head of the release in a slot into `buffer` and returns it, for the bundle's
    /// reader.
    ///
    /// # Errors
    /// [`Error::Size`] when the buffer is smaller than the head, [`Error::Flash`].
    pub fn read_head<'b>(&mut self, slot: Slot, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        let len = self.record(slot).head_bytes as usize;
        let head = buffer.get_mut(..len).ok_or(Error::Size)?;
        self.read(slot, 0, head)?;
        Ok(head)
    }

    /// SHA-256 of a range of a slot, in constant memory.
    ///
    /// # Errors
    /// [`Error::Range`] beyond the slot, [`Error::Flash`].
    pub fn hash(&mut self, slot: Slot, range: Range<u32>) -> Result<Digest32, Error> {
        if range.end > self.layout.slot_bytes || range.start > range.end {
            return Err(Error::Range);
        }
        let base = self.layout.slots[slot as usize];
        flash::sha256(&mut self.flash, base + range.start, base + range.end)
    }

    /// SHA-256 of chunk `n` as it is in the slot.
    ///
    /// # Errors
    /// [`Error::Range`] when there is no such chunk, [`Error::Flash`].
    pub fn hash_chunk(&mut self, slot: Slot, n: u32) -> Result<Digest32, Error> {
        let range = self.chunk_range(slot, n)?;
        self.hash(slot, range)
    }

    /// What the chunk table in the slot says of chunk `n`, a data chunk; the table ends at
    /// `signed_bytes`, as the head says.
    ///
    /// # Errors
    /// [`Error::Range`] when `n` is no data chunk or the table is not within the head,
    /// [`Error::Flash`].
    pub fn table_entry(
        &mut self,
        slot: Slot,
        signed_bytes: u32,
        n: u32,
    ) -> Result<Digest32, Error> {
        let mut digest = [0; 32];
        let left = self.chunks(slot).checked_sub(n).filter(|&left| left > 0);
        let data = n >= self.record(slot).head_bytes / CHUNK_BYTES as u32;
        let at = left
            .and_then(|left| left.checked_mul(32))
            .and_then(|back| signed_bytes.checked_sub(back))
            .filter(|_| data && signed_bytes <= self.record(slot).head_bytes)
            .ok_or(Error::Range)?;
        self.read(slot, at, &mut digest)?;
        Ok(digest)
    }

    /// Checks that a slot holds its release: the first `signed_bytes` (header, manifest and table)
    /// have its digest, and each data chunk the hash in the table. Returns the SHA-256 of all of it.
    ///
    /// # Errors
    /// [`Error::Head`], [`Error::Chunk`] with the first chunk that does not hold, [`Error::Range`]
    /// when `signed_bytes` is no sensible length, [`Error::Flash`].
    pub fn verify_slot(&mut self, slot: Slot, signed_bytes: u32) -> Result<Digest32, Error> {
        let record = self.record(slot);
        let (digest, head_bytes) = (record.digest, record.head_bytes);
        if head_bytes == 0 || signed_bytes == 0 || signed_bytes > head_bytes {
            return Err(Error::Range);
        }
        let base = self.layout.slots[slot as usize];
        let signed_end = base + signed_bytes;
        let mut content = Hasher::new();
        let mut signed = Hasher::new();
        let flash = &mut self.flash;
        flash::feed(flash, base, signed_end, &mut [&mut content, &mut signed])?;
        flash::feed(flash, signed_end, base + head_bytes, &mut [&mut content])?;
        if signed.finish() != digest {
            return Err(Error::Head);
        }
        for n in head_bytes / CHUNK_BYTES as u32..self.chunks(slot) {
            let range = self.chunk_range(slot, n)?;
            let expected = self.table_entry(slot, signed_bytes, n)?;
            let mut chunk = Hasher::new();
            flash::feed(
                &mut self.flash,
                base + range.start,
                base + range.end,
                &mut [&mut content, &mut chunk],
            )?;
            if chunk.finish() != expected {
                return Err(Error::Chunk(n));
            }
        }
        Ok(content.finish())
    }

    /// Makes a received release a staged one, if all of it holds. The caller has verified the
    /// signatures over the head and run the self-test.
    ///
    /// Where the board restarted since it began to receive, all is read several times: a write that
    /// lost its power may have left cells that read right only now and then.
    ///
    /// # Errors
    /// [`Error::State`] unless receiving, those of [`Slots::verify_slot`], [`Error::Worn`].
    pub fn stage(&mut self, slot: Slot, signed_bytes: u32) -> Result<(), Error> {
        self.expect(slot, &[SlotState::Receiving])?;
        let content = self.verify_slot(slot, signed_bytes)?;
        let again = if self.interrupted {
            SUSPECT_READS - 1
        } else {
            0
        };
        for _ in 0..again {
            if self.verify_slot(slot, signed_bytes)? != content {
                // All that is signed holds, so it is the rest of the head that changes.
                return Err(Error::Head);
            }
        }
        self.change(&mut |next| {
            let record = &mut next.slots[slot as usize];
            record.content = content;
            record.state = SlotState::Staged;
            // The self-test is over, and so are the boots that it may have taken.
            record.attempts = 0;
        })
    }
}
