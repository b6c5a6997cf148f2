//! Rollouts in the SQLite store, and the devices and births that decisions about them rest on.

use super::sqlite::{DEVICE, FRAME, device, frame, from_json, json, signed, unsigned};
use super::{Device, Member, StoreError, StoredFrame};
use crate::rollout::Rollout;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::BTreeMap;

/// The devices of a fleet, by name, each with its newest birth.
pub(super) fn members(connection: &Connection, fleet: &str) -> Result<Vec<Member>, StoreError> {
    let births = births(connection, fleet)?.into_iter();
    let mut births: BTreeMap<String, StoredFrame> =
        births.map(|birth| (birth.device.clone(), birth)).collect();
    let mut statement = connection.prepare(&format!("{DEVICE} WHERE fleet = ?1 ORDER BY name"))?;
    let devices = statement.query_map([fleet], device)?;
    let member = |device: rusqlite::Result<Device>| {
        let device = device?;
        let birth = births.remove(&device.name);
        Ok(Member { device, birth })
    };
    devices.map(member).collect()
}

/// Of each board of a fleet the newest birth, by name.
fn births(connection: &Connection, fleet: &str) -> Result<Vec<StoredFrame>, StoreError> {
    let sql = format!(
        "{FRAME} WHERE frames.rowid IN
         (SELECT (SELECT f.rowid FROM frames f WHERE f.device = d.name AND f.kind = 'birth'
                  ORDER BY f.place DESC, f.sequence DESC LIMIT 1)
          FROM devices d WHERE d.fleet = ?1)
         ORDER BY device"
    );
    let mut statement = connection.prepare(&sql)?;
    let found = statement
        .query_map([fleet], frame)?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

/// All rollouts of a fleet, the newest first.
pub(super) fn all(connection: &Connection, fleet: &str) -> Result<Vec<Rollout>, StoreError> {
    newest_of(connection, fleet, -1)
}

/// The rollout of a fleet that was started last.
pub(super) fn newest(connection: &Connection, fleet: &str) -> Result<Option<Rollout>, StoreError> {
    Ok(newest_of(connection, fleet, 1)?.pop())
}

/// At most so many rollouts, the newest first; all where `limit` is negative.
fn newest_of(connection: &Connection, fleet: &str, limit: i64) -> Result<Vec<Rollout>, StoreError> {
    // By the order in which they were stored: the clock may have gone back since the last one.
    let mut statement = connection
        .prepare("SELECT record FROM rollouts WHERE fleet = ?1 ORDER BY rowid DESC LIMIT ?2")?;
    let rows = statement.query_map(params![fleet, limit], |row| row.get::<_, String>(0))?;
    rows.map(|row| from_json(&row?)).collect()
}

pub(super) fn start(
    tx: &Transaction<'_>,
    rollout: &Rollout,
    time_ms: u64,
) -> Result<Rollout, StoreError> {
    let (fleet, id) = (rollout.plan.fleet.as_str(), rollout.plan.id.as_str());
    let taken: bool = tx
        .prepare("SELECT EXISTS (SELECT 1 FROM rollouts WHERE fleet = ?1 AND id = ?2)")?
        .query_row([fleet, id], |row| row.get(0))?;
    if taken {
        return Err(StoreError::RolloutExists(id.to_owned()));
    }
    let mut started = rollout.clone();
    started.after_sequence = draw(tx, fleet)?;
    tx.execute(
        "INSERT INTO rollouts (id, fleet, started_ms, record) VALUES (?1, ?2, ?3, ?4)",
        params![id, fleet, signed(time_ms), json(&started)?],
    )?;
    Ok(started)
}

/// As [`super::Store::decide`], in a transaction that keeps writers out.
pub(super) fn decide(
    tx: &Transaction<'_>,
    fleet: &str,
    decide: &mut super::Decide<'_>,
) -> Result<(), StoreError> {
    let Some(before) = newest(tx, fleet)? else {
        return Ok(());
    };
    if let Some(after) = decide(&before, members(tx, fleet)?)? {
        tx.execute(
            "UPDATE rollouts SET record = ?3 WHERE fleet = ?1 AND id = ?2",
            params![fleet, before.plan.id.as_str(), json(&after)?],
        )?;
    }
    Ok(())
}

/// The next number for a desired state.
pub(super) fn draw(connection: &Connection, fleet: &str) -> Result<u64, StoreError> {
    let next = connection.query_row(
        "INSERT INTO desired VALUES (?1, 1)
         ON CONFLICT (fleet) DO UPDATE SET sequence = sequence + 1 RETURNING sequence",
        [fleet],
        |row| unsigned(row, 0),
    )?;
    Ok(next)
}

/// The number drawn last; 0 for none.
pub(super) fn drawn(connection: &Connection, fleet: &str) -> Result<u64, StoreError> {
    let last = connection
        .prepare("SELECT sequence FROM desired WHERE fleet = ?1")?
        .query_row([fleet], |row| unsigned(row, 0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

/// As [`draw`], while `rollout` is the newest and stands so.
pub(super) fn draw_for(tx: &Transaction<'_>, rollout: &Rollout) -> Result<Option<u64>, StoreError> {
    let fleet = rollout.plan.fleet.as_str();
    if newest(tx, fleet)?.as_ref() != Some(rollout) {
        return Ok(None);
    }
    draw(tx, fleet).map(Some)
}
