//! `edgeward watch`: what boards report, as it is stored.

use super::fleet::{Fleet, look, seconds};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Format, colour};
use crate::stop;
use anyhow::Result;
use edgeward::policy::Severity;
use edgeward::telemetry::{Birth, Crash, Event, ReleaseId, SlotState};
use edgeward_host::catalog::{Catalog, Explained};
use edgeward_host::collector::now_ms;
use edgeward_host::keys::hex;
use edgeward_host::names::{readable, reason_name, slot_state_name};
use edgeward_host::status::{alarm_of, group, slot_letter, summary_of, window, words};
use edgeward_host::store::{FrameQuery, Kind, StoreError, StoredFrame};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Follow what boards report, as `edgeward serve` stores it: what happened, and one line for each
/// window that had alarms.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward watch\n  edgeward watch --device wrist-1 -o json | jq .alarm\n\nWith -o json each report is a line of its own. Changes nothing."
)]
pub struct Args {
    #[command(flatten)]
    fleet: Fleet,
    /// Only this device.
    #[arg(long)]
    device: Option<String>,
    /// Windows without an alarm and births too.
    #[arg(long)]
    summaries: bool,
    /// Begin with the reports of the last so many seconds.
    #[arg(long, default_value_t = 60, value_parser = seconds(0))]
    since: u64,
    /// End after so many seconds; 0 follows until it is stopped (SIGINT, SIGTERM).
    #[arg(long, default_value_t = 0, value_parser = seconds(0))]
    timeout: u64,
}

/// Pause between two looks into the store.
const PERIOD: Duration = Duration::from_millis(500);
/// How far back each look goes again, since batches are stored a moment after they were received.
const OVERLAP_MS: u64 = 2000;
/// How long alarms wait for the end of their window, after which they are shown without it.
const HOLD_MS: u64 = 2000;

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let json = context.out.format() == Format::Json;
    let mut lines = Lines {
        catalog: Catalog::at(&context.home),
        all: args.summaries,
        colour: colour(&io::stdout()),
        open: BTreeMap::new(),
    };
    let stop = stop::flag()?;
    let start = Instant::now();
    let mut since_ms = now_ms().saturating_sub(args.since.saturating_mul(1000));
    let mut shown: BTreeSet<(String, u32, u64)> = BTreeSet::new();
    if let Some(device) = &args.device {
        let known = look(context, |store| Ok(store.device(device)?.is_some()))?;
        if !known {
            return Err(StoreError::NoDevice(device.clone()).into());
        }
    }
    loop {
        let events_only = json && !args.summaries;
        let query = FrameQuery {
            fleet: Some(args.fleet.fleet.clone()),
            device: args.device.clone(),
            kind: events_only.then_some(Kind::Event),
            since_ms: Some(since_ms),
            ..FrameQuery::default()
        };
        let (looked_ms, frames) = look(context, |store| Ok((now_ms(), store.frames(&query)?)))?;
        let mut seen = BTreeSet::new();
        for frame in &frames {
            let key = (frame.device.clone(), frame.epoch, frame.sequence);
            if !shown.contains(&key) {
                if json {
                    context.out.emit_line(&lines.row(frame), |_, _| Ok(()))?;
                } else {
                    context.out.raw(lines.take(frame).as_bytes())?;
                }
            }
            seen.insert(key);
        }
        shown = seen;
        since_ms = since_ms.max(looked_ms.saturating_sub(OVERLAP_MS));
        let timeout = Duration::from_secs(args.timeout);
        let over = stop.load(Ordering::Acquire) || (args.timeout > 0 && start.elapsed() >= timeout);
        let before_ms = if over {
            u64::MAX
        } else {
            now_ms().saturating_sub(HOLD_MS)
        };
        context.out.raw(lines.overdue(before_ms).as_bytes())?;
        if over {
            return Ok(Exit::Ok);
        }
        std::thread::sleep(PERIOD);
    }
}

/// A report as JSON: the stored frame, and an alarm in names. The field names are stable.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    frame: StoredFrame,
    #[serde(skip_serializing_if = "Option::is_none")]
    alarm: Option<Explained>,
}

/// Alarms of a window whose end has not come yet.
#[derive(Default)]
struct Open {
    alarms: Vec<(u64, Explained)>,
    newest_ms: u64,
}

/// Turns reports into lines.
struct Lines {
    catalog: Catalog,
    /// Whether windows without an alarm are shown too, and births.
    all: bool,
    colour: bool,
    open: BTreeMap<String, Open>,
}

impl Lines {
    fn row(&self, frame: &StoredFrame) -> Row {
        let alarm = alarm_of(&frame.body).filter(|_| frame.kind == Kind::Event);
        let mut frame = frame.clone();
        readable(&mut frame.body);
        Row {
            frame,
            alarm: alarm.map(|(release, alarm)| self.catalog.explain(release, &alarm)),
        }
    }

