//! Reads, writes and hashes on any NOR flash, whatever its word size.

use super::Error;
use crate::trust::{Digest32, Hasher};
use embedded_storage::nor_flash::{NorFlash, NorFlashError, ReadNorFlash};

/// Bytes read at a time where a whole region is walked; a multiple of every word size.
const PIECE: usize = 256;

fn failed<E: NorFlashError>(error: E) -> Error {
    Error::Flash(error.kind())
}

/// Reads any range, aligned or not.
pub(super) fn read<S: ReadNorFlash>(
    flash: &mut S,
    offset: u32,
    bytes: &mut [u8],
) -> Result<(), Error> {
    let word = S::READ_SIZE as u32;
    let whole = bytes.len().is_multiple_of(S::READ_SIZE);
    if offset.is_multiple_of(word) && whole {
        return flash.read(offset, bytes).map_err(failed);
    }
    let mut bounce = [0; 32];
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let skip = (at % word) as usize;
        let bounce = bounce.get_mut(..S::READ_SIZE).ok_or(Error::Layout)?;
        flash.read(at - skip as u32, bounce).map_err(failed)?;
        let take = rest.len().min(S::READ_SIZE - skip);
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&bounce[skip..skip + take]);
        at += take as u32;
        rest = later;
    }
    Ok(())
}

/// Writes `bytes` at an aligned offset; a last word that is not full is filled up with ones, which
/// leave the flash as it is.
pub(super) fn write<S: NorFlash>(flash: &mut S, offset: u32, bytes: &[u8]) -> Result<(), Error> {
    let full = bytes.len() / S::WRITE_SIZE * S::WRITE_SIZE;
    let (words, rest) = bytes.split_at(full);
    if !words.is_empty() {
        flash.write(offset, words).map_err(failed)?;
    }
    if !rest.is_empty() {
        let mut last = [0xFF; 32];
        let last = last.get_mut(..S::WRITE_SIZE).ok_or(Error::Layout)?;
        last[..rest.len()].copy_from_slice(rest);
        flash.write(offset + full as u32, last).map_err(failed)?;
    }
    Ok(())
}

/// Erases an aligned range.
pub(super) fn erase<S: NorFlash>(flash: &mut S, from: u32, to: u32) -> Result<(), Error> {
    flash.erase(from, to).map_err(failed)
}

/// Walks a range in pieces; stops early when `each` says no.
fn walk<S: ReadNorFlash>(
    flash: &mut S,
    from: u32,
    to: u32,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<(), Error> {
    let mut buffer = [0; PIECE];
    let mut at = from;
    while at < to {
        let take = PIECE.min((to - at) as usize);
        let piece = &mut buffer[..take];
        read(flash, at, piece)?;
        if !each(piece) {
            break;
        }
        at += take as u32;
    }
    Ok(())
}

/// Whether a range reads as erased.
pub(super) fn is_erased<S: ReadNorFlash>(flash: &mut S, from: u32, to: u32) -> Result<bool, Error> {
    let mut erased = true;
    walk(flash, from, to, |piece| {
        erased = piece.iter().all(|&byte| byte == 0xFF);
        erased
    })?;
    Ok(erased)
}

/// Whether `expected` is what the flash holds at `offset`.
pub(super) fn equals<S: ReadNorFlash>(
    flash: &mut S,
    offset: u32,
    expected: &[u8],
) -> Result<bool, Error> {
    let mut rest = expected;
    let mut equal = true;
    walk(flash, offset, offset + expected.len() as u32, |piece| {
        equal = rest.starts_with(piece);
        rest = rest.get(piece.len()..).unwrap_or_default();
        equal
    })?;
    Ok(equal)
}

/// Feeds a range to `hashers`, each byte read once.
pub(super) fn feed<S: ReadNorFlash>(
    flash: &mut S,
    from: u32,
    to: u32,
    hashers: &mut [&mut Hasher],
) -> Result<(), Error> {
    walk(flash, from, to, |piece| {
        for hasher in hashers.iter_mut() {
            hasher.update(piece);
        }
        true
    })
}

/// SHA-256 of a range.
pub(super) fn sha256<S: ReadNorFlash>(
    flash: &mut S,
    from: u32,
    to: u32,
) -> Result<Digest32, Error> {
    let mut hasher = Hasher::new();
    feed(flash, from, to, &mut [&mut hasher])?;
    Ok(hasher.finish())
}
