//! Statistics on binned counts: a window against the training data.
//!
//! All take two rows of counts of the same bins, `reference` and `window`; bins beyond the shorter
//! row are ignored. Where a row is empty there is nothing to compare, and the result is 0.

use super::special::chi2_sf;
use crate::profile::{BINS, DriftLimits, EDGES};
use crate::telemetry::Statistic;

/// What [`evaluate`] finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowStatistics {
    /// [`psi`].
    pub psi: f32,
    /// [`ks`].
    pub ks: f32,
    /// [`js_distance`].
    pub js: f32,
    /// [`wasserstein`].
    pub wasserstein: f32,
}

/// All four statistics; `None` when a row is empty.
#[must_use]
pub fn evaluate(
    edges: &[f32; EDGES],
    reference: &[u32; BINS],
    window: &[u32; BINS],
) -> Option<WindowStatistics> {
    if total(reference) == 0 || total(window) == 0 {
        return None;
    }
    Some(WindowStatistics {
        psi: psi(reference, window),
        ks: ks(reference, window),
        js: js_distance(reference, window),
        wasserstein: wasserstein(edges, reference, window),
    })
}

/// A statistic beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Excess {
    /// Which.
    pub statistic: Statistic,
    /// Its value.
    pub value: f32,
    /// The limit, as it was applied.
    pub limit: f32,
}

/// The statistics beyond their limits, for a window of `n` values where the limits were calibrated
/// on windows of `full`.
///
/// What chance alone makes of a statistic grows as a window shrinks: PSI by 1/n, the distances by
/// its root (the null laws of chi-square and of Kolmogorov). The limits grow alike; a window with
/// less than half of its values decides nothing.
pub fn exceeded(
    found: &WindowStatistics,
    limits: &DriftLimits,
    n: u32,
    full: u32,
) -> impl Iterator<Item = Excess> {
    let judged = n > 0 && n >= full.div_ceil(2);
    let scale = if judged && n < full {
        full as f32 / n as f32
    } else {
        1.0
    };
    let root = libm::sqrtf(scale);
    [
        (Statistic::Psi, found.psi, limits.psi * scale),
        (Statistic::Ks, found.ks, limits.ks * root),
        (Statistic::JensenShannon, found.js, limits.js * root),
        (
            Statistic::Wasserstein,
            found.wasserstein,
            limits.wasserstein * root,
        ),
    ]
    .into_iter()
    .filter(move |&(_, value, limit)| judged && value > limit)
    .map(|(statistic, value, limit)| Excess {
        statistic,
        value,
        limit,
    })
}

/// Statistics of a feature that must be beyond their limits together before it counts as drift.
///
/// Measured on the streams of `tests/detection.rs`, against PSI alone: half of the false alarms or
/// fewer on each, a shift by half a standard deviation found in one window instead of two, one by a
/// quarter in half of the time; a shift of an autocorrelated signal one window later.
pub const QUORUM: usize = 2;

/// Whether a window has drifted: [`QUORUM`] of its statistics are beyond their limits (fewer, where
/// fewer have a finite limit). The answer is the one that is furthest beyond, relative to its limit.
///
/// `n` and `full` as for [`exceeded`].
#[must_use]
pub fn drifted(
    found: &WindowStatistics,
    limits: &DriftLimits,
    n: u32,
    full: u32,
) -> Option<Excess> {
    let limited = [limits.psi, limits.ks, limits.js, limits.wasserstein];
    let quorum = limited
        .iter()
        .filter(|limit| limit.is_finite())
        .count()
        .min(QUORUM);
    let mut count = 0;
    let mut furthest: Option<(Excess, f32)> = None;
    for excess in exceeded(found, limits, n, full) {
        count += 1;
        let beyond = excess.value / excess.limit;
        if furthest.is_none_or(|(_, most)| beyond.total_cmp(&most).is_ge()) {
            furthest = Some((excess, beyond));
        }
    }
    furthest
        .filter(|_| count >= quorum)
        .map(|(excess, _)| excess)
}

/// Population stability index with one half added to every count, so that empty bins stay finite:
/// the sum of (q - p) ln(q / p) with p and q = (count + 1/2) / (n + bins/2).
#[must_use]
pub fn psi(reference: &[u32], window: &[u32]) -> f32 {
    let (n, m) = (total(reference), total(window));
    if n == 0 || m == 0 {
        return 0.0;
    }
    let half = reference.len().min(window.len()) as f32 / 2.0;
    let (n, m) = (n as f32 + half, m as f32 + half);
    reference
        .iter()
        .zip(window)
        .map(|(&a, &b)| {
            let (p, q) = ((a as f32 + 0.5) / n, (b as f32 + 0.5) / m);
            (q - p) * libm::logf(q / p)
        })
        .sum()
}

/// Chance of a [`psi`] this large or larger when nothing has moved, for independent samples: psi /
/// (1/n + 1/m) is chi-square with bins - 1 degrees of freedom.
#[must_use]
pub fn psi_p_value(psi: f32, reference: &[u32], window: &[u32]) -> f64 {
    let (n, m) = (total(reference), total(window));
    let bins = reference.len().min(window.len());
    if n == 0 || m == 0 || bins < 2 {
        return 1.0;
    }
    let scale = 1.0 / n as f64 + 1.0 / m as f64;
    chi2_sf(f64::from(psi) / scale, (bins - 1) as f64)
}