    /// The lines that a report makes: none for an alarm, which waits for its window.
    fn take(&mut self, frame: &StoredFrame) -> String {
        match frame.kind {
            Kind::Event => {
                if let Some((release, alarm)) = alarm_of(&frame.body) {
                    let explained = self.catalog.explain(release, &alarm);
                    let open = self.open.entry(frame.device.clone()).or_default();
                    // The newest first, as it is the one that is shown.
                    open.alarms.insert(0, (frame.received_ms, explained));
                    open.newest_ms = frame.received_ms;
                    return String::new();
                }
                let words = Event::deserialize(&frame.body)
                    .map_or_else(|_| frame.body.to_string(), |event| self.event(event));
                self.close(&frame.device) + &line(frame.received_ms, &frame.device, &words)
            }
            Kind::Summary => self.window(frame),
            Kind::Birth if self.all => {
                let words = Birth::deserialize(&frame.body)
                    .map_or_else(|_| frame.body.to_string(), |birth| birth_words(&birth));
                line(frame.received_ms, &frame.device, &words)
            }
            Kind::Birth => String::new(),
        }
    }

    /// A window that ended, with the alarms that it had.
    fn window(&mut self, frame: &StoredFrame) -> String {
        let open = self.open.remove(&frame.device).unwrap_or_default();
        if open.alarms.is_empty() && !self.all {
            return String::new();
        }
        let mut words = match summary_of(&frame.raw) {
            Some(summary) => {
                let window = window(frame.received_ms, &summary, &self.catalog);
                let mut words = format!(
                    "{} window: {} samples, {} inferences, {} errors",
                    self.release(summary.release),
                    window.samples,
                    window.inferences,
                    window.errors
                );
                if let Some(p99) = window.p99_words() {
                    words.push_str(&format!(", p99 {p99}"));
                }
                if let Some(accuracy) = window.estimated_accuracy {
                    words.push_str(&format!(", est. accuracy {:.1} %", accuracy * 100.0));
                }
                words
            }
            None => format!("window: {} samples", frame.body["samples"]),
        };
        if !open.alarms.is_empty() {
            words.push_str("; ");
            words.push_str(&self.alarms(open.alarms));
        }
        line(frame.received_ms, &frame.device, &words)
    }

    /// Alarms of a device whose window's end is not waited for.
    fn close(&mut self, device: &str) -> String {
        let Some(open) = self.open.remove(device) else {
            return String::new();
        };
        line(open.newest_ms, device, &self.alarms(open.alarms))
    }

    /// Alarms whose window has not ended since `before_ms`.
    fn overdue(&mut self, before_ms: u64) -> String {
        let late = self
            .open
            .iter()
            .filter(|(_, open)| open.newest_ms <= before_ms);
        let late: Vec<String> = late.map(|(device, _)| device.clone()).collect();
        late.iter().map(|device| self.close(device)).collect()
    }

