//! Kernels of packed programs for x86-64.
//!
//! Accumulators are exact 32-bit sums. Requantization is that of [`crate::program::arith`] in vectors:
//! even and odd lanes are multiplied to 64 bits, what both roundings and the zero point add is added
//! there at once (`build` works it out), and the sign of the accumulator sends halves away from zero.
#![allow(unsafe_code)]

pub(super) mod avx2;
pub(super) mod avx512;

/// Requantization by products of 64 bits, and what else both sets share, for a module that names its instructions: besides those of
/// [`kernels`](super::vectors::kernels) `multiply_even`, `add_wide`, `down`, which moves odd lanes to
/// even ones, `merge`, which makes one vector of the upper halves of both products, `and`,
/// `shift_left_each` and `shift_right_each`.
macro_rules! requantization {
    ($features:literal) => {
        /// Vectors of constants of one vector of channels, as `pack::lanes` writes them.
        const CONSTANTS: usize = 7;

        /// What requantizes a vector of accumulators.
        #[derive(Clone, Copy)]
        struct Scale {
            multiplier: V,
            multiplier_odd: V,
            even: V,
            odd: V,
            right: V,
            left: V,
            sign: V,
        }

        /// # Safety
        /// `at` points to the constants of a vector of channels.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn scale(at: *const u8) -> Scale {
            // SAFETY: the constants are seven vectors.
            unsafe {
                let multiplier = vector(at.add(VECTOR));
                Scale {
                    multiplier,
                    multiplier_odd: down(multiplier),
                    even: vector(at.add(2 * VECTOR)),
                    odd: vector(at.add(3 * VECTOR)),
                    right: vector(at.add(4 * VECTOR)),
                    left: vector(at.add(5 * VECTOR)),
                    sign: vector(at.add(6 * VECTOR)),
                }
            }
        }

        /// Requantized accumulators with the zero point added; shifts to the left only where `WIDE`.
        #[inline]
        #[target_feature(enable = $features)]
        fn requantize<const WIDE: bool>(sums: V, scale: &Scale) -> V {
            let sums = if WIDE {
                shift_left_each(sums, scale.left)
            } else {
                sums
            };
            let mut sign = shift_right::<31>(sums);
            if WIDE {
                sign = and(sign, scale.sign);
            }
            let doubled = add(sums, sums);
            let even = multiply_even(doubled, scale.multiplier);
            let odd = multiply_even(down(doubled), scale.multiplier_odd);
            let high = merge(add_wide(even, scale.even), add_wide(odd, scale.odd));
            shift_right_each(add(high, sign), scale.right)
        }

        /// Two coefficients in every lane.
        #[inline]
        #[target_feature(enable = $features)]
        fn coefficients(pair: [i16; 2]) -> V {
            splat(i32::from(pair[0]) & 0xffff | i32::from(pair[1]) << 16)
        }

        /// Shifted to the right, rounded down.
        #[inline]
        #[target_feature(enable = $features)]
        fn shift_right_all(values: V, shift: i32) -> V {
            shift_right_each(values, splat(shift))
        }
    };
}
use requantization;
