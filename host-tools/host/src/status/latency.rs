//! A window's latency for people.

use super::WindowStatus;

impl WindowStatus {
    /// The latency's 99th percentile for people: `96 us`, or where the clock is known
    /// `3.2 M cycles (128 ms at 25 MHz)`. None where nothing was answered.
    #[must_use]
    pub fn p99_words(&self) -> Option<String> {
        let us = self.latency_p99_us?;
        let (Some(cycles), Some(khz)) = (self.p99_cycles(), self.core_khz) else {
            return Some(format!("{us} us"));
        };
        let time = match us {
            1_000.. => format!("{} ms", three_digits(f64::from(us) / 1e3)),
            _ => format!("{us} us"),
        };
        let clock = three_digits(f64::from(khz) / 1e3);
        Some(format!("{cycles} cycles ({time} at {clock} MHz)"))
    }

    /// The latency's 99th percentile in cycles for people, `3.2 M`. None where the clock is not known or nothing
    /// was answered.
    #[must_use]
    pub fn p99_cycles(&self) -> Option<String> {
        Some(match self.latency_p99_cycles? {
            // What rounds to a thousand thousands is a million.
            cycles @ 999_500.. => format!("{} M", three_digits(cycles as f64 / 1e6)),
            cycles @ 1_000.. => format!("{} k", three_digits(cycles as f64 / 1e3)),
            cycles => cycles.to_string(),
        })
    }
}

/// A number to three digits, or as many as it has before its point.
fn three_digits(value: f64) -> String {
    let places = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Summary, window};
    use crate::catalog::Catalog;

    #[test]
    fn a_latency_is_told_in_cycles_where_the_clock_is_known() {
        let catalog = Catalog::at(std::path::Path::new("nowhere"));
        let told = |us, core_khz| {
            let mut summary = Summary::empty();
            summary.core_khz = core_khz;
            summary.latency.record(us);
            let window = window(0, &summary, &catalog);
            (window.p99_words(), window.latency_p99_cycles)
        };
        for (us, khz, words, cycles) in [
            (
                128_000,
                25_000,
                "3.2 M cycles (128 ms at 25 MHz)",
                Some(3_200_000),
            ),
            (70, 400_000, "28 k cycles (70 us at 400 MHz)", Some(28_000)),
            (2, 133_333, "266 cycles (2 us at 133 MHz)", Some(266)),
            (
                61_234,
                16_500,
                "1.01 M cycles (61.2 ms at 16.5 MHz)",
                Some(1_010_361),
            ),
            (
                39_979,
                25_000,
                "999 k cycles (40 ms at 25 MHz)",
                Some(999_475),
            ),
            (
                39_980,
                25_000,
                "1 M cycles (40 ms at 25 MHz)",
                Some(999_500),
            ),
            (96, 0, "96 us", None),
        ] {
            assert_eq!(told(us, khz), (Some(words.to_owned()), cycles));
        }
        let summary = Summary {
            core_khz: 25_000,
            ..Summary::empty()
        };
        assert_eq!(window(0, &summary, &catalog).p99_words(), None);
    }
}
