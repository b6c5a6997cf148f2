//! What the store is told once a second at most: which devices were heard of, and what was refused.
//!
//! Both come with every message, hostile ones too, and a transaction each would let whoever floods
//! the broker hold up the acknowledgements of honest boards.

use super::now_ms;
use crate::store::{Refusal, Seen, Store, StoreError, Unknown};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Pause between two notes.
const PERIOD: Duration = Duration::from_secs(1);
/// Refusals kept in full from one note to the next; all are counted.
const KEPT: usize = 20;

/// Notes not yet in the store.
#[derive(Default)]
pub(super) struct Notes {
    seen: BTreeMap<String, Seen>,
    unknown: BTreeMap<(String, String), Unknown>,
    refusals: Vec<Refusal>,
    counts: BTreeMap<&'static str, u64>,
    written: Option<Instant>,
}

impl Notes {
    /// An enrolled device sent something new, just now.
    pub(super) fn heard(&mut self, device: &str) {
        let seen = self.of(device);
        seen.time_ms = seen.time_ms.max(Some(now_ms()));
    }

    /// Somebody says whether an enrolled device is connected.
    pub(super) fn online(&mut self, device: &str, online: bool) {
        self.of(device).online = Some(online);
    }

    fn of(&mut self, device: &str) -> &mut Seen {
        self.seen.entry(device.to_owned()).or_insert_with(|| Seen {
            device: device.to_owned(),
            online: None,
            time_ms: None,
        })
    }

    /// A board that nobody enrolled sent something signed by the key of this id, or so it says.
    pub(super) fn unknown(&mut self, fleet: &str, device: &str, key_id: &str) {
        let key = (device.to_owned(), key_id.to_owned());
        if self.unknown.len() >= KEPT && !self.unknown.contains_key(&key) {
            return;
        }
        let time_ms = now_ms();
        let unknown = self.unknown.entry(key).or_insert_with(|| Unknown {
            fleet: fleet.to_owned(),
            name: device.to_owned(),
            key_id: key_id.to_owned(),
            first_ms: time_ms,
            seen_ms: time_ms,
            messages: 0,
        });
        unknown.seen_ms = time_ms;
        unknown.messages += 1;
    }

    /// A message was refused.
    pub(super) fn refused(&mut self, topic: &str, reason: &'static str, detail: String) {
        let count = self.counts.entry(reason).or_default();
        *count = count.saturating_add(1);
        if self.refusals.len() >= KEPT {
            return;
        }
        tracing::warn!(topic, reason, detail, "refused");
        self.refusals.push(Refusal {
            time_ms: now_ms(),
            topic: topic.to_owned(),
            reason: reason.to_owned(),
            detail,
        });
    }

    /// Writes what there is, if it is time to; what the store does not take is kept for the next time.
    pub(super) fn write_if_due(&mut self, store: &dyn Store) {
        if self.written.is_none_or(|at| at.elapsed() >= PERIOD) {
            self.write(store);
        }
    }

    /// Writes what there is.
    pub(super) fn write(&mut self, store: &dyn Store) {
        self.written = Some(Instant::now());
        if let Err(error) = self.try_write(store) {
            tracing::error!(%error, "refusals and the devices' last messages wait");
        }
    }

    fn try_write(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        if !self.seen.is_empty() {
            let seen: Vec<Seen> = self.seen.values().cloned().collect();
            store.seen(&seen)?;
            self.seen.clear();
        }
        if !self.unknown.is_empty() {
            let unknown: Vec<Unknown> = self.unknown.values().cloned().collect();
            store.note_unknown(&unknown)?;
            self.unknown.clear();
        }
        if !self.counts.is_empty() {
            let counts: Vec<_> = self.counts.iter().map(|(&why, &n)| (why, n)).collect();
            store.refuse(&self.refusals, &counts)?;
            let all: u64 = counts.iter().map(|(_, n)| n).sum();
            let unsaid = all.saturating_sub(self.refusals.len() as u64);
            if unsaid > 0 {
                tracing::warn!(unsaid, "more were refused, and only counted");
            }
            self.counts.clear();
            self.refusals.clear();
        }
        Ok(())
    }
}
