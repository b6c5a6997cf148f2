//! What a connection is to be subscribed to, and what the broker refused.
//!
//! Bookkeeping only: no socket and no clock, so that its times are tested without waiting.

use edgeward_mqtt::Backoff;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most subscriptions at once.
pub(super) const MAX: usize = 64;

/// How long the broker is left alone after the first refusal.
const FIRST: Duration = Duration::from_millis(200);

/// A subscription that the broker refused, and does not know now.
#[derive(Debug)]
struct Refused {
    filter: String,
    backoff: Backoff,
    /// When it is asked for again; none while the broker has not answered that.
    at: Option<Instant>,
}

/// The filters that are wanted.
#[derive(Debug)]
pub(super) struct Subscriptions {
    wanted: Vec<String>,
    /// Those that are to be asked for now.
    waiting: VecDeque<String>,
    refused: Vec<Refused>,
    /// Longest delay before a refused one is asked for again.
    most: Duration,
}

impl Subscriptions {
    pub(super) fn new(most: Duration) -> Self {
        Self {
            wanted: Vec::new(),
            waiting: VecDeque::new(),
            refused: Vec::new(),
            most,
        }
    }

    /// A filter is wanted; false when there are too many already.
    pub(super) fn want(&mut self, filter: &str) -> bool {
        if !self.wanted.iter().any(|known| known == filter) {
            if self.wanted.len() >= MAX {
                return false;
            }
            self.wanted.push(filter.to_owned());
        }
        self.ask(filter);
        true
    }

    fn ask(&mut self, filter: &str) {
        if !self.waiting.iter().any(|waiting| waiting == filter) {
            self.waiting.push_back(filter.to_owned());
        }
    }

    /// A filter is not wanted any more.
    pub(super) fn forget(&mut self, filter: &str) {
        self.wanted.retain(|known| known != filter);
        self.waiting.retain(|waiting| waiting != filter);
        self.refused.retain(|refused| refused.filter != filter);
    }

    /// The connection is new: everything is asked for.
    pub(super) fn connected(&mut self) {
        self.waiting = self.wanted.iter().cloned().collect();
        self.refused.clear();
    }

    /// The broker refused a filter, which it will be asked for again, ever later. True when that is
    /// news: it had not refused it since it granted it, or since the connection began.
    pub(super) fn refused(&mut self, filter: &str, now: Instant) -> bool {
        if !self.wanted.iter().any(|known| known == filter) {
            return false;
        }
        let known = self.refused.iter_mut().find(|it| it.filter == filter);
        let news = known.is_none();
        match known {
            Some(refused) => refused.at = Some(now + refused.backoff.delay()),
            None => {
                let mut backoff = Backoff::new(FIRST, self.most);
                let at = Some(now + backoff.delay());
                self.refused.push(Refused {
                    filter: filter.to_owned(),
                    backoff,
                    at,
                });
            }
        }
        news
    }

    /// The broker granted a filter.
    pub(super) fn granted(&mut self, filter: &str) {
        self.refused.retain(|refused| refused.filter != filter);
    }

    /// How many the broker refuses.
    pub(super) fn refusals(&self) -> usize {
        self.refused.len()
    }

    /// The next filter to ask the broker for; [`Subscriptions::asked`] says that it was.
    pub(super) fn next(&mut self, now: Instant) -> Option<&str> {
        let due = |it: &&mut Refused| it.at.is_some_and(|at| at <= now);
        if let Some(refused) = self.refused.iter_mut().find(due) {
            refused.at = None;
            let filter = refused.filter.clone();
            self.ask(&filter);
        }
        self.waiting.front().map(String::as_str)
    }

    /// The filter that [`Subscriptions::next`] gave was asked for.
    pub(super) fn asked(&mut self) -> Option<String> {
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is to be asked for now.
    fn asked(subscriptions: &mut Subscriptions, now: Instant) -> Vec<String> {
        let mut asked = Vec::new();
        while subscriptions.next(now).is_some() {
            asked.extend(subscriptions.asked());
        }
        asked
    }

    #[test]
    fn what_the_broker_refuses_is_asked_again_ever_later_until_it_grants_it() {
        let most = Duration::from_secs(1);
        let mut subscriptions = Subscriptions::new(most);
        let mut now = Instant::now();
        assert!(subscriptions.want("a") && subscriptions.want("b"));
        assert_eq!(asked(&mut subscriptions, now), ["a", "b"]);
        let mut delays = Vec::new();
        for round in 0..5 {
            assert_eq!(subscriptions.refused("a", now), round == 0);
            assert_eq!(subscriptions.refusals(), 1);
            let refused = now;
            while asked(&mut subscriptions, now).is_empty() {
                now += Duration::from_millis(100);
            }
            delays.push((now - refused).as_millis());
            let later = now + Duration::from_secs(60);
            assert!(
                asked(&mut subscriptions, later).is_empty(),
                "once a refusal"
            );
        }
        assert_eq!(delays, [200, 400, 800, 1000, 1000]);
        subscriptions.granted("a");
        assert_eq!(subscriptions.refusals(), 0);
        assert!(subscriptions.refused("a", now), "news again");
        // Not when it is wanted no more, nor when all is asked for by a new connection.
        subscriptions.forget("a");
        let later = now + most;
        assert!(asked(&mut subscriptions, later).is_empty());
        assert!(!subscriptions.refused("a", now), "an answer that is late");
        assert!(subscriptions.refused("b", now));
        subscriptions.connected();
        assert_eq!(asked(&mut subscriptions, later), ["b"]);
        assert_eq!(subscriptions.refusals(), 0);
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut subscriptions = Subscriptions::new(Duration::ZERO);
        for n in 0..MAX {
            assert!(subscriptions.want(&n.to_string()));
        }
        assert!(subscriptions.want("0") && !subscriptions.want("more"));
        assert_eq!(asked(&mut subscriptions, Instant::now()).len(), MAX);
    }
}
