//! The trust root: which keys may sign what, and how many of them it takes.

use super::cose::{self, ContentType, CoseError, CoseErrorKind, CoseField};
use super::{KeyId, PublicKey, Role, Verifier, strict};
use crate::place::{self, Fill};
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Most keys a role may have.
pub const MAX_KEYS: usize = 8;
/// Most signatures over one object: a new root may carry those of all old and all new root keys.
pub const MAX_SIGNATURES: usize = 2 * MAX_KEYS;
/// Bytes of the largest encoded root.
pub const MAX_ROOT_BYTES: usize = 5 + Role::COUNT * (2 + MAX_KEYS * 32);
/// Bytes of the largest signed root.
pub const MAX_SIGNED_ROOT_BYTES: usize = ContentType::Root.embedded_bytes(MAX_ROOT_BYTES)
    + (MAX_SIGNATURES - 1) * ContentType::Root.detached_bytes();

/// The keys of one role, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RoleKeys {
    /// Signatures needed, at least 1 and at most `keys.len()`.
    pub threshold: u8,
    /// The keys, without duplicates.
    pub keys: Vec<PublicKey, MAX_KEYS>,
}

/// The root of trust of a fleet.
///
/// A board accepts version `n + 1` when it holds version `n` and the new one is signed by enough
/// root keys of both (the rule of The Update Framework, section 5.3). A key that the new version
/// does not name is revoked from that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Version, from 1.
    pub version: u32,
    /// Keys and thresholds, indexed by [`Role`].
    pub roles: [RoleKeys; Role::COUNT],
}

/// A field of a root's payload, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootField {
    /// The version.
    Version,
    /// How many keys of a role must sign.
    Threshold(Role),
    /// The keys of a role: their number, and each.
    Keys(Role),
}

/// Why a root or a signed object was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustError {
    /// A signature is not of the one shape.
    Cose {
        /// Which signature, from 0; its error's offset counts from its own first byte.
        index: u8,
        /// What is wrong with it.
        error: CoseError,
    },
    /// More than [`MAX_SIGNATURES`] signatures.
    TooManySignatures,
    /// Too few distinct keys of the role made valid signatures.
    Threshold {
        /// The role.
        role: Role,
        /// Distinct keys with a valid signature.
        valid: u8,
        /// Keys needed.
        needed: u8,
    },
    /// A field of the payload is cut off, too long, or none.
    Undecodable {
        /// Which.
        field: RootField,
        /// Where it begins in the payload.
        offset: u32,
    },
    /// Bytes follow the root in the payload.
    Trailing {
        /// Offset of the first of them.
        offset: u32,
    },
    /// The version is not the one after the root that is held (for a first root: not at least 1).
    Version {
        /// The version that would be accepted.
        expected: u32,
        /// The version offered.
        offered: u32,
    },
    /// The role's threshold is 0 or more than it has keys.
    BadThreshold {
        /// The role.
        role: Role,
        /// Its threshold.
        threshold: u8,
        /// How many keys it has.
        keys: u8,
    },
    /// Two keys of the role are equal, or have the same id.
    DuplicateKey {
        /// The role.
        role: Role,
        /// Index of the second.
        index: u8,
    },
    /// A key of the role is of small order or not canonical: anyone could sign for it.
    WeakKey {
        /// The role.
        role: Role,
        /// Its index.
        index: u8,
    },
}

impl RoleKeys {
    /// `threshold` of these keys.
    ///
    /// Keys beyond [`MAX_KEYS`] are an error, the rest is checked by [`Root::validate`].
    ///
    /// # Errors
    /// Hands the first key back that has no room.
    pub fn new(threshold: u8, keys: &[PublicKey]) -> Result<Self, PublicKey> {
        let mut role = Self {
            threshold,
            keys: Vec::new(),
        };
        for key in keys {
            role.keys.push(*key)?;
        }
        Ok(role)
    }
}

place::records! {
    RoleKeys { threshold, keys }
    Root { version, roles }
}

impl Root {
    /// A root that trusts nobody: no state of a board, but a place for one.
    pub(crate) const fn empty() -> Self {
        const NOBODY: RoleKeys = RoleKeys {
            threshold: 0,
            keys: Vec::new(),
        };
        Self {
            version: 0,
            roles: [NOBODY; Role::COUNT],
        }
    }

    /// The keys of `role`.
    #[must_use]
    pub fn role(&self, role: Role) -> &RoleKeys {
        &self.roles[role as usize]
    }

    /// The key that `id` names in `role`.
    #[must_use]
    pub fn key(&self, role: Role, id: KeyId) -> Option<&PublicKey> {
        self.role(role).keys.iter().find(|key| key.id() == id)
    }

