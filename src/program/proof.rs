//! What the kernels for Cortex-M take for granted: that sums stay within their halves of a word, and
//! that weights and constants lie exactly as [`layout`] says.
//!
//! Flags among a layer's constants say what holds. The compiler sets them by the functions here, and
//! the verifier asks the same functions whether they are true: a program that lies would compute
//! something else by fast kernels than by portable ones.

use super::Layout;
use super::codec::{Field as _, Reader};
use super::layout::{self, SLOW, SLOW_TILE, Slices, UNPROVEN};
use super::op::{Channel, Conv, Dense, Depthwise};

/// Sums of products below it in magnitude can be told from those of the other output in a halfword.
const HALF: i32 = 1 << 23;
/// Accumulators below it in magnitude are requantized without overflow.
const WHOLE: i32 = 1 << 30;
/// Where sums of weights stop to grow: one that gets there is beyond both limits, whatever the bias.
const MOST: i32 = (1 << 24) - 1;

/// How a layer's weights are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Convolutions and fully connected layers: two outputs share a halfword.
    Matrix,
    /// Depthwise convolutions, and convolutions of few weights: each has a halfword.
    Halfwords,
}

/// What the weights of an output amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Sum of the positive weights, up to [`MOST`].
    positive: i32,
    /// Sum of the negative weights, down to `-MOST`.
    negative: i32,
    /// Whether one is -128, which a halfword has no room for beside another.
    wide: bool,
}

impl Reach {
    /// One weight more.
    pub const fn add(&mut self, weight: i8) {
        self.wide |= weight == i8::MIN;
        let sum = weight as i32;
        if sum < 0 {
            let sum = self.negative + sum;
            self.negative = if sum < -MOST { -MOST } else { sum };
        } else {
            let sum = self.positive + sum;
            self.positive = if sum > MOST { MOST } else { sum };
        }
    }

    /// Least and greatest sum of products over all inputs; `None` beyond 31 bits.
    pub fn products(&self) -> Option<[i32; 2]> {
        let exact = self.positive < MOST && self.negative > -MOST;
        exact.then_some(self.ends(0))
    }

    /// Least and greatest accumulator, saturated.
    const fn ends(&self, bias: i32) -> [i32; 2] {
        let (least, greatest) = (i8::MIN as i32, i8::MAX as i32);
        let [first, last] = [
            (self.positive * least).saturating_add(self.negative * greatest),
            (self.positive * greatest).saturating_add(self.negative * least),
        ];
        [first.saturating_add(bias), last.saturating_add(bias)]
    }

    /// Whether kernels compute an output with this bias exactly; if not, its operator is
    /// [`UNPROVEN`].
    pub const fn proven(&self, kind: Weights, bias: i32) -> bool {
        let apart = match kind {
            Weights::Matrix => below(self.ends(0), HALF) && !self.wide,
            Weights::Halfwords => true,
        };
        apart && below(self.ends(bias), WHOLE)
    }

    /// Whether an output takes the long way, so that its four have to be a [`SLOW_TILE`].
    pub const fn slow(&self, channel: &Channel, odd: bool) -> bool {
        channel.shift >= 0 || odd && !below(self.ends(channel.bias), HALF)
    }
}

const fn below([least, greatest]: [i32; 2], limit: i32) -> bool {
    -limit < least && greatest < limit
}

/// The first output channel of a layer for Cortex-M of which its flags claim too much.
type Claim = Result<(), u32>;

/// Checks the flags of a convolution whose weights and channels lie in `program`.
#[inline(never)]
pub(super) fn conv(program: &[u8], op: &Conv) -> Claim {
    let matrix = Matrix {
        weights: program.get(op.weights as usize..).unwrap_or_default(),
        products: layout::conv_products(op) as usize,
        wide: layout::is_wide(op),
    };
    matrix.check(program, op.channels, op.output.channels)
}

/// Checks the flags of a fully connected layer.
pub(super) fn dense(program: &[u8], op: &Dense) -> Claim {
    let inputs = usize::from(op.inputs);
    let matrix = Matrix {
        weights: program.get(op.weights as usize..).unwrap_or_default(),
        products: inputs,
        wide: false,
    };
    matrix.check(program, op.channels, op.outputs)
}

/// Checks the flags of a depthwise convolution, and that its weights lie as they should: kernels read
/// them even where nothing is claimed.
pub(super) fn depthwise(program: &[u8], op: &Depthwise) -> Claim {
    let weights = program.get(op.weights as usize..).unwrap_or_default();
    let outputs = u32::from(op.output.channels);
    check(program, op.channels, outputs, Weights::Halfwords, &|out| {
        depthwise_reach(weights, op, out)
    })
}

