//! Whether the host was there to hear.

use std::time::{Duration, Instant};

/// How far the wall clock may stray from the monotonic one between two looks, and how long nobody may look,
/// before the host counts as having been away.
const AWAY: Duration = Duration::from_secs(5);

/// Since when the host hears the boards: a connection that stands is not enough. While the machine slept or
/// the process was stopped, nothing was heard, and a clock that is set forward is no time that passed.
#[derive(Debug, Default)]
pub(super) struct Ear {
    /// When it was looked at last.
    seen: Option<(u64, Instant)>,
    /// What was before that was not heard.
    since_ms: u64,
}

impl Ear {
    /// Since when boards are heard at `now`, on a connection that stands for so long.
    pub(super) fn hears_since_ms(
        &mut self,
        now: (u64, Instant),
        stands: Option<Duration>,
    ) -> Option<u64> {
        let idle = self
            .seen
            .map(|(_, then)| now.1.saturating_duration_since(then));
        if idle.is_some_and(|idle| idle > AWAY) {
            self.since_ms = now.0;
        }
        self.seen(now);
        let stands_ms = u64::try_from(stands?.as_millis()).unwrap_or(u64::MAX);
        Some(now.0.saturating_sub(stands_ms).max(self.since_ms))
    }

    /// Notes that the host is awake at `now`.
    pub(super) fn seen(&mut self, now: (u64, Instant)) {
        if let Some((ms, then)) = self.seen {
            let passed = now.1.saturating_duration_since(then).as_millis();
            let strayed = u128::from(now.0).abs_diff(u128::from(ms) + passed);
            if strayed > AWAY.as_millis() {
                self.since_ms = now.0;
            }
        }
        self.seen = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_slept_or_whose_clock_was_set_has_heard_nothing_meanwhile() {
        let begin = Instant::now();
        let hour = Duration::from_secs(3600);
        let ms = |time: Duration| time.as_millis() as u64;
        // Wall clock and monotonic clock since the last look, and since when it hears then: the connection
        // stands for ten hours by the monotonic clock.
        let (short, day) = (Duration::from_millis(250), 24 * hour);
        let connected = day - 10 * hour;
        for (wall, monotonic, since) in [
            (short, short, connected),
            // A step of a second, and a clock that is trimmed.
            (Duration::from_secs(1), short, connected),
            // Asleep: the monotonic clock stands.
            (8 * hour, short, day + 8 * hour),
            // Stopped: both run on.
            (hour, hour, day + hour),
            // Set forward.
            (hour + short, short, day + hour + short),
        ] {
            let mut ear = Ear::default();
            let first = ear.hears_since_ms((ms(day), begin), Some(10 * hour));
            assert_eq!(first, Some(ms(connected)));
            let now = (ms(day + wall), begin + monotonic);
            let heard = ear.hears_since_ms(now, Some(10 * hour + monotonic));
            let least = ms(since);
            let within = least..=least + ms(Duration::from_secs(1));
            assert!(
                heard.is_some_and(|it| within.contains(&it)),
                "{wall:?}: {heard:?}, not {since:?}"
            );
            // What it hears from then on counts.
            let later = (now.0 + 250, now.1 + short);
            let goes_on = ear.hears_since_ms(later, Some(10 * hour + monotonic + short));
            assert_eq!(goes_on, heard);
            assert_eq!(ear.hears_since_ms(later, None), None);
        }
        // A step that takes its time is none.
        let mut ear = Ear::default();
        ear.hears_since_ms((ms(day), begin), Some(hour));
        ear.seen((ms(day + hour), begin + hour));
        let now = (ms(day + hour) + 250, begin + hour + short);
        assert_eq!(
            ear.hears_since_ms(now, Some(2 * hour + short)),
            Some(ms(day - hour))
        );
    }
}
