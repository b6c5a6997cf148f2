//! Bodies of version 2 of frames and of the outbox's records: their summaries end before
//! [`Summary::core_khz`](super::Summary::core_khz), and are otherwise those of version 3.

/// The version of frames and records that is still read beside the newest.
pub(super) const VERSION: u8 = 2;
/// Number of a summary among the choices of a body.
const SUMMARY: u8 = 1;

/// What a body of version 2 lacks at its end, to be one of version 3: the clock of a summary, which is not
/// known.
///
/// A summary ends with a varint. One that goes on has been cut, and is left unreadable.
pub(super) fn missing(body: &[u8]) -> &'static [u8] {
    match body {
        [SUMMARY, .., 0..0x80] => &[0],
        _ => &[],
    }
}

/// A body of version 2 as one of version 3, in `space`; nothing where that is too small.
pub(super) fn complete<'a>(body: &[u8], space: &'a mut [u8]) -> &'a [u8] {
    let missing = missing(body);
    let len = body.len() + missing.len();
    let Some(whole) = space.get_mut(..len) else {
        return &[];
    };
    whole[..body.len()].copy_from_slice(body);
    whole[body.len()..].copy_from_slice(missing);
    whole
}
