//! Two-sample statistics of the values themselves, for hosts that have them and for tests.

/// Two-sample Kolmogorov-Smirnov statistic of two rows of finite values in ascending order; 0 when
/// one is empty. Its p-value for large samples is
/// [`kolmogorov_sf`](super::special::kolmogorov_sf)(sqrt(n m / (n + m)) * statistic).
#[must_use]
pub fn ks_sorted(a: &[f32], b: &[f32]) -> f64 {
    let mut largest = 0.0f64;
    walk(a, b, |_, _, difference| {
        largest = largest.max(libm::fabs(difference));
    });
    largest
}

/// First Wasserstein distance of two rows of finite values in ascending order, in their unit: the
/// area between their empirical distribution functions; 0 when one is empty.
#[must_use]
pub fn wasserstein_sorted(a: &[f32], b: &[f32]) -> f64 {
    let mut area = 0.0f64;
    walk(a, b, |from, to, difference| {
        area += libm::fabs(difference) * (to - from);
    });
    area
}

/// Calls `visit` for each interval on which the two distribution functions are constant, with its
/// ends and their difference there. The last one has no length.
fn walk(a: &[f32], b: &[f32], mut visit: impl FnMut(f64, f64, f64)) {
    if a.is_empty() || b.is_empty() {
        return;
    }
    let (mut i, mut j) = (0, 0);
    let least = |i: usize, j: usize| match (a.get(i), b.get(j)) {
        (Some(&x), Some(&y)) => Some(x.min(y)),
        (x, y) => x.or(y).copied(),
    };
    while let Some(at) = least(i, j) {
        // Each round passes at least one value, so that there are at most as many as values.
        i += a
            .get(i..)
            .unwrap_or(&[])
            .iter()
            .take_while(|&&x| x <= at)
            .count();
        j += b
            .get(j..)
            .unwrap_or(&[])
            .iter()
            .take_while(|&&x| x <= at)
            .count();
        let next = least(i, j).unwrap_or(at);
        let difference = i as f64 / a.len() as f64 - j as f64 / b.len() as f64;
        visit(f64::from(at), f64::from(next), difference);
        if next <= at {
            return;
        }
    }
}
