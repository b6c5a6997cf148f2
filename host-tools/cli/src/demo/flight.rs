//! A board's last inferences, pulled and run again.

use super::report::Report;
use super::world::World;
use anyhow::{Context, Result};
use edgeward::telemetry::ReleaseId;
use edgeward_host::flight::{FlightRecord, Puller};
use edgeward_host::keys::hex;
use edgeward_host::mqtt::Mqtt;
use edgeward_host::replay::{published, replay};
use edgeward_host::store::FrameQuery;
use serde_json::json;

/// Pulls the flight record of a board, which runs `release`, an int8 program, and replays it by the portable
/// kernels: the board ran those of its own processor. It must hold that many inferences at least.
pub fn replayed(
    world: &World,
    report: &mut Report,
    step: &str,
    name: &str,
    (release, enough): (ReleaseId, usize),
) -> Result<()> {
    let device = world.store.device(name)?.context("an enrolled board")?;
    let mqtt = Mqtt::connect(&world.mqtt("record"));
    let puller = Puller {
        mqtt: &mqtt,
        keys: &world.keys,
        device: &device,
    };
    let query = FrameQuery {
        device: Some(name.to_owned()),
        newest_first: true,
        limit: 1,
        ..FrameQuery::default()
    };
    let mut boot = || Ok(world.store.frames(&query)?.first().map(|it| it.boot));
    let pulled = puller.pull(world.patience(name), &mut boot, &mut |_, _| {})?;
    // As a file would be: nothing counts but what the board signed.
    let record = FlightRecord::open(pulled.signed(), &device.key)?;
    let found = replay(&record, &mut |id| published(&world.home, id))?;
    let (replayed, equal) = (found.replayed(), found.equal());
    let of_it = found.releases.iter().find(|it| it.release == hex(&release));
    let enough = of_it.is_some_and(|it| it.replayed >= enough && it.tolerance.is_none());
    report.step(
        step,
        "every output equal bit for bit",
        format!(
            "{name}: {equal} of {replayed} outputs equal, {} events, {} signed parts",
            found.events,
            record.parts()
        ),
        found.first_difference.is_none()
            && equal == replayed
            && enough
            && found.unknown().is_empty(),
        json!({ "bytes": record.bytes().len(), "capacity": record.capacity(), "replay": found }),
    );
    Ok(())
}
