//! Real-world faults in one board's sensor, and the board's own alarms for them.

use super::feeder::Fault;
use super::report::Report;
use super::world::{PATIENCE, World, must, wait_until};
use anyhow::{Context, Result};
use edgeward_host::store::StoredFrame;
use serde_json::{Value, json};
use std::time::Duration;

/// The gain that release 1 suffers from and release 2 was trained for.
pub const GAIN: f32 = 0.4;
/// Predictions over which an accuracy is taken: each test recording about once.
const PREDICTIONS: u64 = 240;

/// A fault and the alarm that must follow.
pub struct Case {
    /// What the fault is called.
    pub name: &'static str,
    /// The fault.
    pub fault: Fault,
    /// The violation's kind; nothing means drift of a feature.
    kind: Option<&'static str>,
}

impl Case {
    /// Whether an event is the alarm that must follow: of the channel that is at fault, where it is one.
    pub fn is_alarm(&self, event: &Value) -> bool {
        let alarm = &event["Alarm"]["alarm"];
        let Some(kind) = self.kind else {
            return !alarm["Drift"]["feature"].is_null();
        };
        let found = &alarm["Violation"];
        let channel = match self.fault {
            Fault::Stuck(n) | Fault::MissingValues(n) | Fault::NotANumber(n) => json!(n),
            _ => Value::Null,
        };
        found["kind"] == kind && found["feature"] == channel
    }

    /// What should happen.
    pub fn expected(&self) -> String {
        match self.kind {
            Some(kind) => format!("alarm {kind}, signed and stored"),
            None => "alarm Drift of a feature, signed and stored".to_owned(),
        }
    }
}

/// Every fault.
pub const CASES: [Case; 8] = [
    Case {
        name: "gain drift",
        fault: Fault::Gain(GAIN),
        kind: None,
    },
    Case {
        name: "swapped axes",
        fault: Fault::SwappedAxes,
        kind: None,
    },
    Case {
        name: "stuck channel",
        fault: Fault::Stuck(1),
        kind: Some("Stuck"),
    },
    Case {
        name: "missing samples",
        fault: Fault::MissingSamples,
        kind: Some("Gap"),
    },
    Case {
        name: "missing values",
        fault: Fault::MissingValues(2),
        kind: Some("Missing"),
    },
    Case {
        name: "NaN",
        fault: Fault::NotANumber(0),
        kind: Some("NotFinite"),
    },
    Case {
        name: "stale sample",
        fault: Fault::Stale,
        kind: Some("Stale"),
    },
    Case {
        name: "duplicate",
        fault: Fault::Duplicate,
        kind: Some("Duplicate"),
    },
];

/// Injects each fault and waits for its alarm in the store. Returns the accuracy under gain drift.
pub fn run(world: &World, report: &mut Report, drift_window: u32) -> Result<f64> {
    let name = world.boards[0].name.clone();
    let mut hurt = 0.0;
    for case in &CASES {
        calm(world, &name, case)?;
        let after = world.newest(&name)?;
        world.board(&name)?.feeder.inject(case.fault);
        let frame = world.event(&name, after, |event| case.is_alarm(event))?;
        if matches!(case.fault, Fault::Gain(_)) {
            hurt = accuracy(world, &name)?;
        }
        world.board(&name)?.feeder.inject(Fault::None);
        let ok = frame.is_some();
        let (expected, seen) = (case.expected(), seen(frame.as_ref()));
        let evidence = json!({ "frame": frame, "drift window in samples": drift_window });
        report.step(case.name, expected, seen, ok, evidence);
    }
    settle(world, &name)?;
    Ok(hurt)
}

/// Windows within which the whole sensor must show one without the alarm that is tried next.
const CALM: u32 = 10;

/// Waits until a whole window passed without the alarm of `case`, so that the next one belongs to the
/// fault and not to what the sensor does by itself.
fn calm(world: &World, name: &str, case: &Case) -> Result<()> {
    // The window in which the last fault ended.
    settle(world, name)?;
    for _ in 0..CALM {
        let after = world.newest(name)?;
        settle(world, name)?;
        let alarms = world.events(name, after)?;
        if !alarms.iter().any(|frame| case.is_alarm(&frame.body)) {
            return Ok(());
        }
    }
    anyhow::bail!("{}: its alarm comes without the fault, too", case.name)
}

/// Waits until the window that is open has ended, and what it reported is stored.
fn settle(world: &World, name: &str) -> Result<()> {
    let stats = world.board(name)?.feeder.stats(Duration::from_secs(5))?;
    let number = |key: &str| {
        stats[key]
            .as_u64()
            .with_context(|| format!("{key} in stats"))
    };
    let (boot, ended) = (number("boot")?, number("windows")?);
    // A window's alarms are on their way before its summary.
    let stored = wait_until(PATIENCE, || Ok(world.windows(name, boot)? > ended))?;
    must(stored, "storing a window before a fault", world)
}

/// Accuracy over about all test recordings, with the fault that is in force.
fn accuracy(world: &World, name: &str) -> Result<f64> {
    let feeder = &world.board(name)?.feeder;
    feeder.take();
    let done = wait_until(PATIENCE, || Ok(feeder.peek().predictions >= PREDICTIONS))?;
    must(done, "240 predictions under a fault", world)?;
    Ok(feeder.take().accuracy())
}

/// Accuracy at [`GAIN`], after which the sensor is whole again.
pub fn accuracy_under_gain(world: &World, name: &str) -> Result<f64> {
    world.board(name)?.feeder.inject(Fault::Gain(GAIN));
    let result = accuracy(world, name);
    world.board(name)?.feeder.inject(Fault::None);
    result
}

/// What happened.
pub fn seen(alarm: Option<&StoredFrame>) -> String {
    match alarm {
        Some(frame) => format!("frame {}: {}", frame.sequence, words(&frame.body)),
        None => "no such alarm".to_owned(),
    }
}

/// The alarm in a few words.
fn words(event: &Value) -> String {
    let alarm = &event["Alarm"]["alarm"];
    let feature = |of: &Value| {
        of["feature"]
            .as_u64()
            .map_or(String::new(), |n| format!(" of feature {n}"))
    };
    let violation = &alarm["Violation"];
    if let Some(kind) = violation["kind"].as_str() {
        return format!(
            "{kind}{} at sample {}",
            feature(violation),
            violation["sample"]
        );
    }
    let drift = &alarm["Drift"];
    format!(
        "{}{}: {:.3} above {:.3}",
        drift["statistic"].as_str().unwrap_or("?"),
        feature(drift),
        drift["value"].as_f64().unwrap_or(f64::NAN),
        drift["limit"].as_f64().unwrap_or(f64::NAN)
    )
}