    /// Alarms grouped by kind and feature, the gravest first.
    fn alarms(&self, alarms: Vec<(u64, Explained)>) -> String {
        let groups = group(alarms);
        let words = words(&groups).into_iter().map(|(severity, text)| {
            let code = match severity {
                Severity::High => "1;31",
                Severity::Medium => "33",
                Severity::Low => "2",
            };
            match self.colour {
                true => format!("\x1b[{code}m{text}\x1b[0m"),
                false => text,
            }
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// A release's model and version, or the first digits of its digest.
    fn release(&self, release: ReleaseId) -> String {
        match self.catalog.get(release) {
            Some(known) => format!("{} {}", known.name, known.version),
            None => format!("release {}", hex(&release)),
        }
    }

    /// What happened, in words.
    fn event(&self, event: Event) -> String {
        match event {
            Event::Slot {
                slot,
                release,
                state,
            } => {
                let why = match state {
                    SlotState::Rejected(reason) => format!(" ({})", reason_name(reason)),
                    _ => String::new(),
                };
                format!(
                    "slot {}: {}{why}, {}",
                    slot_letter(slot),
                    slot_state_name(state),
                    self.release(release)
                )
            }
            Event::Refused { what } => format!("refused: {what:?}"),
            Event::Reverted { from, to, reason } => format!(
                "{} failed ({}), back to {}",
                self.release(from),
                reason_name(reason),
                to.map_or_else(|| "none".into(), |to| self.release(to))
            ),
            Event::Resumed {
                release,
                kept,
                total,
            } => format!(
                "download of {} goes on, {kept} of {total} chunks are here",
                self.release(release)
            ),
            Event::Crashed { how, at } => match how {
                // What it is depends on the image, which the report does not tell.
                Crash::Panic => format!(
                    "the firmware panicked at line {at} (a lean image: at {at:#010x}), and started again"
                ),
                Crash::Fault => format!("the firmware faulted at {at:#010x}, and started again"),
                Crash::Watchdog => {
                    format!("the watchdog ended an inference loop that stood at {at:#010x}")
                }
                other => format!("the firmware ended: {other:?} at {at:#x}"),
            },
            other => format!("{other:?}"),
        }
    }
}

/// A line of the day's time, a device, and what it reports.
fn line(received_ms: u64, device: &str, words: &str) -> String {
    let seconds = received_ms / 1000;
    format!(
        "{:02}:{:02}:{:02} {device} {words}\n",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    )
}

/// What a board is and holds.
fn birth_words(birth: &Birth) -> String {
    let slots: Vec<_> = birth
        .slots
        .iter()
        .zip(["A", "B"])
        .map(|(slot, name)| {
            let state = slot_state_name(slot.state);
            format!("slot {name}: {state} {}", slot.version)
        })
        .map(|slot| slot.trim_end().to_owned())
        .collect();
    let running = birth.running.map_or_else(
        || "nothing".into(),
        |slot| format!("slot {}", slot_letter(slot)),
    );
    format!(
        "birth: agent {}, root {}, floor {}, runs {running}, {}",
        birth.firmware,
        birth.root_version,
        birth.floor,
        slots.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward::contract::ViolationKind;
    use edgeward::telemetry::{Alarm, Reason, Statistic};

    fn lines(colour: bool) -> Lines {
        Lines {
            catalog: Catalog::at(std::path::Path::new("nowhere")),
            all: false,
            colour,
            open: BTreeMap::new(),
        }
    }

    fn frame(sequence: u64, kind: Kind, body: serde_json::Value) -> StoredFrame {
        StoredFrame {
            device: "d".to_owned(),
            epoch: 1,
            acknowledged: 0,
            boot: 1,
            first_sequence: sequence,
            sequence,
            time_ms: 0,
            received_ms: 3_600_000 + sequence,
            kind,
            body,
            raw: Vec::new(),
        }
    }

    fn event(sequence: u64, event: Event) -> StoredFrame {
        let body = serde_json::to_value(event).expect("JSON");
        frame(sequence, Kind::Event, body)
    }

    fn alarm(sequence: u64, alarm: Alarm) -> StoredFrame {
        let release = [0xed; 8];
        event(sequence, Event::Alarm { release, alarm })
    }

    fn stuck(sequence: u64, value: f32) -> StoredFrame {
        let violation = Alarm::Violation {
            kind: ViolationKind::Stuck,
            feature: Some(24),
            value,
            sample: 7,
        };
        alarm(sequence, violation)
    }

    fn drift(sequence: u64) -> StoredFrame {
        let drift = Alarm::Drift {
            statistic: Statistic::Psi,
            feature: Some(1),
            value: 0.75,
            limit: 0.5,
        };
        alarm(sequence, drift)
    }

    #[test]
    fn alarms_of_a_window_are_one_line() {
        let mut lines = lines(false);
        for (sequence, value) in [(1, 16.0), (2, 17.0)] {
            assert_eq!(lines.take(&stuck(sequence, value)), "");
        }
        assert_eq!(lines.take(&drift(3)), "");
        let body = serde_json::json!({ "samples": 1000 });
        let line = lines.take(&frame(4, Kind::Summary, body.clone()));
        assert_eq!(
            line,
            "01:00:00 d window: 1000 samples; high stuck feature 24 (17) x2; \
             medium feature_drift feature 1 (psi 0.750, limit 0.500)\n"
        );
        // A quiet window is nothing to say, unless all are wanted.
        assert_eq!(lines.take(&frame(5, Kind::Summary, body.clone())), "");
        lines.all = true;
        assert!(lines.take(&frame(6, Kind::Summary, body)).contains("1000"));
    }

    #[test]
    fn alarms_do_not_wait_for_ever_and_come_before_what_happened_after_them() {
        let mut lines = lines(true);
        lines.take(&stuck(1, 16.0));
        assert_eq!(lines.overdue(3_600_000), "");
        let red = "01:00:00 d \x1b[1;31mhigh stuck feature 24 (16)\x1b[0m\n";
        assert_eq!(lines.overdue(3_600_001), red);
        assert_eq!(lines.overdue(u64::MAX), "");
        lines.take(&stuck(2, 16.0));
        let reverted = Event::Reverted {
            from: [0xed; 8],
            to: None,
            reason: Reason::Latency,
        };
        let after = "01:00:00 d release edededededededed failed (latency), back to none\n";
        assert_eq!(lines.take(&event(3, reverted)), red.to_owned() + after);
    }
}
