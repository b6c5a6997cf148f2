//! A mergeable histogram of latencies in fixed memory.

use serde::{Deserialize, Serialize};

/// Buckets: four an octave from 1 microsecond to 65 milliseconds; the last takes all beyond.
pub const BUCKETS: usize = 64;

/// Counts of latencies; a percentile read from it is at most 25 % too high, never too low. One beyond 57
/// milliseconds, where the last bucket begins, is the greatest latency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyHistogram {
    #[serde(with = "counts")]
    counts: [u32; BUCKETS],
    max_us: u32,
}

crate::place::records! { LatencyHistogram { counts, max_us } }

mod counts {
    //! serde has no arrays beyond 32: four rows of 16.
    use super::BUCKETS;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(counts: &[u32; BUCKETS], s: S) -> Result<S::Ok, S::Error> {
        let mut rows = [[0u32; 16]; 4];
        for (i, count) in counts.iter().enumerate() {
            rows[i / 16][i % 16] = *count;
        }
        rows.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u32; BUCKETS], D::Error> {
        let rows = <[[u32; 16]; 4]>::deserialize(d)?;
        let mut counts = [0; BUCKETS];
        for (i, count) in counts.iter_mut().enumerate() {
            *count = rows[i / 16][i % 16];
        }
        Ok(counts)
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            max_us: 0,
        }
    }
}

impl LatencyHistogram {
    /// Adds one latency.
    pub fn record(&mut self, micros: u32) {
        let bucket = &mut self.counts[bucket(micros)];
        *bucket = bucket.saturating_add(1);
        self.max_us = self.max_us.max(micros);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        self.max_us = self.max_us.max(other.max_us);
    }

    /// Latencies recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }

    /// The greatest latency recorded, in microseconds.
    #[must_use]
    pub fn max_us(&self) -> u32 {
        self.max_us
    }

    /// The upper bound of the bucket in which the `per_mille` quantile lies, in microseconds
    /// (nearest rank, at most [`max_us`](Self::max_us)); `None` when nothing was recorded.
    #[must_use]
    pub fn quantile_us(&self, per_mille: u16) -> Option<u32> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (count * u64::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (i, &bucket) in self.counts.iter().enumerate() {
            seen += u64::from(bucket);
            if seen >= rank {
                return Some(upper_us(i).min(self.max_us));
            }
        }
        Some(self.max_us)
    }

    /// Resets all counts.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The bucket of a latency: four a power of two.
fn bucket(micros: u32) -> usize {
    let value = micros.max(1);
    let octave = value.ilog2();
    let quarter = if octave >= 2 {
        (value >> (octave - 2)) & 3
    } else {
        (value << (2 - octave)) & 3
    };
    ((octave * 4 + quarter) as usize).min(BUCKETS - 1)
}

/// The greatest latency that falls into a bucket, in microseconds.
fn upper_us(index: usize) -> u32 {
    if index >= BUCKETS - 1 {
        return u32::MAX;
    }
    let (octave, quarter) = (index as u32 / 4, index as u32 % 4);
    // The next bucket's first value, minus one; buckets narrower than one microsecond are empty.
    let next = (u64::from(quarter) + 5) << octave;
    ((next.div_ceil(4)).max(2) - 1) as u32
}

/// A histogram whose counts are all as large as they can be.
#[cfg(test)]
pub(super) fn full() -> LatencyHistogram {
    LatencyHistogram {
        counts: [u32::MAX; BUCKETS],
        max_us: u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_lies_in_its_bucket_and_within_a_fifth_of_the_bound() {
        for value in (1..5000).chain([65_535, 65_536, u32::MAX]) {
            let index = bucket(value);
            assert!(upper_us(index) >= value, "{value}");
            if index < BUCKETS - 1 && value >= 4 {
                assert!(
                    f64::from(upper_us(index)) <= f64::from(value) * 1.25,
                    "{value}"
                );
            }
            assert!(
                index == 0 || upper_us(index - 1) < value,
                "{value} in {index}"
            );
        }
    }

    #[test]
    fn quantiles_use_the_nearest_rank() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile_us(500), None);
        for micros in 1..=100 {
            histogram.record(micros);
        }
        assert_eq!(histogram.quantile_us(1000), Some(100));
        let p50 = histogram.quantile_us(500).unwrap_or_default();
        assert!((50..=63).contains(&p50), "{p50}");
    }
}
