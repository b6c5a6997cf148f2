//! Trust: keys, roles, thresholds, and the one signature shape that everything uses.

pub mod cose;
#[cfg(any(test, feature = "dalek"))]
pub mod dalek;
#[cfg(any(test, feature = "std"))]
mod display;
#[cfg(feature = "ring")]
pub mod ring;
pub mod root;
pub mod strict;
#[cfg(test)]
pub(crate) mod testing;

use crate::place::{Blank, Decoder, Encoder, Fill, Put};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Digest32 = [u8; 32];

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest32 {
    sha256_of(&[bytes])
}

/// SHA-256 of parts, one after the other.
pub(crate) fn sha256_of(parts: &[&[u8]]) -> Digest32 {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// SHA-256 of what comes piece by piece. Two functions, where each caller would have its own copy of what
/// they do.
#[derive(Clone)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    #[inline(never)]
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    #[inline(never)]
    pub(crate) fn finish(self) -> Digest32 {
        self.0.finalize().into()
    }
}

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

impl Fill for PublicKey {
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        self.0.fill_from(from);
    }
}

impl Put for PublicKey {
    fn put_to(&self, to: &mut Encoder<'_>) {
        self.0.put_to(to);
    }
}

impl Blank for PublicKey {
    fn blank() -> Self {
        Self([0; 32])
    }
}

/// The first eight bytes of the SHA-256 of a public key; names it, proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 8]);

impl PublicKey {
    /// The key's name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let digest = sha256(&self.0);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        KeyId(id)
    }
}

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Role {
    /// The next root.
    Root,
    /// Bundles.
    Release,
    /// Desired state.
    Rollout,
    /// Acknowledgements of telemetry; the one key that must be online all day.
    Collector,
}

impl Role {
    /// How many roles a root names. Device keys are enrolled one by one and are in no root.
    pub const COUNT: usize = 4;
    /// Every role, in the order of [`root::Root::roles`].
    pub const ALL: [Self; Self::COUNT] =
        [Self::Root, Self::Release, Self::Rollout, Self::Collector];
}

/// Checks Ed25519 signatures, strictly (RFC 8032, no small-order keys, canonical encodings).
pub trait Verifier {
    /// Whether `signature` is `key`'s over the concatenation of `parts`.
    fn verify(&self, key: &PublicKey, parts: &[&[u8]], signature: &[u8; 64]) -> bool;
}

/// Holds a private key.
pub trait Signer {
    /// The key that verifies what this signs.
    fn public_key(&self) -> PublicKey;
    /// The Ed25519 signature over the concatenation of `parts`.
    fn sign(&self, parts: &[&[u8]]) -> [u8; 64];
}
