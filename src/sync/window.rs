//! The chunks in flight: which are asked for, until when, and which wait for another try.

use heapless::Vec;

/// Where a chunk is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To be asked for at this time.
    Waiting { at_ms: u64 },
    /// Subscribed; asked for again when it has not come by this time.
    Asked { until_ms: u64 },
    /// To be unsubscribed, then tried again at this time, or not at all.
    Ending { again_ms: Option<u64> },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    n: u32,
    place: Place,
    tries: u8,
    reported: bool,
}

/// What to do about a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Todo {
    Subscribe(u32),
    Unsubscribe(u32),
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// For a chunk that was asked for.
    pub(super) timeout_ms: u64,
    /// Before the first other try; doubled with each.
    pub(super) backoff_ms: u64,
    /// At most between two tries.
    pub(super) backoff_max_ms: u64,
}

impl Timing {
    /// How long to wait after so many tries that failed (1 or more).
    pub(super) fn backoff(&self, tries: u8) -> u64 {
        let factor = 1_u64 << u32::from(tries.saturating_sub(1)).min(20);
        self.backoff_ms
            .saturating_mul(factor)
            .min(self.backoff_max_ms)
    }
}

/// At most `W` chunks on their way.
#[derive(Debug)]
pub(super) struct Window<const W: usize> {
    entries: Vec<Entry, W>,
}

impl<const W: usize> Window<W> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.is_full()
    }

    pub(super) fn contains(&self, n: u32) -> bool {
        self.entries.iter().any(|entry| entry.n == n)
    }

    /// Adds chunk `n`, to be asked for now; nothing if it is there or the window is full.
    pub(super) fn want(&mut self, n: u32) {
        if !self.contains(n) {
            // A full window takes no more; the caller asks again later.
            let _ = self.entries.push(Entry {
                n,
                place: Place::Waiting { at_ms: 0 },
                tries: 0,
                reported: false,
            });
        }
    }

    /// Whether chunk `n` is still wanted, so that a copy of it may be looked at.
    pub(super) fn wants(&self, n: u32) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.n == n && entry.place != Place::Ending { again_ms: None })
    }

    /// Chunk `n` is written.
    pub(super) fn done(&mut self, n: u32) {
        self.end(|entry| entry.n == n);
    }

    /// Chunk `n` did not hold; true the first time.
    pub(super) fn bad(&mut self, n: u32, now_ms: u64, timing: &Timing) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.n == n) else {
            return false;
        };
        let first = !entry.reported;
        entry.reported = true;
        entry.fail(now_ms, timing);
        first
    }

    /// Gives every chunk up.
    pub(super) fn clear(&mut self) {
        self.end(|_| true);
    }

    fn end(&mut self, which: impl Fn(&Entry) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| which(entry)) {
            entry.place = match entry.place {
                Place::Waiting { .. } => Place::Waiting { at_ms: u64::MAX },
                _ => Place::Ending { again_ms: None },
            };
        }
        let gone = Place::Waiting { at_ms: u64::MAX };
        self.entries.retain(|entry| entry.place != gone);
    }

    /// The broker has forgotten what was asked for.
    pub(super) fn disconnected(&mut self) {
        for entry in &mut self.entries {
            entry.place = match entry.place {
                Place::Asked { .. } => Place::Waiting { at_ms: 0 },
                Place::Ending { again_ms } => Place::Waiting {
                    at_ms: again_ms.unwrap_or(u64::MAX),
                },
                waiting @ Place::Waiting { .. } => waiting,
            };
        }
        let gone = Place::Waiting { at_ms: u64::MAX };
        self.entries.retain(|entry| entry.place != gone);
    }

    /// The next thing to do; with `ask` false, nothing new is asked for.
    pub(super) fn poll(&mut self, now_ms: u64, ask: bool, timing: &Timing) -> Option<Todo> {
        for at in 0..self.entries.len() {
            let entry = &mut self.entries[at];
            let n = entry.n;
            match entry.place {
                Place::Ending { again_ms } => {
                    match again_ms {
                        Some(at_ms) => entry.place = Place::Waiting { at_ms },
                        None => {
                            self.entries.swap_remove(at);
                        }
                    }
                    return Some(Todo::Unsubscribe(n));
                }
                Place::Waiting { at_ms } if ask && now_ms >= at_ms => {
                    let until_ms = now_ms.saturating_add(timing.timeout_ms);
                    entry.place = Place::Asked { until_ms };
                    return Some(Todo::Subscribe(n));
                }
                Place::Asked { .. } if !ask => {
                    entry.place = Place::Waiting { at_ms: 0 };
                    return Some(Todo::Unsubscribe(n));
                }
                Place::Asked { until_ms } if now_ms >= until_ms => {
                    entry.fail(now_ms, timing);
                    let Place::Ending {
                        again_ms: Some(at_ms),
                    } = entry.place
                    else {
                        continue;
                    };
                    entry.place = Place::Waiting { at_ms };
                    return Some(Todo::Unsubscribe(n));
                }
                Place::Waiting { .. } | Place::Asked { .. } => {}
            }
        }
        None
    }

    /// When [`Window::poll`] has something to do next, if nothing else happens.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.entries
            .iter()
            .map(|entry| match entry.place {
                Place::Waiting { at_ms } => at_ms,
                Place::Asked { until_ms } => until_ms,
                Place::Ending { .. } => 0,
            })
            .min()
    }
}

impl Entry {
    fn fail(&mut self, now_ms: u64, timing: &Timing) {
        self.tries = self.tries.saturating_add(1);
        let again_ms = now_ms.saturating_add(timing.backoff(self.tries));
        self.place = match self.place {
            // Came although it was not asked for (any more): nothing to unsubscribe.
            Place::Waiting { .. } => Place::Waiting { at_ms: again_ms },
            _ => Place::Ending {
                again_ms: Some(again_ms),
            },
        };
    }
}
