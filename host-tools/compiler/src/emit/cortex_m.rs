//! Weights and constants for the DSP extension of Cortex-M4 and M7.

use edgeward::program::Layout;
use edgeward::program::arith::requantize;
use edgeward::program::layout::{SLOW, SLOW_TILE, UNPROVEN, channel_count, store_channel};
use edgeward::program::op::{Channel, Quantizer};
use edgeward::program::proof::Weights;

use super::layout::{Output, WeightLayout, channel_bytes};

/// Two outputs a halfword, four a tile; see [`edgeward::program::layout`].
#[derive(Debug, Clone, Copy)]
pub struct CortexM;

/// Accumulators below it in magnitude can be told from those of the neighbouring output.
const BOUND: i64 = 1 << 23;

impl WeightLayout for CortexM {
    fn layout(&self) -> Layout {
        Layout::CortexM
    }

    fn channels(&self, kind: Weights, outputs: &[Output], quantizer: &Quantizer) -> Vec<u8> {
        let layout = self.layout();
        let count = channel_count(layout, outputs.len().try_into().unwrap_or(u16::MAX)) as usize;
        let padding = Output::new(
            Channel {
                bias: 0,
                multiplier: 1 << 30,
                shift: -1,
            },
            core::iter::empty(),
        );
        let padded: Vec<_> = (0..count)
            .map(|index| bounded(*outputs.get(index).unwrap_or(&padding), quantizer))
            .collect();
        let proven = |output: &Output| output.reach.proven(kind, output.channel.bias);
        let proven = padded.iter().all(proven);
        let slow: Vec<_> = padded
            .chunks_exact(4)
            .map(|tile| tile.iter().enumerate().any(|(place, it)| slow(place, it)))
            .collect();
        let flags = |index: usize| {
            let first = index == 0;
            let unproven = if first && !proven { UNPROVEN } else { 0 };
            let any = if first && slow.contains(&true) {
                SLOW
            } else {
                0
            };
            let tile = index.is_multiple_of(4) && slow[index / 4];
            unproven | any | if tile { SLOW_TILE } else { 0 }
        };
        let stored: Vec<_> = padded
            .iter()
            .enumerate()
            .map(|(index, output)| store_channel(layout, output.channel, flags(index)))
            .collect();
        channel_bytes(&stored)
    }
}

/// Whether a tile takes the long way because of the output at `place` in it.
fn slow(place: usize, output: &Output) -> bool {
    output.reach.slow(&output.channel, place % 2 == 1)
}

fn is_bounded([least, greatest]: [i64; 2]) -> bool {
    -BOUND < least && greatest < BOUND
}

/// An output whose accumulator is too large and whose value is always the same, as of channels that
/// training left dead, with another bias and scale: its accumulator fits, and its value stays.
fn bounded(output: Output, quantizer: &Quantizer) -> Output {
    let channel = scaled(output.channel);
    let output = Output { channel, ..output };
    let Some(accumulator) = output.accumulator() else {
        return output;
    };
    if is_bounded(accumulator) || channel.shift >= 0 {
        return output;
    }
    let zero_point = i64::from(quantizer.zero_point);
    let value = |channel: &Channel, accumulator: i64| {
        let accumulator = i32::try_from(accumulator).ok()?;
        let scaled = requantize(accumulator, channel.multiplier, channel.shift);
        let value = i64::from(scaled) + zero_point;
        Some(value.clamp(quantizer.min.into(), quantizer.max.into()))
    };
    // Values grow with accumulators where nothing wraps, so that the ends tell of all.
    let [least, greatest] = accumulator;
    let Some(always) = value(&channel, least).filter(|_| {
        let ends = [least, greatest].map(|end| value(&channel, end));
        ends[0] == ends[1]
    }) else {
        return output;
    };
    // Half of 2^(shift + 1) to either side of its middle rounds to the same value.
    for shift in (1..=30).rev() {
        let middle = (always - zero_point) << (shift + 1);
        let change = middle - (least + (greatest - least) / 2);
        let Ok(bias) = i32::try_from(i64::from(channel.bias) + change) else {
            continue;
        };
        let moved = [least + change, greatest + change];
        let channel = Channel {
            bias,
            multiplier: 1 << 30,
            shift: -shift,
        };
        let same = moved
            .iter()
            .all(|&end| value(&channel, end) == Some(always));
        if is_bounded(moved) && same {
            return Output { channel, ..output };
        }
    }
    output
}

