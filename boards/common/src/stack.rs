//! How deep the stack has been: `cortex-m-rt` paints it before the program begins (its feature
//! `paint-stack`), and what is not of that colour any more has been used. One stack serves the main program
//! and all interrupts, inference among them.

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

/// Logs how deep the stack has been, as soon as it was deeper than ever: at most `bytes` of it are looked at,
/// which `board.toml` gives it.
pub async fn watch(bytes: u32) -> ! {
    let mut known = 0;
    loop {
        let deep = depth(bytes);
        if deep > known {
            known = deep;
            defmt::info!("stack: {} of {} bytes", deep, bytes);
        }
        Timer::after_secs(EVERY_S).await;
    }
}

/// The most bytes of the stack that were ever used, of its first `bytes`; all of them when there is no paint
/// left at their end.
fn depth(bytes: u32) -> u32 {
    let start = &raw const _stack_start;
    let words = bytes / 4;
    let lowest = start.wrapping_sub(words as usize);
    if lowest < &raw const _stack_end {
        // The linker has seen to it that there are as many.
        return bytes;
    }
    let painted = (0..words).take_while(|&word| {
        // SAFETY: a word of the stack, which is memory for as long as the program runs. It is read as it is
        // now, whoever uses it.
        let word = unsafe { lowest.add(word as usize).read_volatile() };
        word == PAINT
    });
    bytes - painted.count() as u32 * 4
}
