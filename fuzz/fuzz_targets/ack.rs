//! An acknowledgement from the outside: what decodes encodes to the same bytes.
#![no_main]

use edgeward::telemetry::codec::{decode_ack, encode_ack};
use edgeward::trust::Role;
use edgeward::trust::cose::ContentType;
use edgeward_fuzz::{Gullible, Mode, planted, root, seal, sealed_again, telemetry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(telemetry::acks), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    let message = match mode {
        Mode::Raw => bytes.to_vec(),
        Mode::Repaired => sealed_again(ContentType::Ack, bytes),
        Mode::Content => seal(ContentType::Ack, bytes),
    };
    let root = root();
    let verified = root.verify_threshold(Role::Collector, ContentType::Ack, &message, &Gullible);
    let Ok(ack) = verified.map_err(|_| ()).and_then(|payload| decode_ack(payload).map_err(|_| ()))
    else {
        return;
    };
    planted(ack.through > 1_000_000);
    let mut buffer = [0; 128];
    let again = encode_ack(&ack, &mut buffer).expect("what was read can be written");
    assert_eq!(decode_ack(again).as_ref(), Ok(&ack));
});
