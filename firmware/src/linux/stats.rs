//! What the agent says about itself when asked for `stats`: one line of JSON.

use edgeward::telemetry::latency::LatencyHistogram;
use edgeward::telemetry::{Alarm, ReleaseId};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Inferences after a release starts that are not counted as steady state: the pool's lists fill.
pub const WARM_UP: u64 = 64;
/// Alarms that are remembered.
pub const ALARMS: usize = 32;

/// What the inference thread counts. Updating it allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Release that runs, and how.
    pub release: Option<ReleaseId>,
    /// Index of its slot.
    pub slot: Option<u8>,
    /// `confirmed`, `trial`, or nothing.
    pub mode: &'static str,
    /// Release that runs in shadow.
    pub shadow: Option<ReleaseId>,
    /// Agreement of the shadow so far, per mille.
    pub shadow_agreement_per_mille: Option<u16>,
    /// Samples that a release saw.
    pub samples: u64,
    /// Samples that came while no release ran.
    pub idle_samples: u64,
    /// Samples kept out by the policy.
    pub rejected: u64,
    /// Answers by the model.
    pub predictions: u64,
    /// Inferences that failed.
    pub errors: u64,
    /// Answers from the last good one.
    pub fallbacks: u64,
    /// Lines that were refused.
    pub bad_lines: u64,
    /// Windows that ended.
    pub windows: u64,
    /// Alarms raised by the release that runs, and all before it.
    pub alarms: u64,
    /// Alarms that found the way to the control thread full; the summaries count them.
    pub alarms_not_queued: u64,
    /// Windows that no report holds, because the control thread was stuck.
    pub windows_lost: u64,
    /// Inferences in steady state.
    pub steady_inferences: u64,
    /// Calls to the system's allocator in them: on all sample lines since the answer before, also those that only
    /// fill a window.
    pub steady_allocations: u64,
    /// Frees in them.
    pub steady_frees: u64,
    /// Whether calls are counted at all: the program has the pool for its allocator.
    pub counted: bool,
    /// Latencies of all inferences.
    pub latency: LatencyHistogram,
    /// The newest alarms, oldest first.
    pub recent: heapless::Deque<Alarm, ALARMS>,
    /// Drift alarms of the window that ended last.
    pub drifting: u32,
}

impl Counters {
    /// Remembers an alarm.
    pub fn alarm(&mut self, alarm: Alarm) {
        self.alarms += 1;
        if self.recent.is_full() {
            self.recent.pop_front();
        }
        // There is room: one was just removed if there was none.
        let _ = self.recent.push_back(alarm);
    }
}

/// What the control thread knows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The device.
    pub device: String,
    /// The fleet.
    pub fleet: String,
    /// Boot, counted from 1.
    pub boot: u32,
    /// Whether the broker is connected.
    pub connected: bool,
    /// The two slots.
    pub slots: Vec<SlotStatus>,
    /// Index of the slot that boots.
    pub confirmed: Option<u8>,
    /// Least release counter accepted.
    pub floor: u32,
    /// Version of the trust root.
    pub root_version: u32,
    /// Sequence number of the desired state accepted last.
    pub desired: u64,
    /// Why the last release failed.
    pub last_failure: Option<(String, String)>,
    /// Records that wait for an acknowledgement.
    pub outbox_records: usize,
    /// Number of the next frame.
    pub next_sequence: u64,
    /// Names the outbox that counts them.
    pub epoch: String,
    /// Everything up to this number is acknowledged.
    pub acknowledged: u64,
    /// Refusals that were too many to be reported.
    pub unreported_refusals: u32,
    /// Subscriptions that the broker refuses.
    pub refused_subscriptions: usize,
}

/// One slot.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SlotStatus {
    /// Its state.
    pub state: String,
    /// The release in it.
    pub release: String,
    /// Its version.
    pub version: String,
    /// Its counter.
    pub counter: u32,
}

/// Both halves, shared by the threads.
#[derive(Debug, Default)]
pub struct Stats {
    counters: Mutex<Counters>,
    status: Mutex<Status>,
}

#[derive(Serialize)]
struct Json<'a> {
    release: Option<String>,
    slot: Option<u8>,
    mode: &'a str,
    shadow: Option<String>,
    shadow_agreement_per_mille: Option<u16>,
    samples: u64,
    idle_samples: u64,
    rejected: u64,
    predictions: u64,
    errors: u64,
    fallbacks: u64,
    bad_lines: u64,
    windows: u64,
    alarms: u64,
    alarms_not_queued: u64,
    windows_lost: u64,
    drifting: u32,
    steady_inferences: u64,
    /// Nothing where calls are not counted.
    allocations_per_inference: Option<f64>,
    frees_per_inference: Option<f64>,
    latency_us: Latency,
    recent_alarms: Vec<Alarm>,
    #[serde(flatten)]
    status: &'a Status,
}

#[derive(Serialize)]
struct Latency {
    p50: Option<u32>,
    p99: Option<u32>,
    p999: Option<u32>,
    max: u32,
}

impl Stats {
    /// The inference thread's half.
    pub fn counters(&self) -> MutexGuard<'_, Counters> {
        // Counters are numbers: a thread that died in between left them usable.
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control thread's half.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line of JSON, with its end.
    #[must_use]
    pub fn line(&self) -> String {
        // Copied, so that the inference thread waits for the copy and not for the formatting.
        let counters = self.counters().clone();
        let status = self.status().clone();
        let per = |calls: u64| {
            let some = counters.counted && counters.steady_inferences > 0;
            some.then(|| calls as f64 / counters.steady_inferences as f64)
        };
        let json = Json {
            release: counters.release.map(|id| hex(&id)),
            slot: counters.slot,
            mode: counters.mode,
            shadow: counters.shadow.map(|id| hex(&id)),
            shadow_agreement_per_mille: counters.shadow_agreement_per_mille,
            samples: counters.samples,
            idle_samples: counters.idle_samples,
            rejected: counters.rejected,
            predictions: counters.predictions,
            errors: counters.errors,
            fallbacks: counters.fallbacks,
            bad_lines: counters.bad_lines,
            windows: counters.windows,
            alarms: counters.alarms,
            alarms_not_queued: counters.alarms_not_queued,
            windows_lost: counters.windows_lost,
            drifting: counters.drifting,
            steady_inferences: counters.steady_inferences,
            allocations_per_inference: per(counters.steady_allocations),
            frees_per_inference: per(counters.steady_frees),
            latency_us: Latency {
                p50: counters.latency.quantile_us(500),
                p99: counters.latency.quantile_us(990),
                p999: counters.latency.quantile_us(999),
                max: counters.latency.max_us(),
            },
            recent_alarms: counters.recent.iter().copied().collect(),
            status: &status,
        };
        let mut line = serde_json::to_string(&json).unwrap_or_else(|_| "{}".into());
        line.push('\n');
        line
    }
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_json_with_both_halves() {
        let stats = Stats::default();
        stats.status().device = "press-1".into();
        {
            let mut counters = stats.counters();
            counters.steady_inferences = 4;
            counters.steady_allocations = 2;
            counters.counted = true;
            counters.latency.record(100);
        }
        let line = stats.line();
        assert!(line.ends_with("}\n") && !line.trim_end().contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["device"], "press-1");
        assert_eq!(value["allocations_per_inference"], 0.5);
        assert_eq!(value["latency_us"]["p50"], 100);
    }
}
