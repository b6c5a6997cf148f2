//! A journal from the outside: a record, and a whole flash with anything in its journal sectors.
#![no_main]

use edgeward::slots::journal::{RecordError, decode_record, encode_record};
use edgeward::slots::{Layout, Slots};
use edgeward_fuzz::flash::{ERASE, Flash, journal_record, journals, repair_journal};
use edgeward_fuzz::{Mode, planted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: edgeward_fuzz::seeds(journals), |input: &[u8]| {
    let Some((mode, bytes)) = Mode::split(input) else {
        return;
    };
    let bytes = match mode {
        Mode::Raw => bytes.to_vec(),
        Mode::Repaired => {
            let mut bytes = bytes.to_vec();
            repair_journal(&mut bytes);
            bytes
        }
        Mode::Content => journal_record(1, &bytes[..bytes.len().min(1900)]),
    };
    match decode_record(&bytes) {
        Ok((sequence, state, used)) => {
            assert!(used <= bytes.len());
            let mut again = [0; 2048];
            let len = encode_record(sequence, &state, &mut again).expect("what was read fits");
            assert_eq!(decode_record(&again[..len]), Ok((sequence, state, len)));
        }
        Err(error) if mode == Mode::Content => {
            let payload = matches!(error, RecordError::Payload { .. });
            assert!(payload, "the frame around it is sound: {error:?}");
        }
        Err(_) => {}
    }
    let mut flash = Flash::new(16 * ERASE);
    let image = flash.bytes_mut();
    let len = bytes.len().min(image.len());
    image[..len].copy_from_slice(&bytes[..len]);
    let layout =
        Layout::split(16 * ERASE as u32, ERASE as u32).expect("sixteen sectors are enough");
    if let Ok(mut slots) = Slots::open(flash, layout) {
        let floor = slots.state().floor;
        planted(!matches!(floor, 7 | 14 | 21));
        let _ = slots.begin_boot();
        assert!(slots.state().floor >= floor, "the floor never falls");
        let _ = slots.end_boot();
        assert!(slots.state().floor >= floor, "the floor never falls");
    }
});
