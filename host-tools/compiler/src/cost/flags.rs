//! What constants for Cortex-M say of a layer's sums.

use edgeward::program::codec::{Field as _, Reader};
use edgeward::program::layout::{self, SLOW_TILE, UNPROVEN};
use edgeward::program::op::Channel;
use edgeward::program::{Layout, Program};

/// Flags of output channel `index` of the constants at `channels`; none in another layout.
pub(super) fn flags(program: &Program<'_>, channels: u32, index: u16) -> i32 {
    let at = channels as usize + usize::from(index) * Channel::BYTES;
    let stored = program.bytes().get(at..);
    let stored = stored.and_then(|bytes| Channel::read(&mut Reader::new(bytes)));
    match program.layout() {
        Layout::CortexM => stored.map_or(0, |stored| layout::flags(stored.shift)),
        _ => 0,
    }
}

/// How many of `outputs` become outputs one by one, of accumulators that were stored.
pub(super) fn long_outputs(program: &Program<'_>, channels: u32, outputs: u16) -> f64 {
    if flags(program, channels, 0) & UNPROVEN != 0 {
        return outputs.into();
    }
    let tiles = (0..outputs).step_by(4);
    let long = tiles.filter(|&first| flags(program, channels, first) & SLOW_TILE != 0);
    long.map(|first| f64::from((outputs - first).min(4))).sum()
}
