//! Boards in a list.

use super::{DeviceRow, ListArgs, ago, runs};
use crate::commands::fleet::look;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::Table;
use edgeward_host::catalog::Catalog;
use edgeward_host::status::{self, BoardStatus, Running, TrialFailure};
use edgeward_host::store::Device;
use serde::Serialize;

/// A line of the list. The field names are stable.
#[derive(Debug, Serialize)]
struct ListRow {
    #[serde(flatten)]
    device: DeviceRow,
    agent: Option<String>,
    running: Option<Running>,
    last_failure: Option<TrialFailure>,
    estimated_accuracy: Option<f64>,
    /// Alarms and drifted features of the newest window.
    alarms: Option<u32>,
    drifted: usize,
    missing_frames: u64,
}

fn list_row(device: &Device, status: BoardStatus) -> ListRow {
    let window = status.windows.first();
    ListRow {
        device: DeviceRow::from(device),
        estimated_accuracy: window.and_then(|window| window.estimated_accuracy),
        alarms: window.map(|window| window.alarms),
        drifted: status.drift.iter().filter(|drift| drift.drifted).count(),
        missing_frames: status.missing_frames,
        agent: status.agent,
        running: status.running,
        last_failure: status.last_failure,
    }
}

/// Runs `device list`.
pub(super) fn enrolled(args: &ListArgs, context: &Context) -> anyhow::Result<Exit> {
    let catalog = Catalog::at(&context.home);
    let rows = look(context, |store| {
        let devices = store.devices()?;
        let wanted = devices.iter().filter(|device| {
            let fleet = args.fleet.as_ref();
            fleet.is_none_or(|fleet| *fleet == device.fleet)
        });
        wanted
            .map(|device| Ok(list_row(device, status::standing(store, &catalog, device)?)))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let dash = || "-".to_owned();
    context.out.emit(&rows, |rows, w| {
        let mut table = Table::new([
            "device", "fleet", "class", "online", "seen", "runs", "state", "accuracy", "alarms",
            "drifted", "key id",
        ]);
        for row in rows {
            let device = &row.device;
            let percent = |share: f64| format!("{:.1}%", share * 100.0);
            table.row([
                device.device.clone(),
                device.fleet.clone(),
                device.class.into(),
                if device.online { "yes" } else { "no" }.into(),
                device.seen_ms.map_or_else(dash, ago),
                row.running.as_ref().map_or_else(dash, runs),
                row.running
                    .as_ref()
                    .map_or_else(dash, |running| running.state.to_owned()),
                row.estimated_accuracy.map_or_else(dash, percent),
                row.alarms.map_or_else(dash, |alarms| alarms.to_string()),
                row.drifted.to_string(),
                device.key_id.clone(),
            ]);
        }
        table.write(w)
    })?;
    Ok(Exit::Ok)
}

/// Runs `device list --unknown`.
pub(super) fn unknown(args: &ListArgs, context: &Context) -> anyhow::Result<Exit> {
    let fleet = args.fleet.as_deref().unwrap_or("default");
    let boards = look(context, |store| Ok(store.unknown(fleet)?))?;
    context.out.emit(&boards, |boards, w| {
        let mut table = Table::new(["device", "fleet", "key id", "first", "seen", "messages"]);
        for board in boards {
            table.row([
                board.name.clone(),
                board.fleet.clone(),
                board.key_id.clone(),
                ago(board.first_ms),
                ago(board.seen_ms),
                board.messages.to_string(),
            ]);
        }
        table.write(w)
    })?;
    if !boards.is_empty() {
        context.out.say(
            "enroll one with `edgeward device enroll NAME --key KEY`, KEY as `edgeward-agent \
             --print-key` shows it on the board",
        );
    }
    Ok(Exit::Ok)
}
