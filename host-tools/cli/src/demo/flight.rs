//! A board's last inferences, pulled and run again.

use super::report::Report;
use super::world::{PATIENCE, World};
use anyhow::{Context, Result};
use edgeward::telemetry::ReleaseId;
use edgeward_host::flight::{FlightRecord, Puller};
use edgeward_host::keys::hex;
use edgeward_host::mqtt::Mqtt;
use edgeward_host::replay::{published, replay};
use edgeward_host::store::FrameQuery;
use serde_json::json;

/// Inferences that the record must hold at least; the boards make 200 a second.
const ENOUGH: usize = 100;

/// Pulls the flight record of the first board, which runs `release`, an int8 program, and replays it by
/// the portable kernels: the board ran those of its own processor.
pub fn replayed(world: &World, report: &mut Report, release: ReleaseId) -> Result<()> {
    let name = &world.boards[0].name;
    let device = world.store.device(name)?.context("an enrolled board")?;
    let mqtt = Mqtt::connect(&world.mqtt("record"));
    let puller = Puller {
        mqtt: &mqtt,
        keys: &world.keys,
        device: &device,
    };
    let query = FrameQuery {
        device: Some(name.clone()),
        newest_first: true,
        limit: 1,
        ..FrameQuery::default()
    };
    let mut boot = || Ok(world.store.frames(&query)?.first().map(|it| it.boot));
    let pulled = puller.pull(PATIENCE, &mut boot, &mut |_, _| {})?;
    // As a file would be: nothing counts but what the board signed.
    let record = FlightRecord::open(pulled.signed(), &device.key)?;
    let found = replay(&record, &mut |id| published(&world.home, id))?;
    let (replayed, equal) = (found.replayed(), found.equal());
    let of_it = found.releases.iter().find(|it| it.release == hex(&release));
    let enough = of_it.is_some_and(|it| it.replayed >= ENOUGH && it.tolerance.is_none());
    report.step(
        "flight record pulled and replayed",
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
