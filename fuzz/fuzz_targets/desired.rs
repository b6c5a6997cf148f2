//! A desired state or a root from the outside: as it is, and as if its signatures held.
#![no_main]

use edgeward::bundle::BoardClass;
use edgeward::sync::{Board, Desired, Seen, evaluate};
use edgeward::trust::Role;
use edgeward::trust::cose::{ContentType, parse};
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward_fuzz::{Gullible, Mode, planted, root, seal, sealed_again, telemetry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(telemetry::desired), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    let root = root();
    for content in [ContentType::Desired, ContentType::Root] {
        let message = match mode {
            Mode::Raw => bytes.to_vec(),
            Mode::Repaired => sealed_again(content, bytes),
            Mode::Content => seal(content, bytes),
        };
        for role in [Role::Rollout, Role::Root] {
            assert!(
                root.verify_threshold(role, content, &message, &RingVerifier).is_err(),
                "nobody holds this key, so nothing verifies"
            );
        }
        if let Ok(parsed) = parse(&message) {
            assert!(parsed.len <= message.len());
        }
        if content == ContentType::Desired {
            desired(&root, &message);
        } else {
            roots(&root, &message);
        }
    }
    payload(bytes);
});

/// What a board would make of the message, if its signature holds.
fn desired(root: &Root, message: &[u8]) {
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
    if let Ok(verdict) = evaluate(message, root, &Gullible, &board, &seen, Some(1)) {
        assert!(
            verdict.sequence > 5 || verdict.digest == seen.digest,
            "nothing old is accepted"
        );
        planted(verdict.sequence > 70_000);
    }
}

/// A root that is accepted holds: every role can sign, and it is the next version.
fn roots(root: &Root, message: &[u8]) {
    for accepted in [
        Root::accept_first(message, &Gullible),
        root.accept_next(message, &Gullible),
    ] {
        let Ok(accepted) = accepted else { continue };
        for keys in &accepted.roles {
            assert!(keys.threshold > 0 && usize::from(keys.threshold) <= keys.keys.len());
        }
    }
    if let Ok(next) = root.accept_next(message, &Gullible) {
        assert_eq!(next.version, root.version + 1);
    }
}

/// What decodes encodes to what decodes to the same.
fn payload(bytes: &[u8]) {
    if let Ok(root) = Root::decode(bytes) {
        let mut buffer = [0; 4096];
        let again = root
            .encode(&mut buffer)
            .expect("what was read can be written");
        assert_eq!(Root::decode(again).as_ref(), Ok(&root));
    }
    if let Ok(desired) = postcard::from_bytes::<Desired>(bytes) {
        let mut buffer = [0; 4096];
        let again =
            postcard::to_slice(&desired, &mut buffer).expect("what was read can be written");
        assert_eq!(
            postcard::from_bytes::<Desired>(again).as_ref(),
            Ok(&desired)
        );
    }
}