/// Kolmogorov-Smirnov statistic on the bins: the largest difference of the two cumulated shares at
/// an edge. At most the statistic of the values themselves.
#[must_use]
pub fn ks(reference: &[u32], window: &[u32]) -> f32 {
    let mut largest = 0.0f32;
    cumulated(reference, window, &mut |difference| {
        largest = largest.max(libm::fabsf(difference));
    });
    largest
}

/// Jensen-Shannon distance: the root of the Jensen-Shannon divergence in bits, 0 to 1.
#[must_use]
pub fn js_distance(reference: &[u32], window: &[u32]) -> f32 {
    let (n, m) = (total(reference) as f32, total(window) as f32);
    if n == 0.0 || m == 0.0 {
        return 0.0;
    }
    // With middle = (p + q) / 2 and p, q = middle (1 +- u), a bin contributes middle g(u) / 2 nats,
    // g(u) = (1 + u) ln(1 + u) + (1 - u) ln(1 - u). No term is negative, so nothing cancels.
    let nats: f32 = reference
        .iter()
        .zip(window)
        .filter(|&(&a, &b)| a > 0 || b > 0)
        .map(|(&a, &b)| {
            let (p, q) = (a as f32 / n, b as f32 / m);
            (p + q) / 4.0 * js_term((p - q) / (p + q))
        })
        .sum();
    libm::sqrtf((nats / core::f32::consts::LN_2).clamp(0.0, 1.0))
}

/// (1 + u) ln(1 + u) + (1 - u) ln(1 - u) for -1 <= u <= 1.
fn js_term(u: f32) -> f32 {
    let square = u * u;
    if square < 0.0625 {
        // The series u^2k / (k (2k - 1)): below 1/4, four terms leave less than 3e-7 of the first.
        return square * (1.0 + square * (1.0 / 6.0 + square * (1.0 / 15.0 + square / 28.0)));
    }
    [1.0 + u, 1.0 - u]
        .into_iter()
        .filter(|&x| x > 0.0)
        .map(|x| x * libm::logf(x))
        .sum()
}

/// First Wasserstein distance on the bins, in the feature's unit: the area between the two
/// cumulated shares, each joined by straight lines from edge to edge (values spread evenly within
/// a bin).
///
/// What lies in the outer bins is taken to lie at the outermost edges, since how far beyond it is
/// the counts do not say; then this is less than the distance of the values.
#[must_use]
pub fn wasserstein(edges: &[f32; EDGES], reference: &[u32; BINS], window: &[u32; BINS]) -> f32 {
    let mut differences = [0.0f32; BINS];
    let mut slots = differences.iter_mut();
    cumulated(reference, window, &mut |difference| {
        if let Some(slot) = slots.next() {
            *slot = difference;
        }
    });
    edges
        .windows(2)
        .zip(differences.windows(2))
        .map(|(edge, difference)| {
            let (a, b) = (difference[0], difference[1]);
            let (left, right) = (libm::fabsf(a), libm::fabsf(b));
            let mean = if a * b >= 0.0 {
                (left + right) / 2.0
            } else {
                // The lines cross inside the bin: two triangles.
                (a * a + b * b) / (2.0 * (left + right))
            };
            mean * (edge[1] - edge[0])
        })
        .sum()
}

/// Pearson's chi-square of the two rows as a contingency table: statistic and degrees of freedom.
/// Bins that are empty in both are left out; there is no continuity correction.
#[must_use]
pub fn chi_square(reference: &[u32], window: &[u32]) -> (f32, u32) {
    let (n, m) = (total(reference) as f32, total(window) as f32);
    if n == 0.0 || m == 0.0 {
        return (0.0, 0);
    }
    let mut statistic = 0.0;
    let mut bins = 0u32;
    for (&a, &b) in reference
        .iter()
        .zip(window)
        .filter(|&(&a, &b)| a > 0 || b > 0)
    {
        // Both rows' terms in one: (a m - b n)^2 / ((a + b) n m), in shares.
        let (p, q) = (a as f32 / n, b as f32 / m);
        statistic += (p - q) * (p - q) / (a as f32 + b as f32);
        bins += 1;
    }
    (statistic * n * m, bins.saturating_sub(1))
}

/// Chance of a [`chi_square`] this large or larger when nothing has moved, for independent samples.
#[must_use]
pub fn chi_square_p_value(statistic: f32, degrees: u32) -> f64 {
    if degrees == 0 {
        return 1.0;
    }
    chi2_sf(f64::from(statistic), f64::from(degrees))
}

/// All counts together.
fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|&count| u64::from(count)).sum()
}

/// Calls `at_edge` with the difference of the cumulated shares after each bin, reference less window.
fn cumulated(reference: &[u32], window: &[u32], at_edge: &mut dyn FnMut(f32)) {
    let (n, m) = (total(reference), total(window));
    if n == 0 || m == 0 {
        return;
    }
    let (mut a, mut b) = (0u64, 0u64);
    for (&x, &y) in reference.iter().zip(window) {
        a += u64::from(x);
        b += u64::from(y);
        at_edge(a as f32 / n as f32 - b as f32 / m as f32);
    }
}
