//! Every changed byte of a signed thing is detected, and so is every missing one.

use edgeward::bundle::write::sign;
use edgeward::bundle::{BoardClass, Bundle, BundleWriter, Description, Head, SectionKind};
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::root::{RoleKeys, Root};
use edgeward::trust::{Role, Signer};

fn signer(number: u8) -> RingSigner {
    RingSigner::from_seed(&[number; 32]).expect("any seed is a key")
}

fn root(release: &[&RingSigner], threshold: u8) -> Root {
    let one = |signer: &RingSigner| RoleKeys::new(1, &[signer.public_key()]).expect("one fits");
    let keys: Vec<_> = release.iter().map(|signer| signer.public_key()).collect();
    let mut roles = [(); Role::COUNT].map(|()| one(&signer(99)));
    roles[Role::Release as usize] = RoleKeys::new(threshold, &keys).expect("they fit");
    Root { version: 1, roles }
}

/// A bundle of three sections whose data is a little more than one chunk, with gaps to pad.
fn small_bundle() -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "motion".into(),
        version: "1.2.3".into(),
        counter: 7,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .expect("the description is plain");
    writer
        .section(SectionKind::TractModel, vec![0xa5; 4000])
        .expect("first of its kind")
        .section(SectionKind::Policy, vec![1, 2, 3])
        .expect("first of its kind")
        .section(SectionKind::Golden, vec![9; 121])
        .expect("first of its kind");
    writer.finish().expect("it fits")
}

fn accepted(bytes: &[u8], root: &Root) -> Result<(), String> {
    let bundle = Bundle::open(bytes).map_err(|error| error.to_string())?;
    bundle
        .verify(root, &RingVerifier)
        .map_err(|error| error.to_string())?;
    bundle.verify_data().map_err(|error| error.to_string())
}

#[test]
fn every_changed_byte_of_a_bundle_is_detected() {
    let key = signer(1);
    let root = root(&[&key], 1);
    let mut bytes = small_bundle();
    sign(&mut bytes, &key).expect("there is room");
    accepted(&bytes, &root).expect("untouched, it is sound");
    let mut tried = 0;
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            bytes[at] ^= flip;
            assert!(accepted(&bytes, &root).is_err(), "byte {at} ^ {flip:#04x}");
            bytes[at] ^= flip;
            tried += 1;
        }
    }
    assert_eq!(tried, 3 * bytes.len());
    accepted(&bytes, &root).expect("restored, it is sound again");
}

#[test]
fn every_truncation_of_a_bundle_is_detected() {
    let key = signer(1);
    let mut bytes = small_bundle();
    sign(&mut bytes, &key).expect("there is room");
    let head_bytes = Head::parse(&bytes).expect("it is sound").head_bytes() as usize;
    for len in 0..bytes.len() {
        let error = Bundle::open(&bytes[..len]).expect_err("it is too short");
        assert!(error.to_string().ends_with("the bytes end here"), "{error}");
        assert_eq!(Head::parse(&bytes[..len]).is_ok(), len >= head_bytes);
    }
    bytes.push(0);
    let error = Bundle::open(&bytes).expect_err("it is too long");
    assert!(error.to_string().starts_with("file at byte"), "{error}");
}

#[test]
fn every_changed_bit_and_truncation_of_a_frame_is_detected() {
    let key = signer(3);
    let payload: Vec<u8> = (0..200).collect();
    let mut bytes = vec![0; ContentType::Frame.embedded_bytes(payload.len())];
    cose::sign_embedded(&key, ContentType::Frame, &payload, &mut bytes).expect("it fits");
    let verify = |bytes: &[u8]| {
        cose::verify_one(bytes, ContentType::Frame, &key.public_key(), &RingVerifier)
            .map(<[u8]>::to_vec)
    };
    assert_eq!(verify(&bytes), Ok(payload));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(verify(&bytes).is_err(), "byte {at}, bit {bit}");
            bytes[at] ^= 1 << bit;
        }
        assert!(verify(&bytes[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn thresholds_count_distinct_valid_keys() {
    let keys = [signer(1), signer(2), signer(3)];
    let two_of_three = root(&[&keys[0], &keys[1], &keys[2]], 2);
    let mut bytes = small_bundle();
    let says = |bytes: &[u8], expected: &str| {
        let error = accepted(bytes, &two_of_three).expect_err("too few signed");
        assert_eq!(error, expected);
    };
    says(&bytes, "0 valid signature(s) of the release role, 2 needed");
    for _ in 0..2 {
        sign(&mut bytes, &keys[0]).expect("there is room");
        says(&bytes, "1 valid signature(s) of the release role, 2 needed");
    }
    sign(&mut bytes, &signer(50)).expect("there is room");
    says(&bytes, "1 valid signature(s) of the release role, 2 needed");
    sign(&mut bytes, &keys[2]).expect("there is room");
    accepted(&bytes, &two_of_three).expect("two of three signed");
}