/// What the weights of a depthwise output amount to; `None` when they do not lie as they should.
fn depthwise_reach(weights: &[u8], op: &Depthwise, out: usize) -> Option<Reach> {
    let columns = usize::from(op.window.kernel_w).max(1);
    let taps = usize::from(op.window.kernel_h) * columns;
    let sliced = Slices::of(op).is_some();
    let all = layout::depthwise_taps(&op.window) as usize;
    let mut reach = Reach::default();
    for tap in 0..all {
        let place = [tap / columns, tap % columns, out];
        let at = layout::depthwise_weight(Layout::CortexM, op, place);
        let (first, rest) = weights.get(at..)?.split_first_chunk::<2>()?;
        let value = i16::from_le_bytes(*first);
        let weight = value as i8;
        // Of a row of three, the second lies twice; taps that fill up a step are zero.
        let twice = sliced && tap % 3 == 1 && !rest.starts_with(first);
        if i16::from(weight) != value || twice || tap >= taps && value != 0 {
            return None;
        }
        reach.add(weight);
    }
    Some(reach)
}

/// Weights of a convolution or fully connected layer.
struct Matrix<'a> {
    /// From its first weight on.
    weights: &'a [u8],
    /// Products of an output.
    products: usize,
    /// Whether each has a halfword.
    wide: bool,
}

impl Matrix<'_> {
    fn check(&self, program: &[u8], channels: u32, outputs: u16) -> Claim {
        let outputs = u32::from(outputs).next_multiple_of(4);
        let kind = if self.wide {
            Weights::Halfwords
        } else {
            Weights::Matrix
        };
        check(program, channels, outputs, kind, &|output| {
            self.reach(output)
        })
    }

    /// What the weights of an output amount to; `None` when they do not lie as they should, or some are
    /// padding.
    fn reach(&self, output: usize) -> Option<Reach> {
        let mut reach = Reach::default();
        for product in 0..self.products.next_multiple_of(4) {
            let at = if self.wide {
                layout::wide_halfword(self.products, output, product)
            } else {
                layout::matrix_halfword(self.products, output, product)
            };
            let &halfword = self.weights.get(at..)?.first_chunk::<2>()?;
            let weight = layout::unpack(halfword, output % 2 == 1 && !self.wide);
            let stored = i16::from_le_bytes(halfword) == i16::from(weight) || !self.wide;
            if !stored || product >= self.products && weight != 0 {
                return None;
            }
            reach.add(weight);
        }
        Some(reach)
    }
}

/// Checks the flags of a layer of which `reach` says what an output's weights amount to; `None` where
/// they do not lie as they should.
#[inline(never)]
fn check(
    program: &[u8],
    base: u32,
    outputs: u32,
    kind: Weights,
    reach: &dyn Fn(usize) -> Option<Reach>,
) -> Claim {
    let first = flags(program, base, 0);
    let claims = first & UNPROVEN == 0;
    for index in 0..outputs {
        // Also where nothing is claimed: kernels multiply padding with whatever lies behind the input.
        let reach = reach(index as usize).ok_or(index)?;
        if !claims {
            continue;
        }
        let channel = exact(program, base, index).ok_or(index)?;
        let long = first & SLOW != 0 && flags(program, base, index & !3) & SLOW_TILE != 0;
        if !reach.proven(kind, channel.bias) || !long && reach.slow(&channel, index % 2 == 1) {
            return Err(index);
        }
    }
    Ok(())
}

/// Flags of a stored channel.
fn flags(program: &[u8], base: u32, index: u32) -> i32 {
    stored(program, base, index).map_or(UNPROVEN, |stored| layout::flags(stored.shift))
}

/// A channel whose stored form is the one that [`layout::store_channel`] gives it, and whose
/// multiplier is not zero.
fn exact(program: &[u8], base: u32, index: u32) -> Option<Channel> {
    let natural = layout::channel(Layout::CortexM, program, base, index as usize)?;
    let stored = stored(program, base, index)?;
    let flags = layout::flags(stored.shift) & (UNPROVEN | SLOW | SLOW_TILE);
    let same = layout::store_channel(Layout::CortexM, natural, flags) == stored;
    (same && natural.multiplier != 0).then_some(natural)
}

/// A channel as it is stored.
fn stored(program: &[u8], base: u32, index: u32) -> Option<Channel> {
    let at = base as usize + index as usize * Channel::BYTES;
    Channel::read(&mut Reader::new(program.get(at..)?))
}
