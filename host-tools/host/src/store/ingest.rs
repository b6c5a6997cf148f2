//! How a frame enters the tables.

use super::sqlite::signed;
use super::{Ingested, Kind, StoreError, StoredFrame, boards};
use rusqlite::{OptionalExtension as _, Transaction, params};

/// Stores one frame; see [`Store::ingest`].
pub(super) fn one(
    tx: &Transaction<'_>,
    frame: &StoredFrame,
    counts: &mut Ingested,
) -> Result<(), StoreError> {
    let (first, last) = (signed(frame.first_sequence), signed(frame.sequence));
    let through: i64 = tx
        .prepare("SELECT through FROM devices WHERE name = ?1")?
        .query_row([&frame.device], |row| row.get(0))?;
    let covered = last <= through
        || tx
            .prepare(
                "SELECT EXISTS (SELECT 1 FROM frames
                 WHERE device = ?1 AND first_sequence <= ?2 AND sequence >= ?3)",
            )?
            .query_row(params![frame.device, first, last], |row| row.get(0))?;
    if covered {
        let same: Option<bool> = tx
            .prepare(
                "SELECT raw = ?4 FROM frames
                 WHERE device = ?1 AND first_sequence = ?2 AND sequence = ?3",
            )?
            .query_row(params![frame.device, first, last, frame.raw], |row| {
                row.get(0)
            })
            .optional()?;
        if same == Some(false) {
            let conflict = (frame.device.clone(), frame.sequence);
            counts.conflicts.push(conflict);
        } else {
            counts.known += 1;
        }
        return Ok(());
    }
    // A summary of no window only says that frames were lost: what came before it is better.
    let only_counts = frame.body["windows"] == 0;
    if frame.kind == Kind::Summary && first < last && !only_counts {
        // Events stay: the merged summary only counts them.
        let replaced = tx
            .prepare(
                "DELETE FROM frames WHERE device = ?1 AND sequence BETWEEN ?2 AND ?3
                 AND first_sequence >= ?2 AND kind = 'summary'",
            )?
            .execute(params![frame.device, first, last])?;
        counts.replaced += u32::try_from(replaced).unwrap_or(u32::MAX);
    }
    tx.prepare(
        "INSERT INTO frames (device, sequence, first_sequence, boot, time_ms, received_ms, kind,
         body, raw) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        frame.device,
        last,
        first,
        frame.boot,
        signed(frame.time_ms),
        signed(frame.received_ms),
        frame.kind.name(),
        frame.body.to_string(),
        frame.raw
    ])?;
    counts.new += 1;
    boards::count_alarm(tx, frame)
}

/// Moves a device's mark up to the first gap.
pub(super) fn advance(tx: &Transaction<'_>, name: &str) -> Result<(), StoreError> {
    let start: i64 = tx
        .query_row(
            "SELECT through FROM devices WHERE name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional()?
        .ok_or_else(|| StoreError::NoDevice(name.to_owned()))?;
    let mut through = start;
    // A merged frame may hold events that came before it, so ranges may lie in one another.
    let mut rows = tx.prepare(
        "SELECT first_sequence, sequence FROM frames WHERE device = ?1 AND sequence > ?2
         ORDER BY first_sequence",
    )?;
    let mut rows = rows.query(params![name, start])?;
    while let Some(row) = rows.next()? {
        let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        if first > through.saturating_add(1) {
            break;
        }
        through = through.max(last);
    }
    drop(rows);
    if through > start {
        tx.execute(
            "UPDATE devices SET through = ?2 WHERE name = ?1",
            params![name, through],
        )?;
    }
    Ok(())
}
