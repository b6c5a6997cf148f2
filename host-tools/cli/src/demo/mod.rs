//! `edgeward demo`: the whole loop on this machine, with evidence.

mod attacks;
mod beside;
mod broker;
mod emulated;
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
use edgeward_host::model::Target;
use emulated::Ready;
use report::Report;
use std::path::PathBuf;
use world::World;

/// What the demo may use.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  edgeward demo\n  edgeward demo -o json | jq '.steps[].seen'\n  edgeward demo --mosquitto /usr/sbin/mosquitto\n  edgeward demo --board qemu-mps2-an386   # in a checkout of the repository\n\nWorks in a temporary folder that it removes at its end. Changes nothing else; but --board without --image builds\nthe firmware in the checkout as `cargo xtask board-image` does, which may fetch what it needs for that."
)]
pub struct Args {
    /// Run on this Mosquitto instead of the embedded broker.
    #[arg(long, value_name = "PROGRAM")]
    mosquitto: Option<PathBuf>,
    /// A microcontroller in QEMU beside the Linux boards (`edgeward board list`).
    #[arg(long, value_name = "BOARD")]
    board: Option<String>,
    /// Its firmware, where it is built already.
    #[arg(long, value_name = "FILE", requires = "board")]
    image: Option<PathBuf>,
}

/// Names of the boards; by the cohort's hash the first is alone in the first third of a rollout.
const BOARDS: [&str; 3] = ["wrist-1", "wrist-2", "wrist-3"];

/// Inferences that a Linux board's flight record must hold at least; the boards make 200 a second.
const ENOUGH: usize = 100;

/// Runs the demo.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let broker = args.mosquitto.as_ref().map_or("embedded", |_| "mosquitto");
    // What lacks for it is said before anything is started.
    let find = |name: &String| Ready::find(name, args.image.as_deref(), context);
    let emulated = args.board.as_ref().map(find).transpose()?;
    let mut report = Report::new(broker, !context.out.quiet());
    let outcome = story(args, emulated, &mut report);
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

fn story(args: &Args, emulated: Option<Ready>, report: &mut Report) -> Result<()> {
    report.title("packing three releases of the example model");
    let files = tempfile::Builder::new()
        .prefix("edgeward-model-")
        .tempdir()?;
    model::unpack(files.path())?;
    let releases = model::releases(files.path(), Target::Linux)?;
    engines(report, &releases);
    let target = emulated.as_ref().map(Ready::target);
    let of_mcu = target.map(|target| model::releases(files.path(), target));
    let of_mcu = of_mcu.transpose()?;
    if let Some(releases) = &of_mcu {
        beside::bundles(report, &releases.reports);
    }
    let sensor = model::sensor(files.path())?;

    report.title("starting broker, collector and three boards");
    let mut world = World::start(args.mosquitto.as_deref(), &BOARDS, emulated, &sensor)?;
    updates::boards_come_up(&world, report)?;
    beside::comes_up(&world, report)?;
    let mcu = of_mcu.as_ref();
    let first = world.offer(&releases.v1, mcu.map(|it| &it.v1[..]))?;
    let second = world.offer(&releases.v2, mcu.map(|it| &it.v2[..]))?;
    let bad = world.offer(&releases.bad, mcu.map(|it| &it.bad[..]))?;
    report.title("release 1 to all boards");
    updates::first_release(&world, report, &first)?;
    report.title("streaming the test recordings");
    updates::live(&world, report)?;
    beside::reports(&world, report)?;
    report.title("breaking one board's sensor in eight ways");
    let hurt = faults::run(&world, report, releases.drift_window)?;
    beside::alarms(&mut world, report, &sensor)?;
    report.title("release 2, to a third of the fleet and then to all");
    beside::slow_down(&mut world, &sensor)?;
    updates::better_release(&world, report, &second, hurt)?;
    beside::killed_in_trial(&mut world, report, &second, &sensor)?;
    report.title("pulling a board's flight record and running it again");
    let (step, name) = ("flight record pulled and replayed", &world.boards[0].name);
    flight::replayed(&world, report, step, name, (second.linux.release, ENOUGH))?;
    beside::replayed(&world, report, &second)?;
    report.title("release 3, which goes wrong on live data");
    updates::bad_release(&world, report, &bad, &second)?;
    report.title("offering what must be refused");
    let fourth = attacks::run(&world, report, &releases, mcu, &second)?;
    report.title("killing a board in mid-download");
    failures::killed(&mut world, report, &fourth)?;
    report.title("stopping the broker");
    failures::broker_gone(&mut world, report)?;
    beside::complete(&world, report, &fourth)?;
    updates::allocations(&world, report)?;
    Ok(())
}
