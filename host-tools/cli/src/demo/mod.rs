//! `edgeward demo`: the whole loop on this machine, with evidence.

mod attacks;
mod failures;
mod faults;
mod feeder;
mod flight;
mod model;
mod report;
mod updates;
mod world;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::Format;
use anyhow::Result;
use report::Report;
use std::path::PathBuf;
use world::World;

/// What the demo may use.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward demo\n  edgeward demo -o json | jq '.steps[].seen'\n  edgeward demo --mosquitto /usr/sbin/mosquitto\n\nWorks in a temporary folder that it removes at its end. Changes nothing else."
)]
pub struct Args {
    /// Run on this Mosquitto instead of the embedded broker.
    #[arg(long, value_name = "PROGRAM")]
    mosquitto: Option<PathBuf>,
}

/// Names of the boards; by the cohort's hash the first is alone in the first third of a rollout.
const BOARDS: [&str; 3] = ["wrist-1", "wrist-2", "wrist-3"];

/// Runs the demo.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let broker = args.mosquitto.as_ref().map_or("embedded", |_| "mosquitto");
    let mut report = Report::new(broker, !context.out.quiet());
    let outcome = story(args, &mut report);
    report.finish();
    if let Err(error) = &outcome {
        report.step(
            "the demo itself",
            "runs to its end",
            format!("{error:#}"),
            false,
            serde_json::json!({ "error": format!("{error:#}") }),
        );
    }
    match context.out.format() {
        Format::Json => context.out.emit(&report, |_, _| Ok(()))?,
        Format::Table => context.out.raw(report.table().as_bytes())?,
    }
    Ok(if report.ok { Exit::Ok } else { Exit::Error })
}

/// Says which engine each release was packed for: both are in the fleet.
fn engines(report: &mut Report, releases: &model::Releases) {
    let row = |packed: &edgeward_host::pack::Report| {
        serde_json::json!({
            "version": packed.version,
            "engine": packed.engine,
            "kernels": packed.kernels,
            "how": packed.engine_mode,
            "why": packed.engine_why,
        })
    };
    let seen =
        |packed: &edgeward_host::pack::Report| format!("{} {}", packed.version, packed.engine);
    let [first, second, _] = releases.reports.each_ref().map(|packed| packed.engine);
    report.step(
        "both engines are packed for",
        "release 1 by tract, release 2 as an int8 program",
        releases.reports.each_ref().map(seen).join(", "),
        first == "tract" && second == "program",
        releases.reports.iter().map(row).collect(),
    );
}

fn story(args: &Args, report: &mut Report) -> Result<()> {
    report.title("packing three releases of the example model");
    let files = tempfile::Builder::new()
        .prefix("edgeward-model-")
        .tempdir()?;
    model::unpack(files.path())?;
    let releases = model::releases(files.path())?;
    engines(report, &releases);
    let sensor = model::sensor(files.path())?;

    report.title("starting broker, collector and three boards");
    let mut world = World::start(args.mosquitto.as_deref(), &BOARDS, &sensor)?;
    updates::boards_come_up(&world, report)?;
    report.title("release 1 to all boards");
    updates::first_release(&world, report, releases.v1.clone())?;
    report.title("streaming the test recordings");
    updates::live(&world, report)?;
    report.title("breaking one board's sensor in eight ways");
    let hurt = faults::run(&world, report, releases.drift_window)?;
    report.title("release 2, to a third of the fleet and then to all");
    let second = updates::better_release(&world, report, releases.v2.clone(), hurt)?;
    report.title("pulling a board's flight record and running it again");
    flight::replayed(&world, report, second)?;
    report.title("release 3, which goes wrong on live data");
    updates::bad_release(&world, report, releases.bad.clone(), second)?;
    report.title("offering what must be refused");
    let fourth = attacks::run(
        &world,
        report,
        &releases.v2,
        &[&releases.v1, &releases.bad],
        second,
    )?;
    report.title("killing a board in mid-download");
    failures::killed(&mut world, report, &fourth)?;
    report.title("stopping the broker");
    failures::broker_gone(&mut world, report)?;
    updates::allocations(&world, report)?;
    Ok(())
}
