use super::*;
use crate::trust::Signer;
use crate::trust::testing::{Fake, FakeVerifier};

fn role(threshold: u8, keys: &[u8]) -> RoleKeys {
    let keys: std::vec::Vec<_> = keys.iter().map(|key| Fake(*key).public_key()).collect();
    RoleKeys::new(threshold, &keys).unwrap()
}

fn root(version: u32, threshold: u8, keys: &[u8]) -> Root {
    Root {
        version,
        roles: [
            role(threshold, keys),
            role(2, &[11, 12, 13]),
            role(1, &[21]),
            role(1, &[31]),
        ],
    }
}

/// The payload embedded by the first signer, detached signatures by the others.
fn signed(content: ContentType, payload: &[u8], keys: &[u8]) -> std::vec::Vec<u8> {
    let mut bytes = std::vec::Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let mut out = vec![0; content.embedded_bytes(payload.len())];
        let len = if index == 0 {
            cose::sign_embedded(&Fake(*key), content, payload, &mut out)
        } else {
            cose::sign_detached(&Fake(*key), content, payload, &mut out)
        };
        bytes.extend_from_slice(&out[..len.unwrap()]);
    }
    bytes
}

fn signed_root(root: &Root, keys: &[u8]) -> std::vec::Vec<u8> {
    let mut out = [0; MAX_ROOT_BYTES];
    signed(ContentType::Root, root.encode(&mut out).unwrap(), keys)
}

#[test]
fn the_largest_root_fits_its_bounds() {
    let keys: std::vec::Vec<u8> = (1..=8).collect();
    let mut largest = root(u32::MAX, 8, &keys);
    for role in &mut largest.roles {
        *role = largest_role(&keys);
    }
    let mut out = [0; MAX_ROOT_BYTES];
    assert_eq!(largest.encode(&mut out).unwrap().len(), MAX_ROOT_BYTES);
    assert_eq!(Root::decode(&out), Ok(largest.clone()));
    let signers: std::vec::Vec<u8> = (1..=16).collect();
    let bytes = signed_root(&largest, &signers);
    assert_eq!(bytes.len(), MAX_SIGNED_ROOT_BYTES);
    assert_eq!(Root::accept_first(&bytes, &FakeVerifier), Ok(largest));
    let mut small = [0; MAX_ROOT_BYTES - 1];
    assert!(root(1, 8, &keys).encode(&mut small[..5]).is_err());
}

fn largest_role(keys: &[u8]) -> RoleKeys {
    role(8, keys)
}

#[test]
fn a_root_that_cannot_be_one_is_refused() {
    assert_eq!(root(1, 1, &[1]).validate(), Ok(()));
    assert_eq!(
        root(0, 1, &[1]).validate(),
        Err(TrustError::Version {
            expected: 1,
            offered: 0
        })
    );
    for (threshold, keys) in [(0, &[1][..]), (2, &[1]), (0, &[]), (1, &[])] {
        assert_eq!(
            root(1, threshold, keys).validate(),
            Err(TrustError::BadThreshold {
                role: Role::Root,
                threshold,
                keys: keys.len() as u8
            })
        );
    }
    assert_eq!(
        root(1, 1, &[1, 2, 1]).validate(),
        Err(TrustError::DuplicateKey {
            role: Role::Root,
            index: 2
        })
    );
    // Fake(0) is a point of order four.
    assert_eq!(
        root(1, 1, &[1, 0]).validate(),
        Err(TrustError::WeakKey {
            role: Role::Root,
            index: 1
        })
    );
}

