//! From logits to probabilities.

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod four;

/// Further below the greatest, a logit has no share.
const MOST: f32 = 87.0;

/// Adding this rounds to a whole number, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, of which the first is exact when multiplied.
const LN_2: f32 = 0.693_359_4;
const LN_2_REST: f32 = -2.121_944_4e-4;
/// The polynomial's coefficient of the highest power, and the others down to that of the square.
const FIRST: f32 = 1.987_569_1e-4;
const OTHERS: [f32; 5] = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];

/// Softmax of `logits / temperature`, stable for any finite logits; returns its entropy in nats.
///
/// With z the logits divided by the temperature less the greatest of these, and S the sum of exp(z),
/// the entropy is ln S minus the sum of p z: one logarithm for all classes, and no difference of
/// numbers of the same sign.
pub(super) fn softmax(logits: &[f32], temperature: f32, probabilities: &mut [f32]) -> f32 {
    let mut greatest = f32::NEG_INFINITY;
    for &x in logits {
        greatest = if x > greatest { x } else { greatest };
    }
    let (mut sum, mut below) = (0.0, 0.0);
    let all = probabilities.chunks_mut(LANES).zip(logits.chunks(LANES));
    for (probabilities, logits) in all {
        // What is infinitely far below has no share.
        let mut under = [f32::NEG_INFINITY; LANES];
        for (under, &x) in under.iter_mut().zip(logits) {
            *under = x - greatest;
        }
        let Terms {
            shares,
            below: each,
        } = terms(under, temperature);
        for lane in 0..LANES {
            sum += shares[lane];
            below -= each[lane];
        }
        for (probability, share) in probabilities.iter_mut().zip(shares) {
            *probability = share;
        }
    }
    // The greatest logit adds one, so that the sum is never zero.
    probabilities.iter_mut().for_each(|p| *p /= sum);
    libm::logf(sum) + below / sum
}

/// What logits add to the sums of [`softmax`].
#[derive(Debug, PartialEq)]
struct Terms {
    /// The exponential of each z.
    shares: [f32; LANES],
    /// That, times z.
    below: [f32; LANES],
}

/// As many as a vector of the processor has.
const LANES: usize = if cfg!(all(target_arch = "x86_64", target_feature = "sse2")) {
    4
} else {
    1
};

/// The terms of logits that are so far `under` the greatest; at once where there are vectors.
fn terms(under: [f32; LANES], temperature: f32) -> Terms {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    #[allow(unsafe_code)]
    // SAFETY: compiled only for targets that have SSE2.
    let terms = unsafe { four::terms(under, temperature) };
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    let terms = terms_one_by_one(under, temperature);
    terms
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
fn terms_one_by_one(under: [f32; LANES], temperature: f32) -> Terms {
    let z = under.map(|under| under / temperature);
    let shares = z.map(exp_of_negative);
    // Where the share is nothing, z may be infinite.
    let below = core::array::from_fn(|lane| shares[lane] * z[lane].max(-MOST));
    Terms { shares, below }
}

/// The exponential of a number that is not positive, to one unit in the last place; 0 below -87, where
/// it would be less than 2^-125.
///
/// With n the nearest whole number to x / ln 2, it is 2^n times the exponential of the rest, which is at
/// most 0.35 and has a polynomial (the coefficients are those of Cephes' `expf`, by S. L. Moshier). No
/// branch and no table, so that a processor has several under way.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
fn exp_of_negative(x: f32) -> f32 {
    let within = x.max(-MOST);
    let shifted = within * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let rest = (within - n * LN_2) - n * LN_2_REST;
    let mut sum = FIRST;
    for coefficient in OTHERS {
        sum = sum * rest + coefficient;
    }
    let fraction = sum * (rest * rest) + rest + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -MOST { 0.0 } else { fraction * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_one_unit_in_the_last_place() {
        let mut worst = 0.0f64;
        // Each 97th float from -0 to -87, and those around the edges.
        let all = ((-0.0f32).to_bits()..=(-87.0f32).to_bits())
            .step_by(97)
            .map(f32::from_bits);
        for x in all.chain([0.0, -0.0, -87.0, -f32::MIN_POSITIVE]) {
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up() - exact as f32);
            worst = worst.max((f64::from(exp_of_negative(x)) - exact).abs() / unit);
        }
        assert!(worst < 1.0, "{worst}");
        for x in [
            (-87.0f32).next_down(),
            -88.0,
            -1e9,
            f32::MIN,
            f32::NEG_INFINITY,
        ] {
            assert_eq!(exp_of_negative(x), 0.0);
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
    }

    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    #[test]
    fn four_at_once_are_each_of_them() {
        for step in (0..=u32::from(u16::MAX)).map(|high| high << 16 | 0x5a5a) {
            let under = [step, step ^ 1, !step, step.rotate_left(7)].map(f32::from_bits);
            // Anything that is not positive, and the infinite that stands for no logit.
            let under = under.map(|x| {
                if x.is_nan() {
                    f32::NEG_INFINITY
                } else {
                    -x.abs()
                }
            });
            for temperature in [1.0, 0.3, 2.5] {
                let (four, each) = (
                    terms(under, temperature),
                    terms_one_by_one(under, temperature),
                );
                assert_eq!(four.shares.map(f32::to_bits), each.shares.map(f32::to_bits));
                assert_eq!(four.below.map(f32::to_bits), each.below.map(f32::to_bits));
            }
        }
    }

    #[test]
    fn any_number_of_logits_has_shares_that_sum_to_one() {
        let logits = [0.5f32, -2.0, 3.0, 1.0, 0.0, 2.5, -7.0, 3.0, 2.0];
        for count in 1..=logits.len() {
            let mut shares = [f32::NAN; 9];
            let found = softmax(&logits[..count], 2.0, &mut shares[..count]);
            let exact = logits[..count].iter().map(|&x| f64::from(x / 2.0).exp());
            let sum: f64 = exact.clone().sum();
            let mut entropy = 0.0;
            for (exact, share) in exact.map(|x| x / sum).zip(shares) {
                assert!((exact - f64::from(share)).abs() < 1e-6, "{exact} {share}");
                entropy -= exact * exact.ln();
            }
            assert!(
                (entropy - f64::from(found)).abs() < 1e-6,
                "{entropy} {found}"
            );
        }
    }
}
