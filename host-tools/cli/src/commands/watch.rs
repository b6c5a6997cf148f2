//! `edgeward watch`: what boards report, as it is stored.

use super::fleet::Fleet;
use crate::context::Context;
use crate::exit::Exit;
use anyhow::Result;
use edgeward::telemetry::{Alarm, Birth, Event, ReleaseId};
use edgeward_host::collector::now_ms;
use edgeward_host::store::{FrameQuery, Kind, StoredFrame};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Follow what boards report, as `edgeward serve` stores it: events by default.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward watch\n  edgeward watch --device wrist-1 --summaries -o json | jq .body.alarms"
)]
pub struct Args {
    #[command(flatten)]
    fleet: Fleet,
    /// Only this device.
    #[arg(long)]
    device: Option<String>,
    /// Summaries and births too.
    #[arg(long)]
    summaries: bool,
    /// Begin with the reports of the last so many seconds.
    #[arg(long, default_value_t = 60)]
    since: u64,
    /// End after so many seconds; 0 follows until it is stopped.
    #[arg(long, default_value_t = 0)]
    timeout: u64,
}

/// Pause between two looks into the store.
const PERIOD: Duration = Duration::from_millis(500);
/// How far back each look goes again, since batches are stored a moment after they were received.
const OVERLAP_MS: u64 = 2000;

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let store = args.fleet.store(context)?;
    let names: BTreeSet<String> = store
        .devices()?
        .into_iter()
        .filter(|device| device.fleet == args.fleet.fleet)
        .map(|device| device.name)
        .collect();
    let start = Instant::now();
    let mut since_ms = now_ms().saturating_sub(args.since * 1000);
    let mut shown: BTreeSet<(String, u64)> = BTreeSet::new();
    loop {
        let query = FrameQuery {
            device: args.device.clone(),
            kind: (!args.summaries).then_some(Kind::Event),
            since_ms: Some(since_ms),
            ..FrameQuery::default()
        };
        let looked_ms = now_ms();
        let frames = store.frames(&query)?;
        let mut seen = BTreeSet::new();
        for frame in frames.iter().filter(|frame| names.contains(&frame.device)) {
            let key = (frame.device.clone(), frame.sequence);
            if !shown.contains(&key) {
                context
                    .out
                    .emit_line(frame, |frame, w| writeln!(w, "{}", line(frame)))?;
            }
            seen.insert(key);
        }
        shown = seen;
        since_ms = since_ms.max(looked_ms.saturating_sub(OVERLAP_MS));
        if args.timeout > 0 && start.elapsed() >= Duration::from_secs(args.timeout) {
            return Ok(Exit::Ok);
        }
        std::thread::sleep(PERIOD);
    }
}

/// One report on one line.
fn line(frame: &StoredFrame) -> String {
    let body = match frame.kind {
        Kind::Summary => format!(
            "{} samples, {} inferences, {} errors, {} alarms",
            frame.body["samples"],
            frame.body["inferences"],
            frame.body["errors"],
            frame.body["alarms"]
        ),
        Kind::Event => serde_json::from_value(frame.body.clone())
            .map_or_else(|_| frame.body.to_string(), event),
        Kind::Birth => serde_json::from_value(frame.body.clone())
            .map_or_else(|_| frame.body.to_string(), |body| birth(&body)),
    };
    let seconds = frame.received_ms / 1000;
    format!(
        "{:02}:{:02}:{:02} {} #{} {} {}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        frame.device,
        frame.sequence,
        frame.kind.name(),
        body
    )
}

/// What happened, in words.
fn event(event: Event) -> String {
    match event {
        Event::Alarm { alarm, .. } => alarm_line(alarm),
        Event::Slot {
            slot,
            release,
            state,
        } => format!("slot {}: {state:?}, release {}", letter(slot), id(release)),
        Event::Refused { what } => format!("refused: {what:?}"),
        Event::Reverted { from, to, reason } => format!(
            "release {} failed ({reason:?}), back to {}",
            id(from),
            to.map_or_else(|| "none".into(), id)
        ),
        Event::Resumed {
            release,
            kept,
            total,
        } => format!(
            "download of release {} goes on, {kept} of {total} chunks are here",
            id(release)
        ),
        other => format!("{other:?}"),
    }
}

/// An alarm in words; features by their place in the schema, which frames do not name.
fn alarm_line(alarm: Alarm) -> String {
    let of = |feature: Option<u16>, none: &str| {
        feature.map_or_else(|| none.to_owned(), |index| format!("feature {index}"))
    };
    match alarm {
        Alarm::Violation {
            kind,
            feature,
            value,
            sample,
        } => format!(
            "alarm {kind:?} of {}: {value} at sample {sample}",
            of(feature, "the sample")
        ),
        Alarm::Drift {
            statistic,
            feature,
            value,
            limit,
        } => format!(
            "alarm drift of {}: {statistic:?} {value:.4}, limit {limit:.4}",
            of(feature, "the predictions")
        ),
        other => format!("alarm {other:?}"),
    }
}

/// What a board is and holds.
fn birth(birth: &Birth) -> String {
    let slots: Vec<_> = birth
        .slots
        .iter()
        .zip(["A", "B"])
        .map(|(slot, name)| format!("slot {name}: {:?} {}", slot.state, slot.version))
        .map(|slot| slot.trim_end().to_owned())
        .collect();
    let running = birth
        .running
        .map_or_else(|| "nothing".into(), |slot| format!("slot {}", letter(slot)));
    format!(
        "firmware {}, root {}, floor {}, runs {running}, {}",
        birth.firmware,
        birth.root_version,
        birth.floor,
        slots.join(", ")
    )
}

/// A slot as the agent's log names it.
fn letter(slot: u8) -> char {
    if slot == 0 { 'A' } else { 'B' }
}

/// The first digits of a release's digest.
fn id(release: ReleaseId) -> String {
    release.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::contract::ViolationKind;
    use edgeward::telemetry::{SlotState, Statistic};

    #[test]
    fn events_are_told_in_words() {
        let slot = Event::Slot {
            slot: 1,
            release: [0xed, 0xa1, 0, 1, 2, 3, 4, 5],
            state: SlotState::Trial,
        };
        assert_eq!(event(slot), "slot B: Trial, release eda1000102030405");
        let violation = Alarm::Violation {
            kind: ViolationKind::AboveRange,
            feature: Some(24),
            value: 16.0,
            sample: 7,
        };
        assert_eq!(
            alarm_line(violation),
            "alarm AboveRange of feature 24: 16 at sample 7"
        );
        let drift = Alarm::Drift {
            statistic: Statistic::Psi,
            feature: None,
            value: 0.75,
            limit: 0.5,
        };
        assert_eq!(
            alarm_line(drift),
            "alarm drift of the predictions: Psi 0.7500, limit 0.5000"
        );
    }
}
