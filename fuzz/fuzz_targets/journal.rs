//! A journal from the outside: a record, and a whole flash with anything in its journal sectors.
#![no_main]

use edgeward::slots::journal::decode_record;
use edgeward::slots::ram::RamFlash;
use edgeward::slots::{Layout, Slots};
use libfuzzer_sys::fuzz_target;

const ERASE: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((_, _, used)) = decode_record(bytes) {
        assert!(used <= bytes.len());
    }
    let mut flash = RamFlash::<4, ERASE>::new(16 * ERASE);
    let image = flash.bytes_mut();
    let len = bytes.len().min(image.len());
    image[..len].copy_from_slice(&bytes[..len]);
    let layout =
        Layout::split(16 * ERASE as u32, ERASE as u32).expect("sixteen sectors are enough");
    if let Ok(mut slots) = Slots::open(flash, layout) {
        let floor = slots.state().floor;
        let _ = slots.begin_boot();
        assert!(slots.state().floor >= floor, "the floor never falls");
    }
});
