//! A desired state from the outside, unsigned (refused) and as if its signature held (decoded).
#![no_main]

use edgeward::sync::Desired;
use edgeward::trust::cose::{ContentType, parse};
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{PublicKey, Role};
use libfuzzer_sys::fuzz_target;

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
