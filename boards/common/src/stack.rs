//! How deep the stack has been: `cortex-m-rt` paints it before the program begins (its feature
//! `paint-stack`), and what is not of that colour any more has been used. One stack serves the main program
//! and all interrupts, inference among them.

use core::ptr::with_exposed_provenance;
use embassy_time::Timer;

/// What the stack is painted with.
const PAINT: u32 = 0xCCCC_CCCC;
/// Seconds between two looks.
const EVERY_S: u64 = 5;

unsafe extern "C" {
    /// Above the stack's first word.
    static _stack_start: u32;
    /// The lowest word that is the stack's.
    static _stack_end: u32;
}

/// Logs how deep the stack has been, as soon as it was deeper than ever: a warning where that is more than the
/// `bytes` that `board.toml` gives it.
pub async fn watch(bytes: u32) -> ! {
    let mut known = 0;
    loop {
        let deep = depth(bytes.saturating_mul(2));
        if deep > known {
            known = deep;
            match deep > bytes {
                true => defmt::warn!("stack: {} of {} bytes", deep, bytes),
                false => defmt::info!("stack: {} of {} bytes", deep, bytes),
            }
        }
        Timer::after_secs(EVERY_S).await;
    }
}

/// The most bytes of the stack that were ever used, of its first `most` or as many as there are; all of them when
/// there is no paint left at their end.
fn depth(most: u32) -> u32 {
    let start = (&raw const _stack_start).expose_provenance();
    let end = (&raw const _stack_end).expose_provenance();
    let lowest = start.saturating_sub(most as usize).max(end);
    let words = (lowest..start).step_by(4);
    let painted = words.take_while(|&address| {
        // SAFETY: an aligned word of the stack, which lies between the linker's two symbols and is memory for as
        // long as the program runs. It is read as it is now, whoever uses it.
        let word = unsafe { with_exposed_provenance::<u32>(address).read_volatile() };
        word == PAINT
    });
    (start - lowest) as u32 - painted.count() as u32 * 4
}
