//! A desired state from the outside, unsigned (refused) and as if its signature held (decoded).
#![no_main]

use edgeward::bundle::BoardClass;
use edgeward::sync::{Board, Desired, Seen, evaluate};
use edgeward::trust::cose::{ContentType, parse, sign_embedded};
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{PublicKey, Role, Signer, Verifier};
use libfuzzer_sys::fuzz_target;

/// Signs nothing, and believes everything: what stands behind a signature must not lean on it.
struct Gullible;

impl Verifier for Gullible {
    fn verify(&self, _: &PublicKey, _: &[&[u8]], _: &[u8; 64]) -> bool {
        true
    }
}

impl Signer for Gullible {
    fn public_key(&self) -> PublicKey {
        PublicKey([9; 32])
    }

    fn sign(&self, _: &[&[u8]]) -> [u8; 64] {
        [0; 64]
    }
}

/// What a board would make of the bytes as a desired state that the rollout key signed.
fn evaluated(root: &Root, payload: &[u8]) {
    let mut signed = vec![0; ContentType::Desired.embedded_bytes(payload.len())];
    let len = sign_embedded(&Gullible, ContentType::Desired, payload, &mut signed);
    let len = len.expect("the buffer is large enough");
    let board = Board {
        fleet: "f",
        device: "d",
        class: BoardClass::Linux,
        tags: &[],
    };
    let seen = Seen {
        sequence: 5,
        digest: [0; 32],
    };
    if let Ok(verdict) = evaluate(&signed[..len], root, &Gullible, &board, &seen, Some(1)) {
        assert!(
            verdict.sequence > 5 || verdict.digest == seen.digest,
            "nothing old is accepted"
        );
    }
}

fuzz_target!(|bytes: &[u8]| {
    let keys = RoleKeys::new(1, &[PublicKey([9; 32])]).unwrap_or_default();
    let root = Root {
        version: 1,
        roles: std::array::from_fn(|_| keys.clone()),
    };
    for (role, content) in [
        (Role::Rollout, ContentType::Desired),
        (Role::Root, ContentType::Root),
        (Role::Collector, ContentType::Ack),
    ] {
        assert!(
            root.verify_threshold(role, content, bytes, &RingVerifier)
                .is_err(),
            "nobody holds this key, so nothing verifies"
        );
    }
    if let Ok(message) = parse(bytes) {
        assert!(message.len <= bytes.len());
    }
    let _ = Root::decode(bytes);
    evaluated(&root, bytes);
    if let Ok(desired) = postcard::from_bytes::<Desired>(bytes) {
        let mut buffer = [0; 4096];
        let again =
            postcard::to_slice(&desired, &mut buffer).expect("what was read can be written");
        assert_eq!(
            postcard::from_bytes::<Desired>(again).as_ref(),
            Ok(&desired)
        );
    }
});
