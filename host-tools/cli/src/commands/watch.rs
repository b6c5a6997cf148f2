//! `edgeward watch`: what boards report, as it is stored.

use super::fleet::Fleet;
use crate::context::Context;
use crate::exit::Exit;
use anyhow::Result;
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
        _ => frame.body.to_string(),
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
