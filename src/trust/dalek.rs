//! Ed25519 by `ed25519-dalek`: microcontrollers, where `ring` does not build.
//!
//! Without an allocator: the parts of a message are hashed one after the other. `dalek` compares R byte
//! by byte and checks the equation without the cofactor, as `ring` does; the cases on which the two differ
//! are refused by [`super::strict`] before either is asked. Tests hold this module against `ring` on the
//! published edge cases and on random and damaged signatures.

use super::{PublicKey, Signer, Verifier, strict};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign_byupdate};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use sha2::{Digest, Sha512};

/// Verifies by `ed25519-dalek`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DalekVerifier;

impl Verifier for DalekVerifier {
    fn verify(&self, key: &PublicKey, parts: &[&[u8]], signature: &[u8; 64]) -> bool {
        if !strict::signature_is_strict(&key.0, signature) {
            return false;
        }
        let Ok(key) = VerifyingKey::from_bytes(&key.0) else {
            return false;
        };
        let Ok(mut stream) = key.verify_stream(&Signature::from_bytes(signature)) else {
            return false;
        };
        for part in parts {
            stream.update(part);
        }
        stream.finalize_and_verify().is_ok()
    }
}

/// A private key in memory.
pub struct DalekSigner {
    key: SigningKey,
}

impl DalekSigner {
    /// The key that a seed of 32 secret random bytes stands for (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            key: SigningKey::from_bytes(seed),
        }
    }
}

impl core::fmt::Debug for DalekSigner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Only the public half: a log is no place for the other.
        f.debug_struct("DalekSigner")
            .field("public", &self.public_key())
            .finish_non_exhaustive()
    }
}

impl Signer for DalekSigner {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; 64] {
        // Kept expanded it would be 96 bytes more of secrets in memory; expanding it is one short hash.
        let expanded = ExpandedSecretKey::from(self.key.as_bytes());
        let message = |hash: &mut Sha512| {
            for part in parts {
                hash.update(part);
            }
            Ok(())
        };
        let public = self.key.verifying_key();
        let signature = raw_sign_byupdate::<Sha512, _>(&expanded, message, &public);
        // Only the closure above could have said no, and it never does.
        signature.map_or([0; 64], |signature| signature.to_bytes())
    }
}

#[cfg(all(test, feature = "ring"))]
mod tests;
