//! The key schedule (RFC 8446, 7.1) and the protection of records (5.2, 5.3), for one suite.

use crate::TlsError;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Bytes of a hash and of a secret.
pub(crate) const HASH: usize = 32;
/// Bytes of a record's tag.
pub(crate) const TAG: usize = 16;
/// A hash or a secret.
pub(crate) type Secret = [u8; HASH];

/// HMAC-SHA-256 with a key of at most one block.
pub(crate) fn mac(key: &Secret, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    for (byte, of_key) in block.iter_mut().zip(key) {
        *byte = *of_key;
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    mac
}

fn extract(salt: &Secret, input: &[u8]) -> Secret {
    mac(salt, &[input]).finalize().into_bytes().into()
}

/// HKDF-Expand-Label for at most one block of output.
pub(crate) fn expand<const N: usize>(secret: &Secret, label: &str, context: &[u8]) -> [u8; N] {
    const { assert!(N <= HASH) };
    let len = (N as u16).to_be_bytes();
    let labels = [6 + label.len() as u8];
    let contexts = [context.len() as u8];
    let parts: [&[u8]; 7] = [
        &len,
        &labels,
        b"tls13 ",
        label.as_bytes(),
        &contexts,
        context,
        &[1],
    ];
    let block: Secret = mac(secret, &parts).finalize().into_bytes().into();
    let mut out = [0; N];
    for (byte, of_block) in out.iter_mut().zip(block) {
        *byte = of_block;
    }
    out
}

/// The secret behind another one: its "derived" with the hash of nothing.
fn derived(secret: &Secret) -> Secret {
    expand(secret, "derived", &Secret::from(Sha256::digest([])))
}

/// The handshake's secret, of the shared one.
pub(crate) fn handshake_secret(shared: &[u8]) -> Secret {
    let early = extract(&[0; HASH], &[0; HASH]);
    extract(&derived(&early), shared)
}

/// The master secret behind it.
pub(crate) fn master_secret(handshake: &Secret) -> Secret {
    extract(&derived(handshake), &[0; HASH])
}

/// What Finished says of a transcript.
pub(crate) fn finished(traffic: &Secret, transcript: &Secret) -> Hmac<Sha256> {
    mac(&expand(traffic, "finished", &[]), &[transcript])
}

/// The keys of one direction.
pub(crate) struct Traffic {
    secret: Secret,
    cipher: Aes128Gcm,
    iv: [u8; 12],
    sequence: u64,
}

impl Traffic {
    pub fn new(secret: Secret) -> Self {
        let key: [u8; 16] = expand(&secret, "key", &[]);
        Self {
            cipher: Aes128Gcm::new(&key.into()),
            iv: expand(&secret, "iv", &[]),
            secret,
            sequence: 0,
        }
    }

    /// Records since the keys are new.
    pub fn records(&self) -> u64 {
        self.sequence
    }

    /// The next keys (RFC 8446, 7.2).
    pub fn update(&mut self) {
        *self = Self::new(expand(&self.secret, "traffic upd", &[]));
    }

    /// The nonce of the next record. None is used twice: 2^64 records take longer than any board lives.
    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        for (byte, of_sequence) in nonce.iter_mut().skip(4).zip(sequence) {
            *byte ^= of_sequence;
        }
        self.sequence += 1;
        nonce
    }

    /// Encrypts a record in place and gives its tag.
    pub fn seal(&mut self, header: &[u8], body: &mut [u8]) -> Result<[u8; TAG], TlsError> {
        let nonce = Nonce::from(self.nonce());
        let sealed = self
            .cipher
            .encrypt_inout_detached(&nonce, header, body.into());
        // Bodies are shorter than any that it refuses.
        sealed.map(Into::into).map_err(|_| TlsError::TooLarge)
    }

    /// Decrypts a record in place, should it be what the peer sent as the next one.
    pub fn open(
        &mut self,
        header: &[u8],
        body: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), TlsError> {
        let nonce = Nonce::from(self.nonce());
        let opened =
            self.cipher
                .decrypt_inout_detached(&nonce, header, body.into(), &Tag::from(*tag));
        opened.map_err(|_| TlsError::Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_schedule_begins_as_in_rfc_8448() {
        let early = extract(&[0; HASH], &[0; HASH]);
        assert_eq!(
            hex(&early),
            "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"
        );
        assert_eq!(
            hex(&derived(&early)),
            "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba"
        );
    }

    #[test]
    fn a_record_is_opened_once_and_as_it_was_sealed() {
        let keys = || Traffic::new([7; HASH]);
        let header = [23, 3, 3, 0, 20];
        let mut body = *b"four";
        let tag = keys().seal(&header, &mut body).unwrap();
        let mut reader = keys();
        let mut opened = body;
        reader.open(&header, &mut opened, &tag).unwrap();
        assert_eq!(&opened, b"four");
        let mut again = body;
        assert_eq!(
            reader.open(&header, &mut again, &tag),
            Err(TlsError::Forged)
        );
        let mut other = body;
        let changed = keys().open(&[23, 3, 3, 0, 21], &mut other, &tag);
        assert_eq!(changed, Err(TlsError::Forged));
        let mut updated = keys();
        updated.update();
        assert_eq!(
            updated.open(&header, &mut body, &tag),
            Err(TlsError::Forged)
        );
    }
}
