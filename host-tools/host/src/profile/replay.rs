//! Which stretches of the training data stand for the windows of a board.
//!
//! Limits are worth as much as the windows behind them are independent. Windows that overlap repeat
//! each other, so that none does where recordings are long enough to hold windows: these are cut from
//! each recording in turn.
//!
//! Where those are enough and hold most of the data, shorter recordings beside them are left out.
//!
//! Otherwise recordings that are shorter than a window are put together, as they follow each other on a board.
//! Which of them come together is chance, so many windows are drawn at random; what is independent
//! then are the recordings. This is subsampling of blocks (Politis, Romano and Wolf, Subsampling,
//! 1999): under the hypothesis that nothing drifts, a draw and the rest of the recordings are
//! exchangeable. How many draws are made says nothing about how well a limit is known; the number of
//! recordings does, or, where they differ in length, Kish's effective size (sum of lengths) squared /
//! (sum of squared lengths) (Kish, Survey Sampling, 1965). It must be
//! [`CALIBRATION_WINDOWS`] in either case.

use edgeward::drift::CALIBRATION_WINDOWS;
use std::ops::Range;

/// Windows drawn at random from short recordings; more of them hardly move a limit.
const DRAWS: usize = 8 * CALIBRATION_WINDOWS as usize;
/// A window is compared with the rest of the training data, which must be as long as itself.
const LEAST_WINDOWS: u64 = 2;

/// A row of things (samples or predictions) that is replayed in windows.
#[derive(Debug, Clone)]
pub(super) struct Replay {
    /// Their ranges, recording by recording; none is empty.
    recordings: Vec<Range<usize>>,
    /// Things of a window.
    length: usize,
    /// Things left out between two windows of a recording, so that they have no sample in common.
    gap: usize,
}

/// Less than what limits can be measured on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shortage {
    /// Independent windows that there are.
    pub windows: f64,
    /// Things that would be enough.
    pub wanted: u64,
    /// Things that there are.
    pub found: u64,
}

/// A window: ranges of what it consists of.
pub(super) type Pieces = Vec<Range<usize>>;

impl Replay {
    /// A replay in windows of `length`, at least 1.
    pub fn new(
        recordings: impl IntoIterator<Item = Range<usize>>,
        length: usize,
        gap: usize,
    ) -> Self {
        Self {
            recordings: recordings
                .into_iter()
                .filter(|range| !range.is_empty())
                .collect(),
            length: length.max(1),
            gap,
        }
    }

    /// Windows that fit into a recording without a sample in common.
    fn whole(&self, recording: &Range<usize>) -> usize {
        (recording.len() + self.gap) / (self.length + self.gap)
    }

    /// Whether limits can be measured on these windows.
    pub fn check(&self) -> Result<(), Shortage> {
        let windows = self.independent();
        let found: u64 = self.recordings.iter().map(|range| range.len() as u64).sum();
        let least = LEAST_WINDOWS * self.length as u64;
        let count = u64::from(CALIBRATION_WINDOWS);
        if windows >= f64::from(CALIBRATION_WINDOWS) && found >= least {
            return Ok(());
        }
        let wanted = match self.recordings.len() {
            0 | 1 => count * self.length as u64 + (count - 1) * self.gap as u64,
            // More of the same kind.
            _ => (found as f64 * f64::from(CALIBRATION_WINDOWS) / windows).ceil() as u64,
        };
        Err(Shortage {
            windows,
            wanted: wanted.max(least),
            found,
        })
    }

    /// Whether limits rest on windows inside of recordings, and on nothing else.
    fn rests_inside(&self) -> bool {
        let windows: usize = self.recordings.iter().map(|range| self.whole(range)).sum();
        let all: usize = self.recordings.iter().map(Range::len).sum();
        windows >= CALIBRATION_WINDOWS as usize && windows * self.length > all / 2
    }

    /// Independent windows that the recordings are worth: Kish's effective size of the windows inside
    /// recordings and of the recordings that are too short for one.
    pub fn independent(&self) -> f64 {
        let (mut sum, mut squares) = (0.0, 0.0);
        let inside = self.rests_inside();
        for recording in &self.recordings {
            let (pieces, length) = match self.whole(recording) {
                0 if inside => continue,
                0 => (1.0, recording.len() as f64),
                pieces => (pieces as f64, self.length as f64),
            };
            sum += pieces * length;
            squares += pieces * length * length;
        }
        if squares == 0.0 {
            0.0
        } else {
            sum * sum / squares
        }
    }

    /// The windows. Always the same ones: what is drawn is drawn by a generator of fixed seed.
    pub fn windows(&self) -> Vec<Pieces> {
        let none_is_short = || self.recordings.iter().all(|range| self.whole(range) > 0);
        if self.rests_inside() || none_is_short() {
            return self.inside().collect();
        }
        let mut random = Random(1);
        let mut order = self.recordings.clone();
        let mut windows = Vec::new();
        let total: usize = order.iter().map(Range::len).sum();
        while windows.len() < DRAWS && total >= self.length {
            random.shuffle(&mut order);
            self.cut(&order, &mut windows);
        }
        windows
    }

