//! The first message of either side (RFC 8446, 4.1).

use crate::TlsError::{self, Malformed, TooLarge, Unexpected, Version};
use crate::bytes::Bytes;
use crate::{Refusal, told};
use heapless::Vec;

/// Most bytes of the client's: one extension of it holds a name.
pub(crate) const HELLO_BYTES: usize = 512;
/// Bytes of a point of the curve.
pub(crate) const POINT: usize = 65;

/// TLS 1.2, which the fields say that 1.3 has no use of.
const LEGACY: [u8; 2] = [3, 3];
const TLS_1_3: [u8; 2] = [3, 4];
/// TLS_AES_128_GCM_SHA256.
const SUITE: [u8; 2] = [0x13, 0x01];
const SECP256R1: [u8; 2] = [0, 23];
/// What a server that wants another group has in place of randomness.
const RETRY: [u8; 32] = [
    0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91,
    0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
];

/// With what randomness ends of a server that knows TLS 1.3 and was asked for TLS 1.2, or for older ones.
const DOWNGRADE: ([u8; 8], [u8; 8]) = (*b"DOWNGRD\x01", *b"DOWNGRD\x00");

/// Ways to sign (RFC 8446, 4.2.3).
pub(crate) mod scheme {
    pub const ECDSA_P256: [u8; 2] = [4, 3];
    pub const ED25519: [u8; 2] = [8, 7];
}

/// Extensions.
mod extension {
    pub const SERVER_NAME: [u8; 2] = [0, 0];
    pub const GROUPS: [u8; 2] = [0, 10];
    pub const SIGNATURES: [u8; 2] = [0, 13];
    pub const VERSIONS: [u8; 2] = [0, 43];
    pub const KEY_SHARE: [u8; 2] = [0, 51];
}

type Hello = Vec<u8, HELLO_BYTES>;

/// The client's hello, as a message of the handshake; `name` is a name that DNS knows.
pub(crate) fn client(
    random: &[u8; 32],
    point: &[u8; POINT],
    name: Option<&str>,
) -> Result<Hello, TlsError> {
    let mut extensions = Hello::new();
    let mut add = |kind: [u8; 2], parts: &[&[u8]]| {
        let len = parts.iter().map(|part| part.len()).sum::<usize>() as u16;
        push(&mut extensions, &[&kind, &len.to_be_bytes()])?;
        push(&mut extensions, parts)
    };
    let two = |n: usize| (n as u16).to_be_bytes();
    if let Some(name) = name {
        let (list, len) = (two(3 + name.len()), two(name.len()));
        add(
            extension::SERVER_NAME,
            &[&list, &[0], &len, name.as_bytes()],
        )?;
    }
    add(extension::VERSIONS, &[&[2], &TLS_1_3])?;
    add(extension::GROUPS, &[&[0, 2], &SECP256R1])?;
    let ways: [&[u8]; 3] = [&[0, 4], &scheme::ECDSA_P256, &scheme::ED25519];
    add(extension::SIGNATURES, &ways)?;
    let share: [&[u8]; 4] = [&two(4 + POINT), &SECP256R1, &two(POINT), point];
    add(extension::KEY_SHARE, &share)?;

    let mut body = Hello::new();
    // No session, one suite, no compression.
    push(
        &mut body,
        &[&LEGACY, random, &[0], &[0, 2], &SUITE, &[1, 0]],
    )?;
    push(&mut body, &[&two(extensions.len()), &extensions])?;
    let mut message = Hello::new();
    push(&mut message, &[&[1, 0], &two(body.len()), &body])?;
    Ok(message)
}

fn push(to: &mut Hello, parts: &[&[u8]]) -> Result<(), TlsError> {
    parts
        .iter()
        .try_for_each(|part| to.extend_from_slice(part).map_err(|_| TooLarge))
}

/// The alert for an extension that has no place in a message: the client offered it for another one, or not
/// at all (RFC 8446, 4.2).
fn stray(kind: [u8; 2]) -> u8 {
    use extension::{GROUPS, KEY_SHARE, SERVER_NAME, SIGNATURES, VERSIONS};
    match [SERVER_NAME, GROUPS, SIGNATURES, VERSIONS, KEY_SHARE].contains(&kind) {
        true => told::ILLEGAL_PARAMETER,
        false => told::UNSUPPORTED_EXTENSION,
    }
}

/// The server's point, of its hello (the message without its header).
pub(crate) fn server(body: &[u8]) -> Result<&[u8; POINT], Refusal> {
    let mut body = Bytes(body);
    if body.take(2)? != LEGACY {
        return Err(Version.into());
    }
    let random = body.take(32)?;
    if random == RETRY {
        // The only group that was offered has its share already.
        return Err(Unexpected.told(told::ILLEGAL_PARAMETER));
    }
    let session = body.counted(1)?;
    let suite = body.take(2)?;
    let compression = body.u8()?;
    let mut extensions = body.counted(2)?;
    body.end()?;
    let (mut version, mut share, mut other) = (None, None, None);
    while !extensions.is_empty() {
        let kind = extensions.u16()?.to_be_bytes();
        let content = extensions.counted(2)?;
        let place = match kind {
            extension::VERSIONS => &mut version,
            extension::KEY_SHARE => &mut share,
            _ => {
                other = Some(stray(kind));
                continue;
            }
        };
        if place.replace(content).is_some() {
            return Err(Malformed.into());
        }
    }
    match version {
        Some(Bytes(version)) if version == TLS_1_3 => {}
        // Of an older version, by a server that knows this one, or as somebody in between had it.
        None if !random.ends_with(&DOWNGRADE.0) && !random.ends_with(&DOWNGRADE.1) => {
            return Err(Version.into());
        }
        _ => return Err(Version.told(told::ILLEGAL_PARAMETER)),
    }
    if let Some(alert) = other {
        return Err(Unexpected.told(alert));
    }
    if !session.is_empty() || suite != SUITE || compression != 0 {
        return Err(Unexpected.told(told::ILLEGAL_PARAMETER));
    }
    let mut share = share.ok_or(Unexpected.told(told::MISSING_EXTENSION))?;
    if share.take(2)? != SECP256R1 {
        return Err(Unexpected.told(told::ILLEGAL_PARAMETER));
    }
    let point = share.counted(2)?;
    share.end()?;
    let point = point.0.try_into();
    point.map_err(|_| Malformed.told(told::ILLEGAL_PARAMETER))
}

/// Looks through a server's EncryptedExtensions: nothing in them is of use here.
pub(crate) fn encrypted_extensions(body: &[u8]) -> Result<(), Refusal> {
    let mut body = Bytes(body);
    let mut extensions = body.counted(2)?;
    body.end()?;
    while !extensions.is_empty() {
        let kind = extensions.u16()?.to_be_bytes();
        extensions.counted(2)?;
        if kind != extension::SERVER_NAME && kind != extension::GROUPS {
            return Err(Unexpected.told(stray(kind)));
        }
    }
    Ok(())
}