/// A channel whose multiplier is not zero: half of an accumulator over 2^31 rounds to zero as well.
fn scaled(channel: Channel) -> Channel {
    match channel.multiplier {
        0 => Channel {
            multiplier: 1 << 30,
            shift: -31,
            ..channel
        },
        _ => channel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::program::arith::requantize;
    use edgeward::program::layout;

    fn output(channel: Channel, weights: &[i8]) -> Output {
        Output::new(channel, weights.iter().copied())
    }

    fn flags(outputs: &[Output]) -> i32 {
        let bytes = CortexM.channels(Weights::Matrix, outputs, &QUANTIZER);
        let shift = bytes[8..12].try_into().map(i32::from_le_bytes).unwrap();
        (shift ^ (shift >> 31)) & (UNPROVEN | SLOW | SLOW_TILE)
    }

    const CHANNEL: Channel = Channel {
        bias: 0,
        multiplier: 1 << 30,
        shift: -4,
    };

    const QUANTIZER: Quantizer = Quantizer {
        zero_point: -128,
        min: -128,
        max: 127,
    };

    #[test]
    fn dead_outputs_get_constants_that_fit() {
        for bias in [-100_000_000, 100_000_000, 1_073_741_952] {
            let dead = Channel {
                bias,
                multiplier: 1_447_017_753,
                shift: -26,
            };
            let before = output(dead, &[12; 64]);
            let after = bounded(before, &QUANTIZER);
            let ends = |output: &Output| output.accumulator().expect("31 bits");
            assert!(is_bounded(ends(&after)), "{after:?}");
            for (old, new) in ends(&before).into_iter().zip(ends(&after)) {
                let value = |channel: Channel, accumulator: i64| {
                    let scaled = requantize(accumulator as i32, channel.multiplier, channel.shift);
                    (scaled - 128).clamp(-128, 127)
                };
                assert_eq!(value(dead, old), value(after.channel, new));
            }
        }
        // Its value depends on the input.
        let alive = Channel {
            bias: 8_000_000,
            shift: -20,
            ..CHANNEL
        };
        let alive = output(alive, &[127; 400]);
        assert_eq!(bounded(alive, &QUANTIZER), alive);
    }

    #[test]
    fn sums_are_proven_up_to_24_bits() {
        // 516 * 127 * 128 is the last multiple below 2^23.
        let long = [127_i8; 517];
        let wide = Channel {
            shift: -12,
            ..CHANNEL
        };
        assert_eq!(flags(&[output(wide, &long[..516])]), 0);
        assert_eq!(flags(&[output(wide, &long)]), UNPROVEN);
        assert_eq!(flags(&[output(wide, &[-128])]), UNPROVEN);
    }

    #[test]
    fn what_does_not_fit_its_half_takes_the_long_way() {
        let plain = output(CHANNEL, &[3]);
        let wide = Channel {
            bias: 1 << 24,
            shift: -20,
            ..CHANNEL
        };
        let wide = output(wide, &[127; 500]);
        assert_eq!(flags(&[wide]), 0);
        assert_eq!(flags(&[plain, wide]), SLOW | SLOW_TILE);
        assert_eq!(flags(&[plain, plain, plain, plain, plain, wide]), SLOW);
    }

    #[test]
    fn shifts_to_the_left_are_told() {
        for (shift, left) in [(-31, false), (-1, false), (0, true), (30, true)] {
            let channel = Channel { shift, ..CHANNEL };
            assert_eq!(flags(&[output(channel, &[])]) & SLOW != 0, left, "{shift}");
            let outputs = [output(channel, &[])];
            let bytes = CortexM.channels(Weights::Matrix, &outputs, &QUANTIZER);
            assert_eq!(bytes.len(), 4 * 12);
            assert_eq!(
                layout::channel(Layout::CortexM, &bytes, 0, 0),
                Some(channel)
            );
        }
    }

    #[test]
    fn a_multiplier_of_zero_keeps_its_outputs() {
        let dead = Channel {
            multiplier: 0,
            shift: 0,
            bias: 7,
        };
        let stored = scaled(dead);
        for accumulator in [-1 << 30, -5, 0, 5, 1 << 30] {
            let kept = requantize(accumulator, stored.multiplier, stored.shift);
            assert_eq!(kept, requantize(accumulator, 0, 0));
        }
    }
}
