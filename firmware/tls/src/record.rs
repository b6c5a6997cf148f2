//! Records: how they are received, opened and made.

use crate::TlsError::{self, Ended, Malformed, NotTls, TooLarge, Unexpected};
use crate::keys::{TAG, Traffic};
use crate::{Refusal, told};
use core::ops::Range;
use embedded_io_async::Read;

/// Bytes of a record's header.
pub(crate) const HEADER: usize = 5;
/// Most bytes of what a record carries, and of what protecting it adds.
const CONTENT: usize = 16384;
const EXPANSION: usize = 256;

/// What a record carries.
pub(crate) mod kind {
    pub const CHANGE: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const DATA: u8 = 23;
}

/// Alerts that end nothing, or end it well.
pub(crate) mod alert {
    pub const CLOSE: u8 = 0;
    pub const VERSION: u8 = 70;
    pub const CANCELED: u8 = 90;
}

/// Bytes of the record whose first ones these are, as far as they say.
fn expected(begun: &[u8]) -> Result<usize, Refusal> {
    let Some(&[kind, major, _, high, low]) = begun.first_chunk::<HEADER>() else {
        return Ok(HEADER);
    };
    if !(kind::CHANGE..=kind::DATA).contains(&kind) || major != 3 {
        return Err(NotTls.into());
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    (len <= CONTENT + EXPANSION)
        .then_some(HEADER + len)
        .ok_or(Malformed.told(told::RECORD_OVERFLOW))
}

/// Receives a record whose first `received` bytes lie in `room`, and gives its length. What has come by the
/// time that the future is dropped counts in `received`.
pub(crate) async fn receive<S: Read>(
    stream: &mut S,
    room: &mut [u8],
    received: &mut usize,
) -> Result<usize, Refusal> {
    loop {
        let wanted = expected(room.get(..*received).ok_or(TooLarge)?)?;
        if *received == wanted {
            return Ok(wanted);
        }
        let rest = room.get_mut(*received..wanted).ok_or(TooLarge)?;
        let read = stream.read(rest).await.map_err(|_| Ended)?;
        if read == 0 {
            return Err(Ended.into());
        }
        *received += read;
    }
}

/// Opens a protected record in place: what it carries, and where that lies.
pub(crate) fn open(keys: &mut Traffic, record: &mut [u8]) -> Result<(u8, Range<usize>), Refusal> {
    let (header, body) = record.split_first_chunk_mut::<HEADER>().ok_or(Malformed)?;
    if header.first() != Some(&kind::DATA) {
        return Err(Unexpected.into());
    }
    let (inner, tag) = body.split_last_chunk_mut::<TAG>().ok_or(Malformed)?;
    keys.open(header, inner, tag)?;
    // The kind is the last byte that is not padding.
    let end = inner.iter().rposition(|&byte| byte != 0);
    let end = end.ok_or(Unexpected)?;
    let kind = inner.get(end).copied().ok_or(Unexpected)?;
    if end > CONTENT {
        return Err(Malformed.told(told::RECORD_OVERFLOW));
    }
    Ok((kind, HEADER..HEADER + end))
}

/// What a record without protection carries, and where that lies.
pub(crate) fn bare(record: &[u8]) -> Result<(u8, Range<usize>), Refusal> {
    let kind = record.first().copied().ok_or(Malformed)?;
    if record.len() > HEADER + CONTENT {
        return Err(Malformed.told(told::RECORD_OVERFLOW));
    }
    Ok((kind, HEADER..record.len()))
}

/// Makes a protected record in `out`; gives its length.
pub(crate) fn seal(
    keys: &mut Traffic,
    kind: u8,
    content: &[u8],
    out: &mut [u8],
) -> Result<usize, TlsError> {
    let inner = content.len() + 1;
    let len = (inner + TAG) as u16;
    let [high, low] = len.to_be_bytes();
    let header = [kind::DATA, 3, 3, high, low];
    let (record, _) = out
        .split_at_mut_checked(HEADER + inner + TAG)
        .ok_or(TooLarge)?;
    let (front, body) = record.split_first_chunk_mut().ok_or(TooLarge)?;
    *front = header;
    let (body, tag) = body.split_last_chunk_mut().ok_or(TooLarge)?;
    let (last, rest) = body.split_last_mut().ok_or(TooLarge)?;
    *last = kind;
    rest.copy_from_slice(content);
    *tag = keys.seal(&header, body)?;
    Ok(HEADER + inner + TAG)
}

/// Makes a record without protection in `out`; gives its length.
pub(crate) fn plain(kind: u8, content: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let record = out.get_mut(..HEADER + content.len()).ok_or(TooLarge)?;
    let (header, body) = record.split_first_chunk_mut().ok_or(TooLarge)?;
    // The version is that of a first hello, which is all that is sent so but for an alert.
    *header = [kind, 3, 1, high, low];
    body.copy_from_slice(content);
    Ok(HEADER + content.len())
}

/// What an alert says: none where it ends nothing.
pub(crate) fn read_alert(content: &[u8]) -> Result<Option<u8>, TlsError> {
    match content {
        [_, alert::CANCELED] => Ok(None),
        [_, number] => Ok(Some(*number)),
        _ => Err(Malformed),
    }
}