#[test]
fn a_threshold_counts_each_key_of_the_role_once() {
    let root = root(1, 1, &[1]);
    let verify = |content, bytes: &[u8]| {
        root.verify_threshold(Role::Release, content, bytes, &FakeVerifier)
            .map(<[u8]>::to_vec)
    };
    let desired = |keys: &[u8]| signed(ContentType::Desired, b"payload", keys);
    let short = |valid| {
        Err(TrustError::Threshold {
            role: Role::Release,
            valid,
            needed: 2,
        })
    };
    let content = ContentType::Desired;
    assert_eq!(
        verify(content, &desired(&[11, 12])),
        Ok(b"payload".to_vec())
    );
    assert_eq!(
        verify(content, &desired(&[99, 13, 12])),
        Ok(b"payload".to_vec())
    );
    assert_eq!(verify(content, &desired(&[11])), short(1));
    assert_eq!(verify(content, &desired(&[11, 11, 11])), short(1));
    assert_eq!(verify(content, &desired(&[11, 99])), short(1));
    assert_eq!(verify(content, &desired(&[99, 98])), short(0));
    // A signature that does not hold counts for nothing, and does not spoil the others.
    let mut bytes = desired(&[11, 12, 13]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(verify(content, &bytes), Ok(b"payload".to_vec()));
    let first_end = content.embedded_bytes(7);
    bytes[first_end - 1] ^= 1;
    assert_eq!(verify(content, &bytes), short(1));
    // Another kind of content, though well signed.
    let error = verify(ContentType::Ack, &desired(&[11, 12])).unwrap_err();
    assert!(matches!(error, TrustError::Cose { index: 0, error }
        if error.kind == CoseErrorKind::WrongContent));
}

#[test]
fn a_malformed_sequence_is_refused() {
    let root = root(1, 1, &[1]);
    let content = ContentType::Desired;
    let verify = |bytes: &[u8]| {
        root.verify_threshold(Role::Rollout, content, bytes, &FakeVerifier)
            .map(<[u8]>::len)
    };
    let good = signed(content, b"payload", &[21]);
    assert_eq!(verify(&good), Ok(7));
    let kind = |bytes: &[u8]| match verify(bytes) {
        Err(TrustError::Cose { index, error }) => (index, error.kind),
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(&[]), (0, CoseErrorKind::Truncated));
    for len in 0..good.len() {
        assert_eq!(kind(&good[..len]), (0, CoseErrorKind::Truncated), "{len}");
    }
    assert_eq!(
        kind(&[&good[..], &[0]].concat()),
        (1, CoseErrorKind::Malformed)
    );
    // Two payloads, or none.
    assert_eq!(
        kind(&[&good[..], &good[..]].concat()),
        (1, CoseErrorKind::WrongPlace)
    );
    let detached = signed(content, b"payload", &[22, 21]).split_off(content.embedded_bytes(7));
    assert_eq!(kind(&detached), (0, CoseErrorKind::WrongPlace));
    let many = signed(content, b"payload", &[21; MAX_SIGNATURES + 1]);
    assert_eq!(verify(&many), Err(TrustError::TooManySignatures));
}

#[test]
fn rotation_takes_enough_of_the_old_and_of_the_new_keys() {
    let held = root(4, 2, &[1, 2, 3]);
    let next = root(5, 2, &[3, 4, 5]);
    let accept =
        |next: &Root, keys: &[u8]| held.accept_next(&signed_root(next, keys), &FakeVerifier);
    let short = |valid| {
        Err(TrustError::Threshold {
            role: Role::Root,
            valid,
            needed: 2,
        })
    };
    assert_eq!(accept(&next, &[1, 2, 4, 5]), Ok(next.clone()));
    // A key of both counts for both.
    assert_eq!(accept(&next, &[1, 3, 4]), Ok(next.clone()));
    assert_eq!(accept(&next, &[1, 3]), short(1));
    assert_eq!(accept(&next, &[3, 4, 5]), short(1));
    assert_eq!(accept(&next, &[4, 5]), short(0));
    for version in [3, 4, 6] {
        assert_eq!(
            accept(&root(version, 2, &[1, 2, 3]), &[1, 2]),
            Err(TrustError::Version {
                expected: 5,
                offered: version
            })
        );
    }
    assert!(matches!(
        accept(&root(5, 0, &[1, 2, 3]), &[1, 2]),
        Err(TrustError::BadThreshold { .. })
    ));
    let last = root(u32::MAX, 1, &[1]);
    let again = signed_root(&last, &[1]);
    assert!(last.accept_next(&again, &FakeVerifier).is_err());
}

#[test]
fn a_first_root_is_signed_by_its_own_keys() {
    let first = root(1, 2, &[1, 2]);
    let accept = |keys: &[u8]| Root::accept_first(&signed_root(&first, keys), &FakeVerifier);
    assert_eq!(accept(&[2, 1]), Ok(first.clone()));
    assert!(accept(&[1]).is_err());
    assert!(accept(&[3, 4]).is_err());
}

#[test]
fn a_root_decodes_from_all_of_its_bytes_only() {
    let mut out = [0; MAX_ROOT_BYTES];
    let root = root(300, 1, &[1]);
    let bytes = root.encode(&mut out).unwrap();
    assert_eq!(Root::decode(bytes), Ok(root));
    // The version takes two bytes, each role one for its threshold, one for their number, and its keys.
    let mut fields = vec![(0, RootField::Version)];
    let mut at = 2;
    for (role, keys) in Role::ALL.into_iter().zip([1, 3, 1, 1]) {
        fields.push((at, RootField::Threshold(role)));
        fields.push((at + 1, RootField::Keys(role)));
        at += 2 + 32 * keys;
    }
    assert_eq!(at, bytes.len());
    for len in 0..bytes.len() {
        let cut = fields.iter().rev().find(|(at, _)| *at <= len).unwrap();
        let (offset, field) = (cut.0 as u32, cut.1);
        let error = Err(TrustError::Undecodable { field, offset });
        assert_eq!(Root::decode(&bytes[..len]), error, "{len}");
    }
    let error = Root::decode(&bytes[..40]).unwrap_err();
    let words = "root at byte 37: the keys of the release role can't be decoded";
    assert_eq!(error.to_string(), words);
    let longer = [bytes, &[0]].concat();
    assert_eq!(
        Root::decode(&longer),
        Err(TrustError::Trailing {
            offset: bytes.len() as u32
        })
    );
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: std::vec::Vec<u8>) {
        let _ = Root::decode(&bytes);
        let _ = Root::accept_first(&bytes, &FakeVerifier);
    }

    #[test]
    fn a_damaged_root_never_panics_and_is_never_accepted(
        at in 0..2000_usize,
        flip in 1..=255_u8,
    ) {
        let mut bytes = signed_root(&root(1, 2, &[1, 2]), &[1, 2]);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        proptest::prop_assert!(Root::accept_first(&bytes, &FakeVerifier).is_err());
    }
}
