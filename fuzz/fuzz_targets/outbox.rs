//! An outbox's flash from the outside: what opens gives its frames in ascending order and takes more,
//! now and at the next start. That no frame is lost is promised for what the outbox itself wrote, cut
//! or decayed, and tried beside it; records in an impossible order with sound checksums are not that.
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
    // Twice: what the first start wrote into the image is what the second one finds.
    for boot in 2..4 {
        let Ok(mut outbox) = Small::open(&mut flash, region(), boot, NonZeroU32::MIN) else {
            return;
        };
        drain(&mut outbox);
        let [birth, summary, event] = telemetry::bodies();
        for body in [event, summary, birth] {
            let before = outbox.acknowledged();
            if let Ok(pushed) = outbox.push(1, &body) {
                assert!(pushed > 0);
                let _ = outbox.acknowledge(pushed);
                assert!(outbox.acknowledged() >= before, "it never falls");
            }
        }
    }
});

/// Reads all frames.
fn drain<S: embedded_storage::nor_flash::NorFlash>(outbox: &mut Small<S>) {
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
}
