//! What the fuzz targets share: modes, repairs and seeds.
//!
//! Hashes, checksums and signatures keep a fuzzer out: nearly every change it makes fails there, and
//! the parsers behind are never reached. So the first byte of an input chooses how the rest is taken:
//! as it is, or with whatever stands in the way made right again after the change. Each target writes
//! its own seeds with the project's own writers ([`seeds`]), so that none is kept in the repository and
//! none goes stale when a format changes.
//!
//! With the feature `planted`, each target has one assertion that is wrong for a value deep behind its
//! hash or signature that no seed has; `cargo xtask fuzz --planted` proves that the fuzzer finds it.

pub mod compile;
pub mod flash;
pub mod programs;
pub mod release;
pub mod telemetry;

use edgeward::trust::cose::{ContentType, sign_embedded};
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{PublicKey, Signer, Verifier};
use std::path::Path;

/// How an input is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As it is.
    Raw,
    /// With hashes, checksums and signatures made right.
    Repaired,
    /// As the content of something sound, which is built around it.
    Content,
}

impl Mode {
    /// The mode that an input's first byte says, and the rest.
    pub fn split(input: &[u8]) -> Option<(Self, &[u8])> {
        let (&first, rest) = input.split_first()?;
        let mode = match first % 3 {
            0 => Self::Raw,
            1 => Self::Repaired,
            _ => Self::Content,
        };
        Some((mode, rest))
    }

    /// An input that will be taken so.
    pub fn seed(self, bytes: &[u8]) -> Vec<u8> {
        [&[self as u8], bytes].concat()
    }
}

/// Signs nothing, and believes everything: what stands behind a signature must not lean on it.
pub struct Gullible;

/// The key that [`Gullible`] "signs" with.
pub const KEY: PublicKey = PublicKey([9; 32]);

impl Verifier for Gullible {
    fn verify(&self, _: &PublicKey, _: &[&[u8]], _: &[u8; 64]) -> bool {
        true
    }
}

impl Signer for Gullible {
    fn public_key(&self) -> PublicKey {
        KEY
    }

    fn sign(&self, _: &[&[u8]]) -> [u8; 64] {
        [0; 64]
    }
}

/// A root in which [`KEY`] has every role.
pub fn root() -> Root {
    let keys = RoleKeys::new(1, &[KEY]).unwrap_or_default();
    Root {
        version: 1,
        roles: std::array::from_fn(|_| keys.clone()),
    }
}

/// `payload` as a message that [`Gullible`] signed.
pub fn seal(content: ContentType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; content.embedded_bytes(payload.len())];
    let len = sign_embedded(&Gullible, content, payload, &mut bytes);
    bytes.truncate(len.expect("the buffer is large enough"));
    bytes
}

/// A message whose payload was changed, signed anew; what is no message stays what it is.
pub fn sealed_again(content: ContentType, bytes: &[u8]) -> Vec<u8> {
    match edgeward::trust::cose::parse(bytes) {
        Ok(message) => seal(content, message.payload.unwrap_or_default()),
        Err(_) => bytes.to_vec(),
    }
}

/// Writes the target's seeds into the folder that `EDGEWARD_FUZZ_SEEDS` names, if it names one.
/// libFuzzer calls this before it reads its corpus.
pub fn seeds(made: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("EDGEWARD_FUZZ_SEEDS") else {
        return;
    };
    for (number, seed) in made().iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{number:03}"));
        std::fs::write(&path, seed).expect("the folder for seeds can be written");
    }
}

/// The wrong assertion of [`planted`](self) builds: `wrong` must never be true there, and is for a
/// value deep inside that the fuzzer has to make.
pub fn planted(wrong: bool) {
    if cfg!(feature = "planted") {
        assert!(!wrong, "the planted bug is found");
    }
}
