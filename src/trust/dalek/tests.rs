use super::*;
use crate::trust::ring::tests::{EDGE_CASES, bytes};
use crate::trust::ring::{RingSigner, RingVerifier};
use crate::trust::sha256;
use proptest::prelude::*;

#[test]
fn edge_cases_are_decided_as_for_ring() {
    for (number, (message, key, signature, ours, _)) in EDGE_CASES.iter().enumerate() {
        let (message, signature): ([u8; 32], [u8; 64]) = (bytes(message), bytes(signature));
        let key = PublicKey(bytes(key));
        let dalek = DalekVerifier.verify(&key, &[&message], &signature);
        let ring = RingVerifier.verify(&key, &[&message], &signature);
        assert_eq!((dalek, ring), (*ours, *ours), "vector {number}");
    }
}

#[test]
fn a_key_that_is_no_point_verifies_nothing() {
    let signature = RingSigner::from_seed(&[1; 32]).unwrap().sign(&[b"m"]);
    let mut refused = 0;
    for number in 0..64u8 {
        let key = PublicKey(sha256(&[number]));
        assert!(!DalekVerifier.verify(&key, &[b"m"], &signature));
        refused += usize::from(VerifyingKey::from_bytes(&key.0).is_err());
    }
    assert!(refused > 16, "half of all encodings are no points");
}

#[test]
fn a_log_has_no_secret() {
    let seed = [0xA5; 32];
    let signer = DalekSigner::from_seed(&seed);
    let said = format!("{signer:?}");
    assert!(said.contains("public") && !said.contains("165, 165, 165"));
}

proptest! {
    #[test]
    fn both_sign_the_same_and_refuse_the_same(
        seed: [u8; 32],
        message in proptest::collection::vec(any::<u8>(), 0..300),
        cut: prop::sample::Index,
        damage: prop::sample::Index,
        mask in 1u8..,
    ) {
        let (dalek, ring) = (DalekSigner::from_seed(&seed), RingSigner::from_seed(&seed).unwrap());
        let key = dalek.public_key();
        prop_assert_eq!(key, ring.public_key());
        let (first, second) = message.split_at(cut.index(message.len() + 1));
        let signature = dalek.sign(&[first, &[], second]);
        prop_assert_eq!(signature, ring.sign(&[&message]));
        prop_assert!(DalekVerifier.verify(&key, &[first, second], &signature));

        // A bit that differs anywhere in key, message or signature: both say no.
        let mut all = [&key.0[..], &signature, &message].concat();
        let at = damage.index(all.len());
        all[at] ^= mask;
        let bad_key = PublicKey(all[..32].try_into().unwrap());
        let bad_signature: [u8; 64] = all[32..96].try_into().unwrap();
        let dalek = DalekVerifier.verify(&bad_key, &[&all[96..]], &bad_signature);
        let ring = RingVerifier.verify(&bad_key, &[&all[96..]], &bad_signature);
        prop_assert_eq!((dalek, ring), (false, false));
    }
}