    /// Whether this can be a root at all: version from 1, thresholds that can be met, no key twice
    /// in a role, no weak key.
    ///
    /// # Errors
    /// Names the first role and key that is wrong.
    pub fn validate(&self) -> Result<(), TrustError> {
        if self.version == 0 {
            return Err(TrustError::Version {
                expected: 1,
                offered: 0,
            });
        }
        for role in Role::ALL {
            let RoleKeys { threshold, keys } = self.role(role);
            if *threshold == 0 || usize::from(*threshold) > keys.len() {
                return Err(TrustError::BadThreshold {
                    role,
                    threshold: *threshold,
                    keys: keys.len() as u8,
                });
            }
            for (index, key) in keys.iter().enumerate() {
                if !strict::point_is_strict(&key.0) {
                    return Err(TrustError::WeakKey {
                        role,
                        index: index as u8,
                    });
                }
                if keys.iter().take(index).any(|other| other.id() == key.id()) {
                    return Err(TrustError::DuplicateKey {
                        role,
                        index: index as u8,
                    });
                }
            }
        }
        Ok(())
    }

    /// Decodes and validates a root. Nothing is known of its signatures.
    ///
    /// # Errors
    /// When the bytes are no root, more than a root, or [`Root::validate`] objects.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustError> {
        let mut rest = bytes;
        let mut take = |place: &mut dyn Fill, field| {
            let offset = (bytes.len() - rest.len()) as u32;
            rest =
                place::fill(place, rest).map_err(|_| TrustError::Undecodable { field, offset })?;
            Ok(())
        };
        let mut root = Self::empty();
        take(&mut root.version, RootField::Version)?;
        for role in Role::ALL {
            let of_role = &mut root.roles[role as usize];
            take(&mut of_role.threshold, RootField::Threshold(role))?;
            take(&mut of_role.keys, RootField::Keys(role))?;
        }
        if !rest.is_empty() {
            return Err(TrustError::Trailing {
                offset: (bytes.len() - rest.len()) as u32,
            });
        }
        root.validate()?;
        Ok(root)
    }

    /// Writes the root into `out` and returns the bytes written: the payload that root keys sign.
    ///
    /// # Errors
    /// [`CoseErrorKind::NoSpace`] when `out` is too short; [`MAX_ROOT_BYTES`] always suffice.
    pub fn encode<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], CoseError> {
        let len = out.len();
        match postcard::to_slice(self, out) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(CoseError::new(
                CoseField::Output,
                len,
                CoseErrorKind::NoSpace,
            )),
        }
    }

    /// The payload of a signed object, when enough keys of `role` signed it.
    ///
    /// `bytes` are a CBOR sequence of COSE_Sign1 messages over one payload: the first embeds it, the
    /// others are detached. A key counts once. Signatures of keys that the role does not have, and
    /// such that do not hold, count for nothing.
    ///
    /// # Errors
    /// When the sequence is malformed, of another content type, or has too few valid signatures.
    pub fn verify_threshold<'a, V: Verifier + ?Sized>(
        &self,
        role: Role,
        content: ContentType,
        bytes: &'a [u8],
        verifier: &V,
    ) -> Result<&'a [u8], TrustError> {
        let payload = signed_payload(content, bytes)?;
        self.verify_detached_threshold(role, content, Sequence::new(bytes), payload, verifier)?;
        Ok(payload)
    }

    /// Whether enough keys of `role` signed `payload`, which travels apart from `signatures`.
    ///
    /// Each item of `signatures` is one message. A message that embeds a payload counts only when
    /// that payload is `payload`.
    ///
    /// # Errors
    /// As [`Root::verify_threshold`].
    pub fn verify_detached_threshold<'s, V: Verifier + ?Sized>(
        &self,
        role: Role,
        content: ContentType,
        signatures: impl IntoIterator<Item = &'s [u8]>,
        payload: &[u8],
        verifier: &V,
    ) -> Result<(), TrustError> {
        let mut signatures = signatures.into_iter();
        self.verify_each(role, content, &mut signatures, payload, verifier)
    }

    /// [`Root::verify_detached_threshold`], once for all that signatures come from.
    fn verify_each<V: Verifier + ?Sized>(
        &self,
        role: Role,
        content: ContentType,
        signatures: &mut dyn Iterator<Item = &[u8]>,
        payload: &[u8],
        verifier: &V,
    ) -> Result<(), TrustError> {
        let RoleKeys { threshold, keys } = self.role(role);
        // One bit a key; MAX_KEYS is 8.
        let mut signed = 0_u8;
        for (index, bytes) in signatures.enumerate() {
            if index >= MAX_SIGNATURES {
                return Err(TrustError::TooManySignatures);
            }
            let message = parse_one(index, content, bytes)?;
            let Some(slot) = keys.iter().position(|key| key.id() == message.key) else {
                continue;
            };
            let detached = match message.payload {
                None => Some(payload),
                Some(own) if own == payload => None,
                Some(_) => continue,
            };
            let bit = 1_u8 << (slot % MAX_KEYS);
            if signed & bit == 0 && message.verify(verifier, &keys[slot], detached) {
                signed |= bit;
            }
        }
        let valid = signed.count_ones() as u8;
        // A threshold of 0 can't come out of `decode`; were it built by hand, it must not open.
        if valid < (*threshold).max(1) {
            return Err(TrustError::Threshold {
                role,
                valid,
                needed: (*threshold).max(1),
            });
        }
        Ok(())
    }

    /// The root after this one, when `bytes` are one of the next version, signed by enough root keys
    /// of both.
    ///
    /// # Errors
    /// Names what is missing; this root stays the one that counts.
    pub fn accept_next<V: Verifier + ?Sized>(
        &self,
        bytes: &[u8],
        verifier: &V,
    ) -> Result<Self, TrustError> {
        let payload = self.verify_threshold(Role::Root, ContentType::Root, bytes, verifier)?;
        let next = Self::decode(payload)?;
        // At the last version nothing can follow, and nothing is accepted.
        let expected = self.version.saturating_add(1);
        if next.version != expected || next.version == self.version {
            return Err(TrustError::Version {
                expected,
                offered: next.version,
            });
        }
        next.verify_threshold(Role::Root, ContentType::Root, bytes, verifier)?;
        Ok(next)
    }

    /// A first root, when it is signed by enough of its own root keys.
    ///
    /// That shows that whoever made it holds the keys it names, not that it is the right one: a
    /// device takes its first root from the hand that flashes it.
    ///
    /// # Errors
    /// Names what is wrong or missing.
    pub fn accept_first<V: Verifier + ?Sized>(
        bytes: &[u8],
        verifier: &V,
    ) -> Result<Self, TrustError> {
        let first = Self::decode(signed_payload(ContentType::Root, bytes)?)?;
        first.verify_threshold(Role::Root, ContentType::Root, bytes, verifier)?;
        Ok(first)
    }
}

