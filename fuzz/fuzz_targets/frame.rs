//! A telemetry frame from the outside: what decodes encodes to the same bytes.
#![no_main]

use edgeward::telemetry::Frame;
use edgeward::telemetry::codec::{claimed_device, decode_ack, decode_frame, verify_frame};
use edgeward::trust::PublicKey;
use edgeward::trust::ring::RingVerifier;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let key = PublicKey([7; 32]);
    assert!(
        verify_frame::<_, 8, 4>(bytes, &key, &RingVerifier).is_err(),
        "nobody holds this key, so nothing verifies"
    );
    let _ = claimed_device(bytes);
    let _ = decode_ack(bytes);
    if let Ok(frame) = decode_frame::<8, 4>(bytes) {
        let mut buffer = [0; 32 * 1024];
        let again = postcard::to_slice(&frame, &mut buffer).expect("what was read can be written");
        let read: Frame<8, 4> = decode_frame(again).expect("what was written can be read");
        // NaN differs from itself, so the bytes are compared.
        let mut other = [0; 32 * 1024];
        let second = postcard::to_slice(&read, &mut other).expect("written twice");
        assert_eq!(*again, *second);
    }
});