    fn inside(&self) -> impl Iterator<Item = Pieces> + '_ {
        self.recordings.iter().flat_map(move |range| {
            (0..self.whole(range)).map(move |window| {
                let from = range.start + window * (self.length + self.gap);
                std::iter::once(from..from + self.length).collect()
            })
        })
    }

    /// Cuts recordings, one after the other, into windows; what is left at the end is none.
    fn cut(&self, order: &[Range<usize>], windows: &mut Vec<Pieces>) {
        let (mut pieces, mut room) = (Pieces::new(), self.length);
        for recording in order {
            let mut from = recording.start;
            while from < recording.end {
                let to = recording.end.min(from + room);
                room -= to - from;
                pieces.push(from..to);
                from = to;
                if room == 0 {
                    windows.push(std::mem::take(&mut pieces));
                    room = self.length;
                }
            }
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fisher and Yates; the bias of the remainder is below 2^-40 for any data that fits a memory.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recordings of these lengths, one after the other.
    fn replay(lengths: &[usize], length: usize, gap: usize) -> Replay {
        let mut at = 0;
        let recordings: Vec<_> = lengths
            .iter()
            .map(|len| {
                at += len;
                at - len..at
            })
            .collect();
        Replay::new(recordings, length, gap)
    }

    #[test]
    fn thirty_windows_without_a_common_sample_are_enough_and_one_sample_less_is_not() {
        let enough = replay(&[3000], 100, 0);
        assert_eq!(enough.check(), Ok(()));
        let windows = enough.windows();
        assert_eq!(windows.len(), 30);
        for (i, window) in windows.iter().enumerate() {
            let only = i * 100..(i + 1) * 100;
            assert_eq!(window, &vec![only]);
        }
        let shortage = Shortage {
            windows: 29.0,
            wanted: 3000,
            found: 2999,
        };
        assert_eq!(replay(&[2999], 100, 0).check(), Err(shortage));
    }

    #[test]
    fn predictions_that_share_samples_are_left_out_between_windows() {
        // Windows of 8, and 4 between two of them: 30 * 8 + 29 * 4.
        let enough = replay(&[356], 8, 4);
        assert_eq!(enough.check(), Ok(()));
        let starts: Vec<_> = enough.windows().iter().map(|w| w[0].start).collect();
        assert_eq!(starts, (0..30).map(|i| i * 12).collect::<Vec<_>>());
        let shortage = replay(&[355], 8, 4).check().expect_err("shortage");
        assert_eq!((shortage.windows, shortage.wanted), (29.0, 356));
    }

    #[test]
    fn recordings_that_hold_windows_are_never_joined() {
        let windows = replay(&[250; 15], 100, 0).windows();
        assert_eq!(windows.len(), 30);
        assert!(windows.iter().all(|window| window.len() == 1));
        assert!(windows.iter().all(|window| window[0].start % 250 <= 100));
    }

    #[test]
    fn a_short_recording_beside_long_ones_joins_nothing() {
        let alone = replay(&[3000], 100, 0).windows();
        let beside = replay(&[3000, 1], 100, 0);
        assert_eq!(beside.windows(), alone);
        assert!((beside.independent() - 30.0).abs() < 1e-9);
        // Where most of the data is in short ones, these count.
        let mut lengths = vec![50; 100];
        lengths.push(3000);
        let mixed = replay(&lengths, 100, 0);
        assert!(mixed.windows().iter().any(|window| window.len() > 1));
        assert!(mixed.independent() > 30.0);
    }

    #[test]
    fn short_recordings_count_one_each_however_many_windows_are_drawn() {
        assert_eq!(replay(&[50; 30], 200, 0).check(), Ok(()));
        let shortage = replay(&[50; 29], 200, 0).check().expect_err("shortage");
        assert!((shortage.windows - 29.0).abs() < 1e-9);
        assert_eq!((shortage.wanted, shortage.found), (1500, 1450));
        // Thirty recordings, most of the data in one of them.
        let mut lengths = [10; 30];
        lengths[0] = 990;
        assert!(replay(&lengths, 1000, 0).check().is_err());
    }

    #[test]
    fn a_window_leaves_as_much_as_it_takes() {
        assert_eq!(replay(&[50; 40], 1000, 0).check(), Ok(()));
        let shortage = replay(&[50; 40], 1001, 0).check().expect_err("shortage");
        assert_eq!((shortage.wanted, shortage.found), (2002, 2000));
    }

    #[test]
    fn draws_are_whole_mixed_and_always_the_same() {
        let replay = replay(&[70; 40], 100, 0);
        let windows = replay.windows();
        assert!(windows.len() >= DRAWS);
        assert_eq!(windows, replay.windows());
        let mut first = std::collections::BTreeSet::new();
        for window in &windows {
            assert_eq!(window.iter().map(Range::len).sum::<usize>(), 100);
            let mut seen: Vec<_> = window.iter().cloned().flatten().collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 100, "a sample is in a window once");
            first.insert(window[0].start / 70);
        }
        assert_eq!(first.len(), 40, "every recording begins a window sometimes");
    }

    #[test]
    fn nothing_is_a_shortage_too() {
        let shortage = replay(&[], 100, 0).check().expect_err("shortage");
        assert_eq!(
            (shortage.windows, shortage.wanted, shortage.found),
            (0.0, 3000, 0)
        );
        assert!(replay(&[], 100, 0).windows().is_empty());
    }
}
