//! From accumulators to outputs: the parts of kernels in assembly that all of them share.
//!
//! `SMMLAR` with twice the multiplier less 2^32 and the accumulator again is `round(acc * multiplier
//! / 2^31)`, halves up. Less one where negative, shifted by one bit less than it should be, plus
//! `2 * zero point + 1` and then shifted by the last bit, it is rounded with halves away from zero;
//! `SSAT` does that last shift and clamps. Where outputs are clamped at their zero point, as those of a
//! fused ReLU, it does not matter to which side negative halves go: one instruction less.

use crate::program::op::Quantizer;

/// What a kernel makes of its accumulators.
#[repr(usize)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It stores them as they are.
    Raw = 0,
    /// Outputs.
    Rounded = 1,
    /// Outputs that are clamped at the zero point from below, by the caller where that is not -128.
    Rectified = 2,
}

impl Finish {
    /// For outputs of this kind.
    pub const fn of(quantizer: &Quantizer) -> Self {
        if quantizer.min >= quantizer.zero_point {
            Self::Rectified
        } else {
            Self::Rounded
        }
    }
}

/// Outputs of accumulators of one channel: `rounded` or `rectified`, the registers of its multiplier,
/// its shift and of `2 * zero point + 1`, and the accumulators, one or two. Of two, whose instructions
/// alternate, each has time.
macro_rules! requantize {
    ($how:ident, [$m:literal, $s:literal, $r:literal], $($a:literal)*) => {
        concat!(
            $( "smmlar ", $a, ", ", $a, ", ", $m, ", ", $a, "\n", )*
            $( requantize!(@$how $a), )*
            $( "asr ", $a, ", ", $a, ", ", $s, "\n", )*
            $( "add ", $a, ", ", $a, ", ", $r, "\n", )*
            $( "ssat ", $a, ", #8, ", $a, ", asr #1\n", )*
        )
    };
    (@rounded $a:literal) => { concat!("add ", $a, ", ", $a, ", ", $a, ", asr #31\n") };
    (@rectified $a:literal) => { "" };
}
pub(super) use requantize;

/// Four outputs into the first one's register.
macro_rules! pack {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "bfi ",
            $a,
            ", ",
            $b,
            ", #8, #24\n",
            "bfi ",
            $a,
            ", ",
            $c,
            ", #16, #16\n",
            "bfi ",
            $a,
            ", ",
            $d,
            ", #24, #8\n",
        )
    };
}
pub(super) use pack;
