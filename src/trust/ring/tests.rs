use super::*;

pub fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N);
    core::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex digits"))
}

/// What is asked of one verifier: key, message, signature.
fn strict_and_ring(key: &str, message: &str, signature: &str) -> (bool, bool) {
    let key: [u8; 32] = bytes(key);
    let message: [u8; 32] = bytes(message);
    let signature: [u8; 64] = bytes(signature);
    let ours = RingVerifier.verify(&PublicKey(key), &[&message], &signature);
    let ring = UnparsedPublicKey::new(&ED25519, key)
        .verify(&message, &signature)
        .is_ok();
    (ours, ring)
}

/// The twelve vectors of Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs" (2020),
/// table 5, as published at <https://github.com/novifinancial/ed25519-speccheck>: message, key,
/// signature, whether we accept, whether `ring` alone does.
pub const EDGE_CASES: [(&str, &str, &str, bool, bool); 12] = [
    // 0: key and R of small order, S is 0.
    (
        "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a\
         0000000000000000000000000000000000000000000000000000000000000000",
        false,
        true,
    ),
    // 1: key of small order.
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43\
         a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        false,
        true,
    ),
    // 2: R of small order, a key of mixed order.
    (
        "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa\
         8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
        false,
        true,
    ),
    // 3: key and R of mixed order, and the equation holds without the cofactor too.
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f\
         87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
        true,
        true,
    ),
    // 4: the equation holds with the cofactor only.
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed512\
         5ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
        false,
        false,
    ),
    // 5: as 4, when the hash is multiplied by the cofactor before it is reduced.
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7\
         e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
        false,
        false,
    ),
    // 6: S is not below the group's order.
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e\
         547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
        false,
        false,
    ),
    // 7: S is far from below it.
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa1942\
         7e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22",
        false,
        false,
    ),
    // 8: R of small order, not canonical, hashed in its canonical form.
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
         03be9678ac102edcd92b0210bb34d7428d12ffc5df5f37e359941266a4e35f0f",
        false,
        false,
    ),
    // 9: the same, hashed as it is.
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
         ca8c5b64cd208982aa38d4936621a4775aa233aa0505711d8fdcfdaa943d4908",
        false,
        false,
    ),
    // 10: key of small order, not canonical, hashed in its canonical form.
    (
        "e96b7021eb39c1a163b6da4e3093dcd3f21387da4cc4572be588fafae23c155b",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dc\
         a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        false,
        false,
    ),
    // 11: the same, hashed as it is.
    (
        "39a591f5321bbe07fd5a23dc2f39d025d74526615746727ceefd6e82ae65c06f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dc\
         a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        false,
        true,
    ),
];

#[test]
fn edge_cases_are_decided_as_documented() {
    for (number, (message, key, signature, ours, ring)) in EDGE_CASES.iter().enumerate() {
        assert_eq!(
            strict_and_ring(key, message, signature),
            (*ours, *ring),
            "vector {number}: (ours, ring alone)"
        );
    }
}

/// RFC 8032, section 7.1, tests 1 to 3: seed, key, message, signature.
#[test]
fn signs_and_verifies_as_rfc_8032_says() {
    let vectors: [(&str, &str, &[u8], &str); 3] = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            &[],
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            &[0x72],
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            &[0xaf, 0x82],
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];
    for (seed, key, message, signature) in vectors {
        let signer = RingSigner::from_seed(&bytes(seed)).unwrap();
        assert_eq!(signer.public_key(), PublicKey(bytes(key)));
        assert_eq!(signer.sign(&[message]), bytes(signature));
        let key = signer.public_key();
        assert!(RingVerifier.verify(&key, &[message], &bytes(signature)));
        // Parts are one message, wherever they are cut.
        let (first, second) = message.split_at(message.len() / 2);
        assert!(RingVerifier.verify(&key, &[first, &[], second], &bytes(signature)));
        assert!(!RingVerifier.verify(&key, &[message, b"x"], &bytes(signature)));
    }
}

#[test]
fn a_generated_key_survives_pkcs8() {
    let document = RingSigner::generate().unwrap();
    let signer = RingSigner::from_pkcs8(&document).unwrap();
    let again = RingSigner::from_pkcs8(&document).unwrap();
    assert_eq!(signer.public_key(), again.public_key());
    assert_ne!(document, RingSigner::generate().unwrap());
    for len in 0..document.len() {
        assert!(RingSigner::from_pkcs8(&document[..len]).is_err());
    }
    assert!(!format!("{signer:?}").contains("pair"));
}

/// Version 1, without the public half: RFC 8410, section 10.3.
#[test]
fn takes_keys_that_openssl_wrote() {
    let document: [u8; 48] = bytes(
        "302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842",
    );
    let signer = RingSigner::from_pkcs8(&document).unwrap();
    let key = bytes("19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1");
    assert_eq!(signer.public_key(), PublicKey(key));
}
