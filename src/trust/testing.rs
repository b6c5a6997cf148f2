//! A stand-in for Ed25519, so that the core's own tests need no back end: the "signature" is the
//! SHA-256 of the public key and what was signed, twice. It proves nothing, and tests only.

use super::{PublicKey, Signer, Verifier, sha256};

/// "Signs" for the public key of 32 such bytes.
#[derive(Debug, Clone, Copy)]
pub struct Fake(pub u8);

/// Takes what [`Fake`] signs.
#[derive(Debug, Clone, Copy)]
pub struct FakeVerifier;

fn digest(key: &PublicKey, parts: &[&[u8]]) -> [u8; 64] {
    let half = sha256(&[&key.0, parts.concat().as_slice()].concat());
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&half);
    signature[32..].copy_from_slice(&half);
    signature
}

impl Signer for Fake {
    fn public_key(&self) -> PublicKey {
        PublicKey([self.0; 32])
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; 64] {
        digest(&self.public_key(), parts)
    }
}

impl Verifier for FakeVerifier {
    fn verify(&self, key: &PublicKey, parts: &[&[u8]], signature: &[u8; 64]) -> bool {
        digest(key, parts) == *signature
    }
}
