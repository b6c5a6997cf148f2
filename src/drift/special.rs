//! Survival functions for p-values, in f64: they are asked for at a window's end or on a host.

use core::f64::consts::{PI, SQRT_2};

/// Most terms of a series or continued fraction; all converge far earlier at the arguments that
/// statistics have.
const MAX_TERMS: u32 = 500;
/// Relative size of the term at which a series ends.
const EPSILON: f64 = 1e-16;

/// Survival function of Kolmogorov's distribution: the chance of sqrt(n m / (n + m)) D > `x`.
///
/// Below 1.18 by the theta function's other series, above by the alternating one (Marsaglia, Tsang,
/// Wang 2003); each is exact to f64 on its side.
#[must_use]
pub fn kolmogorov_sf(x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x < 1.18 {
        let t = libm::exp(-PI * PI / (8.0 * x * x));
        let powers = t + libm::pow(t, 9.0) + libm::pow(t, 25.0) + libm::pow(t, 49.0);
        return 1.0 - libm::sqrt(2.0 * PI) / x * powers;
    }
    let mut sum = 0.0;
    for k in (1..=11).rev() {
        let k = f64::from(k);
        sum = libm::exp(-2.0 * k * k * x * x) - sum;
    }
    2.0 * sum
}

/// Survival function of the standard normal distribution.
#[must_use]
pub fn normal_sf(x: f64) -> f64 {
    0.5 * libm::erfc(x / SQRT_2)
}

/// Survival function of the chi-square distribution with `k` degrees of freedom, `k` > 0.
#[must_use]
pub fn chi2_sf(x: f64, k: f64) -> f64 {
    gamma_q(k / 2.0, x / 2.0)
}

/// The value that a chi-square variable with `k` > 0 degrees of freedom exceeds with chance `p`,
/// for 0 < `p` < 1; the inverse of [`chi2_sf`], by halving to the last bit.
#[must_use]
pub fn chi2_isf(p: f64, k: f64) -> f64 {
    let (mut low, mut high) = (0.0, k.max(1.0));
    // The tail falls by more than half in each doubling, so that this ends long before the bound.
    for _ in 0..64 {
        if chi2_sf(high, k) <= p {
            break;
        }
        high *= 2.0;
    }
    for _ in 0..128 {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if chi2_sf(middle, k) > p {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// Survival function of Student's t distribution with `k` > 0 degrees of freedom.
#[must_use]
pub fn t_sf(t: f64, k: f64) -> f64 {
    let tail = 0.5 * beta_i(k / 2.0, 0.5, k / (k + t * t));
    if t >= 0.0 { tail } else { 1.0 - tail }
}

/// Regularized upper incomplete gamma function Q(a, x), `a` > 0.
///
/// By the series of P below a + 1, by the continued fraction above (Lentz's method; Press et al.,
/// Numerical Recipes, 6.2).
#[must_use]
pub fn gamma_q(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = libm::exp(a * libm::log(x) - x - libm::lgamma(a));
    if x < a + 1.0 {
        let mut term = 1.0 / a;
        let mut sum = term;
        for i in 1..=MAX_TERMS {
            term *= x / (a + f64::from(i));
            sum += term;
            if term < sum * EPSILON {
                break;
            }
        }
        return (1.0 - front * sum).max(0.0);
    }
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / f64::MIN_POSITIVE;
    let mut d = 1.0 / away_from_zero(b);
    let mut fraction = d;
    for i in 1..=MAX_TERMS {
        let i = f64::from(i);
        let numerator = i * (a - i);
        b += 2.0;
        d = 1.0 / away_from_zero(numerator * d + b);
        c = away_from_zero(b + numerator / c);
        let step = d * c;
        fraction *= step;
        if libm::fabs(step - 1.0) < EPSILON {
            break;
        }
    }
    front * fraction
}

/// Regularized incomplete beta function I_x(a, b), by its continued fraction (Numerical Recipes,
/// 6.4).
fn beta_i(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = libm::exp(
        libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b)
            + a * libm::log(x)
            + b * libm::log1p(-x),
    );
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

/// The continued fraction of the incomplete beta function, by Lentz's method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..=MAX_TERMS {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away_from_zero(1.0 + even * d);
        c = away_from_zero(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away_from_zero(1.0 + odd * d);
        c = away_from_zero(1.0 + odd / c);
        let step = d * c;
        fraction *= step;
        if libm::fabs(step - 1.0) < EPSILON {
            break;
        }
    }
    fraction
}

/// `x`, or the least normal number in its place.
fn away_from_zero(x: f64) -> f64 {
    if libm::fabs(x) < f64::MIN_POSITIVE {
        f64::MIN_POSITIVE
    } else {
        x
    }
}
