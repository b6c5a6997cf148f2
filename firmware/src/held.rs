//! What could not be told at once, and waits for its way to be free: nothing here makes anyone wait.

use edgeward::telemetry::Summary;
use heapless::Deque;

/// Reports that must arrive, sooner or later, in the order in which they were told: at most `N` at once.
#[derive(Debug)]
pub struct Late<T, const N: usize>(Deque<T, N>);

impl<T, const N: usize> Late<T, N> {
    /// Nothing waits.
    #[must_use]
    pub const fn new() -> Self {
        Self(Deque::new())
    }

    /// Has a report wait behind those that were told before, whether its way is free or not:
    /// [`pass`](Self::pass) comes next.
    ///
    /// # Errors
    /// The report, when `N` wait already.
    pub fn tell(&mut self, report: T) -> Result<(), T> {
        self.0.push_back(report)
    }

    /// Passes on what waits, the oldest first, until `send` gives one back because its way is full.
    pub fn pass(&mut self, mut send: impl FnMut(T) -> Result<(), T>) {
        while let Some(report) = self.0.pop_front() {
            if let Err(report) = send(report) {
                // There is room: it was just taken from there.
                let _ = self.0.push_front(report);
                return;
            }
        }
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T, const N: usize> Default for Late<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Windows that found their way full. Those of one release that follow each other become one, so that
/// only `N` changes of the release that answers, in so long, can cost a count.
#[derive(Debug)]
pub struct Held<const F: usize, const C: usize, const N: usize>(Late<Summary<F, C>, N>);

impl<const F: usize, const C: usize, const N: usize> Held<F, C, N> {
    /// No window waits.
    #[must_use]
    pub const fn new() -> Self {
        Self(Late::new())
    }

    /// Keeps a window; false when it is lost, because those of `N` other releases wait. That is for the
    /// caller to count.
    #[must_use]
    pub fn keep(&mut self, summary: &Summary<F, C>) -> bool {
        let last = self.0.0.back_mut();
        let merged = last.is_some_and(|last| last.merge(summary).is_ok());
        merged || self.0.tell(summary.clone()).is_ok()
    }

    /// Passes windows on, the oldest first, until `send` gives one back because its way is full.
    pub fn pass(&mut self, send: impl FnMut(Summary<F, C>) -> Result<(), Summary<F, C>>) {
        self.0.pass(send);
    }

    /// No window waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const F: usize, const C: usize, const N: usize> Default for Held<F, C, N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[allow(clippy::result_large_err, reason = "a full way gives the window back")]
mod tests {
    use super::*;

    fn window(release: u8, samples: u32) -> Summary<2, 2> {
        Summary {
            release: [release; 8],
            windows: 1,
            samples,
            ..Summary::empty()
        }
    }

    /// Takes everything; release, windows and samples of each.
    fn taken<const N: usize>(held: &mut Held<2, 2, N>) -> Vec<(u8, u32, u32)> {
        let mut taken = Vec::new();
        held.pass(|summary| {
            taken.push((summary.release[0], summary.windows, summary.samples));
            Ok(())
        });
        assert!(held.is_empty());
        taken
    }

    #[test]
    fn windows_of_two_releases_are_held_and_those_of_one_become_one() {
        let mut held = Held::<2, 2, 2>::new();
        for (release, samples) in [(2, 10), (2, 10), (2, 3), (1, 10), (1, 10)] {
            assert!(held.keep(&window(release, samples)));
            // Nobody takes them.
            held.pass(Err);
        }
        assert_eq!(taken(&mut held), [(2, 3, 23), (1, 2, 20)]);
    }

    #[test]
    fn a_window_of_one_release_too_many_is_told_to_be_lost_and_spoils_no_other() {
        let mut held = Held::<2, 2, 2>::new();
        assert!(held.keep(&window(1, 1)));
        assert!(held.keep(&window(2, 2)));
        assert!(!held.keep(&window(1, 4)));
        assert!(held.keep(&window(2, 8)));
        assert_eq!(taken(&mut held), [(1, 1, 1), (2, 2, 10)]);
    }

    #[test]
    fn what_is_late_overtakes_nothing() {
        let mut late = Late::<u8, 3>::new();
        assert_eq!((late.tell(1), late.tell(2)), (Ok(()), Ok(())));
        // There is room for one.
        let mut got = Vec::new();
        late.pass(|report| match got.len() {
            0 => {
                got.push(report);
                Ok(())
            }
            _ => Err(report),
        });
        assert_eq!(
            (late.tell(3), late.tell(4), late.tell(5)),
            (Ok(()), Ok(()), Err(5))
        );
        late.pass(|report| {
            got.push(report);
            Ok(())
        });
        assert_eq!(got, [1, 2, 3, 4]);
    }
}
