//! Mean and variance in one pass and in f32.

/// Count, mean and sum of squared differences from the mean.
///
/// Welford's update and Chan's merge (Chan, Golub, LeVeque 1979). In f32 both are accurate as long as
/// the values are small against their spread: callers subtract a known mean first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// How many values.
    pub n: u32,
    /// Their mean, 0 when there are none.
    pub mean: f32,
    /// Sum of their squared differences from it.
    pub m2: f32,
}

impl Default for Moments {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Moments {
    /// No values.
    pub const EMPTY: Self = Self {
        n: 0,
        mean: 0.0,
        m2: 0.0,
    };

    /// Adds one value.
    #[inline]
    pub fn push(&mut self, x: f32) {
        self.n = self.n.saturating_add(1);
        let delta = x - self.mean;
        self.mean += delta / self.n as f32;
        self.m2 += delta * (x - self.mean);
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        if self.n == 0 {
            *self = *other;
            return;
        }
        let n = self.n.saturating_add(other.n);
        // Shares first: the products of the counts themselves would lose bits.
        let share = other.n as f32 / n as f32;
        let delta = other.mean - self.mean;
        self.m2 += other.m2 + delta * delta * (self.n as f32 * share);
        self.mean += delta * share;
        self.n = n;
    }

    /// Variance with n - 1, `None` below two values.
    #[must_use]
    pub fn variance(&self) -> Option<f32> {
        (self.n > 1).then(|| (self.m2 / (self.n - 1) as f32).max(0.0))
    }

    /// Standard deviation with n - 1, `None` below two values.
    #[must_use]
    pub fn sd(&self) -> Option<f32> {
        self.variance().map(libm::sqrtf)
    }
}
