//! The slots of `device show`.

use edgeward::telemetry::SlotState;
use edgeward_host::names::slot_state_name;
use edgeward_host::status::BoardStatus;
use std::io::{self, Write};

/// A line for each slot: its state, the release in it, and why it does not run.
pub(super) fn print(status: &BoardStatus, w: &mut dyn Write) -> io::Result<()> {
    for slot in &status.slots {
        let release = slot.release.as_ref().map_or(String::new(), |release| {
            format!(" {} ({release})", slot.version)
        });
        let settled = [SlotState::Confirmed, SlotState::Revoked].map(slot_state_name);
        let running = status.running.as_ref().map(|running| running.slot);
        let why = match slot.reason {
            Some(why) => format!(": {why}"),
            None if settled.contains(&slot.state) && running != Some(slot.slot) => {
                ", does not run".to_owned()
            }
            None => String::new(),
        };
        writeln!(w, "slot {}    {}{release}{why}", slot.slot, slot.state)?;
    }
    Ok(())
}