/// The payload that the first message of a sequence embeds, once the whole sequence is of the right
/// shape. Nothing is known of the signatures.
///
/// # Errors
/// What is wrong with the shape.
pub fn signed_payload(content: ContentType, bytes: &[u8]) -> Result<&[u8], TrustError> {
    let mut payload = None;
    for (index, bytes) in Sequence::new(bytes).enumerate() {
        if index >= MAX_SIGNATURES {
            return Err(TrustError::TooManySignatures);
        }
        let message = parse_one(index, content, bytes)?;
        // The first message must embed the payload, the others must not.
        if message.payload.is_some() != (index == 0) {
            return Err(TrustError::Cose {
                index: index as u8,
                error: CoseError::new(CoseField::Payload, 0, CoseErrorKind::WrongPlace),
            });
        }
        payload = payload.or(message.payload);
    }
    payload.ok_or(TrustError::Cose {
        index: 0,
        error: CoseError::new(CoseField::Tag, 0, CoseErrorKind::Truncated),
    })
}

/// The one message that `bytes` are.
fn parse_one(
    index: usize,
    content: ContentType,
    bytes: &[u8],
) -> Result<cose::Message<'_>, TrustError> {
    let fail = |error| TrustError::Cose {
        index: index.min(usize::from(u8::MAX)) as u8,
        error,
    };
    let message = cose::parse(bytes).map_err(fail)?;
    if message.content != content {
        return Err(fail(CoseError::new(
            CoseField::ContentType,
            0,
            CoseErrorKind::WrongContent,
        )));
    }
    if message.len != bytes.len() {
        return Err(fail(CoseError::new(
            CoseField::End,
            message.len,
            CoseErrorKind::Trailing,
        )));
    }
    Ok(message)
}

/// Cuts a CBOR sequence into its messages; where one is malformed, the rest is the last item.
struct Sequence<'a> {
    rest: &'a [u8],
}

impl<'a> Sequence<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Sequence<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let len = cose::parse(self.rest).map_or(self.rest.len(), |message| message.len);
        let (item, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(item)
    }
}

#[cfg(test)]
mod tests;
