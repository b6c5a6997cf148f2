//! The chip's generator of random numbers, which is waited for with an end.
//!
//! The HAL's driver waits for ever where the generator gives nothing, and panics where one of the generator's own
//! tests threw away what it had collected, which happens now and then on a chip that is well.

use edgeward_mcu::board::Entropy;
use embassy_rp::Peri;
use embassy_rp::pac;
use embassy_rp::peripherals::TRNG;
use embassy_time::{Duration, Instant};

/// Bytes that it gives at once.
const BLOCK: usize = 24;
/// Inverters of its oscillator, and cycles of the clock between two looks at it: 2 ms a block, as the datasheet of
/// the RP2350 advises (12.12.2).
const CHAIN: u8 = 1;
const CYCLES: u32 = 25;
/// How long a block may take: hundreds of times what it does.
const PATIENCE: Duration = Duration::from_secs(1);

/// The generator.
pub struct Random(Peri<'static, TRNG>);

impl Random {
    /// The one generator of the chip.
    pub fn new(trng: Peri<'static, TRNG>) -> Self {
        Self(trng)
    }

    /// A block. What bits were thrown away is collected anew; nothing where there is none in time.
    fn block(&mut self) -> Option<[u8; BLOCK]> {
        let trng = pac::TRNG;
        let since = Instant::now();
        while !trng.trng_valid().read().ehr_valid() {
            let state = trng.rng_isr().read();
            if state.autocorr_err() {
                // It stands still from here to a reset.
                begin();
            } else if state.crngt_err() || state.vn_err() {
                trng.rng_icr().write(|w| {
                    w.set_crngt_err(true);
                    w.set_vn_err(true);
                });
            }
            if since.elapsed() >= PATIENCE {
                return None;
            }
        }
        let words = [
            trng.ehr_data0(),
            trng.ehr_data1(),
            trng.ehr_data2(),
            trng.ehr_data3(),
            trng.ehr_data4(),
            // The last one, read, has the next block begin.
            trng.ehr_data5(),
        ];
        let mut block = [0; BLOCK];
        for (bytes, word) in block.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.read().to_le_bytes());
        }
        trng.rng_icr().write(|w| w.set_ehr_valid(true));
        Some(block)
    }
}

/// Resets the generator and has it collect, with all of its tests.
fn begin() {
    let trng = pac::TRNG;
    trng.trng_sw_reset().write(|w| w.set_trng_sw_reset(true));
    // A reset takes as long as a read.
    trng.trng_sw_reset().read();
    trng.rng_imr().write(|w| {
        // Nobody hears its interrupt.
        w.set_ehr_valid_int_mask(true);
        w.set_autocorr_err_int_mask(true);
        w.set_crngt_err_int_mask(true);
        w.set_vn_err_int_mask(true);
    });
    trng.trng_config().write(|w| w.set_rnd_src_sel(CHAIN));
    trng.sample_cnt1().write_value(CYCLES);
    trng.trng_debug_control().write(|w| {
        w.set_auto_correlate_bypass(false);
        w.set_trng_crngt_bypass(false);
        w.set_vnc_bypass(false);
    });
    trng.rnd_source_enable().write(|w| w.set_rnd_src_en(true));
}

impl Entropy for Random {
    /// Ends the boot with a record where the generator gives nothing: a board without it has no key.
    fn fill(&mut self, bytes: &mut [u8]) {
        begin();
        for part in bytes.chunks_mut(BLOCK) {
            let Some(block) = self.block() else {
                defmt::error!("the generator of random numbers gives nothing");
                panic!();
            };
            part.copy_from_slice(&block[..part.len()]);
        }
        pac::TRNG
            .rnd_source_enable()
            .write(|w| w.set_rnd_src_en(false));
    }
}
