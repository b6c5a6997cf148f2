//! Ed25519 by `ring`: hosts and Linux boards.
//!
//! `ring` 0.17 refuses a scalar that is not below the group's order, checks the equation without
//! the cofactor, and compares R byte by byte. It accepts public keys of small order and such that
//! are not canonical (a test pins both), which [`super::strict`] refuses before `ring` is asked.

use super::{PublicKey, Signer, Verifier, strict};
use core::num::NonZeroU32;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// Verifies by `ring`. Copies the parts of a message into one allocation.
#[derive(Debug, Clone, Copy, Default)]
pub struct RingVerifier;

impl Verifier for RingVerifier {
    fn verify(&self, key: &PublicKey, parts: &[&[u8]], signature: &[u8; 64]) -> bool {
        strict::signature_is_strict(&key.0, signature)
            && UnparsedPublicKey::new(&ED25519, &key.0)
                .verify(&parts.concat(), signature)
                .is_ok()
    }
}

/// A private key that `ring` would not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRejected;

impl core::fmt::Display for KeyRejected {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not an Ed25519 private key in PKCS#8 whose public half belongs to it")
    }
}

impl std::error::Error for KeyRejected {}

/// A random number from the system: the epoch of a new outbox. None when it has no randomness to give.
#[must_use]
pub fn random() -> Option<NonZeroU32> {
    let mut bytes = [0; 4];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(NonZeroU32::new(u32::from_le_bytes(bytes)).unwrap_or(NonZeroU32::MIN))
}

/// A private key in memory.
pub struct RingSigner {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl RingSigner {
    /// Makes a new key and returns it as PKCS#8 (DER, version 2, with the public half).
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Vec<u8>, KeyRejected> {
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map(|document| document.as_ref().to_vec())
            .map_err(|_| KeyRejected)
    }

    /// The key in a PKCS#8 document; version 1, as OpenSSL writes it, does too.
    ///
    /// # Errors
    /// When it is no Ed25519 key, or its public half belongs to another private one.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, KeyRejected> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(document)
            .map(Self::new)
            .map_err(|_| KeyRejected)
    }

    /// The key that a seed of 32 secret random bytes stands for (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// Never for 32 bytes, as far as `ring` says.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyRejected> {
        Ed25519KeyPair::from_seed_unchecked(seed)
            .map(Self::new)
            .map_err(|_| KeyRejected)
    }

    fn new(pair: Ed25519KeyPair) -> Self {
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self {
            pair,
            public: PublicKey(public),
        }
    }
}

impl core::fmt::Debug for RingSigner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Only the public half: a log is no place for the other.
        f.debug_struct("RingSigner")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Signer for RingSigner {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; 64] {
        let mut signature = [0; 64];
        // An Ed25519 signature has 64 bytes by definition.
        signature.copy_from_slice(self.pair.sign(&parts.concat()).as_ref());
        signature
    }
}

#[cfg(test)]
pub(super) mod tests;
