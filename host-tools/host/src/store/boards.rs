//! Tables that came after the first version: an older program leaves them alone, so the version stays.

use super::sqlite::{signed, unsigned};
use super::{AlarmTotal, StoreError, StoredFrame, Unknown};
use crate::names::alarm_name;
use crate::status::alarm_of;
use rusqlite::{Connection, Transaction, params};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS unknown (
  fleet TEXT NOT NULL, name TEXT NOT NULL, key_id TEXT NOT NULL, first_ms INTEGER NOT NULL,
  seen_ms INTEGER NOT NULL, messages INTEGER NOT NULL, PRIMARY KEY (fleet, name, key_id)
) STRICT;
CREATE TABLE IF NOT EXISTS alarm_totals (
  device TEXT NOT NULL REFERENCES devices(name) ON DELETE CASCADE, alarm TEXT NOT NULL,
  count INTEGER NOT NULL, PRIMARY KEY (device, alarm)
) STRICT;
";

/// Puts empty tables in the place of those that a store is too old to have, for this connection only.
pub(super) fn stand_in(connection: &Connection) -> Result<(), StoreError> {
    for table in ["unknown", "alarm_totals"] {
        let there: bool = connection
            .prepare("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)")?
            .query_row([table], |row| row.get(0))?;
        let statement = SCHEMA
            .split_inclusive(';')
            .find(|statement| statement.contains(&format!("EXISTS {table} (")));
        if let Some(statement) = statement.filter(|_| !there) {
            connection.execute_batch("PRAGMA temp_store = MEMORY;")?;
            connection.execute_batch(&statement.replace("CREATE TABLE", "CREATE TEMP TABLE"))?;
        }
    }
    Ok(())
}

/// Boards remembered that nobody enrolled: anyone may send under any name.
const UNKNOWN: i64 = 256;

/// Counts the alarm that a new frame holds, if it holds one.
pub(super) fn count_alarm(tx: &Transaction<'_>, frame: &StoredFrame) -> Result<(), StoreError> {
    if let Some((_, alarm)) = alarm_of(&frame.body) {
        tx.prepare(
            "INSERT INTO alarm_totals VALUES (?1, ?2, 1)
             ON CONFLICT (device, alarm) DO UPDATE SET count = count + 1",
        )?
        .execute(params![frame.device, alarm_name(&alarm)])?;
    }
    Ok(())
}

pub(super) fn alarm_totals(connection: &Connection) -> Result<Vec<AlarmTotal>, StoreError> {
    let mut statement = connection
        .prepare("SELECT device, alarm, count FROM alarm_totals ORDER BY device, alarm")?;
    let found = statement
        .query_map([], |row| {
            Ok(AlarmTotal {
                device: row.get(0)?,
                alarm: row.get(1)?,
                count: unsigned(row, 2)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

pub(super) fn note_unknown(tx: &Transaction<'_>, boards: &[Unknown]) -> Result<(), StoreError> {
    for board in boards {
        tx.prepare(
            "INSERT INTO unknown VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (fleet, name, key_id)
             DO UPDATE SET seen_ms = max(seen_ms, ?5), messages = messages + ?6",
        )?
        .execute(params![
            board.fleet,
            board.name,
            board.key_id,
            signed(board.first_ms),
            signed(board.seen_ms),
            signed(board.messages)
        ])?;
    }
    tx.execute(
        "DELETE FROM unknown WHERE rowid NOT IN
         (SELECT rowid FROM unknown ORDER BY seen_ms DESC, rowid DESC LIMIT ?1)",
        [UNKNOWN],
    )?;
    Ok(())
}

/// Those that nobody enrolled since, the newest first.
pub(super) fn unknown(connection: &Connection, fleet: &str) -> Result<Vec<Unknown>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT name, key_id, first_ms, seen_ms, messages FROM unknown
         WHERE fleet = ?1 AND name NOT IN (SELECT name FROM devices WHERE fleet = ?1)
         ORDER BY seen_ms DESC, name",
    )?;
    let found = statement
        .query_map([fleet], |row| {
            Ok(Unknown {
                fleet: fleet.to_owned(),
                name: row.get(0)?,
                key_id: row.get(1)?,
                first_ms: unsigned(row, 2)?,
                seen_ms: unsigned(row, 3)?,
                messages: unsigned(row, 4)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(found)
}
