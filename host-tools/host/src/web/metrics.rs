//! Prometheus' text format.
//!
//! Labels are names of enrolled devices, of features, releases and classes that were published from
//! here, and words from fixed lists: what a stranger sends never becomes a label.

use super::{BoardOverview, Overview};
use crate::names::SLOT_STATES;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Features that have a series of their own; the least drifted of more share one, `other`.
const FEATURES: usize = 32;

/// A metric of each board: name, type, help, and how it is read.
type Metric = (
    &'static str,
    &'static str,
    &'static str,
    fn(&BoardOverview) -> Option<f64>,
);

const METRICS: &[Metric] = &[
    (
        "board_online",
        "gauge",
        "1 while the broker has the board's connection.",
        |board| Some(f64::from(u8::from(board.device.online))),
    ),
    (
        "board_seen_seconds",
        "gauge",
        "Time of the board's last message, since 1970.",
        |board| board.device.seen_ms.map(|ms| ms as f64 / 1000.0),
    ),
    (
        "board_boots",
        "counter",
        "Boots of the board, as it counts them.",
        |board| board.status.boot.map(f64::from),
    ),
    (
        "frames_stored",
        "counter",
        "Frames stored without a gap.",
        |board| Some(board.device.through as f64),
    ),
    (
        "frames_missing",
        "gauge",
        "Frames missing below the newest: on their way, or lost.",
        |board| Some(board.status.missing_frames as f64),
    ),
    (
        "window_samples",
        "gauge",
        "Samples in the newest summary.",
        |board| of_summary(board, "samples"),
    ),
    (
        "window_rejected",
        "gauge",
        "Samples kept out by the policy.",
        |board| of_summary(board, "rejected"),
    ),
    (
        "window_inferences",
        "gauge",
        "Inferences in the newest summary.",
        |board| of_summary(board, "inferences"),
    ),
    ("window_errors", "gauge", "Failed inferences.", |board| {
        of_summary(board, "errors")
    }),
    (
        "window_alarms",
        "gauge",
        "Alarms in the newest summary.",
        |board| of_summary(board, "alarms"),
    ),
    (
        "latency_p50_microseconds",
        "gauge",
        "Median of the latency.",
        |board| {
            let window = board.status.windows.first()?;
            window.latency_p50_us.map(f64::from)
        },
    ),
    (
        "latency_p99_microseconds",
        "gauge",
        "99th percentile of the latency.",
        |board| board.latency_p99_us.map(f64::from),
    ),
    (
        "latency_p99_cycles",
        "gauge",
        "99th percentile of the latency in cycles of the core, where its clock is known.",
        |board| {
            let window = board.status.windows.first()?;
            window.latency_p99_cycles.map(|cycles| cycles as f64)
        },
    ),
    (
        "estimated_accuracy",
        "gauge",
        "Accuracy estimated without labels (CBPE).",
        |board| board.estimated_accuracy,
    ),
    (
        "features_drifted",
        "gauge",
        "Features whose newest window has drifted, by the board's own rule.",
        |board| {
            let drift = &board.status.drift;
            let drifted = drift.iter().filter(|feature| feature.drifted).count();
            (!drift.is_empty()).then_some(drifted as f64)
        },
    ),
];

fn of_summary(board: &BoardOverview, key: &str) -> Option<f64> {
    let summary = board.summary.as_ref();
    summary.and_then(|summary| summary[key].as_f64())
}

/// A value of a label, escaped.
fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Metrics as text.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(
            self.0,
            "# HELP edgeward_{name} {help}\n# TYPE edgeward_{name} {kind}"
        );
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", label(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "edgeward_{name}{labels} {value}");
    }
}

/// Everything that is known of the fleet.
pub(super) fn metrics(view: &Overview) -> String {
    let mut text = Text::default();
    for (name, kind, help, read) in METRICS {
        text.head(name, kind, help);
        for board in &view.boards {
            if let Some(value) = read(board) {
                text.value(name, &[("device", &board.device.name)], value);
            }
        }
    }
    releases(view, &mut text);
    drift(view, &mut text);
    alarms(view, &mut text);
    text.head(
        "unknown_boards",
        "gauge",
        "Boards that report and are not enrolled, at most 256.",
    );
    text.value("unknown_boards", &[], view.unknown.len() as f64);
    text.head("refused_total", "counter", "Messages refused, by reason.");
    for (reason, count) in &view.refusals {
        text.value("refused_total", &[("reason", reason)], *count as f64);
    }
    text.0
}

/// What runs, what the slots hold, and why a trial failed.
fn releases(view: &Overview, text: &mut Text) {
    let name = "running_info";
    text.head(name, "gauge", "The release that answers, in labels.");
    for board in &view.boards {
        if let Some(running) = &board.status.running {
            let labels = [
                ("device", board.device.name.as_str()),
                ("model", running.model.as_deref().unwrap_or("")),
                ("version", &running.version),
                ("release", &running.release),
                ("state", running.state),
            ];
            text.value(name, &labels, 1.0);
        }
    }
    let name = "slot_state";
    text.head(name, "gauge", "1 for the state that a slot is in.");
    for board in &view.boards {
        for slot in &board.status.slots {
            let letter = slot.slot.to_string();
            for state in SLOT_STATES {
                let labels = [
                    ("device", board.device.name.as_str()),
                    ("slot", &letter),
                    ("state", state),
                ];
                text.value(name, &labels, f64::from(u8::from(slot.state == state)));
            }
        }
    }
    let name = "last_failure";
    text.head(name, "gauge", "1 for why the board's last trial failed.");
    for board in &view.boards {
        if let Some(failure) = &board.status.last_failure {
            let labels = [
                ("device", board.device.name.as_str()),
                ("reason", failure.reason),
            ];
            text.value(name, &labels, 1.0);
        }
    }
}

/// How far the features of each board's newest window are, as a share of their limits.
fn drift(view: &Overview, text: &mut Text) {
    let name = "feature_drift_ratio";
    text.head(
        name,
        "gauge",
        "Largest drift statistic over its limit, by feature; features_drifted applies the rule.",
    );
    for board in &view.boards {
        let device = ("device", board.device.name.as_str());
        let (own, rest) = board
            .status
            .drift
            .split_at(FEATURES.min(board.status.drift.len()));
        for feature in own {
            let labels = [device, ("feature", &feature.feature)];
            text.value(name, &labels, f64::from(feature.ratio()));
        }
        let rest = rest.iter().map(|feature| feature.ratio());
        if let Some(ratio) = rest.max_by(f32::total_cmp) {
            text.value(name, &[device, ("feature", "other")], f64::from(ratio));
        }
    }
}

/// Alarms by device, kind and severity.
fn alarms(view: &Overview, text: &mut Text) {
    let name = "alarms_total";
    text.head(
        name,
        "counter",
        "Alarms stored since the board was enrolled.",
    );
    let boards: BTreeMap<&str, &BoardOverview> = view
        .boards
        .iter()
        .map(|board| (board.device.name.as_str(), board))
        .collect();
    for total in &view.alarm_totals {
        let Some(board) = boards.get(total.device.as_str()) else {
            continue;
        };
        let severity = board.severities.get(&total.alarm);
        let labels = [
            ("device", total.device.as_str()),
            ("alarm", &total.alarm),
            ("severity", severity.copied().unwrap_or("medium")),
        ];
        text.value(name, &labels, total.count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.value("x", &[("a", "q\"b\\c\nd"), ("e", "f")], 1.5);
        assert_eq!(text.0, "edgeward_x{a=\"q\\\"b\\\\c\\nd\",e=\"f\"} 1.5\n");
    }
}
