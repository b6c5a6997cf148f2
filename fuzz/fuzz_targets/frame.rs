//! A telemetry frame from the outside: what decodes encodes to the same bytes.
#![no_main]

use edgeward::telemetry::Frame;
use edgeward::telemetry::codec::{claimed_device, decode_frame, encode_frame, verify_frame};
use edgeward::trust::PublicKey;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use edgeward_fuzz::{Gullible, KEY, Mode, planted, seal, sealed_again, telemetry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(telemetry::frames), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    let message = match mode {
        Mode::Raw => bytes.to_vec(),
        Mode::Repaired => sealed_again(ContentType::Frame, bytes),
        Mode::Content => seal(ContentType::Frame, bytes),
    };
    assert!(
        verify_frame::<_, 8, 4>(&message, &PublicKey([7; 32]), &RingVerifier).is_err(),
        "nobody holds this key, so nothing verifies"
    );
    let claimed = claimed_device(&message);
    let Ok(frame) = verify_frame::<_, 8, 4>(&message, &KEY, &Gullible) else {
        return;
    };
    assert_eq!(claimed.as_ref(), Some(&frame.device));
    planted(frame.boot > 70_000);
    let mut buffer = [0; 32 * 1024];
    let again = encode_frame(&frame, &mut buffer).expect("what was read can be written");
    let read: Frame<8, 4> = decode_frame(again).expect("what was written can be read");
    // NaN differs from itself, so the bytes are compared.
    let mut other = [0; 32 * 1024];
    let second = encode_frame(&read, &mut other).expect("written twice");
    assert_eq!(*again, *second);
});
