//! Random values, and constants of programs of one operator.

use edgeward::program::Layout;
use edgeward::program::codec::{Field as _, Writer};
use edgeward::program::layout::{self, SLOW, SLOW_TILE, UNPROVEN};
use edgeward::program::op::{Channel, Conv, Depthwise};

/// xorshift32.
pub struct Random(pub u32);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// `low` to `high`, both included.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        low + (self.next() % (high - low + 1) as u32) as i32
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.next() % 100 < percent
    }

    /// An element, often an extreme one.
    pub fn element(&mut self) -> i8 {
        match self.next() % 8 {
            0 => i8::MIN,
            1 => i8::MAX,
            _ => self.next() as i8,
        }
    }

    /// A weight of a compiled model, often an extreme one; -128 only where nothing is proven.
    pub fn weight(&mut self, unproven: bool) -> i8 {
        self.element().max(if unproven { -128 } else { -127 })
    }
}

/// Where constants begin: behind the head and one operator.
pub const CONSTANTS: usize = 512;

/// A program under construction.
pub struct Builder<'a> {
    pub bytes: &'a mut [u8],
    pub end: usize,
    /// Whether nothing is proven of the operator's sums.
    pub unproven: bool,
}

impl Builder<'_> {
    /// Room for `bytes` constants at a multiple of sixteen.
    pub fn room(&mut self, bytes: usize) -> usize {
        let at = self.end;
        self.end = (at + bytes).next_multiple_of(16);
        self.bytes[at..self.end].fill(0);
        at
    }

    pub fn channels(
        &mut self,
        random: &mut Random,
        count: u16,
        products: usize,
        left: bool,
    ) -> u32 {
        let all = layout::channel_count(Layout::CortexM, count) as usize;
        let at = self.room(all * Channel::BYTES);
        // Sums of about 127 * 73 * sqrt(products), brought to a few hundred.
        let down = 6 + products.ilog2() as i32 / 2;
        let mut slow = false;
        for index in 0..all {
            // Of a layer that has it, some tiles take the long way.
            if index % 4 == 0 {
                slow = left && random.chance(60);
            }
            let mut flags = if index == 0 && left { SLOW } else { 0 };
            if index == 0 && self.unproven {
                flags |= UNPROVEN;
            }
            if slow && index % 4 == 0 {
                flags |= SLOW_TILE;
            }
            let shift = match slow && random.chance(40) {
                true => random.between(0, 3),
                false => -random.between(down - 4, down + 4).clamp(1, 30),
            };
            let greatest = if slow && random.chance(30) {
                1 << 29
            } else {
                20_000
            };
            let mut channel = Channel {
                bias: random.between(-greatest, greatest),
                multiplier: (1 << 30) + (random.next() >> 2) as i32,
                shift,
            };
            if self.unproven && random.chance(30) {
                channel.bias = random.next() as i32;
                channel.shift = random.between(-31, 30);
                channel.multiplier *= i32::from(random.chance(80));
            }
            let stored = layout::store_channel(Layout::CortexM, channel, flags);
            let mut writer = Writer::new(&mut self.bytes[at + index * Channel::BYTES..]);
            let _ = stored.write(&mut writer);
        }
        at as u32
    }

    pub fn matrix(&mut self, random: &mut Random, outputs: usize, products: usize) -> u32 {
        let unproven = self.unproven;
        let at = self.room(layout::matrix_bytes(outputs as u64, products as u64) as usize);
        for output in (0..outputs).step_by(2) {
            for product in 0..products {
                let odd = if output + 1 < outputs {
                    random.weight(unproven)
                } else {
                    0
                };
                let halfword = layout::pack(random.weight(unproven), odd);
                let to = at + layout::matrix_halfword(products, output, product);
                self.bytes[to..to + 2].copy_from_slice(&halfword);
            }
        }
        at as u32
    }

    pub fn conv(&mut self, random: &mut Random, op: &Conv) -> u32 {
        let unproven = self.unproven;
        let bytes = layout::conv_weight_bytes(Layout::CortexM, op) as usize;
        let at = self.room(bytes);
        let weights = &mut self.bytes[at..at + bytes];
        let (rows, columns) = (
            usize::from(op.window.kernel_h),
            usize::from(op.window.kernel_w),
        );
        for output in 0..usize::from(op.output.channels) {
            for tap in 0..rows * columns {
                for input in 0..usize::from(op.input.channels) {
                    let place = [output, tap / columns, tap % columns, input];
                    let index = layout::conv_weight(Layout::CortexM, op, place);
                    weights[index] = random.weight(unproven) as u8;
                }
            }
        }
        layout::finish_conv(Layout::CortexM, op, weights);
        at as u32
    }

    pub fn depthwise(&mut self, random: &mut Random, op: &Depthwise) -> u32 {
        let unproven = self.unproven;
        let bytes = layout::depthwise_weight_bytes(Layout::CortexM, op) as usize;
        let at = self.room(bytes);
        let weights = &mut self.bytes[at..at + bytes];
        for output in 0..usize::from(op.output.channels) {
            for row in 0..usize::from(op.window.kernel_h) {
                for column in 0..usize::from(op.window.kernel_w) {
                    let place = [row, column, output];
                    let index = layout::depthwise_weight(Layout::CortexM, op, place);
                    weights[index] = random.weight(unproven) as u8;
                }
            }
        }
        layout::finish_depthwise(Layout::CortexM, op, weights);
        at as u32
    }
}
