use super::*;
use crate::trust::testing::{Fake, FakeVerifier};

fn embedded(content: ContentType, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; content.embedded_bytes(payload.len())];
    let len = sign_embedded(&Fake(7), content, payload, &mut out).unwrap();
    assert_eq!(len, out.len());
    out
}

#[test]
fn texts_fit_the_two_byte_head() {
    for content in ContentType::ALL {
        let len = content.text().len();
        assert!(
            (24..=ContentType::Desired.text().len()).contains(&len),
            "{content:?}"
        );
        assert!(PROTECTED_FIXED - 2 + len < 256);
    }
    assert_eq!(MAX_OVERHEAD_BYTES, 120);
    assert_eq!(BUNDLE_SIGNATURE_BYTES, 115);
}

#[test]
fn what_is_written_is_read() {
    for content in ContentType::ALL {
        for len in [0, 1, 23, 24, 255, 256, 65535, 65536] {
            let payload = vec![0x5a; len];
            let bytes = embedded(content, &payload);
            let message = parse(&bytes).unwrap();
            assert_eq!(message.content, content);
            assert_eq!(message.payload, Some(&payload[..]));
            assert_eq!(message.len, bytes.len());
            assert_eq!(
                verify_one(&bytes, content, &Fake(7).public_key(), &FakeVerifier),
                Ok(&payload[..])
            );

            let mut out = [0; MAX_DETACHED_BYTES];
            let len = sign_detached(&Fake(7), content, &payload, &mut out).unwrap();
            assert_eq!(len, content.detached_bytes());
            let message = parse(&out[..len]).unwrap();
            assert_eq!(message.payload, None);
            let key = Fake(7).public_key();
            assert!(message.verify(&FakeVerifier, &key, Some(&payload)));
            assert!(!message.verify(&FakeVerifier, &key, None));
            assert!(!message.verify(&FakeVerifier, &Fake(8).public_key(), Some(&payload)));
            assert!(!message.verify(&FakeVerifier, &key, Some(b"another")));
        }
    }
}

#[test]
fn a_short_buffer_is_an_error_at_every_length() {
    let payload = [1; 30];
    let full = ContentType::Ack.embedded_bytes(payload.len());
    for len in 0..full {
        let mut out = vec![0; len];
        let error = sign_embedded(&Fake(7), ContentType::Ack, &payload, &mut out).unwrap_err();
        assert_eq!(error.kind, CoseErrorKind::NoSpace);
    }
}

#[test]
fn truncation_is_an_error_at_every_length() {
    let bytes = embedded(ContentType::Frame, &[9; 300]);
    for len in 0..bytes.len() {
        let error = parse(&bytes[..len]).unwrap_err();
        assert_eq!(error.kind, CoseErrorKind::Truncated, "{len}");
        assert_eq!(error.offset as usize, len);
    }
}

#[test]
fn errors_name_field_and_offset() {
    let bytes = embedded(ContentType::Desired, &[9; 10]);
    let key = Fake(7).public_key();
    let check = |at: usize, value: u8, field, kind| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        let error = verify_one(&bytes, ContentType::Desired, &key, &FakeVerifier).unwrap_err();
        assert_eq!((error.field, error.kind), (field, kind), "byte {at}");
        error.offset as usize
    };
    use CoseErrorKind as Kind;
    use CoseField as Field;
    assert_eq!(check(0, 0xd1, Field::Tag, Kind::Malformed), 0);
    assert_eq!(check(1, 0x83, Field::Tag, Kind::Malformed), 1);
    assert_eq!(check(2, 0x59, Field::Protected, Kind::Malformed), 5);
    assert_eq!(check(3, 5, Field::Protected, Kind::NotCanonical), 2);
    assert_eq!(check(3, 99, Field::Protected, Kind::Malformed), 2);
    assert_eq!(check(4, 0xa2, Field::Protected, Kind::Malformed), 4);
    assert_eq!(check(9, 5, Field::ContentType, Kind::WrongContent), 9);
    assert_eq!(check(12, b'x', Field::ContentType, Kind::WrongContent), 9);
    let at_key = 10 + ContentType::Desired.text().len();
    assert_eq!(check(at_key, 5, Field::KeyId, Kind::Malformed), at_key);
    assert_eq!(check(at_key + 5, 1, Field::KeyId, Kind::WrongKey), at_key);
    let at = at_key + 10;
    assert_eq!(check(at, 0xa1, Field::Unprotected, Kind::Malformed), at);
    assert_eq!(check(at + 1, 0x60, Field::Payload, Kind::Malformed), at + 1);
    let at = at + 12;
    assert_eq!(check(at, 0x59, Field::Signature, Kind::Malformed), at);
    let at = at + 2;
    assert_eq!(check(at + 9, 0, Field::Signature, Kind::BadSignature), at);
    let mut longer = bytes.clone();
    longer.push(0);
    let error = verify_one(&longer, ContentType::Desired, &key, &FakeVerifier).unwrap_err();
    assert_eq!(
        error,
        CoseError::new(Field::End, bytes.len(), Kind::Trailing)
    );
    // A payload length that needs fewer bytes.
    let mut long = bytes.clone();
    let at_payload = at_key + 11;
    long.splice(at_payload..at_payload + 1, [0x58, 10]);
    let error = parse(&long).unwrap_err();
    assert_eq!(
        error,
        CoseError::new(Field::Payload, at_payload, Kind::NotCanonical)
    );
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }

    /// Whatever parses is exactly what writing it again gives: there is one encoding.
    #[test]
    fn parse_then_print_is_the_same(at in 0..140_usize, value: u8, payload: [u8; 20]) {
        let mut bytes = embedded(ContentType::Ack, &payload);
        proptest::prop_assert!(parse(&bytes).is_ok(), "whole before it is damaged");
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        if let Ok(message) = parse(&bytes) {
            let mut printed = vec![0; bytes.len()];
            let mut length = [0; 5];
            let payload = message.payload.unwrap_or_default();
            let length: &[u8] = match message.payload {
                Some(payload) => write_length(payload.len(), &mut length).unwrap(),
                None => &[NIL],
            };
            let (content, key) = (message.content, message.key);
            let protected = write_head(content, key, length, &mut printed).unwrap();
            proptest::prop_assert_eq!(protected, message.protected);
            let at = PREFIX.len() + protected.len() + UNPROTECTED.len() + length.len();
            let parts = [payload, &SIGNATURE_START, message.signature];
            let end = at + put(&parts, &mut printed[at..]).unwrap();
            proptest::prop_assert_eq!(&printed[..end], &bytes[..message.len]);
        }
    }
}
