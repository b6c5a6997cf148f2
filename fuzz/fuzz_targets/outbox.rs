//! An outbox's flash from the outside: what opens gives its frames in order, takes more, and gives
//! them again after the next start.
#![no_main]

use edgeward_fuzz::flash::{ERASE, Flash, Small, outboxes, region, repair_outbox};
use edgeward_fuzz::{Mode, planted, telemetry};
use libfuzzer_sys::fuzz_target;
use std::num::NonZeroU32;

fuzz_target!(init: edgeward_fuzz::seeds(outboxes), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    let mut flash = Flash::new(4 * ERASE);
    let image = flash.bytes_mut();
    let len = bytes.len().min(image.len());
    image[..len].copy_from_slice(&bytes[..len]);
    if mode != Mode::Raw {
        repair_outbox(image);
    }
    let pushed = {
        let Ok(mut outbox) = Small::open(&mut flash, region(), 2, NonZeroU32::MAX) else {
            return;
        };
        drain(&mut outbox);
        let [_, _, event] = telemetry::bodies();
        outbox.push(1, &event).ok()
    };
    let Some(pushed) = pushed else { return };
    let mut outbox = Small::open(&mut flash, region(), 3, NonZeroU32::MIN).expect("it opened before");
    // A mark in the flash may claim that numbers are acknowledged which were not made yet.
    assert!(
        drain(&mut outbox) >= pushed || outbox.acknowledged() >= pushed,
        "a stored frame is there after the next start"
    );
});

/// Reads all frames; gives back the number of the last.
fn drain<S: embedded_storage::nor_flash::NorFlash>(outbox: &mut Small<S>) -> u64 {
    let mut after = 0;
    // As many as the index holds, and one look that finds nothing.
    for _ in 0..=64 {
        let Ok(Some(record)) = outbox.peek_after(after) else {
            break;
        };
        assert!(record.first_sequence > after && record.sequence >= record.first_sequence);
        planted(record.sequence > 1_000_000);
        after = record.sequence;
    }
    after
}
