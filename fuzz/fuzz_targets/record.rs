//! A flight record from the outside: its parts, and the records that they carry.
#![no_main]

use edgeward::recorder::{Records, What};
use edgeward::telemetry::pull::verify_part;
use edgeward::trust::PublicKey;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use edgeward_fuzz::{Gullible, KEY, Mode, planted, seal, sealed_again, telemetry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(telemetry::records), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    let content = ContentType::Record;
    let message = match mode {
        // The records as they are: whoever holds the device's key may write any.
        Mode::Raw => return records(bytes),
        Mode::Repaired => sealed_again(content, bytes),
        Mode::Content => seal(content, bytes),
    };
    assert!(
        verify_part(&message, &PublicKey([7; 32]), &RingVerifier).is_err(),
        "nobody holds this key, so nothing verifies"
    );
    let Ok(part) = verify_part(&message, &KEY, &Gullible) else {
        return;
    };
    assert!(part.part < part.parts && part.bytes.len() <= part.total as usize);
    records(part.bytes);
});

fn records(bytes: &[u8]) {
    let (mut number, mut taken) = (0, 0);
    for record in Records::new(bytes) {
        let Ok(record) = record else {
            return;
        };
        assert!(record.number > number, "numbers ascend");
        number = record.number;
        if let What::Inference(inference) = record.what {
            planted(inference.sample > 70_000);
            let (input, output) = (inference.input, inference.output);
            taken += input.bytes().len() + output.bytes().len();
            for tensor in [input, output] {
                let floats = tensor.f32s().map_or(0, Iterator::count);
                let ints = tensor.i8s().map_or(0, Iterator::count);
                assert_eq!(floats + ints, tensor.len());
            }
        }
    }
    assert!(taken <= bytes.len(), "every element is there once");
}
