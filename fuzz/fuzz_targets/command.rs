//! A command from the outside: what decodes encodes to the same bytes.
#![no_main]

use edgeward::telemetry::pull::{decode_command, encode_command};
use edgeward::trust::Role;
use edgeward::trust::cose::ContentType;
use edgeward_fuzz::{Gullible, Mode, planted, root, seal, sealed_again, telemetry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(telemetry::commands), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    let content = ContentType::Command;
    let message = match mode {
        Mode::Raw => bytes.to_vec(),
        Mode::Repaired => sealed_again(content, bytes),
        Mode::Content => seal(content, bytes),
    };
    let root = root();
    let verified = root.verify_threshold(Role::Collector, content, &message, &Gullible);
    let Ok(Ok(command)) = verified.map(decode_command) else {
        return;
    };
    planted(command.boot > 70_000);
    let mut buffer = [0; 128];
    let again = encode_command(&command, &mut buffer).expect("what was read can be written");
    assert_eq!(decode_command(again).as_ref(), Ok(&command));
});
